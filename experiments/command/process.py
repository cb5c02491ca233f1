"""What flags say of the process itself: where it keeps programs, and with whom it trains."""

import jax

from experiments.command.catalogue import ignored_by
from experiments.command.flags import (
    COMPILE_CACHE,
    COORDINATOR,
    DISTRIBUTED,
    EXPERIMENT,
    MODE,
    NUM_PROCESSES,
    PROCESS_ID,
)
from experiments.support.programs import keep_no_programs, keep_programs, keep_programs_unasked
from lstm_jax.data.fetch import cache_folder
from lstm_jax.files import named
from lstm_jax.run import peers


def join_others() -> None:
    """Joins the processes that train together, where the flags ask for several."""
    if DISTRIBUTED.value is not None or COORDINATOR.value is not None:
        peers.join(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)


def set_compile_cache() -> None:
    """Compiled programs are kept, unless the user, or a cache set up for JAX, says otherwise."""
    chosen = COMPILE_CACHE.value
    if MODE.value == "train" and "compile_cache" in ignored_by(EXPERIMENT.value):
        chosen = "off"
    if chosen == "off":
        keep_no_programs()
    elif chosen:
        keep_programs(named(chosen))
    # JAX's types say nothing of the values in its config.
    elif (set_up := jax.config.jax_compilation_cache_dir) is None:  # type: ignore[attr-defined]
        keep_programs_unasked(cache_folder())
    elif set_up.startswith("~"):  # which JAX would take for a name
        jax.config.update("jax_compilation_cache_dir", str(named(set_up)))
