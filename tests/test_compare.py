"""Two runs compared: pairs by image, numbers by hand and by scipy, errors that help."""

import csv
import functools
import html.parser

import numpy as np
import pytest
from scipy import stats

import tiny_runs
from wbc_jax import compare, metrics
from wbc_jax.errors import CompareError
from wbc_jax.report import comparison, figures

MASKS = (
    "dataset", "id", "label", "mean_iou", "iou_cytoplasm", "iou_nucleus", "bf_score",
    "truth_nucleus_px", "truth_cytoplasm_px", "nc_relative_error", "flag",
)  # fmt: skip
TYPES = (
    "dataset", "id", "label", "predicted", "right", "probability", "label_source",
    "probability_basophil", "probability_eosinophil", "probability_lymphocyte",
    "probability_monocyte", "probability_neutrophil",
)  # fmt: skip


def write(folder, rows, columns=MASKS):
    path = folder / "report" / "per_image.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return folder


def masks(scores, dataset="jtsc", prefix="cell", **more):
    """Rows of a segmentation with these mean IoUs; the other scores follow from them."""
    return [
        {
            "dataset": dataset, "id": f"{prefix}-{i}", "label": i % 5, "mean_iou": score,
            "iou_cytoplasm": score, "iou_nucleus": score, "bf_score": score,
            "truth_nucleus_px": 100 + i, "truth_cytoplasm_px": 200,
            "nc_relative_error": 1 - score, "flag": "",
        } | more
        for i, score in enumerate(scores)
    ]  # fmt: skip


def types(answers, probability=0.6):
    """Rows of a classification: the true types' labels are 0 to 4 in turn."""
    rows = []
    for i, right in enumerate(answers):
        label = i % 5
        given = label if right else (label + 1) % 5
        row = {f"probability_{name}": (1 - probability) / 4 for name in figures_types()}
        row[f"probability_{figures_types()[given]}"] = probability
        rows.append(
            row
            | {"dataset": "pbc", "id": f"c{i}", "label": label, "predicted": given}
            | {"right": bool(right), "probability": probability, "label_source": "authors"}
        )
    return rows


def figures_types():
    return [figures.type_name(k) for k in range(5)]


@pytest.fixture
def pair(tmp_path):
    rng = np.random.default_rng(0)
    first = rng.uniform(0.6, 0.9, 30)
    second = first + rng.normal(0.02, 0.03, 30)
    other = rng.uniform(0.5, 0.9, 12)
    a = write(tmp_path / "a", masks(first) + masks(other, "raabin"))
    b = write(tmp_path / "b", masks(other, "raabin")[::-1] + masks(second))
    return a, b, first, second


def line(found, dataset, key):
    (one,) = [x for x in found.lines if (x.dataset, x.score.key) == (dataset, key)]
    return one


def test_differences_are_paired_by_image_and_tested_as_scipy_does(pair):
    a, b, first, second = pair
    found = compare.compare(compare.read(a), compare.read(b), resamples=500)
    assert found.images == 42 and found.only_first == found.only_second == ()
    assert [name for name, _ in found.groups] == ["jtsc", "raabin", "all"]
    assert [score.key for score in found.scores] == [s.key for s in compare.SCORES["segmentation"]]
    one = line(found, "jtsc", "mean_iou")
    difference = second - first
    assert one.images == 30
    np.testing.assert_allclose(
        [one.first, one.second, one.difference, one.median],
        [first.mean(), second.mean(), difference.mean(), np.median(difference)],
    )
    assert one.p == pytest.approx(stats.wilcoxon(difference).pvalue)
    assert (one.better, one.worse) == ((difference > 0).sum(), (difference < 0).sum())
    theirs = stats.bootstrap(
        (difference,), np.mean, n_resamples=5000, method="percentile", rng=0
    ).confidence_interval
    np.testing.assert_allclose([one.low, one.high], theirs, atol=0.002)
    # Where B is the same as A, whatever the order of the rows, nothing is found.
    same = line(found, "raabin", "mean_iou")
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)
    whole = line(found, "all", "mean_iou")
    assert whole.difference == pytest.approx(difference.sum() / 42) and whole.images == 42
    # An error that falls is better.
    error = line(found, "jtsc", "nc_relative_error")
    assert error.difference == pytest.approx(-one.difference)
    assert (error.better, error.worse) == (one.better, one.worse)
    assert one.verdict == error.verdict == "B better" and same.verdict == ""
    turned = compare.compare(compare.read(b), compare.read(a), resamples=500)
    assert line(turned, "jtsc", "mean_iou").verdict == "A better"
    assert line(turned, "jtsc", "nc_relative_error").verdict == "A better"


def test_p_values_are_corrected_for_all_tests(pair):
    found = compare.compare(*map(compare.read, pair[:2]), resamples=50)
    p = [x.p for x in found.lines]
    assert len(p) == 15
    np.testing.assert_allclose([x.p_holm for x in found.lines], metrics.holm(p))
    assert "corrected for the 15 tests" in " ".join(comparison.notes(found))


def test_right_and_wrong_answers_are_tested_by_mcnemar(tmp_path):
    a = write(tmp_path / "a", types([1, 1, 1, 0, 0, 0, 0, 0, 0, 1]), TYPES)
    b = write(tmp_path / "b", types([1, 1, 0, 1, 1, 1, 1, 1, 1, 1], 0.8), TYPES)
    found = compare.compare(compare.read(a), compare.read(b))
    one = line(found, "pbc", "right")
    # B alone is right on 6 images, A alone on 1: 2 · (1 + 7) / 2⁷.
    assert (one.better, one.worse) == (6, 1)
    assert one.p == pytest.approx(2 * 8 / 128)
    np.testing.assert_allclose([one.first, one.second, one.difference], [0.4, 0.9, 0.5])
    given = line(found, "pbc", "true_probability")
    # Right: the probability given; wrong: a quarter of the rest.
    assert given.first == pytest.approx((4 * 0.6 + 6 * 0.1) / 10)
    assert given.second == pytest.approx((9 * 0.8 + 1 * 0.05) / 10)
    same = compare._mcnemar(np.array([1.0, 0.0]), np.array([1.0, 0.0]))
    assert same == 1


def test_a_run_is_not_called_better_where_mean_and_ranks_disagree():
    def verdict(**changes):
        values = {
            "dataset": "a", "score": comparison.Score("x", "x"), "images": 9, "first": 0.0,
            "second": 0.0, "difference": 0.1, "low": 0.05, "high": 0.2, "median": 0.1,
            "better": 5, "worse": 1, "p": 0.001, "p_holm": 0.01,
        }  # fmt: skip
        return comparison.Line(**(values | changes)).verdict

    assert verdict() == "B better"
    assert verdict(low=-0.01) == verdict(p_holm=0.06) == verdict(p_holm=np.nan) == ""
    assert verdict(difference=-0.1, low=-0.2, high=-0.01) == "A better"
    error = comparison.Score("e", "e", lower_is_better=True)
    assert verdict(score=error) == "A better"


def test_images_of_one_run_alone_are_left_out_and_told(tmp_path):
    rows = masks(np.linspace(0.5, 0.9, 9))
    a = write(tmp_path / "a", rows[:7])
    b = write(tmp_path / "b", rows[2:])
    found = compare.compare(compare.read(a), compare.read(b))
    assert found.images == 5
    assert found.only_first == (("jtsc", "cell-0"), ("jtsc", "cell-1"))
    assert found.only_second == (("jtsc", "cell-7"), ("jtsc", "cell-8"))
    assert "Left out: 2 images of A alone and 2 images of B alone." in comparison.text(found)
    written = comparison.write(compare.epath.Path(tmp_path / "out"), found)
    assert [path.name for path in written] == ["comparison.csv", "unpaired.csv", "index.html"]
    with open(written[1], newline="") as file:
        assert [tuple(row.values()) for row in csv.DictReader(file)] == [
            ("jtsc", "cell-0", "A"),
            ("jtsc", "cell-1", "A"),
            ("jtsc", "cell-7", "B"),
            ("jtsc", "cell-8", "B"),
        ]


def test_scores_that_are_missing_or_not_finite(tmp_path):
    old = [column for column in MASKS if column != "bf_score"]
    rows = masks([0.5, 0.6, 0.7])
    rows[0]["nc_relative_error"] = ""
    a = write(tmp_path / "a", [{k: v for k, v in row.items() if k in old} for row in rows], old)
    other = masks([0.6, 0.7, 0.9])
    other[1]["nc_relative_error"] = "inf"
    b = write(tmp_path / "b", other)
    found = compare.compare(compare.read(a), compare.read(b))
    assert found.absent == ("BF score",) and "lacks it: BF score." in comparison.text(found)
    error = line(found, "jtsc", "nc_relative_error")
    assert error.images == 1 and error.difference == pytest.approx(-0.2)
    none = masks([0.5], nc_relative_error="")
    same = compare.read(write(tmp_path / "none", none))
    empty = line(compare.compare(same, same), "jtsc", "nc_relative_error")
    assert empty.images == 0 and np.isnan([empty.p, empty.p_holm, empty.first]).all()
    assert comparison.cells(empty)[1:4] == ("–", "–", "–")


def fails(words, *runs):
    with pytest.raises(CompareError) as caught:
        found = [compare.read(run) for run in runs]
        compare.compare(*found)
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))


def test_errors_name_the_file_and_what_to_do(tmp_path):
    good = write(tmp_path / "good", masks([0.5, 0.6]))
    fails(["per_image.csv does not exist", "--mode=evaluate"], tmp_path / "nothing")
    typed = write(tmp_path / "typed", types([1, 0]), TYPES)
    fails(["good is a segmentation and", "typed a classification"], good, typed)
    apart = write(tmp_path / "apart", masks([0.5], "raabin"))
    fails(["no image in common", "2 images of jtsc", "1 images of raabin"], good, apart)
    twice = write(tmp_path / "twice", masks([0.5]) * 2)
    fails(["per_image.csv, line 3: jtsc cell-0 stands there twice"], twice)
    word = write(tmp_path / "word", masks([0.5]) + masks([0.6], "b", mean_iou="high"))
    fails(["line 3, mean_iou: 'high' is no number"], word)
    larger = write(tmp_path / "larger", masks([0.5, 0.6], truth_nucleus_px=400))
    fails(["jtsc cell-0 has truth_nucleus_px 100 in", "and 400 in", "evaluate.size"], good, larger)
    other = write(tmp_path / "other", [{"dataset": "a", "id": "b"}], ("dataset", "id", "x"))
    fails(["has the columns dataset, id, x; needed are"], other)
    empty = tmp_path / "empty"
    (empty / "report").mkdir(parents=True)
    (empty / "report" / "per_image.csv").write_bytes(b"")
    fails(["has the columns (none)"], empty)
    (empty / "report" / "per_image.csv").write_bytes(b"\xff\xfe\x00")
    fails(["is no CSV file"], empty)
    short = [column for column in MASKS if column != "truth_nucleus_px"]
    rows = [{k: v for k, v in row.items() if k in short} for row in masks([0.5])]
    fails(["lacks the column truth_nucleus_px"], write(tmp_path / "short", rows, short))
    nameless = types([1])
    nameless[0]["label"] = -1
    fails(["line 2: label '-1' is none of a type"], write(tmp_path / "x", nameless, TYPES))


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words += data.split()


def test_text_table_and_page_tell_the_same(pair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = compare.compare(compare.read("a"), compare.read("b"), resamples=100)
    text = comparison.text(found)
    assert text.startswith("A: a\nB: b\n\nOn the 42 images that both scored, the mean IoU of B is ")
    whole = line(found, "all", "mean_iou")
    assert (
        f"{whole.second:.4f} and that of A {whole.first:.4f}: {comparison.signed(whole.difference)}"
        in text
    )
    page = Page(comparison.page(found))
    words = " ".join(page.words)
    for x in found.lines:
        numbers = " ".join(" ".join(comparison.cells(x)).split())
        assert f"{x.score.name} {numbers}" in words
        assert numbers in " ".join(text.split())
    assert not any(tag == "script" for tag, _ in page.tags)
    links = [a[k] for _, a in page.tags for k in ("src", "srcset", "href") if k in a]
    assert all(link.startswith(("data:", "#")) for link in links)
    rows = comparison.csv_rows(found)
    assert [row["p"] for row in rows] == [x.p for x in found.lines]
    assert set(rows[0]) == set(comparison.CSV_COLUMNS)


def test_the_figure_has_a_panel_a_score_and_a_row_a_data_set(pair):
    found = compare.compare(*map(compare.read, pair[:2]), resamples=50)
    panels = figures.differences(found.lines).axes
    assert [axes.get_title("left") for axes in panels] == [s.name for s in found.scores]
    one = line(found, "jtsc", "mean_iou")
    _, interval, point, *rest = panels[0].lines
    assert list(interval.get_xdata()) == [one.low, one.high]
    assert list(point.get_xdata()) == [one.difference]
    assert list(point.get_ydata()) == [0] and len(rest) == 4
    assert point.get_markerfacecolor() == point.get_color()
    assert rest[1].get_markerfacecolor() != rest[1].get_color()  # nothing is shown for raabin


def test_the_command(pair, tmp_path):
    a, b, *_ = pair
    command = functools.partial(tiny_runs.command, "wbc_jax.compare", cwd=tmp_path)
    done = command(a, b, "--out", tmp_path / "out", "--bootstrap", 50)
    assert done.returncode == 0, done.stderr
    assert "B − A" in done.stdout and "Written: " in done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "comparison.csv",
        "index.html",
        "unpaired.csv",
    ]
    done = command(a, tmp_path / "nothing")
    assert done.returncode == 1 and done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_the_command_line_is_checked(pair, capsys):
    a, b = map(str, pair[:2])
    with pytest.raises(SystemExit, match="are one run; name two"):
        compare.main([a, a])
    with pytest.raises(SystemExit):
        compare.main([a, b, "--bootstrap=0"])
    assert "--bootstrap is 0; it must be 1 or more" in capsys.readouterr().err
