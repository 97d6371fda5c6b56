"""How far groups of independent cells lie apart in one measure: ROC, effect sizes, quartiles.

All of these depend on the order of the values only, so that an infinite N/C ratio (a cell without
cytoplasm) counts as the largest. NaN is left out. Intervals are percentile bootstraps (Efron 1979)
that draw each group's cells anew, so that the groups keep their sizes.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import scipy

from wbc_jax.metrics import statistics


@dataclasses.dataclass(frozen=True, slots=True)
class Separation:
    """How far two groups lie apart, with 95 % intervals; NaN where a group has no value.

    Attributes:
        auroc, auroc_interval: probability that a cell of the second group has a larger value than
            one of the first; a tie counts half. 0.5: no separation.
        delta, delta_interval: Cliff's delta (1993), which is the rank-biserial correlation:
            2 · `auroc` − 1, from −1 (every cell of the second group is smaller) to 1.
    """

    auroc: float
    auroc_interval: tuple[float, float]
    delta: float
    delta_interval: tuple[float, float]


def separate(
    first,
    second,
    resamples: int = statistics.RESAMPLES,
    level: float = statistics.LEVEL,
    seed: statistics.Seed = 0,
) -> Separation:
    """Measures how far the second group lies above the first.

    Args:
        first, second: float `[N]` and `[M]`.
        resamples, level, seed: as in `statistics.bootstrap_interval`.
    """
    value = probability_above(first, second)
    low, high = interval_of_groups(probability_above, (first, second), resamples, level, seed)
    return Separation(value, (low, high), 2 * value - 1, (2 * low - 1, 2 * high - 1))


def probability_above(first, second) -> float:
    """Returns the probability that a value of `second` exceeds one of `first`; a tie counts half.

    This is the AUROC of the second group against the first, and U / (N · M) of Mann and Whitney.

    Args:
        first, second: float `[N]` and `[M]`; NaN without values in one of them.
    """
    first, second = np.sort(_known(first)), _known(second)
    if not len(first) or not len(second):
        return float("nan")
    below = np.searchsorted(first, second, "left").sum(dtype=np.int64)
    not_above = np.searchsorted(first, second, "right").sum(dtype=np.int64)
    return float((below + not_above) / (2 * len(first) * len(second)))


def roc(first, second) -> np.ndarray:
    """Returns the points of the ROC curve of the second group against the first.

    A point is the share of each group with a value of at least some threshold, from the highest
    threshold to the lowest. The area under the straight lines between them is `probability_above`.

    Args:
        first, second: float `[N]` and `[M]`.

    Returns:
        float64 `[K, 2]`: share of the first group, share of the second; from (0, 0) to (1, 1).
        Empty, `[0, 2]`, if a group has no value.
    """
    groups = [np.sort(_known(values)) for values in (first, second)]
    if not all(map(len, groups)):
        return np.zeros((0, 2))
    thresholds = np.unique(np.concatenate(groups))[::-1]
    shares = [1 - np.searchsorted(g, thresholds, "left") / len(g) for g in groups]
    return np.concatenate([np.zeros((1, 2)), np.stack(shares, 1)])


def epsilon_squared(*groups) -> float:
    """Returns ε², the effect size of Kruskal and Wallis's test: H / (n − 1), from 0 to 1.

    It is the share of the variance of the ranks that the groups explain (Kelley 1935; Tomczak &
    Tomczak 2014). NaN where a group has no value, or all values are equal.
    """
    known = [_known(values) for values in groups]
    if len(known) < 2 or not all(map(len, known)):
        return float("nan")
    ranks = scipy.stats.rankdata(np.concatenate(known))
    if ranks.min() == ranks.max():
        return float("nan")
    parts = np.split(ranks, np.cumsum([len(values) for values in known])[:-1])
    between = sum(len(part) * (part.mean() - ranks.mean()) ** 2 for part in parts)
    return float(between / ((ranks - ranks.mean()) ** 2).sum())


def quartiles(values) -> np.ndarray:
    """Returns lower quartile, median and upper quartile, float64 `[3]`; NaN without values.

    As `numpy.percentile` interpolates, but infinite values are allowed: between a finite and an
    infinite value lies infinity.
    """
    values = np.sort(_known(values))
    if not len(values):
        return np.full(3, np.nan)
    place = np.array([0.25, 0.5, 0.75]) * (len(values) - 1)
    low, high = values[np.floor(place).astype(int)], values[np.ceil(place).astype(int)]
    step = np.where(low == high, 0, high - np.where(np.isinf(low), 0, low))
    with np.errstate(invalid="ignore"):  # 0 times infinity
        return np.where(place % 1 == 0, low, low + (place % 1) * step)


def interval_of_groups(
    statistic: Callable[..., float | np.ndarray],
    groups: Sequence,
    resamples: int = statistics.RESAMPLES,
    level: float = statistics.LEVEL,
    seed: statistics.Seed = 0,
) -> np.ndarray:
    """Returns the percentile interval of a statistic of independent groups.

    Args:
        statistic: function of as many arrays as there are groups; returns a number or an array.
        groups: float `[N]` each; NaN is left out.
        resamples, level, seed: as in `statistics.bootstrap_interval`.

    Returns:
        float64 `[2, ...]`: lower and upper end; NaN where a group has no value.
    """
    known = [_known(values) for values in groups]
    if not all(map(len, known)):
        return np.full((2, *np.shape(statistic(*known))), np.nan)
    rng = np.random.default_rng(seed)
    samples = [
        statistic(*(values[rng.integers(0, len(values), len(values))] for values in known))
        for _ in itertools.repeat(None, resamples)
    ]
    return _percentiles(np.array(samples), level)


def _percentiles(samples: np.ndarray, level: float) -> np.ndarray:
    """As `statistics.interval`, but of values that may be infinite: the nearest sample counts."""
    if np.isfinite(samples[~np.isnan(samples)]).all():
        return statistics.interval(samples, level)
    ends = (1 - level) / 2, (1 + level) / 2
    return np.nanquantile(samples, ends, axis=0, method="closest_observation")


def _known(values) -> np.ndarray:
    values = np.asarray(values, np.float64).ravel()
    return values[~np.isnan(values)]
