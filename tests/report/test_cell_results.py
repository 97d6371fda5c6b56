"""wbc_jax.report.cell_results: files in, masks and a table out."""

import csv
import itertools
import json
import os
import types

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import wbc_jax
from helpers import tiny_runs
from wbc_jax import inputs
from wbc_jax.data import light, orientation, pipeline
from wbc_jax.errors import InputError, Interrupted
from wbc_jax.fields import analyze as fields
from wbc_jax.labels import CELL_TYPES
from wbc_jax.report import cell_files, cell_results, finished


@pytest.fixture(scope="module")
def cells(run):
    test = pipeline.load_splits(run.config.data, tiny_runs.SIZE)["test"]
    return [source.image(i) for source, i in test.entries[:3]]


@pytest.fixture
def folder(tmp_path, cells):
    """Two folders with a name in common, one image of another size, and other files."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    Image.fromarray(cells[0]).save(tmp_path / "in" / "a.png")
    Image.fromarray(cells[1][:60]).save(tmp_path / "in" / "sub" / "a.png")
    Image.fromarray(cells[2]).save(tmp_path / "in" / "B.TIF")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    (tmp_path / "in" / "bad.jpg").write_bytes(b"\xff\xd8\xff broken")
    (tmp_path / "in" / "none.png").write_bytes(b"")
    return tmp_path / "in"


def _read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_predict_files(model, folder, tmp_path, capsys):
    out = tmp_path / "out"
    paths = inputs.find_images([str(folder)]).paths
    models = fields.Models(segmenter=model)
    bad = cell_results.predict_files(models, paths, out, "no")
    assert [path for path, _ in bad] == [str(folder / "bad.jpg"), str(folder / "none.png")]
    assert _read(out / "bad_files.csv") == [{"file": p, "reason": reason} for p, reason in bad]
    assert "damaged" in bad[0][1] or "is not an image" in bad[0][1]
    assert "empty" in bad[1][1]
    rows = _read(out / "cells.csv")
    assert [row["file"] for row in rows] == [paths[0], paths[1], paths[4]]
    assert [row["mask"] for row in rows] == ["masks/B.png", "masks/a.png", "masks/a_2.png"]
    images = [wbc_jax.read_image(row["file"]) for row in rows]
    turns = [orientation.find(image) for image in images]
    seen = [orientation.place(light.standardize(i), turn) for i, turn in zip(images, turns)]
    ratios = []
    for row, image, turn, found in zip(rows, images, turns, model.predict(seen)):
        mask = np.asarray(Image.open(out / row["mask"]))
        np.testing.assert_array_equal(mask, orientation.replace(found.mask, turn))
        assert mask.dtype == np.uint8 and mask.max() <= 2
        overlay = np.asarray(Image.open(out / row["overlay"]))
        assert overlay.shape == image.shape
        assert (overlay != image).any() and (overlay == image).all(-1).mean() > 0.2
        assert (int(row["height"]), int(row["width"])) == image.shape[:2]
        assert int(row["nucleus_px"]) == (mask == 2).sum() > 0
        assert int(row["cytoplasm_px"]) == (mask == 1).sum() > 0
        ratios.append((mask == 2).sum() / (mask == 1).sum())
        assert float(row["nc_ratio"]) == pytest.approx(ratios[-1], rel=1e-5)
        assert float(row["nucleus_share"]) == pytest.approx(
            (mask == 2).sum() / (mask > 0).sum(), rel=1e-5
        )
    assert rows[2]["height"] == "60"
    assert f"3 cells in 3 images, median N/C {np.median(ratios):.3f}" in capsys.readouterr().out
    # A later call without bad files removes the list.
    assert cell_results.predict_files(models, paths[:1], out, "no") == []
    assert not (out / "bad_files.csv").exists()


def test_no_name_costs_the_others(model, cells, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [b"caf\xe9.png", b"caf\xe8.png", b"a" * 230 + b".png", ("细" * 77 + ".png").encode()]
    names += [b"=1+2.png", b"a\nb.png", b"bad\xe9.png"]
    paths = [os.fsdecode(name) for name in names]
    for path, image in zip(paths[:-1], itertools.cycle(cells)):
        Image.fromarray(image).save(path)
    os.write(os.open(paths[-1], os.O_CREAT | os.O_WRONLY), b"no image")
    models = fields.Models(segmenter=model)
    bad = cell_results.predict_files(models, paths, tmp_path / "out", "no")
    assert [path for path, _ in bad] == paths[-1:]
    files = [row["file"] for row in _read(tmp_path / "out" / "cells.csv")]
    assert files == ["caf\ufffd.png", "caf\ufffd.png", *paths[2:4], "'=1+2.png", "a\nb.png"]
    rows = pq.read_table(tmp_path / "out" / "cells.parquet").to_pylist()
    assert [row["file"] for row in rows][2:] == paths[2:6]
    assert [row["file"] for row in _read(tmp_path / "out" / "bad_files.csv")] == ["bad\ufffd.png"]
    ids = []
    for row in rows:
        name = os.path.basename(row["mask"]).removesuffix(".png")
        collection = json.loads((tmp_path / "out" / "geojson" / f"{name}.geojson").read_text())
        ids += [feature["id"] for feature in collection["features"]]
        assert Image.open(tmp_path / "out" / row["overlay"]).size == (row["width"], row["height"])
    assert len(set(ids)) == len(ids) >= 6
    assert len(json.loads((tmp_path / "out" / "coco.json").read_text())["images"]) == 6


def test_cells_without_a_ratio(folder, tmp_path, capsys):
    def nothing(images):
        return [
            wbc_jax.Prediction(np.zeros(i.shape[:2], np.uint8), 0, 0, np.nan, np.nan, "no_cell")
            for i in images
        ]

    blank = types.SimpleNamespace(predict=nothing)
    models = fields.Models(segmenter=blank)
    cell_results.predict_files(models, [str(folder / "a.png")], tmp_path / "out", "no")
    (row,) = _read(tmp_path / "out" / "cells.csv")
    assert (row["nc_ratio"], row["nucleus_share"], row["flag"]) == ("", "", "no_cell")
    assert "median" not in capsys.readouterr().out


def test_a_classifier_gives_types_and_no_masks(typed_run, folder, tmp_path):
    typed = wbc_jax.load(typed_run.workdir)
    models = fields.Models(classifier=typed)
    cell_results.predict_files(models, [str(folder / "a.png")], tmp_path / "out", "no")
    (row,) = _read(tmp_path / "out" / "cells.csv")
    image = wbc_jax.read_image(folder / "a.png")
    found = typed.predict(orientation.place(image, orientation.find(image)))
    assert found.mask is None and found.nc_ratio is None
    assert found.probabilities.sum() == pytest.approx(1, abs=1e-6)
    assert row["type"] == found.type == CELL_TYPES[found.probabilities.argmax()]
    assert float(row["probability"]) == pytest.approx(found.probabilities.max(), rel=1e-4)
    assert (row["mask"], row["nc_ratio"], row["flag"]) == ("", "", "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".wbc_jax", "cells.csv", "cells.parquet", "differential.csv", "index.html",
    ]  # fmt: skip


def _images(folder, cells, count):
    """Writes `count` images, one a file."""
    folder.mkdir()
    for i in range(count):
        Image.fromarray(cells[i % len(cells)][: 60 + i]).save(folder / f"{i:02}.png")
    return [str(folder / f"{i:02}.png") for i in range(count)]


def _contents(out):
    """Returns all files of the results but the bookkeeping, by name."""
    files = (path for path in out.rglob("*") if path.is_file() and ".wbc_jax" not in path.parts)
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


class _Stops:
    """A segmenter that fails at the k-th batch."""

    def __init__(self, model, batches, error):
        self.model, self.left, self.error = model, batches, error
        self.images = 0

    def predict(self, images, *args, **kwargs):
        if not self.left:
            raise self.error
        self.left -= 1
        self.images += len(images)
        return self.model.predict(images, *args, **kwargs)


@pytest.mark.parametrize(
    "error, stopped, said",
    [
        (KeyboardInterrupt(), Interrupted, "stopped: 4 of 7 images are done; the same command"),
        (OSError(28, "No space left on device"), OSError, "left on device; 4 of 7 images are done"),
    ],
)
def test_a_stopped_call_leaves_its_tables_and_the_next_one_goes_on(
    model, cells, tmp_path, monkeypatch, error, stopped, said
):
    monkeypatch.setattr(cell_results, "BATCH", 2)
    paths = _images(tmp_path / "in", cells, 7)
    out, whole = tmp_path / "out", tmp_path / "whole"
    first = _Stops(model, 2, error)
    with pytest.raises(stopped, match=said):
        cell_results.predict_files(
            fields.Models(segmenter=first), paths, out, "no", settings="model A"
        )
    assert [row["file"] for row in _read(out / "cells.csv")] == paths[:4]
    assert (out / "index.html").exists() and (out / "cells.parquet").exists()
    # A file that changed meanwhile is done again, and one whose mask is gone.
    Image.fromarray(cells[2]).save(paths[1])
    (out / "masks" / "02.png").unlink()
    second = _Stops(model, 9, None)
    models = fields.Models(segmenter=second)
    assert cell_results.predict_files(models, paths, out, "no", settings="model A") == []
    assert second.images == 5
    cell_results.predict_files(fields.Models(segmenter=model), paths, whole, "no")
    assert _contents(out) == _contents(whole)
    # All is finished: the same call again begins again.
    third = _Stops(model, 9, None)
    cell_results.predict_files(fields.Models(segmenter=third), paths, out, "no", settings="model A")
    assert third.images == 7


def test_other_settings_do_not_go_on(model, cells, tmp_path, monkeypatch):
    monkeypatch.setattr(cell_results, "BATCH", 2)
    paths = _images(tmp_path / "in", cells, 5)
    for settings, images in (("A", 2), ("B", 2), ("A", 2)):
        stops = _Stops(model, 1, KeyboardInterrupt())
        with pytest.raises(Interrupted, match=f"{images} of 5"):
            cell_results.predict_files(
                fields.Models(segmenter=stops), paths, tmp_path / "out", "no", settings=settings
            )


def test_tables_grow_while_it_runs(model, cells, tmp_path, monkeypatch):
    monkeypatch.setattr(cell_results, "BATCH", 2)
    monkeypatch.setattr(cell_files, "_TABLES_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(cell_files, "_TABLES_SHARE", 1e9)
    lengths = []

    class Watched(_Stops):
        def predict(self, images, *args, **kwargs):
            table = tmp_path / "out" / "cells.csv"
            lengths.append(len(_read(table)) if table.exists() else 0)
            return super().predict(images, *args, **kwargs)

    models = fields.Models(segmenter=Watched(model, 9, None))
    paths = _images(tmp_path / "in", cells, 8)
    cell_results.predict_files(models, paths, tmp_path / "out", "no")
    # The last two images may still be written while the next two are analyzed.
    assert [least <= found <= least + 2 for least, found in zip((-2, 0, 2, 4), lengths)] == [1] * 4


def test_a_persons_masks_stop_the_call_before_any_work(model, folder, tmp_path):
    """The layout of the data set `folder`: masks that a person drew lie beside the images."""
    (folder / "masks").mkdir()
    (folder / "masks" / "a.png").write_bytes(b"drawn by hand")
    before = _contents(folder)
    never = fields.Models(segmenter=_Stops(model, 0, AssertionError("it worked")))
    with pytest.raises(InputError, match=r"masks/a\.png was not written by an earlier call"):
        cell_results.predict_files(never, [str(folder / "a.png")], folder, "no")
    assert _contents(folder) == before


def test_settings_name_all_that_changes_a_result(run, typed_run):
    segmenter, classifier = wbc_jax.load(run.workdir), wbc_jax.load(typed_run.workdir)
    models = fields.Models(segmenter, classifier)
    found = [
        finished.settings(models, find="auto", um_per_px=None),
        finished.settings(models, find="no", um_per_px=None),
        finished.settings(models, find="auto", um_per_px=0.1),
        finished.settings(fields.Models(segmenter), find="auto", um_per_px=None),
        finished.settings(
            fields.Models(segmenter.with_flips(not segmenter.config.evaluate.flips), classifier),
            find="auto",
            um_per_px=None,
        ),
    ]
    assert len(set(found)) == len(found)
    again = fields.Models(wbc_jax.load(run.workdir), wbc_jax.load(typed_run.workdir))
    assert finished.settings(again, um_per_px=None, find="auto") == found[0]


def test_a_large_image_shows_how_far_it_is(model, folder, tmp_path, monkeypatch):
    analyze, updates = fields.analyze, []

    def watched(images, models, find, um_per_px, pixel_sizes, on_progress):
        on_progress(0.25)
        return analyze(images, models, find, um_per_px, pixel_sizes, on_progress)

    class Recorded(cell_results.Progress):
        def update(self, done, count, note="", part=0.0):
            updates.append((done, part))

    monkeypatch.setattr(fields, "analyze", watched)
    monkeypatch.setattr(cell_results, "Progress", Recorded)
    models = fields.Models(segmenter=model)
    cell_results.predict_files(models, [str(folder / "a.png")], tmp_path / "out", "no")
    assert updates[0] == (0, 0.25) and updates[-1] == (1, 0.0)
    assert any(0.25 < part <= 1 for _, part in updates[1:-1])


def test_the_pixel_size_of_the_file_is_used_and_named(model, cells, tmp_path):
    """2,500 pixels per centimeter would be 4 um, no smear; 100,000 are 0.1 um."""
    for name, density in (("a.tif", 100_000), ("b.tif", 2_500)):
        Image.fromarray(cells[0]).save(tmp_path / name, resolution=density, resolution_unit="cm")
    paths = [str(tmp_path / name) for name in ("a.tif", "b.tif")]
    models = fields.Models(segmenter=model)
    cell_results.predict_files(models, paths, tmp_path / "out", "no")
    first, second = _read(tmp_path / "out" / "cells.csv")
    assert (first["um_per_px"], first["um_per_px_source"]) == ("0.1", "tiff_resolution")
    assert float(first["nucleus_um2"]) == pytest.approx(int(first["nucleus_px"]) * 0.01, rel=1e-5)
    assert (second["um_per_px"], second["um_per_px_source"]) == ("", "unknown")
    cell_results.predict_files(models, paths, tmp_path / "given", "no", um_per_px=0.2)
    rows = _read(tmp_path / "given" / "cells.csv")
    assert [(row["um_per_px"], row["um_per_px_source"]) for row in rows] == [("0.2", "given")] * 2
