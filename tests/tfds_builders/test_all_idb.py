"""all_idb: small files of the authors' layout, and the real ones."""

import collections

import numpy as np
import pytest
from PIL import Image

from helpers import builders
from helpers.builders import digests, read
from wbc_jax.config import Data
from wbc_jax.data import building, pipeline, preparing, reading, sources
from wbc_jax.data.images import decode_image, decode_mask, read_image
from wbc_jax.errors import ConfigError, DataError
from wbc_jax.tfds_builders.all_idb import all_idb_dataset_builder as module

IMAGES, MASKS = "ALL_IDB2/img", "Ground Truth/ALL-IDB2"
NAMES = ("Im001_1", "Im002_1", "Im003_0", "Im171_0")
COUNTS = {
    "blasts": 2,
    "normal_cells": 2,
    "platelets": 1,
    "images_with_other_cells": 1,
    "other_cells_pixels": 12,
    "quantised_pixels": 0,
    "quantised_images": 0,
    "images_without_mask": 0,
    "masks_without_image": 0,
    "excluded_records": 0,
    "left_out_files": 0,
}


def grays(other=False):
    """A cell in the middle; `other`: a part of another one in the corner, 4 x 3 pixels."""
    gray = np.zeros((30, 32), np.uint8)
    gray[8:22, 9:23] = 155
    gray[10:18, 11:19] = 255
    if other:
        gray[:4, :3] = 155
        gray[:2, :2] = 255
    return gray


# The middle cell, 1 and 2; another cell is 255.
CELL = np.select([grays() == 155, grays() == 255], [1, 2], 0)
WITH_OTHER = CELL.copy()
WITH_OTHER[:4, :3] = 255


@pytest.fixture
def layout(tmp_path):
    root = tmp_path / "manual" / "all_idb"
    (root / IMAGES).mkdir(parents=True)
    (root / MASKS).mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        image = np.random.default_rng(seed).integers(0, 256, (30, 32, 3), np.uint8)
        Image.fromarray(image).save(root / IMAGES / f"{name}.tif")
        Image.fromarray(grays(other=name == "Im002_1")).save(root / MASKS / f"{name}.png")
    return root


def build(manual_dir, data_dir, config="all"):
    return builders.build(module, manual_dir, data_dir, config)


def test_records(layout, tmp_path):
    built = build(layout.parent, tmp_path / "out")
    found = read(built)
    keys = ("diagnosis", "subtype", "label", "group", "source", "label_source")
    assert {id: tuple(row[key] for key in keys) for id, row in found.items()} == {
        "Im001_1": (b"blast", b"blast", -1, b"Im001_1", b"all_idb", b""),
        "Im002_1": (b"blast", b"blast", -1, b"Im002_1", b"all_idb", b""),
        "Im003_0": (b"normal", b"normal", -1, b"Im003_0", b"all_idb", b""),
        "Im171_0": (b"normal", b"platelet", -1, b"Im171_0", b"all_idb", b""),
    }
    for id, row in found.items():
        pixels = np.asarray(Image.open(layout / IMAGES / f"{id}.tif"))
        assert np.array_equal(decode_image(row["image"]), pixels)
        expected = WITH_OTHER if id == "Im002_1" else CELL
        assert np.array_equal(decode_mask(row["mask"]), expected)
        assert (row["has_mask"], row["height"], row["width"]) == (True, 30, 32)
        assert np.isnan(row["um_per_px"])
    assert dict(built.info.metadata.items()) == COUNTS


def test_without_platelets(layout, tmp_path):
    assert next(iter(module.Builder.builder_configs)) == "all"
    built = build(layout.parent, tmp_path / "out", "white_cells")
    assert sorted(read(built)) == ["Im001_1", "Im002_1", "Im003_0"]
    assert dict(built.info.metadata.items()) == COUNTS | {"normal_cells": 1}


def test_rebuilt_byte_for_byte(layout, tmp_path):
    first = digests(build(layout.parent, tmp_path / "one"))
    assert first == digests(build(layout.parent, tmp_path / "two"))


def test_the_middle_cell_is_kept_where_another_touches_it(layout, tmp_path):
    gray = np.zeros((60, 60), np.uint8)
    y, x = np.mgrid[:60, :60]
    for middle, radius in (((30, 26), 12), ((30, 47), 11)):
        distance = np.hypot(y - middle[0], x - middle[1])
        gray[distance <= radius] = 155
        gray[distance <= radius - 4] = 255
    Image.fromarray(gray).save(layout / MASKS / "Im001_1.png")
    image = np.random.default_rng(9).integers(0, 256, (60, 60, 3), np.uint8)
    Image.fromarray(image).save(layout / IMAGES / "Im001_1.tif")
    mask = decode_mask(read(build(layout.parent, tmp_path / "out"))["Im001_1"]["mask"])
    assert (mask[gray == 0] == 0).all()
    assert (mask[:, :34][gray[:, :34] == 255] == 2).all()
    assert (mask[:, 41:][gray[:, 41:] > 0] == 255).all()
    # Both discs hold 437 and 373 pixels; the cut between them is off by a few columns at most.
    assert abs(int(np.isin(mask, (1, 2)).sum()) - 437) < 60


def test_gray_edges_and_three_channels_are_quantised_and_counted(layout, tmp_path):
    edged = grays()
    edged[8, 9:23] = 140  # 14 pixels, 15 from 155
    edged[7, 9:20] = 60  # 11 pixels, 60 from 0: 5 % of 218 marked pixels
    Image.fromarray(np.repeat(edged[..., None], 3, 2)).save(layout / MASKS / "Im001_1.png")
    Image.fromarray(np.maximum(grays(), 3)).save(layout / MASKS / "Im003_0.png")
    built = build(layout.parent, tmp_path / "out")
    found = read(built)
    assert np.array_equal(decode_mask(found["Im001_1"]["mask"]), CELL)
    assert np.array_equal(decode_mask(found["Im003_0"]["mask"]), CELL)
    background = int((grays() == 0).sum())
    assert built.info.metadata["quantised_pixels"] == 25 + background
    assert built.info.metadata["quantised_images"] == 2


def test_masks_and_images_without_the_other_are_counted(layout, tmp_path, caplog):
    (layout / MASKS / "Im001_1.png").unlink()
    Image.fromarray(grays()).save(layout / MASKS / "Im260_0.png")
    with caplog.at_level("WARNING"):
        built = build(layout.parent, tmp_path / "out")
    found = read(built)
    assert {id: row["has_mask"] for id, row in found.items()} == {
        "Im001_1": False,
        "Im002_1": True,
        "Im003_0": True,
        "Im171_0": True,
    }
    assert (decode_mask(found["Im001_1"]["mask"]) == 255).all()
    assert found["Im001_1"]["diagnosis"] == b"blast"
    assert built.info.metadata["images_without_mask"] == 1
    assert built.info.metadata["masks_without_image"] == 1
    assert "1 masks have no image, such as" in caplog.text and "Im260_0.png" in caplog.text


@pytest.mark.parametrize(
    "harm, reason",
    [
        (lambda r: (r / MASKS).rename(r / "masks"), "lacks 'Ground Truth/ALL-IDB2'"),
        (lambda r: (r / IMAGES).rename(r / "img"), "lacks 'ALL_IDB2/img'"),
        (
            lambda r: [file.unlink() for file in (r / IMAGES).iterdir()],
            "0 images in 'ALL_IDB2/img' and 4 masks in 'Ground Truth/ALL-IDB2' have no name in",
        ),
        (
            lambda r: [file.unlink() for file in (r / MASKS).iterdir()],
            "4 images in 'ALL_IDB2/img' and 0 masks in",
        ),
    ],
)
def test_a_folder_without_its_counterpart(layout, tmp_path, harm, reason):
    harm(layout)
    with pytest.raises(DataError, match=reason):
        build(layout.parent, tmp_path / "out")


def save_mask(layout, gray):
    Image.fromarray(gray).save(layout / MASKS / "Im001_1.png")


def colored():
    pixels = np.zeros((30, 32, 3), np.uint8)
    pixels[5:9, 5:9] = (255, 155, 0)
    return pixels


# Name: (what is done to the layout, the file that the message names, what else it says, the
# records that are left).
BAD = {
    "diagnosis of the image": (
        lambda r: (r / IMAGES / "Im001_1.tif").rename(r / IMAGES / "Im001_2.tif"),
        f"{IMAGES}/Im001_2.tif",
        r"the diagnosis in the name is 2: allowed are 1 \(lymphoblast\) and 0 \(normal cell\)",
        NAMES[1:],
    ),
    "diagnosis of the mask": (
        lambda r: (r / MASKS / "Im001_1.png").rename(r / MASKS / "Im001_7.png"),
        f"{MASKS}/Im001_7.png",
        "the diagnosis in the name is 7: allowed are 1",
        NAMES,
    ),
    "two diagnoses": (
        lambda r: (r / MASKS / "Im001_1.png").rename(r / MASKS / "Im001_0.png"),
        f"{MASKS}/Im001_0.png",
        "says that the cell is normal, and the image Im001_1.tif that it is blast",
        NAMES,
    ),
    "name": (
        lambda r: (r / IMAGES / "Im001_1.tif").rename(r / IMAGES / "cell 1.tif"),
        f"{IMAGES}/cell 1.tif",
        "the name is not Im, a number, _ and the diagnosis",
        NAMES[1:],
    ),
    "truncated image": (
        lambda r: (r / IMAGES / "Im001_1.tif").write_bytes(b"II*\0"),
        f"{IMAGES}/Im001_1.tif",
        "truncated or damaged|no image|cannot be read",
        NAMES[1:],
    ),
    "size": (
        lambda r: save_mask(r, grays()[:-3]),
        f"{MASKS}/Im001_1.png",
        "the mask is 32 x 27 pixels .* its image 32 x 30 pixels .*: allowed is one size for both",
        NAMES[1:],
    ),
    "colours": (
        lambda r: save_mask(r, colored()),
        f"{MASKS}/Im001_1.png",
        "the mask has .*: allowed is one 8-bit grey channel",
        NAMES[1:],
    ),
    "other values": (
        lambda r: save_mask(r, np.where(grays() == 155, 128, grays()).astype(np.uint8)),
        f"{MASKS}/Im001_1.png",
        r"mask values 128 \(132 pixels\) are unknown: allowed are 0, 155, 255 \(or up to 16",
        NAMES[1:],
    ),
    "no cytoplasm": (
        lambda r: save_mask(r, np.where(grays() > 0, 255, 0).astype(np.uint8)),
        f"{MASKS}/Im001_1.png",
        "the mask has no cytoplasm: allowed are both",
        NAMES[1:],
    ),
    "classes instead of grays": (
        lambda r: save_mask(r, CELL.astype(np.uint8)),  # 0, 1, 2: all near 0
        f"{MASKS}/Im001_1.png",
        "the mask is empty",
        NAMES[1:],
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files(layout, tmp_path, kind):
    harm, file, reason, left = BAD[kind]
    harm(layout)
    with pytest.raises(DataError, match=reason) as caught:
        build(layout.parent, tmp_path / "out")
    assert str(layout / file) in str(caught.value)
    assert "1 bad file;" in str(caught.value)
    with reading.on_bad_file("skip"):
        built = build(layout.parent, tmp_path / "out")
    assert sorted(read(built)) == sorted(left)
    assert built.info.metadata["left_out_files"] == 1


def test_an_image_with_both_diagnoses(layout, tmp_path):
    for folder, suffix in ((IMAGES, "tif"), (MASKS, "png")):
        data = (layout / folder / f"Im001_1.{suffix}").read_bytes()
        (layout / folder / f"Im001_0.{suffix}").write_bytes(data)
    with pytest.raises(DataError, match="cell Im001 is there with both diagnoses") as caught:
        build(layout.parent, tmp_path / "out")
    assert "2 bad files;" in str(caught.value)


def test_says_where_to_put_it(tmp_path):
    with pytest.raises(DataError, match="ask its authors for it") as caught:
        build(tmp_path / "nowhere", tmp_path / "out")
    assert str(tmp_path / "nowhere" / "all_idb" / MASKS) in str(caught.value)


def test_segmentation_takes_it_and_classification_says_why_not(layout, tmp_path):
    data = Data(
        datasets=("all_idb",), data_dir=str(tmp_path / "out"), manual_dir=str(layout.parent)
    )
    preparing.prepare("all_idb", data)
    examples = pipeline.load_whole("all_idb", data, mask_size=30)
    assert len(examples) == 4 and examples[0]["mask"].max() in (2, 255)
    source = sources.load("all_idb", data)
    found = [source.encoded[i]["diagnosis"] for i in range(4)]
    assert sorted(found) == [b"blast", b"blast", b"normal", b"normal"]
    with pytest.raises(DataError, match=r"none of its 4 records has a known cell type.*diagnosis"):
        pipeline.load_whole("all_idb", data, 0, "classification")
    with pytest.raises(ConfigError, match="'all_idb' and 'all_idb/all' are the same data set"):
        sources.check_distinct(["all_idb", "all_idb/all"], data)


@pytest.mark.data
def test_real_files(real_data, tmp_path):
    folder = real_data / "all_idb"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    built = build(real_data, tmp_path)
    found = read(built)
    stems = sorted(file.stem for file in (folder / IMAGES).glob("*.tif"))
    assert sorted(found) == stems
    platelets = building.read_exclusions(module.Builder.pkg_dir_path, "platelets.csv")
    assert built.info.metadata["platelets"] == len(platelets.keys() & set(stems))
    ratios = collections.defaultdict(list)
    for id, row in found.items():
        image = read_image(folder / IMAGES / f"{id}.tif")
        assert np.array_equal(decode_image(row["image"]), image)
        gray = np.asarray(Image.open(folder / MASKS / f"{id}.png"))
        mask = decode_mask(row["mask"])
        classes = np.select([gray == 155, gray == 255], [1, 2], 0)
        assert np.array_equal(mask[mask != 255], classes[mask != 255])
        assert row["diagnosis"].decode() == ("blast" if id.endswith("_1") else "normal")
        ratios[row["subtype"].decode()].append((mask == 2).sum() / (mask == 1).sum())
    # Blasts have little cytoplasm; a platelet has none of a white cell's nucleus.
    assert np.median(ratios["blast"]) > 5 > np.median(ratios["normal"]) > 2
    assert np.median(ratios["platelet"]) < 2
    white = read(build(real_data, tmp_path, "white_cells"))
    assert white.keys() == found.keys() - platelets.keys()
