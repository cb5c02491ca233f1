"""Every gradient from every source: autodiff, bptt, NumPy loops and central differences agree.

Without further flags it runs a grid of shapes; with --config.model.…, --config.train.batch_size,
sequence_length or seed it verifies that very configuration, plainly and with everything dropped,
masked and reset. Exit code 1 if anything fails.
"""

import dataclasses
import math
from pathlib import Path

import numpy as np

from experiments.support.output import say_written
from lstm_jax.config import Config, ModelConfig, TrainConfig
from lstm_jax.files import write_json
from lstm_jax.model import Interface
from lstm_jax.run.figures import new_figure, picture, save
from lstm_jax.run.memory import batch_of_ids, check_run_fits
from lstm_jax.terminal import overwrite, show
from lstm_jax.verification.cases import Case, by_hand, grid, variants
from lstm_jax.verification.compare import Row, verify, worst

READS = (
    "model.hidden_size",
    "model.num_layers",
    "model.embedding_size",
    "model.dropout",
    "model.input_dropout",
    "model.embedding_dropout",
    "model.zoneout_cell",
    "model.zoneout_hidden",
    "model.cell",
    "model.hidden_sizes",
    "model.mogrifier_rounds",
    "model.mogrifier_rank",
    "model.skip",
    "model.readout",
    "model.readout_rank",
    "train.batch_size",
    "train.sequence_length",
    "train.seed",
)


MEANINGS = """\
The largest difference between the gradients from two sources, by leaf of the parameters, by pair of
sources and by kind of cell. It is allowed as a share of the leaf's largest gradient: rel error.
kind: both gradients in float64, both in float32, or one of them by central differences.
"""


def get_config() -> Config:
    return Config(
        # The second layer's input has a gradient; ids have none.
        model=ModelConfig(hidden_size=6, num_layers=2),
        # The one gradient that every model has; whichever others there are are compared with it.
        train=TrainConfig(batch_size=5, sequence_length=7, gradient="autodiff"),
    )


def all_cases() -> list[Case]:
    """What is verified where no config is given."""
    return [*variants(), *by_hand(), *grid()]


def cases_of(config: Config) -> list[Case]:
    """A config of the user's own: plainly, and with everything on."""
    model, T, B = config.model, config.train.sequence_length, config.train.batch_size
    dropped = dataclasses.replace(
        model,
        dropout=model.dropout or 0.2,
        input_dropout=model.input_dropout or 0.2,
        embedding_dropout=model.embedding_dropout or (0.2 if model.embedding_size else 0.0),
    )
    return [
        Case(model, T, B, seed=config.train.seed),
        Case(dropped, T, B, masked=True, resets=True, carry=True, seed=config.train.seed),
    ]


def report(done: int, total: int) -> None:
    overwrite(f"case {done}/{total}", end="\n" if done == total else "")


def table(field: str, rows: list[Row]) -> str:
    """The worst rows for each value of a field, as aligned text."""
    rows = sorted(worst(rows, field, "kind"), key=lambda row: getattr(row, field))
    width = max(len(getattr(row, field)) for row in rows)
    lines = [f"{field:{width}}  kind         abs error  rel error  allowed  1 - cosine  verdict"]
    for row in rows:
        lines.append(
            f"{getattr(row, field):{width}}  {row.kind:11}  {row.absolute:9.1e}  "
            f"{row.relative:9.1e}  "
            f"{row.allowed:7.0e}  {max(1 - row.cosine, 0):10.1e}  "
            f"{'ok' if row.passed else 'FAILED'}"
        )
    return "\n".join(lines)


@picture
def draw(rows: list[Row], path: Path) -> None:
    """The worst relative error of every leaf (rows) between every two sources (columns)."""
    pairs = list(dict.fromkeys((row.pair, row.allowed) for row in rows))
    leaves = sorted({row.leaf for row in rows})
    errors = np.full((len(leaves), len(pairs)), np.nan)
    for row in rows:
        at = leaves.index(row.leaf), pairs.index((row.pair, row.allowed))
        errors[at] = math.log10(max(row.relative, 1e-17)) if math.isfinite(row.relative) else 0.0
    figure = new_figure(1.5 + 0.8 * len(pairs), 3.2 + 0.36 * len(leaves))
    axes = figure.subplots()
    image = axes.imshow(errors, cmap="viridis_r", vmin=-17, vmax=-4, aspect="auto")
    for (y, x), value in np.ndenumerate(errors):
        if not np.isnan(value):
            bad = value > math.log10(pairs[x][1])
            text = f"{value:.1f}" + (" FAILED" if bad else "")
            axes.text(
                x,
                y,
                text,
                ha="center",
                va="center",
                fontsize=7,
                color="red" if bad else "white" if value > -11 else "black",
            )
    labels = [f"{pair}\nallowed {allowed:.0e}" for pair, allowed in pairs]
    axes.set_xticks(range(len(pairs)), labels, rotation=40, ha="right", fontsize=8)
    axes.set_yticks(range(len(leaves)), leaves, fontsize=8)
    axes.set_title("largest difference between two gradients, as a share of the largest gradient")
    figure.colorbar(image, label="log10")
    save(figure, path)


def main_unchanged(workdir: Path) -> int:
    """`main` for the grid of shapes."""
    return verify_and_report(all_cases(), workdir)


def main(config: Config, workdir: Path) -> int:
    """Prints the tables, writes verification.json and its picture; 1 if anything failed."""
    check_run_fits(config, Interface.of(1), batch_of_ids(config))
    return verify_and_report(cases_of(config), workdir)


def verify_and_report(cases: list[Case], workdir: Path) -> int:
    rows = verify(cases, report)
    failed = [row for row in rows if not row.passed]
    show(MEANINGS)
    show("\n\n".join(table(field, rows) for field in ("leaf", "pair", "cell")) + "\n")
    verdict = f"{len(failed)} of {len(rows)} kinds FAILED" if failed else "none failed"
    show(
        f"{sum(row.cases for row in rows):,} comparisons of two gradients, of {len(cases)} cases: "
        f"{verdict}"
    )
    written = [{**row._asdict(), "passed": row.passed} for row in rows]
    write_json(workdir / "verification.json", written)
    draw(rows, workdir / "figures" / "verification.png")
    say_written(workdir, "verification.json", "figures/verification.*")
    return 1 if failed else 0
