"""Scores a model on the test split and on data sets that training never saw."""

import dataclasses
import importlib.metadata
import os
import platform
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from wbc_jax import cpu, evaluate
from wbc_jax.config import Config
from wbc_jax.data import building, pipeline, preparing, splits
from wbc_jax.data.keys import RecordKey
from wbc_jax.errors import DataError
from wbc_jax.evaluate import baselines, calibration
from wbc_jax.inference import cell_masks
from wbc_jax.inference import model as inference
from wbc_jax.parallel import processes, sharding
from wbc_jax.training import steps

# Calibration takes a second pass over the images, and needs far fewer pixels than they have.
CALIBRATION_IMAGES = 64

Predict = Callable[[np.ndarray], np.ndarray]
"""From `inference.scored`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Scores:
    """A model's scores.

    Attributes:
        summary: the content of `report/metrics.json`.
        rows: one for each image of the test split.
        external_rows: one for each image of the data sets that training never saw.
    """

    summary: dict[str, Any]
    rows: list[dict[str, Any]]
    external_rows: list[dict[str, Any]]


def score(
    config: Config,
    examples: dict[str, pipeline.Examples],
    model: inference.Model,
    predict: Predict,
    trained: list[RecordKey],
    about: dict[str, Any],
) -> Scores:
    """Scores a model, a baseline, and the data sets of `evaluate.external` that are there.

    Args:
        config: of the data and the scoring; its network is the model's.
        examples: the splits.
        model: the model to score.
        predict: from `inference.scored`.
        trained: the images it was trained on and selected by.
        about: further entries of the summary.
    """
    task = evaluate.TASKS[config.task]
    batch, bootstrap = config.evaluate.batch_size, config.evaluate.bootstrap
    test = examples["test"]
    if processes.is_first():
        print(f"Scoring the {len(test)} images of the test split.", flush=True)
    measured = task.measure_test(predict, test, batch)
    baseline, baseline_name = _baseline(config, examples)
    external_rows: list[dict[str, Any]] = []
    external, skipped = _external(config, predict, trained, external_rows)
    summary = {
        "task": config.task,
        "model": config.model.name,
        "step": model.step,
        "parameters": model.parameters,
        "split": "test",
        "eval_size": config.evaluate.size,
        "flips": config.evaluate.flips,
        "results": task.results(measured, test, bootstrap),
        "baseline": task.results(baseline, test, bootstrap),
        "baseline_name": baseline_name,
        "external": external,
        "skipped": skipped,
        **about,
        "versions": _versions(),
        "hardware": _hardware(),
    }
    if config.task == "segmentation":
        some = _evenly(test, CALIBRATION_IMAGES)
        binned = calibration.measure(_pixel_probabilities(config, model), some, batch)
        summary["calibration"] = calibration.results(binned, some, bootstrap)
    return Scores(summary, task.rows(measured, test), external_rows)


def _evenly(examples: pipeline.Examples, most: int) -> pipeline.Examples:
    """Returns at most `most` examples, evenly spaced, so that each data set keeps its share."""
    places = np.linspace(0, len(examples) - 1, min(most, len(examples))).round().astype(int)
    entries = [examples.entries[place] for place in places]
    return pipeline.Examples(entries, examples.image_size, examples.mask_size)


def _pixel_probabilities(
    config: Config, model: inference.Model
) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from images to probabilities `[B, E, E, C]`."""
    scored = steps.make_scored_logits(config, model.network, config.evaluate.flips)
    mesh = sharding.local_mesh(config.evaluate.batch_size)
    weights = jax.device_put(model.weights, sharding.replicated(mesh))
    step_fn = sharding.InGroups(
        lambda weights, images: jax.nn.softmax(scored(weights, images)),
        mesh,
        cpu.compiler_options(training=False),
    )
    return lambda images: step_fn(weights, images)


def _baseline(config: Config, examples: dict[str, pipeline.Examples]) -> tuple[np.ndarray, str]:
    """Returns the measurements of a predictor without a network, and its name."""
    test, batch = examples["test"], config.evaluate.batch_size
    if config.task == "segmentation":
        large = test.resized(config.evaluate.size, config.evaluate.size)
        return evaluate.masks.measure_test(
            baselines.otsu, large, batch
        ), "Colour thresholds alone (Otsu)"
    counts = pipeline.class_counts(examples["train"], evaluate.cell_types.CLASSES)
    return baselines.most_frequent(counts, len(test)), "Always the most frequent type of training"


def _external(
    config: Config,
    predict: Predict,
    trained: list[RecordKey],
    rows: list[dict[str, Any]] | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Scores whole data sets that training never saw, if they are available.

    Leaves out records that share a group (crops of one frame) with an image of `trained` (training
    and validation) or are near duplicates of one; `left_out` counts them. Adds one row per image to
    `rows`.

    Returns:
        Scores by data set, and the reason by data set that was skipped.
    """
    task = evaluate.TASKS[config.task]
    found, skipped = {}, {}
    for name in config.evaluate.external:
        if name in config.data.datasets:
            continue
        try:
            with building.no_downloads():  # an extra score must not wait for the network
                preparing.prepare(name, config.data)
            masks = cell_masks.prepare(config.data, (name,))
            size = config.evaluate.size
            whole = pipeline.load_whole(name, config.data, size, config.task, masks)
        except (DataError, OSError) as error:
            reason = str(error).splitlines()[0]
            skipped[name] = reason
            continue
        leaks = splits.seen(trained, whole.keys)
        if leaks:
            if processes.is_first():
                print(f"{name}: {len(leaks)} images that training saw are left out.", flush=True)
            whole.entries = [e for i, e in enumerate(whole.entries) if i not in leaks]
        if not len(whole):
            skipped[name] = "training saw all of its images, or near duplicates of them"
            continue
        measured = task.measure_test(predict, whole, config.evaluate.batch_size)
        scored = task.results(measured, whole, config.evaluate.bootstrap)
        scored[name]["left_out"] = len(leaks)
        found |= scored
        if rows is not None:
            rows += task.rows(measured, whole)
    return found, skipped


def _versions() -> dict[str, str]:
    names = ("wbc_jax", "jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {"python": platform.python_version()} | {n: importlib.metadata.version(n) for n in names}


def _hardware() -> str:
    devices = jax.devices()
    kind = devices[0].device_kind
    return f"{len(devices)} x {kind} ({platform.machine()}, {os.cpu_count()} CPUs)"
