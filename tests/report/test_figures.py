import io
import math
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from wbc_jax.report import figures


def row(truth, found, label=4):
    return {"truth_nc_ratio": truth, "nc_ratio": found, "label": label}


def words(axes):
    return [text.get_text() for text in axes.texts]


def points(axes):
    found = {}
    for collection in axes.collections:
        if not collection.get_label().startswith("_"):
            found[collection.get_label()] = np.asarray(collection.get_offsets()).tolist()
    return found


def test_scatter_leaves_out_what_is_not_finite_and_says_so():
    rows = [
        row(0.5, 0.6),
        row(2.0, 1.5, 2),
        row(math.inf, 1.0),
        row(1.0, math.inf),
        row(math.nan, 1.0),
        row(None, 1.0),
        row(0.0, 1.0),
        row(0.8, 0.9, -1),
        row(0.7, 0.7),
    ]
    (axes,) = figures.nc_scatter(rows).axes
    assert points(axes) == {
        "lymphocyte (1)": [[2.0, 1.5]],
        "neutrophil (2)": [[0.5, 0.6], [0.7, 0.7]],
        "unknown (1)": [[0.8, 0.9]],
    }
    assert words(axes) == ["5 of 9 images left out: no finite ratio"]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert axes.get_xlim() == axes.get_ylim()
    (identity,) = axes.lines
    assert np.array_equal(*identity.get_data())


def test_scatter_without_a_gap_and_without_a_point():
    (axes,) = figures.nc_scatter([row(1.0, 1.0)]).axes
    assert words(axes) == []
    (axes,) = figures.nc_scatter([row(math.inf, 1.0)]).axes
    assert "no finite ratios" in words(axes)
    figures.png(figures.nc_scatter([]), dpi=20)


def test_agreement_draws_bias_and_limits_where_they_are():
    # ln(predicted / true) is 0, ln 1.2, ln 1.2² of three images, and one has no ratio.
    rows = [row(1, 1), row(2, 2.4, 0), row(0.5, 0.72), row(math.inf, 1)]
    (axes,) = figures.nc_agreement(rows).axes
    found = points(axes)
    np.testing.assert_allclose(found["basophil (1)"], [[2 * math.sqrt(1.2), 1.2]])
    np.testing.assert_allclose(found["neutrophil (2)"], [[1, 1], [0.5 * 1.2, 1.44]])
    spread = 1.2**1.959964
    drawn_at = [line.get_ydata()[0] for line in axes.lines]
    np.testing.assert_allclose(drawn_at, [1, 1.2, 1.2 / spread, 1.2 * spread], rtol=1e-5)
    assert words(axes) == [
        "1 of 4 images left out: no finite ratio",
        "bias +20.0 %",
        f"lower limit {100 * (1.2 / spread - 1):.1f} %".replace("-", "−"),
        f"upper limit +{100 * (1.2 * spread - 1):.1f} %",
    ]
    low, high = axes.get_ylim()
    assert low < 1.2 / spread and 1.2 * spread < high
    assert len(axes.get_yticks()) >= 4 and 1 in axes.get_yticks()


def test_agreement_of_too_little():
    (axes,) = figures.nc_agreement([row(1, 1.5)]).axes
    assert words(axes) == ["bias +50.0 %"] and len(axes.lines) == 2
    figures.png(figures.nc_agreement([row(1, 1.5)]), dpi=20)
    (axes,) = figures.nc_agreement([row(math.inf, 1.0)]).axes
    assert "no finite ratios" in words(axes)
    figures.png(figures.nc_agreement([], dark=True), dpi=20)


@pytest.mark.parametrize("low, high", [(0.9, 1.1), (0.7, 1.4), (0.5, 2.2), (0.2, 4), (0.01, 90)])
def test_ticks_of_ratios_are_few_round_and_hold_no_difference(low, high):
    ticks = figures._ratio_ticks(low, high)
    assert 3 <= len(ticks) <= 9 and 1 in ticks and ticks == sorted(ticks)
    assert all(low <= tick <= high for tick in ticks)


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


def test_dark_figures_are_dark():
    for dark in (False, True):
        image = Image.open(io.BytesIO(figures.png(figures.nc_scatter([row(1, 1)], dark), dpi=30)))
        assert (np.asarray(image)[0, 0, :3].mean() < 60) == dark


def test_matplotlib_is_imported_late_and_without_pyplot():
    code = (
        "import sys, wbc_jax.report, wbc_jax.report.html as h\n"
        "assert 'matplotlib' not in sys.modules\n"
        "h.figures.png(h.figures.nc_scatter([]), dpi=20)\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
