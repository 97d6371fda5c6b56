"""A laboratory whose cells are drawn, and a classifier that is wrong there until it is adapted."""

from __future__ import annotations

import csv
import dataclasses
import pathlib
from typing import Any

import numpy as np
from PIL import Image

from helpers.drawn_fields import CYTOPLASM, NUCLEUS, Thresholds, plain_field
from wbc_jax.config import Config, Loss, Model
from wbc_jax.fields import analyze as fields
from wbc_jax.inference import abstention, adapting, replay, weights
from wbc_jax.inference import model as inference
from wbc_jax.labels import CELL_TYPES

MEANS = np.array([[10, 2, 0], [10, 10, 0], [4, 4, 0], [4, 10, 0], [7, 7, 0]], np.float32)
"""Areas of nucleus and cytoplasm in 500 px, and the background, of the training's types."""
TYPES = {"lymphocyte": 30, "monocyte": 41}
"""Radius of the laboratory's cells; their cytoplasm is smaller than in the training."""


class Areas:
    """A classifier whose embedding is the areas of nucleus and cytoplasm, and the background; its
    features are the same."""

    embedding_size, segmenter, step = 3, None, 7

    def __init__(self, stored: weights.Stored):
        self.config, self.seen, self.stored = stored.config, stored.seen, stored
        own = self.config.model.types
        self.types, self.adapted, self.features = own or CELL_TYPES, bool(own), False
        params: dict[str, Any] = {}
        for name, array in stored.arrays.items():
            _, layer, part = name.split("/")
            params.setdefault(layer, {})[part] = array
        self.weights = {"params": params, "stats": {}}

    def with_features(self) -> Areas:
        other = Areas(self.stored)
        other.features = True
        return other

    @property
    def head_kernel(self) -> np.ndarray:
        return np.asarray(self.weights["params"]["head"]["kernel"], np.float32)

    def read(self, logits: np.ndarray, size: Any) -> inference.Prediction:
        return inference._typed(logits, self.types)

    def predict(self, images: Any, masks: Any = None) -> list[inference.Prediction]:
        found = []
        for image in images:
            far = [np.abs(image.astype(int) - c).sum(-1) < 40 for c in (NUCLEUS, CYTOPLASM)]
            embedding = np.array([*(one.sum() / 500 for one in far), image[0, 0, 0] / 40], "f4")
            head = self.weights["params"]["head"]
            logits = (embedding @ np.asarray(head["kernel"]) + head["bias"]).astype(np.float32)
            if (own := self.weights["params"].get("laboratory")) is not None:
                layer = adapting.Layer(own["kernel"], own["bias"])
                (logits,) = adapting.mixed_logits(logits[None], layer.of(embedding[None]))
            given = np.tile(embedding, 2) if self.features else embedding
            found.append(dataclasses.replace(self.read(logits, None), embedding=given))
        return found


def load_models(names: Any = (), flips: bool = False) -> fields.Models:
    """Stands in for `fields.load_models`; the last name is a file of the classifier."""
    stored = weights.read(weights.find(names[-1]))
    return fields.Models(Thresholds(), Areas(stored), abstention.read(names[-1]))


def write_base(path: pathlib.Path) -> pathlib.Path:
    """Writes the classifier, its rule and its replay."""
    head = {"kernel": MEANS.T, "bias": -(MEANS**2).sum(1) / 2}
    config = Config(task="classification", loss=Loss(dice=0.0), model=Model(name="efficientnet"))
    weights.write(path, config, 7, {"params": {"head": head}, "stats": {}}, [], np.float32)
    middle = MEANS.mean(0, keepdims=True)
    none = np.zeros((0, 3), np.float32)
    own = abstention.Own(MEANS, middle, np.eye(3, dtype=np.float32) / 3, none)
    whitening = np.diag([2, 2, 10]).astype(np.float32)  # all backgrounds are nearly the same
    seen = abstention.Seen(MEANS, whitening, np.full(5, 100), own)
    abstention.write(path, abstention.Rule(1.0, 0.5, 1e4, 0.05, 100, seen))
    labels = np.repeat(np.arange(5), 20)
    known = MEANS[labels] + np.random.default_rng(0).normal(size=(100, 3)) * [0.5, 0.5, 0.1]
    logits = known @ head["kernel"] + head["bias"]
    replay.write(path, replay.Replay(known, logits, labels, np.full(100, "home")))
    return path


def draw(folder: pathlib.Path, each: int = 6) -> pathlib.Path:
    """Draws images of one cell each, and returns a table of their types."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for name, radius in TYPES.items():
        for n in range(each):
            nucleus, cell = 26 + rng.integers(-1, 2), radius + rng.integers(-1, 2)
            path = folder / f"{name}{n}.png"
            Image.fromarray(plain_field([(100, 100, nucleus, cell)], 200, 200)).save(path)
            rows.append({"file": path.name, "type": name})
    table = folder.parent / "labels.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("file", "type"))
        writer.writeheader()
        writer.writerows(rows)
    return table
