"""Reads the tables of cells that `wbc_jax.predict` writes (`cells.csv`), to compare groups of them.

`read` checks and reads one table; `Rule` decides which cells are measured.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence

from etils import epath

from wbc_jax.errors import InputError
from wbc_jax.utils import atomic

TABLE = "cells.csv"
AREAS = ("nucleus_px", "cytoplasm_px")
SHAPES = (
    "lobes", "nucleus_circularity", "nucleus_solidity", "nucleus_eccentricity",
    "cell_circularity", "cell_solidity", "cell_eccentricity",
)  # fmt: skip
"""Columns that a table may lack: then these are not compared."""
_NUMBERS = (*AREAS, *SHAPES, "um_per_px")
_BOX = ("top", "left", "bottom", "right")
NO_CELL, NO_MASK, NO_GROUP, REVIEW = "no_cell", "no_mask", "no_group", "review"
UNMEASURED = (NO_CELL, NO_MASK, NO_GROUP)
"""Reasons that no switch changes: there is nothing to measure, or no group to count it in."""
KNOWN_FLAGS = (
    "no_nucleus", "no_cytoplasm", "touches_frame", "nuclei_differ", "scale_out_of_range",
    "um_per_px_differs", REVIEW,
)  # fmt: skip
LEFT_OUT = ("no_nucleus", "touches_frame", "nuclei_differ", "scale_out_of_range")
"""Flags of cells that are left out unless the user says otherwise: their masks are in doubt."""


@dataclasses.dataclass(frozen=True, slots=True)
class CellRow:
    """A row of a table.

    Attributes:
        file: path of the image, as the table has it.
        real: its real path, which is the same however the table names the image.
        cell: number of the cell within the image; empty if there is none.
        folder: the table's folder, to which `mask` is relative.
        mask: the image's mask; empty if there is none.
        box: top, left, bottom and right of the cell, px; None if not known.
        size: height and width of the image, px; None if not known.
        flags: those of the column `flag`, with `review` if a person should look at the type, and
            of `UNMEASURED`.
        values: numbers by column, NaN where a cell of the table is empty or the column is missing.
        um_per_px_source: as in the table.
        group: content of the column that names the group; empty if none does.
    """

    file: str
    real: str
    cell: str
    folder: str
    mask: str
    box: tuple[int, int, int, int] | None
    size: tuple[int, int] | None
    flags: tuple[str, ...]
    values: Mapping[str, float]
    um_per_px_source: str = ""
    group: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """The image's real path, and the cell's number: the same cell has the same key."""
        return self.real, self.cell

    @property
    def stem(self) -> str:
        """The image's name without folder and ending."""
        return os.path.splitext(os.path.basename(self.file))[0]


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """A table of cells.

    Attributes:
        path: its file.
        rows: a row a cell, and one an image without cells.
        missing: columns of `SHAPES` that it lacks.
    """

    path: str
    rows: tuple[CellRow, ...]
    missing: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """Which cells are left out.

    Attributes:
        flags: a cell with one of these flags is left out.
    """

    flags: tuple[str, ...] = LEFT_OUT

    def reason(self, row: CellRow) -> str:
        """Returns the first reason to leave a cell out; empty for one that is measured."""
        return next((name for name in (*UNMEASURED, *self.flags) if name in row.flags), "")

    def check(self, rows: Iterable[CellRow]) -> None:
        """Checks the spelling of the flags.

        Raises:
            InputError: a flag is neither known nor in a row.
        """
        found = {flag for row in rows for flag in row.flags} - set(UNMEASURED)
        for flag in self.flags:
            if flag not in (*KNOWN_FLAGS, *found):
                raise InputError(
                    f"--leave_out names {flag!r}, which is no flag; known are "
                    f"{', '.join(sorted({*KNOWN_FLAGS, *found}))}."
                )


def find(path: epath.PathLike) -> epath.Path:
    """Returns the table of a result folder, or the path itself.

    Raises:
        InputError: it does not exist.
    """
    path = epath.Path(path).expanduser()
    table = path / TABLE if path.is_dir() else path
    if not table.exists():
        raise InputError(
            f"{table} does not exist. Name a folder of results of wbc_jax.predict, or a table "
            f"such as its {TABLE}."
        )
    return table


def read(path: epath.PathLike, by: str = "") -> Table:
    """Reads a table.

    Args:
        path: a table, or a folder of results.
        by: column that names each row's group; empty: none does.

    Raises:
        InputError: there is no table, it is no CSV file with commas, it lacks a column, a cell of
            it does not hold what it must, or a cell is listed twice; names file, line and column.
    """
    path = find(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
        table = csv.reader(io.StringIO(text, newline=""), strict=True)
        lines = [(table.line_num, cells) for cells in table if cells]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path} is no CSV file in UTF-8 ({error}). Name the {TABLE} of wbc_jax.predict."
        ) from error
    columns = lines[0][1] if lines else []
    _check_columns(path, columns, by)
    rows, seen = [], dict[tuple[str, str], int]()
    for number, cells in lines[1:]:
        where = f"{path}, line {number}"
        if len(cells) != len(columns):
            raise InputError(
                f"{where} has {len(cells)} cells, but the header {len(columns)}: mend the line, "
                "or write the table again."
            )
        row = _row(dict(zip(columns, cells)), where, os.path.dirname(path), by)
        if first := seen.get(row.key):
            raise InputError(
                f"{where}: the cell {row.cell or '(none)'} of {row.file} is in line {first} as "
                "well, and would count twice; delete one of the lines."
            )
        seen[row.key] = number
        rows.append(row)
    if rows and all(NO_MASK in row.flags or NO_CELL in row.flags for row in rows):
        raise InputError(
            f"{path} has no cell with areas in {' and '.join(AREAS)}: give one of cells that were "
            "found, by a prediction with a segmenter."
        )
    return Table(os.fspath(path), tuple(rows), tuple(c for c in SHAPES if c not in columns))


def _check_columns(path: epath.Path, columns: Sequence[str], by: str) -> None:
    shown = ", ".join(columns[:30]) or "(none)"
    if len(columns) == 1 and ";" in columns[0]:
        raise InputError(
            f"{path} is separated by semicolons, as some spreadsheets save tables. Save it with "
            "commas between the cells and points in the numbers."
        )
    if missing := [c for c in ("file", "cell", *AREAS, *([by] if by else [])) if c not in columns]:
        asked = ", which --by names" if missing[0] == by else ""
        raise InputError(
            f"{path} lacks the column {missing[0]!r}{asked}; it has {shown}. Name the {TABLE} of "
            "wbc_jax.predict, or a table with its columns."
        )
    if twice := [c for c in (*_NUMBERS, "file", "cell", "flag", by) if columns.count(c) > 1]:
        raise InputError(f"{path} has the column {twice[0]!r} twice; delete one of them.")


def _row(line: Mapping[str, str], where: str, folder: str, by: str) -> CellRow:
    values = {column: _number(line, column, where) for column in _NUMBERS}
    for column in AREAS:
        if not math.isnan(values[column]) and values[column] % 1:
            raise InputError(
                f"{where}, {column}: {line[column]!r} is not allowed; allowed is a whole number of "
                "pixels."
            )
    flags = [name for name in line.get("flag", "").split(";") if name]
    if line.get("review"):
        flags.append(REVIEW)
    if not line["cell"]:
        flags.append(NO_CELL)
    elif any(math.isnan(values[column]) for column in AREAS):
        flags.append(NO_MASK)
    elif not values[AREAS[0]]:
        flags.append("no_nucleus")
    elif not values[AREAS[1]]:
        flags.append("no_cytoplasm")
    group = atomic.read_csv_text(line[by]).strip() if by else ""
    if by and not group:
        flags.append(NO_GROUP)
    box = _whole(line, _BOX)
    size = _whole(line, ("height", "width"))
    file = atomic.read_csv_text(line["file"])
    return CellRow(
        file=file,
        real=os.path.realpath(file),
        cell=line["cell"],
        folder=folder,
        mask=atomic.read_csv_text(line.get("mask", "")),
        box=None if box is None else (box[0], box[1], box[2], box[3]),
        size=None if size is None else (size[0], size[1]),
        flags=tuple(dict.fromkeys(flags)),
        values=values,
        um_per_px_source=line.get("um_per_px_source", ""),
        group=group,
    )


def _number(line: Mapping[str, str], column: str, where: str) -> float:
    text = line.get(column, "").strip()
    if not text:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 <= value < math.inf) or (column == "um_per_px" and not value):
        raise InputError(
            f"{where}, {column}: {text!r} is not allowed; allowed is a number of 0 or more, "
            "written with a point, or nothing."
            if column != "um_per_px"
            else f"{where}, {column}: {text!r} is not allowed; allowed is a number above 0, or "
            "nothing."
        )
    return value


def _whole(line: Mapping[str, str], columns: Sequence[str]) -> tuple[int, ...] | None:
    """Returns whole numbers that serve the pictures only; None where one is missing."""
    texts = [line.get(column, "") for column in columns]
    return tuple(map(int, texts)) if all(re.fullmatch("[0-9]+", text) for text in texts) else None
