"""wbc_jax.data.image_opening: which files are opened, and why others are refused."""

import io
import logging
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, features

from wbc_jax.data import image_opening, images
from wbc_jax.data.images import read_image, read_image_file, read_with_metadata
from wbc_jax.errors import DataError

PIXELS = cv2.GaussianBlur(
    np.random.default_rng(0).integers(0, 256, (64, 72, 3), np.uint8), (0, 0), 2
)


def encoded(form, image=None, **options):
    file = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(file, form, **options)
    return file.getvalue()


def written(path, data):
    path.write_bytes(data)
    return path


# Format: (options, largest difference after decoding, endings).
FORMATS = {
    "PNG": ({}, 0, (".png",)),
    "JPEG": ({"quality": 98, "subsampling": 0}, 9, (".jpg", ".jpeg", ".jpe", ".jfif")),
    "BMP": ({}, 0, (".bmp", ".dib")),
    "TIFF": ({}, 0, (".tif", ".tiff")),
    "WEBP": ({"lossless": True}, 0, (".webp",)),
    "JPEG2000": ({}, 0, (".jp2", ".jpf", ".jpx")),
    "JPEG2000 codestream": ({"no_jp2": True}, 0, (".j2k", ".j2c", ".jpc")),
    "PPM": ({}, 0, (".ppm", ".pnm")),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_each_ending_of_folders_is_decoded(tmp_path, kind):
    options, difference, endings = FORMATS[kind]
    for ending in endings:
        assert ending in images.SUFFIXES
        path = written(tmp_path / f"a{ending}", encoded(kind.split()[0], **options))
        found = read_with_metadata(path)
        assert np.abs(found.pixels.astype(int) - PIXELS).max() <= difference
        assert (found.flags, found.notes) == ((), ())


def test_all_endings_are_tested():
    gray = (".pgm", ".pbm")  # for data sets
    optional = (".avif", ".heic", ".heif", ".hif")
    tested = [ending for _, _, endings in FORMATS.values() for ending in endings]
    assert sorted((*tested, *gray)) == sorted(set(images.SUFFIXES) - set(optional))


def test_avif(tmp_path, monkeypatch):
    if not features.check("avif"):
        assert ".avif" not in images.SUFFIXES
        pytest.skip("this Pillow has no AVIF")
    path = written(tmp_path / "a.avif", encoded("AVIF", quality=100, subsampling="4:4:4"))
    assert ".avif" in images.SUFFIXES
    assert np.abs(read_image(path).astype(int) - PIXELS).max() < 20
    without = tuple(f for f in image_opening.FORMATS if f != "AVIF")
    monkeypatch.setattr(image_opening, "FORMATS", without)
    with pytest.raises(DataError, match=r"a\.avif: is AVIF.*pip install --upgrade 'pillow>=11\.3'"):
        read_image(path)


def test_heic_with_its_extra(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    path = tmp_path / "a.heic"
    pillow_heif.from_pillow(Image.fromarray(PIXELS)).save(path, quality=100, chroma=444)
    found = read_with_metadata(path)
    assert np.abs(found.pixels.astype(int) - PIXELS).max() < 20
    assert read_image_file(path)[0][:4] == b"\x89PNG"
    assert {".heic", ".heif", ".hif"} < set(images.SUFFIXES)
    data = path.read_bytes()
    with pytest.raises(DataError, match=r"b\.heic: "):
        read_image(written(tmp_path / "b.heic", data[: len(data) // 2]))


def test_heic_without_its_extra_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(image_opening, "_HEIF", False)
    path = written(tmp_path / "a.heic", b"\0\0\0\x1cftypheic" + bytes(500))
    with pytest.raises(DataError, match=r"a\.heic: is HEIF.*pip install 'wbc_jax\[heif\]', or"):
        read_image(path)


@pytest.mark.parametrize("brands", [b"heicmif1", b"mif1\0\0\0\0mif1heic"])
def test_heic_is_known_by_any_of_its_brands(tmp_path, monkeypatch, brands):
    monkeypatch.setattr(image_opening, "_HEIF", False)
    data = (8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands + bytes(500)
    with pytest.raises(DataError, match="is HEIF"):
        read_image(written(tmp_path / "a.jpg", data))


def test_decoders_are_silent_and_logging_is_as_before_afterwards(tmp_path, capfd, monkeypatch):
    log = image_opening._opencv_log
    before = log.getLogLevel(), logging.getLogger("PIL").level, list(warnings.filters)
    path = tmp_path / "a.tif"
    # OpenCV would print why it cannot decode what Pillow could.
    cv2.imwrite(str(path), PIXELS.astype(np.uint16), [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda data, flags: decode(data[:9000], flags))
    with pytest.raises(DataError, match="16-bit samples could not be decoded"):
        read_image(path)
    assert "ERROR" not in capfd.readouterr().err
    found = log.getLogLevel(), logging.getLogger("PIL").level, list(warnings.filters)
    assert found == before and before[0] > 0


def with_chunk(data, kind, body):
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return data[:33] + chunk + data[33:]


@pytest.mark.parametrize(
    "body", [b"no TIFF header", b"", b"Exif\0\0garbage!", b"II*\0\xff\xff\xff\xff"]
)
def test_an_exif_chunk_that_is_none(tmp_path, body):
    path = written(tmp_path / "a.png", with_chunk(encoded("PNG"), b"eXIf", body))
    found = read_with_metadata(path)
    assert np.array_equal(found.pixels, PIXELS) and (found.flags, found.notes) == ((), ())
    assert np.array_equal(read_image(path), PIXELS)
    assert read_image_file(path) == (path.read_bytes(), 64, 72)


FLOATS = {
    "float32": "floating-point samples of 32 bits",
    "float64": "floating-point samples of 64 bits",
    "float16": "floating-point samples of 16 bits",
    "uint32": "unsigned samples of 32 bits",
    "int16": "signed samples of 16 bits",
    "int8": "signed samples of 8 bits",
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_samples_without_a_known_range(tmp_path, dtype, compression):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, PIXELS.astype(dtype), photometric="rgb", compression=compression)
    for read in (read_image, read_image_file, read_with_metadata):
        with pytest.raises(DataError, match=f"has {FLOATS[dtype]}, whose range is not known") as e:
            read(path)
        assert str(e.value).startswith(f"{path}: ")
        assert "allowed are 8-bit and 16-bit samples; convert it to 8-bit RGB" in str(e.value)


@pytest.mark.parametrize("keep", [0.01, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize(
    "compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", None]
)
def test_a_truncated_tiff_is_called_so(tmp_path, compression, keep):
    data = encoded("TIFF", compression=compression)
    path = written(tmp_path / "a.tif", data[: int(len(data) * keep)])
    with pytest.raises(DataError, match=r"truncated or damaged.*: fetch it again") as caught:
        read_image(path)
    assert str(path) in str(caught.value) and "allowed" not in str(caught.value)


def test_a_truncated_lzw_tiff_of_opencv(tmp_path):
    # Its tags lie behind the pixels.
    data = cv2.imencode(".tif", PIXELS)[1].tobytes()
    path = written(tmp_path / "a.tif", data[: len(data) // 2])
    message = rf"a\.tif: is a TIFF that is truncated or damaged \({len(data) // 2:,} bytes"
    with pytest.raises(DataError, match=message):
        read_image(path)


@pytest.mark.parametrize("kind", [k for k in FORMATS if k not in ("BMP", "PPM")])
def test_a_cut_header_is_not_called_a_foreign_format(tmp_path, kind):
    data = encoded(kind.split()[0], **FORMATS[kind][0])
    for length in (12, 20, 40, 100):
        path = written(tmp_path / "a.img", data[:length])
        with pytest.raises(DataError, match=r"damaged.*fetch it again") as caught:
            read_image(path)
        assert str(path) in str(caught.value) and "allowed" not in str(caught.value)


def test_a_jpeg_of_12_bits_is_of_a_rare_kind(tmp_path):
    data = bytearray(encoded("JPEG"))
    data[data.index(b"\xff\xc0") + 4] = 12
    path = written(tmp_path / "a.jpg", bytes(data))
    with pytest.raises(DataError, match=r"begins as JPEG but .* 12 bits; .* to 8-bit RGB PNG"):
        read_image(path)


def test_a_tiff_of_a_rare_kind_is_described(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, np.dstack([PIXELS] * 3)[..., :7], photometric="minisblack", planarconfig=1
    )
    with pytest.raises(DataError, match=r"7 samples of 8 bits a pixel.* convert it to 8-bit RGB"):
        read_image(path)


def test_a_file_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(image_opening, "MAX_FILE_BYTES", 3 * 2**20)
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.truncate(2**40)  # sparse
    with pytest.raises(DataError, match=r"large\.bin: is larger than 3,145,728 bytes"):
        read_image_file(path)


@pytest.mark.parametrize("size", [0, 5, 2**20, 2**20 + 1, 5 * 2**20])
def test_reading_asks_for_no_more_than_a_piece_at_a_time(size):
    asked = []

    class File(io.BytesIO):
        def read(self, n=-1):
            asked.append(n)
            return super().read(n)

    data = bytes(range(256)) * (size // 256 + 1)
    found = image_opening._read_at_most(File(data[:size]), 3 * 2**20)
    assert found == data[: min(size, 3 * 2**20)]
    assert 0 < min(asked) <= max(asked) <= 2**20
