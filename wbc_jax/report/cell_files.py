"""What is known of the cells of images → the files of a folder of results.

| file | content |
|---|---|
| `cells.csv`, `cells.parquet` | a row per cell (`results.COLUMNS`), one per image without cells |
| `differential.csv` | percentages by type with 95 % intervals |
| `index.html` | all cells, to sort and filter, offline |
| `masks/NAME.png` | 8-bit: 0 background, 1 cytoplasm, 2 nucleus |
| `labels/NAME.png` | 16-bit: the number of the cell that a pixel belongs to |
| `overlays/NAME.png` | outlines, numbers and types |
| `geojson/NAME.geojson`, `coco.json` | the masks as polygons (`wbc_jax.fields.polygons`) |
| `folder_statistics.json` | whether types were decided by the folder's own statistics |
| `bad_files.csv`, `passed_over.csv` | files that could not be read, and files that are no images |

A classifier without a segmenter gives only the tables and the page.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import math
import os
import time
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from etils import epath

from wbc_jax.data import crops
from wbc_jax.data.images import ImageFile, encode_png
from wbc_jax.fields import analyze as fields
from wbc_jax.fields import polygons, results
from wbc_jax.fields.cells import Field
from wbc_jax.fields.smear import Region
from wbc_jax.inference import folder_statistics as statistics
from wbc_jax.report import cell_page, html, overlays, slide_cells, slide_regions
from wbc_jax.report.finished import Finished, Journal
from wbc_jax.report.slide_regions import SlideRun
from wbc_jax.utils import atomic
from wbc_jax.utils.output_folder import OutputFolder

# How often tables are rewritten: at most in this time, and taking at most this share of all time.
_TABLES_EVERY_SECONDS, _TABLES_SHARE = 10.0, 0.05
_FILES = ("masks/{}.png", "labels/{}.png", "overlays/{}.png", "geojson/{}.geojson")


@dataclasses.dataclass(frozen=True, slots=True)
class Input:
    """An image to analyze.

    Attributes:
        index: place in the list of paths.
        path: of the file.
        name: stem of its results.
        file: its pixels, and what it says of them.
        part: the region of a slide that the image is; None: a file of its own.
    """

    index: int
    path: str
    name: str
    file: ImageFile
    part: slide_regions.Part | None = None


class Results:
    """Writes the files of each image at once, and the tables from time to time and at the end.

    Args:
        folder: the folder of the results.
        models: the models that give them.
        journal: keeps what is finished for the next call; None: nothing is kept.
        about: what `folder_statistics.json` is to say; None: the classifier knows no statistics.
    """

    def __init__(
        self,
        folder: OutputFolder,
        models: fields.Models,
        journal: Journal | None = None,
        about: dict[str, Any] | None = None,
    ):
        self._folder, self._models, self._journal = folder, models, journal
        self._about = about
        self._finished: dict[int, Finished] = {}
        self._regions: dict[str, Finished] = {}
        self._slides: list[SlideRun] = []
        self._tables_seconds, self._tables_written = 0.0, time.monotonic()

    def resume(self, paths: Sequence[str], names: Sequence[str]) -> set[int]:
        """Takes over the images that an earlier, interrupted call finished.

        Returns:
            Their places in the list.
        """
        if self._journal is None:
            return set()
        places = {path: i for i, path in enumerate(paths)}
        for found in self._journal.read():
            i = places.get(found.path)
            there = (epath.Path(self._folder.path / file).exists() for file in found.files)
            if not (found.is_current() and all(there)):
                continue
            if i is None:
                self._regions[found.name] = found
            elif names[i] == found.name:
                self._finished[i] = found
        return set(self._finished)

    def begin(self, run: SlideRun) -> None:
        """Adds a slide, whose regions follow."""
        self._slides.append(run)

    def resume_region(self, run: SlideRun, region: Region, index: int) -> bool:
        """Takes over a region that an earlier call finished; returns whether there is one."""
        found = self._regions.get(run.stem(region))
        if found is None:
            return False
        run.restore(region, found.rows, found.features)
        self._finished[index] = found
        return True

    def end(self, run: SlideRun, index: int) -> None:
        """Writes a slide's own files; if nothing was found, the slide has a row all the same.

        A slide of which nothing could be looked at has none: nobody knows whether it has cells.
        """
        if run.looked_at() and not run.cells:
            nothing = Field([], None, None, run.um_per_px, run.source, False)
            rows = results.field_rows(nothing, **run.row())
            self._finished[index] = Finished.of(
                run.path, run.name, rows, [run.thumbnail()], None, ()
            )
        self._folder.write(run.files())
        run.release()

    def __len__(self) -> int:
        """Returns the number of images that are finished."""
        return len(self._finished)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Rows with `results.COLUMNS` as keys, in the order of the images."""
        return [row for i in sorted(self._finished) for row in self._finished[i].rows]

    def add(self, images: Sequence[Input], found: Sequence[Field]) -> None:
        """Writes the pictures and polygons of some images, and keeps their rows.

        Args:
            images: the images.
            found: the same images, analyzed.

        Raises:
            OSError: a file cannot be written.
        """
        chosen = [
            (image, one)
            for image, field in zip(images, found)
            for one in [image.part.run.accept(image.part.region, field) if image.part else field]
            if one is not None
        ]
        images, found = [image for image, _ in chosen], [field for _, field in chosen]
        with concurrent.futures.ThreadPoolExecutor() as pool:
            finished = list(pool.map(_finish, images, found))
        for image, (one, _) in zip(images, finished):
            if image.part:
                image.part.run.keep(one.features)
        self._folder.write({file: data for _, files in finished for file, data in files.items()})
        self._finished |= {image.index: one for image, (one, _) in zip(images, finished)}
        if self._journal is not None:
            self._journal.append([one for one, _ in finished])
        # Tables are rewritten as a whole.
        waited = time.monotonic() - self._tables_written
        if waited > max(_TABLES_EVERY_SECONDS, self._tables_seconds / _TABLES_SHARE):
            self.write_tables()

    def write_tables(self) -> None:
        """Writes the tables of the images that are finished.

        Raises:
            OSError: a file cannot be written.
        """
        start = time.monotonic()
        results.write(self._folder, self.rows, self._differential())
        self._tables_written = time.monotonic()
        self._tables_seconds = self._tables_written - start

    def close(self) -> None:
        """Writes the tables, the polygons of all images and the page.

        Raises:
            OSError: a file cannot be written.
        """
        self.write_tables()
        finished = [self._finished[i] for i in sorted(self._finished)]
        for run in self._slides:
            if not run.released:
                self._folder.write(run.files())
        if self._slides:
            about = [run.about() for run in self._slides]
            self._folder.write_csv("slides.csv", about, slide_regions.COLUMNS)
        images = any(one.coco is not None for one in finished) or not self._slides
        if self._models.segmenter is not None and images:
            content = polygons.coco(one.coco for one in finished if one.coco is not None)
            self._folder.write_text("coco.json", json.dumps(content))
        if self._about is not None:
            self._folder.write_text("folder_statistics.json", atomic.json_text(self._about))
        page = cell_page.render(
            self.rows,
            [thumbnail for one in finished for thumbnail in one.thumbnails],
            self._differential(),
            judged=self._models.rule is not None,
            statistics=self._about,
            folder=atomic.utf8(os.fspath(self._folder.path)),
            slides=[(run.about(), run.map()) for run in self._slides],
        )
        self._folder.write_text("index.html", page)

    def _differential(self) -> list[dict[str, Any]]:
        model = self._models.classifier
        return [] if model is None else results.differential(self.rows, model.types)

    def summary(self) -> str:
        """Returns the results in one line: number of cells, median N/C ratio, cells for review."""
        cells = [row for row in self.rows if row["cell"]]
        ratios = [r["nc_ratio"] for r in cells if math.isfinite(r["nc_ratio"] or math.nan)]
        files, whole = {one.path for one in self._finished.values()}, "image"
        if self._slides and files <= {run.path for run in self._slides}:
            files, whole = self._slides, "slide"
        parts = [f"{html.plural(len(cells), 'cell')} in {html.plural(len(files), whole)}"]
        if ratios:
            parts.append(f"median N/C {np.median(ratios):.3f}")
        if review := sum(bool(row["review"]) for row in cells):
            parts.append(f"{review} left to a person")
        if self._about and self._about["statistics"] == statistics.FOLDER:
            parts.append(f"types by the folder's statistics ({self._about['cells']} cells)")
        return f"{', '.join(parts)}: {self._folder.path / 'cells.csv'} and index.html"


def _finish(image: Input, field: Field) -> tuple[Finished, dict[str, bytes]]:
    """Returns an image's results, and the contents of its files by name."""
    if image.part is not None:
        return _finish_region(image, image.part, field)
    pixels, name = image.file.pixels, image.name
    height, width = pixels.shape[:2]
    about: dict[str, Any] = {"file": atomic.utf8(image.path), "width": width, "height": height}
    drawn, files, coco = pixels, {}, None
    if field.mask is not None and field.labels is not None:
        about |= {"mask": f"masks/{name}.png", "overlay": f"overlays/{name}.png"}
        drawn = overlays.field_overlay(pixels, field)
        collection = polygons.geojson(field.cells, polygons.identity(name, pixels))
        coco = polygons.coco_part(about["file"], (height, width), field.cells)
        files = {
            about["mask"]: encode_png(field.mask),
            f"labels/{name}.png": encode_labels(field.labels),
            about["overlay"]: encode_png(overlays.annotate(drawn, field)),
            f"geojson/{name}.geojson": json.dumps(collection).encode(),
        }
    if field.one_cell or not field.cells:
        thumbnails = [cell_page.thumbnail(drawn)]
    else:
        thumbnails = [cell_page.thumbnail(crops.cut(drawn, cell.box)) for cell in field.cells]
    rows = results.field_rows(field, **about)
    for row in rows:
        row["flag"] = ";".join(filter(None, (row["flag"], *image.file.flags)))
    return Finished.of(image.path, name, rows, thumbnails, coco, tuple(files)), files


def _finish_region(
    image: Input, part: slide_regions.Part, field: Field
) -> tuple[Finished, dict[str, bytes]]:
    """As `_finish`, of a slide's region; one without cells has neither rows nor files."""
    run, region, name = part.run, part.region, image.name
    rows, thumbnails, files = [], [], {}
    if field.cells:
        about, drawn = run.row() | run.place(region), image.file.pixels
        if field.mask is not None and field.labels is not None:
            about |= {"mask": f"masks/{name}.png", "overlay": f"overlays/{name}.jpg"}
            drawn = overlays.field_overlay(drawn, field)
            files = {
                about["mask"]: encode_png(field.mask),
                f"labels/{name}.png": encode_labels(field.labels),
                about["overlay"]: overlays.jpeg(overlays.annotate(drawn, field), quality=90),
            }
        thumbnails = [cell_page.thumbnail(crops.cut(drawn, cell.box)) for cell in field.cells]
        rows = [slide_cells.shifted_row(r, region) for r in results.field_rows(field, **about)]
    features = run.features(region, field) if files else ""
    found = Finished.of(image.path, name, rows, thumbnails, None, tuple(files), features)
    return found, files


def result_names(names: Sequence[str]) -> list[str]:
    """Returns the paths of all files that the results of images may consist of.

    Args:
        names: stems of the images' results.
    """
    found = [*results.TABLES, "index.html", "coco.json", "bad_files.csv", "passed_over.csv"]
    found.append("folder_statistics.json")
    return found + [pattern.format(name) for name in names for pattern in _FILES]


def encode_labels(labels: np.ndarray) -> bytes:
    """Encodes uint16 `[H, W]` as a 16-bit PNG."""
    return cv2.imencode(".png", labels)[1].tobytes()
