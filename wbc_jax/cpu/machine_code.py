"""Compilation of generated LLVM IR for the processor at hand, and its registration with XLA."""

import ctypes
import functools
import os
import threading
from collections.abc import Callable

import jax
import llvmlite.binding as llvm
from llvmlite import ir

_engines: dict[str, llvm.ExecutionEngine] = {}
_compiling = threading.Lock()


def threads() -> int:
    """Returns the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def features() -> frozenset[str]:
    """Initializes LLVM; returns the names of this processor's instruction sets."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return frozenset(name for name, has in llvm.get_host_cpu_features().items() if has)


def registers() -> int:
    """Returns the number of vector registers."""
    return 32 if {"avx512f", "neon"} & features() else 16


def widest_vector() -> int | None:
    """Returns floats per vector register; None on processors without fused multiply-add."""
    if not {"fma", "avx512f", "neon"} & features():
        return None
    return 16 if "avx512f" in features() else 8 if "avx2" in features() else 4


def target(name: str, make: Callable[[str], ir.Module]) -> str:
    """Compiles and registers a handler once; returns `name`, which is that of the FFI target.

    Args:
        name: of the handler, unique to its code.
        make: returns the module that defines the handler of the given name.

    Raises:
        OSError: the system allows no executable memory.
        RuntimeError: LLVM cannot generate code for this processor.
    """
    with _compiling:
        if name not in _engines:
            engine = _compile(name, make)
            handler = ctypes.CFUNCTYPE(ctypes.c_void_p)(engine.get_function_address(name))
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
            _engines[name] = engine  # owns the code
    return name


def _compile(name: str, make: Callable[[str], ir.Module]) -> llvm.ExecutionEngine:
    features()  # initializes LLVM
    llvm.check_jit_execution()  # raises OSError; LLVM itself would end the process
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        jit=True,
    )
    code = make(name)
    code.triple, code.data_layout = machine.triple, str(machine.target_data)
    module = llvm.parse_assembly(str(code))
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
    passes.getModulePassManager().run(module, passes)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine
