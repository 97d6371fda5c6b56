"""Fields of many cells → the mask, N/C ratio, shape and type of each leukocyte.

1. The finder detects leukocytes by the color of their nuclei (`fields.finder`).
2. The segmenter and the classifier process a square around each cell.
3. Each cell keeps the part of its square's mask that belongs to its own nucleus
   (`fields.instances`), and is measured (`fields.cells`).
4. If the classifier is not sure of a type, the cell is left for review (`inference.abstention`).

An image may itself be a crop around one cell, as in most data sets; it is then not searched.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import threading
from collections.abc import Sequence
from concurrent import futures
from typing import Any

import numpy as np
from etils import epath

from wbc_jax.data import crops, isolation
from wbc_jax.data.images import check_image
from wbc_jax.errors import CheckpointError, DataError
from wbc_jax.fields import finder, instances
from wbc_jax.fields.cells import Cell, Field, measure_cell
from wbc_jax.fields.finder import Box, Detection, Detections, Scale
from wbc_jax.inference import abstention
from wbc_jax.inference import model as inference
from wbc_jax.inference import weights as weights_lib

SEGMENTER, CLASSIFIER = "segmenter", "classifier"
"""Names of the shipped weights that are the default models."""
FIND_MODES = ("auto", "yes", "no")
MAX_CELLS = 2**16 - 1
"""Largest number of cells in an image, because its labels are uint16."""

_MAX_CROP_RED_CELLS = 8.0
"""Longest side of a crop around one cell, in diameters of a red cell."""
_MAX_CROP_PX = 2048
_MAX_CROP_ASPECT = 1.2
_MAX_OFF_CENTER = 0.15
"""Largest distance of a crop's cell from the crop's center, as a part of the crop's sides."""

_shipped: Models | None = None
_loading = threading.Lock()

_Merged = tuple[np.ndarray | None, np.ndarray | None]
"""An image's mask and labels; None without a segmenter."""


@dataclasses.dataclass(frozen=True, slots=True)
class Models:
    """The models that analyze a field.

    Attributes:
        segmenter, classifier: from `wbc_jax.load`; None: no masks, or no types.
        rule: decides which types are left for review; None: none.
    """

    segmenter: inference.Model | None = None
    classifier: inference.Model | None = None
    rule: abstention.Rule | None = None


def load_models(names: Sequence[epath.PathLike] = (), flips: bool = False) -> Models:
    """Loads a segmenter, a classifier or both; each call reads and compiles them anew.

    Args:
        names: runs, weights files or names of shipped weights, at most one for each task. By
            default the shipped `SEGMENTER`, and the shipped `CLASSIFIER` if there is one.
        flips: let the segmenter average over reflections if it was evaluated so: four times the
            work for up to half a point of mean IoU (docs/experiments.md).

    Raises:
        CheckpointError, ConfigError: as in `wbc_jax.load`; or two models have the same task.
    """
    if not names:
        names = [SEGMENTER, *({CLASSIFIER} & set(weights_lib.shipped()))]
    loaded: dict[str, tuple[epath.PathLike, inference.Model]] = {}
    for name in names:
        model = inference.load(name)
        task = model.config.task
        if task == "segmentation":
            # The finder knows the cell of a window better than the window's center does.
            model = model.with_middle_cell(False)
            model = model if flips else model.with_flips(False)
        if task in loaded:
            raise CheckpointError(
                f"{loaded[task][0]} and {name} are both models for {task}; give one for each task."
            )
        loaded[task] = name, model
    _, segmenter = loaded.get("segmentation", (None, None))
    name, classifier = loaded.get("classification", (None, None))
    return Models(segmenter, classifier, abstention.read_for(name, classifier) if name else None)


def _shipped_models() -> Models:
    """Returns the shipped models, which the first call of all threads loads."""
    global _shipped
    with _loading:
        if _shipped is None:
            _shipped = load_models()
        return _shipped


def release_models() -> None:
    """Frees the shipped models and their compiled programs, which `analyze` keeps.

    The next `analyze` without `models` loads them again.
    """
    global _shipped
    with _loading:
        _shipped = None


def analyze(
    images: np.ndarray | Sequence[np.ndarray],
    models: Models | None = None,
    find: str = "auto",
    um_per_px: float | None = None,
) -> Field | list[Field]:
    """Finds, segments and types the leukocytes of one image or several.

    Args:
        images: uint8 `[H, W, 3]` RGB of any size, or a list of such images.
        models: from `load_models`; by default the shipped ones, which are loaded and compiled at
            the first such call and kept for the next ones, of all threads, until `release_models`.
        find: `yes`: look for cells; `no`: each image is one cell; `auto`: decide by `is_one_cell`.
        um_per_px: micrometers per pixel, if known.

    Returns:
        One `Field`, or a list of them.

    Raises:
        ValueError: an image of another type or shape, or an argument that is not allowed.
        CheckpointError: the default models are not there.
    """
    if find not in FIND_MODES:
        raise ValueError(f"find is {find!r}: allowed are {', '.join(FIND_MODES)}")
    if um_per_px is not None and not 0 < um_per_px < math.inf:
        raise ValueError(f"um_per_px is {um_per_px}: allowed is a number above zero")
    if isinstance(images, np.ndarray):
        return analyze([images], models, find, um_per_px)[0]
    for image in images:
        check_image(image)
    models = models or _shipped_models()
    # Threads help: scikit-image and OpenCV release Python's lock for most of their time.
    with futures.ThreadPoolExecutor() as pool:
        plans = list(pool.map(lambda image: _plan(image, find, um_per_px), images))
        counts = [len(plan.windows) for plan in plans]
        squares = [
            image[top:bottom, left:right]
            for image, plan in zip(images, plans)
            for top, left, bottom, right in plan.windows
        ]
        known = None  # the mask of each square, with its own cell alone
        merged: Sequence[_Merged] = [(None, None)] * len(plans)
        if models.segmenter:
            masks = [found.mask for found in models.segmenter.predict(squares)]
            sizes = [image.shape[:2] for image in images]
            pairs = list(pool.map(_merge, sizes, plans, _grouped(masks, counts)))
            known = [
                mask
                for plan, pair, found in zip(plans, pairs, _grouped(masks, counts))
                # A crop's mask is passed as a classifier alone would predict it.
                for mask in (found if plan.one_cell else _own_masks(plan, *pair))
            ]
            merged = pairs
        typed: Sequence[inference.Prediction | None] = [None] * len(squares)
        if models.classifier:
            # A classifier that cuts images to their cell need not segment them again.
            typed = models.classifier.predict(squares, masks=known)
        return list(
            pool.map(
                lambda plan, pair, own: _assemble(plan, *pair, own, models.rule),
                plans,
                merged,
                _grouped(typed, counts),
            )
        )


def is_one_cell(shape: tuple[int, ...], found: Detections) -> bool:
    """Returns whether an image is a crop around one cell rather than a field.

    A crop is nearly square, at most 2048 pixels and eight red cells wide, and has a cell in its
    middle. An image without a cell is a crop only if it has no red cells either.

    Args:
        shape: the image's shape.
        found: from `finder.find`, for this image.
    """
    height, width = shape[:2]
    short, long = sorted((height, width))
    if long > min(_MAX_CROP_ASPECT * short, _MAX_CROP_PX):
        return False
    scale = found.scale if found.scale and found.scale.reliable else None
    if scale and long > _MAX_CROP_RED_CELLS * scale.red_cell_px:
        return False
    if not found.cells:
        return scale is None
    offsets = [
        ((cell.top + cell.bottom) / 2 / height - 0.5, (cell.left + cell.right) / 2 / width - 0.5)
        for cell in found.cells
    ]
    return min(math.hypot(*offset) for offset in offsets) < _MAX_OFF_CENTER


@dataclasses.dataclass(frozen=True, slots=True)
class _Plan:
    """The windows of an image that the models are to process.

    Attributes:
        cells: from the finder; empty if the image is one cell.
        windows: one box per cell.
        um_per_px, source, one_cell: as in `Field`.
    """

    cells: list[Detection]
    windows: list[Box]
    um_per_px: float | None
    source: str
    one_cell: bool


def _plan(image: np.ndarray, find: str, um_per_px: float | None) -> _Plan:
    found = Detections([], None) if find == "no" else finder.find(image)
    scale, size = _scale(um_per_px, found.scale), image.shape[:2]
    if find == "no" or (find == "auto" and is_one_cell(size, found)):
        return _Plan([], [(0, 0, *size)], *scale, True)
    if len(found.cells) > MAX_CELLS:
        raise DataError(
            f"the image has {len(found.cells)} cells: allowed are {MAX_CELLS}; cut it into pieces"
        )
    windows = [crops.square_crop_box(cell.box, *size, crops.MARGIN) for cell in found.cells]
    return _Plan(found.cells, windows, *scale, False)


def _scale(given: float | None, found: Scale | None) -> tuple[float | None, str]:
    """Returns the micrometers per pixel and their source."""
    if given is not None:
        return given, "given"
    if found is not None and found.reliable:
        return found.um_per_px, "red_cells"
    return None, "unknown"


def _grouped(values: Sequence[Any], counts: Sequence[int]) -> list[list[Any]]:
    """Splits the values of all images into one list per image."""
    rest = iter(values)
    return [list(itertools.islice(rest, count)) for count in counts]


def _merge(
    size: tuple[int, int], plan: _Plan, masks: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Merges the masks of an image's windows into its mask and labels."""
    if plan.one_cell:
        mask = isolation.keep_middle_cell(masks[0])
        return mask, (mask > 0).astype(np.uint16)
    return instances.merge_masks(size, plan.windows, masks, plan.cells)


def _own_masks(plan: _Plan, mask: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """Returns the mask of each window with its own cell alone."""
    places = [np.s_[top:bottom, left:right] for top, left, bottom, right in plan.windows]
    return [mask[place] * (labels[place] == i) for i, place in enumerate(places, 1)]


def _assemble(
    plan: _Plan,
    mask: np.ndarray | None,
    labels: np.ndarray | None,
    typed: Sequence[inference.Prediction | None],
    rule: abstention.Rule | None,
) -> Field:
    """Builds an image's result from the results of its windows."""
    cells = []
    # A crop in which the segmenter sees no cell has none.
    windows = [] if plan.one_cell and labels is not None and not labels.any() else plan.windows
    for i, (window, prediction) in enumerate(zip(windows, typed)):
        detection = plan.cells[i] if plan.cells else None
        found = measure_cell(i + 1, detection, window, mask, labels, plan.um_per_px)
        if prediction is not None and prediction.logits is not None:
            found |= abstention.judge(rule, prediction.logits, prediction.embedding)
        cells.append(Cell(**found))
    return Field(cells, mask, labels, plan.um_per_px, plan.source, plan.one_cell)
