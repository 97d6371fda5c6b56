"""wbc_jax.utils.atomic: complete files or none, and JSON that every program reads."""

import errno
import json
import math

import numpy as np
import pytest
from etils import epath

from wbc_jax.utils import atomic


def test_writes_bytes_and_makes_folders(tmp_path):
    path = tmp_path / "a" / "b" / "c.bin"
    atomic.write_bytes(path, b"\x00\xff")
    atomic.write_bytes(str(path), b"again")
    assert path.read_bytes() == b"again"
    assert [p.name for p in path.parent.iterdir()] == ["c.bin"]


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path, monkeypatch):
    path = tmp_path / "c.txt"
    atomic.write_text(path, "old")

    def full(self, data):
        with self.open("wb") as file:
            file.write(data[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(epath.Path(path)), "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        atomic.write_text(path, "new text")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["c.txt"]


def test_a_folder_that_cannot_be_created(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        atomic.write_text(tmp_path / "file" / "c.txt", "x")


def test_the_error_of_a_full_disk_names_the_file(tmp_path):
    path = tmp_path / "a.png"
    raised = pytest.raises(OSError, match=r"No space left on device: free some space.*a\.png")
    with raised as caught, atomic.atomic_write(path) as temporary:
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.errno == errno.ENOSPC and list(tmp_path.iterdir()) == []


def test_text_is_utf8(tmp_path):
    atomic.write_text(tmp_path / "t", "µm²\n")
    assert (tmp_path / "t").read_bytes() == b"\xc2\xb5m\xc2\xb2\n"


def test_json_has_null_for_what_is_not_finite(tmp_path):
    value = {
        "a": math.nan,
        "b": [1, math.inf, (-math.inf, 0.5)],
        "c": np.float64("nan"),
        "d": "NaN",
    }
    atomic.write_json(tmp_path / "v.json", value)

    def refuse(constant):
        raise AssertionError(constant)

    text = (tmp_path / "v.json").read_text()
    assert json.loads(text, parse_constant=refuse) == {
        "a": None,
        "b": [1, None, [None, 0.5]],
        "c": None,
        "d": "NaN",
    }
    assert text.endswith("}\n")
    assert math.isnan(value["a"])  # the caller's value is not changed


def test_csv(tmp_path):
    rows = [
        {"file": 'a,"b".png', "n": 3, "x": 1 / 3, "unused": 1},
        {"file": "ü", "n": None, "x": math.nan},
        {"file": "", "n": 1234567, "x": math.inf},
        {"x": -1e-9},
    ]
    atomic.write_csv(tmp_path / "t.csv", rows, ("file", "n", "x"))
    assert (tmp_path / "t.csv").read_text(encoding="utf-8") == (
        'file,n,x\n"a,""b"".png",3,0.333333\nü,,\n,1234567,inf\n,,-1e-09\n'
    )
    atomic.write_csv(tmp_path / "t.csv", [], ("file", "n"))
    assert (tmp_path / "t.csv").read_text() == "file,n\n"


# What spreadsheets take for formulas (OWASP, "CSV Injection"), and what they do not.
_FORMULAS = [
    '=HYPERLINK("http://x";"a").png', "+1+2", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1",
    "'=1", "''=1", "-", "-1e", "=",
]  # fmt: skip
_TEXTS = ["a=1.png", "'quoted'", "", "dir/=1.png", "-1.5", "+3", "-1e-05", " =1", "'", "µ"]


@pytest.mark.parametrize("text", _FORMULAS)
def test_a_text_is_no_formula_and_can_be_read_back(text):
    cell = atomic.csv_text(text)
    assert cell == f"'{text}" and atomic.read_csv_text(cell) == text


@pytest.mark.parametrize("text", _TEXTS)
def test_other_texts_stay_as_they_are(text):
    assert atomic.csv_text(text) == atomic.read_csv_text(text) == text


def test_numbers_in_csv_are_no_texts(tmp_path):
    rows = [{"file": "=1+2.png", "n": -3, "x": -0.5}, {"file": "-3", "x": -math.inf}]
    atomic.write_csv(tmp_path / "t.csv", rows, ("file", "n", "x"))
    assert (tmp_path / "t.csv").read_text() == "file,n,x\n'=1+2.png,-3,-0.5\n-3,,-inf\n"


def test_bytes_that_are_no_utf8_cost_no_file(tmp_path):
    atomic.write_csv(tmp_path / "t.csv", [{"file": "caf\udce9.png"}], ("file",))
    assert (tmp_path / "t.csv").read_bytes().decode("utf-8") == "file\ncaf\ufffd.png\n"
    atomic.write_text(tmp_path / "t.html", "<p>caf\udce9")
    assert (tmp_path / "t.html").read_bytes().decode("utf-8") == "<p>caf\ufffd"


def test_the_test_of_a_folder_touches_no_file(tmp_path):
    (tmp_path / ".wbc_jax").write_text("mine")
    atomic.check_writable(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [".wbc_jax"]
    assert (tmp_path / ".wbc_jax").read_text() == "mine"
