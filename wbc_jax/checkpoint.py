"""Saving and restoring a run; the only file that imports Orbax.

A checkpoint holds the whole `TrainState` and a JSON `position`: where the data stands (the step
itself), the best score, the state of early stopping and the open window of the log.
"""

import dataclasses
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from wbc_jax import steps

BEST, LAST = "best", "last"
KEEP_LAST = 2


class CheckpointError(RuntimeError):
    """A checkpoint is missing or cannot be used."""


class Checkpoints:
    """The best and the last checkpoints of a run, under `<workdir>/checkpoints`.

    Saving runs in the background and is atomic (Orbax writes to a temporary name and renames).

    Attributes:
        folder: where they are.
    """

    def __init__(self, workdir: epath.PathLike):
        # Orbax refuses relative paths, and only once it writes in the background.
        folder = epath.Path(workdir) / "checkpoints"
        # (`absolute` would put the working folder before gs://.)
        self.folder = folder if folder.is_absolute() else folder.absolute()
        self._managers = {
            name: ocp.CheckpointManager(
                self.folder / name,
                options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
            )
            for name, keep in ((BEST, 1), (LAST, KEEP_LAST))
        }

    def save(
        self, which: str, step: int, state: steps.TrainState, position: dict[str, Any]
    ) -> None:
        """Saves under `best` or `last`; a step that is there already is left as it is."""
        manager = self._managers[which]
        if step in manager.all_steps():
            return
        manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(_as_dict(state)), position=ocp.args.JsonSave(position)
            ),
        )

    def latest_step(self, which: str) -> int | None:
        """Returns the newest saved step, or None."""
        return self._managers[which].latest_step()

    def restore(
        self, which: str, like: steps.TrainState
    ) -> tuple[steps.TrainState, dict[str, Any]]:
        """Returns the newest state, with `like`'s shapes and shardings, and its position.

        Raises:
            CheckpointError: there is none, or it does not fit `like`.
        """
        step = self.latest_step(which)
        if step is None:
            raise CheckpointError(f"{self.folder / which} holds no checkpoint; train first.")
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
            _as_dict(like),
        )
        try:
            found = self._managers[which].restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(target), position=ocp.args.JsonRestore()
                ),
            )
        except (ValueError, KeyError, FileNotFoundError) as error:
            raise CheckpointError(
                f"{self.folder / which / str(step)} cannot be restored ({error}). Delete it to "
                "go on from the one before, or train into another --workdir."
            ) from error
        return _from_dict(found.state, like), found.position

    def position(self, which: str) -> dict[str, Any]:
        """Returns the position saved with the newest state.

        Raises:
            CheckpointError: there is none.
        """
        step = self.latest_step(which)
        if step is None:
            raise CheckpointError(f"{self.folder / which} holds no checkpoint; train first.")
        args = ocp.args.Composite(position=ocp.args.JsonRestore())
        return self._managers[which].restore(step, args=args).position

    def wait(self) -> None:
        """Returns when everything is on disk."""
        for manager in self._managers.values():
            manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then ends the background threads."""
        for manager in self._managers.values():
            manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def any_saved(workdir: epath.PathLike) -> bool:
    """Returns whether a run's folder holds a checkpoint."""
    folders = [epath.Path(workdir) / "checkpoints" / name for name in (BEST, LAST)]
    return any(p.name.isdigit() for f in folders if f.exists() for p in f.iterdir())


def _as_dict(state: steps.TrainState) -> dict[str, Any]:
    fields = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    # Orbax refuses empty trees (no averaging, no batch normalisation).
    return {k: v for k, v in fields.items() if jax.tree.leaves(v)}


def _from_dict(values: dict[str, Any], like: steps.TrainState) -> steps.TrainState:
    return dataclasses.replace(like, **values)
