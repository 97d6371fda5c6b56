"""The leukocytes of an analyzed image, and their measurements."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from scipy import ndimage

from wbc_jax import metrics
from wbc_jax.data import crops
from wbc_jax.fields import instances
from wbc_jax.fields.finder import Box, Detection
from wbc_jax.inference.abstention import Outputs
from wbc_jax.labels import NUCLEUS

_BOX = ("top", "left", "bottom", "right")
_MIN_NUCLEUS_IOU = 0.5
"""Lowest IoU at which the finder's nucleus and the segmenter's are the same."""
_MIN_CELL_PX, _MAX_CELL_PX = 24, 2000
"""Longer side of the cells on which results were seen to hold (docs/fields.md)."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """A leukocyte. An attribute is None or empty if no model gives it.

    Attributes:
        cell: its number from 1, and its value in `Field.labels`.
        top, left, bottom, right: the box around its mask in pixels, half open.
        type: one of the classifier's `types`, or `labels.REVIEW` if a person should look at it.
        best_guess: the most probable type, however low its probability.
        probability: probability of `best_guess`, calibrated if the classifier has an abstention
            rule.
        review: why a person should look (see `abstention.judge`).
        statistics: what the type was decided by: `folder` if embeddings were moved by the folder's
            own statistics (`inference.folder_statistics`), else `training`.
        nucleus_px, cytoplasm_px, nucleus_um2, cytoplasm_um2: areas.
        nc_ratio, nucleus_share: N/C and N/(N+C), as in `metrics.nc_ratio`.
        lobes, …: as in `metrics.cell_shape`.
        flag: names joined by `;`: those of `metrics.nc_ratio`; `touches_frame`; `nuclei_differ`:
            the segmenter's nucleus and the one that the finder saw by its color have an IoU below
            0.5, as on stains unlike those that the segmenter was trained on; `scale_out_of_range`:
            the cell's longer side is below 24 or above 2,000 pixels, where no results were checked;
            `um_per_px_differs`: the image's red cells suggest another magnification than the one
            that is used, by more than 20 %.
        mask: uint8 `[bottom - top, right - left]`: 1 its cytoplasm, 2 its nucleus, 0 elsewhere.
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
    statistics: str = ""
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
        """Returns all attributes but the mask, by name."""
        return {name: getattr(self, name) for name in CELL_COLUMNS}


CELL_COLUMNS = tuple(field.name for field in dataclasses.fields(Cell) if field.name != "mask")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Field:
    """An analyzed image.

    Attributes:
        cells: its leukocytes from top to bottom.
        mask: uint8 `[H, W]`: 0 background, 1 cytoplasm, 2 nucleus; None without a segmenter.
        labels: uint16 `[H, W]`: number of the cell that a pixel belongs to, 0 none; None without a
            segmenter.
        um_per_px: micrometers per pixel; None if not known.
        um_per_px_source: `given`, the name of the file's tag, `red_cells` (estimated from them) or
            `unknown`.
        one_cell: the image was taken as a crop around one cell.
        outputs: the classifier's for the cells, in their order and before they are moved by a
            folder's statistics; None without a classifier.
    """

    cells: list[Cell]
    mask: np.ndarray | None
    labels: np.ndarray | None
    um_per_px: float | None
    um_per_px_source: str
    one_cell: bool
    outputs: Outputs | None = None


def measure_cell(
    number: int,
    detection: Detection | None,
    window: Box,
    mask: np.ndarray | None,
    labels: np.ndarray | None,
    um_per_px: float | None,
    scales_differ: bool = False,
) -> dict[str, object]:
    """Measures a cell.

    Args:
        number: the cell's number.
        detection: the cell as the finder saw it; None if the image is a crop around one cell.
        window: the part of the image that the models saw.
        mask, labels: the image's, as in `Field`; None if only the cell's box is known.
        um_per_px: micrometers per pixel, if known.
        scales_differ: the image's red cells suggest another `um_per_px`.

    Returns:
        Arguments of `Cell`, without those that a classifier gives.
    """
    box, cut = (window, False) if detection is None else (detection.box, detection.touches_frame)
    if mask is None or labels is None:
        flags = _flags(box if detection else None, cut, scales_differ)
        return {"cell": number, **dict(zip(_BOX, box)), "flag": ";".join(flags)}
    top, left, bottom, right = window
    own = labels[top:bottom, left:right] == number
    if found := crops.bounding_box(own):
        box = (top + found[0], left + found[1], top + found[2], left + found[3])
    place = np.s_[box[0] : box[2], box[1] : box[3]]
    alone = np.where(labels[place] == number, mask[place], 0).astype(np.uint8)
    if found:
        # Other cells may reach into a crop at its edges: the largest piece is the cell.
        body = _largest_piece(alone > 0) if detection is None else alone > 0
        cut |= _reaches_edge(body, box, mask.shape)
    ratio, shape = metrics.nc_ratio(alone[None]), metrics.cell_shape(alone[None], um_per_px)
    differ = detection is not None and _nucleus_iou(detection, window, mask, own) < _MIN_NUCLEUS_IOU
    flags = [
        *filter(None, [str(ratio.flag[0])]),
        *_flags(box, cut, scales_differ),
        *(["nuclei_differ"] if differ else []),
    ]
    um2 = math.nan if um_per_px is None else um_per_px**2
    return {
        "cell": number,
        **dict(zip(_BOX, box)),
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
        "flag": ";".join(flags),
        "mask": alone,
    }


def _flags(box: Box | None, cut: bool, scales_differ: bool) -> list[str]:
    """Returns the flags that need no mask.

    Args:
        box: the cell's; None if not known.
        cut: the cell reaches the frame.
        scales_differ: as in `measure_cell`.
    """
    side = None if box is None else max(box[2] - box[0], box[3] - box[1])
    flags = {
        "touches_frame": cut,
        "scale_out_of_range": side is not None and not _MIN_CELL_PX <= side <= _MAX_CELL_PX,
        "um_per_px_differs": scales_differ,
    }
    return [name for name, given in flags.items() if given]


def _largest_piece(region: np.ndarray) -> np.ndarray:
    """Returns the largest 4-connected piece of a region that is not empty, bool `[H, W]`."""
    pieces, _ = ndimage.label(region)
    return pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()


def _reaches_edge(region: np.ndarray, box: Box, size: tuple[int, ...]) -> bool:
    """Returns whether a region reaches the edge of its image.

    Args:
        region: bool, the pixels of the box.
        box: in pixels of the image.
        size: height and width of the image.
    """
    at_edge = (box[0] == 0, box[1] == 0, box[2] == size[0], box[3] == size[1])
    sides = (region[0], region[:, 0], region[-1], region[:, -1])
    return any(edge and bool(side.any()) for edge, side in zip(at_edge, sides))


def _nucleus_iou(detection: Detection, window: Box, mask: np.ndarray, own: np.ndarray) -> float:
    """Returns the IoU of the nucleus that the finder saw and the one that was segmented.

    Args:
        detection: from the finder.
        window: the part of the image that the models saw.
        mask: uint8 `[H, W]`, the image's.
        own: bool, the cell's pixels in the window.
    """
    labels = np.zeros(own.shape, np.int32)
    instances.paste_nucleus(labels, window, detection, 1)
    seen = labels > 0
    top, left, bottom, right = window
    segmented = (mask[top:bottom, left:right] == NUCLEUS) & own
    return np.count_nonzero(segmented & seen) / max(1, np.count_nonzero(segmented | seen))
