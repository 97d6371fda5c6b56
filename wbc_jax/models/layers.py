"""Layers that the networks share."""

import jax
import jax.numpy as jnp
from flax import nnx

CONV_INIT = nnx.initializers.he_normal()


def conv(in_features: int, out_features: int, size: int, *, rngs: nnx.Rngs) -> nnx.Conv:
    """A `size` × `size` convolution, stride 1, 'same' padding, He initialisation, with bias."""
    return nnx.Conv(
        in_features, out_features, (size, size), padding="SAME", kernel_init=CONV_INIT, rngs=rngs
    )


class BatchNorm(nnx.Module):
    """Batch normalisation with biased statistics in one pass over the input.

    Under jit with the batch sharded, the means are those of the global batch.

    Args:
        features: channels.
        momentum: share of the running statistics that each step keeps.
        epsilon: added to the variance.

    Attributes:
        scale, bias: `[C]`, learnt.
        mean, var: `[C]`, running statistics, used where `use_running_average` is set.
    """

    def __init__(self, features: int, momentum: float = 0.9, epsilon: float = 1e-5):
        self.scale = nnx.Param(jnp.ones(features))
        self.bias = nnx.Param(jnp.zeros(features))
        self.mean = nnx.BatchStat(jnp.zeros(features))
        self.var = nnx.BatchStat(jnp.ones(features))
        self.momentum, self.epsilon = momentum, epsilon
        self.use_running_average = False

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises float `[B, H, W, C]` over all but its last axis."""
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            axes = tuple(range(x.ndim - 1))
            wide = x.astype(jnp.float32)
            # E[x²] − E[x]²: one pass, as in Flax's `use_fast_variance`.
            mean = wide.mean(axes)
            var = jnp.maximum((wide * wide).mean(axes) - mean * mean, 0)
            keep = self.momentum
            self.mean[...] = keep * self.mean[...] + (1 - keep) * jax.lax.stop_gradient(mean)
            self.var[...] = keep * self.var[...] + (1 - keep) * jax.lax.stop_gradient(var)
        gain = self.scale[...] * jax.lax.rsqrt(var + self.epsilon)
        return (x * gain + (self.bias[...] - mean * gain)).astype(x.dtype)


def norm(kind: str, features: int, *, rngs: nnx.Rngs) -> nnx.Module | None:
    """Returns the normalisation `kind` (`batch`, `group`, `none`) for `features` channels.

    Group normalisation has 8 groups, or the most below it that divide the channels.
    """
    if kind == "batch":
        return BatchNorm(features)
    if kind == "group":
        groups = max(g for g in range(1, 9) if features % g == 0)
        return nnx.GroupNorm(features, num_groups=groups, rngs=rngs)
    return None


class UpConv(nnx.Module):
    """2 × 2 transposed convolution of stride 2, as a matrix product and a depth-to-space.

    The windows of such a convolution do not overlap, so this is the same sum, and XLA's own
    transposed convolution is several times slower on every backend.

    Attributes:
        kernel: `[2, 2, C_in, C_out]`; output pixel (2y + i, 2x + j) is input (y, x) times
            `kernel[i, j]`, as PyTorch's `ConvTranspose2d(C_in, C_out, 2, 2)` with its weight
            `[C_in, C_out, i, j]`.
        bias: `[C_out]`.
    """

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        # Each output pixel sees one window position: the fan-in is C_in.
        shape = (in_features, 4 * out_features)
        kernel = CONV_INIT(rngs.params(), shape).reshape(in_features, 2, 2, out_features)
        self.kernel = nnx.Param(kernel.transpose(1, 2, 0, 3))
        self.bias = nnx.Param(jnp.zeros(out_features))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C_in]` to `[B, 2H, 2W, C_out]`."""
        batch, height, width, channels = x.shape
        kernel = self.kernel[...]
        out = kernel.shape[-1]
        flat = kernel.transpose(2, 0, 1, 3).reshape(channels, 4 * out)
        y = (x.reshape(-1, channels) @ flat).reshape(batch, height, width, 2, 2, out)
        y = y.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, out)
        return y + self.bias[...]


def max_pool(x: jax.Array) -> jax.Array:
    """2 × 2 max-pool of stride 2 on `[B, H, W, C]`; H and W are even.

    A maximum over a reshaped view: XLA's windowed reduction has a slow gradient on CPU.
    """
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
    rows = jnp.maximum(x[:, :, 0], x[:, :, 1])
    return jnp.maximum(rows[:, :, :, 0], rows[:, :, :, 1])


def pad_to_multiple(x: jax.Array, multiple: int) -> jax.Array:
    """Pads `[B, H, W, C]` at bottom and right, repeating the edge, to multiples of `multiple`."""
    height, width = x.shape[1:3]
    bottom, right = -height % multiple, -width % multiple
    if not bottom and not right:
        return x
    return jnp.pad(x, ((0, 0), (0, bottom), (0, right), (0, 0)), mode="edge")
