"""Statistics of scores by image: normality, comparisons of models, intervals.

A score is a number an image; NaN (not defined for that image) is left out.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import scipy

RESAMPLES = 1000
LEVEL = 0.95
Statistic = Callable[..., np.ndarray | float]


@dataclasses.dataclass(frozen=True, slots=True)
class Distribution:
    """How a score is distributed over images.

    Attributes:
        images: how many have the score.
        mean, standard_deviation, median: standard deviation with N − 1.
        skewness, kurtosis: bias-corrected G₁ and G₂ (excess; 0 for a normal distribution), as SPSS
            prints them. NaN for fewer than 3 and 4 images, or where all are alike.
        shapiro_w, shapiro_p: Shapiro–Wilk test of normality. NaN for fewer than 3 images or where
            all are alike; p is rough beyond 5000.
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
    """Describes float `[N]`, as paper B does before it chooses a test."""
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
        u: statistic of the first.
        p: two-sided, by the normal approximation with ties and without continuity correction, as
            SPSS prints it ("Asymp. Sig."). Not corrected for the number of pairs.
        p_bonferroni: `p` times the number of pairs, at most 1.
        significant: whether all groups differ (Kruskal–Wallis) and `p` is below the corrected
            level.
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
        h, p: Kruskal–Wallis; NaN where all values are alike.
        level: corrected for the number of pairs: 0.05 / 3 = 0.017 for three networks.
        pairs: in the order of the groups.
    """

    h: float
    p: float
    level: float
    pairs: tuple[Pair, ...]


def compare_groups(groups: Mapping[str, np.ndarray], level: float = 0.05) -> GroupComparison:
    """Compares models by their scores, as paper B's Tables 10 and 12.

    Paper B: Kruskal–Wallis H; where it is significant, Mann–Whitney U of each pair at a level
    divided by the number of pairs (Bonferroni). These tests are for independent groups. Scores of
    the same images are paired: `compare_pairs` sees differences there that these miss.

    Args:
        groups: {name: float `[N]`}; sizes may differ.
        level: of significance, before correction.

    Raises:
        ValueError: fewer than two groups, or one without a value.
    """
    known = {name: _known(values) for name, values in groups.items()}
    empty = [name for name, values in known.items() if not len(values)]
    if len(known) < 2 or empty:
        raise ValueError(
            f"groups are {list(known)}, of them without a value {empty}; give two or more, each "
            "with a value."
        )
    spread = np.ptp(np.concatenate(list(known.values()))) > 0
    h, p = scipy.stats.kruskal(*known.values()) if spread else (np.nan, np.nan)
    names = list(itertools.combinations(known, 2))
    corrected = level / len(names)
    pairs = []
    for first, second in names:
        a, b = known[first], known[second]
        alike = np.ptp(np.concatenate([a, b])) == 0
        u, pair_p = (len(a) * len(b) / 2, 1.0) if alike else _mann_whitney(a, b)
        significant = bool(p < level and pair_p < corrected)
        pairs.append(
            Pair(first, second, float(u), float(pair_p), min(1.0, pair_p * len(names)), significant)
        )
    return GroupComparison(float(h), float(p), corrected, tuple(pairs))


@dataclasses.dataclass(frozen=True, slots=True)
class PairedComparison:
    """Difference, first − second, of two runs' scores of the same images.

    Attributes:
        images: how many have both scores.
        mean, median: of the differences.
        interval: of the mean, by bootstrap over images.
        wilcoxon, p: Wilcoxon signed-rank test, two-sided, images without a difference left out;
            p is 1 where no image differs.
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
        resamples, level, seed: of the interval.

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
    """p values corrected for being several (Holm 1979), each at most 1.

    The k-th smallest of m is multiplied by m − k + 1, and none may be below a smaller one's. It
    keeps the same promise as Bonferroni's correction, and rejects at least as often.

    Args:
        p: float `[M]`; NaN (no test was made) stays NaN and does not count.

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


@dataclasses.dataclass(frozen=True, slots=True)
class Agreement:
    """Bland and Altman's limits of agreement of measured with true values.

    Attributes:
        images: how many have both values.
        bias: mean difference; of relative differences, that of the geometric mean of measured /
            true from 1, so that 0.05 is "5 % too large" and 0 no bias on either scale.
        limits: lower and upper end of where 95 % of the differences lie, if they are normal.
        bias_interval, lower_interval, upper_interval: of the bias and of each limit.
        spread_trend, spread_p: Spearman's correlation of the differences' distance from their mean
            with the size of what is measured, and its p. Where it is not about 0 the differences
            grow or shrink with size, and one pair of limits does not fit all sizes.
    """

    images: int
    bias: float
    limits: tuple[float, float]
    bias_interval: tuple[float, float]
    lower_interval: tuple[float, float]
    upper_interval: tuple[float, float]
    spread_trend: float
    spread_p: float


def limits_of_agreement(truth, measured, relative: bool = True, level: float = LEVEL) -> Agreement:
    """Describes how measured values differ from true ones (Bland and Altman 1986, 1999).

    Bias and limits are mean and mean ± 1.96 standard deviations (N − 1) of the differences. The
    relative ones are ln(measured / true), written back as measured / true − 1: an area or a ratio
    of areas errs in proportion to its size, and Bland and Altman advise logarithms for that. The
    size of a pair is the mean of both, on the relative scale the geometric one. Intervals are by
    Student's t, with Bland and Altman 1999's variance of a limit, s² (1 / N + 1.96² / (2 (N − 1))).

    Args:
        truth, measured: float `[N]`, of the same images in the same order, in any one unit. Pairs
            with a value that is not finite or, on the relative scale, not above 0 are left out.
        relative: differences in proportion to size; False: in the unit of the values.
        level: of the intervals (the limits are always 95 %).

    Returns:
        NaN in place of what needs more images: spread and intervals 2 of them, the trend 3.

    Raises:
        ValueError: the lengths differ, or `level` is not between 0 and 1.
    """
    truth, measured = np.asarray(truth, np.float64), np.asarray(measured, np.float64)
    if truth.shape != measured.shape or truth.ndim != 1:
        raise ValueError(
            f"true and measured values have shapes {truth.shape} and {measured.shape}; both must "
            "be [N], of the same images in the same order."
        )
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must be between 0 and 1.")
    kept = np.isfinite(truth) & np.isfinite(measured)
    if relative:
        kept &= (truth > 0) & (measured > 0)
    truth, measured = truth[kept], measured[kept]
    if relative:
        truth, measured = np.log(truth), np.log(measured)
    difference, size = measured - truth, (measured + truth) / 2
    n, nan = len(difference), float("nan")
    mean = float(difference.mean()) if n else nan
    spread = float(difference.std(ddof=1)) if n > 1 else nan
    t = float(scipy.stats.t.ppf((1 + level) / 2, n - 1)) if n > 1 else nan
    z = float(scipy.stats.norm.ppf(0.975))
    off = np.abs(difference - mean)
    varied = n > 2 and np.ptp(off) > 0 and np.ptp(size) > 0
    trend, p = scipy.stats.spearmanr(off, size) if varied else (nan, nan)
    half_bias = t * spread / math.sqrt(n) if n else nan
    half_limit = t * spread * math.sqrt(1 / n + z**2 / (2 * (n - 1))) if n > 1 else nan
    write = math.expm1 if relative else float

    def within(middle: float, half: float) -> tuple[float, float]:
        return write(middle - half), write(middle + half)

    return Agreement(
        n,
        write(mean),
        within(mean, z * spread),
        within(mean, half_bias),
        within(mean - z * spread, half_limit),
        within(mean + z * spread, half_limit),
        float(trend),
        float(p),
    )


def resampled_sums(per_image, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Sums over images drawn with replacement.

    Args:
        per_image: numbers `[N, ...]`, such as confusion matrices or `bf_counts`.
        resamples: R.
        seed: of the drawing; the same seed draws the same images for the same N.

    Returns:
        float64 `[R, ...]`, each the sum over N draws.
    """
    per_image = np.asarray(per_image, np.float64)
    n = len(per_image)
    flat = per_image.reshape(n, math.prod(per_image.shape[1:]))
    drawn = (np.bincount(index, minlength=n) for index in _draws(n, resamples, seed))
    sums = np.array([times @ flat for times in drawn])
    return sums.reshape(resamples, *per_image.shape[1:])


def bootstrap_sums(
    statistic: Statistic, per_image, resamples: int = RESAMPLES, level: float = LEVEL, seed: int = 0
) -> np.ndarray:
    """Percentile interval, by image, of a statistic of sums over images (Efron 1979).

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
    """Percentile interval of `statistic(first) − statistic(second)` of two runs, paired by image.

    Both are drawn alike. Arguments and result as in `bootstrap_sums`.

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
    seed: int = 0,
) -> np.ndarray:
    """Percentile interval, by image, of any statistic: a median, an AUROC, a calibration error.

    Args:
        statistic: of as many arrays as `data` has, to a number or an array.
        data: arrays `[N, ...]`, drawn alike.
        resamples, level, seed: as in `resampled_sums` and `interval`.

    Returns:
        float64 `[2, ...]`: lower and upper end.

    Raises:
        ValueError: the arrays' lengths differ, or are 0.
    """
    data = [np.asarray(array) for array in data]
    lengths = {len(array) for array in data}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"the arrays have lengths {sorted(lengths)}; they must be one, above 0.")
    draws = _draws(lengths.pop(), resamples, seed)
    return interval(np.array([statistic(*(a[index] for a in data)) for index in draws]), level)


def interval(samples, level: float = LEVEL) -> np.ndarray:
    """Middle share `level` of bootstrap samples `[R, ...]`: float64 `[2, ...]`.

    Samples that are NaN (no image with the class was drawn) are left out; NaN where all are.
    """
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; it must be between 0 and 1.")
    samples = np.asarray(samples, np.float64)
    ends = 100 * (1 - level) / 2, 100 * (1 + level) / 2
    flat = samples.reshape(len(samples), math.prod(samples.shape[1:]))
    found = [
        np.percentile(known, ends) if len(known) else np.full(2, np.nan)
        for known in (column[~np.isnan(column)] for column in flat.T)
    ]
    return np.array(found).reshape(-1, 2).T.reshape(2, *samples.shape[1:])


def _draws(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    return (rng.integers(0, max(n, 1), n) for _ in range(resamples))


def _mann_whitney(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    return scipy.stats.mannwhitneyu(a, b, method="asymptotic", use_continuity=False)


def _known(values) -> np.ndarray:
    values = np.asarray(values, np.float64).ravel()
    return values[~np.isnan(values)]
