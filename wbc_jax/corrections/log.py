"""The log of corrections: a JSON object a line, which only grows.

`DIR/corrections/log.jsonl` holds every statement of a person about a cell: who, when, what was
before, what is after. A line is written and flushed to the disk at once, under a lock that
processes share, so that neither a crash nor a second window loses any. What a killed process left
incomplete goes to `torn.txt` beside it, and a damaged line stays where it is; both are reported.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import filelock
from etils import epath

from wbc_jax.errors import InputError
from wbc_jax.utils import atomic
from wbc_jax.utils.output_folder import STATE

FOLDER = "corrections"
"""Folder of the log, inside a folder of results."""
LOG, TORN, LOCK = "log.jsonl", "torn.txt", "review.lock"
TYPE, MASK = "type", "mask"
WAIT_SECONDS = 20.0
"""How long to wait for another process that writes to the log."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """What a person says of a cell.

    Attributes:
        id: its own.
        act: what is undone together, such as one key press for several cells.
        undoes: the act that this one takes back; empty if it is no undoing.
        time: UTC, ISO 8601.
        reviewer: the person's name.
        source: `page`, or the file that outlines came from.
        file, cell, box: the cell as in `cells.csv`; (top, left, bottom, right).
        predicted: its type there.
        what: `TYPE` or `MASK`.
        before, after: a type's name, or a mask as in `masks.Saved.as_json`; None: nothing is said.
    """

    act: str
    reviewer: str
    source: str
    file: str
    cell: int
    box: tuple[int, int, int, int]
    predicted: str
    what: str
    before: Any
    after: Any
    undoes: str = ""
    id: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    time: str = dataclasses.field(default_factory=lambda: now())


def now() -> str:
    """Returns the time as the log writes it, `2026-11-30T14:02:03.123Z`."""
    found = datetime.datetime.now(datetime.UTC)
    return found.strftime("%Y-%m-%dT%H:%M:%S.") + f"{found.microsecond // 1000:03d}Z"


def new_act() -> str:
    """Returns a name for what is undone together."""
    return uuid.uuid4().hex[:12]


class Log:
    """The log of a folder of results. Threads may share it, and so may processes.

    Args:
        folder: the folder of results, on a local disk.

    Attributes:
        path: the file.
        problems: a line for each torn or damaged line that was met.
    """

    def __init__(self, folder: epath.PathLike):
        self.path = epath.Path(folder) / FOLDER / LOG
        state = epath.Path(folder) / STATE
        self._lock_path = state / LOCK
        self._lock = filelock.FileLock(os.fspath(self._lock_path), timeout=WAIT_SECONDS)
        self._threads = threading.RLock()
        self._depth = 0
        self._read, self._line = 0, 0  # bytes and lines that were read
        self.problems: list[str] = []

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps all others from writing; may be nested.

        Raises:
            InputError: another process has not ended its writing for `WAIT_SECONDS`.
            OSError: the folder cannot be written.
        """
        with self._threads, contextlib.ExitStack() as stack:
            if not self._depth:
                self._lock_path.parent.mkdir(parents=True, exist_ok=True)
                self.path.parent.mkdir(parents=True, exist_ok=True)
                try:
                    stack.enter_context(self._lock)
                except NotImplementedError:
                    pass  # a file system without locks
                except filelock.Timeout:
                    raise InputError(
                        f"{self.path} has been locked by another process for {WAIT_SECONDS:.0f} "
                        "s: end it, and try again."
                    ) from None
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1

    def read_new(self) -> list[Statement]:
        """Returns the statements that were added since the last call, by any process.

        Raises:
            InputError: the log is shorter than what was read of it.
            OSError: it cannot be read.
        """
        with self._threads:
            try:
                with open(self.path, "rb") as file:
                    size = os.fstat(file.fileno()).st_size
                    if size < self._read:
                        raise InputError(
                            f"{self.path} has {size} bytes, but {self._read} were read before: "
                            "another program has cut it. Stop, restore the file from a copy, and "
                            "start again."
                        )
                    file.seek(self._read)
                    data = file.read()
            except FileNotFoundError:
                if self._read:
                    raise InputError(
                        f"{self.path} is gone since it was read: restore it, and start again."
                    ) from None
                return []
            whole = data[: data.rfind(b"\n") + 1]
            self._read += len(whole)
            return list(self._parse(whole))

    def _parse(self, data: bytes) -> Iterator[Statement]:
        for line in data.split(b"\n")[:-1]:
            self._line += 1
            try:
                yield parse(line)
            except ValueError as error:
                self.problems.append(
                    f"{self.path}, line {self._line} is damaged ({error}): it stays there and is "
                    "not counted."
                )

    def append(self, statements: Sequence[Statement]) -> None:
        """Adds statements; when it returns, they are on the disk.

        Raises:
            InputError: as `locked`.
            OSError: the file cannot be written; then none of the statements counts.
        """
        data = b"".join(encode(one) for one in statements)
        with self.locked():
            self.mend()
            new = not self.path.exists()
            with open(self.path, "ab") as file:
                start = file.seek(0, os.SEEK_END)
                try:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    with contextlib.suppress(OSError):
                        os.truncate(self.path, start)
                    raise
            if new:
                sync(self.path)

    def mend(self) -> None:
        """Moves an incomplete last line, left by a killed process, to `torn.txt`.

        A line that lacks nothing but its end is completed instead.

        Raises:
            InputError: as `locked`.
            OSError: the folder cannot be written.
        """
        with self.locked():
            if not self.path.exists():
                return
            data = _tail(self.path)
            if not data:
                return
            with contextlib.suppress(ValueError):
                parse(data)
                with open(self.path, "ab") as file:
                    file.write(b"\n")
                    file.flush()
                    os.fsync(file.fileno())
                return
            torn = self.path.parent / TORN
            with open(torn, "ab") as file:
                file.write(data + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.truncate(self.path, os.path.getsize(self.path) - len(data))
            self.problems.append(
                f"{self.path} ended in an incomplete line of {len(data)} bytes, as a killed "
                f"process leaves it: it was moved to {torn}. What it said must be said again."
            )


def encode(statement: Statement) -> bytes:
    """Returns a statement's line."""
    return (json.dumps(dataclasses.asdict(statement), ensure_ascii=True) + "\n").encode()


_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(
        ("id", "act", "undoes", "time", "reviewer", "source", "file", "predicted", "what"), str
    ),
    "cell": int,
    "box": list,
    "before": (str, dict, type(None)),
    "after": (str, dict, type(None)),
}


def parse(line: bytes) -> Statement:
    """Returns the statement of a line.

    Raises:
        ValueError: it is none; says why.
    """
    try:
        found = json.loads(line)
    except ValueError:
        raise ValueError("no JSON") from None
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    for name, kind in _KINDS.items():
        if name not in found or not isinstance(found[name], kind) or found[name] is True:
            raise ValueError(f"{name} is {found.get(name)!r}")
    box = found["box"]
    if len(box) != 4 or not all(isinstance(edge, int) for edge in box):
        raise ValueError(f"box is {box!r}")
    value = {TYPE: str, MASK: dict}.get(found["what"])
    if value is None:
        raise ValueError(f"what is {found['what']!r}")
    for name in ("before", "after"):
        if found[name] is not None and not isinstance(found[name], value):
            raise ValueError(f"{name} is {found[name]!r}")
        if isinstance(found[name], dict):
            _check_mask(found[name], name)
    return Statement(**{name: found[name] for name in _KINDS} | {"box": tuple(box)})


def _check_mask(found: dict[str, Any], name: str) -> None:
    for key, kind in (("png", str), ("sha256", str), ("nucleus_px", int), ("cytoplasm_px", int)):
        if not isinstance(found.get(key), kind):
            raise ValueError(f"{key} of {name} is {found.get(key)!r}")
    window = found.get("window")
    whole = isinstance(window, list) and all(isinstance(edge, int) for edge in window)
    if not whole or len(window) != 4:
        raise ValueError(f"window of {name} is {window!r}")


def _tail(path: epath.Path) -> bytes:
    """Returns what follows the last line break of a file."""
    data, step = b"", 1 << 16
    with open(path, "rb") as file:
        at = file.seek(0, os.SEEK_END)
        while at and b"\n" not in data:
            start = max(0, at - step)
            file.seek(start)
            data, at = file.read(at - start) + data, start
    return data[data.rfind(b"\n") + 1 :]


def sync(path: epath.PathLike) -> None:
    """Flushes a new file and its name to the disk; some systems cannot do that with folders."""
    for name in (os.fspath(path), os.path.dirname(path)):
        with contextlib.suppress(OSError):
            handle = os.open(name, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def check_local(folder: epath.PathLike) -> None:
    """Checks that a folder can hold a log.

    Raises:
        InputError: it is in an object store, which cannot append.
    """
    if atomic.is_remote(folder):
        raise InputError(f"{folder} is remote; a review needs a local folder: copy it first.")
