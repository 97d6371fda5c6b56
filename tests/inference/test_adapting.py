"""A laboratory's layer, on Gaussian types."""

import dataclasses

import numpy as np
import pytest
import scipy.special
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from wbc_jax.inference import abstention_fitting, adapting
from wbc_jax.inference.abstention import Outputs
from wbc_jax.inference.adapting import Labeled, Problem
from wbc_jax.inference.replay import Replay

MEANS = 4 * np.eye(5, 8)
MOVED = np.array([0, 3.0, 0, 0, -3.0, 0, 0, 9])
"""The laboratory's shift: from neutrophil toward eosinophil, and along a direction of its own."""


def draw(each, seed, moved=MOVED):
    """Returns features `[5 each, 8]`, the old logits and the labels."""
    labels = np.repeat(np.arange(5), each)
    features = MEANS[labels] + moved + np.random.default_rng(seed).normal(size=(len(labels), 8))
    return features, features @ (MEANS - MEANS.mean(0)).T, labels


def cells(each, seed, moved=MOVED):
    features, logits, labels = draw(each, seed, moved)
    outputs = Outputs(logits.astype(np.float32), features[:, :6].astype(np.float32))
    return Labeled(features, outputs, labels, np.arange(len(labels)))


@pytest.fixture(scope="module")
def replay():
    features, logits, labels = draw(60, 0, 0)
    return Replay(features, logits, labels, np.repeat(["a", "b"], 150))


@pytest.fixture(scope="module")
def problem(replay):
    return Problem(replay, 5)


def accuracy(layer, one):
    logits = adapting.mixed_logits(one.outputs.logits, layer.of(one.features))
    return (logits.argmax(-1) == one.labels).mean()


def test_the_laboratory_is_learned_and_the_training_kept(problem):
    away, home, given = cells(200, 1), cells(200, 2, 0), cells(20, 3)
    found = problem.adapt(given)
    before = [(one.outputs.logits.argmax(-1) == one.labels).mean() for one in (away, home)]
    assert before[0] < 0.85 and before[1] > 0.98
    assert accuracy(found.layer, away) > 0.97
    assert accuracy(found.layer, home) >= before[1] - 0.005
    assert abs(found.forgotten) <= 0.01 and found.taken > 0.97
    assert (found.held_back.argmax(-1) == given.labels).mean() > 0.95
    # Calibrated: the mean probability of the given types is about their accuracy.
    sure = scipy.special.softmax(found.held_back, -1).max(-1).mean()
    assert sure == pytest.approx((found.held_back.argmax(-1) == given.labels).mean(), abs=0.06)


def test_a_laboratory_like_the_training_changes_little(problem):
    home = cells(200, 2, 0)
    found = problem.adapt(cells(10, 4, 0))
    before = (home.outputs.logits.argmax(-1) == home.labels).mean()
    assert accuracy(found.layer, home) == pytest.approx(before, abs=0.01)
    assert found.taken < 0.2


def test_wrong_labels_do_not_reach_the_training(problem):
    one = cells(10, 5)
    wrong = dataclasses.replace(one, labels=(one.labels + 1) % 5)
    layer = problem.adapt(wrong).layer
    assert accuracy(layer, cells(200, 2, 0)) > 0.97
    assert accuracy(layer, cells(200, 1)) < 0.1


def test_a_type_of_ones_own(replay):
    one = cells(12, 6)
    bands = np.zeros(8)
    bands[[4, 5]] = 4, 5  # like a neutrophil, but for one more feature
    features, labels = one.features.copy(), one.labels.copy()
    features[-6:] += bands - MEANS[4]
    labels[-6:] = 5
    problem = Problem(replay, 6)
    layer = problem.adapt(dataclasses.replace(one, features=features, labels=labels)).layer
    new = cells(50, 7)
    new.features[-25:] += bands - MEANS[4]
    given = adapting.mixed_logits(new.outputs.logits, layer.of(new.features)).argmax(-1)
    assert (given[-25:] == 5).mean() > 0.8 and (given[-50:-25] == 4).mean() > 0.8
    home = cells(50, 8, 0)
    kept = adapting.mixed_logits(home.outputs.logits, layer.of(home.features)).argmax(-1)
    assert (kept == 5).sum() == 0


def test_a_type_without_a_label_follows_the_shift_of_the_others(problem):
    one = cells(20, 9)
    layer = problem.fit(one.take(one.labels != 2))
    away = cells(100, 10)
    own = layer.of(away.features)[away.labels == 2, :-1]
    assert (own.argmax(-1) == 2).mean() > 0.95


def test_the_types_are_those_of_an_independent_discriminant(monkeypatch, replay):
    monkeypatch.setattr(adapting, "PRIOR_CELLS", 0)
    monkeypatch.setattr(adapting, "PRIOR_MEAN", 0.0)
    monkeypatch.setattr(adapting, "SHRINKAGE", 0.0)
    one = cells(20, 11)
    own = Problem(replay, 5).fit(one).of(one.features)[:, :-1]
    other = LinearDiscriminantAnalysis(solver="lsqr").fit(one.features, one.labels)
    given = scipy.special.softmax(own, -1)
    np.testing.assert_allclose(given, other.predict_proba(one.features), atol=2e-3)


def test_the_gate_is_that_of_an_independent_program():
    rng = np.random.default_rng(0)
    own, known = rng.normal(size=(20, 4)) + 1, rng.normal(size=(60, 4))
    kernel, bias = adapting.fit_gate(own, known)
    other = LogisticRegression(C=1 / adapting._RIDGE, tol=1e-8, class_weight="balanced").fit(
        np.concatenate([own, known]), np.repeat([1, 0], [20, 60])
    )
    np.testing.assert_allclose(kernel, other.coef_[0], atol=1e-3)
    assert bias == pytest.approx(other.intercept_[0], abs=1e-3)


def test_mixed_probabilities():
    logits, own = np.array([[1.0, 2.0]]), np.array([[0.5, -0.5, 1.5, 0.3]])
    gate = 1 / (1 + np.exp(-0.3))
    old = np.append(scipy.special.softmax(logits[0]), 0)
    expected = gate * scipy.special.softmax(own[0, :-1]) + (1 - gate) * old
    found = scipy.special.softmax(adapting.mixed_logits(logits, own), -1)
    np.testing.assert_allclose(found, expected[None], atol=1e-6)


def test_folds_keep_images_whole_and_types_even():
    groups = np.repeat(np.arange(30), 4)
    labels = np.tile([0, 0, 1, 2], 30)
    part = adapting.folds(labels, groups)
    assert all(len(set(part[groups == g])) == 1 for g in range(30))
    for k in range(3):
        assert np.bincount(labels[part == k]).tolist() == [20, 10, 10]
    assert sorted(np.bincount(adapting.folds(labels[:7], [0] * 7))) == [2, 2, 3]


def test_held_back_cells_are_not_learned(problem, monkeypatch):
    one, fitted, typed = cells(8, 12), [], []

    class Spy(adapting.Layer):
        def of(self, features):
            typed.append(features)
            return super().of(features)

    def fit(self, given, known=None):
        fitted.append(given)
        layer = true_fit(self, given, known)
        return Spy(layer.kernel, layer.bias)

    true_fit = Problem.fit
    monkeypatch.setattr(Problem, "fit", fit)
    problem.adapt(one)
    assert [len(given) for given in fitted[:-1]] == [40 - len(own) for own in typed[::2]]
    for given, own in zip(fitted[:-1], typed[::2]):
        assert not {*given.features[:, 0]} & {*own[:, 0]}
    assert len(fitted[-1]) == 40


def test_the_rule_knows_the_laboratory():
    features, logits, labels = draw(60, 13, 0)
    home = Outputs(logits.astype(np.float32), features[:, :6].astype(np.float32))
    seen = abstention_fitting.learn(home, labels, ["home"] * 300)
    rule = abstention_fitting.fit(home, labels, 0.05, seen)
    one = cells(20, 14, 2 * MOVED)
    new = adapting.seen_too(seen, one)
    assert new.counts is None and len(new.own.centers) == 10
    far, near = (each.distance(one.outputs.embeddings).mean() for each in (seen, new))
    assert near < far - 1
    held_back = np.eye(5)[one.labels] * 5
    found = adapting.refit_rule(rule, one, held_back)
    given = Outputs(held_back, one.outputs.embeddings)
    other = abstention_fitting.fit(given, one.labels, rule.share, new)
    assert found.temperature == other.temperature and found.images == 100
    assert found.most_unlike >= rule.most_unlike
    few = one.take(np.arange(0, 100, 10))
    kept = adapting.refit_rule(rule, few, held_back[::10])
    assert (kept.temperature, kept.images) == (rule.temperature, 300)
