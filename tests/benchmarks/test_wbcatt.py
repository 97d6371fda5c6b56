"""benchmarks/wbcatt.py: drawn tables, and figures computed by hand."""

import csv
import json
import math

import numpy as np
import pytest
from PIL import Image

import wbcatt
from wbc_jax.errors import DataError
from wbc_jax.fields import results
from wbc_jax.tfds_builders.pbc import attributes

WORDS = {
    "cell_size": "small",
    "cell_shape": "round",
    "nucleus_shape": "unsegmented-round",
    "nuclear_cytoplasmic_ratio": "low",
    "chromatin_density": "densely",
    "cytoplasm_vacuole": "no",
    "cytoplasm_texture": "clear",
    "cytoplasm_colour": "light blue",
    "granule_type": "nil",
    "granule_colour": "nil",
    "granularity": "no",
}


def described(cell_type="lymphocyte", **words):
    return attributes.Described(split="train", cell_type=cell_type, words=WORDS | words)


def row(name, **values):
    """A row of cells.csv: one cell of 40 and 60 pixels in the middle of its image."""
    return dict.fromkeys(results.COLUMNS, "") | {
        "file": f"elsewhere/{name}.jpg",
        "width": 60,
        "height": 60,
        "cell": 1,
        **{"top": 10, "left": 10, "bottom": 50, "right": 50},
        "best_guess": "lymphocyte",
        **{"nucleus_px": 40, "cytoplasm_px": 60, "nc_ratio": 0.667, "lobes": 1},
        **values,
    }


def write(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "cells.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return folder


def write_words(folder, cells):
    folder.mkdir(parents=True, exist_ok=True)
    lines = [",".join(attributes.HEADER)]
    for name, cell in cells.items():
        lines.append(",".join([f"{name}.jpg", cell.cell_type, *cell.words.values(), "nowhere"]))
    (folder / "pbc_attr_v1_train.csv").write_text("\n".join(lines) + "\n")
    return folder


def cell(value, cell_type="lymphocyte", measure="nc_ratio", **words):
    return wbcatt.Cell({measure: value}, described(cell_type, **words))


RATIO = wbcatt.QUESTIONS[0]


def test_every_question_asks_for_words_that_exist():
    for question in wbcatt.QUESTIONS:
        known = attributes.WORDS[question.attribute]
        assert {*question.words, *question.others} <= set(known)
        assert question.words and not set(question.words) & set(question.others)
    assert {question.attribute for question in wbcatt.QUESTIONS} == {
        "nuclear_cytoplasmic_ratio", "cell_size", "cell_shape", "nucleus_shape", "granularity",
    }  # fmt: skip


def test_auroc_by_hand():
    high = [cell(value, nuclear_cytoplasmic_ratio="high") for value in (2, math.inf, math.nan)]
    low = [cell(value) for value in (1, 2, 3)]
    found = wbcatt.answer(RATIO, high + low, "all", 200, 0)
    # Of six pairs, 2 wins against 1 and ties with 2, infinity wins three times: 4.5 of 6.
    assert found["auroc"] == pytest.approx(4.5 / 6)
    assert (found["cells"], found["unmeasured"], found["medians"]) == ([2, 3], 1, [math.inf, 2])
    low_end, high_end = found["interval"]
    assert 0 <= low_end < found["auroc"] < high_end <= 1
    assert wbcatt.answer(RATIO, high + low, "all", 200, 0) == found
    assert "| nuclear_cytoplasmic_ratio | high | nc_ratio | all | 2 and 3 | 0.750 [" in (
        wbcatt.line(found)
    )


def test_interval_covers_what_the_draws_allow():
    cells = [cell(value, nuclear_cytoplasmic_ratio="high") for value in (5, 6, 7)]
    cells += [cell(value) for value in (1, 2, 3)]
    assert wbcatt.answer(RATIO, cells, "all", 100, 0)["interval"] == [1, 1]


def test_a_smaller_measure_turns_the_order():
    question = wbcatt.Question("cell_shape", ("irregular",), "nc_ratio", smaller=True)
    cells = [cell(1, cell_shape="irregular"), cell(2), cell(3)]
    found = wbcatt.answer(question, cells, "all", 10, 0)
    assert (found["auroc"], found["medians"]) == (1, [1, 2.5])
    assert "| nc_ratio (smaller) |" in wbcatt.line(found)


def test_words_that_are_not_compared_are_left_out():
    [question] = (q for q in wbcatt.QUESTIONS if q.others)
    shapes = ("segmented-multilobed", "segmented-bilobed", "irregular", "unsegmented-band")
    cells = [
        cell(lobes, measure="lobes", nucleus_shape=s) for lobes, s in zip((3, 2, 9, 9), shapes)
    ]
    found = wbcatt.answer(question, cells, "all", 10, 0)
    assert (found["cells"], found["auroc"]) == ([1, 1], 1)
    assert "segmented-multilobed (against segmented-bilobed)" in wbcatt.line(found)


def test_types_with_enough_cells_are_asked_by_themselves(monkeypatch):
    monkeypatch.setattr(wbcatt, "QUESTIONS", (RATIO,))
    high = {"nuclear_cytoplasmic_ratio": "high"}
    cells = [cell(i, "monocyte", **(high if i < 20 else {})) for i in range(40)]
    cells += [cell(100 + i, "lymphocyte", **high) for i in range(30)]
    rows = wbcatt.answers(cells, 10, 0)
    assert [(r["type"], r["cells"]) for r in rows] == [("all", [50, 20]), ("monocyte", [20, 20])]
    # Over all, the lymphocytes hide that monocytes go the other way.
    assert [r["auroc"] for r in rows] == [0.6, 0]


def test_no_cell_on_one_side():
    found = wbcatt.answer(RATIO, [cell(1), cell(2)], "all", 10, 0)
    assert found["cells"] == [0, 2]
    assert math.isnan(found["auroc"]) and "| nan [nan, nan] |" in wbcatt.line(found)


def test_cells_are_joined_by_the_name_of_their_image(tmp_path):
    rows = [
        row("LY_1", nc_ratio="inf", nucleus_um2=1.5, cytoplasm_um2=2),
        row("LY_2", cell=1, top=0, left=0, bottom=20, right=20, nucleus_px=1),
        row("LY_2", cell=2, top=18, left=22, bottom=40, right=44, nucleus_px=2),
        row("LY_2", cell=3, top=40, left=40, bottom=60, right=60, nucleus_px=3),
        row("EO_1", best_guess="eosinophil", nc_ratio=""),
        row("MO_1", cell="", best_guess=""),
        row("IG_1"),
    ]
    words = {name: described() for name in ("LY_1", "LY_2", "EO_1", "MO_1", "MO_2")}
    cells, counts = wbcatt.read_cells(write(tmp_path, rows), words)
    assert counts == {
        "images": 5,
        "without_words": 1,
        "without_cell": 1,
        "several_cells": 1,
        "without_image": 3,
    }
    one, two, three = (cell.measures for cell in cells)
    assert (one["nc_ratio"], one["cell_px"], one["cell_um2"]) == (math.inf, 100, 3.5)
    assert (one["granulocyte"], three["granulocyte"]) == (0, 1)
    assert two["cell_px"] == 62  # the second of three lies in the middle
    assert math.isnan(two["cell_um2"]) and math.isnan(three["nc_ratio"])
    assert math.isnan(one["granule_contrast"])


@pytest.mark.parametrize(
    "rows, reason",
    [
        ([row("a") | {"file": "x/a.jpg"}, row("a") | {"file": "y/a.jpg"}], "x/a.jpg has the same"),
        ([row("a", nc_ratio="much")], "the rows of a hold no number: .*'much'"),
        ([{"file": "a.jpg", "cell": 1}], "lacks the columns mask, width, .*cells.csv that"),
    ],
)
def test_wrong_tables(tmp_path, rows, reason):
    with pytest.raises(DataError, match=reason) as caught:
        wbcatt.read_cells(write(tmp_path, rows), {"a": described()})
    assert str(tmp_path / "cells.csv") in str(caught.value)


def ring():
    """A nucleus of 20 × 20 pixels in a cell of 40 × 40, in an image of 60 × 60."""
    mask = np.zeros((60, 60), np.uint8)
    mask[10:50, 10:50], mask[20:40, 20:40] = 1, 2
    return mask


def test_granule_contrast():
    mask = ring()
    image = np.full((60, 60, 3), 120, np.uint8)
    image[mask == 2], image[mask == 0] = 10, 255  # neither reaches the cytoplasm's local mean
    assert wbcatt.granule_contrast(image, mask) == pytest.approx(0, abs=1e-9)
    checks = np.indices((60, 60)).sum(0) % 2 == 0
    image[..., 1][(mask == 1) & checks] = 140
    # Half of the pixels are 10 above the mean of 130 and half 10 below.
    assert wbcatt.granule_contrast(image, mask) == pytest.approx(10, rel=0.05)
    assert math.isnan(wbcatt.granule_contrast(image, np.where(mask == 1, 0, mask)))


def test_redness():
    mask = ring()
    image = np.full((60, 60, 3), (150, 0, 60), np.uint8)
    image[mask != 1] = 255
    image[10:12, 10:50] = 0  # the edge of the cytoplasm is left out
    light = np.array([200.0, 200, 120])
    assert wbcatt.redness(image, mask, light) == pytest.approx(0.75 - 0.5)
    assert math.isnan(wbcatt.redness(image, mask, np.array([0.0, 200, 120])))
    assert math.isnan(wbcatt.redness(image, mask * 0, light))


def test_command(tmp_path, capsys):
    mask = ring()
    image = np.full((60, 60, 3), (150, 100, 120), np.uint8)
    image[mask == 0] = (200, 200, 240)
    images, folder = tmp_path / "images", tmp_path / "predicted"
    (folder / "masks").mkdir(parents=True)
    images.mkdir()
    rows, words = [], {}
    for i in range(4):
        name = f"LY_{i}"
        Image.fromarray(image).save(images / f"{name}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{name}.png")
        place = {"file": images / f"{name}.png", "mask": f"masks/{name}.png"}
        rows.append(row(name, nc_ratio=i, **place))
        ratio = "high" if i > 1 else "low"
        words[name] = described(nuclear_cytoplasmic_ratio=ratio, granularity="yes")
    folder, tables = write(folder, rows), write_words(tmp_path / "wbcatt", words)
    cells, counts = wbcatt.read_cells(folder / "cells.csv", attributes.read_tables(tables))
    assert counts["without_image"] == 0
    assert [cell.measures["cytoplasm_redness"] for cell in cells] == [0.25] * 4  # 3/4 - 1/2
    command = [str(folder), f"--attributes={tables}", "--resamples=20", f"--out={tmp_path}/a.json"]
    wbcatt.main(command)
    shown = capsys.readouterr().out
    assert "4 cells of 4 images: WBCAtt does not have 0;" in shown
    assert "| high | nc_ratio | all | 2 and 2 | 1.000 [1.000, 1.000] | 2.5 and 0.5 | 0 |" in shown
    found = json.loads((tmp_path / "a.json").read_text())
    assert len(found["rows"]) == len(wbcatt.QUESTIONS) == shown.count("| all |")
    assert (found["cells"], found["rows"][0]["auroc"], found["resamples"]) == (4, 1, 20)
    assert found["rows"][-1]["auroc"] is None  # all have granules

    Image.fromarray(mask[1:]).save(folder / "masks" / "LY_2.png")
    with pytest.raises(SystemExit, match="2"):
        wbcatt.main(command)
    error = capsys.readouterr().err
    assert "masks/LY_2.png" in error and "60 x 59 pixels" in error and "60 x 60 pixels" in error


@pytest.mark.parametrize(
    "flags, reason",
    [
        (["--resamples=0"], "--resamples is 0; it must be at least 1"),
        (["--attributes=nowhere"], "nowhere: holds none of pbc_attr_v1_train.csv"),
        ([], "holds no cell of an image in"),
    ],
)
def test_wrong_flags(tmp_path, capsys, flags, reason):
    folder = write(tmp_path / "predicted", [row("IG_1")])
    tables = write_words(tmp_path / "wbcatt", {"LY_1": described()})
    with pytest.raises(SystemExit, match="2"):
        wbcatt.main([str(folder), f"--attributes={tables}", *flags])
    assert reason in capsys.readouterr().err
