"""wbc_jax.data.tables: rows with their line numbers, and the error that lists wrong lines."""

import pytest

from wbc_jax.data import tables
from wbc_jax.errors import DataError


def test_rows_keep_their_lines_and_lose_white_space(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfid, type\r\n\r\n a ,"b, c"\r\n,\r\nd\r\n')
    assert tables.read(tmp_path / "a.csv", ("id", "type")) == [
        tables.Row(3, " a ,b, c", ["a", "b, c"]),
        tables.Row(5, "d", ["d"]),
    ]
    first = tables.read(tmp_path / "a.csv")[0]
    assert (first.line, first.cells) == (1, ["id", "type"])
    assert str(first) == "line 1: 'id, type'"


def test_semicolons_are_read_where_the_header_has_them(tmp_path, caplog):
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbf;Image;"Category"\r\n;0;"A, B"\r\n;1; C\r\n')
    with caplog.at_level("WARNING"):
        rows = tables.read(path, ("", "Image", "Category"))
    assert rows == [
        tables.Row(2, ";0;A, B", ["", "0", "A, B"]),
        tables.Row(3, ";1; C", ["", "1", "C"]),
    ]
    assert f"{path}: its cells are separated by ';'" in caplog.text
    # A semicolon inside a cell is text, and another header is refused as it stands.
    path.write_bytes(b"id,type\na;b,c\n")
    assert tables.read(path, ("id", "type")) == [tables.Row(2, "a;b,c", ["a;b", "c"])]
    path.write_bytes(b"id;kind\na;b\n")
    with pytest.raises(DataError, match="the header is 'id;kind': allowed is 'id,type'"):
        tables.read(path, ("id", "type"))


@pytest.mark.parametrize(
    "data, reason",
    [
        (None, "cannot be read as CSV"),
        (b"", "the file is empty"),
        (b"\n,\n", "the file is empty"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b'id,type\n"a', "cannot be read as CSV"),
        (b"id,kind\n", "the header is 'id,kind': allowed is 'id,type'"),
    ],
)
def test_what_is_refused(tmp_path, data, reason):
    path = tmp_path / "a.csv"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DataError, match=reason) as caught:
        tables.read(path, ("id", "type"))
    assert str(path) in str(caught.value)


def test_twenty_wrong_lines_are_shown():
    tables.check("a.csv", [], "a number")
    with pytest.raises(DataError) as caught:
        tables.check("a.csv", [f"line {n}" for n in range(2, 27)], "a number; fix them")
    message = str(caught.value)
    assert message.startswith("a.csv: 25 lines are wrong: allowed is a number; fix them:\n  line 2")
    assert "line 21" in message and "line 22" not in message
