"""A field of many cells → each leukocyte's mask, N/C ratio, shape and type.

1. Every leukocyte is found by its nucleus's colour (`wbc_jax.detect`).
2. The square around each goes through the segmenter and the classifier.
3. Of a square's mask a cell keeps what is connected with its own nucleus. Where cells touch, each
   pixel goes to the nucleus that is nearest within the mask, so that no pixel has two cells.
4. A type that the classifier is not sure of is left to a person (`wbc_jax.abstain`).

An image may itself be a crop around one cell, as in most data sets: it is then taken as it is.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from concurrent import futures
from typing import TYPE_CHECKING

import numpy as np
from etils import epath
from scipy import ndimage
from skimage import segmentation

from wbc_jax import metrics
from wbc_jax.data import crops, isolation
from wbc_jax.data.images import check_image
from wbc_jax.errors import CheckpointError, DataError
from wbc_jax.fields import finder
from wbc_jax.inference import abstention
from wbc_jax.inference import model as inference
from wbc_jax.inference import weights as weights_lib
from wbc_jax.labels import NUCLEUS

if TYPE_CHECKING:
    from wbc_jax.fields.finder import Scale

SEGMENTER, CLASSIFIER = "segmenter", "classifier"
"""Names of the shipped weights that are used by default."""
WAYS = ("auto", "yes", "no")
MOST_CELLS = 2**16 - 1
"""Cells of one image that its uint16 labels can tell apart."""
_LONGEST_CROP = 8.0  # red cells
_LONGEST_CROP_PX = 2048
_OFF_MIDDLE = 0.15  # of a crop's side
_SQUARE = 1.2
_LEAST_COMMON = 0.5

Box = tuple[int, int, int, int]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """A leukocyte; what the models have no output for is None or empty.

    Attributes:
        cell: its number from 1, and its value in `Field.labels`.
        top, left, bottom, right: the box around its mask in pixels, half open.
        type: of `labels.CELL_TYPES`, or `vocabulary.REVIEW`, where a person is to look.
        best_guess: the most probable type, whatever the probability.
        probability: of `best_guess`, calibrated where the classifier has an abstention rule.
        review: why a person is to look (see `abstain.Rule.judge`).
        nucleus_px, cytoplasm_px, nucleus_um2, cytoplasm_um2: areas.
        nc_ratio, nucleus_share: N/C and N/(N+C), as in `metrics.nc_ratio`.
        lobes, …: as in `metrics.cell_shape`.
        flag: names joined by `;`: of `metrics.nc_ratio`; `touches_frame`; and `nuclei_differ`: the
            segmenter's nucleus and the one that the finder saw by its colour have less than half
            in common, as where a stain is unlike those that the segmenter was trained on.
        mask: uint8 `[bottom - top, right - left]`: 1 its cytoplasm, 2 its nucleus, 0 all else.
    """

    cell: int
    top: int
    left: int
    bottom: int
    right: int
    type: str = ""
    best_guess: str = ""
    probability: float | None = None
    review: str = ""
    nucleus_px: int | None = None
    cytoplasm_px: int | None = None
    nucleus_um2: float | None = None
    cytoplasm_um2: float | None = None
    nc_ratio: float | None = None
    nucleus_share: float | None = None
    lobes: int | None = None
    nucleus_circularity: float | None = None
    nucleus_solidity: float | None = None
    nucleus_eccentricity: float | None = None
    cell_circularity: float | None = None
    cell_solidity: float | None = None
    cell_eccentricity: float | None = None
    flag: str = ""
    mask: np.ndarray | None = dataclasses.field(default=None, repr=False)

    @property
    def box(self) -> Box:
        """(top, left, bottom, right)."""
        return self.top, self.left, self.bottom, self.right

    def row(self) -> dict[str, object]:
        """Returns all but the mask, by column."""
        return {name: getattr(self, name) for name in CELL_COLUMNS}


CELL_COLUMNS = tuple(field.name for field in dataclasses.fields(Cell) if field.name != "mask")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Field:
    """What was found in an image.

    Attributes:
        cells: its leukocytes from top to bottom.
        mask: uint8 `[H, W]`: 0 background, 1 cytoplasm, 2 nucleus; None without a segmenter.
        labels: uint16 `[H, W]`: number of the cell that a pixel is of, 0 none; None likewise.
        um_per_px: micrometres a pixel; None: not known.
        um_per_px_source: `given`, `red_cells` (estimated from them) or `unknown`.
        one_cell: the image was taken as a crop around one cell.
    """

    cells: list[Cell]
    mask: np.ndarray | None
    labels: np.ndarray | None
    um_per_px: float | None
    um_per_px_source: str
    one_cell: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Models:
    """What a field is analysed by.

    Attributes:
        segmenter, classifier: from `wbc_jax.load`; None: no masks, or no types.
        rule: when the classifier's type is left to a person; None: never.
    """

    segmenter: inference.Model | None = None
    classifier: inference.Model | None = None
    rule: abstention.Rule | None = None


def load_models(names: Sequence[epath.PathLike] = (), flips: bool = False) -> Models:
    """Loads a segmenter, a classifier or both.

    Args:
        names: runs, files of weights or names of shipped ones, at most one of each task. Without
            any, the shipped `SEGMENTER`, and the shipped `CLASSIFIER` if it is there.
        flips: let the segmenter average over reflections where it was evaluated so: four times the
            work for up to half a point of mean IoU (docs/experiments.md).

    Raises:
        CheckpointError, ConfigError: as `wbc_jax.load`; or two models have one task.
    """
    if not names:
        names = [SEGMENTER, *({CLASSIFIER} & set(weights_lib.shipped()))]
    loaded: dict[str, tuple[epath.PathLike, inference.Model]] = {}
    for name in names:
        model = inference.load(name)
        task = model.config.task
        if task == "segmentation":
            # Which cell of a window is meant, the finder knows better than the window's middle.
            model = model.with_middle_cell(False)
            model = model if flips else model.with_flips(False)
        if task in loaded:
            raise CheckpointError(
                f"{loaded[task][0]} and {name} are both models of {task}; give one of each task."
            )
        loaded[task] = name, model
    _, segmenter = loaded.get("segmentation", (None, None))
    name, classifier = loaded.get("classification", (None, None))
    return Models(segmenter, classifier, abstention.read_for(name, classifier) if name else None)


def analyze(
    images: np.ndarray | Sequence[np.ndarray],
    models: Models | None = None,
    find: str = "auto",
    um_per_px: float | None = None,
) -> Field | list[Field]:
    """Finds, segments and types every leukocyte of one image or several.

    Args:
        images: uint8 `[H, W, 3]` RGB of any size, or a list of such.
        models: by default the shipped ones (`load_models()`).
        find: `yes`: look for cells; `no`: each image is one cell; `auto`: by `is_one_cell`.
        um_per_px: micrometres a pixel, if known.

    Returns:
        One `Field`, or a list of them.

    Raises:
        ValueError: an image of another type or shape, or an argument that is not allowed.
        CheckpointError: the default models are not there.
    """
    if find not in WAYS:
        raise ValueError(f"find is {find!r}: allowed are {', '.join(WAYS)}")
    if um_per_px is not None and not 0 < um_per_px < math.inf:
        raise ValueError(f"um_per_px is {um_per_px}: allowed is a number above zero")
    if isinstance(images, np.ndarray):
        return analyze([images], models, find, um_per_px)[0]
    for image in images:
        check_image(image)
    models = models or load_models()
    # scikit-image and OpenCV leave Python's lock alone for most of their time.
    with futures.ThreadPoolExecutor() as pool:
        plans = list(pool.map(lambda image: _plan(image, find, um_per_px), images))
        squares = [
            image[top:bottom, left:right]
            for image, plan in zip(images, plans)
            for top, left, bottom, right in plan.windows
        ]
        masks = models.segmenter and iter(one.mask for one in models.segmenter.predict(squares))
        joined = list(
            pool.map(
                lambda image, plan, own: _join(image.shape[:2], plan, own),
                images,
                plans,
                [masks and list(itertools.islice(masks, len(plan.windows))) for plan in plans],
            )
        )
        typed = itertools.repeat(None)
        if models.classifier:
            # One that cuts images to their cell need not segment them again.
            known = [mask for plan, pair in zip(plans, joined) for mask in _own(plan, *pair)]
            typed = iter(models.classifier.predict(squares, masks=known if masks else None))
        return list(
            pool.map(
                lambda plan, pair, own: _assemble(plan, *pair, own, models.rule),
                plans,
                joined,
                [list(itertools.islice(typed, len(plan.windows))) for plan in plans],
            )
        )


def is_one_cell(shape: tuple[int, ...], field: finder.Detections) -> bool:
    """Whether an image is itself a crop around one cell rather than a field.

    Such crops are about square, at most 2048 pixels and not many red cells wide, and their cell is
    in the middle. One in
    which nothing was found is a crop only if there are no red cells that would make it a field.

    Args:
        shape: of the image.
        field: what `detect.find` found in it.
    """
    height, width = shape[:2]
    short, long = sorted((height, width))
    if long > min(_SQUARE * short, _LONGEST_CROP_PX):
        return False
    scale = field.scale
    if scale and scale.reliable and long > _LONGEST_CROP * scale.red_cell_px:
        return False
    if not field.cells:
        return not (scale and scale.reliable)
    middles = [
        ((cell.top + cell.bottom) / 2 / height - 0.5, (cell.left + cell.right) / 2 / width - 0.5)
        for cell in field.cells
    ]
    return min(math.hypot(*middle) for middle in middles) < _OFF_MIDDLE


@dataclasses.dataclass(frozen=True, slots=True)
class _Plan:
    """Where the cells of an image are.

    Attributes:
        cells: from the finder; none where the image is one cell.
        windows: what the models are shown, a box a cell.
    """

    cells: list[finder.Detection]
    windows: list[Box]
    um_per_px: float | None
    source: str
    one_cell: bool


def _plan(image: np.ndarray, find: str, um_per_px: float | None) -> _Plan:
    field = finder.Detections([], None) if find == "no" else finder.find(image)
    scale, size = _scale(um_per_px, field.scale), image.shape[:2]
    if find == "no" or (find == "auto" and is_one_cell(size, field)):
        return _Plan([], [(0, 0, *size)], *scale, True)
    if len(field.cells) > MOST_CELLS:
        raise DataError(
            f"{len(field.cells)} cells were found: allowed are {MOST_CELLS}; cut the image into "
            "parts"
        )
    windows = [crops.square_crop_box(cell.box, *size, crops.MARGIN) for cell in field.cells]
    return _Plan(field.cells, windows, *scale, False)


def _scale(given: float | None, found: Scale | None) -> tuple[float | None, str]:
    if given is not None:
        return given, "given"
    if found is not None and found.reliable:
        return found.um_per_px, "red_cells"
    return None, "unknown"


_Joined = tuple[np.ndarray | None, np.ndarray | None]


def _join(size: tuple[int, int], plan: _Plan, masks: Sequence[np.ndarray] | None) -> _Joined:
    """An image's mask and labels, from the masks of its windows; None: there is no segmenter."""
    if masks is None:
        return None, None
    if plan.one_cell:
        mask = isolation.keep_middle_cell(masks[0])
        return mask, (mask > 0).astype(np.uint16)
    return join(size, plan.windows, masks, plan.cells)


def _own(plan: _Plan, mask: np.ndarray | None, labels: np.ndarray | None) -> list[np.ndarray]:
    """The mask of each window with its own cell alone."""
    if mask is None or labels is None:
        return []
    places = [np.s_[top:bottom, left:right] for top, left, bottom, right in plan.windows]
    return [mask[place] * (labels[place] == i) for i, place in enumerate(places, 1)]


def _assemble(
    plan: _Plan,
    mask: np.ndarray | None,
    labels: np.ndarray | None,
    typed: Sequence[inference.Prediction | None],
    rule: abstention.Rule | None,
) -> Field:
    """Puts what is known of an image's windows together."""
    cells = []
    # An image that was taken for one cell, and in which the segmenter sees none, has none.
    windows = [] if plan.one_cell and labels is not None and not labels.any() else plan.windows
    for i, (window, prediction) in enumerate(zip(windows, typed)):
        cell = plan.cells[i] if plan.cells else None
        found = _measured(i + 1, cell, window, mask, labels, plan.um_per_px)
        if prediction is not None and prediction.logits is not None:
            found |= abstention.judge(rule, prediction.logits, prediction.embedding)
        cells.append(Cell(**found))
    return Field(cells, mask, labels, plan.um_per_px, plan.source, plan.one_cell)


def join(
    size: tuple[int, int],
    windows: Sequence[Box],
    masks: Sequence[np.ndarray],
    cells: Sequence[finder.Detection],
) -> tuple[np.ndarray, np.ndarray]:
    """Puts masks of single cells into their field; no pixel has two cells.

    Args:
        size: height and width of the field in pixels.
        windows: the square that each mask is of.
        masks: uint8, 0 background, 1 cytoplasm, 2 nucleus; of all cells in the square.
        cells: as many, from the finder, with their nuclei.

    Returns:
        The field's mask, uint8 `[H, W]`, and its cells' numbers from 1, uint16 `[H, W]`.
    """
    mask, labels = np.zeros(size, np.uint8), np.zeros(size, np.uint16)
    # Where two squares claim a pixel, the nearer nucleus has it: as in a depth buffer.
    nearest = np.full(size, np.inf, np.float16)
    boxes = np.array([cell.box for cell in cells]).reshape(-1, 4)
    seeds = []
    for number, (window, found) in enumerate(zip(windows, masks), 1):
        top, left, bottom, right = window
        meets = (boxes[:, :2] < (bottom, right)).all(1) & (boxes[:, 2:] > (top, left)).all(1)
        nuclei = np.zeros(found.shape, np.int32)
        for other in np.flatnonzero(meets):
            _paste(nuclei, window, cells[other], other + 1)
        own = part(found, nuclei) == number
        far = ndimage.distance_transform_edt(nuclei != number)
        place = np.s_[top:bottom, left:right]
        own &= far < nearest[place]
        nearest[place][own] = far[own]
        mask[place][own], labels[place][own] = found[own], number
        seeds.append(nuclei == number)
    for number, (window, seed) in enumerate(zip(windows, seeds), 1):
        place = np.s_[window[0] : window[2], window[1] : window[3]]
        own = labels[place] == number
        pieces, count = ndimage.label(own, np.ones((3, 3)))
        kept = np.unique(pieces[seed & own])
        if count > len(kept) > 0:  # what a neighbour has cut off
            lost = own & ~np.isin(pieces, kept)
            mask[place][lost] = labels[place][lost] = 0
    return mask, labels


def _paste(nuclei: np.ndarray, window: Box, cell: finder.Detection, number: int) -> None:
    """Marks a cell's nucleus in a window's labels."""
    shape = (cell.bottom - cell.top, cell.right - cell.left)
    nucleus = np.ones(shape, bool) if cell.nucleus is None else cell.nucleus
    top, left = max(cell.top, window[0]), max(cell.left, window[1])
    bottom, right = min(cell.bottom, window[2]), min(cell.right, window[3])
    shown = nucleus[top - cell.top : bottom - cell.top, left - cell.left : right - cell.left]
    at = np.s_[top - window[0] : bottom - window[0], left - window[1] : right - window[1]]
    nuclei[at][shown] = number


def part(mask: np.ndarray, nuclei: np.ndarray) -> np.ndarray:
    """Divides a mask among the cells whose nuclei are known.

    Nucleus pixels go to the nearest of the known nuclei, within the nuclei of the mask, and then
    cytoplasm to the nearest of these within the cells: a watershed of the distance from them. What
    is not connected with any goes to none.

    Args:
        mask: uint8 `[H, W]`: 0 background, 1 cytoplasm, 2 nucleus.
        nuclei: int32 `[H, W]`: number of the cell whose nucleus is here, 0 none.

    Returns:
        int32 `[H, W]`: number of the cell that each pixel of the mask is of, 0 elsewhere.
    """
    body = mask > 0
    inner = _flood(nuclei, mask == NUCLEUS)
    return _flood(np.where(inner > 0, inner, nuclei), body)


def _flood(seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
    seeds = seeds * mask
    numbers = np.unique(seeds[seeds > 0])
    if not len(numbers):
        return seeds
    return segmentation.watershed(ndimage.distance_transform_edt(seeds == 0), seeds, mask=mask)


def _measured(
    number: int,
    cell: finder.Detection | None,
    window: Box,
    mask: np.ndarray | None,
    labels: np.ndarray | None,
    um_per_px: float | None,
) -> dict[str, object]:
    """What `Cell` holds of a mask."""
    box, cut = (window, False) if cell is None else (cell.box, cell.touches_frame)
    if mask is None or labels is None:
        names = ("top", "left", "bottom", "right")
        return {"cell": number, **dict(zip(names, box)), "flag": "touches_frame" if cut else ""}
    top, left, bottom, right = window
    own = labels[top:bottom, left:right] == number
    if found := crops.bounding_box(own):
        box = (top + found[0], left + found[1], top + found[2], left + found[3])
    top, left, bottom, right = box
    place = np.s_[top:bottom, left:right]
    alone = np.where(labels[place] == number, mask[place], 0).astype(np.uint8)
    if found:
        # A crop may show parts of other cells at its edges: the largest piece is the cell's.
        pieces, count = ndimage.label(alone) if cell is None else (alone > 0, 1)
        largest = pieces == (1 + np.bincount(pieces.ravel())[1:].argmax() if count > 1 else 1)
        edges = (top == 0, bottom == mask.shape[0], left == 0, right == mask.shape[1])
        sides = (largest[0], largest[-1], largest[:, 0], largest[:, -1])
        cut |= any(edge and side.any() for edge, side in zip(edges, sides))
    ratio, shape = metrics.nc_ratio(alone[None]), metrics.cell_shape(alone[None], um_per_px)
    differ = cell is not None and _common(cell, window, mask, own) < _LEAST_COMMON
    named = {
        str(ratio.flag[0]): True, "touches_frame": cut, "nuclei_differ": differ,
    }  # fmt: skip
    um2 = math.nan if um_per_px is None else um_per_px**2
    return {
        "cell": number,
        **dict(zip(("top", "left", "bottom", "right"), box)),
        "nucleus_px": int(ratio.nucleus_px[0]),
        "cytoplasm_px": int(ratio.cytoplasm_px[0]),
        "nucleus_um2": float(ratio.nucleus_px[0] * um2),
        "cytoplasm_um2": float(ratio.cytoplasm_px[0] * um2),
        "nc_ratio": float(ratio.nc_ratio[0]),
        "nucleus_share": float(ratio.nucleus_share[0]),
        "lobes": int(shape.lobes[0]),
        **{
            f"{region}_{name}": float(getattr(getattr(shape, region), name)[0])
            for region in ("nucleus", "cell")
            for name in ("circularity", "solidity", "eccentricity")
        },
        "flag": ";".join(name for name, holds in named.items() if name and holds),
        "mask": alone,
    }


def _common(cell: finder.Detection, window: Box, mask: np.ndarray, own: np.ndarray) -> float:
    """Intersection over union of the nucleus that was found and the one that was segmented."""
    seen = np.zeros(own.shape, np.int32)
    _paste(seen, window, cell, 1)
    top, left, bottom, right = window
    nucleus = (mask[top:bottom, left:right] == NUCLEUS) & own
    either = np.count_nonzero(nucleus | (seen > 0))
    return np.count_nonzero(nucleus & (seen > 0)) / max(1, either)
