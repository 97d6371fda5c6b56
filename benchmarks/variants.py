"""Measures variants of single layers: those that `wbc_jax.models` uses and those it does not.

python benchmarks/variants.py [--rounds=9] [--out=FILE.json]

For each layer and shape it prints the median time of one call of each variant (output and all
gradients, or the part that is named), measured alternately. The variants of a layer are first
checked against each other.
"""

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

import cases
from wbc_jax.cpu import convolution, huge_pages
from wbc_jax.models import layers
from wbc_jax.utils import atomic

SAME = ((1, 1), (1, 1))
CONVOLUTIONS = [  # image [B, H, W, C_in], C_out: from the U-Net with 16 filters at 16 x 128 x 128
    ((16, 128, 128, 3), 16),
    ((16, 128, 128, 16), 16),
    ((16, 128, 128, 32), 16),
    ((16, 64, 64, 32), 32),
    ((16, 32, 32, 64), 64),
    ((16, 8, 8, 256), 256),
]
TOLERANCE = 1e-3

Variant = Callable[..., jax.Array]


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (1, 1), SAME, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _channels_first(x: jax.Array, kernel: jax.Array) -> jax.Array:
    y = lax.conv_general_dilated(
        x.transpose(0, 3, 1, 2), kernel, (1, 1), SAME, dimension_numbers=("NCHW", "HWIO", "NCHW")
    )
    return y.transpose(0, 2, 3, 1)


def _taps(x: jax.Array) -> list[jax.Array]:
    """Returns the image shifted to each of the nine taps."""
    height, width = x.shape[1:3]
    around = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [around[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]


def _im2col(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves by one matrix product, with the nine shifts as columns."""
    columns = jnp.concatenate(_taps(x), -1)
    return columns @ kernel.reshape(-1, kernel.shape[-1])


def _shifted(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves by nine matrix products, summed."""
    flat = kernel.reshape(9, *kernel.shape[2:])
    return sum(tap @ flat[k] for k, tap in enumerate(_taps(x)))


def _ours(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return convolution.convolve(x, kernel, jnp.zeros(kernel.shape[-1]), SAME)


def _weight_gradient_products(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """Returns the weight gradient by nine matrix products of shifted images."""
    flat = gradient.reshape(-1, gradient.shape[-1])
    found = [tap.reshape(-1, tap.shape[-1]).T @ flat for tap in _taps(x)]
    return jnp.stack(found).reshape(3, 3, x.shape[-1], gradient.shape[-1])


def _weight_gradient_convolution(x: jax.Array, gradient: jax.Array) -> jax.Array:
    """Returns the weight gradient by an XLA convolution whose channels are the images."""
    return convolution._xla_weight_gradient(x, gradient, (3, 3), SAME)


def _weight_gradient(variant: Variant, x: jax.Array, gradient: jax.Array) -> jax.Array:
    shape = (3, 3, x.shape[-1], gradient.shape[-1])
    _, pull = jax.vjp(lambda kernel: variant(x, kernel), jnp.zeros(shape))
    return pull(gradient)[0]


def _input_gradient(variant: Variant, gradient: jax.Array, kernel: jax.Array) -> jax.Array:
    shape = (*gradient.shape[:3], kernel.shape[2])
    _, pull = jax.vjp(lambda x: variant(x, kernel), jnp.zeros(shape))
    return pull(gradient)[0]


def _with_gradients(variant: Variant) -> Variant:
    """Returns a function that computes output and gradients, as one array a part."""

    def both(*arguments):
        out, pull = jax.vjp(variant, *arguments)
        return out, pull(jnp.cos(out))

    return both


def _up_by_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_transpose(
        x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _up_by_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    layer = layers.UpConv(*kernel.shape[2:], rngs=nnx.Rngs(0))
    # lax.conv_transpose flips the kernel, a transposed convolution does not.
    layer.kernel[...] = kernel[::-1, ::-1]
    return layer(x)


def _pool_by_window(x: jax.Array) -> jax.Array:
    return nnx.max_pool(x, (2, 2), strides=(2, 2))


def _statistics_twice(x: jax.Array) -> jax.Array:
    mean = x.mean((0, 1, 2))
    return (x - mean) * lax.rsqrt(((x - mean) ** 2).mean((0, 1, 2)) + 1e-5)


def _statistics_once(x: jax.Array) -> jax.Array:
    return layers.BatchNorm(x.shape[-1])(x)


def comparisons() -> list[tuple[str, dict[str, Variant], tuple[np.ndarray, ...]]]:
    """Returns (layer and shape, {name: variant}, arguments) of each comparison; ours comes last."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32) / np.sqrt(max(1, np.prod(shape[:-1]) // 1000))

    variants = {
        "XLA": _convolve,
        "XLA, channels first": _channels_first,
        "im2col": _im2col,
        "nine products": _shifted,
        "ours": _ours,
    }
    gradients = {name: variants[name] for name in ("XLA", "im2col", "ours")}
    found = []
    for shape, out in CONVOLUTIONS:
        name = f"{' × '.join(map(str, shape))} to {out}"
        x, kernel, gradient = normal(*shape), normal(3, 3, shape[-1], out), normal(*shape[:3], out)
        found.append((f"convolution, {name}", dict(variants), (x, kernel)))
        of_input = {k: functools.partial(_input_gradient, v) for k, v in gradients.items()}
        found.append((f"its input gradient, {name}", of_input, (gradient, kernel)))
        of_weights = {
            "nine products": _weight_gradient_products,
            "XLA, with our options, channels as images": _weight_gradient_convolution,
            **{k: functools.partial(_weight_gradient, v) for k, v in gradients.items()},
        }
        found.append((f"its weight gradient, {name}", of_weights, (x, gradient)))
    large, small = normal(16, 128, 128, 16), normal(16, 64, 64, 32)
    others = {
        "2 × 2 up-convolution, 16 × 64 × 64 × 32 to 16": (
            {"XLA's transposed convolution": _up_by_convolution, "ours: product": _up_by_product},
            (small, normal(2, 2, 32, 16)),
        ),
        "2 × 2 max-pool, 16 × 128 × 128 × 16": (
            {"XLA's windows": _pool_by_window, "ours: reshape": layers.max_pool},
            (large,),
        ),
        "batch normalization, 16 × 128 × 128 × 16": (
            {"two passes": _statistics_twice, "ours: one pass": _statistics_once},
            (large,),
        ),
    }
    for name, (choices, arguments) in others.items():
        choices = {key: _with_gradients(variant) for key, variant in choices.items()}
        found.append((f"{name}, with gradients", choices, arguments))
    return found


def measure(variants: dict[str, Variant], arguments: tuple, rounds: int) -> dict[str, float]:
    """Returns each variant's median seconds a call.

    Raises:
        ArithmeticError: two variants differ by more than `TOLERANCE` of the largest value.
    """
    placed = [jnp.asarray(a) for a in arguments]
    # XLA's own variants run as XLA does by default, without our compiler options.
    compiled = {
        name: jax.jit(
            variant, compiler_options=convolution.compiler_options() if "our" in name else None
        )
        for name, variant in variants.items()
    }
    results = {name: jax.tree.leaves(call(*placed)) for name, call in compiled.items()}
    *_, ours = results.values()
    for name, values in results.items():
        for one, two in zip(values, ours, strict=True):
            gap = float(jnp.abs(one - two).max() / jnp.abs(two).max())
            if not gap < TOLERANCE:
                raise ArithmeticError(f"{name} differs from ours by {gap:.2g} (relative)")
    times = {name: [] for name in compiled}
    for _ in range(rounds):
        for name, call in compiled.items():
            start = time.perf_counter()
            jax.block_until_ready(call(*placed))
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", help="write the results to this JSON file, too")
    options = parser.parse_args()
    rows = []
    for name, variants, arguments in comparisons():
        try:
            seconds = measure(variants, arguments, options.rounds)
        except ArithmeticError as error:
            sys.exit(f"error: {name}: {error}")
        rows.append({"layer": name, "seconds": {k: round(v, 6) for k, v in seconds.items()}})
        print(name, *(f"  {k:32}{1e3 * s:9.2f} ms" for k, s in seconds.items()), sep="\n")
    if options.out:
        atomic.write_json(options.out, {"hardware": cases.hardware(), "rows": rows})


if __name__ == "__main__":
    huge_pages.restart_with_huge_pages()
    main()
