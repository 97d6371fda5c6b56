"""The base class of the data sets' builders, which turn authors' files into records.

A builder in `tfds_builders/` subclasses `Builder`, says where its files are (`folders`, `entries`)
and lists them (`find`). CONTRIBUTING.md has an example.
"""

import abc
import collections
import contextlib
import contextvars
import dataclasses
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from wbc_jax.data import reading, records, tables
from wbc_jax.data.images import read_image_file, read_mask_file
from wbc_jax.errors import DataError
from wbc_jax.labels import UNKNOWN_LABEL

MANUAL_DIR = "<manual_dir>"
"""Stands for TFDS's `manual_dir` in `MANUAL_DOWNLOAD_INSTRUCTIONS`."""

Record = dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One of the authors' images, and what they say of it. See `records.example`.

    Attributes:
        id: the record's id. Leave it empty where one image gives several records.
        path: the image file.
        mask: the mask file; None if there is none.
        label: index into `labels.CELL_TYPES`, or -1.
        group: records of one group are never split apart; None: the id.
        subtype: the authors' finer class, if any.
        label_source: where the label comes from; unused where there is no label.
        um_per_px: micrometres per pixel, or NaN.
    """

    id: str = ""
    path: epath.PathLike
    mask: epath.PathLike | None = None
    label: int = UNKNOWN_LABEL
    group: str | None = None
    subtype: str = ""
    label_source: str = "authors"
    um_per_px: float = math.nan


@dataclasses.dataclass(slots=True)
class Notes:
    """Collects what a builder reports besides records.

    Attributes:
        counts: numbers for the data set's metadata, by name; those in `Builder.counted` are kept.
        bad: files that cannot become records.
        excluded: id to reason of the records to leave out (`read_exclusions`).
    """

    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    bad: reading.BadFiles = dataclasses.field(default_factory=reading.BadFiles)
    excluded: Mapping[str, str] = dataclasses.field(default_factory=dict)


class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Base of the builders: one split, exclusions, bad files, threads and counts.

    A subclass is named `Builder`, lies in `<name>/<name>_dataset_builder.py` and overrides `find`;
    also `read` if an image gives no or several records, and `read_mask` if masks hold other values
    than 0, 1, 2 and 255. TFDS reads the description, citation and tags from README.md,
    CITATIONS.bib and TAGS.txt in its folder.

    The one split is `train`, because TFDS reserves the name `all`; read it with `split="all"`.

    Attributes:
        page: the data set's home page.
        folders: names that its folder may have in `manual_dir`.
        entries: files and folders that this folder must hold.
        texts: names of texts that its records hold besides those of `records.features`; `read`
            adds them. `Source.encoded[i][name]` returns the bytes.
        counted: the names in the metadata, in order. The base counts `excluded_records`,
            `left_out_files`, `unlabelled_images` and `images_without_mask`.
        MANUAL_DOWNLOAD_INSTRUCTIONS: ends the sentence "<name> is not in <manual_dir>: ...".

    Raises (while building):
        DataError: the files are not in `manual_dir`, or some are bad.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}
    page: str = ""
    folders: tuple[str, ...] = ()
    entries: tuple[str, ...] = ()
    counted: tuple[str, ...] = ("excluded_records", "left_out_files")
    texts: tuple[str, ...] = ()

    def __init_subclass__(cls, **kwargs):
        # TFDS's own guesses fail: it looks below wbc_jax/, where the builders lie only once
        # installed from a wheel, and uses importlib_resources, which it does not install (4.9.10).
        cls.code_path = epath.Path(sys.modules[cls.__module__].__file__)
        cls.pkg_dir_path = cls.code_path.parent
        super().__init_subclass__(**kwargs)

    @property
    def title(self) -> str:
        """`name` or `name/config`, as in `config.data.datasets`."""
        config = self.builder_config.name if self.builder_config else "default"
        return self.name if config == "default" else f"{self.name}/{config}"

    @property
    def source(self) -> str:
        """The collection that the images come from: the field `source` of the records."""
        return self.name

    def locate(self, dl_manager: tfds.download.DownloadManager) -> epath.Path:
        """Returns the folder with the authors' files. Override it for a data set that downloads.

        Raises:
            DataError: it is not in `manual_dir`; says what to do.
        """
        folder = manual_folder(dl_manager, self.folders, self.entries)
        if folder is None:
            raise DataError(self.not_found(dl_manager))
        return folder

    def not_found(self, dl_manager: tfds.download.DownloadManager, more: str = "") -> str:
        """Returns the message that the files are not in `manual_dir` (and `more`): what to do."""
        path = manual_path(dl_manager)
        manual_dir = str(path or MANUAL_DIR)
        instructions = (self.MANUAL_DOWNLOAD_INSTRUCTIONS or "").replace(MANUAL_DIR, manual_dir)
        state = "" if path is None or path.exists() else ", which does not exist"
        return (
            f"{self.title} is not in {manual_dir}{more}: {instructions}. config.data.manual_dir "
            f"(if empty, $WBC_JAX_DATA) names the folder{state}."
        )

    def splits(self, folder: epath.Path) -> dict[str, epath.Path]:
        """Returns the folder of each split. Override it where the authors publish splits."""
        return {"train": folder}

    @abc.abstractmethod
    def find(self, folder: epath.Path, notes: Notes) -> Sequence[Item]:
        """Lists the images of a split in the order of the records, without opening them.

        Args:
            folder: from `locate`, or from `splits`.
            notes: receives counts and bad files.

        Raises:
            DataError: the folder or a table is not as expected.
        """

    def read(self, item: Item, notes: Notes) -> Iterator[Record]:
        """Yields the records of an image, usually one. Called on several threads at once.

        Args:
            item: from `find`.
            notes: of this item alone; dropped if the item is bad. `notes.excluded` is the same.

        Raises:
            DataError: the item is bad.
        """
        image, height, width = read_image_file(item.path)
        mask = None
        if item.mask is not None:
            mask = self.read_mask(item, notes)
            reading.check_same_size(item.mask, mask, (height, width))
        notes.counts["unlabelled_images"] += item.label < 0
        notes.counts["images_without_mask"] += mask is None
        yield records.example(
            image=image,
            mask=mask,
            label=item.label,
            id=item.id,
            group=item.group,
            source=self.source,
            subtype=item.subtype,
            label_source=item.label_source if item.label >= 0 else "",
            um_per_px=item.um_per_px,
        )

    def read_mask(self, item: Item, notes: Notes) -> np.ndarray:
        """Returns an item's mask, uint8 `[H, W]` of 0, 1, 2, 255. See `read` for `notes`."""
        del notes
        return read_mask_file(item.mask)

    def finish(self, folder: epath.Path, notes: Notes) -> None:
        """Checks a split after all its items are read.

        Raises:
            DataError: there are bad files, which `on_bad_file` does not allow.
        """
        notes.bad.finish(f"{self.title} in {folder}")

    # What TFDS calls.

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            features=records.features(self.texts),
            homepage=self.page or None,
            metadata=tfds.core.MetadataDict() if self.counted else None,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        folder = self.locate(dl_manager)
        if self.counted:
            self.info.metadata.update(dict.fromkeys(self.counted, 0))
        return {split: self._generate_examples(part) for split, part in self.splits(folder).items()}

    def _generate_examples(self, folder: epath.Path) -> Iterator[tuple[str, Record]]:
        notes = Notes(bad=reading.bad_files(), excluded=read_exclusions(self.pkg_dir_path))
        already_bad = len(notes.bad.files)
        found = self.find(folder, notes)
        items = [item for item in found if item.id not in notes.excluded]
        notes.counts["excluded_records"] += len(found) - len(items)

        def read(item: Item) -> tuple[list[Record], Notes]:
            own = Notes(excluded=notes.excluded)
            return list(self.read(item, own)), own

        for made, own in reading.each(read, items, lambda item: item.path, notes.bad):
            notes.counts.update(own.counts)
            for path, reason in own.bad.files:
                notes.bad.add(path, reason)
            for record in made:
                if record["id"] in notes.excluded:
                    notes.counts["excluded_records"] += 1
                else:
                    yield record["id"], record
        self.finish(folder, notes)
        notes.counts["left_out_files"] = len(notes.bad.files) - already_bad
        for name in self.counted:
            if name in notes.counts:
                self.info.metadata[name] += int(notes.counts[name])
            logging.info("%s: %s = %s", self.title, name, self.info.metadata[name])


def without_repeats(items: Sequence[Item], what: str, notes: Notes) -> list[Item]:
    """Leaves out items that share an id: all of them, because nothing says which one is right.

    Args:
        items: from a data set whose folders are classes.
        what: what the authors call such a class, for the message.
        notes: receives the bad files. Records that are excluded anyway are not bad.
    """
    paths = collections.defaultdict(list)
    for item in items:
        paths[item.id].append(item.path)
    kept = []
    for item in items:
        others = [str(path) for path in paths[item.id] if path != item.path]
        if others and item.id not in notes.excluded:
            notes.bad.add(
                item.path, f"has the name of {', '.join(others)}: allowed is one {what} a cell"
            )
        else:
            kept.append(item)
    return kept


def read_exclusions(folder: epath.PathLike, name: str = "exclusions.csv") -> dict[str, str]:
    """Reads `exclusions.csv` in a builder's folder: the records that the builder leaves out.

    An id that the files at hand do not have is no error, because a part of a data set may be
    built.

    Args:
        folder: the builder's folder (its `pkg_dir_path`).
        name: another list of the same form.

    Returns:
        Record id to the reason; empty if there is no such file, or only its header.

    Raises:
        DataError: a header other than `id,reason`, an empty id or reason, or a repeated id.
    """
    path = epath.Path(folder) / name
    if not path.exists():
        return {}
    reasons, wrong = {}, []
    for row in tables.read(path, ("id", "reason")):
        if len(row.cells) != 2 or not all(row.cells):
            wrong.append(str(row))
        elif row.cells[0] in reasons:
            wrong.append(f"line {row.line}: {row.cells[0]!r} is listed twice")
        else:
            reasons[row.cells[0]] = row.cells[1]
    tables.check(
        path,
        wrong,
        "a record's id, once, and why it is left out (quoted if it holds a comma); mend them",
    )
    return reasons


def manual_folder(
    dl_manager: tfds.download.DownloadManager, names: Iterable[str], entries: Sequence[str]
) -> epath.Path | None:
    """Finds a data set's folder in TFDS's `manual_dir`.

    Args:
        dl_manager: the argument of `_split_generators`.
        names: names that the folder may have in `manual_dir`; `manual_dir` itself is tried last.
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
            check_entries(folder, entries, "the authors' files")
            return folder
    return manual_dir if all((manual_dir / entry).exists() for entry in entries) else None


def check_entries(folder: epath.Path, entries: Sequence[str], whose: str) -> None:
    """Checks that a folder holds the files and folders `entries`.

    Raises:
        DataError: it lacks some; says to unpack the files (`whose`) there.
    """
    missing = [entry for entry in entries if not (folder / entry).exists()]
    if missing:
        raise DataError(
            f"{folder}: lacks {', '.join(map(repr, missing))}: it must hold "
            f"{', '.join(map(repr, entries))}; unpack {whose} there, unchanged"
        )


_downloads: contextvars.ContextVar[bool] = contextvars.ContextVar("downloads", default=True)


@contextlib.contextmanager
def no_downloads() -> Iterator[None]:
    """Forbids downloads inside the block: builders raise `DataError` where files are missing."""
    token = _downloads.set(False)
    try:
        yield
    finally:
        _downloads.reset(token)


def may_download() -> bool:
    """Returns whether a builder may download missing files."""
    return _downloads.get()


def manual_path(dl_manager: tfds.download.DownloadManager) -> epath.Path | None:
    """Returns TFDS's `manual_dir`, whether it exists or not; None if TFDS was given none.

    The public attribute raises TFDS's own error where the folder is missing or empty, which cannot
    name the exact folder to put the files in.
    """
    path = getattr(dl_manager, "_manual_dir", None)
    return None if path is None else epath.Path(path)
