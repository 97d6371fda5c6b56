"""The origin of a run's weights: its settings, its records, and the images they have seen.

One config and one set of records claim a run's folder. A test split is refused if the weights have
seen one of its images.
"""

import dataclasses
import hashlib
import json
import os
from typing import Any

import numpy as np
from etils import epath

from wbc_jax import config_checks, models
from wbc_jax.config import Config, Data, differences, to_json
from wbc_jax.data import isolation, pipeline, splits
from wbc_jax.data.keys import RecordKey
from wbc_jax.errors import ConfigError, WeightsError
from wbc_jax.inference import abstention, encoder_weights, replay
from wbc_jax.inference import model as inference
from wbc_jax.inference import weights as weights_lib
from wbc_jax.training import checkpoint, steps
from wbc_jax.utils import atomic, output_folder
from wbc_jax.utils.output_folder import OutputFolder

# Fields that do not change the weights: a run may be evaluated with other values.
FREE_FIELDS = (
    "data.data_dir",
    "data.manual_dir",
    "data.on_bad_file",
    "data.threads",
    "data.cache_megabytes",
    "train.remat",
    "train.compilation_cache",
    "mesh.data",
    "mesh.model",
    "checkpoint.keep_best",
    "checkpoint.keep_last",
    "distributed.heartbeat_seconds",
    "distributed.start_seconds",
    "evaluate.batch_size",
    "evaluate.flips",
    "evaluate.bootstrap",
    "evaluate.worst",
    "evaluate.external",
)
SPLITS_FILE = "splits.json"
RUN_FILES = (SPLITS_FILE, weights_lib.INITIAL, "metrics.jsonl", "checkpoints", "tensorboard")
"""Files and folders of a run beside its `config.json` and its report."""


def claim(config: Config, workdir: epath.Path) -> None:
    """Writes `config.json`, unless the folder holds another training.

    Raises:
        ConfigError: the folder holds another run; nothing is written.
    """
    check_claim(config, workdir)
    atomic.write_text(workdir / "config.json", to_json(config))


def check_claim(config: Config, workdir: epath.Path) -> None:
    """Checks that `workdir` is free, holds no checkpoint yet, or holds a run of the same training.

    Raises:
        ConfigError: the folder holds another run (lists the fields that differ), or files of a
            person that a run would replace.
    """
    path = workdir / "config.json"
    remedy = "move it away, or name another --workdir."
    if not path.exists():
        ours = output_folder.written(workdir)
        for name in RUN_FILES:
            if (workdir / name).exists() and name not in ours:
                raise ConfigError(
                    f"{workdir / name} is there, but no config.json of a run, so it is a file of "
                    f"something else: {remedy}"
                )
        return
    try:
        there = config_checks.from_json(path.read_bytes(), os.fspath(path))
    except ConfigError as error:
        raise ConfigError(f"{error} It is not replaced: {remedy}") from error
    # Before its first checkpoint a run has nothing to lose, and its config may be a mistake.
    if checkpoint.any_saved(workdir):
        different = differences(there, config, FREE_FIELDS)
        if different:
            raise ConfigError(
                f"{workdir} holds a run with another config:\n  "
                + "\n  ".join(different)
                + "\nName another --workdir, or delete this one to start over."
            )


def keep_initial(config: Config, workdir: epath.Path, test: pipeline.Examples) -> None:
    """Writes the weights that training starts from to `<workdir>/initial.safetensors`.

    The run then no longer needs their origin, and knows the images that they have seen.

    Raises:
        CheckpointError, DataError: the weights, or the records of their training, are missing.
        ConfigError: they are of another network, or have seen images of the test split.
        WeightsError: there are no ImageNet weights for the network.
    """
    path, name = workdir / weights_lib.INITIAL, config.train.init_from
    if checkpoint.any_saved(workdir):
        return
    path.unlink(missing_ok=True)  # left by a run that never began
    if not name:
        return
    if name == encoder_weights.NAME:
        network = models.build(config.model, config.train.seed, image_size=config.data.image_size)
        _, started = steps.split_network(network)
        started["params"] = encoder_weights.fill(started["params"], config.model.variant)
        weights_lib.write(path, config, 0, started, [], np.float32)
        OutputFolder(workdir).record(weights_lib.INITIAL)  # no config.json is there yet
        return
    initial = inference.load(name)
    _, like = inference.empty_state(config)
    here = _shapes({"params": like.params, "stats": like.stats})
    there = _shapes(initial.weights)
    if there != here:
        odd = sorted(k for k in there.keys() | here.keys() if there.get(k) != here.get(k))[0]
        different = differences(initial.config, config)
        fields = [line for line in different if line.startswith(("config.task", "config.model"))]
        raise ConfigError(
            f"config.train.init_from is {name!r}, whose network is another one: {odd} is "
            f"{there.get(odd, 'not there')} there and {here.get(odd, 'not there')} here. Set these "
            "fields as they are there:\n  " + "\n  ".join(fields)
        )
    seen = seen_by(name, initial)
    refuse_seen(name, seen, test)
    weights_lib.write(path, initial.config, initial.step, initial.weights, seen, np.float32)
    OutputFolder(workdir).record(weights_lib.INITIAL)  # no config.json is there yet


def seen_by(name: epath.PathLike, model: inference.Model) -> list[RecordKey]:
    """Returns the images that a model was trained on and selected by.

    Args:
        name: the run or weights file that `model` was loaded from. For a run, the records of its
            data sets are read.
        model: the model.

    Raises:
        ConfigError: the run's records are split differently now.
        DataError: they are missing.
    """
    if model.seen is not None:
        return model.seen
    config, workdir = model.config, epath.Path(name).expanduser()
    # Images are not looked at.
    whole = isolation.whole(config.data)
    examples = pipeline.load_splits(whole, config.evaluate.size, config.task)
    check_splits(workdir, examples)
    return examples["train"].keys + examples["validation"].keys + seen_before(workdir)


def seen_before(workdir: epath.Path) -> list[RecordKey]:
    """Returns the images that a run's initial weights had seen."""
    path = workdir / weights_lib.INITIAL
    return weights_lib.read(path).seen if path.exists() else []


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {name: leaf.shape for name, leaf in weights_lib.named(tree).items()}


def refuse_seen(name: epath.PathLike, seen: list[RecordKey], test: pipeline.Examples) -> None:
    """Checks that a model has seen no image of the test split and no near duplicate of one.

    Raises:
        ConfigError: it has; names three of them.
    """
    if leaks := splits.seen(seen, test.keys):
        shown = ", ".join(f"{test.datasets[i]} {test.ids[i]}" for i in sorted(leaks)[:3])
        raise ConfigError(
            f"{name} has seen {len(leaks)} of the {len(test)} test images in training, or near "
            f"duplicates of them ({shown}, …); their score would mean nothing. Give config.data "
            "the data sets, protocol and split_seed that it was trained with, or data sets that it "
            "has not seen."
        )


def fingerprints(examples: dict[str, pipeline.Examples]) -> dict[str, str]:
    """Returns a SHA-256 of each split's records (data set, id and perceptual hash)."""
    found = {}
    for name in splits.SPLITS:
        lines = sorted(
            f"{key.dataset}\0{key.id}\0{'' if key.hash is None else key.hash.hex()}"
            for key in examples[name].keys
        )
        found[name] = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return found


def check_splits(workdir: epath.Path, examples: dict[str, pipeline.Examples]) -> None:
    """Checks that the records are still split as they were when the run in `workdir` began.

    Images added or removed shift the splits, so that training images could become test images.

    Raises:
        ConfigError: a split has changed; names it.
    """
    path = workdir / SPLITS_FILE
    if not path.exists() or not checkpoint.any_saved(workdir):
        return
    there, here = json.loads(path.read_text()), fingerprints(examples)
    changed = [name for name in splits.SPLITS if there.get(name) != here[name]]
    if changed:
        raise ConfigError(
            f"{workdir} was trained on other records: the {', '.join(changed)} split has changed "
            "since (images added, removed or replaced). Name another --workdir, or restore the "
            "data."
        )


def portable(config: Config) -> Config:
    """Returns a config for a file that goes to other people: without paths of this machine."""
    data = dataclasses.replace(config.data, data_dir=Data().data_dir, manual_dir="")
    return dataclasses.replace(config, data=data)


def write_weights(run: epath.PathLike, path: epath.PathLike, dtype: str = "float16") -> None:
    """Writes the best checkpoint of a run as a weights file that lists the images it has seen.

    Writes its abstention rule and its replay beside it, if there are any. Reads the records of the
    run's data sets for the list of images.

    Args:
        run: the run's folder.
        path: a `.safetensors` file.
        dtype: `float16` or `float32`.

    Raises:
        CheckpointError, ConfigError: there is no run, or its records are split differently now.
        DataError: its records are missing.
        WeightsError: `run` is not a run's folder, or a weight exceeds the range of `dtype`.
    """
    if weights_lib.find(run):
        raise WeightsError(f"{run} is a file of weights already; name a run's folder.")
    model = inference.load(run)
    seen = seen_by(run, model)
    weights_lib.write(
        path, portable(model.config), model.step, model.weights, seen, np.dtype(dtype)
    )
    for path_of in (abstention.rule_path, replay.replay_path):
        if (beside := path_of(run)).exists():
            atomic.write_bytes(path_of(path), beside.read_bytes())
