"""benchmarks/crops.py: both sides give the same masks and rows, and the ratios are as by hand."""

import csv
import pathlib
import types
from concurrent import futures

import cv2
import numpy as np
import pytest

import wbc_jax
from helpers import drawn_fields
from wbc_jax.fields import analyze as fields

pytest.importorskip("torch", reason="PyTorch is the other side: pip install torch")

import crops


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crops")
    shapes = {"square": (200, 200, 30, 60), "oblong": (176, 160, 24, 40), "small": (90, 90, 16, 30)}
    for name, (height, width, *radii) in shapes.items():
        image = drawn_fields.plain_field([(height // 2, width // 2 - 4, *radii)], height, width)
        noise = np.random.default_rng(0).normal(0, 4, image.shape)
        image = np.clip(image + noise, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{name}.png"), image[..., ::-1])
    cv2.imwrite(str(folder / "plain.png"), np.full((120, 120, 3), 200, np.uint8))
    return [str(folder / f"{name}.png") for name in (*shapes, "plain")]


def test_both_sides_give_what_predict_gives(paths, tmp_path, monkeypatch):
    models = fields.load_models()
    monkeypatch.setattr(fields, "load_models", lambda: models)
    monkeypatch.setattr(crops, "BATCH", 3)
    expected = fields.analyze([wbc_jax.read_image(path) for path in paths], models, find="no")
    assert [bool(field.cells) for field in expected] == [True, True, True, False]
    assert all(np.unique(field.mask).tolist() == [0, 1, 2] for field in expected[:3])
    with futures.ThreadPoolExecutor(2) as pool:
        crops.write_results(crops.PyTorch(pool), paths, tmp_path, pool)
    with (tmp_path / crops.TABLE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    for path, row, field in zip(paths, rows, expected, strict=True):
        name = f"{pathlib.Path(path).stem}.png"
        mask = cv2.imread(str(tmp_path / name), cv2.IMREAD_UNCHANGED)
        assert mask.shape == field.mask.shape and (mask == field.mask).mean() > 0.999
        assert row["type"] == (field.cells[0].best_guess if field.cells else "")
        counts = row["file"], int(row["nucleus_px"]), int(row["cytoplasm_px"])
        assert counts == (path, (mask == 2).sum(), (mask == 1).sum())


def test_how_far_the_sides_agree(paths, tmp_path, monkeypatch):
    """One of four crops has another type, and one of them another nucleus."""
    masks = [np.zeros((10, 10), np.uint8) for _ in paths]
    masks[0][2:8, 2:7] = 1
    other = [mask.copy() for mask in masks]
    other[0][2:4, 2:7], other[1][0, 0] = 2, 1  # 11 of 31 pixels of cells

    class Fake:
        def __init__(self, masks, kinds):
            self.results = masks, kinds

    def write(engine, paths, out, pool):
        masks, kinds = engine.results
        for path, mask in zip(paths, masks):
            cv2.imwrite(str(out / f"{pathlib.Path(path).stem}.png"), mask)
        (out / crops.TABLE).write_text("\n".join(["type", *kinds]))

    monkeypatch.setattr(crops, "write_results", write)
    monkeypatch.setattr(crops, "Ours", lambda pool: Fake(masks, "abcd"))
    monkeypatch.setattr(crops, "PyTorch", lambda pool: Fake(other, "abce"))
    same = [types.SimpleNamespace(mask=mask) for mask in other]
    monkeypatch.setattr(fields, "analyze", lambda images, find: same)
    assert crops.agreement(paths) == {
        "masks": 1 - 11 / 400, "masks_in_cells": 20 / 31, "masks_of_predict": 1, "types": 0.75,
    }  # fmt: skip


class _Given:
    """An engine whose masks and types are given."""

    def __init__(self, masks, labels):
        self._masks, self._labels, self.written = masks, labels, []

    def read(self, path):
        return cv2.imread(path)[..., ::-1]

    def masks(self, images):
        return self._masks

    def types(self, images, masks):
        return self._labels

    def write(self, path, mask):
        self.written.append((path.name, mask))


def test_the_row_of_a_crop_by_hand(tmp_path):
    """The image is in its standard position: its cell is to the right, and a bit below the middle.
    The nearest cell to the middle is kept."""
    mask = np.zeros((100, 100), np.uint8)
    mask[40:80, 40:90], mask[50:70, 50:80] = 1, 2
    other = mask.copy()
    other[:6, :6] = 2
    colors = np.array([drawn_fields.LIGHT, drawn_fields.CYTOPLASM, drawn_fields.NUCLEUS], np.uint8)
    path = str(tmp_path / "a.png")
    cv2.imwrite(path, colors[mask][..., ::-1])
    engine = _Given([other], [3])
    with futures.ThreadPoolExecutor(1) as pool:
        crops.write_results(engine, [path], tmp_path, pool)
    ((name, written),) = engine.written
    assert name == "a.png"
    np.testing.assert_array_equal(written, mask)
    row = list(csv.reader((tmp_path / crops.TABLE).open(newline="")))[1]
    assert row == [path, "600", "1400", str(600 / 1400), "monocyte"]


def test_the_ratios_are_those_of_each_round():
    sides = {
        "ours": {"seconds": [1.0, 2.0, 4.0], "processor_seconds": [1.0, 1.0, 1.0]},
        "PyTorch": {"seconds": [2.0, 2.0, 2.0], "processor_seconds": [4.0, 2.0, 1.0]},
    }
    found = crops.summary({k: v | {"peak_bytes": 2**21} for k, v in sides.items()}, images=8)
    assert found["ours"] == {
        "images_per_second": 4.0,
        "processor_seconds_per_image": 0.125,
        "images_per_second_to_pytorch": 1.0,  # of 2, 1 and 1/2
        "processor_time_to_pytorch": 0.5,  # of 1/4, 1/2 and 1
        "peak_mib": 2,
    }
    assert found["PyTorch"]["images_per_second_to_pytorch"] == 1.0
