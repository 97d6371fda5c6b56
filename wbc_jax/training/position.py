"""The position of a run: what a checkpoint stores beside the arrays."""

import collections
import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

# Old checkpoints have these names.
_FORMER_NAMES = {"looks_since_best": "evals_since_best", "plateau_looks": "plateau_evals"}


def _empty_window() -> dict[str, Any]:
    return {"loss": [], "confusion": 0, "drawn": {}}


@dataclasses.dataclass(slots=True)
class Position:
    """The progress of a run, which checkpoints store as JSON.

    Attributes:
        step: steps done. It is also the position in the data: batch s is a pure function of
            (seed, s).
        best: best validation score so far, reached at `best_step`; None before the first round.
        evals_since_best: validation rounds since then, for early stopping.
        plateau_best, plateau_evals: state of the schedule `plateau` (`optimizers.plateau`).
        stopped: whether early stopping has ended training.
        seconds: time spent training, over all restarts.
        window: losses, summed confusion matrix and number of images drawn from each data set,
            since the last line of the log.
    """

    step: int = 0
    best: float | None = None
    best_step: int = 0
    evals_since_best: int = 0
    plateau_best: float | None = None
    plateau_evals: int = 0
    stopped: bool = False
    seconds: float = 0.0
    window: dict[str, Any] = dataclasses.field(default_factory=_empty_window)

    @classmethod
    def from_saved(cls, saved: dict[str, Any]) -> "Position":
        """Returns the position that a checkpoint stores."""
        return cls(**{_FORMER_NAMES.get(name, name): value for name, value in saved.items()})

    def extend_window(self, loss: float, confusion: np.ndarray, datasets: Iterable[str]) -> None:
        """Adds a step to the window.

        Args:
            loss: of the step.
            confusion: integer `[C, C]`, of its batch.
            datasets: data set of each image in it.
        """
        self.window["loss"].append(loss)
        drawn = collections.Counter(self.window["drawn"])
        drawn.update(datasets)
        self.window["drawn"] = dict(drawn)
        summed = np.asarray(confusion, np.int64) + np.asarray(self.window["confusion"])
        self.window["confusion"] = summed.tolist()

    def clear_window(self) -> None:
        """Begins the next window."""
        self.window = _empty_window()

    def update_best(self, score: float, patience: int) -> None:
        """Takes the score of a validation round; without a better one for `patience` rounds, stops.

        Without a validation split the score is NaN, and the last round counts as the best. A
        `patience` of 0 never stops.
        """
        if self.best is None or score > self.best or math.isnan(score):
            self.best, self.best_step, self.evals_since_best = score, self.step, 0
        else:
            self.evals_since_best += 1
        self.stopped = bool(patience and self.evals_since_best >= patience)
