"""The rule that leaves a cell's type to a person.

A classifier names one of five types whatever it is shown. Two things speak against believing it:
its calibrated probability is low, or the image is unlike those it was made for. The latter shows as
a large Mahalanobis distance of the image's embedding from the nearest type's mean (Lee et al., "A
Simple Unified Framework for Detecting Out-of-Distribution Samples", 2018); of a network without an
embedding, as a high energy, −log Σ exp(logits) (Liu et al., "Energy-based Out-of-distribution
Detection", 2020). Means and covariance come from the training images, temperature (Guo et al. 2017)
and limits from the validation images, and from nothing else; they lie in a JSON file beside the
weights. `--score` measures them on images of other things than the five types (pbc's erythroblasts,
immature granulocytes and platelets) beside pbc's test split.
"""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats
from etils import epath

from wbc_jax.errors import AbstentionError
from wbc_jax.labels import CELL_TYPES, REVIEW
from wbc_jax.utils import atomic
from wbc_jax.utils.progress import Progress

if TYPE_CHECKING:
    from wbc_jax.config import Data
    from wbc_jax.data import sources
    from wbc_jax.inference import model as inference

LOW, UNLIKE = "low_probability", "unlike_training"
SHARE = 0.05
FILE = "abstention.json"
FORMAT = "wbc_jax abstention 2"
NUMBERS = ("temperature", "least_probability", "most_unlike", "share", "images")
SHRINKAGE = 0.01
"""Part of the covariance that is taken for alike in all directions, so that it has an inverse."""
LEVEL = 0.95
LEAST_IMAGES = 20
"""Fewer validation images make no rule."""


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What the embeddings of the training images look like.

    Attributes:
        means: float32 `[K, D]`, of each type.
        whitening: float32 `[D, D]`; embeddings times it have the unit matrix as their covariance
            within the types.
    """

    means: np.ndarray
    whitening: np.ndarray

    def distance(self, embeddings: np.ndarray) -> np.ndarray:
        """Returns the Mahalanobis distances `[N]` of `[N, D]` from the nearest type's mean."""
        white = np.asarray(embeddings, np.float32) @ self.whitening
        between = white[:, None] - (self.means @ self.whitening)
        return np.sqrt((between**2).sum(-1)).min(-1).astype(np.float64)


@dataclasses.dataclass(frozen=True, slots=True)
class Outputs:
    """What a classifier says of N images.

    Attributes:
        logits: float32 `[N, K]`.
        embeddings: float32 `[N, D]`, which the logits are linear in; None of a network without.
    """

    logits: np.ndarray
    embeddings: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.logits)

    def take(self, which: Any) -> Outputs:
        """Returns those of some images."""
        embeddings = self.embeddings
        return Outputs(self.logits[which], None if embeddings is None else embeddings[which])


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """When to leave a type to a person.

    Attributes:
        temperature: by which logits are divided before the softmax.
        least_probability: a lower one, of the most probable type, is not believed.
        most_unlike: what is more unlike the training images is not believed (`unlike`).
        share: part of the validation images that the two limits leave to a person.
        images: how many these were.
        seen: None where the network has no embedding.
    """

    temperature: float
    least_probability: float
    most_unlike: float
    share: float
    images: int
    seen: Seen | None = None

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Returns calibrated probabilities `[..., K]` of logits `[..., K]`."""
        return scipy.special.softmax(np.asarray(logits, np.float64) / self.temperature, axis=-1)

    def reasons(self, outputs: Outputs) -> list[str]:
        """Returns why a person is to look at each image: `LOW`, `UNLIKE`, both joined by `;`, or
        nothing."""
        low = self.probabilities(outputs.logits).max(-1) < self.least_probability
        odd = unlike(self.seen, outputs) > self.most_unlike
        return [";".join([LOW] * bool(a) + [UNLIKE] * bool(b)) for a, b in zip(low, odd)]


def energy(logits: np.ndarray) -> np.ndarray:
    """Returns −log Σ exp(logits), `[...]` of `[..., K]`: high where the network knows no type."""
    return -scipy.special.logsumexp(np.asarray(logits, np.float64), axis=-1)


def unlike(seen: Seen | None, outputs: Outputs) -> np.ndarray:
    """Returns `[N]`, how unlike the training images each is: distance, or, where nothing is known
    of these, energy.

    Raises:
        AbstentionError: the rule is of another network, whose embeddings are of another size.
    """
    if seen is None:
        return energy(outputs.logits)
    if outputs.embeddings is None or outputs.embeddings.shape[-1] != len(seen.whitening):
        raise AbstentionError(
            "the rule when to leave a type to a person is of another network; make it again by "
            "`python -m wbc_jax.abstain MODEL`."
        )
    return seen.distance(outputs.embeddings)


def learn(outputs: Outputs, labels: np.ndarray, sources: Sequence[str]) -> Seen | None:
    """Returns what training images look like; None of a network without an embedding.

    A source counts by the root of its number of images, so that a large one does not set alone
    what is usual.

    Args:
        outputs: of training images.
        labels: int `[N]`, of the true types.
        sources: `[N]`, the data set of each.

    Raises:
        AbstentionError: there is no image of a type.
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
                f"there is no training image of the type {CELL_TYPES[kind]}, of whose "
                "look a rule needs to know."
            )
    means = np.stack([np.average(found[labels == k], 0, weights[labels == k]) for k in types])
    covariance = np.cov((found - means[labels]).T, aweights=weights)
    size = len(covariance)
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.trace(covariance) / size * np.eye(size)
    whitening = np.linalg.cholesky(np.linalg.inv(shrunk))
    return Seen(*(_unpack(_pack(array)) for array in (means, whitening)))  # as it is stored


def judge(
    rule: Rule | None, logits: np.ndarray, embedding: np.ndarray | None = None
) -> dict[str, Any]:
    """Returns `type`, `best_guess`, `probability` and `review` of one cell (see `fields.Cell`).

    Args:
        rule: None: every type is believed.
        logits: float `[K]`.
        embedding: float `[D]`, where the network has one.
    """
    probabilities = scipy.special.softmax(logits) if rule is None else rule.probabilities(logits)
    guess = CELL_TYPES[int(np.argmax(probabilities))]
    one = Outputs(logits[None], None if embedding is None else embedding[None])
    (review,) = rule.reasons(one) if rule else ("",)
    return {
        "type": REVIEW if review else guess,
        "best_guess": guess,
        "probability": float(probabilities.max()),
        "review": review,
    }


def fit(
    outputs: Outputs, labels: np.ndarray, share: float = SHARE, seen: Seen | None = None
) -> Rule:
    """Chooses a rule by validation images.

    The temperature has the least negative log-likelihood. Each of the two limits leaves as many
    images to a person, so many that together they leave `share` of them.

    Args:
        outputs: of validation images.
        labels: int `[N]`, of the true types.
        share: part of the images to be left to a person.
        seen: what the training images look like.

    Raises:
        AbstentionError: fewer than `LEAST_IMAGES` images, or a share not in (0, 1).
    """
    if not 0 < share < 1:
        raise AbstentionError(f"the share left to a person is {share}: allowed is 0 to 1, without.")
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

    # Both at once leave between `share` / 2 and `share`, as some images fail both.
    least, most = share / 2, share
    for _ in range(30):
        middle = (least + most) / 2
        least, most = (middle, most) if left(middle) < 0 else (least, middle)
    return Rule(temperature, *limits(most), share, len(labels), seen)


def rule_path(name: epath.PathLike) -> epath.Path:
    """Returns where the rule of a model lies: in a run's folder, or beside a file of weights.

    Args:
        name: as of `wbc_jax.load`.
    """
    from wbc_jax.inference import weights

    if file := weights.find(name):
        return file.parent / f"{file.name.removesuffix(weights.SUFFIX)}.{FILE}"
    return epath.Path(name).expanduser() / FILE


def read(name: epath.PathLike) -> Rule | None:
    """Returns the rule of a model; None where it has none.

    Raises:
        AbstentionError: its file is damaged.
    """
    path = rule_path(name)
    if not path.exists():
        return None
    try:
        stored = json.loads(path.read_text())
        if stored.pop("format", None) != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        packed = stored.pop("seen")
        seen = packed and Seen(*(_unpack(packed[key]) for key in ("means", "whitening")))
        rule = Rule(**stored, seen=seen)
        numbers = (getattr(rule, field) for field in NUMBERS)
        if not all(math.isfinite(value) for value in numbers):
            raise ValueError("a number is missing")
        if seen and seen.means.shape != (len(CELL_TYPES), len(seen.whitening)):
            raise ValueError("its arrays do not fit each other")
        if rule.temperature <= 0:
            raise ValueError(f"the temperature is {rule.temperature}")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise AbstentionError(
            f"{path} is damaged ({error}); delete it, or run `python -m wbc_jax.abstain {name}`."
        ) from error
    return rule


def read_for(name: epath.PathLike, model: inference.Model) -> Rule | None:
    """Returns the rule of a model; None where it has none.

    Args:
        name: of the model, as of `wbc_jax.load`.
        model: what that loads.

    Raises:
        AbstentionError: its file is damaged, or of another network.
    """
    rule = read(name)
    if rule and rule.seen and len(rule.seen.whitening) != model.embedding_size:
        has = model.embedding_size or "none"
        raise AbstentionError(
            f"{rule_path(name)} is of another network (embeddings of {len(rule.seen.whitening)} "
            f"numbers, this one's have {has}); delete it, or run "
            f"`python -m wbc_jax.abstain {name}`."
        )
    return rule


def write(name: epath.PathLike, rule: Rule) -> None:
    """Writes the rule of a model to its place, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    stored = {"format": FORMAT} | {field: getattr(rule, field) for field in NUMBERS}
    seen = rule.seen and {key: _pack(getattr(rule.seen, key)) for key in ("means", "whitening")}
    atomic.write_json(rule_path(name), stored | {"seen": seen})


def _pack(array: np.ndarray) -> dict[str, Any]:
    """An array as JSON: float16, little endian, base64; half of its text and digits enough."""
    text = base64.b64encode(np.ascontiguousarray(array, "<f2").tobytes()).decode()
    return {"shape": array.shape, "float16": text}


def _unpack(packed: dict[str, Any]) -> np.ndarray:
    data = base64.b64decode(packed["float16"], validate=True)
    array = np.frombuffer(data, "<f2").reshape(packed["shape"]).astype(np.float32)
    if array.ndim != 2 or not np.isfinite(array).all():
        raise ValueError("a number is missing")
    return array


def outputs_of(
    model: inference.Model, images: Iterable[np.ndarray], total: int = 0, batch: int = 32
) -> Outputs:
    """Returns what a classifier says of images.

    Args:
        model: a classifier.
        images: as of `Model.predict`.
        total: how many they are, to show progress; 0: show none.
        batch: images a pass.
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
    embeds = found[0].embedding is not None
    return Outputs(
        np.stack([one.logits for one in found]),
        np.stack([one.embedding for one in found]) if embeds else None,
    )


def outputs_of_records(
    model: inference.Model, entries: Sequence[tuple[sources.Source, int]]
) -> Outputs:
    """`outputs_of` records."""
    return outputs_of(model, (source.image(i) for source, i in entries), len(entries))


def proportion(count: int, total: int) -> dict[str, Any]:
    """Returns `value` = count / total and its 95 % Wilson `interval`; NaN of nothing."""
    if not total:
        return {"value": math.nan, "interval": [math.nan, math.nan]}
    found = scipy.stats.binomtest(count, total).proportion_ci(LEVEL, method="wilson")
    return {"value": count / total, "interval": [float(found.low), float(found.high)]}


def data_settings(model: inference.Model, manual_dir: str | None) -> Data:
    """Returns the settings of a model's data, with another folder if one is given.

    Images are left whole, as the model cuts them to their cell itself.
    """
    data = model.config.data
    manual = manual_dir or data.manual_dir
    return dataclasses.replace(data, manual_dir=manual, isolate="")


def fit_model(
    name: epath.PathLike, model: inference.Model, share: float, manual_dir: str | None = None
) -> Rule:
    """Fits a rule to the training and validation images of a classifier and writes it beside it.

    Args:
        name: what `model` was loaded from.
        model: the classifier.
        share: of the validation images to leave for review.
        manual_dir: where the data sets are; None: as in training.

    Raises:
        AbstentionError: the model is no classifier.
        DataError, ConfigError: its records are missing or were split otherwise.
    """
    from wbc_jax.data import pipeline

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
    write(name, rule)
    return rule
