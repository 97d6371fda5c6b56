"""raabin_gt: small files of the authors' layout, and the real ones."""

import numpy as np
import pytest
from PIL import Image

from helpers import builders
from helpers.builders import digests, read
from wbc_jax.data import building, reading
from wbc_jax.data.images import decode_mask
from wbc_jax.errors import DataError
from wbc_jax.labels import CELL_TYPES
from wbc_jax.tfds_builders.raabin_gt import raabin_gt_dataset_builder as module


def greys(nucleus=True):
    grey = np.zeros((16, 14), np.uint8)
    grey[2:12, 2:10] = 255
    if nucleus:
        grey[5:9, 4:8] = 120
    return grey


THREE = np.select([greys() == 120, greys() == 255], [2, 1], 0)
CELL_ONLY = np.where(greys(nucleus=False) == 255, 255, 0)

LABELS = """name,label,label_source
20190526_165423_0,basophil,public_index
95-8-17-3_225_1,neutrophil,by_eye
95-8-17-3_225_2,monocyte,public_index
absent_1,monocyte,public_index
"""


@pytest.fixture
def layout(tmp_path):
    root = tmp_path / "manual" / "raabin_gt"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    names = ("20190526_165423_0", "95-8-17-3_225_1", "95-8-17-3_225_2", "95-8-27-1_34_1")
    for seed, name in enumerate(names):
        image = np.random.default_rng(seed).integers(0, 256, (16, 14, 3), np.uint8)
        Image.fromarray(image).save(root / "images" / f"{name}.jpg")
        mask = greys(nucleus=not name.startswith("2019"))
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    (root / "labels.csv").write_text(LABELS)
    return root


def build(manual_dir, data_dir):
    return builders.build(module, manual_dir, data_dir)


def test_records(layout, tmp_path):
    built = build(layout.parent, tmp_path / "out")
    found = read(built)
    keys = ("label", "label_source", "group", "subtype", "source")
    assert {id: tuple(row[key] for key in keys) for id, row in found.items()} == {
        "20190526_165423_0": (0, b"public_index", b"20190526_165423", b"cell_only", b"raabin_gt"),
        "95-8-17-3_225_1": (4, b"by_eye", b"95-8-17-3_225", b"", b"raabin_gt"),
        "95-8-17-3_225_2": (3, b"public_index", b"95-8-17-3_225", b"", b"raabin_gt"),
        "95-8-27-1_34_1": (-1, b"", b"95-8-27-1_34", b"", b"raabin_gt"),
    }
    for id, row in found.items():
        assert row["image"] == (layout / "images" / f"{id}.jpg").read_bytes()
        expected = CELL_ONLY if id.startswith("2019") else THREE
        assert np.array_equal(decode_mask(row["mask"]), expected)
        assert (row["has_mask"], row["height"], row["width"]) == (True, 16, 14)
    assert built.info.metadata == {
        "cell_only_masks": 1,
        "unlabelled_images": 1,
        "labels_without_image": 1,
        "excluded_records": 0,
        "left_out_files": 0,
    }


@pytest.mark.parametrize(
    "name, frame",
    [
        ("95-8-17-3_225_1", "95-8-17-3_225"),
        ("20190526_165423_0", "20190526_165423"),
        ("20190526_165423_12", "20190526_165423"),
        ("20190526_165423", "20190526_165423"),
        ("95-8-17-3_225", "95-8-17-3_225"),
        ("cell_7", "cell_7"),
    ],
)
def test_frame(name, frame):
    assert module.frame(name) == frame


def test_excluded_records(layout, tmp_path, monkeypatch):
    (layout / "images/95-8-17-3_225_1.jpg").write_bytes(b"")  # is not even opened
    excluded = {"95-8-17-3_225_1": "the file is empty", "elsewhere": "damaged"}
    monkeypatch.setattr(building, "read_exclusions", lambda folder: excluded)
    built = build(layout.parent, tmp_path / "out")
    assert sorted(read(built)) == ["20190526_165423_0", "95-8-17-3_225_2", "95-8-27-1_34_1"]
    assert built.info.metadata["excluded_records"] == 1


def test_rebuilt_byte_for_byte(layout, tmp_path):
    first = digests(build(layout.parent, tmp_path / "one"))
    assert first == digests(build(layout.parent, tmp_path / "two"))
    assert "raabin_gt-train.array_record-00000-of-00001" in first


def test_manual_dir_may_be_the_folder(layout, tmp_path):
    assert len(read(build(layout, tmp_path / "out"))) == 4


STEM = "95-8-17-3_225_2"


def swap_mask(layout, grey):
    Image.fromarray(grey).save(layout / f"masks/{STEM}.png")


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


# Name: (what is done to the layout, the file that the message names, what else it says).
BAD = {
    "truncated image": (
        lambda r: cut(r / f"images/{STEM}.jpg"),
        f"images/{STEM}.jpg",
        "truncated or damaged",
    ),
    "no mask": (
        lambda r: (r / f"masks/{STEM}.png").unlink(),
        f"images/{STEM}.jpg",
        "has no mask",
    ),
    "no image": (
        lambda r: (r / f"images/{STEM}.jpg").unlink(),
        f"masks/{STEM}.png",
        "has no image",
    ),
    "size": (
        lambda r: swap_mask(r, greys().T),
        f"masks/{STEM}.png",
        "16 x 14 pixels .* its image 14 x 16 pixels",
    ),
    "values": (
        lambda r: swap_mask(r, np.where(greys() == 120, 128, greys()).astype(np.uint8)),
        f"masks/{STEM}.png",
        r"128 \(16 pixels\).*allowed are 0 background, 120 nucleus, 255 cytoplasm",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files(layout, tmp_path, kind):
    harm, file, reason = BAD[kind]
    harm(layout)
    with pytest.raises(DataError, match=reason) as caught:
        build(layout.parent, tmp_path / "out")
    assert str(layout / file) in str(caught.value)
    assert "1 bad file;" in str(caught.value)

    with reading.on_bad_file("skip") as collector:
        built = build(layout.parent, tmp_path / "out")
    assert sorted(read(built)) == ["20190526_165423_0", "95-8-17-3_225_1", "95-8-27-1_34_1"]
    assert len(collector.files) == built.info.metadata["left_out_files"] == 1


@pytest.mark.parametrize(
    "text, reason",
    [
        ("name,label\n", "the header is 'name,label': allowed is 'name,label,label_source'"),
        ("name,label,label_source\na,Neutrophil?,x\n", r"line 2: 'a,Neutrophil\?,x'"),
        ("name,label,label_source\na,monocyte\n", "line 2: 'a,monocyte'"),
        ("name,label,label_source\na,monocyte,x\na,basophil,x\n", "line 3: .* contradicts"),
        ("", "empty"),
    ],
)
def test_bad_labels(layout, tmp_path, text, reason):
    (layout / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=reason) as caught:
        build(layout.parent, tmp_path / "out")
    assert str(layout / "labels.csv") in str(caught.value)


def test_says_where_to_put_it(tmp_path):
    with pytest.raises(DataError, match="web form") as caught:
        build(tmp_path / "nowhere", tmp_path / "out")
    assert module.PAGE in str(caught.value)
    assert str(tmp_path / "nowhere" / "raabin_gt" / "masks") in str(caught.value)


@pytest.mark.data
def test_real_files(real_data, tmp_path):
    folder = real_data / "raabin_gt"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    found = read(build(real_data, tmp_path))
    assert sorted(found) == sorted(file.stem for file in (folder / "images").glob("*.jpg"))
    for id, row in found.items():
        assert row["image"] == (folder / "images" / f"{id}.jpg").read_bytes()
        grey = np.asarray(Image.open(folder / "masks" / f"{id}.png"))
        cell = 1 if (grey == 120).any() else 255
        expected = np.select([grey == 120, grey == 255], [2, cell], 0)
        assert np.array_equal(decode_mask(row["mask"]), expected)
        basophil = row["label"] == CELL_TYPES.index("basophil")
        assert (row["subtype"] == b"cell_only") == basophil
        assert row["group"].decode() == id.rsplit("_", 1)[0]
