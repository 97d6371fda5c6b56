"""Measures prediction by the number of images that one program computes, and whether bits differ.

`python benchmarks/groups.py` prints for each shipped model, for groups of 1, 4 and 16 images and
for sums by YNNPACK or by XLA (`cpu.compiler_options`) the milliseconds per image, by the clock and
by processor time (least of all rounds, which alternate), and how many of 16 images get other logits
than in a group of one. `sharding.group_size` is chosen by it.
"""

import argparse
import itertools
import time

import jax
import numpy as np

import wbc_jax
from wbc_jax import cpu
from wbc_jax.training import steps

IMAGES = 16
GROUPS = (1, 4, 16)


def measure(name: str, rounds: int) -> list[str]:
    """Returns a line of the table for each group size and each kind of sums."""
    model = wbc_jax.load(name).with_flips(False)
    side = model.config.data.image_size
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, side, side, 3), np.uint8)
    logits = steps.make_logits(model.network)
    programs = {
        sums: jax.jit(logits, compiler_options=cpu.compiler_options(training))
        for sums, training in (("YNNPACK", True), ("XLA", False))
    }
    cases = list(itertools.product(programs, GROUPS))
    found, seconds = {}, {case: [] for case in cases}
    for _ in range(rounds + 1):  # the first compiles
        for sums, size in cases:
            parts = [images[i : i + size] for i in range(0, IMAGES, size)]
            start = time.perf_counter(), time.process_time()
            out = jax.block_until_ready([programs[sums](model.weights, part) for part in parts])
            end = time.perf_counter(), time.process_time()
            seconds[sums, size].append(np.subtract(end, start))
            found[sums, size] = np.concatenate(out)
    lines = []
    for sums, size in cases:
        clock, processor = 1000 / IMAGES * np.min(seconds[sums, size][1:], 0)
        differ = (found[sums, size] != found[sums, 1]).reshape(IMAGES, -1).any(1).sum()
        lines.append(f"{name:<12}{sums:<10}{size:>6}{clock:>10.1f}{processor:>12.1f}{differ:>10}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    print(f"{'model':<12}{'sums':<10}{'group':>6}{'ms, clock':>10}{'ms, CPU':>12}{'differ':>10}")
    for name in ("segmenter", "classifier"):
        print("\n".join(measure(name, options.rounds)), flush=True)


if __name__ == "__main__":
    main()
