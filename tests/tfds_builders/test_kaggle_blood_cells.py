"""kaggle_blood_cells: small files of Kaggle's layout, and the real ones."""

import collections
import csv
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from PIL import Image

from helpers import builders
from helpers.builders import digests, read
from wbc_jax.data import building, reading
from wbc_jax.data.images import decode_image
from wbc_jax.errors import DataError
from wbc_jax.labels import CELL_TYPES
from wbc_jax.tfds_builders.kaggle_blood_cells import kaggle_blood_cells_dataset_builder as module

WIDTH, HEIGHT = 64, 48

# Number: boxes of white cells (xmin, ymin, xmax, ymax; from 1, last pixel included).
FRAMES = {
    0: [(21, 11, 40, 26)],  # 20 x 16 pixels
    1: [(2, 3, 9, 10)],  # at the frame's corner
    2: [(11, 11, 20, 20)],  # no category
    3: [],
    4: [(1, 1, 10, 10), (31, 21, 50, 40)],
    5: [(11, 11, 20, 20)],  # two types
    6: [(11, 11, 20, 20)],  # one type twice
    7: [(-1, 1, 12, 12), (50, 30, 65, 50)],  # beyond the edges by two pixels, and by one and two
}
LABELS = """,Image,Category
,0,NEUTROPHIL
,1,EOSINOPHIL \r
,2,
,3,MONOCYTE
,4,"NEUTROPHIL, BASOPHIL"
,5,"NEUTROPHIL,EOSINOPHIL"
,6,"EOSINOPHIL, EOSINOPHIL"
,7,LYMPHOCYTE
,8,LYMPHOCYTE
,99,BASOPHIL
"""


def voc(boxes, width=WIDTH, height=HEIGHT):
    """An annotation like Kaggle's; a red cell's empty box, as some real files have, is no error."""
    lines = ["<annotation>", "<filename>any.jpg</filename>", "<size>"]
    lines += [f"<width>{width}</width><height>{height}</height><depth>3</depth>", "</size>"]
    for name, box in [("RBC", (5, 5, 5, 5)), *(("WBC", box) for box in boxes), ("Platelets", (0,))]:
        sides = zip(("xmin", "ymin", "xmax", "ymax"), box)
        bndbox = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
        lines.append(f"<object><name>{name}</name><bndbox>{bndbox}</bndbox></object>")
    return "\n".join([*lines, "</annotation>"])


def draw(path, seed, height=HEIGHT, width=WIDTH):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(image).save(path)


@pytest.fixture
def layout(tmp_path):
    """`dataset-master`."""
    root = tmp_path / "manual" / "kaggle_blood_cells" / "dataset-master"
    (root / "Annotations").mkdir(parents=True)
    for number, boxes in FRAMES.items():
        draw(root / f"JPEGImages/BloodImage_{number:05d}.jpg", number)
        (root / f"Annotations/BloodImage_{number:05d}.xml").write_text(voc(boxes))
    draw(root / "JPEGImages/BloodImage_00008.jpg", 8)  # without an annotation
    (root / "Annotations/BloodImage_00098.xml").write_text(voc([(1, 1, 9, 9)]))
    (root / "labels.csv").write_text(LABELS)
    return root


COPIES = (
    "TRAIN/EOSINOPHIL/_0_1063",
    "TRAIN/EOSINOPHIL/_0_207",
    "TRAIN/NEUTROPHIL/_100_1063",
    "TEST/EOSINOPHIL/_0_1063",
    "TEST/LYMPHOCYTE/_10_5",
    "TEST/MONOCYTE/_0_1",
    "TEST_SIMPLE/EOSINOPHIL/_0_1063",
)


@pytest.fixture
def copies(tmp_path):
    """`dataset2-master/dataset2-master/images`."""
    root = tmp_path / "manual/kaggle_blood_cells/dataset2-master/dataset2-master/images"
    for seed, name in enumerate(COPIES):
        draw(root / f"{name}.jpeg", seed)
    return root


def build(manual_dir, data_dir, config="original"):
    return builders.build(module, manual_dir, data_dir, config)


def test_original_is_the_default():
    assert next(iter(module.Builder.builder_configs)) == "original"


# Id: label, subtype, and the crop's first row, first column, and side.
CROPS = {
    # Box 20 x 16 and 25% at each end: a square of 30 about the middle (18, 30).
    "BloodImage_00000": (4, b"", (3, 15, 30)),
    # Box 8 x 8: a square of 12, moved into the frame from row 0 and column -1.
    "BloodImage_00001": (1, b"", (0, 0, 12)),
    # Box 10 x 10: a square of 16, as the margin is rounded up.
    "BloodImage_00002": (-1, b"", (7, 7, 16)),
    "BloodImage_00004_1": (-1, b"several_cells", (0, 0, 16)),
    "BloodImage_00004_2": (-1, b"several_cells", (15, 25, 30)),
    "BloodImage_00005": (-1, b"several_types", (7, 7, 16)),
    "BloodImage_00006": (-1, b"several_cells", (7, 7, 16)),
    # Boxes cut off at the edge: 12 x 12, and 15 x 19.
    "BloodImage_00007_1": (-1, b"several_cells", (0, 0, 18)),
    "BloodImage_00007_2": (-1, b"several_cells", (19, 35, 29)),
}
COUNTS = {
    "frames_without_cell": 1,
    "frames_with_several_cells": 3,
    "frames_with_several_types": 1,
    "unlabelled_frames": 1,
    "labels_without_image": 1,
    "images_without_annotation": 1,
    "annotations_without_image": 1,
    "clipped_boxes": 2,
    "excluded_records": 0,
    "left_out_files": 0,
}


def test_crops(layout, tmp_path):
    built = build(layout.parent.parent, tmp_path / "out")
    found = read(built)
    assert {id: (row["label"], row["subtype"]) for id, row in found.items()} == {
        id: expected[:2] for id, expected in CROPS.items()
    }
    for id, row in found.items():
        frame = id[:16]
        y, x, side = CROPS[id][2]
        pixels = np.asarray(Image.open(layout / f"JPEGImages/{frame}.jpg"))
        crop = decode_image(row["image"])
        assert crop.shape == (side, side, 3)
        # Two JPEG decoders may differ by a few levels; a shift by a pixel of noise is far more.
        assert np.abs(crop.astype(int) - pixels[y : y + side, x : x + side]).mean() < 3
        assert row["image"][:4] == b"\x89PNG"
        assert (row["group"].decode(), row["source"]) == (frame, b"kaggle_blood_cells")
        assert row["label_source"] == (b"authors" if row["label"] >= 0 else b"")
        assert (row["has_mask"], row["height"], row["width"]) == (False, side, side)
        assert np.isnan(row["um_per_px"])
    assert built.info.metadata == COUNTS
    again = module.Builder(config="original", data_dir=tmp_path / "out")
    assert dict(again.info.metadata.items()) == COUNTS


def test_copies(copies, tmp_path):
    built = build(copies.parents[2].parent, tmp_path / "out", "augmented")
    found = read(built)
    keys = ("label", "group", "subtype")
    train, test = b"augmented_train_", b"augmented_test_"
    assert {id: tuple(row[key] for key in keys) for id, row in found.items()} == {
        "train_eosinophil_0_1063": (1, train + b"eosinophil", b"train"),
        "train_eosinophil_0_207": (1, train + b"eosinophil", b"train"),
        "train_neutrophil_100_1063": (4, train + b"neutrophil", b"train"),
        "test_eosinophil_0_1063": (1, test + b"eosinophil", b"test"),
        "test_lymphocyte_10_5": (2, test + b"lymphocyte", b"test"),
        "test_monocyte_0_1": (3, test + b"monocyte", b"test"),
        "test_simple_eosinophil_0_1063": (1, test + b"eosinophil", b"test_simple"),
    }
    file = copies / "TEST_SIMPLE/EOSINOPHIL/_0_1063.jpeg"
    assert found["test_simple_eosinophil_0_1063"]["image"] == file.read_bytes()
    for row in found.values():
        assert (row["source"], row["label_source"]) == (b"kaggle_blood_cells", b"authors")
        assert (row["has_mask"], row["height"], row["width"]) == (False, HEIGHT, WIDTH)
    assert built.info.metadata == {"excluded_records": 0, "left_out_files": 0}


def test_excluded_records(layout, copies, tmp_path, monkeypatch):
    excluded = {"BloodImage_00004_2": "no cell", "train_eosinophil_0_207": "blurred", "x": "y"}
    monkeypatch.setattr(building, "read_exclusions", lambda folder: excluded)
    built = build(layout.parent.parent, tmp_path / "out")
    assert read(built).keys() == CROPS.keys() - excluded.keys()
    assert dict(built.info.metadata.items()) == COUNTS | {"excluded_records": 1}
    built = build(layout.parent.parent, tmp_path / "out", "augmented")
    assert len(read(built)) == len(COPIES) - 1
    assert built.info.metadata["excluded_records"] == 1


@pytest.mark.parametrize("config", ["original", "augmented"])
def test_rebuilt_byte_for_byte(layout, copies, tmp_path, config):
    first = digests(build(layout.parent.parent, tmp_path / "one", config))
    assert first == digests(build(layout.parent.parent, tmp_path / "two", config))
    assert "kaggle_blood_cells-train.array_record-00000-of-00001" in first


@pytest.mark.parametrize("place", ["blood-cells", "itself", "nested"])
def test_folders_that_are_found(layout, copies, tmp_path, place):
    top = layout.parent
    manual_dir = top.parent
    if place == "itself":
        manual_dir = top
    elif place == "nested":
        layout.rename(tmp_path / "dataset-master")
        layout.mkdir()
        (tmp_path / "dataset-master").rename(layout / "dataset-master")
        copies.rename(copies.parents[1] / "images")
        copies.parent.rmdir()
    else:
        top.rename(manual_dir / place)
    assert read(build(manual_dir, tmp_path / "out")).keys() == CROPS.keys()
    assert len(read(build(manual_dir, tmp_path / "out", "augmented"))) == len(COPIES)


@pytest.mark.parametrize(
    "box, expected, clipped",
    [
        ((1, 1, 64, 48), (0, 0, 48, 64), 0),
        ((2, 3, 4, 5), (2, 1, 5, 4), 0),
        ((7, 7, 7, 7), (6, 6, 7, 7), 0),
        ((-1, 1, 4, 50), (0, 0, 48, 4), 1),
        ((0, 1, 66, 4), (0, 0, 4, 64), 1),
    ],
)
def test_boxes(tmp_path, box, expected, clipped):
    (tmp_path / "a.xml").write_text(voc([box]))
    assert module.read_boxes(tmp_path / "a.xml", HEIGHT, WIDTH) == ([expected], clipped)


XML = "Annotations/BloodImage_00000.xml"
JPG = "JPEGImages/BloodImage_00000.jpg"

# Name: (what is done to the layout, the file that the message names, what else it says).
BAD = {
    "truncated": (
        lambda r: (r / JPG).write_bytes((r / JPG).read_bytes()[:-20]),
        JPG,
        "truncated or damaged",
    ),
    "name": (
        lambda r: (r / JPG).rename(r / "JPEGImages/BloodImage_0.jpg"),
        "JPEGImages/BloodImage_0.jpg",
        "the name is not BloodImage_ and five digits",
    ),
    "no XML": (lambda r: (r / XML).write_text("<annotation>"), XML, "cannot be read as XML"),
    "size": (
        lambda r: (r / XML).write_text(voc([], 416, 416)),
        XML,
        "says that the image is 416 x 416 pixels .* but it is 64 x 48: allowed is one size",
    ),
    "word": (
        lambda r: (r / XML).write_text(voc([(1, "x", 9, 9)])),
        XML,
        "xmin 1, ymin x, xmax 9, ymax 9: allowed are whole numbers",
    ),
    "missing": (
        lambda r: (r / XML).write_text(voc([(1, 2, 9)])),
        XML,
        "ymax missing: allowed are whole numbers",
    ),
    "empty box": (
        lambda r: (r / XML).write_text(voc([(9, 2, 8, 9)])),
        XML,
        "xmin 9, ymin 2, xmax 8, ymax 9 in an image of 64 x 48 pixels: allowed is a box that is",
    ),
    "far out": (
        lambda r: (r / XML).write_text(voc([(1, 1, 67, 9)])),
        XML,
        "xmax 67, .*or up to 2 pixels out of it",
    ),
    "far out at the top": (
        lambda r: (r / XML).write_text(voc([(1, -2, 9, 9)])),
        XML,
        "ymin -2, .*or up to 2 pixels out of it",
    ),
    "elsewhere": (lambda r: (r / XML).write_text(voc([(65, 1, 66, 9)])), XML, "not empty and lies"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files(layout, tmp_path, kind):
    harm, file, reason = BAD[kind]
    harm(layout)
    with pytest.raises(DataError, match=reason) as caught:
        build(layout.parent.parent, tmp_path / "out")
    assert str(layout / file) in str(caught.value)
    assert "1 bad file;" in str(caught.value)

    with reading.on_bad_file("skip") as collector:
        built = build(layout.parent.parent, tmp_path / "out")
    assert read(built).keys() == CROPS.keys() - {"BloodImage_00000"}
    assert len(collector.files) == built.info.metadata["left_out_files"] == 1


def test_bad_copies(copies, tmp_path):
    file = copies / "TEST/MONOCYTE/_0_1.jpeg"
    file.write_bytes(b"")
    with pytest.raises(DataError, match="1 bad file;") as caught:
        build(copies.parents[2].parent, tmp_path / "out", "augmented")
    assert str(file) in str(caught.value)
    with reading.on_bad_file("skip"):
        built = build(copies.parents[2].parent, tmp_path / "out", "augmented")
    assert len(read(built)) == len(COPIES) - 1
    assert built.info.metadata["left_out_files"] == 1


@pytest.mark.parametrize(
    "harm, reason",
    [
        (
            lambda r: (r / "VALIDATION").mkdir(),
            "images: 'VALIDATION': unknown: allowed are the folders TRAIN, TEST, TEST_SIMPLE",
        ),
        (
            lambda r: (r / "TRAIN/PLATELET").mkdir(),
            "TRAIN: 'PLATELET': unknown: allowed are the folders BASOPHIL, EOSINOPHIL",
        ),
        (
            lambda r: [file.unlink() for file in sorted(r.rglob("*.jpeg"))],
            "images: holds no image: allowed are .jpeg files in TRAIN, TEST, TEST_SIMPLE",
        ),
        (lambda r: r.rename(r.with_name("pictures")), "dataset2-master: lacks 'images'"),
    ],
)
def test_bad_folders_of_copies(copies, tmp_path, harm, reason):
    harm(copies)
    with pytest.raises(DataError, match=reason):
        build(copies.parents[2].parent, tmp_path / "out", "augmented")


@pytest.mark.parametrize(
    "text, reason",
    [
        ("Image,Category\n1,MONOCYTE\n", "the header is 'Image,Category': allowed is ',Image,Cat"),
        (",Image,Category\n,1,BLAST\n", "line 2: ',1,BLAST'"),
        (",Image,Category\n,x,MONOCYTE\n", "line 2: ',x,MONOCYTE'"),
        (",Image,Category\n,1\n", "line 2: ',1'"),
        (",Image,Category\n,1,MONOCYTE,BASOPHIL\n", "line 2: ',1,MONOCYTE,BASOPHIL'"),
        (",Image,Category\n,1,MONOCYTE\n,1,BASOPHIL\n", "line 3: ',1,BASOPHIL' contradicts"),
        ("", "empty"),
    ],
)
def test_bad_labels(layout, tmp_path, text, reason):
    (layout / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=reason) as caught:
        build(layout.parent.parent, tmp_path / "out")
    assert str(layout / "labels.csv") in str(caught.value)


def test_incomplete_folder(layout, tmp_path):
    (layout / "labels.csv").unlink()
    with pytest.raises(DataError, match=r"dataset-master: lacks 'labels.csv'"):
        build(layout.parent.parent, tmp_path / "out")
    with pytest.raises(DataError, match="kaggle_blood_cells: lacks 'dataset2-master'"):
        build(layout.parent.parent, tmp_path / "out", "augmented")


@pytest.mark.parametrize(
    "config, top", [("original", "dataset-master"), ("augmented", "dataset2-master")]
)
def test_says_where_to_put_it(tmp_path, config, top):
    with pytest.raises(DataError, match="not in") as caught:
        build(tmp_path / "nowhere", tmp_path / "out", config)
    assert module.PAGE in str(caught.value)
    assert str(tmp_path / "nowhere" / "kaggle_blood_cells" / top) in str(caught.value)


@pytest.fixture
def real_folder(real_data):
    folder = real_data / "kaggle_blood_cells"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


@pytest.mark.data
def test_real_frames(real_data, real_folder, tmp_path):
    top = real_folder / "dataset-master"
    with (top / "labels.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    category = {f"BloodImage_{int(row[1]):05d}": row[2].strip() for row in rows}
    boxes = {}
    for file in (top / "Annotations").glob("*.xml"):
        found = [item for item in ElementTree.parse(file).iter("object")]
        boxes[file.stem] = [item for item in found if item.findtext("name") == "WBC"]
    images = {file.stem for file in (top / "JPEGImages").glob("*.jpg")}
    single = {s for s in images if len(boxes.get(s, ())) == 1}
    excluded = building.read_exclusions(module.Builder.pkg_dir_path)

    built = build(real_data, tmp_path)
    found = read(built)
    several = {f"{s}_{i + 1}" for s in images - single for i in range(len(boxes.get(s, ())))}
    assert found.keys() == (single | several) - excluded.keys()
    counted = collections.Counter(row["label"] for row in found.values())
    for index, name in enumerate(CELL_TYPES):
        assert counted[index] == sum(category.get(s) == name.upper() for s in single)
    for id, row in found.items():
        sides = [int(boxes[id[:16]][0].findtext(f"bndbox/{side}")) for side in ("xmin", "xmax")]
        assert row["group"].decode() == id[:16]
        assert row["height"] == row["width"]
        assert id in several or row["width"] >= min(1.5 * (sides[1] - sides[0]), 480)
    counts = built.info.metadata
    assert counts["left_out_files"] == counts["clipped_boxes"] == 0
    assert counts["labels_without_image"] == len(category.keys() - images)
    assert counts["frames_without_cell"] == sum(not boxes[s] for s in images & boxes.keys())


@pytest.mark.data
def test_real_copies(real_data, real_folder, tmp_path):
    top = real_folder / "dataset2-master" / "dataset2-master" / "images"
    files = list(top.glob("*/*/*.jpeg"))
    found = read(build(real_data, tmp_path, "augmented"))
    assert len(found) == len(files)
    assert collections.Counter(
        (row["subtype"].decode().upper(), CELL_TYPES[row["label"]].upper())
        for row in found.values()
    ) == collections.Counter(file.parts[-3:-1] for file in files)
    # No group stands on both sides of upstream's division, and each is of one type.
    sides = collections.defaultdict(set)
    for row in found.values():
        sides[row["group"]].add((row["subtype"].startswith(b"train"), int(row["label"])))
    assert all(len(side) == 1 for side in sides.values())


@pytest.mark.data
@pytest.mark.slow
def test_what_the_readme_says_of_copies(real_folder):
    """Finds each copy's frame by its local features, as no name tells it (40 seconds)."""
    cv2.setNumThreads(1)
    sift = cv2.SIFT_create(nfeatures=250)
    frames, points, descriptors = [], [], []
    for file in sorted((real_folder / "dataset-master" / "JPEGImages").glob("*.jpg")):
        grey = cv2.resize(cv2.imread(str(file), 0), (320, 240), interpolation=cv2.INTER_AREA)
        for image in (grey, np.ascontiguousarray(grey[:, ::-1])):
            keys, described = sift.detectAndCompute(image, None)
            frames += [int(file.stem[-5:])] * len(keys)
            points += [key.pt for key in keys]
            descriptors.append(described)
    points, frames = np.float32(points), np.array(frames)
    matcher = cv2.FlannBasedMatcher({"algorithm": 1, "trees": 4}, {"checks": 48})
    matcher.add([np.concatenate(descriptors)])
    matcher.train()
    category = module.read_labels(real_folder / "dataset-master" / "labels.csv")
    sides, matched, files = collections.defaultdict(set), [], []
    for file in sorted((real_folder / "dataset2-master").rglob("*.jpeg")):
        files.append(file)
        keys, described = sift.detectAndCompute(cv2.imread(str(file), 0), None)
        at = np.float32([key.pt for key in keys])
        nearest = np.array([match[0].trainIdx for match in matcher.knnMatch(described, k=1)])
        best = (0, -1)  # matching features, frame
        for frame, votes in collections.Counter(frames[nearest]).most_common(4):
            if votes >= 6:
                chosen = frames[nearest] == frame
                _, inliers = cv2.estimateAffine2D(
                    at[chosen], points[nearest[chosen]], ransacReprojThreshold=3
                )
                best = max(best, (0 if inliers is None else int(inliers.sum()), int(frame)))
        if best[0] >= 20:
            matched.append(best[1] == int(file.stem.split("_")[1]))
            assert category[best[1]] == (file.parent.name.lower(),), file
            sides[best[1]].add(module.PARTITIONS[file.parts[-3]])
    assert len(matched) > 0.8 * len(files)
    assert not any(matched)
    assert all(len(side) == 1 for side in sides.values())
