"""Losses: logits and truth → one number per example.

They serve both tasks: masks are `logits [B, H, W, C]` and `truth [B, H, W]`, cell types are
`logits [B, C]` and `truth [B]`. A position is a pixel of a mask, or the whole image of a cell type.
Positions of unknown truth (255 in a mask, -1 as a cell type) are left out of every sum; the loss of
an example without known positions is 0.
"""

import jax
import jax.numpy as jnp
import numpy as np

from wbc_jax.config import Loss
from wbc_jax.labels import IGNORE, UNKNOWN_LABEL


def cross_entropy(
    logits: jax.Array,
    truth: jax.Array,
    class_weights: jax.Array | None = None,
    smoothing: float = 0.0,
) -> jax.Array:
    """Mean categorical cross-entropy over the positions of each example.

    Args:
        logits: float32 `[B, ..., C]`.
        truth: integer `[B, ...]`.
        class_weights: float32 `[C]`; the loss of a position is multiplied by the weight of its
            true class. The mean divides by the number of positions, as in MATLAB and Keras, and not
            by the sum of the weights, as in PyTorch: there the weight of an image with a single
            label would cancel.
        smoothing: ε of label smoothing (Szegedy et al. 2016): the target is 1 − ε + ε/C for the
            true class and ε/C for the others.

    Returns:
        float32 `[B]`.
    """
    target, valid = _one_hot(truth, logits.shape[-1])
    # A product with one-hot targets: a gather is slow on accelerators, and its gradient a scatter.
    logp = jax.nn.log_softmax(logits)
    loss = -(logp * (target * (1 - smoothing) + smoothing / logits.shape[-1])).sum(-1)
    return _mean(loss, target, valid, class_weights)


def binary_cross_entropy(
    logits: jax.Array, truth: jax.Array, class_weights: jax.Array | None = None
) -> jax.Array:
    """Mean binary cross-entropy of each class against the rest, over classes and positions.

    Each class has its own sigmoid: the loss is log(1 + exp(−z)) for the true class and
    log(1 + exp(z)) for the others, as in Keras's `BinaryCrossentropy` and PyTorch's
    `BCEWithLogitsLoss`.

    Args:
        logits: float32 `[B, ..., C]`.
        truth: integer `[B, ...]`.
        class_weights: as in `cross_entropy`.

    Returns:
        float32 `[B]`.
    """
    return binary_focal(logits, truth, 0.0, class_weights=class_weights)


def focal(
    logits: jax.Array,
    truth: jax.Array,
    gamma: float = 2.0,
    class_weights: jax.Array | None = None,
) -> jax.Array:
    """Categorical focal loss, −α (1 − p)^γ log p of the true class (Lin et al. 2017, eq. 5).

    Args:
        logits: float32 `[B, ..., C]`; p is their softmax.
        truth: integer `[B, ...]`.
        gamma: γ; 0 is `cross_entropy`.
        class_weights: α of each class, used as in `cross_entropy`.

    Returns:
        float32 `[B]`, mean over the positions.
    """
    target, valid = _one_hot(truth, logits.shape[-1])
    logp = (jax.nn.log_softmax(logits) * target).sum(-1)
    # log(1 − p) is computed from the other logits: 1 − p itself rounds to 0, where a power below 1
    # has an infinite slope.
    others = jax.nn.logsumexp(jnp.where(target > 0, -jnp.inf, logits), -1)
    log_rest = others - jax.nn.logsumexp(logits, -1)
    return _mean(-jnp.exp(gamma * log_rest) * logp, target, valid, class_weights)


def binary_focal(
    logits: jax.Array,
    truth: jax.Array,
    gamma: float = 2.0,
    alpha: float = 0.0,
    class_weights: jax.Array | None = None,
) -> jax.Array:
    """Focal loss of each class against the rest (Lin et al. 2017, eq. 5).

    −α_t (1 − p_t)^γ log p_t, where for the true class p_t = sigmoid(z) and α_t = α, and for the
    others p_t = sigmoid(−z) and α_t = 1 − α, as in torchvision's `sigmoid_focal_loss`.

    Args:
        logits: float32 `[B, ..., C]`.
        truth: integer `[B, ...]`.
        gamma: γ; 0 is `binary_cross_entropy`.
        alpha: α in (0, 1); 0 means that α_t is 1 for all classes.
        class_weights: as in `cross_entropy`.

    Returns:
        float32 `[B]`, mean over classes and positions.
    """
    target, valid = _one_hot(truth, logits.shape[-1])
    signed = jnp.where(target > 0, logits, -logits)
    # 1 − p_t as exp(−softplus(signed)): the difference itself would lose digits.
    loss = jnp.exp(-gamma * jax.nn.softplus(signed)) * jax.nn.softplus(-signed)
    if alpha:
        loss = loss * jnp.where(target > 0, alpha, 1 - alpha)
    return _mean(loss.mean(-1), target, valid, class_weights)


def dice(logits: jax.Array, masks: jax.Array, smooth: float = 1.0) -> jax.Array:
    """Soft Dice loss (Milletari et al. 2016) of each image, mean over its classes.

    1 − (2 Σ p t + s) / (Σ p + Σ t + s) for each class, with p the softmax and t the one-hot truth.

    Args:
        logits: float32 `[B, H, W, C]`.
        masks: integer `[B, H, W]`.
        smooth: s, in pixels; with it, a class that is neither there nor predicted has loss 0.

    Returns:
        float32 `[B]`.
    """
    overlap, predicted, true = _overlaps(logits, masks)
    return (1 - (2 * overlap + smooth) / (predicted + true + smooth)).mean(-1)


def generalized_dice(logits: jax.Array, masks: jax.Array) -> jax.Array:
    """Generalized Dice loss (Sudre et al. 2017) of each image.

    1 − 2 Σ_c w_c Σ p t / Σ_c w_c (Σ p + Σ t) with w_c = 1 / (Σ t)², over the pixels of the image.
    A class that is absent from the image gets the weight of the rarest one present, as in MONAI's
    `GeneralizedDiceLoss`. The weights are scaled so that the largest is 1: the scale cancels, and
    the quotient needs no smoothing.

    Args:
        logits: float32 `[B, H, W, C]`.
        masks: integer `[B, H, W]`.

    Returns:
        float32 `[B]`.
    """
    overlap, predicted, true = _overlaps(logits, masks)
    rarest = jnp.where(true > 0, true, jnp.inf).min(-1, keepdims=True)
    weights = jnp.where(true > 0, (rarest / jnp.maximum(true, 1)) ** 2, 1.0)
    total = (weights * (predicted + true)).sum(-1)
    known = total > 0
    share = 2 * (weights * overlap).sum(-1) / jnp.where(known, total, 1)
    return jnp.where(known, 1 - share, 0.0)


def inverse_frequency(counts: np.ndarray) -> np.ndarray:
    """Returns class weights that are inversely proportional to the classes' frequencies.

    w_c = (1 / n_c) / mean of (1 / n) over the classes present, so that their weights have mean 1. A
    class that never occurs gets 1: no position uses it, and 1 / 0 must not reach the loss.

    Args:
        counts: `[C]`, number of positions (pixels or images) of each class in the training split.

    Returns:
        float32 `[C]`.

    Raises:
        ValueError: no class occurs, or a count is negative.
    """
    counts = np.asarray(counts, np.float64)
    present = counts > 0
    if (counts < 0).any() or not present.any():
        raise ValueError(
            f"inverse_frequency: the counts are {counts.tolist()}; none may be negative and one "
            "must be above 0"
        )
    inverse = np.where(present, 1 / np.where(present, counts, 1), 0)
    return np.where(present, inverse / inverse[present].mean(), 1).astype(np.float32)


def total(
    settings: Loss,
    logits: jax.Array,
    truth: jax.Array,
    class_weights: jax.Array | None = None,
) -> jax.Array:
    """Returns the sum of the losses, weighted by `settings`; float32 `[B]`.

    Args:
        settings: validated for the task.
        logits: float32 `[B, ..., C]`.
        truth: integer `[B, ...]`: masks, or cell types `[B]`.
        class_weights: float32 `[C]`, for all losses but the Dice ones.

    Raises:
        ValueError: `settings` need class weights and none are given.
    """
    if settings.class_weights != "none" and class_weights is None:
        raise ValueError(
            f"losses.total: config.loss.class_weights is {settings.class_weights!r}, but no "
            "class_weights are given; they come from losses.inverse_frequency"
        )
    s, w = settings, class_weights
    terms = (
        (s.cross_entropy, lambda: cross_entropy(logits, truth, w, s.label_smoothing)),
        (s.binary_cross_entropy, lambda: binary_cross_entropy(logits, truth, w)),
        (s.focal, lambda: focal(logits, truth, s.focal_gamma, w)),
        (s.binary_focal, lambda: binary_focal(logits, truth, s.focal_gamma, s.focal_alpha, w)),
        (s.dice, lambda: dice(logits, truth)),
        (s.generalised_dice, lambda: generalized_dice(logits, truth)),
    )
    loss = jnp.zeros(logits.shape[0])
    for weight, term in terms:
        if weight:
            loss += weight * term()
    return loss


def _one_hot(truth: jax.Array, classes: int) -> tuple[jax.Array, jax.Array]:
    """Returns one-hot truth, float32 `[B, ..., C]`, and a mask of known truth, bool `[B, ...]`."""
    truth = truth.astype(jnp.int32)
    valid = (truth != IGNORE) & (truth != UNKNOWN_LABEL)
    return jax.nn.one_hot(jnp.where(valid, truth, 0), classes), valid


def _mean(
    loss: jax.Array, target: jax.Array, valid: jax.Array, class_weights: jax.Array | None
) -> jax.Array:
    """Returns the mean over the valid positions, each weighted by its class: `[B, ...]` → `[B]`."""
    axes = tuple(range(1, loss.ndim))
    if class_weights is not None:
        loss = loss * (target * jnp.broadcast_to(class_weights, target.shape)).sum(-1)
    positions = jnp.maximum(valid.sum(axes), 1).astype(loss.dtype)
    return jnp.where(valid, loss, 0).sum(axes) / positions


def _overlaps(logits: jax.Array, masks: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns Σ p t, Σ p and Σ t, each `[B, C]`, over the pixels of known truth."""
    target, valid = _one_hot(masks, logits.shape[-1])
    known = valid[..., None].astype(target.dtype)
    probabilities, target = jax.nn.softmax(logits) * known, target * known
    axes = tuple(range(1, masks.ndim))
    return (probabilities * target).sum(axes), probabilities.sum(axes), target.sum(axes)
