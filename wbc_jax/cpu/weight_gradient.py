"""The weight gradient of a convolution on a CPU, by machine code generated at its first use.

XLA's own weight gradient takes two to four times as long as the arithmetic needs
(docs/performance.md), and the oneDNN inside jaxlib offers forward convolutions only. llvmlite
generates the code for the processor at hand, and JAX calls it through XLA's foreign function
interface (FFI), so no compiler is needed. The innermost loops use register blocking: each keeps a
block of the gradient in registers while it passes over rows of pixels. Per pixel it loads one
vector of the output's gradient and multiplies each of a few input channels by as many of the last
vectors as the kernel has columns.

`weight_gradient_code` generates the arithmetic and `ffi_handler` the call and its threads; here is
the choice of the blocks, and compilation. The sums are divided among the threads, so their last
digits depend on the number of threads.
"""

import ctypes
import functools
import itertools
import os
import threading

import jax
import jax.numpy as jnp
import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

from wbc_jax.cpu import ffi_handler
from wbc_jax.cpu.weight_gradient_code import WeightGradientCode

_VERSION = 1  # of the four integers that the handler gets beside the arrays
_engines: dict[str, llvm.ExecutionEngine] = {}
_compiling = threading.Lock()


def usable(x: jax.Array, gradient: jax.Array, size: tuple[int, int]) -> bool:
    """Returns whether `weight_gradient` takes these arrays and is at least as fast as XLA.

    Kernels of one pixel are matrix products, which XLA does well; the output's channels must fill
    whole vectors.
    """
    worth = tuple(size) != (1, 1) and x.size > 0 and gradient.size > 0
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
    most = (24 if _registers() >= 32 else 12) // max(count for _, count in groups)
    block = max(n for n in range(1, most + 1) if inputs % n == 0)
    shape = (*size, inputs, outputs)

    blocks = size[0] * len(groups) * (inputs // block) * (outputs // vector)
    lines = gradient.shape[0] * gradient.shape[1]
    # Threads share the lines, each with a gradient of its own, unless adding those up costs more
    # than it saves.
    threads = _threads()
    by_rows = threads * np.prod(shape) * 4 <= x.size + gradient.size
    tasks = min(threads, lines if by_rows else blocks)
    settings = np.array([padding[0][0], padding[1][0], tasks, by_rows], np.int64)
    partial = jax.ffi.ffi_call(
        _target(size[1], block, vector),
        jax.ShapeDtypeStruct((tasks if by_rows else 1, *shape), jnp.float32),
        vmap_method="sequential",
    )(x, gradient, settings.view(np.int32))
    return partial.sum(0) if len(partial) > 1 else partial[0]


def _threads() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _column_groups(columns: int) -> list[tuple[int, int]]:
    """Divides the kernel's columns among innermost loops; returns (first, count) of each."""
    parts = -(-columns // 5)
    edges = [columns * i // parts for i in range(parts + 1)]
    return [(a, b - a) for a, b in itertools.pairwise(edges)]


@functools.cache
def _features() -> frozenset[str]:
    """Initializes LLVM; returns the names of this processor's instruction sets."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return frozenset(name for name, has in llvm.get_host_cpu_features().items() if has)


def _registers() -> int:
    return 32 if {"avx512f", "neon"} & _features() else 16


def _vector(outputs: int) -> int | None:
    """Returns floats per vector: the most that the processor has and that divide the channels.

    None on processors without fused multiply-add.
    """
    if not {"fma", "avx512f", "neon"} & _features():
        return None
    widest = 16 if "avx512f" in _features() else 8 if "avx2" in _features() else 4
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
    with _compiling:
        if name not in _engines:
            engine = _compile(name, columns, block, vector)
            handler = ctypes.CFUNCTYPE(ctypes.c_void_p)(engine.get_function_address(name))
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
            _engines[name] = engine  # owns the code
    return name


def _module(name: str, columns: int, block: int, vector: int) -> ir.Module:
    """Generates the IR of the handler `name` for kernels of `columns` columns."""
    module = ir.Module(name)
    code = WeightGradientCode(module, name, _column_groups(columns), block, vector)
    ffi_handler.add_handler(module, name, code.run_task)
    return module


def _compile(name: str, columns: int, block: int, vector: int) -> llvm.ExecutionEngine:
    _features()  # initializes LLVM
    llvm.check_jit_execution()  # raises OSError; LLVM itself would end the process
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        jit=True,
    )
    code = _module(name, columns, block, vector)
    code.triple, code.data_layout = machine.triple, str(machine.target_data)
    module = llvm.parse_assembly(str(code))
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
    passes.getModulePassManager().run(module, passes)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine
