"""wbc_jax.evaluate.cell_types: scores by hand and against scikit-learn."""

import math
import types

import numpy as np
import pytest
import sklearn.metrics

from wbc_jax.evaluate import cell_types
from wbc_jax.labels import CELL_TYPES

# Five types, six cells: one eosinophil taken for a basophil, one monocyte for a lymphocyte.
LABELS = np.array([0, 1, 1, 2, 3, 4])
PREDICTED = np.array([0, 0, 1, 2, 2, 4])


def _probabilities(predicted, sure=0.6):
    found = np.full((len(predicted), 5), (1 - sure) / 4)
    found[np.arange(len(predicted)), predicted] = sure
    return found


def _examples(datasets, labels):
    sources = {
        name: types.SimpleNamespace(
            name=name,
            ids=[f"{name}{n}" for n in range(len(labels))],
            labels=np.asarray(labels),
            label_sources=["expert"] * len(labels),
        )
        for name in datasets
    }
    return types.SimpleNamespace(
        entries=[(sources[name], n) for n, name in enumerate(datasets)],
        datasets=list(datasets),
        labels=np.asarray(labels, np.int64),
    )


def test_summarize_by_hand():
    found = cell_types.summarize(LABELS, _probabilities(PREDICTED))
    assert found["images"] == 6
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["macro_recall"] == pytest.approx((1 + 0.5 + 1 + 0 + 1) / 5)
    # Precision of basophils and lymphocytes is 1/2; of monocytes, never predicted, undefined.
    assert found["macro_precision"] == pytest.approx((0.5 + 1 + 0.5 + 1) / 4)
    assert found["macro_precision_absent_as_zero"] == pytest.approx((0.5 + 1 + 0.5 + 0 + 1) / 5)
    assert found["types_never_predicted"] == 1
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 2 / 3 + 0 + 1) / 5)
    assert found["mean_one_vs_rest_accuracy"] == pytest.approx((5 / 6 * 4 + 1) / 5)
    basophil = found["by_type"]["basophil"]
    assert (basophil["images"], basophil["recall"], basophil["precision"]) == (1, 1, 0.5)
    assert basophil["specificity"] == pytest.approx(4 / 5)
    assert basophil["balanced_accuracy"] == pytest.approx((1 + 4 / 5) / 2)
    assert math.isnan(found["by_type"]["monocyte"]["precision"])
    assert found["by_type"]["neutrophil"]["auroc"] == 1
    # Every answer is given with 0.6, four of six are right.
    assert found["expected_calibration_error"] == pytest.approx(4 / 6 - 0.6)
    assert found["confusion"] == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 0, 1],
    ]
    assert "intervals" not in found


def test_intervals_are_those_of_resampled_images():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 80)
    predicted = np.where(rng.random(80) < 0.8, labels, rng.integers(0, 5, 80))
    found = cell_types.summarize(labels, _probabilities(predicted), bootstrap=4000, seed=1)
    other = np.random.default_rng(2)
    draws = [other.integers(0, 80, 80) for _ in range(4000)]
    expected = {
        "accuracy": [sklearn.metrics.accuracy_score(labels[d], predicted[d]) for d in draws],
        "macro_recall": [
            sklearn.metrics.recall_score(labels[d], predicted[d], average="macro")
            for d in draws[:1500]
        ],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(
            found["intervals"][name], np.percentile(values, (2.5, 97.5)), atol=0.012
        )
    recall = found["by_type"]["monocyte"]["intervals"]["recall"]
    assert recall[0] < found["by_type"]["monocyte"]["recall"] < recall[1]
    again = cell_types.summarize(labels, _probabilities(predicted), bootstrap=50, seed=3)
    assert again == cell_types.summarize(labels, _probabilities(predicted), bootstrap=50, seed=3)


def test_results_by_data_set():
    examples = _examples(["b", "b", "a", "a", "b", "a"], LABELS)
    found = cell_types.results(_probabilities(PREDICTED), examples, bootstrap=0)
    assert list(found) == ["b", "a", "all"]
    np.testing.assert_equal(
        found["b"], cell_types.summarize(LABELS[[0, 1, 4]], _probabilities(PREDICTED[[0, 1, 4]]))
    )
    assert found["all"]["images"] == 6


def test_validation_weighs_data_sets_and_types_alike():
    examples = _examples(["large"] * 5 + ["small"], LABELS)
    found = cell_types.validation(_probabilities(PREDICTED), examples)
    assert found["score"] == pytest.approx(((1 + 0.5 + 1 + 0) / 4 + 1) / 2)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["loss"] == pytest.approx(-(4 * math.log(0.6) + 2 * math.log(0.1)) / 6)
    nothing = cell_types.validation(np.zeros((0, 5)), _examples([], []))
    assert math.isnan(nothing["score"]) and math.isnan(nothing["loss"])


def test_training_summary():
    counts = np.diag([3, 1, 0, 0, 0])
    counts[1, 0] = 1
    found = cell_types.training_summary(counts)
    assert found == pytest.approx({"accuracy": 4 / 5, "macro_recall": (1 + 0.5) / 2})


def test_rows():
    found = cell_types.rows(
        _probabilities(PREDICTED), _examples(["a", "b", "a", "a", "a", "a"], LABELS)
    )
    assert all(tuple(row) == cell_types.ROW_COLUMNS for row in found)
    assert found[1] == {
        "dataset": "b",
        "id": "b1",
        "label": 1,
        "predicted": 0,
        "right": False,
        "probability": pytest.approx(0.6),
        "label_source": "expert",
        "probability_basophil": pytest.approx(0.6),
        **{f"probability_{name}": pytest.approx(0.1) for name in CELL_TYPES[1:]},
    }
    assert [row["right"] for row in found] == [True, False, True, True, False, True]


def test_measure_leaves_out_the_padding():
    class Examples(list):
        pass

    examples = Examples(
        {"image": np.full((4, 4, 3), i, np.uint8), "label": np.int32(0)} for i in range(5)
    )
    seen = []

    def predict(images):
        seen.append(images.shape)
        return _probabilities(images[:, 0, 0, 0] % 5)

    found = cell_types.measure(predict, examples, 2)
    assert seen == [(2, 4, 4, 3)] * 3
    np.testing.assert_array_equal(found.argmax(1), [0, 1, 2, 3, 4])
