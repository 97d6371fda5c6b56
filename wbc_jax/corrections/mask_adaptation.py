"""Whether a fine-tuned segmenter is taken, and what is said of it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from etils import epath

from wbc_jax import metrics
from wbc_jax.corrections import adaptation, painted, pictures
from wbc_jax.corrections.cells import Results
from wbc_jax.corrections.painted import Gathered, Painted
from wbc_jax.inference import mask_tuning
from wbc_jax.inference import model as inference
from wbc_jax.inference.mask_tuning import Scores, Tuned, Windows
from wbc_jax.report import tables
from wbc_jax.utils.progress import Progress

LEAST_MASKS = 5
OTHERS = 40
"""Cells whose masks nobody corrected that the new masks are compared on."""
MOST_FORGOTTEN = 0.02
"""Most mean IoU that drawn cells may lose."""
MOST_NC_LOSS = 0.02
"""Most by which the median relative error of the N/C ratio may rise."""


def too_few(count: int) -> str:
    """Returns why so many corrected masks are too few; empty if they are not."""
    if count >= LEAST_MASKS:
        return ""
    verb = "is" if count == 1 else "are"
    masks = "mask" if count == 1 else "masks"
    return f"{count} {masks} {verb} corrected; {LEAST_MASKS} are the least to adapt the segmenter"


def gather(
    folders: Sequence[tuple[Results, Painted]],
    segmenter: inference.Model,
    images: epath.PathLike | None = None,
    find: str = "auto",
) -> Gathered:
    """Cuts the windows of the corrected cells of folders (`painted.gather`).

    Args:
        folders: results, and their corrected masks.
        segmenter: as in the prediction.
        images: folder of the images, where they have moved.
        find: as in the prediction.

    Raises:
        DataError: a corrected mask is damaged.
    """
    parts = [
        painted.gather(results, drawn, pictures.Pictures(results, images), segmenter, find)
        for results, drawn in folders
    ]
    return Gathered(
        Windows.joined([part.windows for part in parts]),
        [key for part in parts for key in part.keys],
        [note for part in parts for note in part.notes],
    )


def agreement(
    folders: Sequence[tuple[Results, Painted]],
    segmenters: tuple[inference.Model, inference.Model],
    images: epath.PathLike | None = None,
    find: str = "auto",
) -> Scores | None:
    """Scores new masks of cells that nobody corrected against those of the results.

    Args:
        folders: results, and their corrected masks.
        segmenters: the old one and the new one.
        images, find: as in `gather`.

    Returns:
        None if there are no such cells.
    """
    each = -(-OTHERS // len(folders))
    some = [(results, painted.others(results, drawn, each)) for results, drawn in folders]
    windows = gather(some, segmenters[0], images, find).windows
    return mask_tuning.score(segmenters[1], windows) if len(windows) else None


def tune(segmenter: inference.Model, windows: Windows) -> Tuned:
    """Returns the segmenter fine-tuned to windows (`mask_tuning.tune`), with a progress line."""
    total = mask_tuning.STEPS * mask_tuning.trainings(windows)
    progress = Progress("step", total, unit="steps")
    done = itertools.count(1)
    tuner = mask_tuning.Tuner(segmenter, on_step=lambda: progress.update(next(done), 1))
    try:
        return mask_tuning.tune(segmenter, windows, tuner)
    finally:
        progress.close()


def refusal(found: Tuned) -> str:
    """Returns why a fine-tuned segmenter is not taken; empty if it is."""
    if not found.gain > 0:
        return f"mean IoU on the masks held back is not better ({found.gain:+.3f})"
    rise = found.after.nc_error - found.before.nc_error
    if rise > MOST_NC_LOSS:
        return (
            f"the median error of the N/C ratio on the masks held back rises by {rise:.3f}, and "
            f"{MOST_NC_LOSS} is the most"
        )
    if found.forgotten > MOST_FORGOTTEN:
        return f"drawn cells lose {found.forgotten:.3f} mean IoU, and {MOST_FORGOTTEN} is the most"
    return ""


def describe(found: Tuned, groups: Any, others: Scores | None = None) -> str:
    """Returns the scores before and after as text, with intervals.

    Args:
        found: the segmenter.
        groups: `[N]`, the image of each corrected mask.
        others: of the new masks of other cells, against the old ones; None: there are none.
    """
    _, which = np.unique(np.asarray(groups, str), return_inverse=True)
    images = int(which.max()) + 1
    both = found.before, found.after
    sums = [_by_image(one.confusions, which, images) for one in both]
    lines = [
        f"{len(which)} corrected masks in {images} images, each held back once "
        "(95 % intervals, by image)",
        f"{'':24}{'before':>22}{'after':>22}",
        f"{'mean IoU':24}" + "".join(adaptation.score(metrics.mean_iou, one) for one in sums),
        f"{'N/C error, median':24}" + "".join(_nc_error(one, which, images) for one in both),
    ]
    low, high = np.full(2, np.nan)
    if images > 1:
        low, high = metrics.bootstrap_sums_difference(metrics.mean_iou, sums[1], sums[0])
    drawn = found.drawn_before, found.drawn_after
    lines += [
        f"gain in mean IoU: {found.gain:+.3f} {tables.interval(low, high)}".rstrip(),
        f"mean IoU of {len(drawn[0].errors)} drawn cells, which stand for those of the training: "
        + " → ".join(f"{one.mean_iou:.3f}" for one in drawn),
    ]
    if others is not None:
        lines.append(
            f"the new masks of {len(others.errors)} other cells of the folders agree with the old "
            f"ones: mean IoU {others.mean_iou:.3f}"
        )
    return "\n".join(lines)


def _by_image(values: np.ndarray, which: np.ndarray, images: int) -> np.ndarray:
    sums = np.zeros((images, *values.shape[1:]), values.dtype)
    np.add.at(sums, which, values)
    return sums


def _nc_error(found: Scores, which: np.ndarray, images: int) -> str:
    ends = np.full(2, np.nan)
    if images > 1:
        rows = [np.flatnonzero(which == image) for image in range(images)]
        ends = metrics.bootstrap_interval(_median(found.errors, rows), np.arange(images))
    return adaptation.column(found.nc_error, *ends)


def _median(errors: np.ndarray, rows: list[np.ndarray]) -> Callable[[np.ndarray], float]:
    def median(drawn: np.ndarray) -> float:
        chosen = errors[np.concatenate([rows[image] for image in drawn])]
        return float(np.nanmedian(chosen)) if not np.isnan(chosen).all() else np.nan

    return median
