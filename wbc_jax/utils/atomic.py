"""Output files, written whole or not at all."""

import contextlib
import csv
import errno
import io
import json
import math
import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath


@contextlib.contextmanager
def atomic_write(path: epath.PathLike) -> Iterator[epath.Path]:
    """Gives a temporary path to write to, and puts what is there in `path`'s place at the end.

    The temporary file lies beside `path` and is renamed. An object store has no renaming, but its
    objects appear whole: there it is a local file that is uploaded.

    Raises:
        OSError: the folder cannot be written; nothing half-written is left.
    """
    path = epath.Path(path)
    name = f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="wbc_jax_") as folder:
            temporary = epath.Path(folder) / name
            yield temporary
            path.write_bytes(temporary.read_bytes())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / name
    try:
        yield temporary
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # A full disk shows while data is written, and then names no file.
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            said = f"{error.strerror}: free some, and give the command again"
            raise OSError(error.errno, said, os.fspath(path)) from error
        raise


def check_writable(folder: epath.PathLike) -> None:
    """Makes a folder, if missing, and writes a file there and away again.

    Raises:
        OSError: it cannot be written.
    """
    path = epath.Path(folder).expanduser() / ".wbc_jax"
    write_bytes(path, b"")
    path.unlink()


def is_remote(path: epath.PathLike) -> bool:
    """Returns whether a path lies in an object store (`gs://`, `s3://`): no appending, no locks."""
    return "://" in os.fspath(path)


def remove_stale_temporaries(path: epath.PathLike) -> None:
    """Removes what processes killed while they wrote `path` have left. Only for its one writer."""
    path = epath.Path(path)
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)


def write_bytes(path: epath.PathLike, data: bytes) -> None:
    """Writes under a temporary name in the same folder, then renames.

    Raises:
        OSError: the folder cannot be written; nothing half-written is left.
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: epath.PathLike, text: str) -> None:
    """Writes UTF-8 text, as `write_bytes`."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes indented JSON, NaN and infinities as null."""
    write_text(path, json.dumps(finite(value), indent=2) + "\n")


def write_csv(path: epath.PathLike, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Writes rows as CSV with a header; None and NaN are empty, infinities `inf`."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: _cell(row.get(key)) for key in columns})
    write_text(path, out.getvalue())


def utf8(name: str) -> str:
    """Returns `name` with what is no UTF-8 in it replaced: tables hold nothing else."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def finite(value: Any) -> Any:
    """Returns `value` with every NaN and infinity, at any depth, replaced by None."""
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _cell(value: Any) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value
