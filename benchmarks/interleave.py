"""Compares this package (the subject) with other libraries (the references), round by round.

`train_step.py` and `inference.py` run it. Each side has its own process, so that threads, memory
and peak memory are its own. The sides are measured alternately: other work on the machine then
disturbs all of them alike.
"""

import argparse
import contextlib
import dataclasses
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import cases
import references
import subject
from wbc_jax.utils import atomic

CHECK_TOLERANCE = 1e-3


def _child(pipe: Any, make: Callable[..., cases.Side], arguments: tuple) -> None:
    side = make(*arguments)
    side.run()
    start = time.perf_counter()
    side.run()
    # A round is long enough that its first steps, for which threads must wake, weigh little.
    runs = max(1, int(1.5 / (time.perf_counter() - start)))
    with contextlib.suppress(EOFError, BrokenPipeError):  # the parent has ended
        pipe.send(side.flops)
        while pipe.recv():
            clock, processor = time.perf_counter(), cases.processor_seconds()
            for _ in range(runs):
                side.run()
            clock, processor = time.perf_counter() - clock, cases.processor_seconds() - processor
            pipe.send((clock / runs, processor / runs))
        pipe.send(side.peak_bytes())


def rounds(sides: dict[str, tuple[Callable[..., cases.Side], tuple]], count: int) -> dict[str, Any]:
    """Measures the sides alternately.

    Args:
        sides: by name, the function that makes a side in its process, and its arguments.
        count: rounds, in each of which every side is measured once.

    Returns:
        By name, without references that failed (PyTorch's compiler may): `seconds` and
        `processor_seconds` of one run (lists, one entry a round),
        `peak_bytes`, `flops`.
    """
    context = multiprocessing.get_context("spawn")
    pipes, found = {}, {}
    # Closed pipes end the children, whatever happens here. They are no daemons, as these may not
    # start the workers of a DataLoader.
    with contextlib.ExitStack() as closing:
        for name, (make, arguments) in sides.items():
            pipes[name], end = context.Pipe()
            closing.callback(pipes[name].close)
            context.Process(target=_child, args=(end, make, arguments)).start()
            end.close()  # so that a child that dies is an EOFError here
            try:
                found[name] = {"seconds": [], "processor_seconds": [], "flops": pipes[name].recv()}
            except EOFError:
                if name == "ours":
                    raise
                print(f"note: {name} failed, and is left out", file=sys.stderr, flush=True)
                del pipes[name]
        for _ in range(count):
            for name, pipe in pipes.items():
                pipe.send(True)
                clock, processor = pipe.recv()
                found[name]["seconds"].append(clock)
                found[name]["processor_seconds"].append(processor)
        for name, pipe in pipes.items():
            pipe.send(False)
            found[name]["peak_bytes"] = pipe.recv()
    return found


def row(case: cases.Case, found: dict[str, Any], images: int) -> dict[str, Any]:
    """Summarizes one case: medians, and the median of ours / reference over the rounds.

    The reference is the fastest of the references.
    """
    medians = {name: statistics.median(side["seconds"]) for name, side in found.items()}
    best = min((name for name in found if name != "ours"), key=medians.__getitem__)

    def ratio(key: str) -> float:
        pairs = zip(found["ours"][key], found[best][key])
        return round(statistics.median(ours / reference for ours, reference in pairs), 3)

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
        "reference": best,
        "ratio": ratio("seconds"),
        "processor_ratio": ratio("processor_seconds"),
        "gflops": round(found["ours"]["flops"] / 1e9, 3),
    }


def arguments(description: str) -> argparse.Namespace:
    """Parses the flags of both benchmarks."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="small cases, to see that it runs")
    parser.add_argument("--only", default="", help="cases whose text contains this")
    parser.add_argument("--out", help="write the results to this JSON file, too")
    return parser.parse_args()


def main(description: str, mode: str, check: Callable[[cases.Case], float]) -> None:
    """Runs all cases of a benchmark and prints a table and JSON.

    Args:
        description: of the command.
        mode: `train` or `predict`.
        check: case → largest relative difference between the results of both sides.
    """
    options = arguments(description)
    chosen = cases.QUICK if options.quick else cases.CASES
    about = cases.hardware()
    rows = []
    context = multiprocessing.get_context("spawn")
    kinds = references.kinds()
    print(header(kinds))
    for case in chosen:
        if options.only not in str(case):
            continue
        with context.Pool(1) as pool:  # a process of its own, whose memory is freed with it
            difference = pool.apply(check, (case,))
        if not difference < CHECK_TOLERANCE:
            sys.exit(f"error: {case}: the two sides differ by {difference:.2g} (relative)")
        batch = subject.batch(case)
        sides = {"ours": (subject.make, (case, mode))}
        for kind in kinds:
            sides[kind] = (references.make, (case, mode, kind, batch))
        found = rounds(sides, options.rounds)
        rows.append({**row(case, found, case.batch), "checked_difference": float(difference)})
        print(line(rows[-1], kinds), *_utilization(rows[-1]), flush=True)
        result = {"mode": mode, "rounds": options.rounds, "hardware": about, "rows": rows}
        if options.out:  # after each case, as all of them take long
            atomic.write_json(options.out, result)
    if not rows:
        sys.exit(f"error: no case has {options.only!r} in its text")
    print(json.dumps(result))


def header(kinds: list[str]) -> str:
    """Returns the head of the table."""
    columns = "".join(f"{name.replace('PyTorch ', ''):>11}" for name in ("ours", *kinds))
    return f"{'':34}{columns}{'ratio':>8}{'CPU time':>10}   peak MiB"


def line(row: dict[str, Any], kinds: list[str]) -> str:
    """Returns a case's line of the table; the ratios are those to the fastest reference."""
    seconds, peaks = row["seconds"], row["peak_mib"]
    names = ["ours", *kinds]
    times = "".join(f"{1e3 * seconds[n]:9.1f}ms" if n in seconds else f"{'–':>11}" for n in names)
    return (
        f"{row['case']:34}{times}{row['ratio']:8.2f}{row['processor_ratio']:10.2f}   "
        + " / ".join(str(peaks.get(name, "–")) for name in names)
    )


def _utilization(last: dict[str, Any]) -> list[str]:
    """Returns our model FLOP utilization as text, where there is a GPU whose peak is known."""
    if not torch.cuda.is_available():
        return []
    name = torch.cuda.get_device_name()
    peak = next((value for key, value in cases.PEAK_TFLOPS.items() if key in name), None)
    if peak is None:
        return [f"(no peak known of {name})"]
    last["mfu"] = round(last["gflops"] / last["seconds"]["ours"] / 1e3 / peak, 4)
    return [f"MFU {100 * last['mfu']:.1f} % of {peak} TFLOP/s"]
