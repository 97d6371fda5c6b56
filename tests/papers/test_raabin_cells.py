"""Paper A's own data: cells measured by our masks, kept in a file, beside the paper's tables."""

import json
import math

import cv2
import numpy as np
import pytest
from etils import epath
from PIL import Image

from helpers import drawn_fields, paper_runs
from wbc_jax import provenance
from wbc_jax.config import Data
from wbc_jax.fields import analyze as fields
from wbc_jax.papers import paper_a, plans, raabin_cells, runs
from wbc_jax.papers.raabin_cells import Measured, RaabinCell

CROPS = (
    # Folder of the split and of the type, stem, radius of the nucleus and of the cell.
    ("Train", "Neutrophil", "95-1-1-1_1_1", 20, 30),
    ("Train", "Monocyte", "95-1-1-1_2_1", 28, 32),
    ("Train", "Lymphocyte", "95-1-1-1_3_1", 24, 27),
    ("TestA", "Neutrophil", "95-1-1-1_4_1", 22, 30),
)


def draw(nucleus, cell):
    """A crop in flat colors, without blur, so that each pixel's region is known."""
    image = np.full((120, 120, 3), drawn_fields.LIGHT, np.uint8)
    cv2.circle(image, (60, 60), cell, drawn_fields.CYTOPLASM, -1)
    cv2.circle(image, (60, 60), nucleus, drawn_fields.NUCLEUS, -1)
    return image


def area(image, color):
    return int((image == color).all(-1).sum())


@pytest.fixture
def data(tmp_path):
    for split, kind, stem, nucleus, cell in CROPS:
        folder = tmp_path / "manual" / "raabin_wbc" / split / kind
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(nucleus, cell)).save(folder / f"{stem}.png")
    data = plans.data_settings()
    data.data_dir, data.manual_dir = str(tmp_path / "records"), str(tmp_path / "manual")
    return data


def models():
    return fields.Models(segmenter=drawn_fields.Thresholds())


def cell(name, nucleus, cytoplasm, kind="neutrophil"):
    return RaabinCell(name, kind, nucleus, cytoplasm, 0.0, 0.0)


def test_cells_are_measured_once_by_the_path_of_predict(tmp_path, data, monkeypatch):
    # The drawn crops are in no standard light that the colors' segmenter would know.
    monkeypatch.setattr(fields.light, "standardize", lambda image: image)
    folder = epath.Path(tmp_path / "runs")
    found = raabin_cells.read_or_measure(folder, data, models)
    assert not found.reason
    # Of Train alone, and of the paper's four types.
    assert [(c.id, c.type) for c in found.cells] == [
        ("train_95-1-1-1_1_1", "neutrophil"), ("train_95-1-1-1_2_1", "monocyte"),
    ]  # fmt: skip
    for one, (*_, nucleus, whole) in zip(found.cells, CROPS):
        image = draw(nucleus, whole)
        n, c = (area(image, color) for color in (drawn_fields.NUCLEUS, drawn_fields.CYTOPLASM))
        assert (one.nucleus_px, one.cytoplasm_px) == (n, c)
        assert one.nc_ratio == n / c
        # Gray levels by ITU-R BT.601 over all 120 x 120 pixels of the crop.
        grays = (0.299 * r + 0.587 * g + 0.114 * b for r, g, b in (
            drawn_fields.NUCLEUS, drawn_fields.CYTOPLASM
        ))  # fmt: skip
        means = [gray * pixels / 14_400 for gray, pixels in zip(grays, (n, c))]
        assert (one.mean_nucleus, one.mean_cytoplasm) == pytest.approx(means)
        assert one.mean_ratio == pytest.approx(means[0] / means[1])

    def again():
        raise AssertionError("the cells are measured twice")

    assert raabin_cells.read_or_measure(folder, data, again) == found
    path = folder / raabin_cells.FILE
    for damage in ("{", json.dumps({"made_from": {}, "cells": []}), json.dumps([])):
        path.write_text(damage)
        assert raabin_cells.read_or_measure(folder, data, models) == found
    # Other weights: the file is of something else.
    stored = json.loads(path.read_text())
    stored["made_from"]["segmenter"] = "0"
    path.write_text(json.dumps(stored))
    with pytest.raises(AssertionError, match="measured twice"):
        raabin_cells.read_or_measure(folder, data, again)


def test_without_the_data_set_the_reason_is_given(tmp_path):
    data = Data(data_dir=str(tmp_path / "records"), manual_dir=str(tmp_path))
    found = raabin_cells.read_or_measure(epath.Path(tmp_path), data)
    assert not found.cells and not (tmp_path / raabin_cells.FILE).exists()
    assert found.reason.startswith("raabin_wbc/crops is not there: ")


def test_masks_without_nucleus_or_cytoplasm():
    assert math.isinf(cell("a", 5, 0).nc_ratio) and cell("a", 5, 0).verdict == "unhealthy"
    assert math.isnan(cell("a", 0, 5).nc_ratio) and cell("a", 0, 5).verdict == ""
    assert math.isinf(RaabinCell("a", "monocyte", 5, 0, 1.0, 0.0).mean_ratio)
    assert math.isnan(RaabinCell("a", "monocyte", 0, 5, 0.0, 1.0).mean_ratio)


def test_the_ten_are_chosen_by_their_names_alone():
    cells = [cell(name, 1, 1) for name in "abc"]
    # SHA-256 begins with ca of "a", 3e of "b", 2e of "c".
    for order in (cells, cells[::-1]):
        assert [c.id for c in raabin_cells.chosen(order, 2)] == ["c", "b"]
    assert len(raabin_cells.chosen(cells)) == 3


def built(tmp_path, item, cells):
    store = runs.RunStore(
        epath.Path(tmp_path), "full", provenance.check_splits, lambda: Measured(cells)
    )
    return paper_runs.rows_of(paper_a.ITEMS[item].build(store))


def test_table_1_has_ten_cells_and_all_of_them(tmp_path):
    # Of twelve, three are above the paper's 1.5; one mask more has no nucleus.
    ratios = [0.5] * 6 + [1.0, 1.2, 1.5, 1.6, 2.0, 3.0]
    cells = [cell(f"n{i:02}", round(100 * r), 100) for i, r in enumerate(ratios)]
    cells = [RaabinCell(c.id, c.type, c.nucleus_px, 100, 6.0, 4.0) for c in cells]
    others = [cell("m1", 400, 100, "monocyte")]
    rows = built(tmp_path, "table_1", [*cells, cell("empty", 0, 50), *others])
    name = "all neutrophils of Raabin-WBC"
    assert rows[name, "cells"].ours.number == 13
    assert rows[name, "cells"].recomputed.number == 11
    assert rows[name, "median N/C"].ours.number == 0.75  # of 0.5 and 1.0
    assert rows[name, "median N/C"].recomputed.number == 14870 / 13819
    assert rows[name, "median N/(N+C)"].ours.number == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert rows[name, "median ratio of means"].ours.number == 1.5
    called = rows[name, "called unhealthy"]
    assert called.ours.number == 3 / 12
    # Wilson's interval by hand: z = 1.959964, p = 0.25, n = 12.
    z, p, n = 1.959963985, 0.25, 12
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    assert (called.ours.low, called.ours.high) == pytest.approx((middle - half, middle + half))
    assert called.remark == "1 of 13, without a nucleus, are left out."
    assert rows[name, "called healthy"].ours.number == 9 / 12
    assert rows[name, "cells called unhealthy"].ours.number == 3

    ten = {c.id: c for c in raabin_cells.chosen([*cells, cell("empty", 0, 50)])}
    assert rows["ten neutrophils of Raabin-WBC", "cells"].ours.number == 10
    assert {row for row, _ in rows if row.startswith("cell ")} == {f"cell {i}" for i in ten}
    for name, one in ten.items():
        row = rows[f"cell {name}", "nucleus"]
        assert (row.ours.number, row.unit) == (one.nucleus_px, "px")
        if one.nucleus_px:
            assert rows[f"cell {name}", "ratio of means"].ours.number == 1.5
            said = "unhealthy" if one.nucleus_px > 150 else "healthy"
            assert rows[f"cell {name}", "verdict"].ours.word == said
        else:
            assert not rows[f"cell {name}", "N/C"].ours.known


def test_a_type_without_cells_stays_blank(tmp_path):
    rows = built(tmp_path, "table_4", [cell("n1", 1, 1)])
    row = rows["all monocytes of Raabin-WBC", "called unhealthy"]
    assert not row.ours.known
    assert row.reason == "There is no monocyte in raabin_wbc/crops."
    assert row.recomputed.known


def test_without_measuring_the_cells_stay_blank(tmp_path):
    rows = paper_runs.rows_of(paper_a.ITEMS["table_2"].build(paper_runs.store(tmp_path)))
    row = rows["ten eosinophils of Raabin-WBC", "median N/C"]
    assert not row.ours.known and row.reason == runs.NOT_MEASURED
