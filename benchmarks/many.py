"""Predicts a long list by tasks of which some are killed, and collects the parts.

python benchmarks/many.py [--images=20000] [--tasks=4] [--kills=3] [--rows=N] [--out=FILE.json]

It draws tiny images, some of them damaged, and starts the tasks that share their list, two at a
time, as a SLURM array or an indexed Job of Kubernetes would. When a quarter, a half and three
quarters of the parts are there, it kills a task (SIGKILL) and queues it again. The networks are
fakes that read the masks and types from the colors, so that only this package's own work is
measured and every result is known. It checks that

- no part is written twice, and no more images are predicted twice than killed tasks had in hand;
- parts have the bytes that an undisturbed task writes (two are compared);
- `--collect` finds every image once, each type as often as it was drawn, and the damaged files.

With `--rows`, it also collects so many rows of parts that it writes directly, as of a list of a
million images, and measures time and peak memory.
"""

import argparse
import collections
import json
import multiprocessing
import os
import pathlib
import resource
import signal
import tempfile
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wbc_jax.config import Config
from wbc_jax.data.images import encode_png
from wbc_jax.fields import contrast
from wbc_jax.inference import model as inference
from wbc_jax.inference import path_lists, shard_files, shard_rows, shards
from wbc_jax.labels import CELL_TYPES
from wbc_jax.report import collected
from wbc_jax.utils import atomic

SIDE, AT_A_TIME, BAD_EVERY = 24, 2, 997
_TYPE_LEVEL, _TYPE_STEP = 190, 8
_SETTINGS = {"batch_size": 32, "threads": 1}
_PROCESSES = multiprocessing.get_context("forkserver")


class Fake(inference.Model):
    """A network that thresholds dark pixels, or reads a type from the color of a corner.

    It counts the images that it predicts in a file, which outlives its process.
    """

    def __init__(self, task: str, counted: str = ""):
        config = Config()
        config.task = task
        config.data.image_size = SIDE
        self.config, self.weights, self.step, self._counted = config, {}, 0, counted

    def with_middle_cell(self, middle_cell: bool) -> "Fake":
        self.config.evaluate.middle_cell = middle_cell
        return self

    def spread(self) -> int:
        return 1

    def start(self, images: np.ndarray) -> Any:
        if self._counted:
            file = os.open(self._counted, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(file, f"{len(images)}\n".encode())
            os.close(file)
        if self.config.task == "classification":
            levels = images[:, 0, 0, 0].astype(int) - _TYPE_LEVEL
            found = np.eye(len(CELL_TYPES), dtype=np.float32)[levels // _TYPE_STEP]
        else:
            found = np.eye(3, dtype=np.float32)[np.digitize(images[..., 1], [170, 90])]
        return lambda: (4 * found, None)


def draw(folder: pathlib.Path, count: int) -> tuple[list[int], int]:
    """Writes images of one cell, and `list.txt`; returns the numbers of each type and of bad files.

    All images of a type are one; the files differ in their names alone.
    """
    y, x = np.mgrid[:SIDE, :SIDE]
    away = np.hypot(y - 13, x - 14)
    pictures = []
    for kind in range(len(CELL_TYPES)):
        image = np.full((SIDE, SIDE, 3), _TYPE_LEVEL + _TYPE_STEP * kind, np.uint8)
        image[away < 8] = (160, 120, 170)
        image[away < 5] = (90, 70, 140)
        pictures.append(encode_png(image))
    rng = np.random.default_rng(0)
    kinds = rng.choice(len(CELL_TYPES), count, p=[0.6, 0.25, 0.1, 0.04, 0.01])
    names = []
    for i, kind in enumerate(kinds):
        path = folder / f"{i // 1000:03}" / f"{i:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pictures[kind] if i % BAD_EVERY else b"\x89PNG damaged")
        names.append(str(path))
    path_lists.write_listing(names, folder / "list.txt")
    good = kinds[np.arange(count) % BAD_EVERY > 0]
    return np.bincount(good, minlength=len(CELL_TYPES)).tolist(), count - len(good)


def task(
    folder: pathlib.Path, out: pathlib.Path, place: tuple[int, int], part_size: int, count: bool
) -> None:
    """Predicts the share of one process."""
    settings = shards.Settings(part_size=part_size, **_SETTINGS)
    listing = path_lists.read_listing(folder / "list.txt", part_size)
    models = [
        Fake("segmentation", str(folder / "counted") * count),
        Fake("classification"),
    ]
    typing = shard_rows.Typing(models[1])
    shards.predict(models[0], listing, out, place, settings, contrast.judge, typing)


def run_tasks(
    folder: pathlib.Path, out: pathlib.Path, tasks: int, kills: int, part_size: int, parts: int
) -> dict[str, Any]:
    """Runs all tasks and kills some; returns what was seen."""
    waiting, running, killed, there = list(range(tasks)), {}, [], {}
    moments = [parts * (k + 1) // (kills + 1) for k in range(kills)]
    start = time.perf_counter()
    while waiting or running:
        while waiting and len(running) < AT_A_TIME:
            index = waiting.pop(0)
            given = (folder, out, (index, tasks), part_size, True)
            running[index] = _PROCESSES.Process(target=task, args=given)
            running[index].start()
        time.sleep(0.02)
        for index, process in list(running.items()):
            if process.exitcode is not None:
                del running[index]
                if process.exitcode:
                    raise SystemExit(f"error: task {index} ended with {process.exitcode}")
        done = _states(out)
        if running and len(killed) < kills and len(done) >= moments[len(killed)]:
            index = sorted(running)[len(killed) % len(running)]
            running[index].kill()
            running[index].join()
            if running.pop(index).exitcode == -signal.SIGKILL:
                waiting.append(index)
                killed.append({"task": index, "parts_there": len(done)})
                there |= _states(out)
    after = _states(out)
    rewritten = [name for name, state in there.items() if after[name] != state]
    counted = sum(map(int, (folder / "counted").read_text().split()))
    return {
        "seconds": time.perf_counter() - start,
        "killed": killed,
        "parts": len(after),
        "parts_written_twice": len(rewritten),
        "images_predicted": counted,
    }


def _states(out: pathlib.Path) -> dict[str, tuple[int, int]]:
    found = ((path.name, path.stat()) for path in out.glob("parts/part-*.parquet"))
    return {name: (state.st_ino, state.st_mtime_ns) for name, state in found}


def _collect(pipe: Any, folder: str) -> None:
    start, busy = time.perf_counter(), time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    summary = collected.collect(folder)
    pipe.send(
        {
            "images": summary.images,
            "cells": summary.cells,
            "bad": summary.bad,
            "seconds": time.perf_counter() - start,
            "processor_seconds": time.process_time() - busy,
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "peak_mib_before": before / 1024,
        }
    )


def collect(out: pathlib.Path) -> dict[str, Any]:
    """Collects in a process of its own; returns numbers, seconds and peak memory."""
    mine, theirs = _PROCESSES.Pipe()
    process = _PROCESSES.Process(target=_collect, args=(theirs, str(out)))
    process.start()
    theirs.close()
    found = mine.recv()
    process.join()
    return found


def write_rows(out: pathlib.Path, rows: int, part_size: int) -> None:
    """Writes parts with so many rows as `predict` would, without predicting anything."""
    shard_files.claim(
        out,
        {
            "model.task": "segmentation", "classifier.task": "classification", "masks": False,
            "list.paths": rows, "part_size": part_size, "format": shard_files.FORMAT,
        },
    )  # fmt: skip
    rng = np.random.default_rng(0)
    (out / shard_files.FOLDER).mkdir()
    for start in range(0, rows, part_size):
        index = np.arange(start, min(start + part_size, rows))
        nucleus, cytoplasm = rng.integers(500, 5000, (2, len(index)))
        columns = {
            "index": index,
            "file": [f"/images/of/cells/{i:07}.png" for i in index],
            "width": np.full(len(index), 360), "height": np.full(len(index), 360),
            "type": rng.choice(CELL_TYPES, len(index)),
            "probability": rng.random(len(index)),
            "nucleus_px": nucleus, "cytoplasm_px": cytoplasm,
            "nc_ratio": nucleus / cytoplasm, "nucleus_share": nucleus / (nucleus + cytoplasm),
            "flag": [""] * len(index),
        }  # fmt: skip
        arrays = [
            pa.array(columns[field.name], field.type)
            if field.name in columns
            else pa.nulls(len(index), field.type)
            for field in shard_files.SCHEMA
        ]
        table = pa.Table.from_arrays(arrays, schema=shard_files.SCHEMA)
        pq.write_table(table, shard_files.part_path(out, start // part_size), compression="zstd")


def simulate(folder: pathlib.Path, options: argparse.Namespace) -> dict[str, Any]:
    """Draws, predicts with kills, checks and collects; returns all figures."""
    types, bad = draw(folder, options.images)
    out, size = folder / "out", options.part_size
    parts = -(-options.images // size)
    found = run_tasks(folder, out, options.tasks, options.kills, size, parts)
    print(f"predicted: {found}", flush=True)
    good = options.images - bad
    # A killed task had the images of one part, and those read and computed ahead, in hand.
    most = good + len(found["killed"]) * (size + 4 * _SETTINGS["batch_size"])
    assert found["parts"] == parts and found["parts_written_twice"] == 0, found
    assert good <= found["images_predicted"] <= most, (good, most, found)
    for shard in {0, parts // 2}:
        task(folder, folder / "calm", (shard, parts), size, False)
        one, other = (shard_files.part_path(place, shard) for place in (out, folder / "calm"))
        assert one.read_bytes() == other.read_bytes(), one
    found["collect"] = collect(out)
    print(f"collected: {found['collect']}", flush=True)
    cells = pq.read_table(out / "cells.parquet", columns=["file", "type", "nucleus_px"])
    assert found["collect"]["bad"] == bad and found["collect"]["cells"] == good
    assert len(set(cells["file"].to_pylist())) == len(cells) == good
    counted = collections.Counter(cells["type"].to_pylist())
    assert [counted.get(name, 0) for name in CELL_TYPES] == types, (counted, types)
    assert len(set(cells["nucleus_px"].to_pylist())) == 1
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--tasks", type=int, default=4)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--part_size", type=int, default=256)
    parser.add_argument("--rows", type=int, default=0, help="collect so many rows, too")
    parser.add_argument("--out", help="JSON file for all figures")
    options = parser.parse_args()
    _PROCESSES.set_forkserver_preload(["wbc_jax.report.collected", "wbc_jax.fields.contrast"])
    result: dict[str, Any] = {"options": vars(options), "cpus": os.cpu_count()}
    with tempfile.TemporaryDirectory(prefix="wbc_jax_many_") as name:
        folder = pathlib.Path(name)
        result["simulated"] = simulate(folder, options)
        if options.rows:
            write_rows(folder / "rows", options.rows, 1024)
            result["rows"] = collect(folder / "rows")
            print(f"rows alone: {result['rows']}", flush=True)
    result["load_after"] = os.getloadavg()
    if options.out:
        atomic.write_json(options.out, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
