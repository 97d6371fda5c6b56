"""Tiles of one color: damaged, unless a coarser level shows the same."""

import numpy as np
import pytest

from wbc_jax.data import blank_tiles
from wbc_jax.data.slide import Level, Slide
from wbc_jax.errors import DataError

TILE = 128


class Drawn(Slide):
    """What is known of a slide whose parts are read elsewhere."""

    path, kind, levels = "a.svs", "drawn", (Level((512, 512), (TILE, TILE)),)

    def _read(self, box, level):
        raise AssertionError

    def close(self):
        pass


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(100, 200, (512, 512, 3), np.uint8)


def check(pixels, box, overview, coarse=True):
    part = pixels[box[0] : box[2], box[1] : box[3]]
    blank_tiles.check(Drawn(), box, part, overview, coarse)


def test_a_tile_of_one_color_is_named_by_its_place(pixels):
    overview = pixels[::4, ::4].copy()
    check(pixels, (0, 0, 512, 512), overview)
    pixels[256:384, 128:256] = (255, 254, 253)
    found = r"a\.svs: the tile at x 128 to 256, y 256 to 384 has one color \(255, 254, 253\)"
    for coarse in (True, False):
        with pytest.raises(DataError, match=found):
            check(pixels, (0, 0, 512, 512), overview, coarse)
    # A part of a tile is enough where a coarser level is a witness, but not a narrow one.
    with pytest.raises(DataError, match=found):
        check(pixels, (320, 150, 480, 400), overview)
    check(pixels, (320, 150, 480, 400), overview, coarse=False)
    check(pixels, (321, 150, 480, 400), overview)
    # One pixel of another color is a picture.
    pixels[300, 200] = 0
    check(pixels, (0, 0, 512, 512), overview)


def test_glass_that_the_overview_shows_as_well_is_no_damage(pixels):
    pixels[256:384, 128:256] = 255
    overview = pixels[::4, ::4].copy()
    check(pixels, (0, 0, 512, 512), overview)
    overview[70, 40] = 255 - 16  # one pixel of a cell that the tile lacks
    with pytest.raises(DataError, match="x 128 to 256, y 256 to 384"):
        check(pixels, (0, 0, 512, 512), overview)
    overview[70, 40] = 255 - 15
    check(pixels, (0, 0, 512, 512), overview)
