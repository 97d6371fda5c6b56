"""wbc_jax.inference.cell_masks: masks that cut images to their cell, predicted once."""

import dataclasses
import hashlib
import pathlib
import shutil

import jax
import numpy as np
import pytest

import wbc_jax
from helpers import tiny_runs
from wbc_jax import experiment
from wbc_jax.data import isolation, pipeline, sources
from wbc_jax.data.resize import resize_image
from wbc_jax.errors import ConfigError, DataError, WeightsError
from wbc_jax.evaluate import scoring
from wbc_jax.inference import cell_masks, weights
from wbc_jax.inference import model as inference


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


def kept(data):
    """The file of masks beside the records."""
    folder = sources.builder(tiny_runs.DATASET, data).data_dir
    (file,) = pathlib.Path(folder).glob("wbc_jax_masks_*")
    return file


def test_records_are_cut_by_the_segmenters_masks_which_are_kept(data, run_weights, monkeypatch):
    whole = sources.load(tiny_runs.DATASET, data)
    masks = cell_masks.prepare(data)
    assert masks.keys() == {tiny_runs.DATASET}
    cut = dataclasses.replace(whole, cell_masks=masks[tiny_runs.DATASET])
    segmenter = wbc_jax.load(run_weights).with_flips(False)
    for i in range(3):
        mask = segmenter.predict(whole.image(i)).mask
        expected = isolation.isolate(whole.image(i), mask)
        # The kept mask is coarser or finer than the image's.
        assert abs(len(cut.image(i)) - len(expected)) <= 4
        assert cut.mask(i).shape == whole.mask(i).shape
    assert cut.ids == whole.ids and (cut.labels == whole.labels).all()
    failed = "predicted a second time"
    monkeypatch.setattr(inference, "load_segmenter", lambda _: pytest.fail(failed))
    again = cell_masks.prepare(data)
    np.testing.assert_array_equal(again[tiny_runs.DATASET], masks[tiny_runs.DATASET])
    test = pipeline.load_splits(data, 32, "classification", again)["test"]
    source, place = test.entries[0]
    np.testing.assert_array_equal(source.image(place), cut.image(place))
    np.testing.assert_array_equal(test[0]["image"], resize_image(cut.image(place), 32, 32))
    # Duplicates are looked for among the whole images.
    assert test.keys == [whole.key(i) for _, i in test.entries]


def test_the_file_of_masks(data, run_weights):
    """The name and the content that earlier versions have written."""
    masks = cell_masks.prepare(data, [tiny_runs.DATASET])[tiny_runs.DATASET]
    file = kept(data)
    digest = hashlib.sha256(run_weights.read_bytes()).hexdigest()
    assert file.name == f"wbc_jax_masks_{digest[:12]}.npz"
    with np.load(file, allow_pickle=False) as stored:
        assert set(stored) == {"ids", "masks"}
        assert tuple(stored["ids"]) == sources.load(tiny_runs.DATASET, data).ids
        np.testing.assert_array_equal(stored["masks"], masks)
    assert masks.dtype == np.uint8 and masks.shape == (60, 128, 128)
    assert set(np.unique(masks)) <= {0, 1, 2}


def test_a_damaged_file_of_masks_is_written_anew(data):
    first = cell_masks.prepare(data)[tiny_runs.DATASET]
    with kept(data).open("r+b") as file:
        file.truncate(100)
    np.testing.assert_array_equal(cell_masks.prepare(data)[tiny_runs.DATASET], first)


def test_splits_without_the_masks_are_refused(data):
    with pytest.raises(DataError, match=r"the masks .* are missing. .*cell_masks\.prepare"):
        pipeline.load_splits(data, 32, "classification")
    with pytest.raises(DataError, match=r"small: config\.data\.isolate is"):
        pipeline.load_whole(tiny_runs.DATASET, data, 32, "classification", {"pbc": np.zeros(3)})
    # Without `isolate` there are none, and none are needed.
    plain = dataclasses.replace(data, isolate="")
    assert cell_masks.prepare(plain) == {}
    assert len(pipeline.load_splits(plain, 32, "classification", {})["all"]) == 60


def test_masks_are_made_when_records_are_prepared(typed_run, data, tmp_path):
    """Training, scoring and data sets aside see cut images without asking for masks."""
    own = dataclasses.replace(data, data_dir=str(tmp_path), datasets=(tiny_runs.DATASET,))
    config = dataclasses.replace(typed_run.config, data=own)
    experiment.prepare(config)
    before = kept(own).stat().st_mtime_ns
    examples = experiment.load_splits(config)
    source, place = examples["train"].entries[0]
    whole = sources.load(tiny_runs.DATASET, own)
    expected = isolation.isolate(whole.image(place), source.cell_masks[place])
    np.testing.assert_array_equal(source.image(place), expected)
    shown = []

    def predict(images):
        shown.extend(images)
        return np.full((len(images), 5), 0.2, np.float32)

    aside = dataclasses.replace(config, data=dataclasses.replace(own, datasets=("raabin_gt",)))
    found, skipped = scoring._external(aside, predict, [])
    assert found[tiny_runs.DATASET]["images"] == 60 and not skipped
    np.testing.assert_array_equal(shown[:60], [examples["all"][i]["image"] for i in range(60)])
    assert kept(own).stat().st_mtime_ns == before


def test_weights_that_do_not_fit_are_named(data):
    missing = dataclasses.replace(data, isolate="nowhere")
    with pytest.raises(WeightsError, match="isolate is 'nowhere'"):
        cell_masks.prepare(missing)


@pytest.mark.parametrize(
    "stain", [isolation.Stain(), isolation.Stain(1.4), isolation.Stain(1.4, 0.3)]
)
def test_a_model_cuts_images_as_in_training(typed, run, run_weights, stain):
    """`typed` is a classifier; told to isolate, it sees what `isolate` makes of an image."""
    config = dataclasses.replace(
        typed.config,
        data=dataclasses.replace(
            typed.config.data,
            isolate=str(run_weights),
            nucleus_density=stain.nucleus,
            red_density=stain.red_cells,
        ),
    )
    model = wbc_jax.Model(config, typed.network, typed.weights, typed.step)
    whole = sources.load(tiny_runs.DATASET, run.config.data)
    images = [whole.image(i) for i in range(3)]
    masks = [model.segmenter.predict(image).mask for image in images]
    cuts = [isolation.isolate(image, mask, stain) for image, mask in zip(images, masks)]
    expected = [one.probabilities for one in typed.predict(cuts)]
    for found in (model.predict(images), model.predict(images, masks=masks)):
        np.testing.assert_allclose([one.probabilities for one in found], expected, atol=1e-6)
    one = model.predict(images[0], masks=masks[0])
    np.testing.assert_allclose(one.probabilities, expected[0], atol=1e-6)
    np.testing.assert_array_equal(
        model.fit(images[1]), resize_image(cuts[1], tiny_runs.SIZE, tiny_runs.SIZE)
    )


def test_a_classifier_cannot_isolate(typed, tmp_path):
    file = tmp_path / "types.safetensors"
    weights.write(file, typed.config, 1, typed.weights, [])
    with pytest.raises(ConfigError, match="must name a segmenter's"):
        inference.load_segmenter(str(file))


def test_an_adapted_classifier_cuts_by_its_own_segmenter(typed, run_weights, tmp_path):
    """`isolate` names the shipped one; the file names the one that was adapted with it."""
    segmenter = wbc_jax.load(run_weights)
    shifted = jax.tree.map(lambda array: array + 0.5, segmenter.weights)
    own, file = tmp_path / "mine.segmenter.safetensors", tmp_path / "mine.safetensors"
    weights.write(own, segmenter.config, 0, shifted, [], np.float32)
    data = dataclasses.replace(typed.config.data, isolate=str(run_weights))
    config = dataclasses.replace(typed.config, data=data)
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    adapted = {"segmenter": {"file": own.name, "sha256": digest}}
    weights.write(file, config, 0, typed.weights, [], np.float32, adapted)
    image = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    for model in (wbc_jax.load(file), wbc_jax.load(file).with_flips(True)):
        jax.tree.map(np.testing.assert_array_equal, model.segmenter.weights, shifted)
    own.unlink()
    model = wbc_jax.load(file)  # another segmenter may be named beside it
    with pytest.raises(WeightsError, match=r"mine\.segmenter\.safetensors is missing.*Put it"):
        model.predict(image)
