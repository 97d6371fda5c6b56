"""A run that was interrupted and resumed ends with the bits of an uninterrupted one."""

import dataclasses
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import types

import pytest
from etils import epath

from helpers import tiny_runs
from wbc_jax import config_checks, experiment
from wbc_jax.config import to_json
from wbc_jax.errors import ConfigError
from wbc_jax.report import run_page
from wbc_jax.training import checkpoint, metric_writer


@pytest.fixture(scope="module")
def resumed(run, tmp_path_factory):
    """The shared run, stopped halfway by SIGTERM and resumed by the same command."""
    folder = tmp_path_factory.mktemp("resume")
    go = folder / "go"
    file = tiny_runs.config_file(run.config, folder / "tiny.py", pause=(15, go))
    # A relative folder, as people type it.
    arguments = ["-m", "wbc_jax.main", f"--config={file}", "--workdir=runs/tiny"]
    workdir = folder / "runs" / "tiny"
    with (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env=tiny_runs.environment(),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
        try:
            tiny_runs.wait_until(lambda: len(metric_writer.read(workdir)) == 3, [process])
            process.send_signal(signal.SIGTERM)
            go.touch()
            code = process.wait(tiny_runs.PATIENCE_SECONDS)
        finally:
            process.kill()
            process.wait()
    lines = metric_writer.read(workdir)
    last = (folder / "stderr").read_text().strip().splitlines()[-1]
    again = tiny_runs.command("wbc_jax.main", *arguments[2:], cwd=folder)
    return types.SimpleNamespace(
        workdir=workdir, code=code, message=last, lines=lines, again=again, config=run.config
    )


def _without_times(lines):
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def test_sigterm_saves_and_says_how_to_resume(resumed):
    assert resumed.code == 128 + signal.SIGTERM
    found = re.fullmatch(
        r"SIGTERM came: saved at step (\d+) of 240\. Run the same command again to go on from "
        r"there\.",
        resumed.message,
    )
    step = int(found[1])
    assert 15 <= step < 240
    assert len(_train(resumed.lines)) == step // 5
    assert resumed.again.returncode == 0, resumed.again.stderr
    assert f"Going on from step {step} of 240" in resumed.again.stdout


def _train(lines):
    return [line for line in lines if line["kind"] == "train"]


def test_ends_with_the_same_state_bit_for_bit(run, resumed):
    for which in (checkpoint.BEST, checkpoint.LAST):
        there, at = tiny_runs.state(run.workdir, which, run.config)
        here, position = tiny_runs.state(resumed.workdir, which, run.config)
        tiny_runs.assert_equal(there, here)
        assert position | {"seconds": 0} == at | {"seconds": 0}


def test_ends_with_the_same_log_and_report(run, resumed):
    there, here = metric_writer.read(run.workdir), metric_writer.read(resumed.workdir)
    assert _without_times(here) == _without_times(there)
    assert _without_times(resumed.lines) == _without_times(there)[: len(resumed.lines)]
    reports = [
        json.loads((w / "report" / "metrics.json").read_text())
        for w in (run.workdir, resumed.workdir)
    ]
    assert reports[1].pop("train_seconds") > 0 and reports[0].pop("train_seconds") > 0
    assert reports[0] == reports[1]
    tables = [(w / "report" / "per_image.csv").read_text() for w in (run.workdir, resumed.workdir)]
    assert tables[0] == tables[1]


# Moments of the kills: anywhere after the start, in a save, at the start. The last one hits
# evaluation.
MOMENTS = ("any", "save", "start", "save")


def _killed_until_done(config, folder, kills, seed):
    """Starts a run, kills and restarts it `kills` times, and lets it end.

    The processes are forks of one that has only imported everything. Each waits for its kill where
    it would otherwise miss that moment (`_run_to_end`).

    Returns the run's folder, and for each kill its moment and whether it hit a save.
    """
    workdir, output = folder / "run", folder / "output"
    settings = config.train
    all_lines = settings.steps // settings.log_every + settings.steps // settings.evaluate_every
    rng, landed = random.Random(seed), []
    moments = [MOMENTS[i % len(MOMENTS)] for i in range(kills - 1)] + ["end", "never"]

    def saving():  # after compiling, the remains of earlier kills are removed
        return "Compiled in" in output.read_text() and any(
            path.parent.name == checkpoint.LAST for path in _unfinished(workdir)
        )

    def lines():
        return len(metric_writer.read(workdir)) if "Compiled in" in output.read_text() else 0

    reached = {
        "any": lambda: lines() >= target,
        "save": saving,
        "start": lambda: True,
        "end": lambda: "Scoring the" in output.read_text(),
        "never": lambda: False,
    }
    for moment in moments:
        output.write_text("")
        target = len(metric_writer.read(workdir)) + rng.randint(0, 15)  # lines of the log
        target = min(target, all_lines - AHEAD)
        process = tiny_runs.FORKS.Process(
            target=_run_to_end,
            args=(to_json(config), str(workdir), str(output), moment, target + AHEAD),
        )
        process.start()
        deadline = time.monotonic() + tiny_runs.PATIENCE_SECONDS
        late = {"any": 0.1, "save": 0.02, "start": 4, "end": 1}.get(moment, 0)
        try:
            while process.exitcode is None and not reached[moment]():
                assert time.monotonic() < deadline, output.read_text()
                time.sleep(0.002)
            time.sleep(rng.uniform(0, late))
        finally:
            process.kill()
            process.join()
        wanted = 0 if moment == "never" else -signal.SIGKILL
        assert process.exitcode == wanted, (moment, output.read_text())
        if moment != "never":
            landed.append((moment, saving()))
    return workdir, landed


AHEAD = 8
"""Lines of the log that a run may write after the moment of its kill, before it waits."""


def _run_to_end(config_json, workdir, output, moment, lines):
    """Runs in its own process, which waits where it would miss the moment of its kill.

    It prints to the file `output`.
    """
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    rename = os.rename

    def rename_others(source, target):
        if checkpoint.LAST in pathlib.Path(source).parts:
            _wait_for_kill()
        rename(source, target)

    if moment == "any":
        tiny_runs.after_line(lambda _: len(metric_writer.read(workdir)) < lines or _wait_for_kill())
    elif moment == "start":
        tiny_runs.after_line(_wait_for_kill)
    elif moment == "save":
        os.rename = rename_others
    elif moment == "end":
        run_page.write = _wait_for_kill
    experiment.run(config_checks.from_json(config_json), epath.Path(workdir))


def _wait_for_kill(*_, **__):
    while True:
        time.sleep(60)


def _unfinished(workdir):
    return [p for p in (workdir / "checkpoints").glob("*/*") if "orbax-checkpoint-tmp" in p.name]


def _assert_same_run(there, here, config):
    """Asserts that two runs ended with the same bits, except for times."""
    for which in (checkpoint.BEST, checkpoint.LAST):
        state, position = tiny_runs.state(there, which, config)
        other, at = tiny_runs.state(here, which, config)
        tiny_runs.assert_equal(state, other)
        assert at | {"seconds": 0} == position | {"seconds": 0}
    assert _without_times(metric_writer.read(here)) == _without_times(metric_writer.read(there))
    reports = [json.loads((w / "report" / "metrics.json").read_text()) for w in (there, here)]
    assert all(report.pop("train_seconds") > 0 for report in reports)
    assert reports[0] == reports[1]
    for name in ("per_image.csv", "external.csv"):
        assert (here / "report" / name).read_bytes() == (there / "report" / name).read_bytes()


def test_killed_three_times_it_ends_with_the_same_bits(run, tmp_path):
    workdir, landed = _killed_until_done(run.config, tmp_path, 3, seed=0)
    assert len(landed) == 3 and any(inside for _, inside in landed)
    _assert_same_run(run.workdir, workdir, run.config)
    assert not _unfinished(workdir)


@pytest.mark.slow
def test_killed_twenty_times_it_ends_with_the_same_bits(data_dir, tmp_path, capsys):
    config = tiny_runs.config(data_dir, train__steps=240, train__evaluate_every=6)
    experiment.run(config, epath.Path(tmp_path / "whole"))
    workdir, landed = _killed_until_done(config, tmp_path, 20, seed=1)
    inside = sum(inside for _, inside in landed)
    with capsys.disabled():
        print(f"\n{len(landed)} kills, {inside} of them inside a save: {landed}")
    assert len(landed) == 20 and inside >= 5
    _assert_same_run(tmp_path / "whole", workdir, config)


@pytest.mark.parametrize("which", [checkpoint.LAST, checkpoint.BEST])
def test_with_a_flipped_bit_it_ends_with_the_same_bits(run, tmp_path, which, caplog, capsys):
    workdir = epath.Path(shutil.copytree(run.workdir, tmp_path / "run"))
    folder = workdir / "checkpoints" / which
    newest = max(int(p.name) for p in folder.iterdir())
    files = [p for p in (folder / str(newest) / "state" / "d").iterdir()]
    data = bytearray(files[0].read_bytes())
    data[len(data) // 2] ^= 0x10
    files[0].write_bytes(data)
    experiment.run(run.config, workdir)
    assert f"{folder / str(newest)} is damaged (state/d/{files[0].name} is not what" in caplog.text
    if which == checkpoint.LAST:
        assert "Going on from step 200 of 240" in capsys.readouterr().out
    _assert_same_run(run.workdir, workdir, run.config)


def _contents(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in folder.rglob("*")
        if p.is_file() and p.relative_to(folder).parts[0] != "report"
    }


def test_a_finished_run_is_not_trained_again(resumed, capsys):
    before = _contents(resumed.workdir)
    experiment.run(resumed.config, epath.Path(resumed.workdir))
    out = capsys.readouterr().out
    assert "Going on from step 240 of 240" not in out
    assert "Training is complete (step 240)." in out
    assert _contents(resumed.workdir) == before


def test_another_config_is_refused_and_nothing_overwritten(run):
    before = _contents(run.workdir)
    other = dataclasses.replace(
        run.config,
        model=dataclasses.replace(run.config.model, features=5),
        train=dataclasses.replace(run.config.train, seed=3),
        evaluate=dataclasses.replace(run.config.evaluate, flips=True),
    )
    for do in (experiment.run, experiment.evaluate_run):
        with pytest.raises(ConfigError) as caught:
            do(other, epath.Path(run.workdir))
        text = str(caught.value)
        assert text.splitlines()[1:-1] == [
            "  config.model.features: 4 there, 5 here",
            "  config.train.seed: 0 there, 3 here",
        ]
        assert str(run.workdir) in text and "--workdir" in text
    assert _contents(run.workdir) == before
