"""python -m wbc_jax.main: wrong flags and configs are said in one line, not in a traceback."""

import os
import shutil
import socket

import pytest

from helpers import tiny_runs
from wbc_jax.utils.output_folder import OutputFolder


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data_dir):
    folder = tmp_path_factory.mktemp("main")
    tiny_runs.config_file(tiny_runs.least(data_dir), folder / "tiny.py")
    return folder


def _error(folder, *arguments):
    done = tiny_runs.command("wbc_jax.main", *arguments, cwd=folder)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    # Nothing was begun, so that the mended command finds a free folder.
    assert not (folder / "runs").exists()
    lines = done.stderr.strip().splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], done.stderr
    return lines[-1]


@pytest.mark.parametrize(
    "argument, expected",
    [
        ("--config.train.stepz=3", ("Did you mean config.train.steps?", "wbc_jax/config.py")),
        ("--config.features=8", ("config has no field 'features'", "config.model.features?")),
        ("--config.evaluate.batchsize=8", ("Did you mean config.evaluate.batch_size?",)),
        ("--config.train.steps=many", ("--config.train.steps=many", "invalid literal")),
        ("--config.augment.flip=perhaps", ("--config.augment.flip=perhaps", "oolean")),
        ("--mode=trian", ("--mode=trian", "train|evaluate|prepare")),
        ("--stepz=3", ("flag 'stepz'",)),
        ("--config=configs/none.py", ("no config file 'configs/none.py'",)),
        ("--config=.", ("no config file '.'",)),
        ("train.steps=3", ("unexpected argument 'train.steps=3'", "--config.FIELD=VALUE")),
        ("--config.train.steps=0", ("config.train.steps is 0; it must be at least 1",)),
        ("--config.data.datasets=raabin", ("no data set 'raabin'", "raabin_gt", "wbc_synthetic")),
        ("--mode=evaluate", ("runs/tiny holds no run", "train first")),
    ],
)
def test_errors(folder, argument, expected):
    text = _error(folder, "--config=tiny.py", argument)
    for part in expected:
        assert part in text


@pytest.mark.parametrize(
    "line, expected",
    [
        ("made.train.stepz = 3", "Did you mean config.train.steps?"),
        ("made.features = 8", "Did you mean config.model.features?"),
        ("made.train = config.Train(step=3)", "Did you mean config.train.steps?"),
    ],
)
def test_a_config_file_with_an_unknown_field_is_named(folder, line, expected):
    head = "from wbc_jax import config\n\n\ndef get_config():\n    made = config.Config()\n"
    (folder / "misspelt.py").write_text(f"{head}    {line}\n    return made\n")
    text = _error(folder, "--config=misspelt.py")
    assert text.startswith("error: ") and "misspelt.py, line 6: config" in text
    assert expected in text and text.endswith("All fields are described in wbc_jax/config.py.")


def test_no_config(folder):
    assert "--config=configs/unet.py" in _error(folder)


def test_missing_data_folder(folder):
    # Replaces the file's data sets, where --config.data.datasets would add to them.
    made = tiny_runs.least(
        folder, data__datasets=("raabin_gt",), data__manual_dir="/nowhere/at/all"
    )
    tiny_runs.config_file(made, folder / "real.py")
    text = _error(folder, "--config=real.py")
    for part in ("raabin_gt", "https://raabindata.com", "/nowhere/at/all/raabin_gt/images"):
        assert part in text


def test_prepare_prints_the_splits(folder, data_dir):
    done = tiny_runs.command("wbc_jax.main", "--config=tiny.py", "--mode=prepare", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert [tiny_runs.DATASET, "35", "5", "20"] in [
        line.split() for line in done.stdout.splitlines()
    ]
    assert done.stdout.splitlines()[-1] == "Gallery of the masks: runs/tiny/gallery.html"
    assert set(os.listdir(folder / "runs" / "tiny")) == {"gallery.html", ".wbc_jax"}
    shutil.rmtree(folder / "runs")
    assert "INFO" not in done.stderr and "\nI1" not in done.stderr


def test_a_config_of_the_package_is_found_from_anywhere(folder):
    # It is read, and only then is the bad value found.
    text = _error(folder, "--config=configs/unet.py", "--config.model.depth=99")
    assert text == "error: config.model.depth is 99; it must be at least 1 and at most 8."


def test_a_second_command_with_one_workdir_is_refused(folder):
    with OutputFolder(folder / "runs" / "tiny"):
        done = tiny_runs.command("wbc_jax.main", "--config=tiny.py", "--mode=prepare", cwd=folder)
    assert done.returncode == 1
    who = f"process {os.getpid()} on {socket.gethostname()}"
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .startswith(f"error: runs/tiny is being written by {who} (since ")
    )
    assert "or name another --workdir." in done.stderr
    assert not (folder / "runs").exists()
