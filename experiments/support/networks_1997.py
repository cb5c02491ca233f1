"""The networks of Hochreiter and Schmidhuber 1997, by the names of their experiments.

From the paper's Table 10 and section 5 ("Long Short-Term Memory", Neural Computation 9). Hidden
units, which are cells and gates, read the input and all hidden units; outputs read cells alone, but
for the direct links of 2a and 2b. So Table 10's counts of weights come out exactly.

Biases are drawn as weights are, but for those of gates that the paper gives. On one of them it
disagrees with itself: experiment 1's input gates start in ±0.2 by its text, which is taken here,
and in ±0.1 by the caption of Table 10.

Beside experiment 1's LSTM stands the paper's Elman network, of 15 units and 435 weights. The paper
gives no rate for it.

One thing differs: in 2a, 2b, 4 and 5 the outputs learn from the cross-entropy, that is, without the
derivative of their sigmoid, which the paper's appendix A.1 has. So 2a, 2b and 4 come close to the
paper's counts; with that derivative they were not solved at all (BUILD_NOTES.md).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lstm_jax.cells.carousel import CarouselParams
from lstm_jax.cells.elman import ElmanParams
from lstm_jax.cells.memory_blocks import MemoryBlockParams
from lstm_jax.model import ModelParams, Readout


class Network(NamedTuple):
    """One network: its sizes, where it starts, and how fast it learned."""

    blocks: int  # N; of `elman`, units
    block_size: int  # S
    inputs: int
    outputs: int
    bound: float  # initial weights are uniform in ± this
    rates: tuple[float, ...]  # of the paper's rows, in their order
    biases: str = "none"  # what units have some: none, gates, hidden (cells too), all (outputs too)
    input_gates: tuple[float, ...] = ()  # their initial biases; empty: drawn
    output_gates: tuple[float, ...] = ()
    head: str = "sigmoid_squared"  # what its outputs learn from
    online: bool = False  # an update at every step, in place of one after each sequence
    cell: str = "memory_blocks"  # of `carousel`, inputs have direct links to the output


# Experiment 2c has p + 4 inputs, here for p = 50: others by `_replace(inputs=...)`.
NETWORKS: dict[str, Network] = {
    "1, 4 blocks of 1": Network(
        4, 1, 7, 7, 0.2, (0.1, 0.5), "gates", output_gates=(-1, -2, -3, -4)
    ),
    "1, 3 blocks of 2": Network(
        3, 2, 7, 7, 0.2, (0.1, 0.2, 0.5), "gates", output_gates=(-1, -2, -3)
    ),
    "1, Elman": Network(15, 1, 7, 7, 0.2, (0.1,), cell="elman"),
    "2a": Network(1, 1, 101, 101, 0.2, (1.0,), head="bernoulli", online=True, cell="carousel"),
    "2b": Network(1, 1, 101, 101, 0.2, (1.0,), head="bernoulli", cell="carousel"),
    "2c": Network(2, 1, 54, 2, 0.2, (0.01,)),
    "3a": Network(3, 1, 1, 1, 0.1, (1.0,), "hidden", (-1, -3, -5), (-2, -4, -6)),
    "3b": Network(3, 1, 1, 1, 0.1, (1.0,), "hidden", (-1, -3, -5), (-2, -4, -6)),
    "3c": Network(3, 1, 1, 1, 0.1, (0.1,), "hidden", (-1, -3, -5), (-2, -4, -6)),
    "4": Network(2, 2, 2, 1, 0.1, (0.5,), "all", (-3, -6), head="bernoulli"),
    "5": Network(2, 2, 2, 1, 0.1, (0.1,), "all", head="bernoulli"),
    "6a": Network(2, 2, 8, 4, 0.1, (0.5,), "all", (-2, -4)),
    "6b": Network(3, 2, 8, 8, 0.1, (0.1,), "all", (-2, -4, -6)),
}


def ones(*shape: int) -> Any:
    return np.ones(shape)


def learns_of(network: Network) -> ModelParams:
    """1 for each weight that there is, and 0 for the biases that there are not, in NumPy."""
    N, D, K = network.blocks, network.inputs, network.outputs
    C = N * network.block_size
    if network.cell == "elman":
        return ModelParams(
            None,
            (ElmanParams(ones(D, C), ones(C, C), 0 * ones(C)),),
            Readout(ones(C, K), 0 * ones(K)),
        )
    if network.cell == "carousel":
        return ModelParams(
            None,
            (CarouselParams(ones(D, 2 * C), 0 * ones(2 * C)),),
            Readout(ones(C + D, K), 0 * ones(K)),
        )
    G = 2 * N + C
    layer = MemoryBlockParams(ones(D, G), ones(C, G), ones(2 * N, G), ones(G))
    readout = Readout(ones(C, K), ones(K))
    biased = {"none": 0, "gates": 2 * N}.get(network.biases, G)  # units, of which gates come first
    layer.b[biased:] = 0
    readout.b[:] = network.biases == "all"
    return ModelParams(None, (layer,), readout)


def init_network(key: Array, network: Network) -> tuple[ModelParams, ModelParams]:
    """The initial parameters, and which of them learn: 1, or 0 where there is none, which is 0."""
    learns = jax.tree.map(jnp.asarray, learns_of(network))
    leaves, structure = jax.tree.flatten(learns)
    drawn = [
        learned
        * jax.random.uniform(key, learned.shape, minval=-network.bound, maxval=network.bound)
        for key, learned in zip(jax.random.split(key, len(leaves)), leaves, strict=True)
    ]
    params = jax.tree.unflatten(structure, drawn)
    b = params.layers[0].b
    for start, given in ((0, network.input_gates), (network.blocks, network.output_gates)):
        b = b.at[start : start + len(given)].set(jnp.asarray(given, b.dtype))
    return params._replace(layers=(params.layers[0]._replace(b=b),)), learns
