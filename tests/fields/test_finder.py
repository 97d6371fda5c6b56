"""The cell finder, on drawn fields whose boxes are known."""

import cv2
import numpy as np
import pytest
from scipy import ndimage
from skimage import morphology, segmentation

from helpers import drawn_fields
from helpers.drawn_fields import CYTOPLASM, LIGHT, NUCLEUS, RED_PX, boxes_of, disk, plain_field
from wbc_jax.evaluate import detection
from wbc_jax.fields import cytoplasm, finder, staining
from wbc_jax.tfds_builders.wbc_synthetic import render


def assert_same(truth, found, least=0.75):
    """Asserts that each true box has its own found box with an IoU of at least `least`."""
    iou = detection.overlap(truth, [cell.box for cell in found])
    assert iou.shape[0] == iou.shape[1]
    assert detection.count_hits(iou >= least) == len(truth), iou.round(2)


@pytest.fixture(scope="module")
def drawn():
    """A field of five cells, 0.15 µm per pixel."""
    return render.render_field(11, 320, 440, 5, um_per_px=0.15, palette="peach")


@pytest.mark.parametrize(
    "seed, palette, um_per_px",
    [(0, "yellow", 0.2), (1, "white", 0.12), (2, "peach", 0.2), (5, "slate", 0.15)],
)
def test_every_cell_of_a_drawn_field(seed, palette, um_per_px):
    """Two cells of the slate field touch."""
    field = render.render_field(seed, 360, 480, 4, um_per_px=um_per_px, palette=palette)
    found = finder.find(field.image)
    assert_same([cell.box for cell in field.cells], found.cells)
    assert found.scale.reliable
    # The drawn red cells are 7.2 µm wide.
    assert found.scale.um_per_px == pytest.approx(um_per_px * 7.5 / 7.2, rel=0.12)


def test_nucleus_area_and_score():
    cells = [(180, 240, 26, 40)]
    (found,) = finder.find_cells(plain_field(cells))
    assert_same(boxes_of(cells), [found], 0.8)
    assert found.nucleus_px == pytest.approx(np.pi * 26**2, rel=0.15)
    assert 0.5 < found.score <= 1 and not found.touches_frame


@pytest.mark.parametrize("gap", [0, 4, 12])
def test_touching_cells_are_separated(gap):
    """Two lymphocytes, whose nuclei touch, nearly touch, or lie apart."""
    radius = 24
    cells = [(180, 200, radius, radius + 2), (180, 200 + 2 * radius + gap, radius, radius + 2)]
    assert_same(boxes_of(cells), finder.find_cells(plain_field(cells)), 0.7)


def test_lobes_are_joined():
    cells = [(180, 240, 0, 46)]
    image = plain_field(cells)
    for y, x in ((158, 226), (200, 232), (178, 264)):
        cv2.circle(image, (x, y), 14, NUCLEUS, -1, cv2.LINE_AA)
    assert_same(boxes_of(cells), finder.find_cells(image), 0.8)


def test_platelets_are_not_cells():
    cells = [(180, 240, 26, 40)]
    image = plain_field(cells, platelets=[(58, 58, 6), (300, 100, 8), (90, 400, 5)])
    assert_same(boxes_of(cells), finder.find_cells(image), 0.85)


def test_pale_nuclei_among_deep_red_cells(monkeypatch):
    """Such nuclei are less violet than two red cells on top of each other, which are no nuclei."""
    light = np.array([200, 225, 205])
    densities = {
        "RED": (0.05, 0.4, 0.3),
        "NUCLEUS": (0.28, 0.42, 0.2),
        "CYTOPLASM": (0.15, 0.18, 0.04),
    }
    colors = {name: light / 10 ** np.array(density) for name, density in densities.items()}
    violet = {name: staining.violet(np.array(density)) for name, density in densities.items()}
    assert violet["NUCLEUS"] < 0.1 + 2.2 * violet["RED"]
    for name, color in (colors | {"LIGHT": light}).items():
        monkeypatch.setattr(drawn_fields, name, tuple(color.round().tolist()))
    cells = [(180, 240, 26, 40)]
    image = plain_field(cells)
    pile = [cv2.circle(np.zeros(image.shape), (x, 282), 20, (1, 1, 1), -1) for x in (86, 110)]
    both = (pile[0] * pile[1]) > 0
    image = np.where(pile[0] + pile[1] > 0, colors["RED"], image)
    image = np.where(both, light / 100 ** np.array(densities["RED"]), image)
    image = cv2.GaussianBlur(image.round().astype(np.uint8), (0, 0), 0.8)
    assert_same(boxes_of(cells), finder.find_cells(image), 0.75)


def test_cut_cells_are_flagged():
    cells = [(10, 240, 26, 40), (200, 200, 26, 40)]
    found = finder.find_cells(plain_field(cells))
    assert_same(boxes_of(cells), found, 0.8)
    assert [cell.touches_frame for cell in found] == [True, False]
    assert found[0].top == 0


@pytest.mark.parametrize("turn", range(1, 8))
def test_turned_and_mirrored(drawn, turn):
    """The boxes of the turned field are the turned boxes."""

    def turned(array):
        array = array.transpose(1, 0, 2) if turn & 4 else array
        return np.ascontiguousarray(array[:: -1 if turn & 1 else 1, :: -1 if turn & 2 else 1])

    boxes = []
    for cell in finder.find_cells(drawn.image):
        mask = np.zeros((*drawn.image.shape[:2], 1), np.uint8)
        mask[cell.top : cell.bottom, cell.left : cell.right] = 1
        ys, xs = np.nonzero(turned(mask)[..., 0])
        boxes.append((ys.min(), xs.min(), ys.max() + 1, xs.max() + 1))
    assert len(boxes) == 5
    assert_same(boxes, finder.find_cells(turned(drawn.image)), 0.85)


@pytest.mark.parametrize("factor", [0.5, 0.8, 2.0])
def test_rescaled(drawn, factor):
    size = [round(side * factor) for side in drawn.image.shape[1::-1]]
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    found = finder.find(cv2.resize(drawn.image, size, interpolation=interpolation))
    before = [np.multiply(cell.box, factor) for cell in finder.find_cells(drawn.image)]
    assert len(before) == len(drawn.cells)
    assert_same(before, found.cells, 0.7)
    assert found.scale.um_per_px == pytest.approx(0.15 / factor * 7.5 / 7.2, rel=0.12)


def test_tiles_find_the_same(drawn, monkeypatch):
    whole = finder.find_cells(drawn.image)
    monkeypatch.setattr(finder, "_TILE", 128)
    tiles = finder._tiles(drawn.image, finder.estimate_scale(drawn.image))
    assert len(tiles) > 4
    assert_same([cell.box for cell in whole], finder.find_cells(drawn.image), 0.8)


def test_a_large_field():
    """Red cells are measured in windows."""
    cells = [(150, 1700, 26, 40), (900, 200, 26, 40), (800, 1000, 26, 40)]
    image = plain_field(cells, 1000, 1800)
    found = finder.find(image)
    assert_same(boxes_of(cells, 1000, 1800), found.cells, 0.85)
    assert found.scale.red_cell_px == pytest.approx(RED_PX, rel=0.1)


def close_up():
    """A cell with two lobes, speckled as granules are, and four red cells; 480 x 480 pixels."""
    image = np.full((480, 480, 3), LIGHT, np.uint8)
    for y, x in ((60, 60), (60, 420), (420, 60), (420, 420)):
        cv2.circle(image, (x, y), 56, drawn_fields.RED, -1, cv2.LINE_AA)
    cv2.circle(image, (240, 240), 110, CYTOPLASM, -1, cv2.LINE_AA)
    for y, x in ((200, 190), (270, 280)):
        cv2.circle(image, (x, y), 50, NUCLEUS, -1, cv2.LINE_AA)
    rng = np.random.default_rng(0)
    for y, x in rng.integers(150, 330, (120, 2)):
        cv2.circle(image, (int(x), int(y)), 5, drawn_fields.RED, -1, cv2.LINE_AA)
    return cv2.GaussianBlur(image, (0, 0), 2)


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.41, 2.0, 4.0])
def test_a_magnified_close_up(factor):
    """Parts of the cell are not taken for red cells: one cell at any size."""
    image = close_up()
    side = round(480 * factor)
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    found = finder.find(cv2.resize(image, (side, side), interpolation=interpolation))
    assert_same([tuple(v * factor for v in (130, 130, 351, 351))], found.cells, 0.7)
    assert found.scale.red_cell_px / factor == pytest.approx(112, rel=0.25)


def test_each_cell_is_extended_as_in_the_whole_image():
    """Windows around the cells give what all of the image gives."""
    rng = np.random.default_rng(3)
    nuclei = np.zeros((150, 170), np.int32)
    for label, (y, x) in enumerate([(4, 30), (40, 60), (52, 75), (120, 165), (140, 10)], 1):
        nuclei[disk(nuclei.shape, y, x, 9)] = label
    smooth = cv2.GaussianBlur(rng.normal(size=nuclei.shape), (0, 0), 3)
    leukocytes = (smooth > -0.05) | (nuclei > 0)
    nearest = segmentation.expand_labels(nuclei, 1.1 * 30)
    rims = segmentation.expand_labels(nuclei, 0.06 * 30)
    expected = np.zeros_like(nuclei)
    for label in range(1, 6):
        mask = (nearest == label) & leukocytes | (rims == label)
        mask = ndimage.binary_fill_holes(morphology.closing(mask, morphology.disk(2)))
        mask = morphology.opening(mask, morphology.disk(6)) | (rims == label)
        pieces, _ = ndimage.label(mask)
        mask = np.isin(pieces, np.unique(pieces[nuclei == label]))
        expected[mask & ((expected == 0) | (rims == label))] = label
    np.testing.assert_array_equal(cytoplasm.label_cells(leukocytes, nuclei, 30), expected)


def test_parts_of_tiles_add_up(drawn, monkeypatch):
    monkeypatch.setattr(finder, "_TILE", 128)
    parts = []
    found = finder.find(drawn.image, parts.append)
    assert len(parts) == 2 * len(finder._tiles(drawn.image, found.scale)) > 8
    assert sum(parts) == pytest.approx(1) and min(parts) > 0
    parts.clear()
    finder.find(np.full((40, 40, 3), 255, np.uint8), parts.append)
    assert parts == [1]


def test_without_red_cells_the_scale_is_a_guess():
    image = np.full((200, 200, 3), LIGHT, np.uint8)
    cv2.circle(image, (100, 100), 50, CYTOPLASM, -1, cv2.LINE_AA)
    cv2.circle(image, (100, 100), 36, NUCLEUS, -1, cv2.LINE_AA)
    found = finder.find(image)
    assert_same([(50, 50, 151, 151)], found.cells, 0.6)
    assert not found.scale.reliable and found.scale.red_cells == 0


def nothing():
    rng = np.random.default_rng(0)
    gray = rng.integers(0, 256, (120, 160, 1), np.uint8).repeat(3, -1)
    yield "gray noise", gray
    ramp = np.linspace(0, 255, 200).astype(np.uint8)
    yield "gray ramp", np.broadcast_to(ramp[:, None, None], (200, 90, 3)).copy()
    yield (
        "gray field",
        plain_field([(180, 240, 26, 40)]).mean(-1, keepdims=True).astype(np.uint8).repeat(3, -1),
    )
    yield "red cells only", plain_field([])
    for height, width in ((1, 1), (1, 300), (2, 2), (15, 15), (16, 16), (17, 400)):
        yield (
            f"{height} x {width}",
            rng.integers(0, 256, (height, width, 1), np.uint8).repeat(3, -1),
        )
    for color in (0, 255, (104, 66, 168), (226, 172, 168)):
        yield f"all {color}", np.full((64, 80, 3), color, np.uint8)


@pytest.mark.parametrize("image", [pytest.param(image, id=name) for name, image in nothing()])
def test_nothing_to_find(image):
    assert finder.find_cells(image) == []


def test_color_noise_does_not_crash():
    rng = np.random.default_rng(1)
    for height, width in ((1, 1), (3, 40), (16, 16), (40, 33), (90, 120)):
        finder.find_cells(rng.integers(0, 256, (height, width, 3), np.uint8))


def test_other_arrays_are_refused():
    for image in (np.zeros((40, 40), np.uint8), np.zeros((40, 40, 3)), np.zeros((0, 4, 3), "u1")):
        with pytest.raises(ValueError, match=r"must be uint8 \[H, W, 3\]"):
            finder.find_cells(image)


def test_crop():
    image = np.arange(100 * 120).reshape(100, 120)
    cell = finder.Detection(40, 50, 60, 70, 100, 1.0, False)
    assert np.array_equal(finder.crop(image, cell, 0.5), image[30:70, 40:80])
    # Moved inwards at the edge.
    cell = finder.Detection(0, 100, 20, 120, 100, 1.0, True)
    assert np.array_equal(finder.crop(image, cell, 0.5), image[0:40, 80:120])
