"""Augmentation in jnp, inside the jitted step, image and mask together.

Every draw comes from a key made of (seed, epoch, example), never from the place in the batch, so
the picture is the same on 1 and on 256 devices and after a restart.
"""

import jax
import jax.numpy as jnp

from wbc_jax import config as config_lib
from wbc_jax import vocabulary

# Ruifrok & Johnston 2001: optical density (R, G, B) of hematoxylin, eosin and a third stain, as in
# scikit-image's `rgb_from_hed`. Romanowsky stains differ, but the axes (blue-violet and pink) are
# those along which slides differ.
_STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
_BLUR_RADIUS = 4


def example_keys(seed: jax.Array | int, epoch: jax.Array, index: jax.Array) -> jax.Array:
    """Returns one key an example.

    Args:
        seed: of the run.
        epoch: int32 `[B]`.
        index: int32 `[B]`, the example's place in its split.

    Returns:
        Keys, `[B]`.
    """
    root = jax.random.key(seed)
    fold = jax.random.fold_in
    return jax.vmap(lambda e, i: fold(fold(root, e), i))(epoch, index)


def augment(
    settings: config_lib.Augment, keys: jax.Array, images: jax.Array, masks: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Draws a new version of each example.

    Args:
        settings: what may happen; the defaults of `Augment` with everything off change nothing.
        keys: `[B]`, from `example_keys`.
        images: float32 `[B, H, W, 3]` in [0, 1].
        masks: uint8 or int `[B, H, W]`.

    Returns:
        Images in [0, 1] and masks, of the same shapes and types. Images are sampled bilinearly,
        masks by the nearest pixel, so that a mask never gains a class (but for background, where
        `fill` is `zero`).
    """
    return jax.vmap(lambda k, i, m: _augment_one(settings, k, i, m))(keys, images, masks)


def _augment_one(s, key, image, mask):
    geometry, colour, finish = jax.random.split(key, 3)
    if _moves(s):
        image, mask = _move(s, geometry, image, mask)
    image = _recolour(s, colour, image)
    return _finish(s, finish, image), mask


def _moves(s: config_lib.Augment) -> bool:
    return s.flip or s.quarter_turns or _resamples(s)


def _resamples(s: config_lib.Augment) -> bool:
    return s.rotation_degrees > 0 or s.zoom > 0 or s.translation_px > 0


def _move(s, key, image, mask):
    """Flips, turns, zooms and shifts by one sampling of the input."""
    height, width = mask.shape
    keys = jax.random.split(key, 5)
    flip = jax.random.bernoulli(keys[0], 0.5, (2,)) if s.flip else jnp.zeros(2, bool)
    signs = jnp.where(flip, -1.0, 1.0)
    # A quarter turn of an oblong image would leave its frame: only half turns there.
    turns = jax.random.randint(keys[1], (), 0, 4) if s.quarter_turns else jnp.int32(0)
    turns = turns if height == width else turns // 2 * 2
    # A table, not cos and sin, so that quarter turns are exact.
    cos, sin = jnp.array([1.0, 0.0, -1.0, 0.0])[turns], jnp.array([0.0, 1.0, 0.0, -1.0])[turns]
    matrix = jnp.array([[cos, -sin], [sin, cos]]) * signs
    shift = jnp.zeros(2)
    if _resamples(s):
        angle = jnp.deg2rad(jax.random.uniform(keys[2], (), minval=-1.0) * s.rotation_degrees)
        c, n = jnp.cos(angle), jnp.sin(angle)
        scale = jnp.exp(jax.random.uniform(keys[3], (), minval=-1.0) * jnp.log1p(s.zoom))
        matrix = (jnp.array([[c, -n], [n, c]]) / scale) @ matrix
        shift = jax.random.uniform(keys[4], (2,), minval=-1.0) * s.translation_px
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2])
    y, x = jnp.arange(height)[:, None] - centre[0], jnp.arange(width)[None, :] - centre[1]
    sample_y = matrix[0, 0] * y + matrix[0, 1] * x + centre[0] - shift[0]
    sample_x = matrix[1, 0] * y + matrix[1, 1] * x + centre[1] - shift[1]
    return sample(image, mask, sample_y, sample_x, fill=s.fill, bilinear=_resamples(s))


def sample(
    image: jax.Array,
    mask: jax.Array,
    y: jax.Array,
    x: jax.Array,
    *,
    fill: str = "reflect",
    bilinear: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """Reads image and mask at fractional coordinates.

    Args:
        image: float32 `[H, W, C]`.
        mask: integer `[H, W]`.
        y, x: float32 `[H', W']`, in pixels, 0 at the first pixel's centre.
        fill: `reflect` or `zero`, beyond the frame.
        bilinear: False reads the image at the nearest pixel too (exact for flips and turns).

    Returns:
        Image `[H', W', C]` and mask `[H', W']`.
    """
    height, width = mask.shape
    flat_image, flat_mask = image.reshape(height * width, -1), mask.reshape(-1)
    inside = (y > -0.5) & (y < height - 0.5) & (x > -0.5) & (x < width - 0.5)

    def place(row, column):
        return _reflect(row, height) * width + _reflect(column, width)

    nearest = place(jnp.round(y).astype(jnp.int32), jnp.round(x).astype(jnp.int32))
    new_mask = flat_mask[nearest]
    if bilinear:
        top, left = jnp.floor(y), jnp.floor(x)
        dy, dx = (y - top)[..., None], (x - left)[..., None]
        row, column = top.astype(jnp.int32), left.astype(jnp.int32)
        new_image = (
            flat_image[place(row, column)] * (1 - dy) * (1 - dx)
            + flat_image[place(row, column + 1)] * (1 - dy) * dx
            + flat_image[place(row + 1, column)] * dy * (1 - dx)
            + flat_image[place(row + 1, column + 1)] * dy * dx
        )
    else:
        new_image = flat_image[nearest]
    if fill == "zero":
        new_image = jnp.where(inside[..., None], new_image, 0)
        new_mask = jnp.where(inside, new_mask, vocabulary.BACKGROUND).astype(mask.dtype)
    return new_image, new_mask


def _reflect(i: jax.Array, size: int) -> jax.Array:
    """Folds indices beyond the frame back in; the edge pixel is repeated (NumPy's `symmetric`)."""
    i = jnp.mod(i, 2 * size)
    return jnp.where(i < size, i, 2 * size - 1 - i)


def _recolour(s, key, image):
    keys = jax.random.split(key, 5)

    def uniform(k, shape=()):
        return jax.random.uniform(k, shape, minval=-1.0)

    if s.stain > 0:
        image = stain_jitter(
            image, 1 + s.stain * uniform(keys[0], (3,)), 0.1 * s.stain * uniform(keys[1], (3,))
        )
    if s.channel_gain > 0:
        image = image * (1 + s.channel_gain * uniform(keys[2], (3,)))
    if s.contrast > 0:
        mean = image.mean((0, 1), keepdims=True)
        image = mean + (image - mean) * (1 + s.contrast * uniform(keys[3]))
    if s.brightness > 0:
        image = image + s.brightness * uniform(keys[4])
    return jnp.clip(image, 0, 1)


def stain_jitter(image: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """Changes how strongly each stain has taken, in optical density (Tellez et al. 2018).

    Args:
        image: float32 `[H, W, 3]` in [0, 1].
        scale, shift: float32 `[3]`, of hematoxylin, eosin and the rest.

    Returns:
        `[H, W, 3]`, not clipped.
    """
    stains = jnp.array(_STAINS)
    stains = stains / jnp.linalg.norm(stains, axis=1, keepdims=True)
    density = -jnp.log(jnp.maximum(image, 1 / 255))
    # Float32 rounding of the default matrix product on accelerators would show as a colour cast.
    high = jax.lax.Precision.HIGHEST
    amounts = jnp.matmul(density, jnp.linalg.inv(stains), precision=high)
    return jnp.exp(-jnp.matmul(amounts * scale + shift, stains, precision=high))


def _finish(s, key, image):
    keys = jax.random.split(key, 3)
    if s.blur > 0:
        image = gaussian_blur(image, s.blur * jax.random.uniform(keys[0]))
    if s.noise > 0:
        sigma = s.noise * jax.random.uniform(keys[1])
        image = jnp.clip(image + sigma * jax.random.normal(keys[2], image.shape), 0, 1)
    return image


def gaussian_blur(image: jax.Array, sigma: jax.Array) -> jax.Array:
    """Blurs `[H, W, C]` by a Gaussian of `sigma` pixels, cut at 4 pixels, edges repeated."""
    offsets = jnp.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1)
    weights = jnp.exp(-0.5 * (offsets / jnp.maximum(sigma, 1e-3)) ** 2)
    weights = weights / weights.sum()
    for axis in (0, 1):
        pad = [(0, 0)] * 3
        pad[axis] = (_BLUR_RADIUS, _BLUR_RADIUS)
        padded = jnp.pad(image, pad, mode="edge")
        size = image.shape[axis]
        image = sum(
            weights[i] * jax.lax.slice_in_dim(padded, i, i + size, axis=axis)
            for i in range(2 * _BLUR_RADIUS + 1)
        )
    return image
