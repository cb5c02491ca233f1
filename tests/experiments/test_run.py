"""The command line as a user meets it: in a process of its own, with its exit code and streams."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.command.catalogue import EXPERIMENTS
from experiments.studies import verify_gradients
from lstm_jax.config import Config
from lstm_jax.run.metrics import read_metrics
from lstm_jax.verification.compare import Row
from tests.cli import call, process_in

ROOT = Path(__file__).parent.parent.parent
SMALL = [
    "--config.data.corpus=python_topics",
    "--config.model.hidden_size=8",
    "--config.train.batch_size=8",
    "--config.train.sequence_length=16",
    "--config.train.steps=20",
    "--config.train.validate_every=10",
    "--config.train.steps_per_dispatch=5",
    "--config.train.sample_length=30",
]


def command(*args):
    return [sys.executable, "-m", "experiments.run", *map(str, args)]


def run(*args, code=0, **kwargs):
    done = subprocess.run(
        command(*args), cwd=ROOT, capture_output=True, text=True, check=False, **kwargs
    )
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A small finished run."""
    path = tmp_path_factory.mktemp("run") / "small"
    done = run(f"--workdir={path}", *SMALL)
    assert re.search(
        r"validation_loss_stream +\d\.\d{4} nats/char +\d\.\d{4} bits/char", done.stdout
    )
    for said in (
        "model: 1 LSTM layer of 8 units, ",
        "training: 20 steps of 128 chars on cpu; validation and checkpoint every 10\n",
        "losses: nats/char, the mean of -log(probability) of each true char; lower is better\n",
        "\nwindows: the state starts from zero every 256 characters\n",
        "step 20/20",
        f"{path} has figures/curves.png, samples.txt, metrics.jsonl, checkpoints; next: ",
    ):
        assert said in done.stderr
    results = [line.split()[:2] for line in done.stdout.partition("\n\n")[0].splitlines()]
    assert [name for name, _ in results] == [
        *("training_loss", "validation_loss_stream", "validation_loss_windows", "training_time")
    ]
    assert all(float(value) > 0 for name, value in results if "loss" in name)
    return path


def test_the_same_command_again_finds_nothing_left_to_do(workdir):
    before = (workdir / "metrics.jsonl").read_text()
    assert (
        "resuming at step 20 of 20: nothing is left to train"
        in run(f"--workdir={workdir}", *SMALL).stderr
    )
    assert (workdir / "metrics.jsonl").read_text() == before


def test_evaluate_prints_both_protocols_as_training_did(workdir):
    done = run("--mode=evaluate", f"--workdir={workdir}", "--checkpoint=latest")
    last = read_metrics(workdir)[-1]
    for protocol in ("stream", "windows"):
        loss = last[f"val_loss_{protocol}"]
        assert re.search(rf"validation_loss_{protocol} +{loss:.4f} nats/char ", done.stdout)
    strict = run("--mode=evaluate", f"--workdir={workdir}", "--config.evaluate.window_length=64")
    assert "the state starts from zero every 64 characters" in strict.stdout


def test_dynamic_evaluation_has_a_line_of_its_own(workdir):
    args = ["--mode=evaluate", f"--workdir={workdir}"]
    plain = run(*args).stdout
    found = run(*args, "--dynamic", "--dynamic_rule=sgd", "--dynamic_rate=0.1").stdout
    assert found.startswith(plain) and found.count("\n") == plain.count("\n") + 1
    assert re.search(
        r"validation_loss_dynamic +\d\.\d{4} nats/char .*sgd, segments of 20, rate 0.1", found
    )
    end = run(*args, "--split=training_end")
    assert "the end of the training split" in end.stderr and "training_loss_stream" in end.stdout


def test_sample_is_repeatable_and_goes_on_from_the_prompt(workdir):
    args = ["--mode=sample", f"--workdir={workdir}", "--prompt=The ", "--length=40"]
    first = run(*args).stdout
    assert first.startswith("The ") and len(first) == 4 + 40 + 1
    several = run(*args, "--num_samples=3").stdout
    assert several.startswith(first) and several.count("=== sample") == 2
    assert run(*args, "--sample_seed=1").stdout != first


def test_an_interrupted_run_goes_on(tmp_path):
    """Ctrl-C: saved, one line that says how to go on, exit code 130; then the same command."""
    args = [f"--workdir={tmp_path / 'run'}", *SMALL, "--config.train.steps=200000"]
    process = subprocess.Popen(command(*args), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    for _ in range(600):
        time.sleep(0.1)
        if len(read_metrics(tmp_path / "run")) > 3:
            break
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    saved = int(re.search(r"saved at step (\d+); the same command goes on from there", stderr)[1])
    assert read_metrics(tmp_path / "run")[-1]["step"] == saved

    process = subprocess.Popen(command(*args), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert any(f"resuming at step {saved}" in line for line in process.stderr)
    process.kill()
    process.communicate()


def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path):
    done = run("--config.model.hidden_size=0", f"--workdir={tmp_path / 'run'}", code=2)
    message = "error: model.hidden_size lies between 1 and 65536; not 0"
    assert done.stderr.startswith(message) and done.stderr.count("\n") == 1
    assert done.stdout == "" and list(tmp_path.iterdir()) == []


def test_a_reader_that_has_seen_enough_is_no_error(workdir):
    writer = subprocess.Popen(
        command("--mode=sample", f"--workdir={workdir}", "--length=200000"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    writer.stdout.read(10)
    writer.stdout.close()
    assert writer.wait(timeout=60) == 141
    assert writer.stderr.read() == b""
    writer.stderr.close()


@pytest.mark.long
def test_verify_gradients_runs_on_a_config_of_ones_own(tmp_path):
    """Compiled as users have it, unlike what else is tested."""
    done = run(
        *("--experiment=verify_gradients", "--config.model.hidden_size=3"),
        f"--workdir={tmp_path}",
        env={**os.environ, "XLA_FLAGS": ""},
    )
    assert "of 2 cases: " in done.stdout and "none failed" in done.stdout
    assert f"written to {tmp_path}: verification.json, figures/verify_" in done.stderr
    rows = json.loads((tmp_path / "verification.json").read_text())
    assert all(row["passed"] for row in rows) and len({row["leaf"] for row in rows}) == 8
    assert (tmp_path / "figures" / "verify_gradients.png").exists()


def test_verify_gradients_fails_where_a_comparison_fails(tmp_path, monkeypatch, capsys):
    rows = [Row("a ~ b", "float64", "readout.W", 1.0, error, 0.5, 1) for error in (1e-13, 1e-11)]
    rows[1] = rows[1]._replace(leaf="readout.b")
    monkeypatch.setattr(verify_gradients, "verify", lambda cases, report: rows)
    assert verify_gradients.main(verify_gradients.get_config(), tmp_path) == 1
    assert re.search(r"readout.b.* FAILED", capsys.readouterr().out)
    monkeypatch.setattr(verify_gradients, "verify", lambda cases, report: rows[:1])
    assert verify_gradients.main(verify_gradients.get_config(), tmp_path) == 0


def test_verify_gradients_takes_a_config_that_is_given(tmp_path, monkeypatch, capsys):
    """Also one whose every value is the default."""
    row = Row("a ~ b", "float64", "readout.W", 1.0, 1e-13, 0.5, 1)
    lengths = []
    monkeypatch.setattr(
        verify_gradients, "verify", lambda cases, report: lengths.append(len(cases)) or [row]
    )
    for flags in ((), ("--config.model.hidden_size=6",)):
        with process_in(tmp_path):
            assert call("--experiment=verify_gradients", *flags).code == 0
    assert lengths == [len(verify_gradients.all_cases()), 2]


@pytest.mark.long
def test_the_audit_writes_its_table_and_its_picture(tmp_path, tiny_shakespeare):
    done = run("--experiment=notebook_audit", f"--workdir={tmp_path}")
    assert re.search(r"as printed +104.508 at first", done.stdout)
    losses = json.loads((tmp_path / "audit.json").read_text())["losses"]
    assert losses["as printed"][-1] > 110 and losses["all mended"][-1] < 60
    assert (tmp_path / "figures" / "notebook_audit.png").exists()


def test_help_names_every_experiment_and_every_config_value():
    done = run("--help", env={**os.environ, "COLUMNS": "100"})
    config = [f"--config.{name}" for name in Config().flatten()]
    unwrapped = "".join(line.strip() for line in done.stdout.splitlines())
    for name in [*EXPERIMENTS, "--compile_cache", *config]:
        assert name in unwrapped


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_a_valid_config(name):
    assert isinstance(EXPERIMENTS[name].get_config(), Config)


def test_the_notebooks_setting_learns_its_25_characters(tmp_path, tiny_shakespeare):
    run("--experiment=notebook", f"--workdir={tmp_path}")
    sums = [25 * line["train_loss"] for line in read_metrics(tmp_path)]
    assert abs(sums[0] - 104.4) < 2 and sums[-1] < 1
