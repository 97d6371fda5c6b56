"""What an adaptation gains on cells held back, and what it says."""

import dataclasses

import numpy as np
import pytest
import scipy.special

from wbc_jax.corrections import adaptation
from wbc_jax.errors import InputError
from wbc_jax.inference import abstention_fitting
from wbc_jax.inference.abstention import Outputs
from wbc_jax.inference.adapting import Labeled
from wbc_jax.inference.replay import Replay
from wbc_jax.labels import CELL_TYPES

MEANS = 4 * np.eye(5, 8)


def cells(each, seed, moved=0.0, per_image=1):
    labels = np.repeat(np.arange(5), each)
    features = MEANS[labels] + moved + np.random.default_rng(seed).normal(size=(len(labels), 8))
    logits = (features @ (MEANS - MEANS.mean(0)).T).astype(np.float32)
    groups = np.arange(len(labels)) // per_image
    return Labeled(features, Outputs(logits, features.astype(np.float32)), labels, groups)


@pytest.fixture(scope="module")
def base():
    """The rule and the replay of the classifier."""
    home = cells(40, 0)
    seen = abstention_fitting.learn(home.outputs, home.labels, ["home"] * 200)
    rule = abstention_fitting.fit(home.outputs, home.labels, 0.05, seen)
    return rule, Replay(home.features, home.outputs.logits, home.labels, np.full(200, "home"))


@pytest.fixture(scope="module")
def away():
    return cells(12, 1, np.array([0, 3.0, 0, 0, -3.0, 0, 0, 6]), 2)


@pytest.fixture(scope="module")
def outcome(base, away):
    before = scipy.special.softmax(away.outputs.logits, -1)
    return adaptation.adapt(*base, away, CELL_TYPES, before)


def test_the_scores_are_those_of_the_cells_held_back(away, outcome):
    for confusions, given in (
        (outcome.before, away.outputs.logits),
        (outcome.after, outcome.adapted.held_back),
    ):
        assert confusions.shape == (30, 5, 5) and confusions.sum() == 60
        assert np.trace(confusions.sum(0)) == (given.argmax(-1) == away.labels).sum()
    recalls = [np.diag(c.sum(0)) / 12 for c in (outcome.after, outcome.before)]
    assert outcome.gain == pytest.approx(recalls[0].mean() - recalls[1].mean())
    assert outcome.gain > 0.05
    assert [size for size, _ in outcome.curve] == [15, 30, 60]


def test_the_text(outcome):
    text = adaptation.describe(outcome)
    assert text.startswith("60 corrected cells in 30 images, each held back once")
    (line,) = (one for one in text.splitlines() if one.startswith("eosinophil"))
    assert line.split()[1:] == [str(int(outcome.before.sum(0)[1, 1])), "of", "12",
                                str(int(outcome.after.sum(0)[1, 1])), "of", "12"]  # fmt: skip
    assert f"gain in macro recall: {outcome.gain:+.3f} [" in text
    kept = "macro recall of cells of the training, which the gate was fitted without: "
    assert f"{kept}{-100 * outcome.adapted.forgotten:+.1f} points" in text
    assert "to correct next: " in text and "twice as many labels may give" in text


def test_types_without_a_label_come_first(outcome):
    after = outcome.after.copy()
    after[:, 3] = 0
    after[:, 0], after[:, 0, 1] = 0, outcome.after[:, 0].sum(-1)  # all basophils wrong
    text = adaptation.describe(dataclasses.replace(outcome, after=after)).splitlines()[-1]
    first = "to correct next: 10 monocytes (now 0 of 0 right) and 12 basophils (now 0 of 12 right)"
    assert text.startswith(first)


def test_the_learning_curve_is_continued_by_a_power():
    curve = [(10, 0.6), (20, 0.8), (40, 0.9)]  # the error halves with each doubling
    assert adaptation.expected(curve) == pytest.approx(0.95)
    assert adaptation.expected([(10, 0.9), (20, 0.8), (40, 0.7)]) == pytest.approx(0.7)
    assert adaptation.expected(curve[1:]) is None


def test_types_of_ones_own():
    names = ["monocyte"] * 3 + ["blast"] * 5 + ["band"] * 4 + ["toxic"]
    types, notes = adaptation.types_of(names)
    assert types == (*CELL_TYPES, "blast")
    assert notes == [
        "4 cells said to be 'band': left out, as a type of your own needs 5.",
        "1 cell said to be 'toxic': left out, as a type of your own needs 5.",
    ]


@pytest.mark.parametrize(
    "names, message",
    [
        (["monocyte"] * 3 + ["basophil"], "there are 4 cells with a type to learn from; 5 are the"),
        (["monocyte"] * 4 + ["band"] * 4, "there are 4 cells with a type to learn from"),
        (["monocyte"] * 7, "all 7 cells with a type are monocytes; two types are the least"),
    ],
)
def test_too_few_labels(names, message):
    with pytest.raises(InputError, match=message):
        adaptation.check(names, adaptation.types_of(names)[0])
