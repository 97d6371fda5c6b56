"""wbc_jax.evaluate.masks: scores of sets of images, by hand and against SciPy."""

import math
import types

import numpy as np
import pytest
import scipy.stats

from wbc_jax import metrics
from wbc_jax.evaluate import baselines, masks
from wbc_jax.labels import IGNORE, MASK_CLASSES
from wbc_jax.metrics import SegmentationCounts
from wbc_jax.tfds_builders.wbc_synthetic import render

# Rows truth, columns prediction: background, cytoplasm, nucleus.
A = [[8, 1, 1], [0, 4, 0], [0, 2, 4]]
B = [[5, 0, 0], [0, 3, 1], [0, 0, 3]]
NO_NUCLEUS = [[9, 0, 0], [0, 6, 1], [0, 0, 0]]  # flagged for its truth
NO_CYTOPLASM = [[4, 0, 0], [0, 0, 2], [0, 0, 3]]  # flagged for its prediction
COUNTS = SegmentationCounts(np.array([A, B]))
BF_COLUMNS = ("bf_score", *(f"bf_score_{name}" for name in (*MASK_CLASSES, "absent_as_zero")))


def _examples(datasets, labels):
    ids = [f"i{n}" for n in range(len(labels))]
    return types.SimpleNamespace(datasets=datasets, ids=ids, labels=np.asarray(labels))


def _counts(*confusions):
    return SegmentationCounts(np.array(confusions))


def _assert_same(one, two):
    np.testing.assert_equal(one, two)  # NaN equals NaN


def _random(seed, n):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 20, (n, 3, 3))
    return SegmentationCounts(counts + np.eye(3, dtype=int) * rng.integers(20, 80, (n, 1, 1)))


def test_summarize_by_hand():
    # A + B = [[13, 1, 1], [0, 7, 1], [0, 2, 7]], 32 pixels.
    found = masks.summarize(COUNTS)
    assert found["images"] == 2
    assert found["confusion"] == [[13, 1, 1], [0, 7, 1], [0, 2, 7]]
    assert found["global_accuracy"] == pytest.approx(27 / 32)
    assert found["mean_accuracy"] == pytest.approx((13 / 15 + 7 / 8 + 7 / 9) / 3)
    iou = {"background": 13 / 15, "cytoplasm": 7 / 11, "nucleus": 7 / 11}
    assert found["iou"] == pytest.approx(iou)
    assert found["mean_iou"] == pytest.approx((13 / 15 + 14 / 11) / 3)
    weighted = (15 * 13 / 15 + 8 * 7 / 11 + 9 * 7 / 11) / 32
    assert found["weighted_iou"] == pytest.approx(weighted)
    dice = {"background": 26 / 28, "cytoplasm": 14 / 18, "nucleus": 14 / 18}
    assert found["dice"] == pytest.approx(dice)
    recall = {"background": 13 / 15, "cytoplasm": 7 / 8, "nucleus": 7 / 9}
    assert found["recall"] == pytest.approx(recall)
    # N/C: true 6/4 and 3/4, found 5/7 and 4/3; the median of two is their mean.
    errors = ((6 / 4 - 5 / 7) / (6 / 4), (4 / 3 - 3 / 4) / (3 / 4))
    assert found["nc"]["median_relative_error"] == pytest.approx(sum(errors) / 2)
    assert (found["nc"]["images"], found["nc"]["flagged"]) == (2, 0)
    assert math.isnan(found["nc"]["spearman"])  # undefined for two images
    assert "intervals" not in found


def test_a_class_that_is_nowhere_counts_in_no_mean():
    found = masks.summarize(_counts([[6, 2, 0], [0, 2, 0], [0, 0, 0]]))
    assert math.isnan(found["iou"]["nucleus"]) and math.isnan(found["dice"]["nucleus"])
    assert found["mean_iou"] == pytest.approx((6 / 8 + 2 / 4) / 2)
    assert found["mean_accuracy"] == pytest.approx((6 / 8 + 1) / 2)


def test_perfect_predictions():
    counts = _counts(np.diag([5, 3, 2]), np.diag([1, 4, 9]), np.diag([1, 5, 5]))
    found = masks.summarize(counts, bootstrap=20)
    assert found["mean_iou"] == found["global_accuracy"] == 1
    assert found["nc"] == {
        "images": 3,
        "median_relative_error": 0,
        "spearman": pytest.approx(1),
        "flagged": 0,
        "missed": 0,
    }
    assert all(ends == [1, 1] for name, ends in found["intervals"].items() if name[:3] != "nc_")
    assert found["intervals"]["nc_median_relative_error"] == [0, 0]


def test_flagged_images_count_in_no_ratio():
    counts = SegmentationCounts.merge([_random(0, 9), _counts(NO_NUCLEUS, NO_CYTOPLASM)])
    truth, predicted = counts.confusion.sum(2)[:9], counts.confusion.sum(1)[:9]
    x, y = truth[:, 2] / truth[:, 1], predicted[:, 2] / predicted[:, 1]
    found = masks.summarize(counts)["nc"]
    assert (found["images"], found["flagged"]) == (9, 2)
    assert found["median_relative_error"] == pytest.approx(np.median(abs(y - x) / x))
    assert found["spearman"] == pytest.approx(scipy.stats.spearmanr(x, y).statistic)
    np.testing.assert_allclose(masks.nc_errors(counts), abs(y - x) / x)


def test_only_flagged_images():
    found = masks.summarize(_counts(NO_NUCLEUS, NO_CYTOPLASM), bootstrap=10)
    assert (found["nc"]["images"], found["nc"]["flagged"]) == (0, 2)
    assert math.isnan(found["nc"]["median_relative_error"])
    assert all(map(math.isnan, found["intervals"]["nc_median_relative_error"]))


def test_intervals_agree_with_scipy():
    counts = _random(1, 25)
    found = masks.summarize(counts, bootstrap=4000)

    def oracle(statistic, n):
        result = scipy.stats.bootstrap(
            (np.arange(n),),
            statistic,
            vectorized=False,
            n_resamples=4000,
            method="percentile",
            rng=np.random.default_rng(5),
        )
        return result.confidence_interval

    def accuracy(which):
        total = counts.confusion[which].sum(0)
        return np.trace(total) / total.sum()

    def nucleus(which):
        total = counts.confusion[which].sum(0)
        return total[2, 2] / (total[2].sum() + total[:, 2].sum() - total[2, 2])

    errors = masks.nc_errors(counts)
    for name, statistic, point in (
        ("global_accuracy", accuracy, found["global_accuracy"]),
        ("iou_nucleus", nucleus, found["iou"]["nucleus"]),
        (
            "nc_median_relative_error",
            lambda which: np.median(errors[which]),
            found["nc"]["median_relative_error"],
        ),
    ):
        low, high = found["intervals"][name]
        expected = oracle(statistic, 25)
        # Two draws of 4000 resamples: their ends differ by a few per cent of the width.
        width = expected.high - expected.low
        assert low == pytest.approx(expected.low, abs=0.08 * width), name
        assert high == pytest.approx(expected.high, abs=0.08 * width), name
        assert low < point < high


def test_intervals_contain_every_point_and_are_reproducible():
    counts = _random(2, 30)
    found = masks.summarize(counts, bootstrap=300, seed=3)
    points = {name: found[name] for name in ("global_accuracy", "mean_accuracy", "mean_iou")}
    points |= {f"{m}_{c}": found[m][c] for m in ("iou", "dice") for c in MASK_CLASSES}
    for name, point in points.items():
        low, high = found["intervals"][name]
        assert low < point < high
    assert masks.summarize(counts, bootstrap=300, seed=3) == found
    assert masks.summarize(counts, bootstrap=300, seed=4) != found
    assert "intervals" not in masks.summarize(counts.select([0]), bootstrap=300)


def test_validation_score_weighs_data_sets_alike():
    counts = _counts(A, A, A, B)
    of_a = (8 / 10 + 4 / 7 + 4 / 7) / 3
    of_b = (1 + 3 / 4 + 3 / 4) / 3
    found = masks.validation(counts, _examples(["large", "large", "large", "small"], [0] * 4))
    assert found["score"] == pytest.approx((of_a + of_b) / 2)
    alone = masks.validation(counts.select(slice(3)), _examples(["x"] * 3, [0] * 3))
    assert alone["score"] == pytest.approx(of_a)
    assert (alone["iou_cytoplasm"], alone["iou_nucleus"]) == pytest.approx((4 / 7, 4 / 7))
    assert math.isnan(masks.validation(counts.select(slice(0)), _examples([], []))["score"])


def test_rows():
    found = masks.rows(_counts(A, NO_NUCLEUS, NO_CYTOPLASM), _examples(["d", "d", "e"], [4, -1, 0]))
    assert all(tuple(row) == masks.ROW_COLUMNS for row in found)
    assert found[0] == {
        "dataset": "d",
        "id": "i0",
        "label": 4,
        "global_accuracy": pytest.approx(16 / 20),
        "mean_accuracy": pytest.approx((8 / 10 + 1 + 4 / 6) / 3),
        "mean_iou": pytest.approx((8 / 10 + 4 / 7 + 4 / 7) / 3),
        "weighted_iou": pytest.approx((8 + 4 * 4 / 7 + 6 * 4 / 7) / 20),
        "iou_background": pytest.approx(8 / 10),
        "iou_cytoplasm": pytest.approx(4 / 7),
        "iou_nucleus": pytest.approx(4 / 7),
        "dice_cytoplasm": pytest.approx(8 / 11),
        "dice_nucleus": pytest.approx(8 / 11),
        "iou_cell": pytest.approx(10 / 12),
        "dice_cell": pytest.approx(20 / 22),
        **dict.fromkeys(BF_COLUMNS, pytest.approx(math.nan, nan_ok=True)),
        "bf_one_sided_classes": 0,
        "truth_nucleus_px": 6,
        "truth_cytoplasm_px": 4,
        "nucleus_px": 5,
        "cytoplasm_px": 7,
        "truth_nc_ratio": 1.5,
        "nc_ratio": pytest.approx(5 / 7),
        "nc_relative_error": pytest.approx((1.5 - 5 / 7) / 1.5),
        "flag": "",
    }
    # No nucleus in the truth: the prediction's ratio is ordinary, but there is no error to give.
    assert math.isnan(found[1]["truth_nc_ratio"]) and found[1]["nc_ratio"] == pytest.approx(1 / 6)
    assert math.isnan(found[1]["nc_relative_error"]) and found[1]["flag"] == ""
    assert found[2]["nc_ratio"] == math.inf and found[2]["truth_nc_ratio"] == 1.5
    assert math.isnan(found[2]["nc_relative_error"]) and found[2]["flag"] == "no_cytoplasm"
    assert (found[2]["dataset"], found[2]["id"], found[2]["label"]) == ("e", "i2", 0)


def test_results_by_data_set_and_type():
    counts = _random(3, 6)
    found = masks.results(
        counts, _examples(["b", "b", "a", "a", "a", "b"], [0, 4, 0, 0, -1, 4]), bootstrap=0
    )
    assert list(found) == ["b", "a", "all"]
    for name, which in (("b", [0, 1, 5]), ("a", [2, 3, 4]), ("all", range(6))):
        of_set = {k: v for k, v in found[name].items() if k != "by_type"}
        _assert_same(of_set, masks.summarize(counts.select(list(which))))
    assert list(found["b"]["by_type"]) == ["basophil", "neutrophil"]
    _assert_same(found["b"]["by_type"]["neutrophil"], masks.summarize(counts.select([1, 5])))
    assert list(found["a"]["by_type"]) == ["unknown", "basophil"]
    _assert_same(found["a"]["by_type"]["basophil"], masks.summarize(counts.select([2, 3])))
    _assert_same(found["all"]["by_type"]["basophil"], masks.summarize(counts.select([0, 2, 3])))
    assert found["all"]["confusion"] == counts.confusion.sum(0).tolist()
    alone = masks.results(counts.select([0, 1]), _examples(["b", "b"], [0, 0]), bootstrap=0)
    assert list(alone) == ["b"]


def test_confusions_leave_out_the_padding():
    truth = np.random.default_rng(0).integers(0, 3, (5, 4, 4)).astype(np.uint8)
    truth[0, 0] = IGNORE

    class Examples(list):
        cell_only = np.zeros(5, bool)

    examples = Examples(
        {"image": np.full((4, 4, 3), i, np.uint8), "mask": mask} for i, mask in enumerate(truth)
    )
    seen = []

    def predict(images):
        seen.append(images.shape)
        return (images[..., 0] % 3).astype(np.uint8)  # image i is class i % 3 all over

    counts = masks.measure(predict, examples, 2)
    assert seen == [(2, 4, 4, 3)] * 3
    expected = np.zeros((5, 3, 3), int)
    for i, mask in enumerate(truth):
        expected[i, :, i % 3] = [(mask == c).sum() for c in range(3)]
    np.testing.assert_array_equal(counts.confusion, expected)
    assert counts.confusion.dtype == np.int64 and counts.boundary is None
    more = masks.measure_test(predict, examples, 2)
    np.testing.assert_array_equal(more.confusion, expected)
    found = np.stack([np.full((4, 4), i % 3, np.uint8) for i in range(5)])
    np.testing.assert_array_equal(more.boundary, metrics.bf_counts(truth, found, 3))


# Rows truth, background and cell; columns prediction, background, cytoplasm, nucleus.
WHOLE = [[10, 2, 0], [1, 4, 3]]  # cell IoU 7 / 10, Dice 14 / 17
NOTHING = np.zeros((3, 3), int)


def _mixed():
    """A, a whole cell alone, and B."""
    whole = np.zeros((3, 2, 3), int)
    whole[1] = WHOLE
    return SegmentationCounts(np.array([A, NOTHING, B]), whole=whole)


def test_a_whole_cell_is_scored_as_a_cell_and_counts_in_nothing_else():
    found = masks.summarize(_mixed(), bootstrap=100)
    assert (found.pop("images"), found.pop("cell_only_images")) == (3, 1)
    # A: [[8, 2], [0, 10]]; whole: [[10, 2], [1, 7]]; B: [[5, 0], [0, 7]].
    assert found.pop("iou_cell") == pytest.approx(24 / 29)
    assert found.pop("dice_cell") == pytest.approx(48 / 53)
    low, high = found["intervals"].pop("iou_cell")
    # Of three images drawn, all are the worst, or the best; or nearly so.
    assert 7 / 10 <= low < 24 / 29 < high <= 1
    assert found["intervals"].pop("dice_cell")[0] >= 14 / 17
    # Without the whole cell everything else is the same.
    parts = masks.summarize(COUNTS, bootstrap=100)
    assert (parts.pop("images"), parts.pop("cell_only_images")) == (2, 0)
    assert parts.pop("iou_cell") == pytest.approx(17 / 19)
    assert parts.pop("dice_cell") == pytest.approx(34 / 36)
    for name in ("iou_cell", "dice_cell"):
        del parts["intervals"][name]
    _assert_same(found, parts)


def test_whole_cells_only():
    counts = SegmentationCounts(np.array([NOTHING] * 2), BF_COUNTS[:2] * 0, np.array([WHOLE] * 2))
    found = masks.summarize(counts, bootstrap=20)
    assert (found["images"], found["cell_only_images"]) == (2, 2)
    assert (found["iou_cell"], found["dice_cell"]) == pytest.approx((7 / 10, 14 / 17))
    assert found["intervals"] == {
        "iou_cell": [pytest.approx(7 / 10)] * 2,
        "dice_cell": [pytest.approx(14 / 17)] * 2,
    }
    unknown = (found["mean_iou"], found["iou"]["nucleus"], found["bf_score"]["mean"])
    assert all(map(math.isnan, (*unknown, found["nc"]["median_relative_error"])))
    assert {found["nc"][key] for key in ("images", "flagged", "missed")} == {0}
    found = masks.validation(counts, _examples(["x"] * 2, [0] * 2))
    assert math.isnan(found["score"])


def test_the_score_that_selects_a_checkpoint_leaves_whole_cells_out():
    found = masks.validation(_mixed(), _examples(["x", "y", "x"], [0] * 3))
    alone = masks.validation(COUNTS, _examples(["x", "x"], [0] * 2))
    assert found == alone and 0 < found["score"] < 1


def test_the_row_of_a_whole_cell():
    row = masks.rows(_mixed(), _examples(["d"] * 3, [4, 0, 4]))[1]
    assert (row["iou_cell"], row["dice_cell"]) == pytest.approx((7 / 10, 14 / 17))
    # What is predicted is known, also inside of the cell: 6 pixels of cytoplasm, 3 of nucleus.
    found = {key: row[key] for key in ("nucleus_px", "cytoplasm_px", "nc_ratio", "flag")}
    assert found == {"nucleus_px": 3, "cytoplasm_px": 6, "nc_ratio": 0.5, "flag": ""}
    named = {"dataset", "id", "label", "bf_one_sided_classes", "iou_cell", "dice_cell", *found}
    assert row["bf_one_sided_classes"] == 0
    assert all(math.isnan(value) for key, value in row.items() if key not in named)


def test_whole_cells_are_counted_pixel_by_pixel():
    truth = np.random.default_rng(0).choice([0, 1, 2, 255], (5, 8, 8)).astype(np.uint8)
    truth[3] = np.where(truth[3] == 0, 0, 255)  # as records have it; 1 has a neighbor with parts
    predicted = np.random.default_rng(1).integers(0, 3, (5, 8, 8)).astype(np.uint8)

    class Examples(list):
        cell_only = np.array([False, True, False, True, False])

    examples = Examples(
        {"image": np.full((8, 8, 3), i, np.uint8), "mask": mask} for i, mask in enumerate(truth)
    )
    for measure in (masks.measure, masks.measure_test):
        counts = measure(lambda images: predicted[images[:, 0, 0, 0]], examples, 2)
        assert counts.cell_only.tolist() == Examples.cell_only.tolist()
        for i, whole in enumerate(Examples.cell_only):
            inside = truth[i] != 0
            expected = [np.bincount(predicted[i][of], minlength=3) for of in (~inside, inside)]
            np.testing.assert_array_equal(counts.whole[i], whole * np.array(expected))
        plain = SegmentationCounts.of(truth, predicted, 3)
        parts = ~Examples.cell_only
        np.testing.assert_array_equal(counts.confusion[parts], plain.confusion[parts])
        assert not counts.confusion[~parts].any()
    np.testing.assert_array_equal(counts.boundary[parts], plain.boundary[parts])
    assert not counts.boundary[~parts].any()


# Boundary points of truth that match, of truth, of prediction that match, of prediction.
BF_COUNTS = np.array(
    [
        [[4, 4, 4, 4], [2, 4, 4, 4], [0, 3, 0, 2]],  # 1, 2/3, 0
        [[1, 2, 1, 1], [0, 0, 0, 5], [0, 0, 0, 0]],  # 2/3, absent in truth, absent in both
        [[0, 0, 0, 0], [0, 0, 0, 3], [0, 0, 0, 0]],  # no score at all
    ]
)


def test_boundary_scores_by_hand():
    counts = SegmentationCounts(np.array([A, B, B]), BF_COUNTS)
    found = masks.summarize(counts, bootstrap=200)
    bf = found["bf_score"]
    assert bf["mean"] == pytest.approx((5 / 9 + 2 / 3) / 2)
    assert bf["background"] == pytest.approx((1 + 2 / 3) / 2)
    assert (bf["cytoplasm"], bf["nucleus"]) == pytest.approx((2 / 3, 0))
    assert bf["absent_on_one_side"] == {"background": 0, "cytoplasm": 2, "nucleus": 0}
    assert bf["mean_absent_as_zero"] == pytest.approx((5 / 9 + 1 / 3 + 0) / 3)
    zeroed = {"background": (1 + 2 / 3) / 2, "cytoplasm": 2 / 9, "nucleus": 0}
    assert bf["absent_as_zero"] == pytest.approx(zeroed)
    assert bf["images_left_out"] == 2
    low, high = found["intervals"]["bf_score_mean_absent_as_zero"]
    assert 0 <= low < bf["mean_absent_as_zero"] < high <= 5 / 9
    low, high = found["intervals"]["bf_score_mean"]
    # Drawn with replacement, the images with a score are one, the other, or both.
    assert (low, high) == pytest.approx((5 / 9, 2 / 3))
    assert found["intervals"]["bf_score_nucleus"] == [0, 0]
    rows = masks.rows(counts, _examples(["d"] * 3, [0] * 3))
    assert [row["bf_score"] for row in rows[:2]] == pytest.approx([5 / 9, 2 / 3])
    assert math.isnan(rows[2]["bf_score"]) and math.isnan(rows[1]["bf_score_cytoplasm"])
    assert rows[0]["bf_score_cytoplasm"] == pytest.approx(2 / 3)
    zeroed = [row["bf_score_absent_as_zero"] for row in rows]
    assert zeroed == pytest.approx([5 / 9, 1 / 3, 0])
    assert [row["bf_one_sided_classes"] for row in rows] == [0, 1, 1]
    # Without boundary counts everything else is the same.
    without = masks.summarize(_counts(A, B, B), bootstrap=200)
    assert "bf_score" not in without
    del found["bf_score"]
    found["intervals"] = {k: v for k, v in found["intervals"].items() if "bf_" not in k}
    _assert_same(found, without)
    np.testing.assert_allclose(masks.nc_errors(counts), masks.nc_errors(_counts(A, B, B)))


def test_a_network_that_sees_no_cell_scores_0_for_it_and_less_than_the_baseline():
    cells = [render.render_cell(3, number, 64) for number in range(6)]
    truth = np.stack([cell.mask for cell in cells])
    images = np.stack([cell.image for cell in cells])
    nothing, baseline = (
        masks.summarize(SegmentationCounts.of(truth, found, 3))
        for found in (np.zeros_like(truth), baselines.otsu(images))
    )
    bf = nothing["bf_score"]
    assert bf["absent_as_zero"]["cytoplasm"] == bf["absent_as_zero"]["nucleus"] == 0.0
    # What is left is the frame of the image, which is boundary of the background in both.
    assert bf["mean_absent_as_zero"] == pytest.approx(bf["absent_as_zero"]["background"] / 3)
    assert bf["mean_absent_as_zero"] < baseline["bf_score"]["mean_absent_as_zero"]
    # MATLAB's mean is of the background alone, and above the baseline's.
    assert bf["mean"] == pytest.approx(bf["absent_as_zero"]["background"])
    assert bf["mean"] > baseline["bf_score"]["mean"]
    assert bf["images_left_out"] == 6 and bf["absent_on_one_side"]["nucleus"] == 6
    nc = nothing["nc"]
    assert (nc["images"], nc["flagged"], nc["missed"]) == (0, 6, 6)
    assert math.isnan(nc["median_relative_error"])


def test_missed_ratios_are_those_that_the_truth_has():
    found = masks.summarize(_counts(A, NO_NUCLEUS, NO_CYTOPLASM))["nc"]
    # The second image has no ratio in its truth; the third loses its cytoplasm.
    truth = np.array(NO_CYTOPLASM)
    assert truth[1].sum() > 0 and truth[:, 1].sum() == 0
    assert (found["images"], found["flagged"], found["missed"]) == (1, 2, 1)
