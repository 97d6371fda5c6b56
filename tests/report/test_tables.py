import math

import numpy as np
import pytest

from wbc_jax.labels import CELL_TYPES, MASK_CLASSES
from wbc_jax.report import tables


def result(images=40, **changes):
    found = {
        "images": images,
        "global_accuracy": 0.98765,
        "mean_accuracy": 0.9512,
        "mean_iou": 0.9004,
        "weighted_iou": 0.9333,
        "iou": {"background": 0.99, "cytoplasm": 0.8126, "nucleus": 0.9},
        "dice": {"background": 0.995, "cytoplasm": 0.8966, "nucleus": 0.9474},
        "confusion": [[90, 10, 0], [5, 95, 0], [0, 1, 99]],
        "intervals": {"mean_iou": [0.88, 0.9151], "nc_median_relative_error": [0.04, 0.08]},
        "bf_score": {
            "mean": 0.7345,
            "nucleus": 0.8,
            "mean_absent_as_zero": 0.6543,
            "images_left_out": 3,
        },
        "nc": {
            "images": 37,
            "median_relative_error": 0.0561,
            "spearman": 0.954,
            "flagged": 3,
            "missed": 2,
        },
    }
    return {**found, **changes}


def test_results_table_writes_every_number_in_its_column():
    text = tables.results_table({"all": result(1240), "jtsc": result(), "blood cells": result(7)})
    groups, heads, rule, *rows = text.split("\n")
    assert set(rule) == {"-"} and len(rule) == len(heads)
    assert [row[:11].strip() for row in rows] == ["jtsc", "blood cells", "all"]
    assert " ".join(heads.split()) == (
        "data set images global mean mean [95 % interval] weighted backgr. cytopl. nucleus "
        "cytopl. nucleus mean MATLAB's left out error Spearman images missed"
    )
    assert " ".join(rows[0][11:].split()) == (
        "40 0.988 0.951 0.900 [0.880, 0.915] 0.933 0.990 0.813 0.900 0.897 0.947 0.654 0.735 "
        "3 5.6 % 0.954 37 2"
    )
    assert rows[2][11:].split()[0] == "1,240"
    for word, value in (("images", "40"), ("weighted", "0.933"), ("Spearman", "0.954")):
        end = heads.index(word) + len(word)
        assert rows[0][:end].endswith(f" {value}")
    assert groups.index("Dice") > heads.index("cytopl.")
    assert {len(row) for row in rows} == {len(heads)}


def test_columns_of_whole_cells_stand_where_there_are_such_images():
    ends = {"mean_iou": [0.88, 0.9151], "iou_cell": [0.9, 0.96]}
    cells = result(3, mean_iou=None, iou_cell=0.9349, dice_cell=0.9663, cell_only_images=3)
    mixed = result(43, iou_cell=0.95, dice_cell=0.97, cell_only_images=3, intervals=ends)
    scores = {"jtsc": result(iou_cell=0.777, dice_cell=0.888, cell_only_images=0)}
    assert [c.key for c in tables.shown(tables.COLUMNS, tables.result_rows(scores))] == [
        c.key for c in tables.COLUMNS if c.key not in ("cell_only_images", "iou_cell", "dice_cell")
    ]
    plain = tables.results_table(scores)
    assert " cell " not in plain and "0.777" not in plain
    scores |= {"krd_wbc": cells, "all": mixed}
    _, heads, _, *rows = tables.results_table(scores).split("\n")
    assert " ".join(heads.split()) == (
        "data set images whole global mean mean [95 % interval] weighted backgr. cytopl. nucleus "
        "cell cytopl. nucleus cell mean MATLAB's left out error Spearman images missed"
    )
    first, second = (rows[0].split(), rows[1].split())
    assert first[:3] == ["jtsc", "40", "0"]
    assert second[:3] == ["krd_wbc", "3", "3"]
    for row, iou, dice in ((first, "0.777", "0.888"), (second, "0.935", "0.966")):
        assert iou in row and dice in row
    # The mean IoU of whole cells is a dash, and the interval of `all` is that of its own score.
    assert rows[1][: heads.index("[95")].split()[-1] == tables.DASH
    row = tables.result_rows(scores)[-1]
    assert (row["iou_cell_low"], row["iou_cell_high"]) == (0.9, 0.96)
    assert row["dice_cell_low"] is None
    summary = {"task": "segmentation", "results": scores, "eval_size": 256, "baseline": {}}
    summary |= {"baseline_name": "Otsu", "external": {}, "skipped": {}}
    assert "Whole cells: number of images" in tables.text(summary)
    assert "Whole cells" not in tables.text(summary | {"results": {"jtsc": scores["jtsc"]}})


def test_missing_values_are_dashes_and_keep_the_columns():
    holes = result(
        mean_iou=None,
        intervals={},
        nc={"median_relative_error": math.nan},
        iou={},
        dice=None,
        bf_score=None,
    )
    text = tables.results_table({"a": result(), "b": holes, "c": {}})
    _, heads, _, first, second, third = text.split("\n")
    assert second[1:].split() == ["40", "0.988", "0.951", "–", "0.933", *"–" * 12]
    assert third.split() == ["c", *"–" * 17]
    assert len(first) == len(second) == len(third) == len(heads)
    for word in ("weighted", "Spearman"):
        assert third[: heads.index(word) + len(word)].endswith(" –")


def test_no_results_is_no_table():
    assert tables.results_table({}) == ""
    assert tables.type_table({}) == ""
    assert tables.type_table({"all": result()}) == ""


def test_type_table_follows_the_vocabulary():
    by_type = {"unknown": result(3), "neutrophil": result(9), "basophil": result(1)}
    results = {"jtsc": result(by_type={"monocyte": result(2)}), "all": result(by_type=by_type)}
    assert [row["type"] for row in tables.type_rows(results)] == [
        "basophil",
        "neutrophil",
        "unknown",
    ]
    assert [row["images"] for row in tables.type_rows(results)] == [1, 9, 3]
    assert [row["type"] for row in tables.type_rows(results, "jtsc")] == ["monocyte"]
    # Without `all`, the only data set is meant.
    assert [row["type"] for row in tables.type_rows({"jtsc": results["jtsc"]})] == ["monocyte"]
    assert "basophil" in tables.type_table(results).split("\n")[3]


def test_rows_are_flat_and_unrounded():
    bf_ends = {"bf_score_mean": [0.7, 0.8], "bf_score_mean_absent_as_zero": [0.6, 0.7]}
    (row,) = tables.result_rows({"jtsc": result(intervals=bf_ends)})
    assert (row["bf_score_low"], row["bf_score_high"]) == (0.6, 0.7)
    assert (row["bf_score_matlab_low"], row["bf_score_matlab_high"]) == (0.7, 0.8)
    ends = {"iou_nucleus": [0.88, 0.91], "dice_cytoplasm": [0.85, 0.9], "global_accuracy": [0, 1]}
    (row,) = tables.result_rows({"jtsc": result(intervals=result()["intervals"] | ends)})
    assert row["mean_iou"] == 0.9004
    assert {k: [row[f"{k}_low"], row[f"{k}_high"]] for k in ends} == ends
    assert row["weighted_iou_low"] is row["bf_score_high"] is None
    assert (row["mean_iou_low"], row["mean_iou_high"]) == (0.88, 0.9151)
    assert (row["nc_error"], row["nc_error_low"], row["nc_error_high"]) == (0.0561, 0.04, 0.08)
    assert (row["nc_images"], row["nc_flagged"], row["nc_spearman"]) == (37, 3, 0.954)
    assert (row["bf_score"], row["bf_score_matlab"], row["bf_left_out"]) == (0.6543, 0.7345, 3)
    assert row["nc_missed"] == 2
    for name in MASK_CLASSES:
        assert row[f"iou_{name}"] == result()["iou"][name]
        assert row[f"dice_{name}"] == result()["dice"][name]
    assert {column.key for column in tables.COLUMNS} <= set(row)
    for broken in (None, [0.1], [None, 0.5]):
        (row,) = tables.result_rows({"a": result(intervals={"mean_iou": broken})})
        assert tables.interval(row["mean_iou_low"], row["mean_iou_high"]) == ""


def test_agreement_row_is_that_of_the_images_with_a_ratio():
    pairs = [(0.5, 0.6), (1.0, 0.9), (2.0, 2.2), (4.0, 3.0)]
    rows = [{"truth_nc_ratio": str(t), "nc_ratio": f} for t, f in pairs]
    rows += [{"truth_nc_ratio": "inf", "nc_ratio": 1.0}, {"truth_nc_ratio": "", "nc_ratio": 0.0}]
    row = tables.agreement_row(rows)
    logs = [math.log(f / t) for t, f in pairs]
    mean = sum(logs) / 4
    spread = math.sqrt(sum((x - mean) ** 2 for x in logs) / 3)
    assert row["images"] == 4
    assert row["bias"] == pytest.approx(math.expm1(mean))
    assert row["lower"] == pytest.approx(math.expm1(mean - 1.959964 * spread), rel=1e-5)
    assert row["upper"] == pytest.approx(math.expm1(mean + 1.959964 * spread), rel=1e-5)
    assert row["lower_low"] < row["lower"] < row["lower_high"]
    assert row["bias_low"] < row["bias"] < row["bias_high"]
    # Plain differences 0.1, −0.1, 0.2, −1 lie 0.3, 0.1, 0.4, 0.8 from their mean: ranks 2 1 3 4.
    assert row["plain_trend"] == pytest.approx(0.8)
    assert {column.key for column in tables.AGREEMENT_COLUMNS} <= set(row)
    empty = tables.agreement_row([])
    assert empty.pop("images") == 0 and set(empty.values()) == {None}


def typed_result(**changes):
    by_type = {
        "images": 8,
        "recall": 0.875,
        "precision": 0.9333,
        "specificity": 0.99,
        "f1": 0.9032,
        "one_vs_rest_accuracy": 0.97,
        "balanced_accuracy": 0.9325,
        "auroc": 0.9991,
        "intervals": {"recall": [0.6, 1.0]},
    }
    found = {
        "images": 40,
        "accuracy": 0.925,
        "macro_recall": 0.9012,
        "macro_precision": 0.9876,
        "macro_precision_absent_as_zero": 0.9101,
        "macro_f1": 0.9055,
        "mean_one_vs_rest_accuracy": 0.97,
        "mean_balanced_accuracy": 0.9411,
        "macro_auroc": 0.9912,
        "expected_calibration_error": 0.0321,
        "confusion": [[1200 if i == j else i for j in range(5)] for i in range(5)],
        "intervals": {"accuracy": [0.85, 1.0]},
        "by_type": {"monocyte": by_type, "basophil": by_type},
    }
    return {**found, **changes}


def test_tables_of_a_classification():
    text = tables.results_table({"pbc": typed_result(), "b": {}}, "classification")
    _, heads, _, first, second = text.split("\n")
    assert " ".join(heads.split()) == (
        "data set images accuracy [95 % interval] recall precision F1 1-vs-rest balanced AUROC ECE"
    )
    assert " ".join(first.split()) == (
        "pbc 40 0.925 [0.850, 1.000] 0.901 0.910 0.905 0.970 0.941 0.991 3.2 %"
    )
    assert second.split() == ["b", *"–" * 9]
    text = tables.type_table({"pbc": typed_result()}, task="classification")
    heads, _, first, second = text.split("\n")
    assert first.split()[0] == "basophil" and second.split()[0] == "monocyte"
    assert " ".join(second.split()) == (
        "monocyte 8 0.875 [0.600, 1.000] 0.933 0.990 0.903 0.970 0.932 0.999"
    )
    assert " ".join(heads.split()).startswith("cell type images recall [95 % interval] precision")


def test_confusion_table():
    text = tables.confusion_table(typed_result()["confusion"], CELL_TYPES)
    head, rule, *rows = text.split("\n")
    assert head.split() == ["truth", "\\", "prediction", *CELL_TYPES]
    assert rows[2].split() == ["lymphocyte", "2", "2", "1,200", "2", "2"]
    assert {len(row) for row in rows} == {len(head), len(rule)}


def test_the_text_at_the_end_of_a_run():
    summary = {
        "task": "classification",
        "eval_size": 256,
        "results": {"pbc": typed_result()},
        "baseline": {"pbc": typed_result(accuracy=0.2)},
        "baseline_name": "Always the same",
        "external": {"lisc": typed_result()},
        "skipped": {"bcd": "no cell types"},
    }
    heads = [part.split("\n")[0] for part in tables.text(summary).split("\n\n")]
    assert heads == [
        "Test split:",
        "By cell type:",
        "Images by true and predicted type:",
        "Always the same, same images:",
        "Data sets that training never saw:",
    ]
    assert tables.text(summary).endswith("  bcd: no cell types")
    summary |= {"task": "segmentation", "results": {"jtsc": result()}}
    summary |= {"baseline": {"jtsc": result()}, "external": {}, "skipped": {}}
    heads = [part.split("\n")[0] for part in tables.text(summary).split("\n\n")]
    assert heads == ["Test split, scored at 256 x 256:", "Always the same, same images:"]
    said = " ".join(tables.text(summary).split())
    assert "only the truth has (a miss) or only the prediction has counts as 0. MATLAB's" in said


@pytest.mark.parametrize(
    "form, value, text",
    [
        (tables.decimal, 0.12345, "0.123"),
        (tables.decimal, None, "–"),
        (tables.decimal, "", "–"),
        (tables.decimal, math.inf, "inf"),
        (tables.percent, 0.0561, "5.6 %"),
        (tables.percent, math.nan, "–"),
        (tables.signed_percent, 0.0512, "+5.1 %"),
        (tables.signed_percent, -0.25, "−25.0 %"),
        (tables.signed_percent, -0.0001, "0.0 %"),
        (tables.signed_percent, None, "–"),
        (tables.p_value, 0.0123, "= 0.012"),
        (tables.p_value, 0.0000123, "< 0.001"),
        (tables.p_value, math.nan, "–"),
        (tables.count, 1941107, "1,941,107"),
        (tables.count, None, "–"),
    ],
)
def test_formats(form, value, text):
    assert form(value) == text


def test_interval_names_its_unit_once():
    assert tables.interval(0.041, 0.079, tables.percent) == "[4.1, 7.9 %]"
    assert tables.interval(0.88, 0.9151) == "[0.880, 0.915]"


def test_rows_of_a_confusion_matrix_become_fractions():
    found = tables.row_fractions([[3, 1], [0, 0]])
    np.testing.assert_array_equal(found, [[0.75, 0.25], [np.nan, np.nan]])
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        tables.row_fractions([[1, 0]])
