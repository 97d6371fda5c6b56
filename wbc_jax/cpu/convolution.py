"""How convolutions are computed: the one place where a way is chosen, by backend and by shape.

On accelerators XLA's own convolution and its own gradient are used. On CPU, XLA's convolution takes
two to four times as long as oneDNN's, which jaxlib carries but does not call by itself. So there,
where `usable` allows it, output and input gradient are calls of oneDNN, and the kernel's gradient,
which jaxlib's oneDNN does not offer, is one of `kernel_gradient`. docs/performance.md has the
measurements behind each rule.
"""

import contextlib
import functools
import json
import types
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax import lax
from jax.custom_derivatives import SymbolicZero

Padding = tuple[tuple[int, int], tuple[int, int]]

_KNOWN_JAXLIB = ("0.10.0", "0.10.1", "0.10.2", "0.11.0", "0.11.1", "0.11.2")
"""Versions whose oneDNN call was tried. Its form is jaxlib's own affair: in a version unknown here
it may have changed, and oneDNN ends the process when it is called wrongly."""

_FEW_CHANNELS = 16
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
_plain = False


@contextlib.contextmanager
def disabled() -> Iterator[None]:
    """Within it, traced convolutions are XLA's own: for export, counting and comparison.

    Functions that `jax.jit` has traced before stay as they are. Not for several threads at once.
    """
    global _plain
    before, _plain = _plain, True
    try:
        yield
    finally:
        _plain = before


def usable() -> bool:
    """Whether convolutions traced now may call oneDNN.

    Not on several devices, among which XLA could not divide the call, and not with JAX's cache of
    compiled programs on disk, which cannot hold it.
    """
    return (
        not _plain
        and jax.default_backend() == "cpu"
        and jax.device_count() == 1
        and not jax.config.jax_compilation_cache_dir
        and _has_onednn()
    )


def compiler_options() -> dict[str, str] | None:
    """Returns what `jax.jit` is told for programs that convolve, here.

    On CPU, XLA hands convolutions (those kernels' gradients that are left to it) to YNNPACK, which
    takes twice as long as XLA itself on two cores; sums it does well.
    """
    if jax.default_backend() != "cpu" or jax.lib.__version__ not in _KNOWN_JAXLIB:
        return None
    return {"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE"}


def conv(x: jax.Array, kernel: jax.Array, bias: jax.Array, padding: Padding) -> jax.Array:
    """A convolution of stride 1 with bias.

    Args:
        x: `[B, H, W, C_in]`.
        kernel: `[h, w, C_in, C_out]`.
        bias: `[C_out]`.
        padding: zeros before and after: ((top, bottom), (left, right)).

    Returns:
        `[B, H + top + bottom − h + 1, W + left + right − w + 1, C_out]`.
    """
    # More zeros than the kernel spans would be negative padding in the input's gradient.
    seen = all(0 <= n < size for around, size in zip(padding, kernel.shape) for n in around)
    if seen and usable() and x.dtype == kernel.dtype == bias.dtype == jnp.float32:
        return _onednn_conv(x, kernel, bias, padding)
    return _xla(x, kernel, padding) + bias


def _xla(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=_DIMENSIONS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _onednn_conv(x, kernel, bias, padding):
    return _onednn(x, kernel, bias, padding)


def _forward(x, kernel, bias, padding):
    """Saves the input, and, in the structure of what is saved, whether its gradient is wanted."""
    wanted, x, kernel, bias = x.perturbed, x.value, kernel.value, bias.value
    if not wanted:  # the images: they lie in memory anyway
        return _onednn(x, kernel, bias, padding), (x, kernel, None)
    out, x = _onednn(x, kernel, bias, padding, keep=True)
    return out, (x, kernel, ())


def _backward(padding, saved, gradient):
    x, kernel, wanted = saved
    if isinstance(gradient, SymbolicZero):
        gradient = jnp.zeros(gradient.shape, gradient.dtype)
    for_x = None
    if wanted is not None:
        # The input's gradient is the convolution of the output's with the kernel turned round.
        turned = kernel[::-1, ::-1]
        around = _rest(kernel.shape[:2], padding)
        for_x, gradient = _onednn(gradient, turned, None, around, keep=True, inputs_last=True)
    for_kernel = _weight_gradient(x, gradient, kernel.shape[:2], padding)
    return for_x, for_kernel, gradient.sum((0, 1, 2))


def _weight_gradient(x: jax.Array, gradient: jax.Array, size: tuple[int, int], padding: Padding):
    ours = _own_weight_gradient()
    if ours is not None and ours.usable(x, gradient, size):
        return ours.kernel_gradient(x, gradient, size, padding)
    return _xla_weight_gradient(x, gradient, size, padding)


def _xla_weight_gradient(
    x: jax.Array, gradient: jax.Array, size: tuple[int, int], padding: Padding
) -> jax.Array:
    """The kernel's gradient by XLA: a convolution whose channels are the images.

    One of the two arrays is the image of it, the other the kernel. XLA copies each pixel of the
    image once a tap, which has to pay: it makes as many products of it as the other has channels.
    """
    images = functools.partial(
        lax.conv_general_dilated, window_strides=(1, 1), dimension_numbers=("CHWN", "IHWO", "NHWC")
    )
    if x.shape[-1] <= gradient.shape[-1] or gradient.shape[-1] > _FEW_CHANNELS:
        return images(x, gradient, padding=padding).transpose(1, 2, 0, 3)
    rest = _rest(size, padding)
    return images(gradient, x, padding=rest)[:, ::-1, ::-1].transpose(1, 2, 3, 0)


def _rest(size: tuple[int, int], padding: Padding) -> Padding:
    """The zeros around an output's gradient from which the input's is a convolution."""
    return tuple((n - 1 - before, n - 1 - after) for n, (before, after) in zip(size, padding))


_onednn_conv.defvjp(_forward, _backward, symbolic_zeros=True)


def _onednn(
    x: jax.Array,
    kernel: jax.Array,
    bias: jax.Array | None,
    padding: Padding,
    keep: bool = False,
    inputs_last: bool = False,
) -> jax.Array | tuple[jax.Array, jax.Array]:
    """`conv` as a call of oneDNN, without a gradient.

    With `keep` it also returns `x`, as the array in memory that oneDNN has read. What reads that
    one is not fused with what led to `x`, as XLA would do, which then computes it a second time and
    slowly, in the order of reading. With `inputs_last` the kernel is `[h, w, C_out, C_in]`.
    """
    (top, bottom), (left, right) = padding
    rows, columns = kernel.shape[:2]
    inputs, outputs = (3, 2) if inputs_last else (2, 3)
    features = kernel.shape[outputs]
    pixels = {"batch_dim": 0, "feature_dim": 3, "spatial_dims": [1, 2]}
    weights = {"input_feature_dim": inputs, "output_feature_dim": outputs, "spatial_dims": [0, 1]}
    settings = {
        "dims": 4,
        "feature_groups": 1,
        "input": {"data": pixels},
        "kernel": {"filter": weights},
        "output": {"data": pixels},
        "window": {
            "pad_left": [top, left],
            "pad_right": [bottom, right],
            "strides": [1, 1],
            "window_dilations": [1, 1],
        },
        "fusions": {"ops": [] if bias is None else ["BIAS"]},
    }
    batch, height, width, _ = x.shape
    shape = (batch, height + top + bottom - rows + 1, width + left + right - columns + 1, features)
    out = jax.ShapeDtypeStruct(shape, x.dtype)
    call = jax.ffi.ffi_call(
        "__onednn$convolution",
        (out, jax.ShapeDtypeStruct(x.shape, x.dtype)) if keep else out,
        input_output_aliases={0: 1} if keep else None,
        vmap_method="sequential",
        custom_call_api_version=2,
        legacy_backend_config=json.dumps({"onednn_conv_config": settings}),
    )
    return call(x, kernel) if bias is None else call(x, kernel, bias)


@functools.cache
def _has_onednn() -> bool:
    """Whether this jaxlib has oneDNN's convolution, as it is called here, and it is right."""
    if jax.lib.__version__ not in _KNOWN_JAXLIB:
        return False
    rng = np.random.default_rng(0)
    shapes = (2, 5, 6, 3), (3, 2, 3, 4), (4,)
    arguments = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    padding = (1, 0), (1, 1)
    try:
        with jax.ensure_compile_time_eval():
            ours = jax.jit(lambda *a: _onednn(*a, padding))(*arguments)
            theirs = jax.jit(lambda x, k, b: _xla(x, k, padding) + b)(*arguments)
    except jax.errors.JaxRuntimeError:  # a build without it
        return False
    return bool(np.allclose(ours, theirs, rtol=1e-4, atol=1e-4))


@functools.cache
def _own_weight_gradient() -> types.ModuleType | None:
    """`wbc_jax.cpu.weight_gradient`, if its code can be made and run here, and is right."""
    rng = np.random.default_rng(0)
    size, padding = (2, 3), ((0, 1), (1, 1))
    try:
        # Here, as prediction does without llvmlite.
        from wbc_jax.cpu import weight_gradient

        for shape, features in (((2, 5, 6, 3), 4), ((2, 40, 30, 8), 16)):
            shapes = shape, (*shape[:3], features)
            x, gradient = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
            if not weight_gradient.usable(x, gradient, size):
                return None
            found = []
            for way in (weight_gradient.weight_gradient, _xla_weight_gradient):
                call = jax.jit(functools.partial(way, size=size, padding=padding))
                with jax.ensure_compile_time_eval():
                    found.append(np.asarray(call(x, gradient)))
            if not np.allclose(*found, rtol=1e-3, atol=1e-3):
                raise ArithmeticError(f"wrong from {shapes[0]} and {shapes[1]}")
    except Exception as error:  # whatever llvmlite, LLVM and jaxlib have for it
        logging.warning("Kernels' gradients are left to XLA, which is slower: %r", error)
        return None
    return weight_gradient
