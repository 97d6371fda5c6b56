"""wbc_jax.corrections.pictures: the images of corrected cells, a few at a time."""

import types

import numpy as np

from wbc_jax.corrections import pictures


def test_images_of_cells_in_batches(monkeypatch):
    """Each image is read once, when its batch is due, and those that are gone are named."""
    read = []

    def image(self, cell):
        read.append(cell.file)
        gone = f"{cell.file} is gone." if cell.file in "bd" else ""
        return types.SimpleNamespace(problem=gone, pixels=np.full((1, 1, 3), ord(cell.file)))

    monkeypatch.setattr(pictures.Pictures, "image", image)
    cells = [types.SimpleNamespace(file=file) for file in "abacbdd"]
    batches = pictures.Pictures(None).batches(cells, 1)
    good, bad = next(batches)
    assert read == ["a"] and bad == []
    ((file, places, pixels),) = good
    assert (file, places, pixels[0, 0, 0]) == ("a", [0, 2], ord("a"))
    good, bad = next(batches)
    assert read == ["a", "b", "c"] and bad == [("b is gone.", 2)]
    assert [(file, places) for file, places, _ in good] == [("c", [3])]
    assert list(batches) == [([], [("d is gone.", 2)])] and read == [*"abcd"]
    ((good, bad),) = pictures.Pictures(None).batches(cells, 8)
    assert [file for file, *_ in good] == ["a", "c"] and len(bad) == 2
    assert list(pictures.Pictures(None).batches([], 8)) == []
