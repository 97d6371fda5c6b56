"""raabin_wbc: small files of the layouts of the authors and of Kaggle, and the real ones."""

import collections
import dataclasses

import numpy as np
import pytest
from PIL import Image

from helpers import builders
from helpers.builders import digests, read
from wbc_jax.config import Data
from wbc_jax.data import building, preparing, reading, sources, splits, tables
from wbc_jax.errors import DataError
from wbc_jax.labels import CELL_TYPES
from wbc_jax.tfds_builders.raabin_wbc import raabin_wbc_dataset_builder as module

# Split, folder of the type, stem. One frame (95-5-4-1_7) has a cell in Train and one in TestA.
FILES = (
    ("Train", "Basophil", "20190526_165423_0"),
    ("Train", "Eosinophil", "95-5-4-1_45_1"),
    ("Train", "Lymphocyte", "95-5-4-1_6_1"),
    ("Train", "Lymphocyte", "95-5-4-1_6_2"),
    ("Train", "Monocyte", "95-5-4-1_7_1"),
    ("Train", "Neutrophil", "cell"),
    ("TestA", "Neutrophil", "95-5-4-1_7_2"),
    ("TestB", "Lymphocyte", "95-9-1-1_1_1"),
    ("TestB", "Neutrophil", "95-9-1-1_1_2"),
)
EXPECTED = {
    "train": {
        "train_20190526_165423_0": (0, b"20190526_165423"),
        "train_95-5-4-1_45_1": (1, b"95-5-4-1_45"),
        "train_95-5-4-1_6_1": (2, b"95-5-4-1_6"),
        "train_95-5-4-1_6_2": (2, b"95-5-4-1_6"),
        "train_95-5-4-1_7_1": (3, b"95-5-4-1_7"),
        "train_cell": (4, b"cell"),
    },
    "test_a": {"test_a_95-5-4-1_7_2": (4, b"95-5-4-1_7")},
    "test_b": {
        "test_b_95-9-1-1_1_1": (2, b"95-9-1-1_1"),
        "test_b_95-9-1-1_1_2": (4, b"95-9-1-1_1"),
    },
}


def draw(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, (15, 14, 3), np.uint8)
    Image.fromarray(image).save(path)


@pytest.fixture
def layout(tmp_path):
    root = tmp_path / "manual" / "raabin_wbc"
    for seed, (split, cell_type, stem) in enumerate(FILES):
        draw(root / split / cell_type / f"{stem}.jpg", seed)
    (root / "Train" / "Basophil" / "Thumbs.db").write_bytes(b"passed over")
    return root


def build(manual_dir, data_dir, config="crops"):
    return builders.build(module, manual_dir, data_dir, config)


def check(built):
    assert set(built.info.splits) == set(EXPECTED)
    for split, expected in EXPECTED.items():
        found = read(built, split)
        assert {id: (row["label"], row["group"]) for id, row in found.items()} == expected


def test_crops_is_the_default():
    assert next(iter(module.Builder.builder_configs)) == "crops"


def test_records(layout, tmp_path):
    built = build(layout.parent, tmp_path / "out")
    check(built)
    for id, row in read(built, "all").items():
        stem = id.removeprefix("train_").removeprefix("test_a_").removeprefix("test_b_")
        [file] = layout.glob(f"*/*/{stem}.jpg")
        assert row["image"] == file.read_bytes()
        assert (row["source"], row["label_source"], row["subtype"]) == (
            b"raabin_wbc",
            b"authors",
            b"",
        )
        assert (row["has_mask"], row["height"], row["width"]) == (False, 15, 14)
        assert np.isnan(row["um_per_px"])
    counts = {"frames_in_several_splits": 1, "excluded_records": 0, "left_out_files": 0}
    assert built.info.metadata == counts
    again = module.Builder(config="crops", data_dir=tmp_path / "out")
    assert dict(again.info.metadata.items()) == counts


def test_layout_of_kaggle(layout, tmp_path):
    root = layout.rename(layout.with_name("white-blood-cells-dataset"))
    (root / "TestA").rename(root / "Test-A")
    (root / "TestB").rename(root / "Test-B")
    check(build(layout.parent, tmp_path / "out", "kaggle"))


@pytest.mark.parametrize("names", [("train", "testA", "TESTB"), ("TRAIN", "Test A", "test_b")])
def test_spellings(layout, tmp_path, names):
    for old, new in zip(("Train", "TestA", "TestB"), names):
        (layout / old).rename(layout / new)
    (layout / names[0] / "Basophil").rename(layout / names[0] / "BASOPHIL")
    check(build(layout.parent, tmp_path / "out"))


def test_a_part_of_the_splits(layout, tmp_path):
    (layout / "TestB").rename(tmp_path / "TestB")
    built = build(layout.parent, tmp_path / "out")
    assert set(built.info.splits) == {"train", "test_a"}
    assert read(built, "train").keys() == EXPECTED["train"].keys()


@pytest.mark.parametrize("config", ["crops", "kaggle"])
def test_manual_dir_may_be_the_folder(layout, tmp_path, config):
    check(build(layout, tmp_path / "out", config))


def test_excluded_records(layout, tmp_path, monkeypatch):
    (layout / "TestB/Neutrophil/95-9-1-1_1_2.jpg").write_bytes(b"")  # is not even opened
    excluded = {
        "test_b_95-9-1-1_1_2": "the file is empty",
        "train_cell": "damaged",
        "test_a_cell": "elsewhere",
    }
    monkeypatch.setattr(building, "read_exclusions", lambda folder: excluded)
    built = build(layout.parent, tmp_path / "out")
    assert "train_cell" not in read(built, "train")
    assert list(read(built, "test_b")) == ["test_b_95-9-1-1_1_1"]
    assert built.info.metadata["excluded_records"] == 2


def test_rebuilt_byte_for_byte(layout, tmp_path):
    first = digests(build(layout.parent, tmp_path / "one"))
    assert first == digests(build(layout.parent, tmp_path / "two"))
    assert "raabin_wbc-test_a.array_record-00000-of-00001" in first


NAME = "TestB/Neutrophil/95-9-1-1_1_2.jpg"

# Name: (what is done to the layout, the file that the message names, what else it says, the ids
# that are left out).
BAD = {
    "truncated": (
        lambda r: (r / NAME).write_bytes((r / NAME).read_bytes()[:-20]),
        NAME,
        "truncated or damaged",
        {"test_b_95-9-1-1_1_2"},
    ),
    "empty": (lambda r: (r / NAME).write_bytes(b""), NAME, "empty", {"test_b_95-9-1-1_1_2"}),
    "two types": (
        lambda r: (r / NAME).rename(r / "TestB/Neutrophil/95-9-1-1_1_1.jpg"),
        "TestB/Neutrophil/95-9-1-1_1_1.jpg",
        "has the name of .*Lymphocyte/95-9-1-1_1_1.jpg: allowed is one type a cell",
        {"test_b_95-9-1-1_1_1", "test_b_95-9-1-1_1_2"},
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files(layout, tmp_path, kind):
    harm, file, reason, ids = BAD[kind]
    draw(layout / "TestB/Neutrophil/95-9-1-1_2_1.jpg", 50)
    harm(layout)
    with pytest.raises(DataError, match=reason) as caught:
        build(layout.parent, tmp_path / "out")
    assert str(layout / file) in str(caught.value)
    assert "bad file" in str(caught.value)

    with reading.on_bad_file("skip") as collector:
        built = build(layout.parent, tmp_path / "out")
    kept = (EXPECTED["test_b"].keys() | {"test_b_95-9-1-1_2_1"}) - ids
    assert read(built, "test_b").keys() == kept
    assert read(built, "train").keys() == EXPECTED["train"].keys()
    assert len(collector.files) == built.info.metadata["left_out_files"] == len(ids)


def empty(folder):
    for file in sorted(folder.rglob("*.jpg")):
        file.unlink()


@pytest.mark.parametrize(
    "harm, reason",
    [
        (
            lambda r: (r / "Train/Basophil").rename(r / "Train/Blast"),
            "Train/Blast: 'Blast' is no cell type: allowed are basophil, eosinophil",
        ),
        (lambda r: empty(r / "TestA"), "TestA: holds no image: allowed are .jpg"),
        (lambda r: draw(r / "Test-A/Monocyte/a.jpg", 0), "holds both 'Test-A' and 'TestA'"),
        (
            lambda r: [f.rename(f.with_name(f"old {f.name}")) for f in sorted(r.iterdir())],
            "holds none of Train, Test-A, Test-B",
        ),
    ],
)
def test_bad_folders(layout, tmp_path, harm, reason):
    harm(layout)
    with pytest.raises(DataError, match=reason) as caught:
        build(layout.parent, tmp_path / "out")
    assert str(layout) in str(caught.value)


@pytest.mark.parametrize(
    "config, page, folder",
    [
        ("crops", "raabindata.com", "raabin_wbc"),
        ("kaggle", "masoudnickparvar", "white-blood-cells-dataset"),
    ],
)
def test_says_where_to_put_it(tmp_path, config, page, folder):
    with pytest.raises(DataError, match="not in") as caught:
        build(tmp_path / "nowhere", tmp_path / "out", config)
    assert page in str(caught.value)
    assert str(tmp_path / "nowhere" / folder) in str(caught.value)


@pytest.fixture(scope="module")
def real_crops(real_data):
    """The authors' files by name; the three splits, as far as they are there."""
    folder = real_data / "raabin_wbc"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return {file.stem: file for file in sorted(folder.glob("*/*/*.jpg"))}


@pytest.mark.data
def test_real_names_and_types(real_data, real_crops):
    assert len(real_crops) == sum(1 for _ in (real_data / "raabin_wbc").rglob("*.*"))  # no repeat
    for name in real_crops:
        slide, photo, cell = name.split("_")
        assert int(cell) >= 0 and int(photo) > 0
        assert module.frame(name) == f"{slide}_{photo}"
    labels = tables.read(real_data / "raabin_gt/labels.csv")[1:]
    both = [
        (real_crops[row.cells[0]], row.cells[1]) for row in labels if row.cells[0] in real_crops
    ]
    assert len(both) > 100
    assert [file.parent.name.lower() for file, _ in both] == [cell_type for _, cell_type in both]


@pytest.mark.data
def test_some_real_files(real_crops, tmp_path):
    files = {f"train_{name}": real_crops[name] for name in list(real_crops)[::10]}
    for file in files.values():
        target = tmp_path / "raabin_wbc" / file.relative_to(file.parents[2])
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(file)
    found = read(build(tmp_path, tmp_path / "out"))
    assert found.keys() == files.keys()
    for id, row in found.items():
        assert row["image"] == files[id].read_bytes()
        assert CELL_TYPES[row["label"]] == files[id].parent.name.lower()
        assert (row["height"], row["width"]) == (575, 575)
    assert {row["label"] for row in found.values()} == set(range(5))


# Names of one cell each: photographed twice, on two days, or cut twice from one photograph. Looked
# at by eye.
PHOTOGRAPHED_TWICE = (
    ("20190527_113029_0", "20190531_105858_0"),
    ("20190527_114843_0", "20190531_113832_0"),
    ("95-5-10-1_312_1", "95-8-12-4_205_1"),
    ("95-5-10-1_497_1", "95-8-12-4_113_1"),
    ("95-8-10-1_719_1", "95-8-10-1_980_1"),
    ("95-8-27-1_14_1", "95-8-27-1_15_11"),
    ("95-8-27-1_278_3", "95-8-27-1_279_2"),
    # Known by name (`keys.SAME_FRAMES`): the hashes differ too much.
    ("20190527_113105_0", "20190531_105753_0"),
    ("95-5-4-1_106_1", "95-5-5-1_164_1"),
    ("95-5-4-1_124_1", "95-5-5-1_151_1"),
)
RENAMED = "WBC-"


@pytest.fixture(scope="module")
def three_packagings(real_data, real_crops, tmp_path_factory):
    """Records of cells in `raabin_gt` and two packagings of crops, one of them with other names.

    These are the crops whose frame is in `raabin_gt` as well, or holds several cells, and those
    above.
    """
    root = tmp_path_factory.mktemp("raabin")
    of_frame = collections.Counter(name.rpartition("_")[0] for name in real_crops)
    experts = {file.stem: file for file in (real_data / "raabin_gt/images").glob("*.jpg")}
    frames = {name.rpartition("_")[0] for name in experts}
    twice = {name for pair in PHOTOGRAPHED_TWICE for name in pair}
    chosen = [
        name
        for name in real_crops
        if name.rpartition("_")[0] in frames
        or of_frame[name.rpartition("_")[0]] > 1
        or name in twice
    ]
    if not twice <= set(real_crops) or len(chosen) < 100:
        pytest.skip("a part of the real images")
    for number, name in enumerate(chosen):
        file = real_crops[name]
        kind = file.parent.name
        targets = [root / "raabin_wbc/Train" / kind / file.name]
        if number % 5 == 0:
            targets.append(root / "white-blood-cells-dataset/Train" / kind / file.name)
        elif number % 5 == 1:  # renamed, smaller and compressed anew
            target = root / f"white-blood-cells-dataset/Test-A/{kind}/{RENAMED}{number}.jpg"
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.open(file).resize((300, 300)).save(target, quality=85)
            renamed = target.with_suffix(".txt")
            renamed.write_text(name)
        for target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(file)
    (root / "raabin_gt").symlink_to(real_data / "raabin_gt")
    names = ("raabin_gt", "raabin_wbc/crops", "raabin_wbc/kaggle")
    data = Data(datasets=names, manual_dir=str(root), data_dir=str(root / "records"))
    for name in names:
        assert preparing.prepare(name, data) == []
    real_names = {f"test_a_{file.stem}": file.read_text() for file in root.rglob(f"{RENAMED}*.txt")}
    return data, [sources.load(name, data) for name in names], real_names


PROTOCOLS = {
    "fractions": {},
    "paper_b": {},
    "k_fold": {"folds": 5, "fold": 2},
    "one_source": {"train_source": "raabin_gt"},
    "leave_one_out": {"left_out": "raabin_wbc/kaggle"},
    "independent": {"independent": ("raabin_wbc/crops", "raabin_wbc/kaggle")},
}


@pytest.mark.data
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_real_cells_stay_in_one_split_across_data_sets(three_packagings, protocol):
    data, sets, real_names = three_packagings
    data = dataclasses.replace(data, protocol=protocol, **PROTOCOLS[protocol])
    parts = splits.split_sources(sets, [np.ones(len(s), bool) for s in sets], data)
    homes, frames = collections.defaultdict(set), collections.defaultdict(set)
    times = collections.Counter()
    for s, part in zip(sets, parts):
        for split, indices in part.items():
            for i in indices:
                id = s.ids[i]
                name = real_names.get(id, id.removeprefix("train_"))
                homes[name].add(split)
                frames[name.rpartition("_")[0]].add(split)
                times[name] += 1
    assert all(len(found) == 1 for found in homes.values())
    assert all(len(found) == 1 for found in frames.values())
    pairs = [(homes[a], homes[b]) for a, b in PHOTOGRAPHED_TWICE if homes[a] and homes[b]]
    assert all(a == b for a, b in pairs)
    if protocol in ("fractions", "paper_b", "k_fold"):  # nothing is left out
        assert sum(map(len, sets)) == times.total()
        assert len(pairs) == len(PHOTOGRAPHED_TWICE)
        assert set().union(*homes.values()) == set(splits.SPLITS)
    splits.check_leaks(
        {
            split: [s.key(int(i)) for s, part in zip(sets, parts) for i in part[split]]
            for split in splits.SPLITS
        }
    )
