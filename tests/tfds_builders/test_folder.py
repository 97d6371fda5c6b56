"""folder: images, masks and labels as users may have them."""

import json
import os
import pathlib
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from helpers import builders
from helpers.builders import digests, read
from wbc_jax.config import Data
from wbc_jax.data import pipeline, preparing, reading
from wbc_jax.data.images import decode_image, decode_mask
from wbc_jax.errors import DataError
from wbc_jax.tfds_builders.folder import folder_dataset_builder as module
from wbc_jax.tfds_builders.folder import layout

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 10, 3), np.uint8)
MASK = np.zeros((12, 10), np.uint8)
MASK[2:10, 2:8], MASK[4:7, 4:7], MASK[0] = 1, 2, 255


@pytest.fixture
def root(tmp_path):
    (tmp_path / "mine" / "images").mkdir(parents=True)
    return tmp_path / "mine"


def save(file, pixels=PIXELS, **options):
    file.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(file, **options)


def build(manual_dir, data_dir, own=True):
    config = module.folder_config(manual_dir) if own else None
    return builders.build(module, manual_dir, data_dir, config)


def raises(root, tmp_path, reason):
    with pytest.raises(DataError, match=reason) as caught:
        build(root, tmp_path / "out")
    return str(caught.value)


def test_images_alone(root, tmp_path):
    save(root / "images" / "a.png")
    save(root / "images" / "b.JPG")
    save(root / "images" / "c.bmp")
    save(root / "images" / "d.tiff")
    for name in (".hidden", "Thumbs.db"):
        (root / "images" / name).write_text("")
    built = build(root, tmp_path / "out")
    found = read(built)
    assert list(sorted(found)) == ["a", "b", "c", "d"]
    assert found["a"]["image"] == (root / "images" / "a.png").read_bytes()
    assert found["b"]["image"] == (root / "images" / "b.JPG").read_bytes()
    for id, row in found.items():
        if id != "b":
            assert np.array_equal(decode_image(row["image"]), PIXELS)
        assert (row["has_mask"], row["label"], row["label_source"]) == (False, -1, b"")
        assert (row["group"].decode(), row["source"]) == (id, b"folder")
        assert np.isnan(row["um_per_px"])
    metadata = dict(built.info.metadata)
    assert len(metadata.pop("fingerprint")) == 64
    assert metadata == {
        "folder": str(root),
        "images_without_mask": 4,
        "cell_only_masks": 0,
        "unlabelled_images": 4,
        "left_out_files": 0,
    }


def test_class_folders_and_masks(root, tmp_path):
    save(root / "images" / "Neutrophil" / "deep" / "a.png")
    save(root / "images" / "BASOPHIL" / "a.png")
    save(root / "images" / "a.png")
    save(root / "masks" / "Neutrophil" / "deep" / "a.PNG", MASK)
    save(root / "masks" / "a.png", MASK)
    (root / "mask_values.json").write_text('{"missing": "allowed"}')
    built = build(root, tmp_path / "out")
    found = read(built)
    assert {id: (r["label"], r["label_source"], r["has_mask"]) for id, r in found.items()} == {
        "Neutrophil/deep/a": (4, b"class folder", True),
        "BASOPHIL/a": (0, b"class folder", False),
        "a": (-1, b"", True),
    }
    assert np.array_equal(decode_mask(found["a"]["mask"]), MASK)
    assert (built.info.metadata["images_without_mask"]) == 1


def test_labels(root, tmp_path):
    for name in (
        "slide.1.png",
        "p1/b.jpg",
        "neutrophil/c.png",
        "d.png",
        "e.png",
        "neutrophil/f.png",
    ):
        save(root / "images" / name)
    (root / "labels.csv").write_text(
        "\ufeffgroups, Label ,name,um_per_px\n"
        "patient 7,Monocyte,slide.1.png,0.1\n"
        ",BASOPHIL,p1\\b,\n"
        "x,neutrophil,neutrophil/c,\n"
        ",unknown,d.png,2e-1\n"
        "g,,neutrophil/f.png,\n",
        encoding="utf-8",
    )
    built = build(root, tmp_path / "out")
    found = read(built)
    keys = ("label", "group", "label_source")
    assert {id: tuple(row[key] for key in keys) for id, row in found.items()} == {
        "slide.1": (3, b"patient 7", b"labels.csv"),
        "p1/b": (0, b"p1/b", b"labels.csv"),
        "neutrophil/c": (4, b"x", b"labels.csv"),
        "d": (-1, b"d", b""),
        "e": (-1, b"e", b""),
        "neutrophil/f": (4, b"g", b"class folder"),
    }
    assert found["slide.1"]["um_per_px"] == np.float32(0.1)
    assert found["d"]["um_per_px"] == np.float32(0.2) and np.isnan(found["e"]["um_per_px"])
    assert built.info.metadata["unlabelled_images"] == 2


NAMES = ["a b", "O'Neill", 'say "hi"', "Zellkörper", "白血球", "a,b;c", "%20", "#1", "[x]*?"]


def test_odd_names(root, tmp_path):
    for name in NAMES:
        save(root / "images" / f"{name}.png")
        save(root / "masks" / f"{name}.png", MASK)
    rows = ['"' + name.replace('"', '""') + '.png",lymphocyte' for name in NAMES]
    (root / "labels.csv").write_text("\n".join(["name,label", *rows]), encoding="utf-8")
    found = read(build(root, tmp_path / "out"))
    assert sorted(found) == sorted(NAMES)
    assert all(row["label"] == 2 and row["has_mask"] for row in found.values())


def test_accents_taken_apart(root, tmp_path):
    save(root / "images" / "Zellko\u0308rper.png")
    save(root / "masks" / "Zellk\u00f6rper.png", MASK)
    (root / "labels.csv").write_text("name,label\nZellk\u00f6rper,basophil\n", encoding="utf-8")
    row = read(build(root, tmp_path / "out"))["Zellk\u00f6rper"]
    assert row["has_mask"] and row["label"] == 0


def test_mask_values(root, tmp_path):
    save(root / "images" / "a.png")
    save(
        root / "masks" / "a.png", np.choose(np.minimum(MASK, 3), [0, 128, 255, 7]).astype(np.uint8)
    )
    (root / "mask_values.json").write_text(
        '{"0": "background", "128": "cytoplasm", "255": "nucleus", "7": "ignore"}'
    )
    row = read(build(root, tmp_path / "out"))["a"]
    assert np.array_equal(decode_mask(row["mask"]), MASK)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("{", "is no JSON text"),
        ("[]", "what it holds is not known: allowed are values from 0 to 255"),
        ("{}", "what it holds is not known"),
        ("3", "what it holds is not known"),
        (
            '{"0": "kernel"}',
            "'0': 'kernel' is not known: .* background, cytoplasm, nucleus, ignore",
        ),
        ('{"0": ["nucleus"]}', "is not known"),
        ('{"256": "nucleus"}', "'256': 'nucleus' is not known"),
        ('{"-1": "nucleus"}', "'-1': 'nucleus' is not known"),
        ('{"0": "nucleus", "00": "ignore"}', "'00': 'ignore' is not known: .* each once"),
        ('{"0": "nucleus", "0": "ignore"}', "'0': 'ignore' is not known"),
    ],
)
def test_bad_mask_values(root, tmp_path, text, reason):
    save(root / "images" / "a.png")
    (root / "mask_values.json").write_text(text)
    assert str(root / "mask_values.json") in raises(root, tmp_path, reason)


def test_masks_of_0_and_255_alone(root, tmp_path):
    save(root / "images" / "a.png")
    save(root / "masks" / "a.png", np.where(MASK > 0, 255, 0).astype(np.uint8))
    said = raises(root, tmp_path, r"no mask holds cytoplasm \(1\) or nucleus \(2\)")
    assert str(root / "mask_values.json") in said
    (root / "mask_values.json").write_text('{"0": "background", "255": "ignore"}')
    mask = decode_mask(read(build(root, tmp_path / "out"))["a"]["mask"])
    assert np.array_equal(mask, np.where(MASK > 0, 255, 0))


def mask(*values):
    """A mask of 12×10 pixels that holds these values, in stripes."""
    return np.resize(np.array(values, np.uint8), (12, 10)).copy()


def eight(root, **masks):
    """Saves eight images a … h and their masks, of 0, 1 and 2 unless told; None: no mask."""
    for name in "abcdefgh":
        save(root / "images" / f"{name}.png")
        drawn = masks.get(name, mask(0, 1, 2))
        if drawn is not None:
            save(root / "masks" / f"{name}.png", drawn)


def test_two_of_eight_masks_missing(root, tmp_path):
    eight(root, c=None, f=None)
    said = raises(root, tmp_path, "2 bad files; .*")
    for name in "cf":
        assert f"images/{name}.png: has no mask: {root / 'masks' / name}.png is missing" in said
    assert f'write "missing": "allowed" into {root / "mask_values.json"}' in said
    with reading.on_bad_file("skip") as collector:
        built = build(root, tmp_path / "skipped")
    assert sorted(read(built)) == list("abdegh")
    assert [path for path, _ in collector.files] == [str(root / f"images/{n}.png") for n in "cf"]
    (root / "mask_values.json").write_text('{"missing": "allowed"}')
    built = build(root, tmp_path / "out")
    assert [id for id, row in sorted(read(built).items()) if not row["has_mask"]] == ["c", "f"]
    assert built.info.metadata["images_without_mask"] == 2


@pytest.mark.parametrize(
    "odd, held",
    [((0, 255), "0, 255"), ((255,), "255"), ((0, 1), "0, 1"), ((0,), "0")],
)
def test_one_mask_of_other_values_than_the_others(root, tmp_path, odd, held):
    eight(root, d=mask(*odd))
    said = raises(root, tmp_path, f"masks/d.png: holds {held}, without nucleus .2., and 7 other")
    assert f"such as {root / 'masks' / 'a.png'} with 0, 1, 2: redraw it, or write" in said
    assert "1 bad file;" in said
    with reading.on_bad_file("skip"):
        assert sorted(read(build(root, tmp_path / "skipped"))) == list("abcefgh")
    explained = {"0": "background", "1": "cytoplasm", "2": "nucleus", "255": "ignore"}
    assert json.dumps(explained) in said
    (root / "mask_values.json").write_text(json.dumps(explained))
    row = read(build(root, tmp_path / "out"))["d"]
    assert np.unique(decode_mask(row["mask"])).tolist() == sorted(odd)


def test_a_mask_of_another_drawing_program_among_the_others(root, tmp_path):
    eight(root, d=mask(0, 128, 255))
    assert "masks/d.png" in raises(root, tmp_path, r"mask values 128 \(40 pixels\) are unknown")


def test_masks_of_whole_cells_alone(root, tmp_path):
    eight(root, **dict.fromkeys("abcdefgh", mask(0, 1)))
    said = raises(root, tmp_path, r"no mask holds a nucleus \(2\), only 0, 1. If 1 is the whole")
    assert str(root / "masks") in said and str(root / "mask_values.json") in said
    whole = '{"0": "background", "1": "cell"}'
    assert whole in said
    (root / "mask_values.json").write_text(whole)
    row = read(build(root, tmp_path / "out"))["a"]
    # As Raabin's: nobody knows where in the cell the nucleus is.
    assert row["subtype"] == b"cell_only"
    assert np.array_equal(decode_mask(row["mask"]), mask(0, 255))


def test_a_whole_cell_may_not_hold_pixels_to_ignore(root, tmp_path):
    eight(root, **dict.fromkeys("abcdefg", mask(0, 1)), h=mask(0, 1, 7))
    values = '{"0": "background", "1": "cell", "7": "ignore"}'
    (root / "mask_values.json").write_text(values)
    ignored = int((mask(0, 1, 7) == 7).sum())
    said = raises(root, tmp_path, f"marks {ignored} pixels as ignore beside a cell without its nuc")
    assert str(root / "masks" / "h.png") in said and "1 bad file;" in said
    # Beside parts, whole cells are neighbors that nobody has divided.
    eight(root, **dict.fromkeys("abcdefg", mask(0, 1)), h=mask(0, 1, 7, 2))
    (root / "mask_values.json").write_text(values[:-1] + ', "2": "nucleus"}')
    built = build(root, tmp_path / "out")
    row = read(built)["h"]
    assert row["subtype"] == b"" and built.info.metadata["cell_only_masks"] == 7
    drawn = mask(0, 1, 7, 2)
    assert np.array_equal(decode_mask(row["mask"]), np.select([drawn == 2, drawn > 0], [2, 255], 0))


def test_masks_of_nuclei_alone(root, tmp_path):
    eight(root, **dict.fromkeys("abcdefgh", mask(0, 2)))
    said = raises(root, tmp_path, r"no mask holds cytoplasm \(1\), only 0, 2. If the cells have")
    assert str(root / "mask_values.json") in said


def test_masks_with_other_names_than_their_images(root, tmp_path):
    for name in ("c.PNG", "D.png", "monocyte/e.png", "f.png"):
        save(root / "images" / name)
    for name in ("c_mask.png", "d.png", "monocyte/e-Labels.PNG", "other.png"):
        save(root / "masks" / name, MASK)
    said = raises(root, tmp_path, "8 bad files; .*")
    for image, drawn in (
        ("c", "c_mask.png"),
        ("D", "d.png"),
        ("monocyte/e", "monocyte/e-Labels.PNG"),
    ):
        assert f"masks/{drawn}: has no image; if it is that of {root / 'images' / image}" in said
        assert f"rename it to {root / 'masks' / image}.png" in said
        assert f"{image}.png is missing; {root / 'masks' / drawn} is named differently" in said
    assert f"masks/other.png: has no image: {root / 'images' / 'other'} with .png, .jpg" in said
    assert f"images/f.png: has no mask: {root / 'masks' / 'f'}.png is missing; if some" in said
    for name, image in (
        ("c_mask.png", "c"),
        ("d.png", "D"),
        ("monocyte/e-Labels.PNG", "monocyte/e"),
    ):
        (root / "masks" / name).rename(root / "masks" / f"{image}.png")
    (root / "masks" / "other.png").rename(root / "masks" / "f.PNG")
    assert all(row["has_mask"] for row in read(build(root, tmp_path / "out")).values())


@pytest.mark.parametrize("name", ["Masks", "mask"])
def test_a_folder_of_masks_with_another_name(root, tmp_path, name):
    save(root / "images" / "a.png")
    save(root / name / "a.png", MASK)
    assert str(root / name) in raises(root, tmp_path, "read only under the name 'masks': rename")


def test_a_folder_of_masks_without_masks(root, tmp_path):
    save(root / "images" / "a.png")
    (root / "masks").mkdir()
    raises(root, tmp_path, "masks: holds no mask: allowed are PNG files")


def turned(file, orientation, pixels=PIXELS):
    exif = Image.Exif()
    exif[0x0112] = orientation
    save(file, pixels, exif=exif)


@pytest.mark.parametrize(
    "orientation, shape, reason",
    [
        (6, (10, 12), ""),  # lies as the image that is shown: 12×10 turned by a quarter
        (6, (12, 10), "fits the pixels that are not turned"),
        (6, (9, 9), "the mask is 9 x 9 pixels"),
        (3, (12, 10), "fits the image turned or not"),
        (1, (12, 10), ""),
        (1, (10, 12), "the mask is 12 x 10 pixels"),
    ],
)
@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_the_mask_of_an_image_that_its_exif_turns(
    root, tmp_path, orientation, shape, reason, suffix
):
    turned(root / "images" / f"a{suffix}", orientation)
    save(root / "masks" / "a.png", np.resize(np.array([0, 1, 2], np.uint8), shape).copy())
    if not reason:
        row = read(build(root, tmp_path / "out"))["a"]
        assert decode_mask(row["mask"]).shape == decode_image(row["image"]).shape[:2] == shape
        return
    said = raises(root, tmp_path, reason)
    assert str(root / "masks" / "a.png") in said
    if "fits" in reason:
        assert f"EXIF orientation {orientation}" in said and "save it without the tag" in said


def test_a_mask_that_its_own_exif_turns(root, tmp_path):
    save(root / "images" / "a.png")
    turned(root / "masks" / "a.png", 3, MASK)
    raises(root, tmp_path, "a.png: has the EXIF orientation 3, and masks are read as stored")


def png_of_size(width, height):
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(100))),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def truncated(file):
    save(file)
    file.write_bytes(file.read_bytes()[:-30])


def animation(file, format):
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    frames[0].save(file, format=format, save_all=True, append_images=frames[1:])


# Name: (the file, how it is drawn, what the message says besides the file).
BAD_IMAGES = {
    "zero bytes": ("x.png", lambda f: f.write_bytes(b""), "0 bytes"),
    "text": ("x.png", lambda f: f.write_text("hello"), "is not an image"),
    "truncated JPEG": ("x.jpg", truncated, "truncated or damaged"),
    "bomb": ("x.png", lambda f: f.write_bytes(png_of_size(60_000, 60_000)), "allowed are 100,000"),
    "large": ("x.png", lambda f: f.write_bytes(png_of_size(10_001, 10_000)), "allowed are 100,000"),
    "animated TIFF": ("x.tif", lambda f: animation(f, "TIFF"), "holds 2 pages: allowed is one"),
    "animated GIF": ("x.gif", lambda f: animation(f, "GIF"), r"allowed are \.png, \.jpg"),
    "GIF in disguise": ("x.png", lambda f: animation(f, "GIF"), "is not an image that can be read"),
    "other file": ("notes.txt", lambda f: f.write_text("hello"), r"allowed are \.png, \.jpg"),
    "float": (
        "x.tif",
        lambda f: save(f, np.zeros((4, 4), np.float32)),
        "floating-point samples, whose range is not known",
    ),
    "link to nowhere": ("x.png", lambda f: f.symlink_to("absent.png"), "cannot be read"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_bad_images(root, tmp_path, kind):
    name, draw, reason = BAD_IMAGES[kind]
    save(root / "images" / "good.png")
    draw(root / "images" / name)
    said = raises(root, tmp_path, reason)
    assert str(root / "images" / name) in said and "1 bad file;" in said
    with reading.on_bad_file("skip") as collector:
        built = build(root, tmp_path / "out")
    assert sorted(read(built)) == ["good"]
    assert len(collector.files) == built.info.metadata["left_out_files"] == 1


GREY = PIXELS[..., 0]


# Name: (the file, what is drawn, the pixels that are read).
KINDS = {
    "grey": ("x.png", Image.fromarray(GREY), np.dstack([GREY] * 3)),
    "alpha": (
        "x.png",
        Image.fromarray(np.dstack([PIXELS, np.arange(120, dtype=np.uint8).reshape(12, 10)])),
        PIXELS,
    ),
    "16-bit": (
        "x.png",
        Image.fromarray(GREY.astype(np.uint16) * 256 + 7),
        np.dstack([GREY] * 3),
    ),
    "palette": (
        "x.png",
        Image.fromarray(PIXELS).quantize(8),
        np.asarray(Image.fromarray(PIXELS).quantize(8).convert("RGB")),
    ),
    "CMYK": (
        "x.tif",
        Image.fromarray(PIXELS).convert("CMYK"),
        np.asarray(Image.fromarray(PIXELS).convert("CMYK").convert("RGB")),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_images(root, tmp_path, kind):
    name, image, expected = KINDS[kind]
    save(root / "images" / name, image)
    row = read(build(root, tmp_path / "out"))["x"]
    assert np.array_equal(decode_image(row["image"]), expected)


# Name: (the mask's file, what is drawn, what the message says besides the file).
BAD_MASKS = {
    "values": ("a.png", np.where(MASK == 2, 99, MASK).astype(np.uint8), r"99 \(9 pixels\) .*json"),
    "size": ("a.png", MASK.T.copy(), "12 x 10 pixels .* its image 10 x 12"),
    "16-bit": ("a.png", MASK.astype(np.uint16), "16-bit samples"),
    "colours": ("a.png", PIXELS, "three different channels"),
    "palette": ("a.png", Image.fromarray(PIXELS).quantize(8), "palette"),
    "no image": ("b.png", MASK, "has no image"),
    "JPEG": ("a.jpg", MASK, r"allowed are \.png"),
}


@pytest.mark.parametrize("kind", BAD_MASKS)
def test_bad_masks(root, tmp_path, kind):
    name, mask, reason = BAD_MASKS[kind]
    save(root / "images" / "a.png")
    save(root / "masks" / name, mask)
    said = raises(root, tmp_path, reason)
    assert str(root / "masks" / name) in said
    # Without a mask of its own name, the image is bad as well.
    assert ("2 bad files;" if kind == "no image" else "1 bad file;") in said


def test_values_that_the_file_does_not_name(root, tmp_path):
    save(root / "images" / "a.png")
    save(root / "masks" / "a.png", MASK)
    (root / "mask_values.json").write_text('{"0": "background", "1": "nucleus"}')
    said = raises(root, tmp_path, r"2 \(9 pixels\), 255 .* allowed by mask_values.json are 0, 1;")
    assert str(root / "masks" / "a.png") in said


@pytest.mark.parametrize(
    "text, reason",
    [
        ("name\na\n", "the header is 'name', without 'label': allowed are the columns name and"),
        ("image,type\na,basophil\n", "without 'name' and 'label'"),
        ("name,label,um_per_pixel\n", "the header is 'name,label,um_per_pixel': allowed"),
        ("name,label,group,groups\n", "each once"),
        ("name,label\na,blast\n", "line 2: 'a,blast': the label 'blast' is not known"),
        ('name,label\na,"NEUTROPHIL, LYMPHOCYTE"\n', "two types in a cell"),
        ("name,label\na,neutrophil/monocyte\n", "two types in a cell"),
        ("name,label\na,basophil\na.png,basophil\n", "line 3: .*names the image again"),
        ("name,label\nb,basophil\n", r"there is no image 'b' \(\.png, .* in .*images"),
        ("name,label\na.jpg,basophil\n", "there is no image 'a.jpg'"),
        ("name,label\na\n", "line 2: 'a' has 1 cells, not 2"),
        ("name,label,um_per_px\na,basophil,0\n", "um_per_px is no number above zero"),
        ("name,label,um_per_px\na,basophil,wide\n", "um_per_px is no number above zero"),
        ("name,label,um_per_px\na,basophil,nan\n", "um_per_px is no number above zero"),
        ("name,label\na,neutrophil\nb,x\nc,y\n", "2 lines are wrong: .* one of basophil, eos"),
        ("", "empty"),
    ],
)
def test_bad_labels(root, tmp_path, text, reason):
    save(root / "images" / "a.png")
    (root / "labels.csv").write_text(text)
    assert str(root / "labels.csv") in raises(root, tmp_path, reason)


def test_unknown_class_folder(root, tmp_path):
    save(root / "images" / "neutrophil" / "a.png")
    save(root / "images" / "neutrophils" / "b.png")
    said = raises(root, tmp_path, r"neutrophils \(1 images\)")
    assert "allowed are basophil, eosinophil, lymphocyte, monocyte, neutrophil" in said
    assert str(root / "images" / "neutrophils") in said
    (root / "labels.csv").write_text("name,label\n")
    assert len(read(build(root, tmp_path / "out"))) == 2


def test_class_folder_that_contradicts_the_labels(root, tmp_path):
    save(root / "images" / "neutrophil" / "a.png")
    (root / "labels.csv").write_text("name,label\nneutrophil/a,basophil\n")
    raises(root, tmp_path, "neutrophil/a: labels.csv says basophil")


def test_two_files_of_one_id(root, tmp_path):
    for name in ("a.png", "a.jpg", "b.png"):
        save(root / "images" / name)
    for name in "ab":
        save(root / "masks" / f"{name}.png", MASK)
    (root / "labels.csv").write_text("name,label\na.png,basophil\n")
    said = raises(root, tmp_path, "has the id 'a', as has .*a.jpg: allowed is one file")
    assert str(root / "images" / "a.png") in said and "1 bad file;" in said
    with reading.on_bad_file("skip"):
        assert sorted(read(build(root, tmp_path / "out"))) == ["b"]


def test_name_that_is_not_utf8(root, tmp_path):
    save(root / "images" / "a.png")
    try:
        os.link(root / "images" / "a.png", os.fsencode(root / "images") + b"/\xff.png")
    except OSError:
        pytest.skip("the file system takes UTF-8 names only")
    raises(root, tmp_path, "is not UTF-8: rename the file")


def test_links_that_lead_upwards(root, tmp_path):
    save(root / "images" / "neutrophil" / "a.png")
    (root / "images" / "neutrophil" / "loop").symlink_to(root / "images")
    assert sorted(read(build(root, tmp_path / "out"))) == ["neutrophil/a"]


def test_no_folder_of_images(tmp_path):
    (tmp_path / "mine").mkdir()
    said = raises(tmp_path / "mine", tmp_path, "has no folder 'images': expected is:")
    assert str(tmp_path / "mine") in said and "labels.csv" in said and "masks/" in said
    assert "config.data.manual_dir (if empty, $WBC_JAX_DATA) names the folder" in said
    (tmp_path / "mine" / "Images").mkdir()
    raises(tmp_path / "mine", tmp_path, "mine/Images: is read only under the name 'images'")


def test_a_manual_dir_that_does_not_exist_or_is_not_named(tmp_path):
    said = raises(tmp_path / "nowhere", tmp_path, "nowhere: does not exist: expected is:")
    assert "config.data.manual_dir (if empty, $WBC_JAX_DATA) names the folder" in said
    with pytest.raises(DataError, match=r"config\.data\.manual_dir is empty: set it to the folder"):
        layout.find_folder(None)
    # TFDS puts a folder of its own in the place of none.
    with pytest.raises(
        DataError, match=r"config\.data\.manual_dir \(if empty, .* names the folder"
    ):
        build(None, tmp_path / "out", own=False)


def test_no_images(root, tmp_path):
    assert str(root / "images") in raises(root, tmp_path, "holds no image: allowed are files")


def test_in_a_folder_of_manual_dir(root, tmp_path):
    save(root / "images" / "a.png")
    (tmp_path / "manual").mkdir()
    root.rename(tmp_path / "manual" / "folder")
    assert sorted(read(build(tmp_path / "manual", tmp_path / "out"))) == ["a"]


# Several folders, and files that change.


def test_two_folders_lie_apart(tmp_path):
    built = []
    for name in ("one", "two"):
        folder = tmp_path / name / "My Zellen"
        save(folder / "images" / f"{name}.png")
        built.append(build(folder, tmp_path / "out"))
    assert [list(read(builder)) for builder in built] == [["one"], ["two"]]
    for builder in built:
        name = pathlib.Path(builder.data_path).parent.name
        assert name.startswith("my_zellen-") and len(name) == len("my_zellen-") + 12
    again = module.Builder(config=module.folder_config(folder), data_dir=tmp_path / "out")
    assert again.is_prepared() and list(read(again)) == ["two"]


def test_config_goes_by_the_folder_not_by_its_spelling(tmp_path, monkeypatch):
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "x")
    monkeypatch.chdir(tmp_path)
    names = {module.folder_config(p).name for p in ("x", "./x/", "link", tmp_path / "x", "x/../x")}
    assert len(names) == 1
    assert module.folder_config(tmp_path).name not in names
    assert module.folder_config("/").name.startswith("folder-")


def test_another_folder_without_its_own_config(tmp_path):
    for name in ("one", "two"):
        save(tmp_path / name / "images" / f"{name}.png")
    first = build(tmp_path / "one", tmp_path / "out", own=False)
    build(tmp_path / "one", tmp_path / "out", own=False)
    module.check_same_folder(first, tmp_path / "one")
    with pytest.raises(DataError, match=r"another folder, .*one: choose another data_dir"):
        module.check_same_folder(first, tmp_path / "two")
    with pytest.raises(DataError, match="another folder"):
        build(tmp_path / "two", tmp_path / "out", own=False)


CHANGES = {
    "image added": lambda root: save(root / "images" / "b.png"),
    "image removed": lambda root: (root / "images" / "a.png").unlink(),
    "mask redrawn": lambda root: save(root / "masks" / "a.png", np.maximum(MASK, 1)),
    "label changed": lambda root: (root / "labels.csv").write_text("name,label\na,monocyte\n"),
    "values": lambda root: (root / "mask_values.json").write_text(json.dumps({"0": "ignore"})),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_files_that_have_changed(root, tmp_path, kind):
    save(root / "images" / "a.png")
    save(root / "masks" / "a.png", MASK)
    (root / "labels.csv").write_text("name,label\na,basophil\n")
    built = build(root, tmp_path / "out")
    module.check_same_folder(built, root)
    CHANGES[kind](root)
    reopened = module.Builder(config=module.folder_config(root), data_dir=tmp_path / "out")
    with pytest.raises(DataError, match=r"have changed since .*: delete that directory"):
        module.check_same_folder(reopened, root)
    with pytest.raises(DataError, match="have changed since"):
        build(root, tmp_path / "out")


def test_rebuilt_byte_for_byte(root, tmp_path):
    for name in ("a", "b", "neutrophil/c"):
        save(root / "images" / f"{name}.png")
    first = digests(build(root, tmp_path / "one"))
    assert first == digests(build(root, tmp_path / "two"))
    assert "folder-train.array_record-00000-of-00001" in first


# What a task lacks.


def prepared(root, tmp_path, task):
    data = Data(
        datasets=("folder",), manual_dir=str(root), data_dir=str(tmp_path / "data"), threads=1
    )
    preparing.prepare("folder", data)
    return pipeline.load_splits(data, 16, task)


def test_images_without_masks_cannot_be_segmented(root, tmp_path):
    for name in "abcdefgh":
        save(root / "images" / f"{name}.png")
    with pytest.raises(DataError, match=r"none of its 8 records has a mask\. Seg") as caught:
        prepared(root, tmp_path, "segmentation")
    said = str(caught.value)
    assert "needs a folder 'masks' beside 'images', with a mask of each image" in said
    assert "config.data.manual_dir" in said and said.endswith(layout.LAYOUT)
    assert "fractions" not in said
    with pytest.raises(DataError, match=r"a known cell type\. Classification needs cell types"):
        prepared(root, tmp_path, "classification")


def test_masks_of_whole_cells_cannot_be_segmented_unless_told(root, tmp_path):
    eight(root, **dict.fromkeys("abcdefgh", mask(0, 1)))
    (root / "mask_values.json").write_text('{"0": "background", "1": "cell"}')
    with pytest.raises(DataError, match=r"Set config\.data\.cell_only_masks to use these"):
        prepared(root, tmp_path, "segmentation")
