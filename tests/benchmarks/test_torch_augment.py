"""benchmarks/torch_augment.py changes images as wbc_jax.data.augment does, for the same draws."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from wbc_jax.config import Augment
from wbc_jax.data import augment

pytest.importorskip("torch", reason="PyTorch is the other side: pip install torch")

import torch

import torch_augment

SETTINGS = Augment(
    rotation_degrees=45, zoom=0.2, stain=0.12, channel_gain=0.08, contrast=0.1, brightness=0.05
)


def _draws(settings, count=200):
    return torch_augment.draw(settings, count, torch.Generator().manual_seed(0))


def test_same_images_and_masks_for_the_same_draws():
    side, count = 12, 3
    rng = np.random.default_rng(1)
    images = rng.uniform(size=(count, side, side, 3)).astype(np.float32)
    masks = rng.integers(0, 3, (count, side, side)).astype(np.uint8)
    draws = _draws(SETTINGS, count)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    found, moved = torch_augment.apply(pixels, torch.from_numpy(masks), draws)
    assert moved.dtype == torch.uint8
    drawn = {name: getattr(draws, name).numpy() for name in draws.__dataclass_fields__}
    y, x = np.mgrid[:side, :side].astype(np.float32) - (side - 1) / 2
    for i in range(count):
        (a, b), (c, d) = drawn["matrix"][i]
        middle = np.float32((side - 1) / 2)
        rows, columns = a * y + b * x + middle, c * y + d * x + middle
        image, mask = augment.sample(images[i], masks[i], jnp.asarray(rows), jnp.asarray(columns))
        np.testing.assert_array_equal(moved[i].numpy(), mask)
        scale, shift = drawn["stain_scale"][i], drawn["stain_shift"][i]
        image = np.array(augment.stain_jitter(image, jnp.asarray(scale), jnp.asarray(shift)))
        image = image * drawn["gain"][i]
        mean = image.mean((0, 1))
        image = mean + (image - mean) * drawn["contrast"][i] + drawn["brightness"][i]
        expected = np.clip(image, 0, 1).transpose(2, 0, 1)
        np.testing.assert_allclose(found[i].numpy(), expected, atol=2e-5)


def test_the_draws_are_from_the_ranges_of_the_settings():
    draws = _draws(SETTINGS)
    zoom = 1 / draws.matrix.det().abs().sqrt().numpy()
    assert 1 / 1.2 <= zoom.min() < 0.87 and 1.16 < zoom.max() <= 1.2
    angle = np.degrees(np.arctan2(*draws.matrix[:, :, 0].numpy().T))
    assert np.histogram(angle, 8, (-180, 180))[0].min() > 10
    assert 80 < (draws.matrix.det() < 0).sum() < 120  # mirrored or not
    for values, middle, reach in (
        (draws.stain_scale, 1, 0.12),
        (draws.stain_shift, 0, 0.012),
        (draws.gain, 1, 0.08),
        (draws.contrast, 1, 0.1),
        (draws.brightness, 0, 0.05),
    ):
        off = (values - middle).numpy() / reach
        assert -1 <= off.min() < -0.9 and 0.9 < off.max() <= 1
    eight = _draws(Augment()).matrix
    assert len({tuple(m.flatten().tolist()) for m in eight.abs() + eight + 0.0}) <= 8
    assert len(torch.unique(eight, dim=0)) == 8 and set(eight.unique().tolist()) == {-1, 0, 1}


def test_other_changes_are_refused():
    with pytest.raises(ValueError, match="only brightness, channel_gain, contrast"):
        _draws(dataclasses.replace(SETTINGS, blur=1.0))
