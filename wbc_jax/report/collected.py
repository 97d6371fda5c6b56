"""Parquet parts of one process or many → the tables, differential count and page of all images.

| file | content |
|---|---|
| `cells.csv`, `cells.parquet` | a row per cell, one per image without a cell (`results.COLUMNS`) |
| `differential.csv` | percentages by type with 95 % intervals, if there are types |
| `index.html` | the differential count and N/C ratios of all cells, and some cells of each type |
| `collected.json` | numbers, the parts' manifest, and what is left out |
| `bad_files.csv` | files that could not be read |

Memory holds one part, one N/C ratio a cell and the cells that the page shows, however many images
there are.
"""

from __future__ import annotations

import array
import collections
import contextlib
import dataclasses
import hashlib
import heapq
import io
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from wbc_jax.data.images import decode_mask, read_with_metadata
from wbc_jax.errors import DataError, ShardsError
from wbc_jax.fields import results
from wbc_jax.inference import shard_files
from wbc_jax.labels import REVIEW
from wbc_jax.report import cell_page, html, overlays
from wbc_jax.utils import atomic
from wbc_jax.utils.output_folder import OutputFolder
from wbc_jax.utils.progress import Progress

SHOWN = 400
"""The most cells that the page shows."""
NAMES = (*results.TABLES, "index.html", "collected.json", "bad_files.csv")
LEFT_OUT = (
    "boxes, lobes, shapes and areas in µm², whose columns are empty",
    "the flags touches_frame and scale_out_of_range",
    "masks/, labels/, overlays/, geojson/ and coco.json: masks are in the parts, as PNG",
)
"""What `predict` without parts gives and this does not."""
STATISTICS = (
    "Types were decided by the statistics of the training alone: a folder’s own statistics do not "
    "act in Parquet parts, where a cell’s type does not depend on the others."
)
_SAME = ("nucleus_px", "cytoplasm_px", "nc_ratio", "nucleus_share")
_MASK = "mask_png"
_COLUMNS = [name for name in shard_files.SCHEMA.names if name not in (_MASK, "probabilities")]


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """The outcome of `collect`.

    Attributes:
        images: number of all paths; `bad` of them could not be read, and `empty` show no cell.
        cells: number of cells; `review` of them are left to a person.
        out: the folder with the results.
    """

    images: int
    bad: int
    empty: int
    cells: int
    review: int
    out: epath.Path

    def describe(self) -> str:
        """Returns one line of text."""
        left = f", {self.review} left to a person" if self.review else ""
        return (
            f"{self.cells} cells in {self.images - self.bad} images{left}: "
            f"{self.out / 'cells.csv'} and index.html"
        )


def collect(folder: epath.PathLike, out: epath.PathLike | None = None) -> Summary:
    """Writes the results of all parts that `shards.predict` wrote.

    Args:
        folder: its `--out`; `gs://` works.
        out: folder for the results, made if missing; None: `folder`.

    Raises:
        ShardsError: a part is missing or damaged, or `folder` holds no parts; says what to run.
        InputError: another process writes to `out`, or a person's file would be replaced.
        OSError: `out` cannot be written.
    """
    parts = Parts.of(epath.Path(folder).expanduser())
    parts.check()
    out = parts.folder if out is None else epath.Path(out).expanduser()
    typed = "classification" in (parts.about.get(f"{m}.task") for m in ("model", "classifier"))
    with OutputFolder(out) as written:
        written.refuse_foreign(NAMES)
        totals = _Totals()
        progress = Progress("image", parts.images)
        with contextlib.ExitStack() as stack:
            tables = _Tables(written, stack)
            for shard in range(parts.count):
                found = parts.read(shard).to_pylist()
                bad = [row for row in found if row["error"] is not None]
                rows = [(row["index"], _row(row)) for row in found if row["error"] is None]
                tables.add([row for _, row in rows], bad)
                totals.add(rows, len(bad))
                progress.update(min((shard + 1) * parts.size, parts.images), len(found))
        progress.close()
        if not totals.bad:
            written.remove("bad_files.csv")
        counts = results.count_types(totals.types) if typed else []
        if typed:
            written.write_csv("differential.csv", counts, results.DIFFERENTIAL_COLUMNS)
        else:
            written.remove("differential.csv")
        _write_page(written, parts, totals, counts)
    numbers = (totals.bad, totals.empty, totals.cells, totals.types[REVIEW])
    return Summary(parts.images, *numbers, out)


@dataclasses.dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a list.

    Attributes:
        folder: holds `manifest.json` and `parts/`.
        about: the manifest.
        images: number of paths.
        size: paths per part; the last may have fewer.
    """

    folder: epath.Path
    about: dict[str, Any]
    images: int
    size: int

    @classmethod
    def of(cls, folder: epath.Path) -> Parts:
        """Reads the manifest of a folder.

        Raises:
            ShardsError: it is missing or damaged, or of parts of another format.
        """
        path = folder / shard_files.MANIFEST
        try:
            about = json.loads(path.read_text())
            images, size, form = about["list.paths"], about["part_size"], about["format"]
            if not (isinstance(images, int) and isinstance(size, int) and min(images, size) >= 1):
                raise ValueError("it has no numbers of paths")
        except FileNotFoundError as error:
            raise ShardsError(
                f"{folder} holds no Parquet parts ({shard_files.MANIFEST} is missing); --collect "
                "names the --out of `predict --paths=LIST`."
            ) from error
        except (ValueError, TypeError, KeyError) as error:
            raise ShardsError(f"{path} is damaged ({error}); predict to another --out.") from error
        if form != shard_files.FORMAT:
            raise ShardsError(
                f"{folder} holds parts of format {form}, and this version reads "
                f"{shard_files.FORMAT}; collect them with the version that wrote them, or predict "
                "to another --out."
            )
        return cls(folder, about, images, size)

    @property
    def count(self) -> int:
        """Number of parts."""
        return -(-self.images // self.size)

    def read(self, shard: int, columns: Sequence[str] = _COLUMNS) -> pa.Table:
        """Returns a part's table.

        Raises:
            ShardsError: it is damaged.
        """
        try:
            return self._read(shard, columns)
        except _DAMAGE as error:
            raise ShardsError(self._said([], {shard: str(error)})) from error

    def _read(self, shard: int, columns: Sequence[str]) -> pa.Table:
        with shard_files.part_path(self.folder, shard).open("rb") as file:
            table = pq.read_table(file, columns=list(columns))
        first = shard * self.size
        expected = range(first, min(first + self.size, self.images))
        if "index" in columns and table["index"].to_pylist() != list(expected):
            raise ValueError(f"its rows are not {expected[0]} to {expected[-1]}")
        return table

    def check(self) -> None:
        """Reads every part once, without its masks.

        Raises:
            ShardsError: some are missing or damaged; names them, and what to run.
        """
        there = {path.name for path in (self.folder / shard_files.FOLDER).glob("part-*.parquet")}
        missing, damaged = [], {}
        for shard in range(self.count):
            if shard_files.part_path(self.folder, shard).name not in there:
                missing.append(shard)
                continue
            try:
                self._read(shard, _COLUMNS)
            except _DAMAGE as error:
                damaged[shard] = str(error).splitlines()[0]
        if missing or damaged:
            raise ShardsError(self._said(missing, damaged))

    def _said(self, missing: Sequence[int], damaged: dict[int, str]) -> str:
        lines = [f"{self.folder} has {self.count} parts, and not all can be collected:"]
        if missing:
            lines.append(f"{len(missing)} missing: {_ranges(missing)}")
        named = list(damaged.items())[:_NAMED]
        lines += [f"{shard_files.part_path(self.folder, k)} is damaged ({why})" for k, why in named]
        if len(damaged) > _NAMED:
            lines.append(f"{len(damaged)} damaged in all: {_ranges(sorted(damaged))}")
        one = min([*missing, *damaged])
        masks = "" if self.about.get("masks", True) else " --nomasks"
        delete = "Delete the damaged ones, and run" if damaged else "Run"
        return "\n  ".join(lines) + (
            f"\n{delete} the command that wrote the parts again, with the same list, --model and "
            f"--out={self.folder} --part_size={self.size}{masks}: it writes only what is not "
            f"there. With --shard={one}/{self.count} it writes part {one} alone."
        )


_DAMAGE = (pa.ArrowException, OSError, ValueError, KeyError)
_NAMED = 10
"""Damaged parts that a message names by their path."""


def _ranges(numbers: Sequence[int]) -> str:
    """Returns sorted numbers as `3, 5-9`; at most 50 ranges."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    texts = [f"{low}" if low == high else f"{low}-{high}" for low, high in found[:50]]
    return ", ".join(texts + ["…"] * (len(found) > 50))


def _row(part: dict[str, Any]) -> dict[str, Any]:
    """Returns the row of `cells.csv` of a part's row."""
    row = dict.fromkeys(results.COLUMNS)
    row |= {name: part[name] for name in ("file", "width", "height")}
    row |= {"um_per_px_source": "unknown", "flag": part["flag"] or ""}
    if "no_cell" in row["flag"].split(";"):
        return row
    row |= {"cell": 1, **{name: part[name] for name in _SAME}}
    row |= dict.fromkeys(("type", "best_guess", "review", "statistics"), "")
    if part["type"] is not None:
        review, calibrated = part["review"] or "", part["calibrated"]
        row |= {
            "type": REVIEW if review else part["type"],
            "best_guess": part["type"],
            "probability": part["probability"] if calibrated is None else calibrated,
            "review": review,
            "statistics": "training",
        }
    return row


class _Tables:
    """Writes the tables part by part; they appear when `stack` closes without an error."""

    def __init__(self, folder: OutputFolder, stack: contextlib.ExitStack):
        self._folder, self._stack = folder, stack
        self._cells = self._open_csv("cells.csv", results.COLUMNS)
        self._bad: io.TextIOBase | None = None
        path = stack.enter_context(folder.writing("cells.parquet"))
        file = stack.enter_context(path.open("wb"))
        self._parquet = stack.enter_context(
            pq.ParquetWriter(file, results.SCHEMA, compression="zstd")
        )

    def _open_csv(self, name: str, columns: Sequence[str]) -> Any:
        path = self._stack.enter_context(self._folder.writing(name))
        file = self._stack.enter_context(path.open("wb"))
        file.write(atomic.csv_table([], columns).encode())
        return file

    def add(self, rows: Sequence[dict[str, Any]], bad: Sequence[dict[str, Any]]) -> None:
        """Writes rows of `cells.csv`, and those of parts that have an error."""
        self._cells.write(atomic.csv_table(rows, results.COLUMNS, header=False).encode())
        if rows:
            self._parquet.write_table(pa.Table.from_pylist(rows, results.SCHEMA))
        if bad:
            columns = ("file", "reason")
            self._bad = self._bad or self._open_csv("bad_files.csv", columns)
            listed = [{"file": row["file"], "reason": row["error"]} for row in bad]
            self._bad.write(atomic.csv_table(listed, columns, header=False).encode())


class _Totals:
    """Counts of all rows, their N/C ratios, and the cells that the page shows."""

    def __init__(self) -> None:
        self.bad = self.empty = self.cells = 0
        self.types: collections.Counter[str] = collections.Counter()
        self.ratios: dict[str, array.array] = {}
        self._drawn: dict[str, list[tuple[int, int, dict[str, Any]]]] = {}

    def add(self, rows: Sequence[tuple[int, dict[str, Any]]], bad: int) -> None:
        """Adds rows of `cells.csv` with their places in the list, and a number of bad files."""
        self.bad += bad
        for index, row in rows:
            kind = row["type"] or ""
            if row["cell"]:
                self.cells += 1
                self.types[kind] += 1
                ratio = row["nc_ratio"]
                if ratio is not None and math.isfinite(ratio):
                    name = kind or cell_page.ALL_CELLS
                    self.ratios.setdefault(name, array.array("f")).append(ratio)
            else:
                self.empty += 1
            self._draw(index, row, kind if row["cell"] else "no_cell")

    def _draw(self, index: int, row: dict[str, Any], group: str) -> None:
        # The rows with the smallest digests: a random choice that depends on the list alone.
        digest = hashlib.sha256(str(index).encode()).digest()
        one = (-int.from_bytes(digest[:8], "big"), index, row)
        drawn = self._drawn.setdefault(group, [])
        if len(drawn) < SHOWN:
            heapq.heappush(drawn, one)
        else:
            heapq.heappushpop(drawn, one)

    def shown(self) -> list[tuple[int, dict[str, Any]]]:
        """Returns the rows for the page with their places in the list, by place.

        Each type has as many as another, if it has so many cells.
        """
        groups = [sorted(drawn, reverse=True) for drawn in self._drawn.values()]
        chosen, left = [], SHOWN
        for number, group in enumerate(sorted(groups, key=len)):
            some = group[: left // (len(groups) - number)]
            chosen += some
            left -= len(some)
        return sorted(((index, row) for _, index, row in chosen), key=lambda one: one[0])


def _write_page(
    folder: OutputFolder, parts: Parts, totals: _Totals, counts: list[dict[str, Any]]
) -> None:
    shown = totals.shown()
    pictures, missing = [], 0
    for (_, row), mask in zip(shown, _masks(parts, [index for index, _ in shown])):
        picture = _picture(row, mask)
        missing += picture is None
        pictures.append(picture or _no_picture())
    notes = [STATISTICS] if counts else []
    if totals.bad:
        notes.append(f"{html.plural(totals.bad, 'file')} could not be read: bad_files.csv.")
    notes.append(f"Left out: {'; '.join(LEFT_OUT)}.")
    if missing:
        notes.append(
            f"{html.plural(missing, 'cell')} below without a picture: the image is not there now."
        )
    whole = cell_page.Whole(
        cells=totals.cells,
        images=parts.images - totals.bad,
        empty=totals.empty,
        review=totals.types[REVIEW],
        ratios=totals.ratios,
        notes=tuple(notes),
    )
    judged = "rule_sha256" in parts.about
    rows = [row for _, row in shown]
    page = cell_page.render(rows, pictures, counts, judged, whole=whole)
    folder.write_text("index.html", page)
    about = {
        "images": parts.images,
        "bad": totals.bad,
        "no_cell": totals.empty,
        "cells": totals.cells,
        "left_to_a_person": totals.types[REVIEW],
        "shown_in_page": len(shown),
        "without_picture": missing,
        "folder_statistics": STATISTICS if counts else None,
        "left_out": list(LEFT_OUT),
        "parts": parts.about,
    }
    folder.write_json("collected.json", about)


def _masks(parts: Parts, places: Sequence[int]) -> Iterator[bytes | None]:
    """Yields the masks, as PNG, of rows at ascending places in the list; None without one."""
    read, column = -1, None
    for place in places:
        shard, offset = divmod(place, parts.size)
        if shard != read:
            read, column = shard, parts.read(shard, [_MASK])[_MASK]
        yield column[offset].as_py()


def _picture(row: dict[str, Any], mask: bytes | None) -> bytes | None:
    """Returns the thumbnail of a row; None if its image is not there or has another size."""
    try:
        image = read_with_metadata(row["file"]).pixels
    except DataError:
        return None
    if image.shape[:2] != (row["height"], row["width"]):
        return None
    if mask is not None:
        image = overlays.overlay(image, decode_mask(mask))
    return cell_page.thumbnail(image)


def _no_picture() -> bytes:
    side = cell_page.THUMBNAIL_PX
    return cell_page.thumbnail(np.full((side, side, 3), 200, np.uint8))
