"""wbc_jax.training.losses: hand-computed values, PyTorch, MONAI, ignored pixels, large logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from sklearn import metrics as oracle

from wbc_jax.config import Loss
from wbc_jax.training import losses

# For masks and for cell types; then for masks alone.
POSITIONAL = {
    "cross_entropy": losses.cross_entropy,
    "smoothed": lambda logits, truth: losses.cross_entropy(logits, truth, smoothing=0.1),
    "binary_cross_entropy": losses.binary_cross_entropy,
    "focal": losses.focal,
    "focal_below_one": lambda logits, truth: losses.focal(logits, truth, 0.5),
    "binary_focal": lambda logits, truth: losses.binary_focal(logits, truth, alpha=0.25),
}
LOSSES = POSITIONAL | {"dice": losses.dice, "generalised_dice": losses.generalized_dice}


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
    # ... the logits of ignored pixels change nothing, ...
    other = logits.copy()
    other[:, :2] = 50 * other[:, :2] + 7
    np.testing.assert_array_equal(value, LOSSES[name](other, masks))
    # ... their gradient is zero, and that of all other pixels is not.
    gradient = np.asarray(jax.grad(lambda x: LOSSES[name](x, masks).sum())(logits))
    assert (gradient[:, :2] == 0).all()
    assert (np.abs(gradient[:, 2:]).max(-1) > 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_image_without_truth_has_no_loss(name):
    logits, masks = random_batch()
    masks[1] = 255
    value, gradient = jax.value_and_grad(lambda x: LOSSES[name](x, masks).sum())(logits)
    per_image = LOSSES[name](logits, masks)
    assert per_image[1] == 0 and (gradient[1] == 0).all()
    assert np.isfinite(value) and np.isfinite(gradient).all()


def test_focal_by_hand():
    # The true class is given 1/4, then 1/2: −(3/4)² log(1/4), −(1/2)² log(1/2).
    logits = jnp.log(jnp.tile(jnp.array([0.25, 0.25, 0.5]), (1, 1, 2, 1)))
    masks = jnp.array([[[0, 2]]], jnp.uint8)
    expected = (9 / 16 * 2 + 1 / 4) * np.log(2) / 2
    np.testing.assert_allclose(losses.focal(logits, masks), [expected], rtol=1e-6)
    alpha = jnp.array([2.0, 5.0, 0.5])
    expected = (2 * 9 / 16 * 2 + 0.5 / 4) * np.log(2) / 2
    np.testing.assert_allclose(losses.focal(logits, masks, 2.0, alpha), [expected], rtol=1e-6)


def test_binary_losses_by_hand():
    # Sigmoids 3/4, 1/4 and 1/2; the truth is the first class: p_t is 3/4, 3/4, 1/2.
    logits = jnp.array([[np.log(3), -np.log(3), 0.0]])
    truth, log = jnp.array([0]), np.log
    expected = -(2 * log(3 / 4) + log(1 / 2)) / 3
    np.testing.assert_allclose(losses.binary_cross_entropy(logits, truth), [expected], rtol=1e-6)
    expected = -(2 / 16 * log(3 / 4) + 1 / 4 * log(1 / 2)) / 3
    np.testing.assert_allclose(losses.binary_focal(logits, truth), [expected], rtol=1e-6)
    expected = -(0.1 / 16 * log(3 / 4) + 0.9 / 16 * log(3 / 4) + 0.9 / 4 * log(1 / 2)) / 3
    np.testing.assert_allclose(losses.binary_focal(logits, truth, 2.0, 0.1), [expected], rtol=1e-6)


def test_smoothing_by_hand():
    # Targets 0.8 for the true class and 0.1 for the others.
    logits = jnp.log(jnp.array([[0.25, 0.25, 0.5]]))
    loss = losses.cross_entropy(logits, jnp.array([2]), smoothing=0.3)
    np.testing.assert_allclose(loss, [(0.8 + 0.1 * 2 + 0.1 * 2) * np.log(2)], rtol=1e-6)


def test_generalized_dice_by_hand():
    # Three pixels of class 0 and one of class 1, all given (3/4, 1/4): weights 1/9 and 1.
    logits = jnp.tile(jnp.log(jnp.array([0.75, 0.25])), (1, 2, 2, 1))
    masks = jnp.array([[[0, 0], [0, 1]]], jnp.uint8)
    overlap, total = 9 / 4 / 9 + 1 / 4, (3 + 3) / 9 + (1 + 1)
    expected = 1 - 2 * overlap / total
    np.testing.assert_allclose(losses.generalized_dice(logits, masks), [expected], rtol=1e-6)
    # Every class counts the same, however few its pixels.
    sizes = np.repeat([0, 1, 2], [2000, 96, 4])[None, None]
    lost = np.where(sizes == 2, 0, sizes)
    loss = losses.generalized_dice(1e3 * np.eye(3, dtype=np.float32)[lost], sizes)
    assert loss[0] > 0.9


@pytest.mark.parametrize("name", ["focal", "binary_focal"])
def test_a_gamma_of_zero_is_cross_entropy(name):
    logits, masks = random_batch()
    weights = jnp.array([0.5, 2.0, 0.7])
    for w in (None, weights):
        if name == "focal":
            ours, theirs = losses.focal(logits, masks, 0.0, w), losses.cross_entropy
        else:
            ours = losses.binary_focal(logits, masks, 0.0, class_weights=w)
            theirs = losses.binary_cross_entropy
        np.testing.assert_allclose(ours, theirs(logits, masks, w), rtol=1e-6)


def test_an_alpha_of_one_half_halves():
    logits, masks = random_batch()
    half = losses.binary_focal(logits, masks, alpha=0.5)
    np.testing.assert_allclose(half, losses.binary_focal(logits, masks) / 2, rtol=1e-6)


def test_losses_equal_pytorch_and_monai():
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle: pip install torch")
    monai = pytest.importorskip("monai.losses", reason="MONAI is the oracle: pip install monai")
    functional = torch.nn.functional
    logits, masks = random_batch()
    masks[2] = masks[2].clip(max=1)  # lacks a class
    x = torch.tensor(logits.astype(np.float64)).permute(0, 3, 1, 2)
    t = torch.tensor(masks.astype(np.int64))
    hot = functional.one_hot(t, 3).permute(0, 3, 1, 2).double()
    weights = np.array([0.3, 1.0, 1.7], np.float32)

    def check(ours, theirs):
        per_image = theirs.reshape(3, -1).mean(1)
        np.testing.assert_allclose(ours, per_image, rtol=2e-5)

    def focal(**options):
        loss = monai.FocalLoss(reduction="none", **options)(x, hot)
        return loss.sum(1) if options.get("use_softmax") else loss

    w = torch.tensor(weights.astype(np.float64))
    check(
        losses.cross_entropy(logits, masks, weights),
        functional.cross_entropy(x, t, w, reduction="none"),
    )
    check(
        losses.cross_entropy(logits, masks, smoothing=0.2),
        functional.cross_entropy(x, t, reduction="none", label_smoothing=0.2),
    )
    check(
        losses.binary_cross_entropy(logits, masks),
        functional.binary_cross_entropy_with_logits(x, hot, reduction="none"),
    )
    for gamma in (0.5, 2.0, 3.0):
        check(losses.focal(logits, masks, gamma), focal(gamma=gamma, use_softmax=True))
        check(losses.binary_focal(logits, masks, gamma), focal(gamma=gamma))
        check(losses.binary_focal(logits, masks, gamma, 0.25), focal(gamma=gamma, alpha=0.25))
    check(
        losses.focal(logits, masks, 2.0, weights),
        focal(gamma=2.0, use_softmax=True, weight=w, alpha=None),
    )
    dice = monai.DiceLoss(softmax=True, reduction="none", smooth_nr=1.0, smooth_dr=1.0)
    check(losses.dice(logits, masks), dice(x, hot))
    generalized = monai.GeneralizedDiceLoss(
        softmax=True, reduction="none", smooth_nr=0.0, smooth_dr=0.0
    )
    check(losses.generalized_dice(logits, masks), generalized(x, hot))


@pytest.mark.parametrize("name", POSITIONAL)
def test_a_cell_type_is_a_mask_of_one_pixel(name):
    logits, masks = random_batch()
    logits, labels = logits[:, 0, 0], masks[:, 0, 0].astype(np.int32)
    value = POSITIONAL[name](logits, labels)
    as_masks = POSITIONAL[name](logits[:, None, None], labels[:, None, None])
    np.testing.assert_allclose(value, as_masks, rtol=1e-6)
    assert (value > 0).all()
    unknown = POSITIONAL[name](logits, np.array([-1, 255, labels[2]]))
    np.testing.assert_allclose(unknown, [0, 0, value[2]], rtol=1e-6)


def test_class_weights_do_not_cancel_for_cell_types():
    logits, weights = jnp.log(jnp.array([[0.5, 0.5], [0.5, 0.5]])), jnp.array([0.25, 1.75])
    for loss in (losses.cross_entropy, losses.binary_cross_entropy):
        value = loss(logits, jnp.array([0, 1]), weights)
        np.testing.assert_allclose(value[1] / value[0], 7, rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_have_finite_values_and_gradients(name):
    rows = [[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0, 0.0, 0.0], [80.0, -80.0, -80.0]]
    logits = jnp.array(rows)[None, None]
    for true in range(3):
        masks = jnp.full((1, 1, 4), true, jnp.uint8)
        value, back = jax.vjp(lambda x, t=masks: LOSSES[name](x, t), logits)
        (gradient,) = back(jnp.ones(1))
        assert np.isfinite(value) and np.isfinite(gradient).all(), (name, true)


def test_inverse_frequency_by_hand():
    # 1/n is 1, 1/3 and 1/6, mean 1/2.
    weights = losses.inverse_frequency(np.array([100, 300, 600]))
    np.testing.assert_allclose(weights, [2, 2 / 3, 1 / 3], rtol=1e-6)
    assert weights.dtype == np.float32
    # An absent class is left out of the mean.
    np.testing.assert_allclose(losses.inverse_frequency([4, 0, 12]), [1.5, 1, 0.5], rtol=1e-6)
    np.testing.assert_allclose(losses.inverse_frequency([0, 7]), [1, 1])


@pytest.mark.parametrize("counts", [[0, 0], [3, -1]])
def test_inverse_frequency_of_nothing(counts):
    with pytest.raises(ValueError, match="one must be above 0"):
        losses.inverse_frequency(counts)


W = jnp.array([0.2, 1.0, 1.8])
TERMS = {
    "cross_entropy": lambda x, t: losses.cross_entropy(x, t, W, 0.1),
    "binary_cross_entropy": lambda x, t: losses.binary_cross_entropy(x, t, W),
    "focal": lambda x, t: losses.focal(x, t, 1.5, W),
    "binary_focal": lambda x, t: losses.binary_focal(x, t, 1.5, 0.3, W),
    "dice": losses.dice,
    "generalised_dice": losses.generalized_dice,
}


@pytest.mark.parametrize("chosen", [*([name] for name in TERMS), list(TERMS)], ids="+".join)
def test_weights_sum(chosen):
    logits, masks = random_batch()
    weights = {name: (i + 1) / 4 if name in chosen else 0.0 for i, name in enumerate(TERMS)}
    settings = Loss(
        **weights,
        focal_gamma=1.5,
        focal_alpha=0.3,
        label_smoothing=0.1,
        class_weights="inverse_frequency",
    )
    loss = losses.total(settings, logits, masks, W)
    expected = sum(weights[name] * TERMS[name](logits, masks) for name in chosen)
    assert loss.shape == (3,) and loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_the_default_is_cross_entropy_and_dice():
    logits, masks = random_batch()
    loss = losses.total(Loss(), logits, masks)
    expected = losses.cross_entropy(logits, masks) + losses.dice(logits, masks)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_weights_that_are_asked_for_must_be_given():
    with pytest.raises(ValueError, match="'inverse_frequency', but no class_weights are given"):
        losses.total(Loss(class_weights="inverse_frequency"), *random_batch())
