"""Paper A's tables and text from canned runs."""

import numpy as np
import pytest

from helpers import paper_runs
from wbc_jax.papers import paper_a


def test_paper_a_recomputes_its_rows(built):
    rows = paper_runs.rows_of(built["a", "table_2"])
    row = rows["figure 21", "N/C"]
    assert row.recomputed.number == 15770 / 27061
    assert row.reason == paper_a.NOT_PUBLISHED
    verdict = rows["figure 21", "verdict"]
    assert (verdict.paper.value, verdict.recomputed.word) == ("healthy", "unhealthy")
    assert (
        paper_runs.rows_of(built["a", "table_4"])["figure 39", "verdict"].recomputed.word
        == "nothing said"
    )
    said = built["a", "table_3"].contradictions
    assert "The pixel ratio does not follow from the counts in the row of figure 24." in said
    assert "The verdict is not what the text's ranges give in the row of figure 24." in said


def test_paper_a_beside_our_cells_and_the_experts(built):
    images = [r for r in paper_runs.mask_rows(3, "raabin_gt", 25) if r["label"] == 4]
    rows = paper_runs.rows_of(built["a", "table_1"])
    row = rows["all neutrophils", "median N/C"]
    ours, truth = ([r[k] for r in images] for k in ("nc_ratio", "truth_nc_ratio"))
    assert row.ours.number == pytest.approx(np.median(ours), rel=1e-5)
    assert row.stand_ins[paper_a.EXPERT].number == pytest.approx(np.median(truth), rel=1e-5)
    assert row.recomputed.number == 14870 / 13819  # figure 3 is in the middle
    row = rows["all neutrophils", "called healthy"]
    assert row.ours.number == pytest.approx(np.mean(np.array(ours) <= 1.5))
    assert row.recomputed.number == pytest.approx(6 / 11)
    basophil = paper_runs.rows_of(built["a", "table_3"])["all basophils", "median N/C"]
    assert not basophil.ours.known and "no basophil whose mask tells" in basophil.reason


def test_paper_a_text(built, folder):
    rows = paper_runs.rows_of(built["a", "text"])
    found = paper_runs.summary(folder, "paper_a_unet")["results"]["raabin_gt"]
    row = rows["U-Net", "accuracy: Jaccard, mean of three classes"]
    assert (row.paper.value, row.ours.number) == ("80", pytest.approx(100 * found["mean_iou"]))
    loss = rows["U-Net", "final loss"]
    assert (loss.paper.value, loss.ours.number) == ("1.2", 0.25)
    assert "1 × cross entropy + 1 × dice" in loss.remark
    assert rows["data", "image and mask pairs"].ours.number == 100
    assert rows["U-Net", "epochs"].ours.number == 8
    assert not rows["data", "basophil"].ours.known
