"""Results in the formats of ImageJ and spreadsheets, read back by those programs' libraries."""

import io

import numpy as np
import openpyxl
import pytest
import roifile

from helpers.drawn_fields import disk
from wbc_jax.corrections import outlines
from wbc_jax.fields import results
from wbc_jax.report import other_formats


@pytest.fixture
def pictures():
    """Two cells: one with two lobes, one whose nucleus has a hole."""
    mask, labels = np.zeros((90, 160), np.uint8), np.zeros((90, 160), np.uint16)
    for number, x in ((3, 40), (7, 115)):
        cell = disk(mask.shape, 45, x, 30)
        mask[cell], labels[cell] = 1, number
    mask[disk(mask.shape, 45, 30, 8) | disk(mask.shape, 45, 52, 8)] = 2
    mask[disk(mask.shape, 45, 115, 15) & ~disk(mask.shape, 45, 115, 5)] = 2
    return mask, labels


def test_imagej_gets_each_region_back(pictures, tmp_path):
    mask, labels = pictures
    path = tmp_path / "a.zip"
    path.write_bytes(other_formats.imagej_rois(mask, labels, {3: "neutrophil", 7: ""}))
    names = ["3 cell neutrophil", "3 nucleus", "3 cytoplasm", "7 cell", "7 nucleus", "7 cytoplasm"]
    rois = roifile.roiread(path)
    assert [roi.name for roi in rois] == names
    for roi in rois:
        number, kind = int(roi.name.split()[0]), roi.name.split()[1]
        region = labels == number
        region &= {"cell": mask > 0, "nucleus": mask == 2, "cytoplasm": mask == 1}[kind]
        rings = roi.coordinates(multi=True)
        # Shoelace formula: holes run the other way round.
        area = sum(
            float((r[:, 0] * np.roll(r[:, 1], -1) - r[:, 1] * np.roll(r[:, 0], -1)).sum() / 2)
            for r in (np.asarray(ring, float) for ring in rings)
        )
        assert area == region.sum()
        ys, xs = np.nonzero(region)
        assert (roi.top, roi.left) == (ys.min(), xs.min())
        assert (roi.bottom, roi.right) == (ys.max() + 1, xs.max() + 1)
    # The review reads the same pixels.
    found, passed = outlines.read(path)
    assert passed == [] and [(one.number, one.kind) for one in found][:2] == [
        (3, "cell"), (3, "nucleus"),
    ]  # fmt: skip
    for one in found:
        region = labels == one.number
        region &= {"cell": mask > 0, "nucleus": mask == 2, "cytoplasm": mask == 1}[one.kind]
        np.testing.assert_array_equal(one.region(mask.shape), region)


def test_the_same_results_give_the_same_file(pictures):
    types = {3: "neutrophil", 7: ""}
    assert other_formats.imagej_rois(*pictures, types) == other_formats.imagej_rois(
        *pictures, types
    )


def test_headings_name_the_unit():
    texts = {name: other_formats.heading(name) for name in results.COLUMNS}
    assert texts["nucleus_um2"] == "nucleus area (µm²)"
    assert texts["cytoplasm_px"] == "cytoplasm area (px)"
    assert texts["top"] == "top (px)" and texts["um_per_px"] == "size of a pixel (µm/px)"
    assert texts["nc_ratio"] == "N/C" and texts["best_guess"] == "best guess"
    assert other_formats.heading("percent") == "share (%)"
    assert len(set(texts.values())) == len(texts)


def test_a_spreadsheet_opens_with_numbers_as_numbers():
    rows = [
        {"file": "=1+2.png", "cell": 1, "nucleus_um2": 31.5, "nc_ratio": float("inf"), "type": ""},
        {"file": "b\x01.png", "cell": 2, "nucleus_um2": None, "nc_ratio": 0.25, "type": "monocyte"},
    ]
    shares = [{"type": "monocyte", "cells": 1, "percent": 50.0}]
    data = other_formats.spreadsheet({"cells": rows, "differential": shares, "slides": []})
    book = openpyxl.load_workbook(io.BytesIO(data))
    assert book.sheetnames == ["cells", "differential", "slides"]
    sheet = book["cells"]
    assert [cell.value for cell in sheet[1]] == [
        "file",
        "cell",
        "nucleus area (µm²)",
        "N/C",
        "type",
    ]
    assert [cell.value for cell in sheet[2]] == ["=1+2.png", 1, 31.5, None, None]
    assert sheet["A2"].data_type == "s" and sheet["C2"].data_type == "n"
    assert [cell.value for cell in sheet[3]] == ["b\ufffd.png", 2, None, 0.25, "monocyte"]
    assert sheet.freeze_panes == "A2"
    assert [cell.value for cell in book["differential"][1]] == ["type", "cells", "share (%)"]
