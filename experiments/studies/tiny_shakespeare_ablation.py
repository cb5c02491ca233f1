"""What each part of `tiny_shakespeare_hour` is worth at a tenth of its steps, a third of its width.

Each variant changes one part, and what goes with it, and is trained with three seeds; the table
gives the mean and the spread of its validation losses, at the step that is best by `stream`, beside
the base's. Runs that are done are not done again, so the command can be stopped and given again. On
two CPU cores a run takes minutes, more where JAX takes the gradient.
"""

import statistics
from pathlib import Path
from typing import Any

from experiments.recipes import tiny_shakespeare_hour
from experiments.support import seeds
from experiments.support.output import say_written
from experiments.support.seeds import mean_seconds, spread
from experiments.support.timing import describe_machine
from lstm_jax.config import Config, OptimizerConfig
from lstm_jax.data.vocabulary import Text
from lstm_jax.errors import UserError
from lstm_jax.files import write_json
from lstm_jax.run.figures import in_words
from lstm_jax.run.style import COLORS, DASHES, MARKERS, draw_from, new_figure, picture, save
from lstm_jax.terminal import say, show

PROTOCOLS = ("stream", "windows")
BASE = "base"
BY_JAX = {"train.gradient": "autodiff"}  # of cells without a backward by hand
EMBEDDED = {"model.embedding_size": 128}
VARIANTS: dict[str, dict[str, Any]] = {
    BASE: {},
    "no dropout": {"model.dropout": 0.0},
    "no weight drop": {"model.weight_drop": 0.0},
    "no sequence begun at zero": {"train.reset_rate": 0.0},
    "weight decay 0.1": {"optimizer.weight_decay": 0.1},
    "input dropout 0.1": {"model.input_dropout": 0.1},
    "embedding of 128": EMBEDDED,
    "embedding of 128, its dropout 0.1": EMBEDDED | {"model.embedding_dropout": 0.1},
    "zoneout, 0.1 of c and 0.05 of h": {"model.zoneout_cell": 0.1, "model.zoneout_hidden": 0.05},
    "exponential average of weights": {"train.average": "ema", "train.average_decay": 0.99},
    # What it averages must still move: beside a cosine to zero it would hardly ever begin.
    "constant rate, then averaged": {
        "optimizer.schedule": "constant",
        "train.average": "triggered",
        "train.average_patience": 0,
    },
    "coupled gates (i is 1 - f)": {"model.cell": "coupled"} | BY_JAX,
    "layer norm": {"model.cell": "layer_norm"} | BY_JAX,
    "Mogrifier, rank 64": {"model.cell": "mogrifier", "model.mogrifier_rank": 64} | BY_JAX,
    "weighted skip": {"model.skip": "weighted"},
    "embedding of 128, tied readout": EMBEDDED | {"model.readout": "tied"},
    "readout of rank 32": {"model.readout_rank": 32},
}

WIDTH = max(map(len, VARIANTS))
HEADER = f"{'variant':{WIDTH}}  {'stream':16}  change   {'windows':16}  parameters  seconds"
VARIED = {name for changes in VARIANTS.values() for name in changes}
# Nor can what only a variant would read be given.
OWN = VARIED | {"data.task", "train.seed", "model.mogrifier_rounds", "optimizer.final_ratio"}
READS = tuple(name for name in Config().flatten() if name not in OWN)


def get_config() -> Config:
    return tiny_shakespeare_hour.get_config().replace(
        {
            "model.hidden_size": 128,
            # So short a run of so small a model wants a higher rate (with 192 units the hour's
            # ended 0.07 behind).
            "optimizer.learning_rate": 1e-2,
            # And knows nothing by heart yet.
            "optimizer.weight_decay": OptimizerConfig.weight_decay,
            "train.steps": 860,
            # Often enough for a triggered average to find its moment.
            "train.validate_every": 86,
            "train.keep_checkpoints": 1,
        }
    )


def seeded(config: Config, text: Text, workdir: Path, name: str) -> dict[Path, Config]:
    """A variant's `seeds.seeded`."""
    folder = workdir / name.replace(" ", "_").replace(",", "")
    try:
        return seeds.seeded(config.replace(VARIANTS[name]), text, folder)
    except UserError as error:
        raise UserError(f"the variant `{name}`: {error}") from error


def row(name: str, runs: list[dict[str, Any]], base: list[dict[str, Any]]) -> str:
    """A variant's line of the table."""
    stream, windows = ([run[protocol] for run in runs] for protocol in PROTOCOLS)
    differs = statistics.mean(stream) - statistics.mean(run["stream"] for run in base)
    return (
        f"{name:{WIDTH}}  {spread(stream):16}  {differs:+.4f}  {spread(windows):16}  "
        f"{runs[0]['parameters']:>10,}  {mean_seconds(runs):>5} s"
    )


def summary_of(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What is drawn of a variant: mean and deviation of its losses."""
    losses = {protocol: [run[protocol] for run in runs] for protocol in PROTOCOLS}
    return {
        protocol: [statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0]
        for protocol, values in losses.items()
    }


@picture
def draw(numbers: dict[str, Any], path: Path) -> None:
    """Each variant's mean losses with their deviations, the best first, and the base's as lines."""
    variants = sorted(numbers["variants"].items(), key=lambda item: item[1]["stream"][0])
    title = "What each part is worth, one changed at a time"
    figure = new_figure(1.3 + 0.19 * len(variants), title, numbers["about"])
    axes = figure.subplots()
    for n, protocol in enumerate(PROTOCOLS):
        means, deviations = zip(*(losses[protocol] for _, losses in variants), strict=True)
        style: dict[str, Any] = {"color": COLORS[n], "marker": MARKERS[n], "ms": 4, "ls": ""}
        style |= {"mfc": "white" if n else COLORS[n], "elinewidth": 0.9}
        label = f"validation, {protocol}"
        places = [place + 0.16 * (2 * n - 1) for place in range(len(variants))]
        axes.errorbar(means, places, xerr=deviations, label=label, **style)
        base = numbers["variants"][BASE][protocol][0]
        axes.axvline(base, color=COLORS[n], lw=0.8, ls=DASHES[n], alpha=0.6, zorder=1)
    axes.set_yticks(range(len(variants)), [name for name, _ in variants])
    axes.get_yticklabels()[[name for name, _ in variants].index(BASE)].set_fontweight("bold")
    axes.set(ylim=(len(variants) - 0.4, -0.6), xlabel="loss (nats per character), lower is better")
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="lower left")
    save(figure, path)


def about(config: Config, text: str) -> str:
    """The picture's subtitle; `text` names what is learnt."""
    seeds_of = f"mean and deviation of {len(seeds.SEEDS)} seeds"
    trained = f"{in_words(config.model)}, {config.train.steps} steps on {text}"
    return f"{trained}; {seeds_of}; lines: the base"


def main(config: Config, workdir: Path) -> int:
    """Prints a line for each variant as it is done; writes ablation.json and its picture."""
    text = seeds.text_to_validate_on(config, "the ablation")
    configs = {name: seeded(config, text, workdir, name) for name in VARIANTS}
    machine, runs = describe_machine(), {}
    for number, (name, of_seeds) in enumerate(configs.items(), start=1):
        say(f"variant {number} of {len(configs)}")
        runs[name] = [*seeds.train(of_seeds, text, name)]
        if number == 1:
            show(HEADER)
        show(row(name, runs[name], runs[BASE]))
        means = {variant: summary_of(of) for variant, of in runs.items()}
        written = {"machine": machine, "config": config.flatten(), "variants": runs, "means": means}
        write_json(workdir / "ablation.json", written)
        path = workdir / "figures" / "tiny_shakespeare_ablation.png"
        draw_from({"about": about(config, text.name), "variants": means}, draw, path)
    say_written(workdir, "ablation.json", "figures/*")
    return 0
