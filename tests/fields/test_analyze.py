"""Whole fields in flat colors, analyzed by models that read these colors."""

import time
from concurrent import futures

import cv2
import jax
import numpy as np
import pytest

import wbc_jax
from helpers.drawn_fields import LIGHT, MODELS, Sizes, Thresholds, disk, plain_field
from wbc_jax import models
from wbc_jax.config import Config, Model
from wbc_jax.errors import CheckpointError
from wbc_jax.fields import analyze as fields
from wbc_jax.fields import finder
from wbc_jax.inference import model as inference
from wbc_jax.labels import NUCLEUS, REVIEW
from wbc_jax.tfds_builders.wbc_synthetic import render
from wbc_jax.training import steps


def test_cells_of_a_field():
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
        inside = disk(image.shape, y, x, nucleus).sum()
        assert cell.nucleus_px == (cell.mask == 2).sum() == pytest.approx(inside, rel=0.08)
        whole = (disk(image.shape, y, x, body) > 0).sum()
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
    # The classifier gets the mask of one cell: of two that touch, each without the other.
    for cell, mask in zip(field.cells, MODELS.classifier.masks):
        assert (mask > 0).sum() == (cell.mask > 0).sum()
    # Without a given scale, the red cells give it.
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
    # `auto` takes a square a few red cells wide, with its cell in the middle, as one cell.
    assert fields.analyze(image, MODELS).one_cell
    assert not fields.analyze(image, MODELS, "yes").one_cell
    aside = plain_field([(60, 140, 26, 40)], 200, 200)
    assert not fields.analyze(aside, MODELS).one_cell


@pytest.mark.parametrize(
    "shape, middle, red_cell_px, one",
    [
        ((300, 300), (150, 150), 70, True),
        ((300, 300), (150, 150), 20, False),  # many red cells wide
        ((480, 640), (240, 320), 90, False),  # not square
        ((300, 300), (60, 150), 70, False),  # off center
        ((300, 300), None, 70, False),  # red cells and nothing else
        ((300, 300), None, None, True),
        ((2400, 2400), (1200, 1200), 600, False),  # too large for a crop
    ],
)
def test_is_one_cell(shape, middle, red_cell_px, one):
    scale = red_cell_px and finder.Scale(red_cell_px, 7.5 / red_cell_px, 9, True)
    cells = []
    if middle:
        y, x = middle
        cells = [finder.Detection(y - 50, x - 50, y + 50, x + 50, 900, 1.0, False)]
    assert fields.is_one_cell(shape, finder.Detections(cells, scale)) == one


def test_differing_nuclei_are_flagged():
    """The segmenter predicts cytoplasm everywhere, and a nucleus in a corner."""

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
@pytest.mark.parametrize("find", fields.FIND_MODES)
def test_smallest_images(height, width, find):
    image = np.full((height, width, 3), LIGHT, np.uint8)
    field = fields.analyze(image, MODELS, find)
    assert field.mask.shape == field.labels.shape == (height, width)
    assert not field.mask.any() and not field.labels.any()
    assert field.cells == []


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
    # Reflections are off by default: they cost four times the work.
    assert not loaded.segmenter.flips
    assert fields.load_models(["a"], flips=True).classifier is None
    assert fields.load_models(["a"], flips=True).segmenter is of["a"]
    assert asked == ["b", "a", "a", "a"]  # each is read once per call
    with pytest.raises(Exception, match="b and c are both models for classification"):
        fields.load_models(["b", "c"])


def test_rendered_field():
    """A field with rendered stain, and a segmenter that finds the true mask by its pixels."""
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
    # All pixels get their class, except those outside of all squares.
    assert (field.mask != drawn.mask).mean() < 0.002
    for cell in field.cells:
        y, x = (cell.top + cell.bottom) / 2, (cell.left + cell.right) / 2
        nearest = min(drawn.cells, key=lambda c: np.hypot(c.center[0] - y, c.center[1] - x))
        top, left, bottom, right = nearest.box
        assert np.abs(np.subtract(cell.box, nearest.box)).max() <= 12
        assert field.labels[top:bottom, left:right].max() >= cell.cell


@pytest.fixture
def nothing_kept():
    wbc_jax.release_models()
    yield
    wbc_jax.release_models()


def _least_model():
    config = Config(model=Model(features=2, depth=1, norm="none"))
    config.data.image_size = 16
    return inference.Model(config, *steps.split_network(models.build(config.model, 0)), 0)


def test_the_shipped_models_are_loaded_once(monkeypatch, nothing_kept):
    """By two threads and by later calls; and compiled once. A release makes the next call load."""
    loads, compiled, model = [], [], _least_model()

    def load(names=(), flips=False):
        loads.append(names)
        time.sleep(0.05)  # the other thread arrives meanwhile
        fresh = inference.Model(model.config, model.network, model.weights, model.step)
        return fields.Models(segmenter=fresh)

    def heard(event, seconds, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(about)

    monkeypatch.setattr(fields, "load_models", load)
    image = render.render_cell(0, 1).image
    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        with futures.ThreadPoolExecutor(2) as pool:
            first = list(pool.map(lambda _: wbc_jax.analyze(image, find="no"), range(2)))
        assert len(loads) == 1 and len(compiled) == 1
        wbc_jax.analyze([image, image], find="no")
        assert len(loads) == 1 and len(compiled) == 1
        # Models that are given are used, and are not kept.
        fields.analyze(image, MODELS, "no")
        assert len(loads) == 1
        wbc_jax.release_models()
        again = wbc_jax.analyze(image, find="no")
        assert len(loads) == 2 and len(compiled) == 2
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)
    for field in first:
        np.testing.assert_array_equal(field.mask, again.mask)


def test_a_failed_load_is_not_kept(monkeypatch, nothing_kept):
    image = np.zeros((20, 20, 3), np.uint8)
    with monkeypatch.context() as patch:
        patch.setattr(fields, "load_models", lambda: (_ for _ in ()).throw(CheckpointError("gone")))
        for _ in range(2):
            with pytest.raises(CheckpointError, match="gone"):
                wbc_jax.analyze(image, find="no")
    monkeypatch.setattr(fields, "load_models", lambda: MODELS)
    assert wbc_jax.analyze(image, find="no").one_cell
