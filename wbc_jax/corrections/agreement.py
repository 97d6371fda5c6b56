"""How far two reviewers agree on the types of the cells that both have seen."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np

from wbc_jax import metrics
from wbc_jax.corrections.cells import Results
from wbc_jax.corrections.state import State
from wbc_jax.errors import InputError
from wbc_jax.report import tables


@dataclasses.dataclass(frozen=True, slots=True)
class Agreement:
    """How far two reviewers agree.

    Attributes:
        one, other: their names.
        types: the types that either used, in the order of `State.types`.
        confusion: int64 `[C, C]`, rows the types of the first, columns those of the other.
        only_one, only_other: numbers of cells that only one of them has typed.
        kappa: Cohen's κ.
        interval: its 95 % bootstrap interval, by image; NaN for fewer than two images.
        differ: index, first's type and other's type of each cell on which they differ.
    """

    one: str
    other: str
    types: list[str]
    confusion: np.ndarray
    only_one: int
    only_other: int
    kappa: float
    interval: tuple[float, float]
    differ: list[tuple[int, str, str]]


def between(results: Results, state: State, one: str, other: str) -> Agreement:
    """Compares two reviewers, cell by cell.

    Args:
        results: the folder's.
        state: what is said of its cells.
        one, other: names of reviewers.
    """
    first, second = (
        {index: said.type for index, said in state.said(name).items() if said.type}
        for name in (one, other)
    )
    both = sorted(first.keys() & second.keys())
    used = {words[index] for words in (first, second) for index in both}
    types = [name for name in state.types() if name in used]
    place = {name: i for i, name in enumerate(types)}
    images = {file: n for n, file in enumerate(sorted({results.cells[i].file for i in both}))}
    per_image = np.zeros((len(images), len(types), len(types)), np.int64)
    for index in both:
        image = images[results.cells[index].file]
        per_image[image, place[first[index]], place[second[index]]] += 1
    confusion = per_image.sum(0)
    ends = (np.nan, np.nan)
    if len(images) > 1:
        ends = metrics.bootstrap_sums(metrics.cohens_kappa, per_image)
    return Agreement(
        one,
        other,
        types,
        confusion,
        len(first) - len(both),
        len(second) - len(both),
        float(metrics.cohens_kappa(confusion)) if types else float("nan"),
        (float(ends[0]), float(ends[1])),
        [(i, first[i], second[i]) for i in both if first[i] != second[i]],
    )


def report(results: Results, state: State) -> str:
    """Returns the agreement of each two reviewers as text.

    Raises:
        InputError: fewer than two reviewers have typed cells.
    """
    typed = [name for name in state.reviewers if any(s.type for s in state.said(name).values())]
    if len(typed) < 2:
        there = f"only {typed[0]} has" if typed else "nobody has"
        raise InputError(
            f"{there} said the type of a cell of {results.path}; for an agreement two people "
            "review it, each with an own --reviewer=NAME."
        )
    pairs = itertools.combinations(typed, 2)
    return "\n\n".join(describe(results, between(results, state, *pair)) for pair in pairs)


def describe(results: Results, found: Agreement) -> str:
    """Returns an agreement as text: κ, the confusion, and the cells on which the two differ."""
    cells, same = int(found.confusion.sum()), int(np.trace(found.confusion))
    lines = [
        f"{found.one} and {found.other}: {cells} cells typed by both; {found.only_one} only by "
        f"{found.one}, {found.only_other} only by {found.other}"
    ]
    if not cells:
        return lines[0]
    share = metrics.proportion(same, cells)
    lines += [
        f"same type: {same} of {cells}, {tables.percent(share['value'])} "
        f"{tables.interval(*share['interval'], tables.percent)}",
        f"Cohen's kappa: {tables.decimal(found.kappa)} {tables.interval(*found.interval)}".rstrip(),
        "",
        tables.confusion_table(
            found.confusion.tolist(), found.types, f"{found.one} \\ {found.other}"
        ),
    ]
    if found.differ:
        lines += ["", "they differ on:"]
    for index, first, second in found.differ:
        cell = results.cells[index]
        lines.append(f"  {cell.file}, cell {cell.cell}: {first}, {second}")
    return "\n".join(lines)
