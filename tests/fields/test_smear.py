"""Which parts of a slide are looked at."""

import cv2
import numpy as np
import pytest

from helpers import drawn_slides
from wbc_jax.fields import smear

CORE = 400


@pytest.fixture(scope="module")
def drawn():
    return drawn_slides.smear(leukocytes=6)


@pytest.fixture(scope="module")
def overview(drawn):
    return cv2.resize(drawn.image, None, fx=1 / 8, fy=1 / 8, interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def regions(drawn):
    return smear.divide(drawn.image.shape[:2], CORE, 150)


@pytest.fixture(scope="module")
def calibration(drawn, overview, regions):
    """From a few places alone, to be quick."""

    def read(box):
        return drawn.image[box[0] : box[2], box[1] : box[3]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smear, "_PROBES", 4)
        return smear.calibrate(regions, overview, read)


def test_cores_cover_the_slide_once():
    regions = smear.divide((1000, 1700), 400, 64)
    times = np.zeros((1000, 1700), int)
    for number, region in enumerate(regions):
        top, left, bottom, right = region.core
        assert region.number == number and max(bottom - top, right - left) <= 400
        times[top:bottom, left:right] += 1
        window = (top - 64, left - 64, bottom + 64, right + 64)
        assert region.window == tuple(np.clip(window, 0, [1000, 1700, 1000, 1700]).tolist())
    assert (times == 1).all() and len(regions) == 15


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_the_order_holds_each_region_once(count):
    regions = smear.divide((1000, 100 * count), 100, 0)
    order = smear.spread(regions)
    assert sorted(r.number for r in order) == list(range(10 * count))
    assert order == smear.spread(list(reversed(regions)))
    if count > 1:
        assert order != smear.spread(regions, seed=1)
    assert smear.spread([]) == []


def test_each_first_part_of_the_order_is_spread_over_the_slide():
    regions = smear.divide((1600, 1600), 100, 0)  # 16 x 16
    order = smear.spread(regions)
    for taken in (16, 64):
        places = np.array([region.core[:2] for region in order[:taken]])
        # The slide's quarters, and their quarters, get nearly the same number.
        for side in (2, 4):
            counts = np.zeros((side, side), int)
            np.add.at(counts, tuple((places * side // 1600).T), 1)
            assert counts.min() >= taken / side**2 - 1 and counts.max() <= taken / side**2 + 1
    # Plain order fails so: all of the first 64 lie in the upper quarter.


def test_red_cells_calibrate_the_slide(calibration):
    from helpers.drawn_fields import LIGHT, RED, RED_PX

    assert calibration.red_cell_px == pytest.approx(RED_PX, rel=0.05)
    assert calibration.um_per_px == pytest.approx(drawn_slides.UM_PER_PX, rel=0.05)
    np.testing.assert_allclose(calibration.light, LIGHT, atol=3)
    absorbed = np.log10(np.array(LIGHT) / np.array(RED))
    np.testing.assert_allclose(calibration.red_cell, absorbed, atol=0.01)


def test_layers(calibration):
    from helpers.drawn_fields import LIGHT, RED

    both = np.array(RED, float) ** 2 / LIGHT
    pixels = np.array([LIGHT, RED, (np.array(LIGHT) + RED) / 2, both]).round().astype(np.uint8)
    # Half covered is half a layer; two on top of each other take 1.75 times the light of one.
    expected = [0, 1, 0.5, 1.75]
    np.testing.assert_allclose(calibration.layers(pixels), expected, atol=0.06)


def test_parts_of_a_smear(drawn, overview, regions, calibration):
    unread = np.zeros(overview.shape[:2], bool)
    judged = smear.judge(regions, overview, unread, calibration, drawn_slides.UM_PER_PX)
    rows = [[judged[5 * row + column].kind for column in range(5)] for row in range(2)]
    assert rows == [["glass", "edge", "thin", "thin", "thick"]] * 2
    for region in judged:
        top, left, bottom, right = region.core
        share = smear.overlap(drawn.image[top:bottom, left:right], calibration)
        assert (share > smear.MAX_OVERLAP) == (region.kind == "thick")
    # What could not be read is not left out unseen.
    unread[:, -5:] = True
    judged = smear.judge(regions, overview, unread, calibration, drawn_slides.UM_PER_PX)
    assert [judged[4].kind, judged[9].kind] == ["thin", "thin"]


def test_overlap_is_that_of_the_densest_block(calibration):
    """Red cells of 40 pixels: blocks of 640."""
    from helpers.drawn_fields import LIGHT, RED

    both = (np.array(RED, float) ** 2 / LIGHT).round().astype(np.uint8)
    pixels = np.full((1280, 1280, 3), LIGHT, np.uint8)
    pixels[::2] = RED  # after reduction, three eighths of a cell: no red cell
    pixels[:, :640] = RED
    pixels[:160, :640] = both  # a quarter of the upper left block
    assert smear.overlap(pixels, calibration) == pytest.approx(0.25, abs=0.02)
    # A small region is one block.
    assert smear.overlap(pixels[:320, :320], calibration) == pytest.approx(0.5, abs=0.04)
    # A pile on empty glass is no thick part: a tenth of a block, at least a fifth of which counts.
    pixels[:] = LIGHT
    pixels[640:704, 640:] = both
    assert smear.overlap(pixels, calibration) == pytest.approx(0.1 / 0.2, abs=0.04)
    pixels[640:704, 640:960] = LIGHT
    assert smear.overlap(pixels, calibration) == pytest.approx(0.05 / 0.2, abs=0.02)
    assert smear.overlap(np.full_like(pixels, LIGHT), calibration) == 0


@pytest.mark.parametrize("fine", [1, 8])
def test_near_glass_is_the_edge(calibration, fine):
    """Cells of the thin part's density, beside glass: 300 um of them are the feathered edge."""
    from helpers.drawn_fields import LIGHT, RED

    overview = np.full((100, 200, 3), LIGHT, np.uint8)  # of 20 um a pixel
    overview[:, 60:] = (0.6 * np.array(LIGHT) + 0.4 * np.array(RED)).round()
    regions = smear.divide((10_000, 20_000), 500, 0)  # of 0.2 um a pixel: 100 um

    def judge():  # also in a picture of 2.5 um a pixel, where glass is looked for in a coarser one
        picture = overview.repeat(fine, 0).repeat(fine, 1)
        return smear.judge(regions, picture, np.zeros(picture.shape[:2], bool), calibration, 0.2)

    judged = judge()
    row = [region.kind for region in judged[400:440]]
    assert row == ["glass"] * 12 + ["edge"] * 3 + ["thin"] * 25
    # A bubble is no end of the smear.
    overview[:, :60] = overview[0, 60]
    overview[51:54, 101:104] = LIGHT
    judged = judge()
    assert [region.kind for region in judged].count("thin") >= 20 * 40 - 1


def test_without_red_cells_all_that_is_stained_is_looked_at(regions):
    empty = np.full((100, 250, 3), 240, np.uint8)
    assert smear.calibrate(regions, empty, lambda box: None) is None
    empty[60:80, 10:30] = (120, 90, 180)
    unread = np.zeros((100, 250), bool)
    unread[:10, -10:] = True
    judged = smear.judge_darkness(regions, empty, unread)
    assert [region.number for region in judged if region.kind == "thin"] == [4, 5]
