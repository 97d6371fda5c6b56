"""The page of a folder's cells, as text and in headless Chromium."""

import numpy as np
import pytest

from helpers import browser
from wbc_jax.fields import results
from wbc_jax.labels import REVIEW
from wbc_jax.report import cell_page as page
from wbc_jax.report import nc_figures


def rows():
    found = []
    for n in range(30):
        row = dict.fromkeys(results.COLUMNS)
        kind = ("lymphocyte", "neutrophil", "monocyte")[n % 3]
        review = "low_probability" if n % 10 == 0 else ""
        row |= {
            "file": f"in/<b>{n // 2}</b>.png", "mask": "masks/a.png", "overlay": "overlays/a#1.png",
            "cell": n % 2 + 1, "type": REVIEW if review else kind, "best_guess": kind,
            "probability": 0.5 if review else 0.7 + n / 100, "review": review,
            "nucleus_px": 100 + n, "cytoplasm_px": 50, "nc_ratio": (100 + n) / 50, "lobes": 1,
            "nucleus_share": 0.6, "nucleus_um2": 9.0, "cytoplasm_um2": 5.0, "um_per_px": 0.3,
            "um_per_px_source": "given", "flag": "touches_frame" if n == 3 else "",
        }  # fmt: skip
        found.append(row)
    found[5]["nc_ratio"] = float("inf")
    found[6] |= {"nc_ratio": float("nan"), "flag": "no_nucleus"}
    empty = dict.fromkeys(results.COLUMNS) | {"file": "in/none.png", "flag": "no_cell"}
    return [*found, empty | {"um_per_px_source": "unknown"}]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "index.html"
    tile = page.thumbnail(np.full((40, 60, 3), 128, np.uint8))
    path.write_text(page.render(rows(), [tile] * 31, results.differential(rows()), True))
    return path


def test_text(path):
    text = path.read_text()
    assert "<h1>30 cells in 16 images</h1>" in text
    assert "3 cells are left to a person" in text
    assert "given by the user in 15 images (median 0.300 µm a pixel), not known in 1" in text
    assert "<b>" not in text and 'data-file="in/&lt;b&gt;0&lt;/b&gt;.png"' in text
    assert 'href="overlays/a%231.png"' in text


def test_the_command_for_a_review_is_named_where_many_cells_are_left():
    few, command = rows()[:-1], "python -m wbc_jax.review &#39;my &lt;b&gt; cells&#39;"
    assert command in page.render(few, [b""] * 30, [], True, folder="my <b> cells")  # 3 of 30
    assert "wbc_jax.review" not in page.render([*few, few[1]], [b""] * 31, [], True, folder="x")
    many = [few[1], *few * 4][:91]  # fewer than a tenth, but ten
    assert sum(bool(row["review"]) for row in many) == 9
    assert "wbc_jax.review" not in page.render(many, [b""] * 91, [], True, folder="x")
    many = [few[1], *many, few[0]]
    assert "wbc_jax.review x<" in page.render([*many, *few[1:9]], [b""] * 101, [], True, folder="x")


def test_areas_in_px_are_not_compared_with_those_in_um2():
    several = rows()[:2]
    several[1] |= {"um_per_px": None, "nucleus_um2": None, "cytoplasm_um2": None}
    text = page.render(several, [b""] * 2, [], False)
    assert '<td data-value="9.0">9.0<small> µm²</small></td>' in text
    assert '<td data-value="">101<small> px</small></td>' in text
    alone = page.render(several[1:], [b""], [], False)
    assert '<td data-value="101">101<small> px</small></td>' in alone


def test_without_types_or_masks():
    bare = [row | {"type": "", "mask": None, "overlay": None, "nc_ratio": None} for row in rows()]
    text = page.render(bare, [b""] * 31, [], False)
    assert "Differential" not in text and "N/C" not in text.split("<main>")[1]


def test_histogram_has_a_panel_a_group():
    figure = nc_figures.nc_histogram({"lymphocyte": [1.0, 2.0, 3.0], "neutrophil": [float("inf")]})
    first, second = figure.axes
    assert first.get_title(loc="left") == "lymphocyte (3, median 2.00)"
    assert second.get_title(loc="left") == "neutrophil (0)"
    assert nc_figures.nc_histogram({}).axes


@pytest.mark.skipif(browser.PATH is None, reason="no Chromium is installed")
def test_sorting_and_filtering(path, tmp_path):
    shown = "[...document.getElementById('table').tBodies[0].rows].filter(r => !r.hidden)"
    with browser.started(tmp_path) as chromium:
        for width, dark in ((1200, False), (390, True)):
            chromium.open(path, width, dark)
            assert chromium.value("document.documentElement.scrollWidth") == width

        def column(place):
            return chromium.value(f"{shown}.map(r => r.cells[{place}].dataset.value)")

        def choose(name, value):
            chromium.value(
                f"{{ const e = document.getElementById('{name}'); e.value = '{value}';"
                " e.dispatchEvent(new Event('input', { bubbles: true })); }"
            )

        chromium.open(path, 1200)
        click = "document.querySelector('[data-key=nc]').click()"
        chromium.value(click)
        up = column(4)
        # Infinity is the largest; what has no ratio comes last.
        assert up[:2] == ["2.0", "2.02"] and up[-3:] == ["inf", "", ""]
        chromium.value(click)
        assert column(4)[:2] == ["inf", "2.58"] and column(4)[-2:] == ["", ""]
        assert chromium.value("document.querySelector('[aria-sort]').textContent") == "N/C"
        choose("type", "for review")
        assert column(2) == ["for review"] * 3
        assert chromium.value("document.getElementById('shown').textContent") == (
            "3 of 31 rows shown"
        )
        choose("type", "")
        choose("least", "0.95")
        assert sorted(column(3)) == ["0.95", "0.96", "0.97", "0.98", "0.99"]
        choose("least", "0")
        choose("flag", "touches_frame")
        assert len(column(2)) == 1
        choose("flag", "-")
        assert len(column(2)) == 31 - 3 - 2 - 1
        choose("flag", "")
        choose("file", "NONE")
        assert column(1) == ["in/none.png"]
        chromium.value("document.querySelector('[type=reset]').click()")
        assert chromium.complaints == []
        assert {url for url in chromium.requests if not url.startswith("data:")} == {path.as_uri()}
