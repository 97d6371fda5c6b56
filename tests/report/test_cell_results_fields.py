"""The results of predict for a folder of fields: tables, pictures, polygons, page, bad input."""

import csv
import json

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from helpers.drawn_fields import MODELS, plain_field
from wbc_jax import inputs, predict
from wbc_jax.data.images import MAX_PIXELS
from wbc_jax.fields import analyze as fields
from wbc_jax.fields import polygons, results
from wbc_jax.labels import MASK_CLASSES
from wbc_jax.report import cell_results


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Predicts two fields with the same name, a crop, a field without cells and a bad file."""
    folder = tmp_path_factory.mktemp("in")
    (folder / "sub").mkdir()
    small = {"height": 240, "width": 320}
    touching = [(100, 100, 24, 26), (100, 152, 24, 26)]
    Image.fromarray(plain_field([(100, 160, 26, 40)], **small)).save(folder / "a.png")
    Image.fromarray(plain_field(touching, **small)).save(folder / "sub" / "a.png")
    Image.fromarray(plain_field([(100, 100, 26, 40)], 200, 200)).save(folder / "crop.png")
    Image.fromarray(plain_field([], **small)).save(folder / "none.png")
    (folder / "bad.png").write_bytes(b"no image")
    out = tmp_path_factory.mktemp("out")
    paths = inputs.find_images([str(folder)]).paths
    bad = cell_results.predict_files(MODELS, paths, out)
    return folder, out, bad


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_tables(done):
    folder, out, bad = done
    assert [path for path, _ in bad] == [str(folder / "bad.png")]
    rows = read(out / "cells.csv")
    assert tuple(rows[0]) == results.COLUMNS
    short = [row["file"].removeprefix(f"{folder}/") for row in rows]
    assert short == ["a.png", "crop.png", "none.png", "sub/a.png", "sub/a.png"]
    assert [row["cell"] for row in rows] == ["1", "1", "", "1", "2"]
    assert [row["flag"] for row in rows] == ["", "", "no_cell", "", ""]
    assert rows[0]["um_per_px_source"] == "red_cells"
    assert rows[3]["mask"] == rows[4]["mask"] == "masks/a_2.png"
    parquet = pq.read_table(out / "cells.parquet")
    assert parquet.schema == results.SCHEMA
    for text, value in zip(rows, parquet.to_pylist()):
        for name in results.COLUMNS:
            if isinstance(value[name], float):
                assert text[name] == "" or float(text[name]) == pytest.approx(value[name], rel=1e-5)
            else:
                assert text[name] == ("" if value[name] is None else str(value[name]))


def test_pictures_and_polygons_agree(done):
    _, out, _ = done
    coco = json.loads((out / "coco.json").read_text())
    assert len(coco["images"]) == 4
    for name, cells in (("a", 1), ("a_2", 2), ("crop", 1), ("none", 0)):
        mask = np.asarray(Image.open(out / "masks" / f"{name}.png"))
        labels = cv2.imread(str(out / "labels" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        overlay = np.asarray(Image.open(out / "overlays" / f"{name}.png"))
        assert mask.dtype == np.uint8 and labels.dtype == np.uint16
        assert overlay.shape == (*mask.shape, 3) and mask.shape == labels.shape
        np.testing.assert_array_equal(mask > 0, labels > 0)
        assert labels.max() == cells
        features = json.loads((out / "geojson" / f"{name}.geojson").read_text())["features"]
        assert len(features) == 3 * cells
        for feature in features:
            kind = feature["properties"]["classification"]["name"]
            own = labels == int(feature["properties"]["metadata"]["cell"])
            if kind != "cell":
                own &= mask == MASK_CLASSES.index(kind)
            parts = feature["geometry"]["coordinates"]
            parts = [parts] if feature["geometry"]["type"] == "Polygon" else parts
            rings = [[tuple(p) for p in ring[:-1]] for part in parts for ring in part]
            assert sum(map(polygons.area, rings)) == own.sum()
            np.testing.assert_array_equal(polygons.fill(rings, mask.shape), own)


def test_the_page(done):
    _, out, _ = done
    page = (out / "index.html").read_text()
    assert "<h1>4 cells in 4 images</h1>" in page and page.count("<tr data-type=") == 5
    assert "Nothing was found in 1 image" in page and "Differential count" in page
    assert read(out / "differential.csv")[-1]["cells"] == "4"
    assert 'href="overlays/a_2.png"' in page and "http" not in page.replace("http-equiv", "")


def test_a_segmenter_alone_has_no_types(done, tmp_path):
    folder, _, _ = done
    only = fields.Models(segmenter=MODELS.segmenter)
    cell_results.predict_files(only, [str(folder / "crop.png")], tmp_path, "no", 0.1)
    (row,) = read(tmp_path / "cells.csv")
    assert row["type"] == row["probability"] == "" and row["um_per_px"] == "0.1"
    assert not (tmp_path / "differential.csv").exists()
    assert "Differential" not in (tmp_path / "index.html").read_text()


def main(monkeypatch, *inputs, **given):
    monkeypatch.setattr(fields, "load_models", lambda names=(), flips=False: MODELS)
    models = [f"--model={name}" for name in given.pop("model", [])]
    predict.main([*map(str, inputs), *models, *(f"--{k}={v}" for k, v in given.items())])


def test_exit_status_with_bad_files(done, tmp_path, monkeypatch, capsys):
    folder, _, _ = done
    with pytest.raises(SystemExit, match="1 of 2 files could not be predicted"):
        main(monkeypatch, folder / "bad.png", folder / "crop.png", out=str(tmp_path / "o"))
    assert read(tmp_path / "o" / "bad_files.csv")[0]["file"] == str(folder / "bad.png")
    assert len(read(tmp_path / "o" / "cells.csv")) == 1
    capsys.readouterr()


def test_out_that_cannot_be_written(done, tmp_path, monkeypatch):
    folder, _, _ = done
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below", "/proc/wbc_jax"):
        with pytest.raises(SystemExit) as caught:
            main(monkeypatch, folder / "crop.png", out=str(out))
        assert str(caught.value).startswith("error: ") and str(out)[:8] in str(caught.value)


def test_an_image_beyond_the_limit_is_named_and_not_decoded(done, tmp_path, monkeypatch):
    """An image of 20,000 x 20,000 pixels is refused by its header; the others are predicted."""
    folder, _, _ = done
    huge = tmp_path / "huge.png"
    Image.new("1", (20_000, 20_000)).save(huge)
    with pytest.raises(SystemExit, match="1 of 2 files could not be predicted"):
        main(monkeypatch, huge, folder / "crop.png", out=str(tmp_path / "o"))
    (row,) = read(tmp_path / "o" / "bad_files.csv")
    assert f"allowed are {MAX_PIXELS:,}" in row["reason"]


def test_parquet_shards_take_images_of_one_cell(done, tmp_path, monkeypatch):
    folder, _, _ = done
    for given in ({"find": "yes"}, {"um_per_px": 0.1}, {"count": 3}):
        with pytest.raises(SystemExit, match="do not depend on each other: leave out"):
            main(monkeypatch, folder, out=str(tmp_path), format="parquet", **given)


def test_large_images_are_read_one_by_one(tmp_path, monkeypatch):
    """A batch has no more pixels than the limit, unless it is a single image."""
    monkeypatch.setattr(cell_results, "BATCH_PIXELS", 1000)
    paths = []
    for n, side in enumerate((20, 20, 40, 20)):
        paths.append(str(tmp_path / f"{n}.png"))
        Image.new("RGB", (side, side)).save(paths[-1])
    batches = [
        [image.file.pixels.shape[0] for image in good]
        for good, _ in cell_results._batches(paths, paths, set())
    ]
    assert batches == [[20, 20], [40], [20]]
