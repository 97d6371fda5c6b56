"""Outlines on images, thumbnails and contact sheets, pixel by pixel."""

import io

import numpy as np
import pytest
from PIL import Image

from wbc_jax.labels import CELL_COLOR, NUCLEUS_COLOR
from wbc_jax.report import overlays

GRAY = (128, 128, 128)


def gray(*shape):
    return np.full((*shape, 3), 128, np.uint8)


def drawn(image):
    """`.` untouched, `c` cell outline, `n` nucleus outline, `?` anything else."""
    letters = {GRAY: ".", CELL_COLOR: "c", NUCLEUS_COLOR: "n"}
    return ["".join(letters.get(tuple(map(int, px)), "?") for px in row) for row in image]


def mask_of(*lines):
    values = {".": 0, "c": 1, "N": 2, "?": 255}
    return np.array([[values[letter] for letter in line] for line in lines], np.uint8)


def test_overlay_colors_the_rims_and_nothing_else():
    mask = mask_of(
        "..........",
        ".cccccccc.",
        ".cccccccc.",
        ".ccNNNNcc.",
        ".ccNNNNcc.",
        ".ccNNNNcc.",
        ".cccccccc.",
        ".cccccccc.",
        "..........",
    )
    assert drawn(overlays.overlay(gray(9, 10), mask)) == [
        "..........",
        ".cccccccc.",
        ".c......c.",
        ".c.nnnn.c.",
        ".c.n..n.c.",
        ".c.nnnn.c.",
        ".c......c.",
        ".cccccccc.",
        "..........",
    ]


def test_overlay_draws_no_edge_that_is_not_known():
    # The cell runs out of the image on the left and into unknown pixels on the right.
    mask = mask_of(
        "......",
        "ccccc?",
        "NNccc?",
        "NNccc?",
        "ccccc?",
        "......",
    )
    assert drawn(overlays.overlay(gray(6, 6), mask)) == [
        "......",
        "ccccc.",
        "nn....",
        "nn....",
        "ccccc.",
        "......",
    ]


def test_overlay_nucleus_lies_over_the_cell_where_they_meet():
    mask = mask_of("....", ".NN.", ".NN.", "....")
    assert drawn(overlays.overlay(gray(4, 4), mask)) == ["....", ".nn.", ".nn.", "...."]


def test_overlay_width():
    mask = np.zeros((11, 11), np.uint8)
    mask[1:10, 1:10] = 1
    wide = np.array([list(row) for row in drawn(overlays.overlay(gray(11, 11), mask, 2))])
    assert (wide == "c").sum() == 9 * 9 - 5 * 5
    assert (wide[3:8, 3:8] == ".").all()
    # By itself the line grows with the image, so that it can be seen on a screen.
    mask = np.zeros((1600, 1200), np.uint8)
    mask[400:800, 400:800] = 1
    line = (overlays.overlay(gray(1600, 1200), mask) != 128).any(axis=2)[600]
    assert line.sum() == 2 * 4 and line[400:404].all() and line[796:800].all()


def test_overlay_leaves_its_arguments_alone_and_takes_any_size():
    for shape in ((1, 1), (3, 500), (0, 4)):
        image, mask = gray(*shape), np.zeros(shape, np.uint8)
        out = overlays.overlay(image, mask)
        assert out is not image and np.array_equal(out, image) and out.dtype == np.uint8
    image, mask = gray(5, 5), np.full((5, 5), 2, np.uint8)
    mask[0] = 0
    overlays.overlay(image, mask)
    assert (image == 128).all() and mask.sum() == 40


@pytest.mark.parametrize(
    "image, mask, words",
    [
        (gray(4, 4), np.zeros((4, 5), np.uint8), r"mask must be uint8 \[4, 4\]"),
        (gray(4, 4), np.zeros((4, 4), np.int32), "int32"),
        (np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8), "image must be uint8"),
        (gray(4, 4).astype(np.float32), np.zeros((4, 4), np.uint8), "float32"),
        (gray(4, 4), np.full((4, 4), 3, np.uint8), r"holds \[3\]"),
    ],
)
def test_overlay_says_what_does_not_fit(image, mask, words):
    with pytest.raises(ValueError, match=words):
        overlays.overlay(image, mask)


def test_contact_sheet_places_tiles_row_by_row():
    tiles = [np.full((4, 6, 3), level, np.uint8) for level in (10, 20, 30)]
    tiles.append(np.full((2, 2, 3), 40, np.uint8))
    tiles.append(np.full((4, 6, 3), 50, np.uint8))
    sheet = overlays.contact_sheet(tiles, columns=2, pad=1)
    assert sheet.shape == (1 + 3 * 5, 1 + 2 * 7, 3) and sheet.dtype == np.uint8
    assert (sheet[1:5, 1:7] == 10).all() and (sheet[1:5, 8:14] == 20).all()
    assert (sheet[6:10, 1:7] == 30).all() and (sheet[11:15, 1:7] == 50).all()
    assert (sheet[7:9, 10:12] == 40).all() and (sheet == 40).sum() == 12
    assert (sheet[0] == 255).all() and (sheet[11:15, 7:] == 255).all()
    assert overlays.contact_sheet(tiles[:1], columns=9, pad=0).shape == (4, 6, 3)


def test_contact_sheet_says_what_does_not_fit():
    with pytest.raises(ValueError, match="at least one"):
        overlays.contact_sheet([], 3)
    with pytest.raises(ValueError, match="columns"):
        overlays.contact_sheet([gray(2, 2)], 0)
    with pytest.raises(ValueError, match="uint8"):
        overlays.contact_sheet([np.zeros((2, 2), np.uint8)], 1)


def ring(size=48):
    """A cell of radius 20 around a nucleus of radius 10 (at 48 px), pale, violet and dark."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    radius = np.hypot(y, x) * 48 / size
    mask = np.where(radius < 10, 2, np.where(radius < 20, 1, 0)).astype(np.uint8)
    image = np.array([[240, 220, 225], [190, 160, 215], [90, 40, 130]], np.uint8)[mask]
    return image, mask


def pixels(png):
    picture = Image.open(io.BytesIO(png))
    assert picture.format == "PNG" and picture.mode == "P"
    return np.asarray(picture.convert("RGB"))


def count(image, color):
    return int((image == color).all(axis=-1).sum())


def test_outlines_have_their_exact_colors_and_places():
    image, mask = ring(96)
    drawn = pixels(overlays.thumbnail(image, mask, 96))
    assert drawn.shape == (96, 96, 3)
    # Row 48: radii 40 and 20 around 47.5, so the cell begins in column 8, the nucleus in 28.
    assert tuple(drawn[48, 8]) == CELL_COLOR == (0, 114, 178)
    assert tuple(drawn[48, 28]) == NUCLEUS_COLOR == (240, 228, 66)
    assert tuple(drawn[48, 7]) == (240, 220, 225)
    assert tuple(drawn[48, 9]) == (190, 160, 215)
    assert tuple(drawn[48, 29]) == (90, 40, 130)
    assert count(drawn, overlays.IGNORE_COLOR) == 0


def test_cell_only_masks_are_outlined_in_the_third_color():
    image, mask = ring(96)
    drawn = pixels(overlays.thumbnail(image, np.where(mask > 0, 255, 0).astype(np.uint8), 96))
    assert tuple(drawn[48, 8]) == overlays.IGNORE_COLOR == (213, 94, 0)
    assert count(drawn, overlays.IGNORE_COLOR) == count(
        pixels(overlays.thumbnail(image, mask, 96)), CELL_COLOR
    )
    assert count(drawn, CELL_COLOR) == count(drawn, NUCLEUS_COLOR) == 0


def test_many_colors_still_leave_room_for_the_outlines():
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    _, mask = ring(96)
    drawn = pixels(overlays.thumbnail(image, mask, 96))
    assert tuple(drawn[48, 8]) == CELL_COLOR
    assert tuple(drawn[48, 28]) == NUCLEUS_COLOR


def test_without_a_mask_there_is_no_outline():
    image, _ = ring()
    drawn = pixels(overlays.thumbnail(image, None, 96))
    assert all(count(drawn, color) == 0 for color in overlays.OUTLINE_COLORS)


@pytest.mark.parametrize("shape, size", [((30, 60), (48, 96)), ((600, 200), (96, 32))])
def test_thumbnails_keep_the_aspect(shape, size):
    image, mask = np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8)
    drawn = pixels(overlays.thumbnail(image, mask, 96))
    assert drawn.shape[:2] == size
