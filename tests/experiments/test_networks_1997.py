"""The networks of 1997 against the counts and the initial values that the paper gives."""

import jax
import numpy as np
import pytest

from experiments.support.networks_1997 import NETWORKS, init_network, learns_of
from lstm_jax.cells import cell_of

# Table 10's column of weights.
WEIGHTS = {
    "1, 4 blocks of 1": 264,
    "1, 3 blocks of 2": 276,
    "1, Elman": 435,
    "2a": 10504,
    "2b": 10504,
    "2c": 364,
    "3a": 102,
    "3b": 102,
    "3c": 102,
    "4": 93,
    "5": 93,
    "6a": 156,
    "6b": 308,
}


init = jax.jit(init_network, static_argnums=1)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def count(network):
    return sum(leaf.sum() for leaf in leaves(learns_of(network)))


def test_as_many_weights_learn_as_the_paper_counts():
    assert {name: count(network) for name, network in NETWORKS.items()} == WEIGHTS
    with_inputs = [count(NETWORKS["2c"]._replace(inputs=p + 4)) for p in (100, 200, 500, 1000)]
    assert with_inputs == [664, 1264, 3064, 6064]


@pytest.mark.parametrize(
    "name, given",
    [
        ("1, 3 blocks of 2", {3: -1, 4: -2, 5: -3}),
        ("3a", {0: -1, 1: -3, 2: -5, 3: -2, 4: -4, 5: -6}),
        ("5", {}),
        ("6b", {0: -2, 1: -4, 2: -6}),
    ],
)
def test_biases_of_gates_are_those_given_and_the_rest_is_drawn(name, given):
    """Input gates come first, then output gates; what does not learn is 0."""
    params, learns = init(jax.random.key(0), NETWORKS[name])
    b = np.array(params.layers[0].b)
    assert {place: b[place] for place in given} == given
    b[list(given)] = 0
    layer = params.layers[0]._replace(b=b)
    largest = max(np.abs(leaf).max() for leaf in leaves(params._replace(layers=(layer,))))
    assert 0.9 * NETWORKS[name].bound < largest <= NETWORKS[name].bound
    jax.tree.map(np.testing.assert_array_equal, learns, learns_of(NETWORKS[name]))
    for leaf, learned in zip(leaves(params), leaves(learns), strict=True):
        np.testing.assert_array_equal(leaf != 0, learned == 1)
    other, _ = init(jax.random.key(1), NETWORKS[name])
    assert (other.layers[0].W != params.layers[0].W).all()


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_the_sizes_are_the_cells_own(network):
    params, _ = jax.eval_shape(lambda key: init_network(key, network), jax.random.key(0))
    D, H = cell_of(params.layers[0]).widths(params.layers[0])
    cells = network.blocks * network.block_size
    assert network.inputs == D and cells + D * (network.cell == "carousel") == H
    assert params.readout.W.shape == (H, network.outputs)
