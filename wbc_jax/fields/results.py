"""What `wbc_jax.predict` leaves of a folder of images: tables, pictures, polygons and a page.

| file | what |
|---|---|
| `cells.csv`, `cells.parquet` | a row a cell (`COLUMNS`); an image without one has a row too |
| `differential.csv` | percent by type with 95 % intervals |
| `index.html` | cells to sort and filter, offline |
| `masks/NAME.png` | 8-bit: 0 background, 1 cytoplasm, 2 nucleus |
| `labels/NAME.png` | 16-bit: the number of the cell that a pixel is of |
| `overlays/NAME.png` | outlines, numbers and types |
| `geojson/NAME.geojson`, `coco.json` | the masks as polygons (`wbc_jax.fields.polygons`) |

A classifier alone gives the tables and the page.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import itertools
import json
import math
import os
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from wbc_jax.data import crops
from wbc_jax.data.images import encode_png
from wbc_jax.fields import analyze as fields
from wbc_jax.fields import polygons
from wbc_jax.inference import abstention
from wbc_jax.labels import BACKGROUND, CELL_TYPES, REVIEW
from wbc_jax.report import cell_page as page
from wbc_jax.report import figures
from wbc_jax.utils import atomic

COLUMNS = (
    *("file", "mask", "overlay", "width", "height"),
    *fields.CELL_COLUMNS,
    *("um_per_px", "um_per_px_source"),
)
DIFFERENTIAL_COLUMNS = ("type", "cells", "percent", "low", "high")
ALL = "all"
_KINDS = {"int": pa.int64(), "float": pa.float64(), "str": pa.string()}
_KIND_OF = {field.name: field.type.split()[0] for field in dataclasses.fields(fields.Cell)} | {
    **{"width": "int", "height": "int", "um_per_px": "float"},
    **dict.fromkeys(("file", "mask", "overlay", "um_per_px_source"), "str"),
}
SCHEMA = pa.schema([(name, _KINDS[_KIND_OF[name]]) for name in COLUMNS])


class Results:
    """Writes the results of a folder's images as they come, and its tables at the end.

    Args:
        out: folder, made if missing.

    Attributes:
        rows: dicts with `COLUMNS` as keys, in the order of the images.
    """

    def __init__(self, out: epath.Path):
        self.rows: list[dict[str, Any]] = []
        self._out = out
        self._images = 0
        self._coco = polygons.Coco()
        self._pictures: list[bytes] = []

    def add(
        self,
        images: Sequence[tuple[str, str, np.ndarray]],
        found: Sequence[fields.Field],
    ) -> None:
        """Writes the pictures and polygons of some images, and keeps their rows.

        Args:
            images: (path, name of its results, pixels uint8 `[H, W, 3]`) of each.
            found: what is in each.

        Raises:
            OSError: a file cannot be written.
        """
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for (path, name, image), field, thumbnails in zip(
                images, found, pool.map(self._write, images, found)
            ):
                own = {"file": atomic.utf8(path)}
                own |= {"width": image.shape[1], "height": image.shape[0]}
                own |= {"um_per_px": field.um_per_px, "um_per_px_source": field.um_per_px_source}
                if field.mask is not None:
                    own |= {"mask": f"masks/{name}.png", "overlay": f"overlays/{name}.png"}
                    self._coco.add(own["file"], image.shape[:2], field.cells)
                cells = [cell.row() for cell in field.cells] or [{"flag": "no_cell"}]
                self.rows += [
                    {column: (own | cell).get(column) for column in COLUMNS} for cell in cells
                ]
                self._pictures += thumbnails
                self._images += 1

    def _write(self, image: tuple[str, str, np.ndarray], field: fields.Field) -> list[bytes]:
        """Writes one image's files, and returns thumbnails of its cells, or of itself."""
        path, name, pixels = image
        drawn = pixels
        if field.mask is not None and field.labels is not None:
            drawn = draw(pixels, field)
            collection = polygons.geojson(field.cells, os.path.basename(path))
            for file, data in (
                (f"masks/{name}.png", encode_png(field.mask)),
                (f"labels/{name}.png", encode_labels(field.labels)),
                (f"overlays/{name}.png", encode_png(labelled(drawn, field))),
                (f"geojson/{name}.geojson", json.dumps(collection).encode()),
            ):
                atomic.write_bytes(self._out / file, data)
        if field.one_cell or not field.cells:
            return [page.thumbnail(drawn)]
        return [page.thumbnail(crops.cut(drawn, c.box, crops.MARGIN)) for c in field.cells]

    def close(self, models: fields.Models) -> None:
        """Writes the tables and the page.

        Args:
            models: that the results are by.

        Raises:
            OSError: a file cannot be written.
        """
        out = self._out
        atomic.write_csv(out / "cells.csv", self.rows, COLUMNS)
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(self.rows, SCHEMA), sink, compression="zstd")
        atomic.write_bytes(out / "cells.parquet", sink.getvalue().to_pybytes())
        counts = differential(self.rows)
        if models.classifier is not None:
            atomic.write_csv(out / "differential.csv", counts, DIFFERENTIAL_COLUMNS)
        if models.segmenter is not None:
            atomic.write_text(out / "coco.json", json.dumps(self._coco.content()))
        page.write(
            out / "index.html",
            self.rows,
            self._pictures,
            counts if models.classifier is not None else [],
            judged=models.rule is not None,
        )

    def summary(self) -> str:
        """Returns what was found, as a line."""
        cells = [row for row in self.rows if row["cell"]]
        ratios = [r["nc_ratio"] for r in cells if math.isfinite(r["nc_ratio"] or math.nan)]
        parts = [f"{len(cells)} cells in {self._images} images"]
        if ratios:
            parts.append(f"median N/C {np.median(ratios):.3f}")
        if review := sum(bool(row["review"]) for row in cells):
            parts.append(f"{review} left to a person")
        return f"{', '.join(parts)}: {self._out / 'cells.csv'} and index.html"


def differential(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Counts cells by type.

    Args:
        rows: with `cell` and `type`; those without a cell do not count.

    Returns:
        One row a type, with `DIFFERENTIAL_COLUMNS`: its percent of the cells that were typed, with
        the 95 % Wilson interval; then `for review`: percent of all cells; and `all`.
    """
    counts = collections.Counter(row["type"] for row in rows if row["cell"])
    typed = sum(counts[name] for name in CELL_TYPES)
    total = sum(counts.values())
    lines = [(name, counts[name], typed) for name in CELL_TYPES]
    lines += [(REVIEW, counts[REVIEW], total), (ALL, total, total)]
    found = []
    for name, count, of in lines:
        share = abstention.proportion(count, of)
        low, high = share["interval"]
        numbers = (100 * share["value"], 100 * low, 100 * high)
        found.append(dict(zip(DIFFERENTIAL_COLUMNS, (name, count, *numbers))))
    return found


def encode_labels(labels: np.ndarray) -> bytes:
    """Returns uint16 `[H, W]` as a 16-bit PNG."""
    return cv2.imencode(".png", labels)[1].tobytes()


def draw(image: np.ndarray, field: fields.Field) -> np.ndarray:
    """Returns an image with the outlines of its cells and nuclei; between cells that touch too."""
    mask, labels = field.mask.copy(), field.labels
    for one, other, place in (
        (labels[1:], labels[:-1], mask[1:]),
        (labels[:, 1:], labels[:, :-1], mask[:, 1:]),
    ):
        place[(one != other) & (one > 0) & (other > 0)] = BACKGROUND
    return figures.overlay(image, mask)


def labelled(picture: np.ndarray, field: fields.Field) -> np.ndarray:
    """Returns a field with each cell's number and type beside it; one cell's image as it is."""
    if field.one_cell:
        return picture
    picture = picture.copy()
    height, width = picture.shape[:2]
    size = max(0.4, min(height, width) / 1000)
    for cell in field.cells:
        text = f"{cell.cell} {cell.type}".strip()
        if cell.review:
            text = f"{cell.cell} {cell.best_guess}?"
        (wide, tall), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
        x = max(0, min(cell.left, width - wide))
        # Above the cell, or below where there is no room.
        y = cell.top - below if cell.top >= tall + below else cell.bottom + tall + below
        y = min(y, height - below)
        # Thicker strokes would be wider set, so that the ground is the same text, shifted.
        for dx, dy in (*itertools.product((-1, 0, 1), repeat=2), (0, 0)):
            colour = (255, 255, 255) if dx or dy else (20, 20, 20)
            cv2.putText(
                picture, text, (x + dx, y + dy), cv2.FONT_HERSHEY_SIMPLEX, size, colour,
                1, cv2.LINE_AA,
            )  # fmt: skip
    return picture
