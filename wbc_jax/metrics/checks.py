"""Checks of what the metrics take: classes of masks and of cells."""

import numpy as np

from wbc_jax.labels import IGNORE, MASK_CLASSES


def check_classes(
    name: str, array: np.ndarray, num_classes: int, apart: int | None = None
) -> np.ndarray:
    """Returns an array of classes, if it is one.

    Args:
        name: what it is, in the singular or the plural, for the message.
        array: of any shape.
        num_classes: K.
        apart: a value that is allowed beside 0 to K − 1 and stands for an unknown class.

    Raises:
        ValueError: it does not hold integers from 0 to K − 1 or `apart`; says what it holds.
    """
    array, plural = np.asarray(array), name.endswith("s")
    # An empty list is an array of floats.
    if array.size and array.dtype.kind not in "iub":
        raise ValueError(
            f"{name} {'are' if plural else 'is'} of {array.dtype}; classes are integers. Take the "
            "argmax of probabilities first."
        )
    if not array.size or 0 <= array.min() <= array.max() < num_classes:
        return array
    known = array if apart is None else array[array != apart]
    if known.size and not 0 <= known.min() <= known.max() < num_classes:
        beside = "" if apart is None else f", or {apart} for an unknown one"
        raise ValueError(
            f"{name} {'hold' if plural else 'holds'} classes {known.min()} to {known.max()}; "
            f"num_classes is {num_classes}, so they must be 0 to {num_classes - 1}{beside}. Map "
            "other values to these."
        )
    return array


def check_counts(name: str, counts, last: tuple[int, ...] = ()) -> np.ndarray:
    """Returns counts of pixels, cells or images as float64, if they are counts.

    Args:
        name: what they are, in the plural, for the message.
        counts: `[..., *last]`; sums over resamples of images are counts as well.
        last: sizes of the last axes.

    Raises:
        ValueError: the last axes have other sizes, or a number is negative or NaN.
    """
    counts = np.asarray(counts, np.float64)
    if counts.shape[counts.ndim - len(last) :] != last:
        wanted = ", ".join(["...", *map(str, last)])
        raise ValueError(f"{name} have shape {counts.shape}; they must be [{wanted}].")
    if counts.size and not counts.min() >= 0:
        raise ValueError(f"{name} hold {counts.min():g}; they must be 0 or more.")
    return counts


def check_cell_mask(mask) -> np.ndarray:
    """Returns a mask of background 0, cytoplasm 1, nucleus 2 and 255 ignore as a NumPy array.

    Raises:
        ValueError: it is not integer `[N, H, W]`, or holds another value.
    """
    mask = np.asarray(mask)
    if mask.ndim != 3:
        raise ValueError(f"mask has shape {mask.shape}; it must be [N, H, W].")
    return check_classes("mask", mask, len(MASK_CLASSES), IGNORE)
