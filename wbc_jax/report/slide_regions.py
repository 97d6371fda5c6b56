"""A slide as a list of regions, which `cell_results` analyzes as it does images.

`slide_choice` chooses the regions, and `slide_cells` takes each cell once.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from wbc_jax.data import blank_tiles, slides
from wbc_jax.data.images import ImageFile
from wbc_jax.data.slide import Slide
from wbc_jax.errors import DataError
from wbc_jax.fields import polygons, smear
from wbc_jax.fields.cells import Field
from wbc_jax.fields.smear import THICK, Region
from wbc_jax.fields.windows import MAX_CELLS
from wbc_jax.report import cell_page, slide_cells, slide_choice, slide_map
from wbc_jax.utils import atomic, stopping

COLUMNS = (
    *("file", "format", "width", "height", "um_per_px", "um_per_px_source", "regions"),
    *(f"{kind}_regions" for kind in smear.KINDS),
    *("looked_at", "damaged_regions", "looked_at_mm2", "cells", "wanted_cells", "area"),
)
"""Columns of `slides.csv`."""
_OVERVIEW_PX = 2048
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
        area: one of `slide_choice.AREAS`.
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
        self._choice: slide_choice.Choice | None = None
        self._seen: dict[int, str] = {}
        self._taken = slide_cells.Taken()
        self._features: list[str] = []
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
        if self._choice is None:
            slide = self._slide
            self.size, self.kind = slide.size, slide.kind
            # Without a pyramid the overview shows the same damage as the regions.
            self._independent = slide.overview_level(_OVERVIEW_PX) > 0
            choice = slide_choice.choose(
                slide, self._overview, self._unread, self._area, self._given
            )
            self.notes = [*slide.notes, *choice.notes]
            self.order, self.um_per_px, self.source = choice.order, choice.um_per_px, choice.source
            self._choice = choice

    def rest(self) -> None:
        """Closes the slide and frees its picture, until it is opened again."""
        if self._slide is not None:
            self._slide.close()
        self._slide = self._overview = self._unread = None

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
        blank_tiles.check(self._slide, region.window, pixels, self._overview, self._independent)
        known = None if self._area == "all" else self._choice.calibration
        y, x = region.window[:2]
        top, left, bottom, right = region.core
        core = pixels[top - y : bottom - y, left - x : right - x]
        if known is not None and smear.overlap(core, known) > smear.MAX_OVERLAP:
            return None
        return ImageFile(pixels, (), self.um_per_px, self.source, ())

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
        return slide_cells.own(region, field, self.order, self.um_per_px)

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
            if len(kept) < left and self._taken.add(slide_cells.shifted(cell, region).box):
                kept.append(i)
        field = slide_cells.selected(field, kept, self._last)
        self.cells += len(kept)
        self._last += len(kept)
        self.mark(region, "looked_at")
        return field

    def restore(self, region: Region, rows: Sequence[Mapping[str, Any]], features: str) -> None:
        """Takes the cells of a region that an earlier call has analyzed."""
        for row in rows:
            self._taken.add(tuple(row[side] for side in ("top", "left", "bottom", "right")))
        self.cells += len(rows)
        self._last = max([self._last, *(row["cell"] for row in rows)])
        self.keep(features)
        self.mark(region, "looked_at")

    def features(self, region: Region, field: Field) -> str:
        """Returns a region's cells as GeoJSON features in pixels of the slide, joined by commas."""
        cells = [slide_cells.shifted(cell, region) for cell in field.cells]
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
        self._features, self._taken = [], slide_cells.Taken()

    @property
    def released(self) -> bool:
        """`release` was called."""
        return bool(self._map)

    def map(self) -> bytes:
        """Returns the slide with the regions that were looked at and the cells found, as JPEG."""
        if self._map:
            return self._map
        kinds = [(r.core, self._seen.get(r.number, r.kind)) for r in self._choice.regions]
        return slide_map.draw(self._overview, self.size, kinds, self._taken.centers)

    def progress(self) -> str:
        """Returns a note for the progress line: area looked at, and cells."""
        wanted = f" of {self.wanted}" if self.wanted else ""
        area = self._area_mm2(self.looked_at())
        said = f"{area:.3g} of {self._area_mm2(self.order):.3g} mm², " if area is not None else ""
        return f"{said}{self.cells}{wanted} cells"

    def looked_at(self) -> list[Region]:
        """Returns the regions that were looked at."""
        return [r for r in self._choice.regions if self._seen.get(r.number) == "looked_at"]

    def _judged(self) -> list[Region]:
        """Returns all regions; some were seen to be too thick when they were read."""
        return [
            dataclasses.replace(region, kind=THICK) if self._seen.get(region.number) == THICK
            else region
            for region in self._choice.regions
        ]  # fmt: skip

    def _area_mm2(self, regions: Sequence[Region]) -> float | None:
        if self.um_per_px is None:
            return None
        pixels = sum((r.core[2] - r.core[0]) * (r.core[3] - r.core[1]) for r in regions)
        return pixels * self.um_per_px**2 / 1e6

    def about(self) -> dict[str, Any]:
        """Returns the slide's row of `slides.csv`."""
        seen = collections.Counter(self._seen.values())
        kinds = slide_choice.count_kinds(self._judged())
        return {
            **self.row(),
            "format": self.kind,
            "um_per_px": self.um_per_px,
            "um_per_px_source": self.source,
            "regions": len(self._choice.regions),
            **{f"{kind}_regions": number for kind, number in kinds.items()},
            "looked_at": seen["looked_at"],
            "damaged_regions": seen["damaged"],
            "looked_at_mm2": self._area_mm2(self.looked_at()),
            "cells": self.cells,
            "wanted_cells": self.wanted,
            "area": self._area,
        }

    def nothing_seen(self) -> str:
        """Returns why no region could be looked at, if that is so and no damage is the reason."""
        seen = self._seen.values()
        if "looked_at" in seen or "damaged" in seen:
            return ""
        return slide_choice.too_thick(self.path, slide_choice.count_kinds(self._judged()))

    def outcome(self) -> str:
        """Returns a sentence on what is unusual of the finished work; empty if nothing is."""
        many = len(self.looked_at())
        if not many:
            seen = collections.Counter(self._seen.values())
            return (
                f"{self.path}: none of {len(self.order)} regions could be looked at: "
                f"{seen['damaged']} damaged, {seen[THICK]} too thick"
            )
        regions = f"the {many} regions that were looked at"
        if many == 1:
            regions = "the region that was looked at"
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
