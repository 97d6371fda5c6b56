"""Leukocytes of fields: drawn ones, whose boxes are known, and a few real ones."""

import csv
import json

import cv2
import numpy as np
import pytest
from PIL import Image

from helpers import drawn_fields
from helpers.drawn_fields import CYTOPLASM, LIGHT, NUCLEUS, RED_PX, plain_field
from wbc_jax import detect
from wbc_jax.evaluate import detection
from wbc_jax.fields import finder, staining
from wbc_jax.tfds_builders.wbc_synthetic import render


def boxes_of(cells, height=360, width=480):
    return [
        (max(y - r, 0), max(x - r, 0), min(y + r + 1, height), min(x + r + 1, width))
        for y, x, _, r in cells
    ]


def assert_same(truth, found, least=0.75):
    """As many boxes, each overlapping with its own by at least `least`."""
    iou = detection.overlap(truth, [cell.box for cell in found])
    assert iou.shape[0] == iou.shape[1]
    assert detection.count_hits(iou >= least) == len(truth), iou.round(2)


@pytest.fixture(scope="module")
def drawn():
    """A field of five cells, 0.15 µm a pixel."""
    return render.render_field(11, 320, 440, 5, um_per_px=0.15, palette="peach")


@pytest.mark.parametrize(
    "seed, palette, um_per_px",
    [(0, "yellow", 0.2), (1, "white", 0.12), (2, "peach", 0.2), (5, "slate", 0.15)],
)
def test_every_cell_of_a_drawn_field(seed, palette, um_per_px):
    """Among the slate field's cells two touch."""
    field = render.render_field(seed, 360, 480, 4, um_per_px=um_per_px, palette=palette)
    found = finder.find(field.image)
    assert_same([cell.box for cell in field.cells], found.cells)
    assert found.scale.reliable
    # The drawn red cells are 7.2 µm wide.
    assert found.scale.um_per_px == pytest.approx(um_per_px * 7.5 / 7.2, rel=0.12)


def test_nucleus_area_and_score():
    cells = [(180, 240, 26, 40)]
    (found,) = finder.find_cells(plain_field(cells))
    assert_same(boxes_of(cells), [found], 0.8)
    assert found.nucleus_px == pytest.approx(np.pi * 26**2, rel=0.15)
    assert 0.5 < found.score <= 1 and not found.touches_frame


@pytest.mark.parametrize("gap", [0, 4, 12])
def test_touching_cells_are_parted(gap):
    """Two lymphocytes, whose nuclei touch, nearly touch, or lie apart."""
    radius = 24
    cells = [(180, 200, radius, radius + 2), (180, 200 + 2 * radius + gap, radius, radius + 2)]
    assert_same(boxes_of(cells), finder.find_cells(plain_field(cells)), 0.7)


def test_lobes_are_joined():
    cells = [(180, 240, 0, 46)]
    image = plain_field(cells)
    for y, x in ((158, 226), (200, 232), (178, 264)):
        cv2.circle(image, (x, y), 14, NUCLEUS, -1, cv2.LINE_AA)
    assert_same(boxes_of(cells), finder.find_cells(image), 0.8)


def test_platelets_are_no_cells():
    cells = [(180, 240, 26, 40)]
    image = plain_field(cells, platelets=[(58, 58, 6), (300, 100, 8), (90, 400, 5)])
    assert_same(boxes_of(cells), finder.find_cells(image), 0.85)


def test_pale_nuclei_among_deep_red_cells(monkeypatch):
    """Less violet than two such red cells on top of each other, which are none themselves."""
    light = np.array([200, 225, 205])
    densities = {
        "RED": (0.05, 0.4, 0.3),
        "NUCLEUS": (0.28, 0.42, 0.2),
        "CYTOPLASM": (0.15, 0.18, 0.04),
    }
    colours = {name: light / 10 ** np.array(density) for name, density in densities.items()}
    violet = {name: staining.violet(np.array(density)) for name, density in densities.items()}
    assert violet["NUCLEUS"] < 0.1 + 2.2 * violet["RED"]
    for name, colour in (colours | {"LIGHT": light}).items():
        monkeypatch.setattr(drawn_fields, name, tuple(colour.round().tolist()))
    cells = [(180, 240, 26, 40)]
    image = plain_field(cells)
    pile = [cv2.circle(np.zeros(image.shape), (x, 282), 20, (1, 1, 1), -1) for x in (86, 110)]
    both = (pile[0] * pile[1]) > 0
    image = np.where(pile[0] + pile[1] > 0, colours["RED"], image)
    image = np.where(both, light / 100 ** np.array(densities["RED"]), image)
    image = cv2.GaussianBlur(image.round().astype(np.uint8), (0, 0), 0.8)
    assert_same(boxes_of(cells), finder.find_cells(image), 0.75)


def test_cut_cells_are_flagged():
    cells = [(10, 240, 26, 40), (200, 200, 26, 40)]
    found = finder.find_cells(plain_field(cells))
    assert_same(boxes_of(cells), found, 0.8)
    assert [cell.touches_frame for cell in found] == [True, False]
    assert found[0].top == 0


@pytest.mark.parametrize("turn", range(1, 8))
def test_turned_and_mirrored(drawn, turn):
    """The boxes of the turned field are the turned boxes."""

    def turned(array):
        array = array.transpose(1, 0, 2) if turn & 4 else array
        return np.ascontiguousarray(array[:: -1 if turn & 1 else 1, :: -1 if turn & 2 else 1])

    boxes = []
    for cell in finder.find_cells(drawn.image):
        mask = np.zeros((*drawn.image.shape[:2], 1), np.uint8)
        mask[cell.top : cell.bottom, cell.left : cell.right] = 1
        ys, xs = np.nonzero(turned(mask)[..., 0])
        boxes.append((ys.min(), xs.min(), ys.max() + 1, xs.max() + 1))
    assert len(boxes) == 5
    assert_same(boxes, finder.find_cells(turned(drawn.image)), 0.85)


@pytest.mark.parametrize("factor", [0.5, 0.8, 2.0])
def test_rescaled(drawn, factor):
    size = [round(side * factor) for side in drawn.image.shape[1::-1]]
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    found = finder.find(cv2.resize(drawn.image, size, interpolation=way))
    before = [np.multiply(cell.box, factor) for cell in finder.find_cells(drawn.image)]
    assert len(before) == len(drawn.cells)
    assert_same(before, found.cells, 0.7)
    assert found.scale.um_per_px == pytest.approx(0.15 / factor * 7.5 / 7.2, rel=0.12)


def test_tiles_find_the_same(drawn, monkeypatch):
    whole = finder.find_cells(drawn.image)
    monkeypatch.setattr(finder, "_TILE", 128)
    tiles = finder._tiles(drawn.image, finder.estimate_scale(drawn.image))
    assert len(tiles) > 4
    assert_same([cell.box for cell in whole], finder.find_cells(drawn.image), 0.8)


def test_a_large_field():
    """Red cells are measured in windows."""
    cells = [(150, 1700, 26, 40), (900, 200, 26, 40), (800, 1000, 26, 40)]
    image = plain_field(cells, 1000, 1800)
    found = finder.find(image)
    assert_same(boxes_of(cells, 1000, 1800), found.cells, 0.85)
    assert found.scale.red_cell_px == pytest.approx(RED_PX, rel=0.1)


def test_without_red_cells_the_scale_is_a_guess():
    image = np.full((200, 200, 3), LIGHT, np.uint8)
    cv2.circle(image, (100, 100), 50, CYTOPLASM, -1, cv2.LINE_AA)
    cv2.circle(image, (100, 100), 36, NUCLEUS, -1, cv2.LINE_AA)
    found = finder.find(image)
    assert_same([(50, 50, 151, 151)], found.cells, 0.6)
    assert not found.scale.reliable and found.scale.red_cells == 0


def nothing():
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (120, 160, 1), np.uint8).repeat(3, -1)
    yield "grey noise", grey
    ramp = np.linspace(0, 255, 200).astype(np.uint8)
    yield "grey ramp", np.broadcast_to(ramp[:, None, None], (200, 90, 3)).copy()
    yield (
        "grey field",
        plain_field([(180, 240, 26, 40)]).mean(-1, keepdims=True).astype(np.uint8).repeat(3, -1),
    )
    yield "red cells only", plain_field([])
    for height, width in ((1, 1), (1, 300), (2, 2), (15, 15), (16, 16), (17, 400)):
        yield (
            f"{height} x {width}",
            rng.integers(0, 256, (height, width, 1), np.uint8).repeat(3, -1),
        )
    for colour in (0, 255, (104, 66, 168), (226, 172, 168)):
        yield f"all {colour}", np.full((64, 80, 3), colour, np.uint8)


@pytest.mark.parametrize("image", [pytest.param(image, id=name) for name, image in nothing()])
def test_nothing_to_find(image):
    assert finder.find_cells(image) == []


def test_colour_noise_does_not_crash():
    rng = np.random.default_rng(1)
    for height, width in ((1, 1), (3, 40), (16, 16), (40, 33), (90, 120)):
        finder.find_cells(rng.integers(0, 256, (height, width, 3), np.uint8))


def test_other_arrays_are_refused():
    for image in (np.zeros((40, 40), np.uint8), np.zeros((40, 40, 3)), np.zeros((0, 4, 3), "u1")):
        with pytest.raises(ValueError, match=r"must be uint8 \[H, W, 3\]"):
            finder.find_cells(image)


def test_crop():
    image = np.arange(100 * 120).reshape(100, 120)
    cell = finder.Detection(40, 50, 60, 70, 100, 1.0, False)
    assert np.array_equal(finder.crop(image, cell, 0.5), image[30:70, 40:80])
    # Moved inwards at the edge.
    cell = finder.Detection(0, 100, 20, 120, 100, 1.0, True)
    assert np.array_equal(finder.crop(image, cell, 0.5), image[0:40, 80:120])


def test_command(tmp_path, capsys):
    cells = [(10, 240, 26, 40), (200, 200, 26, 40)]
    (tmp_path / "in").mkdir()
    Image.fromarray(plain_field(cells)).save(tmp_path / "in" / "a.png")
    Image.fromarray(plain_field([])).save(tmp_path / "in" / "none.png")
    out = tmp_path / "out"
    command = [str(tmp_path / "in"), f"--out={out}", f"--pictures={tmp_path / 'pictures'}"]
    detect.main(command)
    assert "2 cells in 2 images" in capsys.readouterr().out
    with open(out / "cells.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["file"][-5:], row["cell"], row["touches_frame"]) for row in rows] == [
        ("a.png", "0", "1"),
        ("a.png", "1", "0"),
        ("e.png", "", ""),
    ]
    assert float(rows[0]["um_per_px"]) == pytest.approx(7.5 / RED_PX, rel=0.1)
    assert rows[0]["um_per_px_reliable"] == "1"
    for row in rows[:2]:
        sides = np.array(
            [int(row["bottom"]) - int(row["top"]), int(row["right"]) - int(row["left"])]
        )
        assert Image.open(out / row["crop"]).size[0] >= 1.5 * sides.max()
    assert Image.open(tmp_path / "pictures" / "a.png").size == (480, 360)

    (tmp_path / "in" / "bad.png").write_bytes(b"no image")
    with pytest.raises(SystemExit, match="1 of 3 files could not be read"):
        detect.main(command)
    assert (out / "bad_files.csv").read_text().splitlines()[1].startswith(str(tmp_path))
    with pytest.raises(SystemExit, match="no such file or folder"):
        detect.main([str(tmp_path / "missing.png"), f"--out={out}"])


def test_command_says_what_is_missing(capsys):
    for argv in (["a.png"], ["--out=x"], ["a.png", "--out=x", "--margin=-1"]):
        with pytest.raises(SystemExit):
            detect.main(argv)
    assert "allowed is a number from 0 upwards" in capsys.readouterr().err


def test_overlap_and_hits():
    truth = [(0, 0, 10, 10), (0, 20, 10, 30)]
    found = [(0, 0, 10, 20), (0, 5, 10, 15), (20, 20, 30, 30)]
    assert detection.overlap(truth, found) == pytest.approx(np.array([[0.5, 1 / 3, 0], [0, 0, 0]]))
    # The middles are (5, 10), outside the first box by its open end, (5, 10) and (25, 25).
    assert not detection.center_inside(truth, found).any()
    assert detection.center_inside([(0, 0, 10, 11)], found).tolist() == [[True, True, False]]
    # One box is found once, even by two.
    assert detection.count_hits(np.array([[True, True, False]])) == 1
    # 0 must go to 1 so that 1 can have 0.
    assert detection.count_hits(np.array([[True, True], [True, False]])) == 2
    assert detection.overlap([], found).shape == (0, 3)
    assert detection.count_hits(np.zeros((0, 3), bool)) == 0


def test_summary():
    rows = [
        {"truth": 2, "found": 1, "hits": 1, "centre_hits": 1},
        {"truth": 1, "found": 3, "hits": 1, "centre_hits": 1},
        {"truth": 1, "found": 1, "hits": 0, "centre_hits": 1},
    ]
    result = detection.summary(rows)
    assert (result["truth"], result["found"], result["hits"]) == (4, 5, 2)
    assert result["recall"]["value"] == 0.5 and result["precision"]["value"] == 0.4
    assert result["centre_recall"]["value"] == 0.75
    low, high = result["recall"]["interval"]
    assert 0 <= low < 0.5 < high <= 1
    assert "0.500 (" in detection.table(result, "drawn")


def test_score_command(tmp_path, capsys):
    """BCD's layout: one cell found, one box that marks nothing."""
    (tmp_path / "bcd" / "images").mkdir(parents=True)
    cells = [(128, 120, 26, 40)]
    image = plain_field(cells, 256, 256)
    Image.fromarray(image).save(tmp_path / "bcd" / "images" / "image-1.png")
    ((top, left, bottom, right),) = boxes_of(cells, 256, 256)
    lines = ["image_id,image,xmin,ymin,xmax,ymax,label"]
    for box, label in (
        ((left, top, right, bottom), "wbc"),
        ((0, 0, 30, 30), "wbc"),
        ((40, 0, 60, 20), "rbc"),
    ):
        lines.append(",".join(["1", "image-1.png", *(str(side / 256) for side in box), label]))
    (tmp_path / "bcd" / "annotations.csv").write_text("\n".join(lines) + "\n")
    out = tmp_path / "score.json"
    pictures = tmp_path / "pictures"
    detect.main(
        [
            *("--score", "--dataset=bcd"),
            *(f"--manual_dir={tmp_path}", f"--out={out}", f"--pictures={pictures}"),
        ]
    )
    assert "1 images, 2 boxes, 1 found" in capsys.readouterr().out
    result = json.loads(out.read_text())
    assert result["recall"]["value"] == 0.5 and result["precision"]["value"] == 1
    assert [path.name for path in pictures.iterdir()] == ["000_image-1.png"]
    with pytest.raises(SystemExit, match=r"holds no kaggle_blood_cells/dataset-master"):
        detect.main(["--score", f"--manual_dir={tmp_path}"])
    with pytest.raises(SystemExit, match="allowed are kaggle_blood_cells, bcd"):
        detect.main(["--score", f"--manual_dir={tmp_path}", "--dataset=pbc"])


def test_parts_are_stable():
    names = [f"BloodImage_{n:05d}" for n in range(411)]
    parts = [detection.subset_of(name) for name in names]
    assert parts[:3] == ["development", "development", "rest"]
    assert 190 < parts.count("development") < 235


@pytest.mark.data
def test_real_fields(real_data):
    """Of BCCD's development part: 30 boxes or so, of which at most two are missed."""
    truths = detection.read_truth("kaggle_blood_cells", real_data, "development")[::12]
    rows = detection.measure(truths, lambda image: [c.box for c in finder.find_cells(image)])
    result = detection.summary(rows)
    assert result["hits"] >= result["truth"] - 2
    assert result["found"] <= result["hits"] + 2
