"""Outputs of networks that were each trained without one source, read from files.

A file `NAME.npz` has, for N cells: `embedding` `[N, D]`, `logits` `[N, K]`, `label` int `[N]` (an
index of `labels.CELL_TYPES`, or -1 for a cell of none of them), `source` and `split` (`train`,
`validation` or `test`), text `[N]`, and `left_out`, the source that the network was not trained on.
It may have `features` `[N, F]`, as in `replay.Replay`.
"""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath

from wbc_jax.errors import DataError
from wbc_jax.inference import abstention_fitting, folder_statistics
from wbc_jax.inference.abstention import Outputs, Seen
from wbc_jax.inference.abstention_fitting import Away
from wbc_jax.labels import CELL_TYPES

KEYS = ("embedding", "logits", "label", "source", "split", "left_out")
FEATURES = "features"


@dataclasses.dataclass(frozen=True, slots=True)
class Cells:
    """Some cells.

    Attributes:
        outputs: a network's.
        labels: int `[N]`.
        sources: text `[N]`.
        features: float32 `[N, F]`, as in `replay.Replay`; None if the file has none.
    """

    outputs: Outputs
    labels: np.ndarray
    sources: np.ndarray
    features: np.ndarray | None = None

    def take(self, which: Any) -> Cells:
        """Returns the cells that `which` indexes."""
        features = None if self.features is None else self.features[which]
        return Cells(self.outputs.take(which), self.labels[which], self.sources[which], features)


@dataclasses.dataclass(frozen=True, slots=True)
class LeftOut:
    """A network without one source.

    Attributes:
        name: the source.
        kernel: float32 `[D, K]` of the last linear layer.
        train, validation, test: cells of the sources that it was trained on.
        away: cells of the source left out.
        foreign: cells of no known type, of any source.
    """

    name: str
    kernel: np.ndarray
    train: Cells
    validation: Cells
    test: Cells
    away: Cells
    foreign: Cells

    def learn(self, foreign: Cells | None = None) -> Seen:
        """Returns the distribution of the training cells.

        Args:
            foreign: foreign cells that the rule is to know, each source being a kind; None: none.
        """
        one, kinds = self.train, []
        if foreign is not None:
            given = foreign.outputs.embeddings
            kinds = [given[foreign.sources == kind] for kind in np.unique(foreign.sources)]
        return abstention_fitting.learn(one.outputs, one.labels, one.sources, kinds)

    def moved(self, seen: Seen, cells: Cells) -> Cells:
        """Returns cells moved by the folder's statistics, each source being a folder."""
        logits, embeddings = cells.outputs.logits.copy(), cells.outputs.embeddings.copy()
        for source in np.unique(cells.sources):
            own = cells.sources == source
            found = folder_statistics.estimate(seen, self.kernel, cells.outputs.take(own))
            if found.shift is not None:
                embeddings[own] -= found.shift
                logits[own] -= found.shift @ self.kernel
        return Cells(Outputs(logits, embeddings), cells.labels, cells.sources)


def read_folder(folder: epath.PathLike) -> list[LeftOut]:
    """Reads all files of a folder, in the order of their names.

    Raises:
        DataError: there are fewer than two, or one is damaged or holds something else.
    """
    paths = sorted(epath.Path(folder).expanduser().glob("*.npz"))
    if len(paths) < 2:
        raise DataError(
            f"{folder} holds {len(paths)} .npz files: two or more are needed, one for each source "
            "left out."
        )
    return [read(path) for path in paths]


def read(path: epath.PathLike) -> LeftOut:
    """Reads one file.

    Raises:
        DataError: it is damaged or holds something else.
    """
    path = epath.Path(path)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            found = {key: stored[key] for key in (*KEYS, FEATURES) if key in stored or key in KEYS}
        return _of(found)
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} does not hold a network's outputs ({error}); it must have the arrays "
            f"{', '.join(KEYS)}."
        ) from error


def _of(found: dict[str, np.ndarray]) -> LeftOut:
    logits, embeddings = (found[key].astype(np.float32) for key in ("logits", "embedding"))
    labels, sources, splits = (
        found["label"],
        found["source"].astype(str),
        found["split"].astype(str),
    )
    count = len(labels)
    shapes = [array.shape for array in (logits, sources, splits)]
    if embeddings.ndim != 2 or shapes != [(count, len(CELL_TYPES)), (count,), (count,)]:
        raise ValueError("its arrays do not fit each other")
    if len(embeddings) != count:
        raise ValueError("its arrays do not fit each other")
    name, features = str(found["left_out"]), found.get(FEATURES)
    if features is not None:
        features = features.astype(np.float32)
        if features.ndim != 2 or len(features) != count:
            raise ValueError("its arrays do not fit each other")
    cells = Cells(Outputs(logits, embeddings), labels, sources, features)
    known, away = labels >= 0, sources == name
    parts = {split: known & ~away & (splits == split) for split in ("train", "validation", "test")}
    parts |= {"away": known & away, "foreign": ~known}
    for part in ("train", "validation", "test", "away"):
        if not parts[part].any():
            raise ValueError(f"it has no cells of a known type that are {part}")
    return LeftOut(
        name, _kernel(embeddings, logits), **{part: cells.take(own) for part, own in parts.items()}
    )


def _kernel(embeddings: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Returns the kernel of which the logits are linear in the embeddings, by least squares."""
    given, wanted = (array - array.mean(0, dtype=np.float64) for array in (embeddings, logits))
    return np.linalg.lstsq(given, wanted, rcond=None)[0].astype(np.float32)


def away(networks: Sequence[LeftOut]) -> list[Away]:
    """Returns the cells of each source left out, for the fit of a temperature.

    They are moved by their own statistics, as in a prediction.
    """
    found = []
    for one in networks:
        seen = one.learn()
        typical = np.median(seen.distance(one.validation.outputs.embeddings))
        cells = one.moved(seen, one.away)
        far = seen.distance(cells.outputs.embeddings) / typical
        found.append(Away(cells.outputs.logits, far, cells.labels))
    return found
