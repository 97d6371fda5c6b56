"""python -m wbc_jax.predict: flags, errors, exit statuses."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from PIL import Image

from helpers import tiny_runs
from wbc_jax import predict
from wbc_jax.data import pipeline


@pytest.fixture
def folder(tmp_path, run):
    """A folder with a cell and a damaged file."""
    source, i = pipeline.load_splits(run.config.data, tiny_runs.SIZE)["test"].entries[0]
    (tmp_path / "in").mkdir()
    Image.fromarray(source.image(i)).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "bad.jpg").write_bytes(b"\xff\xd8\xff broken")
    return tmp_path / "in"


def _read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("inputs", [("--out=o",), ("a.png",)])
def test_usage(inputs, capsys):
    with pytest.raises(SystemExit) as caught:
        predict.main([*inputs, "--model=m"])
    assert caught.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("usage: python -m wbc_jax.predict")
    assert "name IMAGES" in text or "--out" in text


def test_no_such_run(folder, tmp_path):
    model, out = str(tmp_path / "none"), tmp_path / "out"
    with pytest.raises(SystemExit) as caught:
        predict.main([str(folder), f"--out={out}", f"--model={model}"])
    assert str(caught.value).startswith(f"error: {model} holds no run")
    assert not any(out.iterdir())


def test_the_command(run, folder, tmp_path):
    done = tiny_runs.command(
        "wbc_jax.predict", "in/a.png", "in/bad.jpg", "--out=out", f"--model={run.workdir}",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert "1 cell in 1 image, median N/C" in done.stdout
    lines = done.stderr.strip().splitlines()
    assert lines[-1] == "error: 1 of 2 files could not be predicted"
    assert lines[-2].startswith("bad file: in/bad.jpg")
    assert "Traceback" not in done.stderr
    assert [row["file"] for row in _read(tmp_path / "out" / "cells.csv")] == ["in/a.png"]
    assert [row["file"] for row in _read(tmp_path / "out" / "bad_files.csv")] == ["in/bad.jpg"]


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], {"flips": False, "masks": True, "retry_bad": False, "model": []}),
        (["--flips", "b.png"], {"flips": True, "images": ["a.png", "b.png"]}),
        (["--flips=true", "--retry_bad=true"], {"flips": True, "retry_bad": True}),
        (["--flips=false", "--masks=false"], {"flips": False, "masks": False}),
        (["--noflips", "--nomasks", "--noretry_bad"], {"flips": False, "masks": False}),
        (["--model=segmenter", "--model", "classifier"], {"model": ["segmenter", "classifier"]}),
        (["--um_per_px=0.1", "--find=no"], {"um_per_px": 0.1, "find": "no"}),
        (["--folder_statistics=off"], {"folder_statistics": "off"}),
    ],
)
def test_flags(arguments, expected):
    given = predict._parser().parse_intermixed_args(["a.png", "--out=o", *arguments])
    assert {name: getattr(given, name) for name in expected} == expected


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["a.png", "--paths=l.txt"], "both --paths=l.txt and 'a.png' are given"),
        (["--paths=l.txt", "--format=csv"], "--format is csv, but --paths and --shard"),
        (["a.png", "--shard=0/2", "--find=yes"], "leave out --find, --um_per_px"),
        (["a.png", "--shard=0/2", "--folder_statistics=auto"], "--folder_statistics"),
    ],
)
def test_flags_that_contradict_each_other(arguments, expected):
    with pytest.raises(SystemExit) as caught:
        predict.main([*arguments, "--out=o"])
    assert str(caught.value).startswith("error: ") and expected in str(caught.value)


def test_bad_files_among_shards_have_a_status_of_their_own(run, folder, tmp_path):
    done = tiny_runs.command(
        "wbc_jax.predict", "in", "--format=parquet", "--out=out", f"--model={run.workdir}",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 3
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: 1 of 2 files could not be predicted; they are listed in ")


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "abc", "0", "-1", "1e300", ""])
def test_a_pixel_size_that_is_none(value, capsys):
    with pytest.raises(SystemExit) as caught:
        predict.main(["a.png", "--out=o", f"--um_per_px={value}"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"python -m wbc_jax.predict: error: argument --um_per_px: {value!r} is not allowed; "
        "allowed is a number from 0.000001 to 1000, such as 0.1"
    )


_HELP = """
import json, sys
from wbc_jax import predict
try:
    predict.main(["--help"])
except SystemExit as end:
    heavy = ("jax", "flax", "tensorflow_datasets", "orbax", "numpy", "cv2", "matplotlib")
    print(json.dumps([end.code, [name for name in heavy if name in sys.modules]]))
"""


def test_help_answers_without_the_heavy_libraries():
    done = subprocess.run([sys.executable, "-c", _HELP], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [0, []]
    assert done.stdout.startswith("usage: python -m wbc_jax.predict")


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_says_so_in_a_line_and_goes_on(run, folder, tmp_path, number, status):
    (folder / "bad.jpg").unlink()
    for i in range(48):
        shutil.copy(folder / "a.png", folder / f"{i:03}.png")
    late = folder / "late.png"
    os.mkfifo(late)  # reading which waits, so that the signal never comes too late
    flags = "--out=out", f"--model={run.workdir}"
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "wbc_jax.predict", "in", *flags],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    journal = out / ".wbc_jax" / "finished.jsonl"
    try:
        tiny_runs.wait_until(
            lambda: journal.exists() and journal.stat().st_size > 5000, [process], 0.05
        )
        process.send_signal(number)
        _, errors = process.communicate(timeout=tiny_runs.PATIENCE_SECONDS)
    finally:
        process.kill()
    assert process.returncode == status
    assert "Traceback" not in errors
    last = errors.strip().splitlines()[-1]
    done = int(re.search(r"stopped: (\d+) of 50 images are done; the same command goes", last)[1])
    assert 0 < done < 50
    assert len(_read(out / "cells.csv")) == done
    late.unlink()
    shutil.copy(folder / "a.png", late)
    again = tiny_runs.command("wbc_jax.predict", "in", *flags, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith(f"{done} of 50 images were finished before")
    assert [row["file"] for row in _read(out / "cells.csv")] == sorted(
        f"in/{path.name}" for path in folder.iterdir()
    )
    if number == signal.SIGINT:  # once is enough
        return
    # What it wrote is no input, and is listed.
    inside = tiny_runs.command("wbc_jax.predict", ".", *flags, cwd=tmp_path)
    assert "passed over" in inside.stderr and "written by wbc_jax" in inside.stderr
    assert len(_read(out / "cells.csv")) == 50
    assert {row["reason"] for row in _read(out / "passed_over.csv")} >= {"written by wbc_jax"}
