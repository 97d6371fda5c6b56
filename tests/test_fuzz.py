"""Files that chance has damaged: images and weights are read, or refused by name; nothing else."""

import csv
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from helpers import mutated_files, tiny_runs
from wbc_jax import provenance
from wbc_jax.errors import WeightsError
from wbc_jax.inference import weights

_SCRIPT = pathlib.Path(mutated_files.__file__)


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_images_are_read_or_refused(tmp_path, count):
    # In a process of its own: a crash of a decoder in C ends that one alone.
    done = subprocess.run(
        [sys.executable, _SCRIPT, tmp_path, str(count)], capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["wrong"] == [] and not list(tmp_path.iterdir())
    assert found["read"] + found["refused"] == count
    assert found["read"] > count / 10 and found["refused"] > count / 2
    # A file of a few hundred bytes may claim MAX_PIXELS, which Pillow then sets aside.
    assert found["megabytes"] < 1000
    assert "Traceback" not in done.stderr and "Warning:" not in done.stderr


def test_the_same_files_in_every_run(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    one, two = (mutated_files.write(tmp_path / name, 20, 7) for name in ("a", "b"))
    assert [p.name for p in one] == [p.name for p in two]
    assert [p.read_bytes() for p in one] == [p.read_bytes() for p in two]


def test_predicting_a_folder_of_them(run, tmp_path):
    (tmp_path / "images").mkdir()
    paths = mutated_files.write(tmp_path / "images", 60)
    done = tiny_runs.command(
        "wbc_jax.predict", "images", "--out=out", f"--model={run.workdir}", cwd=tmp_path
    )
    assert done.returncode not in (0, -6, -11), done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    tables = {}
    for name in ("cells.csv", "bad_files.csv"):
        with (tmp_path / "out" / name).open() as file:
            tables[name] = {pathlib.Path(row["file"]).name for row in csv.DictReader(file)}
    good, bad = tables.values()
    assert good and bad and not good & bad
    assert good | bad == {path.name for path in paths}
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.endswith(".tmp")]


def test_weights_are_the_same_or_refused(run, tmp_path):
    whole = tmp_path / "whole.safetensors"
    provenance.write_weights(run.workdir, whole)
    data, expected = whole.read_bytes(), weights.read(whole)
    path = tmp_path / "mutated.safetensors"
    refused = 0
    for number in range(500):
        rng = np.random.default_rng(number)
        path.write_bytes(mutated_files.mutated(data, rng, [b"\x80\x04\x95", b"PK\x03\x04"]))
        try:
            found = weights.read(path)
        except WeightsError as error:
            assert str(path) in str(error)
            refused += 1
            continue
        assert (found.config, found.step) == (expected.config, expected.step)
        tiny_runs.assert_equal(found.arrays, expected.arrays)
        assert found.seen == expected.seen
    assert refused > 450
    assert {p.name for p in tmp_path.iterdir()} == {"whole.safetensors", "mutated.safetensors"}
