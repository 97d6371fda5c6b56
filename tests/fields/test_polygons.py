"""Polygons give their mask back, by the shoelace formula and by OpenCV."""

import json

import cv2
import numpy as np
import pytest
from scipy import ndimage

from wbc_jax.fields import polygons
from wbc_jax.fields.cells import Cell


def shapes():
    yield "a pixel", np.ones((1, 1), bool)
    yield "pixels that share a corner", np.eye(3, dtype=bool)
    ring = np.ones((7, 9), bool)
    ring[2:5, 3:6] = False
    yield "a hole", ring
    two = np.ones((9, 12), bool)
    two[2:4, 2:4] = two[4:6, 4:6] = two[2:7, 8:10] = False
    yield "holes that meet", two
    inner = np.zeros((15, 15), bool)
    inner[1:14, 1:14] = True
    inner[3:12, 3:12] = False
    inner[5:10, 5:10] = True
    inner[7, 7] = False
    yield "an island in a hole", inner
    ys, xs = np.mgrid[:60, :80]
    yield "an ellipse", np.hypot((ys - 30) / 25, (xs - 40) / 35) < 1
    rng = np.random.default_rng(0)
    for n, share in enumerate((0.2, 0.5, 0.8)):
        yield f"noise {n}", rng.random((14, 17)) < share


SHAPES = [pytest.param(mask, id=name) for name, mask in shapes()]


@pytest.mark.parametrize("mask", SHAPES)
def test_area_and_pixels_equal_the_mask(mask):
    filled = np.zeros(mask.shape, int)
    for outer, *holes in polygons.polygons(mask):
        assert polygons.area(outer) > 0 and all(polygons.area(hole) < 0 for hole in holes)
        for ring in (outer, *holes):
            assert len(set(ring)) == len(ring) >= 4
        own = polygons.fill([outer, *holes], mask.shape)
        assert sum(map(polygons.area, (outer, *holes))) == own.sum()
        filled += own
    np.testing.assert_array_equal(filled, mask)


@pytest.mark.parametrize("mask", SHAPES)
def test_a_piece_has_a_ring_for_each_part_of_the_ground_beside_it(mask):
    pieces, count = ndimage.label(mask)
    found = polygons.polygons(mask)
    assert len(found) == count
    for number, rings in enumerate(found, 1):
        assert len(rings) == ndimage.label(np.pad(pieces != number, 1, constant_values=True))[1]
        for ring in rings:  # each side is along a row or a column, and each corner turns
            steps = np.diff([*ring, *ring[:2]], axis=0) != 0
            assert (steps.sum(1) == 1).all() and (steps[1:] != steps[:-1]).all()


@pytest.mark.parametrize("mask", SHAPES)
def test_rings_without_holes_cover_the_same(mask):
    rings = polygons.without_holes(mask)
    filled = sum(polygons.fill([ring], mask.shape).astype(int) for ring in rings)
    np.testing.assert_array_equal(filled, mask)
    assert sum(map(polygons.area, rings)) == mask.sum()


def test_nothing():
    assert polygons.polygons(np.zeros((4, 4), bool)) == []


@pytest.fixture
def cell():
    mask = np.zeros((30, 40), np.uint8)
    mask[2:28, 3:37] = 1
    mask[8:20, 10:18] = mask[8:20, 22:30] = 2
    return Cell(
        3, 100, 200, 130, 240, type="neutrophil", probability=0.97, nucleus_px=192,
        nc_ratio=0.25, nucleus_um2=float("nan"), lobes=2, mask=mask,
    )  # fmt: skip


def test_geojson(cell):
    found = polygons.geojson([cell], "a.png")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    kinds = [f["properties"]["classification"]["name"] for f in found["features"]]
    assert found["type"] == "FeatureCollection" and kinds == ["cell", "nucleus", "cytoplasm"]
    for feature, region in zip(found["features"], (cell.mask > 0, cell.mask == 2, cell.mask == 1)):
        geometry = feature["geometry"]
        parts = geometry["coordinates"]
        if geometry["type"] == "Polygon":
            parts = [parts]
        assert all(ring[0] == ring[-1] for part in parts for ring in part)
        total = sum(polygons.area(ring[:-1]) for part in parts for ring in part)
        assert total == region.sum()
        xs, ys = np.array([p for part in parts for ring in part for p in ring]).T
        rows, columns = np.nonzero(region)
        assert (xs.min(), xs.max()) == (200 + columns.min(), 201 + columns.max())
        assert (ys.min(), ys.max()) == (100 + rows.min(), 101 + rows.max())
    whole = found["features"][0]["properties"]
    assert whole["name"] == "3 neutrophil" and found["features"][1]["geometry"]["type"] == (
        "MultiPolygon"
    )
    assert whole["measurements"] == {
        "probability": 0.97, "nucleus_px": 192, "nc_ratio": 0.25, "lobes": 2,
    }  # fmt: skip
    assert len({f["id"] for f in found["features"]}) == 3
    assert polygons.geojson([cell], "a.png") == found


def test_ids_of_two_files_of_one_name_differ(cell):
    images = [np.full((9, 9, 3), value, np.uint8) for value in (0, 1)]

    def ids(name, image):
        found = polygons.geojson([cell], polygons.identity(name, image))
        return {feature["id"] for feature in found["features"]}

    # x/a.png and y/a.png of one call; then each in a call of its own; then a copy of one.
    first = ids("a", images[0])
    assert first == ids("a", images[0].copy())
    for other in (ids("a_2", images[1]), ids("a", images[1]), ids("a_2", images[0])):
        assert not first & other


def test_coco(cell):
    parts = [
        polygons.coco_part("none.png", (20, 20), []),
        polygons.coco_part("a.png", (300, 400), [cell]),
    ]
    found = json.loads(json.dumps(polygons.coco(parts)))
    assert [image["file_name"] for image in found["images"]] == ["none.png", "a.png"]
    assert {c["id"]: c["name"] for c in found["categories"]} == polygons.CATEGORIES
    assert [a["category_id"] for a in found["annotations"]] == [3, 2, 1]
    for annotation, region in zip(
        found["annotations"], (cell.mask > 0, cell.mask == 2, cell.mask == 1)
    ):
        # In a picture of twice the size, corners have even coordinates and pixel centers odd ones.
        drawn = np.zeros((601, 801), np.uint8)
        for flat in annotation["segmentation"]:
            cv2.fillPoly(drawn, [2 * np.array(flat, np.int32).reshape(-1, 2)], 1)
        inside = drawn[1::2, 1::2] > 0
        whole = np.zeros((300, 400), bool)
        whole[100:130, 200:240] = region
        np.testing.assert_array_equal(inside, whole)
        assert annotation["image_id"] == 2 and annotation["area"] == region.sum()
        x, y, width, height = annotation["bbox"]
        assert whole[y : y + height, x : x + width].sum() == region.sum()
        assert whole[y, x : x + width].any() and whole[y : y + height, x].any()
        assert annotation["attributes"] == {"cell": 3, "type": "neutrophil"}
