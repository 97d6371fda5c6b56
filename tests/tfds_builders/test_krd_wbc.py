"""krd_wbc: small files of the published layout."""

import numpy as np
import pytest
from PIL import Image

from helpers import builders
from helpers.builders import digests, read
from wbc_jax.data import reading
from wbc_jax.data.images import decode_mask
from wbc_jax.errors import DataError
from wbc_jax.tfds_builders.krd_wbc import krd_wbc_dataset_builder as module

CELL = np.zeros((24, 16), np.uint8)
CELL[5:17, 3:12] = 255
LABELS = (
    "\ufeffImage ID,Categoriy\nImage1,Neutrophil\nImage2,basophils\nImage10,\nImage99,Monocyte\n"
)


def save_mask(path, mask, quality=95):
    Image.fromarray(mask).save(path, quality=quality, subsampling=0)


@pytest.fixture
def layout(tmp_path):
    root = tmp_path / "manual" / "krd_wbc"
    for name in ("image", "mask"):
        (root / "Dataset" / name).mkdir(parents=True)
    for number in (1, 2, 10, 11):
        image = np.random.default_rng(number).integers(0, 256, (24, 16, 3), np.uint8)
        Image.fromarray(image).save(root / f"Dataset/image/image{number}.jpg")
        save_mask(root / f"Dataset/mask/mask{number}.jpg", CELL)
    (root / "class labels.csv").write_text(LABELS, encoding="utf-8")
    return root


def build(manual_dir, data_dir):
    return builders.build(module, manual_dir, data_dir)


def test_records(layout, tmp_path):
    built = build(layout.parent, tmp_path / "out")
    found = read(built)
    keys = ("label", "label_source", "group", "subtype", "source", "has_mask", "height", "width")
    rest = (b"cell_only", b"krd_wbc", True, 24, 16)
    assert {id: tuple(row[key] for key in keys) for id, row in found.items()} == {
        "image1": (4, b"authors", b"image1", *rest),
        "image2": (0, b"authors", b"image2", *rest),
        "image10": (-1, b"", b"image10", *rest),
        "image11": (-1, b"", b"image11", *rest),
    }
    for id, row in found.items():
        assert row["image"] == (layout / f"Dataset/image/{id}.jpg").read_bytes()
        assert np.array_equal(decode_mask(row["mask"]), CELL)
    assert built.info.metadata == {
        "cell_only_masks": 4,
        "mid_grey_pixels": 0,
        "unlabelled_images": 2,
        "labels_without_image": 1,
        "excluded_records": 0,
        "left_out_files": 0,
    }


def test_rebuilt_byte_for_byte_also_where_manual_dir_is_the_folder(layout, tmp_path):
    first = digests(build(layout.parent, tmp_path / "one"))
    again = digests(build(layout, tmp_path / "two"))
    assert first == again and "krd_wbc-train.array_record-00000-of-00001" in first


def test_masks_are_cut_at_half(tmp_path):
    # Blocks of one value each, which JPEG keeps.
    mask = np.zeros((64, 64), np.uint8)
    mask[8:16, 8:16] = 60  # dark
    mask[8:16, 16:24] = 124  # below half
    mask[16:24, 8:16] = 132  # above half
    mask[16:40, 24:56] = 255
    save_mask(tmp_path / "mask.jpg", mask, quality=100)
    found, mid_grey = module.read_mask(tmp_path / "mask.jpg")
    assert np.array_equal(found, np.where(mask >= 128, 255, 0))
    assert mid_grey == 128  # of the values 124 and 132
    assert found.dtype == np.uint8


@pytest.mark.parametrize("quality", [50, 75, 95])
def test_the_blur_of_a_drawn_cell_is_a_small_share(tmp_path, quality):
    y, x = np.mgrid[:512, :512]
    cell = ((y - 250) ** 2 / 130**2 + (x - 260) ** 2 / 110**2 < 1).astype(np.uint8) * 255
    save_mask(tmp_path / "mask.jpg", cell, quality)
    found, mid_grey = module.read_mask(tmp_path / "mask.jpg")
    assert mid_grey < 0.01 * cell.size
    assert (found != cell).mean() < 0.001


def mask_of(layout, number=2):
    return layout / f"Dataset/mask/mask{number}.jpg"


def image_of(layout, number=2):
    return layout / f"Dataset/image/image{number}.jpg"


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def colored():
    rgb = np.zeros((*CELL.shape, 3), np.uint8)
    rgb[..., 1] = CELL
    return rgb


# Name: (what is done to the layout, the file that the message names, what else it says).
BAD = {
    "truncated image": (lambda r: cut(image_of(r)), image_of, "truncated or damaged"),
    "truncated mask": (lambda r: cut(mask_of(r)), mask_of, "truncated or damaged"),
    "no mask": (lambda r: mask_of(r).unlink(), image_of, "has no mask: .*mask2.jpg"),
    "no image": (lambda r: image_of(r).unlink(), mask_of, "has no image: .*image2.jpg"),
    "size": (
        lambda r: save_mask(mask_of(r), CELL[:-1]),
        mask_of,
        "16 x 23 pixels .* its image 16 x 24 pixels",
    ),
    "mid-grey": (
        lambda r: save_mask(mask_of(r), CELL // 2),
        mask_of,
        r"28\.1 % of the mask's pixels are between 64 and 192.*allowed are 5 %",
    ),
    "black": (lambda r: save_mask(mask_of(r), CELL * 0), mask_of, "marks no cell"),
    "white": (lambda r: save_mask(mask_of(r), CELL * 0 + 255), mask_of, "marks the whole image"),
    "colored": (lambda r: save_mask(mask_of(r), colored()), mask_of, "pixels have a color"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files(layout, tmp_path, kind):
    harm, file, reason = BAD[kind]
    harm(layout)
    with pytest.raises(DataError, match=reason) as caught:
        build(layout.parent, tmp_path / "out")
    assert str(file(layout)) in str(caught.value)
    assert "1 bad file;" in str(caught.value)

    with reading.on_bad_file("skip") as collector:
        built = build(layout.parent, tmp_path / "out")
    assert sorted(read(built)) == ["image1", "image10", "image11"]
    assert len(collector.files) == built.info.metadata["left_out_files"] == 1
    assert built.info.metadata["cell_only_masks"] == 3


def test_names_without_a_number_and_two_files_of_one_number(layout, tmp_path):
    (layout / "Dataset/mask/cell7.jpg").write_bytes(b"")
    (layout / "Dataset/image/image02.jpg").write_bytes(image_of(layout).read_bytes())
    (layout / "Dataset/image/.image3.jpg").write_bytes(b"")
    (layout / "Dataset/image/Thumbs.db").write_bytes(b"")
    with pytest.raises(DataError, match="3 bad files") as caught:
        build(layout.parent, tmp_path / "out")
    assert "cell7.jpg: is named otherwise than mask1.jpg" in str(caught.value)
    assert str(caught.value).count("has the number 2 of") == 2
    with reading.on_bad_file("skip"):  # nothing says which of the two is the mask's
        built = build(layout.parent, tmp_path / "out")
    assert sorted(read(built)) == ["image1", "image10", "image11"]


@pytest.mark.parametrize(
    "text",
    [
        "Image ID,Categoriy\nImage1,Neutrophil\nImage2,Basophil\n",
        "\ufeffImage ID;Categoriy\r\nImage1;Neutrophil\r\nImage2;Basophil\r\n",
        "Image ID,Category,\nimage1.jpg,NEUTROPHILS,\nimage 2, basophil ,\n,,\n",
    ],
    ids=["commas", "semicolons", "spreadsheet"],
)
def test_spellings_of_the_labels(tmp_path, text):
    path = tmp_path / "class labels.csv"
    path.write_bytes(text.encode())
    assert module.read_labels(path) == {1: 4, 2: 0}


@pytest.mark.parametrize(
    "text, reason",
    [
        ("Image ID\n", "the header is 'Image ID': allowed is 'Image ID,Categoriy'"),
        ("Image ID,Categoriy,Age\n", "the header is 'Image ID,Categoriy,Age'"),
        ("Image ID,Categoriy\nImage1,Blast\n", "line 2: 'Image1,Blast'"),
        ("Image ID;Categoriy\nImage1;Blast\n", "line 2: 'Image1;Blast'"),
        ("Image ID,Categoriy\nImageX,Monocyte\n", "line 2: 'ImageX,Monocyte'"),
        ("Image ID,Categoriy\nImage1,Monocyte,5\n", "line 2: 'Image1,Monocyte,5'"),
        ("Image ID,Categoriy\nImage1,Monocyte\nImage1,Basophil\n", "line 3: .* contradicts"),
        ("", "empty"),
    ],
)
def test_bad_labels(layout, tmp_path, text, reason):
    (layout / "class labels.csv").write_text(text)
    with pytest.raises(DataError, match=reason) as caught:
        build(layout.parent, tmp_path / "out")
    assert str(layout / "class labels.csv") in str(caught.value)


def test_says_where_to_put_it_and_what_is_missing(layout, tmp_path):
    with pytest.raises(DataError, match="jzdj6h7gms") as caught:
        build(tmp_path / "nowhere", tmp_path / "out")
    assert str(tmp_path / "nowhere" / "krd_wbc") in str(caught.value)
    for image in (layout / "Dataset/image").iterdir():
        image.unlink()
    with pytest.raises(DataError, match=r"holds no file such as image1\.jpg"):
        build(layout.parent, tmp_path / "out")
    (layout / "class labels.csv").unlink()
    with pytest.raises(DataError, match=r"lacks 'class labels\.csv'"):
        build(layout.parent, tmp_path / "out")
