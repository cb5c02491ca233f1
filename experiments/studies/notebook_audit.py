"""What is wrong with the notebook's backward pass, and how much each defect matters.

For each defect alone and for all together: the direction (cosine) and the size (norm ratio) of its
gradient against the true one, by parameter; and the loss over 200 passes of plain gradient descent,
as printed and with the defects mended one after another.
"""

import statistics
from pathlib import Path
from typing import Any

from experiments.support.output import say_written
from lstm_jax.config import Config, DataConfig
from lstm_jax.data.corpora import load_text
from lstm_jax.files import write_json
from lstm_jax.run.style import FAINT, REFERENCE, STRONG, draw_from, new_figure, picture, save
from lstm_jax.terminal import show
from lstm_jax.verification import audit
from lstm_jax.verification.reference import DEFECTS

RATE, PASSES = 0.003, 200
LAST = 20  # passes whose mean is drawn
# What is mended, in the order of DEFECTS.
STAGES = (
    "as printed",
    "+ the error has the right sign",
    "+ it goes through the recurrent weights",
    "+ the forget gate's factor is C_prev",
    "+ the candidate's slope is 1 − C_bar²",
    "+ the first step counts",
    "+ the biases learn: all is right",
)

READS = ("data.corpus", "data.path")
IGNORES = ("compile_cache", "cpu_devices")  # it is all NumPy


def get_config() -> Config:
    return Config(data=DataConfig(corpus="tiny_shakespeare"))


@picture
def draw(numbers: dict[str, Any], path: Path) -> None:
    """What each mended defect brings the loss to, a bar for each stage."""
    figure = new_figure(
        2.9,
        "The notebook's backward pass, mended step by step",
        f"{numbers['about']}; mean of the last {numbers['last']} passes",
    )
    axes = figure.subplots()
    start, losses = numbers["start"], numbers["losses"]
    end = 1.1 * start
    last = len(losses) - 1
    colors = [STRONG if number == last else FAINT for number in range(len(losses))]
    axes.barh(range(len(losses)), [min(loss, end) for loss in losses], 0.72, color=colors)
    near: dict[str, Any] = {"textcoords": "offset points", "va": "center", "size": 8}
    for place, loss in enumerate(losses):
        text = f"{loss:.2f}" + (" →" if loss > end else "")
        offset, side = ((-4, 0), "right") if loss > 0.8 * end else ((4, 0), "left")
        axes.annotate(text, (min(loss, end), place), xytext=offset, ha=side, **near)
    axes.axvline(start, color=REFERENCE, lw=0.9, ls=":", zorder=0.5)
    label = f"untrained: {start:.2f}"
    axes.annotate(label, (start, -0.75), xytext=(-3, 0), ha="right", **near)
    axes.set_yticks(range(len(losses)), STAGES)
    axes.set(xlim=(0, end), ylim=(last + 0.5, -1.1), xlabel="loss (nats per character)")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    save(figure, path)


def drawn_of(curves: dict[str, list[float]]) -> dict[str, Any]:
    """What of the losses is drawn: their ends, which jump about, as means, per character."""
    ends = [statistics.fmean(losses[-LAST:]) / audit.LENGTH for losses in curves.values()]
    about = f"{audit.HIDDEN_SIZE} units, {PASSES} passes over {audit.LENGTH} characters"
    start = next(iter(curves.values()))[0] / audit.LENGTH
    return {"about": about, "last": LAST, "start": start, "losses": ends}


def main(config: Config, workdir: Path) -> int:
    """Prints the table, writes audit.json and the picture of the losses."""
    text = load_text(config.data.corpus, config.data.path)
    params = audit.notebook_parameters(len(text.vocabulary))
    sequence = audit.notebook_sequence(text.ids)
    effects = audit.effects(params, sequence)
    leaves = list(audit.leaves(params))

    show("cosine with the true gradient / share of its norm")
    show(f"{'defect':16}" + "".join(f"{leaf:>14}" for leaf in leaves))
    for defect in (*DEFECTS, "all"):
        found = [e for e in effects if e.defect == defect]
        cells = (f"{e.cosine:.2f} / {e.norm_ratio:.2f}" for e in found)
        show(f"{defect:16}" + "".join(f"{cell:>14}" for cell in cells))
    show("\n" + "\n".join(f"{name:16}{meaning}" for name, meaning in DEFECTS.items()))

    curves = {
        stage: audit.descend(params, sequence, defects, RATE, PASSES)
        for stage, defects in audit.mended_in_turn().items()
    }
    show(f"\nloss summed over {audit.LENGTH} characters, plain gradient descent at {RATE}")
    for stage, losses in curves.items():
        show(
            f"{stage:28} {losses[0]:8.3f} at first {losses[19]:8.3f} at pass 20 "
            f"{losses[-1]:8.3f} at pass {PASSES}"
        )
    result = {"effects": [e._asdict() for e in effects], "rate": RATE, "losses": curves}
    write_json(workdir / "audit.json", result)
    draw_from(drawn_of(curves), draw, workdir / "figures" / "notebook_audit.png")
    say_written(workdir, "audit.json", "figures/*")
    return 0
