"""Nucleus-to-cytoplasm (N/C) ratio from masks or areas."""

import dataclasses

import numpy as np

from wbc_jax.labels import CYTOPLASM, NUCLEUS
from wbc_jax.metrics.checks import check_cell_mask, check_counts

FLAGS = ("", "no_cytoplasm", "no_nucleus", "no_cell")


@dataclasses.dataclass(frozen=True, slots=True)
class NCRatio:
    """Areas and ratios, one entry per image.

    Attributes:
        nucleus_px, cytoplasm_px: int64 `[N]`.
        nc_ratio: float64 `[N]`, nucleus / cytoplasm: +inf without cytoplasm, NaN without nucleus
            or without cell.
        nucleus_share: float64 `[N]`, N / (N + C); NaN without nucleus or without cell.
        flag: `[N]` of `FLAGS`: the reason why the ratio is not finite, or "".
    """

    nucleus_px: np.ndarray
    cytoplasm_px: np.ndarray
    nc_ratio: np.ndarray
    nucleus_share: np.ndarray
    flag: np.ndarray


def from_areas(nucleus_px, cytoplasm_px) -> NCRatio:
    """Returns the ratios of int `[N]` areas in pixels.

    Raises:
        ValueError: an area is negative, or no whole number.
    """
    n, c = (
        check_counts(f"{name} areas", areas)
        for name, areas in (("nucleus", nucleus_px), ("cytoplasm", cytoplasm_px))
    )
    if (n % 1).any() or (c % 1).any():
        raise ValueError("areas hold fractions; they are whole numbers of pixels.")
    n, c = n.astype(np.int64), c.astype(np.int64)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(n > 0, np.where(c > 0, n / c, np.inf), np.nan)
        share = np.where(n > 0, n / (n + c), np.nan)
    flag = np.where(n > 0, np.where(c > 0, FLAGS[0], FLAGS[1]), np.where(c > 0, FLAGS[2], FLAGS[3]))
    return NCRatio(n, c, ratio, share, flag)


def nc_ratio(mask) -> NCRatio:
    """Returns areas and ratios of integer masks `[N, H, W]` (1 cytoplasm, 2 nucleus).

    Pixels of value 255 are in neither area.

    Raises:
        ValueError: not three axes, or a value other than 0, 1, 2 and 255.
    """
    mask = check_cell_mask(mask)
    return from_areas((mask == NUCLEUS).sum((1, 2)), (mask == CYTOPLASM).sum((1, 2)))


@dataclasses.dataclass(frozen=True, slots=True)
class RegionMeans:
    """Mean gray values of nucleus and cytoplasm, one entry per image, in the image's own units.

    Attributes:
        nucleus_image_mean, cytoplasm_image_mean: float64 `[N]`, sum over the region / pixels of the
            whole image: the mean of the image with everything but the region set to 0. Paper A's
            "Mean Nucleus" and "Mean Cytoplasm" fit this. It grows with the region's area.
        image_mean_ratio: float64 `[N]`, nucleus / cytoplasm of these, paper A's "N/C Ratio(m)";
            +inf without cytoplasm, NaN without nucleus.
        nucleus_mean, cytoplasm_mean: float64 `[N]`, mean inside the region; NaN where it is empty.
        mean_ratio: float64 `[N]`, nucleus / cytoplasm of these; NaN without either.
    """

    nucleus_image_mean: np.ndarray
    cytoplasm_image_mean: np.ndarray
    image_mean_ratio: np.ndarray
    nucleus_mean: np.ndarray
    cytoplasm_mean: np.ndarray
    mean_ratio: np.ndarray


def region_means(image, mask) -> RegionMeans:
    """Returns the mean gray values of nucleus and cytoplasm.

    Args:
        image: gray `[N, H, W]`, or RGB `[N, H, W, 3]`, converted by 0.299 R + 0.587 G + 0.114 B
            (ITU-R BT.601, as OpenCV and MATLAB do, but without rounding).
        mask: integer `[N, H, W]` (1 cytoplasm, 2 nucleus).

    Raises:
        ValueError: the shapes do not fit, or the mask holds a value other than 0, 1, 2 and 255.
    """
    image, mask = np.asarray(image), np.asarray(mask)
    if mask.ndim != 3 or image.shape not in (mask.shape, (*mask.shape, 3)):
        raise ValueError(
            f"image has shape {image.shape} and mask {mask.shape}; they must be [N, H, W] or "
            "[N, H, W, 3], and [N, H, W]."
        )
    check_cell_mask(mask)
    gray = image if image.ndim == 3 else image @ np.array([0.299, 0.587, 0.114])
    pixels = mask.shape[1] * mask.shape[2]
    whole, inside = [], []
    for region in (NUCLEUS, CYTOPLASM):
        chosen = mask == region
        total, area = np.sum(gray, axis=(1, 2), where=chosen, dtype=np.float64), chosen.sum((1, 2))
        whole.append(total / pixels)
        inside.append(_divide(total, area))
    nucleus, cytoplasm = whole
    image_ratio = np.where(np.isnan(inside[0]), np.nan, _divide(nucleus, cytoplasm))
    return RegionMeans(*whole, image_ratio, *inside, _divide(*inside))


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns a / b; unlike `ratios.ratio`, infinite where only b is 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return a / b
