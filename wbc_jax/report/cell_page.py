"""The page of a folder's cells: a table to sort and filter, their differential count, N/C ratios.

One HTML file that asks for nothing (see `html`): thumbnails are JPEG in data URIs, about 2 KB each.
Without scripts all cells are shown, in the order of the images.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import markupsafe
import numpy as np
from etils import epath
from PIL import Image

from wbc_jax.labels import CELL_TYPES, REVIEW
from wbc_jax.report import figures, html, tables
from wbc_jax.utils import atomic

THUMBNAIL_PX = 72


def thumbnail(image: np.ndarray) -> bytes:
    """Returns an image small, as JPEG.

    Args:
        image: uint8 `[H, W, 3]` RGB.
    """
    scale = THUMBNAIL_PX / max(image.shape[:2])
    size = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    buffer = io.BytesIO()
    Image.fromarray(cv2.resize(image, size, interpolation=way)).save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def write(
    path: epath.PathLike,
    rows: Sequence[Mapping[str, Any]],
    thumbnails: Sequence[bytes],
    differential: Sequence[Mapping[str, Any]],
    judged: bool,
) -> None:
    """Writes the page, whole or not at all.

    Args:
        path: where, such as `index.html`.
        rows: as of `cells.csv`.
        thumbnails: of each row.
        differential: as of `differential.csv`; empty without types.
        judged: types that the classifier is not sure of were left to a person.

    Raises:
        OSError: the file cannot be written.
    """
    atomic.write_text(path, render(rows, thumbnails, differential, judged))


def render(
    rows: Sequence[Mapping[str, Any]],
    thumbnails: Sequence[bytes],
    differential: Sequence[Mapping[str, Any]],
    judged: bool,
) -> str:
    """The page's text; arguments as of `write`."""
    environment = html.make_environment()
    environment.filters.update(
        decimal=tables.decimal, count=tables.count, plural=html.plural, breakable=html.breakable
    )
    script = environment.loader.get_source(environment, "cells.js")[0]
    cells = [row for row in rows if row["cell"]]
    images = len({row["file"] for row in rows})
    groups = _ratios(cells)
    um = any(row["um_per_px"] for row in cells)
    return environment.get_template("cells.html.j2").render(
        images=images,
        cells=len(cells),
        empty=sum(not row["cell"] for row in rows),
        review=sum(bool(row["review"]) for row in cells),
        typed=bool(differential),
        judged=judged,
        masks=any(row["mask"] for row in rows),
        scales=_scales(rows),
        um=um,
        differential=[{**row, "share": row["percent"] or 0} for row in differential],
        histogram=html.both(figures.nc_histogram, groups) if groups else None,
        panels=len(groups),
        rows=[_shown(row, picture, um) for row, picture in zip(rows, thumbnails)],
        types=[name for name in (*CELL_TYPES, REVIEW) if differential],
        flags=sorted({f for row in rows for f in _flags(row)}),
        review_name=REVIEW,
        thumbnail=THUMBNAIL_PX,
        script=markupsafe.Markup(script),
        script_hash=html.policy_hash(script),
    )


def _ratios(cells: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """N/C ratios by type; of all cells where there are no types."""
    found: dict[str, list[float]] = {}
    for row in cells:
        if row["nc_ratio"] is not None and math.isfinite(row["nc_ratio"]):
            found.setdefault(row["type"] or "all cells", []).append(row["nc_ratio"])
    order = (*CELL_TYPES, REVIEW, "all cells")
    return {name: found[name] for name in order if name in found}


def _scales(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Where the magnification comes from, and in how many images."""
    of = {row["file"]: (row["um_per_px_source"], row["um_per_px"]) for row in rows}
    said = []
    for source, text in (
        ("given", "given by the user"),
        ("red_cells", "estimated from the red cells"),
        ("unknown", "not known"),
    ):
        sizes = [size for name, size in of.values() if name == source]
        known = [size for size in sizes if size]
        if sizes:
            middle = f" (median {np.median(known):.3f} µm a pixel)" if known else ""
            said.append(f"{text} in {html.plural(len(sizes), 'image')}{middle}")
    return said


def _flags(row: Mapping[str, Any]) -> list[str]:
    """Flags, and reasons for a person to look."""
    return [name for name in f"{row['flag'] or ''};{row['review'] or ''}".split(";") if name]


def _shown(row: Mapping[str, Any], picture: bytes, others_um: bool) -> dict[str, Any]:
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
