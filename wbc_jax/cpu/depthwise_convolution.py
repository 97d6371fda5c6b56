"""The one place that chooses how to compute depthwise convolutions.

XLA's depthwise convolution on a CPU takes 30 to 200 times as long as the arithmetic needs. There,
where `convolution.usable` allows it, the output, and the input gradient at stride 1, are calls of
the oneDNN in jaxlib; the other gradients are those of `depthwise_gradient`. What cannot be computed
so is a sum over the taps of shifted products, which XLA fuses. Accelerators use XLA's convolution.
"""

import functools
import types
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax import lax
from jax.custom_derivatives import SymbolicZero

from wbc_jax.cpu import convolution
from wbc_jax.cpu.convolution import Padding


def depthwise(
    x: jax.Array, kernel: jax.Array, bias: jax.Array, stride: int, padding: Padding
) -> jax.Array:
    """Computes a depthwise convolution with bias; it can be differentiated.

    Args:
        x: `[B, H, W, C]`.
        kernel: `[k, k, C]`.
        bias: `[C]`.
        stride: in both directions.
        padding: zeros before and after: ((top, bottom), (left, right)).

    Returns:
        `[B, (H + top + bottom − k) // stride + 1, (W + left + right − k) // stride + 1, C]`.
    """
    size = kernel.shape[0]
    spanned = all(0 <= n < size for around in padding for n in around)
    right = x.dtype == kernel.dtype == bias.dtype == jnp.float32 and x.size > 0
    if not (convolution.wanted() and spanned and right):
        return _xla(x, kernel, stride, padding) + bias[None, None, None]
    if convolution.usable() and _has_onednn():
        return _fast(x, kernel, bias, stride, padding)
    return _shifted(x, kernel, stride, padding) + bias[None, None, None]


def _xla(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _shifted(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """Sums the products with each tap of the kernel."""
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    size = kernel.shape[0]
    rows, columns = ((n - size) // stride * stride + 1 for n in x.shape[1:3])
    products = (
        x[:, i : i + rows : stride, j : j + columns : stride] * kernel[i, j][None, None, None]
        for i in range(size)
        for j in range(size)
    )
    return functools.reduce(jnp.add, products)


def _shifted_gradients(x, kernel, gradient, stride: int, padding: Padding):
    """Returns the gradients with respect to input, kernel and bias."""
    shifted = functools.partial(_shifted, stride=stride, padding=padding)
    return *jax.vjp(shifted, x, kernel)[1](gradient), gradient.sum((0, 1, 2))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _fast(x, kernel, bias, stride, padding):
    return _onednn(x, kernel, bias, stride, padding)


def _onednn(x, kernel, bias, stride: int, padding: Padding, return_input: bool = False):
    return convolution._onednn(
        x, kernel[:, :, None], bias, padding, return_input, stride=stride, groups=x.shape[-1]
    )


def _forward(x, kernel, bias, stride, padding):
    """Returns the output and (x, kernel, () if `x` needs a gradient else None)."""
    wanted, x, kernel, bias = x.perturbed, x.value, kernel.value, bias.value
    if not wanted:
        return _onednn(x, kernel, bias, stride, padding), (x, kernel, None)
    out, x = _onednn(x, kernel, bias, stride, padding, return_input=True)
    return out, (x, kernel, ())


def _backward(stride, padding, residuals, gradient):
    x, kernel, wanted = residuals
    if isinstance(gradient, SymbolicZero):
        gradient = jnp.zeros(gradient.shape, gradient.dtype)
    generated = _generated()
    if generated is None or not generated.usable(x, gradient):
        return _shifted_gradients(x, kernel, gradient, stride, padding)
    input_gradient = None
    if wanted is not None and stride == 1:
        around = convolution._complement(kernel.shape[:2], padding)
        # As in `convolution`: oneDNN returns the array in memory that it has read.
        input_gradient, gradient = _onednn(
            gradient, kernel[::-1, ::-1], None, 1, around, return_input=True
        )
    elif wanted is not None:
        input_gradient = generated.input_gradient(gradient, kernel, x.shape, stride, padding)
    return input_gradient, *generated.weight_gradient(x, gradient, kernel.shape[0], stride, padding)


_fast.defvjp(_forward, _backward, symbolic_zeros=True)


def _example(stride: int) -> tuple[list[jax.Array], Padding]:
    """Returns a small input, kernel, bias and gradient of the output, and a padding."""
    shape, size = (2, 8, 9, 24), 3
    padding = tuple(lax.padtype_to_pads(shape[1:3], (size, size), (stride, stride), "SAME"))
    rng = np.random.default_rng(0)
    out = (shape[0], *(-(-n // stride) for n in shape[1:3]), shape[3])
    shapes = shape, (size, size, shape[3]), shape[3:], out
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes], padding


def _equal(ours: Callable, theirs: Callable, arguments: Sequence, stride: int, padding: Padding):
    """Returns whether two functions of arrays, a stride and a padding have the same values."""
    found = []
    for compute in (ours, theirs):
        call = jax.jit(functools.partial(compute, stride=stride, padding=padding))
        with jax.ensure_compile_time_eval():
            found.append(jax.tree.leaves(call(*arguments)))
    return all(np.allclose(a, b, rtol=1e-3, atol=1e-3) for a, b in zip(*found, strict=True))


@functools.cache
def _has_onednn() -> bool:
    """Returns whether oneDNN's depthwise convolution is right, where `convolution.usable`."""

    def theirs(x, kernel, bias, stride, padding):
        return _shifted(x, kernel, stride, padding) + bias[None, None, None]

    for stride in (1, 2):
        (*arguments, _), padding = _example(stride)
        try:
            right = _equal(_onednn, theirs, arguments, stride, padding)
        except jax.errors.JaxRuntimeError:  # a build without oneDNN
            return False
        if not right:
            logging.warning("Depthwise convolutions are left to XLA: wrong values from oneDNN")
            return False
    return True


@functools.cache
def _generated() -> types.ModuleType | None:
    """Returns the module `depthwise_gradient` if its code can be generated here and is right.

    Otherwise it returns None and logs why.
    """
    try:
        # Imported here, as llvmlite is optional: it is installed on x86-64 Linux only.
        from wbc_jax.cpu import depthwise_gradient as module

        def ours(x, kernel, gradient, stride, padding):
            size, shape = kernel.shape[0], x.shape
            input_gradient = module.input_gradient(gradient, kernel, shape, stride, padding)
            return input_gradient, *module.weight_gradient(x, gradient, size, stride, padding)

        for stride in (1, 2):
            (x, kernel, _, gradient), padding = _example(stride)
            if not module.usable(x, gradient):
                return None
            if not _equal(ours, _shifted_gradients, (x, kernel, gradient), stride, padding):
                raise ArithmeticError(f"wrong values at stride {stride}")
    except Exception as error:  # llvmlite, LLVM and jaxlib raise many types
        logging.warning("Depthwise gradients are left to XLA, which is slower: %r", error)
        return None
    return module
