"""Divides the time of our training step on a CPU among its parts.

python benchmarks/profile_step.py [--only=TEXT] [--steps=5] [--out=FILE.json]

The cases are those of `train_step.py`, without the references. `step` is the median time of a step
by the clock. `weights` is the share of the weight gradients: the difference to a step in which they
are zero. The other columns are shares of the time that JAX's profiler saw, by kind of operation. It
does not see XLA's own convolutions, which run beside the call that starts them. The kind comes from
the operation's name, which XLA builds from what is fused into it.
"""

import argparse
import collections
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

import cases
import subject
from wbc_jax.cpu import convolution, huge_pages
from wbc_jax.utils import atomic

KINDS = (
    ("oneDNN", ("onednn",)),
    ("ours", ("ffi_call",)),
    ("sums", ("reduce",)),
    ("copies", ("copy", "transpose")),
    ("elements", ("",)),
)
"""oneDNN: outputs and input gradients; ours: weight gradients of `wbc_jax/cpu`; sums:
statistics, bias gradients, losses; copies: copies and transpositions, and what is fused into them;
elements: the element-wise rest."""
_THREADS = "XLAEigen"
_NOT_OPERATIONS = ("ThunkExecutor", "end: ", "call", "convolution")


def kind_of(name: str) -> str:
    """Returns the first of `KINDS` with a word that is in an operation's name."""
    return next(kind for kind, words in KINDS if any(word in name for word in words))


def seconds(run: Callable[[], object], count: int) -> float:
    """Returns the median time of a call in seconds, after two that compile and warm up."""
    times = []
    for _ in range(count + 2):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times[2:])


def without_weight_gradients(case: cases.Case, count: int) -> float:
    """Returns the seconds of a step in which the weight gradients are zero."""
    real = convolution._weight_gradient
    convolution._weight_gradient = lambda x, gradient, size, padding: jnp.zeros(
        (*size, x.shape[-1], gradient.shape[-1]), x.dtype
    )
    try:
        return seconds(subject.make(case, "train").run, count)
    finally:
        convolution._weight_gradient = real


def shares(run: Callable[[], object], count: int) -> dict[str, float]:
    """Returns each kind's share of the time that the profiler sees."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(count):
                run()
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
        found: collections.Counter[str] = collections.Counter()
        for plane in data.planes:
            for line in plane.lines:
                for event in line.events if _THREADS in line.name else ():
                    if not event.name.startswith(_NOT_OPERATIONS):
                        found[kind_of(event.name)] += event.duration_ns
    return {kind: found[kind] / sum(found.values()) for kind, _ in KINDS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--out", help="JSON file for the figures")
    options = parser.parse_args()
    if not convolution.usable():
        parser.error(
            "convolutions are XLA's own here (wbc_jax/cpu/convolution.py): nothing to compare"
        )
    kinds = [kind for kind, _ in KINDS]
    print(f"{'':26}{'step':>9}{'weights':>9}" + "".join(f"{kind:>10}" for kind in kinds))
    result = {}
    for case in cases.CASES:
        if options.only not in str(case):
            continue
        run = subject.make(case, "train").run
        step = seconds(run, options.steps)
        spent = shares(run, options.steps)
        weights = step - without_weight_gradients(case, options.steps)
        result[str(case)] = {"seconds": step, "weight_gradient_seconds": weights, "shares": spent}
        line = "".join(f"{spent[kind]:>10.0%}" for kind in kinds)
        print(f"{case!s:26}{step * 1e3:>7.0f}ms{weights / step:>9.0%}{line}", flush=True)
    if options.out:
        atomic.write_json(options.out, {"hardware": cases.hardware(), "cases": result})


if __name__ == "__main__":
    huge_pages.restart_with_huge_pages()
    main()
