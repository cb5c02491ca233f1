"""Trains, scores and samples sequence models.

    python -m experiments.run --experiment=shakespeare
    python -m experiments.run --config.model.hidden_size=64 --workdir=runs/small
    python -m experiments.run --sweep.optimizer.learning_rate=1e-3,3e-3 --sweep.train.seed=0,1,2
    python -m experiments.run --mode=evaluate --workdir=runs/shakespeare
    python -m experiments.run --mode=sample --workdir=runs/shakespeare --prompt=ROMEO:
    python -m experiments.run --mode=compare --workdirs=runs/shakespeare,runs/small
    python -m experiments.run --mode=inspect --workdir=runs/shakespeare
    python -m experiments.run --mode=export --workdir=runs/small --format=torch --to=a.safetensors
    python -m experiments.run --mode=import --from=a.safetensors --workdir=runs/imported

The same command run again in its folder resumes there. Results go to stdout, the rest to stderr.
Every --config.SECTION.KEY has a --sweep.SECTION.KEY: values with commas between them, a run each.
"""

from collections.abc import Sequence

import jax
from absl import app

from experiments.command.checks import check_flags, check_grid
from experiments.command.flags import CPU_DEVICES, ENSEMBLE, FIGURES, INIT_FROM, MODE
from experiments.command.modes import MODES
from experiments.command.parsing import HELP, parse_flags, show_help
from experiments.command.process import join_others, set_compile_cache
from experiments.command.request import given, grid, workdir
from experiments.support.config_file import Changes
from experiments.support.folders import check_no_other, check_usable
from experiments.support.machine import keep_memory, use_devices
from experiments.support.output import READER_LEFT, flush_streams, open_streams, use_hooks
from lstm_jax.errors import UserError
from lstm_jax.files import named
from lstm_jax.run import peers
from lstm_jax.run.signals import Interrupted
from lstm_jax.run.style import drawn_as
from lstm_jax.terminal import say


def main(argv: Sequence[str]) -> int:
    open_streams()
    return peers.end(flush_streams(carry_out(argv)))


def carry_out(argv: Sequence[str]) -> int:
    """What the command line asks for; returns the exit code, and what failed is one line."""
    if argv[1:] and not HELP.issuperset(argv[1:]):
        say(f"error: unexpected argument {argv[1]!r}: flags begin with --")
        return 2
    use_hooks()
    try:
        return show_help() if argv[1:] else carry_out_flags()
    except UserError as error:
        say(f"error: {error}")
        return 2
    except Interrupted as stop:
        say(f"saved at step {stop.step}; the same command goes on from there")
        return 128 + stop.signal_number
    except BrokenPipeError:  # the reader, `head` say, has seen enough
        return READER_LEFT
    except OSError as error:
        say(f"error: {error}")
        return 2
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        say(
            f"error: there is not enough memory ({error}): take a smaller model, or less at once "
            "(train.batch_size, train.sequence_length, evaluate.lanes, --num_samples)"
        )
        return 2
    except KeyboardInterrupt:
        return 130


def carry_out_flags() -> int:
    """What the flags ask for, once they are checked; returns the exit code."""
    changes = given()
    check_flags(MODE.value, changes)
    check_grid(changes)
    keep_memory()
    join_others()
    with peers.told():
        return carry_out_mode(changes)


def carry_out_mode(changes: Changes) -> int:
    """What the mode is for; returns the exit code."""
    use_devices(CPU_DEVICES.value)
    if INIT_FROM.value is not None:
        check_usable(named(INIT_FROM.value), "init_from")
    folder = workdir(changes)
    check_usable(folder, "workdir")
    if MODE.value != "compare":
        check_no_other(folder, sweep=bool(grid()))
    for other in ENSEMBLE.value:
        check_usable(named(other), "ensemble")
    set_compile_cache()
    with drawn_as(*FIGURES.value):
        return MODES[MODE.value](changes, folder)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
