"""What a library calls the tensors of a model, and in which shapes it has them: the contract.

A new library is one file with a `Names`, and one line in `formats.NAMES`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.errors import UserError
from lstm_jax.interchange.net import Net, name_of
from lstm_jax.interchange.tensors import Tensors

Arrays = dict[str, np.ndarray]
Metadata = Mapping[str, str]


class Readout(NamedTuple):
    """What the matrix and the bias of a readout are called, and how they lie."""

    W: str
    b: str
    transposed: bool = False  # VxH
    column: bool = False  # the bias is Vx1


class Names(NamedTuple):
    """The tensors of a library.

    write: (layer, n, how many layers there are) -> the tensors of layer n.
    has: (tensors, n) -> whether there is a layer n.
    read: (tensors, n, D) -> layer n, which reads D numbers; None: any.
    embedding: what the embedding VxE is called; None: it has none.
    marker: a pattern of names that no other library has.
    called: (tensors, metadata) -> what they are called in this file, by the names above; raises
      UserError for what cannot be read.
    metadata: (net) -> what a file says besides.
    """

    write: Callable[[Any, int, int], Arrays]
    has: Callable[[Tensors, int], bool]
    read: Callable[[Tensors, int, int | None], Any]
    embedding: str | None
    readout: Readout
    marker: str
    called: Callable[[Mapping[str, Any], Metadata], Mapping[str, str]] = lambda tensors, said: {}
    metadata: Callable[[Net], dict[str, str]] = lambda net: {}


def write(names: Names, net: Net) -> Arrays:
    """A model's tensors, by a library's names."""
    tensors: Arrays = {}
    for n, layer in enumerate(net.layers):
        name_of(layer)
        tensors |= names.write(layer, n, len(net.layers))
    if net.embedding is not None:
        if names.embedding is None:
            raise UserError("this format has no embedding: choose another --format")
        tensors[names.embedding] = net.embedding
    if net.W is not None and net.b is not None:
        W, b, transposed, column = names.readout
        tensors[W] = net.W.T if transposed else net.W
        tensors[b] = net.b[:, None] if column else net.b
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def read(names: Names, values: Mapping[str, Any], said: Metadata | None = None) -> Net:
    """The model of some tensors; UserError, in a line with the name, where they are none."""
    tensors = Tensors(values, names.called(values, said or {}))
    embedding, D = None, None
    if names.embedding is not None and names.embedding in tensors:
        embedding = tensors.take(names.embedding, None, None)
        D = embedding.shape[1]
    layers: list[Any] = []
    while not layers or names.has(tensors, len(layers)):
        layers.append(names.read(tensors, len(layers), D))
        D = layers[-1].U.shape[0]
    W, b = read_readout(names.readout, tensors, D)
    tensors.refuse_rest()
    return Net(tuple(layers), embedding, W, b)


def read_readout(
    names: Readout, tensors: Tensors, H: int | None
) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
    """The readout; None twice where there is neither of its tensors."""
    if names.W not in tensors and names.b not in tensors:
        return None, None
    W = tensors.take(names.W, *((None, H) if names.transposed else (H, None)))
    W = W.T if names.transposed else W
    V = W.shape[1]
    return W, tensors.take(names.b, *((V, 1) if names.column else (V,))).reshape(V)
