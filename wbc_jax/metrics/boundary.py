"""How well boundaries agree: BF score, Hausdorff distance (95 %) and average surface distance.

The boundary of a class in an image is its mask without the mask's erosion by a 3×3 plus, zeros all
around: pixels on the frame of the image count. Distances are exact Euclidean ones between pixels.
This is MATLAB's `bfscore` as its documentation says and its code behaves.

Pixels of unknown class (255 in the truth) belong to no class in truth and prediction alike, as if
they lay outside the image: what is next to them is boundary in both, so it matches itself. An image
that is 255 all over has no score.

The counting runs under jit, on any device, over a batch that may be sharded along its first axis.
Masks are packed to one bit a pixel, 32 rows of a column to a word: a shift, an "and", an "or" of a
word moves or compares 32 pixels of one class.

How others differ:

- DeepMind's `surface-distance` draws contours between pixels and weighs their parts by length,
  matches at distances ≤ tolerance, divides all matches by all contour ("surface Dice") where the BF
  score is the harmonic mean of precision and recall, and gives 0 where one mask is empty.
- MONAI's `compute_surface_dice` has the same boundary pixels and distances, but matches at ≤, pools
  the two directions as well, gives 0 for a class absent on one side, and leaves out the background
  unless asked. Where precision equals recall and no distance equals the tolerance, its number is
  ours. Its `compute_hausdorff_distance(percentile=95)` and
  `compute_average_surface_distance(symmetric=True)` are ours where both masks have the class.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from wbc_jax.metrics import bits
from wbc_jax.metrics.confusion import _nanmean, _ratio, check_masks, parts

TOLERANCE_RATIO = 0.0075
"""MATLAB's default tolerance, as a share of the diagonal of the image."""

# Pixels that one call works on: bounds the memory that a large set of masks takes.
_MATCH_PX, _DISTANCE_PX = 2**26, 2**21


def tolerance(height: int, width: int, ratio: float = TOLERANCE_RATIO) -> float:
    """Returns the tolerance in pixels: `ratio` times the diagonal of the image."""
    return ratio * math.hypot(height, width)


@functools.partial(jax.jit, static_argnames=("num_classes", "tolerance_px"))
def boundary_matches(
    truth: jax.Array, prediction: jax.Array, num_classes: int, tolerance_px: float
) -> jax.Array:
    """Counts boundary points, and those strictly nearer than the tolerance to the other boundary.

    Args:
        truth: integer `[N, H, W]`, H below 2^16; what is no class (255) is left out, see the
            module's docstring.
        prediction: integer `[N, H, W]`.
        num_classes: C, at most 254.
        tolerance_px: static; a point matches at distances below it.

    Returns:
        int32 `[N, C, 4]`: true points that match, true points, predicted points that match,
        predicted points. Sums over images are counts too.
    """
    boundary = _boundary_bits(truth, prediction, num_classes)
    near = _dilate(boundary, tolerance_px, truth.shape[1])
    matched, points = _count_pairs(boundary & near[::-1], boundary)
    return jnp.stack([matched[0], points[0], matched[1], points[1]], axis=-1)


def bf_counts(
    truth,
    prediction,
    num_classes: int,
    tolerance_ratio: float = TOLERANCE_RATIO,
    tolerance_px: float | None = None,
) -> np.ndarray:
    """Counts what the BF score is made of; `boundary_matches` for NumPy masks, checked.

    Args:
        truth: integer `[N, H, W]`; 255 is left out.
        prediction: integer `[N, H, W]`.
        num_classes: C.
        tolerance_ratio: tolerance as a share of the diagonal √(H² + W²).
        tolerance_px: tolerance in pixels instead.

    Returns:
        int64 `[N, C, 4]`: true points that match, true points, predicted points that match,
        predicted points.

    Raises:
        ValueError: the shapes differ, a class is not below `num_classes`, or the tolerance is
            negative or NaN.
    """
    truth, prediction = check_masks(truth, prediction, num_classes)
    n, height, width = truth.shape
    if tolerance_px is None:
        tolerance_px = tolerance(height, width, tolerance_ratio)
    if not tolerance_px >= 0:
        raise ValueError(f"the tolerance is {tolerance_px} pixels; it must be 0 or more.")
    counts = np.zeros((n, num_classes, 4), np.int64)
    for part in parts(truth.shape, _MATCH_PX):
        counts[part] = boundary_matches(
            truth[part], prediction[part], num_classes, float(tolerance_px)
        )
    return counts


def bf_from_counts(counts) -> np.ndarray:
    """Returns the BF score of counts `[..., 4]` (as `bf_counts` gives them), float64 `[...]`.

    2 P R / (P + R), P the share of predicted and R of true boundary points that match; 0 where none
    does; NaN where a boundary is absent in truth, prediction or both.
    """
    true_matched, true, matched, predicted = np.moveaxis(np.asarray(counts, np.float64), -1, 0)
    recall, precision = _ratio(true_matched, true), _ratio(matched, predicted)
    both = recall + precision
    return np.where(both == 0, 0, 2 * _ratio(precision * recall, both))


def bf_score(
    truth,
    prediction,
    num_classes: int,
    tolerance_ratio: float = TOLERANCE_RATIO,
    tolerance_px: float | None = None,
) -> np.ndarray:
    """Boundary F1 score of each image and class (Csurka et al. 2013; MATLAB's `bfscore`).

    The score depends on the size at which it is taken: say it beside the number. Arguments and
    errors as in `bf_counts`.

    Returns:
        float64 `[N, C]`; NaN where a class is absent in truth, prediction or both.
    """
    counts = bf_counts(truth, prediction, num_classes, tolerance_ratio, tolerance_px)
    return bf_from_counts(counts)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class BFTotals:
    """BF scores of a set of images, as sums: those of two sets add up with `+`.

    A class absent on one side has no score, so that a network which predicts nothing raises the
    mean. `one_sided` says how often, and the means `…_absent_as_zero` count it as 0.

    Attributes:
        class_sum: float64 `[C]`, sum of the scores of each class.
        class_images: int64 `[C]`, images with such a score.
        one_sided: int64 `[C]`, images with the class in truth or prediction, not both.
        image_sum: float64 `[]`, sum over images of the mean over classes with a score.
        images: int64 `[]`, images with such a mean.
        image_sum_absent_as_zero, images_absent_as_zero: the same, one-sided absences being 0.
    """

    class_sum: np.ndarray
    class_images: np.ndarray
    one_sided: np.ndarray
    image_sum: np.ndarray
    images: np.ndarray
    image_sum_absent_as_zero: np.ndarray
    images_absent_as_zero: np.ndarray

    @classmethod
    def from_counts(cls, counts) -> "BFTotals":
        """Returns the totals of images from integer `[N, C, 4]`, as `bf_counts` gives them."""
        scores, zeroed, one_sided = bf_per_image(counts)
        means, means_zeroed = _nanmean(scores), _nanmean(zeroed)
        return cls(
            np.nansum(scores, 0),
            np.sum(~np.isnan(scores), 0),
            one_sided.sum(0),
            np.asarray(np.nansum(means)),
            np.asarray(np.sum(~np.isnan(means))),
            np.asarray(np.nansum(means_zeroed)),
            np.asarray(np.sum(~np.isnan(means_zeroed))),
        )

    def __add__(self, other: "BFTotals") -> "BFTotals":
        return BFTotals(
            *(
                getattr(self, field.name) + getattr(other, field.name)
                for field in dataclasses.fields(self)
            )
        )

    @property
    def class_means(self) -> np.ndarray:
        """Mean score of each class over the images that have one, float64 `[C]`."""
        return _ratio(self.class_sum, self.class_images)

    @property
    def class_means_absent_as_zero(self) -> np.ndarray:
        """The same with 0 for each one-sided absence, float64 `[C]`."""
        return _ratio(self.class_sum, self.class_images + self.one_sided)

    @property
    def mean(self) -> float:
        """The data set's score: mean over images of each one's mean over classes."""
        return float(_ratio(self.image_sum, self.images))

    @property
    def mean_absent_as_zero(self) -> float:
        """The same with 0 for each one-sided absence."""
        return float(_ratio(self.image_sum_absent_as_zero, self.images_absent_as_zero))


def bf_per_image(counts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Splits counts into scores with and without regard to absence.

    Args:
        counts: integer `[..., C, 4]`, as `bf_counts` gives them.

    Returns:
        float64 `[..., C]` scores, NaN where the class is absent on a side; the same with 0 where it
        is absent on one side only; bool `[..., C]`, where that is so.
    """
    counts = np.asarray(counts)
    scores = bf_from_counts(counts)
    one_sided = (counts[..., 1] > 0) != (counts[..., 3] > 0)
    return scores, np.where(one_sided, 0, scores), one_sided


@functools.partial(jax.jit, static_argnames=("num_classes", "max_points"))
def boundary_distances(
    truth: jax.Array, prediction: jax.Array, num_classes: int, max_points: int | None = None
) -> jax.Array:
    """Squared distance of every boundary point to the nearest point of the other boundary.

    Exact: first along columns, from the packed bits; then along rows, outwards from each point
    until no column farther away can hold a nearer one.

    Args:
        truth: integer `[N, H, W]`; what is no class (255) is left out, see the module's docstring.
        prediction: integer `[N, H, W]`.
        num_classes: C, at most 254.
        max_points: static; room for the points of one boundary. More than that are cut off;
            `boundary_matches` counts them. None: room for every pixel.

    Returns:
        int32 `[N, C, 2, max_points]` in pixels²: of true points to the predicted boundary, and of
        predicted points to the true one; −1 past the last point, and where the class is absent on
        a side.
    """
    _, height, width = truth.shape
    boundary = _boundary_bits(truth, prediction, num_classes)
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
    """Distances between boundaries, in pixels; times µm per pixel they are in µm.

    Attributes:
        hausdorff_95_px: float64 `[N, C]`, the larger of the 95th percentiles (linear between
            points) of the distances from true to predicted boundary and back.
        average_px: float64 `[N, C]`, mean distance over the points of both boundaries.

    Both are NaN where a class is absent in truth, prediction or both.
    """

    hausdorff_95_px: np.ndarray
    average_px: np.ndarray


def surface_distances(truth, prediction, num_classes: int) -> SurfaceDistances:
    """Returns Hausdorff-95 and average surface distance of each image and class.

    Args:
        truth: integer `[N, H, W]`; 255 is left out, see the module's docstring.
        prediction: integer `[N, H, W]`.
        num_classes: C.

    Raises:
        ValueError: the shapes differ, or a class is not below `num_classes`.
    """
    truth, prediction = check_masks(truth, prediction, num_classes)
    hausdorff = np.full((len(truth), num_classes), np.nan)
    average = hausdorff.copy()
    points = bf_counts(truth, prediction, num_classes, tolerance_px=0)[..., [1, 3]]
    for part in parts(truth.shape, _DISTANCE_PX):
        # A power of two, so that few sizes are ever compiled.
        room = 1 << max(7, int(points[part].max() - 1).bit_length())
        squared = boundary_distances(truth[part], prediction[part], num_classes, room)
        distances = np.sort(np.asarray(squared), axis=-1)
        number = (distances >= 0).sum(-1)
        distances = np.sqrt(np.maximum(distances, 0, dtype=np.float64))
        average[part] = _ratio(distances.sum((-2, -1)), number.sum(-1))
        hausdorff[part] = _percentile_95(distances, number).max(-1)
    return SurfaceDistances(hausdorff, average)


def _percentile_95(ascending: np.ndarray, number: np.ndarray) -> np.ndarray:
    """The 95th percentile of the last `number` of each row; NaN where that is none."""
    place = 0.95 * np.maximum(number - 1, 0)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, np.maximum(number - 1, 0))
    first = ascending.shape[-1] - np.maximum(number, 1)
    low, high = (
        np.take_along_axis(ascending, (first + i)[..., None], axis=-1)[..., 0]
        for i in (below, above)
    )
    return np.where(number > 0, low + (place - below) * (high - low), np.nan)


# Below, a word is 32 rows of a column, the topmost in its lowest bit: `[..., ⌈H / 32⌉, W]`.


def _boundary_bits(truth: jax.Array, prediction: jax.Array, num_classes: int) -> jax.Array:
    """Returns the boundaries of truth and prediction, uint32 `[2, N, C, ⌈H / 32⌉, W]`."""
    n, height, width = truth.shape
    codes = jnp.stack([bits.codes(mask, num_classes) for mask in (truth, prediction)])
    words = -(-height // bits.WORD)
    below = ((0, 0), (0, 0), (0, words * bits.WORD - height), (0, 0))
    codes = jnp.pad(codes, below, constant_values=num_classes)
    masks = bits.class_bits(codes.reshape(2, n, words, bits.WORD, width), num_classes)
    masks = jnp.moveaxis(masks, 0, 2)
    masks &= functools.reduce(jnp.bitwise_or, [masks[0, :, c] for c in range(num_classes)])[:, None]
    beside = [(0, 0)] * (masks.ndim - 1) + [(1, 1)]
    wide = jnp.pad(masks, beside)
    return masks & ~(_down(masks) & _up(masks) & wide[..., :-2] & wide[..., 2:])


def _down(words: jax.Array) -> jax.Array:
    """Moves every bit one row down."""
    return words << 1 | _neighbour(words, 1) >> bits.WORD - 1


def _up(words: jax.Array) -> jax.Array:
    """Moves every bit one row up."""
    return words >> 1 | _neighbour(words, -1) << bits.WORD - 1


def _neighbour(words: jax.Array, by: int) -> jax.Array:
    edge = jnp.zeros_like(words[..., :1, :])
    if by > 0:
        return jnp.concatenate([edge, words[..., :-1, :]], axis=-2)
    return jnp.concatenate([words[..., 1:, :], edge], axis=-2)


def _dilate(words: jax.Array, radius: float, height: int) -> jax.Array:
    """Sets every bit at a distance below `radius` from a set one."""
    width = words.shape[-1]
    reach = _half_heights(min(radius, math.hypot(height, width) + 1))[:width]
    if not len(reach):
        return jnp.zeros_like(words)
    # Columns from the rim of the disc inwards: the runs only grow, so each begins where the one
    # before ended. Loops, where unrolled shifts would be fused and computed again for each user.
    margin = len(reach) - 1
    growth = jnp.asarray(np.diff(reach[::-1], prepend=0), jnp.int32)
    wide = jnp.pad(words, [(0, 0)] * (words.ndim - 1) + [(margin, margin)])

    def add_columns(i, state):
        runs, near = state
        runs = lax.fori_loop(0, growth[i], lambda _, r: r | _down(r) | _up(r), runs)
        for start in (i, 2 * margin - i):
            near |= lax.dynamic_slice_in_dim(runs, start, width, axis=-1)
        return runs, near

    return lax.fori_loop(0, margin + 1, add_columns, (wide, jnp.zeros_like(words)))[1]


def _half_heights(radius: float) -> np.ndarray:
    """How many rows up and down the open disc reaches, int `[⌈radius⌉]`, by column from 0."""
    steps = np.arange(math.ceil(radius))
    # The root, as of a distance transform, not its square: the two can differ by a rounding.
    return (np.sqrt(steps[:, None] ** 2 + steps**2) < radius).sum(1) - 1


def _count_pairs(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Counts the set bits of two arrays over the last two axes, int32."""
    # Both counts of a column in one word: a column has fewer than 2^16 rows.
    both = lax.population_count(a) << 16 | lax.population_count(b)
    both = both.sum(-2, dtype=jnp.uint32)
    return tuple(half.astype(jnp.int32).sum(-1) for half in (both >> 16, both & 0xFFFF))


def _points(words: jax.Array, number: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns rows, columns (int32) and validity (bool) of the first set bits, `[..., number]`."""
    width = words.shape[-1]
    flat = words.reshape(-1, words.shape[-2] * width)
    counts = bits.count(flat)
    ends = jnp.cumsum(counts, axis=-1)
    wanted = jnp.arange(number, dtype=jnp.int32)
    index = jax.vmap(lambda e: jnp.searchsorted(e, wanted, side="right"))(ends)
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
    """Rows to the nearest set bit of the column, int32 `[..., H, W]`; H + W where there is none."""
    far = height + words.shape[-1]
    row = jnp.arange(words.shape[-2], dtype=jnp.int32)[:, None] * bits.WORD
    last = row + bits.WORD - 1 - lax.clz(words).astype(jnp.int32)
    last = lax.cummax(jnp.where(words != 0, last, -2 * far), axis=words.ndim - 2)
    first = row + _trailing_zeros(words)
    first = lax.cummin(jnp.where(words != 0, first, 2 * far), words.ndim - 2, reverse=True)
    # Of the words above and below; in the word itself, the bits up to and from each row on.
    last = jnp.concatenate([jnp.full_like(last[..., :1, :], -2 * far), last[..., :-1, :]], -2)
    first = jnp.concatenate([first[..., 1:, :], jnp.full_like(first[..., :1, :], 2 * far)], -2)
    rows = jnp.arange(bits.WORD, dtype=jnp.uint32)[:, None]
    words, last, first = (a[..., None, :] for a in (words, last, first))
    y = row[..., None] + rows.astype(jnp.int32)
    up_to, from_on = words << bits.WORD - 1 - rows, words >> rows
    above = jnp.where(up_to != 0, lax.clz(up_to).astype(jnp.int32), y - last)
    below = jnp.where(from_on != 0, _trailing_zeros(from_on), first - y)
    nearest = jnp.minimum(jnp.minimum(above, below), far)
    return nearest.reshape(*nearest.shape[:-3], -1, nearest.shape[-1])[..., :height, :]


def _trailing_zeros(words: jax.Array) -> jax.Array:
    return bits.count((words & -words) - 1)
