"""A loaded model: images of any size, alone or among others, from any thread."""

import concurrent.futures
import csv
import math
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import wbc_jax
from helpers import tiny_runs
from wbc_jax import models
from wbc_jax.config import Config, Model, to_json
from wbc_jax.data import pipeline
from wbc_jax.data.resize import resize_image
from wbc_jax.errors import CheckpointError, ConfigError
from wbc_jax.inference import model as inference
from wbc_jax.training import checkpoint, steps


@pytest.fixture(scope="module")
def test_split(run):
    return pipeline.load_splits(run.config.data, tiny_runs.SIZE)["test"]


@pytest.fixture(scope="module")
def cells(test_split):
    """Whole images as their authors left them, 96 x 96."""
    return [source.image(i) for source, i in test_split.entries[:5]]


def _crops(cells):
    """Cells cut and blown up to sizes that have nothing in common."""
    sizes = ((96, 96), (31, 77), (200, 50), (5, 3), (1, 1))
    return [resize_image(c, *size) for c, size in zip(cells, sizes)]


def test_load(run, model):
    assert model.config == run.config
    state, position = tiny_runs.state(run.workdir, checkpoint.BEST, run.config)
    assert model.step == position["best_step"] == int(state.step)
    # The averaged parameters are those that were scored.
    tiny_runs.assert_equal(model.weights, state.average)
    assert model.parameters == sum(x.size for x in _leaves(state.params))
    assert isinstance(model, wbc_jax.Model)


def _leaves(tree):
    if isinstance(tree, dict):
        return [leaf for value in tree.values() for leaf in _leaves(value)]
    return [np.asarray(tree)]


def test_mask_has_the_images_size_and_the_areas_are_the_masks(model, cells):
    images = _crops(cells)
    found = model.predict(images)
    for image, one in zip(images, found):
        assert one.mask.dtype == np.uint8 and one.mask.shape == image.shape[:2]
        n, c = int((one.mask == 2).sum()), int((one.mask == 1).sum())
        assert (one.nucleus_px, one.cytoplasm_px) == (n, c)
        assert (one.mask <= 2).all()
        if n and c:
            assert one.flag == "" and one.nc_ratio == pytest.approx(n / c)
            assert one.nucleus_share == pytest.approx(n / (n + c))
        else:
            assert one.flag in ("no_nucleus", "no_cytoplasm", "no_cell")
            assert not math.isfinite(one.nc_ratio)
        assert one.label is None and one.probabilities is None
    # The first three show a cell that a model of this little training already finds.
    assert found[0].nucleus_px > 100 and found[0].cytoplasm_px > 100


def test_the_model_has_learnt_what_is_in_the_image(model, test_split):
    correct = []
    for source, i in test_split.entries:
        correct.append((model.predict(source.image(i)).mask == source.mask(i)).mean())
    assert np.mean(correct) > 0.85


def _assert_same(one, two):
    """Asserts that two predictions are equal, bit for bit."""
    for name in ("mask", "logits", "embedding", "probabilities"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    assert (one.label, one.flag) == (two.label, two.flag)
    np.testing.assert_array_equal(one.nc_ratio, two.nc_ratio)


@pytest.mark.parametrize("kind", ["segmenter", "classifier", "with embeddings"])
def test_a_result_depends_on_no_other_image(model, typed_run, cells, kind):
    if kind == "classifier":
        model = wbc_jax.load(typed_run.workdir)
    elif kind == "with embeddings":
        model = _embedding_model()
    images = _crops(cells)
    together = model.predict(images)
    assert len(together) == 5
    for i, image in enumerate(images):
        _assert_same(model.predict(image), together[i])
    for back, forth in zip(model.predict(images[::-1])[::-1], together):
        _assert_same(back, forth)
    for size in (1, 2, 3):
        for small, one in zip(model.predict(images, batch_size=size), together):
            _assert_same(small, one)


def test_arrays_tuples_and_nothing(model, cells):
    stacked = model.predict(np.stack(cells))
    for one, other in zip(stacked, model.predict(tuple(cells))):
        _assert_same(one, other)
    assert isinstance(model.predict(cells[0]), inference.Prediction)
    assert len(model.predict(cells[:1])) == 1
    assert model.predict([]) == []


def test_the_image_is_not_changed(model, cells):
    image = cells[0].copy()
    image.flags.writeable = False
    model.predict(image)
    np.testing.assert_array_equal(image, cells[0])


@pytest.mark.parametrize(
    "image, found",
    [
        (np.zeros((8, 9, 3), np.float32), "float32 (8, 9, 3)"),
        (np.zeros((8, 9), np.uint8), "uint8 (8, 9)"),
        (np.zeros((8, 9, 4), np.uint8), "uint8 (8, 9, 4)"),
        (np.zeros((8, 9, 1), np.uint8), "uint8 (8, 9, 1)"),
        (np.zeros((0, 9, 3), np.uint8), "uint8 (0, 9, 3)"),
        (np.zeros((2, 8, 9, 3), np.uint16), "uint16 (8, 9, 3)"),
        (np.zeros((1, 2, 8, 9, 3), np.uint8), "uint8 (1, 2, 8, 9, 3)"),
        ([np.zeros((8, 9, 3), np.uint8), [[1, 2, 3]]], "list"),
        (["cell.png"], "str"),
    ],
)
def test_what_is_no_image(model, image, found):
    with pytest.raises(ValueError) as caught:
        model.predict(image)
    text = str(caught.value)
    assert found in text and "must be uint8 [H, W, 3]" in text and "read_image" in text


def test_threads_get_the_same(run, cells):
    fresh = wbc_jax.load(run.workdir)  # not yet compiled when both arrive
    images = _crops(cells)
    expected = wbc_jax.load(run.workdir).predict(images)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for found in pool.map(fresh.predict, [images] * 4):
            for one, other in zip(found, expected):
                np.testing.assert_array_equal(one.mask, other.mask)


def test_one_shape_is_compiled(run, cells):
    fresh, compiled = wbc_jax.load(run.workdir), []

    def heard(event, seconds, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(about.get("fun_name", ""))

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        rng = np.random.default_rng(0)
        for count in (3, 1, 16, 5, 11, 2, 37, 8, 4, 16):
            sizes = rng.integers(1, 120, (count, 2))
            found = fresh.predict([resize_image(cells[0], *map(int, s)) for s in sizes])
            assert [one.mask.shape for one in found] == [tuple(s) for s in sizes]
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)
    assert len(compiled) == 1, compiled


def test_prediction_agrees_with_the_report(run, model, test_split):
    # At the network's own size, which is also that of the score, the two ways must meet.
    with (run.workdir / "report" / "per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["id"] for row in rows] == test_split.ids
    examples = [test_split[i] for i in range(len(test_split))]
    found = model.predict([example["image"] for example in examples])
    for row, example, one in zip(rows, examples, found):
        truth, mask = example["mask"], one.mask
        assert abs(int(row["nucleus_px"]) - one.nucleus_px) <= 1
        assert abs(int(row["cytoplasm_px"]) - one.cytoplasm_px) <= 1
        assert int(row["truth_nucleus_px"]) == (truth == 2).sum()
        assert float(row["global_accuracy"]) == pytest.approx((truth == mask).mean(), abs=1e-3)
        both, either = ((truth == 2) & (mask == 2)).sum(), ((truth == 2) | (mask == 2)).sum()
        assert float(row["iou_nucleus"]) == pytest.approx(both / either, abs=0.02)


def test_no_run(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        wbc_jax.load(tmp_path / "none")
    assert f"{tmp_path / 'none'} holds no run (no config.json)" in str(caught.value)
    assert not (tmp_path / "none").exists()


def test_a_run_without_checkpoint(run, tmp_path):
    (tmp_path / "config.json").write_text(to_json(run.config))
    with pytest.raises(CheckpointError, match="holds no checkpoint; train first"):
        wbc_jax.load(tmp_path)


@pytest.mark.parametrize(
    "content, expected",
    [
        (b'{"task": "segm', "is not JSON"),
        (b"\x89PNG\r\n\xff", "is not JSON"),
        (b'{"model": {"name": "vgg"}}', r"config\.model\.name is 'vgg'; allowed are 'unet'"),
        (b'{"model": {"width": 3}}', "config.model has no field 'width'"),
    ],
)
def test_a_damaged_config(tmp_path, content, expected):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=expected):
        wbc_jax.load(tmp_path)


def test_a_config_that_does_not_fit_the_checkpoint(run, tmp_path):
    shutil.copytree(run.workdir / "checkpoints", tmp_path / "checkpoints")
    other = tiny_runs.config(run.config.data.data_dir, optimizer__ema_decay=0.0)
    (tmp_path / "config.json").write_text(to_json(other))
    with pytest.raises(CheckpointError, match="cannot be restored"):
        wbc_jax.load(tmp_path)


def test_with_middle_cell(model):
    logits = np.zeros((40, 40, 3), np.float32)
    logits[..., 0] = 1
    logits[15:25, 12:28, 2] = 2  # in the middle
    logits[:6, :9, 1:] = (2, 3)  # in a corner
    both = model.read(logits, (40, 40))
    alone = model.with_middle_cell(True).read(logits, (40, 40))
    assert (both.nucleus_px, alone.nucleus_px) == (160 + 54, 160)
    assert alone.mask[20, 20] == 2 and not alone.mask[:6, :9].any()
    assert model.with_middle_cell(False) is model
    assert model.embedding_size is None


def _embedding_model():
    config = Config(task="classification")
    config.model = Model(name="resnet", features=4, depth=1, norm="group", patch=2)
    config.data.image_size, config.evaluate.flips = 16, True
    network, weights = steps.split_network(models.build(config.model, 3))
    return inference.Model(config, network, weights, 0)


def test_embedding_is_what_the_logits_are_linear_in(cells):
    model = _embedding_model()
    built = models.build(model.config.model, 3)
    found = model.predict(list(cells[:3]))
    head = model.weights["params"]["head"]
    images = steps.normalize(np.stack([model.fit(cell) for cell in cells[:3]]) / np.float32(255))
    views = [built.with_embedding(np.flip(images, axes))[1] for axes in ((), 1, 2, (1, 2))]
    for one, embedding in zip(found, np.mean(views, 0)):
        np.testing.assert_allclose(one.embedding, embedding, rtol=1e-4, atol=1e-5)
        logits = one.embedding @ head["kernel"] + head["bias"]
        np.testing.assert_allclose(one.logits, logits, rtol=1e-4, atol=1e-5)
        assert model.embedding_size == len(one.embedding)
    # U-Net has none.
    assert not models.embeds("unet")


def test_with_flips(run, model, cells):
    assert not run.config.evaluate.flips
    both = model.with_flips(True)
    image = model.fit(cells[0])[None]
    turned = [np.asarray(model.logits(np.flip(image, axes))) for axes in ((), 1, 2, (1, 2))]
    mean = sum(np.flip(t, axes) for t, axes in zip(turned, ((), 1, 2, (1, 2)))) / 4
    np.testing.assert_allclose(both.logits(image), mean, rtol=1e-4, atol=1e-4)
    back = both.with_flips(False)
    assert back.config == model.config and back.step == model.step
    np.testing.assert_array_equal(back.logits(image), turned[0])


def test_flips_run_the_network_once():
    """Once on the four views of each image: it is compiled once."""
    calls = []

    class Network:
        def merge(self, params, stats):
            return self

        def set_attributes(self, **modes):
            assert modes["deterministic"]

        def __call__(self, x):
            calls.append(x.shape)
            return x * 2 + 1

    images = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), np.uint8)
    network = Network()
    found = steps.make_logits(network, flips=True)({"params": {}, "stats": {}}, images)
    assert calls == [(12, 4, 5, 3)]
    # Flipped back, the mean of four equal views is one of them.
    expected = (images / np.float32(255) - 0.5) * 8 + 1
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_loading_initializes_no_weights(monkeypatch):
    """Nor where the network has dropout, whose streams are arrays that no weights file holds."""
    config = Config(task="classification")
    config.model = Model(name="efficientnet", features=8, dropout=0.3)
    config.data.image_size = 32
    built, weights = steps.split_network(models.build(config.model, config.train.seed))
    made = []
    initializer = models.layers.CONV_INIT

    def initialize(key, shape, *given):
        value = initializer(key, shape, *given)
        made.append(isinstance(value, jax.core.Tracer))
        return value

    monkeypatch.setattr(models.layers, "CONV_INIT", initialize)
    network, like = inference.empty_state(config)
    assert made and all(made)  # traced for their shapes
    assert network.graph == built.graph
    assert jax.tree.map(jax.typeof, network.other) == jax.tree.map(jax.typeof, built.other)
    assert jax.tree.map(np.shape, like.params) == jax.tree.map(np.shape, weights["params"])
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    found = inference.Model(config, network, weights, 0).logits(images)
    expected = inference.Model(config, built, weights, 0).logits(images)
    np.testing.assert_array_equal(found, expected)


def test_weights_files_are_loaded_without_orbax():
    """Which reads the checkpoints of runs, and takes long to import."""
    code = "import sys, wbc_jax; wbc_jax.load; print('flax' in sys.modules, 'orbax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"
