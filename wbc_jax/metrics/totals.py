"""Segmentation counts of each image, and totals that batches and processes add to."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from wbc_jax.metrics.boundary import TOLERANCE_RATIO, BFTotals, bf_counts
from wbc_jax.metrics.confusion import count_images

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class SegmentationCounts:
    """Counts of each image, from which every segmentation score follows.

    Attributes:
        confusion: int64 `[N, C, C]`, rows truth, columns prediction.
        boundary: int64 `[N, C, 4]`, as `metrics.bf_counts` returns them; None where boundaries were
            not compared.
        whole: int64 `[N, 2, C]`, pixels of the images whose truth marks the whole cell alone: rows
            truth (background, cell), columns prediction. Such images have zeros in the other
            fields, and the others have zeros here. None: there is no such image.
    """

    confusion: np.ndarray
    boundary: np.ndarray | None = None
    whole: np.ndarray | None = None

    @classmethod
    def zero(
        cls, images: int, num_classes: int, boundary: bool = True, whole: bool = False
    ) -> "SegmentationCounts":
        """Returns the counts of N images of which no pixel has been counted."""
        return cls(
            np.zeros((images, num_classes, num_classes), np.int64),
            np.zeros((images, num_classes, 4), np.int64) if boundary else None,
            np.zeros((images, 2, num_classes), np.int64) if whole else None,
        )

    @classmethod
    def of(
        cls,
        truth,
        prediction,
        num_classes: int,
        tolerance_ratio: float = TOLERANCE_RATIO,
        tolerance_px: float | None = None,
    ) -> "SegmentationCounts":
        """Returns the counts of a batch; arguments and errors as in `metrics.bf_counts`."""
        return cls(
            count_images(truth, prediction, num_classes),
            bf_counts(truth, prediction, num_classes, tolerance_ratio, tolerance_px),
        )

    @classmethod
    def merge(cls, sets: Sequence["SegmentationCounts"]) -> "SegmentationCounts":
        """Returns the counts of the images of all sets (at least one), in their order.

        Boundary counts are kept where every set has them, those of whole cells where one has them.
        """
        whole = [
            np.zeros((len(counts), 2, counts.confusion.shape[-1]), np.int64)
            if counts.whole is None
            else counts.whole
            for counts in sets
        ]
        boundaries = [counts.boundary for counts in sets if counts.boundary is not None]
        return cls(
            np.concatenate([counts.confusion for counts in sets]),
            np.concatenate(boundaries) if len(boundaries) == len(sets) else None,
            np.concatenate(whole) if any(counts.whole is not None for counts in sets) else None,
        )

    @property
    def cell_only(self) -> np.ndarray:
        """Bool `[N]`: the images counted in `whole`."""
        if self.whole is None:
            return np.zeros(len(self), bool)
        return self.whole.any((1, 2))

    def __len__(self) -> int:
        return len(self.confusion)

    def select(self, chosen) -> "SegmentationCounts":
        """Returns the counts of the images that bool `[N]`, a slice or indices choose."""
        return SegmentationCounts(
            self.confusion[chosen],
            None if self.boundary is None else self.boundary[chosen],
            None if self.whole is None else self.whole[chosen],
        )

    def put(self, index: np.ndarray, counts: "SegmentationCounts") -> None:
        """Writes the counts of M images to the places `index` (int `[M]`), in place."""
        self.confusion[index] = counts.confusion
        if self.boundary is not None:
            self.boundary[index] = counts.boundary
        if self.whole is not None:
            self.whole[index] = 0 if counts.whole is None else counts.whole

    def sum(self) -> "SegmentationTotals":
        """Returns the totals over the images, without whole cells."""
        return SegmentationTotals(
            self.confusion.sum(0),
            None if self.boundary is None else BFTotals.from_counts(self.boundary),
        )


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class SegmentationTotals:
    """Sums over images, from which every metric of a set follows; `+` adds those of two sets.

    Attributes:
        confusion: int64 `[C, C]`, rows truth, columns prediction; for `metrics.iou` and the others.
        bf: boundary scores; None where boundaries were not compared.
    """

    confusion: np.ndarray
    bf: BFTotals | None

    @classmethod
    def zero(cls, num_classes: int) -> "SegmentationTotals":
        """Returns the totals of no images."""
        return SegmentationCounts.zero(0, num_classes).sum()

    @classmethod
    def of(
        cls,
        truth,
        prediction,
        num_classes: int,
        tolerance_ratio: float = TOLERANCE_RATIO,
        tolerance_px: float | None = None,
    ) -> "SegmentationTotals":
        """Returns the totals of one batch; arguments and errors as in `metrics.bf_counts`.

        Images that are 255 all over (the padding of a batch) add nothing.
        """
        return SegmentationCounts.of(
            truth, prediction, num_classes, tolerance_ratio, tolerance_px
        ).sum()

    def __add__(self, other: "SegmentationTotals") -> "SegmentationTotals":
        bf = None if self.bf is None or other.bf is None else self.bf + other.bf
        return SegmentationTotals(self.confusion + other.confusion, bf)


def sum_over_hosts(totals: T) -> T:
    """Adds up the counts of all processes of a run; every process must call it.

    Args:
        totals: an array, or a dataclass or dict of arrays, of the same shapes on every process;
            None stays None.

    Returns:
        The same structure with each array summed in its own precision, on every process.
    """
    if jax.process_count() == 1:
        return totals
    return _map(_sum_array, totals)


def _sum_array(array: np.ndarray) -> np.ndarray:
    from jax.experimental import multihost_utils

    array = np.asarray(array)
    # Sent as bytes, because JAX would cut 64-bit numbers to 32 bits.
    sent = np.frombuffer(array.tobytes(), np.uint8)
    received = np.asarray(multihost_utils.process_allgather(sent))
    return received.view(array.dtype).reshape(-1, *array.shape).sum(0)


def _map(function, value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return type(value)(*(_map(function, getattr(value, field.name)) for field in fields))
    if isinstance(value, dict):
        return {key: _map(function, item) for key, item in value.items()}
    return None if value is None else function(value)
