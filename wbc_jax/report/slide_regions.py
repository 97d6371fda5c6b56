"""A slide as a list of regions, which `cell_results` analyzes as it does images.

A region is a square of `CORE_PX` and a margin, so that its cells are whole. A cell belongs to the
region in whose core its center lies. Two neighbors may see the center of a cell on their border a
little differently, so that both or none would take it: each also takes cells that are up to
`_BORDER_UM` outside, in a region that is visited as well, unless that has already taken the cell.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from wbc_jax.data import slides
from wbc_jax.data.images import ImageFile
from wbc_jax.data.slide import Slide
from wbc_jax.errors import DataError
from wbc_jax.fields import polygons, smear
from wbc_jax.fields.cells import Cell, Field
from wbc_jax.fields.finder import Box
from wbc_jax.fields.smear import GLASS, THICK, THIN, Region
from wbc_jax.report import cell_page, slide_map
from wbc_jax.utils import atomic, stopping

CORE_PX = 2048
"""Side of a region in pixels of the finest level, without its margin."""
AREAS = ("thin", "all")
"""What is looked at: the thin part of the smear, or all that is stained."""
COLUMNS = (
    *("file", "format", "width", "height", "um_per_px", "um_per_px_source", "regions"),
    *(f"{kind}_regions" for kind in smear.KINDS),
    *("looked_at", "damaged_regions", "looked_at_mm2", "cells", "wanted_cells"),
)
"""Columns of `slides.csv`."""
_MARGIN_UM, _MARGIN_PX = 30.0, 128
"""Margin: more than a leukocyte's diameter; in pixels where the magnification is not known."""
_BORDER_UM, _BORDER_PX = 2.0, 8
_SAME_CELL = 0.3
"""Two boxes with this IoU or more are one cell."""
_OVERVIEW_PX = 2048
_LEAST_LIGHT = 64
"""Gray level of the brightest part of a bright-field slide, at least."""
_LEAST_PART_PX = 64
_BIN = 256
MAX_CELLS = 2**16 - 1
"""Largest number of cells of a slide, because its labels are uint16."""
FIRST = 64
"""Regions of a slide that the first pass for the folder's statistics looks at, at most."""
BATCH = 2
"""Regions that are analyzed together."""


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """A region that is to be analyzed.

    Attributes:
        run: the work on the slide that it is of.
        region: the region.
        slot: its place in the first pass (`folder_pass`); -1 if it has none.
    """

    run: SlideRun
    region: Region
    slot: int = -1


class SlideRun:
    """The work on one slide.

    Args:
        path: the slide.
        name: stem of its results.
        count: number of leukocytes at which to stop; None: look at all regions.
        area: one of `AREAS`.
        um_per_px: micrometers per pixel, if the user gives it.

    Attributes:
        cells: number of cells that were taken.
    """

    def __init__(
        self,
        path: str,
        name: str,
        count: int | None = None,
        area: str = "thin",
        um_per_px: float | None = None,
    ):
        self.path, self.name, self.cells = os.fspath(path), name, 0
        self.wanted, self._area, self._given = count, area, um_per_px
        self._slide: Slide | None = None
        self._overview: np.ndarray | None = None
        self._unread: np.ndarray | None = None
        self._regions: list[Region] = []
        self._seen: dict[int, str] = {}
        self._boxes: dict[tuple[int, int], list[Box]] = collections.defaultdict(list)
        self._features: list[str] = []
        self._places: list[tuple[float, float]] = []
        self._map = b""
        self._first_cells = self._last = 0
        self.notes: list[str] = []

    def open(self) -> None:
        """Opens the slide and chooses the regions, unless that is done.

        Raises:
            DataError: it is no slide that can be read, or has no part that is to be looked at.
            OSError: it cannot be opened.
        """
        if self._slide is None:
            self._slide = slides.open_slide(self.path)
        if self._overview is None:
            self._overview, self._unread = self._slide.overview(_OVERVIEW_PX)
        if not self._regions:
            self.notes = list(self._slide.notes)
            self._choose(self._slide, self._overview, self._unread)

    def rest(self) -> None:
        """Closes the slide and frees its picture, until it is opened again."""
        if self._slide is not None:
            self._slide.close()
        self._slide = self._overview = self._unread = None

    def _choose(self, slide: Slide, overview: np.ndarray, unread: np.ndarray) -> None:
        self.size, self.kind = slide.size, slide.kind
        self._tile = slide.levels[0].tile
        # Without a pyramid the overview shows the same damage as the regions.
        self._independent = slide.overview_level(_OVERVIEW_PX) > 0
        bright = float(np.percentile(overview[..., 1][~unread], 99.5)) if (~unread).any() else 0
        if (~unread).any() and bright < _LEAST_LIGHT:
            raise DataError(
                f"{self.path}: is dark (its brightest part has a gray level of {bright:.0f}): "
                "allowed are stained smears in bright field, not fluorescence"
            )
        um, self.source = (self._given, "given") if self._given else (slide.um_per_px, "")
        self.source = self.source or slide.um_per_px_source

        def read(box: Box) -> np.ndarray | None:
            try:
                return slide.read(box)
            except DataError:
                return None

        regions = smear.divide(slide.size, CORE_PX, 0)
        self._calibration = smear.calibrate(regions, overview, read)
        if um is None and self._calibration is not None:
            um, self.source = self._calibration.um_per_px, "red_cells"
            self.notes.append(
                f"{self.path}: states no magnification: its red cells suggest {um:.3g} um per "
                "pixel; give --um_per_px if you know it"
            )
        elif um is None:
            self.source = "unknown"
            self.notes.append(
                f"{self.path}: states no magnification, and shows no red cells to estimate it: "
                "areas are in pixels; give --um_per_px if you know it"
            )
        self.um_per_px = um
        margin = _MARGIN_PX if um is None else math.ceil(_MARGIN_UM / um)
        regions = smear.divide(slide.size, CORE_PX, margin)
        if self._calibration is not None:
            um = um or self._calibration.um_per_px
            self._regions = smear.judge(regions, overview, unread, self._calibration, um)
        else:
            self._regions = smear.judge_darkness(regions, overview, unread)
            self.notes.append(
                f"{self.path}: no red cells lie side by side where it was measured: the thin part "
                "cannot be told, so all that is stained is looked at"
            )
        chosen = [r for r in self._regions if r.kind == THIN or self._is_wanted(r.kind)]
        if not chosen:
            said = ", ".join(f"{n} {kind}" for kind, n in self._kinds().items() if n)
            self._regions = []
            raise DataError(
                f"{self.path}: no part of the smear is thin enough (regions: {said}): "
                "--area=all looks at all that is stained"
            )
        self.order = smear.spread(chosen)

    def _is_wanted(self, kind: str) -> bool:
        return self._area == "all" and kind != GLASS

    def _kinds(self) -> dict[str, int]:
        counts = collections.Counter(region.kind for region in self._regions)
        return {kind: counts[kind] for kind in smear.KINDS}

    @property
    def full(self) -> bool:
        """As many cells are found as are wanted, or as can be numbered."""
        return self.cells >= (self.wanted or MAX_CELLS) or self._last >= MAX_CELLS

    def stem(self, region: Region) -> str:
        """Returns the stem of a region's results."""
        return f"{self.name}_y{region.core[0]:06}_x{region.core[1]:06}"

    def read(self, region: Region) -> ImageFile | None:
        """Reads a region with its margin.

        Returns:
            None if red cells overlap too much in it.

        Raises:
            DataError: a tile is damaged; names its place.
            OSError: the slide is gone.
        """
        if self._slide is None:
            self.open()
        pixels = self._slide.read(region.window)
        self._check_tiles(region, pixels)
        known = None if self._area == "all" else self._calibration
        y, x = region.window[:2]
        top, left, bottom, right = region.core
        core = pixels[top - y : bottom - y, left - x : right - x]
        if known is not None and smear.overlap(core, known) > smear.MAX_OVERLAP:
            return None
        return ImageFile(pixels, (), self.um_per_px, self.source, ())

    def _check_tiles(self, region: Region, pixels: np.ndarray) -> None:
        """Raises an error if a tile has one color alone, which no camera gives."""
        top, left, bottom, right = region.window
        high, wide = self._tile
        for y, x in itertools.product(
            range(top // high * high, bottom, high), range(left // wide * wide, right, wide)
        ):
            part = max(y, top), max(x, left), min(y + high, bottom), min(x + wide, right)
            tile = pixels[part[0] - top : part[2] - top, part[1] - left : part[3] - left]
            # A whole tile, or enough of it where a coarser level can bear witness.
            least = (_LEAST_PART_PX,) * 2 if self._independent else self._tile
            if tile.shape[0] < min(high, least[0]) or tile.shape[1] < min(wide, least[1]):
                continue
            if (tile[0] != tile[0, 0]).any() or (tile != tile[0, 0]).any():
                continue
            # An overexposed scan shows empty glass in one color; a coarser level then does, too.
            scale = self._overview.shape[0] / self.size[0]
            y0, x0, y1, x1 = (side * scale for side in part)
            there = self._overview[math.ceil(y0) : int(y1), math.ceil(x0) : int(x1)].astype(int)
            if self._independent and np.abs(there - tile[0, 0]).max(initial=0) < 16:
                continue
            color = ", ".join(map(str, tile[0, 0].tolist()))
            raise DataError(
                f"{self.path}: the tile at x {x} to {x + wide}, y {y} to {y + high} has one color "
                f"({color}), so it is missing or damaged: copy the slide again, or scan it again"
            )

    def batches(
        self, start: int, bad: list[tuple[str, str]]
    ) -> Iterator[list[tuple[int, Part, ImageFile]]]:
        """Reads the regions that are not finished yet, in the order of their visit.

        Args:
            start: slot of the first region.
            bad: (path, reason) of each damaged region is added.

        Yields:
            Up to `BATCH` regions: number in `order`, the region, its pixels.

        Raises:
            OSError: the slide is gone.
            stopping.Stopped: a signal came and its exception was lost.
        """
        batch: list[tuple[int, Part, ImageFile]] = []
        for k, region in enumerate(self.order):
            if self.full:
                return
            if region.number in self._seen:
                continue
            stopping.raise_if_stopped()
            try:
                file = self.read(region)
            except DataError as error:
                self.mark(region, "damaged")
                bad.append((self.path, str(error)))
                continue
            if file is None:
                self.mark(region, THICK)
                continue
            batch.append((k, Part(self, region, start + k if k < FIRST else -1), file))
            if len(batch) == BATCH:
                yield batch
                batch = []
        if batch and not self.full:
            yield batch

    def first_batches(
        self, start: int, slots: Sequence[int]
    ) -> Iterator[list[tuple[int, Part, ImageFile]]]:
        """Reads regions for the first pass, until as many cells are found as are wanted.

        Args:
            start: slot of the first region.
            slots: those that are to be read.

        Yields, Raises: as `batches`; nothing of a slide that cannot be opened.
        """
        try:
            self.open()
        except (DataError, OSError):
            return  # the second pass says why
        batch: list[tuple[int, Part, ImageFile]] = []
        for slot in slots:
            if slot - start >= len(self.order) or self._first_cells >= (self.wanted or math.inf):
                break
            stopping.raise_if_stopped()
            region = self.order[slot - start]
            try:
                file = self.read(region)
            except DataError:
                continue
            if file is not None:
                batch.append((slot - start, Part(self, region, slot), file))
            if len(batch) == BATCH:
                yield batch
                batch = []
        if batch:
            yield batch

    def count_first(self, found: Sequence[Field]) -> None:
        """Notes the cells that the first pass has found."""
        self._first_cells += sum(len(field.cells) for field in found)

    @property
    def visited(self) -> int:
        """Number of regions that are done."""
        return len(self._seen)

    def mark(self, region: Region, what: str) -> None:
        """Notes what became of a region: `looked_at`, `damaged` or `smear.THICK`."""
        self._seen[region.number] = what

    def own(self, region: Region, field: Field) -> Field:
        """Returns a field without the cells whose centers lie outside of the region's core."""
        border = _BORDER_PX if self.um_per_px is None else _BORDER_UM / self.um_per_px
        kept = []
        for i, cell in enumerate(field.cells):
            y = region.window[0] + (cell.top + cell.bottom) / 2
            x = region.window[1] + (cell.left + cell.right) / 2
            near = _inside(y, x, region.core, border)
            # Beyond the border, only what another region that is visited may miss.
            if _inside(y, x, region.core) or (
                near and any(_inside(y, x, other.core) for other in self.order)
            ):
                kept.append(i)
        return _selected(field, kept, 0)

    def accept(self, region: Region, field: Field) -> Field | None:
        """Takes the cells of a region that no neighbor has taken, up to the number that is wanted.

        Returns:
            The field with these cells alone, numbered on; None if no more are wanted.
        """
        if self.full:
            return None
        left = min((self.wanted or MAX_CELLS) - self.cells, MAX_CELLS - self._last)
        kept: list[int] = []
        for i, cell in enumerate(field.cells):
            if len(kept) < left and self._add(_shifted(cell, region).box):
                kept.append(i)
        field = _selected(field, kept, self._last)
        self.cells += len(kept)
        self._last += len(kept)
        self.mark(region, "looked_at")
        return field

    def restore(self, region: Region, rows: Sequence[Mapping[str, Any]], features: str) -> None:
        """Takes the cells of a region that an earlier call has analyzed."""
        for row in rows:
            self._add(tuple(row[side] for side in ("top", "left", "bottom", "right")))
        self.cells += len(rows)
        self._last = max([self._last, *(row["cell"] for row in rows)])
        self.keep(features)
        self.mark(region, "looked_at")

    def _add(self, box: Box) -> bool:
        """Notes a cell's box, unless its cell is known; returns whether it is new."""
        y, x = (box[0] + box[2]) // 2 // _BIN, (box[1] + box[3]) // 2 // _BIN
        near = itertools.product((y - 1, y, y + 1), (x - 1, x, x + 1))
        if any(
            _iou(box, one) >= _SAME_CELL for place in near for one in self._boxes.get(place, ())
        ):
            return False
        self._boxes[y, x].append(box)
        self._places.append(((box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
        return True

    def features(self, region: Region, field: Field) -> str:
        """Returns a region's cells as GeoJSON features in pixels of the slide, joined by commas."""
        cells = [_shifted(cell, region) for cell in field.cells]
        found = polygons.geojson(cells, f"{self.name}/{self.size}")["features"]
        return json.dumps(found)[1:-1]

    def keep(self, features: str) -> None:
        """Adds features to the slide's GeoJSON."""
        if features:
            self._features.append(features)

    def row(self) -> dict[str, Any]:
        """Returns the columns of `cells.csv` that describe the slide."""
        return {"file": atomic.utf8(self.path), "width": self.size[1], "height": self.size[0]}

    def place(self, region: Region) -> dict[str, int]:
        """Returns the columns of `cells.csv` that say where a region's pictures lie."""
        return {"region_top": region.window[0], "region_left": region.window[1]}

    def thumbnail(self) -> bytes:
        """Returns a small picture of the slide, as JPEG."""
        return cell_page.thumbnail(self._overview)

    def files(self) -> dict[str, bytes]:
        """Returns the slide's own files by name."""
        joined = ", ".join(self._features)
        text = f'{{"type": "FeatureCollection", "features": [{joined}]}}'
        return {
            f"maps/{self.name}.jpg": self.map(),
            f"geojson/{self.name}.geojson": text.encode(),
        }

    def release(self) -> None:
        """Closes the slide and frees what only its files need, but for the map."""
        self._map = self.map()
        self.rest()
        self._features, self._boxes, self._places = [], collections.defaultdict(list), []

    @property
    def released(self) -> bool:
        """`release` was called."""
        return bool(self._map)

    def map(self) -> bytes:
        """Returns the slide with the regions that were looked at and the cells found, as JPEG."""
        if self._map:
            return self._map
        kinds = [(r.core, self._seen.get(r.number, r.kind)) for r in self._regions]
        return slide_map.draw(self._overview, self.size, kinds, self._places)

    def progress(self) -> str:
        """Returns a note for the progress line: area looked at, and cells."""
        wanted = f" of {self.wanted}" if self.wanted else ""
        area = self._area_mm2(self.looked_at())
        said = f"{area:.3g} of {self._area_mm2(self.order):.3g} mm², " if area is not None else ""
        return f"{said}{self.cells}{wanted} cells"

    def looked_at(self) -> list[Region]:
        """Returns the regions that were looked at."""
        return [r for r in self._regions if self._seen.get(r.number) == "looked_at"]

    def _area_mm2(self, regions: Sequence[Region]) -> float | None:
        if self.um_per_px is None:
            return None
        pixels = sum((r.core[2] - r.core[0]) * (r.core[3] - r.core[1]) for r in regions)
        return pixels * self.um_per_px**2 / 1e6

    def about(self) -> dict[str, Any]:
        """Returns the slide's row of `slides.csv`."""
        seen = collections.Counter(self._seen.values())
        kinds = self._kinds()
        kinds[THICK] += seen[THICK]
        kinds[THIN] -= seen[THICK]
        return {
            **self.row(),
            "format": self.kind,
            "um_per_px": self.um_per_px,
            "um_per_px_source": self.source,
            "regions": len(self._regions),
            **{f"{kind}_regions": number for kind, number in kinds.items()},
            "looked_at": seen["looked_at"],
            "damaged_regions": seen["damaged"],
            "looked_at_mm2": self._area_mm2(self.looked_at()),
            "cells": self.cells,
            "wanted_cells": self.wanted,
        }

    def outcome(self) -> str:
        """Returns a sentence on what is unusual of the finished work; empty if nothing is."""
        regions = f"the {len(self.looked_at())} regions that were looked at"
        if not self.cells:
            return f"{self.path}: no leukocyte was found in {regions}"
        if self.wanted and self.cells < self.wanted:
            return f"{self.path}: {self.cells} of {self.wanted} leukocytes were found in {regions}"
        if self.cells >= MAX_CELLS and not self.wanted:
            return f"{self.path}: stopped at {MAX_CELLS} cells, the most that labels can number"
        return ""


def result_names(folder: os.PathLike[str], run: SlideRun) -> list[str]:
    """Returns the paths of a slide's results, and those of its regions that are there."""
    found = [f"maps/{run.name}.jpg", f"geojson/{run.name}.geojson", "slides.csv"]
    for kind in ("masks", "labels", "overlays"):
        path = os.path.join(folder, kind)
        there = os.listdir(path) if os.path.isdir(path) else []
        found += [f"{kind}/{name}" for name in there if name.startswith(f"{run.name}_y")]
    return found


def _selected(field: Field, kept: Sequence[int], start: int) -> Field:
    """Returns a field with some of its cells, numbered from `start` + 1."""
    numbers = np.zeros(len(field.cells) + 1, np.uint16)
    cells = []
    for new, i in enumerate(kept, start + 1):
        numbers[field.cells[i].cell] = new
        cells.append(dataclasses.replace(field.cells[i], cell=new))
    mask, labels = field.mask, field.labels
    if mask is not None and labels is not None:
        labels = numbers[labels]
        mask = np.where(labels > 0, mask, 0).astype(np.uint8)
    outputs = None if field.outputs is None else field.outputs.take(list(kept))
    return dataclasses.replace(field, cells=cells, mask=mask, labels=labels, outputs=outputs)


def _shifted(cell: Cell, region: Region) -> Cell:
    """Returns a cell in pixels of the slide."""
    down, across = region.window[:2]
    return dataclasses.replace(
        cell,
        top=cell.top + down,
        left=cell.left + across,
        bottom=cell.bottom + down,
        right=cell.right + across,
    )


def shifted_row(row: Mapping[str, Any], region: Region) -> dict[str, Any]:
    """Returns a cell's row with its box in pixels of the slide."""
    down, across = region.window[:2]
    moved = {"top": down, "bottom": down, "left": across, "right": across}
    return {**row, **{side: row[side] + by for side, by in moved.items()}}


def _inside(y: float, x: float, box: Box, border: float = 0.0) -> bool:
    """Returns whether a point lies in a box that is wider by a border on all sides."""
    top, left, bottom, right = box
    return top - border <= y < bottom + border and left - border <= x < right + border


def _iou(one: Box, other: Box) -> float:
    height = min(one[2], other[2]) - max(one[0], other[0])
    width = min(one[3], other[3]) - max(one[1], other[1])
    both = max(0, height) * max(0, width)
    areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other))
    return both / (areas - both) if areas > both else 0.0
