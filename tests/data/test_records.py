"""wbc_jax.data.records: the codecs, the checks, and what bad files say."""

import io
import struct
import time
import zipfile
import zlib

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import example_serializer

from wbc_jax.data import building, images, records
from wbc_jax.data.images import (
    decode_image,
    decode_mask,
    encode_png,
    read_image_file,
    read_mask_file,
)
from wbc_jax.errors import DataError

# Red, green, blue, and a colour whose channels all differ: catches BGR.
COLOURS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 20, 30]]], np.uint8)


def noise(height=9, width=7):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def saved(path, pixels, **options):
    Image.fromarray(pixels).save(path, **options)
    return path


def test_png_round_trips_in_rgb_order():
    assert np.array_equal(decode_image(encode_png(COLOURS)), COLOURS)
    with Image.open(io.BytesIO(encode_png(COLOURS))) as image:
        assert np.array_equal(np.asarray(image), COLOURS)


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


@pytest.mark.parametrize("data", [b"", b"no image", encode_png(COLOURS)[:30]])
def test_decoding_damaged_bytes(data):
    for decode in (decode_image, decode_mask):
        with pytest.raises(DataError, match=f"{len(data)} bytes could not be decoded"):
            decode(data)


def test_decode_mask_refuses_colours():
    with pytest.raises(DataError, match="one 8-bit channel"):
        decode_mask(encode_png(COLOURS))


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_rgb_files_pass_through_byte_for_byte(tmp_path, name):
    path = saved(tmp_path / name, noise())
    data, height, width = read_image_file(path)
    assert data == path.read_bytes()
    assert (height, width) == (9, 7)
    if name.endswith("png"):
        assert np.array_equal(decode_image(data), noise())


def grey16(path, values):
    cv2.imwrite(str(path), values)
    return path


CONVERTED = {
    "bmp": (lambda p: saved(p / "a.bmp", COLOURS), COLOURS),
    "tiff": (lambda p: saved(p / "a.tiff", COLOURS), COLOURS),
    "grey": (
        lambda p: saved(p / "a.png", COLOURS[..., 0].copy()),
        np.repeat(COLOURS[..., :1], 3, -1),
    ),
    "palette": (
        lambda p: (
            Image.fromarray(COLOURS).quantize(8).save(p / "a.png"),
            p / "a.png",
        )[1],
        COLOURS,
    ),
    "alpha": (
        lambda p: saved(
            p / "a.png", np.concatenate([COLOURS, np.full((2, 2, 1), 9, np.uint8)], -1)
        ),
        COLOURS,
    ),
    "16-bit grey": (
        lambda p: grey16(p / "a.png", np.array([[0, 256], [0x1234, 65535]], np.uint16)),
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
        lambda p: saved(p / "a.png", np.dstack([COLOURS[..., 0], COLOURS[..., 1]])),
        np.repeat(COLOURS[..., :1], 3, -1),
    ),
    "16-bit RGB": (
        lambda p: grey16(p / "a.png", COLOURS[..., ::-1].astype(np.uint16) * 257),
        COLOURS,
    ),
}


@pytest.mark.parametrize("kind", CONVERTED)
def test_other_kinds_become_rgb_png(tmp_path, kind):
    write, expected = CONVERTED[kind]
    data, height, width = read_image_file(write(tmp_path))
    assert data[:4] == b"\x89PNG"
    assert data[24:26] == b"\x08\x02"  # 8 bits, RGB
    assert (height, width) == (2, 2)
    assert np.array_equal(decode_image(data), expected)


def test_exif_turn_is_carried_out(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the picture lies on its side: turn by 90 degrees clockwise
    path = saved(tmp_path / "a.png", noise(), exif=exif)
    data, height, width = read_image_file(path)
    assert (height, width) == (7, 9)
    assert np.array_equal(decode_image(data), np.rot90(noise(), -1))


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


def test_mask_file_values(tmp_path):
    grey = np.array([[0, 128], [255, 7]], np.uint8)
    assert np.array_equal(read_mask_file(saved(tmp_path / "a.png", grey)), grey)
    rgb = np.repeat(grey[..., None], 3, -1)
    assert np.array_equal(read_mask_file(saved(tmp_path / "b.png", rgb)), grey)
    cells = grey > 0
    assert np.array_equal(read_mask_file(saved(tmp_path / "c.png", cells)), cells * 255)


BAD_MASKS = {
    "JPEG": (lambda p: saved(p / "a.jpg", np.zeros((9, 9), np.uint8)), "is a JPEG"),
    "colours": (lambda p: saved(p / "a.png", COLOURS), "three different channels"),
    "palette": (
        lambda p: (Image.fromarray(COLOURS).quantize(8).save(p / "a.png"), p / "a.png")[1],
        "palette",
    ),
    "16 bits": (lambda p: grey16(p / "a.png", np.ones((2, 2), np.uint16)), "16-bit"),
}


@pytest.mark.parametrize("kind", BAD_MASKS)
def test_bad_masks_are_named(tmp_path, kind):
    make, reason = BAD_MASKS[kind]
    path = make(tmp_path)
    with pytest.raises(DataError, match=reason) as caught:
        read_mask_file(path)
    assert str(path) in str(caught.value)


def test_example_without_mask_is_all_ignore():
    record = records.example(image=noise(), id="a", source="s")
    assert record.keys() == records.features().keys()
    assert np.array_equal(decode_mask(record["mask"]), np.full((9, 7), 255))
    assert np.array_equal(decode_image(record["image"]), noise())
    assert np.isnan(record["um_per_px"])
    rest = {k: v for k, v in record.items() if k not in ("image", "mask", "um_per_px")}
    assert rest == {
        "has_mask": False,
        "label": -1,
        "id": "a",
        "group": "a",
        "source": "s",
        "subtype": "",
        "label_source": "",
        "height": 9,
        "width": 7,
    }


MASK = np.zeros((9, 7), np.uint8)
BAD_EXAMPLES = {
    "size": ({"mask": MASK.T}, "the mask is 9 x 7 pixels .* and the image 7 x 9 pixels"),
    "values": ({"mask": MASK + 3}, r"3 \(63 pixels\)"),
    "mask dtype": ({"mask": MASK.astype(int)}, "allowed is uint8"),
    "label": ({"label": 5}, "0 to 4"),
    "label type": ({"label": "neutrophil"}, "an integer"),
    "id": ({"id": ""}, "non-empty"),
    "group": ({"group": ""}, "non-empty"),
    "pixel size": ({"um_per_px": 0.0}, "above zero"),
    "image bytes": ({"image": b"GIF89a"}, "neither PNG nor JPEG"),
    "image shape": ({"image": noise()[..., 0]}, r"allowed is uint8 \[H, W, 3\]"),
}


@pytest.mark.parametrize("kind", BAD_EXAMPLES)
def test_example_refuses(kind):
    change, reason = BAD_EXAMPLES[kind]
    with pytest.raises(DataError, match=reason):
        records.example(**{"image": noise(), "id": "a", "source": "s"} | change)


def test_features_hold_a_record():
    record = records.example(
        image=noise(), mask=MASK + 2, label=3, id="a", group="g", source="s", um_per_px=0.5
    )
    features = records.features()
    encoded = features.encode_example(record)
    assert encoded["image"] == record["image"]
    read = features.deserialize_example_np(features.serialize_example(encoded))
    assert np.array_equal(read["image"], noise())
    assert np.array_equal(read["mask"], MASK[..., None] + 2)
    assert (read["label"], read["um_per_px"], read["group"]) == (3, 0.5, b"g")


def test_parse_gives_what_tfds_gives():
    record = records.example(
        image=noise(), mask=MASK + 2, label=-1, id="ä", group="g", source="s", um_per_px=0.5
    )
    features = records.features()
    with records.fixed_order():
        serialized = example_serializer.ExampleSerializer(
            features.get_serialized_info()
        ).serialize_example(features.encode_example(record))
    skip = tfds.decode.SkipDecoding()
    theirs = features.deserialize_example_np(serialized, decoders={"image": skip, "mask": skip})
    assert records.parse(serialized) == theirs
    assert records.parse(serialized)["id"] == "ä".encode()


def test_each_keeps_the_order_and_notes_bad_files():
    def read(number):
        time.sleep(0.002 * (number % 3))  # later ones are done earlier
        if number in (2, 7):
            raise DataError(f"{number} is bad")
        return -number

    for threads in (1, 5):
        bad = building.BadFiles()
        with building.reading(threads, ""):
            found = list(building.each(read, range(40), lambda n: f"/x/{n}", bad))
        assert found == [-n for n in range(40) if n not in (2, 7)]
        assert bad.files == [("/x/2", "2 is bad"), ("/x/7", "7 is bad")]
    with pytest.raises(DataError, match="2 is bad"):
        list(building.each(read, range(40)))


def test_each_reads_only_a_little_ahead():
    started = []
    with building.reading(2, ""):
        found = building.each(started.append, range(1000))
        next(found)
        found.close()
    assert 1 <= len(started) <= 9  # four a thread, and one


def test_each_says_how_far_it_is(capsys):
    with building.reading(2, "cells"):
        assert list(building.each(str, range(3))) == ["0", "1", "2"]
    assert capsys.readouterr().err.startswith("cells 3/3 (100 %)  ")


def test_a_file_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 3 * 2**20)
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
    assert images._read_at_most(File(data[:size]), 3 * 2**20) == data[: min(size, 3 * 2**20)]
    assert 0 < min(asked) <= max(asked) <= 2**20


def test_all_bad_files_are_collected_and_20_are_shown():
    bad = building.bad_files()
    for number in range(25):
        with bad.catch(f"/x/{number:02}.png"):
            raise DataError("broken")
    with pytest.raises(DataError) as caught:
        bad.finish("set")
    message = str(caught.value)
    assert "set: 25 bad files" in message
    assert "/x/19.png: broken" in message
    assert "/x/20.png" not in message
    assert "and 5 more" in message


def test_skip_keeps_the_list():
    with building.on_bad_file("skip") as collector:
        building.bad_files().add("/x/a.png", "broken")
        building.bad_files().finish("set")
    assert collector.files == [("/x/a.png", "broken")]
    assert building.bad_files().policy == "error"


def test_unknown_policy():
    with (
        pytest.raises(DataError, match="allowed are 'error', 'skip'"),
        building.on_bad_file("ignore"),
    ):
        pass


def zipped(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_unzip(tmp_path):
    archive = zipped(tmp_path / "a.zip", **{"set/one": b"1", "set/deep/two": b"2"})
    folder = building.unzip(archive, tmp_path / "out")
    assert (folder / "set/one").read_bytes() == b"1"
    assert (folder / "set/deep/two").read_bytes() == b"2"
    archive.unlink()
    assert building.unzip(archive, folder) == folder  # complete already


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil", "C:/evil"])
def test_unzip_stays_in_its_folder(tmp_path, name):
    archive = zipped(tmp_path / "a.zip", **{"good": b"1", name: b"2"})
    with pytest.raises(DataError, match="would land outside"):
        building.unzip(archive, tmp_path / "deep" / "out")
    assert not list((tmp_path / "deep").glob("out*"))
    assert not list(tmp_path.rglob("evil"))


def test_unzip_makes_no_links(tmp_path):
    link = zipfile.ZipInfo("set/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("set/one", b"1")
        archive.writestr(link, "../../evil")
    with pytest.raises(DataError, match="holds the link 'set/link': allowed are files"):
        building.unzip(tmp_path / "a.zip", tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_unzip_sweeps_what_a_killed_process_left(tmp_path):
    (tmp_path / "out.incomplete.123" / "set").mkdir(parents=True)
    building.unzip(zipped(tmp_path / "a.zip", one=b"1"), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "out"]


@pytest.mark.parametrize("damage", ["text", "cut"])
def test_unzip_damaged(tmp_path, damage):
    archive = zipped(tmp_path / "a.zip", one=b"1" * 999)
    archive.write_bytes(b"<html>" if damage == "text" else archive.read_bytes()[:-30])
    with pytest.raises(DataError, match="damaged one"):
        building.unzip(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unzip_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "MAX_UNZIPPED_BYTES", 10)
    with pytest.raises(DataError, match="more than 10 bytes"):
        building.unzip(zipped(tmp_path / "a.zip", one=b"1" * 11), tmp_path / "out")
