"""Drawn masks, and the distances between their boundaries by SciPy."""

import numpy as np
from scipy import ndimage


def cell(height, width, shift=0.0, scale=1.0):
    """Returns a round cell with an eccentric nucleus."""
    y, x = np.mgrid[:height, :width]
    y, x = (y - height / 2 - shift) / (scale * height), (x - width / 2 - shift) / (scale * width)
    mask = (np.hypot(y, x) < 0.35).astype(np.uint8)
    mask[np.hypot(y + 0.05, x) < 0.2 + 0.03 * np.cos(5 * np.arctan2(y, x))[...]] = 2
    return mask


def drawn(height, width):
    """Returns strokes like those drawn by hand."""
    mask = np.zeros((height, width), np.uint8)
    y, x = np.mgrid[:height, :width]
    mask[np.abs(y - height / 2 - height / 4 * np.sin(9 * x / width)) < 1.5] = 1
    mask[(np.abs(y - x * height / width) < 4) & (x % 31 > 7)] = 2
    return mask


def frame(height, width):
    """Returns classes that touch all four sides."""
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 3] = 1
    mask[:, width // 2 :] = 2
    mask[-1:] = 1
    return mask


def one_pixel(height, width, y, x):
    mask = np.zeros((height, width), np.uint8)
    mask[int(y * (height - 1)), int(x * (width - 1))] = 2
    return mask


def pairs(height, width):
    """Returns truth and prediction `[N, H, W]`: random, drawn, empty, one pixel, frame, full."""
    rng = np.random.default_rng(0)
    size = (height, width)
    noise = rng.integers(0, 3, size).astype(np.uint8)
    unknown = cell(*size)
    unknown[height // 3 : height // 2, width // 4 :] = 255
    empty, full = np.zeros(size, np.uint8), np.full(size, 2, np.uint8)
    return tuple(
        np.stack(masks)
        for masks in zip(
            (noise, np.where(rng.random(size) < 0.9, noise, 0)),
            (cell(*size), cell(*size, shift=2.5)),
            (cell(*size), cell(*size, scale=0.8)),
            (drawn(*size), np.roll(drawn(*size), 3, axis=0)),
            (frame(*size), np.roll(frame(*size), 4, axis=1)),
            (one_pixel(*size, 0.5, 0.5), one_pixel(*size, 0.52, 0.5)),
            (one_pixel(*size, 0, 0), one_pixel(*size, 1, 1)),
            (empty, empty),
            (empty, cell(*size)),
            (full, full),
            (full, frame(*size)),
            (unknown, cell(*size, shift=-1.5)),
        )
    )


def boundaries(truth, prediction, label):
    """Yields both boundaries by the definition: mask minus its erosion by a plus, zeros around."""
    known = truth != 255
    for mask in ((truth == label) & known, (prediction == label) & known):
        yield mask & ~ndimage.binary_erosion(mask)


def distances(truth, prediction, label):
    """Returns the distances from true to predicted boundary and back; None if one is absent."""
    true, predicted = boundaries(truth, prediction, label)
    if not true.any() or not predicted.any():
        return None
    to_predicted = ndimage.distance_transform_edt(~predicted)
    to_true = ndimage.distance_transform_edt(~true)
    return to_predicted[true], to_true[predicted]


def each(oracle, truth, prediction, *arguments, classes=3):
    return np.array(
        [[oracle(t, p, c, *arguments) for c in range(classes)] for t, p in zip(truth, prediction)]
    )


def square(top, left, side=10, size=40):
    mask = np.zeros((1, size, size), np.uint8)
    mask[0, top : top + side, left : left + side] = 1
    return mask


def one_hot(mask, classes):
    import torch

    return torch.from_numpy(np.eye(classes, dtype=np.uint8)[mask]).permute(0, 3, 1, 2)
