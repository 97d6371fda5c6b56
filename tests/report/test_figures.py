"""The charts of a run: where their lines, points and bars are."""

import math

import numpy as np
from scipy import stats

from wbc_jax.report import figures


def words(axes):
    return [text.get_text() for text in axes.texts]


def test_training_curve_tolerates_missing_keys():
    history = [
        {"step": 20, "kind": "train", "loss": 0.5},
        {"step": 10, "kind": "train", "loss": 1.0, "mean_iou": None},
        {"step": 20, "kind": "validation", "mean_iou": 0.8, "loss": math.nan},
        {"kind": "train", "loss": 3.0},
        {"step": 30},
    ]
    loss, iou = figures.training_curve(history).axes
    (line,) = loss.lines
    assert np.array_equal(line.get_data(), [[10, 20], [1.0, 0.5]])
    assert loss.get_yscale() == "log"
    (line,) = iou.lines
    assert line.get_label() == "validation, mean" and line.get_ydata().tolist() == [0.8]
    empty = figures.training_curve([])
    assert [words(axes) for axes in empty.axes] == [["not recorded"]] * 2
    history.append({"step": 40, "kind": "train", "loss": 0.0})
    assert figures.training_curve(history).axes[0].get_yscale() == "linear"


def test_reliability_has_a_point_and_an_interval_a_bin():
    rows = [{"probability": 0.95, "right": k > 0} for k in range(8)]
    rows += [{"probability": 0.42, "right": True}, {"probability": 0.48, "right": False}]
    share, often = figures.reliability(rows).axes
    np.testing.assert_allclose(share.lines[1].get_xydata(), [[0.45, 0.5], [0.95, 7 / 8]])
    (bars,) = share.collections
    for (hits, number), segment in zip(((1, 2), (7, 8)), bars.get_segments()):
        expected = stats.binomtest(hits, number).proportion_ci(method="wilson")
        np.testing.assert_allclose(segment[:, 1], [expected.low, expected.high])
    heights = [[bar.get_height() for bar in part] for part in often.containers]
    assert heights[0] == [0, 0, 0, 0, 1, 0, 0, 0, 0, 7]
    assert heights[1] == [0, 0, 0, 0, 1, 0, 0, 0, 0, 1]


def test_pixel_reliability_draws_the_bins_given():
    found = {"pixels": [0, 4, 100], "right": [0, 3, 90], "confidence": [None, 0.5, 0.97]}
    share, often = figures.pixel_reliability(found, dark=True).axes
    np.testing.assert_allclose(share.lines[1].get_xydata(), [[0.5, 0.75], [0.97, 0.9]])
    assert not share.collections  # pixels of one image are no independent trials
    assert [bar.get_height() for bar in often.containers[1]] == [0, 1, 10]
    assert often.get_ylabel() == "pixels"
