"""Where our training step's time goes on a CPU, by kind of operation.

python benchmarks/profile_step.py [--only=TEXT] [--steps=5] [--out=FILE.json]

The cases of `train_step.py`, ours alone, by JAX's profiler: what each operation of the compiled
program kept the threads busy for, all threads together, a step. An operation's kind is read off its
name, which XLA makes of what is fused into it.
"""

import argparse
import collections
import pathlib
import tempfile

import jax
import ours
import sidebyside

from wbc_jax import files, memory

KINDS = (
    ("oneDNN: outputs and input gradients", ("onednn",)),
    ("XLA convolutions: kernel gradients", ("convolution",)),
    ("matrix products", ("dot",)),
    ("sums: statistics, bias gradients, losses", ("reduce",)),
    ("copies and transpositions, with what is fused into them", ("copy", "transpose")),
    ("element by element", ("",)),
)
_THREADS = "XLAEigen"
_NOT_OPERATIONS = ("ThunkExecutor", "end: ", "call")


def kind_of(name: str) -> str:
    """Returns the first of `KINDS` that an operation's name speaks of."""
    return next(kind for kind, words in KINDS if any(word in name for word in words))


def measure(case: sidebyside.Case, count: int) -> dict[str, float]:
    """Returns milliseconds of processor time a step, by kind, the largest first."""
    side = ours.make(case, "train")
    for _ in range(2):
        side.run()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(count):
                side.run()
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
        found: collections.Counter[str] = collections.Counter()
        for plane in data.planes:
            for line in plane.lines:
                for event in line.events if _THREADS in line.name else ():
                    if not event.name.startswith(_NOT_OPERATIONS):
                        found[kind_of(event.name)] += event.duration_ns
    return {kind: spent / 1e6 / count for kind, spent in found.most_common()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--out", help="JSON file for the figures")
    options = parser.parse_args()
    result = {}
    for case in sidebyside.CASES:
        if options.only not in str(case):
            continue
        result[str(case)] = found = measure(case, options.steps)
        total = sum(found.values())
        print(f"{case}: {total:.1f} ms of all threads a step")
        for kind, spent in found.items():
            print(f"  {spent:9.1f} ms  {spent / total:6.1%}  {kind}", flush=True)
    if options.out:
        files.write_json(options.out, result)


if __name__ == "__main__":
    memory.restart_with_huge_pages()
    main()
