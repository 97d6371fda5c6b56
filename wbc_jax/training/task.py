"""The part of a task that training needs."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from wbc_jax.data import pipeline


class Task(Protocol):
    """The part of a task that training needs; the modules in `evaluate.TASKS` have it."""

    @property
    def CLASSES(self) -> int:
        """Number of classes."""
        ...

    @property
    def SCORE(self) -> str:
        """Key of the score in `training_summary`."""
        ...

    @property
    def SCORE_NAME(self) -> str:
        """Name of the score in messages."""
        ...

    def measure(
        self, predict: Callable[[np.ndarray], Any], examples: pipeline.Examples, batch_size: int
    ) -> Any:
        """Returns a measurement of the validation split; every process must call it."""
        ...

    def training_summary(self, confusion: np.ndarray) -> dict[str, float]:
        """Returns the metrics of a line of the log, from a confusion matrix `[C, C]`."""
        ...

    def validation(self, measured: Any, /, examples: pipeline.Examples) -> dict[str, float]:
        """Returns the metrics of a validation round; `score` selects the best checkpoint."""
        ...
