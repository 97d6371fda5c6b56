"""A data set's true masks as a table that `wbc_jax.cohort` reads."""

import csv

import numpy as np
import pytest
from PIL import Image

import true_cells
from wbc_jax.data.images import encode_png
from wbc_jax.data.sources import Source
from wbc_jax.errors import DataError, InputError
from wbc_jax.evaluate import cell_tables
from wbc_jax.evaluate.cell_tables import Rule


def drawn(nucleus, neighbor=False):
    """A mask of 40 x 50 px: a cell of 30 x 30 with a square nucleus, away from the frame."""
    mask = np.zeros((40, 50), np.uint8)
    mask[5:35, 10:40] = 1
    mask[12 : 12 + nucleus, 14 : 14 + nucleus] = 2
    if neighbor:
        mask[:, 45:] = 255
    return mask


def source(ids=("Im001/1", "Im002", "Im003"), has_mask=(True, True, False), size=np.nan):
    masks = [drawn(10), drawn(5, neighbor=True), np.full((40, 50), 255, np.uint8)]
    image = np.full((40, 50, 3), 200, np.uint8)
    subtypes = ("blast", "normal", "normal")
    records = [
        {
            "image": encode_png(image), "mask": encode_png(mask), "id": id.encode(),
            "subtype": subtype.encode(), "label": 2,
        }
        for id, mask, subtype in zip(ids, masks, subtypes)
    ]  # fmt: skip
    return Source(
        name="drawn", ids=ids, groups=ids, sources=ids, subtypes=subtypes, label_sources=ids,
        labels=np.array([2, -1, 2]), has_mask=np.array(has_mask),
        um_per_px=np.array([size] * 3, np.float32), encoded=records,
    )  # fmt: skip


def test_the_table_holds_the_areas_of_the_true_masks(tmp_path):
    assert true_cells.write(source(), str(tmp_path / "out"), "subtype") == 2
    table = cell_tables.read(tmp_path / "out", "subtype")
    assert table.missing == ()
    blast, normal = table.rows
    assert (blast.group, normal.group) == ("blast", "normal")
    assert (blast.values["nucleus_px"], blast.values["cytoplasm_px"]) == (100, 800)
    # The neighbor is neither in an area nor at the frame.
    assert (normal.values["nucleus_px"], normal.values["cytoplasm_px"]) == (25, 875)
    assert blast.flags == normal.flags == () and blast.box == (5, 10, 35, 40)
    assert blast.size == (40, 50) and [Rule().reason(row) for row in table.rows] == ["", ""]
    assert blast.values["cell_solidity"] == 1 and blast.values["lobes"] == 1
    assert blast.stem == "Im001_1"
    assert np.asarray(Image.open(blast.file)).shape == (40, 50, 3)
    assert blast.file == str(tmp_path / "out" / "images" / "blast" / "Im001_1.png")
    mask = np.asarray(Image.open(tmp_path / "out" / normal.mask))
    assert set(np.unique(mask)) == {0, 1, 2} and (mask == 2).sum() == 25
    with open(tmp_path / "out" / "cells.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["type"] for row in rows] == ["lymphocyte", ""]
    assert (rows[0]["nc_ratio"], rows[0]["nucleus_share"]) == ("0.125", "0.111111")
    assert (rows[0]["id"], rows[0]["subtype"]) == ("Im001/1", "blast")


def test_areas_in_um2_follow_from_the_records_pixel_size(tmp_path):
    true_cells.write(source(size=0.5), str(tmp_path))
    with open(tmp_path / "cells.csv", newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["nucleus_um2"], row["um_per_px"], row["um_per_px_source"]) == ("25", "0.5", "given")


def test_what_cannot_be_written_is_told(tmp_path):
    with pytest.raises(InputError, match="--by is 'diagnosis'; records of drawn have the texts id"):
        true_cells.write(source(), str(tmp_path / "a"), "diagnosis")
    with pytest.raises(DataError, match="none of its 3 records has a mask"):
        true_cells.write(source(has_mask=(False,) * 3), str(tmp_path / "b"))
    with pytest.raises(DataError, match="two records would both be written to"):
        true_cells.write(source(("a/b", "a b", "c")), str(tmp_path / "c"))
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "cells.csv").write_text("mine")
    with pytest.raises(InputError, match="was not written by an earlier call"):
        true_cells.write(source(), str(tmp_path / "d"))
