"""The rule by which a classifier abstains and leaves a cell's type to a person.

A classifier names one of five types for any image. There are two reasons not to believe it: its
calibrated probability is low, or the image is unlike the training images. The latter shows in the
Mahalanobis distance of the image's embedding to the nearest mean of a source's type (Lee et al., "A
Simple Unified Framework for Detecting Out-of-Distribution Samples", 2018), relative to the distance
to the mean of all (Ren et al., "A Simple Fix to Mahalanobis Distance", 2021), or, if the network
has no embedding, in a high energy, −log Σ exp(logits) (Liu et al., "Energy-based
Out-of-distribution Detection", 2020). Each source has means of its own, so that a source apart from
the others does not widen the covariance. A rule that was shown foreign cells (erythroblasts and
others) also abstains from images that lie nearer to one of their kinds. docs/folder_statistics.md
compares such measures.

Far from the training images a network is too sure of itself: the temperature grows with a power of
the distance, fitted to sources that the network was not trained on.

`abstention_fitting` fits a rule; a JSON file beside the weights holds it.
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

LOW, UNLIKE, FOREIGN = "low_probability", "unlike_training", "foreign_cell"
FILE = "abstention.json"
FORMAT = "wbc_jax abstention 3"
EARLIER = "wbc_jax abstention 2"
"""Format of files without `power`, `typical` and the `Seen.counts` and `Seen.own`; still read."""
NUMBERS = (
    *("temperature", "power", "typical"),
    *("least_probability", "most_unlike", "most_foreign", "share", "images"),
)
_OWN = ("centers", "middle", "whitening", "foreign")
_NEAREST = 0.01
"""Least distance, in typical ones, that the temperature follows."""


@dataclasses.dataclass(frozen=True, slots=True)
class Own:
    """The embeddings' distribution by source.

    Attributes:
        centers: float32 `[M, D]`, a mean for each type of each source.
        middle: float32 `[1, D]`, the mean of all.
        whitening: float32 `[D, D]`; embeddings multiplied by it have the unit matrix as covariance
            around `middle`.
        foreign: float32 `[F, D]`, a mean for each kind of foreign cell, such as erythroblasts, that
            the rule was shown; `[0, D]` if none.
    """

    centers: np.ndarray
    middle: np.ndarray
    whitening: np.ndarray
    foreign: np.ndarray


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """The distribution of the training images' embeddings.

    Attributes:
        means: float32 `[K, D]`, one per type.
        whitening: float32 `[D, D]`; embeddings multiplied by it have the unit matrix as covariance
            within each type of each source (without `own`: within each type).
        counts: int64 `[K]`, training images of each type; None in files of earlier versions, which
            then give no statistics of a folder (`folder_statistics`).
        own: None in files of earlier versions.
    """

    means: np.ndarray
    whitening: np.ndarray
    counts: np.ndarray | None = None
    own: Own | None = None
    _kept: dict[str, np.ndarray] = dataclasses.field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def distance(self, embeddings: np.ndarray) -> np.ndarray:
        """Returns the Mahalanobis distances `[N]` of `[N, D]` to the nearest mean, of a type or,
        with `own`, of a source's type."""
        means = self.own.centers if self.own else self.means
        return np.sqrt(self._squares("nearest", embeddings, means, self.whitening).min(-1))

    def unlike(self, embeddings: np.ndarray) -> np.ndarray:
        """Returns by how much the squared distance `[N]` to the nearest mean exceeds the one to the
        middle of all images; without `own`, `distance`."""
        if self.own is None:
            return self.distance(embeddings)
        middle = self._squares("middle", embeddings, self.own.middle, self.own.whitening)
        return self.distance(embeddings) ** 2 - middle[:, 0]

    @property
    def knows_foreign(self) -> bool:
        """Whether the rule was shown foreign cells."""
        return self.own is not None and len(self.own.foreign) > 0

    def foreign(self, embeddings: np.ndarray) -> np.ndarray:
        """Returns by how much the squared distance `[N]` to the nearest mean exceeds the one to the
        nearest mean of a kind of foreign cells; only if it `knows_foreign`."""
        there = self._squares("foreign", embeddings, self.own.foreign, self.whitening)
        return self.distance(embeddings) ** 2 - there.min(-1)

    def _squares(
        self, name: str, embeddings: np.ndarray, means: np.ndarray, whitening: np.ndarray
    ) -> np.ndarray:
        """Returns squared distances, float64 `[N, M]`, of whitened `[N, D]` to `[M, D]`.

        The means, whitened once, are kept under `name`: `judge` asks for one embedding at a time.
        """
        if name not in self._kept:
            self._kept[name] = means @ whitening
        there, white = self._kept[name], np.asarray(embeddings, np.float32) @ whitening
        # Row by row of the shorter one, as [N, M, D] may be large.
        if 0 < len(white) < len(there):
            rows = [((one - there) ** 2).sum(-1) for one in white]
            return np.stack(rows).astype(np.float64)
        columns = [((white - one) ** 2).sum(-1) for one in there]
        return np.stack(columns, -1).astype(np.float64)


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
        temperature: divides the logits before the softmax, times the distance of the embedding in
            `typical` ones to the `power`.
        least_probability: the classifier abstains if the most probable type has a lower one.
        most_unlike: the classifier abstains if an image is more `unlike` the training images.
        share: share of the validation images on which it abstains.
        images: number of the validation images.
        seen: None if the network has no embedding.
        power: 0: the temperature is the same everywhere.
        typical: median distance of the validation images.
        most_foreign: the classifier abstains if `Seen.foreign` is higher.
    """

    temperature: float
    least_probability: float
    most_unlike: float
    share: float
    images: int
    seen: Seen | None = None
    power: float = 0.0
    typical: float = 1.0
    most_foreign: float = 0.0

    def probabilities(self, outputs: Outputs) -> np.ndarray:
        """Returns calibrated probabilities `[N, K]`."""
        if self.seen is None or not self.power:
            return tempered(outputs.logits, self.temperature)
        _check_fits(self.seen, outputs)
        far = self.seen.distance(outputs.embeddings) / self.typical
        return tempered(outputs.logits, self.temperature, self.power, far)

    def reasons(self, outputs: Outputs) -> list[str]:
        """Returns the reasons to abstain on each image: `LOW`, `UNLIKE`, `FOREIGN`, several joined
        by `;`, or an empty text."""
        found = {
            LOW: self.probabilities(outputs).max(-1) < self.least_probability,
            UNLIKE: unlike(self.seen, outputs) > self.most_unlike,
        }
        if self.seen and self.seen.knows_foreign:
            found[FOREIGN] = self.seen.foreign(outputs.embeddings) > self.most_foreign
        return [";".join(itertools.compress(found, flags)) for flags in zip(*found.values())]


def tempered(
    logits: np.ndarray, temperature: float, power: float = 0.0, far: np.ndarray | None = None
) -> np.ndarray:
    """Returns the softmax, float64 `[N, K]`, of logits divided by temperature · far ** power.

    Args:
        logits: `[N, K]`.
        temperature, power: as in `Rule`.
        far: `[N]`, distances of the embeddings in typical ones; None: 1.
    """
    each = np.full(len(logits), temperature)
    if far is not None:
        each = each * np.maximum(far, _NEAREST) ** power
    return scipy.special.softmax(np.asarray(logits, np.float64) / each[:, None], axis=-1)


def energy(logits: np.ndarray) -> np.ndarray:
    """Returns −log Σ exp(logits), `[...]` of `[..., K]`: high if no type fits the image."""
    return -scipy.special.logsumexp(np.asarray(logits, np.float64), axis=-1)


def unlike(seen: Seen | None, outputs: Outputs) -> np.ndarray:
    """Returns the dissimilarity of each image to the training images, `[N]`.

    It is `Seen.unlike` of the embedding, or the energy if `seen` is None.

    Raises:
        AbstentionError: the rule is of another network, with embeddings of another size.
    """
    if seen is None:
        return energy(outputs.logits)
    _check_fits(seen, outputs)
    return seen.unlike(outputs.embeddings)


def _check_fits(seen: Seen, outputs: Outputs) -> None:
    if outputs.embeddings is None or outputs.embeddings.shape[-1] != len(seen.whitening):
        raise AbstentionError(
            "the abstention rule is of another network; fit it again with "
            "`python -m wbc_jax.abstain MODEL`."
        )


def judge(
    rule: Rule | None,
    logits: np.ndarray,
    embedding: np.ndarray | None = None,
    types: Sequence[str] = CELL_TYPES,
) -> dict[str, Any]:
    """Returns `type`, `best_guess`, `probability` and `review` of one cell (see `fields.Cell`).

    Args:
        rule: None: the classifier never abstains.
        logits: float `[K]`.
        embedding: float `[D]`, if the network has one.
        types: names of the K types.
    """
    one = Outputs(logits[None], None if embedding is None else embedding[None])
    (probabilities,) = tempered(one.logits, 1.0) if rule is None else rule.probabilities(one)
    guess = types[int(np.argmax(probabilities))]
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
    return weights.beside(name, FILE)


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
        for field in ("temperature", "typical"):
            if getattr(rule, field) <= 0:
                raise ValueError(f"{field} is {getattr(rule, field)}")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        remedy = f"delete it, or run `python -m wbc_jax.abstain {name}`."
        raise AbstentionError.damaged(path, error, remedy) from error
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
    own = seen.own and {key: _pack(getattr(seen.own, key)) for key in _OWN}
    return packed | {"counts": None if seen.counts is None else seen.counts.tolist(), "own": own}


def _unpack_seen(packed: dict[str, Any]) -> Seen:
    means, whitening = (_unpack(packed[key]) for key in ("means", "whitening"))
    size = len(whitening)
    if means.shape != (len(CELL_TYPES), size) or whitening.shape != (size, size):
        raise ValueError("its arrays do not fit each other")
    counts, own = packed.get("counts"), packed.get("own")
    if counts is not None:
        if len(counts) != len(means) or not all(isinstance(n, int) and n > 0 for n in counts):
            raise ValueError("its counts are not one number above zero a type")
        counts = np.array(counts, np.int64)
    if own is not None:
        own = Own(*(_unpack(own[key]) for key in _OWN))
        arrays = (own.centers[:0], own.middle, own.whitening, own.foreign[:0])
        shapes = [array.shape for array in arrays]
        if shapes != [(0, size), (1, size), (size, size), (0, size)]:
            raise ValueError("its arrays do not fit each other")
    return Seen(means, whitening, counts, own)


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
