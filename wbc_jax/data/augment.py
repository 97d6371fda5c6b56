"""Augments images and their masks together, in jnp inside the jitted step.

Every draw comes from a key made of (seed, epoch, example), never from the place in the batch. So an
augmented image is the same on 1 and on 256 devices, and after a restart.
"""

import jax
import jax.numpy as jnp
import numpy as np

from wbc_jax.config import Augment
from wbc_jax.labels import BACKGROUND, IGNORE
from wbc_jax.utils.color import to_gray

# Ruifrok & Johnston 2001: optical density (R, G, B) of hematoxylin, eosin and a third stain, as in
# scikit-image's `rgb_from_hed`. Romanowsky stains are others, but slides vary along the same axes
# (blue-violet and pink).
_STAINS = np.array([(0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78)])
_STAINS /= np.linalg.norm(_STAINS, axis=1, keepdims=True)
_UNMIX = np.linalg.inv(_STAINS)
_BLUR_RADIUS = 4


def example_keys(seed: jax.Array | int, epoch: jax.Array, index: jax.Array) -> jax.Array:
    """Returns one key per example.

    Args:
        seed: of the run.
        epoch: int32 `[B]`.
        index: int32 `[B]`, the examples' places in their split.

    Returns:
        Keys, `[B]`.
    """
    root = jax.random.key(seed)
    fold = jax.random.fold_in
    return jax.vmap(lambda e, i: fold(fold(root, e), i))(epoch, index)


def augment(
    settings: Augment,
    keys: jax.Array,
    images: jax.Array,
    masks: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array | None]:
    """Draws a new version of each example.

    Args:
        settings: validated; `config.PRESETS["none"]` changes nothing.
        keys: `[B]`, from `example_keys`.
        images: float32 `[B, H, W, 3]` in [0, 1].
        masks: uint8 or int `[B, H, W]`; None if there are none (cell types).

    Returns:
        Images in [0, 1] and masks, of the same shapes and types. Images are sampled bilinearly,
        masks at the nearest pixel. So a mask never gains a class, with two exceptions: background
        beyond the frame if `fill` is `zero`, and 255 (no class) under a cut-out and, if `fill` is
        `unlabelled`, beyond the frame. The images are the same with and without masks.
    """
    if masks is None:
        return jax.vmap(lambda k, i: _augment_one(settings, k, i, None)[0])(keys, images), None
    return jax.vmap(lambda k, i, m: _augment_one(settings, k, i, m))(keys, images, masks)


def _augment_one(s, key, image, mask):
    geometry, color, finish = jax.random.split(key, 3)
    if s.flip or s.quarter_turns or _resamples(s):
        image, mask = _move(s, geometry, image, mask)
    image = _recolor(s, color, image)
    return _finish(s, finish, image, mask)


def _resamples(s: Augment) -> bool:
    return s.rotation_degrees > 0 or s.zoom > 0 or s.translation_px > 0


def _move(s, key, image, mask):
    """Flips, turns, zooms and shifts, all by sampling the input once."""
    height, width, _ = image.shape
    keys = jax.random.split(key, 5)
    flip = jax.random.bernoulli(keys[0], 0.5, (2,)) if s.flip else jnp.zeros(2, bool)
    # A quarter turn of an oblong image would leave its frame, so it gets half turns only.
    turns = jax.random.randint(keys[1], (), 0, 4) if s.quarter_turns else jnp.int32(0)
    turns = turns if height == width else turns // 2 * 2
    if not _resamples(s):
        image = flip_and_turn(image, flip, turns)
        return image, None if mask is None else flip_and_turn(mask, flip, turns)
    # A table, not cos and sin, so that quarter turns are exact.
    cos, sin = jnp.array([1.0, 0.0, -1.0, 0.0])[turns], jnp.array([0.0, 1.0, 0.0, -1.0])[turns]
    matrix = jnp.array([[cos, -sin], [sin, cos]]) * jnp.where(flip, -1.0, 1.0)[None]
    angle = jnp.deg2rad(jax.random.uniform(keys[2], (), minval=-1.0) * s.rotation_degrees)
    c, n = jnp.cos(angle), jnp.sin(angle)
    scale = jnp.exp(jax.random.uniform(keys[3], (), minval=-1.0) * jnp.log1p(s.zoom))
    # At default precision accelerators round float32 products enough to move a pixel.
    rotation = jnp.array([[c, -n], [n, c]]) / scale
    matrix = jnp.matmul(rotation, matrix, precision=jax.lax.Precision.HIGHEST)
    shift = jax.random.uniform(keys[4], (2,), minval=-1.0) * s.translation_px
    center = jnp.array([(height - 1) / 2, (width - 1) / 2])
    y = jnp.arange(height, dtype=jnp.float32)[:, None] - center[0]
    x = jnp.arange(width, dtype=jnp.float32)[None, :] - center[1]
    sample_y = matrix[0, 0] * y + matrix[0, 1] * x + center[0] - shift[0]
    sample_x = matrix[1, 0] * y + matrix[1, 1] * x + center[1] - shift[1]
    return sample(image, mask, sample_y, sample_x, fill=s.fill)


def flip_and_turn(array: jax.Array, flip: jax.Array, turns: jax.Array) -> jax.Array:
    """Turns a picture, then mirrors it, by selecting transpositions and reversals (no gather).

    Args:
        array: `[H, W, ...]`; H and W are equal if `turns` may be odd.
        flip: bool `[2]`, reverses rows and columns.
        turns: int32 scalar, quarter turns, 0 … 3, clockwise.

    Returns:
        An array of the same shape.
    """
    if array.shape[0] == array.shape[1]:
        array = jnp.where(turns % 2 == 1, array.swapaxes(0, 1), array)
    array = jnp.where(flip[0] ^ (turns >= 2), array[::-1], array)
    return jnp.where(flip[1] ^ ((turns == 1) | (turns == 2)), array[:, ::-1], array)


def sample(
    image: jax.Array,
    mask: jax.Array | None,
    y: jax.Array,
    x: jax.Array,
    *,
    fill: str = "reflect",
) -> tuple[jax.Array, jax.Array | None]:
    """Reads image and mask at fractional coordinates.

    Args:
        image: float32 `[H, W, C]`, read bilinearly.
        mask: integer `[H, W]`, read at the nearest pixel; or None.
        y, x: float32 `[H', W']`, in pixels, 0 at the first pixel's center.
        fill: content beyond the frame: `reflect`, `unlabelled` (a mirrored image under a mask of
            255, no class) or `zero`.

    Returns:
        Image `[H', W', C]` and mask `[H', W']`.
    """
    height, width, channels = image.shape
    flat_image = jnp.asarray(image).reshape(height * width, channels)
    inside = (y > -0.5) & (y < height - 0.5) & (x > -0.5) & (x < width - 0.5)

    def read(flat, row, column):
        # Packing mask and image into one array saves a gather per pixel but was slower on CPU.
        row, column = row.astype(jnp.int32), column.astype(jnp.int32)
        place = _reflect(row, height) * width + _reflect(column, width)
        return flat.at[place].get(mode="promise_in_bounds")

    top, left = jnp.floor(y), jnp.floor(x)
    dy, dx = (y - top)[..., None], (x - left)[..., None]
    new_image = (
        read(flat_image, top, left) * (1 - dy) * (1 - dx)
        + read(flat_image, top, left + 1) * (1 - dy) * dx
        + read(flat_image, top + 1, left) * dy * (1 - dx)
        + read(flat_image, top + 1, left + 1) * dy * dx
    )
    if fill == "zero":
        # A product, because a selection makes XLA's loop over the four gathers three times slower.
        new_image = new_image * inside[..., None].astype(image.dtype)
    if mask is None:
        return new_image, None
    new_mask = read(jnp.asarray(mask).reshape(-1), jnp.round(y), jnp.round(x))
    if fill != "reflect":
        beyond = BACKGROUND if fill == "zero" else IGNORE
        new_mask = jnp.where(inside, new_mask, beyond).astype(mask.dtype)
    return new_image, new_mask


def _reflect(i: jax.Array, size: int) -> jax.Array:
    """Reflects indices beyond the frame; the edge pixel is repeated (NumPy's `symmetric`)."""
    i = jnp.mod(i, 2 * size)
    return jnp.where(i < size, i, 2 * size - 1 - i)


def _recolor(s, key, image):
    keys = jax.random.split(key, 5)

    def uniform(k, shape=()):
        return jax.random.uniform(k, shape, minval=-1.0)

    if s.stain > 0:
        image = stain_jitter(
            image, 1 + s.stain * uniform(keys[0], (3,)), 0.1 * s.stain * uniform(keys[1], (3,))
        )
    if s.gamma > 0:
        # A key of its own leaves the other draws unchanged.
        draws = uniform(jax.random.fold_in(key, 1), (4,))
        power = jnp.exp(jnp.log1p(s.gamma) * (draws[0] + draws[1:]) / 2)
        image = jnp.maximum(image, 1 / 255) ** power[None, None]
    if s.channel_gain > 0:
        image = image * (1 + s.channel_gain * uniform(keys[2], (3,))[None, None])
    if s.contrast > 0:
        mean = image.mean((0, 1), keepdims=True)
        image = mean + (image - mean) * (1 + s.contrast * uniform(keys[3]))
    if s.brightness > 0:
        image = image + s.brightness * uniform(keys[4])
    if s.grayscale > 0:
        # A key of its own leaves the draws above unchanged.
        gray = jax.random.bernoulli(jax.random.fold_in(key, 0), s.grayscale)
        image = jnp.where(gray, to_gray(image), image)
    return jnp.clip(image, 0, 1)


def stain_jitter(image: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    """Scales and shifts the optical density of each stain (Tellez et al. 2018).

    Args:
        image: float32 `[H, W, 3]` in [0, 1].
        scale, shift: float32 `[3]`, for hematoxylin, eosin and the rest.

    Returns:
        `[H, W, 3]`, not clipped.
    """
    # Unmixing, scaling and mixing are one matrix. It is applied by nine products per pixel instead
    # of a matrix product, which XLA would not fuse and accelerators would round below float32.
    unmix, stains = jnp.asarray(_UNMIX, jnp.float32), jnp.asarray(_STAINS, jnp.float32)
    mixed = (unmix[:, :, None] * scale[None, :, None] * stains[None]).sum(1)
    density = -jnp.log(jnp.maximum(image, 1 / 255))
    new = sum(density[..., i, None] * mixed[None, None, i] for i in range(3))
    return jnp.exp(-(new + (shift[:, None] * stains).sum(0)[None, None]))


def _finish(s, key, image, mask):
    keys = jax.random.split(key, 3)
    if s.blur > 0:
        image = gaussian_blur(image, s.blur * jax.random.uniform(keys[0]))
    if s.noise > 0:
        sigma = s.noise * jax.random.uniform(keys[1])
        image = jnp.clip(image + sigma * jax.random.normal(keys[2], image.shape), 0, 1)
    if s.cutout_boxes > 0:
        hidden = _boxes(s, jax.random.fold_in(key, 0), image.shape[:2])
        image = jnp.where(hidden[..., None], image.mean((0, 1), keepdims=True), image)
        if mask is not None:
            # No loss under a box, as nothing there can be known. Outside it, the network must do
            # with less context.
            mask = jnp.where(hidden, IGNORE, mask).astype(mask.dtype)
    return image, mask


def _boxes(s, key, shape):
    """Draws bool `[H, W]`: `cutout_boxes` squares with centers anywhere in the frame (DeVries &
    Taylor 2017) and sides up to `cutout_side` times the shorter side."""
    center_key, side_key = jax.random.split(key)
    frame = jnp.array([shape], jnp.float32)
    centers = jax.random.uniform(center_key, (s.cutout_boxes, 2)) * frame - 0.5
    sides = jax.random.uniform(side_key, (s.cutout_boxes, 1)) * s.cutout_side * min(shape)
    near = [
        jnp.abs(jnp.arange(n, dtype=jnp.float32)[None] - centers[:, axis, None]) <= sides / 2
        for axis, n in enumerate(shape)
    ]
    return (near[0][:, :, None] & near[1][:, None, :]).any(0)


def gaussian_blur(image: jax.Array, sigma: jax.Array) -> jax.Array:
    """Blurs `[H, W, C]` by a Gaussian of `sigma` pixels, truncated at 4 pixels; repeats edges."""
    offsets = jnp.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1, dtype=jnp.float32)
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
