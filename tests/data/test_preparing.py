"""wbc_jax.data.preparing, killed or on a full disk: half-written records never count as prepared.

Once prepared, the records have the bytes of an undisturbed preparation.
"""

import errno
import hashlib
import os
import pathlib
import random
import resource
import signal
import time

import numpy as np
import pytest
from etils import epath
from PIL import Image
from tensorflow_datasets.core import dataset_info, file_adapters

from helpers import tiny_runs
from wbc_jax.config import Data
from wbc_jax.data import building, duplicates, preparing, sources
from wbc_jax.data.images import read_image_file
from wbc_jax.errors import DataError
from wbc_jax.labels import CELL_TYPES
from wbc_jax.utils import atomic

NAME = "pbc/five"
IMAGES = 40


@pytest.fixture(scope="module")
def manual_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("manual")
    for number in range(IMAGES):
        kind = CELL_TYPES[number % 5]
        file = root / "pbc" / kind / f"{kind[:2].upper()}_{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (90, 90, 3), np.uint8)
        Image.fromarray(pixels).save(file)
    (root / "pbc" / "basophil" / "BA_bad.jpg").write_bytes(b"")
    return root


def data(manual_dir, data_dir):
    return Data(
        datasets=(NAME,),
        data_dir=str(data_dir),
        manual_dir=str(manual_dir),
        on_bad_file="skip",
        threads=2,
    )


def tree(folder):
    """Every file below a folder, hidden ones too, with its SHA-256."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(pathlib.Path(folder).rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def expected(manual_dir, tmp_path_factory):
    """The files of a preparation that nothing disturbs, and how long it takes."""
    folder = tmp_path_factory.mktemp("whole")
    start = time.monotonic()
    left_out = preparing.prepare(NAME, data(manual_dir, folder))
    seconds = time.monotonic() - start
    assert [pathlib.Path(path).name for path, _ in left_out] == ["BA_bad.jpg"]
    found = tree(folder)
    assert {pathlib.Path(name).name for name in found} == {
        "pbc-train.array_record-00000-of-00001",
        "dataset_info.json",
        "features.json",
        "metadata.json",
        sources.INDEX,
        preparing.LEFT_OUT,
    }
    return found, seconds


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def at(number, call):
    """`call`, which dies the `number`th time that it is called."""
    calls = iter(range(1, number + 1))

    def counted(*args, **kwargs):
        if next(calls) == number:
            die()
        return call(*args, **kwargs)

    return counted


def at_a_shard(cls, path, examples):
    def some():
        for number, example in enumerate(examples):
            if number == IMAGES // 2:
                die()
            yield example

    return WRITE(path, some())


def before_the_rename(self, *args, **kwargs):
    INFO(self, *args, **kwargs)
    die()


WRITE = file_adapters.ArrayRecordFileAdapter.write_examples
INFO = dataset_info.DatasetInfo.write_to_directory


# Where a child dies: (object, attribute, what stands there instead).
POINTS = {
    "at an image": (building, "read_image_file", at(IMAGES // 2, read_image_file)),
    "at a shard": (
        file_adapters.ArrayRecordFileAdapter,
        "write_examples",
        classmethod(at_a_shard),
    ),
    "before the rename": (dataset_info.DatasetInfo, "write_to_directory", before_the_rename),
    "before the list of files left out": (atomic, "write_json", at(1, atomic.write_json)),
    "at the index": (duplicates, "perceptual_hash", at(9, duplicates.perceptual_hash)),
    "before the index is renamed": (type(epath.Path("/")), "replace", lambda self, to: die()),
}


def child(settings, point, limit):
    if point:
        owner, attribute, instead = POINTS[point]
        if point == "before the index is renamed":
            # TFDS and the list of the files left out rename before.
            rename = owner.replace

            def instead(self, to):
                return die() if to.name == sources.INDEX else rename(self, to)

        setattr(owner, attribute, instead)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        preparing.prepare(NAME, settings)
    except DataError as error:
        pathlib.Path(settings.data_dir, "said.txt").write_text(str(error))


@pytest.fixture(scope="module")
def start():
    """Starts a preparation in a process of its own, which has imported everything already.

    It is no fork of this process: protobuf orders a map's fields otherwise in every program.
    """

    def run(settings, point="", limit=0):
        process = tiny_runs.FORKS.Process(target=child, args=(settings, point, limit))
        process.start()
        return process

    return run


def finish(process):
    process.join(240)
    code = process.exitcode
    assert code is not None
    return code


@pytest.mark.parametrize("point", POINTS)
def test_killed_at(manual_dir, expected, start, tmp_path, point):
    settings = data(manual_dir, tmp_path)
    assert finish(start(settings, point)) == -signal.SIGKILL
    assert tree(tmp_path) != expected[0]
    if point in ("at an image", "at a shard", "before the rename"):
        assert not preparing.is_prepared(NAME, settings)
        assert len(list(tmp_path.glob("pbc/five/incomplete.*"))) == 1
    preparing.prepare(NAME, settings)
    assert tree(tmp_path) == expected[0]
    assert not list(tmp_path.rglob("incomplete.*"))


def test_killed_at_any_time(manual_dir, expected, start, tmp_path):
    settings = data(manual_dir, tmp_path)
    draw = random.Random()
    codes = []
    for _ in range(5):
        process = start(settings)
        time.sleep(draw.uniform(0, expected[1]))
        process.kill()
        codes.append(finish(process))
        assert len(list(tmp_path.glob("pbc/five/incomplete.*"))) <= 1  # nothing piles up
    assert set(codes) <= {0, -signal.SIGKILL}
    assert finish(start(settings)) == 0
    assert tree(tmp_path) == expected[0]


def test_two_at_once_take_turns(manual_dir, expected, start, tmp_path):
    both = [start(data(manual_dir, tmp_path)) for _ in range(2)]
    assert [finish(process) for process in both] == [0, 0]
    assert tree(tmp_path) == expected[0]


def check_nothing_is_there(settings):
    assert not preparing.is_prepared(NAME, settings)
    left = {pathlib.Path(name).name for name in tree(settings.data_dir)}
    assert left <= {"metadata.json"}  # TFDS's note of the default config
    with pytest.raises(DataError, match="no records in"):
        sources.load(NAME, settings)


def test_a_file_that_cannot_grow(manual_dir, expected, start, tmp_path):
    """The writer's own failure, as on a full disk, but for the reason that it gives."""
    settings = data(manual_dir, tmp_path)
    assert finish(start(settings, limit=30_000)) == 0
    said = tmp_path / "said.txt"
    assert "pbc/five: the records could not be written to" in said.read_text()
    assert "File too large" in said.read_text() and "config.data.data_dir" in said.read_text()
    said.unlink()
    check_nothing_is_there(settings)
    preparing.prepare(NAME, settings)
    assert tree(tmp_path) == expected[0]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("call", ["mkdir", "write_text", "rename"])
def test_disk_that_refuses(manual_dir, expected, tmp_path, monkeypatch, call, number):
    settings = data(manual_dir, tmp_path)

    def refuse(self, *args, **kwargs):
        raise OSError(number, os.strerror(number), str(self))

    with monkeypatch.context() as patch:
        patch.setattr(type(epath.Path("/")), call, refuse)
        with pytest.raises(DataError) as caught:
            preparing.prepare(NAME, settings)
    assert "pbc/five: the records could not be written to" in str(caught.value)
    assert os.strerror(number) in str(caught.value)
    assert "config.data.data_dir" in str(caught.value)
    check_nothing_is_there(settings)
    preparing.prepare(NAME, settings)
    assert tree(tmp_path) == expected[0]


def test_source_that_cannot_be_read_is_not_put_down_to_the_records(manual_dir, tmp_path):
    settings = data(manual_dir, tmp_path)
    made = sources.builder(NAME, settings)
    denied = PermissionError(errno.EACCES, "denied", str(manual_dir / "pbc"))
    assert not preparing._is_of_writing(denied, made)
    assert preparing._is_of_writing(OSError(errno.ENOSPC, "full"), made)
    assert not preparing._is_of_writing(RuntimeError("a mistake"), made)


def test_index_on_a_full_disk_is_made_anew_each_time(manual_dir, expected, tmp_path, monkeypatch):
    settings = data(manual_dir, tmp_path)

    def refuse(*_):
        raise OSError(errno.ENOSPC, "full")

    preparing.prepare(NAME, settings)
    index = next(tmp_path.rglob(sources.INDEX))
    index.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(atomic, "write_bytes", refuse)
        assert len(sources.load(NAME, settings)) == IMAGES
    assert not index.exists()
    assert len(sources.load(NAME, settings)) == IMAGES
    assert tree(tmp_path) == expected[0]


def test_files_left_out_are_told_to_everyone(manual_dir, expected, tmp_path):
    settings = data(manual_dir, tmp_path)
    first = preparing.prepare(NAME, settings)
    assert preparing.prepare(NAME, settings) == first and "empty" in first[0][1]
    settings.on_bad_file = "error"
    with pytest.raises(DataError, match=r"made without 1 bad files, such as .*BA_bad"):
        preparing.prepare(NAME, settings)


def test_nothing_but_bad_files(tmp_path):
    for kind in CELL_TYPES:
        (tmp_path / "manual" / kind).mkdir(parents=True)
        (tmp_path / "manual" / kind / "X_1.jpg").write_bytes(b"")
    settings = data(tmp_path / "manual", tmp_path / "records")
    with pytest.raises(DataError, match="pbc/five: no record is left: 5 files are bad; "):
        preparing.prepare(NAME, settings)
    assert not preparing.is_prepared(NAME, settings)
