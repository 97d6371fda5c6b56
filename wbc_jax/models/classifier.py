"""Paper B's classifier of cell types."""

import jax
import jax.numpy as jnp
from flax import nnx

from wbc_jax.models import layers

SLOPE = 0.01
"""Slope of the leaky ReLU for negative inputs; MATLAB's default."""


class Block(layers.Block):
    """A 5 × 5 convolution, normalization, leaky ReLU and a 2 × 2 average pool."""

    def __init__(self, in_features: int, out_features: int, norm: str, *, rngs: nnx.Rngs):
        self.conv = layers.conv(in_features, out_features, 5, rngs=rngs)
        self.norm = layers.norm(norm, out_features, rngs=rngs)

    def forward(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C_in]` to `[B, ⌊H/2⌋, ⌊W/2⌋, C_out]`."""
        x = self.conv(x)
        x = nnx.leaky_relu(self.norm(x) if self.norm else x, SLOPE)
        return layers.avg_pool(x)


class Classifier(nnx.Module):
    """Blocks of convolution and average pool, then one fully connected layer.

    Paper B prints no widths, only seven repetitions of the block, 36 layers, 17.5 M parameters and
    736 MFLOPs at 360 × 360 × 3 for 5 classes. The defaults, seven blocks of 16 … 1024 channels,
    have 17,499,781 parameters, but 32 layers (including input, softmax and classification) and
    2.52 G multiply-adds. Eight blocks of 8 … 1024 channels (`features=8, blocks=8`: one block, then
    seven repetitions) have 36 layers, 17,487,045 parameters and 721 M multiply-adds. These become
    736 M with about seven operations per value in normalization, activation and pool.

    Args:
        num_classes: number of logits.
        image_size: height and width of the images, px; it sets the size of the fully connected
            layer. Paper B: 360.
        features: channels of the first block, doubled at each further one.
        blocks: number of blocks.
        norm: `batch` (paper B), `group` or `none`.
        in_channels: channels of the network's input: those of the images, or 1, the luma of images
            of 3 channels.
        dtype: type of the computation, `float32` or `bfloat16`; parameters and logits are float32.
        rngs: `params` for the initial weights.

    Raises:
        ValueError: the images are too small to be halved `blocks` times.
    """

    def __init__(
        self,
        num_classes: int,
        image_size: int,
        features: int = 16,
        blocks: int = 7,
        norm: str = "batch",
        in_channels: int = 3,
        dtype: str = "float32",
        *,
        rngs: nnx.Rngs,
    ):
        left = image_size // 2**blocks
        if not left:
            raise ValueError(
                f"Classifier: images of {image_size} × {image_size} px cannot be halved {blocks} "
                f"times; at least {2**blocks} px are needed, or fewer blocks"
            )
        self.image_size = image_size
        self.in_channels, self.dtype = in_channels, dtype
        widths = [features * 2**level for level in range(blocks)]
        self.blocks = nnx.List(
            Block(before, after, norm, rngs=rngs)
            for before, after in zip([in_channels, *widths], widths)
        )
        self.head = nnx.Linear(left * left * widths[-1], num_classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits, float32 `[B, num_classes]`, for `[B, image_size, image_size, C]`.

        Raises:
            ValueError: the images have another size than the network was built for.
        """
        height, width = images.shape[1:3]
        if (height, width) != (self.image_size, self.image_size):
            raise ValueError(
                f"Classifier: built for {self.image_size} × {self.image_size} px, given "
                f"{height} × {width} px; resize the images or build it for their size"
            )
        x = layers.prepare_input(images, self.in_channels, self.dtype)
        for block in self.blocks:
            x = block(x)
        return self.head(x.reshape(x.shape[0], -1).astype(jnp.float32))
