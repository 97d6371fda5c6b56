"""The page of a folder's cells: a table to sort and filter, their differential count, N/C ratios.

It is one offline HTML file (see `html`); thumbnails are JPEG in data URIs, about 2 KB each. Without
scripts all cells are shown, in the order of the images.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wbc_jax.labels import ALL, CELL_TYPES, REVIEW
from wbc_jax.report import html, nc_figures, overlays, slide_map

THUMBNAIL_PX = 72
MANY, MANY_SHARE = 10, 0.1
"""Number or share of cells left to a person from which on the page names `wbc_jax.review`."""

ALL_CELLS = "all cells"
"""Name of the group of N/C ratios where there are no types."""


@dataclasses.dataclass(frozen=True, slots=True)
class Whole:
    """What a page says of all cells, where it shows only some.

    Attributes:
        cells, images: numbers; `empty` images show no cell, and `review` cells are left to a
            person.
        ratios: finite N/C ratios by type, or of `ALL_CELLS`.
        notes: sentences for the head of the page.
    """

    cells: int
    images: int
    empty: int
    review: int
    ratios: Mapping[str, Sequence[float]]
    notes: tuple[str, ...] = ()


def thumbnail(image: np.ndarray) -> bytes:
    """Returns a small copy of an image, uint8 `[H, W, 3]` RGB, as JPEG."""
    return overlays.jpeg(overlays.resize(image, THUMBNAIL_PX), quality=82)


def render(
    rows: Sequence[Mapping[str, Any]],
    thumbnails: Sequence[bytes],
    differential: Sequence[Mapping[str, Any]],
    judged: bool,
    statistics: Mapping[str, Any] | None = None,
    folder: str = "DIR",
    slides: Sequence[tuple[Mapping[str, Any], bytes]] = (),
    whole: Whole | None = None,
) -> str:
    """Returns the page.

    Args:
        rows: the rows of `cells.csv`.
        thumbnails: one a row.
        differential: the rows of `differential.csv`; empty without types.
        judged: the classifier has an abstention rule.
        statistics: from `folder_pass.summary`; None: the classifier knows no statistics.
        folder: the folder of the results.
        slides: of each slide, its row of `slides.csv`, and its map as JPEG.
        whole: if `rows` are only some, what to say of all; their masks may be nowhere as files, and
            the magnification is not known.
    """
    environment = html.make_environment()
    cells = [row for row in rows if row["cell"]]
    # A slide that could not be looked at has no row.
    files = {row["file"] for row in rows}
    of_slides = bool(slides) and files <= {about["file"] for about, _ in slides}
    said = whole or Whole(
        cells=len(cells),
        images=len(slides) if of_slides else len(files),
        empty=sum(not row["cell"] for row in rows),
        review=sum(bool(row["review"]) for row in cells),
        ratios=_ratios(cells),
    )
    groups = _ordered(said.ratios)
    um = any(row["um_per_px"] for row in cells)
    review = said.review
    many = (whole is None and review >= MANY) or review >= MANY_SHARE * len(cells) > 0
    many = many and not slides  # which `wbc_jax.review` does not show
    kind = "slide" if of_slides else "image"
    return environment.get_template("cells.html.j2").render(
        images=said.images,
        kind=kind,
        map_colors=html.css_colors(**slide_map.COLORS),
        slides=[_slide(about, picture) for about, picture in slides],
        cells=said.cells,
        empty=said.empty,
        review=review,
        notes=said.notes,
        some=whole is not None,
        review_command=f"python -m wbc_jax.review {shlex.quote(folder)}" if many else "",
        typed=bool(differential),
        judged=judged,
        statistics=statistics,
        masks=any(row["mask"] or (whole and row["nucleus_px"] is not None) for row in rows),
        scales=["not known"] if whole else _scales(rows, kind),
        um=um,
        differential=[{**row, "share": row["percent"] or 0} for row in differential],
        histogram=html.chart(nc_figures.nc_histogram, groups) if groups else None,
        panels=len(groups),
        rows=[_shown(row, picture, um) for row, picture in zip(rows, thumbnails)],
        types=[row["type"] for row in differential if row["type"] != ALL],
        flags=sorted({f for row in rows for f in _flags(row)}),
        review_name=REVIEW,
        thumbnail=THUMBNAIL_PX,
        **html.script(environment, "cells.js"),
    )


def _ratios(cells: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Groups the finite N/C ratios by type, or as `ALL_CELLS` where there are no types."""
    found: dict[str, list[float]] = {}
    for row in cells:
        if row["nc_ratio"] is not None and math.isfinite(row["nc_ratio"]):
            found.setdefault(row["type"] or ALL_CELLS, []).append(row["nc_ratio"])
    return found


def _ordered(found: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    own = (name for name in found if name not in (*CELL_TYPES, REVIEW, ALL_CELLS))
    order = (*CELL_TYPES, *own, REVIEW, ALL_CELLS)
    return {name: found[name] for name in order if name in found}


def _scales(rows: Sequence[Mapping[str, Any]], kind: str) -> list[str]:
    """Counts the images by the source of their magnification, as parts of a sentence."""
    scales = {row["file"]: (row["um_per_px_source"], row["um_per_px"]) for row in rows}
    said = []
    texts = {
        "given": "given by the user",
        "red_cells": "estimated from the red cells",
        "unknown": "not known",
    }
    for source, text in (*texts.items(), (None, "stated by the file")):
        sizes = [
            size
            for name, size in scales.values()
            if name == source or (source is None and name and name not in texts)
        ]
        known = [size for size in sizes if size]
        if sizes:
            middle = f" (median {np.median(known):.3f} µm a pixel)" if known else ""
            said.append(f"{text} in {html.plural(len(sizes), kind)}{middle}")
    return said


def _slide(about: Mapping[str, Any], picture: bytes) -> dict[str, Any]:
    """Adds to a row of `slides.csv` what the page shows."""
    chosen = {"thin"} if about["area"] == "thin" else {"thin", "edge", "thick"}
    regions = {kind: about[f"{kind}_regions"] for kind in ("edge", "thin", "thick")}
    seen = about["looked_at"] + about["damaged_regions"]
    return {
        **about,
        "name": os.path.basename(about["file"]),
        "uri": html.uri(picture, "jpeg"),
        **{f"{kind}_left_out": number for kind, number in regions.items() if kind not in chosen},
        "not_seen": sum(regions[kind] for kind in chosen) - seen,
    }


def _flags(row: Mapping[str, Any]) -> list[str]:
    """Lists a row's flags and its reasons for a review."""
    return [name for name in f"{row['flag'] or ''};{row['review'] or ''}".split(";") if name]


def _shown(row: Mapping[str, Any], picture: bytes, others_um: bool) -> dict[str, Any]:
    """Adds to a row what the table shows; `others_um`: some rows have areas in µm²."""
    um = row["um_per_px"] is not None
    unit = "um2" if um else "px"
    return {
        **row,
        "name": os.path.basename(row["file"]),
        "uri": html.uri(picture, "jpeg"),
        "flags": _flags(row),
        "nucleus": row[f"nucleus_{unit}"],
        "cytoplasm": row[f"cytoplasm_{unit}"],
        "digits": 1 if um else 0,
        "unit": "µm²" if um else "px",
        "comparable": um or not others_um,
    }
