"""A folder's own statistics, on Gaussian types whose shift is known."""

import types

import numpy as np
import pytest

from wbc_jax.errors import AbstentionError
from wbc_jax.inference import abstention, abstention_fitting, folder_statistics
from wbc_jax.inference.model import Prediction, _typed

SIZE = 16
MEANS = 6 * np.eye(5, SIZE)
KERNEL = (MEANS - MEANS.mean(0)).T.astype(np.float32)
SHIFT = np.where(np.arange(SIZE) < 5, 0.0, 1.5) + np.array([1.5, -1.0] + [0.0] * 14)


def drawn(counts, seed, shift=0.0):
    """Outputs for cells of the five types, `counts` of each, moved by a shift, and their types."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(5), counts)
    embeddings = (MEANS[labels] + rng.normal(size=(len(labels), SIZE)) + shift).astype(np.float32)
    return abstention.Outputs(embeddings @ KERNEL, embeddings), labels


@pytest.fixture(scope="module")
def seen():
    outputs, labels = drawn([400] * 5, 0)
    return abstention_fitting.learn(outputs, labels, ["a"] * 2000)


class Linear:
    """A classifier of which only the last layer is needed."""

    head_kernel = KERNEL

    @staticmethod
    def read(logits, size):
        return _typed(logits)


def predictions(outputs):
    return [Prediction(**one) for one in outputs.each()]


def errors(outputs, labels, folder):
    """The number of cells of another type than the true one."""
    found = [folder_statistics.moved(Linear, one, folder) for one in predictions(outputs)]
    return sum(one.logits.argmax() != label for one, label in zip(found, labels))


def test_balanced_folder_gives_the_shift(seen):
    outputs, _ = drawn([100] * 5, 1, SHIFT)
    found = folder_statistics.estimate(seen, KERNEL, outputs)
    # Each type's weight is 100 / (100 + 10 + 0.2 · 500), times the training's 400 / 410.
    shrunk = 100 / 210 * 400 / 410
    np.testing.assert_allclose(found.shift, shrunk * SHIFT, atol=0.1)
    assert found.cells == 500 and found.used == "folder"
    moved = [folder_statistics.moved(Linear, one, found) for one in predictions(outputs)[:3]]
    for one, embedding in zip(moved, outputs.embeddings):
        np.testing.assert_allclose(one.embedding, embedding - found.shift, rtol=1e-6)
        np.testing.assert_allclose(one.logits, (embedding - found.shift) @ KERNEL, atol=1e-3)
        assert one.label == one.logits.argmax() and one.probabilities.argmax() == one.label


@pytest.mark.parametrize("total", [50, 200, 2000])
def test_a_skewed_count_is_not_taken_for_a_shift(seen, total):
    few = total // 40
    counts = [few] * 4 + [total - 4 * few]  # 90 % neutrophils
    outputs, labels = drawn(counts, 2)
    at_home = folder_statistics.estimate(seen, KERNEL, outputs)
    skew = np.abs(outputs.embeddings.mean(0) - seen.means.mean(0)).max()
    assert np.abs(at_home.shift).max() < 0.1 < 4 < skew
    assert errors(outputs, labels, at_home) <= errors(outputs, labels, folder_statistics.Folder())
    # A true shift is still seen, in its direction and at most as long as it is.
    moved, labels = drawn(counts, 2, SHIFT)
    found = folder_statistics.estimate(seen, KERNEL, moved).shift
    length = found @ SHIFT / (SHIFT @ SHIFT)
    weights = np.array([400 / 410 * n / (n + 10 + 0.2 * total) for n in counts])
    assert length == pytest.approx(np.sqrt(weights[4] * weights[0]), rel=0.25)
    assert found @ SHIFT / np.linalg.norm(found) / np.linalg.norm(SHIFT) > 0.95


def test_the_shift_mends_types(seen):
    """The shift lies toward the eosinophil: without it, most of the folder is taken for one."""
    toward = np.zeros(SIZE)
    toward[1], toward[4] = 3.2, -3.2
    outputs, labels = drawn([100] * 5, 3, toward)
    before = errors(outputs, labels, folder_statistics.Folder())
    after = errors(outputs, labels, folder_statistics.estimate(seen, KERNEL, outputs))
    assert before > 40 and after < before / 5


@pytest.mark.parametrize("only", range(5))
def test_one_type_only_keeps_its_types(seen, only):
    counts = [0] * 5
    counts[only] = 300
    outputs, labels = drawn(counts, 4)
    found = folder_statistics.estimate(seen, KERNEL, outputs)
    np.testing.assert_allclose(found.shift, 0, atol=1e-6)
    assert errors(outputs, labels, found) == errors(outputs, labels, folder_statistics.Folder())


def test_few_cells_stay(seen):
    outputs, _ = drawn([10, 10, 10, 10, 9], 5, SHIFT)
    found = folder_statistics.estimate(seen, KERNEL, outputs)
    assert found.shift is None and found.cells == 49 and found.used == "training"
    assert found.digest() == ""
    (one,) = predictions(outputs.take([0]))
    assert folder_statistics.moved(Linear, one, found) is one
    more, _ = drawn([10] * 5, 5, SHIFT)
    assert folder_statistics.estimate(seen, KERNEL, more).shift is not None


def test_the_same_folder_gives_the_same_bits_and_a_large_one_is_thinned(seen, monkeypatch):
    outputs, _ = drawn([60] * 5, 6, SHIFT)
    first, again = (folder_statistics.estimate(seen, KERNEL, outputs) for _ in range(2))
    assert first.shift.tobytes() == again.shift.tobytes() and first.digest() == again.digest()
    monkeypatch.setattr(folder_statistics, "MOST_CELLS", 100)
    thinned = folder_statistics.estimate(seen, KERNEL, outputs)
    every_third = np.linspace(0, 299, 100).round().astype(int)
    expected = folder_statistics.estimate(seen, KERNEL, outputs.take(every_third))
    assert thinned.cells == 100 and thinned.digest() == expected.digest() != first.digest()


def test_types_of_few_training_images_count_little(seen):
    """The training's mean of a type is off, but it comes from two images."""
    means = seen.means.copy()
    means[0] += 3
    outputs, _ = drawn([40] * 5, 7)
    many = abstention.Seen(means, seen.whitening, np.array([400] * 5))
    few = abstention.Seen(means, seen.whitening, np.array([2, 400, 400, 400, 400]))
    lengths = [
        np.linalg.norm(folder_statistics.estimate(s, KERNEL, outputs).shift) for s in (many, few)
    ]
    assert lengths[1] < 0.3 * lengths[0]


def test_without_statistics_nothing_moves(seen):
    outputs, _ = drawn([20] * 5, 8, SHIFT)
    old = abstention.Seen(seen.means, seen.whitening)
    for rule in (
        None,
        abstention.Rule(1, 0.5, 9, 0.05, 99),
        abstention.Rule(1, 0.5, 9, 0.05, 99, old),
    ):
        assert folder_statistics.known(rule) is None
        found = folder_statistics.estimate_for(Linear, rule, predictions(outputs))
        assert found.cells == 100 and found.shift is None
    rule = abstention.Rule(1, 0.5, 9, 0.05, 99, seen)
    assert folder_statistics.estimate_for(Linear, rule, predictions(outputs)).used == "folder"
    with pytest.raises(AbstentionError, match="of another network"):
        folder_statistics.estimate(old, KERNEL, outputs)
    with pytest.raises(AbstentionError, match="of another network"):
        folder_statistics.estimate(seen, KERNEL[:9], outputs)
    with pytest.raises(ValueError, match="folder_statistics is 'on': allowed are 'auto', 'off'"):
        folder_statistics.check("on")


def test_a_prediction_without_embedding_stays(seen):
    one = types.SimpleNamespace(embedding=None, logits=np.zeros(5))
    folder = folder_statistics.Folder(60, np.ones(SIZE, np.float32))
    assert folder_statistics.moved(Linear, one, folder) is one
