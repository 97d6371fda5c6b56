"""Stopped and gone on with, a run ends as if it had not been stopped."""

import dataclasses
import json
import re
import signal
import subprocess
import sys
import time
import types

import pytest
from etils import epath

import tiny_runs
from wbc_jax import checkpoint, experiment, metric_writer
from wbc_jax import config as config_lib


@pytest.fixture(scope="module")
def resumed(run, tmp_path_factory):
    """The shared run's command, ended by SIGTERM in the middle and given again."""
    folder = tmp_path_factory.mktemp("resume")
    file = tiny_runs.config_file(run.config, folder / "tiny.py")
    # A relative folder, as everybody types it.
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
        deadline = time.monotonic() + 120
        while len(metric_writer.read(workdir)) < 3 and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        code = process.wait(120)
    lines = metric_writer.read(workdir)
    last = (folder / "stderr").read_text().strip().splitlines()[-1]
    again = tiny_runs.command("wbc_jax.main", *arguments[2:], cwd=folder)
    return types.SimpleNamespace(
        workdir=workdir, code=code, message=last, lines=lines, again=again, config=run.config
    )


def _without_times(lines):
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def test_sigterm_saves_and_says_how_to_go_on(resumed):
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
        with pytest.raises(config_lib.ConfigError) as caught:
            do(other, epath.Path(run.workdir))
        text = str(caught.value)
        assert text.splitlines()[1:-1] == [
            "  config.model.features: 4 there, 5 here",
            "  config.train.seed: 0 there, 3 here",
        ]
        assert str(run.workdir) in text and "--workdir" in text
    assert _contents(run.workdir) == before


def test_a_free_field_may_differ(run, tmp_path):
    workdir = epath.Path(tmp_path / "run")
    experiment.claim(run.config, workdir)
    flipped = dataclasses.replace(
        run.config, evaluate=dataclasses.replace(run.config.evaluate, flips=True)
    )
    experiment.claim(flipped, workdir)
    assert config_lib.from_json((workdir / "config.json").read_text()).evaluate.flips


def test_a_command_that_cannot_start_does_not_claim_the_folder(data_dir, tmp_path):
    workdir = epath.Path(tmp_path / "run")
    config = tiny_runs.least(data_dir, data__datasets=("wbc_synthetc",))
    with pytest.raises(config_lib.ConfigError, match="no data set 'wbc_synthetc'"):
        experiment.run(config, workdir)
    assert not (workdir / "config.json").exists()
