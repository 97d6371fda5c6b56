"""Boundary F1 score (BF score).

The boundary of a class in an image is its mask minus the mask's erosion by a 3×3 plus, with zeros
around the image: mask pixels on the image frame are boundary. Distances are exact Euclidean
distances between pixels. This is MATLAB's `bfscore`, by its documentation and its behavior.

Pixels of unknown class (255 in the truth) belong to no class in truth and prediction, as if they
were outside the image: their neighbors are boundary in both, and match. An image that is 255 all
over has no score.

Counting runs under jit, on any device, and the batch may be sharded along its first axis. Masks are
packed to one bit a pixel, 32 rows of a column in a word: one shift, "and" or "or" moves or compares
32 pixels of a class.

Differences from other libraries:

- DeepMind's `surface-distance` draws contours between pixels and weighs their segments by length,
  matches at distances ≤ tolerance, divides all matches by all contour ("surface Dice") where the BF
  score is the harmonic mean of precision and recall, and returns 0 where one mask is empty.
- MONAI's `compute_surface_dice` has the same boundary pixels and distances, but also matches at ≤
  and pools the two directions, returns 0 for a class absent on one side, and leaves out the
  background by default. It returns the same number where precision equals recall and no distance
  equals the tolerance.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from wbc_jax.metrics import bits
from wbc_jax.metrics.checks import check_counts
from wbc_jax.metrics.confusion import check_masks, chunks
from wbc_jax.metrics.ratios import nan_mean, ratio

TOLERANCE_RATIO = 0.0075
"""MATLAB's default tolerance, as a share of the image diagonal."""

# Pixels compared in one call: bounds the memory that a large set of masks takes.
_CALL_PX = 2**26


def tolerance(height: int, width: int, ratio: float = TOLERANCE_RATIO) -> float:
    """Returns the tolerance in pixels: `ratio` times the diagonal of the image."""
    return ratio * math.hypot(height, width)


@functools.partial(jax.jit, static_argnames=("num_classes", "tolerance_px"))
def boundary_matches(
    truth: jax.Array, prediction: jax.Array, num_classes: int, tolerance_px: float
) -> jax.Array:
    """Counts boundary points, and those strictly nearer than the tolerance to the other boundary.

    Args:
        truth: integer `[N, H, W]`, H below 2^16; values that are not a class (255) are left out,
            see the module's docstring.
        prediction: integer `[N, H, W]`.
        num_classes: C, at most 254.
        tolerance_px: static; a point matches at distances below it.

    Returns:
        int32 `[N, C, 4]`: true points that match, true points, predicted points that match,
        predicted points. Counts of several images add up.
    """
    boundary = boundary_bits(truth, prediction, num_classes)
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
    """Counts the matches behind the BF score: `boundary_matches` of checked NumPy masks.

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
    for chunk in chunks(truth.shape, _CALL_PX):
        counts[chunk] = boundary_matches(
            truth[chunk], prediction[chunk], num_classes, float(tolerance_px)
        )
    return counts


def bf_from_counts(counts) -> np.ndarray:
    """Returns the BF score of counts `[..., 4]` (from `bf_counts`), float64 `[...]`.

    The score is 2 P R / (P + R), where P is the share of predicted and R the share of true boundary
    points that match. It is 0 where no point matches, and NaN where a boundary is absent in truth,
    prediction or both.

    Raises:
        ValueError: the last axis is not 4, or a count is negative or NaN.
    """
    counts = check_counts("boundary counts", counts, (4,))
    true_matched, true, matched, predicted = np.moveaxis(counts, -1, 0)
    recall, precision = ratio(true_matched, true), ratio(matched, predicted)
    both = recall + precision
    return np.where(both == 0, 0, 2 * ratio(precision * recall, both))


def bf_score(
    truth,
    prediction,
    num_classes: int,
    tolerance_ratio: float = TOLERANCE_RATIO,
    tolerance_px: float | None = None,
) -> np.ndarray:
    """Returns the boundary F1 score of each image and class (Csurka et al. 2013; MATLAB `bfscore`).

    The score depends on the image size: state the size beside the number. Arguments and errors as
    in `bf_counts`.

    Returns:
        float64 `[N, C]`; NaN where a class is absent in truth, prediction or both.
    """
    counts = bf_counts(truth, prediction, num_classes, tolerance_ratio, tolerance_px)
    return bf_from_counts(counts)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class BFTotals:
    """BF scores of a set of images, as sums; `+` adds those of two sets.

    A class that only the truth has (a miss) or only the prediction has counts as 0 in the means
    `…_absent_as_zero`, which reports show first. MATLAB's `bfscore` gives it no score: the plain
    means, which are MATLAB's, leave it out, so that a network that predicts nothing raises them.
    `one_sided` counts these cases. A class that neither has is in no mean.

    Attributes:
        class_sum: float64 `[C]`, sum of the scores of each class.
        class_images: int64 `[C]`, images with such a score.
        one_sided: int64 `[C]`, images with the class in either truth or prediction, not in both.
        one_sided_images: int64 `[]`, images with any such class: of these, `mean` leaves out a
            class.
        image_sum: float64 `[]`, sum over images of the mean over classes with a score.
        images: int64 `[]`, images with such a mean.
        image_sum_absent_as_zero, images_absent_as_zero: the same with one-sided absences scored 0.
    """

    class_sum: np.ndarray
    class_images: np.ndarray
    one_sided: np.ndarray
    one_sided_images: np.ndarray
    image_sum: np.ndarray
    images: np.ndarray
    image_sum_absent_as_zero: np.ndarray
    images_absent_as_zero: np.ndarray

    @classmethod
    def from_counts(cls, counts) -> "BFTotals":
        """Returns the totals of integer `[N, C, 4]` counts, as `bf_counts` returns them."""
        scores, zeroed, one_sided = bf_per_image(counts)
        means, means_zeroed = nan_mean(scores), nan_mean(zeroed)
        return cls(
            np.nansum(scores, 0),
            np.sum(~np.isnan(scores), 0),
            one_sided.sum(0),
            np.asarray(one_sided.any(-1).sum()),
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
        """Mean score of each class over the images that have one, float64 `[C]`: MATLAB's."""
        return ratio(self.class_sum, self.class_images)

    @property
    def class_means_absent_as_zero(self) -> np.ndarray:
        """Mean score of each class with one-sided absences scored 0, float64 `[C]`."""
        return ratio(self.class_sum, self.class_images + self.one_sided)

    @property
    def mean(self) -> float:
        """MATLAB's score of the set: mean over images of the mean over classes with a score."""
        return float(ratio(self.image_sum, self.images))

    @property
    def mean_absent_as_zero(self) -> float:
        """Score of the set: the same with one-sided absences scored 0."""
        return float(ratio(self.image_sum_absent_as_zero, self.images_absent_as_zero))


def bf_per_image(counts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the scores of each image, ignoring and penalizing absent classes.

    Args:
        counts: integer `[..., C, 4]`, as `bf_counts` returns them.

    Returns:
        Scores float64 `[..., C]`, NaN where the class is absent on either side; the same with 0
        where it is absent on exactly one side; bool `[..., C]`, true where it is.
    """
    counts = np.asarray(counts)
    scores = bf_from_counts(counts)
    one_sided = (counts[..., 1] > 0) != (counts[..., 3] > 0)
    return scores, np.where(one_sided, 0, scores), one_sided


# From here on a word is 32 rows of a column, the topmost in its lowest bit: `[..., ⌈H / 32⌉, W]`.


def boundary_bits(truth: jax.Array, prediction: jax.Array, num_classes: int) -> jax.Array:
    """Returns the boundaries of truth and prediction, uint32 `[2, N, C, ⌈H / 32⌉, W]`."""
    n, height, width = truth.shape
    codes = jnp.stack([bits.codes(mask, num_classes) for mask in (truth, prediction)])
    words = -(-height // bits.WORD)
    below = ((0, 0), (0, 0), (0, words * bits.WORD - height), (0, 0))
    codes = jnp.pad(codes, below, constant_values=num_classes)
    masks = bits.class_bits(codes.reshape(2, n, words, bits.WORD, width), num_classes)
    masks = jnp.moveaxis(masks, 0, 2)
    known = functools.reduce(jnp.bitwise_or, [masks[0, :, c] for c in range(num_classes)])
    masks &= known[None, :, None]
    beside = [(0, 0)] * (masks.ndim - 1) + [(1, 1)]
    wide = jnp.pad(masks, beside)
    return masks & ~(_down(masks) & _up(masks) & wide[..., :-2] & wide[..., 2:])


def _down(words: jax.Array) -> jax.Array:
    """Moves every bit one row down."""
    return words << 1 | _neighbor(words, 1) >> bits.WORD - 1


def _up(words: jax.Array) -> jax.Array:
    """Moves every bit one row up."""
    return words >> 1 | _neighbor(words, -1) << bits.WORD - 1


def _neighbor(words: jax.Array, by: int) -> jax.Array:
    edge = jnp.zeros_like(words[..., :1, :])
    if by > 0:
        return jnp.concatenate([edge, words[..., :-1, :]], axis=-2)
    return jnp.concatenate([words[..., 1:, :], edge], axis=-2)


def _dilate(words: jax.Array, radius: float, height: int) -> jax.Array:
    """Sets every bit at a distance below `radius` from a set bit."""
    width = words.shape[-1]
    reach = _half_heights(min(radius, math.hypot(height, width) + 1))[:width]
    if not len(reach):
        return jnp.zeros_like(words)
    # Columns from the rim of the disc inwards: the vertical runs only grow, so each column starts
    # from the previous one. Loops, because XLA would fuse unrolled shifts and repeat them for each
    # of their users.
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
    """Returns how many rows the open disc reaches up and down, int `[⌈radius⌉]`, by column."""
    steps = np.arange(math.ceil(radius))
    # Compare the root, as a distance transform does, not its square: rounding can tell them apart.
    return (np.sqrt(steps[:, None] ** 2 + steps**2) < radius).sum(1) - 1


def _count_pairs(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Counts the set bits of two arrays over the last two axes, int32."""
    # One word holds both counts of a column, which has fewer than 2^16 rows.
    both = lax.population_count(a) << 16 | lax.population_count(b)
    both = both.sum(-2, dtype=jnp.uint32)
    return tuple(half.astype(jnp.int32).sum(-1) for half in (both >> 16, both & 0xFFFF))
