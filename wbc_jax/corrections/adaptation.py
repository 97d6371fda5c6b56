"""Adapts a classifier to corrected cells, and says what that gains.

Every cell is held back once: its type before is the one in the results, its type after is that of a
layer that was fitted without the cell's image.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from wbc_jax import metrics
from wbc_jax.errors import InputError
from wbc_jax.inference import adapting
from wbc_jax.inference.abstention import Outputs, Rule
from wbc_jax.inference.adapting import Adapted, Labeled
from wbc_jax.inference.replay import Replay
from wbc_jax.labels import CELL_TYPES
from wbc_jax.report import html, tables

LEAST_LABELS = 5
LEAST_OWN = 5
"""Fewest cells of a type of one's own."""
PARTS = (0.25, 0.5)
"""Parts of the labels whose scores the learning curve has, beside all of them."""
_DRAWS = 2
_NEXT = 2
"""Types that are named as the ones to correct next."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """An adapted classifier.

    Attributes:
        adapted: the laboratory's layer.
        types: names of the K types.
        rule: the abstention rule.
        before, after: int64 `[images, K, K]`, confusions of the cells held back.
        error_before, error_after: expected calibration errors.
        curve: (labels, macro recall) by rising number of labels.
    """

    adapted: Adapted
    types: tuple[str, ...]
    rule: Rule
    before: np.ndarray
    after: np.ndarray
    error_before: float
    error_after: float
    curve: list[tuple[float, float]]

    @property
    def gain(self) -> float:
        """Macro recall after − before."""
        after, before = (metrics.macro_recall(c.sum(0)) for c in (self.after, self.before))
        return float(after - before)

    @property
    def accuracy_gain(self) -> float:
        """Accuracy after − before."""
        after, before = (metrics.global_accuracy(c.sum(0)) for c in (self.after, self.before))
        return float(after - before)


def types_of(names: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    """Returns the types that a model is to have: those of the training, and those of one's own with
    `LEAST_OWN` cells or more; and a note for each type that has fewer.

    Args:
        names: the type of each corrected cell.
    """
    counts = collections.Counter(names)
    own = sorted(name for name in counts if name not in CELL_TYPES)
    types = (*CELL_TYPES, *(name for name in own if counts[name] >= LEAST_OWN))
    notes = [
        f"{html.plural(counts[name], 'cell')} said to be {name!r}: left out, as "
        f"a type of your own needs {LEAST_OWN}."
        for name in own
        if name not in types
    ]
    return types, notes


def check(names: Sequence[str], types: Sequence[str]) -> None:
    """Checks that there is enough to learn from.

    Args:
        names: the type of each corrected cell.
        types: from `types_of`; other cells do not count.

    Raises:
        InputError: fewer than `LEAST_LABELS` cells, or all of one type.
    """
    kept = [name for name in names if name in types]
    if len(kept) < LEAST_LABELS:
        raise InputError(
            f"there are {len(kept)} cells with a type to learn from; {LEAST_LABELS} are the "
            "least, and 20 of each type give most of the gain: correct more by `python -m "
            "wbc_jax.review DIR`."
        )
    if len(set(kept)) == 1:
        raise InputError(
            f"all {len(kept)} cells with a type are {kept[0]}s; two types are the "
            "least, and cells of all types are best: say the types of others as well, also where "
            "they stand right."
        )


def adapt(
    rule: Rule, replay: Replay, cells: Labeled, types: Sequence[str], before: np.ndarray
) -> Outcome:
    """Adapts a classifier and its rule.

    Args:
        rule: of the classifier, with `seen`.
        replay: cells of its training.
        cells: the corrected ones.
        types: from `types_of`.
        before: `[N, K]`, probabilities of the cells' types before.
    """
    problem = adapting.Problem(replay, len(types))
    adapted = problem.adapt(cells)
    new = adapting.refit_rule(rule, cells, adapted.held_back)
    after = new.probabilities(Outputs(adapted.held_back, cells.outputs.embeddings))
    errors = [
        float(metrics.expected_calibration_error(cells.labels, one)) for one in (before, after)
    ]
    found = [_confusions(cells, one) for one in (before, adapted.held_back)]
    curve = _curve(problem, cells)
    curve.append((len(cells), float(metrics.macro_recall(found[1].sum(0)))))
    return Outcome(adapted, tuple(types), new, *found, *errors, curve)


def _confusions(cells: Labeled, given: np.ndarray) -> np.ndarray:
    """Returns int64 `[images, K, K]`."""
    _, which = np.unique(cells.groups, return_inverse=True)
    types = given.shape[-1]
    found = np.zeros((which.max() + 1, types, types), np.int64)
    np.add.at(found, (which, cells.labels, given.argmax(-1)), 1)
    return found


def _curve(problem: adapting.Problem, cells: Labeled) -> list[tuple[float, float]]:
    """Returns (labels, macro recall) of layers fitted to parts of the cells."""
    part = adapting.folds(cells.labels, cells.groups)
    points = []
    for share in PARTS:
        scores = []
        for draw in range(_DRAWS):
            rng = np.random.default_rng(draw)
            logits = np.zeros((len(cells), problem.types))
            for k in np.unique(part):
                rest = rng.permutation(np.flatnonzero(part != k))
                some = rest[: round(share * len(rest))]
                if len(some) < 2:
                    return points
                logits[part == k] = problem.type_logits(cells.take(some), cells.features[part == k])
            scores.append(float(metrics.macro_recall(_confusions(cells, logits).sum(0))))
        points.append((share * len(cells), float(np.mean(scores))))
    return points


def expected(curve: Sequence[tuple[float, float]]) -> float | None:
    """Returns the macro recall to expect of twice as many labels as the last point has.

    The error is taken to fall with a power of the number of labels, fitted to the points by least
    squares and never rising; None for fewer than three points.
    """
    if len(curve) < 3:
        return None
    sizes, recalls = np.array(curve).T
    errors = np.maximum(1 - recalls, 1e-3)
    slope = min(float(np.polyfit(np.log(sizes), np.log(errors), 1)[0]), 0.0)
    return float(1 - (1 - recalls[-1]) * 2**slope)


def describe(found: Outcome) -> str:
    """Returns the outcome as text: scores before and after with intervals, and what to do next."""
    cells = int(found.after.sum())
    lines = [
        f"{cells} corrected cells in {len(found.after)} images, each held back once "
        "(95 % intervals, by image)",
        f"{'':24}{'before':>22}{'after':>22}",
    ]
    for name, metric in (
        ("macro recall", metrics.macro_recall),
        ("accuracy", metrics.global_accuracy),
    ):
        lines.append(f"{name:24}" + "".join(score(metric, c) for c in (found.before, found.after)))
    for k, name in enumerate(found.types):
        count = int(found.after.sum(0)[k].sum())
        if count:
            shares = (f"{int(c.sum(0)[k, k])} of {count}" for c in (found.before, found.after))
            lines.append(f"{name:24}" + "".join(f"{share:>22}" for share in shares))
    errors = (found.error_before, found.error_after)
    lines.append(f"{'calibration error':24}" + "".join(f"{one:22.3f}" for one in errors))
    low, high = np.full(2, np.nan)
    if len(found.after) > 1:
        low, high = metrics.bootstrap_sums_difference(
            metrics.macro_recall, found.after, found.before
        )
    lines += [
        f"gain in macro recall: {found.gain:+.3f} {tables.interval(low, high)}".rstrip(),
        f"macro recall of cells of the training, which the gate was fitted without: "
        f"{-100 * found.adapted.forgotten:+.1f} points",
        _next(found),
    ]
    return "\n".join(lines)


def score(metric: Callable[[np.ndarray], Any], confusions: np.ndarray) -> str:
    """Returns a score and its interval by image as a column of `describe`.

    Args:
        metric: maps confusions `[..., K, K]` to scores.
        confusions: `[images, K, K]`.
    """
    ends = metrics.bootstrap_sums(metric, confusions) if len(confusions) > 1 else (np.nan, np.nan)
    return column(float(metric(confusions.sum(0))), *ends)


def column(value: float, low: float, high: float) -> str:
    """Returns a number and its interval, if there is one, as a column of `describe`."""
    return f"{value:.3f} {tables.interval(low, high)}".rstrip().rjust(22)


def _next(found: Outcome) -> str:
    """Says which types to correct next: first those with no label, then those most often wrong."""
    total = found.after.sum(0)
    counts, right = total.sum(1), total.diagonal()
    # As if one cell more were wrong, so that a type with two right labels is no finished one.
    errors = (counts - right + 1) / (counts + 1)
    order = sorted(range(len(counts)), key=lambda k: (counts[k] > 0, -errors[k]))[:_NEXT]
    wanted = " and ".join(
        f"{max(10, int(counts[k]))} {found.types[k]}s (now {right[k]} of {counts[k]} right)"
        for k in order
    )
    text = f"to correct next: {wanted}"
    hoped = expected(found.curve)
    if hoped is None:
        return text
    last = found.curve[-1][1]
    known = ", ".join(f"{recall:.3f} with {size:.0f}" for size, recall in found.curve)
    return (
        f"{text}; twice as many labels may give {hoped - last:+.3f} macro recall "
        f"(learning curve: {known})"
    )
