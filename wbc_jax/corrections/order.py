"""The order in which cells are offered for review: the most informative first."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wbc_jax.inference.abstention import LOW, UNLIKE

MOST_SPREAD = 1000
"""Most cells that are spread over the embeddings; nobody reviews more."""


def informative(
    rows: Sequence[Mapping[str, Any]], embeddings: np.ndarray | None = None
) -> list[int]:
    """Returns the cells' places, the most informative first.

    First come those that the classifier is not sure of, then those that are unlike its training
    images, each by rising probability. The others follow by rising probability; or, where there are
    embeddings, spread over them: always the one that is farthest from all cells before it
    (Gonzalez, "Clustering to minimize the maximum intercluster distance", 1985), which covers the
    kinds of cells with few of them. After `MOST_SPREAD` of these, the rest follows by probability.

    Args:
        rows: with `review` and `probability`, as in `cells.csv`.
        embeddings: float `[N, D]`, one a row; None if they are not known.

    Raises:
        ValueError: there is not one embedding a row.
    """
    if embeddings is not None and (embeddings.ndim != 2 or len(embeddings) != len(rows)):
        raise ValueError(f"embeddings are {list(embeddings.shape)}; they must be [{len(rows)}, D].")

    def group(row: Mapping[str, Any]) -> int:
        reasons = (row["review"] or "").split(";")
        return 0 if LOW in reasons else 1 if UNLIKE in reasons else 2

    keys = [(group(row), _probability(row), i) for i, row in enumerate(rows)]
    keys.sort()
    first = [i for key, _, i in keys if key < 2]
    rest = [i for key, _, i in keys if key == 2]
    if embeddings is None:
        return first + rest
    return first + _spread(np.asarray(embeddings, np.float32), first, rest)


def in_turns(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    """Returns the cells' places in an order in which few labels teach a classifier
    (`wbc_jax.adapt`).

    The best guesses take turns, so that rare types are not missed; within one, the least and the
    most probable cells alternate, as the unsure ones alone would not show what is typical.
    docs/adapt.md has the orders measured.

    Args:
        rows: with `best_guess` and `probability`, as in `cells.csv`.
    """
    kinds: dict[str, list[int]] = {}
    for i in sorted(range(len(rows)), key=lambda i: (_probability(rows[i]), i)):
        kinds.setdefault(rows[i]["best_guess"] or "", []).append(i)
    queues = []
    for _, own in sorted(kinds.items()):
        half = (len(own) + 1) // 2
        both = itertools.zip_longest(own[:half], own[half:][::-1])
        queues.append([i for pair in both for i in pair if i is not None])
    turns = itertools.zip_longest(*queues)
    return [i for turn in turns for i in turn if i is not None]


def _probability(row: Mapping[str, Any]) -> float:
    value = row["probability"]
    return 0.0 if value is None or value != value else float(value)


def _spread(embeddings: np.ndarray, taken: Sequence[int], rest: Sequence[int]) -> list[int]:
    """Orders `rest` so that each is the farthest from `taken` and from those before it."""
    left = np.array(rest, np.int64)
    if not len(left):
        return []
    points = embeddings[left]
    nearest = np.full(len(left), np.inf, np.float32)
    for index in taken:
        nearest = np.minimum(nearest, ((points - embeddings[index]) ** 2).sum(1))
    chosen: list[int] = []
    for _ in range(min(len(left), MOST_SPREAD)):
        place = int(nearest.argmax())  # the first of equals: the least probable
        chosen.append(place)
        nearest = np.minimum(nearest, ((points - points[place]) ** 2).sum(1))
        nearest[chosen] = -1
    others = sorted(set(range(len(left))) - set(chosen))
    return [int(left[place]) for place in chosen + others]
