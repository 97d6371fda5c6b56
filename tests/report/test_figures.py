import io
import math
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from wbc_jax.report import figures

GREY = (128, 128, 128)


def grey(*shape):
    return np.full((*shape, 3), 128, np.uint8)


def drawn(image):
    """`.` untouched, `c` cell outline, `n` nucleus outline, `?` anything else."""
    letters = {GREY: ".", figures.CELL_COLOUR: "c", figures.NUCLEUS_COLOUR: "n"}
    return ["".join(letters.get(tuple(map(int, px)), "?") for px in row) for row in image]


def mask_of(*lines):
    values = {".": 0, "c": 1, "N": 2, "?": 255}
    return np.array([[values[letter] for letter in line] for line in lines], np.uint8)


def test_overlay_colours_the_rims_and_nothing_else():
    mask = mask_of(
        "..........",
        ".cccccccc.",
        ".cccccccc.",
        ".ccNNNNcc.",
        ".ccNNNNcc.",
        ".ccNNNNcc.",
        ".cccccccc.",
        ".cccccccc.",
        "..........",
    )
    assert drawn(figures.overlay(grey(9, 10), mask)) == [
        "..........",
        ".cccccccc.",
        ".c......c.",
        ".c.nnnn.c.",
        ".c.n..n.c.",
        ".c.nnnn.c.",
        ".c......c.",
        ".cccccccc.",
        "..........",
    ]


def test_overlay_draws_no_edge_that_is_not_known():
    # The cell runs out of the image on the left and into unknown pixels on the right.
    mask = mask_of(
        "......",
        "ccccc?",
        "NNccc?",
        "NNccc?",
        "ccccc?",
        "......",
    )
    assert drawn(figures.overlay(grey(6, 6), mask)) == [
        "......",
        "ccccc.",
        "nn....",
        "nn....",
        "ccccc.",
        "......",
    ]


def test_overlay_nucleus_lies_over_the_cell_where_they_meet():
    mask = mask_of("....", ".NN.", ".NN.", "....")
    assert drawn(figures.overlay(grey(4, 4), mask)) == ["....", ".nn.", ".nn.", "...."]


def test_overlay_width():
    mask = np.zeros((11, 11), np.uint8)
    mask[1:10, 1:10] = 1
    wide = np.array([list(row) for row in drawn(figures.overlay(grey(11, 11), mask, 2))])
    assert (wide == "c").sum() == 9 * 9 - 5 * 5
    assert (wide[3:8, 3:8] == ".").all()
    # By itself the line grows with the image, so that it can be seen on a screen.
    mask = np.zeros((1600, 1200), np.uint8)
    mask[400:800, 400:800] = 1
    line = (figures.overlay(grey(1600, 1200), mask) != 128).any(axis=2)[600]
    assert line.sum() == 2 * 4 and line[400:404].all() and line[796:800].all()


def test_overlay_leaves_its_arguments_alone_and_takes_any_size():
    for shape in ((1, 1), (3, 500), (0, 4)):
        image, mask = grey(*shape), np.zeros(shape, np.uint8)
        out = figures.overlay(image, mask)
        assert out is not image and np.array_equal(out, image) and out.dtype == np.uint8
    image, mask = grey(5, 5), np.full((5, 5), 2, np.uint8)
    mask[0] = 0
    figures.overlay(image, mask)
    assert (image == 128).all() and mask.sum() == 40


@pytest.mark.parametrize(
    "image, mask, words",
    [
        (grey(4, 4), np.zeros((4, 5), np.uint8), r"mask must be uint8 \[4, 4\]"),
        (grey(4, 4), np.zeros((4, 4), np.int32), "int32"),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8), "image must be uint8"),
        (grey(4, 4).astype(np.float32), np.zeros((4, 4), np.uint8), "float32"),
        (grey(4, 4), np.full((4, 4), 3, np.uint8), r"holds \[3\]"),
    ],
)
def test_overlay_says_what_does_not_fit(image, mask, words):
    with pytest.raises(ValueError, match=words):
        figures.overlay(image, mask)


def test_contact_sheet_places_tiles_row_by_row():
    tiles = [np.full((4, 6, 3), level, np.uint8) for level in (10, 20, 30)]
    tiles.append(np.full((2, 2, 3), 40, np.uint8))
    tiles.append(np.full((4, 6, 3), 50, np.uint8))
    sheet = figures.contact_sheet(tiles, columns=2, pad=1)
    assert sheet.shape == (1 + 3 * 5, 1 + 2 * 7, 3) and sheet.dtype == np.uint8
    assert (sheet[1:5, 1:7] == 10).all() and (sheet[1:5, 8:14] == 20).all()
    assert (sheet[6:10, 1:7] == 30).all() and (sheet[11:15, 1:7] == 50).all()
    assert (sheet[7:9, 10:12] == 40).all() and (sheet == 40).sum() == 12
    assert (sheet[0] == 255).all() and (sheet[11:15, 7:] == 255).all()
    assert figures.contact_sheet(tiles[:1], columns=9, pad=0).shape == (4, 6, 3)


def test_contact_sheet_says_what_does_not_fit():
    with pytest.raises(ValueError, match="at least one"):
        figures.contact_sheet([], 3)
    with pytest.raises(ValueError, match="columns"):
        figures.contact_sheet([grey(2, 2)], 0)
    with pytest.raises(ValueError, match="uint8"):
        figures.contact_sheet([np.zeros((2, 2), np.uint8)], 1)


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


def test_confusion_figure_writes_percentages_and_counts():
    figure = figures.confusion_figure([[3, 1], [0, 0]], ["a", "$b_{$"])
    (axes,) = figure.axes
    assert words(axes) == ["75.0 %", "3", "25.0 %", "1", "–", "0", "–", "0"]
    # A name that would be broken mathematics is drawn as it is.
    assert Image.open(io.BytesIO(figures.png(figure, dpi=30))).format == "PNG"
    with pytest.raises(ValueError, match="3 names for 2"):
        figures.confusion_figure([[1, 0], [0, 1]], ["a", "b", "c"])
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        figures.confusion_figure([[1, 0]], ["a"])


def test_dark_figures_are_dark():
    for dark in (False, True):
        image = Image.open(io.BytesIO(figures.png(figures.nc_scatter([row(1, 1)], dark), dpi=30)))
        assert (np.asarray(image)[0, 0, :3].mean() < 60) == dark


@pytest.mark.parametrize(
    "label, name",
    [(0, "basophil"), (4, "neutrophil"), (-1, "unknown"), (5, "unknown"), (None, "unknown")],
)
def test_type_name(label, name):
    assert figures.type_name(label) == name


def test_matplotlib_is_imported_late_and_without_pyplot():
    code = (
        "import sys, wbc_jax.report, wbc_jax.report.html as h\n"
        "assert 'matplotlib' not in sys.modules\n"
        "h.figures.png(h.figures.nc_scatter([]), dpi=20)\n"
        "assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
