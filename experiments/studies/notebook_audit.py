"""What is wrong with the notebook's backward pass, and how much each defect matters.

For each defect alone and for all together: the direction (cosine) and the size (norm ratio) of its
gradient against the true one, by parameter; and the loss over 200 passes of plain gradient descent,
as printed and with the defects mended one after another.
"""

from pathlib import Path

from experiments.support.output import say_written
from lstm_jax.config import Config, DataConfig
from lstm_jax.data.corpora import load_text
from lstm_jax.files import write_json
from lstm_jax.run.figures import new_figure, picture, save, tidy
from lstm_jax.terminal import show
from lstm_jax.verification import audit
from lstm_jax.verification.reference import DEFECTS

RATE, PASSES = 0.003, 200

READS = ("data.corpus", "data.path")
IGNORES = ("compile_cache", "cpu_devices")  # it is all NumPy


def get_config() -> Config:
    return Config(data=DataConfig(corpus="tiny_shakespeare"))


@picture
def draw(curves: dict[str, list[float]], path: Path) -> None:
    """The loss of the notebook's setting, its backward pass mended one defect after another."""
    figure = new_figure(8, 5)
    axes = figure.subplots()
    shades = ("C0", "C1", "C2", "C4", "C5", "C7")
    colors = ["#000000", *shades[: len(curves) - 2], "#c0392b"]
    for (stage, losses), color in zip(curves.items(), colors, strict=True):
        ends = stage in (next(iter(curves)), list(curves)[-1])
        axes.plot(losses, color=color, lw=2.2 if ends else 1.2, label=stage)
    start = next(iter(curves.values()))[0]
    axes.axhline(start, color="#7f8c8d", lw=0.8, ls=":")
    axes.set(
        xlabel="pass",
        ylabel="loss summed over the 25 characters (nats)",
        ylim=(0, 1.3 * start),
        title="The notebook's backward pass, mended one defect after another",
    )
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    tidy(axes)
    save(figure, path)


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
    draw(curves, workdir / "figures" / "audit.png")
    say_written(workdir, "audit.json", "figures/audit.*")
    return 0
