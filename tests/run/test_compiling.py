"""What is compiled before the first step, and that its time is in no speed."""

import itertools
from types import SimpleNamespace

import jax
import pytest

from lstm_jax.config import TrainConfig
from lstm_jax.run import loop
from lstm_jax.run.compiling import dispatch_sizes
from lstm_jax.run.metrics import read_metrics
from tests.small import run_in

pytestmark = pytest.mark.usefixtures("standard_promotion")


def test_the_sizes_are_those_that_the_loop_comes_to():
    """By going there, a step at a time."""
    for steps, every, most in itertools.product((1, 5, 20), (1, 6, 8, 30), (1, 3, 8)):
        config = TrainConfig(steps=steps, validate_every=every, steps_per_dispatch=most)
        for first in range(steps):
            seen, K = set(), 0
            for step in range(first + 1, steps + 1):
                K += 1
                if most == K or step % every == 0 or step == steps:
                    seen, K = seen | {K}, 0
            assert dispatch_sizes(first, config) == sorted(seen, reverse=True), (config, first)
        assert dispatch_sizes(steps, config) == []


def test_a_dispatch_compiles_nothing_more(tmp_path):
    compiled = []

    def listen(event, *_, **__):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        with run_in(tmp_path) as run:
            dispatch = run._compile()
            before = len(compiled)
            for first, last in ((0, 3), (3, 6), (18, 20)):
                run.state, _ = dispatch(run.hyper, run.state, run.batches(first, last))
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert len(compiled) == before > 2


def test_compiling_is_in_a_figure_of_its_own(tmp_path, monkeypatch, capfd):
    """Of a run that fails, and goes on, on a clock that goes on by a second at every look."""
    now = itertools.count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: float(next(now))))

    def compile_for_long(*_):
        for _ in range(1000):
            next(now)
        return 1000.0

    def fail(line):
        assert line["step"] < 9

    monkeypatch.setattr(loop, "compile_dispatches", compile_for_long)
    with pytest.raises(AssertionError), run_in(tmp_path, on_metrics=fail) as run:
        run.train()
    with run_in(tmp_path) as run:
        run.train()
        summary = run.summary()
    lines = read_metrics(tmp_path)
    assert [line["compile_seconds"] for line in lines] == [1000.0] * 2 + [2000.0] * 5
    assert summary["compile_seconds"] == 2000.0
    assert summary["seconds"] == lines[-1]["seconds"] < 100
    assert capfd.readouterr().err.count("compiled in 1000.0 s\n") == 2
