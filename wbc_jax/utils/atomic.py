"""Atomic writes: an output file is complete or does not exist."""

import contextlib
import csv
import errno
import io
import json
import math
import os
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from etils import epath


@contextlib.contextmanager
def atomic_write(path: epath.PathLike) -> Iterator[epath.Path]:
    """Yields a temporary path; at the end, the file written there replaces `path`.

    The temporary file is in the same folder and is renamed. In an object store, which has no
    renaming but whose objects appear complete, it is a local file that is uploaded.

    Raises:
        OSError: the folder is not writable; no partial file is left.
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
        # If the disk is full, the error of a write names no file.
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            message = f"{error.strerror}: free some space, and run the command again"
            raise OSError(error.errno, message, os.fspath(path)) from error
        raise


def check_writable(folder: epath.PathLike) -> None:
    """Creates a folder if it is missing, and tests it by writing and deleting a file.

    Raises:
        OSError: the folder is not writable.
    """
    path = epath.Path(folder).expanduser() / f".wbc_jax-{uuid.uuid4().hex[:8]}"
    write_bytes(path, b"")
    path.unlink()


def is_remote(path: epath.PathLike) -> bool:
    """Returns whether a path is in an object store (`gs://`, `s3://`): no appending, no locks."""
    return "://" in os.fspath(path)


def remove_stale_temporaries(path: epath.PathLike) -> None:
    """Removes temporary files of killed writers of `path`. Only its sole writer may call this."""
    path = epath.Path(path)
    for leftover in path.parent.glob(f".{path.name}.*.tmp"):
        leftover.unlink(missing_ok=True)


def write_bytes(path: epath.PathLike, data: bytes) -> None:
    """Writes bytes with `atomic_write`.

    Raises:
        OSError: the folder is not writable; no partial file is left.
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: epath.PathLike, text: str) -> None:
    """Writes UTF-8 text with `atomic_write`; bytes of file names that are no UTF-8 are replaced."""
    write_bytes(path, utf8(text).encode("utf-8"))


def write_json(path: epath.PathLike, value: Any) -> None:
    """Writes indented JSON; NaN and infinities become null."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """Returns the content of `write_json`'s file."""
    return json.dumps(finite(value), indent=2) + "\n"


def write_csv(
    path: epath.PathLike, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]
) -> None:
    """Writes rows as CSV with a header; None and NaN become empty cells, infinities `inf`.

    Texts are written as `csv_text` says.
    """
    write_text(path, csv_table(rows, columns))


def csv_table(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], header: bool = True
) -> str:
    """Returns the content of `write_csv`'s file; without `header`, its lines after the first."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    for row in rows:
        writer.writerow({key: _cell(row.get(key)) for key in columns})
    return out.getvalue()


def utf8(name: str) -> str:
    """Returns a file name as valid UTF-8, as tables need it; other bytes are replaced."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


# Characters with which a spreadsheet takes a cell for a formula, and what it would leave out before
# them: https://owasp.org/www-community/attacks/CSV_Injection. The last four are full width.
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def csv_text(text: str) -> str:
    """Returns a text as a cell of a CSV file that no spreadsheet runs as a formula.

    A text that begins like a formula gets an apostrophe in front; a number stays as it is. Bytes of
    file names that are no UTF-8 are replaced.
    """
    text = utf8(text)
    return f"'{text}" if _FORMULA.match(text) and not _is_number(text) else text


def read_csv_text(cell: str) -> str:
    """Returns the text that `csv_text` made a cell of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?", text) is not None


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
    if isinstance(value, str):
        return csv_text(value)
    return f"{value:.6g}" if isinstance(value, float) else value
