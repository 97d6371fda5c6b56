"""wbc_jax.data.augment: exact permutations, SciPy and scikit-image as oracles, reproducibility."""

import dataclasses
import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from skimage import color

from helpers import tiny_runs
from wbc_jax import config_checks
from wbc_jax.config import PRESETS, Augment, Config
from wbc_jax.data import augment

OFF = Augment(**PRESETS["none"])
EVERYTHING = Augment(
    rotation_degrees=40,
    zoom=0.3,
    translation_px=3,
    brightness=0.2,
    contrast=0.3,
    stain=0.3,
    channel_gain=0.2,
    gamma=0.5,
    blur=1.5,
    noise=0.1,
    grayscale=0.3,
    cutout_boxes=2,
)


def on(**changes):
    return dataclasses.replace(OFF, **changes)


def keys(count, seed=0, epoch=0):
    return augment.example_keys(seed, jnp.full(count, epoch), jnp.arange(count))


def batch(count=4, height=12, width=12, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.random((count, height, width, 3), np.float32)
    return images, rng.choice(np.array([0, 1, 2, 255], np.uint8), (count, height, width))


@functools.cache
def jitted(fields):
    settings = Augment(**dict(fields))
    return jax.jit(lambda k, i, m: augment.augment(settings, k, i, m))


def run(settings, *arguments):
    images, masks = jitted(tuple(dataclasses.asdict(settings).items()))(*arguments)
    return np.asarray(images), np.asarray(masks)


def test_everything_off_changes_no_bit():
    images, masks = batch()
    images[0, 0, :2] = [[0, 1, 1 / 255], [1, 0, 254 / 255]]
    new_images, new_masks = run(OFF, keys(4), images, masks)
    assert new_images.tobytes() == images.tobytes() and new_images.dtype == np.float32
    assert new_masks.tobytes() == masks.tobytes() and new_masks.dtype == np.uint8


# The eight versions of a square: (quarter turns, flipped) -> array.
def dihedral(array):
    return {
        (turns, flipped): np.rot90(array[:, ::-1] if flipped else array, turns)
        for turns in range(4)
        for flipped in (False, True)
    }


ROTATIONS = {(turns, False) for turns in range(4)}
REFLECTIONS = {(0, False), (0, True), (2, False), (2, True)}


@pytest.mark.parametrize(
    ("flip", "quarter_turns", "shape", "possible"),
    [
        (True, True, (6, 6), ROTATIONS | {(turns, True) for turns in range(4)}),
        (True, True, (5, 5), ROTATIONS | {(turns, True) for turns in range(4)}),
        (False, True, (6, 6), ROTATIONS),
        (True, False, (6, 6), REFLECTIONS),
        # An oblong image stays in its frame: reflections and half turns only.
        (True, True, (4, 7), REFLECTIONS),
        (False, True, (4, 7), {(0, False), (2, False)}),
    ],
)
def test_flips_and_turns_are_exact_and_the_same_for_image_and_mask(
    flip, quarter_turns, shape, possible
):
    # No two pixels are alike, so a version cannot be taken for another.
    count, pixels = 96, shape[0] * shape[1]
    mask = np.arange(pixels, dtype=np.uint8).reshape(shape)
    image = np.random.default_rng(0).permutation(3 * pixels).reshape(*shape, 3) / (3 * pixels)
    image = image.astype(np.float32)
    settings = on(flip=flip, quarter_turns=quarter_turns)
    images, masks = run(settings, keys(count), np.stack([image] * count), np.stack([mask] * count))
    image_versions, seen = dihedral(image), []
    for new_image, new_mask in zip(images, masks):
        (name,) = [n for n, v in dihedral(mask).items() if np.array_equal(v, new_mask)]
        assert np.array_equal(image_versions[name], new_image)
        seen.append(name)
    assert set(seen) == possible
    # Each is drawn about equally often: 96 draws, ± 4 standard deviations and more.
    share = count / len(possible)
    assert all(abs(seen.count(name) - share) < 5 * share**0.5 for name in possible)


def rotated(shape, degrees):
    """Coordinates that turn the picture counter-clockwise about its centre."""
    height, width = shape
    angle = np.deg2rad(degrees)
    y, x = np.mgrid[:height, :width] - (np.array([height, width]) - 1).reshape(2, 1, 1) / 2
    return (
        (np.cos(angle) * y + np.sin(angle) * x + (height - 1) / 2).astype(np.float32),
        (-np.sin(angle) * y + np.cos(angle) * x + (width - 1) / 2).astype(np.float32),
    )


@pytest.mark.parametrize("size", [6, 7])
def test_sampling_at_right_angles_is_rot90(size):
    (image,), (mask,) = batch(1, size, size)
    for turns in range(4):
        y, x = rotated(mask.shape, 90 * turns)
        new_image, new_mask = augment.sample(image, mask, y, x)
        np.testing.assert_allclose(new_image, np.rot90(image, turns), atol=1e-5)
        np.testing.assert_array_equal(new_mask, np.rot90(mask, turns))
        # The other way round: without resampling, turns are clockwise and exact.
        for array in (image, mask):
            turned = augment.flip_and_turn(array, jnp.zeros(2, bool), jnp.int32(turns))
            np.testing.assert_array_equal(turned, np.rot90(array, -turns))


def test_flips_and_turns_are_those_of_resampling():
    # A zoom that is nothing but rounding: the same draws by the other path.
    images, masks = batch(32, 8, 8)
    exact, exact_masks = run(on(flip=True, quarter_turns=True), keys(32), images, masks)
    settings = on(flip=True, quarter_turns=True, zoom=1e-9)
    resampled, resampled_masks = run(settings, keys(32), images, masks)
    np.testing.assert_allclose(resampled, exact, atol=1e-4)
    np.testing.assert_array_equal(resampled_masks, exact_masks)


def coordinates(shape, count=400):
    """Points in and up to two image sizes around an image."""
    rng = np.random.default_rng(1)
    return [rng.uniform(-2 * n, 3 * n, (count, 1)).astype(np.float32) for n in shape]


def map_coordinates(array, y, x, order):
    return ndimage.map_coordinates(array, [y, x], order=order, mode="reflect")


def test_sampling_equals_scipy():
    (image,), (mask,) = batch(1, 9, 13)
    y, x = coordinates(mask.shape)
    linear = np.stack([map_coordinates(image[..., c], y, x, 1) for c in range(3)], -1)
    new_image, new_mask = augment.sample(image, mask, y, x)
    np.testing.assert_allclose(new_image, linear, atol=2e-5)
    np.testing.assert_array_equal(new_mask, map_coordinates(mask, y, x, 0))
    assert new_mask.dtype == jnp.uint8


def test_unlabelled_fill_mirrors_the_image_and_has_no_class_beyond_the_frame():
    (image,), (mask,) = batch(1, 9, 13)
    y, x = coordinates(mask.shape)
    inside = (y > -0.5) & (y < 8.5) & (x > -0.5) & (x < 12.5)
    plain, unlabelled = (
        augment.sample(image, mask, y, x, fill=fill) for fill in ("reflect", "unlabelled")
    )
    np.testing.assert_array_equal(unlabelled[0], plain[0])
    np.testing.assert_array_equal(unlabelled[1], np.where(inside, plain[1], 255))
    assert unlabelled[1].dtype == jnp.uint8


def test_zero_fill_blackens_what_lies_beyond_the_frame():
    (image,), (mask,) = batch(1, 9, 13)
    y, x = coordinates(mask.shape)
    inside = (y > -0.5) & (y < 8.5) & (x > -0.5) & (x < 12.5)
    assert 10 < inside.sum() < inside.size / 2
    plain, zero = (augment.sample(image, mask, y, x, fill=fill) for fill in ("reflect", "zero"))
    np.testing.assert_array_equal(zero[0], np.where(inside[..., None], plain[0], 0))
    np.testing.assert_array_equal(zero[1], np.where(inside, plain[1], 0))
    assert zero[1].dtype == jnp.uint8


def test_translation_alone_is_a_shift():
    # One key's shift, measured on a ramp, where bilinear sampling is exact.
    ramp_y, ramp_x = np.mgrid[:24, :24].astype(np.float32) / 100
    image = np.stack([ramp_y, ramp_x, 0 * ramp_x], -1)
    settings = on(translation_px=3.0)
    count = 50
    images, _ = run(settings, keys(count), np.stack([image] * count), np.zeros((count, 24, 24)))
    moved = (images - image)[:, 4:-4, 4:-4, :2] * 100
    shifts = moved[:, 0, 0]
    np.testing.assert_allclose(moved, moved[:, :1, :1] + 0 * moved, atol=1e-4)
    assert (np.abs(shifts) <= 3).all() and (shifts.max(0) > 2).all() and (shifts.min(0) < -2).all()


def test_rotation_and_zoom_keep_to_their_limits():
    # On a ramp the slopes read off the matrix: rotation and scale.
    ramp_y, ramp_x = np.mgrid[:24, :24].astype(np.float32) / 100
    image = np.stack([ramp_y, ramp_x, 0 * ramp_x], -1)
    count = 60
    settings = on(rotation_degrees=25.0, zoom=0.5)
    images, _ = run(settings, keys(count), np.stack([image] * count), np.zeros((count, 24, 24)))
    middle = images[:, 11:13, 11:13, :2] * 100
    along_y, along_x = middle[:, 1, 0] - middle[:, 0, 0], middle[:, 0, 1] - middle[:, 0, 0]
    scale = 1 / np.linalg.norm(along_y, axis=-1)
    angle = np.rad2deg(np.arctan2(along_y[:, 1], along_y[:, 0]))
    # No shear: the two slopes are at right angles and equally long.
    np.testing.assert_allclose((along_y * along_x).sum(-1), 0, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(along_x, axis=-1), 1 / scale, atol=1e-3)
    assert 1 / 1.5 - 1e-3 <= scale.min() < 0.75 and 1.3 < scale.max() <= 1.5 + 1e-3
    assert -25.1 <= angle.min() < -18 and 18 < angle.max() <= 25.1
    # The centre stays where it is.
    np.testing.assert_allclose(middle.mean((1, 2)), 11.5, atol=1e-3)


GEOMETRY = {
    "flip": True,
    "quarter_turns": True,
    "rotation_degrees": 30.0,
    "zoom": 0.5,
    "translation_px": 9.0,
}


@pytest.mark.parametrize(
    ("field", "fill"),
    [
        *((field, "reflect") for field in GEOMETRY),
        *(("all", fill) for fill in ("reflect", "unlabelled", "zero")),
    ],
)
def test_masks_never_gain_a_class(field, fill):
    settings = on(fill=fill, **(GEOMETRY if field == "all" else {field: GEOMETRY[field]}))
    images, _ = batch(24)
    masks_of = jax.jit(lambda k, i, m: augment.augment(settings, k, i, m)[1])
    # Interpolation between 2 and 255, or 0 and 2, would show as another value.
    for values in ([2, 255], [0, 2]):
        masks = np.random.default_rng(0).choice(np.array(values, np.uint8), images.shape[:3])
        new = masks_of(keys(24), images, masks)
        assert new.dtype == np.uint8
        assert set(np.unique(new)) <= set(values) | {"zero": {0}, "unlabelled": {255}}.get(
            fill, set()
        )
        assert not np.array_equal(new, masks)


@pytest.mark.parametrize(
    "field",
    ["brightness", "contrast", "stain", "channel_gain", "gamma", "blur", "noise", "grayscale"],
)
def test_colours_leave_masks_and_the_range_alone(field):
    images, masks = batch(8)
    images[0], images[1], images[2] = 0, 1, (images[2] > 0.5)
    new_images, new_masks = run(on(**{field: 1.0}), keys(8), images, masks)
    assert new_masks.tobytes() == masks.tobytes()
    assert new_images.min() >= 0 and new_images.max() <= 1 + 1e-6
    assert np.isfinite(new_images).all()
    assert not np.allclose(new_images[3:], images[3:], atol=1e-3)


def test_brightness_contrast_and_gain_by_their_formulas():
    images = np.float32(0.4) + np.float32(0.2) * batch(40)[0]
    masks = np.zeros((40, 12, 12), np.uint8)

    added = run(on(brightness=0.2), keys(40), images, masks)[0] - images
    level = added.mean((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(added, np.broadcast_to(level, added.shape), atol=1e-6)
    assert level.min() < -0.15 and level.max() > 0.15 and np.abs(level).max() <= 0.2

    gains = run(on(channel_gain=0.2), keys(40), images, masks)[0] / images
    gain = gains.mean((1, 2), keepdims=True)
    np.testing.assert_allclose(gains, np.broadcast_to(gain, gains.shape), atol=1e-5)
    assert np.abs(gain - 1).max() <= 0.2 + 1e-5 and gain.std(-1).min() > 1e-3

    mean = images.mean((1, 2), keepdims=True)
    new = run(on(contrast=0.3), keys(40), images, masks)[0]
    np.testing.assert_allclose(new.mean((1, 2), keepdims=True), mean, atol=1e-5)
    factor = new.std((1, 2)) / images.std((1, 2))
    np.testing.assert_allclose(factor, np.broadcast_to(factor[:, :1], factor.shape), rtol=1e-3)
    assert 0.7 - 1e-3 <= factor.min() < 0.8 and 1.2 < factor.max() <= 1.3 + 1e-3


def test_gamma_scales_the_optical_density_of_each_channel():
    images, masks = batch(1)
    images = np.repeat(np.clip(images, 0.1, 0.9), 400, 0)
    masks = np.repeat(masks, 400, 0)
    density, new = np.log(images), np.log(run(on(gamma=1.0), keys(400), images, masks)[0])
    power = (new / density).mean((1, 2))
    np.testing.assert_allclose(new, density * power[:, None, None], rtol=1e-4)
    log2 = np.log2(power)
    assert -1 <= log2.min() < -0.8 and 0.8 < log2.max() <= 1
    # Half of the logarithm is common: (u0 + u1) / 2 and (u0 + u2) / 2 correlate by 1/2.
    correlations = np.corrcoef(log2.T)[np.triu_indices(3, 1)]
    assert np.abs(correlations - 0.5).max() < 0.15
    # Of a uniform number in [-1, 1] the variance is 1/3; of the mean of two, 1/6.
    assert np.abs(log2.var(0) * 6 - 1).max() < 0.2


def test_noise_has_the_standard_deviation_asked_for():
    images = np.full((64, 16, 16, 3), 0.5, np.float32)
    new, _ = run(on(noise=0.05), keys(64), images, np.zeros((64, 16, 16), np.uint8))
    sigma = (new - images).std((1, 2, 3))
    assert sigma.min() < 0.01 and 0.04 < sigma.max() < 0.054
    assert abs((new - images).mean()) < 1e-3


def test_stain_jitter_of_nothing_is_the_identity():
    # Brighter than 1/255: what is darker has no optical density that could be told.
    image = np.random.default_rng(0).uniform(1 / 255, 1, (16, 16, 3)).astype(np.float32)
    image[0, 0], image[0, 1] = 1, 1 / 255
    np.testing.assert_allclose(augment.stain_jitter(image, jnp.ones(3), jnp.zeros(3)), image, 1e-5)


def test_stain_jitter_scales_the_stains_of_scikit_image():
    # Colours that hold some of each stain: scikit-image cuts negative amounts off.
    rng = np.random.default_rng(0)
    hed = rng.uniform(0.002, 0.03, (8, 8, 3))
    image = color.hed2rgb(hed).astype(np.float32)
    assert image.min() > 1 / 255 and image.max() < 1
    np.testing.assert_allclose(color.rgb2hed(image), hed, atol=1e-6)
    for scale in ([1.2, 1, 1], [1, 0.7, 1], [1, 1, 1.4], [0, 1.1, 0.8]):
        ours = augment.stain_jitter(image, jnp.array(scale), jnp.zeros(3))
        np.testing.assert_allclose(ours, color.hed2rgb(hed * scale), atol=1e-5)


def test_stain_shift_adds_optical_density_along_the_stain():
    # White plus 0.3 of hematoxylin: light is absorbed as Ruifrok and Johnston's unit vector says.
    new = augment.stain_jitter(jnp.ones((1, 1, 3)), jnp.ones(3), jnp.array([0.3, 0, 0]))
    vector = np.array([0.65, 0.70, 0.29])
    np.testing.assert_allclose(new[0, 0], np.exp(-0.3 * vector / np.linalg.norm(vector)), 1e-5)


@pytest.mark.parametrize("sigma", [0.4, 1.0, 2.5, 4.0])
def test_blur_equals_scipy(sigma):
    (image,), _ = batch(1, 14, 11)
    expected = ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest", truncate=4 / sigma)
    np.testing.assert_allclose(augment.gaussian_blur(image, sigma), expected, atol=1e-5)


def test_blur_of_zero_pixels_is_the_identity():
    (image,), _ = batch(1)
    np.testing.assert_array_equal(augment.gaussian_blur(image, jnp.float32(0)), image)


def test_everything_at_once_stays_in_range():
    images, masks = batch(6)
    new_images, new_masks = run(EVERYTHING, keys(6), images, masks)
    assert new_images.shape == images.shape and new_images.dtype == np.float32
    assert new_images.min() >= 0 and new_images.max() <= 1
    assert set(np.unique(new_masks)) <= {0, 1, 2, 255}


def test_pictures_without_masks_are_those_with_masks():
    images, masks = batch(6)
    expected, _ = run(EVERYTHING, keys(6), images, masks)
    alone, none = jax.jit(lambda k, i: augment.augment(EVERYTHING, k, i))(keys(6), images)
    assert none is None
    np.testing.assert_allclose(alone, expected, atol=1e-6)


def test_grayscale_is_the_luma_and_has_its_probability():
    images, masks = batch(200, 4, 4)
    new, new_masks = run(on(grayscale=0.3), keys(200), images, masks)
    gray = np.array([color.rgb2gray(i) for i in images])  # of ITU-R BT.709
    luma = images @ np.array([0.299, 0.587, 0.114], np.float32)  # BT.601
    assert np.abs(luma - gray).max() > 0.05
    was = (new == new[..., :1]).all((1, 2, 3))
    np.testing.assert_allclose(new[was], np.repeat(luma[was][..., None], 3, -1), atol=1e-6)
    np.testing.assert_array_equal(new[~was], images[~was])
    assert 0.2 < was.mean() < 0.4  # 200 draws: 0.3 ± 3 standard deviations
    assert new_masks.tobytes() == masks.tobytes()


def test_cutout_lays_squares_of_the_mean_and_hides_their_truth():
    images, masks = batch(100, 20, 30)
    masks[masks == 255] = 1
    new, new_masks = run(on(cutout_boxes=1, cutout_side=0.5), keys(100), images, masks)
    hidden = new_masks == 255
    np.testing.assert_array_equal(new_masks[~hidden], masks[~hidden])
    np.testing.assert_array_equal(new[~hidden], images[~hidden])
    means = np.broadcast_to(images.mean((1, 2), keepdims=True), images.shape)
    np.testing.assert_allclose(new[hidden], means[hidden], atol=1e-6)
    sides = []
    for box in hidden:
        rows, columns = box.any(1), box.any(0)
        assert box.sum() == rows.sum() * columns.sum()  # a filled rectangle
        inner = not (rows[[0, -1]].any() or columns[[0, -1]].any())
        assert not inner or abs(rows.sum() - columns.sum()) <= 1
        sides.append(max(rows.sum(), columns.sum()))
    assert max(sides) in (9, 10, 11) and min(sides) <= 2
    # Every part of the frame is hidden now and then.
    assert hidden.any(0).mean() > 0.95


def test_a_picture_depends_on_its_key_alone():
    images, masks = batch(6)
    new_images, new_masks = run(EVERYTHING, keys(6), images, masks)
    for order in ([5, 3, 0, 1, 4, 2], [2, 2, 0, 0, 1, 5], [4]):
        order = np.array(order)
        got_images, got_masks = run(EVERYTHING, keys(6)[order], images[order], masks[order])
        np.testing.assert_allclose(got_images, new_images[order], atol=1e-6)
        np.testing.assert_array_equal(got_masks, new_masks[order])


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_draw_what_their_fields_say(preset):
    config = Config(augment=Augment(preset=preset))
    fields = config_checks.validate(config).augment
    images, masks = batch(8, 16, 16)
    new, new_masks = run(fields, keys(8), images, masks)
    assert (preset == "none") == (new.tobytes() == images.tobytes())
    assert (preset == "none") == (new_masks.tobytes() == masks.tobytes())
    # Paper B fills with black, and moves by at most 3 pixels and 20 degrees.
    assert (preset == "paper_b") == (new == 0).all(-1).any()


def test_keys_depend_on_seed_epoch_and_index_each():
    epoch, index = (jnp.asarray(a.ravel()) for a in np.mgrid[:4, :5])
    found = [jax.random.key_data(augment.example_keys(s, epoch, index)) for s in (0, 1, 2)]
    assert len(np.unique(np.concatenate(found), axis=0)) == 3 * 4 * 5


def test_keys_do_not_depend_on_the_batch():
    epoch, index = jnp.array([0, 3, 1]), jnp.array([7, 7, 2])
    together = jax.random.key_data(augment.example_keys(5, epoch, index))
    for i in range(3):
        alone = augment.example_keys(5, epoch[i : i + 1], index[i : i + 1])
        np.testing.assert_array_equal(together[i], jax.random.key_data(alone)[0])


def test_another_epoch_draws_another_picture():
    images, masks = batch(6)
    first = run(EVERYTHING, keys(6, epoch=0), images, masks)[0]
    second = run(EVERYTHING, keys(6, epoch=1), images, masks)[0]
    assert (np.abs(first - second).max((1, 2, 3)) > 0.05).all()


_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from wbc_jax import config as config_lib
from wbc_jax.parallel import sharding
from wbc_jax.data import augment

assert jax.device_count() == 8
settings = config_lib.Augment(
    rotation_degrees=40, contrast=0.2, stain=0.2, noise=0.1, grayscale=0.5, cutout_boxes=1
)
rng = np.random.default_rng(0)
batch = {
    "image": rng.random((16, 10, 10, 3), np.float32),
    "mask": rng.integers(0, 3, (16, 10, 10)).astype(np.uint8),
    "index": np.arange(16, dtype=np.int32) * 5,
    "epoch": np.arange(16, dtype=np.int32) % 3,
}

def step(batch):
    keys = augment.example_keys(3, batch["epoch"], batch["index"])
    return augment.augment(settings, keys, batch["image"], batch["mask"])

found = {}
for count in (1, 8):
    mesh = sharding.make_mesh(count)
    images, masks = jax.jit(step)(sharding.put_batch(batch, mesh))
    assert len(images.sharding.device_set) == count, images.sharding
    found[count] = np.asarray(images), np.asarray(masks)
np.testing.assert_allclose(found[1][0], found[8][0], rtol=0, atol=1e-6)
np.testing.assert_array_equal(found[1][1], found[8][1])
assert np.abs(found[1][0] - batch["image"]).max() > 0.1
print("equal on 1 and 8 devices")
"""


def test_eight_devices_draw_what_one_draws():
    environment = os.environ | tiny_runs.devices(8)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", _DEVICES], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "equal on 1 and 8 devices" in done.stdout
