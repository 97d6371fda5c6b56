"""Which regions of a slide are looked at, and the size of its pixels.

A region is a square of `CORE_PX` and a margin, so that its cells are whole.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from wbc_jax.data.slide import Slide
from wbc_jax.errors import DataError
from wbc_jax.fields import smear
from wbc_jax.fields.finder import Box
from wbc_jax.fields.smear import GLASS, THIN, Region

CORE_PX = 2048
"""Side of a region in pixels of the finest level, without its margin."""
AREAS = ("thin", "all")
"""What is looked at: the thin part of the smear, or all that is stained."""
_MARGIN_UM, _MARGIN_PX = 30.0, 128
"""Margin: more than a leukocyte's diameter; in pixels where the magnification is not known."""
_LEAST_LIGHT = 64
"""Gray level of the brightest part of a bright-field slide, at least."""


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen of a slide.

    Attributes:
        regions: all regions, with their kinds.
        order: those that are looked at, in the order of their visit.
        calibration: what red cells say; None: none were found.
        um_per_px, source: size of a pixel, and whence it is known; None and `unknown`.
        notes: sentences for the log.
    """

    regions: list[Region]
    order: list[Region]
    calibration: smear.Calibration | None
    um_per_px: float | None
    source: str
    notes: tuple[str, ...]


def choose(
    slide: Slide,
    overview: np.ndarray,
    unread: np.ndarray,
    area: str,
    um_per_px: float | None = None,
) -> Choice:
    """Chooses the regions of a slide that are looked at.

    Args:
        slide: the slide.
        overview, unread: from `slide.overview`.
        area: one of `AREAS`.
        um_per_px: micrometers per pixel, if the user gives it.

    Raises:
        DataError: the slide is dark, or has no part that is to be looked at.
        OSError: the slide is gone.
    """
    path, notes = slide.path, []
    bright = float(np.percentile(overview[..., 1][~unread], 99.5)) if (~unread).any() else 0
    if (~unread).any() and bright < _LEAST_LIGHT:
        raise DataError(
            f"{path}: is dark (its brightest part has a gray level of {bright:.0f}): allowed are "
            "stained smears in bright field, not fluorescence"
        )
    um, source = (um_per_px, "given") if um_per_px else (slide.um_per_px, slide.um_per_px_source)

    def read(box: Box) -> np.ndarray | None:
        try:
            return slide.read(box)
        except DataError:
            return None

    regions = smear.divide(slide.size, CORE_PX, 0)
    calibration = smear.calibrate(regions, overview, read)
    if um is None and calibration is not None:
        um, source = calibration.um_per_px, "red_cells"
        notes.append(
            f"{path}: states no magnification: its red cells suggest {um:.3g} um per pixel; give "
            "--um_per_px if you know it"
        )
    elif um is None:
        source = "unknown"
        notes.append(
            f"{path}: states no magnification, and shows no red cells to estimate it: areas are in "
            "pixels; give --um_per_px if you know it"
        )
    margin = _MARGIN_PX if um is None else math.ceil(_MARGIN_UM / um)
    regions = smear.divide(slide.size, CORE_PX, margin)
    if calibration is not None:
        scale = um or calibration.um_per_px
        regions = smear.judge(regions, overview, unread, calibration, scale)
    else:
        regions = smear.judge_darkness(regions, overview, unread)
        notes.append(
            f"{path}: no red cells lie side by side where it was measured: the thin part cannot be "
            "told, so all that is stained is looked at"
        )
    chosen = [r for r in regions if r.kind == THIN or (area == "all" and r.kind != GLASS)]
    if not chosen:
        raise DataError(too_thick(path, count_kinds(regions)))
    return Choice(regions, smear.spread(chosen), calibration, um, source, tuple(notes))


def too_thick(path: str, kinds: Mapping[str, int]) -> str:
    """Returns the sentence on a slide without a thin part, from the numbers of its regions."""
    if not any(number for kind, number in kinds.items() if kind != GLASS):
        return f"{path}: shows empty glass alone: there is nothing to look at"
    said = ", ".join(f"{number} {kind}" for kind, number in kinds.items() if number)
    return (
        f"{path}: no part of the smear is thin enough (regions: {said}): --area=all looks at all "
        "that is stained"
    )


def count_kinds(regions: Sequence[Region]) -> dict[str, int]:
    """Returns the number of regions by kind."""
    counts = collections.Counter(region.kind for region in regions)
    return {kind: counts[kind] for kind in smear.KINDS}
