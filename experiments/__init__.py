"""Experiments: each a small file that returns a frozen config as a commented diff from the base.

The map. `support/` knows nothing of the others, and no flag is known outside `run` and `command/`.

    run         the entry: what a command line asks for is carried out, what fails is one line
    command/    that command line: its flags, what is refused, the modes
    recipes/    what is trained
    studies/    what is measured
    support/    what these share
"""

import os
import sys

# Where one of several processes ends, JAX has a page of C++ for each of the others, which say it in
# a line (`lstm_jax.run.peers`). It reads this when it is imported; 1 is what it sets itself.
SEVERAL, LEVEL = ("distributed", "coordinator"), "TF_CPP_MIN_LOG_LEVEL"
asked = any(flag.lstrip("-").startswith(SEVERAL) for flag in sys.argv[1:])
if asked and os.environ.get(LEVEL, "1") == "1":
    os.environ[LEVEL] = "4"
