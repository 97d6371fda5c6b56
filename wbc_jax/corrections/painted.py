"""The corrected masks of folders of results, as windows to fine-tune a segmenter with.

A mask counts if a person saved it: painted, imported, or saved as it stood. Where a person said
nothing of a pixel, its class is not known (255): in other cells, nearer to another cell than to the
corrected one, and where the old segmenter sees a cell that the results do not have.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from wbc_jax.corrections import embedding, log, masks, pictures, state
from wbc_jax.corrections.cells import Cell, Results
from wbc_jax.data import orientation
from wbc_jax.data.keys import RecordKey
from wbc_jax.fields import windows
from wbc_jax.inference import model as inference
from wbc_jax.inference.mask_tuning import Windows
from wbc_jax.labels import BACKGROUND, CYTOPLASM, IGNORE, NUCLEUS
from wbc_jax.report import html

_TOGETHER = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Painted:
    """The corrected masks of a folder.

    Attributes:
        cells: the cells.
        saved: the mask of each, as in the log; None: that of the results.
        by: the person of each.
        notes: what was left out and why, a sentence each.
    """

    cells: list[Cell]
    saved: Sequence[Mapping[str, Any] | None]
    by: list[str]
    notes: list[str]


def from_log(results: Results, reviewers: Sequence[str] = ()) -> Painted:
    """Returns the masks that the log of a folder has; of several of a cell, the last.

    Args:
        results: the folder's.
        reviewers: whose masks count; empty: everybody's.
    """
    known = state.State(results)
    statements = log.Log(results.path).read_new()
    known.apply(statements)
    when = {
        (reviewer, index): place
        for place, (one, (reviewer, index)) in enumerate(zip(statements, known.applied))
        if one.what == log.MASK
    }
    last: dict[int, list[tuple[int, str, Mapping[str, Any]]]] = {}
    others = set()
    for reviewer in known.reviewers:
        if reviewers and reviewer not in reviewers:
            continue
        for index, said in known.said(reviewer).items():
            if said.mask:
                last.setdefault(index, []).append((when[reviewer, index], reviewer, said.mask))
            if said.type in state.NOT_COUNTED:
                others.add(index)
    notes = []
    if several := sum(len(each) > 1 for each in last.values()):
        notes.append(
            f"{html.plural(several, 'cell')} whose mask several people corrected: the last one "
            "counts."
        )
    if left := len(others & set(last)):
        notes.append(
            f"{html.plural(left, 'cell')} with a corrected mask, but said to be no single "
            "leukocyte: left out."
        )
    if gone := sum(one.what == log.MASK for one in known.gone):
        notes.append(
            f"{gone} statements about masks are of cells that {results.path} does not have: they "
            "are left out."
        )
    kept = [(index, *max(last[index])[1:]) for index in sorted(set(last) - others)]
    cells = [results.cells[index] for index, *_ in kept]
    return Painted(cells, [mask for *_, mask in kept], [by for _, by, _ in kept], notes)


def others(results: Results, corrected: Painted, count: int) -> Painted:
    """Returns cells whose masks nobody corrected, at random, with the masks of the results.

    Args:
        results: the folder's.
        corrected: its corrected masks.
        count: most cells.
    """
    taken = {cell.index for cell in corrected.cells}
    rest = [cell for cell in results.cells if cell.index not in taken and cell.row["mask"]]
    chosen = np.sort(np.random.default_rng(0).permutation(len(rest))[:count])
    cells = [rest[i] for i in chosen]
    return Painted(cells, [None] * len(cells), [], [])


@dataclasses.dataclass(frozen=True, slots=True)
class Gathered:
    """Windows with corrected masks.

    Attributes:
        windows: for each cell that is found again in its image.
        keys: the identities of these cells.
        notes: a line for each cell or image that had to be left out.
    """

    windows: Windows
    keys: list[RecordKey]
    notes: list[str]


def gather(
    results: Results,
    painted: Painted,
    images: pictures.Pictures,
    segmenter: inference.Model,
    find: str = "auto",
    on_progress: Callable[[int], None] | None = None,
) -> Gathered:
    """Cuts the windows of corrected cells, as the segmenter sees them.

    Args:
        results: the folder's.
        painted: its corrected masks.
        images: of the folder.
        segmenter: as in the prediction; it shows where other cells may lie.
        find: as in the prediction.
        on_progress: called with the number of images that were just done.

    Raises:
        DataError: a corrected mask is damaged (`masks.read`).
    """
    shown, truths, groups, keys, lost, notes = [], [], [], [], [], []
    for part, bad in images.batches(painted.cells, _TOGETHER):
        for why, count in bad:
            lost.append(f"{why} Its {html.plural(count, 'cell')} with masks are left out.")
        found = windows.shown([pixels for *_, pixels in part], find)
        for (file, own, pixels), own_windows in zip(part, found):
            for place in own:
                cell = painted.cells[place]
                window = _window(own_windows, cell)
                if window is None:
                    notes.append(
                        f"{file}, cell {cell.cell} is not found again in its image, so its mask "
                        "is left out: name the --find of the prediction."
                    )
                    continue
                truth = _truth(results, cell, painted.saved[place], window, segmenter)
                shown.append(window.pixels)
                truths.append(truth)
                groups.append(os.path.join(results.path, file))
                keys.append(embedding.identity(cell, pixels, window.one_cell))
        if on_progress:
            on_progress(len(part))
    return Gathered(Windows(shown, truths, groups), keys, lost + notes)


def _window(found: Sequence[windows.Shown], cell: Cell) -> windows.Shown | None:
    """Returns the window of a cell, which holds the middle of its box."""
    if cell.cell > len(found):
        return None
    window = found[cell.cell - 1]
    top, left, bottom, right = window.box
    y, x = (cell.box[0] + cell.box[2]) / 2, (cell.box[1] + cell.box[3]) / 2
    return window if top <= y < bottom and left <= x < right else None


def _truth(
    results: Results,
    cell: Cell,
    saved: Mapping[str, Any] | None,
    window: windows.Shown,
    segmenter: inference.Model,
) -> np.ndarray:
    """Returns what is known of a window, uint8 `[h, w]` in its position."""
    place, turn = window.box, window.position
    before, after = (masks.current(results.path, cell, one, place) for one in (None, saved))
    predicted = orientation.replace(segmenter.predict([window.pixels])[0].mask, turn)
    return orientation.place(known(after, before, predicted), turn)


def known(after: np.ndarray, before: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Returns a corrected mask with 255 where its class is not known.

    Args:
        after, before: the cell's mask in a window, corrected and in the results, as `masks` says.
        predicted: what the segmenter sees in the window, of all cells.

    Returns:
        uint8 `[h, w]`.
    """
    own = (after == NUCLEUS) | (after == CYTOPLASM)
    found = after.copy()
    free = after == BACKGROUND
    others = after == IGNORE
    if others.any() and own.any():
        nearer = ndimage.distance_transform_edt(~others) < ndimage.distance_transform_edt(~own)
        found[free & nearer] = IGNORE
    # What touches the cell, or was its part before, a person has seen and left out.
    pieces, count = ndimage.label(predicted != BACKGROUND, np.ones((3, 3)))
    near = ndimage.binary_dilation(own, np.ones((3, 3)))
    seen = np.isin(pieces, np.unique(pieces[near])) if count else np.zeros_like(own)
    was_own = (before == NUCLEUS) | (before == CYTOPLASM)
    found[free & (pieces > 0) & ~seen & ~was_own] = IGNORE
    return found
