"""Masks of nucleus and cytoplasm by Banik et al. 2020, of ALL-IDB2's cells and of BCCD's fields.

They mark every white cell of an image, also the neighbors of the one that the image is of.
"""

from collections import Counter

import numpy as np
from etils import epath

from wbc_jax.data import reading
from wbc_jax.data.images import read_mask_file
from wbc_jax.errors import DataError
from wbc_jax.labels import BACKGROUND, CYTOPLASM, IGNORE, NUCLEUS

GRAYS = {0: BACKGROUND, 155: CYTOPLASM, 255: NUCLEUS}
"""Classes by the authors' mask values."""
TOLERANCE, MAX_STRAY_FRACTION = 16, 0.1
"""Grays more than `TOLERANCE` from all values are an error in a larger share of the marked pixels.
Of 260 masks of BCCD, 27 have been compressed: most of their strays are within 10 levels, and those
beyond 16, at edges, are at most 4.3%. Other conventions (cytoplasm 128, nucleus 120) are 27 or more
off."""


def read(path: epath.PathLike, counts: Counter[str]) -> np.ndarray:
    """Reads a mask.

    Args:
        path: PNG, gray or of three equal channels: 255 nucleus, 155 cytoplasm, 0 background, and
            stray grays at edges, which become the nearest value.
        counts: `quantised_pixels` and `quantised_images` are added to.

    Returns:
        uint8 `[H, W]` of 0, 1, 2.

    Raises:
        DataError: an unreadable file, too many strays, or one of nucleus and cytoplasm alone,
            which is how masks with other values look.
    """
    gray = read_mask_file(path)
    most = MAX_STRAY_FRACTION * float((gray > TOLERANCE).mean())
    mask, moved = reading.nearest_classes(path, gray, GRAYS, most, tolerance=TOLERANCE)
    nucleus, cytoplasm = (mask == NUCLEUS).any(), (mask == CYTOPLASM).any()
    if nucleus != cytoplasm:
        raise DataError(
            f"{path}: the mask has {'no cytoplasm' if nucleus else 'no nucleus'}: allowed are "
            "both, 255 nucleus and 155 cytoplasm, in a mask that is not empty; redraw or fetch "
            "the mask again"
        )
    counts["quantised_pixels"] += moved
    counts["quantised_images"] += moved > 0
    return mask


def ignore_others(mask: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Returns a mask in which the cells outside bool `own` `[H, W]` are ignored."""
    return np.where(own | (mask == BACKGROUND), mask, np.uint8(IGNORE))
