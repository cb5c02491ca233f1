"""Strict numerics in every test: no silent dtype promotion (and warnings are errors)."""

import gc
import os

import jax
import numpy as np
import pytest

from lstm_jax.data.corpora import DATA_DIR_VARIABLE, load_text
from lstm_jax.data.vocabulary import Text
from lstm_jax.errors import UserError
from lstm_jax.verification.compare import UNOPTIMIZED
from tests.small import run_in

jax.config.update("jax_numpy_dtype_promotion", "strict")
# Compiling is what the tests take their time for, and this halves it. Inherited by the processes
# that they start.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        *(f"--{name}={str(value).lower()}" for name, value in UNOPTIMIZED.items()),
    ]
)
# On a machine with a GPU, too: its products have fewer bits, and each worker would take most of it.
if "JAX_PLATFORMS" not in os.environ:
    os.environ["JAX_PLATFORMS"] = "cpu"
    jax.config.update("jax_platforms", "cpu")


@pytest.fixture(scope="session", autouse=True)
def programs(tmp_path_factory):
    """What tests, and the processes that they start, compile is kept here for one another.

    Not in the user's cache; and many tests train the same small model.
    """
    folder = str(tmp_path_factory.mktemp("programs"))
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", folder)
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        yield


@pytest.fixture(scope="module", autouse=True)
def programs_of_a_module():
    """Lets go of what a file's tests compiled: each program takes memory maps, and a process that
    has 65,530 of them crashes in the next compilation."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def x64():
    """Double precision, for comparisons to the last digits."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def standard_promotion():
    """For what goes through optax's optimizers, which promote dtypes inside."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="session")
def tiny_shakespeare() -> Text:
    """The benchmark text. A machine that cannot fetch it leaves these tests out; CI may not, nor
    one that names a folder for it."""
    try:
        return load_text("tiny_shakespeare")
    except UserError as error:
        if os.environ.get("CI") or DATA_DIR_VARIABLE in os.environ:
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The folder of the small run, finished; not to be written in but by a run that resumes."""
    workdir = tmp_path_factory.mktemp("finished")
    with (
        jax.numpy_dtype_promotion("standard"),
        run_in(workdir) as run,
    ):
        run.train()
        run.summary()
        run.draw_figures()
    return workdir
