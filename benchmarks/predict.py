"""Measures prediction as users see it: the first mask of a new process, and images a second.

python benchmarks/predict.py FIELDS [--model=NAME ...] [--images=32] [--rounds=3] [--out=FILE.json]
python benchmarks/predict.py FIELDS --against=CHECKOUT [--images=32] [--rounds=3] [--out=FILE.json]
python benchmarks/predict.py --crops=FOLDER [FIELDS] [--images=32] [--rounds=3] [--out=FILE.json]

FIELDS is a folder of images. The benchmark measures

- the cold start: a new process that loads the models and segments one image of one cell. Import,
  loading and the first prediction (with compilation) are timed separately, and the whole by the
  wall clock; as installed, and with JAX's cache of compiled programs switched on and filled;
- the whole path of `python -m wbc_jax.predict` on some fields, in one process that is compiled
  already: read; find, segment and type; write; and finding alone, by one thread.

It also measures processor time, which hardly depends on other work on the machine. It prints the
median of the rounds; the JSON has all of them.

With `--against`, the folder of another version (`git worktree add CHECKOUT COMMIT`), it measures
processor time alone, for use on a busy machine: both versions write the results of the first image
in a new process (`start`: import, loading, compilation) and of the others (`image`: for each),
at the same time, and the ratios of this version's times to the other's are printed.

With `--crops`, a folder of crops around one cell, it also measures the same masks and types by
PyTorch with the same networks (`crops.py` says what both do), and the whole command on the same
crops, which writes more. They are measured alternately, each in a process that is compiled already.
It prints how far the results agree, and ours / PyTorch in images a second and in processor time.
FIELDS may then be missing.
"""

import argparse
import importlib.util
import itertools
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

_COLD = """
import json, sys, time
start = time.perf_counter()
import wbc_jax
from wbc_jax.fields import analyze as fields
image = wbc_jax.read_image(sys.argv[1])
imported = time.perf_counter()
models = fields.load_models(sys.argv[2:])
loaded = time.perf_counter()
field = fields.analyze(image, models, "no")
done = time.perf_counter()
assert field.mask is not None
seconds = {"import": imported - start, "load": loaded - imported, "first": done - loaded}
print(json.dumps(seconds | {"processor": time.process_time()}))
"""


_WHOLE = """
import json, sys, tempfile, time
paths, models, folder = json.loads(sys.argv[1])
sys.path.insert(0, folder)
import wbc_jax
assert wbc_jax.__file__.startswith(folder), wbc_jax.__file__
from wbc_jax.fields import analyze as fields
from wbc_jax.report import cell_results
loaded, marks = fields.load_models(models), [0]
for some in (paths[:1], paths[1:]):
    with tempfile.TemporaryDirectory() as folder:
        cell_results.predict_files(loaded, some, folder, settings="benchmark")
    marks.append(time.process_time())
print(json.dumps({"start": marks[1], "image": (marks[2] - marks[1]) / len(some)}))
"""


def against(
    checkout: str, paths: list[str], models: list[str], rounds: int
) -> dict[str, list[dict[str, float]]]:
    """Returns the seconds of processor time of this version and of another, one row a round.

    Args:
        checkout: folder of the other version.
        paths: of the images, two or more.
        models: their names.
        rounds: how often both are measured.
    """
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    folders = {"this": here, "other": os.path.abspath(checkout)}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in folders}
    for _ in range(rounds):
        both = {
            name: subprocess.Popen(
                [sys.executable, "-c", _WHOLE, json.dumps([paths, models, folder])],
                stdout=subprocess.PIPE, text=True,
            )
            for name, folder in folders.items()
        }  # fmt: skip
        for name, process in both.items():
            output, _ = process.communicate()
            if process.returncode:
                raise RuntimeError(f"{folders[name]} ended with status {process.returncode}")
            found[name].append(json.loads(output.splitlines()[-1]))
    return found


def _print_ratios(found: dict[str, list[dict[str, float]]]) -> None:
    for key in found["this"][0]:
        this, other = ([row[key] for row in found[name]] for name in ("this", "other"))
        ratio = statistics.median(a / b for a, b in zip(this, other))
        print(
            f"{key}: {statistics.median(this):.3f} s of processor time, "
            f"the other {statistics.median(other):.3f} s, ratio {ratio:.2f}"
        )


def cold_start(image: str, models: list[str], cache: str = "") -> dict[str, float]:
    """Returns the seconds of a new process.

    They are `import`, `load`, `first` (the first prediction), `processor` (processor time), and
    `whole` (wall clock).

    Args:
        image: path of an image of one cell.
        models: their names.
        cache: folder for compiled programs; none if empty.
    """
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    if cache:
        environment |= {
            "JAX_COMPILATION_CACHE_DIR": cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _COLD, image, *models],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {**json.loads(done.stdout.splitlines()[-1]), "whole": time.perf_counter() - start}


def whole_path(paths: list[str], models: list[str], rounds: int) -> list[dict[str, float]]:
    """Returns the seconds of each step of `predict` for all paths together, one row a round.

    `whole` is the sum without `find_by_one_thread`; `processor` is the time of all processors for
    all steps.
    """
    from wbc_jax.data.images import read_with_metadata
    from wbc_jax.fields import analyze as fields
    from wbc_jax.fields import finder
    from wbc_jax.report import cell_results
    from wbc_jax.utils import outputs
    from wbc_jax.utils.output_folder import OutputFolder

    loaded = fields.load_models(models)
    found = []
    for _ in range(rounds + 1):  # the first compiles
        with tempfile.TemporaryDirectory() as folder:
            marks, busy = [time.perf_counter()], time.process_time()
            files = [read_with_metadata(path) for path in paths]
            images = [file.pixels for file in files]
            marks.append(time.perf_counter())
            for image in images:
                finder.find(image)
            marks.append(time.perf_counter())
            analyzed = [
                field
                for i in range(0, len(images), cell_results.BATCH)
                for field in fields.analyze(images[i : i + cell_results.BATCH], loaded)
            ]
            marks.append(time.perf_counter())
            with OutputFolder(folder) as out:
                written = cell_results.Results(out, loaded)
                named = zip(itertools.count(), paths, outputs.output_names(paths), files)
                written.add(list(itertools.starmap(cell_results.Input, named)), analyzed)
                written.close()
            marks.append(time.perf_counter())
        read, find, analyze, write = (b - a for a, b in itertools.pairwise(marks))
        # The analysis finds cells as well, with several threads: so the difference of the two is
        # not the time of segmenting and typing.
        found.append(
            {
                "read": read,
                "find_by_one_thread": find,
                "find_segment_and_type": analyze,
                "write": write,
                "whole": read + analyze + write,
                "processor": time.process_time() - busy,
                "cells": sum(len(field.cells) for field in analyzed),
            }
        )
    return found[1:]


_LEAST_AGREEMENT = 0.999


def beside_pytorch(folder: str, images: int, rounds: int) -> dict[str, Any]:
    """Measures crops by this package and by PyTorch, and prints the ratios.

    Args:
        folder: of the crops; `images` of them are drawn at random, always the same.
        images: number of crops.
        rounds: how often all sides are measured.

    Returns:
        `agreement`, `median` (`crops.summary`) and `rounds`.
    """
    import cases
    import crops
    import interleave
    from wbc_jax import inputs

    paths = sorted(inputs.find_images([folder]).paths)
    paths = random.Random(0).sample(paths, min(images, len(paths)))
    about = cases.hardware()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        agreement = pool.apply(crops.agreement, (paths,))
    print("agreement: " + ", ".join(f"{k} {100 * v:.3f} %" for k, v in agreement.items()))
    if min(agreement["masks"], agreement["masks_of_predict"]) <= _LEAST_AGREEMENT:
        sys.exit("error: the masks differ, so their times do not compare")
    sides = {kind: (crops.make, (kind, paths)) for kind in ("ours", "PyTorch", "predict")}
    found = interleave.rounds(sides, rounds)
    medians = crops.summary(found, len(paths))
    for name, row in medians.items():
        print(
            f"{len(paths)} crops, {name}: {row['images_per_second']:.2f} images/s, "
            f"{row['images_per_second_to_pytorch']:.2f} times PyTorch's; "
            f"{1e3 * row['processor_seconds_per_image']:.1f} ms of processor time an image, "
            f"{row['processor_time_to_pytorch']:.2f} times PyTorch's",
            flush=True,
        )
    about |= {"load_after": os.getloadavg()[0]}
    return {
        "hardware": about,
        "images": len(paths),
        "agreement": agreement,
        "median": medians,
        "rounds": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("fields", nargs="?", help="folder of images")
    parser.add_argument("--crops", help="folder of crops, for the comparison with PyTorch")
    parser.add_argument("--model", action="append", default=[], help="as in wbc_jax.predict")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", help="folder of another version, to be compared with")
    parser.add_argument("--out", help="JSON file for all figures")
    options = parser.parse_args()
    if not (options.fields or options.crops):
        parser.error("FIELDS or --crops=FOLDER is missing")
    if options.crops and importlib.util.find_spec("torch") is None:
        parser.error("--crops needs PyTorch: pip install -e '.[bench]'")
    from wbc_jax import inputs
    from wbc_jax.utils import atomic

    beside = {}
    if options.crops:
        beside = {"crops": beside_pytorch(options.crops, options.images, options.rounds)}
    if not options.fields:
        if options.out:
            atomic.write_json(options.out, beside)
        return
    paths = inputs.find_images([options.fields]).paths[: options.images]
    if options.against:
        found = against(options.against, paths, options.model, options.rounds)
        _print_ratios(found)
        if options.out:
            atomic.write_json(options.out, {"images": len(paths), "processor_seconds": found})
        return
    cold = {"no cache": [], "warm cache": []}
    with tempfile.TemporaryDirectory() as cache:
        cold_start(paths[0], options.model, cache)  # fills it
        for _ in range(options.rounds):
            for name, rows in cold.items():
                rows.append(cold_start(paths[0], options.model, cache * (name == "warm cache")))
                print(f"first mask, {name}: {_line(rows[-1])}", flush=True)
    rounds = whole_path(paths, options.model, options.rounds)
    medians = {
        "cold_start": {
            name: {key: statistics.median(row[key] for row in rows) for key in rows[0]}
            for name, rows in cold.items()
        },
        "whole_path": {key: statistics.median(row[key] for row in rounds) for key in rounds[0]},
    }
    for name, row in medians["cold_start"].items():
        print(f"median, first mask, {name}: {_line(row)}")
    path = medians["whole_path"]
    speed = len(paths) / path["whole"]
    print(f"median, {len(paths)} images, {path['cells']:.0f} cells: {_line(path)}")
    print(f"{speed:.2f} images/s, {path['cells'] / path['whole']:.2f} cells/s", flush=True)
    if options.out:
        atomic.write_json(
            options.out,
            {
                "models": options.model,
                "cpus": os.cpu_count(),
                "images": len(paths),
                "images_per_second": speed,
                "median": medians,
                "rounds": {"cold_start": cold, "whole_path": rounds},
                **beside,
            },
        )


def _line(row: dict[str, float]) -> str:
    return ", ".join(f"{key} {value:.2f} s" for key, value in row.items() if key != "cells")


if __name__ == "__main__":
    main()
