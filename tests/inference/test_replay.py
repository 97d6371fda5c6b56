"""Training cells that are kept, and an adapted network in a file."""

import dataclasses

import numpy as np
import pytest

from wbc_jax import models
from wbc_jax.config import Config, Data, Loss
from wbc_jax.config import Model as Settings
from wbc_jax.errors import AbstentionError
from wbc_jax.inference import model as inference
from wbc_jax.inference import replay, weights
from wbc_jax.models import efficientnet
from wbc_jax.training import steps

NAMES = (*"abcde", "band")
STAGES = ((1, 3, 1, 1, 8), (1, 3, 2, 1, 8), (1, 3, 2, 1, 8), (1, 3, 2, 1, 16), (1, 3, 2, 1, 24))


def test_a_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    given = replay.Replay(
        rng.normal(size=(4, 3)),
        rng.normal(size=(4, 5)),
        np.array([0, 4, 2, 2]),
        np.array(list("abab")),
    )
    path = replay.write(tmp_path / "mine.safetensors", given)
    assert path.name == "mine.replay.npz"
    found = replay.read(tmp_path / "mine.safetensors")
    np.testing.assert_allclose(found.features, given.features, rtol=1e-3)
    np.testing.assert_allclose(found.logits, given.logits, rtol=1e-3)
    assert found.labels.tolist() == [0, 4, 2, 2] and found.sources.tolist() == list("abab")


def test_the_shipped_one():
    found, shipped = replay.read("classifier"), weights.read(weights.find("classifier"))
    assert found.features.shape[1] == len(shipped.arrays["params/norm/scale"])
    assert len(found.labels) > 1000 and len(set(found.sources)) == 7
    assert (found.logits.argmax(-1) == found.labels).mean() > 0.95


def test_cells_are_chosen_of_each_type_of_each_source():
    labels, sources = np.array([0, 0, 0, 1, 0, 1]), np.array(list("aaaabb"))
    chosen = replay.choose(labels, sources, 2)
    kinds = sorted(zip(sources[chosen], labels[chosen].tolist()))
    assert kinds == [("a", 0), ("a", 0), ("a", 1), ("b", 0), ("b", 1)]


def test_an_adapted_network_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(efficientnet, "STAGES", STAGES)
    monkeypatch.setattr(efficientnet, "LEVEL_ENDS", range(5))
    settings = Settings(name="efficientnet", features=6, types=NAMES)
    config = Config(task="classification", loss=Loss(dice=0.0), data=Data(image_size=32))
    config = dataclasses.replace(config, model=settings)
    _, arrays = steps.split_network(models.build(settings, 0))
    layer = arrays["params"]["laboratory"]
    layer = {"kernel": np.zeros_like(layer["kernel"]), "bias": np.array([0, 0, 0, 0, 0, 50.0, 50])}
    params = {**arrays["params"], "laboratory": layer}
    weights.write(tmp_path / "mine.safetensors", config, 3, {**arrays, "params": params}, [])
    model = inference.load(tmp_path / "mine")
    assert model.types == NAMES
    found = model.predict(np.zeros((32, 32, 3), np.uint8))
    assert found.type == "band" and found.probabilities[5] > 0.99
    assert len(found.probabilities) == 6 and len(found.embedding) == 6
    with pytest.raises(AbstentionError, match="the classifier is adapted already"):
        replay.check_adapts(model)
    config = dataclasses.replace(config, model=Settings(name="resnet"))
    other = inference.Model(config, model.network, model.weights, 0)
    with pytest.raises(AbstentionError, match="network 'resnet' cannot be adapted"):
        replay.check_adapts(other)
