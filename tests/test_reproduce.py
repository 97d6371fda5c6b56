"""The papers' tables beside ours, from canned runs: the right numbers in the right places."""

import collections
import csv
import json
import math
import types

import numpy as np
import pytest
import scipy.stats
from etils import epath
from sklearn import metrics as oracle

import paper_runs
import tiny_runs
from wbc_jax import experiment, files, reproduce, vocabulary
from wbc_jax.data import records
from wbc_jax.papers import cells, confusions, library, paper_a, paper_b, pictures, runs, sheets

BUILDERS = {"a": paper_a, "b": paper_b}
JTSC, ZHENG = runs.STAND_INS.values()
PAIRS = [(paper, item) for paper, items in reproduce.ITEMS.items() for item in items]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("papers")
    paper_runs.everything(folder)
    return epath.Path(folder)


@pytest.fixture(scope="module")
def shelf(folder):
    return library.Library(folder, "full")


@pytest.fixture(scope="module")
def built(shelf):
    return {(p, i): BUILDERS[p].BUILDERS[i](shelf) for p, i in PAIRS}


def lines_of(sheet):
    return {(line.row, line.column): line for line in sheet.lines}


def summary_of(folder, name):
    return json.loads((folder / name / "report" / "metrics.json").read_text())


def drawn(name, scores):
    return {name: scores, "all": {**scores, "accuracy": 9.0, "confusion": None}}


# ---- What can be asked for ------------------------------------------------------------------


def test_items_are_those_of_the_builders():
    for paper, module in BUILDERS.items():
        assert tuple(module.BUILDERS) == reproduce.ITEMS[paper] == tuple(module.NEEDS)
        assert {n for needs in module.NEEDS.values() for n in needs} <= set(runs.PLANS)
        assert set(cells.items(paper)) <= set(reproduce.ITEMS[paper])
    assert reproduce.SCALES == runs.SCALES


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (("b", "9", None), ("table_9",)),
        (("b", None, "7"), ("figure_7",)),
        (("b", "text", "9"), ("figure_9", "text")),
        (("a", "all", None), ("table_1", "table_2", "table_3", "table_4", "text")),
        (("a", None, "all"), ("figure_3", "figure_4", "figure_5", "figure_6", "figure_7")),
        (("a", None, None), reproduce.ITEMS["a"]),
    ],
)
def test_choose(arguments, expected):
    assert reproduce.choose(*arguments, "quick").items == expected


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ((None, "4", None), "name a paper with --paper=a or --paper=b"),
        (("a", "5", None), "--table=5: paper a has 1, 2, 3, 4, text, or all"),
        (("b", None, "4"), "--figure=4: paper b has 3, 7, 8, 9, or all"),
        (("b", None, "text"), "--figure=text: paper b has 3, 7, 8, 9, or all"),
        (("b", "figure_7", None), "--table=figure_7: paper b has 1, 2, "),
    ],
)
def test_what_there_is_not(arguments, expected):
    with pytest.raises(reproduce.RequestError) as error:
        reproduce.choose(*arguments, "full")
    assert expected in str(error.value)


def test_the_command_says_so_too(tmp_path):
    done = tiny_runs.command(
        "wbc_jax.main", "--mode=reproduce", "--paper=a", "--table=9", cwd=tmp_path
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "error: --table=9: paper a has 1, 2, 3, 4, text, or all"


# ---- Every table ----------------------------------------------------------------------------


@pytest.mark.parametrize("paper, item", PAIRS)
def test_every_cell_of_the_paper_is_there_with_ours_or_a_reason(built, paper, item):
    sheet = built[paper, item]
    assert (sheet.paper, sheet.item) == (paper, item)
    places = [(line.row, line.column) for line in sheet.lines]
    assert sheet.lines and len(places) == len(set(places))
    if item in cells.items(paper):
        shown = {id(line.paper) for line in sheet.lines if line.paper is not None}
        printed = {(line.paper.row, line.paper.column) for line in sheet.lines if line.paper}
        assert printed == set(cells.load(paper, item)) and shown
    for line in sheet.lines:
        assert line.ours.known != bool(line.reason), line
        if not math.isnan(line.ours.low):
            assert line.ours.low <= line.ours.high
    assert set(cells.contradictions(paper, item)) <= set(sheet.contradictions)
    assert not sheet.missing
    if BUILDERS[paper].NEEDS[item]:
        assert any("trained on 100 images" in sentence for sentence in sheet.protocol)


def test_which_of_our_cells_are_blank(built):
    """All of ours are there but those of data that nobody has, and of cited studies."""
    blank = collections.Counter()
    for (paper, item), sheet in built.items():
        for line in sheet.lines:
            blank[paper, item] += not line.ours.known
    whole = {key for key, number in blank.items() if not number}
    assert whole == {
        ("b", "table_4"), ("b", "table_7"), ("b", "table_9"), ("b", "table_10"),
        ("b", "table_13"), ("b", "figure_7"), ("b", "figure_3"), ("a", "figure_7"),
    }  # fmt: skip
    for item in ("table_1", "table_2", "table_5", "table_8", "table_11", "table_12"):
        assert blank["b", item] == len(built["b", item].lines)
    reasons = {line.reason for line in built["b", "table_5"].lines}
    assert reasons == {paper_b.NO_INDEPENDENT}


def test_missing_runs_are_named_with_their_command(tmp_path):
    empty = library.Library(epath.Path(tmp_path), "full")
    for paper, item in PAIRS:
        sheet = BUILDERS[paper].BUILDERS[item](empty)
        needs = BUILDERS[paper].NEEDS[item]
        assert len(sheet.missing) == len(needs)
        for name in needs:
            wanted = f"--config={runs.PLANS[name].config} --workdir={tmp_path / name} "
            assert sum(wanted in sentence for sentence in sheet.missing) == 1
        counted = ("parameters", "operations an image", "layers")
        known = [line for line in sheet.lines if line.ours.known]
        assert all(line.column in counted for line in known)


# ---- Classification -------------------------------------------------------------------------


def pooled():
    found = [paper_runs.probabilities(seed).argmax(1) for seed in (1, 2, 3)]
    return np.tile(paper_runs.labels(), 3), np.concatenate(found)


def test_table_4_is_of_the_pooled_test_images(built):
    truth, predicted = pooled()
    lines = lines_of(built["b", "table_4"])
    precision, recall, f1, _ = oracle.precision_recall_fscore_support(truth, predicted)
    for k, name in enumerate(vocabulary.CELL_TYPES):
        for column, values in (("precision", precision), ("recall", recall), ("F1", f1)):
            line = lines[name, column]
            assert line.ours.number == pytest.approx(values[k])
            assert line.ours.low <= values[k] <= line.ours.high
            assert line.difference == pytest.approx(values[k] - line.paper.number)
    overall = {r: lines["overall", f"accuracy: {name}"] for r, name in confusions.READINGS.items()}
    assert overall["plain"].ours.number == pytest.approx((truth == predicted).mean())
    assert overall["macro_recall"].ours.number == pytest.approx(recall.mean())
    assert {line.paper.value for line in overall.values()} == {"0.9803"}
    assert overall["plain"].recomputed.number == pytest.approx(0.97537, abs=1e-5)
    assert lines["lymphocyte", "accuracy"].recomputed.number == pytest.approx(0.98780, abs=1e-5)


def test_intervals_are_a_bootstrap_of_images():
    truth, predicted = pooled()
    matrix = oracle.confusion_matrix(truth, predicted)
    plain = library.classification_scores(matrix, 4000)["overall", "plain"]
    result = scipy.stats.bootstrap(
        (truth == predicted,), np.mean, method="percentile", n_resamples=4000,
        rng=np.random.default_rng(1),
    )  # fmt: skip
    low, high = result.confidence_interval
    assert (plain.low, plain.high) == pytest.approx((low, high), abs=0.015)


def test_tables_by_source(built):
    lines = lines_of(built["b", "table_6"])
    for dataset, seed in (("Dataset 1", 1), ("Dataset 2 & 3", 2), ("Dataset 4", 3)):
        found = paper_runs.probabilities(seed).argmax(1)
        line = lines[dataset, "accuracy: share of right answers"]
        assert line.ours.number == pytest.approx((found == paper_runs.labels()).mean())
    assert lines["Dataset 5", "accuracy: mean recall"].reason == paper_b.NO_INDEPENDENT
    own = lines_of(built["b", "table_7"])
    for number, dataset in enumerate(("Dataset 1", "Dataset 2 & 3", "Dataset 4")):
        found = paper_runs.probabilities(30 + number, 0.8).argmax(1)
        recall = oracle.recall_score(paper_runs.labels(), found, average="macro")
        assert own[dataset, "recall"].ours.number == pytest.approx(recall)


def test_stand_ins_have_columns_of_their_own_and_fill_no_cell(built):
    for item in ("table_5", "table_8"):
        for line in built["b", item].lines:
            assert not line.ours.known
            assert list(line.stand_ins) == [JTSC, ZHENG]
    line = lines_of(built["b", "table_5"])["overall", "accuracy: share of right answers"]
    for seed, name in ((20, JTSC), (21, ZHENG)):
        found = paper_runs.probabilities(seed, 0.3).argmax(1)
        assert line.stand_ins[name].number == pytest.approx((found == paper_runs.labels()).mean())
    line = lines_of(built["b", "table_8"])["Dataset 4", "accuracy: share of right answers"]
    found = paper_runs.probabilities(45, 0.2).argmax(1)
    right = (found == paper_runs.labels()).mean()
    assert line.stand_ins[ZHENG].number == pytest.approx(right)


def test_independent_images_fill_the_cells_where_they_are_there(tmp_path):
    lisc, bcd = paper_runs.type_scores(50), paper_runs.type_scores(51)
    external = {"lisc/crops": lisc, "bcd/crops": bcd}
    paper_runs.write(tmp_path, "classifier", {"pbc": paper_runs.type_scores(1)}, external)
    sheet = paper_b.table_5(library.Library(epath.Path(tmp_path), "full"))
    line = lines_of(sheet)["overall", "accuracy: share of right answers"]
    matrix = np.add(lisc["confusion"], bcd["confusion"])
    assert line.ours.number == pytest.approx(np.trace(matrix) / matrix.sum())
    assert not line.reason


def test_figures_7_and_8(built, folder):
    matrix = sum(
        np.asarray(result["confusion"])
        for result in summary_of(folder, "classifier")["results"].values()
    )
    lines = lines_of(built["b", "figure_7"])
    line = lines["monocyte", "taken for neutrophil"]
    assert (line.paper.value, line.ours.number) == ("8", matrix[3, 4])
    assert math.isnan(line.difference)
    share = lines["monocyte", "taken for neutrophil, share"]
    assert share.recomputed.number == pytest.approx(100 * 8 / 675)
    assert share.ours.number == pytest.approx(100 * matrix[3, 4] / matrix[3].sum())
    assert share.difference == pytest.approx(share.ours.number - share.recomputed.number)
    lines = lines_of(built["b", "figure_8"])
    assert lines["lymphocyte", "taken for lymphocyte"].recomputed.number == 68
    assert lines["all types", "taken for lymphocyte"].recomputed.number == 68 + 13
    assert not lines["lymphocyte", "taken for basophil"].recomputed.known


def test_table_3_counts_what_the_run_was_tested_on(built):
    lines = lines_of(built["b", "table_3"])
    assert lines["basophil", "test"].ours.number == 3 * paper_runs.PER_TYPE
    assert lines["total", "test"].ours.number == 3 * 5 * paper_runs.PER_TYPE
    assert not lines["basophil", "train"].ours.known  # the records are not there
    assert "cannot be read" in lines["basophil", "train"].reason
    assert lines["basophil", "independent"].stand_ins[JTSC].number == paper_runs.PER_TYPE
    assert not lines["basophil", "train"].stand_ins[JTSC].known


# ---- Segmentation ---------------------------------------------------------------------------


def test_tables_9_11_and_13_are_the_runs_scores(built, folder):
    found = summary_of(folder, "segnet")
    monocytes = found["results"]["raabin_gt"]["by_type"]["monocyte"]
    lines = lines_of(built["b", "table_9"])
    line = lines["SegNet, monocyte", "mean IoU"]
    assert line.ours.number == monocytes["mean_iou"]
    assert [line.ours.low, line.ours.high] == monocytes["intervals"]["mean_iou"]
    line = lines["SegNet, monocyte", "mean BF score"]
    assert line.ours.number == monocytes["bf_score"]["mean"]
    assert [line.ours.low, line.ours.high] == monocytes["intervals"]["bf_score_mean"]
    lines = lines_of(built["b", "table_13"])
    line = lines["SegNet, monocyte", "cytoplasm BF score"]
    assert line.ours.number == monocytes["bf_score"]["cytoplasm"]
    line = lines["SegNet, monocyte", "nucleus accuracy"]
    assert line.ours.number == monocytes["recall"]["nucleus"]
    assert [line.ours.low, line.ours.high] == monocytes["intervals"]["recall_nucleus"]
    line = lines["SegNet, monocyte", "nucleus IoU"]
    assert line.ours.number == monocytes["iou"]["nucleus"]
    assert [line.ours.low, line.ours.high] == monocytes["intervals"]["iou_nucleus"]
    line = lines_of(built["b", "table_11"])["SegNet, monocyte", "weighted IoU"]
    jtsc = found["external"]["segmentation_wbc/jtsc"]["by_type"]["monocyte"]
    assert line.stand_ins[JTSC].number == jtsc["weighted_iou"]
    assert not line.ours.known and line.reason == paper_b.NO_INDEPENDENT_MASKS


def test_scores_that_a_run_lacks_are_blank_with_the_reason(tmp_path):
    scores = paper_runs.mask_scores(0)
    del scores["by_type"]["neutrophil"]
    for kind in scores["by_type"].values():
        del kind["bf_score"]
    for name in paper_b.NETS.values():
        paper_runs.write(tmp_path, name, {"raabin_gt": scores})
    lines = lines_of(paper_b.table_9(library.Library(epath.Path(tmp_path), "full")))
    reason = "The test split was scored without"
    assert lines["UNet, monocyte", "mean BF score"].reason == f"{reason} this metric."
    neutrophil = lines["UNet, neutrophil", "mean IoU"]
    assert neutrophil.reason == f"{reason} a neutrophil with a published mask."


def test_p_values_are_of_the_images(built):
    def by_scipy(first, second):
        test = scipy.stats.mannwhitneyu(first, second, method="asymptotic", use_continuity=False)
        return test.pvalue

    def scores(seed, good, kind, metric, dataset="raabin_gt"):
        label = vocabulary.CELL_TYPES.index(kind)
        rows = paper_runs.mask_rows(seed, dataset, good)
        return [float(f"{row[metric]:.6g}") for row in rows if row["label"] == label]

    lines = lines_of(built["b", "table_10"])
    cnn, unet, segnet = (
        scores(seed, good, "monocyte", "mean_iou") for seed, good in ((0, 100), (1, 75), (2, 50))
    )
    line = lines["mean IoU, proposed CNN vs UNet", "monocyte"]
    assert line.ours.number == pytest.approx(by_scipy(cnn, unet))
    line = lines["mean IoU, Kruskal–Wallis", "monocyte"]
    assert line.ours.number == pytest.approx(scipy.stats.kruskal(cnn, unet, segnet).pvalue)
    assert line.paper is None
    line = lines_of(built["b", "table_12"])["mean BF score, proposed CNN vs SegNet", "neutrophil"]
    assert not line.ours.known
    jtsc = [scores(seed, good, "neutrophil", "bf_score") for seed, good in ((0, 100), (20, 50))]
    assert line.stand_ins[JTSC].number == pytest.approx(by_scipy(*jtsc))


def test_table_15_is_a_mean_of_four(built, folder):
    line = lines_of(built["b", "table_15"])[
        "this paper", "CellaVision, Raabin-WBC and Kaggle pooled"
    ]
    by_type = summary_of(folder, "encoder_decoder")["results"]["raabin_gt"]["by_type"]
    mean = np.mean([by_type[kind]["global_accuracy"] for kind in paper_runs.MASKED])
    assert line.ours.number == pytest.approx(100 * mean)


# ---- Paper A --------------------------------------------------------------------------------


def test_paper_a_recomputes_its_rows(built):
    lines = lines_of(built["a", "table_2"])
    line = lines["figure 21", "N/C"]
    assert line.recomputed.number == 15770 / 27061
    assert line.reason == paper_a.NOT_PUBLISHED
    verdict = lines["figure 21", "verdict"]
    assert (verdict.paper.value, verdict.recomputed.word) == ("healthy", "unhealthy")
    assert lines_of(built["a", "table_4"])["figure 39", "verdict"].recomputed.word == "nothing said"
    said = built["a", "table_3"].contradictions
    assert "The pixel ratio does not follow from the counts in the row of figure 24." in said
    assert "The verdict is not what the text's ranges give in the row of figure 24." in said


def test_paper_a_beside_our_cells_and_the_experts(built):
    rows = [r for r in paper_runs.mask_rows(3, "raabin_gt", 25) if r["label"] == 4]
    lines = lines_of(built["a", "table_1"])
    line = lines["all neutrophils", "median N/C"]
    ours, truth = ([r[k] for r in rows] for k in ("nc_ratio", "truth_nc_ratio"))
    assert line.ours.number == pytest.approx(np.median(ours), rel=1e-5)
    assert line.stand_ins[paper_a.EXPERT].number == pytest.approx(np.median(truth), rel=1e-5)
    assert line.recomputed.number == 14870 / 13819  # figure 3 is in the middle
    line = lines["all neutrophils", "called healthy"]
    assert line.ours.number == pytest.approx(np.mean(np.array(ours) <= 1.5))
    assert line.recomputed.number == pytest.approx(6 / 11)
    basophil = lines_of(built["a", "table_3"])["all basophils", "median N/C"]
    assert not basophil.ours.known and "no basophil whose mask tells" in basophil.reason


def test_paper_a_text(built, folder):
    lines = lines_of(built["a", "text"])
    found = summary_of(folder, "paper_a_unet")["results"]["raabin_gt"]
    line = lines["U-Net", "accuracy: Jaccard, mean of three classes"]
    assert (line.paper.value, line.ours.number) == ("80", pytest.approx(100 * found["mean_iou"]))
    loss = lines["U-Net", "final loss"]
    assert (loss.paper.value, loss.ours.number) == ("1.2", 0.25)
    assert "1 × cross entropy + 1 × dice" in loss.remark
    assert lines["data", "image and mask pairs"].ours.number == 100
    assert lines["U-Net", "epochs"].ours.number == 8
    assert not lines["data", "basophil"].ours.known


# ---- Time and size --------------------------------------------------------------------------


def test_sizes_and_times(folder, monkeypatch):
    monkeypatch.setattr(library, "throughput", lambda run: 100.0)
    lines = lines_of(paper_b.text(library.Library(folder, "full")))
    assert lines["classifier", "parameters"].ours.number == pytest.approx(17.499781)
    assert lines["proposed CNN", "parameters"].ours.number == pytest.approx(58.5, rel=0.01)
    assert lines["proposed CNN", "operations an image"].ours.number == pytest.approx(
        7.311, rel=0.05
    )
    assert lines["UNet", "training time"].ours.number == 1.5
    assert lines["UNet", "test time of 3,305 images"].ours.number == pytest.approx(33.05)
    assert lines["classifier", "test time of 8,367 images"].ours.number == pytest.approx(83.67)
    assert lines["classifier", "inference time an image"].ours.number == 0.01
    assert math.isnan(lines["UNet", "training time"].difference)
    # Seven blocks are not the 36 layers that the paper prints, as its note says.
    assert lines["classifier", "layers"].ours.number == 32
    assert lines["proposed CNN", "layers"].ours.number == 22
    assert "5,041" in lines["classifier", "operations an image"].paper.note
    assert lines["classifier", "operations an image"].ours.number == pytest.approx(5041, abs=0.5)


def test_without_a_checkpoint_there_is_no_time(built):
    line = lines_of(built["b", "text"])["classifier", "throughput"]
    assert not line.ours.known and "no checkpoint in" in line.reason


def test_throughput_is_measured_once(run, monkeypatch):
    there = types.SimpleNamespace(folder=epath.Path(run.workdir), config=run.config)
    found = library.throughput(there)
    assert found > 0
    monkeypatch.setattr(library, "_model", None)  # is not asked again
    assert library.throughput(there) == found
    (epath.Path(run.workdir) / library.THROUGHPUT).unlink()


# ---- Drawn cells ----------------------------------------------------------------------------


def test_drawn_cells_never_stand_in_a_papers_cell(tmp_path):
    """Not where a run has nothing else, and not mixed into what else it has."""
    synthetic = "wbc_synthetic/default"
    types_, masks = paper_runs.type_scores(1), paper_runs.mask_scores(1)
    rows = paper_runs.mask_rows(1, synthetic)
    for name, plan in runs.PLANS.items():
        scores = types_ if plan.task == "classification" else masks
        external = {"wbc_synthetic/small": scores}
        paper_runs.write(tmp_path, name, drawn(synthetic, scores), external, rows, rows)
    shelf = library.Library(epath.Path(tmp_path), "full")
    own = ("training time", "parameters", "operations an image", "layers")
    for paper, item in PAIRS:
        if item in ("figure_3",) or (paper, item) == ("a", "figure_7"):
            continue  # curves of training itself
        for line in BUILDERS[paper].BUILDERS[item](shelf).lines:
            settings = (paper, item) == ("a", "text") and line.column != "accuracy"
            if not settings and line.column not in own:
                assert not line.ours.known, (paper, item, line)
            assert not any(value.known for value in line.stand_ins.values())
    for line in paper_a.text(shelf).lines:
        assert not line.column.startswith("accuracy") or not line.ours.known

    both = {"pbc": paper_runs.type_scores(5), **drawn(synthetic, types_)}
    paper_runs.write(tmp_path, "classifier", both)
    lines = lines_of(paper_b.table_4(library.Library(epath.Path(tmp_path), "full")))
    right = (paper_runs.probabilities(5).argmax(1) == paper_runs.labels()).mean()
    overall = lines["overall", "accuracy: share of right answers"]
    assert overall.ours.number == pytest.approx(right)


# ---- Pictures -------------------------------------------------------------------------------


def test_masks_are_of_the_middling_cell(run, monkeypatch):
    """Drawn cells play the real ones here: first they are refused, then let through."""
    plan = runs.PLANS["encoder_decoder"]
    monkeypatch.setattr(runs, "folder", lambda *_: epath.Path(run.workdir))
    refused = pictures.mask_sheet(
        library.Library(epath.Path(run.workdir), "full"), "b", "figure_9", "", plan.name,
        paper_b.MASKED_TYPES,
    )  # fmt: skip
    assert not refused.pictures and not any(line.ours.known for line in refused.lines)
    monkeypatch.setattr(runs, "is_synthetic", lambda name: False)
    shelf = library.Library(epath.Path(run.workdir), "full")
    sheet = pictures.mask_sheet(shelf, "b", "figure_9", "", plan.name, ("lymphocyte",))
    rows = [r for r in shelf.run(plan.name).rows if r["label"] == 2]
    rows.sort(key=lambda r: (r["mean_iou"], r["id"]))
    middling = rows[(len(rows) - 1) // 2]
    lines = lines_of(sheet)
    for part in ("nucleus", "cytoplasm"):
        found = lines["lymphocyte", f"Dice, {part}"].ours.number
        assert found == pytest.approx(middling[f"dice_{part}"], abs=1e-5)
    (picture,) = sheet.pictures
    assert middling["id"] in picture.title and picture.light[:4] == b"\x89PNG"


def test_dice_of_the_whole_cell():
    truth = np.array([[0, 1, 2, 2], [0, 1, 1, 255]], np.uint8)
    found = np.array([[1, 1, 1, 2], [0, 0, 2, 2]], np.uint8)
    scores = pictures.dice(truth, found)
    # Nucleus: 1 of 2 and of 2; cytoplasm: 1 of 3 and of 3; cell: 4 of 5 and of 5.
    assert scores == pytest.approx({"nucleus": 1 / 2, "cytoplasm": 1 / 3, "cell": 4 / 5})


# ---- Runs -----------------------------------------------------------------------------------


def test_quick_trains_each_missing_run_once(tmp_path, monkeypatch, capsys):
    trained = []

    def train(config, workdir):
        trained.append((workdir.name, config))
        dataset = config.data.datasets[0]
        if config.task == "segmentation":
            paper_runs.write(
                tmp_path, workdir.name, {dataset: paper_runs.mask_scores(0)},
                rows=paper_runs.mask_rows(0, dataset),
            )  # fmt: skip
        else:
            paper_runs.write(tmp_path, workdir.name, {dataset: paper_runs.type_scores(0)})

    there = ("raabin_gt", "pbc")
    monkeypatch.setattr(experiment, "run", train)
    monkeypatch.setattr(runs, "lacking", lambda name, data: "" if name in there else "is not there")
    workdir = epath.Path(tmp_path)
    reproduce.run(reproduce.choose("a", "1", "7", "quick"), workdir)
    assert [name for name, _ in trained] == ["unet"]
    reproduce.run(reproduce.choose("b", "9", None, "quick"), workdir)
    assert [name for name, _ in trained] == ["unet", "encoder_decoder", "segnet"]
    capsys.readouterr()
    reproduce.run(reproduce.choose("b", "7", None, "quick"), workdir)
    assert [name for name, _ in trained][3:] == ["classifier_dataset_1", "classifier_dataset_2_3"]
    assert trained[4][1].data.datasets == ("raabin_gt",)  # raabin_wbc/crops is not there
    text = capsys.readouterr().out
    assert "kaggle_blood_cells/original: is not there" in text
    assert library.QUICK in text
    page = (workdir / "paper_b" / "index.html").read_text()
    assert "Not the paper&#39;s protocol" in page
    shared = (workdir / "paper_a" / "table_1.txt").read_text()
    assert "is shared with paper B's U-Net" in shared
    reproduce.run(reproduce.choose("b", "9", None, "quick"), workdir)
    assert len(trained) == 5


def test_full_trains_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "run", None)
    written = reproduce.run(reproduce.choose("b", "4", None, "full"), epath.Path(tmp_path))
    assert {path.name for path in written} == {
        "table_4.txt", "table_4.csv", "table_4.tex", "index.html",
    }  # fmt: skip


@pytest.mark.parametrize("name", runs.PLANS)
def test_quick_configs_are_valid_and_keep_stand_ins_out_of_training(name, monkeypatch):
    monkeypatch.setattr(runs, "lacking", lambda name, data: "")
    config, why = runs.quick_config(runs.PLANS[name], runs.data_settings())
    assert not why and config.task == runs.PLANS[name].task
    assert not set(config.data.datasets) & {*runs.STAND_INS, *runs.INDEPENDENT}
    assert set(runs.STAND_INS) <= set(config.evaluate.external)
    assert config.data.protocol == "paper_b"


def test_lacking_says_what_is_not_there(tmp_path):
    data = runs.data_settings()
    data.data_dir, data.manual_dir = str(tmp_path / "records"), str(tmp_path)
    assert "lisc is not in" in runs.lacking("lisc/crops", data)
    config = tiny_runs.least(tmp_path, data__datasets=("raabin_gt",))
    with pytest.raises(records.DataError):
        runs.splits_of(types.SimpleNamespace(config=config, folder=epath.Path(tmp_path)))


def test_damaged_runs_are_named(folder, tmp_path):
    paper_runs.write(tmp_path, "classifier", {"pbc": paper_runs.type_scores(1)})
    path = tmp_path / "classifier" / "report" / "metrics.json"
    path.write_text("{")
    with pytest.raises(runs.RunError, match=f"the run in {tmp_path / 'classifier'} is damaged"):
        library.Library(epath.Path(tmp_path), "full").run("classifier")


def test_data_set_names():
    assert runs.is_named("pbc", "pbc") and runs.is_named("pbc/five", "pbc")
    assert runs.is_named("lisc", "lisc/crops")
    assert not runs.is_named("raabin_wbc/kaggle", "raabin_wbc/crops")
    assert not runs.is_named("pbc_other", "pbc")


# ---- What is written ------------------------------------------------------------------------


def test_csv_holds_every_line(built, folder, tmp_path):
    from wbc_jax.report import side_by_side as report

    written = report.write(epath.Path(tmp_path), "b", "full", [built["b", "table_5"]])
    assert [path.name for path in written] == [
        "table_5.txt", "table_5.csv", "table_5.tex", "index.html",
    ]  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "table_5.csv").read_text().splitlines()))
    assert len(rows) == len(built["b", "table_5"].lines)
    row = next(r for r in rows if (r["row"], r["column"]) == ("overall", "specificity"))
    assert (row["paper_value"], row["paper_printed"], row["ours"]) == ("0.9825", "0,9825", "")
    assert row["blank_because"] == paper_b.NO_INDEPENDENT
    assert float(row[JTSC]) > 0
    assert row["item"] == "Table 5"
    verdicts = report.csv_rows(built["a", "table_1"])
    assert [r["recomputed"] for r in verdicts if r["column"] == "verdict"][3] == "healthy"


def test_numbers_are_written_with_the_papers_digits():
    cell = cells.Cell("Table 1", "r", "c", "0.9710", "fraction")
    line = sheets.Line("r", "c", "fraction", cell, ours=sheets.Value(0.98, 0.97, 0.985))
    assert line.written(line.ours) == "0.9800"
    assert line.number(line.difference, signed=True) == "+0.0090"
    assert line.interval == "[0.9700, 0.9850]" and line.printed == "0.9710"
    p = sheets.Line("r", "c", "p", cells.Cell("", "", "", "<0.001", "p"), ours=sheets.Value(4e-5))
    assert (p.printed, p.written(p.ours), p.number(p.difference)) == ("<0.001", "<0.001", "")
    count = sheets.Line(
        "r", "c", "images", cells.Cell("", "", "", "28128", "images", flag="damaged")
    )
    assert count.printed == "28,128†" and count.written(sheets.Value(15809)) == "15,809"
    assert sheets.Line("r", "c", "ratio").number(math.inf) == "inf"
    assert files.finite(count.difference) is None
