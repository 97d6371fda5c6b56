"""A residual network for cell types (He et al. 2016) with one block per level."""

import jax
import jax.numpy as jnp
from flax import nnx

from wbc_jax.models import layers


class Block(layers.Block):
    """Two 3 × 3 convolutions with normalization, added to the input; ReLU after each."""

    def __init__(self, in_features: int, out_features: int, norm: str, *, rngs: nnx.Rngs):
        self.conv1 = layers.conv(in_features, out_features, 3, rngs=rngs)
        self.norm1 = layers.norm(norm, out_features, rngs=rngs)
        self.conv2 = layers.conv(out_features, out_features, 3, rngs=rngs)
        self.norm2 = layers.norm(norm, out_features, rngs=rngs)
        same = in_features == out_features
        self.shortcut = None if same else layers.conv(in_features, out_features, 1, rngs=rngs)

    def forward(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C_in]` to `[B, H, W, C_out]`."""
        y = self.conv1(x)
        y = self.conv2(nnx.relu(self.norm1(y) if self.norm1 else y))
        y = self.norm2(y) if self.norm2 else y
        return nnx.relu(y + (self.shortcut(x) if self.shortcut else x))


class ResNet(nnx.Module):
    """Stem, residual blocks with 2 × 2 average pools in between, mean over the image, linear layer.

    It differs from He et al.'s network for small images in three points: pools halve the image
    (He et al. 2019, "ResNet-D"), each level has one block, and the stem sees squares of pixels. It
    takes images of any size from `patch * 2**depth` pixels.

    Args:
        num_classes: number of logits.
        features: channels of the first level, doubled at each level below.
        depth: number of halvings.
        norm: `batch`, `group` or `none`.
        patch: side in pixels of the squares that are one position of the stem's input.
        in_channels: channels of the network's input: those of the images, or 1, the luma of images
            of 3 channels.
        dtype: type of the computation, `float32` or `bfloat16`; parameters and logits are float32.
        rngs: `params` for the initial weights.
    """

    def __init__(
        self,
        num_classes: int,
        features: int = 32,
        depth: int = 3,
        norm: str = "group",
        patch: int = 2,
        in_channels: int = 3,
        dtype: str = "float32",
        *,
        rngs: nnx.Rngs,
    ):
        widths = [features * 2**level for level in range(depth + 1)]
        self.patch, self.in_channels, self.dtype = patch, in_channels, dtype
        self.stem = layers.ConvBlock(in_channels * patch**2, features, norm, rngs=rngs)
        self.blocks = nnx.List(
            Block(before, after, norm, rngs=rngs)
            for before, after in zip([features, *widths], widths)
        )
        self.head = nnx.Linear(widths[-1], num_classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits, float32 `[B, num_classes]`, for `[B, H, W, C]` of any H and W."""
        return self.with_embedding(images)[0]

    def with_embedding(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the logits, and the embedding, float32 `[B, D]`, of which they are linear.

        The embedding is the mean of the last level over the image.
        """
        x = layers.prepare_input(images, self.in_channels, self.dtype)
        x = layers.space_to_depth(layers.pad_to_multiple(x, self.patch), self.patch)
        x = self.stem(x)
        for level, block in enumerate(self.blocks):
            x = block(layers.avg_pool(x) if level else x)
        embedding = x.astype(jnp.float32).mean((1, 2))
        return self.head(embedding), embedding
