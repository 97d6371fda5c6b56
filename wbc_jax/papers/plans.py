"""The runs that the tables need: their data sets, their configs and the commands that make them.

A run's folder is named after its plan. At full scale the run is the training that the papers'
configs describe; at quick scale it is a small one.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from etils import epath

from wbc_jax import config_checks
from wbc_jax.config import Augment, Config, Data, Evaluate, Loss, Model, Optimizer, Train
from wbc_jax.data import building, preparing, sources
from wbc_jax.errors import DataError

SCALES = ("quick", "full")
DEFAULT_DATA = "../shared/data"
"""Folder of the authors' files if `$WBC_JAX_DATA` is not set, as in the README."""
SYNTHETIC = "wbc_synthetic"

INDEPENDENT = ("lisc/crops", "bcd/crops")
"""Paper B's Datasets 5 and 6."""
STAND_INS = {
    "segmentation_wbc/jtsc": "JTSC (stand-in)",
    "segmentation_wbc/cellavision": "CellaVision of Zheng (stand-in)",
}
"""Sources that no run trains on, and the titles of their columns."""
STAND_IN_NOTE = (
    "Stand-ins are sources that no run has trained on: JTSC and CellaVision of Zheng et al. 2018. "
    "They are other images than the paper's."
)
DATASETS: dict[str, tuple[str, ...]] = {
    "Dataset 1": ("pbc",),
    "Dataset 2 & 3": ("raabin_wbc/crops", "raabin_gt"),
    "Dataset 4": ("kaggle_blood_cells/original",),
    "Dataset 5": ("lisc/crops",),
    "Dataset 6": ("bcd/crops",),
}
"""Paper B's data sets by the names of ours; the first available one is used."""
TRAINED = ("Dataset 1", "Dataset 2 & 3", "Dataset 4")
"""Those of paper B's data sets that its networks learn from."""
MASKED = ("raabin_gt",)
"""Paper B's data sets with published masks (its authors drew the others)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A run that a table needs.

    Attributes:
        name: the name of its folder.
        title: a description in words.
        config: file of the full protocol.
        task, model: as in `config.task` and `config.model.name`.
        train: for each data set of the paper, ours that can replace it, the best first.
        quick: fields of `config.train` in which the quick run differs from `_quick`.
        quick_name: another plan whose run is shared at quick scale; empty if it has its own.
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
    train = tuple(DATASETS[d] for d in datasets)
    config = "configs/paper_b_classifier.py"
    return Plan(name, title, config, "classification", "classifier", train, quick)


def _segmenter(model: str, title: str) -> Plan:
    return Plan(model, title, f"configs/paper_b_{model}.py", "segmentation", model, (MASKED,))


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
            (MASKED,),
            quick_name="unet",
        ),
    )
}


def same_dataset(first: str, second: str) -> bool:
    """Returns whether two names mean one data set; either may omit its config (`pbc`)."""
    bases = [name.partition("/")[0] for name in (first, second)]
    return first == second or (bases[0] == bases[1] and ("/" not in first or "/" not in second))


def is_synthetic(dataset: str) -> bool:
    """Returns whether the cells of a data set are drawn by a program."""
    return dataset.partition("/")[0] == SYNTHETIC


def folder(plan: Plan, workdir: epath.Path, scale: str) -> epath.Path:
    """Returns the folder of a plan's run."""
    return workdir / (plan.quick_name if scale == "quick" and plan.quick_name else plan.name)


def command(plan: Plan, workdir: epath.Path, scale: str) -> str:
    """Returns the command line that makes a run."""
    if scale == "quick":
        paper = plan.config.partition("paper_")[2][0]
        return (
            f"python -m wbc_jax.main --mode=reproduce --paper={paper} --scale=quick "
            f"--workdir={workdir}"
        )
    datasets = ",".join(alternatives[0] for alternatives in plan.train)
    external = ",".join((*INDEPENDENT, *STAND_INS, *(names[0] for names in others(plan).values())))
    line = (
        f"python -m wbc_jax.main --config={plan.config} --workdir={folder(plan, workdir, scale)} "
        f"--config.data.datasets={datasets} --config.evaluate.external={external}"
    )
    manual = data_settings().manual_dir
    return f"{line} --config.data.manual_dir={manual}" if manual else line


def others(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Returns the data sets that the network of one data set is tested across.

    Returns:
        Ours that can replace each of the paper's other data sets, by its name; none for a network
        that learns from several, or that predicts masks.
    """
    if plan.task != "classification" or len(plan.train) > 1:
        return {}
    return {name: DATASETS[name] for name in TRAINED if DATASETS[name] not in plan.train}


def data_settings() -> Data:
    """Returns the data settings: `$WBC_JAX_DATA`, or `../shared/data` if that is a folder."""
    data = Data()
    if not os.environ.get(sources.MANUAL_DIR_VARIABLE) and pathlib.Path(DEFAULT_DATA).is_dir():
        data.manual_dir = DEFAULT_DATA
    return data


def why_unavailable(name: str, data: Data) -> str:
    """Prepares the records of a data set if its files are there.

    Returns:
        '' if the records can be read, else the reason why not.
    """
    try:
        with building.no_downloads():
            preparing.prepare(name, data)
    except (DataError, OSError) as error:
        return str(error).splitlines()[0]
    return ""


def quick_config(plan: Plan, data: Data) -> tuple[Config | None, list[str]]:
    """Returns the config of a plan's quick run on the available data sets.

    Returns:
        The config, None if no data set of the plan is available; and the reasons why others are
        not.
    """
    chosen, unavailable = [], []
    for alternatives in plan.train:
        reasons = {}
        for name in alternatives:
            reason = why_unavailable(name, data)
            if not reason:
                chosen.append(name)
                break
            reasons[name] = reason
        else:
            unavailable += [f"{name}: {reason}" for name, reason in reasons.items()]
    return (_quick(plan, data, tuple(chosen)) if chosen else None), unavailable


def _quick(plan: Plan, data: Data, datasets: tuple[str, ...]) -> Config:
    """Returns a small run: the paper's network, narrower, on small images, for a few minutes."""
    config = Config(task=plan.task)
    config.data = dataclasses.replace(data, datasets=datasets, image_size=96, protocol="paper_b")
    config.optimizer = Optimizer(learning_rate=3e-3, warmup_steps=50, ema_decay=0.99)
    across = [
        next((n for n in ours if not why_unavailable(n, data)), ours[0])
        for ours in others(plan).values()
    ]
    config.evaluate = Evaluate(size=256, external=(*INDEPENDENT, *STAND_INS, *across))
    if plan.task == "classification":
        config.model = Model(name="classifier", features=16, blocks=5)
        config.augment = Augment(preset="paper_b")
        config.loss = Loss(cross_entropy=1.0, dice=0.0)
        config.train = Train(batch_size=32, steps=600, evaluate_every=200)
    else:
        widths = {"unet": 8, "segnet": 16, "encoder_decoder": 16}
        config.model = Model(name=plan.model, features=widths[plan.model], depth=4)
        config.augment = Augment(preset="none")
        config.train = Train(batch_size=16, steps=700, evaluate_every=100)
    for name, value in plan.quick.items():
        setattr(config.train, name, value)
    return config_checks.validate(config)
