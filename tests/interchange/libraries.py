"""What other libraries make of tensors by their own names: asked only where they are installed."""

import json
import os
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lstm_jax.cells.gru import GRUState
from lstm_jax.cells.lstm import LSTMState
from tests.interchange.nets import Found, Problem


class Library(NamedTuple):
    """What is known of a library.

    shapes: (D, H, L) -> the shapes of the tensors of L layers.
    run: what the library finds, with gradients by the names of its tensors.
    as_tensors: those, so that `read`, which adds and shifts, makes the gradients of layers of them.
    """

    module: str
    names: str
    cell: str
    shapes: Callable[[int, int, int], dict[str, tuple[int, ...]]]
    run: Callable[[Problem], Found]
    as_tensors: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]] = lambda grads: grads
    said: Callable[[int, int, int], dict[str, str]] = lambda D, H, L: {}
    most_layers: int = 9
    tolerance: float = 1e-13


def torch_shapes(gates, module):
    def shapes(D, H, L):
        G = gates * H
        return {
            f"{module}.{kind}_l{n}": shape
            for n in range(L)
            for kind, shape in (
                ("weight_ih", (G, H if n else D)),
                ("weight_hh", (G, H)),
                ("bias_ih", (G,)),
                ("bias_hh", (G,)),
            )
        }

    return shapes


def run_torch(problem):
    import torch

    _, _, D, H, L = problem.sizes
    lstm = problem.cell == "lstm"
    module = (torch.nn.LSTM if lstm else torch.nn.GRU)(D, H, L).double()
    own = {name.partition(".")[2]: torch.tensor(a) for name, a in problem.tensors.items()}
    module.load_state_dict(own)
    stacked = [torch.tensor(np.stack(leaves)) for leaves in zip(*problem.states, strict=True)]
    x = torch.tensor(problem.x, requires_grad=True)
    outputs, finals = module(x, tuple(stacked) if lstm else stacked[0])
    finals = finals if lstm else (finals,)
    total = (torch.tensor(problem.weights) * outputs.sin()).sum()
    (total + sum((3 * leaf).cos().sum() for leaf in finals)).backward()
    kind = LSTMState if lstm else GRUState
    return Found(
        outputs.detach().numpy(),
        [kind(*(leaf[n].detach().numpy() for leaf in finals)) for n in range(L)],
        {f"{problem.cell}.{k}": p.grad.numpy() for k, p in module.named_parameters()},
        x.grad.numpy(),
    )


def one_bias(grads):
    """The gradient of both biases once; of the GRU's second the part inside the reset."""

    def fixed(name, grad):
        grad = grad.copy()
        if "bias_hh" in name and name.startswith("lstm"):
            grad[:] = 0
        if "bias_hh" in name and name.startswith("gru"):
            grad[: 2 * len(grad) // 3] = 0
        return grad

    return {name: fixed(name, grad) for name, grad in grads.items()}


def stack_shapes(of_layer):
    """Layers of a form, by the name of each tensor: (D, H) -> shapes."""

    def shapes(D, H, L):
        return {
            f"layers.{n}.{name}": shape
            for n in range(L)
            for name, shape in of_layer(H if n else D, H).items()
        }

    return shapes


def flax_optimized(D, H):
    return {"dense_i.kernel": (D, 4 * H), "dense_h.kernel": (H, 4 * H), "dense_h.bias": (4 * H,)}


def flax_gru(D, H):
    return {"dense_i.kernel": (D, 3 * H), "dense_i.bias": (3 * H,), "dense_h.kernel": (H, 3 * H)}


def flax_plain(D, H):
    of_x = {f"{name}.kernel": (D, H) for name in ("ii", "if_", "ig", "io")}
    of_h = {f"{name}.kernel": (H, H) for name in ("hi", "hf", "hg", "ho")}
    return of_x | of_h | {f"{name}.bias": (H,) for name in ("hi", "hf", "hg", "ho")}


def equinox_lstm(D, H):
    return {"weight_ih": (4 * H, D), "weight_hh": (4 * H, H), "bias": (4 * H,)}


def equinox_gru(D, H):
    return {
        "weight_ih": (3 * H, D),
        "weight_hh": (3 * H, H),
        "bias": (3 * H,),
        "bias_n": (H,),
    }


def haiku_shapes(D, H, L):
    return {
        f"lstm{f'_{n}' if n else ''}/linear/{leaf}": shape
        for n in range(L)
        for leaf, shape in (("w", ((H if n else D) + H, 4 * H)), ("b", (4 * H,)))
    }


def keras_shapes(kind):
    def shapes(D, H, L):
        G = (4 if kind == "lstm" else 3) * H
        return {
            f"sequential/{kind}{f'_{n}' if n else ''}/{kind}_cell/{leaf}": shape
            for n in range(L)
            for leaf, shape in (
                ("kernel", (H if n else D, G)),
                ("recurrent_kernel", (H, G)),
                ("bias", (G,) if kind == "lstm" else (2, G)),
            )
        }

    return shapes


def keras_said(kind):
    def said(D, H, L):
        config = {
            **{"activation": "tanh", "recurrent_activation": "sigmoid", "use_bias": True},
            **{"go_backwards": False, "return_sequences": True, "reset_after": True},
        }
        layers = [
            {
                "class_name": kind.upper(),
                "config": config | {"name": f"{kind}{f'_{n}' if n else ''}"},
            }
            for n in range(L)
        ]
        return {"keras": json.dumps({"class_name": "Sequential", "config": {"layers": layers}})}

    return said


def differentiated(run):
    """A run in JAX, (tensors, x) -> outputs and finals, with its gradients."""

    def whole(problem):
        def loss(tensors, x):
            outputs, finals = run(problem, tensors, x)
            total = jnp.sum(jnp.asarray(problem.weights) * jnp.sin(outputs))
            total += sum(jnp.sum(jnp.cos(3 * leaf)) for leaf in jax.tree.leaves(finals))
            return total, (outputs, finals)

        given = jax.tree.map(jnp.asarray, (problem.tensors, problem.x))
        (dtensors, dx), values = jax.grad(loss, (0, 1), has_aux=True)(*given)
        return Found(*values, {name: np.asarray(a) for name, a in dtensors.items()}, dx)

    return whole


def over_time(step, state, x):
    """The outputs of (state, x_BxD) -> state, output, and the final state."""
    outputs = []
    for x_BxD in x:
        state, output = step(state, x_BxD)
        outputs.append(output)
    return state, jnp.stack(outputs)


def run_flax(cell_name):
    @differentiated
    def run(problem, tensors, x):
        from flax import nnx

        finals, (_, _, D, H, L) = [], problem.sizes
        for n in range(L):
            cell = getattr(nnx, cell_name)(
                H if n else D, H, param_dtype=jnp.float64, rngs=nnx.Rngs(0)
            )
            state = nnx.split(cell, nnx.Param)[1]
            own = {
                tuple(name.split(".")[2:]): a
                for name, a in tensors.items()
                if name.startswith(f"layers.{n}.")
            }
            flat = nnx.to_flat_state(state)
            assert {path for path, _ in flat} == {*own}
            nnx.update(
                cell, nnx.from_flat_state([(path, v.replace(own[path])) for path, v in flat])
            )
            first = problem.states[n]
            lstm = isinstance(first, LSTMState)
            carry, x = over_time(cell, (first.c, first.h) if lstm else first.h, x)
            finals.append(LSTMState(carry[1], carry[0]) if lstm else GRUState(carry))
        return x, finals

    return run


@differentiated
def run_equinox(problem, tensors, x):
    import equinox as eqx

    finals, (_, _, D, H, L) = [], problem.sizes
    lstm = problem.cell == "lstm"
    for n in range(L):
        cell = (eqx.nn.LSTMCell if lstm else eqx.nn.GRUCell)(
            H if n else D, H, key=jax.random.key(0)
        )
        names = ["weight_ih", "weight_hh", "bias", *([] if lstm else ["bias_n"])]
        cell = eqx.tree_at(
            lambda cell, names=names: [getattr(cell, name) for name in names],
            cell,
            [tensors[f"layers.{n}.{name}"] for name in names],
        )

        def step(state, x_BxD, cell=cell):
            after = jax.vmap(cell)(x_BxD, state)
            return after, after[0] if lstm else after

        first = problem.states[n]
        state, x = over_time(step, (first.h, first.c) if lstm else first.h, x)
        finals.append(LSTMState(*state) if lstm else GRUState(state))
    return x, finals


@differentiated
def run_haiku(problem, tensors, x):
    import haiku as hk

    _, _, _, H, L = problem.sizes

    def forward(x, states):
        core = hk.DeepRNN([hk.LSTM(H) for _ in range(L)])
        return hk.dynamic_unroll(core, x, states)

    params = {}
    for name, a in tensors.items():
        module, _, leaf = name.rpartition("/")
        params.setdefault(module, {})[leaf] = a
    states = tuple(hk.LSTMState(jnp.asarray(s.h), jnp.asarray(s.c)) for s in problem.states)
    outputs, finals = hk.without_apply_rng(hk.transform(forward)).apply(params, x, states)
    return outputs, [LSTMState(s.hidden, s.cell) for s in finals]


def without_shift(grads):
    """Reading adds 1 to the forget gate's bias, and to no gradient of it."""

    def fixed(name, grad):
        if name.endswith("/b"):
            i, g, f, o = np.split(grad, 4)
            return np.concatenate([i, g, f - 1, o])
        return grad

    return {name: fixed(name, grad) for name, grad in grads.items()}


def run_keras(problem):
    """In float64, but for the tanh of Keras 3.15, which is one of float32: JAX's stands for it."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    _, _, D, H, L = problem.sizes
    kind, lstm = problem.cell, problem.cell == "lstm"
    layers = [
        (keras.layers.LSTM if lstm else keras.layers.GRU)(
            H, activation=jnp.tanh, return_sequences=True, return_state=True, dtype="float64"
        )
        for n in range(L)
    ]
    for n, layer in enumerate(layers):
        layer.build((None, None, H if n else D))

    @differentiated
    def run(problem, tensors, x):
        finals, x = [], jnp.swapaxes(x, 0, 1)
        for n, layer in enumerate(layers):
            where = f"sequential/{kind}{f'_{n}' if n else ''}/{kind}_cell"
            own = [tensors[f"{where}/{variable.name}"] for variable in layer.trainable_variables]
            others = [variable.value for variable in layer.non_trainable_variables]
            given = [jnp.asarray(leaf) for leaf in problem.states[n]]
            (x, *state), _ = layer.stateless_call(own, others, x, initial_state=given)
            finals.append(LSTMState(*state) if lstm else GRUState(*state))
        return jnp.swapaxes(x, 0, 1), finals

    return run(problem)


def of_keras_gru(grads):
    """The second bias's gradient only inside the reset."""

    def fixed(name, grad):
        grad = np.array(grad)
        if name.endswith("/bias"):
            grad[1, : 2 * grad.shape[1] // 3] = 0
        return grad

    return {name: fixed(name, grad) for name, grad in grads.items()}


LIBRARIES: dict[str, Library] = {
    "torch lstm": Library("torch", "torch", "lstm", torch_shapes(4, "lstm"), run_torch, one_bias),
    "torch gru": Library("torch", "torch", "gru", torch_shapes(3, "gru"), run_torch, one_bias),
    "flax OptimizedLSTMCell": Library(
        "flax", "flax_nnx", "lstm", stack_shapes(flax_optimized), run_flax("OptimizedLSTMCell")
    ),
    "flax LSTMCell": Library(
        "flax", "flax_nnx_plain", "lstm", stack_shapes(flax_plain), run_flax("LSTMCell")
    ),
    "flax GRUCell": Library("flax", "flax_nnx", "gru", stack_shapes(flax_gru), run_flax("GRUCell")),
    "haiku LSTM": Library("haiku", "haiku", "lstm", haiku_shapes, run_haiku, without_shift),
    "equinox LSTMCell": Library(
        "equinox", "equinox", "lstm", stack_shapes(equinox_lstm), run_equinox
    ),
    "equinox GRUCell": Library("equinox", "equinox", "gru", stack_shapes(equinox_gru), run_equinox),
    "keras LSTM": Library(
        "keras", "keras", "lstm", keras_shapes("lstm"), run_keras, said=keras_said("lstm")
    ),
    "keras GRU": Library(
        "keras", "keras", "gru", keras_shapes("gru"), run_keras, of_keras_gru, keras_said("gru")
    ),
}
