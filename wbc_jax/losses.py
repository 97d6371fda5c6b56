"""Losses: logits and truth → one number an example."""

import jax
import jax.numpy as jnp

from wbc_jax import config as config_lib
from wbc_jax import vocabulary


def cross_entropy(logits: jax.Array, masks: jax.Array) -> jax.Array:
    """Mean pixel cross-entropy of each image, pixels of 255 left out.

    Args:
        logits: float32 `[B, H, W, C]`.
        masks: integer `[B, H, W]`.

    Returns:
        float32 `[B]`; 0 for an image that is all 255.
    """
    valid = masks != vocabulary.IGNORE
    classes = jnp.where(valid, masks, 0).astype(jnp.int32)
    logp = jax.nn.log_softmax(logits)
    # A one-hot product: gathers are slow on accelerators and their gradient is a scatter.
    picked = (logp * jax.nn.one_hot(classes, logits.shape[-1])).sum(-1)
    count = jnp.maximum(valid.sum((1, 2)), 1)
    return -jnp.where(valid, picked, 0).sum((1, 2)) / count


def dice(logits: jax.Array, masks: jax.Array, smooth: float = 1.0) -> jax.Array:
    """Soft Dice loss (Milletari et al. 2016) of each image, mean over its classes.

    1 − (2 Σ p t + s) / (Σ p + Σ t + s) a class, over the pixels that are not 255.

    Args:
        logits: float32 `[B, H, W, C]`.
        masks: integer `[B, H, W]`.
        smooth: s, in pixels: an absent class that is not predicted costs nothing.

    Returns:
        float32 `[B]`.
    """
    valid = (masks != vocabulary.IGNORE)[..., None]
    probabilities = jax.nn.softmax(logits) * valid
    truth = jax.nn.one_hot(jnp.where(valid[..., 0], masks, 0), logits.shape[-1]) * valid
    overlap = (probabilities * truth).sum((1, 2))
    total = probabilities.sum((1, 2)) + truth.sum((1, 2))
    return (1 - (2 * overlap + smooth) / (total + smooth)).mean(-1)


def segmentation_loss(settings: config_lib.Loss, logits: jax.Array, masks: jax.Array) -> jax.Array:
    """Returns the weighted sum that `settings` asks for, float32 `[B]`."""
    loss = jnp.zeros(logits.shape[0])
    if settings.cross_entropy:
        loss += settings.cross_entropy * cross_entropy(logits, masks)
    if settings.dice:
        loss += settings.dice * dice(logits, masks)
    return loss
