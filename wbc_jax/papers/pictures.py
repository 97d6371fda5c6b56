"""Figures of ours: curves of a run, and cells with their masks."""

import functools
import math
from collections.abc import Sequence

import cv2
import numpy as np

from wbc_jax import metrics, vocabulary
from wbc_jax.papers import cells, library
from wbc_jax.papers.library import NOT_IN_TEXT, Library, Shown
from wbc_jax.papers.runs import Run
from wbc_jax.papers.sheets import Line, Picture, Sheet, Value
from wbc_jax.report import figures

TILE_PX = 192
CURVES = {
    "segmentation": (("loss", "loss"), ("mean_iou", "fraction"), ("global_accuracy", "fraction")),
    "classification": (("loss", "loss"), ("accuracy", "fraction"), ("macro_recall", "fraction")),
}
"""What the last lines of a run's log give, with units."""
DICE = ("nucleus", "cytoplasm", "cell")


def curve(run: Run, title: str) -> Picture:
    """Draws a run's training curve."""
    draw = functools.partial(figures.training_curve, run.history, task=run.config.task)
    alt = "Line charts over training steps: loss, and scores of training and validation"
    return Picture(title, alt, figures.png(draw()), figures.png(draw(dark=True)))


def curve_lines(run: Run | None, reason: str) -> list[Line]:
    """Returns the last values of a training curve, of which the papers print none."""
    if run is None:
        return [Line("end of training", "curves", "fraction", reason=reason)]
    lines = []
    for kind in ("train", "validation"):
        last = next((x for x in reversed(run.history) if x.get("kind") == kind), {})
        for key, unit in CURVES[run.config.task]:
            if key in last and last[key] is not None:
                name = f"{kind} {key.replace('_', ' ')}"
                lines.append(Line("end of training", name, unit, ours=Value(float(last[key]))))
    return lines or [Line("end of training", "curves", "fraction", reason="The log is empty.")]


def dice(truth: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """Returns the Dice of nucleus, cytoplasm and the whole cell of one mask.

    Args:
        truth, prediction: uint8 `[H, W]` of mask classes, 255 ignored.
    """
    counts = metrics.confusion_matrix(truth[None], prediction[None], len(vocabulary.MASK_CLASSES))
    by_class = metrics.dice(counts)
    whole = np.add.reduceat(np.add.reduceat(counts, [0, 1], 0), [0, 1], 1)
    return {
        "nucleus": float(by_class[vocabulary.NUCLEUS]),
        "cytoplasm": float(by_class[vocabulary.CYTOPLASM]),
        "cell": float(metrics.dice(whole)[1]),
    }


def mask_sheet(
    library_: Library,
    paper: str,
    item: str,
    title: str,
    name: str,
    types: Sequence[str],
    protocol: Sequence[str] = (),
) -> Sheet:
    """Returns a figure of masks: of each type the test cell of middling score, with its Dice.

    Args:
        library_: the runs.
        paper, item, title: of the sheet.
        name: the run's plan.
        types: cell types that the paper shows.
        protocol: more differences.
    """
    run = library_.run(name)
    shown, why = [], library_.reason(name)
    if run is not None:
        try:
            shown, why = library.typical_cells(run, types), ""
        except library.Unreadable as error:
            why = str(error)
    by_type = {cell.type: cell for cell in shown}
    lines, drawn = [], []
    for kind in types:
        cell = by_type.get(kind)
        if cell is None:
            reason = why or f"The test split has no {kind} with a mask of nucleus and cytoplasm."
            lines += [Line(kind, f"Dice, {part}", "fraction", reason=reason) for part in DICE]
            continue
        scores = dice(cell.truth, cell.prediction)
        for part in DICE:
            value = Value(scores[part])
            reason = "" if value.known else f"The cell has no {part}, in truth or prediction."
            lines.append(Line(kind, f"Dice, {part}", "fraction", ours=value, reason=reason))
        drawn.append(_picture(cell, scores))
    return Sheet(
        paper,
        item,
        title,
        lines,
        drawn,
        [
            *library_.protocol(paper, name),
            *protocol,
            NOT_IN_TEXT,
            "Ours are the test cells of middling mean IoU of each type, not chosen by eye.",
        ],
        cells.contradictions(paper, item),
        library_.missing(name),
    )


def _picture(cell: Shown, scores: dict[str, float]) -> Picture:
    """Draws image, true outlines, predicted outlines, predicted nucleus and cytoplasm alone."""
    tiles = [
        cell.image,
        figures.overlay(cell.image, cell.truth),
        figures.overlay(cell.image, cell.prediction),
        _alone(cell.image, cell.prediction == vocabulary.NUCLEUS),
        _alone(cell.image, cell.prediction == vocabulary.CYTOPLASM),
    ]
    size = (TILE_PX, TILE_PX)
    tiles = [cv2.resize(tile, size, interpolation=cv2.INTER_AREA) for tile in tiles]
    sheet = figures.contact_sheet(tiles, columns=len(tiles))
    done, png = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"the picture of {cell.id} cannot be written as PNG")
    numbers = ", ".join(f"{part} {v:.3f}" for part, v in scores.items() if not math.isnan(v))
    title = f"{cell.type.capitalize()} {cell.id}, {cell.dataset}; Dice: {numbers}"
    alt = (
        f"A {cell.type}: the image, its true outlines, the predicted outlines, the predicted "
        "nucleus alone and the predicted cytoplasm alone"
    )
    return Picture(title, alt, png.tobytes())


def _alone(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    return np.where(region[..., None], image, 0).astype(np.uint8)
