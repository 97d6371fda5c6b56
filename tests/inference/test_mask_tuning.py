"""Fine-tuning of a segmenter with corrected masks, on drawn cells and a tiny network."""

import dataclasses

import jax
import numpy as np
import pytest

from helpers import tuned_masks
from wbc_jax.inference import mask_tuning
from wbc_jax.inference.mask_tuning import Scores, Tuner, Windows
from wbc_jax.labels import IGNORE


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        tuned_masks.make_quick(patch)
        yield


@pytest.fixture(scope="module")
def model():
    return tuned_masks.segmenter()


@pytest.fixture(scope="module")
def cells():
    return tuned_masks.windows(9)


@pytest.fixture(scope="module")
def tuner(model):
    return Tuner(model, mask_tuning.STEPS, share=1.0)


def test_it_learns_what_is_held_back(model, cells, tuner):
    found = mask_tuning.tune(model, cells, tuner)
    assert found.before.mean_iou == mask_tuning.score(model, cells).mean_iou < 0.4
    assert found.after.mean_iou > found.before.mean_iou + 0.2
    assert found.gain == pytest.approx(found.after.mean_iou - found.before.mean_iou)
    assert np.mean(tuner.losses[-5:]) < np.mean(tuner.losses[:5])
    # The old model is as it was.
    assert mask_tuning.score(model, cells).mean_iou == found.before.mean_iou
    assert found.forgotten == pytest.approx(
        found.drawn_before.mean_iou - found.drawn_after.mean_iou
    )


def test_each_is_held_back_with_its_image(model, cells, monkeypatch):
    trained, tuner = [], Tuner(model, 1)
    monkeypatch.setattr(tuner, "train", lambda own: trained.append(own) or model)
    scored = []
    monkeypatch.setattr(
        mask_tuning,
        "score",
        lambda m, own, real=mask_tuning.score: scored.append(own) or real(m, own),
    )
    groups = [0, 0, 0, 1, 1, 2, 3, 4, 5]
    own = Windows(cells.images, cells.truths, groups)
    found = mask_tuning.tune(model, own, tuner)
    assert mask_tuning.trainings(own) == len(trained) == 4
    for kept, held in zip(trained[:3], scored[1:4]):
        assert not set(kept.groups) & set(held.groups)
        assert sorted([*kept.groups, *held.groups]) == groups
    assert len(trained[3]) == 9
    # A model that was not trained: each score is in the place of its window.
    assert (found.after.confusions == found.before.confusions).all()


def test_unlabelled_pixels_have_no_gradient(model, cells, tuner):
    none = [np.full_like(truth, IGNORE) for truth in cells.truths]
    first = tuner.train(Windows(cells.images, none, cells.groups))
    other = Windows([255 - image for image in cells.images], none, cells.groups)
    second = tuner.train(other)
    for one, two in zip(*map(jax.tree.leaves, (first.weights, second.weights))):
        np.testing.assert_array_equal(one, two)
    third = tuner.train(cells)  # labels make a difference
    assert any(
        (one != two).any()
        for one, two in zip(*map(jax.tree.leaves, (first.weights, third.weights)))
    )


def test_a_share_of_the_way(model, cells, tuner, monkeypatch):
    whole = tuner.train(cells).weights
    monkeypatch.setattr(tuner, "share", 0.5)
    ends = [whole, tuner.train(cells).weights, model.weights]
    for one, middle, old in zip(*map(jax.tree.leaves, ends)):
        np.testing.assert_allclose(middle, (np.asarray(one) + old) / 2, rtol=1e-4, atol=1e-5)


def test_the_program_is_shared(model):
    zero = model.with_weights(jax.tree.map(np.zeros_like, model.weights))
    image = tuned_masks.windows(1).images[0]
    assert not zero.predict(image).mask.any()  # equal logits: the first class
    assert model.predict(image).mask.any()
    assert zero._outputs is model._outputs


def test_scores():
    truth = np.zeros((12, 12), np.uint8)
    truth[2:10, 2:10], truth[4:8, 4:8] = 1, 2  # 48 and 16 px
    truth[:, 11] = IGNORE
    mask = np.where(truth == IGNORE, 2, truth).astype(np.uint8)
    mask[4:8, 4:6] = 1  # 56 and 8 px

    class Fixed:
        def predict(self, images):
            return [dataclasses.make_dataclass("P", ["mask"])(mask) for _ in images]

    found = mask_tuning.score(Fixed(), Windows([None], [truth], [0]))
    assert found.confusions[0].tolist() == [[68, 0, 0], [0, 48, 0], [0, 8, 8]]
    assert found.errors == pytest.approx(abs((8 / 56) / (16 / 48) - 1))
    assert found.mean_iou == pytest.approx(np.mean([1, 48 / 56, 0.5]))
    none = Scores(found.confusions, np.array([np.nan]))
    assert np.isnan(none.nc_error)
    assert Scores(found.confusions, np.array([0.1, np.nan, np.inf])).nc_error == np.inf
