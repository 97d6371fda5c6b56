"""wbc_jax.utils.outputs: names of results for any names of inputs."""

import os

import pytest

from wbc_jax.utils import atomic, outputs


def test_names_never_meet():
    paths = ["x/a.png", "y/a.png", "y/a_2.png", "z/A.jpg", "b.c.png", "b.tif"]
    assert outputs.output_names(paths) == ["a", "a_2", "a_2_2", "A_3", "b.c", "b"]
    # One accent, written in two ways.
    assert outputs.output_names(["x/\xe9.png", "y/e\u0301.png"]) == ["\xe9", "e\u0301_2"]


ODD = {
    "bytes of Latin-1": os.fsdecode(b"caf\xe9.png"),
    "other such bytes": os.fsdecode(b"caf\xe8.png"),
    "the sign for them": "caf\ufffd.png",
    "230 letters": "a" * 230 + ".png",
    "230 letters, the last another one": "a" * 229 + "b.png",
    "77 Chinese letters": "\u7ec6" * 77 + ".png",
    "a line break": "a\nb.png",
    "another one": "a\rb.png",
}


def test_odd_names_are_short_valid_and_their_own(tmp_path):
    names = outputs.output_names(ODD.values())
    assert len(set(names)) == len(names)
    for path, name in zip(ODD.values(), names):
        assert len(name.encode("utf-8")) <= outputs.MOST_BYTES and name.isprintable()
        # A name is the same without the other files.
        assert outputs.output_names([f"elsewhere/{path}"]) == [name]
        atomic.write_bytes(tmp_path / f"{name}_99999.geojson", b"")
    assert len(list(tmp_path.iterdir())) == len(names)
    assert names[0].startswith("caf_-") and names[5].startswith("\u7ec6" * 62 + "-")


@pytest.mark.parametrize("name", ["a" * 200, "\u7ec6" * 66, "\xe9" * 100, "a b'c=(1)"])
def test_other_names_stay(name):
    assert outputs.output_names([f"{name}.png"]) == [name]
