"""Numbers as they are written beside the papers'."""

import math

from wbc_jax.papers.comparison import Row, Value
from wbc_jax.papers.printed import TableCell
from wbc_jax.utils import atomic


def test_numbers_are_written_with_the_papers_digits():
    cell = TableCell("Table 1", "r", "c", "0.9710", "fraction")
    row = Row("r", "c", "fraction", cell, ours=Value(0.98, 0.97, 0.985))
    assert row.format_value(row.ours) == "0.9800"
    assert row.format_number(row.difference, signed=True) == "+0.0090"
    assert row.interval == "[0.9700, 0.9850]" and row.printed == "0.9710"
    p = Row("r", "c", "p", TableCell("", "", "", "<0.001", "p"), ours=Value(4e-5))
    assert (p.printed, p.format_value(p.ours), p.format_number(p.difference)) == (
        "<0.001",
        "<0.001",
        "",
    )
    count = Row("r", "c", "images", TableCell("", "", "", "28128", "images", flag="damaged"))
    assert count.printed == "28,128†" and count.format_value(Value(15809)) == "15,809"
    assert Row("r", "c", "ratio").format_number(math.inf) == "inf"
    assert atomic.finite(count.difference) is None
