"""Checkpoints of a run, kept by orbax: the latest few and the best by validation.

A checkpoint holds the whole TrainState (step, parameters, optimizer state, carry) and, as JSON,
what is needed to make sense of it: the config, the alphabet, the text's hash. Randomness follows
the step and needs no saving.

orbax is imported where the first checkpoint is written or read: it takes half as long to import as
JAX does, and a new run is well under way before it saves.
"""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from lstm_jax.config import Config, UserError, shown
from lstm_jax.data.vocabulary import Text, Vocabulary
from lstm_jax.memory import check_state_fits
from lstm_jax.train import TrainState, init_train_state

if TYPE_CHECKING:
    from orbax.checkpoint import CheckpointManager

FOLDER = "checkpoints"


class Description(NamedTuple):
    """What a run is: everything but its numbers."""

    config: Config
    vocabulary: Vocabulary
    text_sha256: str

    @classmethod
    def of(cls, config: Config, text: Text) -> "Description":
        return cls(config, text.vocabulary, text.sha256)

    def to_json(self) -> dict[str, Any]:
        return {
            "config": self.config.flatten(),
            "vocabulary": self.vocabulary.chars,
            "text_sha256": self.text_sha256,
        }

    def differences(self, other: dict[str, Any]) -> list[str]:
        """How this run differs from a described one (its `to_json`), a phrase each.

        The text is known by its hash, so it may lie elsewhere (data.path).
        """

        def flatten(described: dict[str, Any]) -> dict[str, Any]:
            # A run from before an option existed did without it, as its default does.
            config = {**Config().flatten(), **described["config"]}
            return {**config, "the text's sha256": described["text_sha256"]}

        here, there = flatten(self.to_json()), flatten(other)
        return [
            f"{key} is {shown(there.get(key))} there and {shown(value)} here"
            for key, value in here.items()
            if there.get(key) != value and key != "data.path"
        ]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Description":
        return cls(
            Config().replace(data["config"]), Vocabulary(data["vocabulary"]), data["text_sha256"]
        )


def _loss(metrics: dict[str, float]) -> float:
    return metrics["val_loss_stream"]


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, workdir: Path, keep: int = 2, *, read_only: bool = False) -> None:
        self._folder, self._keep, self._read_only = workdir / FOLDER, keep, read_only

    @cached_property
    def _manager(self) -> "CheckpointManager":
        """orbax's manager; makes the folder."""
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

        policies = [
            LatestN(self._keep),
            BestN(get_metric_fn=_loss, reverse=True, n=1, keep_checkpoints_without_metrics=False),
        ]
        return ocp.CheckpointManager(
            self._folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                best_fn=_loss,
                best_mode="min",
                read_only=self._read_only,
                create=not self._read_only,
                cleanup_tmp_directories=not self._read_only,  # what a killed run was writing
                preservation_policy=AnyPreservationPolicy(policies),
            ),
            item_names=("state", "description"),
        )

    def save(
        self, state: TrainState, description: Description, metrics: dict[str, float] | None
    ) -> None:
        """Saves in the background; with no metrics it cannot become the best one."""
        import orbax.checkpoint as ocp

        # A copy: the next dispatch takes the state's buffers while the writing still goes on.
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(jax.tree.map(jnp.copy, state)),
            description=ocp.args.JsonSave(description.to_json()),
        )
        step = int(state.step)
        if step not in self._manager.all_steps():
            self._manager.save(step, args=args, metrics=metrics)

    def latest_step(self) -> int | None:
        return self._manager.latest_step() if self._folder.is_dir() else None

    def best_step(self) -> int | None:
        """The step with the lowest validation loss; the latest where none was validated."""
        best = self._manager.best_step()
        return self.latest_step() if best is None else best

    def restore(self, step: int) -> tuple[TrainState, Description]:
        """The state at a step, every bit as it was saved, and what run it belongs to."""
        try:
            return self._restore(step)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"the checkpoint {self._folder / str(step)} cannot be read "
                f"({' '.join(str(error).split())[:200]}); move it away to use an older one"
            ) from error

    def _restore(self, step: int) -> tuple[TrainState, Description]:
        import orbax.checkpoint as ocp

        args = ocp.args.Composite(description=ocp.args.JsonRestore())
        description = Description.from_json(self._manager.restore(step, args=args)["description"])
        check_state_fits(description.config, len(description.vocabulary))
        shapes = jax.eval_shape(
            lambda: init_train_state(description.config, len(description.vocabulary))
        )
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=sharding), shapes
        )
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        return self._manager.restore(step, args=args)["state"], description

    def close(self) -> None:
        """Waits until everything is on disk."""
        if "_manager" in vars(self):  # otherwise nothing was ever read or written
            self._manager.wait_until_finished()
            self._manager.close()


def load_model(workdir: Path, which: str) -> tuple[TrainState, Description]:
    """The `best` or the `latest` checkpoint of a run folder."""
    if not (workdir / FOLDER).is_dir():
        raise UserError(
            f"{workdir} holds no {FOLDER} folder: train there first, or name another "
            "folder with --workdir"
        )
    checkpoints = Checkpoints(workdir, read_only=True)
    try:
        step = checkpoints.best_step() if which == "best" else checkpoints.latest_step()
        if step is None:
            raise UserError(f"{workdir / FOLDER} holds no checkpoint: train there first")
        return checkpoints.restore(step)
    finally:
        checkpoints.close()
