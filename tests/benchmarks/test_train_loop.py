"""benchmarks/train_loop.py: both loops do the same work, checked part by part."""

import dataclasses
import math

import numpy as np
import pytest

from wbc_jax import metrics
from wbc_jax.config import Data
from wbc_jax.data import pipeline
from wbc_jax.training import optimizers

pytest.importorskip("torch", reason="PyTorch is the other side: pip install torch")

import torch

import train_loop


@pytest.fixture(scope="module")
def examples(data_dir):
    data = Data(datasets=("wbc_synthetic/small",), data_dir=str(data_dir), image_size=32)
    return pipeline.load_splits(data, 48)


@pytest.fixture(scope="module")
def files(examples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return {k: train_loop.write_files(examples[k], folder / k) for k in ("train", "validation")}


def test_both_read_the_same(examples, files):
    for split, sides in (("train", (32, 32)), ("validation", (32, 48))):
        read = train_loop.Masked(files[split], *sides)
        assert len(read) == len(examples[split]) > 1
        for i in (0, len(read) - 1):
            image, mask = read[i]
            expected = examples[split][i]
            assert image.shape == expected["image"].shape and image.dtype == np.uint8
            assert np.abs(image.astype(int) - expected["image"]).max() <= 1
            np.testing.assert_array_equal(mask, expected["mask"])


def test_confusion_and_mean_iou_are_ours():
    truth, found = np.random.default_rng(0).integers(0, 3, (2, 4, 9, 7)).astype(np.uint8)
    expected = np.asarray(metrics.confusion_matrices(truth, found, 3))
    counted = train_loop.confusion(torch.from_numpy(truth).long(), torch.from_numpy(found).long())
    np.testing.assert_array_equal(counted.numpy(), expected)
    total = expected.sum(0)
    assert train_loop.mean_iou(torch.from_numpy(total)) == pytest.approx(metrics.mean_iou(total))


def test_the_learning_rate_is_ours():
    config = train_loop.load_config()
    ours = optimizers.schedule(config.optimizer, config.train.steps)
    for step in (0, 1, 49, 50, 51, 300, 699, 700):
        rate = config.optimizer.learning_rate * train_loop.rate(config, step)
        assert rate == pytest.approx(float(ours(step)), abs=1e-8)


def test_pytorchs_loop_learns(files, monkeypatch):
    config = train_loop.load_config()
    config.data.image_size, config.evaluate.size = 32, 48
    config.train.batch_size, config.optimizer.ema_decay = 4, 0.5
    config.model.features, config.optimizer.warmup_steps = 4, 1
    monkeypatch.setattr(train_loop, "load_config", lambda: config)
    monkeypatch.setattr(train_loop.os, "sched_getaffinity", lambda process: {0})  # one thread
    torch.manual_seed(0)
    side = train_loop.make_pytorch(files, 30, 0)
    losses = []
    check = train_loop._check
    monkeypatch.setattr(train_loop, "_check", lambda loss: (losses.append(loss), check(loss)))
    score = side.run()
    assert len(losses) == 30 and np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    assert 0 <= score <= 1
    with pytest.raises(FloatingPointError):
        check(math.nan)


def test_as_many_validation_images_as_the_steps_deserve(examples, monkeypatch):
    config = dataclasses.replace(train_loop.load_config())
    monkeypatch.setattr(train_loop.pipeline, "load_splits", lambda *given: examples)
    whole = len(examples["validation"])
    for steps, part in ((100, whole), (500, whole), (50, math.ceil(whole / 2)), (1, 1)):
        found = train_loop.splits(config, steps)
        assert len(found["validation"]) == part and found["train"] is examples["train"]


def test_ratios_by_hand():
    def side(*seconds):
        return {"seconds": list(seconds), "processor_seconds": [2 * s for s in seconds]}

    found = {
        "ours": side(1.0, 2.0, 3.0),
        "PyTorch": side(9.0, 9.0, 9.0),
        "PyTorch, 2 workers": side(2.0, 2.0, 8.0),
    }
    made = train_loop.summary(found, 100)
    assert made["reference"] == "PyTorch, 2 workers"
    assert made["median"]["ours"] == {
        "images_per_second": 50.0,
        "processor_ms_per_image": 40.0,
        "ratio": 0.5,  # of 1/2, 1 and 3/8
        "processor_ratio": 0.5,
    }
