"""Handwritten digits, one pixel at a step, in an order that was drawn once."""

from experiments.recipes import digits
from lstm_jax.config import Config


def get_config() -> Config:
    return digits.get_config().replace({"data.pixels": "permuted"})
