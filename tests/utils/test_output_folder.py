"""wbc_jax.utils.output_folder: a person's files stay, and one process writes at a time."""

import os
import socket
import subprocess
import sys

import pytest

from wbc_jax.errors import InputError
from wbc_jax.utils import output_folder
from wbc_jax.utils.output_folder import OutputFolder


def _refused(folder, *names):
    with pytest.raises(InputError) as caught:
        output_folder.refuse_foreign(folder, names)
    return str(caught.value)


def test_a_persons_file_is_refused_and_an_own_one_is_replaced(tmp_path):
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks" / "c.png").write_bytes(b"a person's")
    with OutputFolder(tmp_path) as folder:
        folder.refuse_foreign(["masks/a.png", "table.csv"])
        folder.write({"masks/a.png": b"1", "table.csv": b"2"})
        text = _refused(tmp_path, "masks/a.png", "masks/c.png")
        assert text == (
            f"{tmp_path}/masks/c.png was not written by an earlier call with --out={tmp_path}, so "
            "it is not replaced: move it away, or name another --out."
        )
    with OutputFolder(tmp_path) as folder:
        folder.refuse_foreign(["masks/a.png", "table.csv"])
        folder.write({"masks/a.png": b"3"})
    assert (tmp_path / "masks" / "a.png").read_bytes() == b"3"
    assert (tmp_path / "masks" / "c.png").read_bytes() == b"a person's"


def test_a_file_that_is_written_bit_by_bit_appears_whole_and_is_ours(tmp_path):
    with OutputFolder(tmp_path) as folder:
        with folder.writing("cells.csv") as path:
            path.write_bytes(b"a" * 3_000_000)
            assert not (tmp_path / "cells.csv").exists()
        with pytest.raises(ZeroDivisionError), folder.writing("other.csv") as path:
            path.write_bytes(b"half")
            raise ZeroDivisionError
    assert sorted(path.name for path in tmp_path.iterdir()) == [".wbc_jax", "cells.csv"]
    output_folder.refuse_foreign(tmp_path, ["cells.csv", "other.csv"])
    (tmp_path / "cells.csv").write_bytes(b"a" * 2_999_999)
    assert "cells.csv has changed since an earlier call" in _refused(tmp_path, "cells.csv")


def test_an_own_file_that_a_person_corrected_is_refused(tmp_path):
    with OutputFolder(tmp_path) as folder:
        folder.write({"masks/a.png": b"first"})
        folder.write({"masks/a.png": b"second"})
    (tmp_path / "masks" / "a.png").write_bytes(b"corrected")
    assert "masks/a.png has changed since an earlier call wrote it" in _refused(
        tmp_path, "masks/a.png"
    )
    # A killed process has listed the second version, but the first is still there.
    (tmp_path / "masks" / "a.png").write_bytes(b"first")
    output_folder.refuse_foreign(tmp_path, ["masks/a.png"])
    (tmp_path / "masks" / "a.png").unlink()
    (tmp_path / "masks" / "a.png").mkdir()
    assert "is a folder, and a file of that name is to be written" in _refused(
        tmp_path, "masks/a.png"
    )


def test_only_own_files_are_removed(tmp_path):
    (tmp_path / "bad_files.csv").write_text("a person's")
    with OutputFolder(tmp_path / "out") as folder:
        folder.list_bad([("a.png", "is empty")])
        assert (folder.path / "bad_files.csv").read_text() == "file,reason\na.png,is empty\n"
        folder.list_bad([])
        assert not (folder.path / "bad_files.csv").exists()
        folder.list_bad([])
    with OutputFolder(tmp_path) as folder, pytest.raises(InputError, match=r"bad_files\.csv"):
        folder.list_bad([])
    assert (tmp_path / "bad_files.csv").read_text() == "a person's"


def test_the_manifest_survives_an_incomplete_line(tmp_path):
    with OutputFolder(tmp_path) as folder:
        folder.write({"a": b"1"})
    manifest = tmp_path / output_folder.STATE / output_folder.MANIFEST
    with manifest.open("ab") as file:
        file.write(b'{"file": "b", "sha')
    assert set(output_folder.written(tmp_path)) == {"a"}
    with OutputFolder(tmp_path) as folder:
        folder.write({"c": b"3"})
    assert set(output_folder.written(tmp_path)) == {"a", "c"}
    assert len(manifest.read_text().splitlines()) == 2


_HOLD = """
import sys
from wbc_jax.utils.output_folder import OutputFolder
with OutputFolder(sys.argv[1]) as folder:
    folder.write({"a": b"1"})
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_by_the_name_of_the_first(tmp_path):
    first = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert first.stdout.readline() == "locked\n"
        with pytest.raises(InputError) as caught, OutputFolder(tmp_path):
            pass
        who = f"process {first.pid} on {socket.gethostname()}"
        assert f"{tmp_path} is being written by {who} (since 2" in str(caught.value)
        assert "wait until it is done, or name another --out" in str(caught.value)
        # Processes with different parts share a folder.
        with OutputFolder(tmp_path, part="1-of-2.") as folder:
            folder.write({"b": b"2"})
        assert set(output_folder.written(tmp_path)) == {"a", "b"}
        first.kill()
        first.wait()
        with OutputFolder(tmp_path) as folder:  # a killed process leaves no lock
            folder.write({"a": b"2"})
    finally:
        first.kill()
        first.communicate()
    assert (tmp_path / "a").read_bytes() == b"2"


def test_a_call_that_writes_nothing_leaves_nothing(tmp_path):
    with pytest.raises(ValueError), OutputFolder(tmp_path / "new" / "out"):
        raise ValueError
    assert not any(tmp_path.iterdir())
    with OutputFolder(tmp_path / "new" / "out") as folder:
        (folder.path / "other").write_text("stays")
    assert [path.name for path in (tmp_path / "new" / "out").iterdir()] == ["other"]


def test_files_of_a_version_without_a_manifest_are_adopted_once(tmp_path):
    (tmp_path / "a.csv").write_text("old")
    with OutputFolder(tmp_path) as folder:
        folder.adopt(["a.csv", "missing.csv"])
        folder.refuse_foreign(["a.csv"])
        (tmp_path / "b.csv").write_text("a person's")
        folder.adopt(["b.csv"])
        assert "b.csv was not written" in _refused(tmp_path, "b.csv")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError), OutputFolder(tmp_path / "out"):
        pass
    tmp_path.chmod(0o700)
