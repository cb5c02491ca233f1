"""Handwritten digits, one pixel at a step, in an order that was drawn once.

89.5, 89.8 and 86.7 % of the test set are right (seeds 0, 1 and 2).
"""

from experiments.recipes import digits
from lstm_jax.config import Config


def get_config() -> Config:
    return digits.get_config().replace({"data.pixels": "permuted"})
