"""U-Net (Ronneberger et al. 2015) as drawn in paper A, with its sizes as arguments."""

import jax
import jax.numpy as jnp
from flax import nnx

from wbc_jax.models import layers


class Block(layers.Block):
    """Two 3 × 3 convolutions, each followed by normalization and ReLU."""

    def __init__(self, in_features: int, out_features: int, norm: str, *, rngs: nnx.Rngs):
        self.conv1 = layers.conv(in_features, out_features, 3, rngs=rngs)
        self.norm1 = layers.norm(norm, out_features, rngs=rngs)
        self.conv2 = layers.conv(out_features, out_features, 3, rngs=rngs)
        self.norm2 = layers.norm(norm, out_features, rngs=rngs)

    def forward(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C_in]` to `[B, H, W, C_out]`."""
        x = self.conv1(x)
        x = nnx.relu(self.norm1(x) if self.norm1 else x)
        x = self.conv2(x)
        return nnx.relu(self.norm2(x) if self.norm2 else x)


class UNet(nnx.Module):
    """Contracting path, bridge, expanding path with skip connections, 1 × 1 convolution.

    Args:
        num_classes: channels of the output.
        features: channels of the first level, doubled at each level below.
        depth: number of halvings. Paper A: features 64, depth 4, so 64 … 1024 channels.
        norm: `batch` (paper A), `group` or `none` (paper B).
        dropout: rate after the last encoder level and after the bridge (MATLAB's `unetLayers`).
        up_relu: ReLU after each up-convolution (MATLAB's `unetLayers`).
        patch: side in pixels of the squares that are one position of the first level (space to
            depth). The output has a channel for each class and pixel of the square, so that the
            network costs as much as for an image of 1 / `patch` the side, with logits at full size.
        in_channels: channels of the network's input: those of the images, or 1, the luma of images
            of 3 channels.
        dtype: type of the computation, `float32` or `bfloat16`; parameters and logits are float32.
        rngs: `params` for the initial weights, `dropout` for the masks.
    """

    def __init__(
        self,
        num_classes: int,
        features: int = 64,
        depth: int = 4,
        norm: str = "batch",
        dropout: float = 0.0,
        up_relu: bool = False,
        patch: int = 1,
        in_channels: int = 3,
        dtype: str = "float32",
        *,
        rngs: nnx.Rngs,
    ):
        widths = [features * 2**level for level in range(depth + 1)]
        self.depth, self.up_relu, self.patch = depth, up_relu, patch
        self.in_channels, self.dtype = in_channels, dtype
        self.encoder = nnx.List(
            Block(before, after, norm, rngs=rngs)
            for before, after in zip([in_channels * patch**2, *widths], widths)
        )
        self.up = nnx.List(
            layers.UpConv(2 * width, width, rngs=rngs) for width in reversed(widths[:-1])
        )
        self.decoder = nnx.List(
            Block(2 * width, width, norm, rngs=rngs) for width in reversed(widths[:-1])
        )
        places = 2 if dropout else 0
        self.dropouts = nnx.List(nnx.Dropout(dropout, rngs=rngs) for _ in range(places))
        self.head = layers.conv(features, num_classes * patch**2, 1, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits, float32 `[B, H, W, num_classes]`, for `[B, H, W, C]` of any H and W."""
        height, width = images.shape[1:3]
        x = layers.prepare_input(images, self.in_channels, self.dtype)
        x = layers.pad_to_multiple(x, self.patch * 2**self.depth)
        x = layers.space_to_depth(x, self.patch)
        skips = []
        for level, block in enumerate(self.encoder):
            x = block(x)
            if self.dropouts and level >= self.depth - 1:
                x = self.dropouts[level - self.depth + 1](x)
            if level < self.depth:
                skips.append(x)
                x = layers.max_pool(x)
        for up, block, skip in zip(self.up, self.decoder, reversed(skips)):
            x = nnx.relu(up(x)) if self.up_relu else up(x)
            x = block(jnp.concatenate([skip, x], axis=-1))
        x = layers.depth_to_space(self.head(x.astype(jnp.float32)), self.patch)
        return x[:, :height, :width]
