"""One of the eight symmetric positions of an image, the same for all eight.

A network without the symmetry gives turned images of one cell different masks. If each image is
first turned and mirrored to a position that its content determines, all eight are the same image
to the network, at no cost.
"""

import itertools

import numpy as np

Position = tuple[bool, bool, bool]
"""Whether to mirror rows, to mirror columns, and then to transpose."""
UPRIGHT: Position = (False, False, False)


def find(image: np.ndarray) -> Position:
    """Returns the position in which the dark content lies to the bottom right, and more to the
    right than to the bottom.

    Args:
        image: uint8 `[H, W, 3]`.
    """
    down, across = _moment(image, 1), _moment(image, 0)
    height, width = image.shape[:2]
    # Compared in whole numbers: rounding must not decide. Ties are decided by all pixels.
    further = abs(across) * height - abs(down) * width
    choices = [
        (down < 0,) if down else (False, True),
        (across < 0,) if across else (False, True),
        (further < 0,) if further else (False, True),
    ]
    positions = list(itertools.product(*choices))
    if len(positions) == 1:
        return positions[0]
    return min(positions, key=lambda position: _in_order(place(image, position)))


def place(image: np.ndarray, position: Position) -> np.ndarray:
    """Returns `[H, W, ...]`, turned and mirrored to a position."""
    rows, columns, transpose = position
    image = image[:: -1 if rows else 1, :: -1 if columns else 1]
    return np.ascontiguousarray(image.swapaxes(0, 1) if transpose else image)


def replace(image: np.ndarray, position: Position) -> np.ndarray:
    """Undoes `place`."""
    rows, columns, transpose = position
    image = image.swapaxes(0, 1) if transpose else image
    return np.ascontiguousarray(image[:: -1 if rows else 1, :: -1 if columns else 1])


def _moment(image: np.ndarray, axis: int) -> int:
    """Returns the first moment of the darkness in green about the middle, summed over `axis`."""
    dark = (255 - image[..., 1].astype(np.int64)).sum(axis)
    places = 2 * np.arange(len(dark)) - (len(dark) - 1)
    return int((dark * places).sum())


def _in_order(image: np.ndarray) -> tuple[tuple[int, ...], bytes]:
    return image.shape, image.tobytes()
