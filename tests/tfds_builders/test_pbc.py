"""pbc: small files of the authors' layout, and the real ones."""

import collections

import numpy as np
import pytest
from PIL import Image

from helpers import builders
from helpers.builders import digests, read
from wbc_jax.data import building, reading
from wbc_jax.data.images import decode_mask
from wbc_jax.errors import DataError
from wbc_jax.labels import CELL_TYPES
from wbc_jax.tfds_builders.pbc import pbc_dataset_builder as module

FILES = (
    "basophil/BA_101381",
    "eosinophil/EO_100213",
    "erythroblast/ERB_120183",
    "ig/IG_864662",
    "ig/MMY_16200579",
    "ig/MY_2",
    "ig/PMY_3",
    "lymphocyte/LY_102859",
    "monocyte/MO_100695",
    "neutrophil/BNE_101082",
    "neutrophil/NEUTROPHIL_150696",
    "neutrophil/SNE_1",
    "platelet/PLATELET_117456",
)

FIVE = {
    "pbc_BA_101381": (0, b""),
    "pbc_EO_100213": (1, b""),
    "pbc_LY_102859": (2, b""),
    "pbc_MO_100695": (3, b""),
    "pbc_BNE_101082": (4, b"band"),
    "pbc_NEUTROPHIL_150696": (4, b""),
    "pbc_SNE_1": (4, b"segmented"),
}
THREE = {
    "pbc_ERB_120183": (-1, b"erythroblast"),
    "pbc_IG_864662": (-1, b"ig"),
    "pbc_MMY_16200579": (-1, b"ig_metamyelocyte"),
    "pbc_MY_2": (-1, b"ig_myelocyte"),
    "pbc_PMY_3": (-1, b"ig_promyelocyte"),
    "pbc_PLATELET_117456": (-1, b"platelet"),
}


def draw(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, (15, 14, 3), np.uint8)
    Image.fromarray(image).save(path)


@pytest.fixture
def layout(tmp_path):
    root = tmp_path / "manual" / "pbc" / "PBC_dataset_normal_DIB"
    for seed, name in enumerate(FILES):
        draw(root / f"{name}.jpg", seed)
    (root / "neutrophil" / ".DS_1.jpg").write_bytes(b"hidden")
    (root / "readme.txt").write_text("passed over")
    return root


def build(manual_dir, data_dir, config="five"):
    return builders.build(module, manual_dir, data_dir, config)


def test_five_is_the_default():
    assert next(iter(module.Builder.builder_configs)) == "five"


@pytest.mark.parametrize("config, expected", [("five", FIVE), ("eight", FIVE | THREE)])
def test_records(layout, tmp_path, config, expected):
    built = build(layout.parent.parent, tmp_path / "out", config)
    found = read(built)
    assert {id: (row["label"], row["subtype"]) for id, row in found.items()} == expected
    for id, row in found.items():
        [file] = layout.glob(f"*/{id.removeprefix('pbc_')}.jpg")
        assert row["image"] == file.read_bytes()
        assert (row["group"].decode(), row["source"]) == (id, b"pbc")
        assert row["label_source"] == (b"authors" if row["label"] >= 0 else b"")
        assert (row["has_mask"], row["height"], row["width"]) == (False, 15, 14)
        assert (decode_mask(row["mask"]) == 255).all()
        assert np.isnan(row["um_per_px"])
        assert row["attributes_split"] == b"" and set(row["attributes"].values()) == {b""}
    assert built.info.metadata == {
        "images_with_attributes": 0,
        "attributes_without_image": 0,
        "excluded_records": 0,
        "left_out_files": 0,
    }


@pytest.mark.parametrize(
    "name", ["MO_a b", 'MO_O\'Neill "x"', "MO_Zellkörper 白血球", "MO_%20#[x]"]
)
def test_odd_names(layout, tmp_path, name):
    draw(layout / "monocyte" / f"{name}.jpg", 70)
    found = read(build(layout.parent.parent, tmp_path / "out"))
    assert found.keys() == FIVE.keys() | {f"pbc_{name}"}
    assert found[f"pbc_{name}"]["image"] == (layout / "monocyte" / f"{name}.jpg").read_bytes()


@pytest.mark.parametrize(
    "cell_class, stem, expected",
    [
        ("neutrophil", "SNE_1", "segmented"),
        ("neutrophil", "sne_1", "segmented"),
        ("neutrophil", "XYZ_1", "XYZ"),
        ("neutrophil", "noprefix", "noprefix"),
        ("ig", "MMY_1", "ig_metamyelocyte"),
        ("ig", "XYZ_1", "ig_XYZ"),
        ("platelet", "PLATELET_1", "platelet"),
    ],
)
def test_subtype(cell_class, stem, expected):
    assert module.subtype(cell_class, stem) == expected


def test_every_class_has_subtypes():
    assert set(module.SUBTYPES) == set(module.CLASSES)


def test_excluded_records(layout, tmp_path, monkeypatch):
    (layout / "monocyte/MO_100695.jpg").write_bytes(b"")  # is not even opened
    draw(layout / "monocyte/MO_2.jpg", 50)
    excluded = {"pbc_MO_100695": "the file is empty", "elsewhere": "damaged"}
    monkeypatch.setattr(building, "read_exclusions", lambda folder: excluded)
    built = build(layout.parent.parent, tmp_path / "out")
    assert sorted(read(built)) == sorted((FIVE.keys() - {"pbc_MO_100695"}) | {"pbc_MO_2"})
    assert built.info.metadata["excluded_records"] == 1


def test_rebuilt_byte_for_byte(layout, tmp_path):
    first = digests(build(layout.parent.parent, tmp_path / "one"))
    assert first == digests(build(layout.parent.parent, tmp_path / "two"))
    assert "pbc-train.array_record-00000-of-00001" in first


@pytest.mark.parametrize("place", ["pbc", "PBC_dataset_normal_DIB", "itself", "parent"])
def test_folders_that_are_found(layout, tmp_path, place):
    manual_dir = tmp_path / "other"
    manual_dir.mkdir()
    if place == "itself":
        manual_dir = layout
    elif place == "parent":
        manual_dir = layout.parent
    else:
        layout.rename(manual_dir / place)
    assert read(build(manual_dir, tmp_path / "out")).keys() == FIVE.keys()


NAME = "monocyte/MO_100695.jpg"

# Name: (what is done to the layout, the file that the message names, what else it says, number of
# files that are left out).
BAD = {
    "truncated": (
        lambda r: (r / NAME).write_bytes((r / NAME).read_bytes()[:-20]),
        NAME,
        "truncated or damaged",
        1,
    ),
    "empty": (lambda r: (r / NAME).write_bytes(b""), NAME, "empty", 1),
    "no image": (lambda r: (r / NAME).write_bytes(b"hello"), NAME, "not an image", 1),
    "two classes": (
        lambda r: draw(r / "basophil/MO_100695.jpg", 60),
        NAME,
        "has the name of .*basophil/MO_100695.jpg: allowed is one class a cell",
        2,
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files(layout, tmp_path, kind):
    harm, file, reason, number = BAD[kind]
    harm(layout)
    draw(layout / "monocyte/MO_2.jpg", 50)
    with pytest.raises(DataError, match=reason) as caught:
        build(layout.parent.parent, tmp_path / "out")
    assert str(layout / file) in str(caught.value)
    assert f"{number} bad file" in str(caught.value)

    with reading.on_bad_file("skip") as collector:
        built = build(layout.parent.parent, tmp_path / "out")
    assert sorted(read(built)) == sorted((FIVE.keys() - {"pbc_MO_100695"}) | {"pbc_MO_2"})
    assert len(collector.files) == built.info.metadata["left_out_files"] == number


@pytest.mark.parametrize(
    "harm, reason",
    [
        (
            lambda r: (r / "blast").mkdir(),
            "'blast': no class of this data set: allowed are basophil, .*, platelet; rename",
        ),
        (lambda r: (r / "monocyte").rename(r / "Monozyt"), "lacks 'monocyte'"),
        (lambda r: (r / "monocyte/MO_100695.jpg").unlink(), "monocyte: holds no .jpg file"),
    ],
)
def test_bad_folders(layout, tmp_path, harm, reason):
    harm(layout)
    with pytest.raises(DataError, match=reason) as caught:
        build(layout.parent.parent, tmp_path / "out")
    assert str(layout) in str(caught.value)


def test_five_needs_no_other_class(layout, tmp_path):
    for name in module.OTHER_CLASSES:
        (layout / name).rename(tmp_path / name)
    assert read(build(layout.parent.parent, tmp_path / "out")).keys() == FIVE.keys()
    with pytest.raises(DataError, match="lacks 'erythroblast', 'ig', 'platelet'"):
        build(layout.parent.parent, tmp_path / "out", "eight")


def test_says_where_to_put_it(tmp_path):
    with pytest.raises(DataError, match="not in") as caught:
        build(tmp_path / "nowhere", tmp_path / "out")
    assert module.PAGE in str(caught.value)
    assert str(tmp_path / "nowhere" / "pbc" / "PBC_dataset_normal_DIB") in str(caught.value)


@pytest.fixture
def real_folder(real_data):
    folder = real_data / "pbc" / "PBC_dataset_normal_DIB"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


@pytest.mark.data
def test_real_files(real_data, real_folder, tmp_path):
    found = read(build(real_data, tmp_path))
    files = {f"pbc_{f.stem}": f for name in CELL_TYPES for f in real_folder.glob(f"{name}/*.jpg")}
    excluded = building.read_exclusions(module.Builder.pkg_dir_path)
    assert found.keys() == files.keys() - excluded.keys()
    for id, row in found.items():
        assert row["image"] == files[id].read_bytes()
        assert CELL_TYPES[row["label"]] == files[id].parent.name
    subtypes = collections.Counter(row["subtype"].decode() for row in found.values())
    assert set(subtypes) <= {"", "band", "segmented"}
    for name, prefix in (("band", "BNE"), ("segmented", "SNE")):
        assert subtypes[name] == sum(id.startswith(f"pbc_{prefix}_") for id in found)


@pytest.mark.data
def test_some_real_files_of_all_classes(real_folder, tmp_path):
    counts = collections.Counter()
    for name in module.CLASSES:
        target = tmp_path / "manual" / name
        target.mkdir(parents=True)
        for file in sorted((real_folder / name).glob("*.jpg"))[:: 40 if name in CELL_TYPES else 1]:
            (target / file.name).symlink_to(file)
            counts[name] += 1
    found = read(build(tmp_path / "manual", tmp_path / "out", "eight"))
    classes = collections.Counter()
    for row in found.values():
        other = row["subtype"].decode().split("_")[0]
        classes[CELL_TYPES[row["label"]] if row["label"] >= 0 else other] += 1
    assert classes == counts
    known = {
        "ig",
        "ig_metamyelocyte",
        "ig_myelocyte",
        "ig_promyelocyte",
        "erythroblast",
        "platelet",
    }
    assert {row["subtype"].decode() for row in found.values() if row["label"] < 0} <= known
