"""Readouts, skips and dropped symbols: `apply` against loops; the gradient of a shared matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lstm_jax.config import ModelConfig
from lstm_jax.data.batches import Batch
from lstm_jax.loss import sequence_loss
from lstm_jax.model import ModelParams, apply, init_carry, init_model, no_masks
from lstm_jax.verification.compare import UNOPTIMIZED
from tests import oracle

V, T, B, H = 5, 4, 2, 3

MODELS = {
    "tied": {"readout": "tied", "embedding_size": H},
    "tied, of another width": {"readout": "tied", "embedding_size": 4},
    "low rank": {"readout_rank": 2},
    "skips": {"num_layers": 3, "skip": "weighted"},
    "embedding": {"embedding_size": 4, "num_layers": 2},
}


def make_model(rng, **model):
    """Parameters and masks for everything that can be dropped, all random numbers."""
    config = ModelConfig(hidden_size=H, **model)
    params = jax.eval_shape(lambda: init_model(jax.random.key(0), config, V))
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), params)

    def mask(width):
        return jnp.asarray(rng.uniform(0.5, 1.5, size=(B, width)))

    layers = tuple(mask(layer.W.shape[0]) for layer in params.layers)
    embedding = None if params.embedding is None else mask(V)
    return params, no_masks(params)._replace(layers=layers, readout=mask(H), embedding=embedding)


def language_model(params, inputs, masks):
    """Logits [T][B][V] by loops, from the zero state."""
    params, masks = jax.tree.map(np.array, (params, masks))
    logits = np.zeros((T, B, V))
    for lane in range(B):
        states = [(np.zeros(H), np.zeros(H)) for _ in params.layers]
        for t in range(T):
            symbol = inputs[t, lane]
            if params.embedding is None:
                x = np.array([float(v == symbol) for v in range(V)])
            else:
                x = params.embedding[symbol] * masks.embedding[lane, symbol]
            for n, layer in enumerate(params.layers):
                states[n] = oracle.cell(*layer, *states[n], x * masks.layers[n][lane])
                out = np.array(states[n][0])
                if n > 0 and params.skips is not None:
                    out = out + params.skips[n - 1] * x  # what the mask drops, the skip does not
                x = out
            x = x * masks.readout[lane]
            if params.readout.P is not None:
                x = [sum(x[j] * column[j] for j in range(H)) for column in params.readout.P.T]
            for v in range(V):
                column = params.embedding[v] if params.readout.W is None else params.readout.W[:, v]
                products = (a * w for a, w in zip(x, column, strict=True))
                logits[t, lane, v] = params.readout.b[v] + sum(products)
    return logits


def compare(params, masks, wanted, inputs):
    logits, _ = apply(params, init_carry(params, B), jnp.asarray(inputs), masks)
    np.testing.assert_allclose(logits, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_apply_is_the_loop_and_every_part_of_it_matters(model, x64, rng):
    params, masks = make_model(rng, **model)
    inputs = rng.integers(V, size=(T, B))
    wanted = language_model(params, inputs, masks)
    compare(params, masks, wanted, inputs)
    mutants = [(params, masks._replace(readout=None))]
    if params.embedding is not None:
        mutants.append((params, masks._replace(embedding=None)))
    if params.skips is not None:
        mutants += [(params._replace(skips=s), masks) for s in (None, params.skips[::-1])]
    if params.readout.P is not None:
        mutants.append(
            (params._replace(readout=params.readout._replace(P=-params.readout.P)), masks)
        )
    for mutant in mutants:
        with pytest.raises(AssertionError):
            compare(*mutant, wanted, inputs)


def test_a_readout_of_low_rank_is_that_of_the_product(x64, rng):
    params, masks = make_model(rng, readout_rank=2)
    W, _, P = params.readout
    whole = params._replace(readout=params.readout._replace(W=P @ W, P=None))
    ids = jnp.asarray(rng.integers(V, size=(T, B)))
    found, wanted = (apply(p, init_carry(p, B), ids, masks)[0] for p in (params, whole))
    np.testing.assert_allclose(found, wanted, rtol=1e-11, atol=1e-12)


def test_a_dropped_symbol_is_read_as_zeros_in_its_lane_alone(x64, rng):
    params, _ = make_model(rng, embedding_size=4)
    ids = jnp.asarray([[2, 2], [1, 1]])
    mask_BxV = jnp.ones((B, V)).at[0, 2].set(0)
    masks, carry = no_masks(params)._replace(embedding=mask_BxV), init_carry(params, B)
    found, _ = apply(params, carry, ids, masks)
    without = params._replace(embedding=params.embedding.at[2].set(0))
    for lane, model in ((0, without), (1, params)):
        wanted, _ = apply(model, carry, ids)
        np.testing.assert_allclose(found[:, lane], wanted[:, lane], rtol=1e-13)
    assert not np.allclose(found[:, 0], found[:, 1])


@pytest.mark.parametrize("E", [H, 4])
def test_the_gradient_of_a_shared_matrix_is_the_sum_of_its_two_uses(E, x64, rng):
    """Central differences of the loops' loss, by the matrix as it is read and as it reads out."""
    params, masks = make_model(rng, readout="tied", embedding_size=E)
    ids = rng.integers(V, size=(T + 1, B))
    batch = Batch(jnp.asarray(ids[:-1]), jnp.asarray(ids[1:]))
    gradient = jax.jit(jax.grad(sequence_loss, has_aux=True), compiler_options=UNOPTIMIZED)
    found = gradient(params, init_carry(params, B), batch, masks)[0].embedding

    def loss(embedding_VxE, readout_VxE):
        readout = params.readout._replace(W=readout_VxE.T)
        apart = ModelParams(embedding_VxE, params.layers, readout)
        logits = language_model(apart, ids[:-1], masks)
        return oracle.cross_entropy(logits, ids[1:])[0]

    shared = np.array(params.embedding)
    for symbol in (ids[0, 0], ids[1, 1]):
        way = np.zeros_like(shared)
        way[symbol, rng.integers(E)] = 1e-5
        as_read = (loss(shared + way, shared) - loss(shared - way, shared)) / 2e-5
        as_readout = (loss(shared, shared + way) - loss(shared, shared - way)) / 2e-5
        slope = float(found[way > 0].item())
        assert slope == pytest.approx(as_read + as_readout, abs=1e-9)
        # Neither use is all of it, so a gradient that missed one would be noticed.
        assert abs(as_read) > 1e-6 and abs(as_readout) > 1e-6


def test_initial_readouts():
    key, H = jax.random.key(0), 40

    def init(**model):
        return jax.jit(lambda: init_model(key, ModelConfig(hidden_size=H, **model), 50))()

    tied = init(readout="tied", embedding_size=H)
    assert tied.readout.W is None and tied.readout.P is None
    assert float(tied.embedding.std()) == pytest.approx(H**-0.5, rel=0.1)
    wider = init(readout="tied", embedding_size=60)
    assert wider.readout.W is None and wider.readout.P.shape == (H, 60)
    low = init(readout_rank=4, num_layers=2, skip="weighted")
    assert low.readout.P.shape == (H, 4) and low.readout.W.shape == (4, 50)
    assert 0.45 < jnp.abs(low.readout.W).max() <= 0.5 and jnp.abs(low.readout.P).max() <= H**-0.5
    assert len(low.skips) == 1 and (low.skips[0] == jnp.ones(H)).all()
