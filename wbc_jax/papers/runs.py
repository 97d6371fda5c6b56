"""Finished runs: their stored results, and how their protocol differs from the paper's.

Synthetic cells are dropped from everything that is read from a run, so that they can never fill a
paper's cell.
"""

import csv
import dataclasses
import functools
import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from wbc_jax import config_checks
from wbc_jax.config import Config
from wbc_jax.data import pipeline
from wbc_jax.errors import RunError
from wbc_jax.inference import cell_masks
from wbc_jax.papers import plans
from wbc_jax.papers.plans import Plan
from wbc_jax.papers.raabin_cells import Measured
from wbc_jax.training import metric_writer
from wbc_jax.utils import atomic

QUICK = (
    "Quick scale: small images, few steps and narrow networks, so that all runs take under an hour "
    "on two cores. This is not the paper's protocol, and the numbers say nothing about it."
)
GROUPED = (
    "Our splits keep near duplicates and crops of one frame together; the paper divides image by "
    "image."
)
NOT_MEASURED = "The cells of Raabin-WBC have not been measured."
Splits = dict[str, pipeline.Examples]
CheckSplits = Callable[[epath.Path, Splits], None]
"""Raises ConfigError if the records are no longer split as when the run in a folder began."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, as stored in its folder.

    Attributes:
        plan: its plan.
        folder: its folder.
        config: its settings.
        summary: content of `report/metrics.json`.
        rows: rows of `report/per_image.csv`, one dict per image of the test split.
        external_rows: rows of `report/external.csv`, the images of data sets outside training.
        history: lines of `metrics.jsonl`.
        check_splits: see `CheckSplits`.
    """

    plan: Plan
    folder: epath.Path
    config: Config
    summary: dict[str, Any]
    rows: list[dict[str, Any]]
    external_rows: list[dict[str, Any]]
    history: list[dict[str, Any]]
    check_splits: CheckSplits

    def result(self, names: Sequence[str]) -> tuple[str, dict[str, Any] | None]:
        """Returns the first of the data sets that the test split holds, and its scores."""
        return self._first("results", names)

    def external(self, names: Sequence[str]) -> tuple[str, dict[str, Any] | None]:
        """Returns the first of the data sets that was scored whole and not trained on."""
        return self._first("external", names)

    def _first(self, where: str, names: Sequence[str]) -> tuple[str, dict[str, Any] | None]:
        found = self.summary.get(where) or {}
        for name in names:
            for dataset, result in found.items():
                if plans.same_dataset(dataset, name) and not plans.is_synthetic(dataset):
                    return dataset, result
        return "", None

    @functools.cached_property
    def training_images(self) -> int | None:
        """Number of training images; None if the log does not tell."""
        for line in self.history:
            if line.get("kind") == "train" and line.get("epoch"):
                return round(line["step"] * self.config.train.batch_size / line["epoch"])
        return None

    @functools.cached_property
    def epochs(self) -> float | None:
        """Number of passes over the training images; None if the log does not tell."""
        steps = self.summary.get("trained_steps")
        if steps is None or not self.training_images:
            return None
        return steps * self.config.train.batch_size / self.training_images

    def splits(self) -> Splits:
        """Opens the splits, without synthetic cells.

        Raises:
            DataError: the records are missing.
            ConfigError: there is no data set of a name, or the records have changed since training.
        """
        data = self.config.data
        masks = cell_masks.prepare(data)
        found = pipeline.load_splits(data, self.config.evaluate.size, self.config.task, masks)
        self.check_splits(self.folder, found)
        for examples in found.values():
            examples.entries = [e for e in examples.entries if not plans.is_synthetic(e[0].name)]
        return found


def load(plan: Plan, workdir: epath.Path, scale: str, check_splits: CheckSplits) -> Run | None:
    """Reads a finished run.

    Returns:
        The run; None if there is none, or if it was not scored.

    Raises:
        RunError: one of its files is damaged; names it.
        ConfigError: its `config.json` is damaged.
    """
    folder = plans.folder(plan, workdir, scale)
    report = folder / "report"
    if not (report / "metrics.json").exists():
        return None
    stored = folder / "config.json"
    try:
        summary = json.loads((report / "metrics.json").read_text())
        config = config_checks.from_json(stored.read_bytes(), os.fspath(stored))
        rows = _read_rows(report / "per_image.csv")
        external_rows = _read_rows(report / "external.csv")
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise RunError(
            f"the run in {folder} is damaged: {error}. Score it again (--mode=evaluate), or delete "
            "its folder."
        ) from error
    history = metric_writer.read(folder)
    return Run(plan, folder, config, summary, rows, external_rows, history, check_splits)


def _read_rows(path: epath.Path) -> list[dict[str, Any]]:
    """Returns the rows of a CSV file; [] without a file.

    Numbers are converted and empty cells become NaN. Synthetic cells are dropped.
    """
    if not path.exists():
        return []
    rows = csv.DictReader(path.read_text().splitlines())
    return [
        {key: _parse(key, value) for key, value in row.items()}
        for row in rows
        if not plans.is_synthetic(row["dataset"])
    ]


def _parse(key: str, value: str) -> Any:
    if key in ("dataset", "id", "flag", "label_source"):
        return atomic.read_csv_text(value)
    if value in ("True", "False"):
        return value == "True"
    try:
        return float(value) if value else float("nan")
    except ValueError:
        return value


@dataclasses.dataclass(frozen=True, slots=True)
class NeededRun:
    """A run that a table is made from.

    Attributes:
        plan: its plan.
        run: None if it is missing.
        reason: explains why it is missing, for the cells that it would fill.
    """

    plan: Plan
    run: Run | None
    reason: str


class RunStore:
    """The runs in a folder, each read once.

    Args:
        workdir: the folder that holds their folders.
        scale: one of `plans.SCALES`.
        check_splits: see `CheckSplits`.
        measure: returns the cells of paper A's own data (`raabin_cells.read_or_measure`); called
            once, when a table needs them. Without it there are none.
    """

    def __init__(
        self,
        workdir: epath.Path,
        scale: str,
        check_splits: CheckSplits,
        measure: Callable[[], Measured] | None = None,
    ):
        self.workdir, self.scale, self.check_splits = workdir, scale, check_splits
        self._measure = measure
        self._runs: dict[str, Run | None] = {}
        self._unavailable: dict[str, list[str]] = {}

    def train_missing(
        self, names: Sequence[str], train: Callable[[Config, epath.Path], Any]
    ) -> None:
        """Trains the quick runs that are not finished, as far as their data sets are available.

        Args:
            names: of plans.
            train: trains and scores a config in a folder.

        Raises:
            RunError: the files of a finished run are damaged.
        """
        data, begun = plans.data_settings(), set()
        for name in names:
            if self._load(name) is not None:
                continue
            plan = plans.PLANS[plans.PLANS[name].quick_name or name]
            config, unavailable = plans.quick_config(plan, data)
            if config is None:
                self._unavailable[name] = unavailable
                continue
            if plan.name not in begun:
                begun.add(plan.name)
                where = self.workdir / plan.name
                print(f"\nTraining {plan.title}, small and short ({where}):", flush=True)
                train(config, where)

    def run(self, name: str) -> Run | None:
        """Returns the finished run of a plan; None if there is none.

        Raises:
            RunError: its files are damaged.
        """
        if name not in self._runs:
            self._runs[name] = self._load(name)
        return self._runs[name]

    @functools.cached_property
    def raabin_cells(self) -> Measured:
        """The measured cells of paper A's own data, or the reason why there are none."""
        return self._measure() if self._measure else Measured([], NOT_MEASURED)

    def _load(self, name: str) -> Run | None:
        return load(plans.PLANS[name], self.workdir, self.scale, self.check_splits)

    def needed(self, name: str) -> NeededRun:
        """Returns the run of a plan with the reason why it is missing, as a table needs it."""
        return NeededRun(plans.PLANS[name], self.run(name), self._reason(name))

    def _reason(self, name: str) -> str:
        plan = plans.PLANS[name]
        if self._unavailable.get(name):
            return f"No run of {plan.title}: {'; '.join(self._unavailable[name])}."
        return f"No finished run of {plan.title} in {plans.folder(plan, self.workdir, self.scale)}."

    def missing(self, *names: str) -> list[str]:
        """Returns one sentence for each missing run, with the command that makes it."""
        return [
            f"{self._reason(name)} Make it with: "
            f"{plans.command(plans.PLANS[name], self.workdir, self.scale)}"
            f"{_alternatives(plans.PLANS[name])}"
            for name in names
            if self.run(name) is None
        ]

    def protocol(self, paper: str, *names: str) -> list[str]:
        """Returns how our runs differ from the paper's, one sentence each; [] without runs."""
        finished = [run for name in names if (run := self.run(name)) is not None]
        if not finished:
            return []
        found = [QUICK] if self.scale == "quick" else []
        for run in finished:
            found.append(_differences(run, PROTOCOLS[paper, run.plan.task]))
            if self.scale == "quick" and run.plan.quick_name:
                other = plans.PLANS[run.plan.quick_name].title
                found.append(f"At quick scale the run of {run.plan.title} is shared with {other}.")
        return [*found, GROUPED]


def _alternatives(plan: Plan) -> str:
    return "".join(
        f"; {' or '.join(others)} will do where {first} is not there"
        for first, *others in plan.train
        if others
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Protocol:
    """The protocol of a paper, as far as it is stated."""

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


def _differences(run: Run, theirs: Protocol) -> str:
    config, summary, title = run.config, run.summary, run.plan.title
    images = f"{run.training_images:,}" if run.training_images else "an unknown number of"
    passes = f"{run.epochs:.1f}" if run.epochs else "an unknown number of"
    side = config.data.image_size
    text = (
        f"{title[:1].upper()}{title[1:]}: trained on {images} images of "
        f"{', '.join(config.data.datasets)} ({theirs.images} in the paper), {side} × {side} px "
        f"({theirs.size}), {passes} passes ({theirs.passes}), {config.optimizer.name} at "
        f"{config.optimizer.learning_rate:g} ({theirs.optimizer}), on "
        f"{summary.get('hardware', 'unknown hardware')} ({theirs.hardware})"
    )
    if config.task == "segmentation":
        size = config.evaluate.size
        text += f"; scored at {size} × {size} px, on which the BF score depends"
    return text + "."
