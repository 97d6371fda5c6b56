"""The order of a review: the most informative cells first."""

import numpy as np
import pytest

from wbc_jax.corrections import order


def rows(*given):
    return [{"review": review, "probability": probability} for review, probability in given]


def test_unsure_then_unlike_then_by_probability():
    found = rows(
        ("", 0.99), ("unlike_training", 0.97), ("low_probability", 0.6), ("", 0.8),
        ("low_probability;unlike_training", 0.4), ("unlike_training", 0.95), (None, None),
    )  # fmt: skip
    assert order.informative(found) == [4, 2, 5, 1, 6, 3, 0]


def test_the_rest_is_spread_over_embeddings():
    # On a line: the unsure cell at 0; then the farthest from all before, by hand.
    places = np.array([[0.0], [1.0], [10.0], [9.0], [4.0]])
    found = rows(("low_probability", 0.5), ("", 0.6), ("", 0.9), ("", 0.7), ("", 0.8))
    assert order.informative(found, places) == [0, 2, 4, 1, 3]
    # Without unsure cells the least probable begins.
    assert order.informative(found[1:], places[1:]) == [0, 1, 3, 2]


def test_only_the_first_are_spread(monkeypatch):
    monkeypatch.setattr(order, "MOST_SPREAD", 2)
    places = np.array([[0.0], [1.0], [10.0], [5.0]])
    assert order.informative(rows(*[("", p) for p in (0.5, 0.6, 0.9, 0.7)]), places) == [0, 2, 1, 3]


def test_each_cell_has_an_embedding():
    with pytest.raises(ValueError, match=r"\[1, 3\]; they must be \[2, D\]"):
        order.informative(rows(("", 0.5), ("", 0.6)), np.zeros((1, 3)))


def test_types_take_turns_and_sure_cells_alternate_with_unsure_ones():
    found = [
        {"best_guess": kind, "probability": p}
        for kind, p in [("b", 0.9), ("a", 0.3), ("b", 0.5), ("b", 0.7), ("b", 0.6), ("a", 0.8)]
    ]
    found.append({"best_guess": None, "probability": None})
    # None: 6. a: 1 (.3), 5 (.8). b: 2 (.5), 0 (.9), 4 (.6), 3 (.7).
    assert order.in_turns(found) == [6, 1, 2, 5, 0, 4, 3]
    assert order.in_turns([]) == []
