"""Paper B's classification tables and figures from canned runs."""

import math

import numpy as np
import pytest
from sklearn import metrics as oracle

from helpers import paper_runs
from wbc_jax.labels import CELL_TYPES
from wbc_jax.papers import confusions, paper_b, plans
from wbc_jax.papers.paper_b_classification import NO_INDEPENDENT

JTSC, ZHENG = plans.STAND_INS.values()


def pooled():
    found = [paper_runs.probabilities(seed).argmax(1) for seed in (1, 2, 3)]
    return np.tile(paper_runs.labels(), 3), np.concatenate(found)


def test_table_4_is_of_the_pooled_test_images(built):
    truth, predicted = pooled()
    rows = paper_runs.rows_of(built["b", "table_4"])
    precision, recall, f1, _ = oracle.precision_recall_fscore_support(truth, predicted)
    for k, name in enumerate(CELL_TYPES):
        for column, values in (("precision", precision), ("recall", recall), ("F1", f1)):
            row = rows[name, column]
            assert row.ours.number == pytest.approx(values[k])
            assert row.ours.low <= values[k] <= row.ours.high
            assert row.difference == pytest.approx(values[k] - row.paper.number)
    overall = {r: rows["overall", f"accuracy: {name}"] for r, name in confusions.READINGS.items()}
    assert overall["plain"].ours.number == pytest.approx((truth == predicted).mean())
    assert overall["macro_recall"].ours.number == pytest.approx(recall.mean())
    assert {row.paper.value for row in overall.values()} == {"0.9803"}
    assert overall["plain"].recomputed.number == pytest.approx(0.97537, abs=1e-5)
    assert rows["lymphocyte", "accuracy"].recomputed.number == pytest.approx(0.98780, abs=1e-5)


def test_tables_by_source(built):
    rows = paper_runs.rows_of(built["b", "table_6"])
    for dataset, seed in (("Dataset 1", 1), ("Dataset 2 & 3", 2), ("Dataset 4", 3)):
        found = paper_runs.probabilities(seed).argmax(1)
        row = rows[dataset, "accuracy: share of right answers"]
        assert row.ours.number == pytest.approx((found == paper_runs.labels()).mean())
    assert rows["Dataset 5", "accuracy: mean recall"].reason == NO_INDEPENDENT
    own = paper_runs.rows_of(built["b", "table_7"])
    for number, dataset in enumerate(("Dataset 1", "Dataset 2 & 3", "Dataset 4")):
        found = paper_runs.probabilities(30 + number, 0.8).argmax(1)
        recall = oracle.recall_score(paper_runs.labels(), found, average="macro")
        assert own[dataset, "recall"].ours.number == pytest.approx(recall)


def test_stand_ins_have_columns_of_their_own_and_fill_no_cell(built):
    for item in ("table_5", "table_8"):
        for row in built["b", item].rows:
            assert not row.ours.known
            assert list(row.stand_ins) == [JTSC, ZHENG]
    row = paper_runs.rows_of(built["b", "table_5"])["overall", "accuracy: share of right answers"]
    for seed, name in ((20, JTSC), (21, ZHENG)):
        found = paper_runs.probabilities(seed, 0.3).argmax(1)
        assert row.stand_ins[name].number == pytest.approx((found == paper_runs.labels()).mean())
    row = paper_runs.rows_of(built["b", "table_8"])["Dataset 4", "accuracy: share of right answers"]
    found = paper_runs.probabilities(45, 0.2).argmax(1)
    right = (found == paper_runs.labels()).mean()
    assert row.stand_ins[ZHENG].number == pytest.approx(right)


def test_independent_images_fill_the_cells_where_they_are_there(tmp_path):
    lisc, bcd = paper_runs.type_scores(50), paper_runs.type_scores(51)
    external = {"lisc/crops": lisc, "bcd/crops": bcd}
    paper_runs.write(tmp_path, "classifier", {"pbc": paper_runs.type_scores(1)}, external)
    compared = paper_b.ITEMS["table_5"].build(paper_runs.store(tmp_path))
    row = paper_runs.rows_of(compared)["overall", "accuracy: share of right answers"]
    matrix = np.add(lisc["confusion"], bcd["confusion"])
    assert row.ours.number == pytest.approx(np.trace(matrix) / matrix.sum())
    assert not row.reason


def test_figures_7_and_8(built, folder):
    matrix = sum(
        np.asarray(result["confusion"])
        for result in paper_runs.summary(folder, "classifier")["results"].values()
    )
    rows = paper_runs.rows_of(built["b", "figure_7"])
    row = rows["monocyte", "taken for neutrophil"]
    assert (row.paper.value, row.ours.number) == ("8", matrix[3, 4])
    assert math.isnan(row.difference)
    share = rows["monocyte", "taken for neutrophil, share"]
    assert share.recomputed.number == pytest.approx(100 * 8 / 675)
    assert share.ours.number == pytest.approx(100 * matrix[3, 4] / matrix[3].sum())
    assert share.difference == pytest.approx(share.ours.number - share.recomputed.number)
    rows = paper_runs.rows_of(built["b", "figure_8"])
    assert rows["lymphocyte", "taken for lymphocyte"].recomputed.number == 68
    assert rows["all types", "taken for lymphocyte"].recomputed.number == 68 + 13
    assert not rows["lymphocyte", "taken for basophil"].recomputed.known


def test_table_3_counts_what_the_run_was_tested_on(built):
    rows = paper_runs.rows_of(built["b", "table_3"])
    assert rows["basophil", "test"].ours.number == 3 * paper_runs.PER_TYPE
    assert rows["total", "test"].ours.number == 3 * 5 * paper_runs.PER_TYPE
    assert not rows["basophil", "train"].ours.known  # the records are not there
    assert "cannot be read" in rows["basophil", "train"].reason
    assert rows["basophil", "independent"].stand_ins[JTSC].number == paper_runs.PER_TYPE
    assert not rows["basophil", "train"].stand_ins[JTSC].known


def test_networks_of_one_data_set_are_tested_across(tmp_path):
    """Each column of Table 8 is a data set; its own network has no number there."""
    pbc, raabin = paper_runs.type_scores(60), paper_runs.type_scores(61)
    own = paper_runs.type_scores(1)
    paper_runs.write(tmp_path, "classifier_dataset_1", {"pbc": own}, {"raabin_wbc/crops": raabin})
    paper_runs.write(tmp_path, "classifier_dataset_2_3", {"raabin_wbc/crops": own}, {"pbc": pbc})
    compared = paper_b.ITEMS["table_8"].build(paper_runs.store(tmp_path))
    rows = paper_runs.rows_of(compared)
    column = "accuracy: share of right answers"
    assert compared.stand_ins == [
        JTSC, ZHENG, "Dataset 1 (pbc)", "Dataset 2 & 3 (raabin_wbc/crops)",
    ]  # fmt: skip
    for trained, tested, found in (
        ("Dataset 1", "Dataset 2 & 3 (raabin_wbc/crops)", raabin),
        ("Dataset 2 & 3", "Dataset 1 (pbc)", pbc),
    ):
        row, matrix = rows[trained, column], np.asarray(found["confusion"])
        known = {name for name, value in row.stand_ins.items() if value.known}
        assert known == {tested}
        assert row.stand_ins[tested].number == pytest.approx(np.trace(matrix) / matrix.sum())
        assert not row.ours.known and row.reason == NO_INDEPENDENT
    assert not rows["Dataset 4", column].stand_ins
