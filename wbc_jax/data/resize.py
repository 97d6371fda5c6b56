"""Resizes images by area or bilinearly, and masks to the nearest pixel."""

import functools

import cv2
import numpy as np
import scipy.sparse


def resize_image(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes uint8 `[H, W, 3]` to `[height, width, 3]`.

    Averages areas if both sides shrink, and interpolates bilinearly otherwise.
    """
    if image.shape[:2] == (height, width):
        return image
    if height < image.shape[0] and width < image.shape[1]:
        return _shrink(image, height, width)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def resize_mask(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resizes uint8 `[H, W]` to `[height, width]` by the nearest pixel center."""
    if mask.shape == (height, width):
        return mask
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def _shrink(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Averages areas: rows first, then columns, by two products with sparse matrices.

    `cv2.resize` with `INTER_AREA` gives the same but is slower. On one thread, to 128 x 128 pixels,
    it takes 1.43 ms instead of 0.35 ms for 360 x 363 pixels, and 1.03 ms instead of 0.15 ms for
    300 x 300 pixels.
    """
    rows, columns, channels = image.shape
    pixels = image.reshape(rows, columns * channels).astype(np.float32)
    pixels = (_areas(rows, height) @ pixels).reshape(height, columns, channels)
    pixels = cv2.transpose(pixels).reshape(columns, height * channels)
    pixels = _areas(columns, width) @ pixels
    pixels = np.rint(pixels, out=pixels).astype(np.uint8)
    return cv2.transpose(pixels.reshape(width, height, channels))


@functools.lru_cache(maxsize=1024)
def _areas(before: int, after: int) -> scipy.sparse.csr_array:
    """Returns float32 `[after, before]`: the share of each new pixel that each old pixel covers."""
    places, shares = [], []
    for new in range(after):
        # All ends are whole numbers in units of 1 / after of an old pixel.
        start, end = new * before, (new + 1) * before
        for old in range(start // after, -(-end // after)):
            places.append((new, old))
            shares.append((min(end, (old + 1) * after) - max(start, old * after)) / before)
    return scipy.sparse.csr_array((np.float32(shares), tuple(zip(*places))), shape=(after, before))
