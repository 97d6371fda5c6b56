"""Data sets by name: building their records, and reading them with random access."""

import collections
import contextlib
import dataclasses
import fcntl
import hashlib
import importlib
import json
import os
import pkgutil
import types
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from wbc_jax.config import Data
from wbc_jax.data import building, duplicates, records
from wbc_jax.data.images import decode_image, decode_mask
from wbc_jax.errors import ConfigError, DataError
from wbc_jax.utils import atomic

MANUAL_DIR_VARIABLE = "WBC_JAX_DATA"
INDEX = "wbc_jax_index.json"
LEFT_OUT = "wbc_jax_left_out.json"
COMPLETE = "wbc_jax_complete"
"""Beside records in an object store: all of them are there."""
SPLIT = "all"
"""The one split of builders whose authors published none."""


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """The records of one data set; pixels stay encoded until asked for.

    Attributes:
        name: as in the config, such as `segmentation_wbc/jtsc`.
        ids, groups, sources, subtypes, label_sources: one text a record (see `records.features`).
        labels: int64 `[N]`, -1 where unknown.
        has_mask: bool `[N]`.
        um_per_px: float32 `[N]`, NaN where unknown.
        encoded: random access to records with `image` and `mask` as PNG or JPEG bytes.
        hashes: uint64 `[N, 4]`, perceptual hashes (`duplicates.perceptual_hash`); None: no
            duplicates are looked for.
        cell_hashes: the same of the cell alone (`duplicates.cell_hash`).
    """

    name: str
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    sources: tuple[str, ...]
    subtypes: tuple[str, ...]
    label_sources: tuple[str, ...]
    labels: np.ndarray
    has_mask: np.ndarray
    um_per_px: np.ndarray
    encoded: Sequence[dict[str, Any]]
    hashes: np.ndarray | None = None
    cell_hashes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> np.ndarray:
        """Returns uint8 `[H, W, 3]`, RGB, at the record's own size."""
        return decode_image(self.encoded[index]["image"])

    def mask(self, index: int) -> np.ndarray:
        """Returns uint8 `[H, W]`: 0 background, 1 cytoplasm, 2 nucleus, 255 ignore."""
        return decode_mask(self.encoded[index]["mask"])


def names() -> list[str]:
    """Returns the data sets that can be named in a config, as `name` or `name/config`."""
    package = importlib.import_module("wbc_jax.tfds_builders")
    found = []
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
        if module.ispkg:
            configs = [c.name for c in _builder_class(module.name).BUILDER_CONFIGS]
            found += [f"{module.name}/{c}" for c in configs] if configs else [module.name]
    return found


def builder(name: str, data: Data) -> tfds.core.DatasetBuilder:
    """Returns the TFDS builder of `name` or `name/config`, with `data.data_dir`.

    The data set `folder` (the user's own images) has a config for each `data.manual_dir`, so that
    the records of two folders never meet.

    Raises:
        ConfigError: no builder or builder config has that name; lists those there are.
    """
    base, _, variant = name.partition("/")
    package = importlib.import_module("wbc_jax.tfds_builders")
    known = {m.name for m in pkgutil.iter_modules(package.__path__) if m.ispkg}
    if base in known:
        cls = _builder_class(base)
        variants = [c.name for c in cls.BUILDER_CONFIGS]
        if not variant or variant in variants:
            chosen: Any = variant or None
            own, manual = getattr(_module(base), "folder_config", None), manual_dir(data)
            if own and manual:
                chosen = own(manual)
            return cls(data_dir=os.fspath(local_dir(data)), config=chosen)
    raise ConfigError(
        f"there is no data set {name!r}; there are {', '.join(names())}. Set config.data.datasets "
        "to some of these."
    )


def local_dir(data: Data) -> epath.Path:
    """Returns the folder that records are read from and written to.

    ArrayRecord reads local files only. With `data.data_dir` in an object store (`gs://`) it is a
    copy, `$XDG_CACHE_HOME/wbc_jax/copies/...` (`~/.cache` if unset), of what lies there.
    """
    folder = epath.Path(data.data_dir).expanduser()
    if not atomic.is_remote(folder):
        return folder
    cache = epath.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    name = os.fspath(folder).replace("://", "/").strip("/").replace("/", "_")
    digest = hashlib.sha256(os.fspath(folder).encode()).hexdigest()[:8]
    return cache / "wbc_jax" / "copies" / f"{name}-{digest}"


def _remote(made: tfds.core.DatasetBuilder, data: Data) -> epath.Path | None:
    """The folder of a data set's records in the object store that `data_dir` is in, if it is."""
    folder = epath.Path(data.data_dir).expanduser()
    if not atomic.is_remote(folder):
        return None
    return folder / os.path.relpath(made.data_dir, local_dir(data))


def _fetch(name: str, made: tfds.core.DatasetBuilder, data: Data) -> None:
    """Copies a data set from the object store, if it is there and not here."""
    there = _remote(made, data)
    if there is None or _has_records(made) or not (there / COMPLETE).exists():
        return
    print(f"{name}: copying records from {there} to {made.data_dir}", flush=True)
    here = epath.Path(made.data_dir)
    partial = here.parent / f"incomplete.{here.name}"
    if partial.exists():
        partial.rmtree()
    partial.mkdir(parents=True)
    for path in there.iterdir():
        if path.name != COMPLETE:
            path.copy(partial / path.name)
    if here.exists():
        here.rmtree()
    partial.rename(here)


def _publish(name: str, made: tfds.core.DatasetBuilder, data: Data) -> None:
    """Copies a data set to the object store, if `data_dir` is in one and it is not there."""
    there = _remote(made, data)
    if there is None or (there / COMPLETE).exists():
        return
    print(f"{name}: copying records to {there}", flush=True)
    for path in epath.Path(made.data_dir).iterdir():
        if not path.name.startswith("."):
            path.copy(there / path.name, overwrite=True)
    (there / COMPLETE).write_text("")  # the last one: what has it is whole


def manual_dir(data: Data) -> str:
    """Returns the folder with the authors' files: the config's, else `$WBC_JAX_DATA`, else ''."""
    chosen = data.manual_dir or os.environ.get(MANUAL_DIR_VARIABLE, "")
    return os.fspath(epath.Path(chosen).expanduser()) if chosen else ""


def check_distinct(names: Sequence[str], data: Data) -> None:
    """Checks that no two names mean the same records (`pbc` and `pbc/five`), or records that show
    the same cells without a way to tell which (`kaggle_blood_cells/original` and `augmented`).

    Raises:
        ConfigError: two do, or there is no data set of a name.
    """
    seen: dict[str, str] = {}
    for name in names:
        folder = os.fspath(builder(name, data).data_dir)
        if folder in seen:
            raise ConfigError(
                f"{seen[folder]!r} and {name!r} are the same data set; name it once in "
                "config.data.datasets or config.evaluate.external."
            )
        seen[folder] = name
    for name in names:
        base, _, variant = name.partition("/")
        apart = getattr(_module(base), "NEVER_TOGETHER", {}).get(variant)
        other = f"{base}/{apart}"
        if apart and (other in names or (base in names and variant != apart)):
            raise ConfigError(
                f"{name!r} and {other!r} show the same cells, and nothing says which are the same:"
                " one of them would give the other's test images away. Name one of them."
            )


def is_prepared(name: str, data: Data) -> bool:
    """Returns whether the records of `name` lie in `data.data_dir`."""
    made = builder(name, data)
    there = _remote(made, data)
    return _has_records(made) or (there is not None and (there / COMPLETE).exists())


def prepare(name: str, data: Data) -> list[tuple[str, str]]:
    """Writes the records of `name`, and their index, unless they are there.

    Whole or not at all: they are written in a folder `incomplete.*` that is renamed at the end. One
    that a killed process has left is removed by the next that prepares the data set, which ends
    with the bytes it would have had otherwise. Processes on one machine take turns.

    Returns:
        Path and reason of each file that the records were made without
        (`data.on_bad_file='skip'`), whoever wrote them.

    Raises:
        DataError: files are missing or bad, or the records cannot be written; says which, and what
            to do.
        ConfigError: no such data set.
    """
    made = builder(name, data)
    folder = manual_dir(data)
    if atomic.is_remote(data.data_dir):
        with _alone(name, local_dir(data) / made.name):
            _fetch(name, made, data)
        made = builder(name, data)
    if _is_complete(made):
        check = getattr(_module(made.name), "check_same_folder", None)
        if check and folder:
            check(made, folder)
    else:
        try:
            with _alone(name, local_dir(data) / made.name):
                made = builder(name, data)  # another process may have written them meanwhile
                if not _is_complete(made):
                    _write(name, made, data)
        except (OSError, RuntimeError) as error:
            if not _is_of_writing(error, made):
                raise
            raise DataError(
                f"{name}: the records could not be written to {made.data_dir} ({error}). Nothing "
                "half-written is left there: free space or make the disk writable and run this "
                "again, or set config.data.data_dir to another disk."
            ) from error
    left_out = _left_out(made)
    if left_out and data.on_bad_file == "error":
        raise DataError(
            f"{name}: the records in {made.data_dir} were made without {len(left_out)} bad files, "
            f"such as {left_out[0][0]}: {left_out[0][1]}. Set config.data.on_bad_file=skip to use "
            "them so, or mend the files, delete that folder and run this again."
        )
    if not (epath.Path(made.data_dir) / INDEX).exists():
        _index(name, made, data.threads)
    _publish(name, made, data)
    return left_out


def _write(name: str, made: tfds.core.DatasetBuilder, data: Data) -> None:
    target = epath.Path(made.data_dir)
    if target.exists():  # killed before the list of the files left out was written
        target.rmtree()
        made = builder(name, data)
    tfds.disable_progress_bar()  # ours says more, and is not hundreds of lines in a log
    with contextlib.ExitStack() as stack:
        stack.enter_context(records.fixed_order())
        stack.enter_context(building.reading(data.threads, name))
        bad = stack.enter_context(building.on_bad_file(data.on_bad_file))
        try:
            made.download_and_prepare(
                file_format="array_record",
                download_config=tfds.download.DownloadConfig(manual_dir=manual_dir(data) or None),
            )
        except AssertionError as error:
            if "No examples were yielded" not in str(error):
                raise
            raise DataError(
                f"{name}: no record is left: {len(bad.files)} files are bad"
                + "".join(f"; {path}: {reason}" for path, reason in bad.files[:1])
            ) from error
    if bad.files:
        atomic.write_json(target / LEFT_OUT, bad.files)


def _is_complete(made: tfds.core.DatasetBuilder) -> bool:
    if not _has_records(made):
        return False
    listed = (epath.Path(made.data_dir) / LEFT_OUT).exists()
    return listed or not (made.info.metadata or {}).get("left_out_files", 0)


def _left_out(made: tfds.core.DatasetBuilder) -> list[tuple[str, str]]:
    path = epath.Path(made.data_dir) / LEFT_OUT
    if not path.exists():
        return []
    return [(name, reason) for name, reason in json.loads(path.read_text())]


def _is_of_writing(error: Exception, made: tfds.core.DatasetBuilder) -> bool:
    """Whether it tells of the disk of the records, not of files that are read, or of a mistake."""
    if isinstance(error, OSError):
        root = os.fspath(made.data_dir_root)
        return error.filename is None or os.fspath(error.filename).startswith(root)
    return any(f"{call}() failed" in str(error) for call in ("write", "open", "close"))


@contextlib.contextmanager
def _alone(name: str, folder: epath.Path) -> Iterator[None]:
    """Lets one process at a time write in a folder, and sweeps it of what killed ones left."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        handle = os.open(folder, os.O_RDONLY)
        stack.callback(os.close, handle)  # which unlocks, as does any end of the process
        if _lock(name, handle):
            for place in ("", "*/", "*/*/"):
                for leftover in folder.glob(f"{place}incomplete.*"):
                    leftover.rmtree() if leftover.is_dir() else leftover.unlink()
        yield


def _lock(name: str, handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logging.warning("%s: another process is writing it; waiting for its end.", name)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:  # a file system without locks
        return False
    return True


def load(name: str, data: Data) -> Source:
    """Opens the records of `name`, which `prepare` has written.

    Raises:
        DataError: the records are not there, or hold an id twice.
    """
    made = builder(name, data)
    if not _has_records(made):
        raise DataError(f"{name}: no records in {made.data_dir}; write them with --mode=prepare.")
    encoded = _Encoded(made)
    columns = _index(name, made, data.threads)
    ids = tuple(columns["id"])
    repeated = [i for i, count in collections.Counter(ids).items() if count > 1]
    if repeated:
        raise DataError(
            f"{name}: the ids {sorted(repeated)[:5]} stand at several records in {made.data_dir}; "
            "delete that folder and prepare the data set again."
        )
    return Source(
        name=name,
        ids=ids,
        groups=tuple(columns["group"]),
        sources=tuple(columns["source"]),
        subtypes=tuple(columns["subtype"]),
        label_sources=tuple(columns["label_source"]),
        labels=np.asarray(columns["label"], np.int64),
        has_mask=np.asarray(columns["has_mask"], bool),
        um_per_px=np.asarray(
            [np.nan if v is None else v for v in columns["um_per_px"]], np.float32
        ),
        encoded=encoded,
        hashes=_unhex(columns["hash"]),
        cell_hashes=_unhex(columns["cell_hash"]),
    )


class _Encoded(Sequence):
    """Records with random access, as `records.parse` gives them."""

    def __init__(self, made: tfds.core.DatasetBuilder):
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        self._serialized = made.as_data_source(split=SPLIT, deserialize_method=raw)

    def __len__(self) -> int:
        return len(self._serialized)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return records.parse(self._serialized[position])


def _index(name: str, made: tfds.core.DatasetBuilder, threads: int) -> dict[str, list[Any]]:
    """Returns the records' columns and perceptual hashes, kept beside the records once made."""
    path = epath.Path(made.data_dir) / INDEX
    with contextlib.suppress(OSError, ValueError):  # absent or damaged: made anew
        stored = json.loads(path.read_text())
        if isinstance(stored, dict) and stored.keys() == {*_COLUMNS, *_HASHES}:
            return stored
    encoded = _Encoded(made)

    def read(position: int) -> dict[str, Any]:
        record = encoded[position]
        row = {key: record[key] for key in _COLUMNS}
        row = {k: v.decode() if isinstance(v, bytes) else v for k, v in row.items()}
        row["has_mask"] = bool(row["has_mask"])
        image = decode_image(record["image"])
        row["hash"] = _hex(duplicates.perceptual_hash(image))
        row["cell_hash"] = _hex(duplicates.cell_hash(image))
        return row

    with building.reading(threads, f"{name}: looking for duplicates"):
        rows = list(building.each(read, range(len(encoded))))
    columns = {key: [row[key] for row in rows] for key in (*_COLUMNS, *_HASHES)}
    # Only a shortcut: records on a read-only disk are indexed anew each time.
    with contextlib.suppress(OSError):
        for leftover in path.parent.glob(f".{INDEX}.*.tmp"):
            leftover.unlink()
        atomic.write_json(path, columns)
    return columns


def _hex(hash: np.ndarray) -> str:
    return "".join(f"{word:016x}" for word in hash.tolist())


def _unhex(column: Sequence[str]) -> np.ndarray:
    words = [[int(text[i : i + 16], 16) for i in range(0, len(text), 16)] for text in column]
    return np.asarray(words, np.uint64).reshape(len(column), -1)


_HASHES = ("hash", "cell_hash")
_COLUMNS = (
    "id",
    "group",
    "source",
    "subtype",
    "label_source",
    "label",
    "has_mask",
    "um_per_px",
)


def _has_records(made: tfds.core.DatasetBuilder) -> bool:
    before = logging.get_verbosity()
    logging.set_verbosity(min(before, logging.ERROR))  # TFDS warns of what is yet to be made
    try:
        return made.is_prepared()
    finally:
        logging.set_verbosity(before)


def _module(base: str) -> types.ModuleType:
    return importlib.import_module(f"wbc_jax.tfds_builders.{base}.{base}_dataset_builder")


def _builder_class(base: str) -> type[tfds.core.GeneratorBasedBuilder]:
    return _module(base).Builder
