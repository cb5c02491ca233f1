"""The embedded Reber grammar: from each symbol of a string, and all before it, the next one.

Experiment 1 of Hochreiter and Schmidhuber 1997, "Long Short-Term Memory" (Neural Computation 9);
`grammar` has the grammar. Its protocol, and what is chosen here where it says too little:

    data        256 strings to train on and 256 to test with, drawn at random; none of the second
                is one of the first. Among the first the same string may stand several times.
                The paper has three such pairs: `data.set` 1 to 3
    training    a string of the first set, picked at random, at each step; zero state before it
    inputs      seven symbols, one-hot; targets are the same of the symbol that comes next
    correct     a string, where at each step the outputs of all symbols that may come next are the
                most active ones: each more active than any other (`data.right=all`). That is how
                its text has it; some take it for the one most active output (`data.right=one`)
    solved      all strings of both sets are correct. How often that is tested the paper does not
                say

What differs: strings of more than 41 symbols, one in 24,000, are drawn again. So all fit into 40
steps.
"""

from dataclasses import dataclass
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from lstm_jax.data.batches import Batch
from lstm_jax.model import Interface, Masks, ModelParams
from lstm_jax.options import Section, option
from lstm_jax.tasks.drawn import SHOWN, DrawnTask, Score, Stopping, one_hot
from lstm_jax.tasks.grammar import SYMBOLS, draw_string, possible_after

STRINGS = 256  # of each set
STEPS = 40  # of the longest string, whose last symbol is not read
SETS_SEED = 1997


@dataclass(frozen=True)
class EmbeddedReberOptions(Section):
    prefix = "data."
    set: int = option(
        1, "which 256 strings to train on, and which 256 to test with", low=1, high=10**6
    )
    right: str = option(
        "all",
        "a step is right where all symbols that may come next are the most active outputs; or "
        "where the one most active output is one of them",
        choices=("all", "one"),
        decides="validation",
    )


def draw_sets(number: int) -> tuple[list[str], list[str]]:
    """The strings to train on, and those to test with, none of which is among the first."""
    rng = np.random.default_rng([SETS_SEED, number])
    trained: list[str] = []
    while len(trained) < STRINGS:
        if len(string := draw_string(rng)) <= STEPS + 1:
            trained.append(string)
    known, tested = {*trained}, list[str]()
    while len(tested) < STRINGS:
        if len(string := draw_string(rng)) <= STEPS + 1 and string not in known:
            tested.append(string)
    return trained, tested


def read_strings(strings: list[str]) -> Batch:
    """Strings side by side: of each symbol but the last, the next one."""
    ids_LxB = np.full((STEPS + 1, len(strings)), -1)
    for lane, string in enumerate(strings):
        ids_LxB[: len(string), lane] = [SYMBOLS.index(symbol) for symbol in string]
    live_TxB = ids_LxB[1:] >= 0
    return Batch(
        one_hot(ids_LxB[:-1], len(SYMBOLS)) * live_TxB[..., None],
        one_hot(ids_LxB[1:], len(SYMBOLS)) * live_TxB[..., None],
        mask=live_TxB,
        resets=np.broadcast_to(np.arange(STEPS)[:, None] == 0, live_TxB.shape),
        live=live_TxB,
    )


class EmbeddedReberTask(DrawnTask):
    """Next symbols in strings of the embedded Reber grammar."""

    Options = EmbeddedReberOptions
    interface = Interface(len(SYMBOLS), len(SYMBOLS), reads_ids=False, head="bernoulli")
    unit = "nats/symbol"
    stopping = Stopping(window=0)
    side_by_side = 2 * STRINGS
    meanings = MappingProxyType(
        {
            "loss": "on the strings of both sets",
            "wrong": "the share of the strings, of both sets, with a wrong step",
        }
    )

    def __init__(self, set: int, right: str, batch_size: int, seed: int) -> None:
        super().__init__(2 * STRINGS, batch_size, seed)
        self.set, self.right = set, right
        trained, self.tested = draw_sets(set)
        self.trained, self.both = read_strings(trained), read_strings(self.tested + trained)

    def describe(self) -> str:
        return (
            f"embedded Reber grammar, sets {self.set}: {STRINGS} strings to train on, {STRINGS} "
            "to test with"
        )

    def draw(self, rng: np.random.Generator, count: int) -> Batch:
        """So many strings of the training set."""
        lanes_B = rng.integers(STRINGS, size=count)
        return jax.tree.map(lambda values: values[:, lanes_B], self.trained)

    def held_out_part(self, n: int) -> Batch:
        """What a trial is tested with: both sets, those to test with first."""
        return self.both

    def right_steps(self, predictions_TxBx7: Array, batch: Batch) -> Array:
        """Where the most active outputs are of symbols that may come next, TxB."""
        possible_TxBx7 = possible_after(jnp.asarray(batch.inputs))
        others_TxB = jnp.where(possible_TxBx7, -jnp.inf, predictions_TxBx7).max(-1)
        if self.right == "one":
            return predictions_TxBx7.max(-1) > others_TxB
        return jnp.where(possible_TxBx7, predictions_TxBx7, jnp.inf).min(-1) > others_TxB

    def score(self, predictions_TxBxN: Array, batch: Batch) -> Score:
        """The mean squared error of a step, summed over outputs; and whether any step is wrong."""
        mask_TxB = jnp.asarray(batch.mask)
        errors_TxB = jnp.sum((predictions_TxBxN - batch.targets) ** 2, -1)
        return Score(
            jnp.mean(errors_TxB, axis=0, where=mask_TxB),
            jnp.any(mask_TxB & ~self.right_steps(predictions_TxBxN, batch), axis=0),
        )

    def sample(self, params: ModelParams, masks: Masks | None) -> str:
        """Some strings to test with, and how far each is processed correctly."""
        part, outputs_TxBx7 = next(self.held_out_outputs(params, masks))
        right_TxB = np.asarray(self.right_steps(jnp.asarray(outputs_TxBx7), part))
        lines = []
        for lane, string in enumerate(self.tested[:SHOWN]):
            wrong = np.flatnonzero(~right_TxB[: len(string) - 1, lane])
            said = f"wrong after {string[: wrong[0] + 1]}" if len(wrong) else "right"
            lines.append(f"{string}  {said}")
        return "\n".join(lines)
