"""LLVM IR of an XLA FFI handler that runs a job's tasks on XLA's thread pool.

XLA calls a handler with a call frame, a C structure of `xla/ffi/api/c_api.h`. Its layout, which the
code below relies on, belongs to major version 0 of the interface.
"""

import ctypes
import functools
import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
from llvmlite import ir

from wbc_jax.cpu import llvm_ir
from wbc_jax.cpu.llvm_ir import BYTE, INT, LONG, POINTER, VOID, Builder, constant

# Numbers of 8-byte fields. `XLA_FFI_CallFrame`: the pointers to the extensions, the interface's
# functions, the execution context, and the arrays of pointers to arguments and results.
_FRAME_EXTENSION, _FRAME_API, _FRAME_CONTEXT, _FRAME_ARGUMENTS, _FRAME_RESULTS = 1, 2, 3, 9, 14
_BUFFER_DATA = 3  # of `XLA_FFI_Buffer`
_EXTENSION_TYPE, _EXTENSION_METADATA = 1, 3  # of `XLA_FFI_Metadata_Extension`
_IS_METADATA = 1  # XLA_FFI_Extension_Metadata
_METADATA_INTS = (6, 7, 8)  # of `XLA_FFI_Metadata`, 4 bytes each: major and minor version, traits
_API_FUNCTIONS_BYTES = 48  # offset of the first function in `XLA_FFI_Api`

# A job: the number of references to it, the number of tasks done, its fields, then the tasks.
_REFERENCES, _DONE, _FIELDS = range(3)
# A task: its job's address, its number, and 1 once a thread has claimed it.
_TASK_FIELDS, _CLAIMED = 3, 2


class Interface(NamedTuple):
    """The XLA FFI of this jaxlib.

    Attributes:
        version: major and minor.
        offsets: of its functions by name, bytes in `XLA_FFI_Api`.
    """

    version: tuple[int, int]
    offsets: dict[str, int]


@functools.cache
def interface() -> Interface | None:
    """Reads the FFI's version and functions from JAX's header; None if its layout is not known."""
    header = pathlib.Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"
    if ctypes.sizeof(ctypes.c_void_p) != 8 or not header.exists():
        return None
    text = header.read_text(encoding="utf-8")
    version = re.findall(r"#define XLA_FFI_API_M(?:AJOR|INOR) (\d+)", text)
    functions = re.findall(r"^  _XLA_FFI_API_STRUCT_FIELD\(XLA_FFI_(\w+)\)", text, re.MULTILINE)
    offsets = {name: _API_FUNCTIONS_BYTES + 8 * i for i, name in enumerate(functions)}
    needed = {"ThreadPool_Schedule", "Error_Destroy"}
    if len(version) != 2 or version[0] != "0" or not needed <= set(offsets):
        return None
    return Interface((int(version[0]), int(version[1])), offsets)


def add_handler(module: ir.Module, name: str, run_task: ir.Function, fields: Sequence[str]) -> None:
    """Adds a handler of the name `name` to `module`, and what it calls.

    Its arguments are two arrays and 8-byte integers, the first of which is the number of tasks; it
    has one result. It allocates a job on the heap and offers all tasks but the first to
    XLA's thread pool, whose threads may be busy. So the calling thread itself runs every task that
    no other has claimed, and waits only for the claimed ones. A late task finds the job still
    allocated, as it holds a reference, and nothing left to do.

    Args:
        module: of LLVM.
        name: of the handler, prefix of the other functions.
        run_task: the function that computes a task's share, which it learns from `read_task`.
        fields: names of what a task reads of its job: the addresses of the two arrays and of the
            result, then the integers.
    """
    version, offsets = interface()
    malloc = llvm_ir.declare(module, "malloc", POINTER, LONG)
    free = llvm_ir.declare(module, "free", VOID, POINTER)
    pool_task = _add_pool_task(module, name, run_task, free)
    b, a = llvm_ir.define(module, name, POINTER, frame=POINTER)
    null = ir.Constant(POINTER, None)
    # When XLA registers a handler, it calls it to ask for which version it was written.
    extension = b.read(a["frame"], _FRAME_EXTENSION)
    with b.if_then(b.icmp_unsigned("!=", extension, constant(0))):
        extension = b.inttoptr(extension, POINTER)
        kind = b.load(b.at(extension, _EXTENSION_TYPE), typ=INT)
        with b.if_then(b.icmp_unsigned("==", kind, ir.Constant(INT, _IS_METADATA))):
            metadata = b.read(extension, _EXTENSION_METADATA, POINTER)
            for i, number in zip(_METADATA_INTS, (*version, 0)):  # no traits
                b.store(ir.Constant(INT, number), b.at(metadata, i, INT))
            b.ret(null)

    api, context, arguments, results = (
        b.read(a["frame"], i, POINTER)
        for i in (_FRAME_API, _FRAME_CONTEXT, _FRAME_ARGUMENTS, _FRAME_RESULTS)
    )
    buffers = [b.read(arguments, i, POINTER) for i in range(3)]
    buffers.append(b.read(results, 0, POINTER))
    first, second, integers, out = (b.read(buffer, _BUFFER_DATA, POINTER) for buffer in buffers)
    numbers = [b.read(integers, i) for i in range(len(fields) - 3)]
    tasks = numbers[0]
    start = constant(_FIELDS + len(fields))
    size = b.add(b.mul(tasks, constant(_TASK_FIELDS)), start)
    job = b.call(malloc, [b.mul(size, constant(8))])
    # A reference for each pool task, and one for this thread; no task is done.
    b.write(job, tasks, constant(0), first, second, out, *numbers)

    def task(index: ir.Value) -> ir.Value:
        return b.at(job, b.add(start, b.mul(index, constant(_TASK_FIELDS))))

    def call(name: str, structure: ir.Value) -> ir.Value:
        kind = ir.FunctionType(POINTER, [POINTER]).as_pointer()
        place = b.at(api, offsets[name], BYTE)
        return b.call(b.inttoptr(b.load(place, typ=LONG), kind), [b.at(structure, 0)])

    with b.loop(constant(0), tasks) as index:
        b.write(task(index), job, index, constant(0))
    # `XLA_FFI_ThreadPool_Schedule_Args` and `XLA_FFI_Error_Destroy_Args`; the first field of
    # both is their size in bytes.
    schedule, destroy = b.alloca(LONG, size=5), b.alloca(LONG, size=3)
    with b.loop(constant(1), tasks) as index:
        b.write(schedule, constant(40), constant(0), context, pool_task, task(index))
        error = b.ptrtoint(call("ThreadPool_Schedule", schedule), LONG)
        with b.if_then(b.icmp_unsigned("!=", error, constant(0))):  # there is no thread pool
            b.write(destroy, constant(24), constant(0), error)
            call("Error_Destroy", destroy)
            b.atomic_rmw("sub", b.at(job, _REFERENCES), constant(1), "acq_rel")
    with b.loop(constant(0), tasks) as index:
        _claim(b, run_task, task(index), job)
    waiting, over = b.append_basic_block(), b.append_basic_block()
    b.branch(waiting)
    b.position_at_end(waiting)
    if os.name == "posix":  # the thread waited for may need this processor
        b.call(llvm_ir.declare(module, "sched_yield", INT), [])
    done = b.load_atomic(b.at(job, _DONE), "acquire", 8, typ=LONG)
    b.cbranch(b.icmp_unsigned("<", done, tasks), waiting, over)
    b.position_at_end(over)
    _release(b, free, job)
    b.ret(null)


def read_task(
    b: Builder, task: ir.Value, fields: Sequence[str]
) -> tuple[ir.Value, dict[str, ir.Value]]:
    """Reads the number of the task that `run_task` was given, and the job's fields by name."""
    job, index = b.read(task, 0, POINTER), b.read(task, 1)
    kinds = [POINTER] * 3 + [LONG] * (len(fields) - 3)
    values = [b.read(job, _FIELDS + i, kind) for i, kind in enumerate(kinds)]
    return index, dict(zip(fields, values))


def _add_pool_task(
    module: ir.Module, name: str, run_task: ir.Function, free: ir.Function
) -> ir.Function:
    """Adds the function that the threads of XLA's pool call with a task."""
    b, a = llvm_ir.define(module, f"{name}_pool_task", VOID, task=POINTER)
    job = b.read(a["task"], 0, POINTER)
    _claim(b, run_task, a["task"], job)
    _release(b, free, job)
    b.ret_void()
    return b.function


def _claim(b: Builder, run_task: ir.Function, task: ir.Value, job: ir.Value) -> None:
    """Runs a task unless another thread has claimed it."""
    claimed = b.atomic_rmw("xchg", b.at(task, _CLAIMED), constant(1), "acq_rel")
    with b.if_then(b.icmp_unsigned("==", claimed, constant(0))):
        b.call(run_task, [task])
        b.atomic_rmw("add", b.at(job, _DONE), constant(1), "acq_rel")


def _release(b: Builder, free: ir.Function, job: ir.Value) -> None:
    """Drops a reference to the job; whoever drops the last one frees it."""
    references = b.atomic_rmw("sub", b.at(job, _REFERENCES), constant(1), "acq_rel")
    with b.if_then(b.icmp_unsigned("==", references, constant(1))):
        b.call(free, [job])
