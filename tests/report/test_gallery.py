import base64
import re

import numpy as np
import pytest

from helpers import html_pages
from wbc_jax.data import sources
from wbc_jax.data.images import encode_png
from wbc_jax.report import gallery, overlays
from wbc_jax.utils.output_folder import OutputFolder

EVIL = """<script>alert("x")</script>'"&"""


class Page(html_pages.Page):
    """A page with the text of each tag by the last heading before it."""

    void = frozenset({"meta", "link", "img", "wbr"})

    def __init__(self, text):
        self.texts = []
        super().__init__(text)

    def handle_starttag(self, tag, attrs):
        super().handle_starttag(tag, attrs)
        if tag not in self.void:
            self.texts.append([tag, ""])

    def handle_data(self, data):
        # A heading's <small> belongs to it.
        tags = [tag for tag in self.open if tag in ("h1", "h2", "h3", "p", "li", "td", "th")]
        for place in reversed(self.texts):
            if tags and place[0] == tags[-1]:
                place[1] += data
                break

    def texts_of(self, tag):
        return [re.sub(r"\s+", " ", text).strip() for name, text in self.texts if name == tag]


def ring(size=48):
    """A cell of radius 20 around a nucleus of radius 10 (at 48 px), pale, violet and dark."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    radius = np.hypot(y, x) * 48 / size
    mask = np.where(radius < 10, 2, np.where(radius < 20, 1, 0)).astype(np.uint8)
    image = np.array([[240, 220, 225], [190, 160, 215], [90, 40, 130]], np.uint8)[mask]
    return image, mask


def source(labels, name="drawn", ids=None, has_mask=None, subtypes=None, mask=None):
    n = len(labels)
    image, ours = ring()
    mask = ours if mask is None else mask
    record = {"image": encode_png(image), "mask": encode_png(mask)}
    ids = tuple(ids or (f"cell-{i:03}" for i in range(n)))
    return sources.Source(
        name=name,
        ids=ids,
        groups=ids,
        sources=("",) * n,
        subtypes=tuple(subtypes or ("",) * n),
        label_sources=("",) * n,
        labels=np.asarray(labels, np.int64),
        has_mask=np.ones(n, bool) if has_mask is None else np.asarray(has_mask, bool),
        um_per_px=np.full(n, np.nan, np.float32),
        encoded=[record] * n,
    )


def shown(text):
    """The ids on the page, in its order."""
    return [a["alt"].split(",")[0].split(" ", 1)[1] for a in Page(text).all("img")]


def test_the_records_shown_are_pinned():
    drawn = source([4] * 10)
    assert gallery.draw(drawn, 3) == [(4, [6, 8, 9], 10)]
    assert gallery.draw(drawn, 3, seed=1) == [(4, [2, 4, 7], 10)]
    assert shown(gallery.render([drawn], per_group=3)) == [f"cell-{i:03}" for i in [6, 8, 9]]


def test_the_draw_hangs_on_ids_not_on_their_order_or_on_other_records():
    ids = [f"cell-{i:03}" for i in range(40)]
    forward = source([0] * 20 + [3] * 20, ids=ids)
    backward = source([3] * 20 + [0] * 20, ids=ids[::-1])
    text = gallery.render([forward], per_group=5)
    assert text == gallery.render([forward], per_group=5)
    assert shown(gallery.render([backward], per_group=5)) == shown(text)
    alone = source([3] * 20, ids=ids[20:])
    assert shown(gallery.render([alone], per_group=5)) == shown(text)[5:]
    # Of more records asked for, those of fewer are a part.
    more = shown(gallery.render([forward], per_group=9))
    assert set(shown(text)) < set(more)
    assert more[:9] == sorted(more[:9])
    assert shown(gallery.render([forward], per_group=5, seed=7)) != shown(text)


def test_headings_count_types_in_the_vocabularys_order_with_unknown_last():
    one = source([-1] * 2 + [4] * 5 + [0], name="one/small")
    two = source(
        [2] * 4,
        name="two",
        has_mask=[1, 1, 0, 1],
        subtypes=["cell_only", "cell_only", "", ""],
    )
    page = Page(gallery.render([one, two], per_group=3))
    assert page.texts_of("h2")[1:] == ["one/small 8 records", "two 4 records"]
    assert page.texts_of("h3") == [
        "basophil the only one",
        "neutrophil 3 of 5 shown, drawn at random",
        "unknown type all 2 shown",
        "lymphocyte 3 of 4 shown, drawn at random; 2 with a mask of the cell alone, "
        "1 without a mask",
    ]
    numbers = page.texts_of("td")[1:]
    assert numbers == [
        *("1", "0", "0", "0", "5", "2", "8", "0", "0", "8"),
        *("0", "0", "4", "0", "0", "0", "1", "2", "1", "4"),
        *("1", "0", "4", "0", "5", "2", "9", "2", "1", "12"),
    ]
    links = {a["href"] for a in page.all("a")}
    anchors = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {"#set-1", "#set-1-basophil", "#set-1-unknown", "#set-2-lymphocyte"} <= links
    assert {link[1:] for link in links} <= anchors
    contents = [text for text in page.texts_of("li") if "one/small" in text]
    assert contents == ["one/small basophil 1 neutrophil 5 unknown 2"]


def test_without_unknown_types_there_is_no_such_column():
    page = Page(gallery.render([source([1, 2])]))
    assert "unknown" not in page.texts_of("th")
    # The corner above the last column, then the one row: no row of sums for one data set.
    assert page.texts_of("td") == ["", *"0110020", "0", "2"]


def test_a_record_without_a_mask_shows_its_image_only():
    text = gallery.render([source([1, 1], has_mask=[0, 1])])
    without, with_mask = Page(text).all("img")
    assert without["alt"] == "eosinophil cell-000, without a mask"
    assert with_mask["alt"] == "eosinophil cell-001, with the outlines of its mask"
    image, _ = ring()
    first = base64.b64decode(without["src"].removeprefix("data:image/png;base64,"))
    assert first == overlays.thumbnail(image, None, 96)


def test_text_of_data_is_escaped_and_nothing_is_requested():
    text = gallery.render([source([0, 1], name=f"{EVIL}/a_b", ids=[EVIL, "b_c/d"])])
    page = Page(text)
    assert "<script" not in text
    assert EVIL in page.texts_of("h2")[1]
    assert [li for li in page.texts_of("li") if li in (EVIL, "b_c/d")] == [EVIL, "b_c/d"]
    assert page.all("script") == []
    sources_ = [a["src"] for a in page.all("img")]
    assert all(uri.startswith("data:image/png;base64,") for uri in sources_)
    assert all(a["href"].startswith("#") for a in page.all("a"))
    policy = page.all("meta")[1]["content"]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert "url(" not in text and "@import" not in text


def test_size_is_bounded_even_by_noise():
    rng = np.random.default_rng(0)
    noisy = source([2] * 8)
    record = {
        "image": encode_png(rng.integers(0, 256, (300, 300, 3), np.uint8)),
        "mask": encode_png(np.zeros((300, 300), np.uint8)),
    }
    many = sources.Source(
        **{k: getattr(noisy, k) for k in noisy.__slots__ if k != "encoded"}, encoded=[record] * 8
    )
    text = gallery.render([many], per_group=6)
    assert len(shown(text)) == 6
    # A palette picture of noise takes its pixels, in base64, and a palette.
    assert len(text) < 6 * (96 * 96 + 1200) * 4 / 3 + 20_000


def test_write_makes_the_file(tmp_path):
    path = tmp_path / "new" / "gallery.html"
    gallery.write(OutputFolder(path.parent), path.name, [source([0])])
    assert path.read_text(encoding="utf-8") == gallery.render([source([0])])
    assert sorted(p.name for p in path.parent.iterdir()) == [".wbc_jax", "gallery.html"]


def test_empty_sets_say_so():
    page = Page(gallery.render([source([])]))
    assert "This data set holds no records." in page.texts_of("p")
    Page(gallery.render([]))


def test_errors_name_what_is_wrong():
    with pytest.raises(ValueError, match="per_group is 0; it must be 1 or more"):
        gallery.render([], per_group=0)
    small = np.zeros((40, 48), np.uint8)
    with pytest.raises(ValueError, match=r"drawn cell-000: mask \[40, 48\] does not fit .*48, 48"):
        gallery.render([source([0], mask=small)])
