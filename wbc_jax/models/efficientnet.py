"""EfficientNet-Lite (Tan & Le 2019; TensorFlow's "lite" variants) as an encoder of two networks.

The lite variants have no squeeze-and-excitation and ReLU6 in place of swish. Batch normalization is
folded into the convolutions: it would carry one laboratory's statistics into another. The encoder
starts from ImageNet weights with `config.train.init_from="imagenet"`.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from wbc_jax.models import layers

VARIANTS = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}
"""Factors of the number of channels and of the number of blocks."""
STAGES = (
    # repeats, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
LEVEL_ENDS = (0, 1, 2, 4, 6)
"""Stages after which the image has 1/2, 1/4, 1/8, 1/16 and 1/32 of its side."""
STEM = 32
IMAGENET_CHANNELS, IMAGENET_CLASSES = 1280, 1000


def _width(channels: int, factor: float) -> int:
    """Returns a scaled number of channels, a multiple of 8 at least 0.9 times as large."""
    scaled = channels * factor
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


class Inverted(layers.Block):
    """An inverted residual (Sandler et al. 2018): 1 × 1 to more channels, depthwise, 1 × 1 back."""

    def __init__(
        self, inputs: int, outputs: int, size: int, stride: int, expansion: int, *, rngs: nnx.Rngs
    ):
        middle = inputs * expansion
        self.expand = layers.conv(inputs, middle, 1, rngs=rngs) if expansion > 1 else None
        self.depthwise = layers.DepthwiseConv(middle, size, stride, rngs=rngs)
        self.project = layers.conv(middle, outputs, 1, rngs=rngs)
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C_in]` to `[B, ⌈H/s⌉, ⌈W/s⌉, C_out]`."""
        y = x if self.expand is None else nnx.relu6(self.expand(x))
        y = self.project(nnx.relu6(self.depthwise(y)))
        return x + y if self.shortcut else y


class Encoder(nnx.Module):
    """The layers of EfficientNet-Lite up to its last inverted residual.

    Attributes:
        widths: channels of the five levels, from half the side to a 32nd.
    """

    def __init__(self, variant: str, in_channels: int = 3, *, rngs: nnx.Rngs):
        width, depth = VARIANTS[variant]
        # The lite variants scale neither the stem nor the repeats of the first and last stage.
        self.stem = layers.HalvingConv(in_channels, STEM, rngs=rngs)
        blocks, ends, widths, before = [], [], [], STEM
        for stage, (repeats, size, stride, expansion, channels) in enumerate(STAGES):
            outputs = _width(channels, width)
            edge = stage in (0, len(STAGES) - 1)
            for n in range(repeats if edge else math.ceil(repeats * depth)):
                step = stride if n == 0 else 1
                blocks.append(Inverted(before, outputs, size, step, expansion, rngs=rngs))
                before = outputs
            if stage in LEVEL_ENDS:
                ends.append(len(blocks) - 1)
                widths.append(outputs)
        self.blocks = nnx.List(blocks)
        self.ends, self.widths = tuple(ends), tuple(widths)

    def __call__(self, x: jax.Array) -> list[jax.Array]:
        """Maps `[B, H, W, C]`, values in [-1, 1], to the five levels, the largest first."""
        x = nnx.relu6(self.stem(x))
        levels = []
        for n, block in enumerate(self.blocks):
            x = block(x)
            if n in self.ends:
                levels.append(x)
        return levels


class EfficientNet(nnx.Module):
    """A classifier: means of the encoder's last three levels, a hidden layer, a linear layer.

    With `types`, another linear layer of the means tells apart the cells of one laboratory
    (`wbc_jax.adapt`). Its last number is a gate: how likely a cell is of that laboratory, and not
    of the training. The logits are then the logarithms of the probabilities of both, mixed by it.

    Args:
        num_classes: number of logits.
        variant: a key of `VARIANTS`.
        features: channels of the embedding.
        dropout: rate on the embedding, in training.
        types: names of the laboratory's types, the training's first; empty: there is no laboratory.
        in_channels: 3, or 1, the luma of images of 3 channels.
        dtype: type of the computation, `float32` or `bfloat16`; parameters and logits are float32.
        rngs: `params` for the initial weights, `dropout` for the masks.
    """

    def __init__(
        self,
        num_classes: int,
        variant: str = "lite0",
        features: int = 256,
        dropout: float = 0.0,
        types: tuple[str, ...] = (),
        in_channels: int = 3,
        dtype: str = "float32",
        *,
        rngs: nnx.Rngs,
    ):
        self.in_channels, self.dtype = in_channels, dtype
        self.encoder = Encoder(variant, in_channels, rngs=rngs)
        pooled = sum(self.encoder.widths[2:])
        self.norm = nnx.LayerNorm(pooled, rngs=rngs)
        self.hidden = nnx.Linear(pooled, features, dtype=jnp.dtype(dtype), rngs=rngs)
        self.dropout = nnx.Dropout(dropout, rngs=rngs) if dropout else None
        self.head = nnx.Linear(features, num_classes, rngs=rngs)
        self.laboratory = nnx.Linear(pooled, len(types) + 1, rngs=rngs) if types else None

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits, float32 `[B, K]`, for `[B, H, W, C]` of any H and W; K is `num_classes`,
        or the number of the laboratory's types."""
        return self.with_embedding(images)[0]

    def with_embedding(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the logits, and the embedding, float32 `[B, D]`, of which they are linear, if
        there is no laboratory."""
        logits, embedding, _ = self._outputs(images)
        return logits, embedding

    def with_features(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the logits, and the embedding followed by the means that all layers after the
        encoder see, float32 `[B, D + F]`."""
        logits, embedding, pooled = self._outputs(images)
        return logits, jnp.concatenate([embedding, pooled], -1)

    def _outputs(self, images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        x = layers.prepare_input(images, self.in_channels, self.dtype) / 2  # [-2, 2] to [-1, 1]
        pooled = [level.astype(jnp.float32).mean((1, 2)) for level in self.encoder(x)[2:]]
        pooled = jnp.concatenate(pooled, -1)
        hidden = self.hidden(self.norm(pooled))
        embedding = nnx.relu(hidden).astype(jnp.float32)
        if self.dropout is not None:
            embedding = self.dropout(embedding)
        logits = self.head(embedding)
        if self.laboratory is not None:
            logits = mixed(logits, self.laboratory(pooled))
        return logits, embedding, pooled


_ABSENT = -30.0
"""Logarithm of the probability of a type that the training did not have, by the old layer."""


def mixed(logits: jax.Array, own: jax.Array) -> jax.Array:
    """Returns the logarithms of the mixed probabilities, `[B, K]`.

    Args:
        logits: `[B, J]` of the training's types.
        own: `[B, K + 1]` of a laboratory's types, of which the first J are the training's; the last
            is the logit of the cell being of the laboratory.
    """
    gate, more = own[:, -1:], own.shape[1] - 1 - logits.shape[1]
    old = jnp.pad(jax.nn.log_softmax(logits), ((0, 0), (0, more)), constant_values=_ABSENT)
    new = jax.nn.log_softmax(own[:, :-1])
    return jnp.logaddexp(jax.nn.log_sigmoid(gate) + new, jax.nn.log_sigmoid(-gate) + old)


class EfficientUNet(nnx.Module):
    """A U-Net (Ronneberger et al. 2015) whose contracting path is the encoder.

    The expanding path ends at half the image's side; its last layer has a channel for each class
    and pixel of a square of 2 × 2.

    Args:
        num_classes: channels of the output.
        variant: a key of `VARIANTS`.
        features: channels of the expanding path at half the side; 2, 4, 6 times below.
        norm: of the expanding path: `batch`, `group` or `none`.
        in_channels, dtype, rngs: as of `EfficientNet`.
    """

    def __init__(
        self,
        num_classes: int,
        variant: str = "lite0",
        features: int = 16,
        norm: str = "group",
        in_channels: int = 3,
        dtype: str = "float32",
        *,
        rngs: nnx.Rngs,
    ):
        self.in_channels, self.dtype = in_channels, dtype
        self.encoder = Encoder(variant, in_channels, rngs=rngs)
        skips = self.encoder.widths[-2::-1]
        outputs = [features * factor for factor in (6, 4, 2, 1)]
        inputs = [self.encoder.widths[-1], *outputs]
        self.up = nnx.List(
            layers.UpConv(before, after, rngs=rngs) for before, after in zip(inputs, outputs)
        )
        self.decoder = nnx.List(
            layers.ConvBlock(skip + width, width, norm, rngs=rngs)
            for skip, width in zip(skips, outputs)
        )
        self.last = layers.ConvBlock(features, features, norm, rngs=rngs)
        self.head = layers.conv(features, num_classes * 4, 1, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits, float32 `[B, H, W, num_classes]`, for `[B, H, W, C]` of any H and W."""
        height, width = images.shape[1:3]
        x = layers.prepare_input(images, self.in_channels, self.dtype) / 2  # [-2, 2] to [-1, 1]
        *skips, x = self.encoder(layers.pad_to_multiple(x, 32))
        for up, block, skip in zip(self.up, self.decoder, reversed(skips)):
            x = block(jnp.concatenate([skip, up(x)], axis=-1))
        x = self.head(self.last(x).astype(jnp.float32))
        return layers.depth_to_space(x, 2)[:, :height, :width]


class ImageNet(nnx.Module):
    """The whole of EfficientNet-Lite with ImageNet's 1,000 logits, to check converted weights."""

    def __init__(self, variant: str = "lite0", *, rngs: nnx.Rngs):
        self.encoder = Encoder(variant, rngs=rngs)
        self.top = layers.conv(self.encoder.widths[-1], IMAGENET_CHANNELS, 1, rngs=rngs)
        self.head = nnx.Linear(IMAGENET_CHANNELS, IMAGENET_CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns float32 `[B, 1000]` for `[B, H, W, 3]`, values in [-1, 1]."""
        return self.head(nnx.relu6(self.top(self.encoder(x)[-1])).mean((1, 2)))
