"""What the builders of tables share: runs at hand, scores with intervals, and their protocol."""

import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from wbc_jax import checkpoint, files, inference, metrics, steps, vocabulary
from wbc_jax import config as config_lib
from wbc_jax.data import pipeline, records
from wbc_jax.papers import cells, confusions, runs
from wbc_jax.papers.runs import Run
from wbc_jax.papers.sheets import UNKNOWN, Line, Value

RESAMPLES = 1000
QUICK = (
    "Quick scale: small images, few steps and narrow networks, so that all runs take under an hour "
    "on two cores. This is not the paper's protocol, and the numbers say nothing about it."
)
GROUPED = (
    "Our splits keep near duplicates and crops of one frame together; the paper divides image by "
    "image."
)
NOT_IN_TEXT = "The paper's is a picture; its numbers are not in the text."


@dataclasses.dataclass(frozen=True, slots=True)
class Protocol:
    """How a paper made its numbers, as far as it says."""

    images: str
    size: str
    passes: str
    optimizer: str
    hardware: str


PROTOCOLS = {
    ("a", "segmentation"): Protocol(
        "50 pairs of image and mask",
        "256 × 256 px",
        "60",
        "Adam at 0.001 or 0.0004",
        "Google Colab, GPU not named",
    ),
    ("b", "classification"): Protocol(
        "15,809 when pooled",
        "360 × 360 px",
        "500",
        "SGD with momentum at 0.0003",
        "2 × Xeon E5620, GTX 1060 6 GB",
    ),
    ("b", "segmentation"): Protocol(
        "a share of 13,105",
        "360 × 360 px",
        "10",
        "SGD with momentum at 0.0003",
        "2 × Xeon E5620, GTX 1060 6 GB",
    ),
}


class Library:
    """The runs that tables are made from.

    Args:
        workdir: the folder of their folders.
        scale: of `runs.SCALES`.
        why: by plan, why a run could not be made (data that are not there).
    """

    def __init__(
        self,
        workdir: epath.Path,
        scale: str,
        why: Mapping[str, Sequence[str]] | None = None,
    ):
        self.workdir, self.scale = workdir, scale
        self._why = why or {}
        self._runs: dict[str, Run | None] = {}

    def run(self, name: str) -> Run | None:
        """Returns a plan's finished run; None where there is none.

        Raises:
            RunError: its files are damaged.
        """
        if name not in self._runs:
            self._runs[name] = runs.load(runs.PLANS[name], self.workdir, self.scale)
        return self._runs[name]

    def reason(self, name: str) -> str:
        """Returns why there is no run, for the cells that it would fill."""
        plan = runs.PLANS[name]
        where = runs.folder(plan, self.workdir, self.scale)
        why = self._why.get(name)
        if why:
            return f"No run of {plan.title}: {'; '.join(why)}."
        return f"No finished run of {plan.title} in {where}."

    def missing(self, *names: str) -> list[str]:
        """Returns, for each run that is not there, what it is and the command that makes it."""
        return [
            f"{self.reason(name)} Make it with: "
            f"{runs.command(runs.PLANS[name], self.workdir, self.scale)}{_choices(name)}"
            for name in names
            if self.run(name) is None
        ]

    def protocol(self, paper: str, *names: str) -> list[str]:
        """Returns how our runs differ from the paper's, a sentence each; [] without runs."""
        there = [(name, run) for name in names if (run := self.run(name)) is not None]
        if not there:
            return []
        found = [QUICK] if self.scale == "quick" else []
        for name, run in there:
            found.append(_differences(run, PROTOCOLS[paper, run.plan.task]))
            if self.scale == "quick" and run.plan.quick_name:
                other = runs.PLANS[run.plan.quick_name].title
                found.append(f"At quick scale the run of {run.plan.title} is shared with {other}.")
            del name
        return [*found, GROUPED]


def _choices(name: str) -> str:
    told = [
        f"; {' or '.join(others)} will do where {first} is not there"
        for first, *others in runs.PLANS[name].train
        if others
    ]
    return "".join(told)


def _differences(run: Run, theirs: Protocol) -> str:
    config, summary = run.config, run.summary
    images = f"{run.training_images:,}" if run.training_images else "an unknown number of"
    passes = f"{run.epochs:.1f}" if run.epochs else "an unknown number of"
    side = config.data.image_size
    text = (
        f"{_capital(run.plan.title)}: trained on {images} images of "
        f"{', '.join(config.data.datasets)} ({theirs.images} in the paper), {side} × {side} px "
        f"({theirs.size}), {passes} passes ({theirs.passes}), {config.optimizer.name} at "
        f"{config.optimizer.learning_rate:g} ({theirs.optimizer}), on "
        f"{summary.get('hardware', 'unknown hardware')} ({theirs.hardware})"
    )
    if config.task == "segmentation":
        size = config.evaluate.size
        text += f"; scored at {size} × {size} px, on which the BF score depends"
    return text + "."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# ---- Scores ----------------------------------------------------------------------------------


def classification_scores(
    confusion: np.ndarray | None, resamples: int = RESAMPLES
) -> dict[cells.Key, Value]:
    """Returns Table 4's cells of a confusion matrix, and the readings of overall accuracy.

    Args:
        confusion: int `[5, 5]`, rows truth; None: nothing is known.
        resamples: behind each 95 % interval. Images are resampled (Efron's percentile bootstrap):
            that is a multinomial draw of the matrix's cells.

    Returns:
        Values by row and column; the readings' columns are the keys of `confusions.READINGS` in
        the row `overall`.
    """
    if confusion is None or not confusion.sum():
        return {}
    total = int(confusion.sum())
    rng = np.random.default_rng(0)
    drawn = rng.multinomial(total, confusion.ravel() / total, resamples)
    drawn = drawn.reshape(resamples, *confusion.shape)
    point, spread = (_all_scores(m) for m in (confusion, drawn))
    return {key: _value(float(point[key]), spread[key]) for key in point}


def _all_scores(confusion: np.ndarray) -> dict[cells.Key, np.ndarray]:
    counts = confusions.of_matrix(confusion)
    found = confusions.table(counts)
    return found | {(confusions.OVERALL, k): v for k, v in confusions.readings(counts).items()}


def _value(point: float, spread: np.ndarray) -> Value:
    if math.isnan(point):
        return UNKNOWN
    low, high = metrics.interval(spread)
    return Value(point, float(low), float(high))


def median(values: Sequence[float]) -> Value:
    """Returns the median of the finite values with its bootstrap interval."""
    known = np.asarray([v for v in values if math.isfinite(v)])
    if not len(known):
        return UNKNOWN
    low, high = metrics.bootstrap_interval(np.median, known, resamples=RESAMPLES)
    return Value(float(np.median(known)), float(low), float(high))


def share(hits: Sequence[bool]) -> Value:
    """Returns the share of true entries with its bootstrap interval."""
    known = np.asarray(hits, np.float64)
    if not len(known):
        return UNKNOWN
    rng = np.random.default_rng(0)
    drawn = rng.binomial(len(known), known.mean(), RESAMPLES) / len(known)
    return _value(float(known.mean()), drawn)


SEGMENTATION = {
    "global accuracy": "global_accuracy",
    "mean accuracy": "mean_accuracy",
    "mean IoU": "mean_iou",
    "weighted IoU": "weighted_iou",
    "mean BF score": "bf_score.mean",
}
"""Columns of Tables 9 and 11 by where `report/metrics.json` has them."""
PARTS = {"accuracy": "recall", "IoU": "iou", "BF score": "bf_score"}
"""The same of Table 13; of each of the mask's classes."""


def segmentation_score(result: Mapping[str, Any] | None, key: str) -> Value:
    """Returns a number of a result of `report/metrics.json` with its interval.

    Args:
        result: of a data set, or of a cell type in it.
        key: `mean_iou`, or `iou.nucleus` for one in a group.
    """
    if not result:
        return UNKNOWN
    group, _, name = key.partition(".")
    found = result.get(group)
    if name:
        found = (found or {}).get(name)
    if found is None:
        return UNKNOWN
    low, high = (result.get("intervals") or {}).get(key.replace(".", "_")) or (None, None)
    ends = (math.nan if end is None else float(end) for end in (low, high))
    return Value(float(found), *ends)


def fill(
    printed: Mapping[cells.Key, cells.Cell],
    ours: Callable[[str, str], Value],
    reason: str,
    stand_ins: Mapping[str, Callable[[str, str], Value]] | None = None,
    recomputed: Mapping[cells.Key, Any] | None = None,
) -> list[Line]:
    """Returns a line a printed cell.

    Args:
        printed: the paper's table.
        ours: our value of a row and column.
        reason: why it is unknown, where it is.
        stand_ins: by name, values of other images.
        recomputed: what follows from other numbers of the paper.
    """
    lines = []
    for (row, column), cell in printed.items():
        value = ours(row, column)
        again = (recomputed or {}).get((row, column))
        lines.append(
            Line(
                row=row,
                column=column,
                unit=cell.unit,
                paper=cell,
                recomputed=UNKNOWN if again is None else Value(float(again)),
                ours=value,
                reason="" if value.known else reason,
                stand_ins={name: get(row, column) for name, get in (stand_ins or {}).items()},
            )
        )
    return lines


def stand_in_name(dataset: str) -> str:
    """Returns the heading of a stand-in's column."""
    return runs.STAND_INS[dataset]


# ---- Time ------------------------------------------------------------------------------------

THROUGHPUT = "throughput.json"


def throughput(run: Run) -> float:
    """Returns how many images a second a run's network predicts here; NaN without a checkpoint.

    Batches of the run's own size and input are timed after one that compiles; decoding is not
    part of it, as it is not said to be in the paper. Measured once and kept in the run's folder.
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
    files.write_json(path, {"images_per_second": found, "batch_size": batch, "image_size": side})
    return found


@functools.cache
def _loaded(folder: str):
    try:
        return inference.load(folder)
    except checkpoint.CheckpointError:
        return None


def _model(run: Run):
    return _loaded(str(run.folder))


# ---- Pictures --------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Shown:
    """A test cell with the masks that its picture is drawn from.

    Attributes:
        type, dataset, id: of the cell.
        image: uint8 `[E, E, 3]`, at the size at which masks are scored.
        truth, prediction: uint8 `[E, E]`.
    """

    type: str
    dataset: str
    id: str
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray


class Unreadable(Exception):
    """A run's network or test images are not there; says which."""


@dataclasses.dataclass(frozen=True, slots=True)
class Cells:
    """The test cells of a run, with what its network says of them.

    Attributes:
        large: image and true mask at the size at which masks are scored.
        small: the network's input.
        predict: uint8 `[B, S, S, 3]` → uint8 `[B, E, E]`.
    """

    large: pipeline.Examples
    small: pipeline.Examples
    predict: Callable[[np.ndarray], jax.Array | np.ndarray]

    def __getitem__(self, place: int) -> Shown:
        source, index = self.large.entries[place]
        example = self.large[place]
        prediction = np.asarray(self.predict(self.small[place]["image"][None]))[0]
        kind = vocabulary.CELL_TYPES[source.labels[index]] if source.labels[index] >= 0 else ""
        return Shown(
            kind, source.name, source.ids[index], example["image"], example["mask"], prediction
        )


def scored_cells(run: Run) -> Cells:
    """Opens the test cells of a segmentation run.

    Raises:
        Unreadable: its checkpoint or its records are not there.
    """
    model = _model(run)
    if model is None:
        raise Unreadable(f"There is no checkpoint in {run.folder}.")
    try:
        test = runs.splits_of(run)["test"]
    except (config_lib.ConfigError, records.DataError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise Unreadable(f"The test images cannot be read: {reason}") from error
    size, side = run.config.evaluate.size, run.config.data.image_size
    return Cells(
        test.resized(size, size), test.resized(side, 0), inference.scored(run.config, model)
    )


def typical_cells(run: Run, types: Sequence[str]) -> list[Shown]:
    """Returns of each cell type the test cell of middling mean IoU, with its masks.

    Of an even number the lower of the two in the middle is taken. Types that the test split lacks
    are left out.

    Raises:
        Unreadable: as of `scored_cells`.
    """
    there = scored_cells(run)
    names = zip(there.large.datasets, there.large.ids)
    places = {pair: i for i, pair in enumerate(names)}
    found = []
    for kind in types:
        label = vocabulary.CELL_TYPES.index(kind)
        of_type = [r for r in run.rows if r["label"] == label and (r["dataset"], r["id"]) in places]
        of_type.sort(key=lambda r: (r["mean_iou"], r["id"]))
        if of_type:
            row = of_type[(len(of_type) - 1) // 2]
            found.append(there[places[row["dataset"], row["id"]]])
    return found


def mean_ratios(run: Run, kind: str) -> tuple[list[float], list[float]]:
    """Returns paper A's ratio of means of the test cells of a type: predicted, and by true masks.

    Raises:
        Unreadable: as of `scored_cells`.
    """
    there = scored_cells(run)
    label = vocabulary.CELL_TYPES.index(kind)
    found, truth = [], []
    for place in np.flatnonzero(there.large.labels == label):
        cell = there[int(place)]
        for mask, values in ((cell.prediction, found), (cell.truth, truth)):
            ratio = metrics.region_means(cell.image[None], mask[None]).image_mean_ratio[0]
            values.append(float(ratio))
    return found, truth
