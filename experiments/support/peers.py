"""The same language model in other libraries, each written as its users would write it.

A peer starts from this project's weights and makes this project's training step, in float32. It
reads ids TxB as one-hot vectors, by L layers of LSTM from the state carried (and detached) and a
linear readout. Its loss is the mean softmax cross-entropy; the gradient is clipped by its global
norm and goes to Adam.
tests/experiments/test_benchmark.py holds every peer to it: the same losses, step after step.

A peer is imported by the function that makes it, so that none of them is needed.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from lstm_jax.cells.lstm import LSTMParams
from lstm_jax.container import usable_cpus
from lstm_jax.data.batches import Batch
from lstm_jax.model import ModelParams

LEARNING_RATE, CLIP_NORM = 1e-3, 1.0
CUDNN_WIDTH = 128

# A whole training step, done when `wait` of what it returns does: the loss before the update.
Step = Callable[[Batch], Any]
# A peer's own (params, carry, inputs TxB, targets TxB) -> (loss, carry).
SequenceLoss = Callable[[Any, Any, Array, Array], tuple[Array, Any]]

Make = Callable[[ModelParams, int], Step]  # from the weights (NumPy arrays) and the batch size B


def wait(loss: Any) -> Any:
    """The loss, once the step is done that made it, and with it all steps before.

    What a program of JAX puts out is ready at once. Torch's device does what it is given in order,
    and copies the loss last.
    """
    return jax.block_until_ready(loss) if isinstance(loss, Array) else loss.item()


def cross_entropy(logits_TxBxV: Array, targets_TxB: Array) -> Array:
    """The mean over all targets, in nats."""
    nll = optax.losses.softmax_cross_entropy_with_integer_labels(logits_TxBxV, targets_TxB)
    return jnp.mean(nll)


def jax_step(sequence_loss: SequenceLoss, params: Any, carry: Any) -> Step:
    """The training step of a JAX peer: compiled as one program, its state donated."""
    optimizer = optax.chain(optax.clip_by_global_norm(CLIP_NORM), optax.adam(LEARNING_RATE))

    def train_step(state: Any, inputs_TxB: Array, targets_TxB: Array) -> tuple[Any, Array]:
        params, opt_state, carry = state
        (loss, carry), grads = jax.value_and_grad(sequence_loss, has_aux=True)(
            params, carry, inputs_TxB, targets_TxB
        )
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state, carry), loss

    compiled = jax.jit(train_step, donate_argnums=0)
    state = (params, optimizer.init(params), carry)

    def step(batch: Batch) -> Array:
        nonlocal state
        state, loss = compiled(state, batch.inputs, batch.targets)
        return loss

    return step


def zeros(batch_size: int, hidden_size: int) -> tuple[Array, Array]:
    """Two states of zeros BxH, in buffers of their own: a buffer can be donated only once."""
    return jnp.zeros((batch_size, hidden_size)), jnp.zeros((batch_size, hidden_size))


def readout_of(params: ModelParams) -> tuple[np.ndarray, np.ndarray]:
    """W and b of a readout of one matrix, which is what all of them have."""
    W_HxV, b_V, _ = params.readout
    assert W_HxV is not None
    return np.asarray(W_HxV), np.asarray(b_V)


def layers_of(params: ModelParams) -> list[LSTMParams]:
    """The layers, which are all of this project's LSTM."""
    return [LSTMParams(*layer) for layer in params.layers]


def make_haiku(params: ModelParams, batch_size: int) -> Step:
    """hk.LSTM under hk.dynamic_unroll, a layer at a time (hk.DeepRNN takes as long).

    Its gates stand in the order i g f o, x and h share one matrix, and it adds 1 to the forget
    gate's bias itself.
    """
    import haiku as hk

    W_HxV, b_V = readout_of(params)
    H, V = W_HxV.shape

    def network(carry: tuple, inputs_TxB: Array) -> tuple[Array, tuple]:
        x, states = jax.nn.one_hot(inputs_TxB, V), []
        for n, state in enumerate(carry):
            x, state = hk.dynamic_unroll(hk.LSTM(H, name=f"layer_{n}"), x, state)
            states.append(state)
        return hk.Linear(V, name="readout")(x), tuple(states)

    def reorder(columns: np.ndarray) -> np.ndarray:
        i, f, g, o = np.split(columns, 4, axis=-1)
        return np.concatenate([i, g, f, o], axis=-1)

    forget_G = np.repeat(np.array([0, 1, 0, 0], np.float32), H)
    theirs = {"readout": {"w": jnp.array(W_HxV), "b": jnp.array(b_V)}}
    for n, (W_DxG, U_HxG, b_G) in enumerate(params.layers):
        theirs[f"layer_{n}/linear"] = {
            "w": jnp.array(reorder(np.concatenate([W_DxG, U_HxG]))),
            "b": jnp.array(reorder(b_G - forget_G)),
        }
    apply = hk.without_apply_rng(hk.transform(network)).apply

    def sequence_loss(params: Any, carry: Any, inputs_TxB: Array, targets_TxB: Array) -> Any:
        logits_TxBxV, carry = apply(params, carry, inputs_TxB)
        return cross_entropy(logits_TxBxV, targets_TxB), carry

    carry = tuple(hk.LSTMState(*zeros(batch_size, H)) for _ in params.layers)
    return jax_step(sequence_loss, theirs, carry)


def make_flax(params: ModelParams, batch_size: int) -> Step:
    """nnx.RNN over nnx.OptimizedLSTMCell, whose one bias is the recurrent layer's; carry (c, h)."""
    from flax import nnx

    W_HxV, b_V = readout_of(params)
    H, V = W_HxV.shape
    rngs = nnx.Rngs(0)

    class LanguageModel(nnx.Module):
        def __init__(self) -> None:
            self.layers = nnx.List([])
            for W_DxG, U_HxG, b_G in params.layers:
                cell = nnx.OptimizedLSTMCell(len(W_DxG), H, rngs=rngs)
                cell.dense_i.kernel[...] = jnp.array(W_DxG)
                cell.dense_h.kernel[...] = jnp.array(U_HxG)
                cell.dense_h.bias[...] = jnp.array(b_G)
                self.layers.append(nnx.RNN(cell, time_major=True, return_carry=True, rngs=False))
            self.readout = nnx.Linear(H, V, rngs=rngs)
            self.readout.kernel[...] = jnp.array(W_HxV)
            self.readout.bias[...] = jnp.array(b_V)

        def __call__(self, carry: tuple, inputs_TxB: Array) -> tuple[Array, tuple]:
            x, states = jax.nn.one_hot(inputs_TxB, V), []
            for layer, state in zip(self.layers, carry, strict=True):
                state, x = layer(x, initial_carry=state)
                states.append(state)
            return self.readout(x), tuple(states)

    graph, theirs = nnx.split(LanguageModel())

    def sequence_loss(params: Any, carry: Any, inputs_TxB: Array, targets_TxB: Array) -> Any:
        logits_TxBxV, carry = nnx.merge(graph, params)(carry, inputs_TxB)
        return cross_entropy(logits_TxBxV, targets_TxB), carry

    return jax_step(sequence_loss, theirs, tuple(zeros(batch_size, H) for _ in params.layers))


def make_equinox(params: ModelParams, batch_size: int) -> Step:
    """eqx.nn.LSTMCell in a scan for each layer, all of it vmapped over the batch; state (h, c)."""
    import equinox as eqx

    W_HxV, b_V = readout_of(params)
    H, V = W_HxV.shape
    key = jax.random.key(0)

    class LanguageModel(eqx.Module):
        layers: list
        readout: Any

        def __call__(self, carry: tuple, inputs_T: Array) -> tuple[Array, tuple]:
            x, states = jax.nn.one_hot(inputs_T, V), []
            for cell, state in zip(self.layers, carry, strict=True):

                def advance(state: tuple, x_D: Array, cell: Any = cell) -> tuple[tuple, Array]:
                    state = cell(x_D, state)
                    return state, state[0]

                state, x = jax.lax.scan(advance, state, x)
                states.append(state)
            return jax.vmap(self.readout)(x), tuple(states)

    cells = []
    for W_DxG, U_HxG, b_G in params.layers:
        cell = eqx.nn.LSTMCell(len(W_DxG), H, key=key)
        weights = jnp.array(W_DxG.T), jnp.array(U_HxG.T), jnp.array(b_G)
        cells.append(eqx.tree_at(lambda c: (c.weight_ih, c.weight_hh, c.bias), cell, weights))
    readout = eqx.tree_at(
        lambda linear: (linear.weight, linear.bias),
        eqx.nn.Linear(H, V, key=key),
        (jnp.array(W_HxV.T), jnp.array(b_V)),
    )

    def sequence_loss(model: Any, carry: Any, inputs_TxB: Array, targets_TxB: Array) -> Any:
        logits_TxBxV, carry = jax.vmap(model, (0, 1), (1, 0))(carry, inputs_TxB)
        return cross_entropy(logits_TxBxV, targets_TxB), carry

    carry = tuple(zeros(batch_size, H) for _ in cells)
    return jax_step(sequence_loss, LanguageModel(cells, readout), carry)


def torch_device() -> str:
    """Where torch computes: where JAX does. On a GPU, JAX rounds float32 products to TF32 by
    default; there torch is allowed it too."""
    import torch

    if jax.default_backend() == "cpu":
        return "cpu"
    torch.set_float32_matmul_precision("high")
    return "cuda"


def fill_torch(module: Any, weights: Mapping[str, np.ndarray]) -> None:
    """Copies weights into a torch module's parameters, by their names."""
    import torch

    with torch.no_grad():
        for name, array in weights.items():
            getattr(module, name).copy_(torch.tensor(array))


def torch_readout(params: ModelParams, device: str) -> Any:
    import torch

    W_HxV, b_V = readout_of(params)
    H, V = W_HxV.shape
    readout = torch.nn.Linear(H, V)
    fill_torch(readout, {"weight": W_HxV.T, "bias": b_V})
    return readout.to(device)


def torch_lstm(layers: Sequence[LSTMParams], device: str) -> Any:
    """nn.LSTM of some layers. Of its two biases, which would each take an Adam step, the second is
    frozen at zero."""
    import torch

    (D, _), (H, _) = layers[0].W.shape, layers[0].U.shape
    lstm = torch.nn.LSTM(D, H, len(layers))
    for n, (W_DxG, U_HxG, b_G) in enumerate(layers):
        weights = {"weight_ih": W_DxG.T, "weight_hh": U_HxG.T, "bias_ih": b_G, "bias_hh": 0 * b_G}
        fill_torch(lstm, {f"{name}_l{n}": np.asarray(each) for name, each in weights.items()})
        getattr(lstm, f"bias_hh_l{n}").requires_grad_(False)
    return lstm.to(device)


def widen(layers: Sequence[LSTMParams], width: int) -> list[LSTMParams]:
    """Layers whose input has more columns, with weights of 0, which stay 0: an input that is
    always 0 has no gradient."""
    first, *others = layers
    D, G = first.W.shape
    wider: Any = np.concatenate([first.W, np.zeros((width - D, G), first.W.dtype)])
    return [first._replace(W=wider), *others]


def one_hot_width(vocabulary_size: int, device: str) -> int:
    """The columns of the one-hot vectors: for cuDNN a multiple of 128, which torch asks for before
    it takes a persistent kernel."""
    if device == "cpu":
        return vocabulary_size
    return -(-vocabulary_size // CUDNN_WIDTH) * CUDNN_WIDTH


def make_torch(
    params: ModelParams,
    batch_size: int,
    threads: int | None = None,
    narrow: str = "",
    apart: bool = False,
    device: str = "",
) -> Step:
    """nn.LSTM over the whole sequence, one call for all layers; by default on all processors.

    Args:
      narrow: bfloat16 or float16 in torch's automatic mixed precision, whose weights stay float32.
        With float16 the loss is scaled, as it has to be.
      apart: a call for each layer. Torch takes cuDNN's persistent kernels for one layer, in
        float16, of at most 1,024 units, a multiple of 128 (aten/src/ATen/native/cudnn/RNN.cpp).
      device: torch's name for it; where JAX computes, if it is left out.
    """
    import torch
    from torch.nn import functional

    device = device or torch_device()
    W_HxV, _ = readout_of(params)
    H, V = W_HxV.shape
    width = one_hot_width(V, device)
    layers = widen(layers_of(params), width)
    stack = [torch_lstm(part, device) for part in ([[x] for x in layers] if apart else [layers])]
    readout = torch_readout(params, device)
    modules = torch.nn.ModuleList([*stack, readout])
    trained = [p for p in modules.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=LEARNING_RATE, fused=True)
    scaler = torch.amp.GradScaler(device, enabled=narrow == "float16")
    dtype = getattr(torch, narrow or "bfloat16")
    eye_VxV = torch.eye(V, width, device=device)  # its rows are the one-hot vectors
    states = [
        tuple(torch.zeros(lstm.num_layers, batch_size, H, device=device) for _ in "hc")
        for lstm in stack
    ]

    def loss_of(inputs_TxB: Any, targets_TxB: Any) -> Any:
        x = eye_VxV[inputs_TxB]
        for n, lstm in enumerate(stack):
            x, state = lstm(x, states[n])
            states[n] = tuple(s.detach() for s in state)
        return functional.cross_entropy(readout(x).flatten(0, 1), targets_TxB.flatten())

    def step(batch: Batch) -> Any:
        if device == "cpu":
            torch.set_num_threads(threads or usable_cpus())
        ids = [to_torch(ids_TxB, device) for ids_TxB in (batch.inputs, batch.targets)]
        with torch.autocast(device, dtype, enabled=bool(narrow)):
            loss = loss_of(*ids)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(trained, CLIP_NORM)
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return step


def to_torch(ids_TxB: Any, device: str) -> Any:
    """Ids on torch's device, without waiting for it."""
    import torch

    ids = torch.from_numpy(ids_TxB)
    ids = ids if device == "cpu" else ids.pin_memory().to(device, non_blocking=True)
    return ids.long()


def cudnn_lstm(x_BxTxD: Array, h_LxBxH: Array, c_LxBxH: Array, weights_P: Array) -> Any:
    """cuDNN's LSTM as JAX has it, products in TF32: (outputs BxTxH, h, c)."""
    from jax.experimental import rnn

    (B, T, D), (L, _, H) = x_BxTxD.shape, h_LxBxH.shape
    lengths_B = jnp.full((B,), T, jnp.int32)
    return rnn.lstm(x_BxTxD, h_LxBxH, c_LxBxH, weights_P, lengths_B, D, H, L, 0.0, False)


def make_cudnn(params: ModelParams, batch_size: int) -> Step:
    """jax.experimental.rnn.lstm, whose weights are one vector: the matrices layer by layer, each as
    GxD and GxH, and then the biases. The second bias of a layer stays 0, as in `torch_lstm`."""
    W_HxV, b_V = readout_of(params)
    H, V = W_HxV.shape
    width = one_hot_width(V, "cuda")
    layers = widen(layers_of(params), width)
    matrices = [matrix.T.ravel() for W_DxG, U_HxG, _ in layers for matrix in (W_DxG, U_HxG)]
    theirs = {
        "matrices": jnp.array(np.concatenate(matrices)),
        "b_LxG": jnp.array(np.stack([b_G for *_, b_G in layers])),
        "readout": (jnp.array(W_HxV), jnp.array(b_V)),
    }

    def sequence_loss(params: Any, carry: Any, inputs_TxB: Array, targets_TxB: Array) -> Any:
        b_LxG, (W_HxV, b_V) = params["b_LxG"], params["readout"]
        biases = jnp.stack([b_LxG, jnp.zeros_like(b_LxG)], 1).ravel()
        weights = jnp.concatenate([params["matrices"], biases])
        x_BxTxD = jax.nn.one_hot(inputs_TxB.T, width)
        h_BxTxH, h_LxBxH, c_LxBxH = cudnn_lstm(x_BxTxD, carry[0], carry[1], weights)
        logits_BxTxV = h_BxTxH @ W_HxV + b_V
        return cross_entropy(logits_BxTxV, targets_TxB.T), (h_LxBxH, c_LxBxH)

    carry = tuple(jnp.zeros((len(layers), batch_size, H)) for _ in "hc")
    return jax_step(sequence_loss, theirs, carry)


# (prompt of ids, length, num_samples) -> ids num_samples x length, at temperature 1.
Sampler = Callable[[np.ndarray, int, int], np.ndarray]


def make_torch_sampler(params: ModelParams, threads: int | None = None) -> Sampler:
    """nn.LSTMCell, which for single steps is faster than nn.LSTM: that packs its weights at
    every call."""
    import torch

    W_HxV, _ = readout_of(params)
    H, V = W_HxV.shape
    device = torch_device()
    readout, eye_VxV = torch_readout(params, device), torch.eye(V, device=device)
    cells = []
    for W_DxG, U_HxG, b_G in params.layers:
        cell = torch.nn.LSTMCell(len(W_DxG), H)
        weights = {"weight_ih": W_DxG.T, "weight_hh": U_HxG.T, "bias_ih": b_G, "bias_hh": 0 * b_G}
        fill_torch(cell, weights)
        cells.append(cell.to(device))

    @torch.inference_mode()
    def generate(prompt: np.ndarray, length: int, num_samples: int) -> np.ndarray:
        torch.set_num_threads(threads or usable_cpus())
        zero_BxH = torch.zeros(num_samples, H, device=device)
        states = [(zero_BxH, zero_BxH) for _ in cells]

        def read(ids_B: Any) -> Any:
            x = eye_VxV[ids_B]
            for n, cell in enumerate(cells):
                states[n] = cell(x, states[n])
                x = states[n][0]
            return readout(x)

        for ids_B in torch.tensor(prompt, device=device).long()[:, None].expand(-1, num_samples):
            logits_BxV = read(ids_B)
        written = []
        for _ in range(length):
            ids_Bx1 = torch.multinomial(torch.softmax(logits_BxV, -1), 1)
            written.append(ids_Bx1)
            logits_BxV = read(ids_Bx1[:, 0])
        return torch.cat(written, 1).cpu().numpy()

    return generate


PEERS: dict[str, Make] = {
    "haiku": make_haiku,
    "flax": make_flax,
    "equinox": make_equinox,
    "torch": make_torch,
}


def why_missing(name: str) -> str | None:
    """Why a peer cannot take part here; None where it can."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name in (name, None):
            return "not installed; pip install '.[peers]'"
        return f"cannot be imported: {error}"
    except Exception as error:  # one that does not suit this JAX, say: its reason, not our end
        return f"cannot be imported: {type(error).__name__}: {error}"
    if name == "torch" and jax.default_backend() != "cpu" and not module.cuda.is_available():
        return (
            f"has no {jax.default_backend()} here, where JAX has one; install a build of it for "
            "that (pytorch.org says which)"
        )
    return None


def why_no_cudnn() -> str | None:
    """Why cuDNN's LSTM cannot be called by JAX here; None where it can."""
    try:
        from jax.experimental import rnn
    except ImportError as error:
        return f"this JAX has no jax.experimental.rnn: {error}"
    if getattr(rnn.gpu_rnn, "_cuda_rnn", None) is None:
        return "needs JAX for NVIDIA GPUs; pip install 'jax[cuda13]'"
    return None
