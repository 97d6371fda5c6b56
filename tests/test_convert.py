"""python -m wbc_jax.convert: results of predict for other programs."""

import csv
import os

import imageio.v3 as imageio
import numpy as np
import openpyxl
import pytest
import roifile
from PIL import Image

from helpers.drawn_fields import MODELS, plain_field
from wbc_jax import convert
from wbc_jax.report import cell_results


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fields")
    field = plain_field([(60, 60, 20, 30), (60, 150, 20, 30)], 120, 200)
    Image.fromarray(field).save(folder / "a.png")
    cell_results.predict_files(MODELS, [str(folder / "a.png")], folder / "out", "yes", 0.2)
    return folder / "out"


def test_both_formats(out, capsys):
    convert.main([str(out)])
    said = capsys.readouterr().out
    assert f"2 cells in 1 files: {out / 'rois'}" in said and f"2 rows: {out / 'cells.xlsx'}" in said
    rois = roifile.roiread(out / "rois" / "a.zip")
    assert len(rois) == 6
    with open(out / "cells.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    boxes = [(roi.top, roi.left, roi.bottom, roi.right) for roi in rois if " cell" in roi.name]
    sides = ("top", "left", "bottom", "right")
    assert boxes == [tuple(int(row[side]) for side in sides) for row in rows]
    book = openpyxl.load_workbook(out / "cells.xlsx")
    assert book.sheetnames == ["cells", "differential"]
    head = [cell.value for cell in book["cells"][1]]
    column = head.index("nucleus area (µm²)")
    values = [book["cells"].cell(y, column + 1).value for y in (2, 3)]
    assert values == pytest.approx([float(row["nucleus_um2"]) for row in rows], rel=1e-5)
    # They are results: a later call replaces them, and predict does not take them for inputs.
    convert.main([str(out), "--to=spreadsheet"])
    assert "rows" in capsys.readouterr().out


def test_labels_as_napari_reads_them(out):
    """napari reads PNG with imageio; labels must be whole numbers of two dimensions."""
    labels = imageio.imread(out / "labels" / "a.png")
    assert labels.ndim == 2 and np.issubdtype(labels.dtype, np.integer)
    assert np.unique(labels).tolist() == [0, 1, 2]


def test_errors(out, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="has no cells"):
        convert.main([str(tmp_path)])
    monkeypatch.setattr(convert.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"needs the package roifile: pip install 'wbc_jax\[con"):
        convert.main([str(out), "--to=imagej"])
    monkeypatch.undo()
    (out / "cells.xlsx").unlink(missing_ok=True)
    (out / "cells.xlsx").write_text("of a person")
    with pytest.raises(SystemExit, match=r"cells\.xlsx has changed|was not written"):
        convert.main([str(out), "--to=spreadsheet"])
    os.unlink(out / "cells.xlsx")
    with pytest.raises(SystemExit) as ended:
        convert.main([str(out), "--to=word"])
    assert ended.value.code == 2
