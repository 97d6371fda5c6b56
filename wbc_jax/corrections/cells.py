"""The cells of a folder of results of `wbc_jax.predict`, and which of them a statement is about."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from wbc_jax.corrections import log
from wbc_jax.errors import DataError, InputError
from wbc_jax.fields import results
from wbc_jax.utils import outputs

LEAST_IOU = 0.5
"""A statement about an earlier run's cell holds for the cell whose box has this IoU or more."""
Box = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the results.

    Attributes:
        index: its place among all cells.
        file, cell, box: as in `cells.csv`.
        name: stem of its image's results.
        row: its whole row of `cells.csv`.
    """

    index: int
    file: str
    cell: int
    box: Box
    name: str
    row: Mapping[str, Any]

    @property
    def predicted(self) -> str:
        """Its type; `for review` if the classifier abstained, empty without a classifier."""
        return self.row["type"] or ""


class Results:
    """The results of a folder, as they were when they were read.

    Attributes:
        path: the folder.
        cells: in the order of the table.
        typed: a classifier gave types.
        by_file: the cells of each image.
    """

    def __init__(self, path: epath.Path, cells: Sequence[Cell], stamp: tuple[int, int]):
        self.path, self.cells, self._stamp = path, cells, stamp
        self.typed = any(cell.predicted for cell in cells)
        self.by_file: dict[str, list[Cell]] = {}
        for cell in cells:
            self.by_file.setdefault(cell.file, []).append(cell)
        self.by_name = {found[0].name: found for found in self.by_file.values()}

    def is_current(self) -> bool:
        """Returns whether the table is still the one that was read."""
        return _stamp(self.path / outputs.TABLE) == self._stamp

    def find(self, file: str, number: int, box: Box) -> Cell | None:
        """Returns the cell that lies where a statement saw one; None if it is gone.

        The cell of that number and box; else, of a later run, the one with the largest IoU.
        """
        there = self.by_file.get(file, [])
        for cell in there:
            if cell.cell == number and cell.box == tuple(box):
                return cell
        best = max(there, key=lambda cell: iou(cell.box, box), default=None)
        return best if best is not None and iou(best.box, box) >= LEAST_IOU else None


def iou(one: Sequence[int], other: Sequence[int]) -> float:
    """Returns the intersection over union of two boxes (top, left, bottom, right), half open."""
    height = min(one[2], other[2]) - max(one[0], other[0])
    width = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0, height) * max(0, width)
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other))
    return both / (areas - both) if areas > both else 0.0


def read(path: epath.PathLike) -> Results:
    """Reads a folder of results.

    Raises:
        InputError: the folder is missing, remote, or not of `predict`; or it holds no cell.
        DataError: its table is damaged.
    """
    log.check_local(path)
    folder = epath.Path(path).expanduser()
    if not folder.is_dir():
        raise InputError(f"{path} is no folder: name the --out of `python -m wbc_jax.predict`.")
    table = outputs.cells_table(path)
    stamp = _stamp(table)
    try:
        rows = pq.read_table(table).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{table} is damaged ({error}): predict again.") from error
    needed = set(results.COLUMNS) - set(results.REGION_COLUMNS)
    lacking = sorted(needed - set(rows[0])) if rows else []
    if lacking:
        raise DataError(f"{table} lacks the columns {', '.join(lacking)}: predict again.")
    slide = next((row["file"] for row in rows if row.get("region_top") is not None), None)
    if slide is not None:
        raise InputError(
            f"{table} has cells of the slide {slide}, and only cells of images can be reviewed: "
            f"open the slide in QuPath, and drag a file of {folder / 'geojson'} onto it."
        )
    cells = _cells(rows, table)
    if not cells:
        raise InputError(f"{table} has no cell, so there is nothing to review.")
    return Results(folder, cells, stamp)


def _cells(rows: Sequence[Mapping[str, Any]], table: epath.Path) -> list[Cell]:
    files = list(dict.fromkeys(row["file"] for row in rows))
    names = dict(zip(files, outputs.output_names(files)))
    cells = []
    for row in (row for row in rows if row["cell"]):
        box = tuple(row[edge] for edge in ("top", "left", "bottom", "right"))
        top, left, bottom, right = box
        if None in box or not (
            0 <= top < bottom <= row["height"] and 0 <= left < right <= row["width"]
        ):
            raise DataError(
                f"{table}: cell {row['cell']} of {row['file']} has the box {box}, which does not "
                "lie in its image: predict again."
            )
        name = names[row["file"]]
        if row["mask"]:
            name = os.path.splitext(os.path.basename(row["mask"]))[0]
        cells.append(Cell(len(cells), row["file"], row["cell"], box, name, row))
    return cells


def _stamp(path: epath.Path) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError:
        return -1, -1
    return found.st_size, found.st_mtime_ns


def lost(results: Results, statements: Iterable[log.Statement]) -> list[log.Statement]:
    """Returns the statements about cells that are gone."""
    return [s for s in statements if results.find(s.file, s.cell, s.box) is None]
