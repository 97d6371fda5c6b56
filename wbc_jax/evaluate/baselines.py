"""What colour thresholds alone reach: the floor that a network has to beat."""

import numpy as np
from scipy import ndimage
from skimage import filters

from wbc_jax.labels import BACKGROUND, CYTOPLASM, NUCLEUS


def otsu(images: np.ndarray) -> np.ndarray:
    """Segments by Otsu's thresholds (Otsu 1979) on two colours.

    The cell is what is darker than Otsu's threshold in green, where stained cytoplasm and red
    cells absorb most; the nucleus is what is, inside that, less red than Otsu's threshold
    of the cell's pixels, since its violet absorbs red and a red cell's pink does not. Only the
    parts of the foreground that touch a nucleus count as cell.

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
    parts, _ = ndimage.label(cell)
    touched = np.unique(parts[nucleus])
    out[np.isin(parts, touched[touched > 0])] = CYTOPLASM
    out[nucleus] = NUCLEUS
    return out


def most_frequent(counts: np.ndarray, images: int) -> np.ndarray:
    """Says of every image that its type is the most frequent one, with training's shares.

    Args:
        counts: int `[K]`, training images of each type.
        images: N.

    Returns:
        float64 `[N, K]`, probabilities.
    """
    return np.tile(counts / counts.sum(), (images, 1))
