"""Output files, written whole or not at all."""

import contextlib
import csv
import io
import json
import math
import os
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath


@contextlib.contextmanager
def whole(path: epath.PathLike) -> Iterator[epath.Path]:
    """Gives a temporary path in the same folder to write to, and renames it at the end.

    Raises:
        OSError: the folder cannot be written; nothing half-written is left.
    """
    path = epath.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp"
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sweep(path: epath.PathLike) -> None:
    """Removes what processes killed while they wrote `path` have left. Only for its one writer."""
    path = epath.Path(path)
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)


def write_bytes(path: epath.PathLike, data: bytes) -> None:
    """Writes under a temporary name in the same folder, then renames.

    Raises:
        OSError: the folder cannot be written; nothing half-written is left.
    """
    with whole(path) as temporary:
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
