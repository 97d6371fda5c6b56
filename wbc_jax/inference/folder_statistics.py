"""Moves a folder's embeddings to where those of the training lie.

A laboratory's stain, camera and light move the embeddings of all its cells alike. The shift is the
mean over the types of (folder's mean of a type − training's mean of it), with the types that the
classifier itself gives; a few rounds of shifting and typing follow each other. A plain mean over
the folder would take a skewed count, such as 90 % neutrophils, for a shift (docs/
folder_statistics.md has both measured).

A type counts by n / (n + 10 + 0.2 N) of its n cells among N: where one type dominates, the few
cells of the others are mostly its own, mistyped. The whole shift is shrunk by the root of the
product of the two largest such weights, so a folder of a single type is hardly moved: there, a
shift cannot be told from another kind of the same type.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence

import numpy as np

from wbc_jax.errors import AbstentionError
from wbc_jax.inference.abstention import Outputs, Rule, Seen
from wbc_jax.inference.model import Model, Prediction

CHOICES = ("auto", "off")
"""`auto`: use the folder's statistics where it has `LEAST_CELLS` cells and the classifier knows
those of its training; `off`: never."""
LEAST_CELLS = 50
MOST_CELLS = 20_000
"""Largest number of cells that are looked at, spread evenly over the folder."""
FOLDER, TRAINING = "folder", "training"
"""Which statistics a type was decided by, as in the column `statistics` of `cells.csv`."""

_ROUNDS, _CELLS, _SHARE = 5, 10.0, 0.2


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Folder:
    """The statistics of one folder.

    Attributes:
        cells: number of the cells that they come from.
        shift: float32 `[D]`, to subtract from its embeddings; None: embeddings stay as they are.
    """

    cells: int = 0
    shift: np.ndarray | None = None

    @property
    def used(self) -> str:
        """`FOLDER` or `TRAINING`."""
        return TRAINING if self.shift is None else FOLDER

    def digest(self) -> str:
        """Returns a SHA-256 of the shift; empty without one."""
        return "" if self.shift is None else hashlib.sha256(self.shift.tobytes()).hexdigest()


def check(choice: str) -> str:
    """Returns a setting that is one of `CHOICES`.

    Raises:
        ValueError: it is none.
    """
    if choice not in CHOICES:
        raise ValueError(
            f"folder_statistics is {choice!r}: allowed are {', '.join(map(repr, CHOICES))}"
        )
    return choice


def known(rule: Rule | None) -> Seen | None:
    """Returns the training's statistics that a rule holds; None if it holds none, as those of
    earlier versions."""
    seen = rule and rule.seen
    return seen if seen and seen.counts is not None else None


def estimate(seen: Seen, kernel: np.ndarray, outputs: Outputs) -> Folder:
    """Estimates a folder's shift from the outputs for its cells.

    Args:
        seen: statistics of the training, from `known`.
        kernel: float `[D, K]` of the network's last linear layer.
        outputs: for N cells of the folder, with embeddings. If there are more than `MOST_CELLS`,
            so many of them are taken, evenly spread.

    Returns:
        The statistics; without a shift if there are fewer than `LEAST_CELLS` cells.

    Raises:
        AbstentionError: the statistics are of another network.
    """
    if len(outputs) > MOST_CELLS:
        outputs = outputs.take(np.linspace(0, len(outputs) - 1, MOST_CELLS).round().astype(int))
    total = len(outputs)
    if total < LEAST_CELLS:
        return Folder(total)
    if seen.counts is None or np.shape(outputs.embeddings) != (total, len(kernel)):
        raise AbstentionError(
            "the statistics of the training are of another network; fit the rule again with "
            "`python -m wbc_jax.abstain MODEL`."
        )
    kernel = np.asarray(kernel, np.float64)
    embeddings = np.asarray(outputs.embeddings, np.float64)
    logits = np.asarray(outputs.logits, np.float64)
    types = logits.shape[-1]
    trust = seen.counts / (seen.counts + _CELLS)  # a mean of few training images is unsure
    shift = np.zeros(len(kernel))
    for _ in range(_ROUNDS):
        typed = np.eye(types)[(logits - shift @ kernel).argmax(-1)]
        counts = typed.sum(0)
        offsets = typed.T @ embeddings / np.maximum(counts, 1)[:, None] - seen.means
        weights = trust * counts / (counts + _CELLS + _SHARE * total)
        second, first = np.sort(weights)[-2:]
        shift = np.sqrt(first * second) * (weights @ offsets) / weights.sum()
    return Folder(total, shift.astype(np.float32))


def estimate_for(model: Model, rule: Rule | None, predictions: Sequence[Prediction]) -> Folder:
    """Estimates a folder's shift from a classifier's predictions.

    Args:
        model: the classifier.
        rule: its rule.
        predictions: of the folder's cells, not moved.

    Returns:
        The statistics, without a shift if there are too few cells or none in the rule.
    """
    seen = known(rule)
    if seen is None or len(predictions) < LEAST_CELLS:
        return Folder(len(predictions))
    return estimate(seen, model.head_kernel, Outputs.of(predictions))


def moved(model: Model, prediction: Prediction, folder: Folder) -> Prediction:
    """Returns a prediction with its embedding shifted, and the type that follows from it."""
    if folder.shift is None or prediction.embedding is None or prediction.logits is None:
        return prediction
    logits = prediction.logits - folder.shift @ model.head_kernel
    embedding = prediction.embedding - folder.shift
    return dataclasses.replace(model.read(logits, (0, 0)), embedding=embedding)
