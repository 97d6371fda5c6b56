"""Fits the abstention rule of a classifier.

Means and covariance of the embeddings come from the training images. The temperature (Guo et al.,
"On Calibration of Modern Neural Networks", 2017) and the limits come from the validation images.
Nothing else is used.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np
import scipy.optimize
import scipy.special
from etils import epath

from wbc_jax.config import Data
from wbc_jax.data import pipeline
from wbc_jax.data.sources import Source
from wbc_jax.errors import AbstentionError
from wbc_jax.inference import abstention
from wbc_jax.inference import model as inference
from wbc_jax.inference.abstention import Outputs, Rule, Seen, unlike
from wbc_jax.labels import CELL_TYPES
from wbc_jax.utils.progress import Progress

SHARE = 0.05
SHRINKAGE = 0.01
"""Weight of an isotropic covariance, added so that the covariance can be inverted."""
LEAST_IMAGES = 20
"""Fewer validation images are not enough for a rule."""


def learn(outputs: Outputs, labels: np.ndarray, sources: Sequence[str]) -> Seen | None:
    """Returns the distribution of training images; None if the network has no embedding.

    A source is weighted by the root of its number of images, so that a large one does not dominate.

    Args:
        outputs: of training images.
        labels: int `[N]`, the true types.
        sources: `[N]`, the data set of each image.

    Raises:
        AbstentionError: a type has no image.
    """
    if outputs.embeddings is None:
        return None
    _, which, counts = np.unique(np.asarray(sources), return_inverse=True, return_counts=True)
    weights = 1 / np.sqrt(counts[which])
    found = np.asarray(outputs.embeddings, np.float64)
    types = range(outputs.logits.shape[-1])
    for kind in types:
        if not (labels == kind).any():
            raise AbstentionError(
                f"there is no training image of the type {CELL_TYPES[kind]}; a rule needs images "
                "of every type."
            )
    means = np.stack([np.average(found[labels == k], 0, weights[labels == k]) for k in types])
    covariance = np.cov((found - means[labels]).T, aweights=weights)
    size = len(covariance)
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.trace(covariance) / size * np.eye(size)
    whitening = np.linalg.cholesky(np.linalg.inv(shrunk))
    counts = np.bincount(labels, minlength=len(means))
    return Seen(*map(abstention.round_as_stored, (means, whitening)), counts)


def fit(
    outputs: Outputs, labels: np.ndarray, share: float = SHARE, seen: Seen | None = None
) -> Rule:
    """Fits a rule to validation images.

    The temperature minimizes the negative log-likelihood. The two limits reject equally many
    images, and together `share` of them.

    Args:
        outputs: of validation images.
        labels: int `[N]`, the true types.
        share: of the images, to leave to a person.
        seen: from `learn`.

    Raises:
        AbstentionError: fewer than `LEAST_IMAGES` images, or a share not in (0, 1).
    """
    if not 0 < share < 1:
        raise AbstentionError(
            f"the share left to a person is {share}: allowed is 0 to 1, exclusive."
        )
    if len(labels) < LEAST_IMAGES:
        raise AbstentionError(
            f"there are {len(labels)} validation images; {LEAST_IMAGES} are needed."
        )
    logits = np.asarray(outputs.logits, np.float64)

    def loss(log_temperature: float) -> float:
        scaled = scipy.special.log_softmax(logits / math.exp(log_temperature), axis=-1)
        return -float(scaled[np.arange(len(labels)), labels].mean())

    best = scipy.optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded")
    temperature = math.exp(best.x)
    confidence = scipy.special.softmax(logits / temperature, axis=-1).max(-1)
    odd = unlike(seen, outputs)

    def limits(each: float) -> tuple[float, float]:
        return float(np.quantile(confidence, each)), float(np.quantile(odd, 1 - each))

    def left(each: float) -> float:
        probability, highest = limits(each)
        return float(((confidence < probability) | (odd > highest)).mean()) - share

    # Each limit leaves between `share` / 2 and `share`, as some images fail both.
    least, most = share / 2, share
    for _ in range(30):
        middle = (least + most) / 2
        least, most = (middle, most) if left(middle) < 0 else (least, middle)
    return Rule(temperature, *limits(most), share, len(labels), seen)


def outputs_of(
    model: inference.Model, images: Iterable[np.ndarray], total: int = 0, batch: int = 32
) -> Outputs:
    """Returns a classifier's outputs for images.

    Args:
        model: a classifier.
        images: as for `Model.predict`.
        total: number of images, for the progress line; 0: no progress line.
        batch: images per pass.
    """
    progress = Progress("image", total) if total else None
    found: list[inference.Prediction] = []
    images = iter(images)
    while part := list(itertools.islice(images, batch)):
        found += model.predict(part, batch)
        if progress:
            progress.update(len(found), len(part))
    if progress:
        progress.close()
    return Outputs.of(found)


def outputs_of_records(model: inference.Model, entries: Sequence[tuple[Source, int]]) -> Outputs:
    """Returns a classifier's outputs for records."""
    return outputs_of(model, (source.image(i) for source, i in entries), len(entries))


def data_settings(model: inference.Model, manual_dir: str | None) -> Data:
    """Returns the settings of a model's data, with another folder of the authors' files, if given.

    Images stay whole, because the model cuts them to their cell itself.
    """
    data = model.config.data
    manual = manual_dir or data.manual_dir
    return dataclasses.replace(data, manual_dir=manual, isolate="")


def fit_model(
    name: epath.PathLike, model: inference.Model, share: float, manual_dir: str | None = None
) -> Rule:
    """Fits a rule to the training and validation images of a classifier, and writes it.

    Args:
        name: of the model, as for `wbc_jax.load`.
        model: the classifier.
        share: of the validation images, to leave to a person.
        manual_dir: folder of the data sets; None: as in training.

    Raises:
        AbstentionError: the model is not a classifier.
        DataError, ConfigError: its records are missing, or are split differently now.
    """
    if model.config.task != "classification":
        raise AbstentionError(f"{name} gives masks; a classifier is needed.")
    data = data_settings(model, manual_dir)
    splits = pipeline.load_splits(data, model.config.evaluate.size, "classification")
    train, validation = splits["train"], splits["validation"]
    seen = None
    if model.embedding_size:
        seen = learn(outputs_of_records(model, train.entries), train.labels, train.datasets)
    outputs = outputs_of_records(model, validation.entries)
    rule = fit(outputs, validation.labels, share, seen)
    abstention.write(name, rule)
    return rule
