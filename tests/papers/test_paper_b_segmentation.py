"""Paper B's segmentation tables from canned runs."""

import pytest
import scipy.stats

from helpers import paper_runs
from wbc_jax.labels import CELL_TYPES
from wbc_jax.papers import paper_b, plans
from wbc_jax.papers.paper_b_segmentation import NETS, NO_INDEPENDENT_MASKS

JTSC = next(iter(plans.STAND_INS.values()))


def test_tables_9_11_and_13_are_the_runs_scores(built, folder):
    found = paper_runs.summary(folder, "segnet")
    monocytes = found["results"]["raabin_gt"]["by_type"]["monocyte"]
    rows = paper_runs.rows_of(built["b", "table_9"])
    row = rows["SegNet, monocyte", "mean IoU"]
    assert row.ours.number == monocytes["mean_iou"]
    assert [row.ours.low, row.ours.high] == monocytes["intervals"]["mean_iou"]
    row = rows["SegNet, monocyte", "mean BF score"]
    assert row.ours.number == monocytes["bf_score"]["mean"]
    assert [row.ours.low, row.ours.high] == monocytes["intervals"]["bf_score_mean"]
    rows = paper_runs.rows_of(built["b", "table_13"])
    row = rows["SegNet, monocyte", "cytoplasm BF score"]
    assert row.ours.number == monocytes["bf_score"]["cytoplasm"]
    row = rows["SegNet, monocyte", "nucleus accuracy"]
    assert row.ours.number == monocytes["recall"]["nucleus"]
    assert [row.ours.low, row.ours.high] == monocytes["intervals"]["recall_nucleus"]
    row = rows["SegNet, monocyte", "nucleus IoU"]
    assert row.ours.number == monocytes["iou"]["nucleus"]
    assert [row.ours.low, row.ours.high] == monocytes["intervals"]["iou_nucleus"]
    row = paper_runs.rows_of(built["b", "table_11"])["SegNet, monocyte", "weighted IoU"]
    jtsc = found["external"]["segmentation_wbc/jtsc"]["by_type"]["monocyte"]
    assert row.stand_ins[JTSC].number == jtsc["weighted_iou"]
    assert not row.ours.known and row.reason == NO_INDEPENDENT_MASKS


@pytest.mark.parametrize("number", [9, 10, 11, 12, 13])
def test_tables_of_bf_scores_say_that_they_are_matlabs(built, number):
    notes = built["b", f"table_{number}"].protocol
    assert sum("BF scores are MATLAB's" in note for note in notes) == 1


def test_scores_that_a_run_lacks_are_blank_with_the_reason(tmp_path):
    scores = paper_runs.mask_scores(0)
    del scores["by_type"]["neutrophil"]
    for kind in scores["by_type"].values():
        del kind["bf_score"]
    for name in NETS.values():
        paper_runs.write(tmp_path, name, {"raabin_gt": scores})
    rows = paper_runs.rows_of(paper_b.ITEMS["table_9"].build(paper_runs.store(tmp_path)))
    reason = "The test split was scored without"
    assert rows["UNet, monocyte", "mean BF score"].reason == f"{reason} this metric."
    neutrophil = rows["UNet, neutrophil", "mean IoU"]
    assert neutrophil.reason == f"{reason} a neutrophil with a published mask."


def test_p_values_are_of_the_images(built):
    def by_scipy(first, second):
        test = scipy.stats.mannwhitneyu(first, second, method="asymptotic", use_continuity=False)
        return test.pvalue

    def scores(seed, good, kind, metric, dataset="raabin_gt"):
        label = CELL_TYPES.index(kind)
        images = paper_runs.mask_rows(seed, dataset, good)
        return [float(f"{image[metric]:.6g}") for image in images if image["label"] == label]

    rows = paper_runs.rows_of(built["b", "table_10"])
    cnn, unet, segnet = (
        scores(seed, good, "monocyte", "mean_iou") for seed, good in ((0, 100), (1, 75), (2, 50))
    )
    row = rows["mean IoU, proposed CNN vs UNet", "monocyte"]
    assert row.ours.number == pytest.approx(by_scipy(cnn, unet))
    row = rows["mean IoU, Kruskal–Wallis", "monocyte"]
    assert row.ours.number == pytest.approx(scipy.stats.kruskal(cnn, unet, segnet).pvalue)
    assert row.paper is None
    row = paper_runs.rows_of(built["b", "table_12"])[
        "mean BF score, proposed CNN vs SegNet", "neutrophil"
    ]
    assert not row.ours.known
    jtsc = [scores(seed, good, "neutrophil", "bf_score") for seed, good in ((0, 100), (20, 50))]
    assert row.stand_ins[JTSC].number == pytest.approx(by_scipy(*jtsc))
