"""Outlines from QuPath and ImageJ become corrections of masks."""

import json
import zipfile

import numpy as np
import pytest
import roifile
from matplotlib.path import Path
from PIL import Image

from wbc_jax import review
from wbc_jax.corrections import outlines, session
from wbc_jax.errors import DataError, InputError
from wbc_jax.fields import polygons


@pytest.fixture
def exported(folder, tmp_path):
    """The outlines that predict wrote, to be changed as in QuPath, and the file for them."""
    found = json.loads((folder / "geojson" / "field.geojson").read_text())
    return found, tmp_path / "field.geojson"


def feature(found, cell, kind):
    for one in found["features"]:
        about = one["properties"]
        if about["metadata"]["cell"] == str(cell) and about["classification"]["name"] == kind:
            return one
    raise LookupError


def square(top, left, bottom, right):
    return [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]


def test_regions_are_those_whose_centers_lie_inside():
    # A polygon of any corners, with a hole, by matplotlib's test of points in polygons.
    corners = [(3.2, 1.7), (30.4, 4.9), (25.1, 33.3), (9.9, 28.2)]
    hole = [(12.3, 12.1), (19.7, 13.4), (14.2, 21.8)]
    ys, xs = np.mgrid[:40, :36]
    points = np.stack([xs.ravel() + 0.5, ys.ravel() + 0.5], 1)
    expected = Path(corners).contains_points(points) ^ Path(hole).contains_points(points)
    rings = [np.array(ring, np.float64) for ring in (corners, hole)]
    found = outlines.Outline("", "cell", None, [rings]).region((40, 36))
    assert (found == expected.reshape(40, 36)).all() and found.sum() > 400
    # The outlines that predict writes give the mask back; two polygons are joined.
    mask = np.random.default_rng(0).random((30, 25)) < 0.6
    rings = [[np.array(r, float) for r in p] for p in polygons.polygons(mask)]
    assert (outlines.Outline("", "cell", None, rings).region((30, 25)) == mask).all()
    # What lies beyond the image is cut off.
    beyond = [[np.array(square(-5, -5, 3, 2), float)]]
    assert outlines.Outline("", "cell", None, beyond).region((10, 10)).sum() == 6


def test_what_predict_wrote_corrects_nothing(folder, exported):
    found, path = exported
    path.write_text(json.dumps(found))
    anna = session.Session(folder, "Anna")
    done = outlines.apply(anna, path)
    assert (done.changed, done.same, done.passed) == ([], [1, 2, 3], [])
    assert anna.state.said("Anna") == {}


def test_a_moved_nucleus_corrects_one_cell(folder, exported):
    found, path = exported
    anna = session.Session(folder, "Anna")
    area, _, before = anna.mask(1)
    nucleus = (96, 96, 120, 126)  # smaller, within the old one
    feature(found, 1, "nucleus")["geometry"] = {
        "type": "Polygon", "coordinates": [square(*nucleus)]
    }  # fmt: skip
    # Another cell was corrected here since; its outline in the file is still the predicted one.
    other_area, _, other = anna.mask(2)
    other[0, 0] = 2
    anna.paint(2, other_area, other)
    path.write_text(json.dumps(found))
    done = outlines.apply(anna, path)
    assert (done.changed, done.same, done.passed) == ([1], [2, 3], [])
    expected = before.copy()
    expected[expected == 2] = 1  # what is cut off the nucleus is cytoplasm
    top, left = area[:2]
    expected[96 - top : 120 - top, 96 - left : 126 - left] = 2
    assert (anna.mask(1)[2] == expected).all() and (anna.mask(2)[2] == other).all()
    said = anna.state.said("Anna")[1]
    assert said.mask["nucleus_px"] == 24 * 30 and said.last.source == "field.geojson"
    assert outlines.apply(anna, path).changed == []
    assert anna.undo() == [1] and (anna.mask(1)[2] == before).all()


def test_one_undo_takes_a_whole_file_back(folder, exported):
    found, path = exported
    for cell in (1, 2):
        nucleus = feature(found, cell, "nucleus")
        outer = np.array(nucleus["geometry"]["coordinates"][0])
        (left, top), (right, bottom) = outer.min(0).tolist(), outer.max(0).tolist()
        nucleus["geometry"]["coordinates"] = [square(top, left, bottom, right)]
    path.write_text(json.dumps(found))
    anna = session.Session(folder, "Anna")
    assert outlines.apply(anna, path).changed == [1, 2]
    assert sorted(anna.undo()) == [1, 2] and anna.state.said("Anna") == {}


def test_merging_by_hand():
    mask = np.array([[0, 1, 1, 1, 255], [0, 1, 2, 1, 255], [0, 1, 1, 1, 0]], np.uint8)
    cell = np.array([[0, 1, 1, 0, 0], [1, 1, 1, 0, 0], [0, 1, 1, 0, 0]], bool)
    assert outlines.merge(mask, {"cell": cell}).tolist() == [
        [0, 1, 1, 0, 255], [1, 1, 2, 0, 255], [0, 1, 1, 0, 0]
    ]  # fmt: skip
    # A cytoplasm does not cover a nucleus that was not drawn anew.
    assert (outlines.merge(mask, {"cytoplasm": cell}) == outlines.merge(mask, {"cell": cell})).all()
    nucleus = np.zeros((3, 5), bool)
    nucleus[1, 3:] = True
    regions = {"nucleus": nucleus, "cell": (mask == 1) | (mask == 2)}
    assert outlines.merge(mask, regions).tolist() == [
        [0, 1, 1, 1, 255], [0, 1, 1, 2, 2], [0, 1, 1, 1, 0]
    ]  # fmt: skip
    assert (outlines.merge(mask, {"nucleus": mask == 2}) == mask).all()


def test_drawn_anew_without_numbers_goes_to_the_cell_that_it_covers(folder, tmp_path):
    anna = session.Session(folder, "Anna")
    box = anna.results.cells[2].box
    (tmp_path / "field.geojson").write_text(
        json.dumps(
            [
                {
                    "type": "Feature",
                    "geometry": {"type": "Polygon", "coordinates": [square(*box)]},
                    "nucleusGeometry": {
                        "type": "MultiPolygon",
                        "coordinates": [
                            [square(box[0] + 3, box[1] + 3, box[0] + 8, box[1] + 9)],
                            [square(box[0] + 20, box[1] + 20, box[0] + 24, box[1] + 24)],
                        ],
                    },
                    "properties": {"objectType": "cell"},
                }
            ]
        )
    )
    done = outlines.apply(anna, tmp_path / "field.geojson")
    assert done.changed == [2] and done.passed == []
    said = anna.state.said("Anna")[2].mask
    assert said["nucleus_px"] == 5 * 6 + 16
    height, width = box[2] - box[0], box[3] - box[1]
    assert said["nucleus_px"] + said["cytoplasm_px"] == height * width


def test_rois_of_imagej(folder, tmp_path):
    anna = session.Session(folder, "Anna")
    box = anna.results.cells[1].box

    def roi(points, name, kind=roifile.ROI_TYPE.POLYGON):
        made = roifile.ImagejRoi.frompoints(np.array(points))
        made.name, made.roitype = name, kind
        return made.tobytes()

    with zipfile.ZipFile(tmp_path / "RoiSet.zip", "w") as file:
        file.writestr("a.roi", roi(square(90, 90, 110, 120)[:-1], "nucleus 1"))
        file.writestr("b.roi", roi(square(*box)[:-1], "0001-cell"))
        file.writestr("c.roi", roi(square(0, 0, 4, 4)[:-1], "0012-0034"))
        file.writestr("d.roi", roi([[5, 5], [9, 9]], "nucleus", roifile.ROI_TYPE.LINE))
        file.writestr("e.roi", b"Iout")
        file.writestr("f.roi", roi(square(300, 380, 310, 390)[:-1], "nucleus"))
        file.writestr("readme.txt", "x")
    done = outlines.apply(anna, tmp_path / "RoiSet.zip", "field.png")
    assert (done.changed, done.same) == ([1], [])
    assert done.passed == [
        "0012-0034 has no kind in its name: name it “nucleus”, “cytoplasm” or “cell”, with the "
        "cell's number if you like",
        "nucleus is a line, no area",
        "e.roi is no ROI with an area",
        f"nucleus covers no cell of {anna.results.cells[1].file}",
    ]
    saved = anna.state.said("Anna")[1].mask
    assert saved["nucleus_px"] == 20 * 30
    assert saved["cytoplasm_px"] == (box[2] - box[0]) * (box[3] - box[1]) - 20 * 30
    # One ROI alone; floats as ImageJ's sub-pixel areas have them.
    points = np.array(square(90, 90, 110, 120)[:-1], np.float32) + 0.25
    single = roifile.ImagejRoi.frompoints(points)
    single.name = "1 nucleus"
    (tmp_path / "field.roi").write_bytes(single.tobytes())
    assert outlines.apply(anna, tmp_path / "field.roi").changed == []  # the same centers


def test_files_that_cannot_be_used(folder, tmp_path):
    anna = session.Session(folder, "Anna")

    def refused(name, data, error, match, image="field"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(error, match=match):
            outlines.apply(anna, tmp_path / name, image)

    refused("a.txt", b"", InputError, "ends in none of .geojson")
    refused("a.geojson", b"{", DataError, "is no JSON")
    refused("a.geojson", b'"x"', DataError, "holds no features")
    refused("a.zip", b"PK", DataError, "is no zip of ROI files")
    refused("a.geojson", b"[]", InputError, "--image=x names no image .* crop, field", "x")
    refused("a.geojson", b"[]", InputError, "names no image of these results: give --image", None)
    with pytest.raises(InputError, match=r"gone\.geojson cannot be read: No such file"):
        outlines.apply(anna, tmp_path / "gone.geojson")
    bad = [
        1, {}, {"geometry": None}, {"geometry": {"type": "Point", "coordinates": [1, 2]}},
        {"geometry": {"type": "Polygon", "coordinates": [square(1, 1, 5, 5)]}},
        {
            "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, float("nan")], [2, 2]]]},
            "properties": {"classification": {"name": "nucleus"}},
        },
        {
            "geometry": {"type": "Polygon", "coordinates": [square(-9, -9, -5, -5)]},
            "properties": {"classification": {"name": "Nucleus"}, "name": "lost"},
        },
    ]  # fmt: skip
    (tmp_path / "field.geojson").write_text(json.dumps({"features": bad}))
    done = outlines.apply(anna, tmp_path / "field.geojson")
    assert done.changed == done.same == [] and len(done.passed) == 7
    assert done.passed[0] == "object 1 is no feature with a polygon"
    assert done.passed[3] == "object 4 is a Point, no area"
    assert "object 5 has no class: name it" in done.passed[4]
    assert done.passed[6].startswith("object 7 (lost) covers no cell of")


def test_by_command(folder, exported, capsys):
    found, path = exported
    feature(found, 1, "nucleus")["geometry"]["coordinates"] = [square(96, 96, 120, 126)]
    found["features"].append({"type": "Feature", "geometry": {"type": "Point"}})
    path.write_text(json.dumps(found))
    review.main([str(folder), f"--import={path}", "--reviewer=Anna"])
    said = capsys.readouterr()
    assert f"{path}: 1 cell corrected, 2 as before\n" in said.out
    assert "corrections of 1 cell:" in said.out
    assert said.err == "note: not used: object 10 is a Point, no area\n"
    table = (folder / "corrections.csv").read_text().splitlines()
    assert len(table) == 2 and "corrections/masks/field_1_" in table[1]
    png = folder / table[1].split(",")[10]
    assert (np.asarray(Image.open(png)) == 2).sum() == 24 * 30
