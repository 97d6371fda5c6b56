"""LLVM IR of the weight gradient's arithmetic: register blocks, cache tiles, one task's share.

A *line* is a row of pixels of the output; lines are counted through all images of the batch. A
*register block* is the part of the gradient that one innermost loop sums in registers: one row and
some columns of the kernel, `block` input channels, `vector` output channels.
"""

import itertools

from llvmlite import ir

from wbc_jax.cpu import ffi_handler, llvm_ir
from wbc_jax.cpu.llvm_ir import BOOL, FLOAT, INT, LONG, POINTER, VOID, constant

TILE_BYTES = 256 * 1024
"""Size of the parts of both arrays that all register blocks pass over before the next part: what
the second-level cache of most processors holds."""

_SIZES = ("batch", "height", "width", "inputs", "out_height", "out_width", "outputs")
JOB_FIELDS = ("x", "g", "out", "tasks", *_SIZES, "rows", "columns", "top", "left", "by_rows")
"""What a task reads of its job, 8 bytes each: addresses of the input, of the output's gradient and
of the result; the number of tasks; the arrays' sizes; the kernel's rows and columns; zeros above
and to the left; 1 if the tasks divide the lines, 0 if they divide the register blocks."""


class WeightGradientCode:
    """Adds the functions of the weight gradient to `module`.

    Args:
        module: of LLVM.
        name: prefix of the functions.
        column_groups: (first, count) of the kernel's columns of each kind of register block.
        block: input channels of a register block.
        vector: output channels of a register block, floats of a vector register.

    Attributes:
        run_task: the function that computes a task's share of its job.
    """

    def __init__(
        self,
        module: ir.Module,
        name: str,
        column_groups: list[tuple[int, int]],
        block: int,
        vector: int,
    ):
        self.module, self.name = module, name
        self.groups, self.block, self.vector = column_groups, block, ir.VectorType(FLOAT, vector)
        self.fma = llvm_ir.declare(
            module, f"llvm.fma.v{vector}f32", self.vector, *[self.vector] * 3
        )
        self.register_blocks = [self._register_block(first, count) for first, count in self.groups]
        self.run_task = self._run_task()

    def _register_block(self, first: int, count: int) -> ir.Function:
        """Computes a register block: `count` columns of the kernel from `first` on.

        It passes over the lines from `start` to before `stop`. `x` and `g` point at the block's
        first channels, and `out` at its row, first column and first channels. The sums are added to
        `out`, or replace it if `fresh`.
        """
        numbers = (*_SIZES[1:], "shift", "left", "start", "stop")
        kinds = dict.fromkeys(("x", "g", "out"), POINTER) | dict.fromkeys(numbers, LONG)
        b, a = llvm_ir.define(self.module, f"{self.name}_{first}", VOID, **kinds, fresh=BOOL)
        width = self.vector.count
        zero = ir.Constant(self.vector, [0.0] * width)
        undefined = ir.Constant(self.vector, ir.Undefined)
        every_lane = ir.Constant(ir.VectorType(INT, width), [0] * width)
        # LLVM turns these into registers.
        sums = [[b.alloca(self.vector) for _ in range(self.block)] for _ in range(count)]
        window = [b.alloca(self.vector) for _ in range(count)]
        for place in itertools.chain(*sums):
            b.store(zero, place)

        def vector_at(line: ir.Value, column: ir.Value) -> ir.Value:
            """Loads the output's gradient in a column of a line; zero outside the line."""
            before, inside, after = b.block, b.append_basic_block(), b.append_basic_block()
            b.cbranch(b.icmp_unsigned("<", column, a["out_width"]), inside, after)
            b.position_at_end(inside)
            place = b.at(line, b.mul(column, a["outputs"]), FLOAT)
            loaded = b.load(place, typ=self.vector, align=4)
            b.branch(after)
            b.position_at_end(after)
            value = b.phi(self.vector)
            value.add_incoming(zero, before)
            value.add_incoming(loaded, inside)
            return value

        with b.loop(a["start"], a["stop"]) as number:
            image = b.udiv(number, a["out_height"])
            y = b.add(b.sub(number, b.mul(image, a["out_height"])), a["shift"])
            with b.if_then(b.icmp_unsigned("<", y, a["height"])):
                above = b.add(b.mul(image, a["height"]), y)
                pixels = b.at(a["x"], b.product(above, a["width"], a["inputs"]), FLOAT)
                line = b.at(a["g"], b.product(number, a["out_width"], a["outputs"]), FLOAT)
                # The window holds, for each column of the kernel, the output's gradient in the
                # column that an input pixel reaches by it.
                for j in range(1, count):
                    b.store(vector_at(line, b.sub(a["left"], constant(first + j))), window[j - 1])
                with b.loop(constant(0), a["width"]) as column:
                    for j in reversed(range(1, count)):
                        b.store(b.load(window[j - 1], typ=self.vector), window[j])
                    ahead = b.sub(b.add(column, a["left"]), constant(first))
                    b.store(vector_at(line, ahead), window[0])
                    pixel = b.at(pixels, b.mul(column, a["inputs"]), FLOAT)
                    for i in range(self.block):
                        value = b.load(b.at(pixel, i, FLOAT), typ=FLOAT)
                        value = b.insert_element(undefined, value, ir.Constant(INT, 0))
                        value = b.shuffle_vector(value, undefined, every_lane)
                        for j in range(count):
                            other, so_far = (
                                b.load(place, typ=self.vector) for place in (window[j], sums[j][i])
                            )
                            b.store(b.call(self.fma, [value, other, so_far]), sums[j][i])

        def store_sums(add: bool) -> None:
            for j in range(count):
                for i in range(self.block):
                    channel = b.add(b.mul(a["inputs"], constant(j)), constant(i))
                    place = b.at(a["out"], b.mul(channel, a["outputs"]), FLOAT)
                    value = b.load(sums[j][i], typ=self.vector)
                    if add:
                        value = b.fadd(b.load(place, typ=self.vector, align=4), value)
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
        """Computes the share of one task: some lines of all register blocks, or some of these.

        `task` points at the job's address and the task's number.
        """
        b, a = llvm_ir.define(self.module, f"{self.name}_run_task", VOID, task=POINTER)
        index, v = ffi_handler.read_task(b, a["task"], JOB_FIELDS)
        by_rows = b.icmp_unsigned("!=", v["by_rows"], constant(0))
        blocks = b.udiv(v["inputs"], constant(self.block))
        vectors = b.udiv(v["outputs"], constant(self.vector.count))
        groups = constant(len(self.groups))

        def bounds(divided: ir.Value, total: ir.Value) -> tuple[ir.Value, ir.Value]:
            """Returns the task's part of `total` if that is divided among tasks, else all of it."""
            start, stop = (
                b.udiv(b.mul(total, number), v["tasks"])
                for number in (index, b.add(index, constant(1)))
            )
            return b.select(divided, start, constant(0)), b.select(divided, stop, total)

        first_line, last_line = bounds(by_rows, b.mul(v["batch"], v["out_height"]))
        first_block, last_block = bounds(
            b.not_(by_rows), b.product(vectors, blocks, v["rows"], groups)
        )
        size = b.product(v["rows"], v["columns"], v["inputs"], v["outputs"])
        out = b.at(v["out"], b.select(by_rows, b.mul(size, index), constant(0)), FLOAT)
        # Each tile reads and writes the whole gradient, so a large gradient gets larger, fewer
        # tiles: a tile has at least a quarter of the gradient's bytes.
        least = constant(TILE_BYTES)
        wanted = b.select(b.icmp_unsigned(">", size, least), size, least)
        line_floats = b.add(b.mul(v["width"], v["inputs"]), b.mul(v["out_width"], v["outputs"]))
        lines = b.add(b.udiv(wanted, b.mul(line_floats, constant(4))), constant(1))
        tiles = b.udiv(b.sub(b.add(b.sub(last_line, first_line), lines), constant(1)), lines)
        with b.loop(constant(0), tiles) as tile:
            start = b.add(first_line, b.mul(tile, lines))
            stop = b.minimum(b.add(start, lines), last_line)
            fresh = b.icmp_unsigned("==", tile, constant(0))
            with b.loop(first_block, last_block) as number:
                group, rest = b.urem(number, groups), b.udiv(number, groups)
                row, rest = b.urem(rest, v["rows"]), b.udiv(rest, v["rows"])
                channel = b.mul(b.urem(rest, blocks), constant(self.block))
                feature = b.mul(b.udiv(rest, blocks), constant(self.vector.count))
                for kind, (function, (first, _)) in enumerate(
                    zip(self.register_blocks, self.groups)
                ):
                    with b.if_then(b.icmp_unsigned("==", group, constant(kind))):
                        tap = b.add(b.mul(row, v["columns"]), constant(first))
                        place = b.mul(b.add(b.mul(tap, v["inputs"]), channel), v["outputs"])
                        pointers = (
                            b.at(v["x"], channel, FLOAT),
                            b.at(v["g"], feature, FLOAT),
                            b.at(out, b.add(place, feature), FLOAT),
                        )
                        sizes = [v[name] for name in _SIZES[1:]]
                        shift = b.sub(row, v["top"])
                        b.call(function, [*pointers, *sizes, shift, v["left"], start, stop, fresh])
        b.ret_void()
        return b.function
