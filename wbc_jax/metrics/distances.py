"""Distances between boundaries: Hausdorff distance (95 %) and average surface distance.

Boundaries and pixels of unknown class are as in `wbc_jax.metrics.boundary`. Distances are exact
Euclidean distances between pixels. MONAI's `compute_hausdorff_distance(percentile=95)` and
`compute_average_surface_distance(symmetric=True)` return the same numbers where both masks have the
class.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from wbc_jax.metrics import bits
from wbc_jax.metrics.boundary import bf_counts, boundary_bits
from wbc_jax.metrics.confusion import check_masks, chunks
from wbc_jax.metrics.ratios import ratio

# Pixels measured in one call: bounds the memory that a large set of masks takes.
_CALL_PX = 2**21


@functools.partial(jax.jit, static_argnames=("num_classes", "max_points"))
def boundary_distances(
    truth: jax.Array, prediction: jax.Array, num_classes: int, max_points: int | None = None
) -> jax.Array:
    """Returns the squared distance of each boundary point to the other boundary's nearest point.

    The search is exact: first along columns, on the packed bits, then along rows, outwards from
    each point until no farther column can hold a nearer point.

    Args:
        truth: integer `[N, H, W]`; values that are not a class (255) are left out, see
            `wbc_jax.metrics.boundary`.
        prediction: integer `[N, H, W]`.
        num_classes: C, at most 254.
        max_points: static; capacity for the points of one boundary, the rest is cut off
            (`boundary_matches` counts them). None: capacity for every pixel.

    Returns:
        int32 `[N, C, 2, max_points]` in pixels²: from true points to the predicted boundary, and
        from predicted points to the true one; −1 past the last point, and where the class is absent
        on either side.
    """
    _, height, width = truth.shape
    boundary = boundary_bits(truth, prediction, num_classes)
    y, x, valid = _points(boundary, max_points or height * width)
    other = boundary[::-1]
    valid &= (other != 0).any((-2, -1))[..., None]
    columns = _column_distances(other, height).reshape(*other.shape[:-2], -1)

    def at(x):
        inside = (x >= 0) & (x < width)
        found = jnp.take_along_axis(columns, y * width + jnp.clip(x, 0, width - 1), axis=-1)
        return jnp.where(inside, found, height + width)

    def farther(state):
        step, best = state
        return (step < width) & jnp.any(valid & (step * step < best))

    def widen(state):
        step, best = state
        nearest = jnp.minimum(at(x - step), at(x + step))
        return step + 1, jnp.minimum(best, nearest * nearest + step * step)

    start = at(x)
    _, best = lax.while_loop(farther, widen, (jnp.int32(1), start * start))
    return jnp.moveaxis(jnp.where(valid, best, -1), 0, 2)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class SurfaceDistances:
    """Distances between boundaries, in pixels (multiply by µm per pixel for µm).

    Attributes:
        hausdorff_95_px: float64 `[N, C]`, the larger of the two 95th percentiles (linear between
            points) of the distances from the true to the predicted boundary and back.
        average_px: float64 `[N, C]`, mean distance over the points of both boundaries.
        in_truth, in_prediction: bool `[N, C]`, whether the mask has a pixel of the class.

    Both distances are NaN where a class is absent in truth, prediction or both. A mean that leaves
    NaN out falls when a network misses the difficult cells: state `images`, `missed` and `added`
    beside it.
    """

    hausdorff_95_px: np.ndarray
    average_px: np.ndarray
    in_truth: np.ndarray
    in_prediction: np.ndarray

    @property
    def images(self) -> np.ndarray:
        """Number of images with a distance, int64 `[C]`."""
        return (self.in_truth & self.in_prediction).sum(0)

    @property
    def missed(self) -> np.ndarray:
        """Number of images with the class in the truth alone, int64 `[C]`."""
        return (self.in_truth & ~self.in_prediction).sum(0)

    @property
    def added(self) -> np.ndarray:
        """Number of images with the class in the prediction alone, int64 `[C]`."""
        return (~self.in_truth & self.in_prediction).sum(0)


def surface_distances(truth, prediction, num_classes: int) -> SurfaceDistances:
    """Returns Hausdorff-95 and average surface distance of each image and class.

    Args:
        truth: integer `[N, H, W]`; 255 is left out.
        prediction: integer `[N, H, W]`.
        num_classes: C.

    Raises:
        ValueError: the shapes differ, or a class is not below `num_classes`.
    """
    truth, prediction = check_masks(truth, prediction, num_classes)
    hausdorff = np.full((len(truth), num_classes), np.nan)
    average = hausdorff.copy()
    points = bf_counts(truth, prediction, num_classes, tolerance_px=0)[..., [1, 3]]
    for chunk in chunks(truth.shape, _CALL_PX):
        # A power of two, so that few sizes are compiled.
        capacity = 1 << max(7, int(points[chunk].max() - 1).bit_length())
        squared = boundary_distances(truth[chunk], prediction[chunk], num_classes, capacity)
        distances = np.sort(np.asarray(squared), axis=-1)
        number = (distances >= 0).sum(-1)
        distances = np.sqrt(np.maximum(distances, 0, dtype=np.float64))
        average[chunk] = ratio(distances.sum((-2, -1)), number.sum(-1))
        hausdorff[chunk] = _percentile_95(distances, number).max(-1)
    return SurfaceDistances(hausdorff, average, points[..., 0] > 0, points[..., 1] > 0)


def _percentile_95(ascending: np.ndarray, number: np.ndarray) -> np.ndarray:
    """Returns the 95th percentile of the last `number` values of each row; NaN where it is 0."""
    place = 0.95 * np.maximum(number - 1, 0)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, np.maximum(number - 1, 0))
    first = ascending.shape[-1] - np.maximum(number, 1)
    low, high = (
        np.take_along_axis(ascending, (first + i)[..., None], axis=-1)[..., 0]
        for i in (below, above)
    )
    return np.where(number > 0, low + (place - below) * (high - low), np.nan)


def _points(words: jax.Array, number: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns rows, columns (int32) and validity (bool) of the first set bits, `[..., number]`.

    The words are those of `boundary_bits`: 32 rows of a column, the topmost in the lowest bit.
    """
    width = words.shape[-1]
    flat = words.reshape(-1, words.shape[-2] * width)
    counts = bits.count(flat)
    ends = jnp.cumsum(counts, axis=-1)
    wanted = jnp.arange(number, dtype=jnp.int32)[None]
    index = jax.vmap(lambda e: jnp.searchsorted(e, wanted[0], side="right"))(ends)
    index = jnp.minimum(index, flat.shape[-1] - 1).astype(jnp.int32)
    word, count, end = (jnp.take_along_axis(a, index, axis=-1) for a in (flat, counts, ends))
    rank = wanted - (end - count)
    bit = jnp.zeros_like(rank)
    for step in (16, 8, 4, 2, 1):
        low = bits.count(word & (1 << step) - 1)
        higher = rank >= low
        rank = jnp.where(higher, rank - low, rank)
        word = jnp.where(higher, word >> step, word)
        bit += jnp.where(higher, step, 0)
    shape = (*words.shape[:-2], number)
    y, x, valid = index // width * bits.WORD + bit, index % width, wanted < ends[:, -1:]
    return y.reshape(shape), x.reshape(shape), valid.reshape(shape)


def _column_distances(words: jax.Array, height: int) -> jax.Array:
    """Returns the rows to the column's nearest set bit, int32 `[..., H, W]`; H + W without any."""
    far = height + words.shape[-1]
    front = (1,) * (words.ndim - 2)
    row = jnp.arange(words.shape[-2], dtype=jnp.int32).reshape(*front, -1, 1) * bits.WORD
    last = row + bits.WORD - 1 - lax.clz(words).astype(jnp.int32)
    last = lax.cummax(jnp.where(words != 0, last, -2 * far), axis=words.ndim - 2)
    first = row + _trailing_zeros(words)
    first = lax.cummin(jnp.where(words != 0, first, 2 * far), words.ndim - 2, reverse=True)
    # `last` and `first` cover the words above and below; the word itself needs its bits up to each
    # row and from each row on.
    last = jnp.concatenate([jnp.full_like(last[..., :1, :], -2 * far), last[..., :-1, :]], -2)
    first = jnp.concatenate([first[..., 1:, :], jnp.full_like(first[..., :1, :], 2 * far)], -2)
    rows = jnp.arange(bits.WORD, dtype=jnp.uint32).reshape(*front, 1, -1, 1)
    words, last, first = (a[..., None, :] for a in (words, last, first))
    y = row[..., None] + rows.astype(jnp.int32)
    up_to, from_on = words << bits.WORD - 1 - rows, words >> rows
    above = jnp.where(up_to != 0, lax.clz(up_to).astype(jnp.int32), y - last)
    below = jnp.where(from_on != 0, _trailing_zeros(from_on), first - y)
    nearest = jnp.minimum(jnp.minimum(above, below), far)
    return nearest.reshape(*nearest.shape[:-3], -1, nearest.shape[-1])[..., :height, :]


def _trailing_zeros(words: jax.Array) -> jax.Array:
    return bits.count((words & -words) - 1)
