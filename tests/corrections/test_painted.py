"""Corrected masks as windows with truths, on drawn cells."""

import numpy as np
import pytest

from helpers.drawn_fields import Thresholds
from wbc_jax.corrections import cells, log, masks, painted, pictures
from wbc_jax.corrections.session import Session
from wbc_jax.data import orientation
from wbc_jax.data.images import read_image
from wbc_jax.errors import DataError
from wbc_jax.fields import analyze as fields
from wbc_jax.fields import windows
from wbc_jax.inference import mask_tuning


def paint(folder, index, reviewer="Anna", erase=0):
    """Saves the mask of a cell as it is, or with its first rows erased."""
    session = Session(folder, reviewer)
    area, base, mask = session.mask(index)
    mask = mask.copy()
    rows = np.flatnonzero(((mask == 1) | (mask == 2)).any(1))[:erase]
    mask[rows] = np.where(mask[rows] == 255, 255, 0)
    session.paint(index, area, mask, base)
    return area, mask


def gather(folder, **flags):
    results = cells.read(folder)
    own = painted.from_log(results)
    return painted.gather(results, own, pictures.Pictures(results), Thresholds(), **flags)


def test_only_what_was_saved(folder):
    results = cells.read(folder)
    assert painted.from_log(results).cells == []
    session = Session(folder, "Anna")
    session.set_types([2], "basophil")  # says nothing of its mask
    paint(folder, 1)
    paint(folder, 0)
    session.refresh()
    session.undo()  # the mask of 0
    found = painted.from_log(results)
    assert [cell.index for cell in found.cells] == [1] and found.by == ["Anna"]
    session.forget_mask(1)
    assert painted.from_log(results).cells == []


def test_the_last_of_several_people_counts(folder):
    results = cells.read(folder)
    paint(folder, 1, "Anna", erase=3)
    paint(folder, 1, "Bert", erase=9)
    paint(folder, 0, "Bert")
    found = painted.from_log(results)
    assert found.by == ["Bert", "Bert"] and "1 cell whose mask several people" in found.notes[0]
    paint(folder, 1, "Anna", erase=1)  # on top of her own
    found = painted.from_log(results)
    assert found.by == ["Bert", "Anna"]
    only = painted.from_log(results, ["Bert"])
    assert only.by == ["Bert", "Bert"] and only.notes == []
    assert only.saved[1]["nucleus_px"] + only.saved[1]["cytoplasm_px"] < sum(
        found.saved[1][name] for name in ("nucleus_px", "cytoplasm_px")
    )
    # What is no single leukocyte is no example; what is gone is counted.
    Session(folder, "Anna").set_types([1], "several cells")
    found = painted.from_log(results)
    assert [cell.index for cell in found.cells] == [0]
    assert "said to be no single leukocyte" in found.notes[-1]


def test_windows_are_those_of_the_prediction(folder):
    area, mask = paint(folder, 1, erase=6)
    paint(folder, 0)
    found = gather(folder)
    assert found.notes == [] and len(found.windows) == 2
    results = cells.read(folder)
    assert [key.id for key in found.keys] == ["crop.png:1", "field.png:1"]
    assert [key.dataset for key in found.keys] == ["corrected"] * 2
    # As the segmenter was shown them.
    given = []

    class Recording(Thresholds):
        def predict(self, images):
            given.extend(images)
            return super().predict(images)

    files = [results.cells[0].file, results.cells[1].file]
    pixels = [read_image(file) for file in files]
    fields.analyze(pixels, fields.Models(segmenter=Recording()))
    np.testing.assert_array_equal(found.windows.images[0], given[0])
    np.testing.assert_array_equal(found.windows.images[1], given[1])
    # The truth, turned back, is what was painted.
    (window,) = windows.shown([pixels[1]])[0][:1]
    truth = orientation.replace(found.windows.truths[1], window.position)
    top, left, bottom, right = window.box
    for y in range(max(top, area[0]), min(bottom, area[2]), 5):
        for x in range(max(left, area[1]), min(right, area[3]), 5):
            value = truth[y - top, x - left]
            assert value == 255 or value == mask[y - area[0], x - area[1]]
    own = np.isin(truth, (1, 2))
    assert own.sum() == np.isin(mask, (1, 2)).sum()
    assert (truth == 0).sum() > own.sum() / 2


def test_a_cell_that_is_not_found_again(folder):
    paint(folder, 3)
    found = gather(folder, find="no")  # the field is one cell then
    assert len(found.windows) == 0 and "name the --find of the prediction" in found.notes[0]


def test_damaged_and_lost_files(folder):
    paint(folder, 1)
    (file,) = (folder / masks.FOLDER).iterdir()
    file.write_bytes(b"damaged")
    with pytest.raises(DataError, match="has changed since: restore it"):
        gather(folder)
    statements = log.Log(folder).read_new()
    assert statements[-1].what == log.MASK


def test_cells_that_nobody_corrected(folder):
    paint(folder, 1)
    results = cells.read(folder)
    rest = painted.others(results, painted.from_log(results), 9)
    assert [cell.index for cell in rest.cells] == [0, 2, 3] and rest.saved == [None] * 3
    assert len(painted.others(results, rest, 9).cells) == 1
    assert len(painted.others(results, painted.from_log(results), 2).cells) == 2
    found = painted.gather(results, rest, pictures.Pictures(results), Thresholds())
    # The same segmenter agrees with itself.
    scores = mask_tuning.score(Thresholds(), found.windows)
    assert scores.mean_iou == 1 and len(scores.errors) == 3


def test_what_is_known():
    before = np.zeros((9, 15), np.uint8)
    before[3:6, 3:6], before[4, 4] = 1, 2
    before[3:6, 11:14] = 255  # another cell
    after = before.copy()
    after[3, 3:6] = 0  # erased
    predicted = np.where(before == 255, 1, before)
    predicted[8, 0:2] = 1  # a cell that the results do not have
    predicted[6, 5] = 1  # touches the cell
    found = painted.known(after, before, predicted)
    assert (found[3:6, 11:14] == 255).all()
    assert (found[4:6, 3:6] == after[4:6, 3:6]).all() and (found[3, 3:6] == 0).all()
    assert (found[8, :2] == 255).all() and found[6, 5] == 0
    # Nearer to the other cell than to this one.
    assert found[4, 7] == 0 and found[4, 8] == 0 and found[4, 9] == 255 and found[0, 14] == 255
    # Without another cell, all background is known but what the network calls a cell.
    alone = painted.known(*(np.where(one == 255, 0, one) for one in (after, before)), predicted)
    assert (alone == 255).sum() == 9 + 2
