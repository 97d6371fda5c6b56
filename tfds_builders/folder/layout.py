"""The layout of the user's folder: which files it holds, their ids, and its fingerprint."""

import hashlib
import os
import unicodedata
from collections.abc import Iterator

from etils import epath

from wbc_jax.data import reading
from wbc_jax.errors import DataError

FOLDER = "folder"
LABELS = "labels.csv"
MASK_VALUES = "mask_values.json"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
SKIPPED = ("thumbs.db", "desktop.ini")
"""Files that operating systems leave behind. Hidden files are skipped as well."""

LAYOUT = """
  images/             PNG, JPEG, BMP or TIFF, also in folders below; or by cell type:
  images/neutrophil/  (basophil, eosinophil, lymphocyte, monocyte, neutrophil)
  masks/              for segmentation: a mask of each image, of the same path and name, 8-bit
                      gray PNG: 0 background, 1 cytoplasm, 2 nucleus, 255 ignore
  mask_values.json    optional: what the masks' values mean
  labels.csv          optional: name,label and, if you like, group and um_per_px"""


def find_folder(manual_dir: epath.Path | None) -> epath.Path:
    """Finds the folder that holds `images/`: `manual_dir/folder`, else `manual_dir` itself.

    Raises:
        DataError: neither does; names `config.data.manual_dir` and shows the expected layout.
    """
    if manual_dir is None:
        raise DataError(
            "config.data.manual_dir is empty: set it to the folder that holds your 'images': "
            f"expected is:{LAYOUT}"
        )
    path = resolved(manual_dir)
    for folder in (path / FOLDER, path):
        if (folder / "images").is_dir():
            return folder
    for folder in (path / FOLDER, path):
        check_spelling(folder, "images")
    what = "has no folder 'images'" if path.exists() else "does not exist"
    raise DataError(
        f"{manual_dir}: {what}: expected is:{LAYOUT}\nconfig.data.manual_dir (if empty, "
        "$WBC_JAX_DATA) names the folder that holds these"
    )


def check_spelling(folder: epath.Path, name: str) -> None:
    """Checks that a missing folder `name` is not there under a similar name.

    Raises:
        DataError: there is one in other letters, or in the singular.
    """
    if not folder.is_dir():
        return
    alike = [p for p in folder.iterdir() if p.is_dir() and p.name.lower() in (name, name[:-1])]
    if alike:
        raise DataError(f"{alike[0]}: is read only under the name {name!r}: rename the folder")


def find_files(
    root: epath.Path, suffixes: tuple[str, ...], bad: reading.BadFiles
) -> dict[str, list[epath.Path]]:
    """Finds the images or masks below a folder.

    Args:
        root: `images` or `masks`.
        suffixes: that files may have, in either case. Hidden files and `SKIPPED` are skipped.
        bad: collector of other files, of names that are not UTF-8, and of all but the first file
            of an id.

    Returns:
        Files by id: the path below `root` without its suffix, with `/`, in Unicode form NFC. The
        caller leaves out all files of an id that has several, because nothing says which is meant.
    """
    found: dict[str, list[epath.Path]] = {}
    for path in _walk(root):
        name = relative(path, root)
        stem, suffix = os.path.splitext(name)
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            bad.add(ascii(os.fspath(path)), "its name is not UTF-8: rename the file")
            continue
        if suffix.lower() not in suffixes:
            bad.add(path, f"is no such file as is read here: allowed are {', '.join(suffixes)}")
            continue
        found.setdefault(stem, []).append(path)
    for id, paths in found.items():
        for path in paths[1:]:
            bad.add(path, f"has the id {id!r}, as has {paths[0]}: allowed is one file; rename one")
    return dict(sorted(found.items()))


def fingerprint(folder: epath.PathLike) -> str:
    """Hashes the names and sizes of a folder's images and masks, and its two text files."""
    folder = epath.Path(folder)
    lines = []
    for name in ("images", "masks"):
        if (folder / name).is_dir():
            for path in _walk(folder / name):
                size = path.stat().length if path.exists() else None  # a link to nowhere
                lines.append(f"{relative(path, folder)} {size}")
    for name in (LABELS, MASK_VALUES):
        if (folder / name).exists():
            lines.append(f"{name} {hashlib.sha256((folder / name).read_bytes()).hexdigest()}")
    text = "\n".join(lines).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()


def resolved(path: epath.PathLike) -> epath.Path:
    """Returns an absolute path without links; a path in an object store as it is."""
    text = os.fspath(epath.Path(path).expanduser())
    return epath.Path(text if "://" in text else os.path.realpath(text))


def relative(path: epath.Path, root: epath.PathLike) -> str:
    """Returns the path below `root` with `/`, in form NFC, as some systems use NFD."""
    return unicodedata.normalize("NFC", path.relative_to(root).as_posix())


def _walk(folder: epath.Path, above: tuple[str, ...] = ()) -> Iterator[epath.Path]:
    """Yields all files below a folder in the order of names, without following links upwards."""
    real = os.path.realpath(folder)
    if real in above:
        return
    for path in sorted(folder.iterdir(), key=lambda path: path.name):
        if path.name.startswith(".") or path.name.lower() in SKIPPED:
            continue
        if path.is_dir():
            yield from _walk(path, (*above, real))
        else:
            yield path
