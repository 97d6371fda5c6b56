"""Statistics of scores: distribution, comparisons of models, bootstrap intervals.

Scores are one number per image; NaN (undefined for an image) is left out.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import scipy

RESAMPLES = 1000
LEVEL = 0.95
Statistic = Callable[..., np.ndarray | float]
Seed = int | np.random.Generator


@dataclasses.dataclass(frozen=True, slots=True)
class Distribution:
    """Distribution of a score over images.

    Attributes:
        images: number of images with the score.
        mean, standard_deviation, median: standard deviation with N − 1.
        skewness, kurtosis: bias-corrected G₁ and G₂ (excess; 0 for a normal distribution), as SPSS
            prints them. NaN for fewer than 3 and 4 images, or where all scores are equal.
        shapiro_w, shapiro_p: Shapiro–Wilk test of normality. NaN for fewer than 3 images or where
            all scores are equal; p is approximate beyond 5000.
    """

    images: int
    mean: float
    standard_deviation: float
    median: float
    skewness: float
    kurtosis: float
    shapiro_w: float
    shapiro_p: float


def distribution(values) -> Distribution:
    """Describes scores float `[N]`, as paper B does before it chooses a test."""
    values = _known(values)
    n, spread = len(values), bool(len(values)) and np.ptp(values) > 0
    nan = float("nan")
    with np.errstate(all="ignore"):
        w, p = scipy.stats.shapiro(values) if n >= 3 and spread else (nan, nan)
        skewness = scipy.stats.skew(values, bias=False) if n >= 3 and spread else nan
        kurtosis = scipy.stats.kurtosis(values, bias=False) if n >= 4 and spread else nan
    return Distribution(
        n,
        float(values.mean()) if n else nan,
        float(values.std(ddof=1)) if n > 1 else nan,
        float(np.median(values)) if n else nan,
        float(skewness),
        float(kurtosis),
        float(w),
        float(p),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """Mann–Whitney U test of two groups.

    Attributes:
        first, second: names of the groups.
        u: statistic of the first group.
        p: two-sided, by the normal approximation with ties and without continuity correction, as
            SPSS prints it ("Asymp. Sig."). Not corrected for the number of pairs.
        p_bonferroni: `p` times the number of pairs, at most 1.
        significant: all groups differ (Kruskal–Wallis) and `p` is below the corrected level.
    """

    first: str
    second: str
    u: float
    p: float
    p_bonferroni: float
    significant: bool


@dataclasses.dataclass(frozen=True, slots=True)
class GroupComparison:
    """Kruskal–Wallis test of several groups, and of each pair of them.

    Attributes:
        h, p: Kruskal–Wallis; NaN where all values are equal.
        level: significance level corrected for the pairs: 0.05 / 3 = 0.017 for three networks.
        pairs: in the order of the groups.
    """

    h: float
    p: float
    level: float
    pairs: tuple[Pair, ...]


def compare_groups(groups: Mapping[str, np.ndarray], level: float = 0.05) -> GroupComparison:
    """Compares models by their scores, as paper B's Tables 10 and 12.

    Paper B: Kruskal–Wallis H; where it is significant, Mann–Whitney U of each pair at a level
    divided by the number of pairs (Bonferroni). These tests assume independent groups. Scores of
    the same images are paired: there `compare_pairs` detects differences that these tests miss.

    Args:
        groups: {name: float `[N]`}; sizes may differ.
        level: level of significance, before correction.

    Raises:
        ValueError: fewer than two groups, or one without a value.
    """
    known = {name: _known(values) for name, values in groups.items()}
    empty = [name for name, values in known.items() if not len(values)]
    if len(known) < 2 or empty:
        raise ValueError(
            f"groups are {list(known)}, empty are {empty}; give two or more, each with a value."
        )
    spread = np.ptp(np.concatenate(list(known.values()))) > 0
    h, p = scipy.stats.kruskal(*known.values()) if spread else (np.nan, np.nan)
    names = list(itertools.combinations(known, 2))
    corrected = level / len(names)
    pairs = []
    for first, second in names:
        a, b = known[first], known[second]
        equal = np.ptp(np.concatenate([a, b])) == 0
        u, pair_p = (len(a) * len(b) / 2, 1.0) if equal else _mann_whitney(a, b)
        significant = bool(p < level and pair_p < corrected)
        pairs.append(
            Pair(first, second, float(u), float(pair_p), min(1.0, pair_p * len(names)), significant)
        )
    return GroupComparison(float(h), float(p), corrected, tuple(pairs))


@dataclasses.dataclass(frozen=True, slots=True)
class PairedComparison:
    """Difference, first − second, between two runs' scores of the same images.

    Attributes:
        images: number of images with both scores.
        mean, median: mean and median difference.
        interval: bootstrap interval, by image, of the mean difference.
        wilcoxon, p: Wilcoxon signed-rank test, two-sided, without images of equal scores; p is 1
            where no image differs.
    """

    images: int
    mean: float
    median: float
    interval: tuple[float, float]
    wilcoxon: float
    p: float


def compare_pairs(
    first, second, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> PairedComparison:
    """Compares two runs image by image.

    Args:
        first, second: float `[N]`, scores of the same images in the same order.
        resamples, level, seed: as in `bootstrap_interval`.

    Raises:
        ValueError: the lengths differ.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if first.shape != second.shape or first.ndim != 1:
        raise ValueError(
            f"the scores have shapes {first.shape} and {second.shape}; both must be [N], of the "
            "same images in the same order."
        )
    difference = _known(first - second)
    if not len(difference):
        nan = float("nan")
        return PairedComparison(0, nan, nan, (nan, nan), nan, nan)
    moved = difference[difference != 0]
    statistic, p = scipy.stats.wilcoxon(moved) if len(moved) else (0.0, 1.0)
    low, high = bootstrap_interval(np.mean, difference, resamples=resamples, level=level, seed=seed)
    return PairedComparison(
        len(difference),
        float(difference.mean()),
        float(np.median(difference)),
        (float(low), float(high)),
        float(statistic),
        float(p),
    )


def holm(p) -> np.ndarray:
    """Returns p values corrected for multiple tests (Holm 1979), each at most 1.

    The k-th smallest of m is multiplied by m − k + 1, and is at least the corrected value before.
    Holm's correction controls the same error rate as Bonferroni's, and rejects at least as often.

    Args:
        p: float `[M]`; NaN (no test was made) stays NaN and is not counted.

    Raises:
        ValueError: a p is not in [0, 1].
    """
    p = np.asarray(p, np.float64)
    known = np.flatnonzero(~np.isnan(p))
    if p.ndim != 1 or (p[known] < 0).any() or (p[known] > 1).any():
        raise ValueError(f"p is {p}; it must be [M] of numbers in [0, 1] or NaN.")
    order = known[np.argsort(p[known], kind="stable")]
    found = np.full(len(p), np.nan)
    factors = np.arange(len(order), 0, -1)
    found[order] = np.minimum(1, np.maximum.accumulate(factors * p[order]))
    return found


def resampled_sums(per_image, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Sums over images drawn with replacement.

    Args:
        per_image: numbers `[N, ...]`, such as confusion matrices or `bf_counts`.
        resamples: R.
        seed: seed of the draws; the same seed draws the same images for the same N.

    Returns:
        float64 `[R, ...]`, each the sum over N draws.
    """
    per_image = np.asarray(per_image, np.float64)
    n = len(per_image)
    # One resample at a time, so that a large set does not need R × N numbers.
    drawn = (np.bincount(index, minlength=n) for index in _draw_indices(n, resamples, seed))
    sums = np.array([sum_drawn(per_image, times) for times in drawn])
    return sums.reshape(resamples, *per_image.shape[1:])


def draw_images(images: int, resamples: int, seed: Seed = 0) -> np.ndarray:
    """Draws N of N images with replacement, R times, for several sums over the same draws.

    `resampled_sums` and `bootstrap_interval` draw other images from the same seed: they draw
    indices, since not every statistic follows from counts. Published intervals rest on both.

    Returns:
        int64 `[R, N]`, the number of times that each image is drawn.
    """
    return np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), resamples)


def sum_drawn(per_image, drawn: np.ndarray) -> np.ndarray:
    """Sums numbers `[N, ...]` over drawn images, int `[..., N]`: float64 `[..., ...]`."""
    per_image = np.asarray(per_image, np.float64)
    flat = per_image.reshape(len(per_image), math.prod(per_image.shape[1:]))
    return (drawn @ flat).reshape(drawn.shape[:-1] + per_image.shape[1:])


def bootstrap_sums(
    statistic: Statistic, per_image, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> np.ndarray:
    """Returns the percentile interval, by image, of a statistic of sums over images (Efron 1979).

    Fast for the metrics of a confusion matrix: `bootstrap_sums(metrics.mean_iou, matrices)`.

    Args:
        statistic: `[R, ...]` → `[R, ...]`.
        per_image: numbers `[N, ...]`.
        resamples, level, seed: as in `resampled_sums` and `interval`.

    Returns:
        float64 `[2, ...]`: lower and upper end.
    """
    return interval(statistic(resampled_sums(per_image, resamples, seed)), level)


def bootstrap_sums_difference(
    statistic: Statistic,
    first,
    second,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> np.ndarray:
    """Returns the percentile interval of `statistic(first) − statistic(second)` of two runs.

    The comparison is paired: the same images are drawn for both runs. Arguments and result as in
    `bootstrap_sums`.

    Raises:
        ValueError: the numbers of images differ.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} images; both runs must have the same.")
    sums = (resampled_sums(per_image, resamples, seed) for per_image in (first, second))
    return interval(np.subtract(*map(statistic, sums)), level)


def bootstrap_interval(
    statistic: Statistic,
    *data,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: Seed = 0,
) -> np.ndarray:
    """Returns the percentile interval, by image, of any statistic, such as a median or an AUROC.

    Args:
        statistic: function of as many arrays as `data`, returns a number or an array.
        data: arrays `[N, ...]`; the same images are drawn from each.
        resamples, level: as in `resampled_sums` and `interval`.
        seed: seed of the draws, or a generator, which moves on.

    Returns:
        float64 `[2, ...]`: lower and upper end.

    Raises:
        ValueError: the arrays differ in length, or are empty.
    """
    data = [np.asarray(array) for array in data]
    lengths = {len(array) for array in data}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"the arrays have lengths {sorted(lengths)}; give one length above 0.")
    draws = _draw_indices(lengths.pop(), resamples, seed)
    return interval(np.array([statistic(*(a[index] for a in data)) for index in draws]), level)


def proportion(count: int, total: int) -> dict[str, Any]:
    """Returns `value` = count / total with its 95 % Wilson `interval` (1927); NaN if `total` is 0.

    Raises:
        ValueError: the count is negative, or above the total.
    """
    if not 0 <= count <= total:
        raise ValueError(f"count is {count} of {total}; it must be from 0 to {total}.")
    if not total:
        return {"value": math.nan, "interval": [math.nan, math.nan]}
    found = scipy.stats.binomtest(count, total).proportion_ci(LEVEL, method="wilson")
    return {"value": count / total, "interval": [float(found.low), float(found.high)]}


def interval(samples, level: float = LEVEL) -> np.ndarray:
    """Returns the ends of the central share `level` of bootstrap samples `[R, ...]`, `[2, ...]`.

    Samples that are NaN (no image with the class was drawn) are left out; NaN where all are.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must be between 0 and 1.")
    samples = np.asarray(samples, np.float64)
    ends = 50 - 50 * level, 50 + 50 * level  # 100 * (1 - 0.95) / 2 is not exactly 2.5
    flat = samples.reshape(len(samples), math.prod(samples.shape[1:]))
    found = [
        np.percentile(known, ends) if len(known) else np.full(2, np.nan)
        for known in (column[~np.isnan(column)] for column in flat.T)
    ]
    return np.array(found).reshape(-1, 2).T.reshape(2, *samples.shape[1:])


def _draw_indices(n: int, resamples: int, seed: Seed) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    return (rng.integers(0, max(n, 1), n) for _ in range(resamples))


def _mann_whitney(a, b) -> tuple[float, float]:
    return scipy.stats.mannwhitneyu(a, b, method="asymptotic", use_continuity=False)


def _known(values) -> np.ndarray:
    values = np.asarray(values, np.float64).ravel()
    return values[~np.isnan(values)]
