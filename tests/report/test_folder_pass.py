"""Folders whose types are decided by their own statistics, by a classifier that reads numbers."""

import csv
import dataclasses
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from helpers import drawn_slides
from helpers.drawn_fields import Thresholds, plain_field
from wbc_jax.errors import Interrupted
from wbc_jax.fields import analyze as fields
from wbc_jax.inference import abstention, folder_statistics
from wbc_jax.inference.model import Prediction, _typed
from wbc_jax.labels import CELL_TYPES
from wbc_jax.report import cell_results, folder_pass, slide_regions
from wbc_jax.report.slide_regions import SlideRun

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


def test_what_is_kept_of_an_image_is_read_again(images, tmp_path):
    field = fields.analyze(images[0], models(), "no")
    first = folder_pass.FirstPass(tmp_path, "A", ["state"])
    first._keep(0, field)
    with np.load(tmp_path / "0000000.npz") as stored:
        np.testing.assert_array_equal(stored["mask"], field.mask)
        assert stored["labels"].dtype == np.uint16
    found = first.kept(0)
    assert rows_of([found]) == rows_of([field])
    np.testing.assert_array_equal(found.labels, field.labels)
    np.testing.assert_array_equal(found.cells[0].mask, field.cells[0].mask)
    np.testing.assert_array_equal(found.outputs.embeddings, field.outputs.embeddings)
    np.testing.assert_array_equal(found.outputs.logits, field.outputs.logits)
    assert folder_pass.FirstPass(tmp_path, "B", ["state"]).kept(0) is None


def test_a_longer_list_is_begun_again(paths, whole, tmp_path, monkeypatch):
    """Its statistics are others, so finished images are typed anew; none is segmented twice."""
    monkeypatch.setattr(folder_pass, "IMAGES", 60)
    with pytest.raises(Interrupted):
        cell_results.predict_files(
            models(Counts(64)), paths[:90], tmp_path / "out", "no", settings="A"
        )
    cell_results.predict_files(models(), paths, tmp_path / "out", "no", settings="A")
    assert contents(tmp_path / "out") == whole


class Slides:
    """Stands in for `fields.analyze` on a slide: a cell's size gives its type and its embedding."""

    def __init__(self, most=10**6):
        self.most, self.regions = most, 0

    def __call__(self, images, models, *rest):
        if self.regions + len(images) > self.most:
            raise KeyboardInterrupt
        self.regions += len(images)
        found = []
        for field in drawn_slides.analyze(images, models, *rest):
            known = [slide_embedding(cell) for cell in field.cells]
            outputs = abstention.Outputs(*map(np.array, zip(*known))) if known else None
            found.append(fields.retype(dataclasses.replace(field, outputs=outputs), models))
        return found


def slide_truth(row):
    return (int(row["nucleus_px"]) // 8) % 5


def slide_embedding(cell):
    rng = np.random.default_rng([cell.nucleus_px, cell.cytoplasm_px])
    found = MEANS[slide_truth(cell.row())] + rng.normal(size=8) * 0.7
    found[1] += 3.2
    found[4] -= 3.2
    found = found.astype(np.float32)
    return found @ KERNEL, found


@pytest.fixture(scope="module")
def drawn():
    return drawn_slides.smear(seed=3, height=800, width=2400, leukocytes=60, parts=(200, 600, 2400))


@pytest.fixture(scope="module")
def slide(drawn, tmp_path_factory):
    return drawn_slides.write(tmp_path_factory.mktemp("slide") / "a.svs", drawn.image)


def predict_slides(out, slides, stand_in, monkeypatch, paths=(), count=None, **options):
    """Returns the rows; `stand_in` analyzes."""
    monkeypatch.setattr(cell_results.fields, "analyze", stand_in)
    runs = [SlideRun(path, os.path.basename(path).split(".")[0], count) for path in slides]
    with drawn_slides.small_regions(200):
        cell_results.predict_files(models(), paths, out, slides=runs, **options)
    return read(out)


def wrong_on_slide(rows):
    return sum(CELL_TYPES[slide_truth(row)] != row["type"] for row in rows)


@pytest.fixture(scope="module")
def slide_results(slide, tmp_path_factory):
    """The results of a slide, with and without its statistics, and the number of its regions."""
    with pytest.MonkeyPatch.context() as patch:
        counts, folder = Slides(), tmp_path_factory.mktemp("whole")
        moved = predict_slides(folder / "a", [slide], counts, patch, settings="A")
        off = predict_slides(
            folder / "off", [slide], Slides(), patch, settings="A", folder_statistics="off"
        )
    return folder, moved, off, counts.regions


def test_a_slide_has_statistics_of_its_own(drawn, slide_results):
    folder, moved, off, regions = slide_results
    assert len(moved) == len(off) == len(drawn.thin) >= 50
    places = ("cell", "top", "left", "bottom", "right", "nucleus_px", "mask")
    assert [[row[key] for key in places] for row in moved] == [
        [row[key] for key in places] for row in off
    ]
    assert {row["statistics"] for row in moved} == {"folder"}
    assert wrong_on_slide(moved) <= 2 and wrong_on_slide(off) > 5
    about = json.loads((folder / "a" / "folder_statistics.json").read_text())
    # A cell on a border may be seen by two regions.
    assert len(moved) <= about["cells"] <= 1.3 * len(moved)
    assert about["images"] == regions == 36  # no region twice
    page = (folder / "a" / "index.html").read_text()
    assert f"from {about['cells']} cells of 36 regions: a type may change when slides" in page


@pytest.mark.parametrize("most", [10, 20])
def test_a_slide_that_was_stopped_in_either_pass(slide, slide_results, tmp_path, monkeypatch, most):
    """Of the 36 regions 14 are of the first pass."""
    monkeypatch.setattr(cell_results, "FIRST", 14)
    monkeypatch.setattr(slide_regions, "FIRST", 14)
    monkeypatch.setattr(folder_statistics, "LEAST_CELLS", 10)
    predict_slides(tmp_path / "whole", [slide], Slides(), monkeypatch)
    first, second = Slides(most), Slides()
    with pytest.raises(Interrupted, match="the same command goes on"):
        predict_slides(tmp_path / "out", [slide], first, monkeypatch, settings="A")
    rows = predict_slides(tmp_path / "out", [slide], second, monkeypatch, settings="A")
    assert first.regions == most and second.regions == 36 - most
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert len(rows) == len(slide_results[1])
    about = json.loads((tmp_path / "out" / "folder_statistics.json").read_text())
    assert about["images"] == 14 and 10 <= about["cells"] < len(rows)


def test_enough_cells_are_enough_for_the_first_pass(slide, tmp_path, monkeypatch):
    monkeypatch.setattr(folder_statistics, "LEAST_CELLS", 10)
    counts = Slides()
    rows = predict_slides(tmp_path, [slide], counts, monkeypatch, count=12, settings="A")
    assert len(rows) == 12 and {row["statistics"] for row in rows} == {"folder"}
    about = json.loads((tmp_path / "folder_statistics.json").read_text())
    assert 12 <= about["cells"] < 20 and about["images"] == counts.regions < 36


def test_images_and_two_slides_in_one_pass(slide, slide_results, paths, tmp_path, monkeypatch):
    """Each region is given what was found in itself, whatever part of the list is looked at."""
    monkeypatch.setattr(folder_statistics, "LEAST_CELLS", 10)
    monkeypatch.setattr(folder_pass, "IMAGES", 30)  # every fifth place of 20 + 2 * 64
    other = str(shutil.copy(slide, tmp_path / "b.svs"))
    real, counts = cell_results.fields.analyze, Slides()

    def analyze(images, models, find, *rest):
        return (counts if find == "yes" else real)(images, models, find, *rest)

    rows = predict_slides(
        tmp_path / "out", [slide, other], analyze, monkeypatch, paths[:20], find="no", settings="A"
    )
    assert len(rows) == 20 + 2 * len(slide_results[1]) and counts.regions == 2 * 36
    keys = ("cell", "top", "left", "nucleus_px")
    for name, some in (
        (slide, rows[20 : 20 + len(slide_results[1])]),
        (other, rows[-len(slide_results[1]) :]),
    ):
        assert {row["file"] for row in some} == {name}
        assert [[row[k] for k in keys] for row in some] == [
            [r[k] for k in keys] for r in slide_results[1]
        ]
    about = json.loads((tmp_path / "out" / "folder_statistics.json").read_text())
    chosen = {round(i * 147 / 29) for i in range(30)}
    there = [*range(20), *range(20, 56), *range(84, 120)]  # images, and regions of both slides
    assert about["images"] == len(chosen.intersection(there)) == 18
    assert "cells of 18 images and regions: a type" in (tmp_path / "out" / "index.html").read_text()


def test_a_slide_that_vanishes_in_the_first_pass(slide, tmp_path, monkeypatch):
    path = str(shutil.copy2(slide, tmp_path / "a.svs"))
    stand_in = Slides()

    def vanishes(images, *rest):
        if stand_in.regions == 4:
            os.remove(path)
        return stand_in(images, *rest)

    out = tmp_path / "out"
    with pytest.raises(OSError, match=r"No such file.*the folder's statistics; the same command"):
        predict_slides(out, [path], vanishes, monkeypatch, settings="A")
    assert stand_in.regions == 6
    shutil.copy2(slide, path)  # with the same time of change
    rest = Slides()
    assert len(predict_slides(out, [path], rest, monkeypatch, settings="A")) >= 50
    assert rest.regions == 36 - 6  # no region twice
