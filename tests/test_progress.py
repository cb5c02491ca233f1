"""What progress shows of lines of metrics, where there is no terminal."""

from lstm_jax.progress import Progress


def line_at(step, seconds, chars_per_second, **more):
    counted = {"step": step, "characters": 100 * step, "seconds": seconds}
    return {**counted, "train_loss": 2.0, "chars_per_second": chars_per_second, **more}


def test_the_speed_is_counted_from_the_last_validation(capsys):
    """Not from the line's own, of one dispatch, except where there is no other yet."""
    losses = {"val_loss_stream": 1.5, "val_loss_windows": 1.6}
    progress = Progress(60, 0)
    progress.update(line_at(10, 2.0, 500))
    progress.update(line_at(20, 2.5, 2000, **losses))  # 10 steps in half a second
    progress.update(line_at(30, 4.0, 666))
    progress.update(line_at(40, 4.5, 9000, **losses))  # 20 steps in two
    shown = [line.split()[-5] for line in capsys.readouterr().err.splitlines()]
    assert shown == ["0.5k", "2.0k", "1.0k"]
