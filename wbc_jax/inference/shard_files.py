"""A folder of Parquet shards: the columns, the manifest, and which shards are there."""

import json
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from wbc_jax.errors import ShardsError
from wbc_jax.utils import atomic
from wbc_jax.utils.output_folder import OutputFolder

MANIFEST = "manifest.json"
FOLDER = "parts"
SCHEMA = pa.schema(
    [
        ("index", pa.int64()),
        ("file", pa.string()),
        ("error", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("type", pa.string()),
        ("probability", pa.float32()),
        ("probabilities", pa.list_(pa.float32())),
        ("calibrated", pa.float64()),
        ("review", pa.string()),
        ("nucleus_px", pa.int64()),
        ("cytoplasm_px", pa.int64()),
        ("nc_ratio", pa.float64()),
        ("nucleus_share", pa.float64()),
        ("flag", pa.string()),
        ("mask_png", pa.binary()),
    ]
)
"""One row per path, in the order of the list. `index` counts from 0; `error` is null without an
error; outputs that the models do not have are null. `type` and `probability` are the most probable
type's, whether or not the classifier abstains; with an abstention rule, `calibrated` is its
calibrated probability and `review` the reason to leave the cell to a person, or empty. Ratios are
+inf and NaN as in `Prediction`."""
FORMAT = 3
"""Number of the way in which images become rows; parts of another are not continued."""


def claim(out: epath.Path, wanted: dict[str, Any]) -> bool:
    """Writes `manifest.json`, or checks that the existing one is the same.

    Returns:
        Whether it wrote it.

    Raises:
        ShardsError: it is not; lists the differences.
    """
    path = out / MANIFEST
    wanted = json.loads(json.dumps(wanted))  # a tuple is read as a list
    new = not path.exists()
    if new:
        if any((out / FOLDER).glob("*.parquet")):
            raise ShardsError(
                f"{out / FOLDER} holds parts, but {path} is missing; name another --out."
            )
        atomic.write_json(path, wanted)
    try:
        there = json.loads(path.read_text())  # another process may have written it first
        differing = [k for k in {**there, **wanted} if there.get(k) != wanted.get(k)]
    except (ValueError, TypeError) as error:
        raise ShardsError(f"{path} is damaged ({error}); name another --out.") from error
    if differing:
        lines = [f"{k}: {there.get(k)!r} there, {wanted.get(k)!r} here" for k in differing]
        raise ShardsError(
            f"{out} holds results of something else:\n  " + "\n  ".join(lines) + "\nName another "
            "--out, or delete this one to start over."
        )
    return new


def part_path(out: epath.Path, shard: int) -> epath.Path:
    """Returns the path of a shard in the folder of results."""
    return out / FOLDER / f"part-{shard:06}.parquet"


def is_done(path: epath.Path, retry_bad: bool) -> bool:
    """Returns whether a shard is there, and without bad files if these are to be tried again."""
    return path.exists() and not (retry_bad and bad_rows(path))


def bad_rows(path: epath.Path) -> list[dict[str, str]]:
    """Returns `file` and `error` of the bad files of a shard.

    Raises:
        ShardsError: the shard is damaged.
    """
    try:
        with path.open("rb") as file:
            table = pq.read_table(file, columns=["file", "error"])
    except pa.ArrowInvalid as error:
        raise ShardsError(
            f"{path} is damaged ({error}); delete it and run the same command again."
        ) from error
    return table.filter(table["error"].is_valid()).to_pylist()


def list_bad(folder: OutputFolder, mine: Iterable[int], listed: str) -> int:
    """Writes the bad files of the shards `mine`, and returns their number."""
    bad = [row for shard in mine for row in bad_rows(part_path(folder.path, shard))]
    folder.list_bad([(row["file"], row["error"]) for row in bad], listed)
    return len(bad)


def write(path: epath.Path, rows: list[dict[str, Any]]) -> None:
    """Writes the rows of a shard, whole or not at all."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), sink, compression="zstd")
    atomic.write_bytes(path, sink.getvalue().to_pybytes())
