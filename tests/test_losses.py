"""wbc_jax.losses: hand-computed values, scikit-learn's log loss, ignored pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from sklearn import metrics as oracle

from wbc_jax import config as config_lib
from wbc_jax import losses

LOSSES = {"cross_entropy": losses.cross_entropy, "dice": losses.dice}


def random_batch(batch=3, height=5, width=4, classes=3):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (batch, height, width, classes)).astype(np.float32)
    return logits, rng.integers(0, classes, (batch, height, width)).astype(np.uint8)


def test_cross_entropy_by_hand():
    # Every pixel is given (1/4, 1/4, 1/2); the truth is 0, 1, 2.
    logits = jnp.log(jnp.tile(jnp.array([0.25, 0.25, 0.5]), (1, 1, 3, 1)))
    loss = losses.cross_entropy(logits, jnp.array([[[0, 1, 2]]], jnp.uint8))
    np.testing.assert_allclose(loss, [5 / 3 * np.log(2)], rtol=1e-6)


def test_cross_entropy_equals_scipy_and_scikit_learn():
    logits, masks = random_batch()
    loss = losses.cross_entropy(logits, masks)
    assert loss.shape == (3,) and loss.dtype == jnp.float32
    for ours, image, mask in zip(loss, logits.astype(np.float64), masks):
        logp = np.take_along_axis(special.log_softmax(image, -1), mask[..., None].astype(int), -1)
        np.testing.assert_allclose(ours, -logp.mean(), rtol=1e-5)
        probabilities = special.softmax(image, -1).reshape(-1, 3)
        theirs = oracle.log_loss(mask.ravel(), probabilities, labels=[0, 1, 2])
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_cross_entropy_gradient_is_softmax_minus_truth():
    logits, masks = random_batch()
    gradient = jax.grad(lambda x: losses.cross_entropy(x, masks).sum())(logits)
    expected = (special.softmax(logits, -1) - np.eye(3)[masks]) / (5 * 4)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_cross_entropy_stays_finite_for_large_logits():
    logits = jnp.array([[[[1e4, -1e4, 0.0]]]])
    assert losses.cross_entropy(logits, jnp.array([[[1]]]))[0] == 2e4
    assert losses.cross_entropy(logits, jnp.array([[[0]]]))[0] == 0


def test_dice_by_hand():
    # Pixel A is given (3/4, 1/4), pixel B (1/4, 3/4); the truth is 0, 1. For either class
    # 2 Σ p t = 3/2 and Σ p + Σ t = 2.
    logits = jnp.log(jnp.array([[[[0.75, 0.25], [0.25, 0.75]]]]))
    masks = jnp.array([[[0, 1]]], jnp.uint8)
    np.testing.assert_allclose(losses.dice(logits, masks), [1 - (1.5 + 1) / (2 + 1)], rtol=1e-6)
    np.testing.assert_allclose(losses.dice(logits, masks, smooth=0.0), [1 / 4], rtol=1e-6)
    # A class that is neither there nor predicted adds a 0 to the mean.
    three = jnp.pad(logits, ((0, 0),) * 3 + ((0, 1),), constant_values=-1e9)
    np.testing.assert_allclose(losses.dice(three, masks), [2 / 3 * 1 / 6], rtol=1e-6)


def test_dice_of_certain_answers():
    masks = np.array([[[0, 1], [2, 2]]], np.uint8)
    right = 1e3 * np.eye(3, dtype=np.float32)[masks]
    np.testing.assert_allclose(losses.dice(right, masks), [0], atol=1e-6)
    wrong = 1e3 * np.eye(3, dtype=np.float32)[(masks + 1) % 3]
    # True pixels 1, 1, 2 and predicted ones 2, 1, 1: no overlap.
    np.testing.assert_allclose(losses.dice(wrong, masks), [1 - (1 / 4 + 1 / 3 + 1 / 4) / 3], 1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_ignored_pixels_leave_value_and_gradient(name):
    logits, masks = random_batch()
    masks[:, :2] = 255
    value = LOSSES[name](logits, masks)
    # The value is that of the image without its ignored rows, ...
    np.testing.assert_allclose(value, LOSSES[name](logits[:, 2:], masks[:, 2:]), rtol=1e-5)
    # ... what the network says there changes nothing, ...
    other = logits.copy()
    other[:, :2] = 50 * other[:, :2] + 7
    np.testing.assert_array_equal(value, LOSSES[name](other, masks))
    # ... and it learns nothing from there, but from everywhere else.
    gradient = np.asarray(jax.grad(lambda x: LOSSES[name](x, masks).sum())(logits))
    assert (gradient[:, :2] == 0).all()
    assert (np.abs(gradient[:, 2:]).max(-1) > 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_image_without_truth_costs_nothing(name):
    logits, masks = random_batch()
    masks[1] = 255
    value, gradient = jax.value_and_grad(lambda x: LOSSES[name](x, masks).sum())(logits)
    per_image = LOSSES[name](logits, masks)
    assert per_image[1] == 0 and (gradient[1] == 0).all()
    assert np.isfinite(value) and np.isfinite(gradient).all()


@pytest.mark.parametrize(("ce", "dice"), [(1.0, 0.0), (0.0, 1.0), (2.0, 0.5), (1.0, 1.0)])
def test_weights_sum(ce, dice):
    logits, masks = random_batch()
    loss = losses.segmentation_loss(config_lib.Loss(cross_entropy=ce, dice=dice), logits, masks)
    expected = ce * losses.cross_entropy(logits, masks) + dice * losses.dice(logits, masks)
    assert loss.shape == (3,)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
