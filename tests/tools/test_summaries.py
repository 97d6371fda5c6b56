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
