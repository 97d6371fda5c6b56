"""Finds data sets by name and opens their records with random access."""

import collections
import contextlib
import dataclasses
import hashlib
import importlib
import json
import os
import pkgutil
import types
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath

from wbc_jax.config import Data
from wbc_jax.data import duplicates, reading, records
from wbc_jax.data.images import decode_image, decode_mask
from wbc_jax.data.isolation import AS_IT_IS, Stain, isolate
from wbc_jax.data.keys import RecordKey
from wbc_jax.errors import ConfigError, DataError
from wbc_jax.utils import atomic

MANUAL_DIR_VARIABLE = "WBC_JAX_DATA"
INDEX = "wbc_jax_index.json"
TFDS_SPLIT = "all"
"""The only TFDS split of data sets whose authors published none."""
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


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """The records of one data set; pixels stay encoded until asked for.

    Attributes:
        name: as in the config, such as `segmentation_wbc/jtsc`.
        ids, groups, sources, subtypes, label_sources: one text per record (see `records.features`).
        labels: int64 `[N]`, -1 where unknown.
        has_mask: bool `[N]`.
        um_per_px: float32 `[N]`, NaN where unknown.
        encoded: random access to records with `image` and `mask` as PNG or JPEG bytes.
        hashes: uint64 `[N, 4]`, perceptual hashes (`duplicates.perceptual_hash`); None: duplicates
            are not looked for.
        cell_hashes: the same of the cell alone (`duplicates.cell_hash`).
        cell_masks: uint8 `[N, h, w]`, a segmenter's masks, by which images are cut to their cell
            (`isolation.isolate`); None: images are whole.
        stain: of these images, as in `isolation.isolate`.
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
    cell_masks: np.ndarray | None = None
    stain: Stain = AS_IT_IS

    def __len__(self) -> int:
        return len(self.ids)

    def key(self, index: int) -> RecordKey:
        """Returns the identity of a record."""
        hashes = (
            None if column is None else column[index].tobytes()
            for column in (self.hashes, self.cell_hashes)
        )
        return RecordKey(self.name, self.ids[index], self.groups[index], *hashes)

    def image(self, index: int) -> np.ndarray:
        """Returns uint8 `[H, W, 3]`, RGB, at the record's own size or cut to its cell."""
        return self._image(index, self.encoded[index])

    def mask(self, index: int) -> np.ndarray:
        """Returns uint8 `[H, W]`: 0 background, 1 cytoplasm, 2 nucleus, 255 ignore."""
        return decode_mask(self.encoded[index]["mask"])

    def image_and_mask(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns `image` and `mask` of a record that is read only once."""
        record = self.encoded[index]
        return self._image(index, record), decode_mask(record["mask"])

    def _image(self, index: int, record: dict[str, Any]) -> np.ndarray:
        image = decode_image(record["image"])
        if self.cell_masks is None:
            return image
        return isolate(image, self.cell_masks[index], self.stain)


def names() -> list[str]:
    """Returns the data sets that can be named in a config, as `name` or `name/config`."""
    found = []
    for name in _builder_packages():
        configs = [c.name for c in builder_module(name).Builder.BUILDER_CONFIGS]
        found += [f"{name}/{c}" for c in configs] if configs else [name]
    return found


def builder(name: str, data: Data) -> tfds.core.DatasetBuilder:
    """Returns the TFDS builder of `name` or `name/config`, with `data.data_dir`.

    The data set `folder` (the user's own images) has a config for each `data.manual_dir`, so the
    records of two folders never mix.

    Raises:
        ConfigError: no builder or builder config has that name; lists the known ones.
    """
    base, _, variant = name.partition("/")
    if base in _builder_packages():
        module = builder_module(base)
        cls = module.Builder
        variants = [c.name for c in cls.BUILDER_CONFIGS]
        if not variant or variant in variants:
            chosen: Any = variant or None
            own, manual = getattr(module, "folder_config", None), manual_dir(data)
            if own and manual:
                chosen = own(manual)
            return cls(data_dir=os.fspath(local_dir(data)), config=chosen)
    raise ConfigError(
        f"there is no data set {name!r}; there are {', '.join(names())}. Set config.data.datasets "
        "to some of these."
    )


def builder_module(base: str) -> types.ModuleType:
    """Returns the module of a data set's builder; `base` is the name without its config."""
    return importlib.import_module(f"wbc_jax.tfds_builders.{base}.{base}_dataset_builder")


def advice(name: str, lacks: str) -> str:
    """Returns what a data set's builder says to do where all records lack `types` or `masks`.

    It is `ADVICE` of the builder's module, a dict; empty where there is none.
    """
    base = name.partition("/")[0]
    if base not in _builder_packages():
        return ""
    found = getattr(builder_module(base), "ADVICE", {}).get(lacks, "")
    return f" {found}" if found else ""


def _builder_packages() -> list[str]:
    package = importlib.import_module("wbc_jax.tfds_builders")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.ispkg)


def local_dir(data: Data) -> epath.Path:
    """Returns the folder that records are read from and written to.

    If `data.data_dir` is in an object store (`gs://`), this is a local copy of it,
    `$XDG_CACHE_HOME/wbc_jax/copies/...` (`~/.cache` if unset), as ArrayRecord reads local files
    only.
    """
    folder = epath.Path(data.data_dir).expanduser()
    if not atomic.is_remote(folder):
        return folder
    cache = epath.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    name = os.fspath(folder).replace("://", "/").strip("/").replace("/", "_")
    digest = hashlib.sha256(os.fspath(folder).encode()).hexdigest()[:8]
    return cache / "wbc_jax" / "copies" / f"{name}-{digest}"


def manual_dir(data: Data) -> str:
    """Returns the folder of the authors' files: the config's, else `$WBC_JAX_DATA`, else ''."""
    chosen = data.manual_dir or os.environ.get(MANUAL_DIR_VARIABLE, "")
    return os.fspath(epath.Path(chosen).expanduser()) if chosen else ""


def check_distinct(names: Sequence[str], data: Data) -> None:
    """Checks that no two names share cells.

    Two names may mean the same records (`pbc` and `pbc/five`), or records that show the same cells
    without a way to match them (`kaggle_blood_cells/original` and `augmented`).

    Raises:
        ConfigError: two names share cells, or a data set does not exist.
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
        default = next(iter(c.name for c in builder_module(base).Builder.BUILDER_CONFIGS), "")
        for excluded in getattr(builder_module(base), "NEVER_TOGETHER", {}).get(variant, ()):
            other = f"{base}/{excluded}"
            if other not in names and not (base in names and excluded == default):
                continue
            raise ConfigError(
                f"{name!r} and {other!r} show the same cells, and nothing says which are the same:"
                " one of them would give the other's test images away. Name one of them."
            )


def has_records(made: tfds.core.DatasetBuilder) -> bool:
    """Returns whether a builder's records are on the local disk."""
    before = logging.get_verbosity()
    logging.set_verbosity(min(before, logging.ERROR))  # TFDS warns if they are not
    try:
        return made.is_prepared()
    finally:
        logging.set_verbosity(before)


def load(name: str, data: Data) -> Source:
    """Opens the records of `name`, which `preparing.prepare` has written.

    Raises:
        DataError: the records are missing, or two of them have one id.
    """
    made = builder(name, data)
    if not has_records(made):
        raise DataError(f"{name}: no records in {made.data_dir}; write them with --mode=prepare.")
    columns = read_index(name, made, data.threads)
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
        encoded=_Encoded(made),
        hashes=_unhex(columns["hash"]),
        cell_hashes=_unhex(columns["cell_hash"]),
    )


class _Encoded(Sequence):
    """Random access to records, parsed by `records.parse`."""

    def __init__(self, made: tfds.core.DatasetBuilder):
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        self._serialized = made.as_data_source(split=TFDS_SPLIT, deserialize_method=raw)

    def __len__(self) -> int:
        return len(self._serialized)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return records.parse(self._serialized[position])


def read_index(name: str, made: tfds.core.DatasetBuilder, threads: int) -> dict[str, list[Any]]:
    """Returns columns and perceptual hashes of the records, from a file beside them.

    Writes the file if it is missing or damaged.
    """
    path = epath.Path(made.data_dir) / INDEX
    with contextlib.suppress(OSError, ValueError):  # missing or damaged: made again
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

    with reading.on_threads(threads, f"{name}: looking for duplicates"):
        rows = list(reading.each(read, range(len(encoded))))
    columns = {key: [row[key] for row in rows] for key in (*_COLUMNS, *_HASHES)}
    # The file only saves time: records on a read-only disk are indexed each time.
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
