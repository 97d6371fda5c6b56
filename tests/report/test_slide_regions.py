"""predict on whole slides: each cell once, spread, stopped, damaged, resumed."""

import csv
import json
import os
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
from PIL import Image
from shapely.geometry import shape

from helpers import drawn_slides
from helpers.drawn_fields import MODELS
from wbc_jax import inputs, predict
from wbc_jax.data import slides
from wbc_jax.errors import Interrupted
from wbc_jax.fields import results, smear
from wbc_jax.report import cell_results, slide_choice, slide_regions
from wbc_jax.report.slide_regions import SlideRun

CORE = 200


@pytest.fixture(autouse=True, scope="module")
def small_regions():
    with drawn_slides.small_regions(CORE):
        yield


@pytest.fixture(scope="module")
def drawn():
    return drawn_slides.smear(leukocytes=20)


@pytest.fixture(scope="module")
def slide(drawn, tmp_path_factory):
    return drawn_slides.write(tmp_path_factory.mktemp("slide") / "a.svs", drawn.image)


@pytest.fixture
def quick(monkeypatch):
    """Stands in for the finder and the networks."""
    monkeypatch.setattr(cell_results.fields, "analyze", drawn_slides.analyze)


@pytest.fixture(scope="module")
def done(slide, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cell_results.fields, "analyze", drawn_slides.analyze)
        run = SlideRun(slide, "a")
        assert cell_results.predict_files(MODELS, [], out, slides=[run]) == []
    return out, run


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def places(rows):
    return sorted(
        ((int(r["top"]) + int(r["bottom"])) / 2, (int(r["left"]) + int(r["right"])) / 2)
        for r in rows
    )


def check_places(rows, cells):
    """Checks that each cell was found once, and nothing else."""
    assert len(rows) == len(cells)
    for y, x, *_ in cells:
        far = [np.hypot(y - cy, x - cx) for cy, cx in places(rows)]
        assert sum(distance < 3 for distance in far) == 1


def test_each_cell_of_the_thin_part_once(drawn, done):
    out, run = done
    rows = read(out / "cells.csv")
    assert len(drawn.thin) > 10
    # Cells lie on the borders of regions, too.
    near = [c for c in drawn.thin if min(c[0] % CORE, -c[0] % CORE, c[1] % CORE, -c[1] % CORE) < 30]
    assert len(near) >= 3
    check_places(rows, drawn.thin)
    assert sorted(int(row["cell"]) for row in rows) == list(range(1, len(rows) + 1))
    assert {row["file"] for row in rows} == {run.path}
    assert {(row["width"], row["height"]) for row in rows} == {("2000", "800")}
    assert {row["um_per_px_source"] for row in rows} == {"aperio"}
    for row in rows:
        ((y, x),) = places([row])
        radius = min(drawn.thin, key=lambda cell: np.hypot(cell[0] - y, cell[1] - x))[3]
        cell_um2 = float(row["nucleus_um2"]) + float(row["cytoplasm_um2"])
        assert cell_um2 == pytest.approx(np.pi * (radius * drawn_slides.UM_PER_PX) ** 2, rel=0.1)
    assert pq.read_table(out / "cells.parquet").schema == results.SCHEMA
    (about,) = read(out / "slides.csv")
    assert about["cells"] == str(len(rows)) and about["wanted_cells"] == ""
    kinds = [int(about[f"{kind}_regions"]) for kind in smear.KINDS]
    assert kinds == [8, 8, 16, 8] and about["looked_at"] == "16"
    area = 16 * (CORE * drawn_slides.UM_PER_PX / 1000) ** 2
    assert float(about["looked_at_mm2"]) == pytest.approx(area, rel=1e-4)


def test_the_regions_pictures(done):
    out, _ = done
    rows = read(out / "cells.csv")
    for row in rows:
        mask = np.asarray(Image.open(out / row["mask"]))
        labels = np.asarray(Image.open(out / row["mask"].replace("masks", "labels")))
        np.testing.assert_array_equal(mask > 0, labels > 0)
        numbers = {int(r["cell"]) for r in rows if r["mask"] == row["mask"]}
        assert set(np.unique(labels)) - {0} == numbers  # not those of the neighbors
        ys, xs = np.nonzero(labels == int(row["cell"]))
        found = (ys.min(), xs.min(), ys.max() + 1, xs.max() + 1)
        start = (int(row["region_top"]), int(row["region_left"])) * 2
        sides = [int(row[side]) for side in ("top", "left", "bottom", "right")]
        assert tuple(np.subtract(sides, start)) == found
        assert Image.open(out / row["overlay"]).size == mask.shape[::-1]
    assert len(os.listdir(out / "masks")) == len({row["mask"] for row in rows})
    assert not (out / "coco.json").exists()


def test_geojson_in_pixels_of_the_slide(done):
    out, _ = done
    rows = {row["cell"]: row for row in read(out / "cells.csv")}
    found = json.loads((out / "geojson" / "a.geojson").read_text())
    assert found["type"] == "FeatureCollection"
    features = found["features"]
    assert len(features) == 3 * len(rows) == len({feature["id"] for feature in features})
    for feature in features:
        about = feature["properties"]
        row = rows[about["metadata"]["cell"]]
        outline = shape(feature["geometry"])
        areas = {kind: int(row[f"{kind}_px"]) for kind in ("nucleus", "cytoplasm")}
        areas["cell"] = sum(areas.values())
        kind = about["classification"]["name"]
        assert outline.is_valid and outline.area == areas[kind]
        if kind == "cell":
            left, top, right, bottom = (int(row[s]) for s in ("left", "top", "right", "bottom"))
            assert outline.bounds == (left, top, right, bottom)


def test_the_map_and_the_page(drawn, done):
    out, _ = done
    with Image.open(out / "maps" / "a.jpg") as picture:
        assert picture.size == (1200, 480)
        pixels = np.asarray(picture).astype(int)
    row = read(out / "cells.csv")[0]
    ((y, x),) = places([row])
    dot = pixels[round(y * 480 / 800), round(x * 1200 / 2000)]
    assert dot[0] > 180 and dot[1:].max() < 60  # red
    page = (out / "index.html").read_text()
    assert "cells in 1 slide</h1>" in page and "stated by the file in 1 slide" in page
    assert "looked at: 16 regions of together 0.02 mm²" in page
    assert "left out, as the feathered edge: 8 regions" in page
    assert "left out, as too thick: 8 regions" in page and "8 regions are empty glass" in page
    assert "not looked at" not in page and "wbc_jax.review" not in page
    # In the middle of a region of each kind: glass, the edge and the thick part.
    run = done[1]
    for what, shade in (("glass", None), ("edge", (150, 160, 172)), ("thick", (70, 74, 82))):
        core = next(r.core for r in run._choice.regions if r.kind == what)
        top, left, bottom, right = (side * 3 // 5 for side in core)  # 1200 pixels of 2000
        mean = drawn.image[core[0] : core[2], core[1] : core[3]].mean((0, 1))
        expected = mean if shade is None else 0.4 * mean + 0.6 * np.array(shade)
        np.testing.assert_allclose(pixels[top:bottom, left:right].mean((0, 1)), expected, atol=3)
    assert f"at x {round(x - 0.1)}, y {round(y - 0.1)}" in page


def test_the_finder_itself(tmp_path, monkeypatch):
    """The real path, without stand-ins, for a small slide."""
    monkeypatch.setattr(slide_choice, "CORE_PX", 400)
    small = drawn_slides.smear(height=500, width=700, leukocytes=5, parts=(0, 0, 700))
    part = drawn_slides.write(tmp_path / "part.tif", small.image)
    cell_results.predict_files(MODELS, [], tmp_path / "out", slides=[SlideRun(part, "part")])
    check_places(read(tmp_path / "out" / "cells.csv"), small.cells)


def test_count(slide, drawn, tmp_path, quick, capsys):
    bad = cell_results.predict_files(MODELS, [], tmp_path, slides=[SlideRun(slide, "a", count=5)])
    assert bad == []
    rows = read(tmp_path / "cells.csv")
    assert [row["cell"] for row in rows] == list("12345")
    (about,) = read(tmp_path / "slides.csv")
    assert int(about["looked_at"]) < 16
    # From both halves of the thin part.
    assert {int(row["left"]) > 1200 for row in rows} == {False, True}
    labels = [np.asarray(Image.open(tmp_path / row["mask"].replace("masks", "labels")))
              for row in rows]  # fmt: skip
    assert max(label.max() for label in labels) == 5
    assert "of 5 leukocytes" not in capsys.readouterr().err
    page, rest = (tmp_path / "index.html").read_text(), 16 - int(about["looked_at"])
    assert "5 cells found of 5 wanted" in page
    assert f"{rest} other regions were not looked at, as enough cells had been found" in page


def test_a_count_that_is_never_reached(slide, drawn, tmp_path, quick, capsys):
    cell_results.predict_files(MODELS, [], tmp_path, slides=[SlideRun(slide, "a", count=500)])
    said = f"note: {slide}: {len(drawn.thin)} of 500 leukocytes were found in the 16 regions"
    assert said in capsys.readouterr().err
    assert f"{len(drawn.thin)} cells found of 500 wanted" in (tmp_path / "index.html").read_text()


def test_no_leukocyte_at_all(tmp_path, quick, capsys):
    empty = drawn_slides.smear(height=600, width=600, leukocytes=0, parts=(0, 0, 600)).image
    path = drawn_slides.write(tmp_path / "none.tif", empty)
    cell_results.predict_files(MODELS, [], tmp_path / "out", slides=[SlideRun(path, "none")])
    assert "none.tif: no leukocyte was found in the 9 regions" in capsys.readouterr().err
    (row,) = read(tmp_path / "out" / "cells.csv")
    assert (row["file"], row["flag"], row["cell"]) == (path, "no_cell", "")
    assert json.loads((tmp_path / "out" / "geojson" / "none.geojson").read_text())["features"] == []


def test_what_was_not_looked_at_may_have_cells(slide, tmp_path, quick, monkeypatch, capsys):
    args = (MODELS, [], tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(smear, "overlap", lambda *_: 0.9)
        bad = cell_results.predict_files(*args, slides=[SlideRun(slide, "a")])
    kinds = "8 glass, 8 edge, 24 thick"
    thick = f"{slide}: no part of the smear is thin enough (regions: {kinds}): --area=all looks at"
    assert bad == [(slide, f"{thick} all that is stained")]
    assert read(tmp_path / "cells.csv") == [] and read(tmp_path / "bad_files.csv") != []
    assert "0 cells in 1 slide</h1>" in (tmp_path / "index.html").read_text()

    def damaged(*_):
        raise slides.DataError("broken")

    monkeypatch.setattr(slide_regions.blank_tiles, "check", damaged)
    bad = cell_results.predict_files(*args, slides=[SlideRun(slide, "a")])
    assert bad == [(slide, "broken")] * 16 and read(tmp_path / "cells.csv") == []
    said = capsys.readouterr()
    assert "none of 16 regions could be looked at: 16 damaged, 0 too thick" in said.err
    assert "0 cells in 1 slide: " in said.out


def _tile_of(path, y, x):
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        number = y // 256 * -(-page.imagewidth // 256) + x // 256
        return page.dataoffsets[number], page.databytecounts[number]


def test_a_broken_tile_costs_its_regions_alone(slide, drawn, tmp_path, quick, monkeypatch):
    path = str(shutil.copy(slide, tmp_path / "broken.svs"))
    monkeypatch.setattr(smear, "_PROBES", 8)
    offset, count = _tile_of(path, 600, 1600)  # of x 1536 to 1792, y 512 to 768
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(bytes(count))
    run = SlideRun(path, "broken")
    bad = cell_results.predict_files(MODELS, [], tmp_path / "out", slides=[run])
    assert {file for file, _ in bad} == {path}
    assert all("the tile at x 1536 to 1792, y 512 to 768 is damaged" in why for _, why in bad)
    assert read(tmp_path / "out" / "bad_files.csv") == [{"file": f, "reason": r} for f, r in bad]
    hit = [r.core for r in run.order if run._seen[r.number] == "damaged"]
    assert len(hit) == len(bad) >= 2
    # A neighbor sees whole, and takes, a cell whose center lies just beyond their border.
    rest = [
        c for c in drawn.thin
        if not any(t + 10 <= c[0] < b - 10 and left <= c[1] < r for t, left, b, r in hit)
    ]  # fmt: skip
    check_places(read(tmp_path / "out" / "cells.csv"), rest)
    assert "damaged" in (tmp_path / "out" / "index.html").read_text()


def test_a_tile_of_one_color_is_damaged_unless_the_overview_shows_it(drawn, tmp_path, monkeypatch):
    monkeypatch.setattr(slide_regions, "_OVERVIEW_PX", 500)
    image = drawn.image.copy()
    image[512:768, 1280:1536] = 255
    levels = [image, *drawn_slides.pyramid(drawn.image)[1:]]
    monkeypatch.setattr(drawn_slides, "pyramid", lambda *_: levels)
    white = SlideRun(drawn_slides.write(tmp_path / "white.ome.zarr", image), "white")
    white.open()
    hit = next(r for r in white.order if r.core[:2] == (400, 1200))
    with pytest.raises(slides.DataError, match=r"x 1280 to 1536, y 512 to 768 has one color \(255"):
        white.read(hit)
    monkeypatch.undo()
    monkeypatch.setattr(slide_regions, "_OVERVIEW_PX", 500)
    # Overexposed glass, as a coarser level shows it as well.
    glass = SlideRun(drawn_slides.write(tmp_path / "glass.ome.zarr", image), "glass")
    glass.open()
    hit = next(r for r in glass.order if r.core[:2] == (400, 1200))
    assert glass.read(hit).pixels.shape[2] == 3


def test_stopped_and_resumed(slide, drawn, done, tmp_path, monkeypatch, capsys):
    """What a stopped call has finished is not analyzed again, and the results are the same."""
    calls = []

    def stops(images, *rest):
        calls.append(len(images))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return drawn_slides.analyze(images, *rest)

    monkeypatch.setattr(cell_results.fields, "analyze", stops)
    args = (MODELS, [], tmp_path)
    with pytest.raises(Interrupted, match=r"6 regions are done; the same command goes on"):
        cell_results.predict_files(*args, settings="s", slides=[SlideRun(slide, "a")])
    part = read(tmp_path / "cells.csv")
    assert 0 < len(part) < len(drawn.thin)
    assert len(json.loads((tmp_path / "geojson" / "a.geojson").read_text())["features"]) == 3 * len(
        part
    )
    capsys.readouterr()
    cell_results.predict_files(*args, settings="s", slides=[SlideRun(slide, "a")])
    assert f"6 regions of {slide} were finished before" in capsys.readouterr().out
    assert sum(calls[4:]) == 10
    for name in ("cells.csv", "slides.csv", "differential.csv", "index.html", "geojson/a.geojson"):
        assert (tmp_path / name).read_bytes().replace(b"x", b"") == (
            done[0] / name
        ).read_bytes().replace(b"x", b""), name
    assert not (tmp_path / ".wbc_jax" / "finished.jsonl").exists()


def test_a_slide_that_vanishes_loses_nothing(slide, tmp_path, monkeypatch):
    path = str(shutil.copy(slide, tmp_path / "a.svs"))
    calls = []

    def vanishes(images, *rest):
        calls.append(1)
        if len(calls) == 3:
            os.rename(path, tmp_path / "gone")
        return drawn_slides.analyze(images, *rest)

    monkeypatch.setattr(cell_results.fields, "analyze", vanishes)
    out = tmp_path / "out"
    with pytest.raises(OSError, match=r"No such file.*6 regions are done; the same command"):
        cell_results.predict_files(MODELS, [], out, settings="s", slides=[SlideRun(path, "a")])
    assert len(read(out / "cells.csv")) > 0 and not (out / "bad_files.csv").exists()
    os.rename(tmp_path / "gone", path)
    cell_results.predict_files(MODELS, [], out, settings="s", slides=[SlideRun(path, "a")])
    # The two regions that were analyzed when it vanished are analyzed again.
    assert len(calls) == 3 + 6


def test_slides_of_folders(slide, tmp_path):
    shutil.copy(slide, tmp_path / "a.svs")
    for name in ("b.ome.zarr", "c"):
        (tmp_path / name).mkdir()
    (tmp_path / "b.ome.zarr" / ".zattrs").write_text("{}")
    (tmp_path / "b.ome.zarr" / "0.png").write_bytes(b"")
    (tmp_path / "c.mrxs").write_bytes(b"")
    (tmp_path / "c" / "Data0001.dat").write_bytes(b"")
    Image.new("RGB", (9, 9)).save(tmp_path / "d.png")
    found = inputs.find_images([str(tmp_path)], slides=True)
    names = [os.path.basename(path) for path in found.paths]
    assert sorted(names) == ["a.svs", "b.ome.zarr", "c.mrxs", "d.png"] and not found.passed_over
    named = inputs.find_images([str(tmp_path / "b.ome.zarr")], slides=True)
    assert named.paths == [str(tmp_path / "b.ome.zarr")]
    # Commands on images alone pass slides over.
    found = inputs.find_images([str(tmp_path)])
    assert sorted(map(os.path.basename, found.paths)) == ["0.png", "d.png"]
    assert ("a.svs", "ending .svs") in [
        (os.path.basename(path), why) for path, why in found.passed_over
    ]


@pytest.mark.parametrize("flag", ["--count=0", "--count=many", "--count=70000", "--area=some"])
def test_wrong_flags(flag, capsys):
    with pytest.raises(SystemExit) as ended:
        predict.main(["a.svs", "--out=o", flag])
    assert ended.value.code == 2 and flag.split("=")[0] in capsys.readouterr().err


def test_flags_of_slides_without_a_slide(tmp_path, monkeypatch):
    Image.new("RGB", (9, 9)).save(tmp_path / "d.png")
    with pytest.raises(SystemExit, match="--count and --area are for slides, and there is none"):
        predict.main([str(tmp_path / "d.png"), f"--out={tmp_path / 'o'}", "--count=5"])
