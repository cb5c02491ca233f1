"""Runs beside one another: which are one recipe, what differs, what they came to."""

import json
import re

import pytest

from experiments.support import comparison
from experiments.support.comparison import Recipe, RunRecord, recipes_of
from lstm_jax.config import Config
from lstm_jax.errors import UserError
from lstm_jax.model import Interface
from lstm_jax.run.description import Description
from tests.cli import call, is_one_line, process_in

IDS = Interface(5, 5, True, "softmax")
TEXT = {"alphabet": "\nabcd", "sha256": "1" * 64}


def line(step, loss, suffix="", **more):
    scores = {} if loss is None else {f"val_loss{suffix}": loss, f"val_loss_2{suffix}": 2 * loss}
    of_all = {"step": step, "targets": 8 * step, "train_loss": 0.5, "learning_rate": 1.0}
    return of_all | {"seconds": step / 10} | scores | more


def run_of(name, losses=(2.0,), identity=TEXT, unit="nats/char", lines=None, **options):
    """A run of ten steps per validation loss."""
    options = {name.replace("__", "."): value for name, value in options.items()}
    config = Config().replace({"train.steps": 10 * len(losses), "model.hidden_size": 3} | options)
    described = Description(config, identity, IDS, "float32", unit=unit)
    lines = lines or [line(10 * n, loss) for n, loss in enumerate(losses, start=1)]
    return RunRecord(name, described, lines)


def test_a_recipe_is_all_but_the_seed_and_the_place_of_the_text():
    runs = [
        run_of("wide_1", [3.0, 1.25], train__seed=1, model__hidden_size=4),
        run_of("small", [3.0, 2.0], data__path="here.txt"),
        run_of("wide_0", [1.0, 9.0], train__seed=0, model__hidden_size=4),
        run_of("moved", [3.0, 2.5], data__path="there.txt", train__seed=2),
        run_of("other text", [3.0, 1.5], TEXT | {"sha256": "2" * 64}),
    ]
    recipes = recipes_of(runs)
    assert [[run.name for run in recipe.runs] for recipe in recipes] == [
        ["wide_0", "wide_1"],
        ["other text"],
        ["small", "moved"],
    ]
    assert recipes[0].name == "wide_*" and recipes[1].name == "other text"
    assert comparison.differing(recipes) == ["model.hidden_size", "the task's sha256"]


def test_a_seed_again_is_a_recipe_of_its_own():
    runs = [run_of("before", [2.0]), run_of("seed 1", [4.0], train__seed=1), run_of("after", [1.0])]
    recipes = recipes_of(runs)
    assert [[run.name for run in recipe.runs] for recipe in recipes] == [
        ["after"],
        ["before", "seed 1"],
    ]
    assert comparison.differing(recipes) == []


@pytest.mark.parametrize(
    "names, name",
    [
        (["runs/a"], "runs/a"),
        (["runs/a_0", "runs/a_1", "runs/a_12"], "runs/a_*"),
        (["seed=1,rate=2", "seed=10,rate=2"], "seed=1*,rate=2"),
        (["a/run", "b/run"], "*/run"),
        (["aa", "aaa"], "aa*"),
    ],
)
def test_runs_are_called_what_their_names_have_in_common(names, name):
    assert Recipe([run_of(name) for name in names]).name == name


def test_the_table_has_means_deviations_and_what_is_kept():
    """By hand: of 1 and 1.5 the mean is 1.25, and the deviation the root of 0.125, 0.3536."""
    averaged = [
        line(10, 0.25, "_average") | line(10, 3.0),
        line(20, 0.5, "_average") | line(20, 2.0),
    ]
    recipes = recipes_of(
        [
            run_of("wide_0", [1.0, 9.0], train__seed=0, model__hidden_size=4),
            run_of("wide_1", [3.0, 1.5], train__seed=1, model__hidden_size=4),
            run_of("averaged", lines=averaged, train__average="ema"),
            run_of("begun", lines=[line(3, None)]),
        ]
    )
    # V 5, gates of 4 H: V 4H + H 4H + 4H, then H V + V.
    small, wide = (5 * 4 * H + H * 4 * H + 4 * H + H * 5 + 5 for H in (3, 4))
    assert comparison.table_of_losses(recipes).splitlines() == [
        "   runs      seeds  loss             2                best step  training         seconds"
        "  parameters",
        "1  averaged  0      0.2500           0.5000           10         0.5000           2.0    "
        f"  {small}",
        "2  wide_*    0,1    1.2500 ± 0.3536  2.5000 ± 0.7071  10-20      0.5000 ± 0.0000  2.0    "
        f"  {wide}",
        f"3  begun     0      -                -                -          0.5000           0.3    "
        f"  {small}",
    ]


def test_the_options_are_columns_or_where_there_are_many_lines():
    """And show on a line each, however long they are and whatever is in them."""
    sizes = [run_of(f"{n}", [1.0 + n], model__hidden_sizes=(3,) * (n + 1)) for n in range(8)]
    few = comparison.table_of_options(recipes_of(sizes[:2]))
    assert few.splitlines() == ["                    1  2", "model.hidden_sizes  3  3,3"]
    many = comparison.table_of_options(recipes_of(sizes)).splitlines()
    assert many[0] == "   model.hidden_sizes" and many[8] == "8  3,3,3,3,3,3,3,3" and len(many) == 9
    texts = [run_of(f"{n}", [1.0], {"alphabet": f"\n{n}" + "x" * 99}) for n in range(2)]
    row = comparison.table_of_options(recipes_of(texts)).splitlines()[1]
    assert row.split("  ")[1:] == ["'\\n0" + "x" * 25 + "…", "'\\n1" + "x" * 25 + "…"]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data__task": "adding"}, "a is of data.task=text, in nats/char, and b of data.task=add"),
        (
            {"unit": "nats/word"},
            "a is of data.task=text, in nats/char, and b .*, in nats/word: com",
        ),
        ({"lines": [line(1, None, val_accuracy=1.0)]}, "a by loss and 2, b by accuracy"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        comparison.check_comparable([run_of("a"), run_of("b", **changes)])
    comparison.check_comparable([run_of("a"), run_of("b", lines=[line(1, None)])])


def write(folder, run):
    """A run's folder with the two files that are read."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(run.description.to_json()))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(m) + "\n" for m in run.lines))


@pytest.fixture
def folder(tmp_path):
    """Two seeds of one recipe and a run of another, which is under way."""
    write(tmp_path / "runs/seed_0", run_of("seed_0", [3.0, 1.0]))
    write(tmp_path / "runs/seed_1", run_of("seed_1", [3.0, 1.5], train__seed=1))
    other = run_of("other", [3.0, 2.0], data__validation_fraction=0.2, train__steps=90)
    write(tmp_path / "runs/other", other)
    (tmp_path / "runs/notes").mkdir()
    with process_in(tmp_path):
        yield tmp_path


@pytest.mark.parametrize(
    "workdirs",
    ["runs", "runs/", "runs/*", "runs/seed_?,runs/other", "runs/seed_0,runs/[!s]*,runs/seed_1"],
)
def test_runs_are_compared(workdirs, folder):
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")}
    code, stdout, stderr = call("--mode=compare", f"--workdirs={workdirs}", "--workdir=seen")
    assert code == 0
    assert re.search(r"^1 +runs/seed_\* +0,1 +1\.2500 ± 0\.3536 +2\.5000", stdout, re.M)
    assert re.search(r"^2 +runs/other +0 +2\.0000 +4\.0000 +20", stdout, re.M)
    assert re.search(r"^data.validation_fraction +0\.1 +0\.2\ntrain.steps +20 +90$", stdout, re.M)
    assert "warning: not finished: runs/other is at step 20 of 90\n" in stderr
    assert "not scored on the same: data.validation_fraction differ" in stderr
    assert (folder / "seen/figures/comparison.png").read_bytes().startswith(b"\x89PNG")
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")} == before


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "needs --workdirs=DIR,DIR"),
        (["--workdirs=runs/seed_0,"], "--workdirs has an empty name"),
        (["--workdirs=nowhere"], "--workdirs=nowhere holds no run (there is no config.json)"),
        (["--workdirs=runs/s*x"], "holds no run"),
        (["--workdirs=runs/notes"], "holds no run"),
        (["--workdirs=runs/other/config.json"], "holds no run"),
        (["--workdirs=runs/other,runs/../runs/other"], "names runs/../runs/other twice"),
        (["--workdirs=runs/other,runs"], "names runs/other twice"),
        (["--workdirs=runs", "--experiment=shakespeare"], "means nothing to --mode=compare"),
        (["--workdirs=runs", "--cpu_devices=2"], "means nothing to --mode=compare"),
        (["--workdirs=runs", "--checkpoint=latest"], "means nothing to --mode=compare"),
        (["--workdirs=runs", "--config.train.seed=1"], "means nothing to --mode=compare"),
        (["--workdirs=runs", "--workdir=runs/other/config.json"], "is a file, not a folder"),
    ],
)
def test_a_mistake_is_one_line(flags, message, folder):
    before = sorted(folder.rglob("*"))
    code, stdout, stderr = call("--mode=compare", *flags)
    assert code == 2 and stdout == "" and message in stderr and is_one_line(stderr)
    assert sorted(folder.rglob("*")) == before


def test_what_is_drawn_has_each_recipe_that_has_begun_and_each_of_its_runs():
    runs = [run_of("a", [3.0, 1.0]), run_of("b", [2.0, 1.5], train__seed=1)]
    not_begun = RunRecord("c", run_of("c", [2.0, 2.0], train__seed=2).description, [])
    recipes = comparison.recipes_of([*runs, not_begun])
    drawn = comparison.curves_of_recipes(recipes, "nats/char")["recipes"]
    losses = [[run["losses"]["val_loss"] for run in recipe["runs"]] for recipe in drawn]
    assert losses == [[[3.0, 1.0], [2.0, 1.5]]]
