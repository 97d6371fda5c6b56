"""Saving and restoring a run. No other file imports Orbax.

A checkpoint holds the arrays of the training state and, as JSON, its `position`
(`training.position.Position`). Once it is written, the SHA-256 of each of its files is added: a
checkpoint that was damaged later is recognized and the one before it is used. `sha256sum -c
SHA256SUMS` in its folder does the same check by hand.
"""

import concurrent.futures
import dataclasses
import hashlib
import logging as python_logging
import os
import re
import threading
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from wbc_jax.errors import CheckpointError
from wbc_jax.parallel import processes
from wbc_jax.utils import atomic

T = TypeVar("T")
"""A training state: a dataclass of trees of arrays."""
BEST, LAST = "best", "last"
SUMS = "SHA256SUMS"
_TEMPORARY = ".orbax-checkpoint-tmp"
_CHUNK = 1 << 20


def _is_not_repeated(record: python_logging.LogRecord) -> bool:
    """Drops the tracebacks that Orbax logs, from several threads, of errors that it also raises."""
    return not (record.exc_info and f"{os.sep}orbax{os.sep}" in record.pathname)


logging.get_absl_logger().addFilter(_is_not_repeated)


class Checkpoints:
    """The best and the last checkpoints of a run, under `<workdir>/checkpoints`.

    Saving runs in the background and is atomic (Orbax writes under a temporary name and renames).
    All processes must make the same calls.

    Args:
        workdir: the run's folder.
        keep_best, keep_last: number of checkpoints of each kind to keep (`config.checkpoint`).

    Attributes:
        folder: `<workdir>/checkpoints`.
    """

    def __init__(self, workdir: epath.PathLike, keep_best: int = 1, keep_last: int = 2):
        # Orbax refuses relative paths, but only later, when it writes in the background.
        folder = epath.Path(workdir) / "checkpoints"
        # `absolute` would put the working folder before gs://.
        self.folder = folder if folder.is_absolute() else folder.absolute()
        self._managers = {
            name: ocp.CheckpointManager(
                self.folder / name,
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=keep,
                    create=True,
                    # Both managers save the same step: their barriers need different names.
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

    def save(self, which: str, step: int, state: Any, position: dict[str, Any]) -> None:
        """Saves under `best` or `last`, unless that step is saved there already.

        Args:
            which: `BEST` or `LAST`.
            step: steps done.
            state: a dataclass of trees of arrays.
            position: a JSON object.

        Raises:
            CheckpointError: this checkpoint, or one before it, could not be written (a full disk);
                the ones on disk stay.
        """
        manager = self._managers[which]
        if step in manager.all_steps():
            return
        # A newer `last` names its `best`, which must be on disk before it.
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
        """Returns the newest undamaged step, or None; warns of damaged checkpoints."""
        if which not in self._newest:
            self._newest[which] = self._find_newest(which)
        return self._newest[which]

    def repair(self) -> None:
        """Repairs the folder before training resumes; only training calls it, before `restore`.

        It removes unfinished checkpoints of killed processes, and damaged ones with a warning. If
        the best checkpoint is lost, but a last one of the same step is there, it is copied from
        that: both hold the same.
        """
        processes.run_on_first(self._remove_unusable)
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

    def restore(self, which: str, like: T) -> tuple[T, dict[str, Any]]:
        """Returns the newest state, with the shapes and shardings of `like`, and its position.

        The numbers of processes and devices may differ from those at saving.

        Raises:
            CheckpointError: there is no checkpoint, or it does not fit `like`.
        """
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding),
            _as_dict(like),
        )
        found = self._read(which, state=ocp.args.StandardRestore(target))
        return _from_dict(found.state, like), found.position

    def position(self, which: str) -> dict[str, Any]:
        """Returns the position of the newest checkpoint.

        Raises:
            CheckpointError: there is no checkpoint.
        """
        return self._read(which).position

    def wait(self) -> None:
        """Waits until all checkpoints are on disk.

        Raises:
            CheckpointError: one could not be written.
        """
        for which in list(self._saving):
            self._finish(which)

    def close(self) -> None:
        """Waits until all checkpoints are on disk, then ends the background threads.

        Raises:
            CheckpointError: one could not be written.
        """
        try:
            self.wait()
        finally:
            self._ended.set()
            for manager in self._managers.values():
                try:
                    manager.close()
                except Exception as error:  # `wait` has raised it already
                    logging.debug("closing: %s", error)
            self._pool.shutdown()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, *_) -> None:
        try:
            self.close()
        except CheckpointError:
            if kind is None:  # otherwise the first error is the one to report
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

    def _remove_unusable(self) -> None:
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
        """Removes the remains of a failed save and returns the error to raise."""
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
        """Writes the checksums of a checkpoint once Orbax has finished it."""
        while not path.exists() or not ocp.utils.is_checkpoint_finalized(path):
            if self._ended.wait(1 if atomic.is_remote(path) else 0.02):
                return
        write_sums(path)


def write_sums(path: epath.Path) -> None:
    """Writes the SHA-256 of each file of a checkpoint into its `SHA256SUMS`."""
    lines = [f"{_sha256(file)}  {name}\n" for name, file in _files(path).items()]
    if atomic.is_remote(path):  # writing an object is atomic
        (path / SUMS).write_text("".join(lines))
        return
    # `atomic.write_text` would create the folder again if it was removed meanwhile.
    temporary = path / f"{SUMS}.tmp"
    temporary.write_text("".join(lines))
    temporary.replace(path / SUMS)


def damage(path: epath.Path) -> str | None:
    """Returns a description of the damage to a checkpoint's files, or None.

    A checkpoint without checksums (its process was killed right after writing it, or its version
    had none) counts as undamaged: Orbax names a checkpoint only when all of it is written.
    """
    sums = path / SUMS
    if not sums.exists():
        return None
    there = _files(path)
    for line in sums.read_bytes().splitlines():
        try:
            wanted, name = line.decode().split("  ", 1)
        except ValueError:
            return f"{SUMS} has a line that is not a checksum"
        if name not in there:
            return f"{name} is missing"
        if _sha256(there[name]) != wanted:
            return f"{name} is not what was written"
    return None


def _files(path: epath.Path) -> dict[str, epath.Path]:
    """Returns a checkpoint's files by their relative names, without the checksums."""
    found: dict[str, epath.Path] = {}

    def search(folder: epath.Path, prefix: str) -> None:  # gs:// has no `rglob`
        for entry in folder.iterdir():
            if entry.is_dir():
                search(entry, f"{prefix}{entry.name}/")
            elif not entry.name.startswith(SUMS):
                found[prefix + entry.name] = entry

    search(path, "")
    return dict(sorted(found.items()))


def _sha256(path: epath.Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _steps(folder: epath.Path) -> list[epath.Path]:
    """Returns the checkpoints in a folder."""
    return [p for p in folder.iterdir() if p.name.isdigit()] if folder.exists() else []


def _unfinished(folder: epath.Path) -> list[epath.Path]:
    """Returns the checkpoints in a folder whose saving did not end."""
    entries = list(folder.iterdir()) if folder.exists() else []
    return [
        p
        for p in entries
        if _TEMPORARY in p.name or (p.name.isdigit() and not ocp.utils.is_checkpoint_finalized(p))
    ]


def _reason(error: Exception) -> str:
    """Returns the system's message, if the error has its code, else the first line of the error."""
    text = str(error).strip() or type(error).__name__
    code = re.search(r"os_error_code='(\d+)'", text)
    return os.strerror(int(code[1])) if code else text.splitlines()[0]


def any_saved(workdir: epath.PathLike) -> bool:
    """Returns whether a run's folder holds a checkpoint."""
    return any(_steps(epath.Path(workdir) / "checkpoints" / name) for name in (BEST, LAST))


def _as_dict(state: Any) -> dict[str, Any]:
    fields = {f.name: getattr(state, f.name) for f in dataclasses.fields(state)}
    # Orbax refuses empty trees (no averaging, no batch normalization).
    return {k: v for k, v in fields.items() if jax.tree.leaves(v)}


def _from_dict(values: dict[str, Any], like: T) -> T:
    return dataclasses.replace(like, **values)
