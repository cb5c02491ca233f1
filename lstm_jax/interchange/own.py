"""This package's own names, such as `layers[0].U`: every cell and every option, bit for bit."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from lstm_jax.errors import UserError
from lstm_jax.interchange.tensors import Tensors
from lstm_jax.model import Interface, ModelParams, init_model, named_leaves
from lstm_jax.model_config import ModelConfig

MARKER = r"layers\[0\]\.\w+"


def write_own(params: ModelParams) -> dict[str, np.ndarray]:
    """A model's tensors."""
    return {name: np.asarray(leaf) for name, leaf in named_leaves(params).items()}


def read_own(
    values: Mapping[str, Any], config: ModelConfig | None, interface: Interface | None
) -> ModelParams:
    """The model of some tensors, of a config; UserError where they are not of it."""
    if config is None or interface is None:
        raise UserError(
            "its tensors have this package's own names and its metadata no config, without which "
            "they mean nothing: export it again"
        )
    tensors = Tensors(values)
    like = jax.eval_shape(lambda: init_model(jax.random.key(0), config, interface))
    leaves = [tensors.take(name, *leaf.shape) for name, leaf in named_leaves(like).items()]
    tensors.refuse_rest()
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
