"""A run that begins with another's best parameters: `--init_from`."""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from lstm_jax.config import Config
from lstm_jax.data.vocabulary import Vocabulary
from lstm_jax.errors import UserError, shorten
from lstm_jax.files import named
from lstm_jax.model import ModelParams, init_model
from lstm_jax.run.checkpoint import load_model
from lstm_jax.run.description import Description
from lstm_jax.tasks import Task
from lstm_jax.transfer import Places, places_of, symbol_axes, transfer


class Beginning(NamedTuple):
    """What a run begins with, and where that is from, for its description."""

    params: ModelParams
    begun_from: Mapping[str, Any]
    said: str


def begin_from(folder: str, config: Config, task: Task) -> Beginning:
    """The best parameters of the run in a folder (their average, where it has one), for a run of
    this config and task; UserError where they do not fit."""
    state, description = load_model(folder, "best")
    begun_from = {"workdir": str(named(folder)), "step": int(state.step)}
    try:
        check_kind(description, config, task)
        places, said = common_symbols(description, task)
        draw = jax.jit(init_model, static_argnums=(1, 2))
        drawn = draw(jax.random.key(config.train.seed), config.model, task.interface)
        axes = symbol_axes(config.model, task.interface)
        params = transfer(state.eval_params, drawn, axes, places)
    except UserError as error:
        raise UserError(f"--init_from={folder} does not fit this model: {error}") from error
    return Beginning(params, begun_from, f"begun from {folder}, step {int(state.step):,}{said}")


def check_kind(there: Description, config: Config, task: Task) -> None:
    """Refuses parameters that would mean something else, whatever their shapes."""
    pairs = {
        "model.cell": (there.config.model.cell, config.model.cell),
        "the interface's head": (there.interface.head, task.interface.head),
        "the interface's reads_ids": (there.interface.reads_ids, task.interface.reads_ids),
        "data.tokens": tuple(
            identity.get("tokens", Vocabulary.kind) for identity in (there.identity, task.identity)
        ),
    }
    for name, (a, b) in pairs.items():
        if a != b:
            raise UserError(f"{name} is {shorten(a)} there and {shorten(b)} here")


def common_symbols(there: Description, task: Task) -> tuple[Places | None, str]:
    """Where the symbols of both runs stand, and what becomes of the others, for people."""
    old, new = task.symbols_of(there.identity), task.symbols_of(task.identity)
    if old is None and new is None:
        return None, ""
    old, new = old or (), new or ()
    places = places_of(old, new)
    if not len(places.here):
        raise UserError("its alphabet has no symbol in common with this one")
    said = [
        f"{len(symbols):,} {what}: {listed(symbols)}"
        for what, symbols in (
            ("new symbols start fresh", without(new, old)),
            ("of its symbols are left out", without(old, new)),
        )
        if symbols
    ]
    return places, "".join(f"; {part}" for part in said)


def without(symbols: Sequence[Hashable], others: Sequence[Hashable]) -> list[Hashable]:
    """The symbols that are none of the others."""
    known = {*others}
    return [symbol for symbol in symbols if symbol not in known]


def listed(symbols: Sequence[Hashable], limit: int = 10) -> str:
    """The first symbols."""
    more = " …" if len(symbols) > limit else ""
    return " ".join(map(repr, symbols[:limit])) + more


def check_beginning(
    workdir: Path, recorded: Mapping[str, Any] | None, init_from: str | None, *, needed: bool
) -> None:
    """Refuses another beginning than the one that a folder's run had.

    Args:
      recorded: the run's `begun_from`.
      needed: whether it has no checkpoint yet, and begins now.
    """
    was = recorded["workdir"] if recorded else None
    if init_from is None:
        if was is not None and needed:
            raise UserError(
                f"{workdir} holds a run that was begun from {was} and has no checkpoint: give "
                f"--init_from={was}, or choose another --workdir"
            )
        return
    if was is None or named(was).resolve() != named(init_from).resolve():
        raise UserError(
            f"{workdir} holds a run that was begun from {was or 'scratch'}, not from {init_from}: "
            "choose another --workdir"
        )
