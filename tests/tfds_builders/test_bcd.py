"""bcd: small files of the author's layout, and the real ones."""

import csv

import numpy as np
import pytest
from PIL import Image

from helpers import builders
from helpers.builders import digests, read
from wbc_jax.data import building, reading
from wbc_jax.data.images import decode_image, decode_mask
from wbc_jax.errors import DataError
from wbc_jax.tfds_builders.bcd import bcd_dataset_builder as module

HEADER = "image_id,image,xmin,ymin,xmax,ymax,label"
LINES = [
    HEADER,
    "1,image-1.png,0.0,0.0,0.25,0.25,rbc",
    "1,image-1.png,0.25,0.25,0.5,0.5,wbc",  # 8 pixels of 32: 4 more
    "2,image-2.png,0.75,0.5,1.0,0.6875,wbc",  # 8 wide, 6 high, at the right edge
    "1,image-1.png,0.0,0.0,0.125,0.0625,wbc",
]
CROPS = {
    "image-1_0": (6, 6, 18, 18),
    "image-1_1": (0, 0, 6, 6),
    "image-2_0": (13, 20, 25, 32),
}


def pixels(name):
    seed = int(name.split("-")[1].split("_")[0])
    return np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)


@pytest.fixture
def layout(tmp_path):
    root = tmp_path / "manual" / "bcd"
    (root / "images").mkdir(parents=True)
    for name in ("image-1", "image-2", "image-3"):
        rgba = np.dstack([pixels(name), np.full((32, 32), 255, np.uint8)])
        Image.fromarray(rgba).save(root / "images" / f"{name}.png")
    write(root, LINES)
    return root


def write(root, lines):
    (root / "annotations.csv").write_text("\n".join(lines) + "\n")


def build(manual_dir, data_dir, config="crops"):
    return builders.build(module, manual_dir, data_dir, config)


def test_crops(layout, tmp_path):
    built = build(layout.parent, tmp_path / "out")
    found = read(built)
    assert sorted(found) == sorted(CROPS)
    for id, (y0, x0, y1, x1) in CROPS.items():
        row = found[id]
        assert np.array_equal(decode_image(row["image"]), pixels(id)[y0:y1, x0:x1])
        assert (decode_mask(row["mask"]) == 255).all()
        assert (row["has_mask"], row["label"], row["label_source"]) == (False, -1, b"")
        assert (row["group"].decode(), row["source"]) == (id.split("_")[0], b"bcd")
        assert np.isnan(row["um_per_px"])
    assert built.info.metadata == {
        "clipped_boxes": 0,
        "images_without_white_cell": 1,
        "unlabelled_cells": 3,
        "excluded_records": 0,
        "left_out_files": 0,
    }


def test_frames(layout, tmp_path):
    found = read(build(layout.parent, tmp_path / "out", "frames"))
    assert sorted(found) == ["image-1", "image-2", "image-3"]
    for id, row in found.items():
        assert np.array_equal(decode_image(row["image"]), pixels(id))
        assert (row["has_mask"], row["label"], row["group"].decode()) == (False, -1, id)


def test_crops_are_the_default():
    assert module.Builder.BUILDER_CONFIGS[0].name == "crops"


def test_types_of_the_user(layout, tmp_path):
    (layout / "types.csv").write_text("id,type\nimage-1_1,neutrophil\nimage-2_0,basophil\n")
    built = build(layout.parent, tmp_path / "out")
    found = read(built)
    assert {id: (row["label"], row["label_source"]) for id, row in found.items()} == {
        "image-1_0": (-1, b""),
        "image-1_1": (4, b"types.csv"),
        "image-2_0": (0, b"types.csv"),
    }
    assert built.info.metadata["unlabelled_cells"] == 1


@pytest.mark.parametrize(
    "text, reason",
    [
        ("name,type\n", "the header is 'name,type': allowed is 'id,type'"),
        ("id,type\nimage-1_0,blast\n", "line 2: 'image-1_0,blast' has no known type"),
        ("id,type\nimage-1_0,\n", "line 2: 'image-1_0,' has no known type"),
        ("id,type\nimage-1_7,basophil\n", "line 2: 'image-1_7,basophil' is no white cell"),
        ("id,type\nimage-1_0,basophil\nimage-1_0,basophil\n", "line 3: .* again"),
        ("", "empty"),
    ],
)
def test_bad_types(layout, tmp_path, text, reason):
    (layout / "types.csv").write_text(text)
    with pytest.raises(DataError, match=reason) as caught:
        build(layout.parent, tmp_path / "out")
    assert str(layout / "types.csv") in str(caught.value)


def test_tiny_excess_is_clipped_and_counted(layout, tmp_path):
    write(layout, [*LINES[:3], "2,image-2.png,0.75,0.5,1.03,0.6875,wbc", LINES[4]])  # 0.96 pixels
    built = build(layout.parent, tmp_path / "out")
    assert built.info.metadata["clipped_boxes"] == 1
    y0, x0, y1, x1 = CROPS["image-2_0"]
    image = decode_image(read(built)["image-2_0"]["image"])
    assert np.array_equal(image, pixels("image-2")[y0:y1, x0:x1])


@pytest.mark.parametrize(
    "edges, expected",
    [
        ((0.0, 0.0, 0.5, 0.25), ((0, 0, 5, 5), False)),
        ((0.01, 0.01, 0.51, 0.251), ((0, 0, 6, 6), False)),
        # 0.3 x 10 and 0.35 x 20 are not quite 3 and 7.
        ((0.1 + 0.2, 0.35, 1.0, 1.0), ((3, 7, 10, 20), False)),
        ((-0.1, -0.05, 1.1, 1.05), ((0, 0, 10, 20), True)),
        ((-0.11, 0.0, 0.5, 0.5), None),
        ((0.0, -0.06, 0.5, 0.5), None),
        ((0.0, 0.0, 1.11, 0.5), None),
        ((0.0, 0.0, 0.5, 1.06), None),
        ((1.01, 0.0, 1.05, 0.5), None),
    ],
)
def test_pixel_box(edges, expected):
    if expected is None:
        with pytest.raises(DataError, match="allowed are fractions from 0 to 1"):
            module.pixel_box(edges, 10, 20)
    else:
        assert module.pixel_box(edges, 10, 20) == expected


# The line that replaces line 3 (image-1_0), what the message says.
BAD_LINES = {
    "swapped": ("1,image-1.png,0.5,0.25,0.25,0.5,wbc", "xmin < xmax"),
    "flat": ("1,image-1.png,0.25,0.5,0.5,0.5,wbc", "ymin < ymax"),
    "no number": ("1,image-1.png,a,0.25,0.5,0.5,wbc", "allowed are numbers"),
    "nan": ("1,image-1.png,nan,0.25,0.5,0.5,wbc", "allowed are numbers"),
    "outside": ("1,image-1.png,0.25,0.25,1.2,0.5,wbc", "6.4 pixels out of its frame"),
    "pixels": ("1,image-1.png,8,8,16,16,wbc", "allowed are fractions"),
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_bad_boxes(layout, tmp_path, kind):
    line, reason = BAD_LINES[kind]
    write(layout, [*LINES[:2], line, *LINES[3:]])
    with pytest.raises(DataError, match=reason) as caught:
        build(layout.parent, tmp_path / "out")
    assert str(layout / "annotations.csv") in str(caught.value)
    assert "1 bad file;" in str(caught.value) and "line 3" in str(caught.value)

    with reading.on_bad_file("skip") as collector:
        built = build(layout.parent, tmp_path / "out")
    assert sorted(read(built)) == ["image-1_1", "image-2_0"]  # not renumbered
    assert len(collector.files) == built.info.metadata["left_out_files"] == 1


@pytest.mark.parametrize(
    "line, reason",
    [
        ("1,image-1.png,0.0,0.0,0.25,0.25,platelet", "'platelet': allowed are rbc, wbc"),
        ("1,image-1.png,0.0,0.0,0.25,rbc", "allowed are 7 cells"),
        ("1,image-1.png,0.3,0.0,0.25,0.25,rbc", "xmin < xmax"),
        ("9,image-9.png,0.0,0.0,0.25,0.25,wbc", r"lines 2\) of an image that is missing: .*9.png"),
    ],
)
def test_bad_lines(layout, tmp_path, line, reason):
    write(layout, [HEADER, line, *LINES[2:]])
    with pytest.raises(DataError, match=reason):
        build(layout.parent, tmp_path / "out")
    with reading.on_bad_file("skip"):
        assert sorted(read(build(layout.parent, tmp_path / "out"))) == sorted(CROPS)


def test_bad_header(layout, tmp_path):
    write(layout, ["image,xmin", *LINES[1:]])
    with pytest.raises(DataError, match=f"allowed is '{HEADER}'"):
        build(layout.parent, tmp_path / "out")


@pytest.mark.parametrize("config, left", [("crops", ["image-2_0"]), ("frames", None)])
def test_truncated_image(layout, tmp_path, config, left):
    path = layout / "images" / "image-1.png"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="truncated or damaged") as caught:
        build(layout.parent, tmp_path / "out", config)
    assert str(path) in str(caught.value) and "1 bad file;" in str(caught.value)
    with reading.on_bad_file("skip"):
        found = read(build(layout.parent, tmp_path / "out", config))
    assert sorted(found) == (left or ["image-2", "image-3"])


def test_exclusions(layout, tmp_path, monkeypatch):
    listed = {"image-1_1": "cut", "image-3": "blurred", "other": "elsewhere"}
    monkeypatch.setattr(building, "read_exclusions", lambda folder: listed)
    for config, left in (("crops", ["image-1_0", "image-2_0"]), ("frames", ["image-1", "image-2"])):
        built = build(layout.parent, tmp_path / "out", config)
        assert sorted(read(built)) == left
        assert built.info.metadata["excluded_records"] == 1


def test_images_of_one_field_are_one_group(layout, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "read_fields", lambda path: {"image-2": "image-1"})
    for config in ("crops", "frames"):
        found = read(build(layout.parent, tmp_path / "out", config))
        groups = {id.split("_")[0]: row["group"] for id, row in found.items()}
        assert groups["image-1"] == groups["image-2"] == b"image-1"
        assert groups.get("image-3", b"image-3") == b"image-3"


def test_fields_are_listed_once():
    fields = module.read_fields(module.Builder.pkg_dir_path / "same_field.csv")
    assert len(fields) == 20 and not fields.keys() & set(fields.values())
    assert len(set(fields.values())) == 20


def test_records_that_are_excluded():
    excluded = building.read_exclusions(module.Builder.pkg_dir_path)
    assert sorted(excluded) == ["image-100_0", "image-104_0", "image-114_0"]


def test_no_images(layout, tmp_path):
    for file in (layout / "images").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"holds no \.png file"):
        build(layout.parent, tmp_path / "out")


@pytest.mark.parametrize("name", module.FOLDERS)
def test_found_under_each_name(layout, tmp_path, name):
    manual_dir = layout.rename(layout.parent / name).parent
    assert sorted(read(build(manual_dir, tmp_path / "out"))) == sorted(CROPS)


def test_manual_dir_may_be_the_folder(layout, tmp_path):
    assert sorted(read(build(layout, tmp_path / "out"))) == sorted(CROPS)


def test_says_where_to_put_it(tmp_path):
    with pytest.raises(DataError, match=r"'annotations\.csv'") as caught:
        build(tmp_path / "nowhere", tmp_path / "out")
    assert module.PAGE in str(caught.value) and str(tmp_path / "nowhere/bcd") in str(caught.value)


def test_rebuilt_byte_for_byte(layout, tmp_path):
    first = digests(build(layout.parent, tmp_path / "one"))
    assert first == digests(build(layout.parent, tmp_path / "two"))
    assert "bcd-train.array_record-00000-of-00001" in first


@pytest.mark.data
def test_real_files(real_data, tmp_path):
    folder = real_data / "bcd"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    with (folder / "annotations.csv").open(newline="") as file:
        white = [row for row in csv.DictReader(file) if row["label"] == "wbc"]
    built = build(real_data, tmp_path)
    found = read(built)
    assert len(found) == len(white) - built.info.metadata["excluded_records"]
    assert built.info.metadata["clipped_boxes"] == built.info.metadata["left_out_files"] == 0
    for id, row in found.items():
        image = np.asarray(Image.open(folder / "images" / f"{id.rsplit('_', 1)[0]}.png"))
        seen = [r for r in white if r["image"] == f"{id.rsplit('_', 1)[0]}.png"]
        box = seen[int(id.rsplit("_", 1)[1])]
        crop = decode_image(row["image"])
        assert crop.shape[0] == crop.shape[1] == row["height"] == row["width"]
        # The box's own pixels lie in the crop: 1.5 times its longer side, up to rounding.
        longer = 256 * max(
            float(box["xmax"]) - float(box["xmin"]), float(box["ymax"]) - float(box["ymin"])
        )
        assert 1.5 * longer - 1e-6 <= crop.shape[0] <= 1.5 * (longer + 2) + 2
        y, x = (
            int(128 * (float(box[a]) + float(box[b])))
            for a, b in (("ymin", "ymax"), ("xmin", "xmax"))
        )
        assert (crop == image[y, x, :3]).all(axis=-1).any()
    frames = read(build(real_data, tmp_path, "frames"))
    names = {file.stem for file in (folder / "images").glob("*.png")}
    fields = module.read_fields(module.Builder.pkg_dir_path / "same_field.csv")
    if len(names) == 100:
        assert (fields.keys() | set(fields.values())) <= names
        assert len({row["group"] for row in frames.values()}) == 80
    assert sorted(frames) == sorted(file.stem for file in (folder / "images").glob("*.png"))
    for id, row in frames.items():
        image = np.asarray(Image.open(folder / "images" / f"{id}.png"))[..., :3]
        assert np.array_equal(decode_image(row["image"]), image)
