"""Agreement: of measured with true values (Bland and Altman), and of two people (Cohen's κ)."""

import dataclasses
import math

import numpy as np
import scipy

from wbc_jax.metrics.confusion import marginals
from wbc_jax.metrics.ratios import ratio
from wbc_jax.metrics.statistics import LEVEL


@dataclasses.dataclass(frozen=True, slots=True)
class Agreement:
    """Limits of agreement of measured with true values.

    Attributes:
        images: number of images with both values.
        bias: mean difference; on the relative scale, geometric mean of measured / true, minus 1.
            0.05 is "5 % too large"; 0 is no bias on either scale.
        limits: lower and upper limit, between which 95 % of the differences lie if they are normal.
        bias_interval, lower_interval, upper_interval: intervals of the bias and of each limit.
        spread_trend, spread_p: Spearman correlation, and its p, of the measured size with the
            distance of a difference from the mean difference. Where it is far from 0, the
            differences grow or shrink with size, and one pair of limits does not fit all sizes.
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
    """Describes how measured values differ from true values (Bland and Altman 1986, 1999).

    Bias and limits are mean and mean ± 1.96 standard deviations (N − 1) of the differences.
    Relative differences are ln(measured / true), reported as measured / true − 1: the error of an
    area or a ratio of areas is proportional to its size, and Bland and Altman advise logarithms for
    that case. The size of a pair is the mean of both values, on the relative scale their geometric
    mean. Intervals use Student's t, and Bland and Altman's variance of a limit (1999),
    s² (1 / N + 1.96² / (2 (N − 1))).

    Args:
        truth, measured: float `[N]`, of the same images in the same order, in the same unit. Pairs
            with a value that is not finite or, on the relative scale, not above 0 are left out.
        relative: True: differences in proportion to size; False: in the unit of the values.
        level: level of the intervals (the limits are always 95 %).

    Returns:
        The agreement, with NaN where there are too few images: spread and intervals need 2, the
        trend needs 3.

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
    distance = np.abs(difference - mean)
    varied = n > 2 and np.ptp(distance) > 0 and np.ptp(size) > 0
    trend, p = scipy.stats.spearmanr(distance, size) if varied else (nan, nan)
    half_bias = t * spread / math.sqrt(n) if n else nan
    half_limit = t * spread * math.sqrt(1 / n + z**2 / (2 * (n - 1))) if n > 1 else nan
    to_scale = math.expm1 if relative else float

    def within(middle: float, half: float) -> tuple[float, float]:
        return to_scale(middle - half), to_scale(middle + half)

    return Agreement(
        n,
        to_scale(mean),
        within(mean, z * spread),
        within(mean, half_bias),
        within(mean - z * spread, half_limit),
        within(mean + z * spread, half_limit),
        float(trend),
        float(p),
    )


def cohens_kappa(confusion) -> np.ndarray:
    """Returns the agreement of two people beyond chance, κ = (p₀ − pₑ) / (1 − pₑ) (Cohen 1960).

    p₀ is the share of items that both put in the same class, pₑ the share expected if both chose
    at random with their own frequencies. 1 is full agreement, 0 that of chance.

    Args:
        confusion: counts `[..., C, C]`, rows the first person's classes, columns the second's.

    Returns:
        float64 `[...]`; NaN without items, or where both use only one and the same class.

    Raises:
        ValueError: as `marginals`.
    """
    same, first, second = marginals(confusion)
    total = first.sum(-1)
    observed = ratio(same.sum(-1), total)
    expected = ratio((first * second).sum(-1), total**2)
    return ratio(observed - expected, 1 - expected)
