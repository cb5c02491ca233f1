"""Tensors by the names of other libraries: values, final states and gradients are theirs.

The libraries need not be there: of one small case their numbers are written down. Where they are,
they are asked themselves, in sizes by chance. `python -m tests.interchange.test_libraries` writes
the table again.
"""

import itertools

import jax
import numpy as np
import pytest

from lstm_jax.interchange.formats import NAMES
from lstm_jax.interchange.names import read, write
from lstm_jax.interchange.net import Net
from tests.interchange.libraries import LIBRARIES
from tests.interchange.nets import (
    Found,
    Sizes,
    drawn,
    largest_error,
    make_problem,
    ours,
    params_of,
    summary,
    unrolled,
)

ALL = pytest.mark.parametrize("name", LIBRARIES)
SMALL = Sizes(T=4, B=3, D=2, H=3, L=2)
# The products of outputs and of final states with numbers of `summary`.
TABLE = {
    "torch lstm": [3.5315812355154796, -1.203296189903099],
    "torch gru": [6.720104289930189, -2.516076524554989],
    "flax OptimizedLSTMCell": [0.5592441715700593, 1.8433378903588082],
    "flax LSTMCell": [1.9106759740367592, -1.3565981237838445],
    "flax GRUCell": [-4.722252964464838, 3.5487333403581554],
    "haiku LSTM": [-1.0731637959654712, 1.463869175306304],
    "equinox LSTMCell": [-1.0438489965512587, -0.745507291935097],
    "equinox GRUCell": [5.299334336606861, 0.8181046529163141],
    "keras LSTM": [0.5592441715700591, 1.843337890358808],
    "keras GRU": [-0.9788026776732104, 1.4380797418920914],
}


def problem_of(name, sizes):
    library = LIBRARIES[name]
    sizes = sizes._replace(L=min(sizes.L, library.most_layers))
    return make_problem(library.cell, sizes, library.shapes(*sizes[2:]))


def read_by(name, problem, tensors):
    library = LIBRARIES[name]
    return read(NAMES[library.names], tensors, library.said(*problem.sizes[2:]))


@ALL
def test_what_is_read_is_what_the_library_once_made_of_it(name, x64):
    problem = problem_of(name, SMALL)
    layers = read_by(name, problem, problem.tensors).layers
    found = Found(*jax.jit(unrolled)(layers, problem.states, problem.x))
    np.testing.assert_allclose(summary(found), TABLE[name], rtol=1e-12)


@ALL
def test_the_table_notices_two_gates_exchanged(name, x64):
    problem = problem_of(name, SMALL)
    layers = read_by(name, problem, problem.tensors).layers
    wrong = [layer._replace(b=np.roll(layer.b, layer.U.shape[0])) for layer in layers]
    found = Found(*jax.jit(unrolled)(wrong, problem.states, problem.x))
    assert np.abs(np.subtract(summary(found), TABLE[name])).min() > 1e-3


@ALL
@pytest.mark.parametrize("seed", [0, 1])
def test_the_library_itself(name, seed, x64):
    library = LIBRARIES[name]
    pytest.importorskip(library.module)
    problem = problem_of(name, drawn(seed))
    theirs = library.run(problem)
    found = ours(read_by(name, problem, problem.tensors), problem)
    errors = {"outputs": largest_error(found.outputs, theirs.outputs)}
    errors["states"] = largest_error(found.finals, theirs.finals)
    if theirs.dlayers is not None:
        grads = read_by(name, problem, library.as_tensors(theirs.dlayers)).layers
        dlayers = found.dlayers
        if name == "flax GRUCell":  # which has no b_n
            dlayers = [layer._replace(b_n=0 * layer.b_n) for layer in dlayers]
        errors["gradients"] = largest_error([dlayers, found.dx], [grads, theirs.dx])
    print(name, problem.sizes, errors)
    assert max(errors.values()) < library.tolerance


def net_of_chance(cell, rng, L, V=5):
    """Layers of sizes by chance, an embedding and a readout; the first bias of each is -0."""
    sizes = [4, *rng.integers(1, 6, L).tolist()]
    layers = [params_of(cell, rng, *pair) for pair in itertools.pairwise(sizes)]
    for layer in layers:
        layer.b[:1] = -0.0
    shapes = ((V, sizes[0]), (sizes[-1], V), (V,))
    return Net(tuple(layers), *(rng.standard_normal(shape).astype(np.float32) for shape in shapes))


@ALL
def test_there_and_back_every_bit_is_kept(name):
    library, rng = LIBRARIES[name], np.random.default_rng(0)
    net = net_of_chance(library.cell, rng, min(3, library.most_layers))
    for layer in net.layers:
        H = layer.U.shape[0]
        if library.names == "haiku":  # of other biases not every bit comes back
            layer.b[H : 2 * H] = rng.uniform(0.5, 2, H)
        if name == "flax GRUCell":
            layer.b_n[:] = 0
    names = NAMES[library.names]
    back = read(names, write(names, net), names.metadata(net))
    assert bits(net) == bits(back)


def bits(net):
    return [(a.dtype, a.shape, np.ascontiguousarray(a).tobytes()) for a in jax.tree.leaves(net)]


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    for each, library in LIBRARIES.items():
        print(f'    "{each}": {summary(library.run(problem_of(each, SMALL)))},')
