"""ONNX by its own evaluator, by onnxruntime, and by the tests of nodes that come with it."""

import itertools

import jax
import numpy as np
import pytest

import lstm_jax
from lstm_jax.cells import cell_of
from lstm_jax.errors import UserError
from lstm_jax.interchange.net import Net, model_of
from lstm_jax.interchange.onnx import from_onnx, read_node, to_onnx
from tests.interchange.nets import params_of

onnx = pytest.importorskip("onnx")


def node_cases():
    """The LSTM and GRU tests of ONNX."""
    from onnx.backend.test.case import node
    from onnx.backend.test.case.node import gru, lstm  # noqa: F401 (which adds them)

    kinds = ("LSTM", "GRU")
    return [case for case in node._NodeTestCases if case.model.graph.node[0].op_type in kinds]


def test_every_node_test_of_onnx_passes_or_is_refused_by_name():
    passed, refused = [], []
    for name, model, data in [(case.name, case.model, case.data_sets[0]) for case in node_cases()]:
        node, (given, wanted) = model.graph.node[0], data
        values = dict(zip([i.name for i in model.graph.input], given, strict=True))
        why = None if node.op_type == "LSTM" else "linear_before_reset=0"
        if name == "test_lstm_with_peepholes":
            why = "has sequence_lens"
        if why is not None:
            with pytest.raises(UserError, match=why):
                read_node(node, values)
            refused.append(name)
            continue
        outputs = run_node(node, values)
        for output, a in zip([o for o in node.output if o], wanted, strict=True):
            np.testing.assert_allclose(outputs[output], a, rtol=1e-5, atol=1e-6, err_msg=name)
        passed.append(name)
    assert len(passed) >= 5 and len(refused) >= 5, (passed, refused)


def run_node(node, values):
    """Y, Y_h and Y_c by the layers that were read, in the node's layout."""
    batch_first = any(a.name == "layout" and a.i for a in node.attribute)
    x = np.swapaxes(values["X"], 0, 1) if batch_first else values["X"]
    outputs, finals = [], []
    for params, reverse in read_node(node, values):
        state = cell_of(params).init_state(params, x.shape[1])
        final, h = lstm_jax.unroll(params, state, x, reverse=reverse)
        outputs.append(h)
        finals.append(final)
    Y = np.stack(outputs, 1)  # T, directions, B, H
    states = [np.stack(leaves) for leaves in zip(*finals, strict=True)]
    if batch_first:
        Y, states = Y.transpose(2, 0, 1, 3), [s.transpose(1, 0, 2) for s in states]
    return dict(zip(("Y", "Y_h", "Y_c"), (Y, *states), strict=False))


def net_of_chance(cell, rng, dtype, embedded):
    V, E, L = 7, int(rng.integers(1, 5)), int(rng.integers(1, 4))
    sizes = [E if embedded else V, *rng.integers(1, 6, L).tolist()]
    layers = [params_of(cell, rng, *pair) for pair in itertools.pairwise(sizes)]
    embedding = rng.standard_normal((V, E)) if embedded else None
    net = Net(tuple(layers), embedding, rng.standard_normal((sizes[-1], V)), rng.standard_normal(V))
    return jax.tree.map(lambda a: np.asarray(a, dtype), net)


@pytest.mark.parametrize("by", ["reference", "onnxruntime"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_graph_computes_what_the_model_does(cell, by, x64):
    """Outputs and final states, from initial ones; with an embedding and without, in float64 where
    it can."""
    if by == "onnxruntime":
        pytest.importorskip("onnxruntime")
    dtype, tolerance = (np.float64, 1e-13) if by == "reference" else (np.float32, 1e-5)
    for seed, embedded in ((0, True), (1, False)):
        rng = np.random.default_rng(seed)
        net = net_of_chance(cell, rng, dtype, embedded)
        model = to_onnx(net, {"alphabet": "abcdefg"}, reads_ids=True)
        onnx.checker.check_model(model, full_check=True)
        ids = rng.integers(7, size=(5, 3))
        params = jax.tree.map(jax.numpy.asarray, model_of(net))
        carry = jax.tree.map(
            lambda a, rng=rng: rng.standard_normal(a.shape).astype(dtype),
            lstm_jax.init_carry(params, 3),
        )
        outputs, final = lstm_jax.apply(params, carry, ids)
        wanted = [outputs, *jax.tree.leaves(final)]
        feeds = dict(
            zip([i.name for i in model.graph.input], [ids, *jax.tree.leaves(carry)], strict=True)
        )
        for found, a in zip(evaluate(model, feeds, by), wanted, strict=True):
            error = np.abs(found - a).max() / np.abs(a).max()
            print(cell, by, embedded, error)
            assert found.dtype == dtype and error < tolerance


def evaluate(model, feeds, by):
    if by == "reference":
        from onnx.reference import ReferenceEvaluator

        return ReferenceEvaluator(model).run(None, feeds)
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString())
    return session.run(None, feeds)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_there_and_back_every_bit_is_kept(cell):
    for embedded in (True, False):
        net = net_of_chance(cell, np.random.default_rng(2), np.float32, embedded)
        net.layers[0].b[:1] = -0.0
        back = from_onnx(to_onnx(net, {}, reads_ids=True))
        bits = [
            [(a.dtype, a.shape, np.ascontiguousarray(a).tobytes()) for a in jax.tree.leaves(each)]
            for each in (net, back)
        ]
        assert bits[0] == bits[1]


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda node: node.attribute.add(name="clip", f=1.0, type=1), r"its LSTM has clip=1\.0"),
        (lambda node: node.attribute.add(name="input_forget", i=1, type=2), "has input_forget=1"),
        (
            lambda node: node.attribute.add(
                name="activations", strings=[b"HardSigmoid", b"Tanh", b"Tanh"], type=8
            ),
            "its LSTM has activations=HardSigmoid, Tanh, Tanh",
        ),
        (
            lambda node: node.attribute.add(name="direction", s=b"reverse", type=3),
            "its LSTM has direction=reverse, and a model here",
        ),
        (lambda node: node.input.append("W_0"), "its LSTM has P, which no layer here has"),
        (lambda node: setattr(node, "op_type", "RNN"), "it has a RNN that no model here has"),
    ],
)
def test_what_computes_something_else_is_refused_by_name(change, message):
    net = net_of_chance("lstm", np.random.default_rng(2), np.float32, embedded=True)
    model = to_onnx(net, {}, reads_ids=True)
    model.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(UserError, match="its weights lie in another file"):
        from_onnx(model)
    model.graph.initializer[0].data_location = onnx.TensorProto.DEFAULT
    change(next(node for node in model.graph.node if node.op_type == "LSTM"))
    with pytest.raises(UserError, match=message):
        from_onnx(model)
