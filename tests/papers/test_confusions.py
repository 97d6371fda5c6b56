"""Counts behind paper B's tables, against scikit-learn and hand-computed ones."""

import numpy as np
import pytest
from sklearn import metrics as oracle

from wbc_jax.labels import CELL_TYPES
from wbc_jax.papers import confusions


def test_figure_7_is_as_printed():
    matrix = confusions.figure_7()
    assert matrix.sum(1).tolist() == [438, 1214, 1699, 675, 4255]
    assert np.diagonal(matrix).tolist() == [426, 1195, 1643, 637, 4176]
    assert matrix[4].tolist() == [2, 55, 7, 15, 4176]
    assert matrix[0, 1] == matrix[1, 0] == 0


def test_table_is_scikit_learns():
    matrix = confusions.figure_7()
    truth, predicted = (np.repeat(i.ravel(), matrix.ravel()) for i in np.indices(matrix.shape))
    precision, recall, f1, _ = oracle.precision_recall_fscore_support(truth, predicted)
    counts = confusions.of_matrix(matrix)
    found = confusions.table(counts)
    for k, name in enumerate(CELL_TYPES):
        assert found[name, "precision"] == pytest.approx(precision[k])
        assert found[name, "recall"] == pytest.approx(recall[k])
        assert found[name, "F1"] == pytest.approx(f1[k])
        others = oracle.recall_score(truth != k, predicted != k)
        assert found[name, "specificity"] == pytest.approx(others)
        accuracy = oracle.accuracy_score(truth == k, predicted == k)
        assert found[name, "accuracy"] == pytest.approx(accuracy)
    assert found["overall", "recall"] == pytest.approx(recall.mean())
    readings = confusions.readings(counts)
    assert readings["plain"] == pytest.approx(oracle.accuracy_score(truth, predicted))
    assert readings["macro_recall"] == pytest.approx(
        oracle.balanced_accuracy_score(truth, predicted)
    )
    assert set(readings) == set(confusions.READINGS)


def test_counts_behind_table_5():
    counts = confusions.behind_table_5()
    assert counts.hits.tolist() == [46, 66, 68, 46, 75]
    assert counts.false_alarms.tolist() == [0, 0, 13, 2, 7]
    assert counts.support.tolist() == [53, 72, 71, 52, 75]
    # Every cell has one prediction: a miss of one type is a false alarm of another.
    assert (counts.support - counts.hits).sum() == counts.false_alarms.sum() == 22
    assert confusions.readings(counts)["plain"] == 301 / 323


def test_against_rest():
    counts = confusions.of_matrix(np.array([[3, 1], [2, 4]]))
    assert counts.against_rest().tolist() == [[[4, 2], [1, 3]], [[3, 1], [2, 4]]]


def test_harmonic():
    assert confusions.harmonic(0.5, 1.0) == pytest.approx(2 / 3)
    assert confusions.harmonic(0, 0) == 0
