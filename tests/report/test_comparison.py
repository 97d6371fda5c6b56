"""A comparison as text, table, page and chart: all tell the same."""

import csv

import numpy as np
import pytest

from helpers import scored_runs
from helpers.html_pages import Page
from helpers.scored_runs import masks, row, write
from wbc_jax.evaluate import paired
from wbc_jax.report import comparison, figures
from wbc_jax.utils.output_folder import OutputFolder


@pytest.fixture
def pair(tmp_path):
    return scored_runs.two_segmentations(tmp_path)


def test_text_table_and_page_tell_the_same(pair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = paired.compare(paired.read("a"), paired.read("b"), resamples=100)
    text = comparison.text(found)
    assert text.startswith("A: a\nB: b\n\nOn the 42 images that both scored, the mean IoU of B is ")
    whole = row(found, "all", "mean_iou")
    assert (
        f"{whole.second:.4f} and that of A {whole.first:.4f}: {comparison.signed(whole.difference)}"
        in text
    )
    page = Page(comparison.page(found))
    words = page.text
    for x in found.rows:
        numbers = " ".join(" ".join(comparison.cells(x)).split())
        assert f"{x.score.name} {numbers}" in words
        assert numbers in " ".join(text.split())
    assert not any(tag == "script" for tag, _ in page.tags)
    links = [a[k] for _, a in page.tags for k in ("src", "srcset", "href") if k in a]
    assert all(link.startswith(("data:", "#")) for link in links)
    rows = comparison.csv_rows(found)
    assert [row["p"] for row in rows] == [x.p for x in found.rows]
    assert set(rows[0]) == set(comparison.CSV_COLUMNS)


def test_the_figure_has_a_panel_a_score_and_a_row_a_data_set(pair):
    found = paired.compare(*map(paired.read, pair[:2]), resamples=50)
    panels = figures.differences(found.rows).axes
    assert [axes.get_title("left") for axes in panels] == [s.name for s in found.scores]
    one = row(found, "jtsc", "mean_iou")
    _, interval, point, *rest = panels[0].lines
    assert list(interval.get_xdata()) == [one.low, one.high]
    assert list(point.get_xdata()) == [one.difference]
    assert list(point.get_ydata()) == [0] and len(rest) == 4
    assert point.get_markerfacecolor() == point.get_color()
    assert rest[1].get_markerfacecolor() != rest[1].get_color()  # nothing is shown for raabin


def test_images_of_one_run_alone_are_left_out_and_told(tmp_path):
    rows = masks(np.linspace(0.5, 0.9, 9))
    a = write(tmp_path / "a", rows[:7])
    b = write(tmp_path / "b", rows[2:])
    found = paired.compare(paired.read(a), paired.read(b))
    assert found.images == 5
    assert found.only_first == (("jtsc", "cell-0"), ("jtsc", "cell-1"))
    assert found.only_second == (("jtsc", "cell-7"), ("jtsc", "cell-8"))
    assert "Left out: 2 images of A alone and 2 images of B alone." in comparison.text(found)
    written = comparison.write(OutputFolder(tmp_path / "out"), found)
    assert [path.name for path in written] == ["comparison.csv", "unpaired.csv", "index.html"]
    with open(written[1], newline="") as file:
        assert [tuple(row.values()) for row in csv.DictReader(file)] == [
            ("jtsc", "cell-0", "A"),
            ("jtsc", "cell-1", "A"),
            ("jtsc", "cell-7", "B"),
            ("jtsc", "cell-8", "B"),
        ]
