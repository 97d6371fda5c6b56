"""Several processes on this machine: together they are one run, even if one of them ends."""

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
from etils import epath

from helpers import tiny_runs
from launch import local
from wbc_jax import config_checks, experiment
from wbc_jax.config import Distributed
from wbc_jax.training import checkpoint, metric_writer

pytestmark = pytest.mark.usefixtures("summing_exactly")

STEPS, EVERY = 12, 4
# Relative difference of a loss from that of one process: float32 sums in another order.
LOSS_TOLERANCE = 1e-5
SCORE_TOLERANCE = 1e-3
PAUSE = EVERY + 2
"""Step after which a run waits until the test has interrupted it."""
PATIENCE_SECONDS = tiny_runs.PATIENCE_SECONDS


def _config(data_dir):
    """Batch normalization, dropout, averaged weights, and images that no batch size divides."""
    config = tiny_runs.config(
        data_dir,
        model__depth=1,
        model__dropout=0.1,
        # Plain gradient descent, which does not amplify rounding.
        optimizer__name="sgd",
        optimizer__learning_rate=0.05,
        train__steps=STEPS,
        train__log_every=2,
        train__evaluate_every=EVERY,
        evaluate__batch_size=3,
        evaluate__external=(),
    )
    config.distributed = Distributed(heartbeat_seconds=20)
    return config_checks.validate(config)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, data_dir):
    """The uninterrupted run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    config = _config(data_dir)
    experiment.run(config, epath.Path(folder / "run"))
    file = tiny_runs.config_file(config, folder / "tiny.py")
    return types.SimpleNamespace(workdir=folder / "run", config=config, file=file)


def _arguments(file, workdir):
    return [f"--config={file}", f"--workdir={workdir}"]


@contextlib.contextmanager
def _launch(file, workdir, *options):
    command = [sys.executable, "-m", "launch.local", *options, "--", *_arguments(file, workdir)]
    process = subprocess.Popen(
        command,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()  # and with it the processes it started
        process.wait(PATIENCE_SECONDS)
        process.stdout.close()


def _environment():
    root = os.fspath(epath.Path(__file__).parents[2])
    return tiny_runs.environment() | {"PYTHONPATH": root}


def _paused(workdir):
    return any(line["step"] == PAUSE for line in metric_writer.read(workdir))


def _assert_same_run(alone, workdir, expected_hosts):
    """Asserts the same steps on the same images, and the same results up to rounding."""
    there, here = metric_writer.read(alone.workdir), metric_writer.read(workdir)
    assert [(line["kind"], line["step"]) for line in here] == [
        (line["kind"], line["step"]) for line in there
    ]
    assert len(here) == STEPS // 2 + STEPS // EVERY
    for x, y in zip(here, there):
        if x["kind"] == "train":
            assert x["loss"] == pytest.approx(y["loss"], rel=LOSS_TOLERANCE)
            assert x["drawn"] == y["drawn"] and x["epoch"] == y["epoch"]
            assert x["learning_rate"] == y["learning_rate"]
        else:
            assert x["score"] == pytest.approx(y["score"], abs=SCORE_TOLERANCE)
    reports = [
        json.loads((w / "report" / "metrics.json").read_text()) for w in (alone.workdir, workdir)
    ]
    scores = [r["results"][tiny_runs.DATASET]["mean_iou"] for r in reports]
    assert scores[1] == pytest.approx(scores[0], abs=SCORE_TOLERANCE)
    assert reports[1]["hardware"].startswith(f"{expected_hosts} x ")
    rows = [
        (w / "report" / "per_image.csv").read_text().splitlines() for w in (alone.workdir, workdir)
    ]
    assert [r.split(",")[:3] for r in rows[1]] == [r.split(",")[:3] for r in rows[0]]
    states = [
        tiny_runs.state(w, checkpoint.LAST, alone.config)[0] for w in (alone.workdir, workdir)
    ]
    assert int(states[1].step) == STEPS
    for x, y in zip(*(_flat(s) for s in states)):
        np.testing.assert_allclose(y, x, rtol=1e-3, atol=1e-5)


def _flat(state):
    import jax

    return [np.asarray(leaf) for leaf in jax.tree.leaves({"p": state.params, "s": state.stats})]


def test_a_killed_process_is_named_and_the_restarted_run_equals_that_of_one_process(
    alone, tmp_path
):
    workdir, go = tmp_path / "run", tmp_path / "go"
    file = tiny_runs.config_file(alone.config, tmp_path / "tiny.py", pause=(PAUSE, go))
    with _launch(file, workdir, "-n2", "--max_restarts=1", "--grace_seconds=5") as launcher:
        # Checkpoints are saved asynchronously: without a complete one the run would start over.
        saved = workdir / "checkpoints" / checkpoint.LAST / str(EVERY) / checkpoint.SUMS
        try:
            tiny_runs.wait_until(lambda: _paused(workdir) and saved.exists(), [launcher])
            workers = _workers(launcher.pid)
            assert len(workers) == 2
            victim, killed = max(workers), time.monotonic()
            os.kill(victim, signal.SIGKILL)
        finally:
            go.touch()
        while workers & _workers(launcher.pid):
            assert time.monotonic() < killed + 30
            time.sleep(0.05)
        output, _ = launcher.communicate(timeout=PATIENCE_SECONDS)
    assert launcher.returncode == 0, output
    named = f"process 1 of 2 (pid {victim}) was ended by SIGKILL"
    assert f"launch.local: {named}; the others have 5 s to end." in output
    assert "Starting all 2 again from the last checkpoint (restart 1 of 1)." in output
    assert re.findall(rf"\[0\] Going on from step (\d+) of {STEPS}", output) == [str(EVERY)]
    assert all(line.startswith(("[0] ", "[1] ", "launch.local: ")) for line in output.splitlines())
    # Only process 0 writes shared files.
    assert len(re.findall(r"\] Report: ", output)) == 1
    _assert_same_run(alone, workdir, 2)


def _workers(launcher: int) -> set[int]:
    """Returns the ids of the launcher's processes that still run."""
    found = set()
    for folder in epath.Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == launcher and fields[0] != "Z":
            found.add(int(folder.name))
    return found


@pytest.fixture(scope="module")
def stopped(alone, tmp_path_factory):
    """A run of two processes, the second of which received SIGTERM halfway."""
    folder = tmp_path_factory.mktemp("stopped")
    workdir, go = folder / "run", folder / "go"
    file = tiny_runs.config_file(alone.config, folder / "tiny.py", pause=(PAUSE, go))
    port = local.free_port()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "wbc_jax.main", *_arguments(file, workdir)],
            env=local.environment(index, 2, port, "cpu", _environment()),
            stdout=subprocess.DEVNULL,
            stderr=(folder / f"stderr{index}").open("w"),
        )
        for index in range(2)
    ]
    try:
        tiny_runs.wait_until(lambda: _paused(workdir), processes)
        processes[1].send_signal(signal.SIGTERM)
        go.touch()
        codes = [process.wait(PATIENCE_SECONDS) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    said = [(folder / f"stderr{index}").read_text().strip().splitlines()[-1] for index in range(2)]
    return types.SimpleNamespace(workdir=workdir, codes=codes, said=said)


def test_sigterm_to_one_stops_all_after_the_same_step(stopped, alone):
    assert stopped.codes == [128 + signal.SIGTERM] * 2, stopped.said
    assert stopped.said[0] == stopped.said[1]
    step = int(re.match(rf"SIGTERM came: saved at step (\d+) of {STEPS}\. Run", stopped.said[0])[1])
    assert PAUSE <= step < STEPS
    state, position = tiny_runs.state(stopped.workdir, checkpoint.LAST, alone.config)
    assert int(state.step) == position["step"] == step


def test_begun_by_two_and_finished_by_one(stopped, alone, tmp_path, capsys):
    workdir = epath.Path(shutil.copytree(stopped.workdir, tmp_path / "run"))
    experiment.run(alone.config, workdir)
    assert re.search(rf"Going on from step \d+ of {STEPS}", capsys.readouterr().out)
    _assert_same_run(alone, workdir, 1)


def test_begun_by_two_and_finished_by_four(stopped, alone, tmp_path):
    workdir = epath.Path(shutil.copytree(stopped.workdir, tmp_path / "run"))
    with _launch(alone.file, workdir, "-n4") as launcher:
        output, _ = launcher.communicate(timeout=PATIENCE_SECONDS)
    assert launcher.returncode == 0, output
    assert len(re.findall(rf"Going on from step \d+ of {STEPS}", output)) == 1
    _assert_same_run(alone, workdir, 4)


def test_an_error_is_reported_and_no_process_waits(alone, tmp_path):
    config = dataclasses.replace(
        alone.config, train=dataclasses.replace(alone.config.train, batch_size=7)
    )
    file = tiny_runs.config_file(config, tmp_path / "odd.py")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "launch.local", "-n", "2", "--"),
            *(f"--config={file}", f"--workdir={tmp_path / 'run'}"),
        ],
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert done.returncode == 1
    assert "error: 7 images are computed at once" in done.stdout
    assert "must be a multiple of 2 up to 2 here" in done.stdout
    assert "Traceback" not in done.stdout
