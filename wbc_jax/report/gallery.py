"""A page of thumbnails on which one sees at a glance whether the masks of data sets fit.

Like the report of a run it is one HTML file without script or requests (see `html`). Only the
records that are shown are decoded.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import markupsafe
import numpy as np
from etils import epath
from PIL import Image

from wbc_jax.labels import CELL_TYPES, IGNORE, UNKNOWN_LABEL
from wbc_jax.report import figures, tables
from wbc_jax.report import html as report
from wbc_jax.utils import atomic

if TYPE_CHECKING:
    from wbc_jax.data import sources

THUMBNAIL_PX = 96
"""Longer side of a thumbnail; with the number a group it bounds the page's size."""
IGNORE_COLOUR = (213, 94, 0)
"""RGB of the outline of pixels whose class is not known: seen on stain and on plasma alike."""
OUTLINE_COLOURS = (figures.CELL_COLOUR, figures.NUCLEUS_COLOUR, IGNORE_COLOUR)
CELL_ONLY = "cell_only"
"""Subtype of records whose mask marks the whole cell, nucleus and cytoplasm undivided."""

_LABELS = (*range(len(CELL_TYPES)), UNKNOWN_LABEL)


def write(
    path: epath.PathLike,
    sets: Sequence[sources.Source],
    *,
    per_group: int = 24,
    seed: int = 0,
) -> None:
    """Writes records of data sets, by cell type and with the outlines of their masks, as a page.

    Which records are shown depends on their ids and the seed alone, not on their order or on what
    else is shown. The file is written whole or not at all.

    Args:
        path: where, such as `gallery.html` (`gs://` works).
        sets: the data sets, in the page's order.
        per_group: records of each data set and cell type that are shown at most.
        seed: another seed draws other records.

    Raises:
        ValueError: `per_group` < 1, or a record's mask does not fit its image; names the record.
        OSError: the file cannot be written.
    """
    atomic.write_text(path, render(sets, per_group=per_group, seed=seed))


def render(sets: Sequence[sources.Source], *, per_group: int = 24, seed: int = 0) -> str:
    """The page's text; arguments and errors as of `write`."""
    if per_group < 1:
        raise ValueError(f"per_group is {per_group}; it must be 1 or more")
    environment = report.make_environment()
    environment.filters.update(count=tables.count, plural=report.plural, breakable=_breakable)
    sections = [_section(f"set-{n}", s, per_group, seed) for n, s in enumerate(sets, 1)]
    labels = [label for label in _LABELS if label >= 0 or any(s["counts"][-1] for s in sections)]
    return environment.get_template("gallery.html.j2").render(
        sections=sections,
        types=[figures.type_name(label) for label in labels],
        totals=[sum(column) for column in zip(*(s["counts"] for s in sections))],
        total=sum(s["total"] for s in sections),
        kinds_total=[sum(column) for column in zip(*(s["kinds"] for s in sections))],
        shown=sum(len(g["pictures"]) for s in sections for g in s["groups"]),
        cell="#{:02x}{:02x}{:02x}".format(*figures.CELL_COLOUR),
        nucleus="#{:02x}{:02x}{:02x}".format(*figures.NUCLEUS_COLOUR),
        ignore="#{:02x}{:02x}{:02x}".format(*IGNORE_COLOUR),
        thumbnail=THUMBNAIL_PX,
    )


def draw(source: sources.Source, number: int, seed: int = 0) -> list[tuple[int, list[int], int]]:
    """Chooses records of each cell type.

    Args:
        source: the data set.
        number: records of each type at most.
        seed: another seed draws other records.

    Returns:
        (label, indices of the chosen records in the order of their ids, how many there are) of
        each type that has records, in the vocabulary's order, unknown last.
    """

    def place(index: int) -> str:
        return hashlib.sha256(f"{seed}\0{source.name}\0{source.ids[index]}".encode()).hexdigest()

    found = []
    for label in _LABELS:
        members = np.flatnonzero(np.asarray(source.labels) == label).tolist()
        chosen = sorted(members, key=place)[:number]
        if members:
            found.append((label, sorted(chosen, key=lambda i: source.ids[i]), len(members)))
    return found


def thumbnail(image: np.ndarray, mask: np.ndarray | None) -> bytes:
    """Draws a record small, with the outlines of its mask in exactly `OUTLINE_COLOURS`.

    Args:
        image: uint8 `[H, W, 3]` RGB.
        mask: uint8 `[H, W]`: 0 background, 1 cytoplasm, 2 nucleus, 255 ignore; None: no outlines.

    Returns:
        A palette PNG whose longer side has `THUMBNAIL_PX` pixels.

    Raises:
        ValueError: the mask does not fit the image, or holds another value.
    """
    scale = THUMBNAIL_PX / max(image.shape[:2])
    size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
    tile = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    colours = 256 - len(OUTLINE_COLOURS)
    # The photograph gets its palette by itself, so that outlines keep their own colours.
    picture = Image.fromarray(tile).quantize(colours, dither=Image.Dither.NONE)
    if mask is not None:
        if mask.shape != image.shape[:2]:
            raise ValueError(
                f"mask {list(mask.shape)} does not fit its image {list(image.shape[:2])}"
            )
        small = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST_EXACT)
        drawn = _outlined(tile, small)
        palette = (picture.getpalette() or [])[: 3 * colours]
        first = len(palette) // 3
        places = np.array(picture)
        for number, colour in enumerate(OUTLINE_COLOURS):
            places[(drawn == colour).all(axis=-1)] = first + number
        picture = Image.fromarray(places, "P")
        picture.putpalette([*palette, *(value for c in OUTLINE_COLOURS for value in c)])
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _outlined(tile: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The tile with the outlines of cell, nucleus and of what is not known."""
    drawn = figures.overlay(tile, mask)
    unknown = mask == IGNORE
    drawn[figures._outline(unknown, ~unknown, 1)] = IGNORE_COLOUR
    return drawn


def _kinds(source: sources.Source, members: Sequence[int]) -> list[int]:
    """How many records have a full mask, one of the cell alone, and none."""
    has = [i for i in members if source.has_mask[i]]
    cell_only = sum(source.subtypes[i] == CELL_ONLY for i in has)
    return [len(has) - cell_only, cell_only, len(members) - len(has)]


def _section(anchor: str, source: sources.Source, per_group: int, seed: int) -> dict[str, Any]:
    groups = []
    for label, chosen, total in draw(source, per_group, seed):
        kind = figures.type_name(label)
        members = np.flatnonzero(np.asarray(source.labels) == label).tolist()
        _, cell_only, without = _kinds(source, members)
        notes = [f"{tables.count(cell_only)} with a mask of the cell alone"] if cell_only else []
        notes += [f"{tables.count(without)} without a mask"] if without else []
        groups.append(
            {
                "anchor": f"{anchor}-{kind}",
                "type": kind,
                "total": total,
                "shown": _shown(len(chosen), total),
                "note": ", ".join(notes),
                "pictures": [_picture(source, index, kind) for index in chosen],
            }
        )
    labels = np.asarray(source.labels)
    return {
        "anchor": anchor,
        "name": source.name,
        "total": len(source),
        "counts": [int((labels == label).sum()) for label in _LABELS],
        "kinds": _kinds(source, range(len(source))),
        "groups": groups,
    }


def _breakable(name: str) -> markupsafe.Markup:
    """A name that a line may break after a slash or an underscore."""
    return markupsafe.Markup("<wbr>").join(re.findall(r"[^/_]*[/_]|[^/_]+", name))


def _shown(number: int, total: int) -> str:
    if number < total:
        return f"{tables.count(number)} of {tables.count(total)} shown, drawn at random"
    return f"all {tables.count(total)} shown" if total > 1 else "the only one"


def _picture(source: sources.Source, index: int, kind: str) -> dict[str, str]:
    name = source.ids[index]
    if not source.has_mask[index]:
        mask, what = None, "without a mask"
    elif source.subtypes[index] == CELL_ONLY:
        mask, what = source.mask(index), "with the outline of the whole cell"
    else:
        mask, what = source.mask(index), "with the outlines of its mask"
    try:
        png = thumbnail(source.image(index), mask)
    except ValueError as error:
        raise ValueError(f"{source.name} {name}: {error}") from error
    return {"id": name, "uri": report.uri(png), "alt": f"{kind} {name}, {what}"}
