"""Measures the input pipeline, and PyTorch's DataLoader on the same files.

python benchmarks/input_pipeline.py --manual_dir=../shared/data

All of them decode each JPEG of `pbc` in full, shrink it to 256 × 256 pixels by averaging areas, and
put 32 of them in random order into one uint8 batch, with the same number of workers:

- here: records in ArrayRecord, OpenCV's decoder, two sparse products to resize, threads;
- `DataLoader, Pillow`: the usual code of a PyTorch project, whose bilinear filter averages as well;
- `DataLoader, OpenCV`: the same decoder and the same pixels as here, in a PyTorch data set.

They are measured alternately; a ratio is the median over the rounds. Workers are started and all
files read once beforehand, and time counts from the first batch on. The processor time of an image,
including that of workers, is measured as well: it hardly depends on other work on the machine.

The benchmark also measures the second epoch, from the cache of decoded images, and the share of a
training step of paper B's classifier (180 × 180 pixels, batch 32) that waits for data, from files
and from the cache.

It prints a line a round, and one JSON object at the end.
"""

import argparse
import collections
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator

import cv2
import numpy as np
import torch
from PIL import Image

import cases
from wbc_jax import config_checks, models
from wbc_jax.config import Augment, Config, Data, Loss, Model, Train
from wbc_jax.data import pipeline, preparing, sources
from wbc_jax.labels import CELL_TYPES
from wbc_jax.parallel import sharding
from wbc_jax.training import steps

cv2.setNumThreads(0)  # so that all have as many threads as workers


class Files(torch.utils.data.Dataset):
    """Image files as uint8 `[size, size, 3]` and their class."""

    def __init__(self, files: list[tuple[str, int]], size: int, decoder: str):
        self._files, self._size, self._decoder = files, size, decoder

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        file, label = self._files[index]
        side = (self._size, self._size)
        if self._decoder == "Pillow":
            image = Image.open(file).convert("RGB").resize(side, Image.Resampling.BILINEAR)
            return np.array(image), label
        image = cv2.cvtColor(cv2.imread(file), cv2.COLOR_BGR2RGB)
        return cv2.resize(image, side, interpolation=cv2.INTER_AREA), label


def loader(
    files: list[tuple[str, int]], decoder: str, options: argparse.Namespace
) -> torch.utils.data.DataLoader:
    """Returns PyTorch's batches. Workers are processes: it has no threads for Python code."""
    made = torch.utils.data.DataLoader(
        Files(files, options.size, decoder),
        batch_size=options.batch,
        shuffle=True,
        drop_last=True,
        num_workers=options.workers,
        persistent_workers=True,
    )
    collections.deque(made, maxlen=0)  # starts its workers and reads the files into memory
    return made


def measure(batches: Iterable, batch: int) -> tuple[float, float]:
    """Reads all batches and checks each.

    Returns:
        Images a second, from the first batch on, and milliseconds of processor time an image.
    """
    busy, batches = cases.processor_seconds(), iter(batches)
    next(batches)
    start, count = time.perf_counter(), 0
    for item in batches:
        image = item["image"] if isinstance(item, dict) else item[0].numpy()
        assert image.shape[0] == batch and image.dtype == np.uint8
        count += batch
    rate = count / (time.perf_counter() - start)
    return rate, 1000 * (cases.processor_seconds() - busy) / (count + batch)


def subject(examples: pipeline.Examples, options: argparse.Namespace, epochs: int = 1) -> Iterator:
    """Returns this package's batches of some epochs."""
    count = epochs * (len(examples) // options.batch)
    dataset = pipeline.train_dataset(examples, options.batch, count, seed=0)
    return pipeline.train_batches(dataset, 0, options.workers)


def second_epoch(examples: pipeline.Examples, options: argparse.Namespace) -> float:
    """Returns the images a second when all of them are in the cache."""
    for index in range(len(examples)):
        examples[index]
    batches = subject(examples, options, epochs=3)
    try:
        return measure(batches, options.batch)[0]
    finally:
        batches.close()


def waiting_share(
    examples: pipeline.Examples, batch_size: int, count: int, threads: int
) -> tuple[float, float]:
    """Trains paper B's classifier as `wbc_jax.training.loop` does.

    Returns:
        The share of the time that `next(batches)` takes, and the seconds of a step. Both are over
        `count` steps after the first two, which compile and fill the queue.
    """
    config = Config(
        task="classification",
        data=Data(image_size=examples.image_size, threads=threads),
        augment=Augment(preset="paper_b"),
        model=Model(name="classifier", features=16, blocks=7),
        loss=Loss(cross_entropy=1.0, dice=0.0),
        train=Train(batch_size=batch_size, steps=count + 2),
    )
    config = config_checks.validate(config)
    mesh = sharding.make_mesh(batch_size)
    network, weights = steps.split_network(
        models.build(config.model, image_size=config.data.image_size)
    )
    state = steps.init_state(config, weights, mesh)
    train_step = steps.make_train_step(config, network, mesh)
    dataset = pipeline.train_dataset(examples, batch_size, count + 2, seed=0)
    batches = pipeline.train_batches(dataset, 0, threads)
    waited, pending, begun = 0.0, None, 0.0
    try:
        for step in range(count + 2):
            if step == 2:
                pending["loss"].block_until_ready()
                waited, begun = 0.0, time.perf_counter()
            before = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - before
            state, report = train_step(state, sharding.put_batch(batch, mesh))
            if pending is not None:
                float(pending["loss"])
            pending = report
        pending["loss"].block_until_ready()
    finally:
        batches.close()
    total = time.perf_counter() - begun
    return waited / total, total / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--manual_dir", required=True, help="folder that holds pbc/")
    parser.add_argument("--data_dir", help="folder of the records; a temporary one if unset")
    parser.add_argument("--size", type=int, default=256, help="side in pixels")
    parser.add_argument("--batch", type=int, default=32, help="images a batch")
    parser.add_argument("--workers", type=int, default=2, help="threads here, processes there")
    parser.add_argument("--images", type=int, default=1600, help="images a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="training steps; 0: none")
    options = parser.parse_args()
    files = [
        (str(file), label)
        for label, kind in enumerate(CELL_TYPES)
        for file in sorted(pathlib.Path(options.manual_dir).rglob(f"{kind}/*.jpg"))
    ]
    chosen = np.random.default_rng(0).permutation(len(files))[: options.images]
    files = [files[i] for i in chosen]
    # They fork, so they are started before this process has threads of its own.
    loaders = {f"DataLoader, {kind}": loader(files, kind, options) for kind in ("Pillow", "OpenCV")}
    with tempfile.TemporaryDirectory() as temporary:
        data = Data(
            datasets=("pbc",),
            data_dir=options.data_dir or temporary,
            manual_dir=options.manual_dir,
            threads=options.workers,
        )
        preparing.prepare("pbc", data)
        source = sources.load("pbc", data)
        places = {id: place for place, id in enumerate(source.ids)}
        entries = [(source, places[f"pbc_{pathlib.Path(file).stem}"]) for file, _ in files]
        print(json.dumps(compare(entries, loaders, options), indent=2))


def compare(
    entries: list[tuple[sources.Source, int]],
    loaders: dict[str, torch.utils.data.DataLoader],
    options: argparse.Namespace,
) -> dict[str, float]:
    """Runs all measurements and returns their results by name."""
    cold = pipeline.Examples(entries, options.size, 0)
    measured: dict[str, list[tuple[float, float]]] = {}
    for number in range(options.rounds):
        batches = subject(cold, options)
        measured.setdefault("here", []).append(measure(batches, options.batch))
        batches.close()
        for name, batches in loaders.items():
            measured.setdefault(name, []).append(measure(batches, options.batch))
        shown = "; ".join(f"{n}: {v[-1][0]:.0f}/s, {v[-1][1]:.2f} ms" for n, v in measured.items())
        print(f"round {number + 1}: {shown} of processor time an image", flush=True)
    loaders.clear()  # ends their workers
    found: dict[str, float] = {}
    for name, values in measured.items():
        rate, busy = (statistics.median(column) for column in zip(*values))
        found[f"{name}: images a second"] = round(rate, 1)
        found[f"{name}: ms of processor time an image"] = round(busy, 3)
    for name in list(measured)[1:]:
        pairs = list(zip(measured["here"], measured[name]))
        rate = statistics.median(here[0] / there[0] for here, there in pairs)
        busy = statistics.median(there[1] / here[1] for here, there in pairs)
        found[f"here / {name}: images a second"] = round(rate, 2)
        found[f"here / {name}: images per processor second"] = round(busy, 2)
    cached = pipeline.Examples(entries, options.size, 0, cache_megabytes=4096)
    found["here, second epoch from the cache: images a second"] = round(
        second_epoch(cached, options), 1
    )
    if options.steps:
        for name, megabytes in (("files", 0), ("the cache", 4096)):
            examples = pipeline.Examples(entries, 180, 0, megabytes)
            if megabytes:
                for index in range(len(examples)):
                    examples[index]
            share, seconds = waiting_share(examples, 32, options.steps, options.workers)
            found[f"waiting for data from {name}: % of a classifier's step"] = round(100 * share, 3)
            found[f"a classifier's step, data from {name}: seconds"] = round(seconds, 3)
    return found


if __name__ == "__main__":
    main()
