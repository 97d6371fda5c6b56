"""A tiny segmenter that knows nothing yet, and cells in flat colors to tune it with."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.drawn_fields import plain_field
from wbc_jax import models
from wbc_jax.config import Augment, Config, Data, Evaluate, Model, Optimizer, Train
from wbc_jax.data import light, orientation
from wbc_jax.inference import mask_tuning
from wbc_jax.inference import model as inference
from wbc_jax.labels import CYTOPLASM, NUCLEUS
from wbc_jax.training import steps

SIDE = 32


def make_quick(patch: pytest.MonkeyPatch) -> None:
    """Makes the tuning short, and the rate that of a network that knows nothing."""
    for name, value in {"STEPS": 20, "RATE": 3e-2, "DRAWN_CELLS": 4, "DRAWN_CHECKS": 2}.items():
        patch.setattr(mask_tuning, name, value)


def config() -> Config:
    """Returns the settings of the tiny segmenter."""
    return Config(
        data=Data(image_size=SIDE),
        augment=Augment(flip=True, quarter_turns=False),
        model=Model(name="unet", features=4, depth=1, norm="none"),
        optimizer=Optimizer(weight_decay=0.0),
        train=Train(batch_size=8, steps=1),
        evaluate=Evaluate(size=SIDE, flips=False),
    )


def segmenter() -> inference.Model:
    """Returns the segmenter, with its initial weights."""
    made = config()
    network, weights = steps.split_network(models.build(made.model, 0, image_size=SIDE))
    return inference.Model(made, network, weights, 0, [])


def windows(count: int, seed: int = 0) -> mask_tuning.Windows:
    """Draws windows around cells, as a segmenter sees them."""
    rng = np.random.default_rng(seed)
    images, truths = [], []
    for _ in range(count):
        nucleus, cell = 9 + rng.integers(0, 4), 17 + rng.integers(0, 4)
        image = plain_field([(32, 32, nucleus, cell)], 64, 64)
        ys, xs = np.mgrid[:64, :64]
        far = np.hypot(ys - 32, xs - 32)
        truth = np.where(far <= nucleus, NUCLEUS, np.where(far <= cell, CYTOPLASM, 0))
        turn = orientation.find(image)
        images.append(orientation.place(light.standardize(image), turn))
        truths.append(orientation.place(truth.astype(np.uint8), turn))
    return mask_tuning.Windows(images, truths, list(range(count)))
