"""segmentation_wbc: small files of the authors' layout, and the real ones."""

import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from helpers import builders
from helpers.builders import digests, read
from wbc_jax.data import building, reading
from wbc_jax.data.images import decode_image, decode_mask
from wbc_jax.errors import DataError
from wbc_jax.labels import CELL_TYPES
from wbc_jax.tfds_builders.segmentation_wbc import segmentation_wbc_dataset_builder as module


def pixels(number, height=12, width=10):
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def greys(height=12, width=10):
    grey = np.zeros((height, width), np.uint8)
    grey[2:10, 2:8] = 128
    grey[4:8, 4:6] = 255
    return grey


CODES = np.select([greys() == 128, greys() == 255], [1, 2], 0).astype(np.uint8)


def draw(root, number, images, header, labels):
    """Writes `Dataset N` with a mask for each number in `images` (None: `greys()`)."""
    folder = root / f"Dataset {number}"
    folder.mkdir(parents=True)
    for name, grey in images.items():
        Image.fromarray(pixels(int(name))).save(folder / f"{name}.bmp")
        Image.fromarray(greys() if grey is None else grey).save(folder / f"{name}.png")
    lines = [header, *(f"{image},{label}" for image, label in labels.items())]
    (root / f"Class Labels of Dataset {number}.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def layout(tmp_path):
    """Both data sets as the authors lay them out; the spelling of the headers differs."""
    root = tmp_path / "manual" / "segmentation_WBC"
    images = dict.fromkeys(("001", "002", "005", "010", "011"))
    labels = {1: 1, 2: 2, 5: 3, 10: 4, 11: 5}
    draw(root, 1, images, "image ID,class label", labels)
    stray = greys()
    stray[0, 0] = 7
    draw(root, 2, {"001": None, "003": stray, "004": None}, "image ID,class", {1: 5, 3: 1, 99: 2})
    return root


def build(manual_dir, data_dir, config):
    return builders.build(module, manual_dir, data_dir, config)


def test_records_of_dataset_1(layout, tmp_path):
    found = read(build(layout.parent, tmp_path / "out", "jtsc"))
    types = {id: CELL_TYPES[row["label"]] for id, row in found.items()}
    assert types == {
        "jtsc_001": "neutrophil",
        "jtsc_002": "lymphocyte",
        "jtsc_005": "monocyte",
        "jtsc_010": "eosinophil",
        "jtsc_011": "basophil",
    }
    for id, row in found.items():
        number = int(id.removeprefix("jtsc_"))
        assert np.array_equal(decode_image(row["image"]), pixels(number))
        assert np.array_equal(decode_mask(row["mask"]), CODES)
        assert (row["group"].decode(), row["source"]) == (id, b"jtsc")
        assert (row["has_mask"], row["height"], row["width"]) == (True, 12, 10)
        assert np.isnan(row["um_per_px"])


def test_stray_greys_and_missing_labels_are_counted(layout, tmp_path):
    built = build(layout.parent, tmp_path / "out", "cellavision")
    found = read(built)
    assert {id: row["label"] for id, row in found.items()} == {
        "cellavision_001": 0,
        "cellavision_003": 4,
        "cellavision_004": -1,
    }
    assert np.array_equal(decode_mask(found["cellavision_003"]["mask"]), CODES)
    counts = {
        "quantised_pixels": 1,
        "quantised_images": 1,
        "unlabelled_images": 1,
        "labels_without_image": 1,
        "excluded_records": 0,
        "left_out_files": 0,
    }
    assert built.info.metadata == counts
    again = module.Builder(config="cellavision", data_dir=tmp_path / "out")
    assert dict(again.info.metadata.items()) == counts


@pytest.mark.parametrize(
    "grey, code, moved",
    [(0, 0, 0), (45, 0, 1), (63, 0, 1), (65, 1, 1), (128, 1, 0), (190, 1, 1), (200, 2, 1)],
)
def test_strays_go_to_the_nearest(tmp_path, grey, code, moved):
    mask = greys()
    mask[0, 0] = grey
    Image.fromarray(mask).save(tmp_path / "a.png")
    codes, count = module.read_mask(tmp_path / "a.png")
    assert (codes[0, 0], count) == (code, moved)
    assert np.array_equal(codes.ravel()[1:], CODES.ravel()[1:])


def test_excluded_records(layout, tmp_path, monkeypatch):
    (layout / "Dataset 1/002.bmp").write_bytes(b"")  # is not even opened
    excluded = {"jtsc_002": "the file is empty", "cellavision_001": "damaged"}
    monkeypatch.setattr(building, "read_exclusions", lambda folder: excluded)
    built = build(layout.parent, tmp_path / "out", "jtsc")
    assert sorted(read(built)) == ["jtsc_001", "jtsc_005", "jtsc_010", "jtsc_011"]
    assert built.info.metadata["excluded_records"] == 1


def test_rebuilt_byte_for_byte(layout, tmp_path):
    first = digests(build(layout.parent, tmp_path / "one", "jtsc"))
    assert first == digests(build(layout.parent, tmp_path / "two", "jtsc"))
    assert "segmentation_wbc-train.array_record-00000-of-00001" in first


@pytest.mark.parametrize("place", ["segmentation_WBC", "segmentation_WBC-master", "itself"])
def test_folders_that_are_found(layout, tmp_path, place):
    manual_dir = layout.parent
    if place == "itself":
        manual_dir = layout
    else:
        layout.rename(manual_dir / place)
    assert len(read(build(manual_dir, tmp_path / "out", "jtsc"))) == 5


def swap_mask(layout, grey):
    Image.fromarray(grey).save(layout / "Dataset 1/002.png")


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


# Name: (what is done to the layout, the file that the message names, what else it says).
BAD = {
    "truncated image": (
        lambda r: cut(r / "Dataset 1/002.bmp"),
        "Dataset 1/002.bmp",
        "truncated or damaged",
    ),
    "empty image": (
        lambda r: (r / "Dataset 1/002.bmp").write_bytes(b""),
        "Dataset 1/002.bmp",
        "empty",
    ),
    "truncated mask": (
        lambda r: cut(r / "Dataset 1/002.png"),
        "Dataset 1/002.png",
        "truncated or damaged",
    ),
    "no mask": (
        lambda r: (r / "Dataset 1/002.png").unlink(),
        "Dataset 1/002.bmp",
        "has no mask: .*002.png",
    ),
    "no image": (
        lambda r: (r / "Dataset 1/002.bmp").unlink(),
        "Dataset 1/002.png",
        "has no image: .*002.bmp",
    ),
    "size": (
        lambda r: swap_mask(r, greys().T),
        "Dataset 1/002.png",
        "12 x 10 pixels .* its image 10 x 12 pixels",
    ),
    "greys": (
        lambda r: swap_mask(r, np.where(greys() == 128, 60, greys()).astype(np.uint8)),
        "Dataset 1/002.png",
        r"60 \(40 pixels\).*allowed are 0, 128, 255",
    ),
    "name": (
        lambda r: [f.rename(f.with_stem("002x")) for f in sorted(r.glob("Dataset 1/002.*"))],
        "Dataset 1/002x.bmp",
        "not a number",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files(layout, tmp_path, kind):
    harm, file, reason = BAD[kind]
    harm(layout)
    with pytest.raises(DataError, match=reason) as caught:
        build(layout.parent, tmp_path / "out", "jtsc")
    assert str(layout / file) in str(caught.value)
    assert "1 bad file;" in str(caught.value)
    assert not list((tmp_path / "out").rglob("*.array_record*"))

    with reading.on_bad_file("skip") as collector:
        built = build(layout.parent, tmp_path / "out", "jtsc")
    assert sorted(read(built)) == ["jtsc_001", "jtsc_005", "jtsc_010", "jtsc_011"]
    assert len(collector.files) == built.info.metadata["left_out_files"] == 1


def test_all_bad_files_are_listed(layout, tmp_path):
    for name in ("001.bmp", "005.png"):
        cut(layout / "Dataset 1" / name)
    with pytest.raises(DataError, match="2 bad files") as caught:
        build(layout.parent, tmp_path / "out", "jtsc")
    assert "001.bmp" in str(caught.value)
    assert "005.png" in str(caught.value)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("image ID,class label\n1,6\n", "line 2: '1,6'"),
        ("image ID,class label\nx,1\n", "line 2: 'x,1'"),
        ("image ID,class label\n1\n", "line 2: '1'"),
        ("image ID,class label\n1,1\n1,2\n", "line 3: '1,2' contradicts"),
        ("", "empty"),
        (b"\xff\xfe\x00", "UTF-8"),
    ],
)
def test_bad_labels(layout, tmp_path, text, reason):
    file = layout / "Class Labels of Dataset 1.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=reason) as caught:
        build(layout.parent, tmp_path / "out", "jtsc")
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    "text", ["\ufeffimage ID,class\n1,5\n", "ID , class \r\n 001 , 5 \r\n\r\n"]
)
def test_labels_read_whatever_the_header(tmp_path, text):
    (tmp_path / "a.csv").write_bytes(text.encode())
    assert module.read_labels(tmp_path / "a.csv") == {1: CELL_TYPES.index("basophil")}


def test_incomplete_folder(layout, tmp_path):
    (layout / "Class Labels of Dataset 1.csv").unlink()
    with pytest.raises(DataError, match=r"lacks 'Class Labels of Dataset 1.csv'"):
        build(layout.parent, tmp_path / "out", "jtsc")


def test_downloads_what_manual_dir_lacks(layout, tmp_path, monkeypatch):
    archive = tmp_path / "master.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(layout.rglob("*.*")):
            file.write(path, f"segmentation_WBC-master/{path.relative_to(layout)}")
    asked = []
    monkeypatch.setattr(
        tfds.download.DownloadManager, "download", lambda self, url: asked.append(url) or archive
    )
    found = read(build(tmp_path / "nowhere", tmp_path / "out", "jtsc"))
    assert len(found) == 5
    assert asked == [module.URL]


def test_says_where_to_put_it(tmp_path, monkeypatch):
    def fail(self, url):
        raise ConnectionError("no route")

    monkeypatch.setattr(tfds.download.DownloadManager, "download", fail)
    with pytest.raises(DataError, match="no route") as caught:
        build(tmp_path / "nowhere", tmp_path / "out", "jtsc")
    assert module.URL in str(caught.value)
    assert str(tmp_path / "nowhere" / "segmentation_WBC") in str(caught.value)


@pytest.mark.data
@pytest.mark.parametrize("config, number", [("jtsc", 1), ("cellavision", 2)])
def test_real_files(real_data, tmp_path, config, number):
    folder = real_data / "segmentation_WBC" / f"Dataset {number}"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    built = build(real_data, tmp_path, config)
    found = read(built)
    assert sorted(found) == sorted(f"{config}_{file.stem}" for file in folder.glob("*.bmp"))
    moved = 0
    for id, row in found.items():
        stem = id.removeprefix(f"{config}_")
        image = np.asarray(Image.open(folder / f"{stem}.bmp"))
        grey = np.asarray(Image.open(folder / f"{stem}.png")).astype(int)
        moved += (~np.isin(grey, [0, 128, 255])).sum()
        nearest = np.abs(grey[..., None] - [0, 128, 255]).argmin(-1)
        assert np.array_equal(decode_image(row["image"]), image)
        assert np.array_equal(decode_mask(row["mask"]), nearest)
        assert row["label"] >= 0
    assert built.info.metadata["quantised_pixels"] == moved
