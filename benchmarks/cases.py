"""The cases that the benchmarks measure, and the description of the machine they run on."""

import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

from wbc_jax.models import registry

PEAK_TFLOPS = {"H100": 989, "H200": 989, "A100": 312, "L4": 121, "V100": 125}
"""Dense bfloat16 (V100: float16) peaks by NVIDIA's data sheets."""
CLASSES = {"segmentation": 3, "classification": 5}


@dataclasses.dataclass(frozen=True, slots=True)
class Case:
    """One row of a table: a network, its width, the image side in pixels and the batch size."""

    network: str
    features: int
    size: int
    batch: int

    @property
    def task(self) -> str:
        return registry.NETWORKS[self.network].task

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
        ("efficientnet_unet", 16, 128, (4, 16)),
        ("efficientnet", 256, 128, (8, 32)),
    )
    for batch in batches
]
QUICK = [
    Case("unet", 8, 64, 4),
    Case("segnet", 8, 64, 4),
    Case("encoder_decoder", 0, 64, 4),
    Case("classifier", 4, 128, 4),
    Case("efficientnet_unet", 8, 64, 4),
    Case("efficientnet", 32, 64, 4),
]


@dataclasses.dataclass(slots=True)
class Side:
    """One side of a comparison, in its own process.

    Attributes:
        run: does the work once and waits until it is done.
        peak_bytes: returns the largest amount of memory used so far, of the accelerator or, without
            one, of the process.
        flops: floating-point operations of one run, two a multiply-add; 0 if unknown.
    """

    run: Callable[[], Any]
    peak_bytes: Callable[[], int]
    flops: int = 0


def process_peak() -> int:
    """Returns the largest resident size of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def processor_seconds() -> float:
    """Returns the processor time of this process and of those that it has started."""
    running = 0
    # First, as it waits for those that have ended, which `getrusage` then counts.
    for process in multiprocessing.active_children():
        with contextlib.suppress(OSError):  # it has ended meanwhile, or there is no /proc
            text = pathlib.Path(f"/proc/{process.pid}/stat").read_text()
            fields = text.rpartition(")")[2].split()
            running += int(fields[11]) + int(fields[12])  # user and kernel mode
    ended, ticks = resource.getrusage(resource.RUSAGE_CHILDREN), os.sysconf("SC_CLK_TCK")
    return time.process_time() + ended.ru_utime + ended.ru_stime + running / ticks


def hardware() -> dict[str, Any]:
    """Describes the machine, its load, the versions and the commit."""
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
