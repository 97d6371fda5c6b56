"""Which regions of a slide are looked at, the size of its pixels, and slides that are refused."""

import csv
import itertools
import os
import tracemalloc

import numpy as np
import pytest

from helpers import drawn_slides
from helpers.drawn_fields import LIGHT, MODELS, RED
from wbc_jax import predict
from wbc_jax.data import slide as slide_lib
from wbc_jax.data import slides
from wbc_jax.fields import analyze as fields
from wbc_jax.report import cell_results, slide_choice
from wbc_jax.report.slide_regions import SlideRun


@pytest.fixture(autouse=True, scope="module")
def small_regions():
    with drawn_slides.small_regions(200):
        yield


@pytest.fixture(scope="module")
def drawn():
    return drawn_slides.smear(leukocytes=20)


@pytest.fixture
def quick(monkeypatch):
    """Stands in for the finder and the networks."""
    monkeypatch.setattr(cell_results.fields, "analyze", drawn_slides.analyze)


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_without_magnification_red_cells_give_it(drawn, tmp_path, quick, capsys):
    path = drawn_slides.write(tmp_path / "a.tif", drawn.image, um_per_px=None)
    cell_results.predict_files(MODELS, [], tmp_path / "out", slides=[SlideRun(path, "a", count=3)])
    assert "states no magnification: its red cells suggest 0.1" in capsys.readouterr().err
    rows = read(tmp_path / "out" / "cells.csv")
    assert {row["um_per_px_source"] for row in rows} == {"red_cells"}
    assert float(rows[0]["um_per_px"]) == pytest.approx(drawn_slides.UM_PER_PX, rel=0.05)
    given = SlideRun(path, "a", count=3, um_per_px=0.25)
    cell_results.predict_files(MODELS, [], tmp_path / "out", slides=[given])
    rows = read(tmp_path / "out" / "cells.csv")
    assert {(r["um_per_px"], r["um_per_px_source"]) for r in rows} == {("0.25", "given")}


def test_refused_slides_and_good_images(drawn, tmp_path, quick, capsys, monkeypatch):
    monkeypatch.setattr(fields, "load_models", lambda *_: MODELS)
    dark = drawn_slides.write(tmp_path / "dark.svs", drawn.image // 5)
    thick = drawn_slides.write(tmp_path / "thick.svs", drawn.image[:, 1600:])
    (tmp_path / "alone.mrxs").write_bytes(b"\xff\xd8\xff")
    good = drawn_slides.write(tmp_path / "good.svs", drawn.image[:, 800:1600])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        predict.main(["dark.svs", "thick.svs", "alone.mrxs", "good.svs", "--out=out", "--find=yes"])
    said = capsys.readouterr().err
    assert str(ended.value).endswith("files could not be predicted")
    assert "bad file: dark.svs: is dark (its brightest part has a gray level of 4" in said
    assert "alone.mrxs: the folder alone is missing" in said
    cells = [(y, x - 800) for y, x, *_ in drawn.thin if x < 1570]
    rows = [row for row in read(tmp_path / "out" / "cells.csv") if row["file"] == "good.svs"]
    assert len(rows) >= len(cells)
    assert os.path.exists(good) and os.path.exists(dark) and os.path.exists(thick)


def test_glass_alone(tmp_path):
    glass = np.full((500, 500, 3), LIGHT, np.uint8)
    glass += np.random.default_rng(0).integers(0, 3, glass.shape, np.uint8)
    for area in slide_choice.AREAS:
        run = SlideRun(drawn_slides.write(tmp_path / "a.tif", glass), "a", area=area)
        with pytest.raises(
            slides.DataError, match=r"a\.tif: shows empty glass alone: there is noth"
        ):
            run.open()


class _Huge(slide_lib.Slide):
    """A slide of 100,000 x 100,000 pixels: glass, and a smear that a picture of 100 px repeats."""

    path, kind, um_per_px, um_per_px_source = __file__, "huge", 0.25, "drawn"
    levels = tuple(slide_lib.Level((side, side), (512, 512)) for side in (100_000, 25_000, 6250))

    def __init__(self, path):
        self.pixels, self.largest = 0, 0

    def _read(self, box, level):
        factor = 100_000 / self.levels[level].size[0]
        top, left, bottom, right = box
        self.pixels += (bottom - top) * (right - left)
        self.largest = max(self.largest, (bottom - top) * (right - left))
        y, x = np.ogrid[top:bottom, left:right]
        out = np.full((bottom - top, right - left, 3), LIGHT, np.uint8)
        inside = (abs(y * factor - 50_000) < 20_000) & (abs(x * factor - 50_000) < 30_000)
        # Red cells of 30 pixels, 50 apart; in a coarse level, their mean.
        if factor == 1:
            out[inside & ((y % 50 - 25) ** 2 + (x % 50 - 25) ** 2 < 225)] = RED
        else:
            out[inside] = np.array(LIGHT) + 0.283 * np.subtract(RED, LIGHT)
        return out

    def close(self):
        pass


def test_a_huge_slide_is_read_in_small_parts(monkeypatch):
    """Memory is that of a region and of the small picture, not of the slide's 30 GB."""
    monkeypatch.setattr(slide_choice, "CORE_PX", 2048)
    monkeypatch.setattr(slide_choice, "_MARGIN_UM", 30)
    monkeypatch.setattr(slides, "open_slide", _Huge)
    tracemalloc.start()
    run = SlideRun(__file__, "huge")
    run.open()
    (parts,) = itertools.islice(run.batches(0, []), 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(parts) == 2 and peak < 400e6
    assert run._slide.largest <= (2048 + 2 * 120) ** 2
    assert run._slide.pixels < 0.01 * 1e10
    kinds = [region.kind for region in run._choice.regions]
    thin = kinds.count("thin") * 2048**2 / 1e10
    assert 0.19 < thin < 0.24  # of 40,000 x 60,000 pixels, less 300 um of edge: 37,600 x 57,600
