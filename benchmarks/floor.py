"""How fast a step could be on this machine, beside how fast it is.

python benchmarks/floor.py [--results=benchmarks/results/train_step.json]

For each case of `train_step.py`: the operations of its convolutions and matrix products, the bytes
that must pass between memory and processor even if everything else were fused, and the time that
these take at the rates that the same machine reaches in a large matrix product and in a copy. With
the results of `train_step.py` or `inference.py` it also prints how far above that both sides are.

The floor of one side alone is the larger of the two times: an ideal step does them at once. Caches
lower the bytes of small batches, Winograd's algorithm the operations, so a step can be below it.
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
import ours
import sidebyside

from wbc_jax.models import describe

FLOAT_BYTES = 4
ACTIVATION_PASSES = {"train": 6, "predict": 2}
"""Times that the output of a layer with weights crosses memory. Prediction writes it and reads it.
Training does that, reads it again for the kernel's gradient, writes its gradient and reads that
twice: for the kernel's and for the input's gradient."""
WEIGHT_PASSES = {"train": 11, "predict": 1}
"""Training reads a weight forward and backward, writes its gradient, reads that for the clipping
and the update, and reads and writes the weight and AdamW's two moments."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rates:
    """What a machine reaches: FLOP/s of a matrix product, bytes/s read and written by a copy."""

    flops: float
    bytes: float


def measured_rates(side: int = 3072, mebibytes: int = 512, rounds: int = 5) -> Rates:
    """Returns the best of several rounds, float32, with all processors."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((side, side)), jnp.float32)
    product = jax.jit(jnp.dot)
    source = jnp.ones(mebibytes * 2**18, jnp.float32)
    copy = jax.jit(lambda values: values + 1)  # a copy alone would be left out

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
        layers: of the forward pass of one batch (`describe.describe`).
        mode: `train` or `predict`.

    Returns:
        Floating-point operations (two a multiply-add; backward as many again for the input's and
        the kernel's gradient, but none for the images') and bytes.
    """
    weighted = [layer for layer in layers if layer.flops]
    flops = sum(layer.flops for layer in weighted)
    if mode == "train":
        flops = 3 * flops - weighted[0].flops
    values = sum(math.prod(layer.shape) for layer in weighted)
    weights = sum(layer.parameters for layer in layers)
    moved = ACTIVATION_PASSES[mode] * values + WEIGHT_PASSES[mode] * weights
    return flops, FLOAT_BYTES * moved


def floor(case: sidebyside.Case, mode: str, rates: Rates) -> dict[str, float]:
    """Returns `gflops`, `mib`, and `operations` and `memory`, the seconds that each takes alone."""
    _, model = ours.build(case, "float32")
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
    above = f"{'ours':>9}{'x floor':>9}{'PyTorch':>9}{'x floor':>9}" if rows else ""
    print(f"{mode:34}{'GFLOP':>9}{'MiB':>9}{'operations':>12}{'memory':>9}{above}")
    for case in sidebyside.CASES:
        least = floor(case, mode, rates)
        line = (
            f"{case!s:34}{least['gflops']:9.2f}{least['mib']:9.1f}"
            f"{1e3 * least['operations']:10.1f}ms{1e3 * least['memory']:7.1f}ms"
        )
        if str(case) in rows:
            row, bound = rows[str(case)], max(least["operations"], least["memory"])
            for name in ("ours", row["peer"]):
                seconds = row["seconds"][name]
                line += f"{1e3 * seconds:7.1f}ms{seconds / bound:9.2f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
