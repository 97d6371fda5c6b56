"""Files in, masks and a table out."""

import csv
import types

import numpy as np
import pytest
from PIL import Image

import tiny_runs
import wbc_jax
from wbc_jax import cli, predict
from wbc_jax.data import pipeline
from wbc_jax.errors import InputError
from wbc_jax.fields import analyze as fields
from wbc_jax.labels import CELL_TYPES
from wbc_jax.report import cell_results


@pytest.fixture(scope="module")
def cells(run):
    test = pipeline.load_splits(run.config.data, tiny_runs.SIZE)["test"]
    return [source.image(i) for source, i in test.entries[:3]]


@pytest.fixture
def folder(tmp_path, cells):
    """Two folders with a name in common, one image in colour of another size, and other files."""
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


def test_find_images_in_files_folders_and_globs(folder):
    names = ["B.TIF", "a.png", "bad.jpg", "none.png", "sub/a.png"]
    inside = [str(folder / name) for name in names]
    assert cli.find_images([str(folder)]) == inside
    assert cli.find_images([str(folder / "*.png")]) == [inside[1], inside[3]]
    assert cli.find_images([str(folder / "**" / "a.*")]) == [inside[1], inside[4]]
    # Named outright, a file is taken whatever it is called; named twice, once.
    named = [str(folder / "notes.txt"), inside[1]]
    assert cli.find_images([*named, str(folder / "a*")]) == named


def test_names_with_the_letters_of_a_glob(tmp_path):
    (tmp_path / "a[1].png").write_bytes(b"")
    assert cli.find_images([str(tmp_path / "a[1].png")]) == [str(tmp_path / "a[1].png")]


def test_nothing_to_predict(tmp_path):
    with pytest.raises(InputError, match=r"no image in .*; looked for .*\.png, \.jpg"):
        cli.find_images([str(tmp_path)])
    for missing in ("missing.png", "*.png"):
        name = str(tmp_path / missing)
        with pytest.raises(InputError) as caught:
            cli.find_images([name])
        assert str(caught.value).startswith(f"{name}: no such file or folder")


def test_output_names_never_meet():
    paths = ["x/a.png", "y/a.png", "y/a_2.png", "z/A.jpg", "b.c.png", "b.tif"]
    assert cli.output_names(paths) == ["a", "a_2", "a_2_2", "A_3", "b.c", "b"]


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
    # The list of an earlier call must not seem to be this one's.
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
    assert "1 cells in 1 images, median N/C" in done.stdout
    lines = done.stderr.strip().splitlines()
    assert lines[-1] == "error: 1 of 2 files could not be predicted"
    assert lines[-2].startswith("bad file: in/bad.jpg")
    assert "Traceback" not in done.stderr
    assert [row["file"] for row in _read(tmp_path / "out" / "cells.csv")] == ["in/a.png"]
    assert [row["file"] for row in _read(tmp_path / "out" / "bad_files.csv")] == ["in/bad.jpg"]
