"""Saving and restoring a run; the only file that imports Orbax.

A checkpoint holds the whole `TrainState` and a JSON `position`: where the data stands (the step
itself), the best score, the state of early stopping and the open window of the log. Once it is
written, the SHA-256 of each of its files is put beside them, so that one that was damaged since is
known, and the one before it used. `sha256sum -c SHA256SUMS` in its folder does the same by hand.
"""

import concurrent.futures
import dataclasses
import hashlib
import logging as python_logging
import os
import re
import threading
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from wbc_jax.errors import CheckpointError
from wbc_jax.parallel import processes
from wbc_jax.training import steps
from wbc_jax.utils import atomic

BEST, LAST = "best", "last"
SUMS = "SHA256SUMS"
_TEMPORARY = ".orbax-checkpoint-tmp"
_CHUNK = 1 << 20


def _not_told_again(record: python_logging.LogRecord) -> bool:
    """Drops the pages that Orbax logs, from several threads, of an error that it raises as well."""
    return not (record.exc_info and f"{os.sep}orbax{os.sep}" in record.pathname)


logging.get_absl_logger().addFilter(_not_told_again)


class Checkpoints:
    """The best and the last checkpoints of a run, under `<workdir>/checkpoints`.

    Saving runs in the background and is atomic (Orbax writes to a temporary name and renames). Of
    several processes all must make the same calls.

    Args:
        workdir: the run's folder.
        keep_best, keep_last: how many of each stay (`config.checkpoint`).

    Attributes:
        folder: where they are.
    """

    def __init__(self, workdir: epath.PathLike, keep_best: int = 1, keep_last: int = 2):
        # Orbax refuses relative paths, and only once it writes in the background.
        folder = epath.Path(workdir) / "checkpoints"
        # (`absolute` would put the working folder before gs://.)
        self.folder = folder if folder.is_absolute() else folder.absolute()
        self._managers = {
            name: ocp.CheckpointManager(
                self.folder / name,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=keep,
                    create=True,
                    # Both save the same step, and processes must not take one for the other.
                    multiprocessing_options=ocp.options.MultiprocessingOptions(
                        barrier_sync_key_prefix=name
                    ),
                ),
            )
            for name, keep in ((BEST, keep_best), (LAST, keep_last))
        }
        self._saving: dict[str, int] = {}
        self._sums: dict[str, concurrent.futures.Future] = {}
        self._pool = concurrent.futures.ThreadPoolExecutor(2, "checksums")
        self._ended = threading.Event()
        self._newest: dict[str, int | None] = {}

    def save(
        self, which: str, step: int, state: steps.TrainState, position: dict[str, Any]
    ) -> None:
        """Saves under `best` or `last`; a step that is there already is left as it is.

        Raises:
            CheckpointError: this one, or one before it, could not be written (a full disk); what
                was written before stays.
        """
        manager = self._managers[which]
        if step in manager.all_steps():
            return
        # A newer `last` must not stand on disk before the `best` that it speaks of.
        for name, pending in list(self._saving.items()):
            if name == which or pending < step:
                self._finish(name)
        self._saving[which] = step
        self._newest.pop(which, None)
        try:
            manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_as_dict(state)),
                    position=ocp.args.JsonSave(position),
                ),
            )
        except Exception as error:
            raise self._failed(which, error) from error
        if processes.is_first():
            self._sums[which] = self._pool.submit(self._add_sums, self.folder / which / str(step))

    def latest_step(self, which: str) -> int | None:
        """Returns the newest step that is saved and whole, or None.

        A damaged one is passed over, which a warning says.
        """
        if which not in self._newest:
            self._newest[which] = self._find_newest(which)
        return self._newest[which]

    def repair(self) -> None:
        """Makes the folder ready to be gone on with; for the one who trains, before restoring.

        Removes what killed processes have left half-written, and damaged checkpoints, which
        warnings name. A best checkpoint that is lost so, while the last one of the same step is
        there, is copied from it: they hold the same.
        """
        processes.run_on_first(self._sweep)
        self._reload()
        if self.latest_step(LAST) is None:
            return
        best = self.position(LAST)["best_step"]
        steps_there = {name: manager.all_steps() for name, manager in self._managers.items()}
        if best in steps_there[LAST] and best not in steps_there[BEST]:
            processes.run_on_first(lambda: self._copy_to_best(best))
            self._reload()

    def _reload(self) -> None:
        for manager in self._managers.values():
            manager.reload()
        self._newest.clear()

    def restore(
        self, which: str, like: steps.TrainState
    ) -> tuple[steps.TrainState, dict[str, Any]]:
        """Returns the newest state, with `like`'s shapes and shardings, and its position.

        The number of processes and devices need not be that at saving.

        Raises:
            CheckpointError: there is none, or it does not fit `like`.
        """
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
            _as_dict(like),
        )
        found = self._read(which, state=ocp.args.StandardRestore(target))
        return _from_dict(found.state, like), found.position

    def position(self, which: str) -> dict[str, Any]:
        """Returns the position saved with the newest state.

        Raises:
            CheckpointError: there is none.
        """
        return self._read(which).position

    def wait(self) -> None:
        """Returns when everything is on disk.

        Raises:
            CheckpointError: something could not be written.
        """
        for which in list(self._saving):
            self._finish(which)

    def close(self) -> None:
        """Waits, then ends the background threads.

        Raises:
            CheckpointError: something could not be written.
        """
        try:
            self.wait()
        finally:
            self._ended.set()
            for manager in self._managers.values():
                try:
                    manager.close()
                except Exception as error:  # told by `wait` already
                    logging.debug("closing: %s", error)
            self._pool.shutdown()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            self.close()
        except CheckpointError:
            if kind is None:  # else the first error is the one to hear of
                raise

    def _read(self, which: str, **items: Any) -> Any:
        step = self.latest_step(which)
        if step is None:
            raise CheckpointError(f"{self.folder / which} holds no checkpoint; train first.")
        args = ocp.args.Composite(position=ocp.args.JsonRestore(), **items)
        try:
            return self._managers[which].restore(step, args=args)
        except (ValueError, KeyError, FileNotFoundError) as error:
            raise CheckpointError(
                f"{self.folder / which / str(step)} cannot be restored ({error}). Delete it to "
                "go on from the one before, or train into another --workdir."
            ) from error

    def _find_newest(self, which: str) -> int | None:
        steps_there = sorted(self._managers[which].all_steps(), reverse=True)
        found = -1
        if processes.is_first():
            for step in steps_there:
                path = self.folder / which / str(step)
                fault = damage(path)
                if fault is None:
                    found = step
                    break
                logging.warning("The checkpoint %s is damaged (%s).", path, fault)
            if steps_there and found != steps_there[0]:
                used = f"that of step {found} is used" if found >= 0 else "there is no other"
                logging.warning("Instead of the damaged checkpoint, %s.", used)
        if jax.process_count() > 1:
            found = int(multihost_utils.broadcast_one_to_all(np.int32(found)))
        return found if found >= 0 else None

    def _sweep(self) -> None:
        for which in (BEST, LAST):
            for path in _unfinished(self.folder / which):
                path.rmtree()
            for path in _steps(self.folder / which):
                fault = damage(path)
                if fault is not None:
                    logging.warning(
                        "The checkpoint %s is damaged (%s) and was removed; the one before it is "
                        "used, if there is one.",
                        path,
                        fault,
                    )
                    path.rmtree()

    def _copy_to_best(self, step: int) -> None:
        source = self.folder / LAST / str(step)
        copy = self.folder / BEST / f"{step}{_TEMPORARY}-copy"
        for name, file in {**_files(source), SUMS: source / SUMS}.items():
            if file.exists():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                file.copy(copy / name)
        copy.rename(self.folder / BEST / str(step))

    def _finish(self, which: str) -> None:
        """Waits for a save and for its checksums."""
        try:
            self._managers[which].wait_until_finished()
        except Exception as error:
            raise self._failed(which, error) from error
        if which in self._sums:
            self._sums.pop(which).result()
        self._saving.pop(which, None)

    def _failed(self, which: str, error: Exception) -> CheckpointError:
        """Forgets a save that failed, removes what there is of it, and says what to do."""
        self._ended.set()
        step = self._saving.pop(which)
        self._sums.pop(which, None)
        if processes.is_first():
            for path in _unfinished(self.folder / which):
                path.rmtree(missing_ok=True)
        there = [p.name for p in _steps(self.folder / which) if int(p.name) != step]
        kept = f"that of step {max(there, key=int)} stays" if there else "there is no other yet"
        return CheckpointError(
            f"the checkpoint of step {step} could not be written to {self.folder / which} "
            f"({_reason(error)}); {kept}. Free space or make the disk writable, and run the "
            "same command again to go on."
        )

    def _add_sums(self, path: epath.Path) -> None:
        """Writes the checksums of a checkpoint, once Orbax has given it its name."""
        while not path.exists() or not ocp.utils.is_checkpoint_finalized(path):
            if self._ended.wait(1 if atomic.is_remote(path) else 0.02):
                return
        write_sums(path)


def write_sums(path: epath.Path) -> None:
    """Writes the SHA-256 of each file of a checkpoint into its `SHA256SUMS`."""
    lines = [f"{_sha256(file)}  {name}\n" for name, file in _files(path).items()]
    if atomic.is_remote(path):  # whose objects appear whole
        (path / SUMS).write_text("".join(lines))
        return
    # Not by `atomic.write_text`, which would make the folder anew if it has gone meanwhile.
    temporary = path / f"{SUMS}.tmp"
    temporary.write_text("".join(lines))
    temporary.replace(path / SUMS)


def damage(path: epath.Path) -> str | None:
    """Returns what is wrong with a checkpoint's files, or None.

    One without checksums (its process was killed right after writing it, or it is of a version
    that had none) is taken for whole, as Orbax names a checkpoint only when all of it is written.
    """
    sums = path / SUMS
    if not sums.exists():
        return None
    there = _files(path)
    for line in sums.read_bytes().splitlines():
        try:
            wanted, name = line.decode().split("  ", 1)
        except ValueError:
            return f"{SUMS} has a line that is no checksum"
        if name not in there:
            return f"{name} is missing"
        if _sha256(there[name]) != wanted:
            return f"{name} is not what was written"
    return None


def _files(path: epath.Path) -> dict[str, epath.Path]:
    """A checkpoint's files by their name in it, without the checksums."""
    found: dict[str, epath.Path] = {}

    def look(folder: epath.Path, prefix: str) -> None:  # gs:// knows no `rglob`
        for entry in folder.iterdir():
            if entry.is_dir():
                look(entry, f"{prefix}{entry.name}/")
            elif not entry.name.startswith(SUMS):
                found[prefix + entry.name] = entry

    look(path, "")
    return dict(sorted(found.items()))


def _sha256(path: epath.Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _steps(folder: epath.Path) -> list[epath.Path]:
    """The checkpoints in a folder."""
    return [p for p in folder.iterdir() if p.name.isdigit()] if folder.exists() else []


def _unfinished(folder: epath.Path) -> list[epath.Path]:
    """What saves that did not come to their end have left."""
    entries = list(folder.iterdir()) if folder.exists() else []
    return [
        p
        for p in entries
        if _TEMPORARY in p.name or (p.name.isdigit() and not ocp.utils.is_checkpoint_finalized(p))
    ]


def _reason(error: Exception) -> str:
    """What the system said, if it did, else the first line of an error."""
    text = str(error).strip() or type(error).__name__
    code = re.search(r"os_error_code='(\d+)'", text)
    return os.strerror(int(code[1])) if code else text.splitlines()[0]


def any_saved(workdir: epath.PathLike) -> bool:
    """Returns whether a run's folder holds a checkpoint."""
    return any(_steps(epath.Path(workdir) / "checkpoints" / name) for name in (BEST, LAST))


def _as_dict(state: steps.TrainState) -> dict[str, Any]:
    fields = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    # Orbax refuses empty trees (no averaging, no batch normalisation).
    return {k: v for k, v in fields.items() if jax.tree.leaves(v)}


def _from_dict(values: dict[str, Any], like: steps.TrainState) -> steps.TrainState:
    return dataclasses.replace(like, **values)
