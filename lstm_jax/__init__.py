"""LSTM sequence models in JAX: pure functions, and gradients that can be verified.

The map. Imports point one way, from the top of this list to its bottom.

    errors terminal container options files     errors in one line, output, limits, typed options
    data/           texts: fetch plays corpora batches texts (TOKENS: what a config asks for)
                    tokens (the contract) and its kinds: vocabulary octets words made_ids mapped
                    frequencies
    meshes precision pieces                     many devices, narrow dtypes, sequences in pieces
    cells/          CELLS; a cell is one file: lstm coupled layer_norm mogrifier vanilla gru
                    elman memory_blocks forgetting_blocks carousel
                    cell (the contract)  passes (the loops over time, forward and by hand)
                    projection (x W)  lstm_gates lstm_columns (parts of lstm)
    layer           one cell over time, in either direction or both
    heads           softmax squared bernoulli sigmoid_squared, each with its derivative by hand
    model_config model masks                    embedding, stack, readout; what is dropped
    transfer                                    one model's parameters as another's first ones
    loss            the mean over the targets that count
    gradients/      GRADIENTS; known  bptt (by hand)  bptt_layer  remat  weight_drop
                    lanes (several devices)  accumulation (a batch in parts)
    optimizer stalling averaging sample         steps, their rate and end, their averages; text as
                                                the model writes it
    scoring/        protocols  ensemble  monte_carlo  dynamic
    tasks/          TASKS; task (the contract); a task is one file: text; and of papers (drawn):
                    adding multiplication temporal_order two_sequences long_lags very_long_lags
                    embedded_reber continual_reber copy_memory digits
                    marked_pairs grammar (parts of two tasks)
    config                                      all that decides a run
    hyperparameters train                       what of it is data; the training step
    verification/   reference (NumPy)  cases  notebook  compare  audit  own_layer (check_layer)
    inspection/     what units do: traces surprise saturation reach features ranking choice
                    report (all of these)  archive (.npz)  packing  page (HTML, of web/)
    run/            a training run in its folder: loop, and what it takes turns with:
                    lock checksums signals peers processes (several) memory metrics description
                    storage checkpoint trained beginning nonfinite folder journal validation style
                    figures progress compiling many (runs side by side)
    interchange/    weights in and out: formats (all of them)  runs (folders); a library is one
                    file: torch flax_nnx haiku equinox keras notebook onnx stablehlo; parts:
                    net (what all have)  tensors names (the contract)  about safetensors own
                    libraries (imported late)

A new cell, head, task or optimizer is one file, or one function, and one line in its dict.
"""

from lstm_jax.cells import CELLS
from lstm_jax.cells.lstm import init_lstm
from lstm_jax.config import Config
from lstm_jax.data.batches import Batch
from lstm_jax.gradients import GRADIENTS
from lstm_jax.gradients.bptt_layer import bptt_layer
from lstm_jax.heads import HEADS, Head
from lstm_jax.layer import BothDirections, unroll, unroll_both
from lstm_jax.loss import sequence_loss
from lstm_jax.model import Interface, apply, init_carry, init_model
from lstm_jax.model_config import ModelConfig
from lstm_jax.run.checkpoint import load_model
from lstm_jax.run.loop import Run
from lstm_jax.run.trained import evaluate, sample_text
from lstm_jax.tasks import TASKS, Task

__all__ = [
    "CELLS",
    "GRADIENTS",
    "HEADS",
    "TASKS",
    "Batch",
    "BothDirections",
    "Config",
    "Head",
    "Interface",
    "ModelConfig",
    "Run",
    "Task",
    "apply",
    "bptt_layer",
    "evaluate",
    "init_carry",
    "init_lstm",
    "init_model",
    "load_model",
    "sample_text",
    "sequence_loss",
    "unroll",
    "unroll_both",
]
