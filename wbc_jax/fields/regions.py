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


def disk(radius: float) -> np.ndarray:
    """Returns a disk-shaped footprint with a radius of at least one pixel."""
    return morphology.disk(max(1, round(radius)))
