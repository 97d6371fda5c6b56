"""Tiny runs on the synthetic data set, small enough to train inside a test."""

import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from wbc_jax import config_checks, models
from wbc_jax.config import Augment, Config, Data, Evaluate, Model, Optimizer, Train, to_json
from wbc_jax.parallel import sharding
from wbc_jax.training import checkpoint, metric_writer, steps

DATASET = "wbc_synthetic/small"
SIZE = 32
# The shared run is also scored on these: it is trained on the first, and the second is missing.
EXTERNAL = (DATASET, "raabin_gt")


def config(data_dir: Any, **fields: Any) -> Config:
    """Returns the config of a tiny run; `train__steps=3` sets `train.steps`."""
    made = Config(
        data=Data(
            datasets=(DATASET,),
            data_dir=str(data_dir),
            manual_dir=str(pathlib.Path(data_dir) / "nothing_here"),
            image_size=SIZE,
            threads=1,
        ),
        augment=Augment(flip=True, quarter_turns=False),
        model=Model(features=4, depth=2),
        optimizer=Optimizer(learning_rate=1e-2, warmup_steps=5, ema_decay=0.9),
        train=Train(batch_size=8, steps=240, log_every=5, evaluate_every=40),
        evaluate=Evaluate(size=SIZE, bootstrap=50, external=EXTERNAL),
    )
    for name, value in fields.items():
        section, field = name.split("__")
        assert hasattr(getattr(made, section), field)
        setattr(getattr(made, section), field, value)
    return config_checks.validate(made)


def least(data_dir: Any, **fields: Any) -> Config:
    """Returns `config` with the network that compiles fastest, and few steps."""
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


def types(data_dir: Any, **fields: Any) -> Config:
    """Returns `config` for the classification of cell types."""
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
    return config_checks.validate(made)


def state(workdir: Any, which: str, of: Config) -> tuple[steps.TrainState, dict]:
    """Returns the `best` or `last` checkpoint of a run: its arrays and its position."""
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


PATIENCE_SECONDS = 900
"""Limit for processes, generous because the machine may be busy with other work."""


def config_file(
    of: Config, path: pathlib.Path, pause: tuple[int, pathlib.Path] | None = None
) -> pathlib.Path:
    """Writes a config as a file for `--config`.

    With `pause=(step, go)` the process that reads it waits after it has logged that step, until a
    file `go` exists. Tiny runs last only moments: without the pause, a test that disturbs one in
    the middle would come too late on some machines.
    """
    text = to_json(of)
    lines = ["from wbc_jax import config_checks", "", "", "def get_config():"]
    lines += [f"    return config_checks.from_json({text!r})", ""]
    if pause is not None:
        tests, step, go = (
            os.fspath(pathlib.Path(__file__).parents[1]),
            pause[0],
            os.fspath(pause[1]),
        )
        lines += ["", "import sys", f"sys.path.insert(0, {os.fspath(tests)!r})"]
        lines += ["from helpers import tiny_runs"]
        lines += [f"tiny_runs.pause({step}, {go!r})", ""]
    path.write_text("\n".join(lines))
    return path


def pause(step: int, go: str) -> None:
    """Makes training in this process wait after it has logged a step (`config_file`)."""
    after_line(lambda at: at == step and wait_until(lambda: os.path.exists(go)))


def after_line(do: Callable[[int], Any]) -> None:
    """Makes training in this process call `do(step)` after each line of its log."""
    write = metric_writer.MetricWriter.write

    def written(self, kind, step, values):
        write(self, kind, step, values)
        do(step)

    metric_writer.MetricWriter.write = written


def wait_until(
    reached: Callable[[], bool], processes: Iterable[subprocess.Popen] = (), seconds: float = 0.005
) -> None:
    """Waits until `reached()`, asked every few `seconds`; no process may end before."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not reached():
        assert time.monotonic() < deadline
        assert all(process.poll() is None for process in processes)
        time.sleep(seconds)


def environment() -> dict[str, str]:
    """Returns the environment of a command, without the real images that this process may know."""
    return {k: v for k, v in os.environ.items() if k != "WBC_JAX_DATA"}


def devices(count: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Returns the variables that give a process of an environment `count` CPU devices."""
    flags = f"{environment.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}"
    return {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags.strip()}


FORKS = multiprocessing.get_context("forkserver")
"""Starts processes as forks of one that has only imported everything."""
FORKS.set_forkserver_preload(["wbc_jax.experiment", "wbc_jax.inference.shards"])


def command(
    module: str, *arguments: Any, cwd: Any, **variables: str
) -> subprocess.CompletedProcess:
    """Runs `python -m module arguments`, without the seconds that its imports take.

    Args:
        module: its name.
        *arguments: arguments of the command.
        cwd: its working directory.
        **variables: environment variables, in addition to those of this process.
    """
    arguments = [module, *map(str, arguments)]
    with tempfile.TemporaryDirectory() as folder:
        outputs = [pathlib.Path(folder, name) for name in ("stdout", "stderr")]
        for path in outputs:
            path.touch()
        process = FORKS.Process(
            target=_command, args=(arguments, str(cwd), environment() | variables, outputs)
        )
        process.start()
        process.join(PATIENCE_SECONDS)
        process.kill()
        process.join()
        texts = [path.read_text() for path in outputs]
    return subprocess.CompletedProcess(arguments, process.exitcode, *texts)


def _command(
    arguments: list[str], cwd: str, variables: dict[str, str], outputs: list[pathlib.Path]
) -> None:
    for number, path in enumerate(outputs, start=1):
        os.dup2(os.open(path, os.O_WRONLY), number)
    os.chdir(cwd)
    os.environ.clear()
    # Otherwise the command would restart itself to get huge pages.
    os.environ.update(variables | {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"})
    sys.argv = arguments
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
