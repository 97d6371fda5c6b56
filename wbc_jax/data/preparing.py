"""Writes the records of data sets: once, whole or not at all, one process at a time.

With `data.data_dir` in an object store, records are fetched from there and published to it.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator

import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from wbc_jax.config import Data
from wbc_jax.data import reading, records, sources
from wbc_jax.errors import DataError
from wbc_jax.utils import atomic

LEFT_OUT = "wbc_jax_left_out.json"
COMPLETE = "wbc_jax_complete"
"""File beside records in an object store: all of them have been uploaded."""


def is_prepared(name: str, data: Data) -> bool:
    """Returns whether `data.data_dir` holds the records of `name`."""
    made = sources.builder(name, data)
    there = _remote(made, data)
    return sources.has_records(made) or (there is not None and (there / COMPLETE).exists())


def prepare(name: str, data: Data) -> list[tuple[str, str]]:
    """Writes the records of `name` and their index, unless they exist.

    Records are written to a folder `incomplete.*` that is renamed at the end. If a process is
    killed, the next one that prepares the data set removes its folder and writes the same bytes.
    Processes on one machine take turns.

    Returns:
        Path and reason of each file that the records leave out (`data.on_bad_file='skip'`),
        whichever process wrote them.

    Raises:
        DataError: files are missing or bad, or the records cannot be written; says which, and what
            to do.
        ConfigError: the data set does not exist.
    """
    made = sources.builder(name, data)
    folder = sources.manual_dir(data)
    if atomic.is_remote(data.data_dir):
        with _alone(name, sources.local_dir(data) / made.name):
            _fetch(name, made, data)
        made = sources.builder(name, data)
    if _is_complete(made):
        made = sources.builder(name, data)  # another process may have written them since
        check = getattr(sources.builder_module(made.name), "check_same_folder", None)
        if check and folder:
            check(made, folder)
    else:
        try:
            with _alone(name, sources.local_dir(data) / made.name):
                # Another process may have written them while this one waited.
                made = sources.builder(name, data)
                if not _is_complete(made):
                    _write(name, made, data)
        except (OSError, RuntimeError) as error:
            if not _is_of_writing(error, made):
                raise
            raise DataError(
                f"{name}: the records could not be written to {made.data_dir} ({error}). Nothing "
                "half-written is left there: free space or make the disk writable and run this "
                "again, or set config.data.data_dir to another disk."
            ) from error
    left_out = _left_out(made)
    if left_out and data.on_bad_file == "error":
        raise DataError(
            f"{name}: the records in {made.data_dir} were made without {len(left_out)} bad files, "
            f"such as {left_out[0][0]}: {left_out[0][1]}. Set config.data.on_bad_file=skip to use "
            "them so, or mend the files, delete that folder and run this again."
        )
    if not (epath.Path(made.data_dir) / sources.INDEX).exists():
        sources.read_index(name, made, data.threads)
    _publish(name, made, data)
    return left_out


def _write(name: str, made: tfds.core.DatasetBuilder, data: Data) -> None:
    target = epath.Path(made.data_dir)
    if target.exists():  # a process was killed before it listed the files left out
        target.rmtree()
        made = sources.builder(name, data)
    tfds.disable_progress_bar()  # ours says more, and takes one line of a log
    with contextlib.ExitStack() as stack:
        stack.enter_context(records.fixed_order())
        stack.enter_context(reading.on_threads(data.threads, name))
        bad = stack.enter_context(reading.on_bad_file(data.on_bad_file))
        try:
            made.download_and_prepare(
                file_format="array_record",
                download_config=tfds.download.DownloadConfig(
                    manual_dir=sources.manual_dir(data) or None
                ),
            )
        except AssertionError as error:
            if "No examples were yielded" not in str(error):
                raise
            raise DataError(
                f"{name}: no record is left: {len(bad.files)} files are bad"
                + "".join(f"; {path}: {reason}" for path, reason in bad.files[:1])
            ) from error
    if bad.files:
        atomic.write_json(target / LEFT_OUT, bad.files)


def _is_complete(made: tfds.core.DatasetBuilder) -> bool:
    if not sources.has_records(made):
        return False
    listed = (epath.Path(made.data_dir) / LEFT_OUT).exists()
    return listed or not (made.info.metadata or {}).get("left_out_files", 0)


def _left_out(made: tfds.core.DatasetBuilder) -> list[tuple[str, str]]:
    path = epath.Path(made.data_dir) / LEFT_OUT
    if not path.exists():
        return []
    return [(name, reason) for name, reason in json.loads(path.read_text())]


def _is_of_writing(error: Exception, made: tfds.core.DatasetBuilder) -> bool:
    """Returns whether an error comes from writing records, not from reading files or from a bug."""
    if isinstance(error, OSError):
        root = os.fspath(made.data_dir_root)
        return error.filename is None or os.fspath(error.filename).startswith(root)
    return any(f"{call}() failed" in str(error) for call in ("write", "open", "close"))


@contextlib.contextmanager
def _alone(name: str, folder: epath.Path) -> Iterator[None]:
    """Locks a folder for this process, and removes what killed processes left in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        handle = os.open(folder, os.O_RDONLY)
        stack.callback(os.close, handle)  # unlocks; so does the end of the process
        if _lock(name, handle):
            for place in ("", "*/", "*/*/"):
                for leftover in folder.glob(f"{place}incomplete.*"):
                    leftover.rmtree() if leftover.is_dir() else leftover.unlink()
        yield


def _lock(name: str, handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logging.warning("%s: another process is writing it; waiting for its end.", name)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:  # a file system without locks
        return False
    return True


def _remote(made: tfds.core.DatasetBuilder, data: Data) -> epath.Path | None:
    """Returns a data set's folder in the object store; None if `data_dir` is not in one."""
    folder = epath.Path(data.data_dir).expanduser()
    if not atomic.is_remote(folder):
        return None
    return folder / os.path.relpath(made.data_dir, sources.local_dir(data))


def _fetch(name: str, made: tfds.core.DatasetBuilder, data: Data) -> None:
    """Copies a data set from the object store, if it is there and not on this disk."""
    there = _remote(made, data)
    if there is None or sources.has_records(made) or not (there / COMPLETE).exists():
        return
    print(f"{name}: copying records from {there} to {made.data_dir}", flush=True)
    here = epath.Path(made.data_dir)
    partial = here.parent / f"incomplete.{here.name}"
    if partial.exists():
        partial.rmtree()
    partial.mkdir(parents=True)
    for path in there.iterdir():
        if path.name != COMPLETE:
            path.copy(partial / path.name)
    if here.exists():
        here.rmtree()
    partial.rename(here)


def _publish(name: str, made: tfds.core.DatasetBuilder, data: Data) -> None:
    """Copies a data set to the object store, if `data_dir` is in one that lacks it."""
    there = _remote(made, data)
    if there is None or (there / COMPLETE).exists():
        return
    print(f"{name}: copying records to {there}", flush=True)
    for path in epath.Path(made.data_dir).iterdir():
        if not path.name.startswith("."):
            path.copy(there / path.name, overwrite=True)
    (there / COMPLETE).write_text("")  # last: it marks a complete copy
