"""A page of thumbnails that shows at a glance whether the masks of data sets fit their images.

It is one offline HTML file without scripts (see `html`). Only the records shown are decoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wbc_jax.labels import (
    CELL_COLOR,
    CELL_ONLY,
    CELL_TYPES,
    NUCLEUS_COLOR,
    UNKNOWN_LABEL,
    type_name,
)
from wbc_jax.report import html, overlays, tables
from wbc_jax.utils.output_folder import OutputFolder

if TYPE_CHECKING:
    from wbc_jax.data import sources

THUMBNAIL_PX = 96
"""Longer side of a thumbnail; together with the number a group it bounds the page's size."""

_LABELS = (*range(len(CELL_TYPES)), UNKNOWN_LABEL)


def write(
    folder: OutputFolder,
    name: str,
    sets: Sequence[sources.Source],
    *,
    per_group: int = 24,
    seed: int = 0,
) -> None:
    """Writes a page with records of data sets, by cell type, and the outlines of their masks.

    The choice of records depends only on their ids and the seed, not on their order or on other
    records. The file is written whole or not at all.

    Args:
        folder: the folder of results.
        name: of the page's file.
        sets: the data sets, in the page's order.
        per_group: the most records shown of each data set and cell type.
        seed: another seed draws other records.

    Raises:
        ValueError: `per_group` < 1, or a record's mask does not fit its image; names the record.
        OSError: the file cannot be written.
    """
    folder.write_text(name, render(sets, per_group=per_group, seed=seed))


def render(sets: Sequence[sources.Source], *, per_group: int = 24, seed: int = 0) -> str:
    """Returns the page; arguments and errors as in `write`."""
    if per_group < 1:
        raise ValueError(f"per_group is {per_group}; it must be 1 or more")
    sections = [_section(f"set-{n}", s, per_group, seed) for n, s in enumerate(sets, 1)]
    labels = [label for label in _LABELS if label >= 0 or any(s["counts"][-1] for s in sections)]
    template = html.make_environment().get_template("gallery.html.j2")
    return template.render(
        sections=sections,
        types=[type_name(label) for label in labels],
        totals=[sum(column) for column in zip(*(s["counts"] for s in sections))],
        total=sum(s["total"] for s in sections),
        kinds_total=[sum(column) for column in zip(*(s["kinds"] for s in sections))],
        shown=sum(len(g["pictures"]) for s in sections for g in s["groups"]),
        colors=html.css_colors(
            cell=CELL_COLOR,
            nucleus=NUCLEUS_COLOR,
            ignore=overlays.IGNORE_COLOR,
        ),
        thumbnail=THUMBNAIL_PX,
    )


def draw(source: sources.Source, number: int, seed: int = 0) -> list[tuple[int, list[int], int]]:
    """Chooses records of each cell type.

    Args:
        source: the data set.
        number: the most records of each type.
        seed: another seed draws other records.

    Returns:
        (label, indices of the chosen records sorted by their ids, number of all its records) of
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


def _kinds(source: sources.Source, members: Sequence[int]) -> list[int]:
    """Counts the records with a full mask, with one of the cell alone, and without a mask."""
    has = [i for i in members if source.has_mask[i]]
    cell_only = sum(source.subtypes[i] == CELL_ONLY for i in has)
    return [len(has) - cell_only, cell_only, len(members) - len(has)]


def _section(anchor: str, source: sources.Source, per_group: int, seed: int) -> dict[str, Any]:
    groups = []
    for label, chosen, total in draw(source, per_group, seed):
        kind = type_name(label)
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
        png = overlays.thumbnail(source.image(index), mask, THUMBNAIL_PX)
    except ValueError as error:
        raise ValueError(f"{source.name} {name}: {error}") from error
    return {"id": name, "uri": html.uri(png), "alt": f"{kind} {name}, {what}"}
