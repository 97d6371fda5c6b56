"""Two runs paired by image: numbers by hand and by scipy, errors that help."""

import numpy as np
import pytest
from scipy import stats

from helpers import scored_runs
from helpers.scored_runs import MASKS, TYPES, masks, row, types, write
from wbc_jax import metrics
from wbc_jax.evaluate import paired
from wbc_jax.report import comparison
from wbc_jax.utils import atomic


@pytest.fixture
def pair(tmp_path):
    return scored_runs.two_segmentations(tmp_path)


def test_differences_are_paired_by_image_and_tested_as_scipy_does(pair):
    a, b, first, second = pair
    found = paired.compare(paired.read(a), paired.read(b), resamples=500)
    assert found.images == 42 and found.only_first == found.only_second == ()
    assert [name for name, _ in found.groups] == ["jtsc", "raabin", "all"]
    assert [score.key for score in found.scores] == [s.key for s in paired.SCORES["segmentation"]]
    one = row(found, "jtsc", "mean_iou")
    difference = second - first
    assert one.images == 30
    np.testing.assert_allclose(
        [one.first, one.second, one.difference, one.median],
        [first.mean(), second.mean(), difference.mean(), np.median(difference)],
    )
    assert one.p == pytest.approx(stats.wilcoxon(difference).pvalue)
    assert (one.better, one.worse) == ((difference > 0).sum(), (difference < 0).sum())
    theirs = stats.bootstrap(
        (difference,), np.mean, n_resamples=5000, method="percentile", rng=0
    ).confidence_interval
    np.testing.assert_allclose([one.low, one.high], theirs, atol=0.002)
    # Where B is the same as A, whatever the order of the rows, nothing is found.
    same = row(found, "raabin", "mean_iou")
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    whole = row(found, "all", "mean_iou")
    assert whole.difference == pytest.approx(difference.sum() / 42) and whole.images == 42
    # An error that falls is better.
    error = row(found, "jtsc", "nc_relative_error")
    assert error.difference == pytest.approx(-one.difference)
    assert (error.better, error.worse) == (one.better, one.worse)
    assert one.verdict == error.verdict == "B better" and same.verdict == ""
    turned = paired.compare(paired.read(b), paired.read(a), resamples=500)
    assert row(turned, "jtsc", "mean_iou").verdict == "A better"
    assert row(turned, "jtsc", "nc_relative_error").verdict == "A better"


def _with_whole_cells(folder, cells, parts=()):
    columns = (*MASKS, "iou_cell")
    none = dict.fromkeys(columns[3:9], "") | dict.fromkeys(columns[9:12], "")
    found = [row | {"iou_cell": 0.9} for row in masks(parts)]
    whole = masks(cells, "krd_wbc")
    return write(
        folder, found + [r | none | {"iou_cell": x} for r, x in zip(whole, cells)], columns
    )


def test_whole_cells_are_compared_by_the_cell(tmp_path):
    first, second = np.array([0.5, 0.6, 0.7, 0.8]), np.array([0.6, 0.65, 0.72, 0.81])
    for name, cells in (("a", first), ("b", second)):
        _with_whole_cells(tmp_path / name, cells)
        _with_whole_cells(tmp_path / f"{name}_mixed", cells, [0.7, 0.8])
    found = paired.compare(*(paired.read(tmp_path / name) for name in "ab"), resamples=50)
    assert [score.key for score in found.scores] == ["iou_cell"] and found.absent == ()
    assert row(found, "krd_wbc", "iou_cell").difference == pytest.approx((second - first).mean())
    assert "the cell IoU of B is 0.6950 and that of A 0.6500" in comparison.lead(found)[0]
    runs = [paired.read(tmp_path / f"{name}_mixed") for name in "ab"]
    found = paired.compare(*runs, resamples=50)
    keys = [score.key for score in found.scores]
    assert keys == [*(score.key for score in paired.SCORES["segmentation"]), "iou_cell"]
    assert row(found, "all", "iou_cell").images == 6 and row(found, "all", "mean_iou").images == 2
    assert row(found, "krd_wbc", "mean_iou").images == 0


def test_p_values_are_corrected_for_all_tests(pair):
    found = paired.compare(*map(paired.read, pair[:2]), resamples=50)
    p = [x.p for x in found.rows]
    assert len(p) == 18
    np.testing.assert_allclose([x.p_holm for x in found.rows], metrics.holm(p))
    assert "corrected for the 18 tests" in " ".join(comparison.notes(found))


def test_right_and_wrong_answers_are_tested_by_mcnemar(tmp_path):
    a = write(tmp_path / "a", types([1, 1, 1, 0, 0, 0, 0, 0, 0, 1]), TYPES)
    b = write(tmp_path / "b", types([1, 1, 0, 1, 1, 1, 1, 1, 1, 1], 0.8), TYPES)
    found = paired.compare(paired.read(a), paired.read(b))
    one = row(found, "pbc", "right")
    # B alone is right on 6 images, A alone on 1: 2 · (1 + 7) / 2⁷.
    assert (one.better, one.worse) == (6, 1)
    assert one.p == pytest.approx(2 * 8 / 128)
    np.testing.assert_allclose([one.first, one.second, one.difference], [0.4, 0.9, 0.5])
    given = row(found, "pbc", "true_probability")
    # Right: the probability given; wrong: a quarter of the rest.
    assert given.first == pytest.approx((4 * 0.6 + 6 * 0.1) / 10)
    assert given.second == pytest.approx((9 * 0.8 + 1 * 0.05) / 10)
    same = paired._mcnemar(np.array([1.0, 0.0]), np.array([1.0, 0.0]))
    assert same == 1


def test_a_run_is_not_called_better_where_mean_and_ranks_disagree():
    def verdict(**changes):
        values = {
            "dataset": "a", "score": paired.Score("x", "x"), "images": 9, "first": 0.0,
            "second": 0.0, "difference": 0.1, "low": 0.05, "high": 0.2, "median": 0.1,
            "better": 5, "worse": 1, "p": 0.001, "p_holm": 0.01,
        }  # fmt: skip
        return paired.Row(**(values | changes)).verdict

    assert verdict() == "B better"
    assert verdict(low=-0.01) == verdict(p_holm=0.06) == verdict(p_holm=np.nan) == ""
    assert verdict(difference=-0.1, low=-0.2, high=-0.01) == "A better"
    error = paired.Score("e", "e", lower_is_better=True)
    assert verdict(score=error) == "A better"


def test_scores_that_are_missing_or_not_finite(tmp_path):
    old = [column for column in MASKS if not column.startswith("bf_")]
    rows = masks([0.5, 0.6, 0.7])
    rows[0]["nc_relative_error"] = ""
    a = write(tmp_path / "a", [{k: v for k, v in row.items() if k in old} for row in rows], old)
    other = masks([0.6, 0.7, 0.9])
    other[1]["nc_relative_error"] = "inf"
    b = write(tmp_path / "b", other)
    found = paired.compare(paired.read(a), paired.read(b))
    assert found.absent == ("BF score", "MATLAB's BF")
    assert "lacks it: BF score, MATLAB's BF." in comparison.text(found)
    error = row(found, "jtsc", "nc_relative_error")
    assert error.images == 1 and error.difference == pytest.approx(-0.2)
    # A lacks the ratio of one image, B that of another: both are images that the truth has.
    assert (error.first_missed, error.second_missed) == (1, 1)
    assert comparison.cells(error)[7:9] == ("1", "1")
    none = masks([0.5], nc_relative_error="")
    same = paired.read(write(tmp_path / "none", none))
    empty = row(paired.compare(same, same), "jtsc", "nc_relative_error")
    assert empty.images == 0 and np.isnan([empty.p, empty.p_holm, empty.first]).all()
    assert comparison.cells(empty)[1:4] == ("–", "–", "–")


def test_what_a_run_misses_is_counted_and_does_not_raise_its_score(tmp_path):
    a = write(tmp_path / "a", masks([0.5, 0.6, 0.7, 0.8]))
    rows = masks([0.5, 0.6, 0.7, 0.8])
    # B sees nothing in the second and third image: MATLAB's value is that of the background.
    for row_ in rows[1:3]:
        row_ |= {"bf_score": 0.9, "bf_score_absent_as_zero": 0.3, "bf_one_sided_classes": 2}
        row_ |= {"nc_relative_error": "nan", "iou_nucleus": 0.0}
    # The truth of the last has no nucleus: no network can miss its ratio.
    for last in (rows[3], (other := masks([0.5, 0.6, 0.7, 0.8]))[3]):
        last |= {"truth_nucleus_px": 0, "nc_relative_error": "", "iou_nucleus": ""}
    a = write(tmp_path / "a", other)
    found = paired.compare(paired.read(a), paired.read(write(tmp_path / "b", rows)))
    bf, matlab, error, iou = (
        row(found, "jtsc", key)
        for key in ("bf_score_absent_as_zero", "bf_score", "nc_relative_error", "iou_nucleus")
    )
    assert (bf.first, bf.second) == pytest.approx((0.65, (0.5 + 0.3 + 0.3 + 0.8) / 4))
    assert (matlab.first, matlab.second) == pytest.approx((0.65, (0.5 + 0.9 + 0.9 + 0.8) / 4))
    assert bf.difference < 0 < matlab.difference
    assert (bf.first_missed, bf.second_missed) == (0, 0)
    assert (matlab.first_missed, matlab.second_missed) == (0, 2)
    assert (error.images, error.first_missed, error.second_missed) == (1, 0, 2)
    assert (iou.images, iou.first_missed, iou.second_missed) == (3, 0, 0)
    text = comparison.text(found)
    assert "A missed, B missed: number of images" in text
    assert [(r["score"], r["second_missed"]) for r in comparison.csv_rows(found)] == [
        ("mean_iou", 0), ("iou_cytoplasm", 0), ("iou_nucleus", 0), ("bf_score_absent_as_zero", 0),
        ("bf_score", 2), ("nc_relative_error", 2),
    ]  # fmt: skip
    # A table without the number of such classes does not say what MATLAB's value leaves out.
    columns = [column for column in MASKS if column != "bf_one_sided_classes"]
    old = write(tmp_path / "old", [{k: r[k] for k in columns} for r in other], columns)
    known = row(paired.compare(paired.read(old), paired.read(a)), "jtsc", "bf_score")
    assert (known.first_missed, known.second_missed) == (None, 0)
    assert comparison.cells(known)[7:9] == ("–", "0")


def test_ids_are_read_as_they_were_before_they_became_csv(tmp_path):
    ids = ["=1+2.png", "'=1", "-3", "'a'"]
    rows = [row | {"id": id} for row, id in zip(masks([0.5] * 4), ids)]
    atomic.write_csv(tmp_path / "report" / "per_image.csv", rows, MASKS)
    assert [id for _, id in paired.read(tmp_path).rows] == ids


def fails(words, *runs):
    with pytest.raises(paired.CompareError) as caught:
        found = [paired.read(run) for run in runs]
        paired.compare(*found)
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))


def test_errors_name_the_file_and_what_to_do(tmp_path):
    good = write(tmp_path / "good", masks([0.5, 0.6]))
    fails(["per_image.csv does not exist", "--mode=evaluate"], tmp_path / "nothing")
    typed = write(tmp_path / "typed", types([1, 0]), TYPES)
    fails(["good is a segmentation and", "typed a classification"], good, typed)
    apart = write(tmp_path / "apart", masks([0.5], "raabin"))
    fails(["no image in common", "2 images of jtsc", "1 images of raabin"], good, apart)
    twice = write(tmp_path / "twice", masks([0.5]) * 2)
    fails(["per_image.csv, line 3: jtsc cell-0 is listed twice"], twice)
    word = write(tmp_path / "word", masks([0.5]) + masks([0.6], "b", mean_iou="high"))
    fails(["line 3, mean_iou: 'high' is not a number"], word)
    larger = write(tmp_path / "larger", masks([0.5, 0.6], truth_nucleus_px=400))
    fails(["jtsc cell-0 has truth_nucleus_px 100 in", "and 400 in", "evaluate.size"], good, larger)
    other = write(tmp_path / "other", [{"dataset": "a", "id": "b"}], ("dataset", "id", "x"))
    fails(["has the columns dataset, id, x; needed are"], other)
    empty = tmp_path / "empty"
    (empty / "report").mkdir(parents=True)
    (empty / "report" / "per_image.csv").write_bytes(b"")
    fails(["has the columns (none)"], empty)
    (empty / "report" / "per_image.csv").write_bytes(b"\xff\xfe\x00")
    fails(["is no CSV file"], empty)
    short = [column for column in MASKS if column != "truth_nucleus_px"]
    rows = [{k: v for k, v in row.items() if k in short} for row in masks([0.5])]
    fails(["lacks the column truth_nucleus_px"], write(tmp_path / "short", rows, short))
    nameless = types([1])
    nameless[0]["label"] = -1
    fails(["line 2: label '-1' is not a type"], write(tmp_path / "x", nameless, TYPES))
