"""wbc_jax.report.cell_results: files in, masks and a table out."""

import csv
import types

import numpy as np
import pytest
from PIL import Image

import wbc_jax
from helpers import tiny_runs
from wbc_jax import cli
from wbc_jax.data import pipeline
from wbc_jax.fields import analyze as fields
from wbc_jax.labels import CELL_TYPES
from wbc_jax.report import cell_results


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
    paths = cli.find_images([str(folder)])
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
    ratios = []
    for row, image, found in zip(rows, images, model.predict(images)):
        mask = np.asarray(Image.open(out / row["mask"]))
        np.testing.assert_array_equal(mask, found.mask)
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
    found = typed.predict(wbc_jax.read_image(folder / "a.png"))
    assert found.mask is None and found.nc_ratio is None
    assert found.probabilities.sum() == pytest.approx(1, abs=1e-6)
    assert row["type"] == found.type == CELL_TYPES[found.probabilities.argmax()]
    assert float(row["probability"]) == pytest.approx(found.probabilities.max(), rel=1e-4)
    assert (row["mask"], row["nc_ratio"], row["flag"]) == ("", "", "")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "cells.csv", "cells.parquet", "differential.csv", "index.html",
    ]  # fmt: skip
