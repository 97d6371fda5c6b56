"""LLVM IR of a depthwise convolution's gradients: the arithmetic and one task's share.

A *line* is a row of pixels; lines are counted through all images of the batch. A *register block*
is what one innermost loop computes: one vector of channels. A pixel outside an image is read from
a vector of zeros instead, so no padded copy is needed; rows outside are such a vector that is
passed over without moving.
"""

import itertools

from llvmlite import ir

from wbc_jax.cpu import ffi_handler, llvm_ir
from wbc_jax.cpu.llvm_ir import BOOL, FLOAT, LONG, POINTER, VOID, Builder, constant

_SIZES = ("height", "width", "out_height", "out_width", "channels")
_PLACE = (*_SIZES, "top", "left", "inner_start", "inner_stop")
"""Sizes of the convolution's input and output, zeros above and to the left, and the columns from
and to before which no pixel lies outside the arrays."""

WEIGHT_FIELDS = ("x", "g", "out", "tasks", "batch", *_PLACE, "parts", "tile")
"""What a task of the weight gradient reads of its job: addresses of the input, of the output's
gradient and of the result `[parts, k · k + 1, C]`, which ends with the sums of the output's
gradient; the number of tasks; the sizes; the number of parts that the lines are divided into; the
lines that all register blocks pass over before the next ones."""

INPUT_FIELDS = ("g", "kernel", "out", "tasks", "batch", *_PLACE)
"""What a task of the input gradient reads of its job: addresses of the output's gradient, of the
kernel and of the result, the number of tasks, and the sizes."""


class _Code:
    """What both gradients need: vectors of channels, and pixels that may lie outside."""

    def __init__(self, module: ir.Module, name: str, size: int, stride: int, blocks: list[int]):
        self.module, self.name, self.size, self.stride = module, name, size, stride
        self.first, *self.rest = blocks

    def each_block(self, b: Builder, channels: ir.Value, start: ir.Value, stop: ir.Value, call):
        """Builds `call(width, channel)` for the register blocks from `start` to before `stop`."""
        full = b.udiv(channels, constant(self.first))
        with b.loop(start, b.minimum(stop, full)) as number:
            call(self.first, b.mul(number, constant(self.first)))
        channel = b.mul(full, constant(self.first))
        for i, width in enumerate(self.rest):
            number = b.add(full, constant(i))
            after = b.icmp_unsigned(">=", number, start)
            with b.if_then(b.and_(after, b.icmp_unsigned("<", number, stop))):
                call(width, channel)
            channel = b.add(channel, constant(width))

    def fma(self, width: int) -> ir.Function:
        name = f"llvm.fma.v{width}f32"
        vector = ir.VectorType(FLOAT, width)
        found = self.module.globals.get(name)
        return found or llvm_ir.declare(self.module, name, vector, *[vector] * 3)

    def zeros(self, b: Builder, vector: ir.VectorType) -> tuple[ir.Value, ir.Value]:
        """Returns a vector of zeros, and its address."""
        zero = ir.Constant(vector, [0.0] * vector.count)
        place = b.alloca(vector)
        b.store(zero, place)
        return zero, place

    def line(
        self,
        b: Builder,
        array: ir.Value,
        image: ir.Value,
        row: ir.Value,
        sizes: tuple[ir.Value, ir.Value, ir.Value],
        zeros: ir.Value,
    ) -> tuple[ir.Value, ir.Value]:
        """Returns the address of a row of an image, and the floats from pixel to pixel.

        Args:
            sizes: height, width and channels of the array.
            zeros: read instead of a row outside the image.
        """
        height, width, channels = sizes
        inside = b.icmp_unsigned("<", row, height)
        number = b.add(b.mul(image, height), row)
        place = b.at(array, b.product(number, width, channels), FLOAT)
        return b.select(inside, place, zeros), b.select(inside, channels, constant(0))

    def columns(self, b: Builder, start: ir.Value, stop: ir.Value, a: dict, body) -> None:
        """Builds `body(column, inside)` for the columns from `start` to before `stop`."""
        inner, end = a["inner_start"], a["inner_stop"]
        for first, last, inside in ((start, inner, False), (inner, end, True), (end, stop, False)):
            with b.loop(first, last) as column:
                body(column, inside)


def _share(b: Builder, index: ir.Value, total: ir.Value, tasks: ir.Value) -> list[ir.Value]:
    """Returns where a task's part of `total` starts and stops."""
    return [b.udiv(b.mul(total, n), tasks) for n in (index, b.add(index, constant(1)))]


class DepthwiseWeightGradientCode(_Code):
    """Adds the functions of the gradients with respect to kernel and bias to `module`.

    Args:
        module: of LLVM.
        name: prefix of the functions.
        size: rows and columns of the kernel.
        stride: in both directions.
        blocks: channels of the register blocks: those of all that fill the channels from the
            first on, then those of the last ones, which fill the rest.
        rows: of the kernel, whose sums one register block holds.

    Attributes:
        run_task: the function that computes a task's share of its job.
    """

    def __init__(self, module, name, size: int, stride: int, blocks: list[int], rows: int):
        super().__init__(module, name, size, stride, blocks)
        groups = [(i, min(rows, size - i)) for i in range(0, size, rows)]
        self.blocks = {
            width: [self._register_block(width, *group) for group in groups]
            for width in dict.fromkeys(blocks)
        }
        self.run_task = self._run_task()

    def _register_block(self, width: int, first: int, count: int) -> ir.Function:
        """Sums over the lines from `start` to before `stop`, for `count` rows of the kernel."""
        kinds = dict.fromkeys(("x", "g", "out"), POINTER)
        kinds |= dict.fromkeys((*_PLACE, "start", "stop"), LONG)
        name = f"{self.name}_{width}_{first}"
        b, a = llvm_ir.define(self.module, name, VOID, **kinds, fresh=BOOL)
        vector, fma, size = ir.VectorType(FLOAT, width), self.fma(width), self.size
        zero, zeros = self.zeros(b, vector)
        # LLVM turns these into registers.
        sums = {n: b.alloca(vector) for n in range(first * size, (first + count) * size)}
        if first == 0:
            sums[size * size] = b.alloca(vector)  # of the output's gradient
        for place in sums.values():
            b.store(zero, place)

        with b.loop(a["start"], a["stop"]) as number:
            image = b.udiv(number, a["out_height"])
            y = b.sub(number, b.mul(image, a["out_height"]))
            top = b.sub(b.mul(y, constant(self.stride)), a["top"])
            shape = a["height"], a["width"], a["channels"]
            rows = range(first, first + count)
            lines = {
                i: self.line(b, a["x"], image, b.add(top, constant(i)), shape, zeros) for i in rows
            }
            gradients = b.at(a["g"], b.product(number, a["out_width"], a["channels"]), FLOAT)

            def pixel(column: ir.Value, inside: bool) -> None:
                place = b.at(gradients, b.mul(column, a["channels"]), FLOAT)
                gradient = b.load(place, typ=vector, align=4)
                left = b.sub(b.mul(column, constant(self.stride)), a["left"])
                if first == 0:
                    total = sums[size * size]
                    b.store(b.fadd(b.load(total, typ=vector), gradient), total)
                for j, i in itertools.product(range(size), rows):
                    x, (line, step) = b.add(left, constant(j)), lines[i]
                    place = b.at(line, b.mul(x, step), FLOAT)
                    if not inside:
                        place = b.select(b.icmp_unsigned("<", x, a["width"]), place, zeros)
                    value, total = b.load(place, typ=vector, align=4), sums[i * size + j]
                    b.store(b.call(fma, [value, gradient, b.load(total, typ=vector)]), total)

            self.columns(b, constant(0), a["out_width"], a, pixel)

        def store_sums(add: bool) -> None:
            for n, total in sums.items():
                place = b.at(a["out"], b.mul(a["channels"], constant(n)), FLOAT)
                value = b.load(total, typ=vector)
                if add:
                    value = b.fadd(b.load(place, typ=vector, align=4), value)
                b.store(value, place, align=4)

        # One sum per tile, then the sum of these: rounding loses less than in one long sum.
        with b.if_else(a["fresh"]) as (then, otherwise):
            with then:
                store_sums(add=False)
            with otherwise:
                store_sums(add=True)
        b.ret_void()
        return b.function

    def _run_task(self) -> ir.Function:
        """Computes some register blocks of some parts; each part's sums have a result of their own.

        So the sums do not depend on the number of tasks.
        """
        b, a = llvm_ir.define(self.module, f"{self.name}_run_task", VOID, task=POINTER)
        index, v = ffi_handler.read_task(b, a["task"], WEIGHT_FIELDS)
        full = b.udiv(v["channels"], constant(self.first))
        blocks = b.add(full, constant(len(self.rest)))
        begin, end = _share(b, index, b.mul(v["parts"], blocks), v["tasks"])
        lines, tile = b.mul(v["batch"], v["out_height"]), v["tile"]
        last = b.udiv(b.sub(b.add(end, blocks), constant(1)), blocks)
        with b.loop(b.udiv(begin, blocks), last) as part:
            before = b.mul(part, blocks)
            late = b.icmp_unsigned(">", begin, before)
            first_block = b.select(late, b.sub(begin, before), constant(0))
            last_block = b.minimum(b.sub(end, before), blocks)
            entries = b.mul(v["channels"], constant(self.size**2 + 1))
            out = b.at(v["out"], b.mul(part, entries), FLOAT)
            first_line, last_line = _share(b, part, lines, v["parts"])
            count = b.sub(b.add(b.sub(last_line, first_line), tile), constant(1))
            with b.loop(constant(0), b.udiv(count, tile)) as number:
                start = b.add(first_line, b.mul(number, tile))
                stop = b.minimum(b.add(start, tile), last_line)
                fresh = b.icmp_unsigned("==", number, constant(0))

                def call(width: int, channel: ir.Value) -> None:
                    pointers = [b.at(p, channel, FLOAT) for p in (v["x"], v["g"], out)]
                    place = [v[name] for name in _PLACE]
                    for function in self.blocks[width]:
                        b.call(function, [*pointers, *place, start, stop, fresh])

                self.each_block(b, v["channels"], first_block, last_block, call)
        b.ret_void()
        return b.function


class DepthwiseInputGradientCode(_Code):
    """Adds the functions of the gradient with respect to the input to `module`.

    A pixel of it sees every `stride`-th row and column of the kernel. Groups of `stride` columns
    see the same pixels of the output's gradient, which are loaded once.

    Args, Attributes:
        As of `DepthwiseWeightGradientCode`.
    """

    def __init__(self, module, name, size: int, stride: int, blocks: list[int]):
        super().__init__(module, name, size, stride, blocks)
        self.lines = {
            (width, row): self._line(width, row)
            for width in dict.fromkeys(blocks)
            for row in range(stride)
        }
        self.run_task = self._run_task()

    def _line(self, width: int, first: int) -> ir.Function:
        """Computes a line that sees the rows `first`, `first + stride` … of the kernel.

        `row` is the row of the output's gradient that it sees by row `first`.
        """
        kinds = dict.fromkeys(("g", "kernel", "out"), POINTER)
        kinds |= dict.fromkeys((*_PLACE, "image", "row"), LONG)
        b, a = llvm_ir.define(self.module, f"{self.name}_{width}_{first}", VOID, **kinds)
        vector, fma = ir.VectorType(FLOAT, width), self.fma(width)
        size, stride = self.size, self.stride
        zero, zeros = self.zeros(b, vector)
        rows = range(first, size, stride)
        weights, lines = {}, {}
        shape = a["out_height"], a["out_width"], a["channels"]
        for t, i in enumerate(rows):
            lines[i] = self.line(b, a["g"], a["image"], b.sub(a["row"], constant(t)), shape, zeros)
            for j in range(size):
                place = b.at(a["kernel"], b.mul(a["channels"], constant(i * size + j)), FLOAT)
                weights[i, j] = b.load(place, typ=vector, align=4)

        def group(number: ir.Value, inside: bool) -> None:
            sums = [[zero] * max(1, len(rows)) for _ in range(stride)]
            for t, (n, i) in itertools.product(range(-(-size // stride)), enumerate(rows)):
                column, (line, step) = b.sub(number, constant(t)), lines[i]
                place = b.at(line, b.mul(column, step), FLOAT)
                if not inside:
                    place = b.select(b.icmp_unsigned("<", column, a["out_width"]), place, zeros)
                value = b.load(place, typ=vector, align=4)
                for q in range(min(stride, size - t * stride)):
                    sums[q][n] = b.call(fma, [value, weights[i, t * stride + q], sums[q][n]])
            for q, (value, *others) in enumerate(sums):
                for other in others:
                    value = b.fadd(value, other)
                x = b.sub(b.add(b.mul(number, constant(stride)), constant(q)), a["left"])
                place = b.at(a["out"], b.mul(x, a["channels"]), FLOAT)
                if inside:
                    b.store(value, place, align=4)
                else:
                    with b.if_then(b.icmp_unsigned("<", x, a["width"])):
                        b.store(value, place, align=4)

        last = b.sub(b.add(a["width"], a["left"]), constant(1))
        start, stop = (b.udiv(n, constant(stride)) for n in (a["left"], last))
        self.columns(b, start, b.add(stop, constant(1)), a, group)
        b.ret_void()
        return b.function

    def _run_task(self) -> ir.Function:
        """Computes some lines."""
        b, a = llvm_ir.define(self.module, f"{self.name}_run_task", VOID, task=POINTER)
        index, v = ffi_handler.read_task(b, a["task"], INPUT_FIELDS)
        start, stop = _share(b, index, b.mul(v["batch"], v["height"]), v["tasks"])
        blocks = b.add(b.udiv(v["channels"], constant(self.first)), constant(len(self.rest)))
        with b.loop(start, stop) as number:
            image = b.udiv(number, v["height"])
            y = b.add(b.sub(number, b.mul(image, v["height"])), v["top"])
            row, first = b.udiv(y, constant(self.stride)), b.urem(y, constant(self.stride))
            out = b.at(v["out"], b.product(number, v["width"], v["channels"]), FLOAT)

            def call(width: int, channel: ir.Value) -> None:
                pointers = [b.at(p, channel, FLOAT) for p in (v["g"], v["kernel"], out)]
                place = [v[name] for name in _PLACE]
                for i in range(self.stride):
                    with b.if_then(b.icmp_unsigned("==", first, constant(i))):
                        b.call(self.lines[width, i], [*pointers, *place, image, row])

            self.each_block(b, v["channels"], constant(0), blocks, call)
        b.ret_void()
        return b.function
