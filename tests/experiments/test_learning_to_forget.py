"""The study of learning to forget: trained once, printed and drawn; and how trials are counted."""

import json

import pytest

from experiments.studies import learning_to_forget
from experiments.studies.learning_to_forget import ROWS, Share, in_table, shares_of
from experiments.support import streams
from lstm_jax.config import Config, TrainConfig

NAME = "forget gates, rate decay"


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(learning_to_forget, "ROWS", {NAME: ROWS[NAME]})
    monkeypatch.setattr(learning_to_forget, "TRIALS", 2)
    monkeypatch.setattr(streams, "AT_ONCE", 90)


def test_it_is_trained_once_printed_and_drawn(small, tmp_path, monkeypatch, capsys):
    config = Config(train=TrainConfig(steps=5))
    assert learning_to_forget.main(config, tmp_path) == 0
    printed = capsys.readouterr()
    assert "0 of 2 perfect, 0 still learning after 5 streams" in printed.err
    paper, here = printed.out.splitlines()[1:3]
    assert " ".join(paper.split("paper")[1].split()) == "62 % (14,087) 6 % (68,464) 32 % (30)"
    assert here.split()[:6] == ["here", "0", "%", "0", "%", "100"] and here.split()[-1] == "0"
    known = json.loads((tmp_path / "learning_to_forget.json").read_text())
    assert known["rows"][NAME]["streams"] == [5, 5] and known["most"] == 5
    assert (tmp_path / "figures" / "learning_to_forget.png").stat().st_size > 10_000
    monkeypatch.setattr(streams, "dispatch_steps", lambda *_: pytest.fail("it trains"))
    learning_to_forget.main(config, tmp_path)
    assert capsys.readouterr().out == printed.out


def test_more_streams_are_trained_on_where_more_are_asked_for(small, tmp_path):
    for most in (3, 5):
        learning_to_forget.main(Config(train=TrainConfig(steps=most)), tmp_path)
        rows = learning_to_forget.begin(tmp_path, 0)
        assert rows[NAME].lanes.streams.tolist() == [most] * 2


def test_every_trial_is_perfect_or_good_or_the_rest():
    known = {
        "solved": [True, False, True, False, False],
        "streams": [100, 9, 301, 9, 9],
        "right": [1e5, 1000.0, 1e5, 1001.0, 2.0],
    }
    shares = shares_of(known)
    assert shares == (Share(40.0, 200.5), Share(20.0, 1001.0), Share(40.0, 501.0))
    assert [in_table(share) for share in shares] == ["40 % (200)", "20 % (1,001)", "40 % (501)"]
    assert in_table(shares_of(known | {"solved": [False] * 5}).perfect) == "0 %"


def test_the_papers_rows_are_whole():
    assert {sum(share.percent for share in row.paper) for row in ROWS.values()} == {100}
    assert len({row.algorithm for row in ROWS.values()}) == len(ROWS)
