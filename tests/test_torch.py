"""LSTM and GRU against PyTorch's: packed sequences, both directions, values and every gradient.

PyTorch need not be there: of one small case its numbers are written down. Where it is (the extra
`peers`), it is asked itself, in larger shapes. `python -m tests.test_torch` writes the table again.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.cells.gru import GRUParams, GRUState
from lstm_jax.cells.lstm import LSTMParams, LSTMState
from lstm_jax.errors import UserError
from lstm_jax.gradients.bptt_layer import bptt_layer
from lstm_jax.interchange.torch import dict_of, layer_of
from lstm_jax.layer import BothDirections, unroll, unroll_both

LAYERS = pytest.mark.parametrize("layer", [unroll, bptt_layer])


class Problem(NamedTuple):
    """Two layers and what they read, float64 NumPy; `weights` makes a loss of the outputs."""

    params: BothDirections
    states: BothDirections
    x: np.ndarray  # TxBxD
    lengths: list[int] | None
    weights: np.ndarray  # TxBx2H


def numbers(seed, shape):
    """Numbers between -1 and 1 that look random, and are the same in every version of NumPy."""
    n = np.arange(1, 1 + np.prod(shape, dtype=int))
    return np.sin((seed + 3) * n * n).reshape(shape)


def make_problem(kind, T, B, D, H, lengths):
    seeds = iter(range(100))

    def draw(*shape):
        return numbers(next(seeds), shape)

    def params():
        if kind == "lstm":
            return LSTMParams(draw(D, 4 * H), draw(H, 4 * H), draw(4 * H))
        return GRUParams(draw(D, 3 * H), draw(H, 3 * H), draw(3 * H), draw(H))

    def state():
        return LSTMState(draw(B, H), draw(B, H)) if kind == "lstm" else GRUState(draw(B, H))

    return Problem(
        BothDirections(params(), params()),
        BothDirections(state(), state()),
        draw(T, B, D),
        lengths,
        draw(T, B, 2 * H),
    )


class Found(NamedTuple):
    """What comes out, and the gradients of the loss; the padding has a share in none of it."""

    outputs: np.ndarray
    final: BothDirections
    dparams: BothDirections
    dstates: BothDirections
    dx: np.ndarray


def ours(problem, layer, both=unroll_both):
    lengths_B = None if problem.lengths is None else jnp.asarray(problem.lengths)

    def loss(params, states, x):
        final, outputs = both(params, states, x, layer=layer, lengths_B=lengths_B)
        total = jnp.sum(jnp.asarray(problem.weights) * jnp.sin(outputs))
        total += sum(jnp.sum(jnp.cos(3 * leaf)) for leaf in jax.tree.leaves(final))
        return total, (outputs, final)

    gradient = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))
    gradients, values = gradient(*jax.tree.map(jnp.asarray, problem[:3]))
    return Found(*values, *gradients)


def state_dict_of(problem):
    """PyTorch's weights are transposed, and it has two biases for each gate."""
    tensors = {}
    for layer, suffix in zip(problem.params, ("", "_reverse"), strict=True):
        b_hh = np.zeros_like(layer.b)
        if isinstance(layer, GRUParams):
            b_hh[2 * len(layer.U) :] = layer.b_n
        of_torch = {"weight_ih": layer.W.T, "weight_hh": layer.U.T, "bias_ih": layer.b}
        for name, a in (of_torch | {"bias_hh": b_hh}).items():
            tensors[f"{name}_l0{suffix}"] = a
    return tensors


def torchs(problem):
    """The same by PyTorch."""
    import torch

    lstm = isinstance(problem.params.forward, LSTMParams)
    T, _, D = problem.x.shape
    H = problem.weights.shape[-1] // 2
    module = (torch.nn.LSTM if lstm else torch.nn.GRU)(D, H, bidirectional=True).double()
    weights = state_dict_of(problem).items()
    module.load_state_dict({name: torch.tensor(np.array(a)) for name, a in weights})

    def tensor(a):
        return torch.tensor(np.array(a), requires_grad=True)

    stacked = [tensor(np.stack(leaves)) for leaves in zip(*problem.states, strict=True)]
    x, read = tensor(problem.x), None
    if problem.lengths is None:
        read = x
    else:
        read = torch.nn.utils.rnn.pack_padded_sequence(x, problem.lengths, enforce_sorted=False)
    outputs, final = module(read, tuple(stacked) if lstm else stacked[0])
    if problem.lengths is not None:
        outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, total_length=T)
    final = final if lstm else (final,)
    total = (torch.tensor(problem.weights) * outputs.sin()).sum()
    total += sum((3 * leaf).cos().sum() for leaf in final)
    total.backward()

    def of_layer(suffix):
        dW, dU, db, db_hh = (
            getattr(module, f"{name}_l0{suffix}").grad.numpy()
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        return LSTMParams(dW.T, dU.T, db) if lstm else GRUParams(dW.T, dU.T, db, db_hh[2 * H :])

    def of_states(leaves):
        state = LSTMState if lstm else GRUState
        return BothDirections(*(state(*(leaf[n] for leaf in leaves)) for n in range(2)))

    return Found(
        outputs.detach().numpy(),
        of_states([leaf.detach().numpy() for leaf in final]),
        BothDirections(of_layer(""), of_layer("_reverse")),
        of_states([leaf.grad.numpy() for leaf in stacked]),
        x.grad.numpy(),
    )


def largest_error(found, wanted):
    """As a share of each leaf's largest value."""
    errors = jax.tree.map(
        lambda a, b: float(np.abs(np.asarray(a) - b).max() / np.abs(b).max()), found, wanted
    )
    return max(jax.tree.leaves(errors))


@LAYERS
@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("lengths", [None, [4, 7, 1, 6]], ids=["whole", "packed"])
def test_both_directions_are_pytorchs(lengths, kind, layer, x64):
    pytest.importorskip("torch")
    problem = make_problem(kind, T=7, B=4, D=3, H=5, lengths=lengths)
    error = largest_error(ours(problem, layer), torchs(problem))
    print(f"{kind}, {layer.__name__}, lengths {lengths}: {error:.1e}")
    assert error < 1e-14


# One number for each leaf: its product with numbers of `summary`. From PyTorch 2.13.0 on a CPU.
SMALL = {"T": 4, "B": 3, "D": 2, "H": 2, "lengths": [2, 4, 1]}
TABLE = {
    "lstm": {
        "outputs": -0.297310008247195,
        "final.forward.h": 0.1354072405145725,
        "final.forward.c": 1.4092086221108135,
        "final.backward.h": 0.18651262609396121,
        "final.backward.c": -0.25828032297219555,
        "dparams.forward.W": -0.44122426664637804,
        "dparams.forward.U": 2.696209388682485,
        "dparams.forward.b": 1.7591851140452963,
        "dparams.backward.W": 0.023912035002693788,
        "dparams.backward.U": 7.00195129509667,
        "dparams.backward.b": -5.609469956414448,
        "dstates.forward.h": -1.6570233104104068,
        "dstates.forward.c": -1.079461758795345,
        "dstates.backward.h": 1.0377310910164217,
        "dstates.backward.c": -5.397732859145756,
        "dx": 3.256299958606168,
    },
    "gru": {
        "outputs": 3.131538724148349,
        "final.forward.h": 1.5868522777478982,
        "final.backward.h": 2.23469682884924,
        "dparams.forward.W": 0.6844077826701438,
        "dparams.forward.U": -0.9239038987334991,
        "dparams.forward.b": -2.6530412912548282,
        "dparams.forward.b_n": -1.5847130418172817,
        "dparams.backward.W": -1.070183353471065,
        "dparams.backward.U": 1.1428808794350727,
        "dparams.backward.b": -4.499839543883266,
        "dparams.backward.b_n": 0.269993854261006,
        "dstates.forward.h": -1.541826729269678,
        "dstates.backward.h": -0.3287960218171991,
        "dx": 2.2535119568914723,
    },
}


def summary(found):
    """One number for each leaf, which any change of an entry changes."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(found)
    return {
        jax.tree_util.keystr(path).lstrip("."): float(np.vdot(numbers(n, np.shape(leaf)), leaf))
        for n, (path, leaf) in enumerate(leaves)
    }


def compare(found, kind):
    found = summary(found)
    assert found.keys() == TABLE[kind].keys()
    for name, wanted in TABLE[kind].items():
        np.testing.assert_allclose(found[name], wanted, rtol=1e-12, atol=1e-12, err_msg=name)


@LAYERS
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_both_directions_are_what_pytorch_once_gave(kind, layer, x64):
    compare(ours(make_problem(kind, **SMALL), layer), kind)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_a_layer_of_each_direction_comes_from_a_state_dict_and_back(kind):
    problem = make_problem(kind, **SMALL)
    tensors, back = state_dict_of(problem), {}
    for layer, reverse in zip(problem.params, (False, True), strict=True):
        read = layer_of(tensors, reverse=reverse)
        jax.tree.map(np.testing.assert_array_equal, read, layer)
        back |= dict_of(read, reverse=reverse)
    assert back.keys() == tensors.keys()
    jax.tree.map(np.testing.assert_array_equal, back, tensors)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"weight_hr_l0_reverse": np.zeros((2, 3))}, "weight_hr_l0_reverse is of a proj_size"),
        ({"bias_hh_l0_reverse": np.zeros(3)}, "bias_hh_l0_reverse is 3 and is to be "),
    ],
)
def test_a_state_dict_that_is_another_is_refused_by_name(change, message):
    tensors = state_dict_of(make_problem("lstm", **SMALL)) | change
    with pytest.raises(UserError, match=message):
        layer_of(tensors, reverse=True)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_pytorch_still_gives_that(kind):
    pytest.importorskip("torch")
    compare(torchs(make_problem(kind, **SMALL)), kind)


def exchanged(problem):
    """With the first two gates exchanged."""

    def exchange(leaf, H):
        return np.concatenate([leaf[..., H : 2 * H], leaf[..., :H], leaf[..., 2 * H :]], -1)

    layer = problem.params.forward
    H = layer.U.shape[0]
    wrong = type(layer)(*(exchange(leaf, H) for leaf in layer[:3]), *layer[3:])
    return problem._replace(params=problem.params._replace(forward=wrong))


MUTANTS = {
    "two gates exchanged": exchanged,
    "no lengths": lambda problem: problem._replace(lengths=None),
    "the directions exchanged": lambda problem: problem._replace(
        params=BothDirections(problem.params.backward, problem.params.forward)
    ),
    "another start": lambda problem: problem._replace(
        states=BothDirections(problem.states.backward, problem.states.forward)
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=MUTANTS)
@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_the_comparison_notices_another_layer(kind, mutant, x64):
    with pytest.raises(AssertionError):
        compare(ours(mutant(make_problem(kind, **SMALL)), unroll), kind)


def test_every_leaf_has_a_share_in_the_comparison(x64):
    """A gradient that is off by a thousandth in one entry."""
    found = jax.tree.map(np.array, ours(make_problem("gru", **SMALL), unroll))
    leaves, structure = jax.tree.flatten(found)
    for n in range(len(leaves)):
        moved = [leaf.copy() for leaf in leaves]
        moved[n].flat[-1] += 1e-3
        with pytest.raises(AssertionError):
            compare(structure.unflatten(moved), "gru")


if __name__ == "__main__":
    import torch

    print(torch.__version__)
    print({kind: summary(torchs(make_problem(kind, **SMALL))) for kind in ("lstm", "gru")})
