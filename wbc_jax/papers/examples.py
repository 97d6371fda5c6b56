"""Predictions of a run's network on its test images, and its throughput."""

import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from wbc_jax import metrics
from wbc_jax.data import pipeline
from wbc_jax.errors import CheckpointError, ConfigError, DataError
from wbc_jax.inference import model as inference
from wbc_jax.labels import CELL_TYPES
from wbc_jax.papers.runs import Run
from wbc_jax.training import steps
from wbc_jax.utils import atomic

THROUGHPUT = "throughput.json"


@dataclasses.dataclass(frozen=True, slots=True)
class ScoredExample:
    """A test image with its true and its predicted mask.

    Attributes:
        type, dataset, id: cell type, data set and id of the image.
        image: uint8 `[E, E, 3]`, at the size at which masks are scored.
        truth, prediction: uint8 `[E, E]`.
    """

    type: str
    dataset: str
    id: str
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


class UnreadableError(Exception):
    """The network or the test images of a run are missing; names which."""


@dataclasses.dataclass(frozen=True, slots=True)
class ScoredExamples:
    """The test images of a run, predicted when they are indexed.

    Attributes:
        large: image and true mask at the size at which masks are scored.
        small: the input of the network.
        predict: uint8 `[B, S, S, 3]` → uint8 `[B, E, E]`.
    """

    large: pipeline.Examples
    small: pipeline.Examples
    predict: Callable[[np.ndarray], jax.Array | np.ndarray]

    def __getitem__(self, place: int) -> ScoredExample:
        source, index = self.large.entries[place]
        example = self.large[place]
        prediction = np.asarray(self.predict(self.small[place]["image"][None]))[0]
        kind = CELL_TYPES[source.labels[index]] if source.labels[index] >= 0 else ""
        return ScoredExample(
            kind, source.name, source.ids[index], example["image"], example["mask"], prediction
        )


def scored_examples(run: Run) -> ScoredExamples:
    """Opens the test images of a segmentation run.

    Raises:
        UnreadableError: its checkpoint or its records are missing.
    """
    model = _model(run)
    if model is None:
        raise UnreadableError(f"There is no checkpoint in {run.folder}.")
    try:
        test = run.splits()["test"]
    except (ConfigError, DataError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UnreadableError(f"The test images cannot be read: {reason}") from error
    size, side = run.config.evaluate.size, run.config.data.image_size
    return ScoredExamples(
        test.resized(size, size), test.resized(side, 0), inference.scored(run.config, model)
    )


def typical_examples(run: Run, types: Sequence[str]) -> list[ScoredExample]:
    """Returns the test image of median mean IoU of each cell type.

    The lower of the two middle ones is taken if their number is even. Types that the test split
    lacks are left out.

    Raises:
        UnreadableError: as `scored_examples`.
    """
    examples = scored_examples(run)
    names = zip(examples.large.datasets, examples.large.ids)
    places = {pair: i for i, pair in enumerate(names)}
    found = []
    for kind in types:
        label = CELL_TYPES.index(kind)
        of_type = [r for r in run.rows if r["label"] == label and (r["dataset"], r["id"]) in places]
        of_type.sort(key=lambda r: (r["mean_iou"], r["id"]))
        if of_type:
            row = of_type[(len(of_type) - 1) // 2]
            found.append(examples[places[row["dataset"], row["id"]]])
    return found


def mean_ratios(run: Run, kind: str) -> tuple[list[float], list[float]]:
    """Returns paper A's ratio of means for the test images of a cell type.

    Returns:
        The ratios by predicted masks, and by true masks.

    Raises:
        UnreadableError: as `scored_examples`.
    """
    examples = scored_examples(run)
    label = CELL_TYPES.index(kind)
    predicted, true = [], []
    for place in np.flatnonzero(examples.large.labels == label):
        example = examples[int(place)]
        for mask, values in ((example.prediction, predicted), (example.truth, true)):
            ratio = metrics.region_means(example.image[None], mask[None]).image_mean_ratio[0]
            values.append(float(ratio))
    return predicted, true


def throughput(run: Run) -> float:
    """Returns the images per second that a run's network predicts here; NaN without a checkpoint.

    Times batches of the run's own size after a first one that compiles. Decoding is not included,
    because the paper does not say that its times include it. The result is stored in the run's
    folder and measured only once.
    """
    path = run.folder / THROUGHPUT
    if path.exists():
        return float(json.loads(path.read_text())["images_per_second"])
    model = _model(run)
    if model is None:
        return math.nan
    predict = steps.make_predict_step(run.config, model.network)
    side, batch = run.config.data.image_size, run.config.evaluate.batch_size
    images = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    jax.block_until_ready(predict(model.weights, images))
    times = []
    while len(times) < 3 or (sum(times) < 2 and len(times) < 50):
        started = time.perf_counter()
        jax.block_until_ready(predict(model.weights, images))
        times.append(time.perf_counter() - started)
    found = batch / float(np.median(times))
    atomic.write_json(path, {"images_per_second": found, "batch_size": batch, "image_size": side})
    return found


def _model(run: Run) -> inference.Model | None:
    return _load_model(str(run.folder))


@functools.cache
def _load_model(folder: str) -> inference.Model | None:
    try:
        return inference.load(folder)
    except CheckpointError:
        return None
