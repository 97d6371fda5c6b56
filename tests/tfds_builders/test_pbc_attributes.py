"""pbc's attributes: small tables of WBCAtt's layout, and the real ones."""

import collections
import csv

import numpy as np
import pytest
from PIL import Image

from helpers import builders
from helpers.builders import digests, read
from wbc_jax.config import Data
from wbc_jax.data import building, preparing, records, sources
from wbc_jax.errors import DataError
from wbc_jax.tfds_builders.pbc import attributes
from wbc_jax.tfds_builders.pbc import pbc_dataset_builder as module

HEADER = (
    "img_name,label,cell_size,cell_shape,nucleus_shape,nuclear_cytoplasmic_ratio,"
    "chromatin_density,cytoplasm_vacuole,cytoplasm_texture,cytoplasm_colour,granule_type,"
    "granule_colour,granularity,path"
)
EOSINOPHIL = (
    "EO_1.jpg,Eosinophil,small,round,segmented-bilobed,low,densely,no,clear,light blue,round,red,"
    "yes,PBC_dataset_normal_DIB/eosinophil/EO_1.jpg"
)
LYMPHOCYTE = (
    "LY_1.jpg,Lymphocyte,big,irregular,unsegmented-round,high,loosely,yes,frosted,purple blue,nil,"
    "nil,no,PBC_dataset_normal_DIB/lymphocyte/LY_1.jpg"
)
MONOCYTE = (
    "MO_9.jpg,Monocyte,big,round,unsegmented-indented,low,loosely,no,frosted,blue,nil,nil,no,"
    "PBC_dataset_normal_DIB/monocyte/MO_9.jpg"
)
FILES = (
    "basophil/BA_1",
    "eosinophil/EO_1",
    "lymphocyte/LY_1",
    "monocyte/MO_1",
    "neutrophil/SNE_1",
)


def draw(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, (15, 14, 3), np.uint8)
    Image.fromarray(image).save(path)


def write(folder, lines, split="train", start=""):
    folder.mkdir(parents=True, exist_ok=True)
    text = start + "\n".join((HEADER, *lines)) + "\n"
    (folder / f"pbc_attr_v1_{split}.csv").write_bytes(text.encode())


@pytest.fixture
def root(tmp_path):
    """Five images, of which two have attributes; a third row has no image."""
    folder = tmp_path / "manual" / "pbc"
    for seed, name in enumerate(FILES):
        draw(folder / "PBC_dataset_normal_DIB" / f"{name}.jpg", seed)
    write(folder / "wbcatt", [EOSINOPHIL], "train")
    write(folder / "wbcatt", [MONOCYTE], "val")
    write(folder / "wbcatt", [LYMPHOCYTE], "test")
    (folder / "wbcatt" / "LICENSE").write_text("passed over")
    return folder


def build(manual_dir, data_dir, config="five"):
    return builders.build(module, manual_dir, data_dir, config)


def check(built):
    found = read(built)
    assert found["pbc_EO_1"]["attributes"] == {
        "cell_size": b"small",
        "cell_shape": b"round",
        "nucleus_shape": b"segmented-bilobed",
        "nuclear_cytoplasmic_ratio": b"low",
        "chromatin_density": b"densely",
        "cytoplasm_vacuole": b"no",
        "cytoplasm_texture": b"clear",
        "cytoplasm_colour": b"light blue",
        "granule_type": b"round",
        "granule_colour": b"red",
        "granularity": b"yes",
    }
    words = LYMPHOCYTE.encode().split(b",")[2:-1]
    assert found["pbc_LY_1"]["attributes"] == dict(zip(HEADER.split(",")[2:-1], words))
    splits = {id: row["attributes_split"] for id, row in found.items()}
    none = dict.fromkeys(("pbc_BA_1", "pbc_MO_1", "pbc_SNE_1"), b"")
    assert splits == none | {"pbc_EO_1": b"train", "pbc_LY_1": b"test"}
    assert all(set(found[id]["attributes"].values()) == {b""} for id in none)
    assert built.info.metadata["images_with_attributes"] == 2


def test_records_carry_attributes_and_their_split(root, tmp_path):
    built = build(root.parent, tmp_path / "out")
    check(built)
    assert str(built.version) == "1.1.0"
    # Of these, the builder for a part of PBC finds no image.
    assert built.info.metadata["attributes_without_image"] == 1


def test_other_features_are_those_of_all_data_sets(root, tmp_path):
    features = build(root.parent, tmp_path / "out").info.features
    assert features.keys() - records.features().keys() == {"attributes", "attributes_split"}
    assert tuple(features["attributes"]) == tuple(attributes.WORDS)


def test_sources_read_records_with_attributes(root, tmp_path):
    data = Data(datasets=("pbc",), manual_dir=str(root.parent), data_dir=str(tmp_path / "out"))
    assert preparing.prepare("pbc", data) == []
    source = sources.load("pbc", data)
    record = source.encoded[source.ids.index("pbc_LY_1")]
    assert (record["attributes/cell_size"], record["attributes_split"]) == (b"big", b"test")
    assert source.image(0).shape == (15, 14, 3)


def test_rebuilt_byte_for_byte(root, tmp_path):
    first = digests(build(root.parent, tmp_path / "one"))
    assert first == digests(build(root.parent, tmp_path / "two"))


@pytest.mark.parametrize("place", ["within", "manual_dir", "itself"])
def test_places_of_the_tables(root, tmp_path, place):
    images, manual_dir = root / "PBC_dataset_normal_DIB", root.parent
    if place == "within":
        (root / "wbcatt").rename(images / "wbcatt")
    elif place == "manual_dir":
        manual_dir = root
    else:
        manual_dir = images
    check(build(manual_dir, tmp_path / "out"))


def test_a_table_that_is_missing_is_passed_over(root, tmp_path, caplog):
    for name in ("val", "test"):
        (root / "wbcatt" / f"pbc_attr_v1_{name}.csv").unlink()
    with caplog.at_level("WARNING"):
        built = build(root.parent, tmp_path / "out")
    assert "there is no pbc_attr_v1_val.csv and no pbc_attr_v1_test.csv" in caplog.text
    assert built.info.metadata["images_with_attributes"] == 1


@pytest.mark.parametrize("kind", ["byte-order mark", "CRLF", "semicolons", "no .jpg"])
def test_spellings_of_a_table(root, tmp_path, kind):
    path = root / "wbcatt" / "pbc_attr_v1_test.csv"
    text = path.read_text()
    path.write_bytes(
        {
            "byte-order mark": "\ufeff" + text,
            "CRLF": text.replace("\n", "\r\n"),
            "semicolons": "\ufeff" + text.replace(",", ";"),
            "no .jpg": text.replace("LY_1.jpg,", "LY_1,"),
        }[kind].encode()
    )
    check(build(root.parent, tmp_path / "out"))


def test_attributes_of_a_bad_or_excluded_image(root, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "read_exclusions", lambda folder: {"pbc_EO_1": "damaged"})
    built = build(root.parent, tmp_path / "out")
    assert "pbc_EO_1" not in read(built)
    # A name in two classes is a bad file; nothing says which of the two the row describes.
    draw(root / "PBC_dataset_normal_DIB/basophil/LY_1.jpg", 9)
    with pytest.raises(DataError, match="allowed is one class a cell"):
        build(root.parent, tmp_path / "two")


# Kind: (lines of the table of the training split, what the error says).
WRONG = {
    "unknown word": (
        [EOSINOPHIL.replace("small", "tiny")],
        "line 2: 'EO_1.jpg,.*: cell_size 'tiny' is none of big, small",
    ),
    "another spelling": (
        [EOSINOPHIL.replace("light blue", "Light Blue")],
        "cytoplasm_colour 'Light Blue' is none of blue, light blue, purple blue",
    ),
    "unknown word without image": (
        [MONOCYTE.replace("MO_9", "MO_8").replace(",no,P", ",maybe,P")],
        "granularity 'maybe' is none of no, yes",
    ),
    "empty word": (
        [EOSINOPHIL.replace("red", "")],
        "granule_colour '' is none of nil, pink, purple, red",
    ),
    "unknown type": (
        [EOSINOPHIL.replace("Eosinophil", "Blast")],
        "label 'Blast' is none of basophil, eosinophil",
    ),
    "type of another folder": (
        [EOSINOPHIL.replace("Eosinophil", "Monocyte")],
        "label 'Monocyte', but the image lies in the folder 'eosinophil'",
    ),
    "no name": ([EOSINOPHIL.replace("EO_1.jpg", "", 1)], "img_name is empty"),
    "a cell less": ([EOSINOPHIL.replace("small,", "")], "13 cells, not 14"),
    "twice in a table": (
        [EOSINOPHIL, EOSINOPHIL],
        "line 3: .*EO_1 stands in pbc_attr_v1_train.csv line 2, too",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_lines(root, tmp_path, kind):
    lines, reason = WRONG[kind]
    write(root / "wbcatt", lines)
    with pytest.raises(DataError, match=reason) as caught:
        build(root.parent, tmp_path / "out")
    assert f"{root / 'wbcatt/pbc_attr_v1_train.csv'}: 1 lines are wrong" in str(caught.value)


def test_an_image_in_two_tables(root, tmp_path):
    write(root / "wbcatt", [LYMPHOCYTE, EOSINOPHIL], "test")
    with pytest.raises(DataError, match=r"EO_1 stands in pbc_attr_v1_train\.csv line 2, too"):
        build(root.parent, tmp_path / "out")


@pytest.mark.parametrize("kind", ["no table", "header", "not UTF-8"])
def test_wrong_tables(root, tmp_path, kind):
    folder = root / "wbcatt"
    path = folder / "pbc_attr_v1_train.csv"
    if kind == "no table":
        for file in folder.glob("*.csv"):
            file.unlink()
        reason = "wbcatt: holds none of pbc_attr_v1_train.csv, .*unpack the tables of"
    elif kind == "header":
        path.write_text("image,words\nEO_1.jpg,small\n")
        reason = "the header is 'image,words': allowed is 'img_name,label,cell_size"
    else:
        path.write_bytes(path.read_bytes() + b"\xff")
        reason = "cannot be read as CSV"
    with pytest.raises(DataError, match=reason) as caught:
        build(root.parent, tmp_path / "out")
    assert str(folder) in str(caught.value)


@pytest.mark.data
def test_real_tables(real_data):
    folder = real_data / "pbc" / "wbcatt"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    rows = {}
    for split in ("train", "val", "test"):
        with (folder / f"pbc_attr_v1_{split}.csv").open(newline="") as file:
            rows |= {row["img_name"][:-4]: (split, row) for row in csv.DictReader(file)}
    images = {
        file.stem: file.parent.name
        for file in (real_data / "pbc/PBC_dataset_normal_DIB").glob("*/*.jpg")
    }
    notes = building.Notes()
    found = attributes.read(folder, images, notes)
    assert found.keys() == rows.keys() & images.keys()
    assert len(found) > 100
    for name, described in found.items():
        split, row = rows[name]
        assert (described.split, described.cell_type) == (split, row["label"].lower())
        assert described.words == {name: row[name] for name in HEADER.split(",")[2:-1]}
    # Every word that is allowed stands in the tables.
    used = collections.defaultdict(set)
    for _, row in rows.values():
        for name in attributes.WORDS:
            used[name].add(row[name])
    assert {name: tuple(sorted(words)) for name, words in used.items()} == attributes.WORDS
    assert notes.counts["images_with_attributes"] == len(found)
    assert notes.counts["attributes_without_image"] == len(rows.keys() - images.keys())
