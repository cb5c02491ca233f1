"""The gradients of the recipes' own steps: by JAX and by hand, in float32, against float64.

`verify_gradients` compares every source on small shapes. Here are the widths, batches and lengths
that are trained, with their dropout and weight drop. The carry is not zero, and some lanes are
reset. Minutes on two cores. Exit code 1 if anything fails.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from experiments.recipes import shakespeare, tiny_shakespeare_hour, tiny_shakespeare_small
from experiments.studies import tiny_shakespeare
from experiments.studies.verify_gradients import table
from experiments.support.output import say_written
from lstm_jax.config import Config
from lstm_jax.files import write_json
from lstm_jax.terminal import say, show
from lstm_jax.verification.cases import Case
from lstm_jax.verification.compare import Row, verify_as_trained, workers

READS = ()  # no config value changes what is verified
IGNORES = ("figures",)  # it draws nothing
SYMBOLS = 65  # the alphabet of tiny Shakespeare


def get_config() -> Config:
    return Config()


def recipes() -> dict[str, Config]:
    """What is verified, by name."""
    hour = tiny_shakespeare_hour.get_config()
    return {
        "tiny_shakespeare_small": tiny_shakespeare_small.get_config(),
        "shakespeare": shakespeare.get_config(),
        "tiny_shakespeare_hour": hour,
        "tiny_shakespeare, 512 units": hour.replace({"model.hidden_size": 512}),
        "tiny_shakespeare": tiny_shakespeare.get_config(),
    }


def case_of(config: Config) -> Case:
    """The recipe's training step as a case of the verification."""
    model, train = config.model, config.train
    T, B = train.sequence_length, train.batch_size
    return Case(model, T, B, resets=True, carry=True, vocabulary_size=SYMBOLS)


def verify_recipes() -> dict[str, list[Row]]:
    """Every recipe's rows, side by side as compiling allows; prints each table in its turn."""
    cases = {name: case_of(config) for name, config in recipes().items()}
    by_recipe: dict[str, list[Row]] = {}
    with ThreadPoolExecutor(workers()) as pool:
        verified = pool.map(verify_as_trained, cases.values())
        for name, rows in zip(cases, verified, strict=True):
            say(f"recipe {len(by_recipe) + 1}/{len(cases)} done")
            by_recipe[name] = rows
            case = cases[name]
            H, L = case.model.hidden_size, case.model.num_layers
            show(f"{name}: H {H}, L {L}, B {case.B}, T {case.T}")
            show(table("pair", rows) + "\n")
    return by_recipe


def main(config: Config, workdir: Path) -> int:
    """Prints a table for each recipe, writes recipes.json; 1 if anything failed."""
    by_recipe = verify_recipes()
    rows = [{"recipe": name, **row._asdict()} for name in by_recipe for row in by_recipe[name]]
    write_json(workdir / "recipes.json", rows)
    failed = sum(not row.passed for rows in by_recipe.values() for row in rows)
    show(f"{len(rows)} comparisons, {failed} failed")
    say_written(workdir, "recipes.json")
    return 1 if failed else 0
