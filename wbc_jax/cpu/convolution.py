"""The one place that chooses how to compute convolutions, by backend and by shape.

Accelerators use XLA's own convolution and its own gradient. On a CPU, XLA's convolution takes two
to four times as long as oneDNN's, which jaxlib carries but does not call by itself. There, where
`usable` allows it, the output and the input gradient are calls of oneDNN, and the weight gradient,
which jaxlib's oneDNN does not offer, is that of `weight_gradient`. docs/performance.md has the
measurements behind each rule, and README.md in this folder says how to switch it off.
"""

import contextlib
import contextvars
import functools
import json
import os
import types
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax import lax
from jax.custom_derivatives import SymbolicZero

from wbc_jax.errors import ConfigError

Padding = tuple[tuple[int, int], tuple[int, int]]

SWITCH = "WBC_JAX_CPU_CONVOLUTION"
"""Environment variable: `auto` (the default) or `xla`, which leaves all convolutions to XLA."""

_KNOWN_JAXLIB = ("0.10.0", "0.10.1", "0.10.2", "0.11.0", "0.11.1", "0.11.2")
"""Versions in which the call of oneDNN was tested. Its form is private to jaxlib and may change in
any other version, and oneDNN ends the process when it is called wrongly."""

_FEW_CHANNELS = 16
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
_disabled = contextvars.ContextVar("disabled", default=False)


@contextlib.contextmanager
def disabled() -> Iterator[None]:
    """Makes convolutions traced within it XLA's own: for export, counting and comparison.

    It holds for the current thread. Functions that `jax.jit` has traced before stay as they are.
    """
    token = _disabled.set(True)
    try:
        yield
    finally:
        _disabled.reset(token)


def wanted() -> bool:
    """Returns whether convolutions traced now run on a CPU and are not to be XLA's own.

    Raises:
        ConfigError: the environment variable `SWITCH` has another value than the two allowed.
    """
    switch = os.environ.get(SWITCH, "")
    if switch not in ("", "auto", "xla"):
        raise ConfigError(f"{SWITCH} is {switch!r}; allowed are 'auto' and 'xla'.")
    return switch != "xla" and not _disabled.get() and jax.default_backend() == "cpu"


def usable() -> bool:
    """Returns whether convolutions traced now may call oneDNN.

    They may not in a program for several devices, among which XLA could not divide the call (inside
    `jax.shard_map` it need not), nor with JAX's on-disk cache of compiled programs, which cannot
    hold it.

    Raises:
        ConfigError: as `wanted`.
    """
    return (
        wanted() and _on_one_device() and not jax.config.jax_compilation_cache_dir and _has_onednn()
    )


def _on_one_device() -> bool:
    """Returns whether code traced now runs on one device: by itself, or inside `jax.shard_map`."""
    mesh = jax.sharding.get_abstract_mesh()
    divided = not mesh.empty and all(t == jax.sharding.AxisType.Manual for t in mesh.axis_types)
    return divided or jax.device_count() == 1


def compiler_options(training: bool = True) -> dict[str, str] | None:
    """Returns the options with which `jax.jit` compiles programs that contain convolutions.

    On a CPU, XLA hands its own convolutions (the weight gradients that are left to it) to YNNPACK,
    which takes twice as long as XLA itself on two cores. YNNPACK's sums are fast in training, but
    their order depends on the number of threads and of images, so prediction leaves them to XLA.
    """
    if jax.default_backend() != "cpu" or jax.lib.__version__ not in _KNOWN_JAXLIB:
        return None
    sums = "LIBRARY_FUSION_TYPE_REDUCE" if training else ""
    return {"xla_cpu_experimental_ynn_fusion_type": sums}


def convolve(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, padding: Padding, stride: int = 1
) -> jax.Array:
    """Computes a convolution with bias; it can be differentiated.

    At a stride of 2 or more the gradient with respect to `x` is XLA's, which is slow on CPUs; it is
    not computed where `x` does not depend on what is differentiated, as a network's images.

    Args:
        x: `[B, H, W, C_in]`.
        kernel: `[h, w, C_in, C_out]`.
        bias: `[C_out]`.
        padding: zeros before and after: ((top, bottom), (left, right)).
        stride: in both directions.

    Returns:
        `[B, (H + top + bottom − h) // stride + 1, (W + left + right − w) // stride + 1, C_out]`.
    """
    # More zeros than the kernel spans would be negative padding in the input gradient.
    spanned = all(0 <= n < size for around, size in zip(padding, kernel.shape) for n in around)
    if spanned and usable() and x.dtype == kernel.dtype == bias.dtype == jnp.float32:
        return _fast(x, kernel, bias, padding, stride)
    return _xla(x, kernel, padding, stride) + bias[None, None, None]


def _xla(x: jax.Array, kernel: jax.Array, padding: Padding, stride: int = 1) -> jax.Array:
    strides = stride, stride
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=_DIMENSIONS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _fast(x, kernel, bias, padding, stride):
    return _onednn(x, kernel, bias, padding, stride=stride)


def _forward(x, kernel, bias, padding, stride):
    """Returns the output and (x, kernel, () if `x` needs a gradient else None)."""
    wanted, x, kernel, bias = x.perturbed, x.value, kernel.value, bias.value
    if not wanted:  # the images: they lie in memory anyway
        return _onednn(x, kernel, bias, padding, stride=stride), (x, kernel, None)
    out, x = _onednn(x, kernel, bias, padding, return_input=True, stride=stride)
    return out, (x, kernel, ())


def _backward(padding, stride, residuals, gradient):
    x, kernel, wanted = residuals
    if isinstance(gradient, SymbolicZero):
        gradient = jnp.zeros(gradient.shape, gradient.dtype)
    input_gradient = None
    if wanted is not None and stride > 1:
        (input_gradient,) = jax.vjp(lambda x: _xla(x, kernel, padding, stride), x)[1](gradient)
    elif wanted is not None:
        # It is the convolution of the output's gradient with the kernel rotated by 180°.
        rotated = kernel[::-1, ::-1]
        around = _complement(kernel.shape[:2], padding)
        input_gradient, gradient = _onednn(
            gradient, rotated, None, around, return_input=True, inputs_last=True
        )
    if stride > 1:
        weight_gradient = _strided_weight_gradient(x, gradient, kernel.shape[:2], padding, stride)
    else:
        weight_gradient = _weight_gradient(x, gradient, kernel.shape[:2], padding)
    return input_gradient, weight_gradient, gradient.sum((0, 1, 2))


def _weight_gradient(x: jax.Array, gradient: jax.Array, size: tuple[int, int], padding: Padding):
    generated = _generated_weight_gradient()
    if generated is not None and generated.usable(x, gradient, size):
        return generated.weight_gradient(x, gradient, size, padding)
    inputs, outputs = x.shape[-1], gradient.shape[-1]
    if size == (1, 1) and not np.any(padding) and min(inputs, outputs) >= _FEW_CHANNELS:
        return (x.reshape(-1, inputs).T @ gradient.reshape(-1, outputs))[None, None]
    return _xla_weight_gradient(x, gradient, size, padding)


def _strided_weight_gradient(
    x: jax.Array, gradient: jax.Array, size: tuple[int, int], padding: Padding, stride: int
) -> jax.Array:
    """Computes the weight gradient at a stride as one of stride 1.

    That is of the convolution of the input whose squares of `stride` × `stride` pixels are moved to
    the channels.
    """
    batch, *shape, channels = x.shape
    folded = [-(-n // stride) for n in size]
    sides = [n + taps - 1 for n, taps in zip(gradient.shape[1:3], folded)]
    # What is below and to the right of the last pixel seen is cut off.
    after = [stride * side - n - before for side, n, (before, _) in zip(sides, shape, padding)]
    around = [(before, end, 0) for (before, _), end in zip(padding, after)]
    x = lax.pad(x, np.zeros((), x.dtype), [(0, 0, 0), *around, (0, 0, 0)])
    x = x.reshape(batch, sides[0], stride, sides[1], stride, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, *sides, stride * stride * channels)
    found = _weight_gradient(x, gradient, tuple(folded), ((0, 0), (0, 0)))
    found = found.reshape(*folded, stride, stride, channels, -1).transpose(0, 2, 1, 3, 4, 5)
    found = found.reshape(*(stride * n for n in folded), channels, -1)
    return found[: size[0], : size[1]]


def _xla_weight_gradient(
    x: jax.Array, gradient: jax.Array, size: tuple[int, int], padding: Padding
) -> jax.Array:
    """Computes the weight gradient by XLA, as a convolution whose channels are the images.

    One of the two arrays is the image of that convolution, the other its kernel. XLA copies each
    pixel of the image once per tap; the products per copy, one for each channel of the other array,
    must be enough to pay for that. So the image is `x`, unless the output's gradient has few
    channels and `x` has more.
    """
    images = functools.partial(
        lax.conv_general_dilated, window_strides=(1, 1), dimension_numbers=("CHWN", "IHWO", "NHWC")
    )
    if x.shape[-1] <= gradient.shape[-1] or gradient.shape[-1] > _FEW_CHANNELS:
        return images(x, gradient, padding=padding).transpose(1, 2, 0, 3)
    around = _complement(size, padding)
    return images(gradient, x, padding=around)[:, ::-1, ::-1].transpose(1, 2, 3, 0)


def _complement(size: tuple[int, int], padding: Padding) -> Padding:
    """Returns the padding with which the output's gradient is convolved to the input gradient."""
    return tuple((n - 1 - before, n - 1 - after) for n, (before, after) in zip(size, padding))


_fast.defvjp(_forward, _backward, symbolic_zeros=True)


def _onednn(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    padding: Padding,
    return_input: bool = False,
    inputs_last: bool = False,
    stride: int = 1,
    groups: int = 1,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """Calls oneDNN for `convolve`, without a gradient.

    With `groups`, each group of output channels sees one of the input's.

    With `return_input` it also returns `x`, as the array in memory that oneDNN has read. Operations
    on that array are not fused with those that computed `x`; XLA would fuse them, computing `x` a
    second time, and slowly, in the order of reading. With `inputs_last` the kernel is
    `[h, w, C_out, C_in]`.
    """
    (top, bottom), (left, right) = padding
    rows, columns = kernel.shape[:2]
    inputs, outputs = (3, 2) if inputs_last else (2, 3)
    features = kernel.shape[outputs]
    pixels = {"batch_dim": 0, "feature_dim": 3, "spatial_dims": [1, 2]}
    weights = {"input_feature_dim": inputs, "output_feature_dim": outputs, "spatial_dims": [0, 1]}
    settings = {
        "dims": 4,
        "feature_groups": groups,
        "input": {"data": pixels},
        "kernel": {"filter": weights},
        "output": {"data": pixels},
        "window": {
            "pad_left": [top, left],
            "pad_right": [bottom, right],
            "strides": [stride, stride],
            "window_dilations": [1, 1],
        },
        "fusions": {"ops": [] if bias is None else ["BIAS"]},
    }
    batch, height, width, _ = x.shape
    spans = height + top + bottom - rows, width + left + right - columns
    shape = (batch, *(span // stride + 1 for span in spans), features)
    out = jax.ShapeDtypeStruct(shape, x.dtype)
    call = jax.ffi.ffi_call(
        "__onednn$convolution",
        (out, jax.ShapeDtypeStruct(x.shape, x.dtype)) if return_input else out,
        input_output_aliases={0: 1} if return_input else None,
        vmap_method="sequential",
        custom_call_api_version=2,
        legacy_backend_config=json.dumps({"onednn_conv_config": settings}),
    )
    return call(x, kernel) if bias is None else call(x, kernel, bias)


@functools.cache
def _has_onednn() -> bool:
    """Returns whether this jaxlib is known, has oneDNN's convolution, and its values are right."""
    if jax.lib.__version__ not in _KNOWN_JAXLIB:
        return False
    rng = np.random.default_rng(0)
    shapes = (2, 5, 6, 3), (3, 2, 3, 4), (4,)
    arguments = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    padding = (1, 0), (1, 1)
    try:
        with jax.ensure_compile_time_eval():
            ours = jax.jit(lambda *a: _onednn(*a, padding))(*arguments)
            theirs = jax.jit(lambda x, k, b: _xla(x, k, padding) + b[None, None, None])(*arguments)
    except jax.errors.JaxRuntimeError:  # a build without oneDNN
        return False
    return bool(np.allclose(ours, theirs, rtol=1e-4, atol=1e-4))


@functools.cache
def _generated_weight_gradient() -> types.ModuleType | None:
    """Returns the module `weight_gradient` if its code can be generated here and is right.

    Otherwise it returns None and logs why.
    """
    rng = np.random.default_rng(0)
    size, padding = (2, 3), ((0, 1), (1, 1))
    try:
        # Imported here, as llvmlite is optional: it is installed on x86-64 Linux only.
        from wbc_jax.cpu import weight_gradient

        for shape, features in (((2, 5, 6, 3), 4), ((2, 40, 30, 8), 16)):
            shapes = shape, (*shape[:3], features)
            x, gradient = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
            if not weight_gradient.usable(x, gradient, size):
                return None
            found = []
            for compute in (weight_gradient.weight_gradient, _xla_weight_gradient):
                call = jax.jit(functools.partial(compute, size=size, padding=padding))
                with jax.ensure_compile_time_eval():
                    found.append(np.asarray(call(x, gradient)))
            if not np.allclose(*found, rtol=1e-3, atol=1e-3):
                raise ArithmeticError(f"wrong values from {shapes[0]} and {shapes[1]}")
    except Exception as error:  # llvmlite, LLVM and jaxlib raise many types
        logging.warning("Weight gradients are left to XLA, which is slower: %r", error)
        return None
    return weight_gradient
