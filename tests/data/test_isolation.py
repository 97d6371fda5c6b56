"""wbc_jax.data.isolation: images cut to their cell."""

import numpy as np
import pytest

from wbc_jax.config import Data
from wbc_jax.data import isolation


def disc(mask, middle, radius, value):
    y, x = np.ogrid[: mask.shape[0], : mask.shape[1]]
    mask[(y - middle[0]) ** 2 + (x - middle[1]) ** 2 <= radius**2] = value
    return mask


@pytest.fixture
def slide():
    """A pink slide with one violet cell, off the middle, and its mask."""
    mask = np.zeros((100, 120), np.uint8)
    disc(mask, (45, 70), 20, 1)
    disc(mask, (45, 70), 10, 2)
    colours = np.array([(200, 180, 150), (150, 120, 140), (90, 40, 110)], np.uint8)
    return colours[mask], mask


def test_the_cell_fills_the_crop_on_a_plain_ground(slide):
    image, mask = slide
    cut = isolation.isolate(image, mask)
    # The cell is 41 pixels wide, and has 8 % of that at each side, rounded up.
    assert cut.shape == (49, 49, 3)
    # What is not the cell is the ground, up to the dilation by 3 pixels.
    assert (cut[0, 0] == isolation.GROUND).all() and (cut[-1, -1] == isolation.GROUND).all()
    assert not (cut[1 + 2, 24] == isolation.GROUND).all()
    # The light, brightest everywhere, is white; the rest is scaled alike.
    gain = isolation.WHITE / np.array([200, 180, 150])
    np.testing.assert_array_equal(cut[24, 24], np.rint(np.array([90, 40, 110]) * gain))


def test_light_and_magnification_do_not_matter(slide):
    image, mask = slide
    one = isolation.isolate(image, mask)
    dim = np.rint(image * np.array([0.8, 0.9, 0.7])).astype(np.uint8)
    assert np.abs(isolation.isolate(dim, mask).astype(int) - one).max() <= 3
    large = np.repeat(np.repeat(image, 2, 0), 2, 1)
    # A mask of another size is stretched over the image.
    two = isolation.isolate(large, mask)
    assert np.abs(two[::2, ::2][:49, :49].shape[0] - one.shape[0]) <= 1


def test_the_nucleus_gets_its_density(slide):
    image, mask = slide
    plain = isolation.isolate(image, mask) / isolation.WHITE
    density = -np.log(plain[24, 24, 1])  # 49 of 245: 1.5
    cut = isolation.isolate(image, mask, stain=isolation.Stain(2.0))
    # All densities are multiplied by one factor: those of cytoplasm, and of red and blue, too.
    expected = isolation.WHITE * plain ** (2.0 / density)
    for place in ((24, 24), (24, 10)):
        np.testing.assert_array_equal(cut[place], np.rint(expected[place]))
    assert -np.log(cut[24, 24, 1] / isolation.WHITE) == pytest.approx(2.0, abs=0.02)
    # A paler or darker stain makes no difference, nor does light; the ground stays.
    pale = np.rint(200 * (image / 200) ** 0.6).astype(np.uint8)
    paler = isolation.isolate(pale, mask, stain=isolation.Stain(2.0))
    assert np.abs(paler.astype(int) - cut).max() <= 4
    assert (cut[0, 0] == isolation.GROUND).all()


def test_the_density_changes_within_limits_alone(slide):
    image, mask = slide
    black = image.copy()
    black[mask == 2, 1] = 0  # as a camera clips it
    power = isolation.LEAST_POWER
    plain = isolation.isolate(black, mask)[24, 10] / isolation.WHITE
    cut = isolation.isolate(black, mask, stain=isolation.Stain(1.0))
    np.testing.assert_array_equal(cut[24, 10], np.rint(isolation.WHITE * plain**power))
    clear = image.copy()
    clear[mask == 2] = (200, 180, 150)
    plain = isolation.isolate(clear, mask)[24, 10] / isolation.WHITE
    cut = isolation.isolate(clear, mask, stain=isolation.Stain(1.0))
    np.testing.assert_array_equal(
        cut[24, 10], np.rint(isolation.WHITE * plain**isolation.MOST_POWER)
    )
    # Without a nucleus nothing changes.
    none = np.minimum(mask, 1)
    np.testing.assert_array_equal(
        isolation.isolate(image, none, stain=isolation.Stain(1.0)), isolation.isolate(image, none)
    )


@pytest.fixture
def smear():
    """A cell among red cells that cover a third of the glass, and its mask."""
    mask = disc(np.zeros((160, 160), np.uint8), (80, 80), 30, 1)
    disc(mask, (80, 80), 15, 2)
    colors = np.array([(245, 245, 245), (180, 170, 220), (90, 40, 110)], np.uint8)
    image = colors[mask]
    place = np.zeros((160, 160), np.uint8)
    for y in (20, 60, 100, 140):
        for x in (15, 145):
            disc(place, (y, x), 18, 1)
    image[(place == 1) & (mask == 0)] = (205, 185, 210)
    return image, mask, place == 1


def test_red_cells_get_their_density(smear):
    image, mask, _ = smear
    cut = isolation.isolate(image, mask, isolation.Stain(2.0, 0.36))
    plain = isolation.isolate(image, mask)
    red, nucleus = -np.log(185 / 245), -np.log(40 / 245)
    gamma = np.log(2.0 / 0.36) / np.log(nucleus / red)
    middle = len(cut) // 2
    for place in ((middle, middle), (middle, middle + 22)):  # nucleus, cytoplasm
        density = -np.log(plain[place] / 245)
        expected = 245 * np.exp(-2.0 * (density / nucleus) ** gamma)
        np.testing.assert_array_equal(cut[place], np.rint(expected))
    # Both anchors: what has the density of red cells gets theirs.
    assert 2.0 * (red / nucleus) ** gamma == pytest.approx(0.36)
    # A camera that spreads or presses the middle tones makes no difference.
    pressed = np.rint(245 * np.exp(-1.2 * (-np.log(image / 245)) ** 0.8)).astype(np.uint8)
    again = isolation.isolate(pressed, mask, isolation.Stain(2.0, 0.36))
    assert np.abs(again.astype(int) - cut).max() <= 4
    only = isolation.isolate(pressed, mask, isolation.Stain(2.0))
    assert np.abs(only.astype(int) - isolation.isolate(image, mask, isolation.Stain(2.0))).max() > 9


@pytest.mark.parametrize("color", [(245, 245, 245), (240, 185, 210), (90, 40, 110)])
def test_without_red_cells_the_exponent_is_the_usual_one(smear, color):
    """Glass; what absorbs hardly any red; as dark as nuclei."""
    image, mask, red = smear
    image[red & (mask == 0)] = color
    cut = isolation.isolate(image, mask, isolation.Stain(2.0, 0.36))
    density = -np.log(isolation.isolate(image, mask)[len(cut) // 2, len(cut) // 2 + 22] / 245)
    nucleus = -np.log(40 / 245)
    expected = 245 * np.exp(-2.0 * (density / nucleus) ** isolation.USUAL_GAMMA)
    np.testing.assert_array_equal(cut[len(cut) // 2, len(cut) // 2 + 22], np.rint(expected))


def test_the_exponent_has_limits(smear):
    image, mask, red = smear
    image[red & (mask == 0)] = (140, 100, 150)  # .9 of nuclei of 1.8
    cut = isolation.isolate(image, mask, isolation.Stain(2.0, 0.2))
    middle = len(cut) // 2
    density = -np.log(isolation.isolate(image, mask)[middle, middle + 22] / 245)
    expected = 245 * np.exp(-2.0 * (density / -np.log(40 / 245)) ** isolation.MOST_GAMMA)
    np.testing.assert_array_equal(cut[middle, middle + 22], np.rint(expected))


def test_whole_images_are_the_settings_without_isolation():
    data = Data(isolate="segmenter", nucleus_density=1.7, red_density=0.3, image_size=64)
    assert isolation.whole(data) == Data(image_size=64)
    assert isolation.cut_as(Data(image_size=64), data) == data
    assert isolation.Stain.of(data) == isolation.Stain(1.7, 0.3)


def test_the_neighbour_is_left_out(slide):
    image, mask = slide
    alone = isolation.isolate(image, mask)
    disc(mask, (90, 10), 9, 2)  # smaller, in the corner
    np.testing.assert_array_equal(isolation.isolate(image, mask), alone)


def test_a_mask_keeps_its_middle_cell(slide):
    _, mask = slide
    disc(mask, (45, 66), 2, 0)  # a hole stays
    alone = mask.copy()
    disc(mask, (90, 10), 9, 2)
    kept = isolation.keep_middle_cell(mask)
    np.testing.assert_array_equal(kept, alone)
    assert kept.dtype == np.uint8
    empty = np.zeros((5, 6), np.uint8)
    np.testing.assert_array_equal(isolation.keep_middle_cell(empty), empty)


def test_a_neighbour_that_touches_is_parted():
    mask = np.zeros((120, 120), np.uint8)
    disc(mask, (60, 55), 30, 1)
    disc(mask, (60, 50), 14, 2)
    disc(mask, (60, 95), 18, 1)  # overlaps by 8 pixels
    arm = isolation.keep_middle_cell(mask)
    np.testing.assert_array_equal(arm, mask)  # without a nucleus it is the cell's own
    disc(mask, (60, 100), 10, 2)
    kept = isolation.keep_middle_cell(mask)
    assert (kept == 2).sum() == (disc(np.zeros_like(mask), (60, 50), 14, 2) == 2).sum()
    own = disc(np.zeros_like(mask), (60, 55), 30, 1) > 0
    assert ((kept > 0) & ~own).sum() < 60 and (own & (kept == 0)).sum() < 60
    # Two lobes of one cell are one.
    disc(mask := disc(np.zeros((120, 120), np.uint8), (60, 60), 35, 1), (60, 42), 12, 2)
    disc(mask, (60, 78), 12, 2)
    np.testing.assert_array_equal(isolation.keep_middle_cell(mask), mask)


def test_without_a_cell_the_image_stays_whole(slide):
    image, mask = slide
    cut = isolation.isolate(image, np.zeros_like(mask))
    assert cut.shape == image.shape
    assert isolation.isolate(image, np.full_like(mask, 255)).shape == image.shape


def test_a_cut_does_not_keep_its_image_in_memory(slide):
    image, mask = slide
    for known in (mask, np.zeros_like(mask)):
        cut = isolation.isolate(image, known)
        assert cut.base is None or cut.base.nbytes == cut.nbytes
