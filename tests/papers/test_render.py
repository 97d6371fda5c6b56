"""A paper's tables as text, CSV, LaTeX and a page: equal numbers, escaped for each format."""

import csv
import re

import pytest

from helpers.html_pages import Page
from wbc_jax.papers import plans, render
from wbc_jax.papers.comparison import Comparison, Figure, Row, Value
from wbc_jax.papers.paper_b_classification import NO_INDEPENDENT
from wbc_jax.papers.printed import TableCell
from wbc_jax.utils.output_folder import OutputFolder

NASTY = "50 % & more_or_less {#1} <b> ~5^2 \\ $3"


@pytest.fixture
def comparison():
    flagged = TableCell(
        "Table 4", "a_row", "accuracy", "0.9803", "fraction", flag="contradiction", note=NASTY
    )
    plain = TableCell("Table 4", "a_row", "recall", "0.9726", "fraction")
    return Comparison(
        "b",
        "table_4",
        "A title & more",
        [
            Row(
                "a_row", "accuracy", "fraction", flagged,
                recomputed=Value(0.9754), ours=Value(0.9, 0.85, 0.95), remark="a remark",
                stand_ins={"JTSC": Value(0.5)},
            ),
            Row("a_row", "recall", "fraction", plain, reason="no data"),
            Row("b_row", "images", "images", ours=Value(12.0), comparable=False),
        ],
        [Figure("A cell <1>", 'the "cell"', b"\x89PNG")],
        ["small images"],
        ["sums to 8,281"],
        ["no run. Make it with: python -m x --config=a_b.py"],
    )  # fmt: skip


def test_text(comparison):
    lines = render.text(comparison).splitlines()
    assert lines[0] == "Paper B, Table 4: A title & more"
    assert lines[2].split("  ")[0] == "row" and "from its own numbers" in lines[2]
    assert lines[4].split() == [
        "a_row", "accuracy", "0.9803†", "0.9754", "0.9000", "(b)", "-0.0803",
        "[0.8500,", "0.9500]", "0.5000",
    ]  # fmt: skip
    assert lines[5].split() == ["recall", "0.9726", "–", "(a)"]
    assert lines[6].split() == ["b_row", "images", "[images]", "–", "12"]
    rest = lines[7:]
    assert rest[:2] == ["(a) no data", "(b) a remark"]
    assert f"  - a_row, accuracy: {NASTY}" in rest
    for sentence in ("small images", "sums to 8,281"):
        assert f"  - {sentence}" in rest
    assert any("--config=a_b.py" in line for line in rest)


def test_latex_is_escaped_and_whole(comparison):
    text = render.latex(comparison)
    assert r"\begin{longtable}{llrrrrrr}" in text
    assert r"a\_row & accuracy & 0.9803\textsuperscript{\textdagger} & 0.9754 &" in text
    assert r"0.9000\textsuperscript{b} & -0.0803 & [0.8500, 0.9500] & 0.5000 \\" in text
    assert (
        r"50 \% \& more\_or\_less \{\#1\} \textless{}b\textgreater{} "
        r"\textasciitilde{}5\textasciicircum{}2 \textbackslash{} \$3"
    ) in text
    # The remaining special characters are markup: comments, columns, and balanced braces.
    plain = text.replace("\\\\", "").replace(r"\{", "").replace(r"\}", "")
    assert plain.count("{") == plain.count("}")
    assert all(line.startswith("%") for line in plain.splitlines() if re.search(r"(?<!\\)%", line))
    assert not re.search(r"(?<!\\)[#$~]", plain.replace(r"$\times$", ""))
    rows = [line for line in text.splitlines() if line.endswith(r" \\") and "&" in line]
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {7}


def test_latex_text():
    assert render.latex_text("96 × 96 – a_b") == r"96 $\times$ 96 -- a\_b"


def test_page_is_well_formed_and_complete(comparison):
    text = render.page("b", "quick", [comparison])
    page = Page(text)
    assert "2 of 3 cells have a number of ours" in page.text
    for part in ("0.9803†", "0.9754", "0.9000", "-0.0803", "[0.8500, 0.9500]", "0.5000", NASTY):
        assert part in page.text, part
    for part in (
        "Quick scale",
        "no data",
        "a remark",
        "small images",
        "sums to 8,281",
        "A cell <1>",
    ):
        assert part in page.text, part
    tables = [attrs for tag, attrs in page.tags if tag == "table"]
    assert len(tables) == 1
    assert [a["rowspan"] for t, a in page.tags if t == "th" and "rowspan" in a] == ["2", "1"]
    (image,) = [attrs for tag, attrs in page.tags if tag == "img"]
    assert image["alt"] == 'the "cell"' and image["src"].startswith("data:image/png;base64,")
    assert not any(tag == "script" for tag, _ in page.tags)
    assert not re.search(r"(src|href|srcset)=\"(https?:)?//", text)
    links = {a["href"] for t, a in page.tags if t == "a"}
    ids = {a["id"] for _, a in page.tags if "id" in a}
    assert {link[1:] for link in links} <= ids


def test_letters_go_on_after_z():
    assert [render._letter(i) for i in (0, 25, 26, 51, 52, 702)] == [
        "a", "z", "aa", "az", "ba", "aaa",
    ]  # fmt: skip


def test_csv_holds_every_line(built, tmp_path):
    written = render.write(OutputFolder(tmp_path), "b", "full", [built["b", "table_5"]])
    assert [path.name for path in written] == [
        "table_5.txt", "table_5.csv", "table_5.tex", "index.html",
    ]  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "table_5.csv").read_text().splitlines()))
    assert len(rows) == len(built["b", "table_5"].rows)
    row = next(r for r in rows if (r["row"], r["column"]) == ("overall", "specificity"))
    assert (row["paper_value"], row["paper_printed"], row["ours"]) == ("0.9825", "0,9825", "")
    assert row["blank_because"] == NO_INDEPENDENT
    assert float(row[plans.STAND_INS["segmentation_wbc/jtsc"]]) > 0
    assert row["item"] == "Table 5"
    verdicts = render.csv_rows(built["a", "table_1"])
    assert [r["recomputed"] for r in verdicts if r["column"] == "verdict"][3] == "healthy"
