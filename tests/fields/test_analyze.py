"""Whole fields in flat colors, analyzed by models that read these colors."""

import itertools
import math
import time
from concurrent import futures

import cv2
import jax
import numpy as np
import pytest

import wbc_jax
from helpers.drawn_fields import CYTOPLASM, LIGHT, MODELS, Sizes, Thresholds, disk, plain_field
from helpers.drawn_fields import NUCLEUS as NUCLEUS_COLOR
from wbc_jax import models
from wbc_jax.config import Config, Model
from wbc_jax.data import light, orientation
from wbc_jax.errors import CheckpointError
from wbc_jax.fields import analyze as fields
from wbc_jax.fields import finder, results, windows
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
    standard = light.standardize(image)
    np.testing.assert_array_equal(found.mask, Thresholds().predict([standard])[0].mask)
    assert found.cells[0].nucleus_um2 != found.cells[0].nucleus_um2  # NaN
    # `auto` takes a square a few red cells wide, with its cell in the middle, as one cell.
    assert fields.analyze(image, MODELS).one_cell
    assert not fields.analyze(image, MODELS, "yes").one_cell
    aside = plain_field([(60, 140, 26, 40)], 200, 200)
    assert not fields.analyze(aside, MODELS).one_cell


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
@pytest.mark.parametrize("find", windows.FIND_MODES)
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
    with pytest.raises(ValueError, match="pixel_sizes is nan: allowed is a number above zero"):
        fields.analyze([image], MODELS, pixel_sizes=[(math.nan, "ome")])
    with pytest.raises(ValueError, match="2 pixel_sizes for 1 images: give one for each image"):
        fields.analyze([image], MODELS, pixel_sizes=[None, None])
    with pytest.raises(ValueError, match=r"must be uint8 \[H, W, 3\]"):
        fields.analyze(image[..., 0], MODELS)


def test_pixel_sizes_from_files():
    """The red cells are 40 pixels wide: 7.5 / 40 = 0.1875 µm per pixel."""
    image = plain_field([(150, 120, 26, 40)])
    images = [image] * 4
    sizes = [(0.19, "tiff_resolution"), None, (0.25, "ome"), (0.1, "imagej")]
    found = fields.analyze(images, MODELS, pixel_sizes=sizes)
    assert [field.um_per_px_source for field in found] == [
        *("tiff_resolution", "red_cells", "ome", "imagej"),
    ]  # fmt: skip
    assert [field.um_per_px for field in found[::2]] == [0.19, 0.25]
    assert found[1].um_per_px == pytest.approx(0.1875, rel=0.05)
    assert found[2].cells[0].nucleus_um2 == pytest.approx(0.0625 * found[2].cells[0].nucleus_px)
    # A third above the red cells', and half of it.
    assert [field.cells[0].flag for field in found] == ["", "", *["um_per_px_differs"] * 2]
    # The user's own value wins over the file's.
    (given,) = fields.analyze([image], MODELS, um_per_px=0.19, pixel_sizes=sizes[2:3])
    assert (given.um_per_px, given.um_per_px_source) == (0.19, "given")
    assert given.cells[0].flag == ""
    differs = fields.analyze(image, MODELS, um_per_px=0.4).cells[0]
    assert differs.flag == "um_per_px_differs"


def test_an_unknown_scale_differs_from_none():
    """Without red cells nothing contradicts the file."""
    image = np.full((200, 200, 3), LIGHT, np.uint8)
    cv2.circle(image, (100, 100), 50, CYTOPLASM, -1, cv2.LINE_AA)
    cv2.circle(image, (100, 100), 36, NUCLEUS_COLOR, -1, cv2.LINE_AA)
    (field,) = fields.analyze([image], MODELS, pixel_sizes=[(3.0, "ome")])
    assert (field.um_per_px, field.um_per_px_source) == (3.0, "ome")
    assert [cell.flag for cell in field.cells] == [""]


@pytest.mark.parametrize("side, flag", [(22, "scale_out_of_range"), (30, "")])
def test_cells_outside_of_the_checked_scales_are_flagged(side, flag):
    image = plain_field([(180, 180, 80, 120)], 360, 360)
    size = round(360 * side / 240)
    small = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    (cell,) = fields.analyze(small, MODELS, "no").cells
    assert max(cell.bottom - cell.top, cell.right - cell.left) == pytest.approx(side, abs=1)
    assert cell.flag == flag


def test_progress_of_a_large_image(monkeypatch):
    monkeypatch.setattr(finder, "_TILE", 128)
    monkeypatch.setattr(fields, "_GROUP", 1)
    image = plain_field([(150, 120, 26, 40), (220, 330, 24, 26)])
    parts = []
    found = fields.analyze(image, MODELS, on_progress=parts.append)
    assert len(found.cells) == 2
    assert parts == sorted(parts) and parts[-1] == 1
    tiles = len(finder._tiles(image, finder.estimate_scale(image)))
    assert len(parts) == 2 * tiles + 2 * 2 + 1  # two masks, two types, the end
    # All tiles together are 60 %, each mask an eighth, and each type 7.5 %.
    assert parts[2 * tiles - 1 :] == pytest.approx([0.6, 0.725, 0.85, 0.925, 1, 1])
    # Several images, in threads: each counts by its pixels.
    parts.clear()
    fields.analyze([image, image[:120]], MODELS, "no", on_progress=parts.append)
    assert parts == sorted(parts) and parts[-1] == 1
    assert parts[0] in (pytest.approx(0.6 * 360 / 480), pytest.approx(0.6 * 120 / 480))


def plain_pictures():
    rng = np.random.default_rng(0)
    ramp = np.linspace(-30, 30, 300)[:, None, None]
    colors = {"white": (255, 255, 255), "black": (0, 0, 0), "yellow": (255, 255, 0)}
    for name, color in (colors | {"violet": NUCLEUS_COLOR, "pale": (240, 225, 170)}).items():
        flat = np.full((300, 300, 3), color, float)
        noise = rng.normal(0, 6, flat.shape)
        for kind, picture in (("flat", flat), ("noise", flat + noise), ("ramp", flat + ramp)):
            picture = picture.clip(0, 255).round().astype(np.uint8)
            yield pytest.param(picture, id=f"{name}-{kind}")


class SeesCells:
    """Networks that see a cell in the middle of whatever they are given."""

    segmenter = None

    def predict(self, images, masks=None):
        found = []
        for image in images:
            mask = np.zeros(image.shape[:2], np.uint8)
            center = tuple(side // 2 for side in mask.shape[::-1])
            cv2.circle(mask, center, 90, 1, -1)
            cv2.circle(mask, center, 60, NUCLEUS, -1)
            found.append(inference.Prediction(mask, logits=np.array([9.0, 0, 0, 0, 0], "f4")))
        return found


@pytest.mark.parametrize("find", windows.FIND_MODES)
@pytest.mark.parametrize("image", list(plain_pictures()))
def test_a_plain_picture_has_no_cell(image, find):
    both = fields.analyze(image, fields.Models(SeesCells(), SeesCells()), find)
    assert both.cells == [] and not both.mask.any() and not both.labels.any()
    (row,) = results.field_rows(both, file="plain.png", width=300, height=300)
    assert (row["flag"], row["cell"], row["type"]) == ("no_cell", None, None)
    assert results.differential([row])[-1]["cells"] == 0
    assert fields.analyze(image, fields.Models(classifier=SeesCells()), find).cells == []


def test_a_mask_that_the_image_does_not_support_is_no_cell():
    """A bright disk on a dark ground is no nucleus."""
    image = np.full((300, 300, 3), 90, np.uint8)
    cv2.circle(image, (150, 150), 60, (220, 220, 220), -1, cv2.LINE_AA)
    assert fields.analyze(image, fields.Models(SeesCells()), "no").cells == []
    dark = 255 - image
    assert len(fields.analyze(dark, fields.Models(SeesCells()), "no").cells) == 1


@pytest.mark.parametrize("side", [300, 600])
def test_a_cell_in_the_middle_of_a_plain_picture(side):
    """A crop in a large picture: the found cell is cut out, at any size of the picture."""
    crop = plain_field([(60, 60, 26, 40)], 120, 120)
    image = np.full((side, side, 3), LIGHT, np.uint8)
    place = np.s_[side // 2 - 60 : side // 2 + 60, side // 2 - 60 : side // 2 + 60]
    image[place] = crop
    seen = []

    class Recorded(Thresholds):
        def predict(self, images):
            seen.extend(image.shape for image in images)
            return super().predict(images)

    (found,) = fields.analyze(image, fields.Models(Recorded())).cells
    (alone,) = fields.analyze(crop, MODELS).cells
    assert found.nc_ratio == pytest.approx(alone.nc_ratio, rel=0.02)
    assert max(seen[0]) <= 2.5 * 90  # the network sees the cell, not the picture


def test_four_cells_with_one_in_the_middle():
    image = np.full((400, 400, 3), LIGHT, np.uint8)
    crop = plain_field([(60, 60, 26, 40)], 120, 120)
    places = [(0, 0), (0, 280), (280, 0), (140, 140)]
    for top, left in places:
        image[top : top + 120, left : left + 120] = crop
    found = fields.analyze(image, MODELS).cells
    middles = [((c.top + c.bottom) / 2, (c.left + c.right) / 2) for c in found]
    assert np.abs(np.subtract(middles, [(y + 60, x + 60) for y, x in sorted(places)])).max() < 3


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
    standard = light.standardize(drawn.image)

    class Truth:
        def predict(self, images):
            return [inference.Prediction(self.mask(image)) for image in images]

        def mask(self, image):
            """The squares come in standard light, each turned to one of eight positions."""
            best = []
            for position in itertools.product((False, True), repeat=3):
                upright = orientation.replace(image, position)
                match = cv2.matchTemplate(standard, upright, cv2.TM_SQDIFF)
                y, x = np.unravel_index(match.argmin(), match.shape)
                mask = drawn.mask[y : y + upright.shape[0], x : x + upright.shape[1]]
                best.append((match.min(), position, mask))
            _, position, mask = min(best, key=lambda one: one[0])
            return orientation.place(mask, position)

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
    assert wbc_jax.analyze(image, find="no").mask is not None
