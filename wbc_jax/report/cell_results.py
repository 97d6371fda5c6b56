"""Image files → the files that `wbc_jax.predict` writes about their cells.

| file | content |
|---|---|
| `cells.csv`, `cells.parquet` | a row per cell (`results.COLUMNS`), one per image without cells |
| `differential.csv` | percentages by type with 95 % intervals |
| `index.html` | all cells, to sort and filter, offline |
| `masks/NAME.png` | 8-bit: 0 background, 1 cytoplasm, 2 nucleus |
| `labels/NAME.png` | 16-bit: the number of the cell that a pixel belongs to |
| `overlays/NAME.png` | outlines, numbers and types |
| `geojson/NAME.geojson`, `coco.json` | the masks as polygons (`wbc_jax.fields.polygons`) |

A classifier without a segmenter gives only the tables and the page.
"""

from __future__ import annotations

import concurrent.futures
import json
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from etils import epath

from wbc_jax.data import crops
from wbc_jax.data.images import encode_png, read_image
from wbc_jax.errors import DataError
from wbc_jax.fields import analyze as fields
from wbc_jax.fields import polygons, results
from wbc_jax.fields.cells import Field
from wbc_jax.report import cell_page, overlays
from wbc_jax.utils import atomic, outputs
from wbc_jax.utils.progress import Progress

BATCH = 16
"""Largest number of images that are analyzed together."""
BATCH_PIXELS = 2**24
"""Largest number of pixels that are analyzed together; a larger image is analyzed alone."""


class Results:
    """Writes the files of each image at once, and the tables and the page at the end.

    Args:
        out: folder, made if missing.

    Attributes:
        rows: dicts with `results.COLUMNS` as keys, in the order of the images.
    """

    def __init__(self, out: epath.Path):
        self.rows: list[dict[str, Any]] = []
        self._out = out
        self._images = 0
        self._coco = polygons.Coco()
        self._thumbnails: list[bytes] = []

    def add(
        self,
        images: Sequence[tuple[str, str, np.ndarray]],
        found: Sequence[Field],
    ) -> None:
        """Writes the pictures and polygons of some images, and keeps their rows.

        Args:
            images: (path, name of its results, pixels uint8 `[H, W, 3]`) of each image.
            found: the analyzed images.

        Raises:
            OSError: a file cannot be written.
        """
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for (path, name, image), field, thumbnails in zip(
                images, found, pool.map(self._write, images, found)
            ):
                height, width = image.shape[:2]
                about: dict[str, Any] = {
                    "file": atomic.utf8(path), "width": width, "height": height,
                }  # fmt: skip
                if field.mask is not None:
                    about |= {"mask": f"masks/{name}.png", "overlay": f"overlays/{name}.png"}
                    self._coco.add(about["file"], (height, width), field.cells)
                self.rows += results.field_rows(field, **about)
                self._thumbnails += thumbnails
                self._images += 1

    def _write(self, image: tuple[str, str, np.ndarray], field: Field) -> list[bytes]:
        """Writes one image's files; returns thumbnails of its cells, or of the whole image."""
        path, name, pixels = image
        drawn = pixels
        if field.mask is not None and field.labels is not None:
            drawn = overlays.field_overlay(pixels, field)
            collection = polygons.geojson(field.cells, os.path.basename(path))
            for file, data in (
                (f"masks/{name}.png", encode_png(field.mask)),
                (f"labels/{name}.png", encode_labels(field.labels)),
                (f"overlays/{name}.png", encode_png(overlays.annotate(drawn, field))),
                (f"geojson/{name}.geojson", json.dumps(collection).encode()),
            ):
                atomic.write_bytes(self._out / file, data)
        if field.one_cell or not field.cells:
            return [cell_page.thumbnail(drawn)]
        return [cell_page.thumbnail(crops.cut(drawn, cell.box)) for cell in field.cells]

    def close(self, models: fields.Models) -> None:
        """Writes the tables and the page.

        Args:
            models: the models that gave the results.

        Raises:
            OSError: a file cannot be written.
        """
        counts = results.differential(self.rows) if models.classifier is not None else []
        results.write(self._out, self.rows, counts)
        if models.segmenter is not None:
            atomic.write_text(self._out / "coco.json", json.dumps(self._coco.content()))
        cell_page.write(
            self._out / "index.html",
            self.rows,
            self._thumbnails,
            counts,
            judged=models.rule is not None,
        )

    def summary(self) -> str:
        """Returns the results in one line: number of cells, median N/C ratio, cells for review."""
        cells = [row for row in self.rows if row["cell"]]
        ratios = [r["nc_ratio"] for r in cells if math.isfinite(r["nc_ratio"] or math.nan)]
        parts = [f"{len(cells)} cells in {self._images} images"]
        if ratios:
            parts.append(f"median N/C {np.median(ratios):.3f}")
        if review := sum(bool(row["review"]) for row in cells):
            parts.append(f"{review} left to a person")
        return f"{', '.join(parts)}: {self._out / 'cells.csv'} and index.html"


def encode_labels(labels: np.ndarray) -> bytes:
    """Encodes uint16 `[H, W]` as a 16-bit PNG."""
    return cv2.imencode(".png", labels)[1].tobytes()


def predict_files(
    models: fields.Models,
    paths: Sequence[str],
    out: epath.PathLike,
    find: str = "auto",
    um_per_px: float | None = None,
) -> list[tuple[str, str]]:
    """Analyzes image files and writes all results under `out`.

    Bad files are skipped, listed in `bad_files.csv`, and returned.

    Args:
        models: from `fields.load_models`.
        paths: image files.
        out: folder, made if missing.
        find, um_per_px: as in `fields.analyze`.

    Returns:
        (path, reason) of each file that could not be predicted.

    Raises:
        OSError: `out` cannot be written.
    """
    out = epath.Path(out).expanduser()
    atomic.check_writable(out)
    progress = Progress("image", len(paths))
    written, bad, done = Results(out), [], 0
    for batch, unread in _batches(paths):
        bad += unread
        found = fields.analyze([image for _, _, image in batch], models, find, um_per_px)
        written.add(batch, found)
        done += len(batch) + len(unread)
        progress.update(done, len(batch))
    progress.close()
    written.close(models)
    outputs.list_bad(out, bad)
    print(written.summary(), flush=True)
    return bad


def _batches(
    paths: Sequence[str],
) -> Iterator[tuple[list[tuple[str, str, np.ndarray]], list[tuple[str, str]]]]:
    """Reads image files, up to `BATCH` images and `BATCH_PIXELS` pixels at a time.

    Yields:
        (path, name of its results, pixels) of each image of a batch, and (path, reason) of each
        bad file since the batch before.
    """
    good: list[tuple[str, str, np.ndarray]] = []
    bad: list[tuple[str, str]] = []
    for path, name in zip(paths, outputs.output_names(paths)):
        try:
            image = read_image(path)
        except DataError as error:
            bad.append((path, str(error)))
            continue
        if good and sum(i.size for _, _, i in good) + image.size > 3 * BATCH_PIXELS:
            yield good, bad
            good, bad = [], []
        good.append((path, name, image))
        if len(good) == BATCH:
            yield good, bad
            good, bad = [], []
    if good or bad:
        yield good, bad
