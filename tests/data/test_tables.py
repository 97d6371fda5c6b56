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
