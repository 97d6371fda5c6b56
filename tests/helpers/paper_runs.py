"""Folders of finished runs as `experiment` writes them, with scores of random predictions."""

import json
import pathlib
import types
from typing import Any

import numpy as np
from etils import epath

from wbc_jax import config_checks, evaluate, metrics, provenance
from wbc_jax.config import Config, to_json
from wbc_jax.papers import plans
from wbc_jax.papers.comparison import Comparison, Row
from wbc_jax.papers.items import Content
from wbc_jax.papers.runs import RunStore
from wbc_jax.utils import atomic

MASKED = ("eosinophil", "lymphocyte", "monocyte", "neutrophil")
PER_TYPE = 6
"""Test images of each cell type in each data set."""


def store(folder: pathlib.Path | epath.Path, scale: str = "full") -> RunStore:
    """Returns the runs in a folder."""
    return RunStore(epath.Path(folder), scale, provenance.check_splits)


def rows_of(compared: Comparison | Content) -> dict[tuple[str, str], Row]:
    """Returns the rows of a table by row and column."""
    return {(row.row, row.column): row for row in compared.rows}


def summary(folder: pathlib.Path, name: str) -> dict[str, Any]:
    """Returns a run's `report/metrics.json`."""
    return json.loads((folder / name / "report" / "metrics.json").read_text())


def labels() -> np.ndarray:
    """Labels of a data set's test images."""
    return np.repeat(np.arange(5), PER_TYPE)


def probabilities(seed: int, right: float = 0.6) -> np.ndarray:
    """Probabilities of the cell types, `[N, 5]`; the share `right` predicts the true type."""
    rng = np.random.default_rng(seed)
    found = rng.dirichlet(np.ones(5), len(labels()))
    hits = rng.random(len(found)) < right
    found[hits] = 0.1 * found[hits] + 0.9 * np.eye(5)[labels()[hits]]
    return found


def type_scores(seed: int, right: float = 0.6) -> dict[str, Any]:
    """A data set's entry in `report/metrics.json` of a classifier."""
    return evaluate.cell_types.summarize(labels(), probabilities(seed, right), bootstrap=20)


def counts(seed: int, good: int = 60) -> metrics.SegmentationCounts:
    """Returns random counts of `4 * PER_TYPE` test images of four types."""
    rng = np.random.default_rng(seed)
    n = 4 * PER_TYPE
    confusion = rng.integers(1, 20, (n, 3, 3))
    confusion += np.eye(3, dtype=int) * rng.integers(20, good, (n, 1, 1))
    points = rng.integers(10, 30, (n, 3, 2))
    matched = rng.integers(0, points)
    boundary = np.stack([matched[..., 0], points[..., 0], matched[..., 1], points[..., 1]], -1)
    return metrics.SegmentationCounts(confusion, boundary)


def _examples(dataset: str) -> types.SimpleNamespace:
    labels = np.repeat(np.arange(1, 5), PER_TYPE)
    ids = [f"i{i}" for i in range(len(labels))]
    return types.SimpleNamespace(datasets=[dataset] * len(labels), ids=ids, labels=labels)


def mask_scores(seed: int, good: int = 60) -> dict[str, Any]:
    """A data set's entry in `report/metrics.json` of a segmentation run."""
    found = evaluate.masks.results(counts(seed, good), _examples("one"), bootstrap=20)
    return found["one"]


def mask_rows(seed: int, dataset: str, good: int = 60) -> list[dict[str, Any]]:
    """Rows of `report/per_image.csv` for the same images."""
    return evaluate.masks.rows(counts(seed, good), _examples(dataset))


def write(
    folder: pathlib.Path,
    name: str,
    results: dict[str, Any],
    external: dict[str, Any] | None = None,
    rows: list[dict[str, Any]] = (),
    external_rows: list[dict[str, Any]] = (),
) -> None:
    """Writes a run's folder; its log says that it trained on 100 images."""
    plan = plans.PLANS[name]
    where = folder / name
    config = Config(task=plan.task)
    config.data.datasets = tuple(n for n in results if n != "all")
    config.data.data_dir = str(folder / "no_records")
    config.model.name = plan.model
    if plan.task == "classification":
        config.model.blocks, config.loss.dice = 5, 0.0
    atomic.write_text(where / "config.json", to_json(config_checks.validate(config)))
    lisc = "lisc is not there: its terms"
    summary = {
        "task": plan.task,
        "results": results,
        "external": external or {},
        "skipped": {"lisc/crops": lisc, "bcd/crops": "no types"},
        "trained_steps": 50,
        "train_seconds": 90.0,
        "hardware": "1 x cpu",
    }
    atomic.write_json(where / "report" / "metrics.json", summary)
    line = (
        '{"kind": "train", "step": 50, "loss": 0.25, "mean_iou": 0.8, "accuracy": 0.7, '
        '"epoch": 8.0}\n'
    )
    atomic.write_text(where / "metrics.jsonl", line)
    for file, found in (("per_image.csv", rows), ("external.csv", external_rows)):
        if found:
            atomic.write_csv(where / "report" / file, found, list(found[0]))


def everything(folder: pathlib.Path) -> None:
    """Writes all the runs that the papers' tables are made from."""
    stand_ins = list(plans.STAND_INS)
    pooled = {"pbc": 1, "raabin_gt": 2, "kaggle_blood_cells/original": 3}
    external = {name: type_scores(20 + i, 0.3) for i, name in enumerate(stand_ins)}
    write(folder, "classifier", {n: type_scores(s) for n, s in pooled.items()}, external)
    for number, (name, dataset) in enumerate(
        (
            ("classifier_dataset_1", "pbc"),
            ("classifier_dataset_2_3", "raabin_gt"),
            ("classifier_dataset_4", "kaggle_blood_cells/original"),
        )
    ):
        found = {dataset: type_scores(30 + number, 0.8)}
        far = {n: type_scores(40 + 2 * number + i, 0.2) for i, n in enumerate(stand_ins)}
        write(folder, name, found, far)
    for number, name in enumerate(("encoder_decoder", "unet", "segnet", "paper_a_unet")):
        good = 100 - 25 * number
        write(
            folder,
            name,
            {"raabin_gt": mask_scores(number, good)},
            {n: mask_scores(10 * number + i, good) for i, n in enumerate(stand_ins)},
            mask_rows(number, "raabin_gt", good),
            [r for i, n in enumerate(stand_ins) for r in mask_rows(10 * number + i, n, good)],
        )
