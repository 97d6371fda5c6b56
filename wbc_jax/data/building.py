"""Tools of the data sets' builders: bad files, reading on threads, exclusions, folders, archives.

The builders under `tfds_builders/` turn authors' files into records with these.
"""

import collections
import contextlib
import contextvars
import csv
import dataclasses
import io
import os
import stat
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import TypeVar

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from wbc_jax.data.images import describe_size
from wbc_jax.errors import DataError
from wbc_jax.utils.progress import Progress

MAX_UNZIPPED_BYTES = 8 * 2**30
"""Larger archives are refused: no data set here comes near it."""


POLICIES = ("error", "skip")


_SHOWN = 20


@dataclasses.dataclass(slots=True)
class BadFiles:
    """Files that could not become records.

    Attributes:
        policy: `error`: `finish` raises; `skip`: files are left out and logged.
        files: path and reason of each, in the order met.
    """

    policy: str = "error"
    files: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        if self.policy not in POLICIES:
            raise DataError(
                f"on_bad_file is {self.policy!r}: allowed are {', '.join(map(repr, POLICIES))}"
            )

    def add(self, path: epath.PathLike, reason: str) -> None:
        """Notes one bad file."""
        self.files.append((os.fspath(path), reason))
        if self.policy == "skip":
            logging.warning("Left out: %s", _with_path(*self.files[-1]))

    @contextlib.contextmanager
    def catch(self, path: epath.PathLike) -> Iterator[None]:
        """Notes a `DataError` raised inside as a bad file, and goes on after the block."""
        try:
            yield
        except DataError as error:
            self.add(path, str(error))

    def finish(self, data_set: str) -> None:
        """Ends a data set's reading.

        Raises:
            DataError: the policy is `error` and there are bad files: lists up to 20 of them.
        """
        if not self.files:
            return
        if self.policy == "skip":
            logging.warning("%s: %d bad files were left out", data_set, len(self.files))
            return
        lines = [_with_path(*bad) for bad in self.files[:_SHOWN]]
        if len(self.files) > _SHOWN:
            lines.append(f"... and {len(self.files) - _SHOWN} more")
        number = "1 bad file" if len(self.files) == 1 else f"{len(self.files)} bad files"
        raise DataError(
            f"{data_set}: {number}; mend or remove them, or build with "
            "building.on_bad_file('skip') to leave them out:\n  " + "\n  ".join(lines)
        )


_bad_files: contextvars.ContextVar[BadFiles | None] = contextvars.ContextVar(
    "bad_files", default=None
)


@contextlib.contextmanager
def on_bad_file(policy: str) -> Iterator[BadFiles]:
    """Sets what builders do with bad files inside the block; TFDS hands builders no such options.

    Args:
        policy: `error` (the default outside any block) or `skip`.

    Yields:
        The collector that the builders fill.

    Raises:
        DataError: another policy.
    """
    token = _bad_files.set(BadFiles(policy))
    try:
        yield _bad_files.get()
    finally:
        _bad_files.reset(token)


def bad_files() -> BadFiles:
    """The collector of the enclosing `on_bad_file` block; a new one that raises, if there is none.

    A builder calls this once, `catch`es or `add`s while it reads, and calls `finish` at the end.
    """
    collector = _bad_files.get()
    return BadFiles() if collector is None else collector


Item, Result = TypeVar("Item"), TypeVar("Result")


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """How builders read files.

    Attributes:
        threads: that read and check files; decoding leaves Python's lock.
        what: name on the line that says how far reading is; empty: no line.
    """

    threads: int = 1
    what: str = ""


_reading: contextvars.ContextVar[Reading | None] = contextvars.ContextVar("reading", default=None)


@contextlib.contextmanager
def reading(threads: int, what: str) -> Iterator[None]:
    """Sets how builders read files inside the block (see `Reading`)."""
    token = _reading.set(Reading(threads, what))
    try:
        yield
    finally:
        _reading.reset(token)


def each(
    read: Callable[[Item], Result],
    items: Sequence[Item],
    path: Callable[[Item], epath.PathLike] = str,
    bad: BadFiles | None = None,
) -> Iterator[Result]:
    """Reads items on the threads of the enclosing `reading` block; one thread without one.

    Args:
        read: makes of an item what is yielded; called on several threads at once.
        items: what to read.
        path: the file to which a `DataError` raised by `read` is put down.
        bad: collector of these; None: they are raised.

    Yields:
        The results, in the order of their items whatever the threads do, without those of bad
        files.
    """
    how = _reading.get() or Reading()
    line = Progress(how.what, len(items), "files") if how.what else None
    waiting: collections.deque[futures.Future[Result]] = collections.deque()
    pool = futures.ThreadPoolExecutor(how.threads, "read")
    try:
        for number in range(len(items)):
            # A few ahead of each thread: memory holds those alone.
            while len(waiting) < 4 * how.threads and number + len(waiting) < len(items):
                waiting.append(pool.submit(read, items[number + len(waiting)]))
            future, kept = waiting.popleft(), False
            with bad.catch(path(items[number])) if bad else contextlib.nullcontext():
                result, kept = future.result(), True
            if line:
                line.update(number + 1, 1)
            if kept:
                yield result
    finally:
        pool.shutdown(cancel_futures=True)
        if line:
            line.close()


def pair_files(
    image_folder: epath.PathLike,
    image_suffix: str,
    mask_folder: epath.PathLike,
    mask_suffix: str,
    bad: BadFiles,
) -> tuple[dict[str, epath.Path], dict[str, epath.Path]]:
    """Pairs images and masks by name. A file without its other half goes to `bad`.

    Args:
        image_folder, mask_folder: folders; other files in them and hidden ones are passed over.
        image_suffix, mask_suffix: such as `.bmp`; upper case is accepted as well.
        bad: collector.

    Returns:
        Images and masks by stem, of the same stems in sorted order.

    Raises:
        DataError: there is no image at all.
    """
    found = []
    for folder, suffix in ((image_folder, image_suffix), (mask_folder, mask_suffix)):
        paths = sorted(epath.Path(folder).iterdir(), key=lambda path: path.name)
        found.append(
            {
                path.name[: -len(suffix)]: path
                for path in paths
                if path.name.lower().endswith(suffix) and not path.name.startswith(".")
            }
        )
    images, masks = found
    if not images:
        raise DataError(
            f"{image_folder}: holds no {image_suffix} file: unpack the authors' images there"
        )
    for stem in sorted(images.keys() - masks.keys()):
        bad.add(images[stem], f"has no mask: {epath.Path(mask_folder) / (stem + mask_suffix)}")
    for stem in sorted(masks.keys() - images.keys()):
        bad.add(masks[stem], f"has no image: {epath.Path(image_folder) / (stem + image_suffix)}")
    stems = sorted(images.keys() & masks.keys())
    return {stem: images[stem] for stem in stems}, {stem: masks[stem] for stem in stems}


def check_same_size(path: epath.PathLike, mask: np.ndarray, image_size: tuple[int, int]) -> None:
    """Checks a mask file's size against its image's `(height, width)`.

    Raises:
        DataError: they differ.
    """
    if mask.shape != image_size:
        raise DataError(
            f"{path}: the mask is {describe_size(mask.shape)} and its image "
            f"{describe_size(image_size)}: allowed is one size for both; replace the file that is "
            "wrong"
        )


def read_csv(path: epath.PathLike) -> list[tuple[int, list[str]]]:
    """The rows of a CSV file with their line numbers, from 1; empty lines are left out.

    Raises:
        DataError: the file is missing, empty, or not UTF-8 text.
    """
    try:
        text = epath.Path(path).read_bytes().decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        rows = [(reader.line_num, row) for row in reader if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: cannot be read as CSV ({error}): allowed is UTF-8 text, comma-separated; "
            "fetch the file again"
        ) from error
    if not rows:
        raise DataError(f"{path}: the file is empty: fetch it again")
    return rows


def read_exclusions(folder: epath.PathLike) -> dict[str, str]:
    """Records that a builder leaves out, from `exclusions.csv` in its own folder.

    A builder asks this before it opens the record's files, and counts what it leaves out
    (`excluded_records` in its metadata). Ids that the files at hand do not have are no error, as
    a part of a data set may be built.

    Args:
        folder: the builder's folder (its `pkg_dir_path`).

    Returns:
        Record id to the reason; empty where there is no such file, or only its header.

    Raises:
        DataError: another header than `id,reason`, an id or a reason that is empty, or an id
            twice; lists up to 20 of the lines.
    """
    path = epath.Path(folder) / "exclusions.csv"
    if not path.exists():
        return {}
    (_, header), *rows = read_csv(path)
    if [cell.strip() for cell in header] != ["id", "reason"]:
        raise DataError(f"{path}: the header is {','.join(header)!r}: allowed is 'id,reason'")
    reasons, wrong = {}, []
    for line, row in rows:
        cells = [cell.strip() for cell in row]
        if len(cells) != 2 or not all(cells):
            wrong.append(f"line {line}: {','.join(row)!r}")
        elif cells[0] in reasons:
            wrong.append(f"line {line}: {cells[0]!r} is listed twice")
        else:
            reasons[cells[0]] = cells[1]
    if wrong:
        raise DataError(
            f"{path}: {len(wrong)} lines are wrong: allowed is a record's id, once, and why it is "
            "left out (quoted if it holds a comma); mend them:\n  " + "\n  ".join(wrong[:_SHOWN])
        )
    return reasons


def manual_folder(
    dl_manager: tfds.download.DownloadManager, names: tuple[str, ...], entries: tuple[str, ...]
) -> epath.Path | None:
    """Finds a data set's folder in TFDS's `manual_dir`.

    Args:
        dl_manager: what TFDS hands to `_split_generators`.
        names: names that the folder may have below `manual_dir`; `manual_dir` itself is tried last.
        entries: files and folders that it must hold.

    Returns:
        The folder; None if there is none.

    Raises:
        DataError: a folder of such a name lacks some of the entries.
    """
    manual_dir = manual_path(dl_manager)
    if manual_dir is None:
        return None
    for name in names:
        folder = manual_dir / name
        if folder.is_dir():
            missing = [entry for entry in entries if not (folder / entry).exists()]
            if missing:
                raise DataError(
                    f"{folder}: lacks {', '.join(map(repr, missing))}: it must hold "
                    f"{', '.join(map(repr, entries))}; unpack the authors' files there, unchanged"
                )
            return folder
    return manual_dir if all((manual_dir / entry).exists() for entry in entries) else None


_downloads: contextvars.ContextVar[bool] = contextvars.ContextVar("downloads", default=True)


@contextlib.contextmanager
def no_downloads() -> Iterator[None]:
    """Inside the block builders use only files that are there, and raise `DataError` otherwise."""
    token = _downloads.set(False)
    try:
        yield
    finally:
        _downloads.reset(token)


def may_download() -> bool:
    """Whether a builder may fetch what is missing."""
    return _downloads.get()


def manual_path(dl_manager: tfds.download.DownloadManager) -> epath.Path | None:
    """TFDS's `manual_dir`, whether it exists or not; None if TFDS was given none.

    The public attribute raises TFDS's own error where the folder is missing or empty, which could
    say neither what to fetch nor the exact folder to put it in.
    """
    path = getattr(dl_manager, "_manual_dir", None)
    return None if path is None else epath.Path(path)


def unzip(archive: epath.PathLike, folder: epath.PathLike) -> epath.Path:
    """Unpacks a downloaded zip file, all of it or nothing. TFDS's own unpacking needs TensorFlow.

    Args:
        archive: the zip file.
        folder: where to unpack; left alone if it exists, as it then is complete.

    Returns:
        `folder`.

    Raises:
        DataError: not a zip file, a damaged one, one beyond `MAX_UNZIPPED_BYTES`, or one with a
            link or a member that would land outside the folder.
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


def _with_path(path: str, reason: str) -> str:
    return reason if path in reason else f"{path}: {reason}"
