"""wbc_jax.data.image_depth: 16-bit samples are scaled by the range that the camera used."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from wbc_jax.data import image_depth, images
from wbc_jax.data.images import decode_image, read_image, read_image_file, read_with_metadata
from wbc_jax.errors import DataError


def smear(height=40, width=48):
    """All 256 values, in colors that differ from channel to channel."""
    values = np.arange(height * width * 3) * 7 % 256
    return values.reshape(height, width, 3).astype(np.uint8)


def rounded(v, bits):
    return np.round(v * ((2**bits - 1) / 255)).astype(np.uint16)


def cut(v, bits):
    return (v.astype(np.int64) * (2**bits - 1) // 255).astype(np.uint16)


def shifted(v, bits):
    return v.astype(np.uint16) << (bits - 8)


def write_cv(path, samples):
    assert cv2.imwrite(str(path), samples[..., ::-1] if samples.ndim == 3 else samples)


def write_tiff(path, samples, **options):
    tifffile.imwrite(path, samples, photometric="rgb" if samples.ndim == 3 else None, **options)


def write_planes(path, samples):
    write_tiff(path, np.moveaxis(samples, -1, 0), planarconfig="separate")


WRITERS = {
    "PNG": ("a.png", write_cv),
    "TIFF": ("a.tif", write_tiff),
    "TIFF, big-endian": ("a.tif", lambda p, s: write_tiff(p, s, byteorder=">")),
    "TIFF, LZW": ("a.tiff", write_cv),
    "TIFF, deflate": ("a.tif", lambda p, s: write_tiff(p, s, compression="zlib", predictor=True)),
    "TIFF, tiles": ("a.tif", lambda p, s: write_tiff(p, s, tile=(16, 16))),
    "TIFF, planes": ("a.tif", write_planes),
    "PPM": ("a.ppm", write_cv),
    # Images of 32 x 32 and more only: OpenCV's JPEG 2000 writer refuses smaller ones.
    "JPEG 2000": (
        "a.jp2",
        lambda p, s: cv2.imwrite(
            str(p), s[..., ::-1], [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]
        ),
    ),
}


@pytest.mark.parametrize("copy", [rounded, cut, shifted])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("kind", WRITERS)
def test_copies_in_16_bits_have_the_pixels_of_the_8_bit_image(tmp_path, kind, bits, copy):
    name, write = WRITERS[kind]
    pixels = smear(64, 64) if kind == "JPEG 2000" else smear()
    path = tmp_path / name
    write(path, copy(pixels, bits))
    found = read_with_metadata(path)
    assert np.array_equal(found.pixels, pixels) and found.pixels.flags.c_contiguous
    assert np.array_equal(read_image(path), pixels)
    assert np.array_equal(decode_image(read_image_file(path)[0]), pixels)
    assert found.flags == ((f"scaled_{bits}_bit",) if bits < 16 else ())
    assert len(found.notes) == len(found.flags)
    if bits < 16:
        largest = int(copy(pixels, bits).max())
        assert f"{path}: its 16-bit samples were read as values of {bits} bits" in found.notes[0]
        assert f"0 to {2**bits - 1}" in found.notes[0] and str(largest) in found.notes[0]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_gray_copies_have_the_pixels_of_the_8_bit_image(tmp_path, kind, bits):
    name, write = WRITERS[kind]
    gray = smear()[..., 0]
    for copy in (rounded, cut, shifted):
        write(tmp_path / name, copy(gray, bits))
        assert np.array_equal(read_image(tmp_path / name), np.dstack([gray] * 3))


def test_8_bit_values_in_16_bits(tmp_path):
    write_cv(tmp_path / "a.png", smear().astype(np.uint16))
    found = read_with_metadata(tmp_path / "a.png")
    assert np.array_equal(found.pixels, smear()) and found.flags == ("scaled_8_bit",)


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_the_largest_value_decides_without_a_tag(bits):
    for largest in (0 if bits == 8 else 2 ** (bits - 2), 2**bits - 1):
        assert image_depth.sample_range(largest, None, "").bits == bits


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_how_dark_a_copy_may_be_without_a_tag(tmp_path, bits):
    values = np.clip(smear(), 0, 64)
    for copy in (rounded, cut, shifted):
        write_cv(tmp_path / "a.png", copy(values, bits))
        assert np.array_equal(read_image(tmp_path / "a.png"), values)
    # Below 64 it is taken for one of fewer bits, and the flag says of how many.
    write_cv(tmp_path / "a.png", shifted(np.clip(smear(), 0, 63), bits))
    found = read_with_metadata(tmp_path / "a.png")
    assert found.pixels.max() > 200
    assert found.flags == (f"scaled_{bits - 2}_bit",)


def with_chunk(path, kind, body):
    """Writes a chunk behind a PNG's header."""
    data = path.read_bytes()
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    path.write_bytes(data[:33] + chunk + data[33:])


def stated_png(path, samples, bits):
    write_cv(path, samples)
    with_chunk(path, b"sBIT", bytes([bits] * 3))


def stated_tiff(tag):
    def write(path, samples, bits):
        write_tiff(path, samples, extratags=[(tag, 3, 3, (2**bits - 1,) * 3, True)])

    return write


def stated_ome(path, samples, bits):
    write_tiff(path, samples, ome=True, metadata={"axes": "YXS", "SignificantBits": bits})


STATED = {
    "sBIT": ("a.png", stated_png),
    "MaxSampleValue": ("a.tif", stated_tiff(281)),
    "SMaxSampleValue": ("a.tif", stated_tiff(341)),
    "SignificantBits": ("a.ome.tif", stated_ome),
}


@pytest.mark.parametrize("tag", STATED)
def test_a_tag_wins_over_the_largest_value(tmp_path, tag):
    name, write = STATED[tag]
    path = tmp_path / name
    dark = smear() // 8  # below 32 of 255
    for bits in (12, 16):
        write(path, shifted(dark, bits), bits)
        found = read_with_metadata(path)
        assert np.array_equal(found.pixels, dark)
        assert found.flags == (("scaled_12_bit",) if bits == 12 else ())
        assert [f"{tag} says so" in note for note in found.notes] == [True] * (bits == 12)


@pytest.mark.parametrize("tag", STATED)
def test_a_tag_that_the_values_exceed_is_wrong(tmp_path, tag):
    name, write = STATED[tag]
    write(tmp_path / name, shifted(smear(), 14), 12)
    found = read_with_metadata(tmp_path / name)
    assert np.array_equal(found.pixels, smear()) and found.flags == ("scaled_14_bit",)


def test_a_png_that_was_scaled_to_16_bits_as_its_standard_asks(tmp_path):
    stated_png(tmp_path / "a.png", rounded(smear(), 16), 12)
    found = read_with_metadata(tmp_path / "a.png")
    assert np.array_equal(found.pixels, smear()) and found.flags == ()


@pytest.mark.parametrize("largest", [1023, 4095])
def test_the_largest_value_of_a_ppm_is_in_its_header(tmp_path, largest):
    dark = shifted(smear() // 8, largest.bit_length()).astype(">u2")
    path = tmp_path / "a.ppm"
    path.write_bytes(b"P6\n# a camera\n48 40\n%d\n" % largest + dark.tobytes())
    found = read_with_metadata(path)
    assert np.array_equal(found.pixels, smear() // 8)
    assert found.flags == (f"scaled_{largest.bit_length()}_bit",)


def test_alpha_has_no_part_in_the_range(tmp_path):
    alpha = np.full((40, 48, 1), 65535, np.uint16)
    samples = np.concatenate([shifted(smear(), 12), alpha], -1)
    cv2.imwrite(str(tmp_path / "a.png"), samples[..., [2, 1, 0, 3]])
    write_tiff(tmp_path / "a.tif", samples, extrasamples=["unassalpha"])
    for name in ("a.png", "a.tif"):
        assert np.array_equal(read_image(tmp_path / name), smear())


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_files_in_16_bits(tmp_path, orientation):
    # Pillow turns TIFF by itself, OpenCV too; PNG neither.
    expected = Image.fromarray(smear())
    turn = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_270],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_90],
    }
    for step in turn.get(orientation, []):
        expected = expected.transpose(step)
    write_tiff(tmp_path / "a.tif", shifted(smear(), 12), extratags=[(274, 3, 1, orientation, True)])
    write_cv(tmp_path / "a.png", shifted(smear(), 12))
    exif = Image.Exif()
    exif[274] = orientation
    with_chunk(tmp_path / "a.png", b"eXIf", exif.tobytes()[6:])
    for name in ("a.tif", "a.png"):
        assert np.array_equal(read_image(tmp_path / name), np.asarray(expected)), name


def test_16_bits_that_opencv_cannot_decode(tmp_path, monkeypatch):
    write_cv(tmp_path / "a.png", shifted(smear(), 12))
    monkeypatch.setattr(cv2, "imdecode", lambda *_: None)
    with pytest.raises(DataError, match=r"a\.png: its 16-bit samples could not be decoded: conv"):
        read_image(tmp_path / "a.png")


def test_a_png_whose_chunk_claims_more_than_the_file_is_not_given_to_opencv(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    write_cv(path, shifted(smear(), 12))
    data = path.read_bytes()
    start = data.index(b"IDAT") - 4
    path.write_bytes(data[:start] + b"\x40" + data[start + 1 :])  # 1 GiB, which OpenCV sets aside
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("given to OpenCV"))
    with pytest.raises(DataError, match=r"a\.png: "):
        read_image(path)


def test_jpeg_2000_states_its_bits():
    for samples, bits in ((smear(64, 64), 8), (rounded(smear(64, 64), 16), 16)):
        data = cv2.imencode(".jp2", samples)[1].tobytes()
        assert image_depth._codestream_bits(data) == bits
    assert image_depth._codestream_bits(b"no codestream") is None


def test_8_bit_files_have_no_flag(tmp_path):
    file = io.BytesIO()
    Image.fromarray(smear()).save(file, "PNG")
    (tmp_path / "a.png").write_bytes(file.getvalue())
    assert images.read_with_metadata(tmp_path / "a.png").flags == ()
