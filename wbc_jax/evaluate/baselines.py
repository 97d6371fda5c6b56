"""Baselines that a network has to beat: color thresholds, and the most frequent cell type."""

import numpy as np
from scipy import ndimage
from skimage import filters

from wbc_jax.labels import BACKGROUND, CYTOPLASM, NUCLEUS


def otsu(images: np.ndarray) -> np.ndarray:
    """Segments by Otsu's thresholds (Otsu 1979) on two color channels.

    The foreground is darker than Otsu's threshold in green, where stained cytoplasm and red blood
    cells absorb most. The nucleus is less red than Otsu's threshold of the foreground pixels,
    because its violet absorbs red and the pink of a red blood cell does not. Only components of the
    foreground that touch a nucleus are cell.

    Args:
        images: uint8 `[N, H, W, 3]` RGB.

    Returns:
        uint8 `[N, H, W]`: 0 background, 1 cytoplasm, 2 nucleus.
    """
    return np.stack([_otsu_one(image) for image in images])


def _otsu_one(image: np.ndarray) -> np.ndarray:
    smooth = ndimage.gaussian_filter(image.astype(np.float32), (1, 1, 0))
    red, green = smooth[..., 0], smooth[..., 1]
    out = np.full(green.shape, BACKGROUND, np.uint8)
    if np.ptp(green) < 1:
        return out
    cell = green < filters.threshold_otsu(green)
    inside = red[cell]
    if np.ptp(inside) < 1:
        return out
    nucleus = cell & (red < filters.threshold_otsu(inside))
    components, _ = ndimage.label(cell)
    touched = np.unique(components[nucleus])
    out[np.isin(components, touched[touched > 0])] = CYTOPLASM
    out[nucleus] = NUCLEUS
    return out


def most_frequent(counts: np.ndarray, images: int) -> np.ndarray:
    """Predicts the majority class for every image.

    Args:
        counts: int `[K]`, training images of each type.
        images: N.

    Returns:
        float64 `[N, K]`, the share of each type in training as its probability.
    """
    return np.tile(counts / counts.sum(), (images, 1))
