"""The charts of N/C ratios: where their points and lines are."""

import math

import numpy as np
import pytest

from wbc_jax.report import chart_parts, nc_figures


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
    (axes,) = nc_figures.nc_scatter(rows).axes
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
    (axes,) = nc_figures.nc_scatter([row(1.0, 1.0)]).axes
    assert words(axes) == []
    (axes,) = nc_figures.nc_scatter([row(math.inf, 1.0)]).axes
    assert "no finite ratios" in words(axes)
    chart_parts.png(nc_figures.nc_scatter([]), dpi=20)


def test_agreement_draws_bias_and_limits_where_they_are():
    # ln(predicted / true) is 0, ln 1.2, ln 1.2² of three images, and one has no ratio.
    rows = [row(1, 1), row(2, 2.4, 0), row(0.5, 0.72), row(math.inf, 1)]
    (axes,) = nc_figures.nc_agreement(rows).axes
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
    (axes,) = nc_figures.nc_agreement([row(1, 1.5)]).axes
    assert words(axes) == ["bias +50.0 %"] and len(axes.lines) == 2
    chart_parts.png(nc_figures.nc_agreement([row(1, 1.5)]), dpi=20)
    (axes,) = nc_figures.nc_agreement([row(math.inf, 1.0)]).axes
    assert "no finite ratios" in words(axes)
    chart_parts.png(nc_figures.nc_agreement([], dark=True), dpi=20)


@pytest.mark.parametrize("low, high", [(0.9, 1.1), (0.7, 1.4), (0.5, 2.2), (0.2, 4), (0.01, 90)])
def test_ticks_of_ratios_are_few_round_and_hold_no_difference(low, high):
    ticks = nc_figures._ratio_ticks(low, high)
    assert 3 <= len(ticks) <= 9 and 1 in ticks and ticks == sorted(ticks)
    assert all(low <= tick <= high for tick in ticks)
