"""Scores a model on a split: metrics, and one row per image. Each task is a module."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from wbc_jax.data import pipeline
from wbc_jax.evaluate import cell_types, masks
from wbc_jax.training import task as training_task


class Task(training_task.Task, Protocol):
    """Functions and constants that a task's module provides, beside those that training needs.

    A measurement holds one entry per example of a split: `metrics.SegmentationCounts` for
    segmentation, probabilities `[N, K]` for classification.
    """

    @property
    def ROW_COLUMNS(self) -> tuple[str, ...]:
        """Columns of `report/per_image.csv`."""
        ...

    def measure_test(
        self, predict: Callable[[np.ndarray], Any], examples: pipeline.Examples, batch_size: int
    ) -> Any:
        """Returns `measure` with the counts that take too long during training."""
        ...

    def results(
        self, measured: Any, /, examples: pipeline.Examples, bootstrap: int, seed: int = 0
    ) -> dict[str, Any]:
        """Returns the metrics of each data set and of `all`, with intervals by `bootstrap`."""
        ...

    def rows(self, measured: Any, /, examples: pipeline.Examples) -> list[dict[str, Any]]:
        """Returns one row per example, with `ROW_COLUMNS` as keys."""
        ...


TASKS: dict[str, Task] = {"segmentation": masks, "classification": cell_types}
"""Modules by `config.task`."""
