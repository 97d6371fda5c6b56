"""Tiny runs on the drawn data set, small enough to be trained inside a test."""

import os
import pathlib
import subprocess
import sys
from typing import Any

import jax
import numpy as np
from etils import epath

from wbc_jax import checkpoint, models, sharding, steps
from wbc_jax import config as config_lib

DATASET = "wbc_synthetic/small"
SIZE = 32
# What the shared run is scored on beside its test split: it is trained on the first, and the
# second is not there.
EXTERNAL = (DATASET, "raabin_gt")


def config(data_dir: Any, **fields: Any) -> config_lib.Config:
    """The config of a tiny run; `train__steps=3` sets `train.steps`."""
    made = config_lib.Config(
        data=config_lib.Data(
            datasets=(DATASET,),
            data_dir=str(data_dir),
            manual_dir=str(pathlib.Path(data_dir) / "nothing_here"),
            image_size=SIZE,
            threads=1,
        ),
        augment=config_lib.Augment(flip=True, quarter_turns=False),
        model=config_lib.Model(features=4, depth=2),
        optimizer=config_lib.Optimizer(learning_rate=1e-2, warmup_steps=5, ema_decay=0.9),
        train=config_lib.Train(batch_size=8, steps=240, log_every=5, evaluate_every=40),
        evaluate=config_lib.Evaluate(size=SIZE, bootstrap=50, external=EXTERNAL),
    )
    for name, value in fields.items():
        section, field = name.split("__")
        assert hasattr(getattr(made, section), field)
        setattr(getattr(made, section), field, value)
    return config_lib.validate(made)


def least(data_dir: Any, **fields: Any) -> config_lib.Config:
    """As `config`, with the network that compiles soonest and few steps."""
    quick = {
        "augment__flip": False,
        "model__features": 2,
        "model__depth": 1,
        "model__norm": "none",
        "optimizer__ema_decay": 0.0,
        "train__batch_size": 4,
        "train__steps": 6,
        "train__log_every": 1,
        "train__evaluate_every": 1,
        "evaluate__external": (),
    }
    return config(data_dir, **(quick | fields))


def types(data_dir: Any, **fields: Any) -> config_lib.Config:
    """As `config`, of the cells' types."""
    settings = {
        "model__name": "classifier",
        "model__blocks": 3,
        "loss__dice": 0.0,
        "train__steps": 60,
        "train__evaluate_every": 20,
    }
    made = config(data_dir, model__name="unet")
    made.task = "classification"
    for name, value in (settings | fields).items():
        section, field = name.split("__")
        setattr(getattr(made, section), field, value)
    return config_lib.validate(made)


def state(workdir: Any, which: str, of: config_lib.Config) -> tuple[steps.TrainState, dict]:
    """The `best` or `last` checkpoint of a run: its arrays and its position."""
    model = models.build(of.model, of.train.seed, image_size=of.data.image_size)
    _, weights = steps.split_network(model)
    with checkpoint.Checkpoints(workdir) as checkpoints:
        return checkpoints.restore(which, steps.init_state(of, weights, sharding.make_mesh(1)))


def assert_equal(first: Any, second: Any) -> None:
    """Asserts that two trees hold the same arrays, bit for bit."""
    one, two = jax.tree.leaves_with_path(first), jax.tree.leaves_with_path(second)
    assert [path for path, _ in one] == [path for path, _ in two]
    for (path, x), (_, y) in zip(one, two):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=str(path))


def config_file(of: config_lib.Config, path: pathlib.Path) -> pathlib.Path:
    """Writes a config as a file for `--config`."""
    text = config_lib.to_json(of)
    path.write_text(
        "from wbc_jax import config\n\n\ndef get_config():\n"
        f"    return config.from_json({text!r})\n"
    )
    return path


def run_to_end(config_json: str, workdir: str, output: str) -> None:
    """What a process does that is started to be killed; what it prints goes to a file."""
    from wbc_jax import experiment

    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    experiment.run(config_lib.from_json(config_json), epath.Path(workdir))


def environment() -> dict[str, str]:
    """Of a command: without the real images that this one may name."""
    return {k: v for k, v in os.environ.items() if k != "WBC_JAX_DATA"}


def command(module: str, *arguments: Any, cwd: Any) -> subprocess.CompletedProcess:
    """Runs `python -m module arguments` to its end."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=900,
    )
