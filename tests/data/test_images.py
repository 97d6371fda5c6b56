"""wbc_jax.data.images: the codecs, the checks, and the messages about bad files."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from wbc_jax.data import images
from wbc_jax.data.images import (
    decode_image,
    decode_mask,
    encode_png,
    read_image,
    read_image_file,
    read_mask_file,
)
from wbc_jax.errors import DataError

# Red, green, blue, and a colour whose channels all differ: catches BGR.
COLORS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 20, 30]]], np.uint8)


def noise(height=9, width=7):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def saved(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def test_png_round_trips_in_rgb_order():
    assert np.array_equal(decode_image(encode_png(COLORS)), COLORS)
    with Image.open(io.BytesIO(encode_png(COLORS))) as image:
        assert np.array_equal(np.asarray(image), COLORS)


@pytest.mark.parametrize("shape", [(2, 2), (2, 2, 1)])
def test_mask_round_trips(shape):
    mask = np.array([0, 1, 2, 255], np.uint8)
    decoded = decode_mask(encode_png(mask.reshape(shape)))
    assert np.array_equal(decoded, mask.reshape(2, 2))


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2, 3)), np.zeros((2, 2, 4), np.uint8), np.zeros((0, 2), np.uint8)]
)
def test_encode_png_refuses(array):
    with pytest.raises(DataError, match=r"allowed is uint8"):
        encode_png(array)


@pytest.mark.parametrize("data", [b"", b"no image", encode_png(COLORS)[:30]])
def test_decoding_damaged_bytes(data):
    for decode in (decode_image, decode_mask):
        with pytest.raises(DataError, match=f"{len(data)} bytes could not be decoded"):
            decode(data)


def test_decode_mask_refuses_colors():
    with pytest.raises(DataError, match="one 8-bit channel"):
        decode_mask(encode_png(COLORS))


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_rgb_files_pass_through_byte_for_byte(tmp_path, name):
    path = saved(tmp_path / name, noise())
    data, height, width = read_image_file(path)
    assert data == path.read_bytes()
    assert (height, width) == (9, 7)
    if name.endswith("png"):
        assert np.array_equal(decode_image(data), noise())
    assert np.array_equal(read_image(path), decode_image(data))


def gray16(path, values):
    cv2.imwrite(str(path), values)
    return path


CONVERTED = {
    "bmp": (lambda p: saved(p / "a.bmp", COLORS), COLORS),
    "tiff": (lambda p: saved(p / "a.tiff", COLORS), COLORS),
    "grey": (
        lambda p: saved(p / "a.png", COLORS[..., 0].copy()),
        np.repeat(COLORS[..., :1], 3, -1),
    ),
    "palette": (
        lambda p: (
            Image.fromarray(COLORS).quantize(8).save(p / "a.png"),
            p / "a.png",
        )[1],
        COLORS,
    ),
    "alpha": (
        lambda p: saved(p / "a.png", np.concatenate([COLORS, np.full((2, 2, 1), 9, np.uint8)], -1)),
        COLORS,
    ),
    "16-bit grey": (
        lambda p: gray16(p / "a.png", np.array([[0, 256], [0x1234, 65535]], np.uint16)),
        np.repeat(np.array([[0, 1], [0x12, 255]], np.uint8)[..., None], 3, -1),
    ),
    "grey JPEG": (
        lambda p: saved(p / "a.jpg", np.full((2, 2), 77, np.uint8)),
        np.full((2, 2, 3), 77, np.uint8),
    ),
    "CMYK JPEG": (
        lambda p: (
            Image.new("RGB", (2, 2), (200, 30, 90)).convert("CMYK").save(p / "a.jpg", quality=100),
            p / "a.jpg",
        )[1],
        np.full((2, 2, 3), (200, 30, 90), np.uint8),
    ),
    "grey with alpha": (
        lambda p: saved(p / "a.png", np.dstack([COLORS[..., 0], COLORS[..., 1]])),
        np.repeat(COLORS[..., :1], 3, -1),
    ),
    "16-bit RGB": (
        lambda p: gray16(p / "a.png", COLORS[..., ::-1].astype(np.uint16) * 257),
        COLORS,
    ),
}


@pytest.mark.parametrize("kind", CONVERTED)
def test_other_kinds_become_rgb_png(tmp_path, kind):
    write, expected = CONVERTED[kind]
    path = write(tmp_path)
    data, height, width = read_image_file(path)
    assert data[:4] == b"\x89PNG"
    assert data[24:26] == b"\x08\x02"  # 8 bits, RGB
    assert (height, width) == (2, 2)
    assert np.array_equal(decode_image(data), expected)
    found = read_image(path)
    assert found.dtype == np.uint8 and np.array_equal(found, expected)


def test_exif_turn_is_carried_out(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the picture lies on its side: turn by 90 degrees clockwise
    path = saved(tmp_path / "a.png", noise(), exif=exif)
    data, height, width = read_image_file(path)
    assert (height, width) == (7, 9)
    assert np.array_equal(decode_image(data), np.rot90(noise(), -1))
    assert np.array_equal(read_image(path), np.rot90(noise(), -1))


SUBSAMPLINGS = {
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:4:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "4:1:1": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
}


@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("subsampling", SUBSAMPLINGS)
def test_a_file_read_for_prediction_has_the_pixels_of_its_record(
    tmp_path, subsampling, progressive
):
    # Pillow decodes the one, OpenCV the other: their JPEG decoders must agree to the last bit.
    pixels = cv2.GaussianBlur(noise(75, 61), (0, 0), 1)
    options = {
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR: SUBSAMPLINGS[subsampling],
        cv2.IMWRITE_JPEG_PROGRESSIVE: progressive,
        cv2.IMWRITE_JPEG_QUALITY: 80,
    }
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), pixels, [number for pair in options.items() for number in pair])
    data, _, _ = read_image_file(path)
    assert data == path.read_bytes()
    assert np.array_equal(read_image(path), decode_image(data))


def test_real_files_read_for_prediction_have_the_pixels_of_their_records(real_data):
    folders = ("pbc", "raabin_gt", "raabin_wbc", "kaggle_blood_cells", "segmentation_WBC", "bcd")
    for folder in folders:
        files = [
            p
            for p in (real_data / folder).rglob("*")
            if p.suffix in (".jpg", ".jpeg", ".bmp", ".png")
        ]
        for path in sorted(files)[:: len(files) // 10 + 1]:
            assert np.array_equal(read_image(path), decode_image(read_image_file(path)[0])), path


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tiff"])
def test_a_file_is_decoded_once_and_never_encoded(tmp_path, monkeypatch, name):
    path = saved(tmp_path / name, noise())
    expected = decode_image(read_image_file(path)[0])
    decoded = []
    load = ImageFile.ImageFile.load

    def count(image):
        decoded.extend(image.tile)  # empty once it is decoded
        return load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", count)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded a second time"))
    monkeypatch.setattr(cv2, "imencode", lambda *_: pytest.fail("encoded"))
    assert np.array_equal(read_image(path), expected)
    assert len(decoded) == 1


def bomb(path, side=20_000):
    """A PNG of a few bytes whose header promises side x side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    end = b"\x00\x00\x00\x00IEND\xaeB`\x82"
    crc = struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk + crc + end)
    return path


def cut(path, keep):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    return path


def pages(path):
    first, second = Image.fromarray(noise()), Image.fromarray(255 - noise())
    first.save(path, save_all=True, append_images=[second])
    return path


def floats(path):
    Image.fromarray(np.ones((3, 3), np.float32)).save(path)
    return path


def written(path, data):
    path.write_bytes(data)
    return path


BAD_IMAGES = {
    "missing": (lambda p: p / "a.png", "cannot be read"),
    "a folder": (lambda p: p, "cannot be read"),
    "empty": (lambda p: written(p / "a.png", b""), r"empty \(0 bytes\)"),
    "text": (lambda p: written(p / "a.png", b"<html>"), "is not an image"),
    "truncated PNG": (
        lambda p: cut(saved(p / "a.png", noise(90, 90)), 0.6),
        "truncated or damaged",
    ),
    "truncated JPEG": (
        lambda p: cut(saved(p / "a.jpg", noise(90, 90)), 0.6),
        "truncated or damaged",
    ),
    "JPEG without its last bytes": (
        lambda p: cut(saved(p / "a.jpg", noise(90, 90)), 0.98),
        "truncated or damaged",
    ),
    "truncated BMP": (
        lambda p: cut(saved(p / "a.bmp", noise(90, 90)), 0.6),
        "truncated or damaged",
    ),
    "100 MP": (lambda p: bomb(p / "a.png", 10_001), "allowed are 100,000,000"),
    "400 MP": (lambda p: bomb(p / "a.png"), "allowed are 100,000,000"),
    "60,000 x 60,000": (lambda p: bomb(p / "a.png", 60_000), "3600000000 pixels.* allowed are 100"),
    "two pages": (lambda p: pages(p / "a.tiff"), "2 pages"),
    "animated PNG": (lambda p: pages(p / "a.png"), "2 pages"),
    "animated WebP": (lambda p: pages(p / "a.webp"), "2 pages"),
    "animated GIF": (lambda p: pages(p / "a.gif"), "is not an image"),
    "floats": (lambda p: floats(p / "a.tiff"), "floating-point"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
def test_bad_images_are_named(tmp_path, kind):
    make, reason = BAD_IMAGES[kind]
    path = make(tmp_path)
    with pytest.raises(DataError, match=reason) as caught:
        read_image_file(path)
    assert str(path) in str(caught.value)
    with pytest.raises(DataError) as again:
        read_image(path)
    assert str(again.value) == str(caught.value)


def test_mask_file_values(tmp_path):
    grey = np.array([[0, 128], [255, 7]], np.uint8)
    assert np.array_equal(read_mask_file(saved(tmp_path / "a.png", grey)), grey)
    rgb = np.repeat(grey[..., None], 3, -1)
    assert np.array_equal(read_mask_file(saved(tmp_path / "b.png", rgb)), grey)
    cells = grey > 0
    assert np.array_equal(read_mask_file(saved(tmp_path / "c.png", cells)), cells * 255)


BAD_MASKS = {
    "JPEG": (lambda p: saved(p / "a.jpg", np.zeros((9, 9), np.uint8)), "is a JPEG"),
    "colours": (lambda p: saved(p / "a.png", COLORS), "three different channels"),
    "palette": (
        lambda p: (Image.fromarray(COLORS).quantize(8).save(p / "a.png"), p / "a.png")[1],
        "palette",
    ),
    "16 bits": (lambda p: gray16(p / "a.png", np.ones((2, 2), np.uint16)), "16-bit"),
    "16 bits, RGB": (lambda p: gray16(p / "a.png", np.ones((2, 2, 3), np.uint16)), "16-bit"),
    "16 bits, RGB TIFF": (lambda p: gray16(p / "a.tif", np.ones((2, 2, 3), np.uint16)), "16-bit"),
}


@pytest.mark.parametrize("kind", BAD_MASKS)
def test_bad_masks_are_named(tmp_path, kind):
    make, reason = BAD_MASKS[kind]
    path = make(tmp_path)
    with pytest.raises(DataError, match=reason) as caught:
        read_mask_file(path)
    assert str(path) in str(caught.value)


def test_reading_with_metadata_gives_the_same_pixels(tmp_path):
    path = saved(tmp_path / "a.png", noise())
    found = images.read_with_metadata(path)
    assert np.array_equal(found.pixels, read_image(path))
    assert (found.flags, found.um_per_px, found.um_per_px_source, found.notes) == ((), None, "", ())


def palette(path, pixels):
    Image.fromarray(pixels).convert("RGB").quantize(256).save(path)
    return path


RAMP = np.add.outer(np.arange(40), 3 * np.arange(60)).astype(np.uint8)
GRAY = {
    "8 bits": (lambda p: saved(p / "a.png", RAMP), "one channel"),
    "16 bits": (lambda p: gray16(p / "a.png", RAMP.astype(np.uint16) * 257), "one channel"),
    "16-bit TIFF": (lambda p: gray16(p / "a.tif", RAMP.astype(np.uint16) * 16), "one channel"),
    "16-bit PGM": (lambda p: gray16(p / "a.pgm", RAMP.astype(np.uint16) * 257), "one channel"),
    "JPEG": (lambda p: saved(p / "a.jpg", RAMP), "one channel"),
    "with alpha": (lambda p: saved(p / "a.png", np.dstack([RAMP, RAMP])), "one channel"),
    "black and white": (lambda p: saved(p / "a.png", RAMP > 90), "one channel"),
    "one channel, plain": (lambda p: saved(p / "a.png", np.full_like(RAMP, 255)), "one channel"),
    "palette": (lambda p: palette(p / "a.png", RAMP), "three channels that are equal"),
    "RGB": (lambda p: saved(p / "a.png", np.dstack([RAMP] * 3)), "three channels that are equal"),
    "RGB, 16 bits": (
        lambda p: gray16(p / "a.png", np.dstack([RAMP.astype(np.uint16) * 257] * 3)),
        "three channels that are equal",
    ),
    "RGB JPEG": (
        lambda p: saved(p / "a.jpg", np.dstack([RAMP] * 3)),
        "three channels that are equal",
    ),
}


@pytest.mark.parametrize("kind", GRAY)
def test_gray_images_are_refused_where_color_is_needed(tmp_path, kind):
    write, what = GRAY[kind]
    path = write(tmp_path)
    with pytest.raises(
        DataError, match=rf"is grey \({what}\): colour is needed, as cells are"
    ) as e:
        images.read_with_metadata(path)
    assert str(e.value).startswith(f"{path}: ")
    read = read_image(path)  # data sets may hold it
    assert np.array_equal(read, np.repeat(read[..., :1], 3, -1))


@pytest.mark.parametrize("spread", [0, images.PLAIN_SPREAD - 1])
@pytest.mark.parametrize("value", [0, 100, 240])
def test_plain_pictures_are_no_gray_images(tmp_path, value, spread):
    pixels = np.full((20, 30, 3), value, np.uint8)
    pixels[3:9, 4:7] += np.uint8(spread)
    found = images.read_with_metadata(saved(tmp_path / "a.png", pixels))
    assert np.array_equal(found.pixels, pixels)


def test_one_colored_pixel_makes_color(tmp_path):
    pixels = np.dstack([RAMP] * 3)
    pixels[7, 8] = (9, 8, 7)
    assert images.read_with_metadata(saved(tmp_path / "a.png", pixels)).flags == ()


@pytest.mark.parametrize("form", ["AVIF", "JPEG"])
def test_masks_of_formats_that_change_values_are_refused(tmp_path, form):
    path = tmp_path / "a.mask"
    Image.fromarray(np.dstack([RAMP] * 3)).save(path, form)
    with pytest.raises(DataError, match=f"the mask is a {form}, whose compression changes values"):
        read_mask_file(path)
