"""Fields taken apart: hand-made masks, and flat-coloured fields that a threshold can segment."""

import cv2
import numpy as np
import pytest

from helpers.drawn_fields import LIGHT, MODELS, Sizes, Thresholds, plain_field
from wbc_jax.fields import analyze as fields
from wbc_jax.fields import finder
from wbc_jax.inference import model as inference
from wbc_jax.labels import CYTOPLASM, NUCLEUS, REVIEW


def disc(shape, y, x, radius):
    ys, xs = np.mgrid[: shape[0], : shape[1]]
    return np.hypot(ys - y, xs - x) <= radius


def test_two_cells_that_touch_share_no_pixel_and_lose_none():
    """Each cell of a pair, cut out with its neighbour, gets its half back."""
    shape = (120, 160)
    mask = np.zeros(shape, np.uint8)
    nuclei = [disc(shape, 60, 50, 14), disc(shape, 60, 110, 14)]
    bodies = [disc(shape, 60, 50, 31), disc(shape, 60, 110, 31)]  # they overlap at x = 80
    mask[bodies[0] | bodies[1]] = CYTOPLASM
    mask[nuclei[0] | nuclei[1]] = NUCLEUS
    speck = np.s_[2:8, 2:8]
    mask[speck] = CYTOPLASM
    boxes = [(29, 19, 92, 82), (29, 79, 92, 142)]
    cells = [
        finder.Detection(*box, 600, 1.0, False, nucleus[box[0] : box[2], box[1] : box[3]])
        for box, nucleus in zip(boxes, nuclei)
    ]
    windows = [(10, 0, 120, 110), (10, 50, 120, 160)]
    masks = [mask[w[0] : w[2], w[1] : w[3]] for w in windows]
    joined, labels = fields.join(shape, windows, masks, cells)
    expected = mask.copy()
    expected[speck] = 0  # connected with no nucleus
    np.testing.assert_array_equal(joined, expected)
    # The border is the line between the two nuclei, as each pixel goes to the nearer one.
    left, right = labels[:, :80], labels[:, 81:]
    assert set(np.unique(left)) == {0, 1} and set(np.unique(right)) == {0, 2}
    assert (labels > 0).sum() == (expected > 0).sum()
    assert (labels.dtype, joined.dtype) == (np.uint16, np.uint8)


def test_touching_nuclei_are_parted_by_the_nearest_seed():
    mask = np.full((20, 40), NUCLEUS, np.uint8)
    seeds = np.zeros((20, 40), np.int32)
    seeds[8:12, 4:8], seeds[8:12, 32:36] = 5, 9
    parts = fields.part(mask, seeds)
    assert (parts[:, :19] == 5).all() and (parts[:, 21:] == 9).all()
    # Without any seed in the mask nothing is anyone's.
    assert not fields.part(mask, np.zeros_like(seeds)).any()


def test_a_lobe_that_was_not_found_goes_with_its_cytoplasm():
    mask = np.zeros((30, 30), np.uint8)
    mask[5:25, 5:25] = CYTOPLASM
    mask[8:12, 8:12] = mask[18:22, 18:22] = NUCLEUS
    seeds = np.zeros((30, 30), np.int32)
    seeds[8:12, 8:12] = 1
    np.testing.assert_array_equal(fields.part(mask, seeds), (mask > 0).astype(np.int32))


def test_a_field_is_taken_apart():
    cells = [(8, 240, 26, 40), (150, 120, 26, 40), (220, 330, 24, 26), (220, 382, 24, 26)]
    image = plain_field(cells)
    field = fields.analyze(image, MODELS, um_per_px=0.2)
    assert not field.one_cell and [cell.cell for cell in field.cells] == [1, 2, 3, 4]
    assert sorted(np.unique(field.labels)) == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(field.labels > 0, field.mask > 0)
    for cell, (y, x, nucleus, body) in zip(field.cells, cells):
        place = np.s_[cell.top : cell.bottom, cell.left : cell.right]
        assert cell.top <= y < cell.bottom and cell.left <= x < cell.right
        np.testing.assert_array_equal(cell.mask > 0, field.labels[place] == cell.cell)
        inside = disc(image.shape, y, x, nucleus).sum()
        assert cell.nucleus_px == (cell.mask == 2).sum() == pytest.approx(inside, rel=0.08)
        whole = (disc(image.shape, y, x, body) > 0).sum()
        assert cell.nucleus_px + cell.cytoplasm_px == pytest.approx(whole, rel=0.1)
        assert cell.nc_ratio == cell.nucleus_px / cell.cytoplasm_px
        assert cell.nucleus_um2 == pytest.approx(0.04 * cell.nucleus_px)
        assert cell.nucleus_solidity > 0.9 and cell.lobes == 1
    assert [cell.flag for cell in field.cells] == ["touches_frame", "", "", ""]
    assert (field.um_per_px, field.um_per_px_source) == (0.2, "given")
    # The squares of the first two are large.
    assert [cell.type for cell in field.cells] == ["monocyte"] * 2 + [REVIEW] * 2
    assert [cell.best_guess for cell in field.cells] == ["monocyte"] * 2 + ["lymphocyte"] * 2
    assert field.cells[2].review == "low_probability;unlike_training"
    # The classifier is told which cell is meant: of two that touch, each without the other.
    for cell, mask in zip(field.cells, MODELS.classifier.masks):
        assert (mask > 0).sum() == (cell.mask > 0).sum()
    # Without a scale of one's own it is the red cells'.
    field = fields.analyze(image, MODELS)
    assert field.um_per_px_source == "red_cells"
    assert field.um_per_px == pytest.approx(7.5 / 40, rel=0.1)


def test_several_images_and_a_field_without_cells():
    images = [plain_field([]), plain_field([(150, 120, 26, 40)])]
    empty, one = fields.analyze(images, MODELS)
    assert empty.cells == [] and not empty.mask.any() and not empty.one_cell
    assert len(one.cells) == 1
    (typed,) = fields.analyze(images[1:], fields.Models(classifier=Sizes()))
    assert typed.mask is None and typed.cells[0].mask is None
    assert typed.cells[0].type == "monocyte" and typed.cells[0].nc_ratio is None


def test_an_image_as_one_cell():
    image = plain_field([(100, 100, 26, 40)], 200, 200)
    (found,) = fields.analyze([image], MODELS, "no")
    assert found.one_cell and found.um_per_px_source == "unknown"
    np.testing.assert_array_equal(found.mask, Thresholds().predict([image])[0].mask)
    assert found.cells[0].nucleus_um2 != found.cells[0].nucleus_um2  # NaN
    # A square of a few red cells with its cell in the middle is one by itself.
    assert fields.analyze(image, MODELS).one_cell
    assert not fields.analyze(image, MODELS, "yes").one_cell
    aside = plain_field([(60, 140, 26, 40)], 200, 200)
    assert not fields.analyze(aside, MODELS).one_cell


@pytest.mark.parametrize(
    "shape, middle, red_cell_px, one",
    [
        ((300, 300), (150, 150), 70, True),
        ((300, 300), (150, 150), 20, False),  # many red cells wide
        ((480, 640), (240, 320), 90, False),  # no square
        ((300, 300), (60, 150), 70, False),  # aside
        ((300, 300), None, 70, False),  # red cells and nothing else
        ((300, 300), None, None, True),
        ((2400, 2400), (1200, 1200), 600, False),  # nobody cuts so large
    ],
)
def test_is_one_cell(shape, middle, red_cell_px, one):
    scale = red_cell_px and finder.Scale(red_cell_px, 7.5 / red_cell_px, 9, True)
    cells = []
    if middle:
        y, x = middle
        cells = [finder.Detection(y - 50, x - 50, y + 50, x + 50, 900, 1.0, False)]
    assert fields.is_one_cell(shape, finder.Detections(cells, scale)) == one


def test_stained_otherwise_is_flagged():
    """A segmenter that takes all for cytoplasm, or a corner for the nucleus."""

    class Blind:
        def predict(self, images):
            masks = [np.ones(image.shape[:2], np.uint8) for image in images]
            for mask in masks:
                mask[: len(mask) // 3, : len(mask) // 3] = NUCLEUS
            return [inference.Prediction(mask) for mask in masks]

    image = plain_field([(150, 120, 26, 40)])
    (cell,) = fields.analyze(image, fields.Models(segmenter=Blind())).cells
    assert "nuclei_differ" in cell.flag.split(";")


@pytest.mark.parametrize("height, width", [(1, 1), (1, 300), (2, 2), (17, 400)])
@pytest.mark.parametrize("find", fields.WAYS)
def test_smallest_images(height, width, find):
    image = np.full((height, width, 3), LIGHT, np.uint8)
    field = fields.analyze(image, MODELS, find)
    assert field.mask.shape == field.labels.shape == (height, width)
    assert not field.mask.any() and not field.labels.any()
    assert field.cells == []  # and nothing that could be typed or counted


def test_arguments():
    image = np.zeros((20, 20, 3), np.uint8)
    with pytest.raises(ValueError, match="find is 'maybe': allowed are auto, yes, no"):
        fields.analyze(image, MODELS, "maybe")
    with pytest.raises(ValueError, match="um_per_px is 0: allowed is a number above zero"):
        fields.analyze(image, MODELS, um_per_px=0)
    with pytest.raises(ValueError, match=r"must be uint8 \[H, W, 3\]"):
        fields.analyze(image[..., 0], MODELS)


def test_models_by_task(monkeypatch):
    of = {"a": Thresholds(), "b": Sizes(), "c": Sizes()}
    asked = []

    def load(name):
        asked.append(name)
        return of[name]

    monkeypatch.setattr(inference, "load", load)
    loaded = fields.load_models(["b", "a"])
    assert isinstance(loaded.segmenter, Thresholds)
    assert (loaded.classifier, loaded.rule) == (of["b"], None)
    # Reflections cost four times the work, which the classifier's small images can bear.
    assert not loaded.segmenter.flips
    assert fields.load_models(["a"], flips=True).classifier is None
    assert fields.load_models(["a"], flips=True).segmenter is of["a"]
    assert asked == ["b", "a", "a", "a"]  # each read once a call
    with pytest.raises(Exception, match="b and c are both models of classification"):
        fields.load_models(["b", "c"])


def test_drawn_fields():
    """Rendered stain, and a segmenter that knows the truth of a field by its pixels."""
    from wbc_jax.tfds_builders.wbc_synthetic import render

    drawn = render.render_field(5, 360, 480, 4, um_per_px=0.15, palette="slate")

    class Truth:
        def predict(self, images):
            found = []
            for image in images:
                match = cv2.matchTemplate(drawn.image, image, cv2.TM_SQDIFF)
                y, x = np.unravel_index(match.argmin(), match.shape)
                mask = drawn.mask[y : y + image.shape[0], x : x + image.shape[1]]
                found.append(inference.Prediction(mask))
            return found

    field = fields.analyze(drawn.image, fields.Models(segmenter=Truth()))
    assert len(field.cells) == 4
    # All pixels are given out, but for what lies beyond all squares.
    assert (field.mask != drawn.mask).mean() < 0.002
    for cell in field.cells:
        y, x = (cell.top + cell.bottom) / 2, (cell.left + cell.right) / 2
        nearest = min(drawn.cells, key=lambda c: np.hypot(c.center[0] - y, c.center[1] - x))
        top, left, bottom, right = nearest.box
        assert np.abs(np.subtract(cell.box, nearest.box)).max() <= 12
        assert field.labels[top:bottom, left:right].max() >= cell.cell
