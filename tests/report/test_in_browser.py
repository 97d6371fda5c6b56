"""The report's page in headless Chromium: nothing asked for, no complaint, all by keyboard."""

import numpy as np
import pytest

from helpers import browser
from helpers.report_pages import arguments, typed_arguments
from wbc_jax.report import run_page as report
from wbc_jax.utils.output_folder import OutputFolder

pytestmark = pytest.mark.skipif(browser.PATH is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser.started(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    paths = {"masks": folder / "masks.html", "types": folder / "types.html"}
    report.write(OutputFolder(folder), "masks.html", **arguments())
    report.write(OutputFolder(folder), "types.html", **typed_arguments())
    return paths


@pytest.fixture
def page(chromium, pages):
    chromium.open(pages["masks"], 1200)
    return chromium


def visible(page):
    """Names of the overlays that can be seen."""
    return page.value(
        "[...document.querySelectorAll('.frame')].filter(f => f.offsetHeight > 0)"
        ".map(f => f.dataset.name)"
    )


def focused(page):
    return page.value("document.activeElement.id")


def reach(page, name):
    """Goes on with the tab key until an element has the focus."""
    for _ in range(60):
        if focused(page) == name:
            return
        page.press("Tab")
    pytest.fail(f"#{name} cannot be reached with the tab key")


@pytest.mark.parametrize("kind", ["masks", "types"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_looks_whole_and_asks_for_nothing(chromium, pages, kind, dark, width):
    chromium.open(pages[kind], width, dark)
    picture = chromium.picture()
    assert picture.shape[1] == width and picture.shape[0] > 1500
    assert (picture[5, 5].mean() < 60) == dark
    differs = np.abs(picture.astype(int) - picture[5, 5]).sum(axis=2) > 60
    # Text, tables and images all the way down.
    bands = np.array_split(differs, 8)
    assert differs.mean() > 0.02 and all(band.any() for band in bands)
    assert chromium.value("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
    assert chromium.value("document.documentElement.scrollWidth") == width
    asked = [url for url in chromium.requests if not url.startswith("data:")]
    assert set(asked) <= {path.as_uri() for path in pages.values()} and asked
    assert chromium.complaints == []


def test_policy_stops_what_was_not_written(page):
    # The harness must see a complaint, or its silence would say nothing.
    page.value(
        "{ const s = document.createElement('script'); s.textContent = 'window.evil = 1';"
        " document.body.append(s); }"
    )
    page.value("void (new Image().src = 'https://example.org/x.png')")
    page.value("void fetch('https://example.org/').catch(() => 0)")
    assert page.value("window.evil") is None
    assert sum("Content Security Policy" in text for text in page.complaints) >= 2
    page.complaints.clear()
    assert "https://example.org/x.png" in page.refused
    assert not any("example.org" in url for url in page.requests)


def test_one_overlay_at_a_time_and_the_slider_goes_through_them_by_keys(page):
    names = page.value("[...document.querySelectorAll('.frame')].map(f => f.dataset.name)")
    assert len(names) == 30 and visible(page) == names[:1]
    reach(page, "viewer-image")
    page.press("ArrowRight", 3)
    assert visible(page) == names[3:4]
    page.press("ArrowLeft")
    assert visible(page) == names[2:3]
    assert page.value("document.activeElement.getAttribute('aria-valuetext')") == names[2]
    page.press("End")
    assert visible(page) == names[-1:]
    page.press("Home")
    assert visible(page) == names[:1]
    page.press("Tab")
    assert focused(page) == "viewer-on"
    page.press("Enter")
    page.press(" ")
    assert visible(page) == names[2:3]


def test_the_wipe_uncovers_the_truth_by_keys(page):
    def ends():
        return page.value(
            "['.truth', '.predicted'].map(name => getComputedStyle("
            "document.querySelector('.frame:not([hidden]) ' + name)).clipPath)"
        )

    middle = ends()
    before = page.picture()
    reach(page, "viewer-wipe")
    page.press("End")
    assert page.value("document.activeElement.value") == "100"
    assert ends() != middle and "100%" in ends()[1]
    after = page.picture()
    assert (before.shape == after.shape) and (before != after).any()
    page.press("Home")
    assert ends()[0] != middle[0] and "0%" in ends()[1]
    page.press("ArrowRight", 5)
    assert page.value("getComputedStyle(viewer).getPropertyValue('--wipe')") == "5%"


def test_all_side_by_side_without_outlines_and_with_errors(page):
    reach(page, "viewer-all")
    page.press(" ")
    assert len(visible(page)) == 30
    assert page.value("document.getElementById('viewer-image').disabled") is True
    page.press(" ")
    assert len(visible(page)) == 1
    shown = "getComputedStyle(document.querySelector('.stack .{}')).display"
    assert page.value(shown.format("truth")) == "block"
    assert page.value(shown.format("errors")) == "none"
    page.value("document.body.tabIndex = -1; document.body.focus()")
    reach(page, "viewer-outlines")
    page.press(" ")
    page.press("Tab")
    page.press(" ")
    assert page.value(shown.format("truth")) == "none"
    assert page.value(shown.format("errors")) == "block"


def test_everything_that_does_something_can_be_reached_and_seen_to_be(page):
    page.press("Tab")
    assert page.value("document.activeElement.className") == "skip"
    seen = []
    for _ in range(200):
        seen.append(
            page.value(
                "[document.activeElement.tagName, document.activeElement.outerHTML.slice(0, 90),"
                " getComputedStyle(document.activeElement).outlineStyle]"
            )
        )
        page.press("Tab")
        if page.value("document.activeElement === document.body"):
            break
    else:
        pytest.fail("the tab key never comes round")
    count = page.value(
        "[...document.querySelectorAll('a[href], button:not(:disabled), input:not(:disabled),"
        ' summary, [tabindex="0"]\')].filter(e => e.checkVisibility()).length'
    )
    assert len({html for _, html, _ in seen}) == len(seen) == count
    assert {"A", "INPUT", "BUTTON", "SUMMARY", "DIV"} <= {tag for tag, _, _ in seen}
    assert all(style != "none" for _, _, style in seen)


def test_without_scripts_all_overlays_are_shown(chromium, pages):
    chromium.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        chromium.open(pages["masks"], 1200)
        nodes = chromium.call("DOM.getDocument", depth=0)["root"]["nodeId"]
        for selector, there in ((".frame", 30), (".frame[hidden]", 0), (".controls[hidden]", 1)):
            found = chromium.call("DOM.querySelectorAll", nodeId=nodes, selector=selector)
            assert len(found["nodeIds"]) == there
        tall = chromium.picture().shape[0]
    finally:
        chromium.call("Emulation.setScriptExecutionDisabled", value=False)
    chromium.open(pages["masks"], 1200)
    assert tall > chromium.picture().shape[0] + 1000
