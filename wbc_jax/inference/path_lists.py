"""A text file that lists the paths of images, of which only a part is in memory at a time."""

import dataclasses
import hashlib
import itertools
import os
from collections.abc import Iterable

from etils import epath

from wbc_jax.errors import ShardsError

# Line breaks in paths, and how a list has them: no path holds a zero byte.
_BREAKS = ((b"\n", b"\0n"), (b"\r", b"\0r"))


@dataclasses.dataclass(frozen=True, slots=True)
class Listing:
    """A text file with one path per line; blank lines do not count.

    Attributes:
        path: of the file.
        count: number of paths.
        sha256: of the paths, each followed by a newline.
        starts: byte offset of each shard's first path.
        part_size: paths per shard.
    """

    path: epath.Path
    count: int
    sha256: str
    starts: tuple[int, ...]
    part_size: int

    def paths(self, shard: int) -> list[str]:
        """Returns the paths of a shard."""
        with self.path.open("rb") as file:
            file.seek(self.starts[shard])
            lines = (line for line in map(_stripped, file) if line)
            return [_path_of(line) for line in itertools.islice(lines, self.part_size)]

    def size(self, shard: int) -> int:
        """Returns the number of paths of a shard."""
        return min(self.part_size, self.count - shard * self.part_size)


def read_listing(path: epath.PathLike, part_size: int) -> Listing:
    """Reads a list of paths once, and keeps only the offset of each shard.

    Raises:
        ShardsError: the file cannot be read or is empty.
    """
    path = epath.Path(path).expanduser()
    count, offset, starts, digest = 0, 0, [], hashlib.sha256()
    try:
        with path.open("rb") as file:
            for line in file:
                name = _stripped(line)
                if name:
                    if count % part_size == 0:
                        starts.append(offset)
                    digest.update(name + b"\n")
                    count += 1
                offset += len(line)
    except OSError as error:
        raise ShardsError(f"the list {path} cannot be read ({error}).") from error
    if not count:
        raise ShardsError(f"the list {path} names no file; it must hold one path per line.")
    return Listing(path, count, digest.hexdigest(), tuple(starts), part_size)


def write_listing(paths: Iterable[str], path: epath.PathLike) -> None:
    """Writes paths as a list for `read_listing`; line breaks in names are marked by `_BREAKS`."""
    with epath.Path(path).open("wb") as file:
        for name in paths:
            line = os.fsencode(name)
            for break_, marked in _BREAKS:
                line = line.replace(break_, marked)
            file.write(line + b"\n")


def _stripped(line: bytes) -> bytes:
    line = line.rstrip(b"\r\n")  # a file name may begin or end with a blank
    return line if line.strip() else b""


def _path_of(line: bytes) -> str:
    for break_, marked in _BREAKS:
        line = line.replace(marked, break_)
    return os.fsdecode(line)
