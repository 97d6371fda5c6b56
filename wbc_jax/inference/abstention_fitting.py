"""Fits the abstention rule of a classifier.

Means and covariance of the embeddings come from the training images. The temperature (Guo et al.,
"On Calibration of Modern Neural Networks", 2017) and the limits come from the validation images.

At home a network is right more often than on a source that it was not trained on, and its
temperature is too low there. So the temperature, and its growth with the distance, can also be
fitted to sources left out (`left_out`), each with the embeddings of a network that never saw it.
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
from wbc_jax.data import isolation, pipeline
from wbc_jax.data.sources import Source
from wbc_jax.errors import AbstentionError
from wbc_jax.inference import abstention
from wbc_jax.inference import model as inference
from wbc_jax.inference.abstention import Outputs, Own, Rule, Seen, unlike
from wbc_jax.labels import CELL_TYPES
from wbc_jax.utils.progress import Progress

SHARE = 0.05
SHRINKAGE = 0.01
"""Weight of an isotropic covariance, added so that the covariance can be inverted."""
SHARED = 5
"""Weight, in images, of a type's mean over all sources in the mean of a single source."""
HOME = 2.0
"""Weight of the validation images in the fit of the temperature; each source left out has 1."""
_FLATNESS = 1e-3
"""Weight of the squared power, so that it is 0 where nothing speaks for another."""
LEAST_IMAGES = 20
"""Fewer validation images are not enough for a rule."""


def learn(
    outputs: Outputs,
    labels: np.ndarray,
    sources: Sequence[str],
    foreign: Sequence[np.ndarray] = (),
) -> Seen | None:
    """Returns the distribution of training images; None if the network has no embedding.

    A source is weighted by the root of its number of images, so that a large one does not dominate.

    Args:
        outputs: of training images.
        labels: int `[N]`, the true types.
        sources: `[N]`, the data set of each image.
        foreign: embeddings `[n, D]` of each kind of foreign cells, such as erythroblasts.

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
    centers, around = [], np.empty_like(found)
    for source, kind in sorted(set(zip(which.tolist(), labels.tolist()))):
        own = (which == source) & (labels == kind)
        centers.append((found[own].sum(0) + SHARED * means[kind]) / (own.sum() + SHARED))
        around[own] = found[own] - centers[-1]
    middle = np.average(found, 0, weights)
    whitenings = (_whitening(off, weights) for off in (around, found - middle))
    kinds = np.stack([one.mean(0) for one in foreign]) if foreign else np.zeros((0, len(middle)))
    given = (means, np.stack(centers), middle[None], kinds, *whitenings)
    means, centers, middle, kinds, within, whole = map(abstention.round_as_stored, given)
    counts = np.bincount(labels, minlength=len(means))
    return Seen(means, within, counts, Own(centers, middle, whole, kinds))


def _whitening(off: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns `[D, D]` that makes the covariance of weighted deviations `[N, D]` the unit matrix,
    but for `SHRINKAGE`."""
    covariance = np.cov(off.T, aweights=weights)
    size = len(covariance)
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.trace(covariance) / size * np.eye(size)
    return np.linalg.cholesky(np.linalg.inv(shrunk))


@dataclasses.dataclass(frozen=True, slots=True)
class Away:
    """Cells of a source left out, as a network without it sees them.

    Attributes:
        logits: `[N, K]`.
        far: `[N]`, distances to that network's training images, in typical ones.
        labels: int `[N]`, the true types.
    """

    logits: np.ndarray
    far: np.ndarray
    labels: np.ndarray


def fit_temperature(home: Away, others: Sequence[Away]) -> tuple[float, float]:
    """Returns the temperature and its power of the distance.

    They minimize the mean negative log-likelihood of a cell: at home, or weighted over home and the
    sources left out.

    Args:
        home: validation images.
        others: sources left out; empty: the power is 0.
    """
    parts = [(HOME, home), *((1.0, one) for one in others)]

    def loss(numbers: np.ndarray) -> float:
        temperature, power = math.exp(numbers[0]), numbers[1] if others else 0.0
        total = _FLATNESS * power**2
        for weight, part in parts:
            given = abstention.tempered(part.logits, temperature, power, part.far)
            right = given[np.arange(len(part.labels)), part.labels]
            total -= weight * float(np.log(np.maximum(right, 1e-300)).mean())
        return total

    if not others:
        best = scipy.optimize.minimize_scalar(
            lambda log: loss(np.array([log])), bounds=(-3, 3), method="bounded"
        )
        return math.exp(best.x), 0.0
    found = scipy.optimize.minimize(loss, (0.0, 0.5), method="L-BFGS-B", bounds=((-3, 3), (0, 5))).x
    return math.exp(found[0]), float(found[1])


def fit(
    outputs: Outputs,
    labels: np.ndarray,
    share: float = SHARE,
    seen: Seen | None = None,
    others: Sequence[Away] = (),
) -> Rule:
    """Fits a rule to validation images.

    The temperature is that of `fit_temperature`. The limits reject equally many images
    each, and together `share` of them.

    Args:
        outputs: of validation images.
        labels: int `[N]`, the true types.
        share: of the images, to leave to a person.
        seen: from `learn`.
        others: sources left out, from `left_out.away`; empty: the temperature is that of the
            validation images. They are not used without `seen`.

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
    typical, far = 1.0, np.ones(len(labels))
    if seen is not None:
        distances = seen.distance(outputs.embeddings)
        typical = float(np.median(distances))
        far = distances / typical
    home = Away(outputs.logits, far, labels)
    temperature, power = fit_temperature(home, others if seen else ())
    confidence = abstention.tempered(outputs.logits, temperature, power, far).max(-1)
    odd = unlike(seen, outputs)

    scores = [-confidence, odd]
    if seen is not None and seen.knows_foreign:
        scores.append(seen.foreign(outputs.embeddings))

    def limits(each: float) -> list[float]:
        return [float(np.quantile(one, 1 - each)) for one in scores]

    def left(each: float) -> float:
        over = [one > limit for one, limit in zip(scores, limits(each))]
        return float(np.any(over, 0).mean()) - share

    # Each limit leaves less than `share`, and at least its part, as some images fail several.
    least, most = share / len(scores), share
    for _ in range(30):
        middle = (least + most) / 2
        least, most = (middle, most) if left(middle) < 0 else (least, middle)
    doubt, most_unlike, *most_foreign = limits(most)
    return Rule(
        temperature, -doubt, most_unlike, share, len(labels), seen, power, typical, *most_foreign
    )


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
    return dataclasses.replace(isolation.whole(data), manual_dir=manual)


def fit_model(
    name: epath.PathLike,
    model: inference.Model,
    share: float,
    manual_dir: str | None = None,
    others: Sequence[Away] = (),
    foreign: Sequence[Sequence[np.ndarray]] = (),
) -> Rule:
    """Fits a rule to the training and validation images of a classifier, and writes it.

    Args:
        name: of the model, as for `wbc_jax.load`.
        model: the classifier.
        share: of the validation images, to leave to a person.
        manual_dir: folder of the data sets; None: as in training.
        others: as in `fit`.
        foreign: images of each kind of foreign cells that the rule is to know.

    Raises:
        AbstentionError: the model is not a classifier, or it is adapted.
        DataError, ConfigError: its records are missing, or are split differently now.
    """
    if model.config.task != "classification":
        raise AbstentionError(f"{name} gives masks; a classifier is needed.")
    if model.adapted:
        raise AbstentionError(
            f"{name} is adapted to a laboratory: `python -m wbc_jax.adapt` fits its rule."
        )
    data = data_settings(model, manual_dir)
    splits = pipeline.load_splits(data, model.config.evaluate.size, "classification")
    train, validation = splits["train"], splits["validation"]
    seen = None
    if model.embedding_size:
        kinds = [outputs_of(model, images).embeddings for images in foreign]
        outputs = outputs_of_records(model, train.entries)
        seen = learn(outputs, train.labels, train.datasets, kinds)
    outputs = outputs_of_records(model, validation.entries)
    rule = fit(outputs, validation.labels, share, seen, others)
    abstention.write(name, rule)
    return rule
