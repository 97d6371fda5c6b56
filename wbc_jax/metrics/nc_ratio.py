"""Nucleus-to-cytoplasm ratio from masks or areas."""

import dataclasses

import numpy as np

from wbc_jax import vocabulary

FLAGS = ("", "no_cytoplasm", "no_nucleus", "no_cell")


@dataclasses.dataclass(frozen=True, slots=True)
class NCRatio:
    """Areas and ratios, one entry an image.

    Attributes:
        nucleus_px, cytoplasm_px: int64 `[N]`.
        nc_ratio: float64 `[N]`, nucleus / cytoplasm: +inf without cytoplasm, NaN without nucleus
            or without cell.
        nucleus_share: float64 `[N]`, N / (N + C); NaN without nucleus or without cell.
        flag: `[N]` of `FLAGS`: why the ratio is not an ordinary number.
    """

    nucleus_px: np.ndarray
    cytoplasm_px: np.ndarray
    nc_ratio: np.ndarray
    nucleus_share: np.ndarray
    flag: np.ndarray


def from_areas(nucleus_px, cytoplasm_px) -> NCRatio:
    """Returns the ratios of int `[N]` areas in pixels."""
    n, c = np.asarray(nucleus_px, np.int64), np.asarray(cytoplasm_px, np.int64)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(n > 0, np.where(c > 0, n / c, np.inf), np.nan)
        share = np.where(n > 0, n / (n + c), np.nan)
    flag = np.where(n > 0, np.where(c > 0, FLAGS[0], FLAGS[1]), np.where(c > 0, FLAGS[2], FLAGS[3]))
    return NCRatio(n, c, ratio, share, flag)


def nc_ratio(mask) -> NCRatio:
    """Returns areas and ratios of integer masks `[N, H, W]` (1 cytoplasm, 2 nucleus).

    Raises:
        ValueError: not three axes.
    """
    mask = np.asarray(mask)
    if mask.ndim != 3:
        raise ValueError(f"mask has shape {mask.shape}; it must be [N, H, W].")
    return from_areas(
        (mask == vocabulary.NUCLEUS).sum((1, 2)), (mask == vocabulary.CYTOPLASM).sum((1, 2))
    )
