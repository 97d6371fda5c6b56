"""Prints the roofline of each case on this machine: the least time that a step could take.

python benchmarks/roofline.py [--results=benchmarks/results/train_step.json]

For each case of `train_step.py` it counts the operations of the convolutions and matrix products,
and the bytes that must pass between memory and processor even if everything else were fused. It
divides them by the rates that this machine reaches in a large matrix product and in a copy. With
the results of `train_step.py` or `inference.py` it also prints how far above the roofline both
sides are.

The bound is the larger of the two times: an ideal step computes and moves data at once. Caches
lower the bytes of small batches, and Winograd's algorithm the operations, so a step can be faster.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

import cases
import subject
from wbc_jax.models import describe

FLOAT_BYTES = 4
ACTIVATION_PASSES = {"train": 6, "predict": 2}
"""Number of times that the output of a layer with weights crosses memory. Prediction writes and
reads it. Training does so too, reads it again for the weight gradient, writes its gradient, and
reads that twice: for the weight gradient and for the input gradient."""
WEIGHT_PASSES = {"train": 11, "predict": 1}
"""Number of times that a weight crosses memory. Training reads it forward and backward, writes its
gradient, reads that for the clipping and for the update, and reads and writes the weight and both
moments of AdamW."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rates:
    """Rates that a machine reaches.

    Attributes:
        flops: floating-point operations a second of a matrix product.
        bytes: bytes a second, read and written, of a copy.
    """

    flops: float
    bytes: float


def measured_rates(side: int = 3072, mebibytes: int = 512, rounds: int = 5) -> Rates:
    """Returns the best rates of several rounds, in float32, with all processors."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((side, side)), jnp.float32)
    product = jax.jit(jnp.dot)
    source = jnp.ones(mebibytes * 2**18, jnp.float32)
    copy = jax.jit(lambda values: values + 1)  # XLA would leave out a mere copy

    def best(call) -> float:
        call().block_until_ready()
        times = []
        for _ in range(rounds):
            start = time.perf_counter()
            call().block_until_ready()
            times.append(time.perf_counter() - start)
        return min(times)

    flops = 2 * side**3 / best(lambda: product(x, x))
    return Rates(flops, 2 * mebibytes * 2**20 / best(lambda: copy(source)))


def work(layers: list[describe.Layer], mode: str) -> tuple[int, int]:
    """Returns the operations and the bytes of one run.

    Args:
        layers: the forward pass of one batch (`describe.describe`).
        mode: `train` or `predict`.

    Returns:
        Floating-point operations, two a multiply-add, and bytes. The input gradient and the weight
        gradient of a layer need as many operations each as its forward pass; the images need no
        gradient.
    """
    weighted = [layer for layer in layers if layer.flops]
    flops = sum(layer.flops for layer in weighted)
    if mode == "train":
        flops = 3 * flops - weighted[0].flops
    values = sum(math.prod(layer.shape) for layer in weighted)
    weights = sum(layer.parameters for layer in layers)
    moved = ACTIVATION_PASSES[mode] * values + WEIGHT_PASSES[mode] * weights
    return flops, FLOAT_BYTES * moved


def roofline(case: cases.Case, mode: str, rates: Rates) -> dict[str, float]:
    """Returns `gflops`, `mib`, and the seconds that each takes alone: `operations`, `memory`."""
    _, model = subject.build(case, "float32")
    flops, moved = work(describe.describe(model, (case.batch, case.size, case.size, 3)), mode)
    return {
        "gflops": flops / 1e9,
        "mib": moved / 2**20,
        "operations": flops / rates.flops,
        "memory": moved / rates.bytes,
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--results", type=pathlib.Path, help="JSON of train_step.py or inference.py"
    )
    parser.add_argument("--mode", choices=("train", "predict"), default="train")
    options = parser.parse_args()
    found = json.loads(options.results.read_text()) if options.results else None
    mode = found["mode"] if found else options.mode
    rows = {row["case"]: row for row in found["rows"]} if found else {}
    rates = measured_rates()
    print(
        f"Matrix product {rates.flops / 1e9:.0f} GFLOP/s, memory {rates.bytes / 1e9:.1f} GB/s "
        "(read + written), float32"
    )
    above = f"{'ours':>9}{'x bound':>9}{'PyTorch':>9}{'x bound':>9}" if rows else ""
    print(f"{mode:34}{'GFLOP':>9}{'MiB':>9}{'operations':>12}{'memory':>9}{above}")
    for case in cases.CASES:
        least = roofline(case, mode, rates)
        line = (
            f"{case!s:34}{least['gflops']:9.2f}{least['mib']:9.1f}"
            f"{1e3 * least['operations']:10.1f}ms{1e3 * least['memory']:7.1f}ms"
        )
        if str(case) in rows:
            row, bound = rows[str(case)], max(least["operations"], least["memory"])
            for name in ("ours", row["reference"]):
                seconds = row["seconds"][name]
                line += f"{1e3 * seconds:7.1f}ms{seconds / bound:9.2f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
