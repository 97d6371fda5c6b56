"""A folder of results: only files that this program wrote are replaced, by one process at a time.

`<folder>/.wbc_jax` holds a manifest of the files with their hashes, and a lock. A file that is not
in the manifest, or has changed since, belongs to a person and is neither replaced nor deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import filelock
from etils import epath

from wbc_jax.errors import InputError
from wbc_jax.utils import atomic
from wbc_jax.utils.json_lines import JsonLines

STATE = ".wbc_jax"
"""Folder inside a folder of results, with the files below."""
MANIFEST, LOCK, OWNER = "files.jsonl", "lock", "owner.json"


def written(folder: epath.PathLike) -> dict[str, set[str]]:
    """Returns the SHA-256 of each version of each file that was written to a folder of results.

    Args:
        folder: any folder.

    Returns:
        Hashes by path relative to the folder; empty if it is not a folder of results.
    """
    found: dict[str, set[str]] = {}
    for path in sorted((epath.Path(folder) / STATE).glob(f"*{MANIFEST}")):
        for line in JsonLines(path).read():
            if line.keys() >= {"file", "sha256"}:
                found.setdefault(line["file"], set()).add(line["sha256"])
    return found


def refuse_foreign(folder: epath.PathLike, names: Iterable[str], flag: str = "--out") -> None:
    """Checks that files which are about to be written do not exist, or were written by us.

    Args:
        folder: the folder of results.
        names: paths relative to it.
        flag: the flag that names the folder, for the message.

    Raises:
        InputError: a file is not in the manifest, or has changed; names it and the remedy.
    """
    folder = epath.Path(folder).expanduser()
    if not folder.exists():
        return
    ours = written(folder)
    for name in names:
        path = folder / name
        if not path.exists():
            continue
        remedy = f"move it away, or name another {flag}"
        if path.is_dir():
            raise InputError(
                f"{path} is a folder, and a file of that name is to be written: {remedy}."
            )
        if name not in ours:
            raise InputError(
                f"{path} was not written by an earlier call with {flag}={folder}, so it is not "
                f"replaced: {remedy}."
            )
        if _digest(path) not in ours[name]:
            raise InputError(
                f"{path} has changed since an earlier call wrote it, so it is not replaced: "
                f"{remedy}."
            )


def _digest(path: epath.Path) -> str:
    """Returns the SHA-256 of a file of any size."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            found.update(block)
    return found.hexdigest()


def refuse_other_json(path: epath.PathLike, keys: Iterable[str], flag: str = "--out") -> None:
    """Checks that a JSON file about to be written does not exist, or holds what we write.

    Args:
        path: the file.
        keys: of the object that we write.
        flag: the flag that names the file, for the message.

    Raises:
        InputError: it holds something else.
    """
    path = epath.Path(path).expanduser()
    if not path.exists():
        return
    try:
        there = json.loads(path.read_bytes())
    except (OSError, ValueError):
        there = None
    if not isinstance(there, dict) or not there.keys() >= set(keys):
        raise InputError(
            f"{path} holds something else than this command writes, so it is not replaced: move it "
            f"away, or name another {flag}."
        )


def check(folder: epath.PathLike, names: Iterable[str], flag: str = "--out") -> None:
    """Checks before any work that a folder can be written and holds no foreign file.

    Args and errors as in `refuse_foreign`; the folder is made if missing.

    Raises:
        OSError: the folder cannot be written.
    """
    atomic.check_writable(folder)
    refuse_foreign(folder, names, flag)


class OutputFolder:
    """A folder of results that one process writes; use it as a context manager.

    Object stores (`gs://`) have no locks: there, two processes with one folder are not noticed.

    Args:
        path: the folder, made if missing.
        flag: the flag that names it, for messages.
        part: processes with different parts may write at the same time.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: epath.PathLike, flag: str = "--out", part: str = ""):
        self.path = epath.Path(path).expanduser()
        self._flag, self._part = flag, part
        self._state = self.path / STATE
        self._manifest = JsonLines(self._state / f"{part}{MANIFEST}")
        self._lock: filelock.BaseFileLock | None = None
        self._made: list[epath.Path] = []
        self._listed: set[tuple[str, str]] | None = None  # in the manifest; None: not read yet

    def __enter__(self) -> OutputFolder:
        """Locks the folder.

        Raises:
            InputError: another process writes to it; names its host and process.
            OSError: the folder cannot be written.
        """
        if atomic.is_remote(self.path):
            return self
        folders = (self._state, self.path, *self.path.parents)
        self._made = [folder for folder in folders if not folder.exists()]
        self._state.mkdir(parents=True, exist_ok=True)
        owner = self._state / f"{self._part}{OWNER}"
        lock = filelock.FileLock(self._state / f"{self._part}{LOCK}", timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise InputError(
                f"{self.path} is being written by {_describe_owner(owner)}: wait until it is done, "
                f"or name another {self._flag}."
            ) from None
        except NotImplementedError:
            return self  # a file system without locks
        self._lock = lock
        about = {"host": socket.gethostname(), "process": os.getpid(), "since": time.time()}
        atomic.write_json(owner, about)
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is None:
            return
        lock = self._state / f"{self._part}{LOCK}"
        with contextlib.suppress(OSError):
            (self._state / f"{self._part}{OWNER}").unlink(missing_ok=True)
            if self._made and {path.name for path in self._state.iterdir()} == {lock.name}:
                lock.unlink()
        self._lock.release()
        self._lock = None
        # Nothing was written: folders that were made for it go again, if they are empty.
        with contextlib.suppress(OSError):
            for folder in self._made:
                os.rmdir(folder)

    def refuse_foreign(self, names: Iterable[str]) -> None:
        """Calls `refuse_foreign` for this folder."""
        refuse_foreign(self.path, names, self._flag)

    def write(self, files: Mapping[str, bytes]) -> None:
        """Writes files, each whole or not at all. Call `refuse_foreign` with their names before.

        The manifest lists them first, so that a killed process leaves no file that is not in it.

        Args:
            files: contents by path relative to the folder.

        Raises:
            OSError: a file cannot be written.
        """
        self._record(files)
        for name, data in files.items():
            atomic.write_bytes(self.path / name, data)

    @contextlib.contextmanager
    def writing(self, name: str) -> Iterator[epath.Path]:
        """Yields a temporary path; at the end, the file written there is `name`; see `write`."""
        with atomic.atomic_write(self.path / name) as temporary:
            yield temporary
            self._list({(name, _digest(temporary))})

    def _record(self, files: Mapping[str, bytes]) -> None:
        self._list({(name, hashlib.sha256(data).hexdigest()) for name, data in files.items()})

    def _list(self, found: set[tuple[str, str]]) -> None:
        if self._listed is None:
            self._listed = {
                (name, digest) for name, digests in written(self.path).items() for digest in digests
            }
        new = sorted(found - self._listed)
        self._manifest.append({"file": name, "sha256": digest} for name, digest in new)
        self._listed |= found

    def write_text(self, name: str, text: str) -> None:
        """Writes UTF-8 text; see `write`."""
        self.write({name: text.encode("utf-8")})

    def write_json(self, name: str, value: Any) -> None:
        """Writes indented JSON; NaN and infinities become null. See `write`."""
        self.write_text(name, atomic.json_text(value))

    def write_csv(
        self, name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]
    ) -> None:
        """Writes a table as `atomic.write_csv` does; see `write`."""
        self.write_text(name, atomic.csv_table(rows, columns))

    def remove(self, name: str) -> None:
        """Deletes a file of an earlier call, if it is there and has not changed."""
        path = self.path / name
        if path.exists():
            self.refuse_foreign([name])
            path.unlink()

    def adopt(self, names: Iterable[str]) -> None:
        """Lists files in the manifest that an earlier version wrote, which had none.

        Call it only where something else shows that the folder is ours.
        """
        if not written(self.path):
            self.record(*(name for name in names if (self.path / name).exists()))

    def record(self, *names: str) -> None:
        """Lists files in the manifest that were just written in another way."""
        self._list({(name, _digest(self.path / name)) for name in names})

    def list_bad(self, bad: Sequence[tuple[str, str]], name: str = "bad_files.csv") -> None:
        """Writes (path, reason) of each bad file to a table.

        If there are none, it removes the list of an earlier call.
        """
        if bad:
            table = [{"file": atomic.utf8(path), "reason": atomic.utf8(why)} for path, why in bad]
            self.write_csv(name, table, ("file", "reason"))
        else:
            self.remove(name)

    def list_passed_over(self, files: Sequence[tuple[str, str]]) -> None:
        """Writes (path, reason) of each file that is no input, as `list_bad` does."""
        self.list_bad(files, "passed_over.csv")


def _describe_owner(path: epath.Path) -> str:
    try:
        owner = json.loads(path.read_text())
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(owner["since"]))
        return f"process {owner['process']} on {owner['host']} (since {since})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
