"""Slides: formats, parts at any level, magnification, and what is refused."""

import os
import shutil
import sys
from concurrent import futures

import cv2
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from helpers import drawn_slides
from wbc_jax.data import slide, slides
from wbc_jax.errors import DataError

NAMES = {
    "a.svs": "Aperio SVS", "a.ndpi": "hamamatsu (OpenSlide)", "a.tif": "tiled TIFF",
    "a.ome.tif": "OME-TIFF", "a.ome.zarr": "OME-Zarr",
}  # fmt: skip


@pytest.fixture(scope="module")
def image():
    """A picture whose colors differ everywhere, and that JPEG hardly changes."""
    y, x = np.mgrid[:700, :900]
    planes = [120 + 80 * np.sin(x / 90), 120 + 80 * np.cos(y / 70), 100 + (x + y) / 20]
    return np.stack(planes, -1).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, image):
    folder = tmp_path_factory.mktemp("slides")
    for name in NAMES:
        drawn_slides.write(folder / name, image)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_parts_of_each_format(folder, image, name):
    path = folder / name
    assert slides.is_slide(path)
    found = slides.open_slide(path)
    assert found.kind == NAMES[name] and found.notes == ()
    assert found.size == (700, 900) and len(found.levels) >= 3
    assert found.um_per_px == pytest.approx(drawn_slides.UM_PER_PX, rel=1e-4)
    for level, whole in enumerate(drawn_slides.pyramid(image)):
        height, width = whole.shape[:2]
        assert found.levels[level].size == (height, width)
        # Across the borders of tiles, to the slide's corner.
        for box in ((0, 0, 40, 30), (100, 50, 171, 190), (height - 33, width - 55, height, width)):
            part = found.read(box, level)
            truth = whole[box[0] : box[2], box[1] : box[3]]
            assert part.shape == truth.shape and part.dtype == np.uint8
            # JPEG spreads what fills up the last tiles, so their median alone is compared.
            far = np.abs(part.astype(int) - truth)
            assert (np.median(far) if box[0] > 100 else far.max()) <= (0 if "zarr" in name else 12)
    for longest, factor in ((450, 2), (300, 4)):
        small, unread = found.overview(longest)
        whole = cv2.resize(image, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
        assert small.shape == whole.shape and not unread.any()
        assert np.abs(small.astype(int) - whole).mean() < 1
    found.close()


@pytest.mark.parametrize("name", NAMES)
def test_many_threads_read_the_same(folder, name):
    """Without a lock of its own a TIFF's file was moved between a thread's search and its read."""
    opened = slides.open_slide(str(folder / name))
    boxes = [(y, x, y + 128, x + 128) for y in range(0, 384, 128) for x in range(0, 512, 128)]
    alone = [opened.read(box) for box in boxes]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with futures.ThreadPoolExecutor(8) as pool:
            found = list(pool.map(opened.read, boxes * 40))
    finally:
        sys.setswitchinterval(before)
    assert all(np.array_equal(one, alone[i % len(boxes)]) for i, one in enumerate(found))


def test_bounds_of_what_was_scanned(folder, image, monkeypatch):
    import openslide

    about = {"x": 200, "y": 100, "width": 400, "height": 300}
    known = openslide.OpenSlide.properties.fget

    def properties(self):
        return dict(known(self)) | {f"openslide.bounds-{k}": str(v) for k, v in about.items()}

    monkeypatch.setattr(openslide.OpenSlide, "properties", property(properties))
    found = slides.open_slide(folder / "a.ndpi")
    assert [level.size for level in found.levels[:2]] == [(300, 400), (150, 200)]
    part = found.read((10, 20, 110, 140))
    assert np.abs(part.astype(int) - image[110:210, 220:340]).max() <= 12


@pytest.mark.parametrize("name", NAMES)
def test_without_magnification(tmp_path, image, name):
    found = slides.open_slide(drawn_slides.write(tmp_path / name, image, um_per_px=None))
    assert (found.um_per_px, found.um_per_px_source) == (None, "")


def test_images_are_no_slides(tmp_path, image, monkeypatch):
    for name, options in (
        ("plain.tif", {}), ("tiled.tif", {"tile": (256, 256)}), ("one.ome.tif", {"metadata": {}}),
    ):  # fmt: skip
        tifffile.imwrite(tmp_path / name, image, photometric="rgb", **options)
        assert not slides.is_slide(tmp_path / name)
    Image.fromarray(image).save(tmp_path / "a.png")
    (tmp_path / "broken.tif").write_bytes(b"II*\0 broken")
    (tmp_path / "folder").mkdir()
    for name in ("a.png", "broken.tif", "folder", "missing.tif"):
        assert not slides.is_slide(tmp_path / name)
    # Above the largest image a TIFF is a slide, with strips as well.
    monkeypatch.setattr(slides, "MAX_PIXELS", 1000)
    assert slides.is_slide(tmp_path / "plain.tif")
    part = slides.open_slide(tmp_path / "plain.tif").read((5, 6, 300, 400))
    np.testing.assert_array_equal(part, image[5:300, 6:400])


def _break_tile(path, level, number):
    with tifffile.TiffFile(path) as tif:
        page = (
            tif.series[0].levels[level].pages[0] if tif.is_ome or tif.is_svs else tif.pages[level]
        )
        offset, count = page.dataoffsets[number], page.databytecounts[number]
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(bytes(count))


@pytest.mark.parametrize("name", ["a.svs", "a.tif", "a.ome.tif"])
def test_a_broken_tile_is_named_by_its_place(folder, tmp_path, image, name):
    path = shutil.copy(folder / name, tmp_path)
    _break_tile(path, 0, 5)  # of four columns: the second row, the second column
    _break_tile(path, 1, 0)
    found = slides.open_slide(path)
    with pytest.raises(DataError, match="tile at x 256 to 512, y 256 to 512 is damaged"):
        found.read((200, 200, 300, 300))
    assert found.read((0, 0, 256, 512)).shape == (256, 512, 3)
    with pytest.raises(DataError, match="tile at x 0 to 512, y 0 to 512 is damaged"):
        found.read((0, 0, 20, 20), 1)
    small, unread = found.overview(450)  # of the second level
    assert unread[:256, :256].all() and (small[unread] == 128).all()
    assert not unread[320:].any() and not unread[:, 320:].any()


def test_a_truncated_slide(folder, tmp_path):
    path = shutil.copy(folder / "a.ndpi", tmp_path)
    os.truncate(path, os.path.getsize(path) // 2)
    with pytest.raises(DataError, match=r"a\.ndpi: .*(truncated or damaged|no format like it)"):
        slides.open_slide(path)


def test_a_slide_that_is_truncated_behind_its_finest_level(folder, tmp_path, image, capfd):
    path = shutil.copy(folder / "a.svs", tmp_path)
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        end = max(map(sum, zip(page.dataoffsets, page.databytecounts)))
        end = max(end, page.tags["TileByteCounts"].valueoffset, tif.pages[1].offset)
    os.truncate(path, end + 400)
    found = slides.open_slide(path)
    assert "a.svs: is truncated or damaged, if not in its finest level (" in found.notes[0]
    assert (
        np.abs(found.read((0, 0, 700, 900))[:600, :700].astype(int) - image[:600, :700]).max() < 13
    )
    assert capfd.readouterr().err == ""


def test_a_broken_chunk_is_named_by_its_place(folder, tmp_path):
    path = shutil.copytree(folder / "a.ome.zarr", tmp_path / "a.ome.zarr")
    chunk = path / "0" / "0.0.0.1.2"
    (chunk if chunk.exists() else path / "0" / "0" / "0" / "0" / "1" / "2").write_bytes(b"broken")
    found = slides.open_slide(path)
    with pytest.raises(DataError, match="tile at x 512 to 768, y 256 to 512 is damaged"):
        found.read((100, 100, 400, 700))


@pytest.mark.parametrize("name", NAMES)
def test_a_slide_that_vanishes(folder, tmp_path, name):
    path = tmp_path / name
    (shutil.copytree if (folder / name).is_dir() else shutil.copy)(folder / name, path)
    found = slides.open_slide(path)
    found.read((0, 0, 10, 10))
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError):
        found.read((100, 100, 600, 600))


def _zarr(path, data, axes):
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("0", data=data)
    named = [{"name": axis} for axis in axes]
    group.attrs["multiscales"] = [{"axes": named, "datasets": [{"path": "0"}]}]


def test_refused(tmp_path, image):
    tiled = {"tile": (256, 256), "photometric": "minisblack"}
    gray = image[..., 0]
    tifffile.imwrite(tmp_path / "stack.svs", np.stack([image] * 5), photometric="rgb",
                     tile=(256, 256), ome=True, metadata={"axes": "ZYXS"})  # fmt: skip
    tifffile.imwrite(tmp_path / "dyes.svs", np.stack([gray] * 4), ome=True,
                     metadata={"axes": "CYX"}, **tiled)  # fmt: skip
    tifffile.imwrite(tmp_path / "deep.svs", image.astype(np.uint16), photometric="rgb",
                     tile=(256, 256))  # fmt: skip
    tifffile.imwrite(tmp_path / "macro.svs", image, photometric="rgb",
                     description="Aperio Image Library v12.0.0\r\nmacro 900x700")  # fmt: skip
    Image.fromarray(image).save(tmp_path / "macro.jpg")
    (tmp_path / "macro.jpg").rename(tmp_path / "jpeg.svs")
    (tmp_path / "alone.mrxs").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "text.ndpi").write_bytes(b"no slide at all")
    (tmp_path / "empty.svs").write_bytes(b"")
    _zarr(tmp_path / "stack.zarr", np.zeros((7, 3, 64, 64), np.uint8), "zcyx")
    _zarr(tmp_path / "dyes.zarr", np.zeros((5, 64, 64), np.uint8), "cyx")
    zarr.open_group(tmp_path / "table.zarr", mode="w", zarr_format=2)
    drawn_slides.write(tmp_path / "coarse.svs", image, um_per_px=2.0)
    drawn_slides.write(tmp_path / "overview.ome.tif", image, um_per_px=2.0)
    drawn_slides.write(tmp_path / "planes.ndpi", image, planes=3)
    for name, text in {
        "stack.svs": "has 5 focal planes: allowed is one",
        "dyes.svs": "has 4 channels: allowed is RGB",
        "deep.svs": "samples of uint16",
        "macro.svs": "900 x 700 pixels and no tiles",
        "jpeg.svs": "named as a slide, but is none",
        "alone.mrxs": f"the folder {tmp_path}/alone is missing",
        "text.ndpi": "OpenSlide knows no format like it: copy it again",
        "empty.svs": "is empty: copy it again",
        "stack.zarr": "has 7 focal planes",
        "dyes.zarr": "has 5 channels",
        "table.zarr": "no image of OME-Zarr",
        "planes.ndpi": "has 3 focal planes",
    }.items():
        assert slides.is_slide(tmp_path / name)
        with pytest.raises(DataError, match=text) as raised:
            slides.open_slide(tmp_path / name)
        assert str(raised.value).startswith(str(tmp_path / name))
    # A size that no blood smear's pixels have is not taken for one, as in images.
    assert "was not used" in slides.open_slide(tmp_path / "overview.ome.tif").notes[0]
    with pytest.raises(FileNotFoundError):
        slides.open_slide(tmp_path / "none.svs")


def test_the_extra_is_named(folder, monkeypatch):
    find = slides.importlib.util.find_spec
    monkeypatch.setattr(
        slides.importlib.util, "find_spec", lambda name: None if name == "zarr" else find(name)
    )
    with pytest.raises(DataError, match=r"\(zarr missing\): pip install 'wbc_jax\[slides\]'"):
        slides.open_slide(folder / "a.svs")


def test_the_state_of_a_slide_changes_with_its_file(folder, tmp_path):
    path = shutil.copytree(folder / "a.ome.zarr", tmp_path / "a.ome.zarr")
    before = slide.state(str(path))
    (path / ".zattrs").write_text("{}")
    assert slide.state(str(path)) != before


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.tif")
    assert not slides.is_slide(tmp_path / "pipe.tif")
