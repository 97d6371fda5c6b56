"""Unpacking the zip files that data sets are published in."""

import stat
import uuid
import zipfile
import zlib

from etils import epath

from wbc_jax.errors import DataError

MAX_UNZIPPED_BYTES = 8 * 2**30
"""Larger archives are refused; every data set here is far smaller."""


def unzip(archive: epath.PathLike, folder: epath.PathLike) -> epath.Path:
    """Unpacks a zip file completely or not at all. TFDS's own extraction needs TensorFlow.

    Args:
        archive: the zip file.
        folder: where to unpack. An existing folder is complete, so it is returned as it is.

    Returns:
        `folder`.

    Raises:
        DataError: the file is no zip file or a damaged one, unpacks to more than
            `MAX_UNZIPPED_BYTES`, or holds a link or a member that would land outside the folder.
    """
    folder = epath.Path(folder)
    if folder.exists():
        return folder
    for leftover in folder.parent.glob(f"{folder.name}.incomplete.*"):
        leftover.rmtree()  # of a process that was killed
    partial = folder.parent / f"{folder.name}.incomplete.{uuid.uuid4().hex}"
    try:
        with epath.Path(archive).open("rb") as file, zipfile.ZipFile(file) as members:
            infos = [info for info in members.infolist() if not info.is_dir()]
            if sum(info.file_size for info in infos) > MAX_UNZIPPED_BYTES:
                raise DataError(
                    f"{archive}: unpacks to more than {MAX_UNZIPPED_BYTES:,} bytes: it is not the "
                    "authors' file; remove it"
                )
            for info in infos:
                parts = info.filename.replace("\\", "/").split("/")
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise DataError(
                        f"{archive}: holds the link {info.filename!r}: allowed are files; it is "
                        "not the authors' file; remove it"
                    )
                if ".." in parts or not parts[0] or ":" in parts[0]:
                    raise DataError(
                        f"{archive}: holds {info.filename!r}, which would land outside {folder}: "
                        "it is not the authors' file; remove it"
                    )
                target = partial.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(members.read(info))
        try:
            partial.rename(folder)
        except OSError:  # another process has unpacked it meanwhile
            if not folder.exists():
                raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(
            f"{archive}: is no zip file, or a damaged one ({error}): remove it and download again"
        ) from error
    finally:
        if partial.exists():
            partial.rmtree()
    return folder
