"""Every mode on one, two and four devices: the same tables.

A process for each number of devices runs all modes, really compiled and without JAX's cache on
disk, so that convolutions are those of a user.
"""

import csv
import io
import json
import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import wbc_jax
from helpers import compilation, tiny_runs
from wbc_jax.data import light, orientation
from wbc_jax.fields import analyze as fields
from wbc_jax.tfds_builders.wbc_synthetic import render

COUNTS = (1, 2, 4)
SAME_EVALUATION = ("evaluate", "evaluate_types", "weights")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Five drawn cells of several sizes, and two of them in hardly any light."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(5):
        image = render.render_cell(3, i, 90 + 37 * i).image
        Image.fromarray(image[: len(image) - i]).save(folder / f"{i}.png")
        if i > 2:
            Image.fromarray(image // 40).save(folder / f"dark{i}.png")
    return folder


@pytest.fixture(scope="module")
def results(run, typed_run, run_weights, data_dir, images, tmp_path_factory):
    """Folder of the results of each number of devices."""
    tests = pathlib.Path(__file__).parent
    environment = compilation.as_users(tiny_runs.environment())
    found = {count: tmp_path_factory.mktemp(f"devices{count}") for count in COUNTS}
    started = []
    for count, out in found.items():
        folders = run.workdir, typed_run.workdir, run_weights, data_dir, images, out
        with (out / "log.txt").open("w") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "helpers.device_modes", *map(str, folders)],
                    cwd=tests,
                    env=environment
                    | tiny_runs.devices(count, environment)
                    | {"PYTHONPATH": str(tests.parent)},
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
            )
    for process, (count, out) in zip(started, found.items()):
        said, _ = process.communicate()
        assert process.returncode == 0, (out / "log.txt").read_text()[-4000:]
        assert json.loads(said) == count
    return found


def _metrics(folder):
    """The scores and the calibration; not the machine, nor the time that training took."""
    found = json.loads((folder / "report" / "metrics.json").read_text())
    return {k: v for k, v in found.items() if k not in ("hardware", "train_seconds", "weights")}


@pytest.mark.parametrize("count", COUNTS[1:])
@pytest.mark.parametrize("mode", SAME_EVALUATION)
def test_evaluation_is_equal(results, mode, count):
    one, many = results[1] / mode, results[count] / mode
    assert _metrics(many) == _metrics(one)
    for name in ("per_image.csv", "external.csv"):
        table = (one / "report" / name).read_bytes()
        assert (many / "report" / name).read_bytes() == table
    with (one / "report" / "per_image.csv").open() as file:
        assert len(list(csv.DictReader(file))) > 3
    assert (many / "report" / "index.html").exists()


@pytest.mark.parametrize("count", COUNTS[1:])
@pytest.mark.parametrize(
    "mode, tables",
    [
        ("compare", ("comparison.csv",)),
        ("csv", ("cells.csv", "differential.csv")),
        ("segmenter_3", ("parts/part-000000.parquet", "parts/part-000001.parquet")),
        ("classifier_3", ("parts/part-000000.parquet", "parts/part-000001.parquet")),
    ],
)
def test_tables_are_equal(results, mode, tables, count):
    for table in tables:
        one = (results[1] / mode / table).read_bytes()
        assert (results[count] / mode / table).read_bytes() == one and len(one) > 200


@pytest.mark.parametrize("count", COUNTS[1:])
def test_training_is_equal_but_for_the_order_of_sums(results, count):
    def log(folder):
        lines = (folder / "train" / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    one, many = log(results[1]), log(results[count])
    assert [(a["step"], a["kind"]) for a in one] == [(b["step"], b["kind"]) for b in many]
    losses = [[row["loss"] for row in rows if "loss" in row] for rows in (one, many)]
    assert len(losses[0]) == 6 and len(set(losses[0])) == 6
    np.testing.assert_allclose(*losses, rtol=1e-4)
    weights = [wbc_jax.load(results[n] / "train").weights["params"] for n in (1, count)]
    flat = [np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)]) for tree in weights]
    np.testing.assert_allclose(*flat, rtol=1e-4, atol=1e-5)
    a, b = (_metrics(results[n] / "train")["results"][tiny_runs.DATASET] for n in (1, count))
    assert a["images"] == b["images"]
    assert a["mean_iou"] == pytest.approx(b["mean_iou"], abs=2e-3)


def _rows(folder):
    parts = sorted((folder / "parts").iterdir())
    rows = [row for part in parts for row in pq.read_table(part).to_pylist()]
    return {os.path.basename(row["file"]): row for row in rows}


def _cells(folder):
    rows = pq.read_table(folder / "cells.parquet").to_pylist()
    return {os.path.basename(row["file"]): row for row in rows}


def test_csv_and_parquet_hold_the_same(results, images):
    """One file, one result: in a table and in a shard, and for every batch size."""
    cells, shards = _cells(results[1] / "csv"), _rows(results[1] / "segmenter_3")
    types = _rows(results[1] / "classifier_3")
    assert cells.keys() == shards.keys() == types.keys() == set(os.listdir(images))
    for name, row in shards.items():
        mask = np.asarray(Image.open(results[1] / "csv" / cells[name]["mask"]))
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(row["mask_png"]))), mask)
        if cells[name]["cell"]:
            assert cells[name]["nc_ratio"] == row["nc_ratio"]
            assert cells[name]["nucleus_px"] == row["nucleus_px"] == (mask == 2).sum()
            assert cells[name]["best_guess"] == types[name]["type"]
    assert sum(bool(row["cell"]) for row in cells.values()) >= 5
    np.testing.assert_equal(_rows(results[1] / "segmenter_1"), shards)


@pytest.mark.usefixtures("optimized")
def test_the_typed_logits_are_the_same_bits_alone_and_in_a_table(images):
    """What the classifier sees of a crop does not depend on who found the crop's mask."""
    pixels = [wbc_jax.read_image(images / f"{i}.png") for i in range(3)]
    models = fields.load_models()
    seen = []
    predict = models.classifier.predict
    models.classifier.predict = lambda *a, **k: seen.extend(predict(*a, **k)) or seen[-3:]
    fields.analyze(pixels, models, "no")
    alone = wbc_jax.load("classifier")
    for image, found in zip(pixels, seen):
        turn = orientation.find(image)
        standard = orientation.place(light.standardize(image), turn)
        mask = alone.segmenter.predict(standard).mask
        fitted = alone.fit(orientation.place(image, turn), mask)
        logits, embedding = alone.start(fitted[None])()
        np.testing.assert_array_equal(found.logits, logits[0])
        np.testing.assert_array_equal(found.embedding, embedding[0])
    assert len(seen) == 3
