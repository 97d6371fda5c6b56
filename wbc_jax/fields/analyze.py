"""Fields of many cells → the mask, N/C ratio, shape and type of each leukocyte.

1. The finder detects leukocytes by the color of their nuclei (`fields.finder`).
2. The segmenter and the classifier process a square around each cell, turned to one of its eight
   symmetric positions (`data.orientation`); the segmenter in a standard light (`data.light`).
3. Each cell keeps the part of its square's mask that belongs to its own nucleus
   (`fields.instances`), and is measured (`fields.cells`).
4. If the classifier is not sure of a type, the cell is left for review (`inference.abstention`).

An image may itself be a crop around one cell, as in most data sets; it then has one cell at most
(`fields.windows`).
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from concurrent import futures
from typing import Any

import numpy as np
from etils import epath

from wbc_jax.data import isolation, light, orientation
from wbc_jax.data.images import check_image
from wbc_jax.errors import CheckpointError
from wbc_jax.fields import contrast, instances, windows
from wbc_jax.fields.cells import Cell, Field, measure_cell
from wbc_jax.inference import abstention
from wbc_jax.inference import folder_statistics as statistics
from wbc_jax.inference import model as inference
from wbc_jax.inference import weights as weights_lib

SEGMENTER, CLASSIFIER = "segmenter", "classifier"
"""Names of the shipped weights that are the default models."""
_GROUP = 64
"""Squares whose masks or types are predicted between two reports; a multiple of the batches."""
_FIND, _SEGMENT, _TYPE = 0.6, 0.25, 0.15
"""Parts of the time that the steps take on a large field."""

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
        folder: statistics of the folder that all images are from; None: `analyze` may estimate
            them from the images of one call.
    """

    segmenter: inference.Model | None = None
    classifier: inference.Model | None = None
    rule: abstention.Rule | None = None
    folder: statistics.Folder | None = None


def load_models(names: Sequence[epath.PathLike] = (), flips: bool = False) -> Models:
    """Loads a segmenter, a classifier or both; each call reads and compiles them anew.

    Args:
        names: runs, weights files or names of shipped weights, at most one for each task. By
            default the shipped `SEGMENTER`, and the shipped `CLASSIFIER` if there is one. A
            classifier brings the segmenter that was adapted together with it, if none is named.
        flips: let the segmenter average over reflections if it was evaluated so: four times the
            work for up to half a point of mean IoU (docs/experiments.md).

    Raises:
        CheckpointError, ConfigError: as in `wbc_jax.load`; or two models have the same task, or
            the segmenter of an adapted classifier is not beside it.
    """
    if not names:
        names = [SEGMENTER, *({CLASSIFIER} & set(weights_lib.shipped()))]
    loaded: dict[str, tuple[epath.PathLike, inference.Model]] = {}
    for name in names:
        model = inference.load(name)
        task = model.config.task
        if task in loaded:
            raise CheckpointError(
                f"{loaded[task][0]} and {name} are both models for {task}; give one for each task."
            )
        loaded[task] = name, model
    _, segmenter = loaded.get("segmentation", (None, None))
    name, classifier = loaded.get("classification", (None, None))
    if segmenter is None and classifier.adapted and (own := weights_lib.own_segmenter(name)):
        segmenter = inference.load(own)
    if segmenter is not None:
        # The finder knows the cell of a window better than the window's center does.
        segmenter = segmenter.with_middle_cell(False)
        segmenter = segmenter if flips else segmenter.with_flips(False)
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
    pixel_sizes: Sequence[windows.PixelSize | None] | None = None,
    on_progress: Callable[[float], None] | None = None,
    folder_statistics: str = "auto",
) -> Field | list[Field]:
    """Finds, segments and types the leukocytes of one image or several.

    Args:
        images: uint8 `[H, W, 3]` RGB of any size, or a list of such images.
        models: from `load_models`; by default the shipped ones, which are loaded and compiled at
            the first such call and kept for the next ones, of all threads, until `release_models`.
        find: `yes`: look for cells; `no`: each image is one cell; `auto`: decide by `one_cell`.
        um_per_px: micrometers per pixel of all images, if known.
        pixel_sizes: micrometers per pixel and their source for each image, from its file; None if
            the file does not say. `um_per_px` wins over them, and they win over the red cells.
        on_progress: called now and then with the part of the work that is done, up to 1.
        folder_statistics: `auto`: if the images of this call have 50 cells or more, they are taken
            for one laboratory's, and their types are decided by their own statistics
            (`inference.folder_statistics`); an image's types then depend on the others. `off`:
            they never do. `models.folder` wins over both.

    Returns:
        One `Field`, or a list of them.

    Raises:
        ValueError: an image of another type or shape, or an argument that is not allowed.
        CheckpointError: the default models are not there.
    """
    if find not in windows.FIND_MODES:
        raise ValueError(f"find is {find!r}: allowed are {', '.join(windows.FIND_MODES)}")
    if isinstance(images, np.ndarray):
        given = (models, find, um_per_px, pixel_sizes, on_progress, folder_statistics)
        return analyze([images], *given)[0]
    own_statistics = statistics.check(folder_statistics) == "auto"
    for image in images:
        check_image(image)
    sizes = windows.pixel_sizes(len(images), um_per_px, pixel_sizes)
    models = models or _shipped_models()
    progress = _Progress(on_progress, sum(map(_pixels, images)))
    # Threads help: scikit-image and OpenCV release Python's lock for most of their time.
    with futures.ThreadPoolExecutor() as pool:
        plans = list(pool.map(lambda *one: windows.plan(*one, find, progress.found), images, sizes))
        counts = [len(plan.windows) for plan in plans]
        squares = windows.squares(images, plans)
        turns = [orientation.find(square) for square in squares]
        known = None  # the mask of each square, with its own cell alone
        merged: Sequence[_Merged] = [(None, None)] * len(plans)
        # A classifier alone may need masks, too: to cut images to their cell.
        segmenter = models.segmenter or (models.classifier and models.classifier.segmenter)
        if segmenter:
            standard = windows.squares(list(pool.map(light.standardize, images)), plans)
            standard = list(map(orientation.place, standard, turns))
            turned = _predict(segmenter, standard, progress, _SEGMENT)
            known = [one.mask for one in turned]
        if models.segmenter:
            masks = list(map(orientation.replace, known, turns))
            grouped = windows.grouped(masks, counts)
            pairs = list(pool.map(_merge, images, plans, grouped))
            known = [
                mask
                for plan, pair, found in zip(plans, pairs, grouped)
                # A crop's mask is passed as a classifier alone would predict it.
                for mask in (found if plan.one_cell else _own_masks(plan, *pair))
            ]
            known = list(map(orientation.place, known, turns))
            merged = pairs
        typed: Sequence[inference.Prediction | None] = [None] * len(squares)
        if models.classifier:
            # A classifier that cuts images to their cell need not segment them again, and has a
            # white light of its own.
            turned = list(map(orientation.place, squares, turns))
            typed = _predict(models.classifier, turned, progress, _TYPE, known)
            if models.folder is None and own_statistics:
                found = statistics.estimate_for(models.classifier, models.rule, typed)
                models = dataclasses.replace(models, folder=found)
        fields = list(
            pool.map(
                lambda plan, pair, own: _assemble(plan, *pair, own, models),
                plans,
                merged,
                windows.grouped(typed, counts),
            )
        )
    progress.finish()
    return fields


def _pixels(image: np.ndarray) -> int:
    return image.shape[0] * image.shape[1]


class _Progress:
    """Reports which part of the work is done, from any thread.

    Args:
        report: called with that part.
        pixels: of all images together.
    """

    def __init__(self, report: Callable[[float], None] | None, pixels: int):
        self._report, self._pixels = report, pixels
        self._done = 0.0
        self._lock = threading.Lock()

    def add(self, part: float) -> None:
        """Reports that a further part of the whole work is done."""
        with self._lock:
            self._done = min(self._done + part, 1.0)
            if self._report:
                self._report(self._done)

    def found(self, pixels: float) -> None:
        """Reports that cells were looked for in so many pixels."""
        self.add(_FIND * pixels / self._pixels)

    def finish(self) -> None:
        """Reports the end."""
        self.add(1.0)


def _predict(
    model: inference.Model,
    squares: Sequence[np.ndarray],
    progress: _Progress,
    part: float,
    masks: Sequence[np.ndarray] | None = None,
) -> list[inference.Prediction]:
    """Predicts the masks or the types of squares; `part` of the work is then done."""
    found = []
    for start in range(0, len(squares), _GROUP):
        group = slice(start, start + _GROUP)
        own = {} if masks is None else {"masks": masks[group]}
        found += model.predict(squares[group], **own)
        progress.add(part * len(squares[group]) / len(squares))
    return found


def _merge(
    image: np.ndarray, plan: windows.Plan, masks: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Merges the masks of an image's windows into its mask and labels."""
    size = image.shape[:2]
    if plan.one_cell:
        top, left, bottom, right = plan.windows[0]
        found = isolation.keep_middle_cell(masks[0])
        mask = np.zeros(size, np.uint8)
        if contrast.shows_nucleus(image[top:bottom, left:right], found):
            mask[top:bottom, left:right] = found
        return mask, (mask > 0).astype(np.uint16)
    return instances.merge_masks(size, plan.windows, masks, plan.cells)


def _own_masks(plan: windows.Plan, mask: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """Returns the mask of each window with its own cell alone."""
    places = [np.s_[top:bottom, left:right] for top, left, bottom, right in plan.windows]
    return [mask[place] * (labels[place] == i) for i, place in enumerate(places, 1)]


def _assemble(
    plan: windows.Plan,
    mask: np.ndarray | None,
    labels: np.ndarray | None,
    typed: Sequence[inference.Prediction | None],
    models: Models,
) -> Field:
    """Builds an image's result from the results of its windows."""
    cells, outputs = [], []
    # A crop in which the segmenter sees no cell has none.
    boxes = [] if plan.one_cell and labels is not None and not labels.any() else plan.windows
    for i, (window, prediction) in enumerate(zip(boxes, typed)):
        detection = plan.cells[i] if plan.cells else None
        found = measure_cell(
            i + 1, detection, window, mask, labels, plan.um_per_px, plan.scales_differ
        )
        if prediction is not None and prediction.logits is not None:
            found |= _judge(prediction, models)
            outputs.append(prediction)
        cells.append(Cell(**found))
    kept = abstention.Outputs.of(outputs) if outputs else None
    return Field(cells, mask, labels, plan.um_per_px, plan.source, plan.one_cell, kept)


def _judge(prediction: inference.Prediction, models: Models) -> dict[str, Any]:
    """Returns the attributes of `Cell` that a classifier gives."""
    folder = models.folder or statistics.Folder()
    own = statistics.moved(models.classifier, prediction, folder)
    judged = abstention.judge(models.rule, own.logits, own.embedding, own.types)
    return judged | {"statistics": folder.used}


def retype(field: Field, models: Models) -> Field:
    """Returns an analyzed image with its types decided again, by `models.folder`.

    Args:
        field: from `analyze` with the same segmenter, classifier and rule.
        models: the models.
    """
    if field.outputs is None:
        return field
    cells = [
        dataclasses.replace(
            cell, **_judge(inference.Prediction(**own, types=models.classifier.types), models)
        )
        for cell, own in zip(field.cells, field.outputs.each())
    ]
    return dataclasses.replace(field, cells=cells)
