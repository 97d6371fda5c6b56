"""Summaries keep what documents and model cards cite, and nothing by bin or by pixel."""

import json
import pathlib

import pytest

import summaries

RESULTS = pathlib.Path(__file__).resolve().parents[2] / "results"

ROW = {
    "images": 2,
    "mean_iou": 0.12345678,
    "iou": {"background": 0.5, "cytoplasm": None, "nucleus": 2 / 3},
    "recall": {"background": 1.0},
    "confusion": [[3, 0, 0], [0, 2, 0], [0, 0, 1]],
    "bf_score": {"mean": 0.25, "nucleus": 0.5, "absent_on_one_side": {"nucleus": 1}},
    "intervals": {"mean_iou": [0.1, 0.2], "iou_nucleus": [0.6, 0.7]},
}
KEPT = {
    "images": 2,
    "mean_iou": 0.123457,
    "iou": {"background": 0.5, "cytoplasm": None, "nucleus": 0.666667},
    "bf_score": {"mean": 0.25},
    "intervals": {"mean_iou": [0.1, 0.2]},
}


def test_the_bf_score_is_matlabs_where_a_summary_holds_no_other():
    old = {"bf_score": {"mean": 0.9}, "intervals": {"bf_score_mean": [0.8, 0.95]}}
    new = {
        "bf_score": {"mean": 0.9, "mean_absent_as_zero": 0.5, "images_left_out": 4, "nucleus": 1},
        "intervals": {"bf_score_mean": [0.8, 0.95], "bf_score_mean_absent_as_zero": [0.4, 0.6]},
    }
    key, value = summaries.SCORES["segmentation"]["BF score"]
    assert (value(old), summaries.intervals(old)[key]) == (0.9, [0.8, 0.95])
    assert (value(new), summaries.intervals(new)[key]) == (0.5, [0.4, 0.6])
    kept = summaries.summarize({"task": "segmentation", "results": {"a": new}})["results"]["a"]
    assert kept == new | {"bf_score": {k: v for k, v in new["bf_score"].items() if k != "nucleus"}}


def test_a_segmentation_report():
    report = {
        "command": "train",
        "config": {"optimizer": {"learning_rate": 1e-7}},
        "task": "segmentation",
        "results": {
            "some": ROW | {"by_type": {"monocyte": ROW, "basophil": {"images": 0}}},
        },
        "baseline": {"some": ROW | {"by_type": {"monocyte": ROW}}},
        "calibration": {"some": {"pixels": [1, 2]}},
    }
    assert summaries.summarize(report) == {
        "command": "train",
        "config": {"optimizer": {"learning_rate": 1e-7}},
        "task": "segmentation",
        "results": {"some": KEPT | {"by_type": {"monocyte": KEPT}}},
        "baseline": {"some": KEPT},
    }


def test_a_classification_report():
    confusion = [[1, 0], [1, 2]]
    kind = {"images": 1, "recall": 1.0, "specificity": 0.5, "intervals": {"recall": [0.5, 1.0]}}
    row = {"images": 4, "accuracy": 0.75, "confusion": confusion, "by_type": {"monocyte": kind}}
    report = {"task": "classification", "results": {"some": row}}
    kept = {"images": 1, "recall": 1.0, "intervals": {"recall": [0.5, 1.0]}}
    assert summaries.summarize(report)["results"] == {
        "some": row | {"by_type": {"monocyte": kept}},
    }


def test_the_file_is_json_with_a_line_an_object(tmp_path):
    summaries.write(
        tmp_path / "one.json", {"a": {"b": {"c": [1, 2], "d": None}, "e": 3}, "f": float("nan")}
    )
    assert (tmp_path / "one.json").read_text().splitlines() == [
        "{",
        '  "a": {',
        '    "b": {"c": [1, 2], "d": null},',
        '    "e": 3',
        "  },",
        '  "f": null',
        "}",
    ]


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_the_results_are_summaries(path):
    result = json.loads(path.read_text())
    if "task" in result:  # else the figures of `wbc_jax.abstain --score`
        assert summaries.summarize(result) == result
        assert result["command"].startswith("python -m wbc_jax.") and result["commit"]
