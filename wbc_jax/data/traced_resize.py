"""The resizing of `wbc_jax.data.resize` in JAX, for sizes that are known only when it runs.

An exported model resizes with these functions. The filters are those of `resize`: areas are
averaged if both sides shrink, and otherwise pixels are interpolated bilinearly; the logits of masks
always bilinearly. Results differ from `resize` by one gray level at most, where a value lies
between two.
"""

import jax
import jax.numpy as jnp
from jax import lax

Window = tuple[jax.Array, jax.Array]
"""First pixel of an interval and its length, int32 scalars."""


def resize_image(image: jax.Array, side: int, rows: Window, columns: Window) -> jax.Array:
    """Resizes a window of an image as `resize.resize_image` does.

    Args:
        image: uint8 `[H, W, 3]`.
        side: height and width of the result.
        rows, columns: the window.

    Returns:
        uint8 `[side, side, 3]`.
    """
    height, width, channels = image.shape
    shrinks = (rows[1] > side) & (columns[1] > side)
    by_row = _weights(height, side, rows, shrinks)
    by_column = _weights(width, side, columns, shrinks)
    pixels = image.astype(jnp.float32).reshape(height, width * channels)
    pixels = _product(by_row, pixels).reshape(side, width, channels)
    pixels = _product(by_column, pixels.transpose(1, 0, 2).reshape(width, side * channels))
    pixels = jnp.rint(pixels).astype(jnp.uint8)
    return pixels.reshape(side, side, channels).transpose(1, 0, 2)


def resize_whole(image: jax.Array, side: int) -> jax.Array:
    """Resizes a whole image, uint8 `[H, W, 3]` to `[side, side, 3]`."""
    height, width, _ = image.shape
    return resize_image(image, side, whole(height), whole(width))


def resize_logits(logits: jax.Array, height: int, width: int) -> jax.Array:
    """Resizes logits `[S, S, C]` to `[height, width, C]` as `inference.model` does."""
    side = logits.shape[0]
    first, second, share = _neighbors(side, height)
    share = share[:, None, None]
    logits = logits[first] * (1 - share) + logits[second] * share
    first, second, share = _neighbors(side, width)
    share = share[None, :, None]
    return logits[:, first] * (1 - share) + logits[:, second] * share


def whole(length: int) -> Window:
    """Returns the window that is a whole side of an image."""
    return jnp.int32(0), jnp.asarray(length, jnp.int32)


def _product(weights: jax.Array, pixels: jax.Array) -> jax.Array:
    # GPUs and TPUs would otherwise multiply with fewer bits.
    return jnp.matmul(weights, pixels, precision=lax.Precision.HIGHEST)


def _weights(length: int, after: int, window: Window, shrinks: jax.Array) -> jax.Array:
    """Returns float32 `[after, length]`: the share of each old pixel in each new one."""
    first, before = window
    new = lax.broadcasted_iota(jnp.int32, (after, length), 0)
    old = lax.broadcasted_iota(jnp.int32, (after, length), 1) - first
    # All ends are whole numbers in units of 1 / after of an old pixel.
    start = jnp.maximum(new * before, old * after)
    end = jnp.minimum((new + 1) * before, (old + 1) * after)
    area = jnp.maximum(end - start, 0).astype(jnp.float32) / before.astype(jnp.float32)
    # Twice the place of a new pixel's center among the centers of old ones, in units of 1 / after.
    place = (2 * new + 1) * before - after
    place = jnp.clip(place, 0, 2 * after * (before - 1))
    away = jnp.abs(place - 2 * after * old).astype(jnp.float32) / (2 * after)
    linear = jnp.maximum(1 - away, 0)
    inside = (old >= 0) & (old < before)
    return jnp.where(inside, jnp.where(shrinks, area, linear), 0)


def _neighbors(before: int, after: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns for each new pixel its two old neighbors and the share of the second."""
    new = lax.iota(jnp.int32, after)
    after = jnp.asarray(after, jnp.int32)
    place = jnp.clip((2 * new + 1) * before - after, 0, 2 * after * (before - 1))
    first = jnp.minimum(place // (2 * after), max(before - 2, 0))
    share = (place - 2 * after * first).astype(jnp.float32) / (2 * after).astype(jnp.float32)
    return first, jnp.minimum(first + 1, before - 1), share
