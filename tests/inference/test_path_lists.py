"""wbc_jax.inference.path_lists: lists of any length, and names of any bytes."""

import tracemalloc

import pytest

from wbc_jax.errors import ShardsError
from wbc_jax.inference import path_lists


def test_a_million_paths_are_read_in_little_memory(tmp_path):
    path = tmp_path / "paths.txt"
    with path.open("w") as file:
        file.writelines(f"/images/of/cells/{n:07}.png\n" for n in range(1_000_000))
    tracemalloc.start()
    listing = path_lists.read_listing(path, 1024)
    last = listing.paths(976)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert listing.count == 1_000_000 and len(listing.starts) == 977
    assert last == [f"/images/of/cells/{n:07}.png" for n in range(976 * 1024, 1_000_000)]
    assert len(last) == listing.size(976) == 576 and listing.size(0) == 1024
    assert listing.paths(5)[:2] == ["/images/of/cells/0005120.png", "/images/of/cells/0005121.png"]
    assert peak < 2_000_000  # bytes; the paths alone are 28 million


def test_lists_that_cannot_be_used(tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ShardsError, match=r"empty\.txt names no file"):
        path_lists.read_listing(tmp_path / "empty.txt", 3)
    with pytest.raises(ShardsError, match=r"none\.txt cannot be read"):
        path_lists.read_listing(tmp_path / "none.txt", 3)


def test_line_breaks_in_names_cost_no_file(tmp_path):
    names = ["a\nb.png", "\r\n.png", "c\\n.png", "d.png\n"]
    path_lists.write_listing(names, tmp_path / "list.txt")
    listing = path_lists.read_listing(tmp_path / "list.txt", 3)
    assert listing.count == 4 and listing.paths(0) + listing.paths(1) == names
    path_lists.write_listing(["ü .png", "b\udcff.png"], tmp_path / "list.txt")
    assert path_lists.read_listing(tmp_path / "list.txt", 1).paths(1) == ["b\udcff.png"]
