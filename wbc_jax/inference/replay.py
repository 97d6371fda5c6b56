"""Training cells that a classifier keeps, so that adapting it to a laboratory forgets nothing.

They are kept as features: the means that all layers after the encoder see. The file
`NAME.replay.npz` lies beside the weights, or `replay.npz` in the run's folder; `python -m
wbc_jax.abstain MODEL --replay` writes it.
"""

from __future__ import annotations

import dataclasses
import io
import zipfile

import numpy as np
from etils import epath

from wbc_jax import models
from wbc_jax.data import pipeline
from wbc_jax.errors import AbstentionError
from wbc_jax.inference import abstention_fitting, weights
from wbc_jax.inference import model as inference
from wbc_jax.labels import CELL_TYPES
from wbc_jax.utils import atomic

FILE = "replay.npz"
EACH = 40
"""Most cells of a type of a source."""
_KEYS = ("features", "logits", "labels", "sources")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Replay:
    """N cells of the training.

    Attributes:
        features: float32 `[N, F]`.
        logits: float32 `[N, K]`, the classifier's.
        labels: int64 `[N]`, the true types, indices of `labels.CELL_TYPES`.
        sources: text `[N]`, the data set of each.
    """

    features: np.ndarray
    logits: np.ndarray
    labels: np.ndarray
    sources: np.ndarray


def replay_path(name: epath.PathLike) -> epath.Path:
    """Returns the path of a model's replay, in the run's folder or beside the weights file.

    Args:
        name: of the model, as for `wbc_jax.load`.
    """
    return weights.beside(name, FILE)


def read(name: epath.PathLike) -> Replay:
    """Reads the replay of a model.

    Raises:
        AbstentionError: it is missing or damaged; says how to make it.
    """
    path = replay_path(name)
    remedy = f"`python -m wbc_jax.abstain {name} --replay` writes it, from the training's images."
    if not path.exists():
        raise AbstentionError(
            f"{path} is missing: without cells of its training the classifier would forget. "
            f"{remedy}"
        )
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            features, logits, labels, sources = (stored[key] for key in _KEYS)
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise AbstentionError.damaged(path, error, remedy) from error
    count = len(labels)
    if features.ndim != 2 or logits.shape != (count, len(CELL_TYPES)) or len(features) != count:
        raise AbstentionError.damaged(path, "its arrays do not fit each other", remedy)
    return Replay(
        features.astype(np.float32), logits.astype(np.float32), labels.astype(np.int64), sources
    )


def write(name: epath.PathLike, kept: Replay) -> epath.Path:
    """Writes the replay of a model, whole or not at all, and returns its path.

    Raises:
        OSError: the file cannot be written.
    """
    out = io.BytesIO()
    np.savez_compressed(
        out,
        features=kept.features.astype(np.float16),
        logits=kept.logits.astype(np.float16),
        labels=kept.labels.astype(np.uint8),
        sources=np.asarray(kept.sources, str),
    )
    atomic.write_bytes(replay_path(name), out.getvalue())
    return replay_path(name)


def check_adapts(model: inference.Model) -> None:
    """Checks that a classifier can be adapted.

    Raises:
        AbstentionError: its network cannot, or it is adapted already.
    """
    if model.config.model.types:
        raise AbstentionError(
            "the classifier is adapted already: name the one that it was made of, and all folders "
            "whose corrections it is to learn."
        )
    name = model.config.model.name
    if not models.adapts(name):
        raise AbstentionError(
            f"a classifier of the network {name!r} cannot be adapted: allowed is "
            "'efficientnet', as of the shipped one (configs/release_classifier.py)."
        )


def collect(model: inference.Model, manual_dir: str | None = None, each: int = EACH) -> Replay:
    """Returns training cells, up to `each` of a type of a source, drawn at random.

    Args:
        model: the classifier.
        manual_dir: folder of the data sets; None: as in training.
        each: most cells.

    Raises:
        AbstentionError: as in `check_adapts`.
        DataError, ConfigError: its records are missing, or are split differently now.
    """
    check_adapts(model)
    data = abstention_fitting.data_settings(model, manual_dir)
    train = pipeline.load_splits(data, model.config.evaluate.size, "classification")["train"]
    sources, labels = np.asarray(train.datasets, str), np.asarray(train.labels)
    chosen = np.sort(choose(labels, sources, each))
    found = abstention_fitting.outputs_of_records(
        model.with_features(), [train.entries[i] for i in chosen]
    )
    features = found.embeddings[:, model.embedding_size :]
    return Replay(features, found.logits, labels[chosen], sources[chosen])


def choose(labels: np.ndarray, sources: np.ndarray, each: int, seed: int = 0) -> np.ndarray:
    """Returns the places of up to `each` cells of a type of a source, drawn at random."""
    rng = np.random.default_rng(seed)
    chosen = [
        rng.permutation(np.flatnonzero((sources == source) & (labels == kind)))[:each]
        for source in np.unique(sources)
        for kind in np.unique(labels)
    ]
    return np.concatenate(chosen)
