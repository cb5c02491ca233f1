"""The vanilla LSTM, whose gates see the cell state, and its variants: one step, its parts switched.

Greff, Srivastava, Koutník, Steunebrink and Schmidhuber 2017 (LSTM: A Search Space Odyssey), with
the peepholes of Gers and Schmidhuber 2000 (Recurrent nets that time and count): the input and the
forget gate read the cell state before the step, the output gate the one after it. Gates and marks
are those of `lstm`; the weights p act on each unit by itself. Whole it is the cell `peephole`.

Forward.

    (F1)  z_t = (m x_t) W + h~_t U + b
    (F2)  i = sigmoid(z^i + p_i c~_t), f = sigmoid(z^f + p_f c~_t), g = tanh(z^g)
    (F3)  c_t = f_t c~_t + i_t g_t
    (F4)  o = sigmoid(z^o + p_o c_t)
          h_t = o_t tanh(c_t)

Backward. dh_t and dc_t arrive at the state.

    (B1)  dz^o_t = dh_t tanh(c_t) o_t (1 - o_t)
          dc_t gains dh_t o_t (1 - tanh(c_t)^2) + dz^o_t p_o
    (B2)  dz^i_t = dc_t g_t  i_t (1 - i_t)
          dz^f_t = dc_t c~_t f_t (1 - f_t)
          dz^g_t = dc_t i_t  (1 - g_t^2)
    (B3)  dh~_t = dz_t U',  dc~_t = f_t dc_t + dz^i_t p_i + dz^f_t p_f
    (B4)  dU = sum_t h~_t' dz_t,  db = sum_t dz_t
          dp_i = sum_t dz^i_t c~_t,  dp_f = sum_t dz^f_t c~_t,  dp_o = sum_t dz^o_t c_t
    (B5)  dW = sum_t (m x_t)' dz_t,  dx_t = m (dz_t W')

Each variant changes one part. A gate without weights has no share in z, W, U, b and p.

    (V1)  no_input_gate           i = 1
    (V2)  no_forget_gate          f = 1
    (V3)  no_output_gate          o = 1
    (V4)  no_input_activation     g = z^g; the slope in dz^g is 1
    (V5)  no_output_activation    h = o c; in (B1) c stands for tanh(c), and its slope is 1
    (V6)  coupled_peephole        i = 1 - f; in dz^f c~ - g stands for c~
    (V7)  no_peepholes            p = 0, which is `lstm`
    (V8)  full_gate_recurrence    z^i, z^f and z^o gain [i~ f~ o~] R, the gates of the step before:
                                  [di~ df~ do~] = [dz^i dz^f dz^o] R', and dz takes in what arrives
                                  at the gate; dR = sum_t [i~ f~ o~]' [dz^i dz^f dz^o]

In the paper the coupled forget gate is 1 - i. That is the same cell, because 1 - sigmoid(z) is
sigmoid(-z); here it is as in `coupled`. There is no truncated rule: that of 1997 cuts what the
gates see of c as well as of h.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from lstm_jax.cells.cell import Cell, make_init_state, widths
from lstm_jax.cells.lstm import Forgetting, init_lstm
from lstm_jax.cells.lstm_gates import Gates, LSTMParams, LSTMState
from lstm_jax.cells.passes import Calculus, make_passes
from lstm_jax.cells.projection import outer_sum, project, project_backward


class PeepholeParams(NamedTuple):
    """One layer's parameters."""

    W: Array  # DxG, input weights
    U: Array  # HxG, recurrent weights
    b: Array  # G
    p_i: Array  # H, what the input gate sees of the cell state before
    p_f: Array  # H, and the forget gate
    p_o: Array  # H, what the output gate sees of the new cell state


class NoInputGateParams(NamedTuple):
    """(V1): the blocks of W, U and b are f g o."""

    W: Array
    U: Array
    b: Array
    p_f: Array
    p_o: Array


class NoForgetGateParams(NamedTuple):
    """(V2): i g o."""

    W: Array
    U: Array
    b: Array
    p_i: Array
    p_o: Array


class NoOutputGateParams(NamedTuple):
    """(V3): i f g."""

    W: Array
    U: Array
    b: Array
    p_i: Array
    p_f: Array


class FullGateRecurrenceParams(NamedTuple):
    """(V8)."""

    W: Array
    U: Array
    b: Array
    p_i: Array
    p_f: Array
    p_o: Array
    R: Array  # 3Hx3H, from the gates i f o before the step to these gates


# The type finds the cell, so that those with the leaves of another need one as well.
class NoInputActivationParams(PeepholeParams):
    """(V4)."""


class NoOutputActivationParams(PeepholeParams):
    """(V5)."""


class CoupledPeepholeParams(NoInputGateParams):
    """(V6)."""


class NoPeepholesParams(LSTMParams):
    """(V7)."""


class GatesState(NamedTuple):
    """What a layer with gate recurrence hands from a step to the next, BxH."""

    h: Array
    c: Array
    i: Array
    f: Array
    o: Array


BLOCKS = "ifgo"  # of W, U and b, where no gate is missing


class Parts(NamedTuple):
    """What of the vanilla LSTM a cell has, and what more."""

    input_gate: bool = True
    forget_gate: bool = True
    output_gate: bool = True
    input_activation: bool = True
    output_activation: bool = True
    coupled: bool = False
    peepholes: bool = True
    gate_recurrence: bool = False  # of three gates

    @property
    def gates(self) -> str:
        """The gates that have weights, of i f o."""
        has = {"i": self.input_gate and not self.coupled, "f": self.forget_gate}
        return "".join(gate for gate in "ifo" if has.get(gate, self.output_gate))

    @property
    def blocks(self) -> str:
        """The blocks of W, U and b, of i f g o."""
        return "".join(name for name in BLOCKS if name in self.gates + "g")

    @property
    def state(self) -> type[Any]:
        return GatesState if self.gate_recurrence else LSTMState


def split(names: str, blocks: Array) -> dict[str, Array]:
    """The blocks of the last axis by their names, a letter each."""
    return dict(zip(names, jnp.split(blocks, len(names), axis=-1), strict=True))


def join(names: str, of: dict[str, Array]) -> Array:
    """The named blocks side by side."""
    return jnp.concatenate([of[name] for name in names], axis=-1)


def peepholes(params: Any) -> dict[str, Array]:
    """The weights p that there are, by the gate."""
    return {gate: getattr(params, f"p_{gate}") for gate in "ifo" if hasattr(params, f"p_{gate}")}


def init(
    kind: type[Any],
    parts: Parts,
    key: Array,
    input_size: int,
    hidden_size: int,
    *,
    forget_bias: float = Forgetting.forget_bias,
    chrono: int = Forgetting.chrono,
    input_bound: float | None = None,
) -> Any:
    """As `init_lstm`, of which each variant has its blocks; p and R uniform in ±1/sqrt(H) too."""
    key_lstm, key_p, key_R = jax.random.split(key, 3)
    H, bound = hidden_size, hidden_size**-0.5
    lstm = init_lstm(
        key_lstm, input_size, H, forget_bias=forget_bias, chrono=chrono, input_bound=input_bound
    )
    leaves = {name: join(parts.blocks, split(BLOCKS, w)) for name, w in lstm._asdict().items()}
    if parts.peepholes:
        p_3xH = jax.random.uniform(key_p, (3, H), minval=-bound, maxval=bound)
        leaves |= {f"p_{gate}": p_3xH["ifo".index(gate)] for gate in parts.gates}
    if parts.gate_recurrence:
        leaves["R"] = jax.random.uniform(key_R, (3 * H, 3 * H), minval=-bound, maxval=bound)
    return kind(**leaves)


def opened(parts: Parts, gates: dict[str, Array]) -> Gates:
    """All four of a step: the gates that were computed, (V1) to (V3) and (V6)."""
    of: dict[str, Any] = {"i": 1, "f": 1, "o": 1, **gates}
    if parts.coupled:
        of["i"] = 1 - of["f"]
    return Gates(*(of[name] for name in BLOCKS))


def forward(parts: Parts, params: Any, before: Any, z_BxG: Array) -> tuple[Any, dict[str, Array]]:
    """(F1) to (F4); `z_BxG` is the input's share."""
    z = split(parts.blocks, z_BxG + before.h @ params.U)
    if parts.gate_recurrence:
        recurrent_Bx3H = join(parts.gates, before._asdict()) @ params.R
        for gate, share_BxH in split(parts.gates, recurrent_Bx3H).items():
            z[gate] = z[gate] + share_BxH
    p = peepholes(params)

    def look(name: str, c_BxH: Array) -> dict[str, Array]:
        if name not in parts.gates:
            return {}
        seen_BxH = z[name] + p[name][None] * c_BxH if name in p else z[name]
        return {name: jax.nn.sigmoid(seen_BxH)}

    kept = {"g": jnp.tanh(z["g"]) if parts.input_activation else z["g"]}
    kept |= look("i", before.c) | look("f", before.c)
    i, f, g, _ = opened(parts, kept)
    c = f * before.c + i * g
    kept |= look("o", c)
    h = opened(parts, kept).o * (jnp.tanh(c) if parts.output_activation else c)
    recurrent = {name: kept[name] for name in parts.gates} if parts.gate_recurrence else {}
    return parts.state(h=h, c=c, **recurrent), kept


def step(parts: Parts, params: Any, state: Any, z_BxG: Array) -> Any:
    """One step; `z_BxG` is the input's share, `x W + b`."""
    return forward(parts, params, state, z_BxG)[0]


class Weights(NamedTuple):
    """What a backward step multiplies by."""

    U_GxH: Array
    p: dict[str, Array]
    R_3Hx3H: Array | None  # transposed


def backward_weights(parts: Parts, params: Any, _: Array, truncated: bool) -> Weights:
    R = lax.optimization_barrier(params.R.T) if parts.gate_recurrence else None
    return Weights(lax.optimization_barrier(params.U.T), peepholes(params), R)


def backward(
    parts: Parts, weights: Weights, read: tuple[Array, Array], kept: dict[str, Array], d: Any
) -> tuple[Any, Array]:
    """(B1) to (B3): what arrives at the state before, and dz BxG."""
    i, f, g, o = opened(parts, kept)
    c_before, c = read
    dz: dict[str, Array] = {}

    def enter(name: str, dgate: Array) -> None:
        """dz of a gate with weights."""
        if name in parts.gates:
            dgate = dgate + getattr(d, name) if parts.gate_recurrence else dgate
            dz[name] = dgate * kept[name] * (1 - kept[name])

    def through_peepholes(gates: str) -> Array | int:
        return sum(dz[gate] * weights.p[gate][None] for gate in gates if gate in weights.p)

    squashed = jnp.tanh(c) if parts.output_activation else c
    slope = 1 - squashed * squashed if parts.output_activation else 1
    enter("o", d.h * squashed)
    dc = d.c + d.h * o * slope + through_peepholes("o")
    enter("i", dc * g)
    enter("f", dc * (c_before - g if parts.coupled else c_before))
    dz["g"] = dc * i * (1 - g * g if parts.input_activation else 1)
    dz_BxG = join(parts.blocks, dz)
    dbefore = {"h": dz_BxG @ weights.U_GxH, "c": f * dc + through_peepholes("if")}
    if weights.R_3Hx3H is not None:
        dbefore |= split(parts.gates, join(parts.gates, dz) @ weights.R_3Hx3H)
    return parts.state(**dbefore), dz_BxG


def collect(
    parts: Parts,
    params: Any,
    x: Array,
    mask_BxD: Array | None,
    before: Any,
    after: Any,
    kept: dict[str, Array],
    dz_TxBxG: Array,
) -> tuple[Any, Array | None]:
    """(B4), (B5)."""
    dz = split(parts.blocks, dz_TxBxG)
    dW, dx_TxBxD = project_backward(params.W, x, mask_BxD, dz_TxBxG)
    leaves = {"W": dW, "U": outer_sum(before.h, dz_TxBxG), "b": jnp.sum(dz_TxBxG, (0, 1))}
    seen = {"i": before.c, "f": before.c, "o": after.c}
    for gate in peepholes(params):
        leaves[f"p_{gate}"] = jnp.sum(dz[gate] * seen[gate], (0, 1))
    if parts.gate_recurrence:
        leaves["R"] = outer_sum(join(parts.gates, before._asdict()), join(parts.gates, dz))
    return params._replace(**leaves), dx_TxBxD


def make_cell(kind: type[Any], parts: Parts) -> Cell:
    """The cell of some parts, with parameters of a type of its own."""
    calculus = Calculus(
        forward_weights=lambda params, x: params,
        prepare=project,
        forward=partial(forward, parts),
        reads=lambda before, after: (before.c, after.c),
        backward_weights=partial(backward_weights, parts),
        backward=partial(backward, parts),
        collect=partial(collect, parts),
    )
    return Cell(
        params=kind,
        state=parts.state,
        init=partial(init, kind, parts),
        init_state=make_init_state(parts.state),
        prepare=project,
        step=partial(step, parts),
        widths=widths,
        recurrent=("U", "R") if parts.gate_recurrence else ("U",),
        options=(Forgetting,) if parts.forget_gate else (),
        by_hand={"rows": make_passes(calculus)},
    )


VANILLA: dict[str, Cell] = {
    "peephole": make_cell(PeepholeParams, Parts()),
    "no_input_gate": make_cell(NoInputGateParams, Parts(input_gate=False)),
    "no_forget_gate": make_cell(NoForgetGateParams, Parts(forget_gate=False)),
    "no_output_gate": make_cell(NoOutputGateParams, Parts(output_gate=False)),
    "no_input_activation": make_cell(NoInputActivationParams, Parts(input_activation=False)),
    "no_output_activation": make_cell(NoOutputActivationParams, Parts(output_activation=False)),
    "coupled_peephole": make_cell(CoupledPeepholeParams, Parts(coupled=True)),
    "no_peepholes": make_cell(NoPeepholesParams, Parts(peepholes=False)),
    "full_gate_recurrence": make_cell(FullGateRecurrenceParams, Parts(gate_recurrence=True)),
}
