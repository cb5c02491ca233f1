"""Whole models: the notebook's variables, Keras' Sequential, Haiku's shift, and what is refused."""

import json
import os

import jax
import numpy as np
import pytest

import lstm_jax
from lstm_jax.errors import UserError
from lstm_jax.interchange.formats import NAMES
from lstm_jax.interchange.names import read, write
from lstm_jax.interchange.net import Net, model_of
from lstm_jax.verification import reference
from tests.interchange.nets import numbers, params_of


def net_of(cell, embedded=True):
    rng = np.random.default_rng(3)
    layers = (params_of(cell, rng, 3 if embedded else 7, 4), params_of(cell, rng, 4, 5))
    embedding = rng.standard_normal((7, 3)) if embedded else None
    net = Net(layers, embedding, rng.standard_normal((5, 7)), rng.standard_normal(7))
    return jax.tree.map(lambda a: a.astype(np.float32), net)


def logits(net, ids):
    params = jax.tree.map(jax.numpy.asarray, model_of(net))
    return lstm_jax.apply(params, lstm_jax.init_carry(params, ids.shape[1]), ids)


def test_the_notebooks_variables_are_those_of_the_numpy_loops(x64):
    H, V = 4, 5
    shapes = {f"W_{gate}": (H, H + V) for gate in "fiCo"} | {f"b_{gate}": (H, 1) for gate in "fiCo"}
    shapes |= {"W_v": (V, H), "b_v": (V, 1)}
    tensors = {name: numbers(n, shape) for n, (name, shape) in enumerate(shapes.items())}
    ids = np.random.default_rng(0).integers(V, size=(6, 2))
    net = read(NAMES["notebook"], tensors)
    outputs, (final,) = logits(net, ids)
    layer = reference.Layer(**{name: a for name, a in tensors.items() if not name.endswith("_v")})
    loops = reference.forward(
        reference.Parameters((layer,), tensors["W_v"], tensors["b_v"]),
        [reference.State(np.zeros((H, 2)), np.zeros((H, 2)))],
        reference.Sequence(ids, ids, np.ones((6, 2), bool), np.zeros((6, 2), bool)),
    )
    softmax = jax.nn.softmax(outputs).transpose(0, 2, 1)
    np.testing.assert_allclose(softmax, np.stack(loops.y), rtol=1e-12)
    np.testing.assert_allclose(final.c.T, loops.states[0].C, rtol=1e-12)
    back = write(NAMES["notebook"], net)
    assert {name: a.tobytes() for name, a in back.items()} == {
        name: a.tobytes() for name, a in tensors.items()
    }


@pytest.mark.parametrize("name", ["notebook", "haiku", "flax_nnx_plain", "flax_nnx"])
def test_what_a_library_does_not_have_is_refused(name):
    message = {
        "notebook": "the notebook has one layer, an LSTM",
        "haiku": "Haiku's GRU resets h before the product with U",
        "flax_nnx_plain": "this format is of LSTMs",
        "flax_nnx": r"layers\[0\].b_n is not zero",
    }
    with pytest.raises(UserError, match=message[name]):
        write(NAMES[name], net_of("gru"))


def test_haiku_adds_one_to_the_forget_gate_whatever_the_bias():
    net = net_of("lstm")
    H, tensors = 4, write(NAMES["haiku"], net)
    i, g, f, o = np.split(tensors["lstm/linear/b"], 4)
    wanted = net.layers[0].b.copy()
    wanted[H : 2 * H] -= 1
    np.testing.assert_array_equal(np.concatenate([i, f, g, o]), wanted)
    back = read(NAMES["haiku"], tensors).layers[0].b
    np.testing.assert_allclose(back, net.layers[0].b, atol=1.2e-7)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_keras_makes_the_model_of_what_the_file_says(cell, tmp_path):
    """As a user has it: a line for the model, and a line for its weights."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    names, ids = NAMES["keras"], np.random.default_rng(0).integers(7, size=(6, 4))
    for embedded in (True, False):
        net = net_of(cell, embedded)
        tensors, said = write(names, net), names.metadata(net)
        model = keras.models.model_from_json(said["keras"])
        model.set_weights([tensors[w.path] for w in model.weights])
        x = ids.T if embedded else np.eye(7)[ids.T]
        np.testing.assert_allclose(
            np.swapaxes(model(x), 0, 1), logits(net, ids)[0], rtol=1e-4, atol=1e-5
        )
        back = {w.path: np.asarray(w) for w in model.weights}
        found = read(names, back, {"keras": model.to_json()})
        jax.tree.map(np.testing.assert_array_equal, found, net)


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("recurrent_activation", "hard_sigmoid", "has recurrent_activation='hard_sigmoid', and on"),
        ("activation", "relu", "its layer gru has activation='relu'"),
        ("reset_after", False, "its layer gru has reset_after=False, and only True"),
        ("go_backwards", True, "its layer gru has go_backwards=True"),
    ],
)
def test_a_keras_layer_that_computes_something_else_is_refused(option, value, message):
    net, names = net_of("gru"), NAMES["keras"]
    model = json.loads(names.metadata(net)["keras"])
    model["config"]["layers"][2]["config"][option] = value
    with pytest.raises(UserError, match=message):
        read(names, write(names, net), {"keras": json.dumps(model)})
    with pytest.raises(UserError, match="it says nothing of what its layers compute"):
        read(names, write(names, net))
    model["config"]["layers"][2]["class_name"] = "Bidirectional"
    with pytest.raises(UserError, match="its layer 'Bidirectional' is none of LSTM, GRU"):
        read(names, write(names, net), {"keras": json.dumps(model)})
