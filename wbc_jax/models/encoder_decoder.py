"""Paper B's encoder–decoder network for segmentation."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from wbc_jax.models import layers

CONVS_PER_POOL = 2


class EncoderDecoder(nnx.Module):
    """Paper B's "proposed CNN": convolutions and max-pools down, transposed convolutions up.

    The paper prints neither widths nor kernel sizes, only the kinds of layers, their number, 22,
    58.5 K parameters and 7.311 BFLOPs at 360 × 360 × 3 for 3 classes. If there are as many
    transposed convolutions as pools, the 22 layers are input + n · (convolution, normalization,
    ReLU) + p pools + p · (transposed convolution, ReLU) + 1 × 1 convolution + softmax + pixel
    classification, where n + p = 6: (n, p) is (4, 2), (5, 1) or (3, 3). The defaults here are
    n = 4, p = 2, 3 × 3 kernels and widths chosen for 58,467 parameters and 7.30 GFLOPs (2 per
    multiply-add). Other widths fit those two figures as well.

    Args:
        num_classes: channels of the output.
        widths: channels of the 3 × 3 convolutions, each followed by normalization and ReLU; a
            2 × 2 max-pool follows every second one.
        up_widths: channels of the 3 × 3 transposed convolutions of stride 2, each followed by
            ReLU; one for each pool.
        norm: `batch` (the paper), `group` or `none`, after the 3 × 3 convolutions.
        in_channels: channels of the network's input: those of the images, or 1, the luma of images
            of 3 channels.
        dtype: type of the computation, `float32` or `bfloat16`; parameters and logits are float32.
        rngs: `params` for the initial weights.

    Raises:
        ValueError: there are not half as many `up_widths` as `widths`.
    """

    def __init__(
        self,
        num_classes: int,
        widths: Sequence[int] = (32, 64, 24, 8),
        up_widths: Sequence[int] = (64, 32),
        norm: str = "batch",
        in_channels: int = 3,
        dtype: str = "float32",
        *,
        rngs: nnx.Rngs,
    ):
        if len(widths) != CONVS_PER_POOL * len(up_widths) or not widths:
            raise ValueError(
                f"EncoderDecoder: {len(widths)} widths and {len(up_widths)} up_widths; there must "
                f"be {CONVS_PER_POOL} widths for each of the up_widths, and at least one"
            )
        self.in_channels, self.dtype = in_channels, dtype
        self.blocks = nnx.List(
            layers.ConvBlock(before, after, norm, rngs=rngs)
            for before, after in zip([in_channels, *widths], widths)
        )
        self.up = nnx.List(
            layers.TransposedConv(before, after, rngs=rngs)
            for before, after in zip([widths[-1], *up_widths], up_widths)
        )
        self.head = layers.conv(up_widths[-1], num_classes, 1, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits, float32 `[B, H, W, num_classes]`, for `[B, H, W, C]` of any H and W."""
        height, width = images.shape[1:3]
        x = layers.prepare_input(images, self.in_channels, self.dtype)
        x = layers.pad_to_multiple(x, 2 ** len(self.up))
        for number, block in enumerate(self.blocks, start=1):
            x = block(x)
            if number % CONVS_PER_POOL == 0:
                x = layers.max_pool(x)
        for up in self.up:
            x = nnx.relu(up(x))
        return self.head(x.astype(jnp.float32))[:, :height, :width]
