"""The study of long sequences: what it runs, leaves out and writes. No test looks at a time."""

import json

import pytest

from experiments.studies import long_sequences
from lstm_jax.config import Config

TINY = {"model.hidden_size": 4, "train.batch_size": 2, "train.sequence_length": 120}


def test_the_lengths_and_their_blocks():
    train = [config.train for config in long_sequences.configs_of(long_sequences.get_config())]
    assert [(t.sequence_length, t.remat_every) for t in train] == [
        (100, 0),
        (100, 10),
        (1000, 0),
        (1000, 32),
        (10_000, 0),
        (10_000, 100),
        (100_000, 0),
        (100_000, 316),
    ]
    own = Config().replace({"train.sequence_length": 7, "train.remat_every": 2})
    assert [c.train.remat_every for c in long_sequences.configs_of(own)] == [0, 2]


@pytest.mark.long
def test_it_prints_writes_and_draws(tmp_path, capsys):
    assert long_sequences.main(long_sequences.get_config().replace(TINY), tmp_path) == 0
    assert capsys.readouterr().out.count("\n") == 5
    found = json.loads((tmp_path / "long_sequences.json").read_text())
    entries = found["entries"]
    assert [(e["T"], e["remat_every"]) for e in entries] == [
        (100, 0),
        (100, 10),
        (120, 0),
        (120, 11),
    ]
    assert all(e["added_bytes"] >= 0 and e["step_s"] > 0 and e["steps"] >= 1 for e in entries)
    assert found["config"]["model.hidden_size"] == 4 and found["machine"]["cpus"] >= 1
    assert (tmp_path / "figures" / "long_sequences.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("fits", [False, True])
def test_what_would_not_fit_is_left_out_and_says_so(fits, monkeypatch, tmp_path, capsys):
    """Nothing fits; or, without blocks, everything but the longest sequence."""

    def here(config):
        train = config.train
        too_long = train.sequence_length == 120 and not train.remat_every
        free = 10**12 if fits and not too_long else 1000
        monkeypatch.setattr(long_sequences, "free_bytes", lambda: free)
        entry = {"T": train.sequence_length, "remat_every": train.remat_every}
        return {**entry, **long_sequences.measure(config)}

    monkeypatch.setattr(long_sequences, "in_fresh_process", here)
    assert long_sequences.main(long_sequences.get_config().replace(TINY), tmp_path) == 0
    left_out = capsys.readouterr().out.count("left out: needs 0.0 GB, of 0.0 GB free")
    assert left_out == (1 if fits else 4)
    assert (tmp_path / "figures" / "long_sequences.png").exists() == fits


def test_the_peak_is_of_what_was_held_since():
    long_sequences.forget_peak()
    before = long_sequences.peak_bytes()
    block = bytearray(b"x") * 300_000_000
    del block
    assert long_sequences.peak_bytes() - before > 250_000_000 or before > 300_000_000
