"""The page of a review in headless Chromium: keys, dragging, a killed server, 10,000 cells."""

import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from helpers import browser, reviewed
from wbc_jax.corrections import log
from wbc_jax.fields import results

pytestmark = pytest.mark.skipif(browser.PATH is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser.started(tmp_path_factory.mktemp("chromium")) as found:
        yield found


def until(page, expression):
    """Waits until a JavaScript expression is true."""
    for _ in range(1800):
        if page.value(expression):
            return
        time.sleep(0.05)
    pytest.fail(f"never true: {expression}; {page.complaints}")


def opened(page, address, width=1200, **how):
    page.complaints.clear()
    page.open(address, width, **how)
    until(page, "document.documentElement.dataset.ready === 'yes'")
    return page


def complaints(page):
    """What the page complains of, but for a server that was killed."""
    return [text for text in page.complaints if "ERR_CONNECTION" not in text]


def busy(page):
    """The processor time of the page's thread so far, in seconds."""
    metrics = page.call("Performance.getMetrics")["metrics"]
    return next(one["value"] for one in metrics if one["name"] == "TaskDuration")


def saved(page):
    until(page, "document.getElementById('saved').textContent === 'all is saved'")


def said(folder, reviewer="Anna"):
    """What a reviewer said of each cell last, by (image, number), from the log alone."""
    found = {}
    for one in log.Log(folder).read_new():
        if one.reviewer == reviewer and one.what == log.TYPE:
            found[one.file.rpartition("/")[2], one.cell] = one.after
    return {cell: after for cell, after in found.items() if after is not None}


def tiles(page):
    return page.value(
        "[...document.querySelectorAll('.tile')].sort((a, b) => a.offsetTop - b.offsetTop)"
        ".map(t => [Number(t.dataset.cell), t.children[1].textContent])"
    )


def now(page):
    return page.value("Number(document.querySelector('.tile.now').dataset.cell)")


def test_types_by_keys_survive_a_killed_server(chromium, folder):
    with reviewed.serving(folder) as (process, address):
        page = opened(chromium, address)
        # The two that are left to a person come first, under their own heading.
        heads = page.value("[...document.querySelectorAll('.head')].map(h => h.textContent)")
        assert heads == ["for review2", "monocyte2"]
        first = tiles(page)
        assert [cell for cell, _ in first[:2]] in ([2, 3], [3, 2]) and now(page) == first[0][0]
        page.press("3")  # and goes on to the next
        assert now(page) == first[1][0]
        page.press("6")
        page.press("Enter")  # the third is right as it is
        page.press("7")
        page.press("z")
        saved(page)
        names = ["crop.png", *["field.png"] * 3]
        order = [(names[cell], (1, 1, 2, 3)[cell]) for cell, _ in first]
        expected = {
            order[0]: "lymphocyte", order[1]: "not a leukocyte", order[2]: "monocyte",
        }  # fmt: skip
        # What the page calls saved is on the disk: nothing else is written before the end.
        process.kill()
        process.wait()
        assert said(folder) == expected
        page.press("Home")
        page.press("1")
        until(page, "document.getElementById('saved').textContent.startsWith('not saved: 1')")
        assert page.value("document.getElementById('saved').className") == "late"
    with reviewed.answering(folder) as address:
        page.dialogs.clear()
        page = opened(chromium, address)
        assert page.dialogs == ["beforeunload"]  # "1" was not saved, and the person is asked
        assert page.value("document.getElementById('progress').textContent") == (
            "3 of 4 cells reviewed; 2 of the 2 left to a person"
        )
        shown = dict(tiles(page))
        assert shown[first[0][0]] == "✓ lymphocyte" and shown[first[2][0]] == "✓ monocyte"
        page.press("z")  # the undo goes on where it stopped
        saved(page)
        assert said(folder) == {cell: expected[cell] for cell in order[:2]}
        assert complaints(page) == []


def masks_of(folder):
    """Each version of a mask that is in the log, as it lies in its file; None: as predicted."""
    return [
        one.after and np.asarray(Image.open(folder / one.after["png"]))
        for one in log.Log(folder).read_new()
        if one.what == log.MASK
    ]


def test_a_painted_mask_survives_a_killed_server(chromium, folder):
    def ratio():
        return page.value("document.getElementById('paint-ratio').textContent")

    shows = "document.getElementById('paint-ratio').textContent === 'N/C {:.3f}'"

    cells = pq.read_table(folder / "cells.parquet").to_pylist()
    with reviewed.serving(folder) as (process, address):
        page = opened(chromium, address)
        page.press("End")  # the second monocyte
        number = now(page)
        page.press("m")
        until(page, "document.activeElement.id === 'paint-canvas'")
        until(page, "document.getElementById('paint-ratio').textContent !== ''")
        assert ratio() == f"N/C {cells[number]['nc_ratio']:.3f}"
        left, top, width, height = page.value(
            "(r => [r.left, r.top, r.width, r.height])"
            "(document.getElementById('paint-canvas').getBoundingClientRect())"
        )
        # A stroke of nucleus from the middle to the upper left corner of the square picture.
        middle, side = (left + width / 2, top + height / 2), min(width, height)
        page.drag(middle, (middle[0] - 0.45 * side, middle[1] - 0.45 * side))
        saved(page)
        (painted,) = masks_of(folder)
        size = len(painted)
        assert painted.shape == (size, size)
        for share in (0.06, 0.2, 0.35, 0.5):
            assert painted[int(share * size), int(share * size)] == 2
        assert painted[int(0.06 * size), int(0.2 * size)] == 0
        nucleus, cytoplasm = (painted == 2).sum(), (painted == 1).sum()
        assert nucleus > cells[number]["nucleus_px"]
        until(page, shows.format(nucleus / cytoplasm))
        # By keys: erase with a brush of one pixel, while the space bar is held.
        page.press("e")
        page.press("[", 4)
        until(page, "document.getElementById('paint-size').value === '1'")
        key = {"key": " ", "code": "Space", "windowsVirtualKeyCode": 32, "text": " "}
        page.value("document.getElementById('paint-canvas').focus()")
        page.call("Input.dispatchKeyEvent", type="keyDown", **key)
        page.press("ArrowRight", 3)
        page.call("Input.dispatchKeyEvent", type="keyUp", **{**key, "text": ""})
        saved(page)
        erased = masks_of(folder)[-1]
        rows, columns = np.nonzero(erased != painted)
        assert len(set(rows)) == 1 and sorted(columns) == list(
            range(columns.min(), columns.min() + 4)
        )
        assert (erased[rows, columns] == 0).all()
        # Undone, painted again, and killed.
        page.press("z")
        saved(page)
        until(page, shows.format(nucleus / cytoplasm))
        assert (masks_of(folder)[-1] == painted).all() and len(masks_of(folder)) == 3
        page.press("c")
        page.press(" ")
        saved(page)
        process.kill()
        process.wait()
    last = masks_of(folder)[-1]
    assert len(masks_of(folder)) == 4 and (last != painted).sum() == 1
    with reviewed.answering(folder) as address:
        page = opened(chromium, address)
        assert page.value("document.getElementById('progress').textContent")[0] == "1"
        page.press("End")
        page.press("m")
        until(page, shows.format((last == 2).sum() / (last == 1).sum()))
        page.press("Escape")
        until(page, "document.activeElement.id === 'gallery'")
        assert complaints(page) == []


def test_several_cells_own_types_buttons_and_dragging(chromium, folder):
    with reviewed.answering(folder) as address:
        page = opened(chromium, address)
        page.press("ArrowRight", 2, shift=True)
        page.press("t")
        for key in "Band":
            page.press(key)
        page.press("Enter")
        saved(page)
        assert sorted(said(folder).values()) == ["Band"] * 3
        buttons = "[...document.querySelectorAll('#types button')]"
        assert page.value(f"{buttons}[8].textContent") == "9Band3"
        assert page.value("document.activeElement.id") == "gallery"
        page.press("End")
        page.press("9")
        saved(page)
        assert list(said(folder).values()) == ["Band"] * 4
        page.press("Home")
        page.press("Backspace")
        page.value(f"{buttons}[1].click()")
        saved(page)
        assert sorted(said(folder).values()) == ["Band", "Band", "Band", "eosinophil"]
        # Drag what is chosen to a button.
        page.press("Home")
        page.press("ArrowRight", shift=True)
        page.drag_and_drop(".tile.now", "#types button[data-type='several cells']")
        saved(page)
        assert sorted(said(folder).values()) == ["Band", "Band", "several cells", "several cells"]
        page.press("z")
        saved(page)
        assert sorted(said(folder).values()) == ["Band", "Band", "Band", "eosinophil"]
        # A click on one of the chosen cells chooses only it.
        page.press("Home")
        page.press("ArrowRight", 2, shift=True)
        assert page.value("document.querySelectorAll('.tile.chosen').length") == 3
        page.drag(page.middle(".tile.chosen"))
        assert page.value("document.querySelectorAll('.tile.chosen').length") == 0
        count = page.value("document.getElementById('count').innerText")
        assert "Band\t\t\t3\t75.0 30.1–95.4" in count
        assert complaints(page) == []


def test_what_another_window_says_is_shown(chromium, folder):
    with reviewed.answering(folder) as address:
        page = opened(chromium, address)
        body = {"cells": [1], "type": "basophil", "since": 0}
        assert reviewed.ask(address, "types", body)[0] == 200
        page.value("document.dispatchEvent(new Event('visibilitychange'))")
        until(page, "document.getElementById('cell-1').children[1].textContent === '✓ basophil'")


def test_what_is_refused_is_said_and_not_shown(chromium, folder):
    with reviewed.answering(folder) as address:
        page = opened(chromium, address)
        (folder / "cells.parquet").touch()
        page.press("1")
        until(page, "document.getElementById('problems').innerText.includes('was not saved')")
        assert page.value("document.querySelectorAll('.tile.done').length") == 0
        assert said(folder) == {}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_looks_whole(chromium, folder, width, dark):
    with reviewed.answering(folder) as address:
        chromium.open("about:blank", width)  # what the page before still asks for
        chromium.requests.clear()
        page = opened(chromium, address, width, dark=dark)
        until(page, "[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        until(page, "document.getElementById('place').hidden === false")
        picture = page.picture()
        assert picture.shape[1] == width
        assert page.value("document.documentElement.scrollWidth") == width
        assert (picture[5, 5].mean() < 60) == dark
        differs = np.abs(picture.astype(int) - picture[5, 5]).sum(axis=2) > 60
        assert all(band.any() for band in np.array_split(differs, 8))
        asked = [url for url in page.requests if not url.startswith("data:")]
        assert asked and all(url.startswith(address) for url in asked)
        assert complaints(page) == page.refused == []


def test_all_can_be_reached_by_the_tab_key(chromium, folder):
    with reviewed.answering(folder) as address:
        page = opened(chromium, address)
        page.value("document.activeElement.blur()")
        seen = []
        for _ in range(40):
            page.press("Tab")
            seen.append(page.value("document.activeElement.id || document.activeElement.tagName"))
        assert {"own-name", "show", "order", "undo", "keys-open", "gallery"} <= set(seen)
        page.value("document.getElementById('gallery').focus()")
        page.press("?")
        assert page.value("document.getElementById('keys').open") is True
        page.press("Enter")
        assert page.value("document.getElementById('keys').open") is False


def test_ten_thousand_cells(chromium, folder):
    """A key takes the page less than 100 ms of its processor time, however busy the machine is."""
    path = folder / "cells.parquet"
    one = pq.read_table(path).to_pylist()[1]
    rng = np.random.default_rng(0)
    rows = [
        one | {"cell": n + 1, "probability": float(p), "type": kind, "best_guess": kind}
        for n, (p, kind) in enumerate(
            zip(rng.uniform(0.4, 1, 10_000), rng.choice(["monocyte", "neutrophil"], 10_000))
        )
    ]
    pq.write_table(pa.Table.from_pylist(rows, results.SCHEMA), path)
    with reviewed.answering(folder) as address:
        page = opened(chromium, address)
        assert page.value("document.querySelectorAll('.tile').length") < 200
        # The browser's own measure: from a key to the next picture, if that is 16 ms or more.
        page.value(
            "{ window.waits = []; new PerformanceObserver(list => waits.push(...list.getEntries()"
            ".filter(e => e.name === 'keydown').map(e => e.duration)))"
            ".observe({ type: 'event', durationThreshold: 16 }); }"
        )
        page.call("Performance.enable", timeDomain="threadTicks")
        keys = [*"12345", "Enter", "ArrowDown", "PageDown", "End", "Home", "n", "z"] * 4
        before = busy(page)
        for key in keys:
            page.press(key)
            time.sleep(0.05)
        saved(page)
        each = (busy(page) - before) / len(keys)
        waits = sorted(page.value("waits"))
        print(
            f"{len(keys)} keys, {1000 * each:.0f} ms of processor time each; {len(waits)} of them"
        )
        print(f"took 16 ms or more until the next picture: {waits}")
        assert 0 < each < 0.1
        assert page.value("document.querySelectorAll('.tile').length") < 200
        page.press("End")
        last = page.value("document.querySelector('.tile.now').getBoundingClientRect().bottom")
        box = page.value("document.getElementById('gallery').getBoundingClientRect().bottom")
        assert last <= box + 1
        assert len(said(folder)) > 5 and complaints(page) == []
