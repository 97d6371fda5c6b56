"""wbc_jax.data.archives: zip files are unpacked completely or not at all."""

import zipfile

import pytest

from wbc_jax.data import archives
from wbc_jax.errors import DataError


def zipped(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_unzip(tmp_path):
    archive = zipped(tmp_path / "a.zip", **{"set/one": b"1", "set/deep/two": b"2"})
    folder = archives.unzip(archive, tmp_path / "out")
    assert (folder / "set/one").read_bytes() == b"1"
    assert (folder / "set/deep/two").read_bytes() == b"2"
    archive.unlink()
    assert archives.unzip(archive, folder) == folder  # complete already


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil", "C:/evil"])
def test_unzip_stays_in_its_folder(tmp_path, name):
    archive = zipped(tmp_path / "a.zip", **{"good": b"1", name: b"2"})
    with pytest.raises(DataError, match="would land outside"):
        archives.unzip(archive, tmp_path / "deep" / "out")
    assert not list((tmp_path / "deep").glob("out*"))
    assert not list(tmp_path.rglob("evil"))


def test_unzip_makes_no_links(tmp_path):
    link = zipfile.ZipInfo("set/link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("set/one", b"1")
        archive.writestr(link, "../../evil")
    with pytest.raises(DataError, match="holds the link 'set/link': allowed are files"):
        archives.unzip(tmp_path / "a.zip", tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_unzip_sweeps_what_a_killed_process_left(tmp_path):
    (tmp_path / "out.incomplete.123" / "set").mkdir(parents=True)
    archives.unzip(zipped(tmp_path / "a.zip", one=b"1"), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "out"]


@pytest.mark.parametrize("damage", ["text", "cut"])
def test_unzip_damaged(tmp_path, damage):
    archive = zipped(tmp_path / "a.zip", one=b"1" * 999)
    archive.write_bytes(b"<html>" if damage == "text" else archive.read_bytes()[:-30])
    with pytest.raises(DataError, match="damaged one"):
        archives.unzip(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unzip_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_UNZIPPED_BYTES", 10)
    with pytest.raises(DataError, match="more than 10 bytes"):
        archives.unzip(zipped(tmp_path / "a.zip", one=b"1" * 11), tmp_path / "out")
