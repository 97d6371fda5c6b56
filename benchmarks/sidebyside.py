"""What `train_step.py` and `inference.py` share: the cases, both sides, the turns they take.

Each side runs in its own process, so that threads, memory and its peak are its own; the parent lets
them take turns, a round each. A side is a `Side` that `make(case, mode)` builds in the child.
"""

import argparse
import dataclasses
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

CLASSES = {"segmentation": 3, "classification": 5}
CHECK_TOLERANCE = 1e-3
PEAK_TFLOPS = {"H100": 989, "H200": 989, "A100": 312, "L4": 121, "V100": 125}
"""Dense bfloat16 (V100: float16) peaks by NVIDIA's data sheets."""


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One row: a network, its size and the batch."""

    network: str
    features: int
    size: int
    batch: int

    @property
    def task(self) -> str:
        return "classification" if self.network == "classifier" else "segmentation"

    def __str__(self) -> str:
        width = f" {self.features}" if self.features else ""
        return f"{self.network}{width}, {self.batch} × {self.size}²"


CASES = [
    Case(network, features, size, batch)
    for network, features, size, batches in (
        ("unet", 16, 128, (4, 16)),
        ("unet", 32, 128, (4, 16)),
        ("unet", 64, 128, (2, 8)),
        ("segnet", 64, 128, (2, 8)),
        ("segnet", 16, 128, (4, 16)),
        ("encoder_decoder", 0, 128, (4, 16)),
        ("classifier", 16, 180, (8, 32)),
    )
    for batch in batches
]
QUICK = [
    Case("unet", 8, 64, 4),
    Case("segnet", 8, 64, 4),
    Case("encoder_decoder", 0, 64, 4),
    Case("classifier", 4, 128, 4),
]


@dataclasses.dataclass(slots=True)
class Side:
    """One side of a comparison, in its process.

    Attributes:
        run: does the work once and waits for it.
        peak_bytes: largest amount of memory so far, of the accelerator or, without one, of the
            process.
        flops: floating-point operations of one run, two a multiply-add; 0 if not known.
    """

    run: Callable[[], Any]
    peak_bytes: Callable[[], int]
    flops: int = 0


def process_peak() -> int:
    """The largest resident size of this process so far, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _child(pipe: Any, make: Callable[..., Side], arguments: tuple) -> None:
    side = make(*arguments)
    side.run()
    start = time.perf_counter()
    side.run()
    # Long enough that the first steps of a turn, for which threads must wake, weigh little.
    runs = max(1, int(1.5 / (time.perf_counter() - start)))
    pipe.send(side.flops)
    while pipe.recv():
        clock, processor = time.perf_counter(), time.process_time()
        for _ in range(runs):
            side.run()
        clock, processor = time.perf_counter() - clock, time.process_time() - processor
        pipe.send((clock / runs, processor / runs))
    pipe.send(side.peak_bytes())


def turns(sides: dict[str, tuple[Callable[..., Side], tuple]], rounds: int) -> dict[str, Any]:
    """Lets the sides take turns.

    Args:
        sides: by name, what makes a side in its process and the arguments of that.
        rounds: turns of each.

    Returns:
        By name: `seconds` and `processor_seconds` a run (lists, one a round), `peak_bytes`,
        `flops`.
    """
    context = multiprocessing.get_context("spawn")
    pipes, children, found = {}, [], {}
    for name, (make, arguments) in sides.items():
        pipes[name], theirs = context.Pipe()
        child = context.Process(target=_child, args=(theirs, make, arguments), daemon=True)
        child.start()
        theirs.close()  # so that a child that dies is an EOFError here
        children.append(child)
        found[name] = {"seconds": [], "processor_seconds": [], "flops": pipes[name].recv()}
    for _ in range(rounds):
        for name, pipe in pipes.items():
            pipe.send(True)
            clock, processor = pipe.recv()
            found[name]["seconds"].append(clock)
            found[name]["processor_seconds"].append(processor)
    for name, pipe in pipes.items():
        pipe.send(False)
        found[name]["peak_bytes"] = pipe.recv()
    for child in children:
        child.join()
    return found


def row(case: Case, found: dict[str, Any], images: int) -> dict[str, Any]:
    """Medians, and ours / theirs round by round, where theirs is the fastest of the peers."""
    medians = {name: statistics.median(side["seconds"]) for name, side in found.items()}
    best = min((name for name in found if name != "ours"), key=medians.__getitem__)

    def ratio(what: str) -> float:
        pairs = zip(found["ours"][what], found[best][what])
        return round(statistics.median(mine / theirs for mine, theirs in pairs), 3)

    peaks = {name: round(side["peak_bytes"] / 2**20) for name, side in found.items()}
    return {
        "case": str(case),
        **dataclasses.asdict(case),
        "seconds": {name: round(value, 5) for name, value in medians.items()},
        "processor_seconds": {
            name: round(statistics.median(side["processor_seconds"]), 5)
            for name, side in found.items()
        },
        "images_a_second": {name: round(images / value, 1) for name, value in medians.items()},
        "peak_mib": peaks,
        "peer": best,
        "ratio": ratio("seconds"),
        "processor_ratio": ratio("processor_seconds"),
        "gflops": round(found["ours"]["flops"] / 1e9, 3),
    }


def hardware() -> dict[str, Any]:
    """What it ran on and with."""
    names = "jax", "jaxlib", "flax", "optax", "torch", "numpy"
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "processor": _processor(),
        "processors": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in names},
        "commit": commit.stdout.strip(),
        "glibc_tunables": os.environ.get("GLIBC_TUNABLES", ""),
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(x.partition(":")[2].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def arguments(description: str) -> argparse.Namespace:
    """The flags of both benchmarks."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="small cases, to see that it runs")
    parser.add_argument("--only", default="", help="cases whose text contains this")
    parser.add_argument("--out", help="write the results to this JSON file, too")
    return parser.parse_args()


def main(description: str, mode: str, check: Callable[[Case], float]) -> None:
    """Runs all cases of a benchmark and prints a table and JSON.

    Args:
        description: of the command.
        mode: `train` or `predict`.
        check: case → largest relative difference between the results of both sides.
    """
    import ours  # both import this module
    import peers

    from wbc_jax.utils import atomic

    options = arguments(description)
    cases = [c for c in (QUICK if options.quick else CASES) if options.only in str(c)]
    about = hardware()
    rows = []
    context = multiprocessing.get_context("spawn")
    print(f"{'':34}{'ours':>10}{'PyTorch':>10}{'ratio':>8}{'CPU time':>10}   peak MiB")
    for case in cases:
        with context.Pool(1) as pool:  # its memory and threads go with it
            difference = pool.apply(check, (case,))
        if not difference < CHECK_TOLERANCE:
            sys.exit(f"error: {case}: the two sides differ by {difference:.2g} (relative)")
        batch = ours.batch(case)
        theirs = {kind: (peers.make, (case, mode, kind, batch)) for kind in peers.kinds()}
        found = turns({"ours": (ours.make, (case, mode)), **theirs}, options.rounds)
        rows.append({**row(case, found, case.batch), "checked_difference": float(difference)})
        last = rows[-1]
        print(
            f"{case!s:34}{1e3 * last['seconds']['ours']:8.1f}ms"
            f"{1e3 * last['seconds'][last['peer']]:8.1f}ms{last['ratio']:8.2f}"
            f"{last['processor_ratio']:10.2f}   {last['peak_mib']['ours']} / "
            f"{last['peak_mib'][last['peer']]}",
            *_utilisation(last),
            flush=True,
        )
    result = {"mode": mode, "rounds": options.rounds, "hardware": about, "rows": rows}
    print(json.dumps(result))
    if options.out:
        atomic.write_json(options.out, result)


def _utilisation(last: dict[str, Any]) -> list[str]:
    """Model FLOP utilisation of ours, where there is a GPU whose peak is known."""
    import torch

    if not torch.cuda.is_available():
        return []
    name = torch.cuda.get_device_name()
    peak = next((value for key, value in PEAK_TFLOPS.items() if key in name), None)
    if peak is None:
        return [f"(no peak known of {name})"]
    last["mfu"] = round(last["gflops"] / last["seconds"]["ours"] / 1e3 / peak, 4)
    return [f"MFU {100 * last['mfu']:.1f} % of {peak} TFLOP/s"]
