"""Compares what our masks say of groups of cells with what true masks of the same cells say."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from wbc_jax.errors import InputError
from wbc_jax.evaluate import cohort
from wbc_jax.evaluate.cell_tables import CellRow, Rule, Table
from wbc_jax.metrics import separation, statistics


@dataclasses.dataclass(frozen=True, slots=True)
class Bias:
    """The difference between our masks and the true ones in one measure of one group.

    Attributes:
        cells: number of cells that have the measure by both masks, and a finite difference.
        truth, ours: medians of these cells.
        difference, low, high: median of ours − truth over these cells, and its 95 % interval.
    """

    measure: cohort.Measure
    group: str
    cells: int
    truth: float
    ours: float
    difference: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, slots=True)
class AgainstTruth:
    """The same cells measured by both masks.

    Attributes:
        truth, ours: the comparisons of the groups by the true masks and by ours, both on the cells
            that are measured by both.
        biases: by measure, then by group.
        unmatched: number of our measured cells by group that have no true mask that is
            measured.
    """

    truth: cohort.Cohort
    ours: cohort.Cohort
    biases: tuple[Bias, ...]
    unmatched: dict[str, int]


def compare(
    groups: Sequence[cohort.Group],
    tables: Sequence[Table],
    rule: Rule,
    absent: Sequence[str] = (),
    resamples: int = statistics.RESAMPLES,
    seed: int = 0,
) -> AgainstTruth:
    """Compares both masks on the cells that have both.

    Cells are matched by the name of their image, without folder and ending, which must have one
    measured cell in each table.

    Args:
        groups: those measured by our masks.
        tables: of the true masks of the same images.
        rule: which cells are left out; it holds for the true masks as well.
        absent, resamples, seed: as in `cohort.compare`.

    Raises:
        InputError: a group has no cell with both masks, or an image has another size than its mask.
    """
    every = [row for table in tables for row in table.rows]
    truths = _by_stem([row for row in every if not rule.reason(row)])
    pairs: dict[str, list[tuple[CellRow, CellRow]]] = {}
    for group in groups:
        ours = _by_stem(group.rows)
        pairs[group.name] = [(row, truths[stem]) for stem, row in ours.items() if stem in truths]
        for row, truth in pairs[group.name]:
            if row.size and truth.size and row.size != truth.size:
                raise InputError(
                    f"{row.file} is {row.size[1]} × {row.size[0]} px in the tables, but "
                    f"{truth.file} of --truth {truth.size[1]} × {truth.size[0]}: areas can be "
                    "compared only at one size. Measure the true masks at the size of the images."
                )
        if not pairs[group.name]:
            raise InputError(
                f"no cell of group {group.name!r} has a true mask in "
                f"{', '.join(table.path for table in tables)}: images are matched by their names "
                f"without the ending, such as {next(iter(ours), 'Im001_1')!r}, and must hold one "
                "cell each."
            )
    missing = {*absent, *(column for table in tables for column in table.missing)}
    found = []
    for place in (1, 0):
        same = [
            cohort.Group(name, tuple(pair[place] for pair in both), {}, {})
            for name, both in pairs.items()
        ]
        found.append(cohort.compare(same, rule, sorted(missing), 0, resamples, seed))
    truth, ours = found
    shared = [m for m in ours.measures if m in truth.measures]
    biases = [
        _bias(measure, name, truth.values[measure.key][i], ours.values[measure.key][i], resamples)
        for measure in shared
        for i, name in enumerate(pairs)
    ]
    unmatched = {group.name: len(group.rows) - len(pairs[group.name]) for group in groups}
    return AgainstTruth(truth, ours, tuple(biases), unmatched)


def _by_stem(rows: Sequence[CellRow]) -> dict[str, CellRow]:
    """Returns the rows of images with one cell, by the image's name."""
    counts = collections.Counter(row.stem for row in rows)
    return {row.stem: row for row in rows if counts[row.stem] == 1}


def _bias(
    measure: cohort.Measure, group: str, truth: np.ndarray, ours: np.ndarray, resamples: int
) -> Bias:
    with np.errstate(invalid="ignore"):  # infinity less infinity
        difference = ours - truth
    finite = np.isfinite(difference)
    low, high = separation.interval_of_groups(_median, (difference[finite],), resamples)
    medians = (_median(values[finite]) for values in (truth, ours, difference))
    return Bias(measure, group, int(finite.sum()), *medians, float(low), float(high))


def _median(values: np.ndarray) -> float:
    return float(separation.quartiles(values)[1])
