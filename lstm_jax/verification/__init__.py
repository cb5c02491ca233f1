"""Every gradient from every source, compared; and `check_layer`, for a layer of your own."""

from lstm_jax.verification.own_layer import check_layer

__all__ = ["check_layer"]
