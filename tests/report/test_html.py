"""Parts that all pages share."""

import pytest

from wbc_jax.report import html


@pytest.mark.parametrize(
    "name, text",
    [
        ("jtsc", "jtsc"),
        ("a_b/c", "a_<wbr>b/<wbr>c"),
        ("/x_", "/<wbr>x_"),
        ("<b>/_", "&lt;b&gt;/<wbr>_"),
        ("", ""),
    ],
)
def test_names_break_after_slashes_and_underscores(name, text):
    assert str(html.breakable(name)) == text


def test_numbers_have_their_unit():
    assert html.plural(1, "image") == "1 image" and html.plural(0, "image") == "0 images"
    assert html.plural(1234, "entry", "entries") == "1,234 entries"


def test_colors_and_pictures_as_a_page_writes_them():
    assert html.css_colors(cell=(0, 114, 178)) == {"cell": "#0072b2"}
    assert html.uri(b"\x00\x01", "jpeg") == "data:image/jpeg;base64,AAE="
