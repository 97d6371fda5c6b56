"""building.Builder: the example of CONTRIBUTING.md, and what the base does for every builder."""

import importlib
import pathlib
import re
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from helpers import builders
from helpers.builders import digests, read
from wbc_jax.data import building, reading, records
from wbc_jax.data.images import decode_mask
from wbc_jax.errors import DataError

CONTRIBUTING = pathlib.Path(__file__).resolve().parents[2] / "CONTRIBUTING.md"
GRAY = np.zeros((6, 5), np.uint8)
GRAY[1:5, 1:4], GRAY[2, 2], GRAY[0, 0] = 100, 250, 255
CLASSES = np.zeros((6, 5), np.uint8)
CLASSES[1:5, 1:4], CLASSES[2, 2], CLASSES[0, 0] = 1, 2, 255


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """The example as a package of its own, with the files that CONTRIBUTING names."""
    text = CONTRIBUTING.read_text(encoding="utf-8").split("## Add a data set", 1)[1]
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    assert len(code.splitlines()) < 60
    root = tmp_path_factory.mktemp("packages")
    folder = root / "my_smears"
    folder.mkdir()
    (folder / "__init__.py").write_text('"""my_smears."""\n')
    (folder / "my_smears_dataset_builder.py").write_text(code)
    (folder / "README.md").write_text("# My smears\n\nCells of my own.\n")
    (folder / "CITATIONS.bib").write_text("@misc{Doe2026,\n  title={My smears}\n}\n")
    (folder / "exclusions.csv").write_text("id,reason\nd,blurred\n")
    sys.path.insert(0, str(root))
    try:
        yield importlib.import_module("my_smears.my_smears_dataset_builder")
    finally:
        sys.path.remove(str(root))


def draw(root, name, gray=GRAY):
    pixels = np.random.default_rng(ord(name)).integers(0, 256, (*GRAY.shape, 3), np.uint8)
    for folder, array in (("images", pixels), ("masks", gray)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(root / folder / f"{name}.png")


@pytest.fixture
def layout(tmp_path):
    root = tmp_path / "manual" / "my_smears"
    for name in "abcd":
        draw(root, name)
    (root / "labels.csv").write_text("name,type,patient\na,monocyte,p1\nb,basophil,p1\n")
    return root


COUNTS = {"unlabelled_images": 1, "excluded_records": 1, "left_out_files": 0}


def test_the_example_builds_its_records(module, layout, tmp_path):
    built = builders.build(module, layout.parent, tmp_path / "out")
    found = read(built)
    keys = ("label", "group", "label_source", "source")
    assert {id: tuple(row[key] for key in keys) for id, row in found.items()} == {
        "a": (3, b"p1", b"authors", b"my_smears"),
        "b": (0, b"p1", b"authors", b"my_smears"),
        "c": (-1, b"c", b"", b"my_smears"),
    }
    for id, row in found.items():
        assert row["image"] == (layout / "images" / f"{id}.png").read_bytes()
        assert np.array_equal(decode_mask(row["mask"]), CLASSES)
    assert built.info.metadata == COUNTS
    assert (built.name, str(built.version)) == ("my_smears", "1.0.0")
    assert "Cells of my own." in built.info.description
    assert built.info.citation.startswith("@misc{Doe2026")
    assert built.info.homepage == module.Builder.page


def test_the_example_names_bad_files(module, layout, tmp_path):
    draw(layout, "b", np.where(GRAY == 250, 99, GRAY).astype(np.uint8))
    (layout / "masks" / "c.png").unlink()
    with pytest.raises(DataError, match="2 bad files") as caught:
        builders.build(module, layout.parent, tmp_path / "out")
    assert re.search(r"images/b\.png: .*mask values 9 \(1 pixel\) are unknown", str(caught.value))
    assert f"has no mask: {layout / 'masks' / 'c.png'}" in str(caught.value)
    with reading.on_bad_file("skip") as collector:
        built = builders.build(module, layout.parent, tmp_path / "out")
    assert list(read(built)) == ["a"]
    assert len(collector.files) == built.info.metadata["left_out_files"] == 2
    assert built.info.metadata["unlabelled_images"] == 0  # that of a bad file does not count


def test_the_example_says_what_is_missing(module, layout, tmp_path):
    (layout / "labels.csv").write_text("name,type,patient\na,blast,p1\n")
    with pytest.raises(
        DataError, match=r"labels\.csv: 1 lines are wrong: allowed is a name, one of"
    ):
        builders.build(module, layout.parent, tmp_path / "out")
    (layout / "labels.csv").unlink()
    with pytest.raises(DataError, match=r"my_smears: lacks 'labels.csv': it must hold 'images'"):
        builders.build(module, layout.parent, tmp_path / "out")
    with pytest.raises(DataError) as caught:
        builders.build(module, tmp_path / "nowhere", tmp_path / "out")
    assert str(caught.value).startswith(
        f"my_smears is not in {tmp_path / 'nowhere'}: download https://example.org/my_smears and "
        f"unpack it so that the folder {tmp_path / 'nowhere' / 'my_smears'} holds"
    )
    assert str(caught.value).endswith(
        "config.data.manual_dir (if empty, $WBC_JAX_DATA) names the folder, which does not exist."
    )


def test_the_example_is_rebuilt_byte_for_byte(module, layout, tmp_path):
    first = digests(builders.build(module, layout.parent, tmp_path / "one"))
    with reading.on_threads(3, ""):
        assert first == digests(builders.build(module, layout.parent, tmp_path / "two"))


class Several(building.Builder, skip_registration=True):
    """Several records per image, two splits, and counts of each item."""

    counted = ("seen", "excluded_records", "left_out_files")
    entries = ("one", "two")

    def splits(self, folder):
        return {"train": folder / "one", "test": folder / "two"}

    def find(self, folder, notes):
        paths = sorted(folder.glob("*.txt"))
        return [building.Item(path=path) for path in paths]

    def read(self, item, notes):
        notes.counts["seen"] += 1
        for letter in item.path.read_text():
            if letter == "!":
                raise DataError(f"{item.path}: is bad")
            if letter == "?":
                notes.bad.add(item.path, "holds ?")
                continue
            pixels = np.full((2, 2, 3), ord(letter), np.uint8)
            yield records.example(image=pixels, id=f"{item.path.stem}{letter}", source="s")


def test_items_of_several_records_and_splits(tmp_path, monkeypatch):
    excluded = {"1b": "blurred", "4d": "cut"}
    monkeypatch.setattr(building, "read_exclusions", lambda folder: excluded)
    manual = tmp_path / "manual"
    texts = {"one/1": "abc", "one/2": "a!", "one/3": "", "two/4": "d?e", "two/5": "fg"}
    for name, text in texts.items():
        (manual / name).parent.mkdir(parents=True, exist_ok=True)
        (manual / f"{name}.txt").write_text(text)
    built = Several(data_dir=tmp_path / "out")
    with reading.on_bad_file("skip") as collector:
        built.download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(manual_dir=manual),
        )
    assert read(built, "train").keys() == {"1a", "1c"}
    assert read(built, "test").keys() == {"4e", "5f", "5g"}
    # Counts of the bad item 2 are dropped, also its first record.
    assert built.info.metadata == {"seen": 4, "excluded_records": 2, "left_out_files": 2}
    assert collector.files == [
        (str(manual / "one/2.txt"), f"{manual / 'one/2.txt'}: is bad"),
        (str(manual / "two/4.txt"), "holds ?"),
    ]


def test_items_that_share_an_id_are_all_left_out():
    def item(id, path):
        return building.Item(id=id, path=path)

    items = [item("a", "/x/a"), item("b", "/x/b"), item("b", "/y/b"), item("c", "/x/c")]
    items.append(item("c", "/y/c"))
    notes = building.Notes(excluded={"c": "blurred"})
    kept = building.without_repeats(items, "class", notes)
    assert [i.path for i in kept] == ["/x/a", "/x/c", "/y/c"]  # c is excluded anyway
    assert notes.bad.files == [
        ("/x/b", "has the name of /y/b: allowed is one class a cell"),
        ("/y/b", "has the name of /x/b: allowed is one class a cell"),
    ]


def test_the_base_is_no_data_set():
    with pytest.raises(TypeError, match="abstract"):
        building.Builder()
