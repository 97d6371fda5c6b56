"""Color spaces."""

from typing import TypeVar

T = TypeVar("T")  # an array of JAX or NumPy


def to_gray(images: T) -> T:
    """Returns the luma of RGB, `[..., 3]` to `[..., 1]`: 0.299 R + 0.587 G + 0.114 B.

    The weights are those of ITU-R BT.601, as in Pillow, OpenCV and MATLAB's `rgb2gray`. They sum to
    1, so that scaling before or after is the same.
    """
    # No matrix product, which accelerators compute at less than float32.
    red, green, blue = images[..., 0:1], images[..., 1:2], images[..., 2:3]
    return 0.299 * red + 0.587 * green + 0.114 * blue
