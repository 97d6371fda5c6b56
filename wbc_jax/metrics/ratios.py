"""Division and means in which NaN stands for a score that is not defined."""

import numpy as np


def ratio(numerator, denominator) -> np.ndarray:
    """Returns numerator / denominator, float64; NaN where the denominator is not positive."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


def nan_mean(values: np.ndarray) -> np.ndarray:
    """Returns the mean over the last axis without NaN; NaN where nothing else is there.

    `np.nanmean` gives the same, with a warning for each empty row.
    """
    present = ~np.isnan(values)
    return ratio(np.where(present, values, 0).sum(-1), present.sum(-1))
