"""Layers that the networks share."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from wbc_jax import cpu
from wbc_jax.utils.color import to_gray

CONV_INIT = nnx.initializers.he_normal()


class Block(nnx.Module):
    """Base of the parts of a network that `config.train.remat` rematerializes, each as a whole.

    One by one: then a block is computed again only when its gradient is due. Subclasses define
    `forward`.

    Attributes:
        remat: keep only the input of `forward`, and compute the rest again for the gradient. The
            training step sets it on all blocks (`set_attributes`), as Flax does with dropout.
    """

    remat = False

    def __call__(self, x: jax.Array) -> jax.Array:
        call = type(self).forward
        return nnx.remat(call)(self, x) if self.remat else call(self, x)

    def forward(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C_in]` to the block's output."""
        raise NotImplementedError


class Conv(nnx.Conv):
    """Flax's convolution of stride 1 with 'same' padding and bias, computed by `cpu.convolve`.

    It computes in the type of its input.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C_in]` to `[B, H, W, C_out]`."""
        kernel, bias = self.kernel[...].astype(x.dtype), self.bias[...].astype(x.dtype)
        around = tuple(((size - 1) // 2, size // 2) for size in kernel.shape[:2])
        return cpu.convolve(x, kernel, bias, around)


def conv(in_features: int, out_features: int, size: int, *, rngs: nnx.Rngs) -> Conv:
    """Returns a `size` × `size` convolution: stride 1, 'same' padding, He initialization, bias."""
    return Conv(
        in_features, out_features, (size, size), padding="SAME", kernel_init=CONV_INIT, rngs=rngs
    )


class DepthwiseConv(nnx.Module):
    """A convolution of each channel with its own kernel and bias, with TensorFlow's 'same' padding.

    Attributes:
        kernel: `[k, k, C]`.
        bias: `[C]`.
        stride: 1 or 2.
    """

    def __init__(self, features: int, size: int, stride: int = 1, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(CONV_INIT(rngs.params(), (size, size, 1, features))[:, :, 0])
        self.bias = nnx.Param(jnp.zeros(features))
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C]` to `[B, ⌈H/s⌉, ⌈W/s⌉, C]`."""
        kernel, bias = self.kernel[...].astype(x.dtype), self.bias[...].astype(x.dtype)
        return cpu.depthwise(x, kernel, bias, self.stride, _same(x, len(kernel), self.stride))


class HalvingConv(nnx.Module):
    """A 3 × 3 convolution of stride 2 with bias and TensorFlow's 'same' padding.

    Attributes:
        kernel: `[3, 3, C_in, C_out]`.
        bias: `[C_out]`.
    """

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(CONV_INIT(rngs.params(), (3, 3, in_features, out_features)))
        self.bias = nnx.Param(jnp.zeros(out_features))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C_in]` to `[B, ⌈H/2⌉, ⌈W/2⌉, C_out]`."""
        kernel, bias = self.kernel[...].astype(x.dtype), self.bias[...].astype(x.dtype)
        return cpu.convolve(x, kernel, bias, _same(x, 3, 2), 2)


def _same(x: jax.Array, size: int, stride: int) -> tuple[tuple[int, int], ...]:
    """Returns TensorFlow's 'same' padding of height and width; an odd row or column comes after."""
    pads = jax.lax.padtype_to_pads(x.shape[1:3], (size, size), (stride, stride), "SAME")
    return tuple(pads)


class BatchNorm(nnx.Module):
    """Batch normalization with biased statistics, computed in one pass over the input.

    Under jit with a sharded batch, the statistics are those of the global batch. Compared with
    `nnx.BatchNorm`, which computes (x - mean) · gain + bias, this x · gain + offset
    takes three quarters of the time with gradients (58 instead of 77 ms for 16 × 128 × 128 × 16 on
    two busy cores), and differs in the last digits, so that one cannot replace the other in a
    trained network without changing its scores.

    Args:
        features: channels.
        momentum: share of the running statistics that is kept in each step.
        epsilon: added to the variance.

    Attributes:
        scale, bias: `[C]`, learned.
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
        """Normalizes float `[B, H, W, C]` over all axes but the last."""
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
        offset = self.bias[...] - mean * gain
        y = x.astype(jnp.float32) * gain[None, None, None] + offset[None, None, None]
        return y.astype(x.dtype)


def norm(kind: str, features: int, *, rngs: nnx.Rngs) -> nnx.Module | None:
    """Returns the normalization `kind` (`batch`, `group`, `none`) for `features` channels.

    Group normalization has 8 groups, or the largest smaller number that divides the channels.
    """
    if kind == "batch":
        return BatchNorm(features)
    if kind == "group":
        groups = max(g for g in range(1, 9) if features % g == 0)
        return GroupNorm(features, num_groups=groups, rngs=rngs)
    return None


class UpConv(nnx.Module):
    """2 × 2 transposed convolution of stride 2, as a matrix product and a depth-to-space.

    The windows of such a convolution do not overlap, so the sums are the same. XLA's own transposed
    convolution is several times slower on every backend.

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
        kernel, bias = self.kernel[...].astype(x.dtype), self.bias[...].astype(x.dtype)
        out = kernel.shape[-1]
        flat = kernel.transpose(2, 0, 1, 3).reshape(channels, 4 * out)
        y = (x.reshape(-1, channels) @ flat).reshape(batch, height, width, 2, 2, out)
        y = y.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, out)
        return y + bias[None, None, None]


def max_pool(x: jax.Array) -> jax.Array:
    """Applies a 2 × 2 max-pool of stride 2 to `[B, H, W, C]`; H and W are even.

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


def space_to_depth(x: jax.Array, side: int) -> jax.Array:
    """Moves `side` × `side` squares to the channels: `[B, H, W, C]` to `[B, H/s, W/s, s² C]`.

    Channels are ordered by row, column and channel, as TensorFlow's `space_to_depth`.
    """
    if side == 1:
        return x
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // side, side, width // side, side, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // side, width // side, side * side * channels)


def depth_to_space(x: jax.Array, side: int) -> jax.Array:
    """Inverts `space_to_depth`: `[B, H, W, s² C]` to `[B, s H, s W, C]`."""
    if side == 1:
        return x
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, side, side, channels // side**2)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height * side, width * side, channels // side**2)


def avg_pool(x: jax.Array) -> jax.Array:
    """Applies a 2 × 2 average pool of stride 2: `[B, H, W, C]` to `[B, ⌊H/2⌋, ⌊W/2⌋, C]`.

    An odd last row or column is dropped, as in PyTorch's `AvgPool2d(2)` and MATLAB's
    `averagePooling2dLayer(2, Stride=2)`.
    """
    return _windows(x).mean((2, 4))


def max_pool_with_indices(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Applies a 2 × 2 max-pool of stride 2 that also returns each maximum's position.

    An odd last row or column is dropped. The first of equal maxima in reading order counts, for
    value, index and gradient, as in PyTorch's `MaxPool2d(2, return_indices=True)`. Maxima are
    selected with masks instead of gathered, so that neither direction needs a scatter.

    Args:
        x: `[B, H, W, C]`.

    Returns:
        The maxima, and their uint8 positions in the windows (0 … 3 in reading order), both
        `[B, ⌊H/2⌋, ⌊W/2⌋, C]`.
    """
    windows = _windows(x)
    fixed = jax.lax.stop_gradient(windows)
    best, at = fixed[:, :, 0, :, 0], jnp.uint8(0)
    for position, (row, column) in enumerate(((0, 1), (1, 0), (1, 1)), start=1):
        other = fixed[:, :, row, :, column]
        better = (other > best) | jnp.isnan(other)
        best, at = jnp.where(better, other, best), jnp.where(better, jnp.uint8(position), at)
    return jnp.where(_chosen(at), windows, jnp.zeros((), x.dtype)).sum((2, 4)), at


def max_unpool(x: jax.Array, indices: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Puts each value where `max_pool_with_indices` found the maximum, and zeros elsewhere.

    Equals PyTorch's `MaxUnpool2d(2)` with `output_size`, and MATLAB's `maxUnpooling2dLayer`.

    Args:
        x: `[B, H, W, C]`.
        indices: uint8, of the same shape.
        size: height and width before pooling: 2H or 2H + 1, and 2W or 2W + 1.

    Returns:
        `[B, *size, C]`.

    Raises:
        ValueError: `size` does not pool to H × W.
    """
    batch, height, width, channels = x.shape
    if (size[0] // 2, size[1] // 2) != (height, width):
        raise ValueError(
            f"max_unpool: {size[0]} × {size[1]} pools to {size[0] // 2} × {size[1] // 2}, "
            f"not to the {height} × {width} given"
        )
    spread = jnp.where(_chosen(indices), x[:, :, None, :, None], jnp.zeros((), x.dtype))
    spread = spread.reshape(batch, 2 * height, 2 * width, channels)
    return jnp.pad(spread, ((0, 0), (0, size[0] % 2), (0, size[1] % 2), (0, 0)))


def _windows(x: jax.Array) -> jax.Array:
    """Views `[B, H, W, C]` as 2 × 2 windows, `[B, ⌊H/2⌋, 2, ⌊W/2⌋, 2, C]`."""
    batch, height, width, channels = x.shape
    height, width = height // 2, width // 2
    return x[:, : 2 * height, : 2 * width].reshape(batch, height, 2, width, 2, channels)


def _chosen(indices: jax.Array) -> jax.Array:
    """Returns the mask of the positions `indices` in the windows, laid out as by `_windows`."""
    # NumPy's arange is a constant; jnp's would be an operation, which ONNX lacks for uint8.
    positions = np.arange(4, dtype=np.uint8).reshape(1, 1, 2, 1, 2, 1)
    return indices[:, :, None, :, None] == positions


class TransposedConv(nnx.Module):
    """3 × 3 transposed convolution of stride 2 that doubles the size exactly.

    Equals PyTorch's `ConvTranspose2d(C_in, C_out, 3, stride=2, padding=1, output_padding=1)`: the
    first of the full 2H + 1 rows, and of the columns, is cropped. An output pixel in an even row
    sees one row of the kernel, one in an odd row sees two; likewise for columns. So it is computed
    by four convolutions of 1 × 1, 1 × 2, 2 × 1 and 2 × 2, whose outputs interleave: the same sums
    without the zeros that XLA's own transposed convolution multiplies. The gradient of XLA's is an
    order of magnitude slower on CPUs.

    Attributes:
        kernel: `[3, 3, C_in, C_out]`; input (y, x) times `kernel[i, j]` is added to output pixel
            (2y + i - 1, 2x + j - 1). PyTorch's weight is `[C_in, C_out, i, j]`.
        bias: `[C_out]`.
    """

    def __init__(self, in_features: int, out_features: int, *, rngs: nnx.Rngs):
        # He's variance 2 / fan-in; an output pixel sees 9/4 of the kernel's positions on average.
        init = nnx.initializers.variance_scaling(4 * 2.0, "fan_in", "truncated_normal")
        self.kernel = nnx.Param(init(rngs.params(), (3, 3, in_features, out_features)))
        self.bias = nnx.Param(jnp.zeros(out_features))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C_in]` to `[B, 2H, 2W, C_out]`."""
        batch, height, width, _ = x.shape
        kernel, bias = self.kernel[...].astype(x.dtype), self.bias[...].astype(x.dtype)
        even, odd = (slice(1, 2), 0), (slice(None, None, -2), 1)  # taps, and padding at the end
        parts = [
            cpu.convolve(x, kernel[rows][:, columns], bias, ((0, bottom), (0, right)))
            for rows, bottom in (even, odd)
            for columns, right in (even, odd)
        ]
        y = jnp.stack(parts, axis=3).reshape(batch, height, width, 2, 2, -1)
        return y.transpose(0, 1, 3, 2, 4, 5).reshape(batch, 2 * height, 2 * width, -1)


class ConvBlock(Block):
    """A 3 × 3 convolution, normalization and ReLU."""

    def __init__(self, in_features: int, out_features: int, kind: str, *, rngs: nnx.Rngs):
        self.conv = conv(in_features, out_features, 3, rngs=rngs)
        self.norm = norm(kind, out_features, rngs=rngs)

    def forward(self, x: jax.Array) -> jax.Array:
        """Maps `[B, H, W, C_in]` to `[B, H, W, C_out]`."""
        x = self.conv(x)
        return nnx.relu(self.norm(x) if self.norm else x)


class GroupNorm(nnx.GroupNorm):
    """Flax's group normalization, with its output in the type of its input.

    The statistics are float32.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes float `[B, H, W, C]` over space and the channels of each group."""
        return super().__call__(x).astype(x.dtype)


def prepare_input(images: jax.Array, channels: int, dtype: str) -> jax.Array:
    """Returns a network's input, `[B, H, W, channels]` of `dtype`.

    Args:
        images: float `[B, H, W, C]`.
        channels: C, or 1, which reduces three channels to their luma.
        dtype: name of a float type.
    """
    if channels == 1 and images.shape[-1] == 3:
        images = to_gray(images)
    return images.astype(dtype)
