"""wbc_jax.report.run: the report of a run."""

import csv
import json

import numpy as np
import pytest

import wbc_jax
from helpers import tiny_runs
from wbc_jax.data import pipeline
from wbc_jax.report import run as run_report


def test_the_masks_shown_are_the_worst_and_some_of_each_better():
    assert run_report.spread_places(5) == [0, 1, 2, 3, 4]
    assert run_report.spread_places(48) == list(range(48))
    for images in (49, 279, 5000):
        places = run_report.spread_places(images)
        assert len(places) == len(set(places)) == 48 and places == sorted(places)
        assert places[:16] == list(range(16)) and places[-1] == images - 1
        steps = np.diff(places[16:])
        assert steps.max() - steps.min() <= 1


def test_the_report_of_a_classification(typed_run):
    report = json.loads((typed_run.workdir / "report" / "metrics.json").read_text())
    found = report["results"][tiny_runs.DATASET]
    test = pipeline.load_splits(typed_run.config.data, 0, "classification")["test"]
    # The oracle: the loaded model's predictions, counted here.
    loaded = wbc_jax.load(typed_run.workdir)
    predictions = loaded.predict([test[i]["image"] for i in range(20)])
    confusion = np.zeros((5, 5), int)
    for label, prediction in zip(test.labels, predictions):
        confusion[label, prediction.label] += 1
    assert found["confusion"] == confusion.tolist()
    assert found["accuracy"] == pytest.approx(np.trace(confusion) / 20)
    assert (report["task"], report["model"]) == ("classification", "classifier")
    # 4 test cells and 7 training cells of each type: the baseline predicts the first type.
    assert report["baseline"][tiny_runs.DATASET]["accuracy"] == pytest.approx(4 / 20)
    with open(typed_run.workdir / "report" / "per_image.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["label"]) for row in rows] == test.labels.tolist()
    assert [int(row["predicted"]) for row in rows] == [p.label for p in predictions]
    for row, prediction in zip(rows, predictions):
        assert float(row["probability"]) == pytest.approx(prediction.probabilities.max(), abs=1e-4)
    page = (typed_run.workdir / "report" / "index.html").read_text()
    missed = sum(row["right"] == "False" for row in rows)
    assert f"{missed} cell" in page and "Calibration" in page
