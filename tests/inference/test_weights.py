"""wbc_jax.inference.weights: what is written is read again; what is damaged or foreign is told."""

import dataclasses
import json
import pathlib
import pickle
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

import wbc_jax
from helpers import tiny_runs
from wbc_jax import provenance
from wbc_jax.data import pipeline, splits
from wbc_jax.errors import CheckpointError, WeightsError
from wbc_jax.inference import weights


@pytest.fixture
def file(run_weights):
    return run_weights


@pytest.fixture(scope="module")
def exact(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "exact.safetensors"
    provenance.write_weights(run.workdir, path, "float32")
    return path


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), np.uint8)


def test_float32_is_the_checkpoint(model, exact, images):
    loaded = wbc_jax.load(exact)
    tiny_runs.assert_equal(loaded.weights, model.weights)
    assert loaded.step == model.step
    # All of the config but the folders of this machine.
    data = dataclasses.replace(loaded.config.data, data_dir=model.config.data.data_dir)
    data.manual_dir = model.config.data.manual_dir
    assert dataclasses.replace(loaded.config, data=data) == model.config
    about = safetensors.safe_open(exact, "np").metadata()
    assert model.config.data.data_dir not in str(about)
    for one, two in zip(loaded.predict(images), model.predict(images)):
        np.testing.assert_array_equal(one.mask, two.mask)


def test_float16_rounds_the_params_and_not_the_statistics(model, file, exact):
    loaded = wbc_jax.load(file)
    tiny_runs.assert_equal(loaded.weights["stats"], model.weights["stats"])
    expected = jax.tree.map(
        lambda x: np.asarray(x).astype(np.float16).astype(np.float32), model.weights["params"]
    )
    tiny_runs.assert_equal(loaded.weights["params"], expected)
    assert file.stat().st_size < exact.stat().st_size


def test_lists_the_images_that_it_has_seen(run, file):
    examples = pipeline.load_splits(run.config.data, tiny_runs.SIZE)
    trained = examples["train"].keys + examples["validation"].keys
    seen = wbc_jax.load(file).seen
    assert seen == trained  # data sets, ids, groups and hashes
    assert all(len(key.hash) == len(key.cell_hash) == 32 for key in seen)
    # That is enough to tell the test split, which it has not seen, from the others.
    assert splits.seen(seen, examples["test"].keys) == set()
    assert splits.seen(seen, trained) == set(range(len(trained)))


def test_no_name_is_taken_by_a_folder_or_a_missing_file(tmp_path, file):
    assert weights.find(tmp_path) is None
    assert weights.find("segmentation") is None
    assert weights.find(file) == file
    with pytest.raises(CheckpointError, match="there is no such file"):
        wbc_jax.load(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match=r"a \.safetensors file"):
        wbc_jax.load(tmp_path / "none")


def test_a_shipped_name(monkeypatch, tmp_path, file):
    shutil.copy(file, tmp_path / "segmenter.safetensors")
    monkeypatch.setattr(weights, "SHIPPED", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert weights.shipped() == ["segmenter"]
    assert wbc_jax.load("segmenter").seen
    (tmp_path / "segmenter").mkdir()  # somebody's run
    with pytest.raises(CheckpointError, match="or one of segmenter"):
        wbc_jax.load("segmenter")


def test_a_name_without_its_ending(tmp_path, monkeypatch):
    (tmp_path / "my.lab.safetensors").touch()
    assert weights.find(tmp_path / "my.lab") == tmp_path / "my.lab.safetensors"
    monkeypatch.chdir(tmp_path)
    assert weights.find("my.lab").name == "my.lab.safetensors"
    (tmp_path / "my.lab").mkdir()  # somebody's run
    assert weights.find("my.lab") is None


class _Bomb:
    def __reduce__(self):
        return (pathlib.Path("bomb").write_text, ("went off",))


def _rewritten(file, path, change):
    """The same file with its arrays and texts as `change(arrays, about)` leaves them."""
    data = file.read_bytes()
    about = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    arrays = dict(safetensors.numpy.load(data))
    del about["sha256"]
    change(arrays, about)
    path.write_bytes(safetensors.numpy.save(arrays, about))
    return path


def test_nothing_runs_from_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bomb.safetensors"
    path.write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(WeightsError, match="damaged or no safetensors file"):
        wbc_jax.load(path)
    assert not (tmp_path / "bomb").exists()


@pytest.mark.parametrize("kept", [0, 7, 100, 0.5, 0.999])
def test_a_truncated_file(tmp_path, file, kept):
    data = file.read_bytes()
    path = tmp_path / "cut.safetensors"
    path.write_bytes(data[: kept if isinstance(kept, int) else int(kept * len(data))])
    with pytest.raises(WeightsError, match=r"cut\.safetensors is damaged"):
        weights.read(path)


def _drop(arrays, about):
    del arrays["params/head/kernel"]


def _cut(arrays, about):
    arrays["params/head/kernel"] = arrays["params/head/kernel"][..., :1]


@pytest.mark.parametrize(
    "change, expected",
    [
        (_drop, "it lacks params/head/kernel"),
        (_cut, r"params/head/kernel is \(1, 1, 4, 1\), not \(1, 1, 4, 3\)"),
        (lambda a, about: a.update(extra=np.zeros(3)), "its config has no extra"),
        (lambda a, about: about.update(format="other"), "is marked 'other'"),
        (lambda a, about: about.update(seen="[[1, 2]]"), "list of its training images"),
        (lambda a, about: about.update(seen="[]"), "list of its training images"),
        (lambda a, about: about.update(step="x"), "list of its training images"),
        (lambda a, about: about.pop("step"), "is damaged"),
        (lambda a, about: about.update(sha256="0" * 64), "is damaged"),
    ],
)
def test_a_foreign_file(tmp_path, file, change, expected):
    path = _rewritten(file, tmp_path / "other.safetensors", change)
    with pytest.raises(WeightsError, match=expected):
        wbc_jax.load(path)


def test_a_weight_too_large_for_the_type(run, model, tmp_path):
    params = jax.tree.map(lambda x: x * 1e6, model.weights["params"])
    grown = {"params": params, "stats": model.weights["stats"]}
    path = tmp_path / "w.safetensors"
    with pytest.raises(WeightsError, match="choose float32"):
        weights.write(path, run.config, 1, grown, [])
    assert not path.exists()
    weights.write(path, run.config, 1, grown, [], np.float32)
    assert wbc_jax.load(path).seen == []


def test_the_path_has_the_ending(run, model, tmp_path):
    with pytest.raises(WeightsError, match="must end in"):
        weights.write(tmp_path / "w.npz", run.config, 1, model.weights, [])
