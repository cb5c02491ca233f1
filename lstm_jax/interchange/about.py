"""What a file of weights says of its model besides the weights: its config, its alphabet, its run.

config    the config values, as JSON
alphabet  the characters in their order, as they are; of other tokens, as JSON
run       the rest of what a run is (`Description`), as JSON
format    whose names the tensors have
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from lstm_jax.data.vocabulary import Vocabulary
from lstm_jax.errors import UserError, shorten
from lstm_jax.files import parse_json
from lstm_jax.model import Interface
from lstm_jax.run.description import Description


class About(NamedTuple):
    """What a file says: all of it, or the alphabet alone, or nothing."""

    description: Description | None = None
    alphabet: str | None = None  # in the file's order


def to_metadata(description: Description, name: str) -> dict[str, str]:
    """What a file in a named format is to say of a run."""
    run = description.to_json()
    config, identity = run.pop("config"), dict(run.pop("identity"))
    alphabet = identity.pop("alphabet", None)
    said = {"format": name, "config": json.dumps(config)}
    if alphabet is not None:
        said["alphabet"] = alphabet if isinstance(alphabet, str) else json.dumps(alphabet)
    return said | {"run": json.dumps(run | {"identity": identity})}


def from_metadata(said: Mapping[str, str]) -> About:
    """What a file's words say; UserError where they are damaged."""
    alphabet = said.get("alphabet")
    if "config" not in said or "run" not in said:
        return About(None, alphabet)
    try:
        run = parse_json(said["run"])
        identity = dict(run.pop("identity"))
        if alphabet is not None:
            kind = identity.get("tokens", Vocabulary.kind)
            own = kind == Vocabulary.kind
            identity["alphabet"] = alphabet if own else parse_json(alphabet)
        whole = run | {"config": parse_json(said["config"]), "identity": identity}
        return About(Description.from_json(whole), alphabet)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"what the file says of its run cannot be read ({error})") from error


def of_alphabet(alphabet: str) -> tuple[dict[str, Any], Interface]:
    """The identity and the interface of a text of some characters, which are sorted, as those of
    every text here; UserError where they are no alphabet."""
    if len({*alphabet}) != len(alphabet) or not alphabet:
        raise UserError(f"{shorten(alphabet)} is no alphabet: characters, each once")
    vocabulary = Vocabulary("".join(sorted(alphabet)))
    V = len(vocabulary)
    return {"alphabet": vocabulary.chars}, Interface(V, V)
