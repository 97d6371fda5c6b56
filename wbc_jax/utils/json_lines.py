"""A file of JSON objects, one a line, that only grows."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from wbc_jax.utils import atomic


class JsonLines:
    """A file of JSON objects, one a line. A line that a killed process left incomplete is ignored.

    NaN and infinities are kept, in Python's notation.

    Args:
        path: the file; missing, it counts as empty.
    """

    def __init__(self, path: epath.PathLike):
        self._path = epath.Path(path)
        # None: the file may end in an incomplete line. Remote: all of its content.
        self._whole: bytes | None = None

    def read(self) -> list[dict[str, Any]]:
        """Returns the objects."""
        found = []
        for line in self._read_whole().splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                found.append(value)
        return found

    def append(self, items: Iterable[Mapping[str, Any]]) -> None:
        """Adds objects at the end.

        Raises:
            OSError: the file cannot be written.
        """
        added = "".join(json.dumps(item) + "\n" for item in items).encode()
        if not added:
            return
        if self._whole is None:
            self._whole = self._read_whole()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if not atomic.is_remote(self._path):
                atomic.write_bytes(self._path, self._whole)  # drops an incomplete last line
        if atomic.is_remote(self._path):  # object stores cannot append
            self._whole += added
            atomic.write_bytes(self._path, self._whole)
            return
        self._whole = None  # read again if this fails halfway
        with self._path.open("ab") as file:
            file.write(added)
        self._whole = b""

    def remove(self) -> None:
        """Deletes the file."""
        self._path.unlink(missing_ok=True)
        self._whole = None

    def _read_whole(self) -> bytes:
        """Returns the complete lines."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return b""
        return data[: data.rfind(b"\n") + 1]
