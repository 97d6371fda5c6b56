"""The rule by which a classifier abstains and leaves a cell's type to a person.

A classifier names one of five types for any image. There are two reasons not to believe it: its
calibrated probability is low, or the image is unlike the training images. The latter shows as a
large Mahalanobis distance of the image's embedding to the nearest type's mean (Lee et al., "A
Simple Unified Framework for Detecting Out-of-Distribution Samples", 2018), or, if the network has
no embedding, as a high energy, −log Σ exp(logits) (Liu et al., "Energy-based Out-of-distribution
Detection", 2020). `abstention_fitting` fits a rule; a JSON file beside the weights holds it.
"""

import base64
import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import scipy.special
from etils import epath

from wbc_jax.errors import AbstentionError
from wbc_jax.inference import model as inference
from wbc_jax.inference import weights
from wbc_jax.labels import CELL_TYPES, REVIEW
from wbc_jax.utils import atomic

LOW, UNLIKE = "low_probability", "unlike_training"
FILE = "abstention.json"
FORMAT = "wbc_jax abstention 3"
EARLIER = "wbc_jax abstention 2"
"""Format of files without the training's `counts`; they are still read."""
NUMBERS = ("temperature", "least_probability", "most_unlike", "share", "images")


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """The distribution of the training images' embeddings.

    Attributes:
        means: float32 `[K, D]`, one per type.
        whitening: float32 `[D, D]`; embeddings multiplied by it have the unit matrix as covariance
            within each type.
        counts: int64 `[K]`, training images of each type; None in files of earlier versions, which
            then give no statistics of a folder (`folder_statistics`).
    """

    means: np.ndarray
    whitening: np.ndarray
    counts: np.ndarray | None = None

    def distance(self, embeddings: np.ndarray) -> np.ndarray:
        """Returns the Mahalanobis distances `[N]` of `[N, D]` to the nearest type's mean."""
        white = np.asarray(embeddings, np.float32) @ self.whitening
        between = white[:, None] - (self.means @ self.whitening)
        return np.sqrt((between**2).sum(-1)).min(-1).astype(np.float64)


@dataclasses.dataclass(frozen=True, slots=True)
class Outputs:
    """The outputs of a classifier for N images.

    Attributes:
        logits: float32 `[N, K]`.
        embeddings: float32 `[N, D]`, the input of the last linear layer; None if the network does
            not give it.
    """

    logits: np.ndarray
    embeddings: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.logits)

    @classmethod
    def of(cls, predictions: Sequence[inference.Prediction]) -> "Outputs":
        """Returns the outputs that a classifier's predictions, one or more, hold."""
        embeds = predictions[0].embedding is not None
        return cls(
            np.stack([one.logits for one in predictions]),
            np.stack([one.embedding for one in predictions]) if embeds else None,
        )

    @classmethod
    def joined(cls, parts: Sequence["Outputs"]) -> "Outputs | None":
        """Returns the outputs of several parts, one after the other; None without parts."""
        if not parts:
            return None
        embeddings = [part.embeddings for part in parts]
        together = None if embeddings[0] is None else np.concatenate(embeddings)
        return cls(np.concatenate([part.logits for part in parts]), together)

    def each(self) -> Iterator[dict[str, np.ndarray | None]]:
        """Yields `logits` and `embedding` of each image, by these names."""
        embeddings = itertools.repeat(None) if self.embeddings is None else self.embeddings
        for logits, embedding in zip(self.logits, embeddings):
            yield {"logits": logits, "embedding": embedding}

    def take(self, which: Any) -> "Outputs":
        """Returns the outputs for the images that `which` indexes."""
        embeddings = self.embeddings
        return Outputs(self.logits[which], None if embeddings is None else embeddings[which])


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """The rule that decides when a person must name the type.

    Attributes:
        temperature: divides the logits before the softmax.
        least_probability: the classifier abstains if the most probable type has a lower one.
        most_unlike: the classifier abstains if an image is more `unlike` the training images.
        share: share of the validation images on which it abstains.
        images: number of the validation images.
        seen: None if the network has no embedding.
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
        """Returns the reasons to abstain on each image: `LOW`, `UNLIKE`, both joined by `;`, or
        an empty text."""
        low = self.probabilities(outputs.logits).max(-1) < self.least_probability
        odd = unlike(self.seen, outputs) > self.most_unlike
        return [";".join([LOW] * bool(a) + [UNLIKE] * bool(b)) for a, b in zip(low, odd)]


def energy(logits: np.ndarray) -> np.ndarray:
    """Returns −log Σ exp(logits), `[...]` of `[..., K]`: high if no type fits the image."""
    return -scipy.special.logsumexp(np.asarray(logits, np.float64), axis=-1)


def unlike(seen: Seen | None, outputs: Outputs) -> np.ndarray:
    """Returns the dissimilarity of each image to the training images, `[N]`.

    It is the distance of the embedding, or the energy if `seen` is None.

    Raises:
        AbstentionError: the rule is of another network, with embeddings of another size.
    """
    if seen is None:
        return energy(outputs.logits)
    if outputs.embeddings is None or outputs.embeddings.shape[-1] != len(seen.whitening):
        raise AbstentionError(
            "the abstention rule is of another network; fit it again with "
            "`python -m wbc_jax.abstain MODEL`."
        )
    return seen.distance(outputs.embeddings)


def judge(
    rule: Rule | None, logits: np.ndarray, embedding: np.ndarray | None = None
) -> dict[str, Any]:
    """Returns `type`, `best_guess`, `probability` and `review` of one cell (see `fields.Cell`).

    Args:
        rule: None: the classifier never abstains.
        logits: float `[K]`.
        embedding: float `[D]`, if the network has one.
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


def rule_path(name: epath.PathLike) -> epath.Path:
    """Returns the path of a model's rule, in the run's folder or beside the weights file.

    Args:
        name: of the model, as for `wbc_jax.load`.
    """
    if file := weights.find(name):
        return file.parent / f"{file.name.removesuffix(weights.SUFFIX)}.{FILE}"
    return epath.Path(name).expanduser() / FILE


def read(name: epath.PathLike) -> Rule | None:
    """Returns the rule of a model; None if it has none.

    Raises:
        AbstentionError: the file is damaged.
    """
    path = rule_path(name)
    if not path.exists():
        return None
    try:
        stored = json.loads(path.read_text())
        if stored.pop("format", None) not in (FORMAT, EARLIER):
            raise ValueError(f"its format is not {FORMAT!r}")
        packed = stored.pop("seen")
        seen = packed and _unpack_seen(packed)
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
    """Returns the rule of a model that is loaded already; None if it has none.

    Args:
        name: of the model, as for `wbc_jax.load`.
        model: the model.

    Raises:
        AbstentionError: the file is damaged, or of another network.
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
    """Writes the rule of a model to `rule_path`, whole or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    atomic.write_json(rule_path(name), as_json(rule))


def as_json(rule: Rule) -> dict[str, Any]:
    """Returns the content of a rule's file."""
    stored = {"format": FORMAT} | {field: getattr(rule, field) for field in NUMBERS}
    return stored | {"seen": rule.seen and _pack_seen(rule.seen)}


def _pack_seen(seen: Seen) -> dict[str, Any]:
    packed = {key: _pack(getattr(seen, key)) for key in ("means", "whitening")}
    return packed | {"counts": None if seen.counts is None else seen.counts.tolist()}


def _unpack_seen(packed: dict[str, Any]) -> Seen:
    means, whitening = (_unpack(packed[key]) for key in ("means", "whitening"))
    if (counts := packed.get("counts")) is None:
        return Seen(means, whitening)
    if len(counts) != len(means) or not all(isinstance(n, int) and n > 0 for n in counts):
        raise ValueError("its counts are not one number above zero a type")
    return Seen(means, whitening, np.array(counts, np.int64))


def round_as_stored(array: np.ndarray) -> np.ndarray:
    """Returns a 2-D array with the precision that a file keeps."""
    return _unpack(_pack(array))


def _pack(array: np.ndarray) -> dict[str, Any]:
    """Returns an array as JSON: little-endian float16 in base64, half the text of float32."""
    text = base64.b64encode(np.ascontiguousarray(array, "<f2").tobytes()).decode()
    return {"shape": array.shape, "float16": text}


def _unpack(packed: dict[str, Any]) -> np.ndarray:
    data = base64.b64decode(packed["float16"], validate=True)
    array = np.frombuffer(data, "<f2").reshape(packed["shape"]).astype(np.float32)
    if array.ndim != 2 or not np.isfinite(array).all():
        raise ValueError("a number is missing")
    return array
