"""lisc: small drawn files of the authors' layout (the real ones may not be passed on)."""

import numpy as np
import pytest
from PIL import Image

from helpers import builders
from helpers.builders import digests, read
from wbc_jax.data import building, reading
from wbc_jax.data.images import decode_image, decode_mask
from wbc_jax.errors import DataError
from wbc_jax.labels import CELL_TYPES
from wbc_jax.tfds_builders.lisc import lisc_dataset_builder as module

HEIGHT, WIDTH, BORDER = 72, 90, 4
SIZE = 16  # of a cell; its nucleus is 8

# Folder, frame, upper left corners of cells (in the frame), values of cytoplasm and nucleus.
FRAMES = [
    ("Baso", "1", [(30, 40)], (255, None)),
    ("Baso", "2", [(20, 20)], (255, None)),
    ("eosi", "1", [(4, 4)], (100, 200)),
    ("lymp", "3", [(10, 10), (40, 60)], (200, 100)),  # turned round in this class
    ("mixt", "1", [(28, 30)], (1, 2)),
    ("mono", "7", [(30, 70)], (128, 255)),
    ("neut", "31", [(28, 30)], (128, 255)),
]
IDS = {"baso_1_0", "baso_2_0", "eosi_1_0", "lymp_3_0", "lymp_3_1", "mixt_1_0", "mono_7_0"} | {
    "neut_31_0"
}


def parts(corner):
    y, x = corner
    return np.s_[y : y + SIZE, x : x + SIZE], np.s_[y + 4 : y + 12, x + 4 : x + 12]


def draw(root, folder, name, corners, values, dark=True):
    pixels = np.random.default_rng(int(name)).integers(200, 256, (HEIGHT, WIDTH, 3), np.uint8)
    grey = np.zeros((HEIGHT, WIDTH), np.uint8)
    for corner in corners:
        cell, nucleus = parts(corner)
        pixels[cell], pixels[nucleus] = 150, 60 if dark else 180
        grey[cell] = values[0]
        if values[1] is not None:
            grey[nucleus] = values[1]
    image_file = root / "Main Dataset" / folder / f"{name}.bmp"
    mask_file = (
        root / "Ground Truth Segmentation" / folder / "areaforexpert1" / f"{name}_expert.bmp"
    )
    for file in (image_file, mask_file):
        file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(image_file)
    Image.fromarray(grey[BORDER:-BORDER, BORDER:-BORDER]).save(mask_file)
    return pixels


def expected_mask(corners, cell_only):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for corner in corners:
        cell, nucleus = parts(corner)
        mask[cell] = 255 if cell_only else 1
        mask[nucleus] = 255 if cell_only else 2
    edge = np.ones_like(mask, bool)
    edge[BORDER:-BORDER, BORDER:-BORDER] = False
    mask[edge] = 255
    return mask


@pytest.fixture
def layout(tmp_path):
    root = tmp_path / "manual" / "LISC Database"
    for frame in FRAMES:
        draw(root, *frame)
    (root / "More Dataset without Ground Truth" / "alll").mkdir(parents=True)
    return root


def mask_path(layout, folder, name):
    return layout / f"Ground Truth Segmentation/{folder}/areaforexpert1/{name}_expert.bmp"


def build(manual_dir, data_dir, config="crops"):
    return builders.build(module, manual_dir, data_dir, config)


COUNTS = {
    "cells": 8,
    "cell_only_cells": 2,
    "padded_masks": 7,
    "specks": 0,
    "empty_masks": 0,
    "excluded_records": 0,
    "left_out_files": 0,
    "nucleus_values": {
        "baso": [],
        "eosi": [200],
        "lymp": [100],
        "mixt": [2],
        "mono": [255],
        "neut": [255],
    },
}


def test_frames(layout, tmp_path):
    built = build(layout.parent, tmp_path / "out", "frames")
    found = read(built)
    assert len(found) == len(FRAMES)
    for folder, name, corners, values in FRAMES:
        row = found[f"{folder.lower()}_{name}"]
        cell_only = values[1] is None
        image = np.asarray(Image.open(layout / "Main Dataset" / folder / f"{name}.bmp"))
        assert np.array_equal(decode_image(row["image"]), image)
        assert np.array_equal(decode_mask(row["mask"]), expected_mask(corners, cell_only))
        assert row["subtype"] == (b"cell_only" if cell_only else b"")
        assert (row["has_mask"], row["source"]) == (True, b"lisc")
        assert row["group"] == row["id"] and np.isnan(row["um_per_px"])
        mixed = folder == "mixt"
        assert row["label_source"] == (b"" if mixed else b"authors")
        kinds = [type[:4] for type in CELL_TYPES]
        assert row["label"] == (-1 if mixed else kinds.index(folder.lower()))
    assert built.info.metadata == COUNTS


# 16 long, a quarter (4) at each end: 24; those at an edge are shifted into the frame.
@pytest.mark.parametrize(
    "id, box",
    [
        ("baso_1_0", (26, 36, 50, 60)),
        ("eosi_1_0", (0, 0, 24, 24)),
        ("lymp_3_0", (6, 6, 30, 30)),
        ("lymp_3_1", (36, 56, 60, 80)),
        ("mono_7_0", (26, 66, 50, 90)),
    ],
)
def test_crops(layout, tmp_path, id, box):
    built = build(layout.parent, tmp_path / "out")
    found = read(built)
    assert set(found) == IDS
    assert built.info.metadata == COUNTS
    frame = read(build(layout.parent, tmp_path / "out", "frames"))[id.rsplit("_", 1)[0]]
    y0, x0, y1, x1 = box
    row = found[id]
    for decode, key in ((decode_image, "image"), (decode_mask, "mask")):
        assert np.array_equal(decode(row[key]), decode(frame[key])[y0:y1, x0:x1])
    assert (row["label"], row["group"]) == (frame["label"], frame["id"])


def test_crops_are_the_default():
    assert module.Builder.BUILDER_CONFIGS[0].name == "crops"


def test_one_pale_nucleus_does_not_turn_its_class(layout, tmp_path):
    draw(layout, "neut", "32", [(28, 30)], (128, 255))
    draw(layout, "neut", "33", [(28, 30)], (128, 255), dark=False)
    built = build(layout.parent, tmp_path / "out", "frames")
    mask = decode_mask(read(built)["neut_33"]["mask"])
    assert np.array_equal(mask, expected_mask([(28, 30)], False))


def test_masks_as_large_as_the_frame(layout, tmp_path):
    path = mask_path(layout, "neut", "31")
    full = np.pad(np.asarray(Image.open(path)), BORDER)
    Image.fromarray(np.dstack([full] * 3)).save(path)  # of three equal channels as well
    built = build(layout.parent, tmp_path / "out", "frames")
    mask = decode_mask(read(built)["neut_31"]["mask"])
    assert np.array_equal(mask == 2, full == 255) and np.array_equal(mask == 0, full == 0)
    assert built.info.metadata["padded_masks"] == 6


def test_specks_and_empty_masks(layout, tmp_path):
    path = mask_path(layout, "neut", "31")
    grey = np.asarray(Image.open(path)).copy()
    grey[2:5, 60:63] = 128
    Image.fromarray(grey).save(path)
    path = mask_path(layout, "mono", "7")
    Image.fromarray(np.zeros_like(grey)).save(path)
    built = build(layout.parent, tmp_path / "out")
    assert set(read(built)) == IDS - {"mono_7_0"}
    assert (built.info.metadata["specks"], built.info.metadata["empty_masks"]) == (1, 1)
    frame = read(build(layout.parent, tmp_path / "out", "frames"))["neut_31"]
    assert (decode_mask(frame["mask"])[6:9, 64:67] == 255).all()


def test_long_class_names(layout, tmp_path):
    for name in ("Main Dataset", "Ground Truth Segmentation"):
        (layout / name / "Baso").rename(layout / name / "BASOPHIL")
    assert set(read(build(layout.parent, tmp_path / "out"))) == IDS


def test_a_part_of_the_set(layout, tmp_path):
    (layout / "Main Dataset" / "mixt").rename(layout / "mixt")
    assert set(read(build(layout.parent, tmp_path / "out"))) == IDS - {"mixt_1_0"}


def resize(path, size):
    Image.open(path).resize(size, Image.Resampling.NEAREST).save(path)


def third_value(path):
    grey = np.asarray(Image.open(path)).copy()
    grey[24:28, 28] = 77
    Image.fromarray(grey).save(path)


def palette(path):
    image = Image.open(path).convert("P")
    image.putpalette([0, 0, 0] + [255, 0, 0] * 255)
    image.save(path)


# Name: (what is done to neut's frame, whether its mask is named, what else the message says).
BAD = {
    "size": (
        lambda i, m: resize(m, (WIDTH, HEIGHT - 8)),
        True,
        "90 x 64 pixels .* its image 90 x 72",
    ),
    "odd size": (lambda i, m: resize(m, (WIDTH - 3, HEIGHT - 3)), True, "allowed is one size"),
    "wide border": (lambda i, m: resize(m, (WIDTH - 18, HEIGHT - 18)), True, "allowed is one size"),
    "larger": (lambda i, m: resize(m, (WIDTH + 4, HEIGHT + 4)), True, "allowed is one size"),
    "values": (
        lambda i, m: third_value(m),
        True,
        r"row 28, column 30 has the mask values 77 \(4 pixels\), 128 .* at most two",
    ),
    "palette": (lambda i, m: palette(m), True, "palette"),
    "no mask": (lambda i, m: m.unlink(), False, "has no mask"),
    "no frame": (lambda i, m: i.unlink(), True, "has no image"),
    "truncated": (
        lambda i, m: i.write_bytes(i.read_bytes()[:-999]),
        False,
        "truncated or damaged",
    ),
    "empty": (lambda i, m: m.write_bytes(b""), True, "0 bytes"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files(layout, tmp_path, kind):
    draw(layout, "neut", "38", [(28, 30)], (128, 255))
    harm, is_mask, reason = BAD[kind]
    image_file, mask_file = layout / "Main Dataset/neut/31.bmp", mask_path(layout, "neut", "31")
    harm(image_file, mask_file)
    with pytest.raises(DataError, match=reason) as caught:
        build(layout.parent, tmp_path / "out")
    assert str(mask_file if is_mask else image_file) in str(caught.value)
    assert "1 bad file;" in str(caught.value)

    with reading.on_bad_file("skip") as collector:
        built = build(layout.parent, tmp_path / "out")
    assert set(read(built)) == IDS - {"neut_31_0"} | {"neut_38_0"}
    assert len(collector.files) == built.info.metadata["left_out_files"] == 1


@pytest.mark.parametrize(
    "source, target, reason",
    [
        ("Main Dataset/neut", "Main Dataset/band", "class folder is not known: allowed are Baso"),
        ("Main Dataset/mixt", "Main Dataset/Neutrophil", "second folder for the class"),
        (
            "Ground Truth Segmentation/neut",
            "Ground Truth Segmentation/mixt/neut",
            "neut/areaforexpert1: does not exist",
        ),
        ("Ground Truth Segmentation", "masks", "lacks 'Ground Truth Segmentation'"),
    ],
)
def test_bad_folders(layout, tmp_path, source, target, reason):
    (layout / source).rename(layout / target)
    with pytest.raises(DataError, match=reason):
        build(layout.parent, tmp_path / "out")


def test_no_class_folder(tmp_path):
    for name in (module.IMAGES, module.MASKS):
        (tmp_path / "lisc" / name).mkdir(parents=True)
    with pytest.raises(DataError, match="holds no class folder: allowed are Baso"):
        build(tmp_path, tmp_path / "out")


def test_exclusions(layout, tmp_path, monkeypatch):
    listed = {"lymp_3_1": "cut", "neut_31": "blurred", "other": "elsewhere"}
    monkeypatch.setattr(building, "read_exclusions", lambda folder: listed)
    built = build(layout.parent, tmp_path / "out")
    assert set(read(built)) == IDS - {"lymp_3_1", "neut_31_0"}
    assert built.info.metadata["excluded_records"] == 2
    built = build(layout.parent, tmp_path / "out", "frames")
    assert len(read(built)) == len(FRAMES) - 1


def test_no_record_is_excluded_so_far():
    assert building.read_exclusions(module.Builder.pkg_dir_path) == {}


@pytest.mark.parametrize("name", module.FOLDERS)
def test_found_under_each_name(layout, tmp_path, name):
    manual_dir = layout.rename(layout.parent / name).parent
    assert set(read(build(manual_dir, tmp_path / "out"))) == IDS


def test_manual_dir_may_be_the_folder(layout, tmp_path):
    assert set(read(build(layout, tmp_path / "out"))) == IDS


def test_says_where_to_put_it(tmp_path):
    with pytest.raises(DataError, match="only to those who got it from its authors") as got:
        build(tmp_path / "nowhere", tmp_path / "out")
    assert module.PAGE in str(got.value)
    assert str(tmp_path / "nowhere" / "LISC Database") in str(got.value)


def test_rebuilt_byte_for_byte(layout, tmp_path):
    first = digests(build(layout.parent, tmp_path / "one"))
    assert first == digests(build(layout.parent, tmp_path / "two"))
    assert "lisc-train.array_record-00000-of-00001" in first
