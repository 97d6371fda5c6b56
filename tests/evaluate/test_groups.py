"""Groups of images and intervals."""

import math

import numpy as np
import pytest

from wbc_jax.evaluate import groups


def _score(chosen):
    return {"which": np.flatnonzero(chosen).tolist()}


def test_each_data_set_and_all():
    found = groups.by_dataset(["b", "a", "b"], _score)
    assert found == {"b": {"which": [0, 2]}, "a": {"which": [1]}, "all": {"which": [0, 1, 2]}}
    assert groups.by_dataset(["a", "a"], _score) == {"a": {"which": [0, 1]}}


def test_mean_over_data_sets():
    values = np.array([1.0, 1.0, 1.0, 5.0])
    found = groups.mean_over(["x", "x", "x", "y"], lambda chosen: float(values[chosen].mean()))
    assert found == pytest.approx(3)
    assert math.isnan(groups.mean_over([], lambda chosen: 1.0))


def test_resamples_draw_as_many_images_as_there_are():
    drawn = groups.resamples(7, 500, np.random.default_rng(0))
    assert drawn.shape == (500, 7) and (drawn.sum(1) == 7).all()
    # An image is missing from a resample with probability (1 - 1/7)^7.
    assert (drawn == 0).mean() == pytest.approx((6 / 7) ** 7, abs=0.03)


def test_interval():
    values = np.concatenate([np.arange(1001.0), [np.nan, np.inf]])
    assert groups.interval(values) == [25, 975]
    assert all(math.isnan(end) for end in groups.interval(np.array([np.nan])))
