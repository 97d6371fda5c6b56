"""Measures predict on a slide: time, peak memory, and cells found of known ones.

python benchmarks/slide.py [--side=100000] [--count=200] [--keep=DIR] [--out=FILE.json]
python benchmarks/slide.py --bccd=DIR [--keep=DIR] [--out=FILE.json]

By default the slide is a square of `--side` pixels of 0.25 um: empty glass around a drawn smear of
12 mm by 5 mm (`drawn_smear`). With `--bccd`, the folder that holds kaggle_blood_cells/, it is made
of the fields of BCCD with boxes, side by side, at one light; it states no magnification, and has no
edge and no thick part. `predict` runs in a process of its own with the shipped models; its peak
memory is what the operating system reports.

A cell that was found is a hit if its center lies in a known box; each box counts once. Precision is
of all cells found, recall of the known cells in the regions that were looked at, without those
regions in which `--count` may have stopped. `--keep` keeps the slide and the results.
"""

import argparse
import csv
import json
import math
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np
import tifffile

import drawn_smear
from wbc_jax.data import images
from wbc_jax.evaluate import detection
from wbc_jax.report import slide_regions

Box = tuple[int, int, int, int]
FIELD = (480, 640)
LIGHT = np.array((238, 232, 228), float)
"""Of BCCD's fields on the slide."""


def write_fields(path: str, truths: list[detection.Truth], across: int = 26) -> list[Box]:
    """Writes fields side by side as a slide with a pyramid; returns the boxes of their cells."""
    height, width = FIELD
    down = math.ceil(len(truths) / across)
    canvas = np.full((down * height, across * width, 3), LIGHT, np.uint8)
    boxes = []
    for number, truth in enumerate(truths):
        y, x = number // across * height, number % across * width
        image = images.read_image(truth.path)[:height, :width]
        light = np.percentile(image.reshape(-1, 3), 95, axis=0)
        part = np.clip(image * (LIGHT / light), 0, 255)
        canvas[y : y + part.shape[0], x : x + part.shape[1]] = part
        boxes += [(box[0] + y, box[1] + x, box[2] + y, box[3] + x) for box in truth.boxes]
    with tifffile.TiffWriter(path) as tif:
        for factor in (1, 4, 16):
            level = cv2.resize(
                canvas, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA
            )
            tif.write(
                level, photometric="rgb", tile=(256, 256), compression="jpeg",
                compressionargs={"level": 90}, subfiletype=int(factor > 1), metadata=None,
            )  # fmt: skip
    return boxes


def looked_at(path: str, number: int) -> list[Box]:
    """Returns the first `number` regions that `predict` looks at, without their margins."""
    run, found = slide_regions.SlideRun(path, "slide"), []
    run.open()
    for region in run.order:
        if len(found) == number:
            break
        if run.read(region) is not None:
            found.append(region.core)
    return found


def score(known: list[Box], found: list[Box], regions: list[Box]) -> dict[str, float | int]:
    """Returns counts, precision and recall.

    Args:
        known: boxes of all cells of the slide.
        found: boxes of those that were found.
        regions: where each known cell should have been found.
    """
    middle = [((t + b) / 2, (left + r) / 2) for t, left, b, r in known]
    wanted = [
        box
        for box, (y, x) in zip(known, middle)
        if any(t <= y < b and left <= x < r for t, left, b, r in regions)
    ]
    hits = detection.count_hits(detection.center_inside(known, found))
    hits_wanted = detection.count_hits(detection.center_inside(wanted, found))
    return {
        "found": len(found),
        "of_these_known": hits,
        "precision": hits / max(1, len(found)),
        "known_in_regions": len(wanted),
        "of_these_found": hits_wanted,
        "recall": hits_wanted / max(1, len(wanted)),
    }


def measure(slide: pathlib.Path, out: pathlib.Path, count: int | None) -> dict[str, float | int]:
    """Runs `predict` on a slide; returns time and memory of its process, and what it looked at."""
    command = [sys.executable, "-m", "wbc_jax.predict", str(slide), f"--out={out}"]
    start = time.perf_counter()
    subprocess.run([*command, *([f"--count={count}"] if count else [])], check=True)
    seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    with open(out / "slides.csv", newline="") as file:
        about = next(csv.DictReader(file))
    area = float(about["looked_at_mm2"])
    processor = used.ru_utime + used.ru_stime
    return {
        "seconds": seconds,
        "processor_seconds": processor,
        "processor_seconds_per_mm2": processor / area,
        "peak_mib": used.ru_maxrss / 1024,
        "width_px": int(about["width"]),
        "height_px": int(about["height"]),
        "um_per_px": float(about["um_per_px"]),
        "looked_at_mm2": area,
        "regions_looked_at": int(about["looked_at"]),
        "slide_mb": slide.stat().st_size / 1e6,
    }


def main() -> None:
    """The command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=100_000, help="of the drawn slide in pixels")
    parser.add_argument("--count", type=int, help="leukocytes to find; 200 of a drawn slide")
    parser.add_argument("--bccd", help="folder with kaggle_blood_cells/: a slide of its fields")
    parser.add_argument("--keep", help="folder for the slide and the results")
    parser.add_argument("--out", help="JSON file for the result")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(given.keep or folder)
        folder.mkdir(parents=True, exist_ok=True)
        if given.bccd:
            slide, count = folder / "bccd.tif", given.count
            truths = detection.read_truth("kaggle_blood_cells", given.bccd)
            known = write_fields(str(slide), truths)
        else:
            slide, count = folder / "smear.svs", given.count or 200
            smear = drawn_smear.Smear(given.side)
            smear.write(str(slide))
            known = smear.boxes
        result = measure(slide, folder / "results", count)
        with open(folder / "results" / "cells.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["cell"]]
        # The last batch of regions may have been left before all its cells were taken.
        number = result["regions_looked_at"] - (slide_regions.BATCH if count else 0)
        regions = looked_at(str(slide), number)
    sides = ("top", "left", "bottom", "right")
    found = [tuple(int(row[side]) for side in sides) for row in rows]
    result |= {"wanted": count, **score(known, found, regions), "cpus": os.cpu_count()}
    print(json.dumps(result, indent=2))
    if given.out:
        pathlib.Path(given.out).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
