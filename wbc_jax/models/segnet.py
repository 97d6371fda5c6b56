"""SegNet (Badrinarayanan et al. 2017), in the layouts of MATLAB's `segnetLayers`."""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx

from wbc_jax.models import layers

VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
"""Channels and convolutions of VGG-16's stages."""


class SegNet(nnx.Module):
    """Encoder and decoder; max-pools pass the positions of their maxima to the unpooling.

    A decoder stage mirrors its encoder stage: unpooling, then as many convolutions, the last of
    which has the channels of the stage above. The last convolution of the decoder has one channel
    per class and, as in the article, neither normalization nor ReLU, as the softmax follows.

    Args:
        num_classes: channels of the output.
        features: channels of the first stage. Paper B: 64.
        depth: number of stages, each of which halves the image.
        layout: `matlab`: two convolutions of `features` channels in every stage, as `segnetLayers`
            has them if it is given a depth (paper B's 64 filters). `vgg16`: the first `depth` of
            VGG-16's five stages, with `features` / 64 times their channels; the article has all
            five.
        norm: `batch` (the article and MATLAB), `group` or `none`.
        in_channels: channels of the network's input: those of the images, or 1, the luma of images
            of 3 channels.
        dtype: type of the computation, `float32` or `bfloat16`; parameters and logits are float32.
        rngs: `params` for the initial weights.

    Raises:
        ValueError: `layout` is unknown, or has fewer than `depth` stages.
    """

    def __init__(
        self,
        num_classes: int,
        features: int = 64,
        depth: int = 4,
        layout: str = "matlab",
        norm: str = "batch",
        in_channels: int = 3,
        dtype: str = "float32",
        *,
        rngs: nnx.Rngs,
    ):
        stages = _stages(layout, features, depth)
        inputs = [in_channels, *(width for width, _ in stages)]
        self.depth = depth
        self.in_channels, self.dtype = in_channels, dtype
        self.encoder = nnx.List()
        for before, (width, convs) in zip(inputs, stages):
            self.encoder.append(_stage([before] + [width] * convs, norm, rngs))
        self.decoder = nnx.List()
        for level in reversed(range(depth)):
            width, convs = stages[level]
            # The first stage ends in the head instead of a block.
            widths = [width] * convs + ([inputs[level]] if level else [])
            self.decoder.append(_stage(widths, norm, rngs))
        self.head = layers.conv(stages[0][0], num_classes, 3, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits, float32 `[B, H, W, num_classes]`, for `[B, H, W, C]` of any H and W.

        Raises:
            ValueError: H or W is below 2^depth.
        """
        if min(images.shape[1:3]) < 2**self.depth:
            raise ValueError(
                f"SegNet: an image of {images.shape[1]} × {images.shape[2]} px cannot be halved "
                f"{self.depth} times; at least {2**self.depth} px are needed, or a smaller depth"
            )
        x, pools = layers.prepare_input(images, self.in_channels, self.dtype), []
        for stage in self.encoder:
            for block in stage:
                x = block(x)
            size = x.shape[1:3]
            x, indices = layers.max_pool_with_indices(x)
            pools.append((indices, size))
        for stage in self.decoder:
            x = layers.max_unpool(x, *pools.pop())
            for block in stage:
                x = block(x)
        return self.head(x.astype(jnp.float32))


def _stage(widths: list[int], norm: str, rngs: nnx.Rngs) -> nnx.List:
    return nnx.List(
        layers.ConvBlock(before, after, norm, rngs=rngs)
        for before, after in itertools.pairwise(widths)
    )


def _stages(layout: str, features: int, depth: int) -> list[tuple[int, int]]:
    """Returns channels and convolutions of each encoder stage."""
    if layout == "matlab":
        return [(features, 2)] * depth
    if layout != "vgg16":
        raise ValueError(f"SegNet: layout is {layout!r}; allowed are 'matlab' and 'vgg16'")
    if depth > len(VGG16):
        raise ValueError(f"SegNet: layout 'vgg16' has {len(VGG16)} stages, depth is {depth}")
    return [(width * features // 64, convs) for width, convs in VGG16[:depth]]
