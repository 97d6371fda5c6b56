"""wbc_jax.data.isolation: images cut to their cell."""

import dataclasses
import pathlib
import shutil

import numpy as np
import pytest

import tiny_runs
import wbc_jax
from wbc_jax.data import isolation, pipeline, sources
from wbc_jax.data.images import decode_image
from wbc_jax.errors import ConfigError, WeightsError
from wbc_jax.inference import weights


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


@pytest.fixture(scope="module")
def typed(typed_run):
    return wbc_jax.load(typed_run.workdir)


@pytest.fixture(scope="module")
def own_records(data_dir, tmp_path_factory):
    """Masks are kept beside records, where other tests look at what is there."""
    return shutil.copytree(data_dir, tmp_path_factory.mktemp("isolated") / "records")


@pytest.fixture
def data(run, run_weights, own_records):
    return dataclasses.replace(run.config.data, isolate=str(run_weights), data_dir=str(own_records))


def test_records_are_cut_by_the_segmenters_masks_which_are_kept(data, run_weights, monkeypatch):
    whole = sources.load(tiny_runs.DATASET, data)
    cut = isolation.isolated([whole], data)[0]
    segmenter = wbc_jax.load(run_weights).with_flips(False)
    for i in range(3):
        mask = segmenter.predict(whole.image(i)).mask
        expected = isolation.isolate(whole.image(i), mask)
        # The kept mask is coarser or finer than the image's.
        assert abs(len(cut.image(i)) - len(expected)) <= 4
        assert cut.mask(i).shape == whole.mask(i).shape
    assert cut.ids == whole.ids and (cut.labels == whole.labels).all()
    monkeypatch.setattr(isolation, "segmenter", lambda _: pytest.fail("predicted a second time"))
    again = isolation.isolated([whole], data)[0]
    np.testing.assert_array_equal(again.image(1), cut.image(1))
    test = pipeline.load_splits(data, 32, "classification")["test"]
    source, place = test.entries[0]
    np.testing.assert_array_equal(
        test[0]["image"], pipeline.resize_image(source.image(place), 32, 32)
    )
    assert decode_image(source.encoded[place]["image"]).shape == source.image(place).shape


def test_a_damaged_file_of_masks_is_written_anew(data, run_weights):
    whole = sources.load(tiny_runs.DATASET, data)
    first = isolation.isolated([whole], data)[0].image(0)
    folder = sources.builder(tiny_runs.DATASET, data).data_dir
    (kept,) = pathlib.Path(folder).glob("wbc_jax_masks_*")
    with open(kept, "r+b") as file:
        file.truncate(100)
    np.testing.assert_array_equal(isolation.isolated([whole], data)[0].image(0), first)


def test_weights_that_do_not_fit_are_named(data, tmp_path):
    missing = dataclasses.replace(data, isolate="nowhere")
    with pytest.raises(WeightsError, match="isolate is 'nowhere'"):
        isolation.isolated([sources.load(tiny_runs.DATASET, data)], missing)


def test_a_model_cuts_images_as_in_training(typed, run, run_weights, tmp_path):
    """`typed` is a classifier; told to isolate, it sees what `isolate` makes of an image."""
    config = dataclasses.replace(
        typed.config, data=dataclasses.replace(typed.config.data, isolate=str(run_weights))
    )
    model = wbc_jax.Model(config, typed.network, typed.weights, typed.step)
    whole = sources.load(tiny_runs.DATASET, run.config.data)
    images = [whole.image(i) for i in range(3)]
    masks = [model.segmenter.predict(image).mask for image in images]
    cuts = [isolation.isolate(image, mask) for image, mask in zip(images, masks)]
    expected = [one.probabilities for one in typed.predict(cuts)]
    for found in (model.predict(images), model.predict(images, masks=masks)):
        np.testing.assert_allclose([one.probabilities for one in found], expected, atol=1e-6)
    one = model.predict(images[0], masks=masks[0])
    np.testing.assert_allclose(one.probabilities, expected[0], atol=1e-6)
    np.testing.assert_array_equal(
        model.fit(images[1]), pipeline.resize_image(cuts[1], tiny_runs.SIZE, tiny_runs.SIZE)
    )


def test_a_classifier_cannot_isolate(typed, data, tmp_path):
    file = tmp_path / "types.safetensors"
    weights.write(file, typed.config, 1, typed.weights, [])
    with pytest.raises(ConfigError, match="must name a segmenter's"):
        isolation.segmenter(dataclasses.replace(data, isolate=str(file)))
