"""The data files, and every flagged contradiction recomputed from the printed numbers."""

import collections
import csv
import importlib.resources
import itertools
import math

import pytest

from wbc_jax.papers import confusions, printed

NETS = ("proposed CNN", "UNet", "SegNet")
TYPES = ("eosinophil", "lymphocyte", "monocyte", "neutrophil")
PARTS = ("background", "nucleus", "cytoplasm")

SIZES = {
    ("a", "table_1"): 11 * 7,
    ("a", "table_2"): 10 * 7,
    ("a", "table_3"): 10 * 7,
    ("a", "table_4"): 10 * 7,
    ("a", "text"): 10,
    ("b", "table_1"): 40,
    ("b", "table_2"): 19,
    ("b", "table_3"): 6 * 5,
    ("b", "table_4"): 6 * 5,
    ("b", "table_5"): 6 * 5,
    ("b", "table_6"): 5,
    ("b", "table_7"): 3 * 5,
    ("b", "table_8"): 3,
    ("b", "table_9"): 12 * 5,
    ("b", "table_10"): 10 * 4,
    ("b", "table_11"): 12 * 5,
    ("b", "table_12"): 10 * 4,
    ("b", "table_13"): 12 * 9,
    ("b", "table_14"): 24,
    ("b", "table_15"): 11,
    ("b", "figure_7"): 25,
    ("b", "text"): 30,
}


def every_cell():
    return [
        (paper, item, cell)
        for paper in printed.PAPERS
        for item in printed.items(paper)
        for cell in printed.load(paper, item).values()
    ]


def flagged(paper, item, flag=printed.CONTRADICTION):
    return {key for key, cell in printed.load(paper, item).items() if cell.flag == flag}


def numbers(paper, item):
    return {key: cell.number for key, cell in printed.load(paper, item).items()}


def test_every_table_is_whole():
    assert {(p, i): len(printed.load(p, i)) for p in "ab" for i in printed.items(p)} == SIZES
    assert printed.items("b")[:2] == ["table_1", "table_2"] and printed.items("b")[-1] == "text"


def test_every_cell_says_where_it_stands_and_what_is_wrong():
    kinds = {"table": "Table", "figure": "Figure"}
    for paper, item, cell in every_cell():
        kind, _, number = item.partition("_")
        if kind == "text":
            assert cell.source.split()[0] in ("section", "abstract")
        else:
            assert cell.source == f"{kinds[kind]} {number}"
        assert cell.flag in printed.FLAGS and cell.unit
        assert bool(cell.flag) <= bool(cell.note), (paper, item, cell)
        known = not math.isnan(cell.number) or cell.unit == "verdict" or cell.value == "<0.001"
        assert known, cell
        if cell.unit in ("fraction", "p"):
            assert cell.value == "<0.001" or 0 <= cell.number <= 1, cell
        if cell.unit == "percent":
            assert 50 < cell.number < 100, cell


def test_each_file_has_the_one_header():
    for path in importlib.resources.files("wbc_jax.papers").iterdir():
        if path.name.endswith(".csv") and path.name.startswith(("paper_a_t", "paper_b_")):
            header = next(csv.reader(path.read_text(encoding="utf-8").splitlines()))
            assert header == [
                "source", "row", "column", "value", "unit", "printed", "flag", "note",
            ]  # fmt: skip


@pytest.mark.parametrize("arguments", [("a", "table_9"), ("b", "figure_8")])
def test_unknown_items_are_named(arguments):
    with pytest.raises(ValueError, match=f"no '{arguments[1]}' of paper {arguments[0]}; there are"):
        printed.load(*arguments)
    with pytest.raises(ValueError, match="no paper 'c'; there are a, b"):
        printed.items("c")


def test_notes_on_whole_tables_name_what_there_is():
    path = importlib.resources.files("wbc_jax.papers").joinpath(printed.CONTRADICTIONS)
    for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
        known = row["item"] in printed.items(row["paper"]) or row["item"] == "figure_8"
        assert known and row["note"].endswith(".")
        assert row["note"] in printed.contradictions(row["paper"], row["item"])


def test_same_digits_rounds_or_cuts_off():
    cell = printed.TableCell("Table 1", "r", "c", "0.9838", "fraction")
    assert printed.same_digits(0.98383, cell) and printed.same_digits(0.98376, cell)
    assert printed.same_digits(0.98389, cell)  # cut off
    assert not printed.same_digits(0.98391, cell) and not printed.same_digits(0.98374, cell)
    assert not printed.same_digits(math.nan, cell)
    assert printed.same_digits(0.29, printed.TableCell("", "", "", "0.29", "fraction"))
    bound = printed.TableCell("", "", "", "<0.001", "p")
    assert math.isnan(bound.number) and not printed.same_digits(0.0005, bound)
    assert printed.TableCell("", "", "", "1.5070", "ratio").decimals == 4


# ---- Paper B ---------------------------------------------------------------------------------


def test_table_4_against_figure_7():
    """27 of 29 cells follow from the matrix; the overall accuracy follows in no reading."""
    table = printed.load("b", "table_4")
    counts = confusions.of_matrix(confusions.figure_7())
    found = confusions.table(counts)
    wrong = {key for key, value in found.items() if not printed.same_digits(value, table[key])}
    overall = ("overall", "accuracy")
    assert overall not in found and len(found) == 29
    readings = confusions.readings(counts)
    assert not any(printed.same_digits(value, table[overall]) for value in readings.values())
    assert flagged("b", "table_4") == wrong | {overall}
    assert wrong == {("lymphocyte", "specificity"), ("lymphocyte", "accuracy")}
    assert (
        confusions.figure_7().sum()
        == 8281
        != int(printed.load("b", "table_3")["total", "test"].value)
    )
    supports = [numbers("b", "table_3")[t, "test"] for t in printed.rows(table)[:5]]
    assert (supports - counts.support).tolist() == [0, 6, 14, 13, 53]


def test_table_5_follows_but_for_a_word():
    """All cells follow; the overall accuracy is not the balanced one, as the paper calls it."""
    table = printed.load("b", "table_5")
    counts = confusions.behind_table_5()
    assert all(printed.same_digits(v, table[key]) for key, v in confusions.table(counts).items())
    overall = table["overall", "accuracy"]
    fits = {n for n, v in confusions.readings(counts).items() if printed.same_digits(v, overall)}
    assert fits == {"one_vs_rest"}
    assert flagged("b", "table_5") == {("overall", "accuracy")}


def test_table_6_fits_no_division_of_the_independent_set():
    counts = confusions.behind_table_5()
    images, wrong = counts.support.sum(), (counts.support - counts.hits).sum()
    assert (images, wrong) == (323, 22)
    table = printed.load("b", "table_6")
    five, six = table["Dataset 5", "accuracy"], table["Dataset 6", "accuracy"]
    assert min(five.number, six.number) > 301 / 323
    for reading in (lambda share: 1 - share, lambda share: 1 - 2 * share / 5):
        for n, e in itertools.product(range(1, images), range(wrong + 1)):
            if e <= n and wrong - e <= images - n:
                one, two = reading(e / n), reading((wrong - e) / (images - n))
                assert not (printed.same_digits(one, five) and printed.same_digits(two, six))
    assert flagged("b", "table_6") == {("Dataset 5", "accuracy"), ("Dataset 6", "accuracy")}


def test_table_7_is_not_balanced():
    table = printed.load("b", "table_7")
    wrong = set()
    for row in printed.rows(table):
        precision, recall, specificity = (
            table[row, c].number for c in ("precision", "recall", "specificity")
        )
        found = {
            "accuracy": (recall + specificity) / 2,
            "F1": confusions.harmonic(precision, recall),
        }
        # Recomputed from rounded numbers: one unit in the last digit is allowed.
        wrong |= {(row, c) for c, v in found.items() if abs(v - table[row, c].number) > 1e-4}
    assert flagged("b", "table_7") == wrong
    assert len(wrong) == 4


def test_table_8_is_of_350_images():
    table = printed.load("b", "table_8")

    def fits(n, cell):
        return [k for k in range(n + 1) if f"{k / n:.4f}" == cell.value]

    assert not any(fits(323, cell) for cell in table.values())
    assert [fits(350, cell) for cell in table.values()] == [[120], [144], [141]]
    assert [n for n in range(1, 601) if all(fits(n, c) for c in table.values())] == [350]
    assert flagged("b", "table_8") == set(table)


@pytest.mark.parametrize("item, rows", [("table_9", 0), ("table_11", 12)])
def test_segmentation_tables_against_two_inequalities(item, rows):
    """IoU of a class is at most its recall; the same holds for their means, weighted or not."""
    value = numbers("b", item)
    wrong = set()
    for net, kind in itertools.product(NETS, TYPES):
        row = f"{net}, {kind}"
        if value[row, "weighted IoU"] > value[row, "global accuracy"]:
            wrong.add((row, "weighted IoU"))
        if value[row, "mean IoU"] > value[row, "mean accuracy"]:
            wrong.add((row, "mean IoU"))
    assert flagged("b", item) == wrong
    assert len(wrong) == rows


def test_table_13_against_table_9():
    """Table 9 holds the means over the three regions; cells that disagree are flagged."""
    means, parts = numbers("b", "table_9"), printed.load("b", "table_13")
    columns = {"accuracy": "mean accuracy", "IoU": "mean IoU", "BF score": "mean BF score"}
    off = {}
    for net, kind in itertools.product(NETS, TYPES):
        row = f"{net}, {kind}"
        for metric, column in columns.items():
            found = [parts[row, f"{part} {metric}"] for part in PARTS]
            if abs(sum(c.number for c in found) / 3 - means[row, column]) > 2e-4:
                off[row, metric] = found
    assert set(off) == {
        ("UNet, eosinophil", "IoU"),
        ("UNet, lymphocyte", "BF score"),
        ("SegNet, lymphocyte", "accuracy"),
        ("SegNet, lymphocyte", "IoU"),
        ("SegNet, lymphocyte", "BF score"),
    }
    for key, found in off.items():
        assert any(cell.flag for cell in found), key
    flags = {k for k, cell in parts.items() if cell.flag}
    upside_down = ("UNet, monocyte", "nucleus BF score")
    assert {(row, column.split(" ", 1)[1]) for row, column in flags - {upside_down}} == set(off)

    def implied(row, metric, part):
        others = (parts[row, f"{p} {metric}"].number for p in PARTS if p != part)
        return 3 * means[row, columns[metric]] - sum(others)

    segnet = "SegNet, lymphocyte"
    for row, metric, part, value in (
        (segnet, "accuracy", "cytoplasm", 0.7328),
        (segnet, "IoU", "cytoplasm", 0.5895),
        (segnet, "BF score", "nucleus", 0.8869),
        ("UNet, eosinophil", "IoU", "cytoplasm", 0.6738),
        ("UNet, monocyte", "BF score", "nucleus", 0.6977),
    ):
        assert implied(row, metric, part) == pytest.approx(value, abs=1e-9)
        assert f"{value:.4f}" in parts[row, f"{part} {metric}"].note
    # The three scrambled cells hold the numbers of other cells.
    assert parts[segnet, "cytoplasm accuracy"].value == parts[segnet, "background BF score"].value
    assert abs(parts[segnet, "cytoplasm IoU"].number - 0.8869) < 2e-3
    assert abs(parts[segnet, "nucleus BF score"].number - 0.5895) < 3e-4
    repeated = ("UNet, eosinophil", "cytoplasm IoU")
    assert parts[repeated].value == parts[repeated[0], "nucleus BF score"].value


def test_overall_segmentation_accuracies_are_means_of_tables_9_and_11():
    for item, row, column in (
        ("table_9", "proposed CNN", "overall accuracy"),
        ("table_11", "proposed CNN", "overall accuracy, independent data"),
    ):
        accuracies = [numbers("b", item)[f"proposed CNN, {t}", "global accuracy"] for t in TYPES]
        cell = printed.load("b", "text")[row, column]
        assert printed.same_digits(100 * sum(accuracies) / 4, cell)


def test_p_values_that_repeat_or_disagree_with_the_text():
    tables = {item: printed.load("b", item) for item in ("table_10", "table_12")}
    ten, twelve = tables.values()
    same = {key for key in ten if ten[key].value == twelve[key].value and ten[key].number >= 0}
    assert len(same) == 6
    for item, table in tables.items():
        stars = {key for key, cell in table.items() if cell.printed.endswith("*")}
        assert stars == {k for k, c in table.items() if c.value == "<0.001" or c.number < 0.017}
        against_text = {key for key in stars if key[0].endswith("SegNet")}
        if item == "table_12":
            against_text |= {key for key in set(table) - stars if key[0].endswith("UNet")}
        assert flagged("b", item) == same | against_text


def test_table_15_against_the_discussion():
    cited = {k: c for k, c in printed.load("b", "table_15").items() if k[0] != "this paper"}
    assert {k for k, c in cited.items() if c.number < 97.40} == flagged("b", "table_15")
    assert max(c.number for c in cited.values()) == 99.42


def test_table_1_against_the_introduction():
    """The text calls AlexNet the best of three; the table does not."""
    found = {k: c.number for k, c in printed.load("b", "table_1").items() if "Macawile" in k[0]}
    assert flagged("b", "table_1") == set(found)
    assert max(found, key=found.get)[1].endswith("GoogLeNet")


def test_inference_times_are_no_measurements():
    text = printed.load("b", "text")
    speed = 1e12 * text["GTX 1060", "computing speed"].number
    column = "inference time an image"
    assert 736e6 / speed == pytest.approx(text["classifier", column].number, rel=2e-3)
    assert 7.311e9 / speed == pytest.approx(text["proposed CNN", column].number, rel=2e-2)
    assert 28 * text["classifier", column].number < 40 / 8367
    assert 16 * text["proposed CNN", column].number < 89 / 3305
    assert round(8367 / 40) == 209  # printed: 210


def test_tables_14_and_15_repeat_the_others():
    own = {
        c: cell.value for (r, c), cell in printed.load("b", "table_14").items() if r == "this paper"
    }
    seven, four = printed.load("b", "table_7"), printed.load("b", "table_4")
    assert own["CellaVision"] == f"{100 * seven['Dataset 1', 'accuracy'].number:.2f}"
    assert own["Raabin-WBC"] == f"{100 * seven['Dataset 2 & 3', 'accuracy'].number:.2f}"
    assert own["Kaggle"] == f"{100 * seven['Dataset 4', 'accuracy'].number:.2f}"
    pooled = own["CellaVision, Raabin-WBC and Kaggle pooled"]
    assert pooled == f"{100 * four['overall', 'accuracy'].number:.2f}"
    cited = collections.Counter(r for r, _ in printed.load("b", "table_14"))
    assert len(cited) == 19 and cited["this paper"] == 5
    # At most the best network of each cited study in Tables 1 and 2.
    best = collections.defaultdict(float)
    for item in ("table_1", "table_2"):
        for (row, _), cell in printed.load("b", item).items():
            best[row] = max(best[row], cell.number)
    for (row, _), cell in printed.load("b", "table_14").items():
        assert row == "this paper" or cell.number <= best[row]
