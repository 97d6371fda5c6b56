"""The runs behind our columns: which there are, how they are made, and what they left.

A run lies in a folder of its plan's name. At full scale it is what the papers' configs train; at
quick scale a small one is trained here. Drawn cells are left out of all that is read from a run,
so that they can never stand in a paper's cell.
"""

import csv
import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from wbc_jax import checkpoint, experiment, metric_writer
from wbc_jax import config as config_lib
from wbc_jax.data import pipeline, records, sources

SCALES = ("quick", "full")
DEFAULT_DATA = "../shared/data"
"""Where the authors' files are looked for if `$WBC_JAX_DATA` is not set, as in the README."""
SYNTHETIC = "wbc_synthetic"

INDEPENDENT = ("lisc/crops", "bcd/crops")
"""Paper B's Datasets 5 and 6."""
STAND_INS = {
    "segmentation_wbc/jtsc": "JTSC (stand-in)",
    "segmentation_wbc/cellavision": "CellaVision of Zheng (stand-in)",
}
"""Sources that no run trains on, and what their columns are called."""
SOURCES: dict[str, tuple[str, ...]] = {
    "Dataset 1": ("pbc",),
    "Dataset 2 & 3": ("raabin_wbc/crops", "raabin_gt"),
    "Dataset 4": ("kaggle_blood_cells/original",),
    "Dataset 5": ("lisc/crops",),
    "Dataset 6": ("bcd/crops",),
}
"""Paper B's data sets by the names of ours; the first that is there is used."""
MASKS = ("raabin_gt",)
"""Of paper B's data sets, those whose masks are published (others were drawn by its authors)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A run that a table needs.

    Attributes:
        name: its folder's.
        title: what it is, in words.
        config: file of the full protocol.
        task, model: as of `config.task` and `config.model.name`.
        train: for each data set of the paper, ours that can serve, the best first.
        quick: fields of the quick run that differ from `_quick`'s.
        quick_name: another plan whose run serves at quick scale; empty: its own.
    """

    name: str
    title: str
    config: str
    task: str
    model: str
    train: tuple[tuple[str, ...], ...]
    quick: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    quick_name: str = ""


def _classifier(name: str, title: str, *datasets: str, **quick: Any) -> Plan:
    train = tuple(SOURCES[d] for d in datasets)
    config = "configs/paper_b_classifier.py"
    return Plan(name, title, config, "classification", "classifier", train, quick)


def _segmenter(model: str, title: str) -> Plan:
    return Plan(model, title, f"configs/paper_b_{model}.py", "segmentation", model, (MASKS,))


PLANS = {
    plan.name: plan
    for plan in (
        _classifier(
            "classifier",
            "paper B's classifier on Datasets 1 to 4 pooled",
            "Dataset 1",
            "Dataset 2 & 3",
            "Dataset 4",
            steps=1000,
        ),
        _classifier("classifier_dataset_1", "paper B's classifier on Dataset 1", "Dataset 1"),
        _classifier(
            "classifier_dataset_2_3", "paper B's classifier on Datasets 2 & 3", "Dataset 2 & 3"
        ),
        _classifier("classifier_dataset_4", "paper B's classifier on Dataset 4", "Dataset 4"),
        _segmenter("encoder_decoder", "paper B's proposed CNN"),
        _segmenter("unet", "paper B's U-Net"),
        _segmenter("segnet", "paper B's SegNet"),
        Plan(
            "paper_a_unet",
            "paper A's U-Net",
            "configs/paper_a_unet.py",
            "segmentation",
            "unet",
            (MASKS,),
            quick_name="unet",
        ),
    )
}


class RunError(checkpoint.CheckpointError):
    """A run's files cannot be read."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, as its folder tells.

    Attributes:
        plan: which one it is.
        folder: where it lies.
        config: its settings.
        summary: content of `report/metrics.json`.
        rows: of `report/per_image.csv`, a dict an image of the test split.
        external_rows: of `report/external.csv`, those of data sets that training never saw.
        history: lines of `metrics.jsonl`.
    """

    plan: Plan
    folder: epath.Path
    config: config_lib.Config
    summary: dict[str, Any]
    rows: list[dict[str, Any]]
    external_rows: list[dict[str, Any]]
    history: list[dict[str, Any]]

    def result(self, names: Sequence[str]) -> tuple[str, dict[str, Any] | None]:
        """Returns the first of the data sets that the test split holds, and its scores."""
        return self._first("results", names)

    def external(self, names: Sequence[str]) -> tuple[str, dict[str, Any] | None]:
        """Returns the first of the data sets that is scored whole and was never trained on."""
        return self._first("external", names)

    def _first(self, where: str, names: Sequence[str]) -> tuple[str, dict[str, Any] | None]:
        found = self.summary.get(where) or {}
        for name in names:
            for known, result in found.items():
                if is_named(known, name) and not is_synthetic(known):
                    return known, result
        return "", None

    @functools.cached_property
    def training_images(self) -> int | None:
        """How many images training drew from; None where the log does not tell."""
        for line in self.history:
            if line.get("kind") == "train" and line.get("epoch"):
                return round(line["step"] * self.config.train.batch_size / line["epoch"])
        return None

    @functools.cached_property
    def epochs(self) -> float | None:
        """Passes over the training images; None where the log does not tell."""
        steps = self.summary.get("trained_steps")
        if steps is None or not self.training_images:
            return None
        return steps * self.config.train.batch_size / self.training_images


def is_named(dataset: str, name: str) -> bool:
    """Returns whether two names are of one data set; either may leave out its config (`pbc`)."""
    bases = [text.partition("/")[0] for text in (dataset, name)]
    return dataset == name or (bases[0] == bases[1] and ("/" not in dataset or "/" not in name))


def is_synthetic(dataset: str) -> bool:
    """Returns whether a data set's cells are drawn."""
    return dataset.partition("/")[0] == SYNTHETIC


def folder(plan: Plan, workdir: epath.Path, scale: str) -> epath.Path:
    """Returns where the run of a plan lies."""
    return workdir / (plan.quick_name if scale == "quick" and plan.quick_name else plan.name)


def load(plan: Plan, workdir: epath.Path, scale: str) -> Run | None:
    """Reads what a finished run left.

    Returns:
        The run; None where there is none, or none that was scored.

    Raises:
        RunError: one of its files is damaged; names it.
        ConfigError: its `config.json` is.
    """
    where = folder(plan, workdir, scale)
    report = where / "report"
    if not (report / "metrics.json").exists():
        return None
    stored = where / "config.json"
    try:
        summary = json.loads((report / "metrics.json").read_text())
        config = config_lib.from_json(stored.read_bytes(), os.fspath(stored))
        rows = _rows(report / "per_image.csv")
        external_rows = _rows(report / "external.csv")
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise RunError(
            f"the run in {where} is damaged: {error}. Score it again (--mode=evaluate), or delete "
            "its folder."
        ) from error
    return Run(plan, where, config, summary, rows, external_rows, metric_writer.read(where))


def _rows(path: epath.Path) -> list[dict[str, Any]]:
    """Returns the rows of a CSV file, numbers as such and empty cells as NaN; [] without a file.

    Drawn cells are left out.
    """
    if not path.exists():
        return []
    rows = csv.DictReader(path.read_text().splitlines())
    return [
        {key: _typed(key, value) for key, value in row.items()}
        for row in rows
        if not is_synthetic(row["dataset"])
    ]


def _typed(key: str, value: str) -> Any:
    if key in ("dataset", "id", "flag", "label_source"):
        return value
    if value in ("True", "False"):
        return value == "True"
    try:
        return float(value) if value else float("nan")
    except ValueError:
        return value


def command(plan: Plan, workdir: epath.Path, scale: str) -> str:
    """Returns the line that makes a run."""
    if scale == "quick":
        paper = plan.config.partition("paper_")[2][0]
        return (
            f"python -m wbc_jax.main --mode=reproduce --paper={paper} --scale=quick "
            f"--workdir={workdir}"
        )
    datasets = ",".join(alternatives[0] for alternatives in plan.train)
    external = ",".join((*INDEPENDENT, *STAND_INS))
    line = (
        f"python -m wbc_jax.main --config={plan.config} --workdir={folder(plan, workdir, scale)} "
        f"--config.data.datasets={datasets} --config.evaluate.external={external}"
    )
    manual = data_settings().manual_dir
    return f"{line} --config.data.manual_dir={manual}" if manual else line


def data_settings() -> config_lib.Data:
    """Returns where the data lie: `$WBC_JAX_DATA`, or `../shared/data` where that is a folder."""
    data = config_lib.Data()
    if not os.environ.get(sources.MANUAL_DIR_VARIABLE) and pathlib.Path(DEFAULT_DATA).is_dir():
        data.manual_dir = DEFAULT_DATA
    return data


def lacking(name: str, data: config_lib.Data) -> str:
    """Writes the records of a data set where its files are there.

    Returns:
        '' when the records can be read, else why not.
    """
    try:
        with records.no_downloads():
            sources.prepare(name, data)
    except (records.DataError, OSError) as error:
        return str(error).splitlines()[0]
    return ""


def quick_config(plan: Plan, data: config_lib.Data) -> tuple[config_lib.Config | None, list[str]]:
    """Returns the settings of a plan's quick run, with the data sets that are there.

    Returns:
        The config, None where no data set of the plan is there; and why others are not.
    """
    chosen, why = [], []
    for alternatives in plan.train:
        reasons = {}
        for name in alternatives:
            reason = lacking(name, data)
            if not reason:
                chosen.append(name)
                break
            reasons[name] = reason
        else:
            why += [f"{name}: {reason}" for name, reason in reasons.items()]
    return (_quick(plan, data, tuple(chosen)) if chosen else None), why


def _quick(plan: Plan, data: config_lib.Data, datasets: tuple[str, ...]) -> config_lib.Config:
    """A small run: the papers' networks, narrower, on small images, for a few minutes."""
    config = config_lib.Config(task=plan.task)
    config.data = dataclasses.replace(data, datasets=datasets, image_size=96, protocol="paper_b")
    config.optimizer = config_lib.Optimizer(learning_rate=3e-3, warmup_steps=50, ema_decay=0.99)
    config.evaluate = config_lib.Evaluate(size=256, external=(*INDEPENDENT, *STAND_INS))
    if plan.task == "classification":
        config.model = config_lib.Model(name="classifier", features=16, blocks=5)
        config.augment = config_lib.Augment(preset="paper_b")
        config.loss = config_lib.Loss(cross_entropy=1.0, dice=0.0)
        config.train = config_lib.Train(batch_size=32, steps=600, evaluate_every=200)
    else:
        widths = {"unet": 8, "segnet": 16, "encoder_decoder": 16}
        config.model = config_lib.Model(name=plan.model, features=widths[plan.model], depth=4)
        config.augment = config_lib.Augment(preset="none")
        config.train = config_lib.Train(batch_size=16, steps=700, evaluate_every=100)
    for name, value in plan.quick.items():
        setattr(config.train, name, value)
    return config_lib.validate(config)


def splits_of(run: Run) -> dict[str, pipeline.Examples]:
    """Opens the splits of a run whose records are there, drawn cells left out.

    Raises:
        DataError: they are not.
        ConfigError: there is no data set of a name, or the records are not those of the training.
    """
    config = run.config
    found = pipeline.load_splits(config.data, config.evaluate.size, config.task)
    experiment.check_splits(run.folder, found)
    for examples in found.values():
        examples.entries = [e for e in examples.entries if not is_synthetic(e[0].name)]
    return found


def confusion(results: Sequence[Mapping[str, Any] | None]) -> np.ndarray | None:
    """Returns the sum of the confusion matrices of several results, None where there is none."""
    matrices = [np.asarray(r["confusion"], np.int64) for r in results if r and r.get("confusion")]
    return np.sum(matrices, axis=0) if matrices else None
