"""Recall and precision of boxes, on a few boxes and on real fields."""

import numpy as np
import pytest

from wbc_jax.evaluate import detection
from wbc_jax.fields import finder


def test_overlap_and_hits():
    truth = [(0, 0, 10, 10), (0, 20, 10, 30)]
    found = [(0, 0, 10, 20), (0, 5, 10, 15), (20, 20, 30, 30)]
    assert detection.overlap(truth, found) == pytest.approx(np.array([[0.5, 1 / 3, 0], [0, 0, 0]]))
    # The centers are (5, 10), just outside the first box's open end, (5, 10) and (25, 25).
    assert not detection.center_inside(truth, found).any()
    assert detection.center_inside([(0, 0, 10, 11)], found).tolist() == [[True, True, False]]
    # Two found boxes on one true box are one hit.
    assert detection.count_hits(np.array([[True, True, False]])) == 1
    # True box 0 must take found box 1, so that true box 1 can take found box 0.
    assert detection.count_hits(np.array([[True, True], [True, False]])) == 2
    assert detection.overlap([], found).shape == (0, 3)
    assert detection.count_hits(np.zeros((0, 3), bool)) == 0


def test_summary():
    rows = [
        {"truth": 2, "found": 1, "hits": 1, "centre_hits": 1},
        {"truth": 1, "found": 3, "hits": 1, "centre_hits": 1},
        {"truth": 1, "found": 1, "hits": 0, "centre_hits": 1},
    ]
    result = detection.summary(rows)
    assert (result["truth"], result["found"], result["hits"]) == (4, 5, 2)
    assert result["recall"]["value"] == 0.5 and result["precision"]["value"] == 0.4
    assert result["centre_recall"]["value"] == 0.75
    low, high = result["recall"]["interval"]
    assert 0 <= low < 0.5 < high <= 1
    assert "0.500 (" in detection.table(result, "drawn")


def test_parts_are_stable():
    names = [f"BloodImage_{n:05d}" for n in range(411)]
    parts = [detection.subset_of(name) for name in names]
    assert parts[:3] == ["development", "development", "rest"]
    assert 190 < parts.count("development") < 235


@pytest.mark.data
def test_real_fields(real_data):
    """About 30 boxes of BCCD's development part; at most two are missed."""
    truths = detection.read_truth("kaggle_blood_cells", real_data, "development")[::12]
    rows = detection.measure(truths, lambda image: [c.box for c in finder.find_cells(image)])
    result = detection.summary(rows)
    assert result["hits"] >= result["truth"] - 2
    assert result["found"] <= result["hits"] + 2
