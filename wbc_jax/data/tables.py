"""CSV tables of data sets: rows with their line numbers, and one error for all wrong lines."""

import csv
import dataclasses
import io
from collections.abc import Sequence

from absl import logging
from etils import epath

from wbc_jax.errors import DataError

SHOWN = 20
"""Wrong lines that an error message lists."""


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One row; `str(row)` is how error messages name it: `line 3: 'a,b'`.

    Attributes:
        line: number of its (last) line in the file, from 1.
        text: the cells as in the file, joined by its separator.
        cells: the cells without surrounding white space.
    """

    line: int
    text: str
    cells: list[str]

    def __str__(self) -> str:
        return f"line {self.line}: {self.text!r}"


def read(path: epath.PathLike, header: Sequence[str] | None = None) -> list[Row]:
    """Reads a CSV file; empty lines are skipped.

    Args:
        path: UTF-8 text, with or without a byte-order mark. Semicolons between the cells are
            accepted too, as spreadsheets write them in many countries: if the first line is
            `header` with semicolons or, without a `header`, has these and no comma.
        header: the first row that the file must have; None accepts any.

    Returns:
        The rows below the header; with `header=None` all rows.

    Raises:
        DataError: the file is missing, empty, not UTF-8 text, or has another header.
    """
    try:
        text = epath.Path(path).read_bytes().decode("utf-8-sig")
        separator = _separator(text, header)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        rows = [
            Row(reader.line_num, separator.join(cells), [cell.strip() for cell in cells])
            for cells in reader
            if any(cells)
        ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: cannot be read as CSV ({error}): allowed is UTF-8 text, comma-separated; "
            "fetch the file again"
        ) from error
    if not rows:
        raise DataError(f"{path}: the file is empty: fetch it again")
    if separator != ",":
        logging.warning("%s: its cells are separated by %r; read so.", path, separator)
    if header is None:
        return rows
    if rows[0].cells != list(header):
        raise DataError(f"{path}: the header is {rows[0].text!r}: allowed is {','.join(header)!r}")
    return rows[1:]


def _separator(text: str, header: Sequence[str] | None) -> str:
    """Returns `;` if the first line is `header` with semicolons, or has these and no comma."""
    first = text.lstrip().split("\n", 1)[0]
    if header is None:
        return ";" if ";" in first and "," not in first else ","
    cells = [cell.strip().strip('"') for cell in first.split(";")]
    return ";" if len(cells) > 1 and cells == list(header) else ","


def check(path: epath.PathLike, wrong: Sequence[str], allowed: str) -> None:
    """Raises if there are wrong lines.

    Args:
        path: the table.
        wrong: one text per wrong line.
        allowed: what a line may hold, and what to do.

    Raises:
        DataError: `wrong` is not empty; lists up to `SHOWN` lines.
    """
    if wrong:
        lines = "".join(f"\n  {line}" for line in wrong[:SHOWN])
        raise DataError(f"{path}: {len(wrong)} lines are wrong: allowed is {allowed}:{lines}")
