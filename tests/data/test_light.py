"""The standard light: drawn smears of known light."""

import numpy as np
import pytest

from wbc_jax.data import light

BACKGROUND, RED_CELL, NUCLEUS = (200, 190, 180), (190, 130, 120), (90, 40, 110)


def smear(shape=(120, 120), nucleus=NUCLEUS, red_cell=RED_CELL):
    """A background with red cells on a fifth of the image and a nucleus on a tenth."""
    image = np.full((*shape, 3), BACKGROUND, np.uint8)
    image[: shape[0] // 5] = red_cell
    image[-shape[0] // 5 :, : shape[1] // 2] = nucleus
    return image


def mean(color):
    return np.exp(np.log(np.asarray(color, float)).mean())


def lit(image, gain):
    return np.clip(np.rint(image * np.asarray(gain)), 0, 255).astype(np.uint8)


def color_at(image, place):
    return image[place].astype(float)


MIDDLE, DARK = (60, 60), (-5, 5)


def test_background_gets_the_standard_level_and_keeps_its_hue():
    found = light.standardize(smear())
    gain = light.LEVEL / mean(BACKGROUND)
    np.testing.assert_allclose(color_at(found, MIDDLE), np.multiply(BACKGROUND, gain), atol=0.5)
    # The nucleus absorbs enough (ln 190/40 = 1.56): its colors get the same gain.
    assert np.log(BACKGROUND[1] / NUCLEUS[1]) > light.LEAST_DENSITY
    np.testing.assert_allclose(color_at(found, DARK), np.multiply(NUCLEUS, gain), atol=0.5)


@pytest.mark.parametrize("gain", [0.5, 0.7, 0.85, 1.15])
def test_brightness_changes_nothing_but_rounding(gain):
    image = smear()
    before, after = light.standardize(image), light.standardize(lit(image, gain))
    # The darker image has levels `gain` times as fine.
    assert np.abs(before.astype(int) - after).max() <= np.ceil(light.LEVEL / 190 / gain)


def test_pale_nuclei_get_the_least_density():
    pale = (150, 95, 160)  # ln 190/95 = 0.69
    found = light.standardize(smear(nucleus=pale))
    white, dark = color_at(found, MIDDLE), color_at(found, DARK)
    densities = np.log(white / dark)
    assert densities[1] == pytest.approx(light.LEAST_DENSITY, abs=0.02)
    # One factor for all channels, as for another exponent of a camera.
    before = np.log(np.divide(BACKGROUND, pale))
    np.testing.assert_allclose(densities / before, densities[1] / before[1], rtol=0.03)
    # At most twice as much contrast: paler ones stay pale.
    found = light.standardize(smear(nucleus=(180, 120, 175), red_cell=(198, 175, 165)))
    density = np.log(color_at(found, MIDDLE)[1] / color_at(found, DARK)[1])
    assert density == pytest.approx(2 * np.log(190 / 120), abs=0.02)


def test_gamma_of_a_pale_image_changes_nothing_but_rounding():
    image = smear(nucleus=(150, 80, 160))
    changed = np.rint(255 * (image / 255) ** 0.8).astype(np.uint8)
    before, after = light.standardize(image), light.standardize(changed)
    # Exponents of the background's channels differ a little after its gain: hue is kept.
    assert np.abs(before.astype(int) - after).max() <= 6
    assert np.abs(image.astype(int) - changed).max() >= 15


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirror", [False, True])
def test_turned_images_get_the_turned_result(turns, mirror):
    noise = np.random.default_rng(0).normal(0, 4, (150, 121, 3))
    image = lit(smear(shape=(150, 121)) + noise, 1)

    def turned(array):
        return np.ascontiguousarray(np.rot90(array[::-1] if mirror else array, turns))

    np.testing.assert_array_equal(
        light.standardize(turned(image)), turned(light.standardize(image))
    )


def test_no_background_no_change():
    crowded = np.full((90, 90, 3), RED_CELL, np.uint8)
    crowded[30:60, 30:60] = NUCLEUS
    for image in (crowded, np.zeros((50, 50, 3), np.uint8)):
        assert light.standardize(image) is image
    noise = np.random.default_rng(0).integers(0, 50, (64, 64, 3)).astype(np.uint8)
    assert light.standardize(noise) is noise


def test_odd_images():
    for shape in ((1, 1), (1, 300), (1600, 1040)):
        found = light.standardize(np.full((*shape, 3), 200, np.uint8))
        assert found.shape == (*shape, 3) and found.dtype == np.uint8
        assert (found == round(light.LEVEL)).all()
    # A camera's clipping cannot be undone, and white is not made brighter than it was.
    white = light.standardize(np.full((50, 50, 3), 255, np.uint8))
    assert (white == round(light.LEVEL)).all()
