"""wbc_jax.evaluate.groups: groups of images by data set."""

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
