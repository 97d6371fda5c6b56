"""Masks and types of a folder of crops, by this package and by PyTorch with the same networks.

`predict.py --crops=FOLDER` measures both. They run one program (`write_results`), 16 crops at a
time: read each image; bring it to a standard light and position; resize it; the segmenter; resize
the logits to the image's own size and take the largest; turn the mask back and keep the middle
cell; write it as a PNG; cut the image to the cell; resize it; the classifier on its four
reflections; areas, N/C ratio and type as a row of a CSV file. What is neither network nor file is
NumPy, OpenCV and scikit-image: the same code on both sides. The sides differ in

- the networks: ours compiled by XLA, as `wbc_jax.predict` runs them; and in PyTorch channels-last,
  in its inference mode, 16 crops a batch. Both have the shipped weights, in float32, and as many
  threads as there are processors;
- reading, resizing and encoding: ours (Pillow's decoder, which reports damaged files; averages by
  sparse products; `encode_png`), one image after the other where `wbc_jax` does so; and OpenCV's
  `imread`, `resize` and `imwrite` in threads.
"""

import contextlib
import csv
import os
import pathlib
import statistics
import tempfile
from collections.abc import Sequence
from concurrent import futures
from typing import Any, Protocol

import cv2
import numpy as np

import cases
import wbc_jax
from wbc_jax import metrics
from wbc_jax.data import images as image_files
from wbc_jax.data import isolation, light, orientation
from wbc_jax.fields import analyze as fields
from wbc_jax.fields import contrast
from wbc_jax.labels import CELL_TYPES, MASK_CLASSES
from wbc_jax.report import cell_results

BATCH = 16
COLUMNS = ("file", "nucleus_px", "cytoplasm_px", "nc_ratio", "type")
TABLE = "cells.csv"


class Engine(Protocol):
    """What the two sides do in their own way."""

    def read(self, path: str) -> np.ndarray:
        """Returns an image file as uint8 `[H, W, 3]` RGB."""
        ...

    def masks(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Returns the masks of images, uint8 `[H, W]`, with all cells that they show."""
        ...

    def types(self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> list[int]:
        """Returns the most probable types of images, which are cut to the cells of their masks."""
        ...

    def write(self, path: pathlib.Path, mask: np.ndarray) -> None:
        """Writes a mask as a PNG file."""
        ...


class Ours:
    """The shipped models by this package."""

    def __init__(self, pool: futures.Executor):
        self._models = fields.load_models()

    def read(self, path: str) -> np.ndarray:
        return wbc_jax.read_image(path)

    def masks(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [found.mask for found in self._models.segmenter.predict(images)]

    def types(self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> list[int]:
        return [found.label for found in self._models.classifier.predict(images, masks=masks)]

    def write(self, path: pathlib.Path, mask: np.ndarray) -> None:
        path.write_bytes(image_files.encode_png(mask))


class PyTorch:
    """The same networks in PyTorch, with the weights of the shipped files."""

    def __init__(self, pool: futures.Executor):
        import torch

        import references

        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self._pool, self._torch = pool, torch
        models = fields.load_models()
        segmenter, classifier = models.segmenter, models.classifier
        made = segmenter.config.model
        networks = (
            references.EfficientUNet(len(MASK_CLASSES), made.features, made.norm),
            references.EfficientNet(len(CELL_TYPES), classifier.config.model.features),
        )
        for network, model in zip(networks, (segmenter, classifier)):
            weights = model.weights
            references.fill(network, model.network.merge(weights["params"], weights["stats"]))
            network.eval().to(memory_format=torch.channels_last)
        self._segmenter, self._classifier = networks
        self._sides = [m.config.data.image_size for m in (segmenter, classifier)]

    def read(self, path: str) -> np.ndarray:
        return cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)

    def masks(self, images: Sequence[np.ndarray]) -> list[np.ndarray]:
        with self._torch.inference_mode():
            logits = self._segmenter(self._batch(images, self._sides[0]))
            logits = logits.permute(0, 2, 3, 1).contiguous().numpy()

        def largest(logits: np.ndarray, image: np.ndarray) -> np.ndarray:
            logits = cv2.resize(logits, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
            return logits.argmax(-1).astype(np.uint8)

        return list(self._pool.map(largest, logits, images))

    def types(self, images: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> list[int]:
        cut = list(self._pool.map(isolation.isolate, images, masks))
        with self._torch.inference_mode():
            batch = self._batch(cut, self._sides[1])
            views = [batch, batch.flip(2), batch.flip(3), batch.flip(2, 3)]
            logits = self._classifier(self._torch.cat(views)).view(4, len(images), -1)
            return logits.mean(0).argmax(-1).tolist()

    def write(self, path: pathlib.Path, mask: np.ndarray) -> None:
        cv2.imwrite(os.fspath(path), mask)

    def _batch(self, images: Sequence[np.ndarray], side: int) -> Any:
        """Returns a network's input, float `[B, 3, side, side]` in [-2, 2], channels last."""

        def resized(image: np.ndarray) -> np.ndarray:
            shrinks = side < min(image.shape[:2])
            how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            return cv2.resize(image, (side, side), interpolation=how)

        pixels = self._torch.from_numpy(np.stack(list(self._pool.map(resized, images))))
        return (pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) * 4


def write_results(
    engine: Engine, paths: Sequence[str], out: pathlib.Path, pool: futures.Executor
) -> None:
    """Writes the mask of each crop, `STEM.png`, and `cells.csv`.

    It does what `fields.analyze` does with crops around one cell (`find="no"`), but decides types
    by the network alone, without the folder's statistics and without leaving any for review.

    Args:
        engine: one of the sides.
        paths: image files with different stems.
        out: an existing folder.
        pool: threads for the steps of each image.
    """
    rows = []
    for start in range(0, len(paths), BATCH):
        some = paths[start : start + BATCH]
        images = list(pool.map(engine.read, some))
        turns = list(pool.map(orientation.find, images))
        standard = map(orientation.place, pool.map(light.standardize, images), turns)
        found = engine.masks(list(standard))
        masks = list(pool.map(_own_cell, images, map(orientation.replace, found, turns)))
        files = [out / f"{pathlib.Path(path).stem}.png" for path in some]
        list(pool.map(engine.write, files, masks))
        turned = list(map(orientation.place, images, turns))
        for path, mask, label in zip(some, masks, engine.types(turned, found)):
            areas = metrics.nc_ratio(mask[None])
            values = (areas.nucleus_px, areas.cytoplasm_px, areas.nc_ratio)
            kind = CELL_TYPES[label] if mask.any() else ""
            rows.append([path, *(value[0] for value in values), kind])
    with (out / TABLE).open("w", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *rows])


def _own_cell(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Returns a crop's mask with its own cell alone, or none if the image does not show it."""
    kept = isolation.keep_middle_cell(mask)
    return kept if contrast.judge(image)(kept) else np.zeros_like(kept)


def make(kind: str, paths: Sequence[str]) -> cases.Side:
    """Returns a side: `ours`, `PyTorch`, or `predict`, all that the command writes."""
    pool = futures.ThreadPoolExecutor()
    if kind == "predict":
        models = fields.load_models()

        def run() -> None:
            with (
                tempfile.TemporaryDirectory() as out,
                open(os.devnull, "w") as nowhere,
                contextlib.redirect_stdout(nowhere),
                contextlib.redirect_stderr(nowhere),
            ):
                cell_results.predict_files(models, paths, out, settings="benchmark")

        return cases.Side(run, cases.process_peak)
    engine = {"ours": Ours, "PyTorch": PyTorch}[kind](pool)

    def write() -> None:
        with tempfile.TemporaryDirectory() as out:
            write_results(engine, paths, pathlib.Path(out), pool)

    return cases.Side(write, cases.process_peak)


def agreement(paths: Sequence[str]) -> dict[str, float]:
    """Returns how far the results of both sides, and of `fields.analyze`, agree.

    `masks`: the share of pixels whose class is the same by PyTorch and by us. `masks_in_cells`: the
    same, of the pixels that either calls cell. `masks_of_predict`: as `masks`, by PyTorch and by
    `fields.analyze`. `types`: the share of crops with the same type by PyTorch and by us.
    """
    masks, kinds = {}, {}
    with futures.ThreadPoolExecutor() as pool, tempfile.TemporaryDirectory() as folder:
        for name, engine in (("ours", Ours(pool)), ("PyTorch", PyTorch(pool))):
            out = pathlib.Path(folder) / name
            out.mkdir()
            write_results(engine, paths, out, pool)
            files = [out / f"{pathlib.Path(path).stem}.png" for path in paths]
            masks[name] = [cv2.imread(os.fspath(file), cv2.IMREAD_UNCHANGED) for file in files]
            with (out / TABLE).open(newline="") as file:
                kinds[name] = [row["type"] for row in csv.DictReader(file)]
    images = [wbc_jax.read_image(path) for path in paths]
    masks["predict"] = [one.mask for one in fields.analyze(images, find="no")]
    flat = {name: np.concatenate([m.ravel() for m in some]) for name, some in masks.items()}
    same, cell = flat["ours"] == flat["PyTorch"], (flat["ours"] > 0) | (flat["PyTorch"] > 0)
    return {
        "masks": float(same.mean()),
        "masks_in_cells": float(same[cell].mean()),
        "masks_of_predict": float((flat["predict"] == flat["PyTorch"]).mean()),
        "types": float(np.mean([a == b for a, b in zip(kinds["ours"], kinds["PyTorch"])])),
    }


def summary(found: dict[str, Any], images: int) -> dict[str, Any]:
    """Returns medians over the rounds, and the medians of the ratios to PyTorch of each round.

    Args:
        found: from `interleave.rounds`, with the sides of `make` as keys.
        images: number of crops of a run.
    """

    def of(name: str, key: str) -> float:
        return statistics.median(found[name][key])

    def ratio(name: str, key: str) -> float:
        pairs = zip(found[name][key], found["PyTorch"][key])
        return statistics.median(one / other for one, other in pairs)

    return {
        name: {
            "images_per_second": images / of(name, "seconds"),
            "processor_seconds_per_image": of(name, "processor_seconds") / images,
            "images_per_second_to_pytorch": 1 / ratio(name, "seconds"),
            "processor_time_to_pytorch": ratio(name, "processor_seconds"),
            "peak_mib": round(found[name]["peak_bytes"] / 2**20),
        }
        for name in found
    }
