"""Masks packed to one bit a pixel: one "and" or population count handles 32 pixels of a class."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

WORD = 32
"""Pixels in a word."""


def codes(mask: jax.Array, num_classes: int) -> jax.Array:
    """Returns an integer mask as uint8, `num_classes` standing for values that are no class."""
    mask = mask.astype(jnp.uint8) if mask.dtype == bool else mask
    return jnp.where((mask >= 0) & (mask < num_classes), mask, num_classes).astype(jnp.uint8)


def class_bits(codes: jax.Array, num_classes: int) -> jax.Array:
    """Packs the classes of a mask.

    Args:
        codes: uint8 `[..., 32, W]`, 0 to `num_classes`.
        num_classes: C, at most 254.

    Returns:
        uint32 `[C, ..., W]`; bit i of a word is row i, set where the pixel is of the class.
    """
    codes = codes.reshape(*codes.shape[:-2], 2, 16, codes.shape[-1])
    shifts = 2 * jnp.arange(16, dtype=jnp.uint32).reshape((1,) * (codes.ndim - 2) + (16, 1))
    planes = []
    for bit in range(0, num_classes.bit_length(), 2):
        # Two bits of each code at once, 16 rows in a word: one pass over the pixels. A sum, because
        # XLA would repeat a chain of "or"s for each of its users.
        pairs = ((codes >> bit) & 3).astype(jnp.uint32) << shifts
        pairs = jnp.sum(pairs, axis=-2, dtype=jnp.uint32)
        for plane in (_even_bits(pairs), _even_bits(pairs >> 1)):
            planes.append(plane[..., 0, :] | plane[..., 1, :] << 16)
    classes = []
    for c in range(num_classes):
        signed = [plane if c >> bit & 1 else ~plane for bit, plane in enumerate(planes)]
        classes.append(functools.reduce(jnp.bitwise_and, signed))
    return jnp.stack(classes)


def count(words: jax.Array) -> jax.Array:
    """Counts the set bits of each word, int32."""
    return lax.population_count(words).astype(jnp.int32)


def _even_bits(words: jax.Array) -> jax.Array:
    """Moves bits 0, 2 … 30 to bits 0, 1 … 15."""
    words &= 0x55555555
    for shift, kept in ((1, 0x33333333), (2, 0x0F0F0F0F), (4, 0x00FF00FF), (8, 0x0000FFFF)):
        words = (words | words >> shift) & kept
    return words
