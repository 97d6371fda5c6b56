"""Data sets by name: building their records, and reading them with random access."""

import collections
import contextlib
import dataclasses
import importlib
import json
import os
import pkgutil
import sys
import types
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from wbc_jax import config as config_lib
from wbc_jax import files
from wbc_jax.data import duplicates, records

MANUAL_DIR_VARIABLE = "WBC_JAX_DATA"
INDEX = "wbc_jax_index.json"
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

    def __len__(self) -> int:
        return len(self.ids)

    def image(self, index: int) -> np.ndarray:
        """Returns uint8 `[H, W, 3]`, RGB, at the record's own size."""
        return records.decode_image(self.encoded[index]["image"])

    def mask(self, index: int) -> np.ndarray:
        """Returns uint8 `[H, W]`: 0 background, 1 cytoplasm, 2 nucleus, 255 ignore."""
        return records.decode_mask(self.encoded[index]["mask"])


def names() -> list[str]:
    """Returns the data sets that can be named in a config, as `name` or `name/config`."""
    package = importlib.import_module("wbc_jax.tfds_builders")
    found = []
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
        if module.ispkg:
            configs = [c.name for c in _builder_class(module.name).BUILDER_CONFIGS]
            found += [f"{module.name}/{c}" for c in configs] if configs else [module.name]
    return found


def builder(name: str, data: config_lib.Data) -> tfds.core.DatasetBuilder:
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
            folder = epath.Path(data.data_dir).expanduser()
            return cls(data_dir=os.fspath(folder), config=chosen)
    raise config_lib.ConfigError(
        f"there is no data set {name!r}; there are {', '.join(names())}. Set config.data.datasets "
        "to some of these."
    )


def manual_dir(data: config_lib.Data) -> str:
    """Returns the folder with the authors' files: the config's, else `$WBC_JAX_DATA`, else ''."""
    chosen = data.manual_dir or os.environ.get(MANUAL_DIR_VARIABLE, "")
    return os.fspath(epath.Path(chosen).expanduser()) if chosen else ""


def check_distinct(names: Sequence[str], data: config_lib.Data) -> None:
    """Checks that no two names mean the same records (`pbc` and `pbc/five`).

    Raises:
        ConfigError: two do, or there is no data set of a name.
    """
    seen: dict[str, str] = {}
    for name in names:
        folder = os.fspath(builder(name, data).data_dir)
        if folder in seen:
            raise config_lib.ConfigError(
                f"{seen[folder]!r} and {name!r} are the same data set; name it once in "
                "config.data.datasets or config.evaluate.external."
            )
        seen[folder] = name


def is_prepared(name: str, data: config_lib.Data) -> bool:
    """Returns whether the records of `name` lie in `data.data_dir`."""
    return _has_records(builder(name, data))


def prepare(name: str, data: config_lib.Data) -> list[tuple[str, str]]:
    """Writes the records of `name` unless they are there. Whole or not at all (TFDS renames).

    Returns:
        Path and reason of each file left out (`data.on_bad_file='skip'`).

    Raises:
        DataError: files are missing or bad; says which, and what to do.
        ConfigError: no such data set.
    """
    made = builder(name, data)
    folder = manual_dir(data)
    if _has_records(made):
        check = getattr(_module(name.partition("/")[0]), "check_same_folder", None)
        if check and folder:
            check(made, folder)
        return []
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()  # in a log its bars are hundreds of lines
    with contextlib.ExitStack() as stack:
        bad = stack.enter_context(records.on_bad_file(data.on_bad_file))
        made.download_and_prepare(
            file_format="array_record",
            download_config=tfds.download.DownloadConfig(manual_dir=folder or None),
        )
        return list(bad.files)


def load(name: str, data: config_lib.Data) -> Source:
    """Opens the records of `name`, which `prepare` has written.

    Raises:
        DataError: the records are not there, or hold an id twice.
    """
    made = builder(name, data)
    if not _has_records(made):
        raise records.DataError(
            f"{name}: no records in {made.data_dir}; write them with --mode=prepare."
        )
    skip = tfds.decode.SkipDecoding()
    encoded = made.as_data_source(split=SPLIT, decoders={"image": skip, "mask": skip})
    columns = _index(epath.Path(made.data_dir), encoded)
    ids = tuple(columns["id"])
    repeated = [i for i, count in collections.Counter(ids).items() if count > 1]
    if repeated:
        raise records.DataError(
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
        hashes=np.asarray([[int(w, 16) for w in h] for h in columns["hash"]], np.uint64),
    )


def _index(folder: epath.Path, encoded: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Returns the records' columns and perceptual hashes, kept beside the records once made."""
    path = folder / INDEX
    columns: dict[str, list[Any]] = {key: [] for key in (*_COLUMNS, "hash")}
    with contextlib.suppress(OSError, ValueError):  # absent or damaged: made anew
        stored = json.loads(path.read_text())
        if isinstance(stored, dict) and stored.keys() == columns.keys():
            return stored
    for position in range(len(encoded)):
        record = encoded[position]
        for key in _COLUMNS:
            value = record[key]
            columns[key].append(value.decode() if isinstance(value, bytes) else value)
        image = records.decode_image(record["image"])
        columns["hash"].append([f"{word:016x}" for word in duplicates.perceptual_hash(image)])
    # Only a shortcut: records on a read-only disk are indexed anew each time.
    with contextlib.suppress(OSError):
        files.write_json(path, columns)
    return columns


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
