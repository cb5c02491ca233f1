"""Every gradient from every source: autodiff, bptt, NumPy loops and central differences agree.

Without further flags it runs a grid of shapes; with --config.model.…, --config.train.batch_size,
sequence_length or seed it verifies that very configuration, plainly and with everything dropped,
masked and reset. Exit code 1 if anything fails.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.support.output import say_written
from lstm_jax.config import Config, ModelConfig, TrainConfig
from lstm_jax.files import write_json
from lstm_jax.model import Interface
from lstm_jax.run.memory import batch_of_ids, check_run_fits
from lstm_jax.run.style import COLORS, REFERENCE, STRONG, draw_from, new_figure, picture, save
from lstm_jax.terminal import overwrite, show
from lstm_jax.verification.cases import Case, by_hand, grid, variants
from lstm_jax.verification.compare import Row, verify, worst

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMALLEST = 1e-17  # what is drawn for no difference at all
PASSED: dict[str, Any] = {"marker": "o", "ms": 4, "ls": "", "color": STRONG}
FAILED: dict[str, Any] = {"marker": "X", "ms": 7, "ls": "", "color": COLORS[1]}
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
kind: both gradients in float64, both in float32, or one of them by central differences; bfloat16:
both in mixed precision (train.precision), rounding: one of them, the other in float64.
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


KINDS = {
    "float64": "in float64",
    "differences": "against central differences of the loss",
    "float32": "in float32",
    "bfloat16": "in mixed precision, products of bfloat16",
    "rounding": "mixed precision against float64",
    "default": "as trained",
}
SOURCES = {
    "autodiff": "autodiff",
    "bptt rows": "by hand, rows",
    "bptt columns": "by hand, columns",
    "reference": "NumPy loops",
    "differences": "differences",
}
# The same sources of the truncated rule.
TRUNCATED = {
    "stop_gradient": "autodiff",
    "truncated rows": "by hand, rows",
    "truncated columns": "by hand, columns",
    "truncated reference": "NumPy loops",
}


def drawn_of(rows: list[Row], cases: int) -> dict[str, Any]:
    """What is drawn: the worst comparison of every two sources."""
    pairs = []
    for row in worst(rows, "pair", "kind"):
        sources = row.pair.split(" ~ ")
        names = [{**SOURCES, **TRUNCATED}.get(source, source) for source in sources]
        rule = ", truncated rule" if TRUNCATED.keys() & {*sources} else ""
        kind = f"{KINDS[row.kind]}{rule}"
        numbers = {"relative": row.relative, "allowed": row.allowed, "passed": row.passed}
        pairs.append({"pair": " – ".join(names), "kind": kind, **numbers})
    return {"cases": cases, "comparisons": sum(row.cases for row in rows), "pairs": pairs}


@picture
def draw(numbers: dict[str, Any], path: Path) -> None:
    """The worst error between every two sources, beside the bound that it has to stay below."""
    kinds: dict[str, list[dict[str, Any]]] = {}
    for pair in sorted(numbers["pairs"], key=lambda pair: pair["allowed"]):
        kinds.setdefault(pair["kind"], []).append(pair)
    figure = new_figure(
        1.3 + 0.24 * len(kinds) + 0.135 * len(numbers["pairs"]),
        "Largest difference between two sources of a gradient",
        f"As a share of the parameter's largest gradient: the worst of {numbers['comparisons']:,} "
        f"comparisons in {numbers['cases']} cases",
    )
    heights = [len(pairs) + 0.6 for pairs in kinds.values()]
    panels = figure.subplots(len(kinds), sharex=True, squeeze=False, height_ratios=heights).flat
    for axes, (kind, pairs) in zip(panels, kinds.items(), strict=True):
        draw_kind(axes, kind, pairs)
    for style, label in ((PASSED, "passes"), (FAILED, "fails")):
        panels[0].plot([], [], label=label, **style)
    panels[0].legend(loc="center right")
    axes.set(xscale="log", xlim=(SMALLEST / 2, 2), xlabel="difference; dotted: the bound")
    save(figure, path)


def draw_kind(axes: "Axes", kind: str, pairs: list[dict[str, Any]]) -> None:
    """The pairs of one kind, and their bound."""
    for place, pair in enumerate(pairs):
        error = min(max(pair["relative"], SMALLEST), 1.0)
        axes.plot(error, place, **(PASSED if pair["passed"] else FAILED))
    axes.axvline(pairs[0]["allowed"], color=REFERENCE, lw=0.9, ls=":")
    axes.set_yticks(range(len(pairs)), [pair["pair"] for pair in pairs], size=7)
    axes.set_ylim(len(pairs) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_title(kind, loc="left", size=8)


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
    path = workdir / "figures" / "verify_gradients.png"
    draw_from(drawn_of(rows, len(cases)), draw, path)
    say_written(workdir, "verification.json", "figures/*")
    return 1 if failed else 0
