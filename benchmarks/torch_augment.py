"""The augmentation of `configs/unet.py` in PyTorch, for a whole batch at once.

The same changes from the same distributions as `wbc_jax.data.augment`: reflections, quarter turns,
rotation and zoom by sampling each image once, mirrored beyond the frame; then stains, gains of the
channels, contrast and brightness. `wbc_jax.data.augment` draws with JAX's generator, one key an
image; here PyTorch's generator draws. Other settings of `config.Augment` are refused.
"""

import dataclasses
import math

import torch
from skimage import color
from torch import nn

from wbc_jax.config import Augment

_KNOWN = {"rotation_degrees", "zoom", "stain", "channel_gain", "contrast", "brightness"}


@dataclasses.dataclass(frozen=True, slots=True)
class Draws:
    """What was drawn for B images; all float32.

    Attributes:
        matrix: `[B, 2, 2]`, from (y, x) in the new image to those in the old, about the middle.
        stain_scale, stain_shift, gain: `[B, 3]`.
        contrast, brightness: `[B]`.
    """

    matrix: torch.Tensor
    stain_scale: torch.Tensor
    stain_shift: torch.Tensor
    gain: torch.Tensor
    contrast: torch.Tensor
    brightness: torch.Tensor


def draw(settings: Augment, count: int, generator: torch.Generator) -> Draws:
    """Draws the changes of `count` images.

    Raises:
        ValueError: a setting that this module lacks.
    """
    plain = Augment(**{name: getattr(settings, name) for name in _KNOWN})
    if dataclasses.replace(settings, preset="custom") != plain:
        raise ValueError(f"only {', '.join(sorted(_KNOWN))}, flips and quarter turns are here")

    def uniform(*shape: int) -> torch.Tensor:
        return 2 * torch.rand(shape, generator=generator) - 1

    def turn(angle: torch.Tensor) -> torch.Tensor:
        cos, sin = angle.cos(), angle.sin()
        return torch.stack([cos, -sin, sin, cos], -1).view(-1, 2, 2)

    flips = 1 - 2 * torch.randint(2, (count, 1, 2), generator=generator).float()
    quarters = turn(math.pi / 2 * torch.randint(4, (count,), generator=generator)).round() * flips
    angle = math.radians(settings.rotation_degrees) * uniform(count)
    zoom = torch.exp(math.log1p(settings.zoom) * uniform(count))
    return Draws(
        matrix=turn(angle) / zoom[:, None, None] @ quarters,
        stain_scale=1 + settings.stain * uniform(count, 3),
        stain_shift=0.1 * settings.stain * uniform(count, 3),
        gain=1 + settings.channel_gain * uniform(count, 3),
        contrast=1 + settings.contrast * uniform(count),
        brightness=settings.brightness * uniform(count),
    )


def apply(
    images: torch.Tensor, masks: torch.Tensor, draws: Draws
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the images and masks, changed.

    Args:
        images: float32 `[B, 3, S, S]` in [0, 1].
        masks: uint8 `[B, S, S]`.
        draws: of as many images.
    """
    # PyTorch's order is (x, y), and its coordinates are -1 and 1 at the frame.
    theta = nn.functional.pad(draws.matrix.flip(1, 2), (0, 1))
    grid = nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    around = {"padding_mode": "reflection", "align_corners": False}
    images = nn.functional.grid_sample(images, grid, mode="bilinear", **around)
    moved = nn.functional.grid_sample(masks[:, None].float(), grid, mode="nearest", **around)
    return recolor(images, draws), moved[:, 0].to(masks.dtype)


def recolor(images: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Returns the images, float32 `[B, 3, S, S]` in [0, 1], in other colors."""
    stains = torch.from_numpy(color.rgb_from_hed).float()
    stains = stains / stains.norm(dim=1, keepdim=True)
    mixed = stains.inverse() @ (draws.stain_scale[:, :, None] * stains)
    density = -images.clamp(min=1 / 255).log()
    shift = draws.stain_shift @ stains
    density = torch.einsum("bchw,bcd->bdhw", density, mixed) + shift[:, :, None, None]
    images = torch.exp(-density) * draws.gain[:, :, None, None]
    mean = images.mean((2, 3), keepdim=True)
    images = mean + (images - mean) * draws.contrast[:, None, None, None]
    return (images + draws.brightness[:, None, None, None]).clamp(0, 1)
