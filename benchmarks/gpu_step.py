"""Measures our training step and prediction by batch size, and how long the device waits.

python benchmarks/gpu_step.py [--network=unet] [--features=32] [--size=128] [--batches=16,64,256]
    [--steps=20] [--out=FILE.json]

Steps follow each other as in training: the host does not wait for one before it starts the next.
For each batch size it gives images a second, and the share of the device's peak that the operations
of convolutions and matrix products reach (`wbc_jax.models.describe`; training counts three times
the forward pass). A trace of JAX's profiler gives the share of the time in which the device
computes, from the first operation to the last, and the longest pause. The file is written after
each batch size. A batch that does not fit the memory ends the list.
"""

import argparse
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

import cases
import subject
from wbc_jax import cpu
from wbc_jax.parallel import sharding
from wbc_jax.training import steps
from wbc_jax.utils import atomic

_CPU_LINES = "XLAEigen"


def chains(case: cases.Case, mode: str) -> tuple[Callable[[int], None], int]:
    """Returns the function that does a number of runs in a row, and the operations of one."""
    config, model = subject.build(case)
    flops = subject.flops(model, case)
    network, weights = steps.split_network(model)
    arrays = subject.batch(case)
    if mode == "predict":
        predict = jax.jit(steps.make_logits(network), compiler_options=cpu.compiler_options())
        images = jnp.asarray(arrays["image"])

        def predictions(count: int) -> None:
            jax.block_until_ready([predict(weights, images) for _ in range(count)][-1])

        return predictions, flops
    mesh = sharding.make_mesh(case.batch)
    step = steps.make_train_step(config, network, mesh)
    state = steps.init_state(config, weights, mesh)
    placed = sharding.put_batch(arrays, mesh)

    def training(count: int) -> None:
        nonlocal state
        for _ in range(count):
            state, metrics = step(state, placed)
        jax.block_until_ready(metrics)

    return training, 3 * flops


def busy(spans: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Returns the share of the time covered by spans, and the longest pause between them.

    Args:
        spans: (start, end), in any order and overlapping.
    """
    spans = sorted(spans)
    if not spans:
        return 0.0, 0.0
    first, last = spans[0][0], spans[0][0]
    covered = pause = 0.0
    for start, end in spans:
        pause = max(pause, start - last)
        covered += max(0.0, end - max(start, last))
        last = max(last, end)
    return (covered / (last - first) if last > first else 0.0), pause


def trace(run: Callable[[int], None], count: int) -> dict[str, Any]:
    """Returns how much of the time the device computes in so many runs."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run(count)
        (path,) = pathlib.Path(folder).rglob("*.xplane.pb")
        planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
        devices = [plane for plane in planes if plane.name.startswith("/device:")]
        spans = [
            (event.start_ns, event.start_ns + event.duration_ns)
            for plane in devices or planes
            for line in plane.lines
            if ("Stream" in line.name if devices else _CPU_LINES in line.name)
            for event in line.events
        ]
    share, pause = busy(spans)
    return {
        "device_plane": bool(devices),
        "operations": len(spans),
        "busy_share": round(share, 4),
        "longest_pause_us": round(pause / 1e3, 1),
    }


def peak_tflops(kind: str) -> float | None:
    """Returns the peak of a device by its name; None if it is not known."""
    return next((peak for name, peak in cases.PEAK_TFLOPS.items() if name in kind), None)


def measure(case: cases.Case, mode: str, count: int) -> dict[str, Any]:
    """Returns one row."""
    run, flops = chains(case, mode)
    start = time.perf_counter()
    run(2)
    first = time.perf_counter() - start
    start = time.perf_counter()
    run(count)
    seconds = (time.perf_counter() - start) / count
    peak = peak_tflops(jax.devices()[0].device_kind)
    tflops = flops / seconds / 1e12
    return {
        "mode": mode,
        "case": str(case),
        "batch": case.batch,
        "seconds": seconds,
        "compile_seconds": first,
        "images_a_second": case.batch / seconds,
        "tflops": tflops,
        "mfu": None if peak is None else tflops / peak,
        "trace": trace(run, max(2, count // 2)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="unet")
    parser.add_argument("--features", type=int, default=32)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batches", default="16,64,256")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", help="write the results to this JSON file, too")
    options = parser.parse_args()
    result: dict[str, Any] = {"device": jax.devices()[0].device_kind, "rows": []}
    for mode in ("train", "predict"):
        for batch in map(int, options.batches.split(",")):
            case = cases.Case(options.network, options.features, options.size, batch)
            try:
                row = measure(case, mode, options.steps)
            except jax.errors.JaxRuntimeError as error:
                result["rows"].append({"mode": mode, "batch": batch, "error": str(error)[:200]})
                break
            result["rows"].append(row)
            mfu = "" if row["mfu"] is None else f", {100 * row['mfu']:.1f} % of the peak"
            print(
                f"{mode:8}{case!s:28}{1e3 * row['seconds']:9.2f} ms "
                f"{row['images_a_second']:10.0f} images/s{mfu}, "
                f"device busy {100 * row['trace']['busy_share']:.1f} %",
                flush=True,
            )
            if options.out:
                atomic.write_json(options.out, result)
    if options.out:
        atomic.write_json(options.out, result)


if __name__ == "__main__":
    main()
