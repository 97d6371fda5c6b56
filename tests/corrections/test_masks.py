"""Corrected masks: windows, files, and what a session says of them."""

import csv
import hashlib

import numpy as np
import pytest
from PIL import Image

from wbc_jax import inputs
from wbc_jax.corrections import masks, session
from wbc_jax.errors import DataError, InputError
from wbc_jax.utils import output_folder


def test_the_mask_of_a_cell_marks_others_as_unknown(folder):
    anna = session.Session(folder, "Anna")
    cell = anna.results.cells[1]
    height, width = cell.row["height"], cell.row["width"]
    mask = masks.current(folder, cell, None, (0, 0, height, width))
    predicted = np.asarray(Image.open(folder / "masks" / "field.png"))
    labels = np.asarray(Image.open(folder / "labels" / "field.png"))
    assert (mask[labels == 1] == predicted[labels == 1]).all()
    assert (mask[(labels > 1)] == 255).all() and (mask[labels == 0] == 0).all()
    assert [int((mask == v).sum()) for v in (2, 1)] == [
        cell.row["nucleus_px"], cell.row["cytoplasm_px"]
    ]  # fmt: skip
    area, base, own = anna.mask(1)
    top, left, bottom, right = area
    assert base == "" and (own == mask[top:bottom, left:right]).all()
    assert bottom - top == right - left > 1.6 * (cell.box[2] - cell.box[0])


def test_a_painted_mask_is_a_file_a_line_and_a_row(folder):
    anna = session.Session(folder, "Anna")
    area, _, mask = anna.mask(1)
    painted = mask.copy()
    painted[:9, :7] = 2  # in a corner, where nothing was
    painted[mask == 2] = 1
    assert anna.paint(1, area, painted, "") == [1]
    said = anna.state.said("Anna")[1].mask
    path = folder / said["png"]
    assert (np.asarray(Image.open(path)) == painted).all()
    assert hashlib.sha256(path.read_bytes()).hexdigest() == said["sha256"]
    assert said["window"] == list(area) and said["nucleus_px"] == 63
    cytoplasm = int((mask > 0).sum() - (mask == 255).sum())
    assert said["cytoplasm_px"] == cytoplasm
    anna.write_table()
    with open(folder / "corrections.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["mask"] == said["png"] and row["type"] == ""
    assert [int(row[f"mask_{e}"]) for e in ("top", "left", "bottom", "right")] == list(area)
    assert float(row["nc_ratio"]) == pytest.approx(63 / cytoplasm, rel=1e-5)
    # The same again is no news; a new session finds it; an undo takes it back, the file stays.
    assert anna.paint(1, area, painted, said["sha256"]) == []
    again = session.Session(folder, "Anna")
    assert (again.mask(1)[2] == painted).all() and again.mask(1)[1] == said["sha256"]
    assert again.undo() == [1] and (again.mask(1)[2] == mask).all() and path.exists()
    assert again.paint(1, area, painted, "") == [1]
    assert again.forget_mask(1, said["sha256"]) == [1] and (again.mask(1)[2] == mask).all()
    # predict knows the files, takes none of them for an image, and goes on in this folder.
    assert said["png"] in output_folder.written(folder)
    assert all("corrections" not in path for path in _images(folder.parent))
    again_predicted = [f"masks/{name}.png" for name in ("crop", "field")]
    output_folder.refuse_foreign(folder, ["cells.csv", "corrections.csv", *again_predicted])


def _images(folder):
    Image.new("RGB", (9, 9)).save(folder / "an_image.png")
    return inputs.find_images([str(folder)]).paths


def test_a_second_window_does_not_overwrite_the_first(folder):
    one, other = session.Session(folder, "Anna"), session.Session(folder, "Anna")
    area, base, mask = one.mask(1)
    mask[0, 0] = 2
    one.paint(1, area, mask, base)
    mask[0, 1] = 2
    with pytest.raises(InputError, match="Another window has corrected this mask"):
        other.paint(1, area, mask, base)
    with pytest.raises(InputError, match="Another window"):
        other.forget_mask(1, base)
    _, base, now = other.mask(1)
    assert now[0, 0] == 2 and now[0, 1] == 0
    assert other.paint(1, area, mask, base) == [1]


def test_a_larger_correction_widens_the_window(folder):
    anna = session.Session(folder, "Anna")
    cell = anna.results.cells[2]
    area = (0, 0, cell.row["height"], cell.row["width"])
    mask = np.zeros((area[2], area[3]), np.uint8)
    mask[2:5, 3:9] = 2
    anna.paint(2, area, mask)
    found, _, now = anna.mask(2)
    assert found == area and (now == mask).all()
    # A part of it, and what lies beyond the correction, where the predicted cell no longer is.
    part = masks.current(folder, cell, anna.state.said("Anna")[2].mask, (0, 0, 10, 10))
    assert (part == mask[:10, :10]).all()
    small = {
        "window": [0, 0, 10, 10],
        **masks.encode(cell, (0, 0, 10, 10), mask[:10, :10])[0].as_json(),
    }
    data = masks.encode(cell, (0, 0, 10, 10), mask[:10, :10])[1]
    (folder / small["png"]).write_bytes(data)
    whole = masks.current(folder, cell, small, area)
    assert (whole[:10, :10] == mask[:10, :10]).all() and set(np.unique(whole[10:])) == {0, 255}


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.zeros((4, 5), np.uint8), "nothing of the cell is left"),
        (np.full((4, 5), 255, np.uint8), "nothing of the cell is left"),
        (np.full((4, 5), 7, np.uint8), "7"),
        (np.ones((5, 4), np.uint8), r"is \[5, 4\], but its window is \[0, 0, 4, 5\]"),
    ],
)
def test_masks_that_are_none(folder, mask, reason):
    anna = session.Session(folder, "Anna")
    with pytest.raises(DataError, match=reason):
        anna.paint(0, (0, 0, 4, 5), mask)
    assert not (folder / "corrections" / "masks").exists() and anna.undo() == []


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path, said: path.unlink(), "cannot be read"),
        (lambda path, said: path.write_bytes(b"x"), "has changed since"),
        (lambda path, said: said.update(png="masks/field.png"), "is no corrected mask"),
        (lambda path, said: said.update(png="../../x.png"), "leads out of"),
        (lambda path, said: said.update(png="/etc/passwd"), "leads out of"),
        (lambda path, said: said.update(window=[0, 0, 3, 3]), r"but its window is \[0, 0, 3, 3\]"),
        (lambda path, said: (path.unlink(), path.symlink_to("/etc/hostname")), "leads out of"),
    ],
)
def test_a_damaged_correction_is_named(folder, damage, reason):
    anna = session.Session(folder, "Anna")
    area, _, mask = anna.mask(1)
    mask[0, 0] = 2
    anna.paint(1, area, mask)
    said = anna.state.said("Anna")[1].mask
    damage(folder / said["png"], said)
    with pytest.raises(DataError, match=reason):
        anna.mask(1)


def test_missing_masks_of_the_results_are_named(folder):
    (folder / "labels" / "field.png").unlink()
    masks._files.cache_clear()
    with pytest.raises(DataError, match=r"labels/field\.png is missing or is no mask"):
        session.Session(folder, "Anna").mask(1)
