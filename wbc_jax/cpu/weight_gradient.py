"""The gradient of a convolution's kernel on a CPU, as machine code made when it is first needed.

XLA's own takes two to four times as long as the arithmetic needs (docs/performance.md), and the
oneDNN inside jaxlib offers convolutions forward only. The code is built by llvmlite for the
processor at hand, and JAX calls it through its foreign function interface: no compiler is needed.
Each of its innermost loops keeps a block of the gradient in registers while it goes along rows of
pixels: per pixel one vector of the output's gradient is read, and each of a few input channels is
multiplied by as many of the last vectors as the kernel has columns.

The sums are parted among the threads, so their last digits depend on how many there are.
"""

import contextlib
import ctypes
import functools
import itertools
import os
import pathlib
import re
import threading
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir

_TILE = 256 * 1024
"""Bytes of both arrays that are gone over for one block of the gradient after another: what the
second-level cache of most processors holds."""

_BYTE, _FLAG, _INT, _LONG = (ir.IntType(bits) for bits in (8, 1, 32, 64))
_FLOAT, _POINTER, _NOTHING = ir.FloatType(), ir.PointerType(), ir.VoidType()
_SIZES = ("batch", "height", "width", "inputs", "out_height", "out_width", "outputs")
_FIELDS = ("x", "g", "out", *_SIZES, "rows", "columns", "top", "left", "shares", "by_rows")
_HOLDERS, _DONE, _SLOTS = (len(_FIELDS) + i for i in range(3))
_VERSION = 1  # of the four numbers that the code is given beside the arrays
_engines: dict[str, llvm.ExecutionEngine] = {}
_making = threading.Lock()


def usable(x: jax.Array, gradient: jax.Array, size: tuple[int, int]) -> bool:
    """Whether `weight_gradient` computes this one, and not more slowly than XLA.

    Kernels of one pixel are matrix products, which XLA does well; the output's channels must fill
    whole vectors.
    """
    worth = tuple(size) != (1, 1) and x.size > 0 and gradient.size > 0
    right = x.dtype == gradient.dtype == jnp.float32
    return worth and right and _vector(gradient.shape[-1]) is not None and _interface() is not None


def weight_gradient(
    x: jax.Array,
    gradient: jax.Array,
    size: tuple[int, int],
    padding: tuple[tuple[int, int], tuple[int, int]],
) -> jax.Array:
    """The gradient of a convolution of stride 1 in its kernel.

    Args:
        x: its input, float32 `[B, H, W, C_in]`.
        gradient: that of its output, float32 `[B, H', W', C_out]`.
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

    items = size[0] * len(groups) * (inputs // block) * (outputs // vector)
    rows = gradient.shape[0] * gradient.shape[1]
    # Threads share the rows, each with a gradient of its own, unless that is much to add up.
    threads = _threads()
    by_rows = threads * np.prod(shape) * 4 <= x.size + gradient.size
    shares = min(threads, rows if by_rows else items)
    settings = np.array([padding[0][0], padding[1][0], shares, by_rows], np.int64)
    parts = jax.ffi.ffi_call(
        _target(size[1], block, vector),
        jax.ShapeDtypeStruct((shares if by_rows else 1, *shape), jnp.float32),
        vmap_method="sequential",
    )(x, gradient, settings.view(np.int32))
    return parts.sum(0) if len(parts) > 1 else parts[0]


def _threads() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _column_groups(columns: int) -> list[tuple[int, int]]:
    """First and count of the kernel's columns that one innermost loop computes."""
    parts = -(-columns // 5)
    edges = [columns * i // parts for i in range(parts + 1)]
    return [(a, b - a) for a, b in itertools.pairwise(edges)]


@functools.cache
def _features() -> frozenset[str]:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return frozenset(name for name, has in llvm.get_host_cpu_features().items() if has)


def _registers() -> int:
    return 32 if {"avx512f", "neon"} & _features() else 16


def _vector(outputs: int) -> int | None:
    """Floats to a vector: the most that this processor has and that divide the channels.

    None without instructions that multiply and add at once.
    """
    if not {"fma", "avx512f", "neon"} & _features():
        return None
    widest = 16 if "avx512f" in _features() else 8 if "avx2" in _features() else 4
    return next((n for n in (16, 8, 4) if n <= widest and outputs % n == 0), None)


@functools.cache
def _interface() -> tuple[tuple[int, int], dict[str, int]] | None:
    """Version of the foreign function interface and where its functions lie; None if unknown.

    Both are read from the header that JAX installs. The layout of its structures, relied on below,
    belongs to the major version 0.
    """
    header = pathlib.Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"
    if ctypes.sizeof(ctypes.c_void_p) != 8 or not header.exists():
        return None
    text = header.read_text(encoding="utf-8")
    version = re.findall(r"#define XLA_FFI_API_M(?:AJOR|INOR) (\d+)", text)
    functions = re.findall(r"^  _XLA_FFI_API_STRUCT_FIELD\(XLA_FFI_(\w+)\)", text, re.MULTILINE)
    places = {name: 48 + 8 * i for i, name in enumerate(functions)}
    needed = {"ThreadPool_Schedule", "Error_Destroy"}
    if len(version) != 2 or version[0] != "0" or not needed <= set(places):
        return None
    return (int(version[0]), int(version[1])), places


def _target(columns: int, block: int, vector: int) -> str:
    """Makes the code for kernels of so many columns, and returns the name JAX calls it by.

    Args:
        columns: of the kernel.
        block: input channels that an innermost loop takes.
        vector: output channels that it takes.

    Raises:
        OSError: the system allows no code to be made.
        RuntimeError: LLVM cannot make it for this processor.
    """
    name = f"wbc_jax_kernel_gradient_{_VERSION}_{columns}_{block}_{vector}"
    with _making:
        if name not in _engines:
            engine = _make(name, columns, block, vector)
            handler = ctypes.CFUNCTYPE(ctypes.c_void_p)(engine.get_function_address(name))
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
            _engines[name] = engine  # the code lives as long as it
    return name


def _make(name: str, columns: int, block: int, vector: int) -> llvm.ExecutionEngine:
    _features()  # readies LLVM
    llvm.check_jit_execution()  # LLVM itself would end the process
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(),
        features=llvm.get_host_cpu_features().flatten(),
        opt=3,
        jit=True,
    )
    code = _Code(name, _column_groups(columns), block, vector).module
    code.triple, code.data_layout = machine.triple, str(machine.target_data)
    module = llvm.parse_assembly(str(code))
    passes = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
    passes.getModulePassManager().run(module, passes)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine


class _Builder(ir.IRBuilder):
    """LLVM's builder with the few things that are written often here."""

    def at(self, pointer: ir.Value, index: ir.Value | int, kind: ir.Type = _LONG) -> ir.Value:
        """The address of the `index`-th of what lies there."""
        index = _n(index) if isinstance(index, int) else index
        return self.gep(pointer, [index], source_etype=kind)

    def read(self, pointer: ir.Value, index: ir.Value | int, kind: ir.Type = _LONG) -> ir.Value:
        """The `index`-th of the 8-byte fields that lie there."""
        return self.load(self.at(pointer, index), typ=kind)

    def write(self, pointer: ir.Value, *values: ir.Value) -> None:
        """Fills the 8-byte fields that lie there."""
        for i, value in enumerate(values):
            value = self.ptrtoint(value, _LONG) if isinstance(value.type, ir.PointerType) else value
            self.store(value, self.at(pointer, i))

    def product(self, *values: ir.Value) -> ir.Value:
        return functools.reduce(self.mul, values)

    def smaller(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.select(self.icmp_unsigned("<", a, b), a, b)

    @contextlib.contextmanager
    def loop(self, start: ir.Value, stop: ir.Value) -> Iterator[ir.Value]:
        """What is built within it is done for each number from `start` to before `stop`."""
        before = self.block
        head, body, after = (self.append_basic_block() for _ in range(3))
        self.branch(head)
        self.position_at_end(head)
        index = self.phi(_LONG)
        index.add_incoming(start, before)
        self.cbranch(self.icmp_unsigned("<", index, stop), body, after)
        self.position_at_end(body)
        yield index
        index.add_incoming(self.add(index, _n(1)), self.block)
        self.branch(head)
        self.position_at_end(after)


def _n(value: int) -> ir.Constant:
    return ir.Constant(_LONG, value)


class _Code:
    """The code of one `_target`, in `module`: a handler of that name, and what it calls."""

    def __init__(self, name: str, groups: list[tuple[int, int]], block: int, vector: int):
        self.module, self.name = ir.Module(name), name
        self.groups, self.block, self.vector = groups, block, ir.VectorType(_FLOAT, vector)
        self.fma = self._extern(f"llvm.fma.v{vector}f32", self.vector, *[self.vector] * 3)
        self.malloc = self._extern("malloc", _POINTER, _LONG)
        self.free = self._extern("free", _NOTHING, _POINTER)
        self.lines = [self._lines(first, count) for first, count in groups]
        self.share = self._share()
        self.task = self._task()
        self._handler()

    def _extern(self, name: str, result: ir.Type, *arguments: ir.Type) -> ir.Function:
        return ir.Function(self.module, ir.FunctionType(result, arguments), name)

    def _function(self, name: str, result: ir.Type, **arguments: ir.Type):
        """Begins a function; returns its builder and its arguments by name."""
        function = self._extern(self.name + name, result, *arguments.values())
        return _Builder(function.append_basic_block()), dict(zip(arguments, function.args))

    def _lines(self, first: int, count: int) -> ir.Function:
        """A block of the gradient: some channels in one row and some columns of the kernel.

        It goes over lines of pixels, those of the output from `start` to before `stop`, counted
        through all images. `x`, `g` and `out` are at the block's first channels, and `out` at its
        row and first column. What it finds is added to `out`, or put there if that is `fresh`.
        """
        numbers = (*_SIZES[1:], "shift", "left", "start", "stop")
        kinds = dict.fromkeys(("x", "g", "out"), _POINTER) | dict.fromkeys(numbers, _LONG)
        b, a = self._function(f"_{first}", _NOTHING, **kinds, fresh=_FLAG)
        width = self.vector.count
        zero = ir.Constant(self.vector, [0.0] * width)
        unknown = ir.Constant(self.vector, ir.Undefined)
        every_lane = ir.Constant(ir.VectorType(_INT, width), [0] * width)
        # LLVM turns these into registers.
        sums = [[b.alloca(self.vector) for _ in range(self.block)] for _ in range(count)]
        window = [b.alloca(self.vector) for _ in range(count)]
        for place in itertools.chain(*sums):
            b.store(zero, place)

        def vector_at(line: ir.Value, column: ir.Value) -> ir.Value:
            """The output's gradient in a column of a line; zero outside."""
            before, inside, after = b.block, b.append_basic_block(), b.append_basic_block()
            b.cbranch(b.icmp_unsigned("<", column, a["out_width"]), inside, after)
            b.position_at_end(inside)
            place = b.at(line, b.mul(column, a["outputs"]), _FLOAT)
            found = b.load(place, typ=self.vector, align=4)
            b.branch(after)
            b.position_at_end(after)
            value = b.phi(self.vector)
            value.add_incoming(zero, before)
            value.add_incoming(found, inside)
            return value

        with b.loop(a["start"], a["stop"]) as number:
            image = b.udiv(number, a["out_height"])
            y = b.add(b.sub(number, b.mul(image, a["out_height"])), a["shift"])
            with b.if_then(b.icmp_unsigned("<", y, a["height"])):
                above = b.add(b.mul(image, a["height"]), y)
                pixels = b.at(a["x"], b.product(above, a["width"], a["inputs"]), _FLOAT)
                line = b.at(a["g"], b.product(number, a["out_width"], a["outputs"]), _FLOAT)
                # The window holds the columns that a pixel reaches by each column of the kernel.
                for j in range(1, count):
                    b.store(vector_at(line, b.sub(a["left"], _n(first + j))), window[j - 1])
                with b.loop(_n(0), a["width"]) as column:
                    for j in reversed(range(1, count)):
                        b.store(b.load(window[j - 1], typ=self.vector), window[j])
                    ahead = b.sub(b.add(column, a["left"]), _n(first))
                    b.store(vector_at(line, ahead), window[0])
                    pixel = b.at(pixels, b.mul(column, a["inputs"]), _FLOAT)
                    for i in range(self.block):
                        value = b.load(b.at(pixel, i, _FLOAT), typ=_FLOAT)
                        value = b.insert_element(unknown, value, ir.Constant(_INT, 0))
                        value = b.shuffle_vector(value, unknown, every_lane)
                        for j in range(count):
                            other, so_far = (
                                b.load(place, typ=self.vector) for place in (window[j], sums[j][i])
                            )
                            b.store(b.call(self.fma, [value, other, so_far]), sums[j][i])

        def put(add: bool) -> None:
            for j in range(count):
                for i in range(self.block):
                    channel = b.add(b.mul(a["inputs"], _n(j)), _n(i))
                    place = b.at(a["out"], b.mul(channel, a["outputs"]), _FLOAT)
                    value = b.load(sums[j][i], typ=self.vector)
                    if add:
                        value = b.fadd(b.load(place, typ=self.vector, align=4), value)
                    b.store(value, place, align=4)

        # Sums of a tile are added up: less is lost to rounding than in one long sum.
        with b.if_else(a["fresh"]) as (then, otherwise):
            with then:
                put(add=False)
            with otherwise:
                put(add=True)
        b.ret_void()
        return b.function

    def _share(self) -> ir.Function:
        """One thread's share of the work; `slot` says which (`_handler`)."""
        b, a = self._function("_share", _NOTHING, slot=_POINTER)
        block, index = b.read(a["slot"], 0, _POINTER), b.read(a["slot"], 1)
        v = {name: b.read(block, i, _POINTER if i < 3 else _LONG) for i, name in enumerate(_FIELDS)}
        by_rows = b.icmp_unsigned("!=", v["by_rows"], _n(0))
        blocks = b.udiv(v["inputs"], _n(self.block))
        vectors = b.udiv(v["outputs"], _n(self.vector.count))
        groups = _n(len(self.groups))

        def bounds(divided: ir.Value, total: ir.Value) -> tuple[ir.Value, ir.Value]:
            start, stop = (
                b.udiv(b.mul(total, number), v["shares"]) for number in (index, b.add(index, _n(1)))
            )
            return b.select(divided, start, _n(0)), b.select(divided, stop, total)

        first_line, last_line = bounds(by_rows, b.mul(v["batch"], v["out_height"]))
        first_item, last_item = bounds(
            b.not_(by_rows), b.product(vectors, blocks, v["rows"], groups)
        )
        size = b.product(v["rows"], v["columns"], v["inputs"], v["outputs"])
        out = b.at(v["out"], b.select(by_rows, b.mul(size, index), _n(0)), _FLOAT)
        # A large gradient is gone over less often, as each time it is read and written: a tile has
        # at least a quarter of its bytes.
        wanted = b.select(b.icmp_unsigned(">", size, _n(_TILE)), size, _n(_TILE))
        line_floats = b.add(b.mul(v["width"], v["inputs"]), b.mul(v["out_width"], v["outputs"]))
        lines = b.add(b.udiv(wanted, b.mul(line_floats, _n(4))), _n(1))
        tiles = b.udiv(b.sub(b.add(b.sub(last_line, first_line), lines), _n(1)), lines)
        with b.loop(_n(0), tiles) as tile:
            start = b.add(first_line, b.mul(tile, lines))
            stop = b.smaller(b.add(start, lines), last_line)
            fresh = b.icmp_unsigned("==", tile, _n(0))
            with b.loop(first_item, last_item) as item:
                group, rest = b.urem(item, groups), b.udiv(item, groups)
                row, rest = b.urem(rest, v["rows"]), b.udiv(rest, v["rows"])
                channel = b.mul(b.urem(rest, blocks), _n(self.block))
                feature = b.mul(b.udiv(rest, blocks), _n(self.vector.count))
                for number, (function, (first, _)) in enumerate(zip(self.lines, self.groups)):
                    with b.if_then(b.icmp_unsigned("==", group, _n(number))):
                        tap = b.add(b.mul(row, v["columns"]), _n(first))
                        place = b.mul(b.add(b.mul(tap, v["inputs"]), channel), v["outputs"])
                        pointers = (
                            b.at(v["x"], channel, _FLOAT),
                            b.at(v["g"], feature, _FLOAT),
                            b.at(out, b.add(place, feature), _FLOAT),
                        )
                        sizes = [v[name] for name in _SIZES[1:]]
                        shift = b.sub(row, v["top"])
                        b.call(function, [*pointers, *sizes, shift, v["left"], start, stop, fresh])
        b.ret_void()
        return b.function

    def _begin(self, b: _Builder, slot: ir.Value, block: ir.Value) -> None:
        """Does a share, unless another has begun it."""
        begun = b.atomic_rmw("xchg", b.at(slot, 2), _n(1), "acq_rel")
        with b.if_then(b.icmp_unsigned("==", begun, _n(0))):
            b.call(self.share, [slot])
            b.atomic_rmw("add", b.at(block, _DONE), _n(1), "acq_rel")

    def _leave(self, b: _Builder, block: ir.Value) -> None:
        """Frees the block if nobody else holds it."""
        holders = b.atomic_rmw("sub", b.at(block, _HOLDERS), _n(1), "acq_rel")
        with b.if_then(b.icmp_unsigned("==", holders, _n(1))):
            b.call(self.free, [block])

    def _task(self) -> ir.Function:
        """What XLA's threads are given."""
        b, a = self._function("_task", _NOTHING, slot=_POINTER)
        block = b.read(a["slot"], 0, _POINTER)
        self._begin(b, a["slot"], block)
        self._leave(b, block)
        b.ret_void()
        return b.function

    def _handler(self) -> None:
        """The handler, after xla/ffi/api/c_api.h.

        It makes a block: `_FIELDS`, how many hold it, how many shares are done, and a slot a share,
        of the block's address, the share's number and whether it was begun. XLA's threads are told
        of the shares, but may be busy: this one does all that nobody has begun, and waits for those
        begun only. Who comes late finds the block still there, and nothing to do.
        """
        version, functions = _interface()
        b, a = self._function("", _POINTER, frame=_POINTER)
        null = ir.Constant(_POINTER, None)
        # Asked for its metadata, a handler says which version it was written for.
        extension = b.read(a["frame"], 1)
        with b.if_then(b.icmp_unsigned("!=", extension, _n(0))):
            extension = b.inttoptr(extension, _POINTER)
            kind = b.load(b.at(extension, 1), typ=_INT)
            with b.if_then(b.icmp_unsigned("==", kind, ir.Constant(_INT, 1))):
                metadata = b.read(extension, 3, _POINTER)
                for i, number in zip((6, 7, 8), (*version, 0)):  # and no traits
                    b.store(ir.Constant(_INT, number), b.at(metadata, i, _INT))
                b.ret(null)

        interface, context, arguments, results = (
            b.read(a["frame"], i, _POINTER) for i in (2, 3, 9, 14)
        )
        buffers = [b.read(arguments, i, _POINTER) for i in range(3)]
        buffers.append(b.read(results, 0, _POINTER))
        x, g, settings, out = (b.read(buffer, 3, _POINTER) for buffer in buffers)
        x_shape, g_shape, _, out_shape = (b.read(buffer, 5, _POINTER) for buffer in buffers)
        top, left, shares, by_rows = (b.read(settings, i) for i in range(4))
        slots = b.mul(shares, _n(3))
        block = b.call(self.malloc, [b.mul(b.add(slots, _n(_SLOTS)), _n(8))])
        b.write(
            block,
            *(x, g, out),
            *(b.read(x_shape, i) for i in range(4)),
            *(b.read(g_shape, i) for i in (1, 2, 3)),
            *(b.read(out_shape, i) for i in (1, 2)),
            *(top, left, shares, by_rows),
            *(shares, _n(0)),
        )

        def slot(index: ir.Value) -> ir.Value:
            return b.at(block, b.add(_n(_SLOTS), b.mul(index, _n(3))))

        def call(name: str, filled: ir.Value) -> ir.Value:
            kind = ir.FunctionType(_POINTER, [_POINTER]).as_pointer()
            place = b.at(interface, functions[name], _BYTE)
            return b.call(b.inttoptr(b.load(place, typ=_LONG), kind), [b.at(filled, 0)])

        with b.loop(_n(0), shares) as index:
            b.write(slot(index), block, index, _n(0))
        order, complaint = b.alloca(_LONG, size=5), b.alloca(_LONG, size=3)
        with b.loop(_n(1), shares) as index:
            b.write(order, _n(40), _n(0), context, self.task, slot(index))
            error = b.ptrtoint(call("ThreadPool_Schedule", order), _LONG)
            with b.if_then(b.icmp_unsigned("!=", error, _n(0))):  # it has no threads
                b.write(complaint, _n(24), _n(0), error)
                call("Error_Destroy", complaint)
                b.atomic_rmw("sub", b.at(block, _HOLDERS), _n(1), "acq_rel")
        with b.loop(_n(0), shares) as index:
            self._begin(b, slot(index), block)
        waiting, over = b.append_basic_block(), b.append_basic_block()
        b.branch(waiting)
        b.position_at_end(waiting)
        if os.name == "posix":  # the thread waited for may need this processor
            b.call(self._extern("sched_yield", _INT), [])
        done = b.load_atomic(b.at(block, _DONE), "acquire", 8, typ=_LONG)
        b.cbranch(b.icmp_unsigned("<", done, shares), waiting, over)
        b.position_at_end(over)
        self._leave(b, block)
        b.ret(null)
