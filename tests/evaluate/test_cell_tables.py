"""Tables of cells: what is read, and what each kind of bad table is told."""

import math

import pytest

from helpers import cell_tables as made
from wbc_jax.errors import InputError
from wbc_jax.evaluate import cell_tables
from wbc_jax.evaluate.cell_tables import Rule
from wbc_jax.fields import results


def test_a_row_is_read(tmp_path):
    path = made.write(
        tmp_path / "out" / "cells.csv",
        [
            made.row("a", 60, 40, flag="touches_frame;decoder_warning", review="low_probability"),
            made.row("b", 0, 40, mask="masks/b.png", um_per_px="0.1", um_per_px_source="given"),
            made.row("c", 9, 0),
            made.row("d", "", "", cell="", flag="no_cell"),
            made.row("e", "", ""),
        ],
    )
    table = cell_tables.read(path.parent)
    assert table == cell_tables.read(path)
    a, b, c, d, e = table.rows
    assert a.flags == ("touches_frame", "decoder_warning", "review")
    assert (a.values["nucleus_px"], a.values["cytoplasm_px"]) == (60, 40)
    assert math.isnan(a.values["um_per_px"]) and a.box == (10, 10, 40, 40) and a.size == (64, 64)
    assert b.flags == ("no_nucleus",) and b.values["um_per_px"] == 0.1 and b.mask == "masks/b.png"
    assert b.folder == str(path.parent) and b.um_per_px_source == "given" and b.stem == "b"
    assert c.flags == ("no_cytoplasm",) and d.flags == ("no_cell",) and e.flags == ("no_mask",)
    assert table.missing == ()


def test_all_columns_are_those_of_predict():
    used = (*cell_tables._NUMBERS, *cell_tables._BOX, "file", "cell", "flag", "review", "mask")
    assert set(used) <= set(results.COLUMNS)


def test_byte_order_mark_and_blank_lines_change_nothing(tmp_path):
    rows = made.cells("a", [(6, 4), (7, 4)])
    plain = cell_tables.read(made.write(tmp_path / "a" / "cells.csv", rows))
    path = made.write(tmp_path / "b" / "cells.csv", rows, start="\ufeff")
    path.write_bytes(path.read_bytes() + b"\n\n")
    for one, other in zip(cell_tables.read(path).rows, plain.rows, strict=True):
        assert one.file == other.file
        assert one.values == pytest.approx(other.values, nan_ok=True)


def test_shape_columns_may_be_missing(tmp_path):
    columns = ("file", "cell", "nucleus_px", "cytoplasm_px", "cell_solidity")
    table = cell_tables.read(made.write(tmp_path / "t.csv", [made.row("a")], columns))
    assert table.missing == tuple(c for c in cell_tables.SHAPES if c != "cell_solidity")
    assert table.rows[0].flags == () and table.rows[0].box is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"nucleus_px": "6,5"}, r"line 2, nucleus_px: '6,5' is not allowed; allowed is a number"),
        ({"nucleus_px": "6.5"}, r"line 2, nucleus_px: '6.5' is not allowed; allowed is a whole"),
        ({"cytoplasm_px": "-1"}, r"line 2, cytoplasm_px: '-1' is not allowed"),
        ({"cell_solidity": "inf"}, r"line 2, cell_solidity: 'inf' is not allowed"),
        ({"lobes": "one"}, r"line 2, lobes: 'one' is not allowed"),
        ({"um_per_px": "0"}, r"line 2, um_per_px: '0' is not allowed; allowed is a number above 0"),
    ],
)
def test_a_number_that_is_none_is_named_with_file_line_and_column(tmp_path, change, told):
    path = made.write(tmp_path / "cells.csv", [made.row("a", **change)])
    with pytest.raises(InputError, match=told) as caught:
        cell_tables.read(path)
    assert str(path) in str(caught.value)


def test_other_tables_are_refused(tmp_path):
    def told(path, by=""):
        with pytest.raises(InputError) as caught:
            cell_tables.read(path, by)
        return str(caught.value)

    rows = made.cells("a", [(6, 4)])
    assert f"{tmp_path / 'cells.csv'} does not exist" in told(tmp_path)
    path = tmp_path / "t.csv"
    made.write(path, rows, delimiter=";")
    assert "t.csv is separated by semicolons" in told(path)
    made.write(path, rows, ("file", "cell", "nucleus_px"))
    assert "t.csv lacks the column 'cytoplasm_px'; it has file, cell, nucleus_px" in told(path)
    made.write(path, rows)
    assert "lacks the column 'who', which --by names" in told(path, "who")
    made.write(path, rows + rows)
    assert "line 3: the cell 1 of /nowhere/a0.png is in line 2 as well" in told(path)
    made.write(path, rows)
    path.write_text(path.read_text() + "x,y\n")
    assert "line 3 has 2 cells, but the header" in told(path)
    path.write_text("file,cell,nucleus_px,cytoplasm_px,nucleus_px\n")
    assert "has the column 'nucleus_px' twice" in told(path)
    path.write_text("")
    assert "lacks the column 'file'; it has (none)" in told(path)
    path.write_bytes(b"\x89PNG\r\n\x1a\n\xff\x00")
    assert "t.csv is no CSV file in UTF-8" in told(path)
    made.write(path, [made.row("a", "", "")])
    assert "t.csv has no cell with areas" in told(path)


def test_the_rule_counts_a_cell_under_its_first_reason(tmp_path):
    rows = [
        made.row("a", flag="nuclei_differ;touches_frame"),
        made.row("b", review="unlike_training"),
        made.row("c", "", "", cell="", flag="no_cell"),
        made.row("d", 0, 7),
        made.row("e", 7, 0, who="x"),
    ]
    table = cell_tables.read(made.write(tmp_path / "cells.csv", rows))
    usual = [Rule().reason(row) for row in table.rows]
    assert usual == ["touches_frame", "", "no_cell", "no_nucleus", ""]
    none = [Rule(()).reason(row) for row in table.rows]
    assert none == ["", "", "no_cell", "", ""]
    review = [Rule(("review", "no_cytoplasm")).reason(row) for row in table.rows]
    assert review == ["", "review", "no_cell", "", "no_cytoplasm"]
    Rule(("review", "touches_frame")).check(table.rows)
    with pytest.raises(InputError, match="--leave_out names 'touch_frame', which is no flag"):
        Rule(("touch_frame",)).check(table.rows)


def test_a_row_without_a_group_is_left_out(tmp_path):
    rows = [made.row("a", who=" blast"), made.row("b", who="")]
    table = cell_tables.read(made.write(tmp_path / "cells.csv", rows), "who")
    assert [row.group for row in table.rows] == ["blast", ""]
    assert [Rule(()).reason(row) for row in table.rows] == ["", "no_group"]
