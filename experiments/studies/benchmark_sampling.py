"""How many characters per second a model writes, one at a time, here and in PyTorch, in turn.

Without further flags: two layers of 256 and of 512, one text, and 64 texts at once of the smaller;
with --config.model.hidden_size or --config.model.num_layers that model, one text and 64. Each
character is drawn at temperature 1 from what the model says after the one before.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.studies.benchmark import OURS, TORCH, TORCH_ALONE, VOCABULARY_SIZE
from experiments.support import peers
from experiments.support.output import say_written
from experiments.support.timing import Contender, describe_machine, in_turn, warm_up
from lstm_jax.config import Config, ModelConfig
from lstm_jax.container import usable_cpus
from lstm_jax.files import write_json
from lstm_jax.model import init_model
from lstm_jax.sample import PIECE, SamplingConfig, generate
from lstm_jax.terminal import overwrite, show

READS = ("model.hidden_size", "model.num_layers")
IGNORES = ("figures",)  # it draws nothing

LENGTH = 10 * PIECE  # characters per call of each text
BUDGET_S = 15.0  # of rounds for a case
PROMPT = np.zeros(1, np.uint8)


class Case(NamedTuple):
    num_samples: int  # texts written at once
    hidden_size: int
    num_layers: int

    def __str__(self) -> str:
        return "texts {}, H {}, L {}".format(*self)


CASES = (Case(1, 256, 2), Case(1, 512, 2), Case(64, 256, 2))


def get_config() -> Config:
    """The start of a model of one's own."""
    return Config(model=ModelConfig(hidden_size=200, num_layers=2))


def cases_of(config: Config) -> tuple[Case, ...]:
    """A model of the user's own, writing one text and 64."""
    model = config.model
    return tuple(Case(n, model.hidden_size, model.num_layers) for n in (1, 64))


def contenders_of(case: Case, missing: dict[str, str]) -> dict[str, Contender]:
    """Samplers of the same random model; a call writes LENGTH characters of each text."""
    model = ModelConfig(hidden_size=case.hidden_size, num_layers=case.num_layers)
    params = init_model(jax.random.key(0), model, VOCABULARY_SIZE)
    config, key = SamplingConfig(temperature=1.0), jax.random.key(1)
    steps = LENGTH * case.num_samples

    def ours() -> np.ndarray:
        return generate(params, key, PROMPT, LENGTH, config, case.num_samples)[0]

    contenders = {OURS: Contender(ours, steps)}
    if TORCH not in missing:
        weights = jax.tree.map(np.array, params)
        for name, threads in {TORCH: usable_cpus(), TORCH_ALONE: 1}.items():
            sampler = peers.make_torch_sampler(weights, threads)
            theirs = partial(sampler, PROMPT, LENGTH, case.num_samples)
            contenders[name] = Contender(theirs, steps)
    return contenders


def report(case: Case, text: str, end: str = "") -> None:
    overwrite(f"{case}: {text}", end)


def measure(case: Case, missing: dict[str, str]) -> dict[str, Any]:
    """The entry of benchmark_sampling.json for a case."""
    report(case, "warming up")
    warm = {name: warm_up(contender) for name, contender in contenders_of(case, missing).items()}
    timings = in_turn(warm, BUDGET_S, lambda done: report(case, f"round {done}"))
    rounds = len(timings[OURS].rounds)
    report(case, f"{rounds} rounds", end="\n")
    contenders = {
        name: {
            "characters_per_second": 1 / timing.median,
            "quartiles": sorted(1 / s for s in timing.quartiles),
            "times_lstm_jax": timing.median / timings[OURS].median,
        }
        for name, timing in timings.items()
    }
    return {**case._asdict(), "rounds": rounds, "contenders": contenders}


def table(entries: list[dict[str, Any]]) -> str:
    """Every case and contender, as aligned text."""
    lines = [f"{'case':22}  {'':15}  characters/s            quartiles  x lstm_jax's time  rounds"]
    for entry in entries:
        case = Case(*(entry[field] for field in Case._fields))
        for name, c in entry["contenders"].items():
            low, high = c["quartiles"]
            lines.append(
                f"{case!s:22}  {name:15}  {c['characters_per_second']:12,.0f}  "
                f"{f'{low:,.0f} - {high:,.0f}':>19}  {c['times_lstm_jax']:17.2f}  "
                f"{entry['rounds']:6}"
            )
    return "\n".join(lines)


def main_unchanged(workdir: Path) -> int:
    """`main` for all of CASES."""
    return compare(CASES, workdir)


def main(config: Config, workdir: Path) -> int:
    """Prints the table, writes benchmark_sampling.json."""
    return compare(cases_of(config), workdir)


def compare(cases: tuple[Case, ...], workdir: Path) -> int:
    reason = peers.why_missing(TORCH)
    missing = {} if reason is None else {TORCH: reason}
    entries = [measure(case, missing) for case in cases]
    for name, reason in missing.items():
        show(f"{name}: {reason}")
    show(table(entries))
    result = {"machine": describe_machine(), "missing": missing, "length": LENGTH, "cases": entries}
    path = workdir / "benchmark_sampling.json"
    write_json(path, result)
    say_written(workdir, path.name)
    return 0
