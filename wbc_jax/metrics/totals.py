"""Segmentation metrics as sums that batches and hosts add to."""

import dataclasses
from typing import Any, TypeVar

import jax
import numpy as np

from wbc_jax.metrics import boundary, confusion

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class SegmentationTotals:
    """Sums over images, from which every metric of a set follows; those of two sets add with `+`.

    Attributes:
        confusion: int64 `[C, C]`, rows truth; for `metrics.iou` and the others.
        bf: boundary scores.
    """

    confusion: np.ndarray
    bf: boundary.BFTotals

    @classmethod
    def zero(cls, num_classes: int) -> "SegmentationTotals":
        """Returns the totals of no images."""
        counts = np.zeros((0, num_classes, 4), np.int64)
        return cls(
            np.zeros((num_classes, num_classes), np.int64), boundary.BFTotals.from_counts(counts)
        )

    @classmethod
    def of(
        cls,
        truth,
        prediction,
        num_classes: int,
        tolerance_ratio: float = boundary.TOLERANCE_RATIO,
        tolerance_px: float | None = None,
    ) -> "SegmentationTotals":
        """Returns the totals of one batch; arguments and errors as in `metrics.bf_counts`.

        Images that are 255 all over (they fill up a batch) add nothing.
        """
        counts = boundary.bf_counts(truth, prediction, num_classes, tolerance_ratio, tolerance_px)
        return cls(
            confusion.confusion_matrix(truth, prediction, num_classes),
            boundary.BFTotals.from_counts(counts),
        )

    def __add__(self, other: "SegmentationTotals") -> "SegmentationTotals":
        return SegmentationTotals(self.confusion + other.confusion, self.bf + other.bf)


def sum_over_hosts(totals: T) -> T:
    """Adds up what the processes of a run have counted; every process must call it.

    Args:
        totals: arrays, or dataclasses or dicts of them, alike in shape on every process.

    Returns:
        The same with each array summed, on every process, in its own precision.
    """
    if jax.process_count() == 1:
        return totals
    return _map(_sum_array, totals)


def _sum_array(array: np.ndarray) -> np.ndarray:
    from jax.experimental import multihost_utils

    array = np.asarray(array)
    # As bytes: 64-bit numbers would be cut to 32 on the way.
    sent = np.frombuffer(array.tobytes(), np.uint8)
    received = np.asarray(multihost_utils.process_allgather(sent))
    return received.view(array.dtype).reshape(-1, *array.shape).sum(0)


def _map(function, value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return type(value)(*(_map(function, getattr(value, field.name)) for field in fields))
    if isinstance(value, dict):
        return {key: _map(function, item) for key, item in value.items()}
    return function(value)
