"""Operations on binary masks that several steps of the finder use."""

import cv2
import numpy as np
from skimage import morphology


def inner_distance(mask: np.ndarray) -> np.ndarray:
    """Returns the distance in pixels from each pixel of a mask to the nearest one outside it.

    Pixels beyond the image's edge count as outside.

    Args:
        mask: bool `[H, W]`.
    """
    padded = np.pad(mask, 1).astype(np.uint8)
    return cv2.distanceTransform(padded, cv2.DIST_L2, 5)[1:-1, 1:-1]


def opened(mask: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Returns `skimage.morphology.opening` of a bool mask, computed by OpenCV: many times faster.

    Args:
        mask: bool `[H, W]`. Pixels beyond its edge count neither as inside nor as outside, which
            for a disk equals the mirrored edge of scikit-image.
        footprint: uint8 `[h, w]`, symmetric.
    """
    return cv2.morphologyEx(mask.view(np.uint8), cv2.MORPH_OPEN, footprint).view(bool)


def closed(mask: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Returns `skimage.morphology.closing` of a bool mask; as in `opened`."""
    return cv2.morphologyEx(mask.view(np.uint8), cv2.MORPH_CLOSE, footprint).view(bool)


def dilated(mask: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """Returns `skimage.morphology.dilation` of a bool mask; as in `opened`."""
    return cv2.dilate(mask.view(np.uint8), footprint).view(bool)


def maxima(values: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """Returns the largest value in each region 1 to `count`, 0 in an empty one, as float64 `[N]`.

    Args:
        values: `[H, W]`, at least 0.
        labels: int `[H, W]`, 0 outside of regions.
    """
    # scipy.ndimage.maximum sorts all pixels, which takes ten times as long.
    found = np.zeros(count + 1)
    inside = labels > 0
    np.maximum.at(found, labels[inside], values[inside])
    return found[1:]


def disk(radius: float) -> np.ndarray:
    """Returns a disk-shaped footprint with a radius of at least one pixel."""
    return morphology.disk(max(1, round(radius)))
