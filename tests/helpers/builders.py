"""Builds the records of a data set and reads them back encoded, for the tests of all builders."""

import hashlib
import pathlib
import types
from typing import Any

import tensorflow_datasets as tfds

SKIP = {"image": tfds.decode.SkipDecoding(), "mask": tfds.decode.SkipDecoding()}


def build(
    module: types.ModuleType, manual_dir: Any, data_dir: Any, config: Any = None
) -> tfds.core.DatasetBuilder:
    """Writes the records of a builder's config; None is its first one."""
    builder = module.Builder(config=config, data_dir=data_dir)
    builder.download_and_prepare(
        file_format="array_record",
        download_config=tfds.download.DownloadConfig(manual_dir=manual_dir),
    )
    return builder


def read(builder: tfds.core.DatasetBuilder, split: str = "all") -> dict[str, dict[str, Any]]:
    """Returns the records by id, image and mask encoded."""
    source = builder.as_data_source(split=split, decoders=SKIP)
    rows = [source[i] for i in range(len(source))]
    return {row["id"].decode(): row for row in rows}


def digests(builder: tfds.core.DatasetBuilder) -> dict[str, str]:
    """Returns the SHA-256 of each file of the records."""
    files = sorted(pathlib.Path(builder.data_path).iterdir())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
