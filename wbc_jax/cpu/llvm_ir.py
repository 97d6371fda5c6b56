"""llvmlite's IR builder with the operations that the generated code repeats."""

import contextlib
import functools
from collections.abc import Iterator

from llvmlite import ir

BYTE, BOOL, INT, LONG = (ir.IntType(bits) for bits in (8, 1, 32, 64))
FLOAT, POINTER, VOID = ir.FloatType(), ir.PointerType(), ir.VoidType()


def constant(value: int) -> ir.Constant:
    """Returns a 64-bit integer constant."""
    return ir.Constant(LONG, value)


class Builder(ir.IRBuilder):
    """An `ir.IRBuilder` for 64-bit integers, 8-byte fields and counted loops."""

    def at(self, pointer: ir.Value, index: ir.Value | int, kind: ir.Type = LONG) -> ir.Value:
        """Returns the address of element `index` of an array of `kind`."""
        index = constant(index) if isinstance(index, int) else index
        return self.gep(pointer, [index], source_etype=kind)

    def read(self, pointer: ir.Value, index: ir.Value | int, kind: ir.Type = LONG) -> ir.Value:
        """Loads the 8-byte field `index` of the structure at `pointer`."""
        return self.load(self.at(pointer, index), typ=kind)

    def write(self, pointer: ir.Value, *values: ir.Value) -> None:
        """Stores `values` in the first 8-byte fields of the structure at `pointer`."""
        for i, value in enumerate(values):
            value = self.ptrtoint(value, LONG) if isinstance(value.type, ir.PointerType) else value
            self.store(value, self.at(pointer, i))

    def product(self, *values: ir.Value) -> ir.Value:
        """Multiplies integers."""
        return functools.reduce(self.mul, values)

    def minimum(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Returns the smaller of two unsigned integers."""
        return self.select(self.icmp_unsigned("<", a, b), a, b)

    @contextlib.contextmanager
    def loop(self, start: ir.Value, stop: ir.Value) -> Iterator[ir.Value]:
        """Builds the body of `for index in range(start, stop)`; yields `index`."""
        before = self.block
        head, body, after = (self.append_basic_block() for _ in range(3))
        self.branch(head)
        self.position_at_end(head)
        index = self.phi(LONG)
        index.add_incoming(start, before)
        self.cbranch(self.icmp_unsigned("<", index, stop), body, after)
        self.position_at_end(body)
        yield index
        index.add_incoming(self.add(index, constant(1)), self.block)
        self.branch(head)
        self.position_at_end(after)


def declare(module: ir.Module, name: str, result: ir.Type, *arguments: ir.Type) -> ir.Function:
    """Adds the declaration of a function to `module`."""
    return ir.Function(module, ir.FunctionType(result, arguments), name)


def define(
    module: ir.Module, name: str, result: ir.Type, **arguments: ir.Type
) -> tuple[Builder, dict[str, ir.Value]]:
    """Begins the definition of a function; returns its builder and its arguments by name."""
    function = declare(module, name, result, *arguments.values())
    return Builder(function.append_basic_block()), dict(zip(arguments, function.args))
