"""The gradients of a depthwise convolution on a CPU, by machine code generated at its first use.

As `weight_gradient`, but each output channel sees one input channel, so the vectors run along the
channels, and a register block keeps all taps of one vector of channels. `depthwise_code` generates
the arithmetic. The sums do not depend on the number of threads.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from llvmlite import ir

from wbc_jax.cpu import ffi_handler, machine_code
from wbc_jax.cpu.depthwise_code import (
    INPUT_FIELDS,
    WEIGHT_FIELDS,
    DepthwiseInputGradientCode,
    DepthwiseWeightGradientCode,
)

Padding = tuple[tuple[int, int], tuple[int, int]]

_VERSION = 1  # of the integers that the handlers get beside the arrays
_MOST_PARTS = 32
_TILE_BYTES = 128 * 1024
"""Of both arrays, read by all register blocks before the next part: half of what the second-level
cache of most processors holds."""


def usable(x: jax.Array, gradient: jax.Array) -> bool:
    """Returns whether the functions below take these arrays."""
    right = x.dtype == gradient.dtype == jnp.float32 and x.size > 0 and gradient.size > 0
    known = ffi_handler.interface() is not None
    return right and known and machine_code.widest_vector() is not None


def weight_gradient(
    x: jax.Array, gradient: jax.Array, size: int, stride: int, padding: Padding
) -> tuple[jax.Array, jax.Array]:
    """Returns the gradients with respect to kernel and bias, `[size, size, C]` and `[C]`.

    Args:
        x: the convolution's input, float32 `[B, H, W, C]`.
        gradient: with respect to its output, float32 `[B, H', W', C]`.
        size: rows and columns of the kernel.
        stride: in both directions.
        padding: zeros before and after: ((top, bottom), (left, right)).
    """
    batch, _, width, channels = x.shape
    lines, out_width = batch * gradient.shape[1], gradient.shape[2]
    # Each part has a result of its own, which costs time if it is large beside the arrays.
    entries = (size**2 + 1) * channels
    parts = max(1, min(_MOST_PARTS, lines, (x.size + gradient.size) // (16 * entries)))
    line_bytes = 4 * channels * (width * stride + out_width)
    tile = max(1, _TILE_BYTES // line_bytes)
    left = padding[1][0]
    inner = _inner(-(-left // stride), (width - size + left) // stride + 1, 0, out_width)
    blocks = _blocks(channels)
    tasks = min(machine_code.threads(), parts * _count(channels))
    numbers = _sizes(x, gradient, padding)
    settings = np.array([tasks, batch, *numbers, *inner, parts, tile], np.int64)
    partial = jax.ffi.ffi_call(
        _target("weight", size, stride, blocks),
        jax.ShapeDtypeStruct((parts, size**2 + 1, channels), jnp.float32),
        vmap_method="sequential",
    )(x, gradient, settings.view(np.int32))
    total = partial.sum(0) if parts > 1 else partial[0]
    return total[:-1].reshape(size, size, channels), total[-1]


def input_gradient(
    gradient: jax.Array, kernel: jax.Array, shape: tuple[int, ...], stride: int, padding: Padding
) -> jax.Array:
    """Returns the gradient with respect to the input, float32 `[B, H, W, C]`.

    Args:
        gradient: with respect to the output, float32 `[B, H', W', C]`.
        kernel: float32 `[size, size, C]`.
        shape: of the input.
        stride: in both directions.
        padding: zeros before and after: ((top, bottom), (left, right)).
    """
    batch, height, width, channels = shape
    size, left, out_width = kernel.shape[0], padding[1][0], gradient.shape[2]
    first = max(-(-left // stride), -(-size // stride) - 1)
    last = min(out_width - 1, (width + left - stride) // stride)
    inner = _inner(first, last + 1, left // stride, (width - 1 + left) // stride + 1)
    tasks = min(machine_code.threads(), batch * height)
    numbers = _sizes(jax.ShapeDtypeStruct(shape, jnp.float32), gradient, padding)
    settings = np.array([tasks, batch, *numbers, *inner], np.int64)
    return jax.ffi.ffi_call(
        _target("input", size, stride, _blocks(channels)),
        jax.ShapeDtypeStruct(shape, jnp.float32),
        vmap_method="sequential",
    )(gradient, kernel, settings.view(np.int32))


def _sizes(x, gradient, padding: Padding) -> tuple[int, ...]:
    return (*x.shape[1:3], *gradient.shape[1:], padding[0][0], padding[1][0])


def _inner(first: int, last: int, start: int, stop: int) -> tuple[int, int]:
    """Cuts `first` to before `last` to what lies between `start` and `stop`; empty if nothing."""
    first = min(max(first, start), stop)
    return first, min(max(last, first), stop)


def _blocks(channels: int) -> tuple[int, ...]:
    """Divides the channels among vectors: the width of most, then those of the rest."""
    widest = machine_code.widest_vector()
    widths = [n for n in (16, 8, 4, 1) if n <= min(widest, channels)]
    blocks, rest = [widths[0]], channels % widths[0]
    for width in widths:
        blocks += [width] * (rest // width)
        rest %= width
    return tuple(blocks)


def _count(channels: int) -> int:
    first, *rest = _blocks(channels)
    return channels // first + len(rest)


def _target(kind: str, size: int, stride: int, blocks: tuple[int, ...]) -> str:
    """Compiles and registers the code once; returns the name of the FFI target."""
    widths = "_".join(map(str, blocks))
    name = f"wbc_jax_depthwise_{kind}_{_VERSION}_{size}_{stride}_{widths}"
    make = functools.partial(_module, kind=kind, size=size, stride=stride, blocks=blocks)
    return machine_code.target(name, make)


def _module(name: str, kind: str, size: int, stride: int, blocks: tuple[int, ...]) -> ir.Module:
    module = ir.Module(name)
    if kind == "input":
        code = DepthwiseInputGradientCode(module, name, size, stride, blocks)
        ffi_handler.add_handler(module, name, code.run_task, INPUT_FIELDS)
        return module
    # Besides the sums of the taps, that of the output's gradient and two operands need registers.
    rows = max(1, min(size, (machine_code.registers() - 3) // size))
    code = DepthwiseWeightGradientCode(module, name, size, stride, blocks, rows)
    ffi_handler.add_handler(module, name, code.run_task, WEIGHT_FIELDS)
    return module
