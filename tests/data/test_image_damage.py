"""wbc_jax.data.image_damage: damage that a decoder passes over is a flag with the file's name."""

import concurrent.futures
import io

import cv2
import numpy as np
import pytest
from PIL import Image

from wbc_jax.data.images import read_image, read_with_metadata
from wbc_jax.errors import DataError


def picture(mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (200, 220, 3), np.uint8)
    return Image.fromarray(cv2.GaussianBlur(pixels, (0, 0), 1)).convert(mode)


def encoded(form, mode="RGB", **options):
    file = io.BytesIO()
    picture(mode).save(file, form, **options)
    return file.getvalue()


def zeroed(data, count=2000, start=None):
    """Sets bytes to zero, in the middle of the file."""
    start = (len(data) - count) // 2 if start is None else start
    return data[:start] + bytes(count) + data[start + count :]


JPEGS = {
    "baseline": encoded("JPEG"),
    "progressive": encoded("JPEG", progressive=True),
    "optimized": encoded("JPEG", optimize=True),
    "4:4:4": encoded("JPEG", subsampling=0),
    "4:2:2": encoded("JPEG", subsampling=1),
    "CMYK": encoded("JPEG", "CMYK"),
    "quality 100": encoded("JPEG", quality=100),
    "quality 30": encoded("JPEG", quality=30),
    "restart markers": encoded("JPEG", restart_marker_rows=1),
}


@pytest.mark.parametrize("kind", JPEGS)
def test_zero_bytes_in_the_middle_of_a_jpeg(tmp_path, kind):
    data = JPEGS[kind]
    sound, damaged = tmp_path / "sound.jpg", tmp_path / "damaged.jpg"
    sound.write_bytes(data)
    damaged.write_bytes(zeroed(data))
    found = read_with_metadata(sound)
    assert (found.flags, found.notes) == ((), ())
    found = read_with_metadata(damaged)
    assert found.flags == ("decoder_warning",)
    (note,) = found.notes
    assert note.startswith(f"{damaged}: the decoder warns of damaged pixels (Corrupt JPEG data: ")
    assert note.endswith("fetch the file again, and do not rely on its results")
    assert np.array_equal(found.pixels, read_image(damaged))
    assert not np.array_equal(found.pixels, read_image(sound))


def test_zero_bytes_in_a_jpeg_in_a_tiff(tmp_path):
    data = encoded("TIFF", compression="jpeg")
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    assert read_with_metadata(path).flags == ()
    path.write_bytes(zeroed(data, 500, 2000))  # within the first strip
    found = read_with_metadata(path)
    assert found.flags == ("decoder_warning",) and "Corrupt JPEG data" in found.notes[0]


def test_wrong_bytes_in_a_deflated_tiff(tmp_path):
    data = encoded("TIFF", compression="tiff_adobe_deflate")
    path = tmp_path / "a.tif"
    path.write_bytes(data)
    expected = read_with_metadata(path)
    assert expected.flags == ()
    rng, flagged = np.random.default_rng(0), 0
    for start in rng.integers(len(data) // 4, len(data) // 2, 30):
        path.write_bytes(data[:start] + rng.bytes(20) + data[start + 20 :])
        try:
            found = read_with_metadata(path)
        except DataError:  # libtiff has noticed it, as the pixels do not suffice
            continue
        assert not np.array_equal(found.pixels, expected.pixels)
        assert found.flags == ("decoder_warning",) and "while decompressing" in found.notes[0]
        flagged += 1
    assert flagged > 5


def test_a_wrong_byte_in_a_png_is_an_error(tmp_path):
    data = bytearray(encoded("PNG"))
    data[len(data) // 2] ^= 4
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.png: is truncated or damaged"):
        read_with_metadata(tmp_path / "a.png")


def test_damaged_metadata_are_no_damage_of_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "maker"
    data = encoded("JPEG", exif=exif)
    start = data.index(b"Exif\0\0") + 6
    (tmp_path / "a.jpg").write_bytes(data[:start] + b"\xff" * 12 + data[start + 12 :])
    # A revision that libjpeg does not know, which it warns of too.
    start = JPEGS["baseline"].index(b"JFIF\0") + 5
    changed = JPEGS["baseline"][:start] + b"\x07" + JPEGS["baseline"][start + 1 :]
    (tmp_path / "b.jpg").write_bytes(changed)
    for name in ("a.jpg", "b.jpg"):
        found = read_with_metadata(tmp_path / name)
        assert (found.flags, found.notes) == ((), ())
        assert np.array_equal(found.pixels, decoded(JPEGS["baseline"]))


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def test_each_of_many_threads_gets_the_warnings_of_its_own_file(tmp_path):
    paths = []
    for number in range(40):
        path = tmp_path / f"{number}.jpg"
        data = JPEGS["baseline"]
        path.write_bytes(zeroed(data) if number % 3 == 0 else data)
        paths.append(path)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read_with_metadata, paths))
    assert [f.flags for f in found] == [("decoder_warning",) * (n % 3 == 0) for n in range(40)]
    assert all(str(p) in f.notes[0] for p, f in zip(paths, found, strict=True) if f.flags)


@pytest.mark.parametrize("folder", ["pbc", "raabin_gt", "raabin_wbc", "kaggle_blood_cells"])
def test_real_files_have_no_flag(real_data, folder):
    files = sorted(p for p in (real_data / folder).rglob("*") if p.suffix in (".jpg", ".jpeg"))
    for path in files[:: len(files) // 20 + 1]:
        found = read_with_metadata(path)
        assert (found.flags, found.notes) == ((), ())
        assert (found.um_per_px, found.um_per_px_source) == (None, "")
