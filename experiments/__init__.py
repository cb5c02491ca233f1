"""Experiments: each a small file that returns a frozen config as a commented diff from the base."""

import os
import sys

# Where one of several processes ends, JAX has a page of C++ for each of the others, which say it in
# a line (`lstm_jax.run.processes`). JAX reads this when it is imported.
if any(
    argument.lstrip("-").startswith(("distributed", "coordinator")) for argument in sys.argv[1:]
):
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "4")
