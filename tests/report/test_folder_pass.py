"""Folders whose types are decided by their own statistics, by a classifier that reads numbers."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from helpers.drawn_fields import Thresholds, plain_field
from wbc_jax.errors import Interrupted
from wbc_jax.fields import analyze as fields
from wbc_jax.inference import abstention, folder_statistics
from wbc_jax.inference.model import Prediction, _typed
from wbc_jax.labels import CELL_TYPES
from wbc_jax.report import cell_results, folder_pass

MEANS = 6 * np.eye(5, 8, dtype=np.float32)
KERNEL = (MEANS - MEANS.mean(0)).T
SEEN = abstention.Seen(MEANS, np.eye(8, dtype=np.float32), np.array([400] * 5))
RULE = abstention.Rule(1.0, 0.0, 99.0, 0.05, 100, SEEN)
COUNT = 100
TYPES = np.arange(COUNT) % 5


def embeddings():
    """Every fifth cell is of one type; all are moved from neutrophil toward eosinophil."""
    rng = np.random.default_rng(0)
    found = MEANS[TYPES] + rng.normal(size=(COUNT, 8)) * 0.7
    found[:, 1] += 3.2
    found[:, 4] -= 3.2
    return found.astype(np.float32)


class Reads:
    """A classifier that reads an image's number from its frame."""

    head_kernel, embedding_size, segmenter, types = KERNEL, 8, None, CELL_TYPES
    adapted = False

    def __init__(self):
        self.embeddings = embeddings()

    @staticmethod
    def read(logits, size):
        return _typed(logits)

    def predict(self, images, masks=None):
        numbers = [236 - int(image[0, 0, 0]) + 10 * (228 - int(image[0, 0, 1])) for image in images]
        found = [self.embeddings[i] for i in numbers]
        return [Prediction(logits=one @ KERNEL, embedding=one) for one in found]


class Counts(Thresholds):
    """Counts the images that it segments, and stops after some."""

    def __init__(self, most=10**6):
        super().__init__()
        self.most, self.images = most, 0

    def predict(self, images):
        if self.images + len(images) > self.most:
            raise KeyboardInterrupt
        self.images += len(images)
        return super().predict(images)


@pytest.fixture(scope="module")
def images():
    drawn = plain_field([(32, 32, 12, 20)], 64, 64)
    found = []
    for i in range(COUNT):
        image = drawn.copy()
        image[[0, -1]] = image[:, [0, -1]] = (236 - i % 10, 228 - i // 10, 220)
        found.append(image)
    return found


@pytest.fixture(scope="module")
def paths(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("in")
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03}.png")
    return [str(folder / f"{i:03}.png") for i in range(COUNT)]


@pytest.fixture(scope="module")
def whole(paths, tmp_path_factory):
    """The files of a call that nothing stopped, with 60 images in its first pass."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_pass, "IMAGES", 60)
        cell_results.predict_files(models(), paths, out, "no")
    return contents(out)


def read(out):
    with open(out / "cells.csv", newline="") as file:
        return list(csv.DictReader(file))


def wrong(types):
    return sum(CELL_TYPES[truth] != name for truth, name in zip(TYPES, types))


def contents(out):
    files = (path for path in out.rglob("*") if path.is_file() and ".wbc_jax" not in path.parts)
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def rows_of(found):
    """All values of each cell, as text: NaN are alike."""
    return [str(field.cells[0].row()) for field in found]


def models(segmenter=None, rule=RULE):
    return fields.Models(segmenter or Thresholds(), Reads(), rule)


def expected():
    """The folder's statistics, from all its cells."""
    known = embeddings()
    return folder_statistics.estimate(SEEN, KERNEL, abstention.Outputs(known @ KERNEL, known))


def test_analyze_uses_the_statistics_of_its_images(images):
    found = fields.analyze(images, models(), "no")
    assert {field.cells[0].statistics for field in found} == {"folder"}
    assert wrong(field.cells[0].type for field in found) <= 1
    off = fields.analyze(images, models(), "no", folder_statistics="off")
    assert {field.cells[0].statistics for field in off} == {"training"}
    assert wrong(field.cells[0].type for field in off) > 8
    # What is moved is what `retype` moves, too.
    again = [fields.retype(field, fields.Models(None, Reads(), RULE, expected())) for field in off]
    assert rows_of(again) == rows_of(found)
    # Too few images: nothing moves. A rule of an earlier version: neither.
    few = fields.analyze(images[:49], models(), "no")
    assert [one.cells[0].type for one in few] == [one.cells[0].type for one in off[:49]]
    earlier = abstention.Rule(1.0, 0.0, 99.0, 0.05, 100, abstention.Seen(MEANS, SEEN.whitening))
    old = fields.analyze(images, models(rule=earlier), "no")
    assert rows_of(old) == rows_of(off)
    with pytest.raises(ValueError, match="folder_statistics is 'no'"):
        fields.analyze(images, models(), folder_statistics="no")


def test_predict_files_says_what_it_used(images, paths, tmp_path, capsys):
    counts = Counts()
    cell_results.predict_files(models(counts), paths, tmp_path / "a", "no", settings="A")
    assert counts.images == COUNT  # no image twice
    rows = read(tmp_path / "a")
    assert {row["statistics"] for row in rows} == {"folder"}
    assert wrong(row["type"] for row in rows) <= 1
    whole = fields.analyze(images, models(), "no")
    for row, field in zip(rows, whole):
        assert (row["type"], row["best_guess"]) == (field.cells[0].type, field.cells[0].best_guess)
        assert float(row["probability"]) == pytest.approx(field.cells[0].probability, rel=1e-4)
        assert int(row["nucleus_px"]) == field.cells[0].nucleus_px > 0
    about = json.loads((tmp_path / "a" / "folder_statistics.json").read_text())
    shift = about.pop("shift")
    np.testing.assert_array_equal(np.float32(shift), expected().shift)
    assert about == {
        "statistics": "folder", "setting": "auto", "cells": 100, "images": 100, "least_cells": 50,
    }  # fmt: skip
    page = (tmp_path / "a" / "index.html").read_text()
    assert "the folder’s own statistics, from 100 cells of 100 images" in page
    assert "types by the folder's statistics (100 cells)" in capsys.readouterr().out
    assert not (tmp_path / "a" / ".wbc_jax" / "first_pass").exists()
    # Off, by the flag; and too few.
    cell_results.predict_files(
        models(), paths, tmp_path / "off", "no", folder_statistics="off", settings="A"
    )
    rows = read(tmp_path / "off")
    assert {row["statistics"] for row in rows} == {"training"}
    assert wrong(row["type"] for row in rows) > 8
    assert "of the training alone, as the user asked" in (tmp_path / "off/index.html").read_text()
    cell_results.predict_files(models(), paths[:5], tmp_path / "few", "no", settings="A")
    assert [row["type"] for row in read(tmp_path / "few")] == [row["type"] for row in rows[:5]]
    about = json.loads((tmp_path / "few" / "folder_statistics.json").read_text())
    assert (about["statistics"], about["cells"], about["shift"]) == ("training", 5, None)
    assert "5 cells are too few" in (tmp_path / "few" / "index.html").read_text()


def test_an_old_rule_is_said_once_and_changes_no_file(paths, tmp_path, capsys):
    earlier = abstention.Rule(1.0, 0.0, 99.0, 0.05, 100, abstention.Seen(MEANS, SEEN.whitening))
    cell_results.predict_files(models(rule=earlier), paths[:60], tmp_path, "no")
    assert capsys.readouterr().err.count("holds no statistics of its training") == 1
    assert not (tmp_path / "folder_statistics.json").exists()
    assert {row["statistics"] for row in read(tmp_path)} == {"training"}
    assert "statistics" not in (tmp_path / "index.html").read_text()


@pytest.mark.parametrize("most", [30, 80])
def test_a_stopped_call_goes_on_in_either_pass(paths, whole, tmp_path, monkeypatch, most):
    """60 images are of the first pass, 40 only of the second."""
    monkeypatch.setattr(folder_pass, "IMAGES", 60)
    first, second = Counts(most), Counts()
    with pytest.raises(Interrupted, match="the same command goes on"):
        cell_results.predict_files(models(first), paths, tmp_path / "out", "no", settings="A")
    cell_results.predict_files(models(second), paths, tmp_path / "out", "no", settings="A")
    assert first.images + second.images == COUNT
    assert contents(tmp_path / "out") == whole
    about = json.loads((tmp_path / "out" / "folder_statistics.json").read_text())
    assert (about["cells"], about["images"]) == (60, 60)


def test_a_longer_list_is_begun_again(paths, whole, tmp_path, monkeypatch):
    """Its statistics are others, so finished images are typed anew; none is segmented twice."""
    monkeypatch.setattr(folder_pass, "IMAGES", 60)
    with pytest.raises(Interrupted):
        cell_results.predict_files(
            models(Counts(64)), paths[:90], tmp_path / "out", "no", settings="A"
        )
    cell_results.predict_files(models(), paths, tmp_path / "out", "no", settings="A")
    assert contents(tmp_path / "out") == whole
