"""Brings an image to a standard light and a least contrast before a segmenter sees it.

A segmenter learns the exposure of its training scanners: the same field, 30 % darker, gets another
N/C ratio. So the unstained background is brought to one level. Its hue stays, because the scanners
differ in it and the shipped segmenter was trained on their images as they are; a common hue cost
0.7 points of mean IoU on JTSC and 2.7 on BCCD. Where nuclei absorb less than in any training
source, optical densities are multiplied. docs/robustness.md has what this changes.
"""

import math

import cv2
import numpy as np
from skimage import filters

LEVEL = 224.0
"""Geometric mean of the background's channels after `standardize`, as in CellaVision and JTSC."""
LEAST_DENSITY = 1.2
"""Lowest natural optical density of nuclei in green after `standardize`. In 95 % of the validation
images of JTSC, CellaVision and Raabin it is above 1.1, 0.9 and 1.1 without."""
_MOST_GAIN, _MOST_CONTRAST = 2.5, 2.0
_SAMPLE_PX = 512
"""Large images are measured on every k-th pixel, so that the shorter side is about this long."""
_LEAST_SHARE = 0.05
"""Share of an image that its background takes at least."""
_NEAR = 6.0
"""Gray levels in green by which the background differs from its most frequent level."""
_DARKEST = 60
"""Least green of a background."""
_REDDEST = 1.35
"""Largest red / green of a background; red cells in front of it have more."""


def standardize(image: np.ndarray) -> np.ndarray:
    """Returns the image in the standard light.

    Turning or mirroring an image (of less than 1024 pixels at its shorter side) turns or mirrors
    the result, exactly. An image without background, such as a crop full of cells, is returned
    unchanged. What a camera clipped stays clipped.

    Args:
        image: uint8 `[H, W, 3]` RGB.

    Returns:
        uint8 `[H, W, 3]`.
    """
    sample = _smooth(image)
    white = background(sample)
    if white is None:
        return image
    gain = np.clip(LEVEL / np.exp(np.log(white).mean()), 1 / _MOST_GAIN, _MOST_GAIN)
    found = _nucleus_density(sample[..., 1], float(white[1]))
    power = 1.0 if found is None else float(np.clip(LEAST_DENSITY / found, 1, _MOST_CONTRAST))
    table = gain * white * (np.arange(256)[:, None] / white) ** power
    image = np.ascontiguousarray(image)
    return cv2.LUT(image, np.clip(np.rint(table), 0, 255).astype(np.uint8)[:, None])


def background(sample: np.ndarray) -> np.ndarray | None:
    """Returns the color of the unstained background.

    It is the brightest level of green that is frequent: stained pixels absorb green most.

    Args:
        sample: float32 `[h, w, 3]`, pixels without much noise.

    Returns:
        float64 `[3]`; None if no bright level is frequent, or it is as red as red cells.
    """
    green = sample[..., 1]
    counts = np.bincount(np.rint(green).astype(np.int64).ravel(), minlength=256)
    # One more level at both ends, so that black and white can be a maximum.
    smooth = np.pad(cv2.GaussianBlur(counts.astype(np.float64)[None], (0, 0), 3)[0], 1)
    peaks = np.flatnonzero((smooth[1:-1] >= smooth[:-2]) & (smooth[1:-1] > smooth[2:]))
    for level in peaks[::-1]:
        near = np.abs(green - level) <= _NEAR
        if near.mean() >= _LEAST_SHARE:
            white = np.median(sample[near], 0).astype(np.float64)
            bright = white.min() >= 1 and white[1] >= _DARKEST
            return white if bright and white[0] <= _REDDEST * white[1] else None
    return None


def _smooth(image: np.ndarray) -> np.ndarray:
    """Returns float32 `[h, w, 3]`: means of 3×3 pixels, of every k-th pixel of a large image.

    The sums are whole numbers, which do not depend on the order of the pixels.
    """
    step = max(1, min(image.shape[:2]) // _SAMPLE_PX)
    some = np.ascontiguousarray(image[::step, ::step])
    return cv2.boxFilter(some, cv2.CV_32F, (3, 3), normalize=False) / 9


def _nucleus_density(green: np.ndarray, white: float) -> float | None:
    """Returns the median natural optical density of the darkest of three classes of pixels (Otsu);
    None if there are fewer levels than three."""
    densities = -np.log(np.clip(green / white, 1 / 255, 1))
    try:
        limit = filters.threshold_multiotsu(densities, 3)[1]
    except ValueError:
        return None
    found = float(np.median(densities[densities > limit]))
    return found if math.isfinite(found) and found > 0 else None
