"""The weight gradient of a convolution on a CPU, by machine code generated at its first use.

XLA's own weight gradient takes two to four times as long as the arithmetic needs
(docs/performance.md), and the oneDNN inside jaxlib offers forward convolutions only. llvmlite
generates the code for the processor at hand, and JAX calls it through XLA's foreign function
interface (FFI), so no compiler is needed. The innermost loops use register blocking: each keeps a
block of the gradient in registers while it passes over rows of pixels. Per pixel it loads one
vector of the output's gradient and multiplies each of a few input channels by as many of the last
vectors as the kernel has columns.

`weight_gradient_code` generates the arithmetic, `ffi_handler` the call and its threads, and
`machine_code` compiles; here is the choice of the blocks. The sums are divided among the threads,
so their last digits depend on the number of threads.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from llvmlite import ir

from wbc_jax.cpu import ffi_handler, machine_code
from wbc_jax.cpu.weight_gradient_code import JOB_FIELDS, WeightGradientCode

_SMALL = 10_000
"""Entries of a matrix of which XLA's products are slower than the generated code."""
_VERSION = 2  # of the integers that the handler gets beside the arrays


def usable(x: jax.Array, gradient: jax.Array, size: tuple[int, int]) -> bool:
    """Returns whether `weight_gradient` takes these arrays and is at least as fast as XLA.

    Kernels of one pixel are matrix products, of which XLA does the large ones as fast; the output's
    channels must fill whole vectors.
    """
    inputs, outputs = x.shape[-1], gradient.shape[-1]
    worth = tuple(size) != (1, 1) or (min(inputs, outputs) >= 16 and inputs * outputs <= _SMALL)
    worth = worth and x.size > 0 and gradient.size > 0
    right = x.dtype == gradient.dtype == jnp.float32
    known = ffi_handler.interface() is not None
    return worth and right and known and _vector(gradient.shape[-1]) is not None


def weight_gradient(
    x: jax.Array,
    gradient: jax.Array,
    size: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
) -> jax.Array:
    """Returns the gradient with respect to the kernel of a convolution of stride 1.

    Args:
        x: the convolution's input, float32 `[B, H, W, C_in]`.
        gradient: with respect to its output, float32 `[B, H', W', C_out]`.
        size: rows and columns of the kernel.
        padding: zeros before and after: ((top, bottom), (left, right)).

    Returns:
        `[h, w, C_in, C_out]`. An infinity or NaN at the left or right edge of `x` may reach entries
        that XLA's gradient keeps free of it.
    """
    inputs, outputs = x.shape[-1], gradient.shape[-1]
    vector, groups = _vector(outputs), _column_groups(size[1])
    most = (24 if machine_code.registers() >= 32 else 12) // max(count for _, count in groups)
    block = max(n for n in range(1, most + 1) if inputs % n == 0)
    shape = (*size, inputs, outputs)

    blocks = size[0] * len(groups) * (inputs // block) * (outputs // vector)
    lines = gradient.shape[0] * gradient.shape[1]
    # Threads share the lines, each with a gradient of its own, unless adding those up costs more
    # than it saves.
    threads = machine_code.threads()
    by_rows = threads * np.prod(shape) * 4 <= x.size + gradient.size
    tasks = min(threads, lines if by_rows else blocks)
    sizes = *x.shape, *gradient.shape[1:], *size
    settings = np.array([tasks, *sizes, padding[0][0], padding[1][0], by_rows], np.int64)
    partial = jax.ffi.ffi_call(
        _target(size[1], block, vector),
        jax.ShapeDtypeStruct((tasks if by_rows else 1, *shape), jnp.float32),
        vmap_method="sequential",
    )(x, gradient, settings.view(np.int32))
    return partial.sum(0) if len(partial) > 1 else partial[0]


def _column_groups(columns: int) -> list[tuple[int, int]]:
    """Divides the kernel's columns among innermost loops; returns (first, count) of each."""
    parts = -(-columns // 5)
    edges = [columns * i // parts for i in range(parts + 1)]
    return [(a, b - a) for a, b in itertools.pairwise(edges)]


def _vector(outputs: int) -> int | None:
    """Returns floats per vector: the most that the processor has and that divide the channels.

    None on processors without fused multiply-add.
    """
    widest = machine_code.widest_vector()
    if widest is None:
        return None
    return next((n for n in (16, 8, 4) if n <= widest and outputs % n == 0), None)


def _target(columns: int, block: int, vector: int) -> str:
    """Compiles and registers the code once; returns the name of the FFI target.

    Args:
        columns: of the kernel.
        block: input channels of a register block.
        vector: output channels of a register block.

    Raises:
        OSError: the system allows no executable memory.
        RuntimeError: LLVM cannot generate code for this processor.
    """
    name = f"wbc_jax_weight_gradient_{_VERSION}_{columns}_{block}_{vector}"
    return machine_code.target(
        name, functools.partial(_module, columns=columns, block=block, vector=vector)
    )


def _module(name: str, columns: int, block: int, vector: int) -> ir.Module:
    """Generates the IR of the handler `name` for kernels of `columns` columns."""
    module = ir.Module(name)
    code = WeightGradientCode(module, name, _column_groups(columns), block, vector)
    ffi_handler.add_handler(module, name, code.run_task, JOB_FIELDS)
    return module
