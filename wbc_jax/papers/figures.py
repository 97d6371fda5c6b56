"""Figures of ours: training curves of a run, and test images with their masks."""

import functools
import math
from collections.abc import Sequence

import cv2
import numpy as np

from wbc_jax import metrics
from wbc_jax.labels import CYTOPLASM, MASK_CLASSES, NUCLEUS
from wbc_jax.papers import examples
from wbc_jax.papers.comparison import Figure, Row, Value
from wbc_jax.papers.examples import ScoredExample
from wbc_jax.papers.items import NOT_IN_TEXT, Content
from wbc_jax.papers.runs import NeededRun
from wbc_jax.report import chart_parts, figures, overlays

TILE_PX = 192
CURVES = {
    "segmentation": (("loss", "loss"), ("mean_iou", "fraction"), ("global_accuracy", "fraction")),
    "classification": (("loss", "loss"), ("accuracy", "fraction"), ("macro_recall", "fraction")),
}
"""Keys of a log line with their units, by task."""
DICE = ("nucleus", "cytoplasm", "cell")
MASK_NOTES = (
    NOT_IN_TEXT,
    "Ours are the test cells of middling mean IoU of each type, not chosen by eye.",
)


def curves(needed: NeededRun, title: str) -> Content:
    """Returns a run's training curves, and the last values of the curves as rows.

    The papers print no numbers for their curves.
    """
    run = needed.run
    if run is None:
        return Content([Row("end of training", "curves", "fraction", reason=needed.reason)])
    rows = []
    for kind in ("train", "validation"):
        last = next((x for x in reversed(run.history) if x.get("kind") == kind), {})
        for key, unit in CURVES[run.config.task]:
            if key in last and last[key] is not None:
                column = f"{kind} {key.replace('_', ' ')}"
                rows.append(Row("end of training", column, unit, ours=Value(float(last[key]))))
    if not rows:
        rows = [Row("end of training", "curves", "fraction", reason="The log is empty.")]
    if not run.history:
        return Content(rows)
    draw = functools.partial(figures.training_curve, run.history, task=run.config.task)
    alt = "Line charts over training steps: loss, and scores of training and validation"
    return Content(
        rows, [Figure(title, alt, chart_parts.png(draw()), chart_parts.png(draw(dark=True)))]
    )


def dice(truth: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """Returns the Dice of nucleus, cytoplasm and whole cell for one mask.

    Args:
        truth, prediction: uint8 `[H, W]` of mask classes; 255 is ignored.
    """
    counts = metrics.confusion_matrix(truth[None], prediction[None], len(MASK_CLASSES))
    by_class = metrics.dice(counts)
    whole = np.add.reduceat(np.add.reduceat(counts, [0, 1], 0), [0, 1], 1)
    return {
        "nucleus": float(by_class[NUCLEUS]),
        "cytoplasm": float(by_class[CYTOPLASM]),
        "cell": float(metrics.dice(whole)[1]),
    }


def masks(needed: NeededRun, types: Sequence[str]) -> Content:
    """Returns the masks of the test image of median score of each type, with their Dice.

    Args:
        needed: a segmentation run.
        types: the cell types that the paper shows.
    """
    shown, why = [], needed.reason
    if needed.run is not None:
        try:
            shown, why = examples.typical_examples(needed.run, types), ""
        except examples.UnreadableError as error:
            why = str(error)
    by_type = {example.type: example for example in shown}
    rows, drawn = [], []
    for kind in types:
        example = by_type.get(kind)
        if example is None:
            reason = why or f"The test split has no {kind} with a mask of nucleus and cytoplasm."
            rows += [Row(kind, f"Dice, {part}", "fraction", reason=reason) for part in DICE]
            continue
        scores = dice(example.truth, example.prediction)
        for part in DICE:
            reason = f"The cell has no {part}, in truth or prediction."
            ours = Value(scores[part])
            rows.append(Row(kind, f"Dice, {part}", "fraction", ours=ours, reason=reason))
        drawn.append(_draw(example, scores))
    return Content(rows, drawn)


def _draw(example: ScoredExample, scores: dict[str, float]) -> Figure:
    """Draws the image, its true and its predicted outlines, predicted nucleus and cytoplasm."""
    tiles = [
        example.image,
        overlays.overlay(example.image, example.truth),
        overlays.overlay(example.image, example.prediction),
        _cut_out(example.image, example.prediction == NUCLEUS),
        _cut_out(example.image, example.prediction == CYTOPLASM),
    ]
    size = (TILE_PX, TILE_PX)
    tiles = [cv2.resize(tile, size, interpolation=cv2.INTER_AREA) for tile in tiles]
    sheet = overlays.contact_sheet(tiles, columns=len(tiles))
    done, png = cv2.imencode(".png", cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    if not done:
        raise ValueError(f"the picture of {example.id} cannot be written as PNG")
    numbers = ", ".join(f"{part} {v:.3f}" for part, v in scores.items() if not math.isnan(v))
    title = f"{example.type.capitalize()} {example.id}, {example.dataset}; Dice: {numbers}"
    alt = (
        f"A {example.type}: the image, its true outlines, the predicted outlines, the predicted "
        "nucleus alone and the predicted cytoplasm alone"
    )
    return Figure(title, alt, png.tobytes())


def _cut_out(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    return np.where(region[..., None], image, 0).astype(np.uint8)
