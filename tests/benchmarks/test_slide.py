"""benchmarks/slide.py: the drawn slide against what was drawn, and its score by hand."""

import cv2
import numpy as np
import pytest
from etils import epath
from PIL import Image

import drawn_smear
import slide
from wbc_jax.data import slides
from wbc_jax.evaluate import detection


def test_a_turned_patch_takes_its_boxes_along():
    image = np.zeros((8, 8, 3), np.uint8)
    image[1:3, 4:8] = 255
    patch = drawn_smear.Patch(image, [(1, 4, 3, 8)])
    for turns in range(4):
        turned = patch.turned(turns)
        ((top, left, bottom, right),) = turned.boxes
        expected = np.zeros((8, 8), bool)
        expected[top:bottom, left:right] = True
        np.testing.assert_array_equal(turned.image[..., 0] > 0, expected)


@pytest.fixture(scope="module")
def smear():
    return drawn_smear.Smear(4000, rows=3, columns=12, patch=256)


def test_the_drawn_slide(smear, tmp_path):
    smear.write(str(tmp_path / "a.svs"))
    found = slides.open_slide(tmp_path / "a.svs")
    assert found.kind == "Aperio SVS" and found.um_per_px == drawn_smear.UM_PER_PX
    assert [level.size[0] for level in found.levels] == [4000, 1000, 250]
    whole = np.empty((4000, 4000, 3), np.uint8)
    whole[:] = found.read((0, 0, 4000, 4000))
    inside = np.zeros((4000, 4000), bool)
    for (row, column), patch in smear.patches.items():
        top, left = smear.top + 256 * row, smear.left + 256 * column
        inside[top : top + 256, left : left + 256] = True
        part = whole[top : top + 256, left : left + 256].astype(int)
        assert np.abs(part - patch.image).mean() < 5  # JPEG; another turn differs by 7 or more
    # The end is round: the middle row begins before the others. Around is glass alone.
    assert (1, 0) in smear.patches and (0, 0) not in smear.patches
    glass = whole[~inside].astype(int) - drawn_smear.PALETTE.plasma
    assert np.abs(glass).max() < 30 and np.abs(glass).mean() < 3
    for level in (1, 2):
        small = found.read((0, 0, *found.levels[level].size), level)
        expected = cv2.resize(whole, small.shape[:2], interpolation=cv2.INTER_AREA)
        assert np.abs(small.astype(int) - expected).mean() < 3


def test_the_parts_of_the_smear(smear):
    def absorbed(image):
        return 1 - image[..., 1].mean() / drawn_smear.PALETTE.plasma[1]

    row = [absorbed(smear.patches[1, column].image) for column in range(12)]
    assert row[0] < min(row[1:8]) and max(row[1:8]) < min(row[8:])
    drawn = drawn_smear.draw_patch("thin", 1, 512)
    assert len(drawn.boxes) == 1
    ((top, left, bottom, right),) = drawn.boxes
    nucleus = drawn.image[top:bottom, left:right, 1].min()
    assert nucleus < 100 and 20 < bottom - top < 100


def test_fields_side_by_side(tmp_path):
    rng = np.random.default_rng(0)
    truths = []
    for number in range(3):
        image = np.full((480, 640, 3), 100 + 50 * number, np.uint8)
        image[40:60, 50:90] = rng.integers(0, 30, 3)
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        truths.append(detection.Truth(epath.Path(tmp_path / f"{number}.png"), [(40, 50, 60, 90)]))
    boxes = slide.write_fields(str(tmp_path / "a.tif"), truths, across=2)
    assert boxes == [(40, 50, 60, 90), (40, 690, 60, 730), (520, 50, 540, 90)]
    found = slides.open_slide(tmp_path / "a.tif")
    assert found.size == (960, 1280) and found.um_per_px is None
    whole = found.read((0, 0, 960, 1280))
    for top, left, bottom, right in boxes:
        assert whole[top + 4 : bottom - 4, left + 4 : right - 4].max() < 90
    # All at one light.
    np.testing.assert_allclose(whole[100:400, 100:1200].mean((0, 1)), slide.LIGHT, atol=2)


def test_score():
    known = [(0, 0, 10, 10), (0, 90, 10, 110), (50, 50, 60, 60), (200, 0, 210, 10)]
    found = [(1, 1, 9, 9), (2, 2, 10, 10), (48, 52, 62, 62), (30, 30, 40, 40), (199, 0, 211, 9)]
    # Two find the first cell, one none; the second was missed, and lies in the next region.
    assert slide.score(known, found, [(0, 0, 100, 100)]) == {
        "found": 5, "of_these_known": 3, "precision": 0.6, "known_in_regions": 2,
        "of_these_found": 2, "recall": 1.0,
    }  # fmt: skip
    both = slide.score(known, found, [(0, 0, 100, 100), (0, 100, 100, 200)])
    assert (both["known_in_regions"], both["recall"]) == (3, pytest.approx(2 / 3))
    nothing = slide.score([], [], [])
    assert (nothing["precision"], nothing["recall"]) == (0, 0)
