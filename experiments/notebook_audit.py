"""What is wrong with the notebook's backward pass, and how much each defect matters.

For each defect alone and for all together: the direction (cosine) and the size (norm ratio) of its
gradient against the true one, by parameter; and the loss over 200 passes of plain gradient descent,
as printed and with the defects mended one after another.
"""

import json
from pathlib import Path

from lstm_jax import audit
from lstm_jax.config import Config, DataConfig
from lstm_jax.data.corpora import load_text
from lstm_jax.data.fetch import write_atomically
from lstm_jax.figures import draw_audit
from lstm_jax.reference import DEFECTS

RATE, PASSES = 0.003, 200


def get_config() -> Config:
    return Config(data=DataConfig(corpus="tiny_shakespeare"))


def main(config: Config, workdir: Path) -> int:
    """Prints the table, writes audit.json and the picture of the losses."""
    text = load_text(config.data)
    params = audit.notebook_parameters(len(text.vocabulary))
    sequence = audit.notebook_sequence(text.ids)
    effects = audit.effects(params, sequence)
    leaves = list(audit.leaves(params))

    print("cosine with the true gradient / share of its norm")
    print(f"{'defect':16}" + "".join(f"{leaf:>14}" for leaf in leaves))
    for defect in (*DEFECTS, "all"):
        found = [e for e in effects if e.defect == defect]
        cells = (f"{e.cosine:.2f} / {e.norm_ratio:.2f}" for e in found)
        print(f"{defect:16}" + "".join(f"{cell:>14}" for cell in cells))
    print("\n" + "\n".join(f"{name:16}{meaning}" for name, meaning in DEFECTS.items()))

    curves = {
        stage: audit.descend(params, sequence, defects, RATE, PASSES)
        for stage, defects in audit.mended_in_turn().items()
    }
    print(f"\nloss summed over {audit.LENGTH} characters, plain gradient descent at {RATE}")
    for stage, losses in curves.items():
        print(
            f"{stage:28} {losses[0]:8.3f} at first {losses[19]:8.3f} at pass 20 "
            f"{losses[-1]:8.3f} at pass {PASSES}"
        )
    result = {"effects": [e._asdict() for e in effects], "rate": RATE, "losses": curves}
    write_atomically(workdir / "audit.json", (json.dumps(result, indent=1) + "\n").encode())
    draw_audit(curves, workdir / "figures" / "audit.png")
    return 0
