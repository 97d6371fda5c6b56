"""The layers of a network: output shapes, parameters and FLOPs, beside the papers' figures.

`nnx.tabulate` is not used: it runs the network on arrays, returns only text, counts the operations
that are left after XLA's simplifications, and does not list pools and activations. Here the network
is traced, while its layers are replaced by ones that record the call; this is not thread-safe.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from unittest import mock

import jax
import jax.extend
import jax.numpy as jnp
from flax import nnx

from wbc_jax import cpu
from wbc_jax.models import layers as layers_lib

PAPERS = {
    "unet": "paper A draws 64 … 1024 channels (31.0 M parameters follow) and prints no figures",
    "encoder_decoder": "paper B prints 22 layers, 58.5 K parameters, 7.311 BFLOPs at 360 × 360",
    "classifier": "paper B prints 36 layers, 17.5 M parameters, 736 MFLOPs at 360 × 360",
}
"""The papers' figures for their networks, by the names that a config uses."""

_FUNCTIONS = (
    (nnx, "relu"),
    (nnx, "relu6"),
    (nnx, "leaky_relu"),
    (layers_lib, "max_pool"),
    (layers_lib, "max_pool_with_indices"),
    (layers_lib, "max_unpool"),
    (layers_lib, "avg_pool"),
)
_MARK = re.compile(r"layer#(\d+)")


@dataclasses.dataclass(frozen=True, slots=True)
class Layer:
    """One call in a network's forward pass.

    Attributes:
        name: path in the network (`encoder.0.conv1`); for a function, its name and a number.
        kind: the module's class or the function's name.
        shape: shape of the output.
        parameters: number of learned values, without running statistics.
        flops: two for each multiply-add of convolutions and matrix products, including products
            with padding. Biases, normalization, activations and pools are not counted.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    flops: int


def describe(model: nnx.Module, input_shape: Sequence[int]) -> list[Layer]:
    """Returns the layers of `model` in the order in which they are called.

    The forward pass of prediction (no dropout, running statistics) is traced, not computed, so that
    a network of any size takes seconds. Layers are the modules without submodules, and the
    activations and pools of `nnx` and `wbc_jax.models.layers`.

    Not thread-safe: methods of the modules' classes (Flax's among them) and functions of `nnx` are
    patched for the whole process meanwhile.

    Args:
        model: maps images to an array; it is not changed.
        input_shape: `[B, H, W, C]`.

    Raises:
        ValueError: raised by the network if it does not take that shape.
    """
    graph, state = nnx.split(model)
    found: list[Layer] = []

    def forward(state: nnx.State, images: jax.Array) -> jax.Array:
        merged = nnx.merge(graph, state)
        merged.set_attributes(
            deterministic=True, use_running_average=True, raise_if_not_found=False
        )
        with cpu.disabled(), _recorded(merged, found):
            return merged(images)

    images = jax.ShapeDtypeStruct(tuple(input_shape), jnp.float32)
    jaxpr = jax.make_jaxpr(forward)(state, images).jaxpr
    flops = [0] * (len(found) + 1)  # the last entry: outside all layers
    _count(jaxpr, len(found), 1, flops)
    described = [dataclasses.replace(layer, flops=n) for layer, n in zip(found, flops)]
    if flops[-1]:
        shape = tuple(jaxpr.outvars[0].aval.shape)
        described.append(Layer("(outside layers)", type(model).__name__, shape, 0, flops[-1]))
    return described


def table(layers: Sequence[Layer], paper: str | None = None) -> str:
    """Formats `layers` as text: one line each, then the totals.

    Args:
        layers: from `describe`.
        paper: name of the network in `PAPERS` whose figures are added, if it is there.
    """
    rows = [("layer", "kind", "output", "parameters", "FLOPs")]
    for layer in layers:
        shape = " × ".join(map(str, layer.shape))
        flops = f"{layer.flops:,}" if layer.flops else ""
        parameters = f"{layer.parameters:,}" if layer.parameters else ""
        rows.append((layer.name, layer.kind, shape, parameters, flops))
    parameters, flops = sum(x.parameters for x in layers), sum(x.flops for x in layers)
    rows.append((f"{len(layers)} layers", "", "", f"{parameters:,}", f"{flops:,}"))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = [text.ljust(n) for text, n in zip(row[:3], widths)]
        cells += [text.rjust(n) for text, n in zip(row[3:], widths[3:])]
        lines.append("  ".join(cells).rstrip())
    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines[1:1] = [rule]
    lines[-1:-1] = [rule]
    lines.append(
        f"{parameters:,} parameters; {flops / 1e9:.3f} GFLOPs = {flops / 2e9:.3f} G multiply-adds "
        "of convolutions and matrix products"
    )
    if paper in PAPERS:
        lines.append(f"For comparison: {PAPERS[paper]}.")
    return "\n".join(lines)


@contextlib.contextmanager
def _recorded(model: nnx.Module, found: list[Layer]) -> Iterator[None]:
    """Adds each layer called within it to `found`, and marks its operations with its index.

    The marks are named scopes, which `_count` finds in the traced operations. Not thread-safe.
    """
    modules = {id(module): (path, module) for path, module in nnx.iter_modules(model)}
    leaves = {i: x for i, x in modules.items() if sum(1 for _ in nnx.iter_modules(x[1])) == 1}
    numbers: dict[str, Iterator[int]] = {}

    def record(call: Callable, name: str, kind: str, parameters: int, args: Any, options: Any):
        place = len(found)
        found.append(Layer(name, kind, (), parameters, 0))
        with jax.named_scope(f"layer#{place}"):
            out = call(*args, **options)
        shape = tuple(jax.tree.leaves(out)[0].shape)
        found[place] = Layer(name, kind, shape, parameters, 0)
        return out

    def method(call: Callable) -> Callable:
        @functools.wraps(call)
        def wrapper(module, *args, **options):
            if id(module) not in leaves:
                return call(module, *args, **options)
            path = ".".join(map(str, leaves[id(module)][0]))
            size = sum(math.prod(x.shape) for x in jax.tree.leaves(nnx.state(module, nnx.Param)))
            return record(call, path, type(module).__name__, size, (module, *args), options)

        return wrapper

    def function(call: Callable, name: str) -> Callable:
        @functools.wraps(call)
        def wrapper(*args, **options):
            number = next(numbers.setdefault(name, itertools.count(1)))
            return record(call, f"{name}.{number}", name, 0, args, options)

        return wrapper

    with contextlib.ExitStack() as stack:
        for kind in {type(module) for _, module in leaves.values()}:
            if hasattr(kind, "__call__"):  # noqa: B004 (nnx.List has none)
                stack.enter_context(mock.patch.object(kind, "__call__", method(kind.__call__)))
        for owner, name in _FUNCTIONS:
            replaced = function(getattr(owner, name), name)
            stack.enter_context(mock.patch.object(owner, name, replaced))
        yield


def _count(jaxpr: Any, place: int, times: int, flops: list[int]) -> None:
    """Adds the FLOPs of `jaxpr` and all jaxprs it calls to the layers that they belong to.

    Args:
        jaxpr: of the forward pass.
        place: index of the layer for operations without a mark.
        times: how often `jaxpr` runs.
        flops: one number per layer; changed.
    """
    for equation in jaxpr.eqns:
        marks = _MARK.findall(str(equation.source_info.name_stack))
        here = int(marks[-1]) if marks else place
        name, options = equation.primitive.name, equation.params
        if name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            out_channels = kernel[options["dimension_numbers"].rhs_spec[0]]
            taps = math.prod(kernel) // out_channels
            size = math.prod(equation.outvars[0].aval.shape)
            # Products with the zeros between the inputs are not counted.
            flops[here] += times * 2 * size * taps // math.prod(options["lhs_dilation"])
        elif name == "dot_general":
            (contracted, _), _ = options["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            taps = math.prod(shape[axis] for axis in contracted)
            flops[here] += times * 2 * math.prod(equation.outvars[0].aval.shape) * taps
        inner = times * options.get("length", 1) if name == "scan" else times
        for called in jax.tree.leaves(tuple(options.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(called):
                _count(getattr(called, "jaxpr", called), here, inner, flops)


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, (jax.extend.core.Jaxpr, jax.extend.core.ClosedJaxpr))
