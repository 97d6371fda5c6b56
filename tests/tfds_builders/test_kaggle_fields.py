"""kaggle_blood_cells/fields and /masks: small files of the layout, and the real ones."""

import json

import numpy as np
import pytest
from PIL import Image

from helpers import builders
from helpers.builders import digests, read
from wbc_jax.config import Data
from wbc_jax.data import pipeline, preparing, reading, sources, splits
from wbc_jax.data.images import decode_image, decode_mask
from wbc_jax.errors import DataError
from wbc_jax.tfds_builders.kaggle_blood_cells import kaggle_blood_cells_dataset_builder as module
from wbc_jax.tfds_builders.kaggle_blood_cells import marked_cells

WIDTH, HEIGHT = 64, 48
FRAMES, MASKS = "dataset-master", "Ground Truth/BCCD"

# Number: boxes of white cells (xmin, ymin, xmax, ymax; from 1, last pixel included), and the
# marked cells (middle row, middle column, radius).
DRAWN = {
    0: ([(21, 11, 40, 30)], [(20, 30, 8)]),
    # Two cells that touch, and a third one without a box.
    1: ([(5, 9, 25, 29), (25, 9, 46, 29)], [(18, 14, 9), (18, 34, 10), (42, 58, 5)]),
    2: ([], [(40, 10, 7)]),  # no box; the category is of the only cell
    3: ([(1, 1, 10, 10)], [(30, 40, 8)]),  # the box marks something else
    4: ([(11, 11, 30, 30)], [(20, 20, 9)]),  # without a mask file
}
LABELS = ',Image,Category\n,0,NEUTROPHIL\n,1,"EOSINOPHIL, NEUTROPHIL"\n,2,MONOCYTE\n,4,BASOPHIL\n'


def voc(boxes):
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
    sides = ("xmin", "ymin", "xmax", "ymax")
    objects = [
        "<object><name>WBC</name><bndbox>"
        + "".join(f"<{side}>{value}</{side}>" for side, value in zip(sides, box))
        + "</bndbox></object>"
        for box in boxes
    ]
    return f"<annotation>{size}{''.join(objects)}</annotation>"


def disc(middle_y, middle_x, radius):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return (y - middle_y) ** 2 + (x - middle_x) ** 2 <= radius**2


def grays(cells):
    gray = np.zeros((HEIGHT, WIDTH), np.uint8)
    for cell in cells:
        gray[disc(*cell)] = 155
    for y, x, radius in cells:
        gray[disc(y, x, radius - 3)] = 255
    return gray


def classes(gray):
    return np.select([gray == 155, gray == 255], [1, 2], 0)


def draw(root, number, boxes, cells):
    for folder in (f"{FRAMES}/JPEGImages", f"{FRAMES}/Annotations", MASKS):
        (root / folder).mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    name = f"BloodImage_{number:05d}"
    Image.fromarray(image).save(root / FRAMES / f"JPEGImages/{name}.jpg")
    (root / FRAMES / f"Annotations/{name}.xml").write_text(voc(boxes))
    Image.fromarray(grays(cells)).save(root / mask_file(number))


def mask_file(number):
    return f"{MASKS}/BloodImage_Mask_{number:05d}.png"


@pytest.fixture
def layout(tmp_path):
    root = tmp_path / "manual" / "kaggle_blood_cells"
    for number, (boxes, cells) in DRAWN.items():
        draw(root, number, boxes, cells)
    (root / mask_file(4)).rename(root / mask_file(99))
    (root / FRAMES / "labels.csv").write_text(LABELS)
    return root


def build(root, data_dir, config):
    return builders.build(module, root.parent, data_dir, config)


COUNTS = {
    "frames_without_cell": 0,
    "frames_with_several_cells": 1,
    "frames_with_several_types": 0,
    "unlabelled_frames": 1,
    "labels_without_image": 0,
    "images_without_annotation": 0,
    "annotations_without_image": 0,
    "clipped_boxes": 0,
    "images_without_mask": 1,
    "masks_without_image": 1,
    "boxes_without_mask": 1,
    "cells_without_box": 3,
    "quantised_pixels": 0,
    "quantised_images": 0,
    "excluded_records": 0,
    "left_out_files": 0,
}


def test_fields(layout, tmp_path, caplog):
    with caplog.at_level("WARNING"):
        built = build(layout, tmp_path / "out", "fields")
    found = read(built)
    keys = ("label", "subtype", "group", "label_source")
    assert {id: tuple(row[key] for key in keys) for id, row in found.items()} == {
        "BloodImage_00000": (4, b"", b"BloodImage_00000", b"authors"),
        "BloodImage_00001": (-1, b"several_cells", b"BloodImage_00001", b""),
        "BloodImage_00002": (3, b"", b"BloodImage_00002", b"authors"),
        "BloodImage_00003": (-1, b"", b"BloodImage_00003", b""),
    }
    for id, row in found.items():
        assert row["image"] == (layout / FRAMES / f"JPEGImages/{id}.jpg").read_bytes()
        expected = classes(grays(DRAWN[int(id[-5:])][1]))
        assert np.array_equal(decode_mask(row["mask"]), expected)
        assert (row["has_mask"], row["height"], row["width"]) == (True, HEIGHT, WIDTH)
    cells = {id: json.loads(row["cells"]) for id, row in found.items()}
    assert cells["BloodImage_00000"] == [
        {"box": [10, 20, 30, 40], "boxed": True, "masked": True, "type": "neutrophil"}
    ]
    assert cells["BloodImage_00001"] == [
        {"box": [8, 4, 29, 25], "boxed": True, "masked": True, "type": ""},
        {"box": [8, 24, 29, 46], "boxed": True, "masked": True, "type": ""},
        {"box": [37, 53, 48, 64], "boxed": False, "masked": True, "type": ""},
    ]
    assert cells["BloodImage_00002"] == [
        {"box": [33, 3, 48, 18], "boxed": False, "masked": True, "type": "monocyte"}
    ]
    assert cells["BloodImage_00003"] == [
        {"box": [0, 0, 10, 10], "boxed": True, "masked": False, "type": ""},
        {"box": [22, 32, 39, 49], "boxed": False, "masked": True, "type": ""},
    ]
    assert dict(built.info.metadata.items()) == COUNTS
    assert "1 masks have no image, such as" in caplog.text
    assert "BloodImage_Mask_00099.png" in caplog.text


def test_masks_are_the_crops_of_original(layout, tmp_path):
    built = build(layout, tmp_path / "out", "masks")
    found, original = read(built), read(build(layout, tmp_path / "out", "original"))
    same = {"BloodImage_00000", "BloodImage_00001_1", "BloodImage_00001_2"}
    own = {f"BloodImage_0000{number}_unboxed_1" for number in (1, 2, 3)}
    assert found.keys() == same | own
    for id in same:
        for key in ("image", "label", "group", "source", "subtype", "label_source", "height"):
            assert found[id][key] == original[id][key], (id, key)
        assert not original[id]["has_mask"] and found[id]["has_mask"]
    labels = {id: int(found[id]["label"]) for id in own}
    assert labels == {
        "BloodImage_00001_unboxed_1": -1,
        "BloodImage_00002_unboxed_1": 3,
        "BloodImage_00003_unboxed_1": -1,
    }
    assert dict(built.info.metadata.items()) == COUNTS


def test_other_cells_of_a_crop_are_ignored(layout, tmp_path):
    found = read(build(layout, tmp_path / "out", "masks"))
    # The box is 20 pixels wide; with 5 at each side the crop is 30: rows 5 to 34, columns 15 to 44.
    mask = decode_mask(found["BloodImage_00000"]["mask"])
    assert np.array_equal(mask, classes(grays(DRAWN[0][1]))[5:35, 15:45])
    # Of the cells that touch, the first spans columns 5 to 23 and the second 24 to 44. The box of
    # 21 pixels with 6 at each side: rows 2 to 34, columns 0 (-2, shifted) to 32.
    gray = grays(DRAWN[1][1])
    first, second = disc(*DRAWN[1][1][0]), disc(*DRAWN[1][1][1])
    expected = classes(gray)
    expected[second & ~first] = 255
    mask = decode_mask(found["BloodImage_00001_1"]["mask"])
    assert mask.shape == (33, 33)
    assert np.array_equal(mask, expected[2:35, 0:33])
    # The cell without a box: 11 pixels, with 3 at each side, shifted into the corner.
    expected = np.where(first | second, 255, classes(gray))
    mask = decode_mask(found["BloodImage_00001_unboxed_1"]["mask"])
    assert np.array_equal(mask, expected[31:48, 47:64])


def test_a_nucleus_of_several_parts_is_one_cell():
    mask = classes(np.maximum(grays([(20, 20, 6)]), grays([(20, 30, 6)])))
    [cell] = marked_cells.find(mask, [(12, 12, 30, 40)])
    assert np.array_equal(cell.region, mask > 0)
    # Without a box too, as they are connected. Parted by background they are two.
    [cell] = marked_cells.find(mask, [])
    assert np.array_equal(cell.region, mask > 0) and cell.box == (14, 14, 27, 37)
    mask[:, 25] = 0
    assert [cell.box[1] for cell in marked_cells.find(mask, [])] == [14, 26]
    assert marked_cells.find(np.zeros_like(mask), []) == []


@pytest.mark.parametrize("config", ["fields", "masks"])
def test_rebuilt_byte_for_byte(layout, tmp_path, config):
    first = digests(build(layout, tmp_path / "one", config))
    assert first == digests(build(layout, tmp_path / "two", config))


@pytest.mark.parametrize("channels", [1, 3])
def test_gray_edges_are_quantised_and_counted(layout, tmp_path, channels):
    gray = grays(DRAWN[0][1])
    clean = classes(gray)
    edged = np.where(gray == 0, 4, gray).astype(np.uint8)  # 2,875 pixels
    edged[12, 30] = 80  # at the cell's upper end: 75 from 155 and 80 from 0, so it stays cytoplasm
    assert gray[12, 30] == 155
    picture = edged if channels == 1 else np.repeat(edged[..., None], 3, 2)
    Image.fromarray(picture).save(layout / mask_file(0))
    built = build(layout, tmp_path / "out", "fields")
    found = read(built)
    assert np.array_equal(decode_mask(found["BloodImage_00000"]["mask"]), clean)
    assert built.info.metadata["quantised_pixels"] == int((gray == 0).sum()) + 1
    assert built.info.metadata["quantised_images"] == 1


def save(root, gray):
    Image.fromarray(gray).save(root / mask_file(0))


def colored():
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[disc(20, 30, 8)] = (155, 0, 255)
    return pixels


# Name: (what is done to the layout, the file that the message names, what else it says, whether
# the record is left).
BAD = {
    "size": (
        lambda r: save(r, grays(DRAWN[0][1])[:, :-2]),
        mask_file(0),
        "the mask is 62 x 48 pixels .* its image 64 x 48 pixels .*: allowed is one size for both",
        False,
    ),
    "colours": (
        lambda r: save(r, colored()),
        mask_file(0),
        "the mask has .*: allowed is one 8-bit grey channel",
        False,
    ),
    "another convention": (
        lambda r: save(r, np.array([0, 255, 120], np.uint8)[classes(grays(DRAWN[0][1]))]),
        mask_file(0),
        r"mask values 120 \(81 pixels\) are unknown: allowed are 0, 155, 255 \(or up to 16 from",
        False,
    ),
    "nucleus alone": (
        lambda r: save(r, np.where(grays(DRAWN[0][1]) > 0, 255, 0).astype(np.uint8)),
        mask_file(0),
        "the mask has no cytoplasm: allowed are both",
        False,
    ),
    "truncated": (
        lambda r: (r / mask_file(0)).write_bytes((r / mask_file(0)).read_bytes()[:80]),
        mask_file(0),
        "truncated or damaged",
        False,
    ),
    "name": (
        lambda r: (r / mask_file(99)).rename(r / MASKS / "BloodImage_00099.png"),
        f"{MASKS}/BloodImage_00099.png",
        "the name is not BloodImage_Mask_ and five digits",
        True,
    ),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("config", ["fields", "masks"])
def test_bad_files(layout, tmp_path, kind, config):
    harm, file, reason, stays = BAD[kind]
    harm(layout)
    with pytest.raises(DataError, match=reason) as caught:
        build(layout, tmp_path / "out", config)
    assert str(layout / file) in str(caught.value)
    assert "1 bad file;" in str(caught.value)
    with reading.on_bad_file("skip"):
        built = build(layout, tmp_path / "out", config)
    assert ("BloodImage_00000" in read(built)) == stays
    assert built.info.metadata["left_out_files"] == 1


@pytest.mark.parametrize("config", ["fields", "masks"])
def test_a_folder_without_its_counterpart(layout, tmp_path, config):
    for file in (layout / FRAMES / "JPEGImages").iterdir():
        file.rename(file.with_name(file.name.replace("_0000", "_0001")))
    with pytest.raises(DataError, match=r"holds 5 masks, none of an image in .*JPEGImages"):
        build(layout, tmp_path / "out", config)
    for file in (layout / MASKS).iterdir():
        file.unlink()
    with pytest.raises(DataError, match="BCCD: holds 0 masks, none of an image"):
        build(layout, tmp_path / "out", config)
    (layout / MASKS).rmdir()
    with pytest.raises(DataError, match="lacks 'Ground Truth/BCCD'"):
        build(layout, tmp_path / "out", config)
    # Those that need no masks are as before.
    assert module.Builder(config="original", data_dir=tmp_path).entries == (FRAMES,)


def test_labels_with_semicolons_and_a_byte_order_mark(layout, tmp_path, caplog):
    text = (
        '\ufeff;Image;Category\r\n;0;NEUTROPHIL\r\n;1;"EOSINOPHIL, NEUTROPHIL"\r\n;2;MONOCYTE\r\n'
    )
    (layout / FRAMES / "labels.csv").write_bytes(text.encode())
    with caplog.at_level("WARNING"):
        found = read(build(layout, tmp_path / "out", "masks"))
    assert (found["BloodImage_00000"]["label"], found["BloodImage_00001_1"]["label"]) == (4, -1)
    assert "labels.csv: its cells are separated by ';'" in caplog.text


def test_a_frame_stays_in_one_split_across_configs(tmp_path):
    root = tmp_path / "manual" / "kaggle_blood_cells"
    for number in range(24):
        boxes, cells = DRAWN[number % 2]
        draw(root, number, boxes, cells)
    rows = "".join(f",{number},NEUTROPHIL\n" for number in range(24))
    (root / FRAMES / "labels.csv").write_text(",Image,Category\n" + rows)
    names = tuple(f"kaggle_blood_cells/{config}" for config in ("original", "fields", "masks"))
    data = Data(datasets=names, data_dir=str(tmp_path / "out"), manual_dir=str(root.parent))
    for name in names:
        preparing.prepare(name, data)
    sources.check_distinct(names, data)
    sets = [sources.load(name, data) for name in names]
    found = splits.split_sources(sets, [np.ones(len(s), bool) for s in sets], data)
    where = {}
    for source, split in zip(sets, found):
        for name, indices in split.items():
            for index in indices:
                assert source.groups[index] == source.ids[index][:16]
                where.setdefault(source.groups[index], set()).add(name)
    assert len(where) == 24 and all(len(each) == 1 for each in where.values())
    assert {name for each in where.values() for name in each} == {"train", "validation", "test"}
    # Segmentation takes those with masks, and says of the other one where they are.
    for name, number in ((names[1], 24), (names[2], 12 + 36)):
        assert len(pipeline.load_whole(name, data, mask_size=32)) == number
    with pytest.raises(DataError, match=r"has a mask\. kaggle_blood_cells/masks"):
        pipeline.load_whole(names[0], data, mask_size=32)


@pytest.mark.data
def test_real_fields_and_masks(real_data, tmp_path):
    root = real_data / "kaggle_blood_cells"
    if not (root / MASKS).is_dir():
        pytest.skip(f"no {root / MASKS}")
    built = builders.build(module, real_data, tmp_path, "fields")
    fields = read(built)
    files = {file.stem.replace("_Mask_", "_"): file for file in (root / MASKS).glob("*.png")}
    images = {file.stem for file in (root / FRAMES / "JPEGImages").glob("*.jpg")}
    assert fields.keys() == files.keys() & images
    moved, of = 0, 0
    for id, row in fields.items():
        gray = np.asarray(Image.open(files[id]))
        gray = gray if gray.ndim == 2 else gray[..., 0]
        expected = np.digitize(gray, [77.5, 205.5])  # 205, as near to 155 as to 255, is cytoplasm
        assert np.array_equal(decode_mask(row["mask"]), expected)
        strays = int((~np.isin(gray, (0, 155, 255))).sum())
        moved, of = moved + strays, of + (strays > 0)
    counts = built.info.metadata
    assert (counts["quantised_pixels"], counts["quantised_images"]) == (moved, of)
    assert counts["masks_without_image"] == len(files.keys() - images)

    found = read(builders.build(module, real_data, tmp_path, "masks"))
    original = read(builders.build(module, real_data, tmp_path, "original"))
    boxed = [id for id in found if "unboxed" not in id]
    assert len(boxed) > 0.95 * sum(id[:16] in fields for id in original)
    for id in boxed:
        assert found[id]["image"] == original[id]["image"]
        assert found[id]["label"] == original[id]["label"]
    for row in found.values():
        mask = decode_mask(row["mask"])
        assert mask.shape == decode_image(row["image"]).shape[:2]
        assert (mask == 2).sum() > 300 and (mask == 1).any()
