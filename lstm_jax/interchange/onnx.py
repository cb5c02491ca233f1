"""ONNX, opset 22: a graph from ids TxB, or vectors TxBxD, and states to outputs and states.

    inputs    ids TxB (or x TxBxD), state_0_h BxH, state_0_c BxH, state_1_h …
    outputs   outputs TxBxV, final_0_h BxH, final_0_c BxH, …

    LSTM  W 1xGxD, R 1xGxH, B 1x2G = [Wb, Rb], gates i o f c
    GRU   the same, gates z r h, with linear_before_reset=1

What an LSTM or GRU node computes otherwise is refused by its name, and so is any other operator
that a graph has between what it reads and what it puts out.
"""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lstm_jax.errors import UserError, shorten
from lstm_jax.files import write_atomically
from lstm_jax.interchange.about import to_metadata
from lstm_jax.interchange.libraries import needing
from lstm_jax.interchange.net import Net, gru, lstm, model_of, name_of, net_of, reorder
from lstm_jax.interchange.tensors import Tensors
from lstm_jax.model import ModelParams
from lstm_jax.run.description import Description

OPSET, IR_VERSION = 22, 10  # the first with that opset
ORDERS = {"LSTM": ("iofg", "ifgo"), "GRU": ("zrn", "rzn")}
# What the attributes of a node are to be, where it has them.
ACTIVATIONS = {"LSTM": [b"Sigmoid", b"Tanh", b"Tanh"], "GRU": [b"Sigmoid", b"Tanh"]}
FREE = ("hidden_size", "layout", "direction", "linear_before_reset", "activations")
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
# Operators that move numbers and compute none: what they do shows in the shapes of the outputs.
MOVES: tuple[str, ...] = (
    *("Squeeze", "Unsqueeze", "Transpose", "Reshape", "Identity", "Cast", "Constant", "Shape"),
    *("OneHot", "Softmax", "LogSoftmax", "Slice", "Concat", "Expand", "ConstantOfShape"),
)


class Direction(NamedTuple):
    """A layer of a node, and whether it reads its sequence from the end."""

    params: Any
    reverse: bool


def node_tensors(layer: Any) -> dict[str, np.ndarray]:
    """W, R and B of the node that a layer is."""
    kind = name_of(layer).upper()
    theirs, own = ORDERS[kind]
    W, U, b = (reorder(np.asarray(leaf), own, theirs) for leaf in layer[:3])
    inside = -np.zeros_like(b)
    if kind == "GRU":
        inside[-U.shape[0] :] = layer.b_n
    return {"W": W.T[None], "R": U.T[None], "B": np.concatenate([b, inside])[None]}


def read_node(node: Any, values: Mapping[str, Any]) -> list[Direction]:
    """The layers of an LSTM or GRU node; two where it reads its sequence in both directions.

    `values`: its weights, by their names in the graph. UserError, with its name, for an attribute
    or an input that stands for something that no layer here does.
    """
    kind, named = node.op_type, dict(zip(INPUTS, node.input, strict=False))
    if kind == "GRU":
        named.pop("initial_c", None)
    direction = check_attributes(node)
    for name in ("sequence_lens", "P"):
        if named.get(name):
            raise UserError(f"its {kind} has {name}, which no layer here has")
    own = {named[name]: name for name in "WRB" if named.get(name)}
    missing = [name for name in own if name not in values]
    if missing:
        raise UserError(f"the weights {missing[0]} of its {kind} are computed, not stored")
    tensors = Tensors({own[name]: values[name] for name in own}, {v: k for k, v in own.items()})
    count = 2 if direction == b"bidirectional" else 1
    _, _, H = tensors.shape("R", 3)
    G = len(ORDERS[kind][0]) * H
    W, R = tensors.take("W", count, G, None), tensors.take("R", count, G, H)
    B = tensors.take("B", count, 2 * G) if "B" in tensors else np.zeros((count, 2 * G), W.dtype)
    return [
        Direction(layer_of(kind, W[n].T, R[n].T, B[n]), direction == b"reverse" or n == 1)
        for n in range(count)
    ]


def check_attributes(node: Any) -> bytes:
    """The node's direction; UserError for what no layer here computes."""
    from onnx.helper import get_attribute_value

    kind = node.op_type
    said = {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}
    direction = said.get("direction", b"forward")
    wanted = ACTIVATIONS[kind] * (2 if direction == b"bidirectional" else 1)
    activations = said.get("activations", wanted)
    if [name.lower() for name in activations] != [name.lower() for name in wanted]:
        raise UserError(f"its {kind} has activations={b', '.join(activations).decode()}")
    if kind == "GRU" and said.get("linear_before_reset", 0) != 1:
        raise UserError(
            "its GRU has linear_before_reset=0: it resets h before the product with R, and the one "
            "here after it"
        )
    for name, value in said.items():
        if name not in FREE and value:
            raise UserError(f"its {kind} has {name}={shorten(value)}, which no layer here has")
    return direction


def layer_of(kind: str, W: np.ndarray, U: np.ndarray, B: np.ndarray) -> Any:
    """A layer of a node's weights, DxG and HxG, and its two biases."""
    outside, inside = (reorder(b, *ORDERS[kind]) for b in np.split(B, 2))
    W, U = reorder(W, *ORDERS[kind]), reorder(U, *ORDERS[kind])
    if kind == "LSTM":
        return lstm(W, U, outside + inside)
    H = U.shape[0]
    b_n = inside[2 * H :]
    return gru(W, U, outside + np.concatenate([inside[: 2 * H], -np.zeros_like(b_n)]), b_n)


def to_onnx(net: Net, said: Mapping[str, str], *, reads_ids: bool) -> Any:
    """A model as an ONNX ModelProto, with words beside it."""
    with needing("onnx"):
        from onnx import TensorProto, helper, numpy_helper
    stored: dict[str, np.ndarray] = {"axis_0": np.array([0]), "axis_1": np.array([1])}
    dtype = helper.np_dtype_to_tensor_dtype(net.layers[0].W.dtype)
    D = net.layers[0].W.shape[0]
    read = ("ids", TensorProto.INT64, ["T", "B"])
    inputs, nodes, finals = [read if reads_ids else ("x", dtype, ["T", "B", D])], [], []

    def add(operator: str, given: list[str], *made: str, **attributes: Any) -> None:
        nodes.append(helper.make_node(operator, given, [*made], **attributes))

    below = inputs[0][0]
    if net.embedding is not None:
        stored["embedding"] = net.embedding
        add("Gather", ["embedding", below], "embedded")
        below = "embedded"
    elif reads_ids:
        stored |= {"V": np.array(D), "off_on": np.array([0, 1], net.layers[0].W.dtype)}
        add("OneHot", [below, "V", "off_on"], "one_hot", axis=-1)
        below = "one_hot"
    for n, layer in enumerate(net.layers):
        kind, H = name_of(layer).upper(), layer.U.shape[0]
        weights = {f"{name}_{n}": a for name, a in node_tensors(layer).items()}
        stored |= weights
        states = ["h", "c"] if kind == "LSTM" else ["h"]
        for s in states:
            inputs.append((f"state_{n}_{s}", dtype, ["B", H]))
            add("Unsqueeze", [f"state_{n}_{s}", "axis_0"], f"initial_{n}_{s}")
        given = [below, *weights, "", *(f"initial_{n}_{s}" for s in states)]
        made = [f"all_{n}", *(f"last_{n}_{s}" for s in states)]
        before = {"linear_before_reset": 1} if kind == "GRU" else {}
        add(kind, given, *made, hidden_size=H, **before)
        for s in states:
            add("Squeeze", [f"last_{n}_{s}", "axis_0"], f"final_{n}_{s}")
            finals.append((f"final_{n}_{s}", dtype, ["B", H]))
        below = f"h_{n}"
        add("Squeeze", [f"all_{n}", "axis_1"], below)
    assert net.W is not None and net.b is not None
    stored |= {"readout_W": net.W, "readout_b": net.b}
    add("MatMul", [below, "readout_W"], "products")
    add("Add", ["products", "readout_b"], "outputs")
    outputs = [("outputs", dtype, ["T", "B", net.W.shape[1]]), *finals]
    graph = helper.make_graph(
        nodes,
        "lstm_jax",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(*each) for each in outputs],
        [numpy_helper.from_array(a, name) for name, a in stored.items()],
    )
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
    helper.set_model_props(model, dict(said))
    return model


def from_onnx(model: Any) -> Net:
    """The net of a ModelProto; UserError, by its name, for what is in none."""
    from onnx import TensorProto, helper, numpy_helper

    if any(a.data_location == TensorProto.EXTERNAL for a in model.graph.initializer):
        raise UserError("its weights lie in another file: save them in the one")
    values = {a.name: numpy_helper.to_array(a) for a in model.graph.initializer}
    layers: list[Any] = []
    found: dict[str, np.ndarray] = {}

    def keep(what: str, array: np.ndarray, rank: int) -> None:
        if what in found or array.ndim != rank:
            raise UserError(f"it has more than one {what}, or one that is no model's here")
        found[what] = array

    for node in model.graph.node:
        kind, stored = node.op_type, [name for name in node.input if name in values]
        said = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if kind in ORDERS:
            directions = read_node(node, values)
            if len(directions) > 1 or directions[0].reverse:
                raise UserError(
                    f"its {kind} has direction={said['direction'].decode()}, and a model here "
                    "reads a sequence forwards"
                )
            layers.append(directions[0].params)
        elif kind == "Constant" and "value" in said:
            values[node.output[0]] = numpy_helper.to_array(said["value"])
        elif kind == "Gather" and stored[:1] == [node.input[0]] and not layers:
            keep("embedding", values[stored[0]], 2)
        elif kind == "MatMul" and stored == [node.input[1]] and layers:
            keep("readout", values[stored[0]], 2)
        elif kind == "Add" and len(stored) == 1 and layers:
            keep("readout's bias", values[stored[0]], 1)
        elif kind == "Gemm" and layers and stored == [*node.input[1:]] and is_plain(said):
            turned = bool(said.get("transB"))
            keep("readout", values[stored[0]].T if turned else values[stored[0]], 2)
            keep("readout's bias", values[stored[1]], 1)
        elif kind not in MOVES and not (kind == "Gather" and node.input[0] not in stored):
            raise UserError(f"it has a {kind} that no model here has")
    check_chain(layers, found)
    W, b = found.get("readout"), found.get("readout's bias")
    if (W is None) != (b is None):
        raise UserError(f"it has no readout's {'matrix' if W is None else 'bias'}")
    return Net(tuple(layers), found.get("embedding"), W, b)


def is_plain(gemm: Mapping[str, Any]) -> bool:
    """Whether a Gemm is `x W + b`."""
    return gemm.get("alpha", 1) == gemm.get("beta", 1) == 1 and not gemm.get("transA")


def check_chain(layers: list[Any], found: Mapping[str, np.ndarray]) -> None:
    """Refuses layers that do not fit what is below them."""
    if not layers:
        raise UserError("it has neither an LSTM nor a GRU")
    widths = [
        (f"layers[{n}]", *layer.W.shape[:1], layer.U.shape[0]) for n, layer in enumerate(layers)
    ]
    if (embedding := found.get("embedding")) is not None:
        widths.insert(0, ("the embedding", *embedding.shape))
    if (W := found.get("readout")) is not None:
        widths.append(("the readout", *W.shape))
    for (_, _, out), (name, D, _) in pairwise(widths):
        if out != D:
            raise UserError(f"{name} reads {D} numbers, and {out} come from below")


def save_onnx(params: ModelParams, description: Description, path: Path) -> None:
    """Writes a model as an ONNX file."""
    said, reads_ids = to_metadata(description, "onnx"), description.interface.reads_ids
    write_atomically(path, to_onnx(net_of(params), said, reads_ids=reads_ids).SerializeToString())


def load_onnx(path: Path) -> tuple[ModelParams, dict[str, str]]:
    """The model of an ONNX file, and what it says of itself."""
    with needing("onnx"):
        import onnx
    try:
        model = onnx.load_model_from_string(path.read_bytes())
        onnx.checker.check_model(model)
    except OSError as error:
        raise UserError(f"it cannot be read: {error.strerror}") from error
    except Exception as error:  # protobuf's, and the checker's own
        raise UserError(f"it is no ONNX model ({' '.join(str(error).split())[:200]})") from error
    return model_of(from_onnx(model)), {prop.key: prop.value for prop in model.metadata_props}
