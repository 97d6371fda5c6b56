"""Predictions of any number of image files, written as Parquet parts by one process or many.

The list of files is cut into parts of `part_size` paths, and part k belongs to process k mod n.
What is in a part depends on nothing else: not on the number of processes, nor on how often they
were killed. A part is written whole or not at all, and one that is there is not computed again.
`manifest.json` names the model, the list and the settings that all parts are of.

No more than a part's results and a few batches of images are in memory, however long the list.
"""

import collections
import csv
import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, TypeVar

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from etils import epath

from wbc_jax.config import flatten
from wbc_jax.data.images import encode_png, read_image
from wbc_jax.errors import DataError, ShardsError
from wbc_jax.inference import model as inference
from wbc_jax.parallel.environment import find_place
from wbc_jax.utils import atomic
from wbc_jax.utils.progress import Progress

MANIFEST = "manifest.json"
PARTS = "parts"
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
        ("nucleus_px", pa.int64()),
        ("cytoplasm_px", pa.int64()),
        ("nc_ratio", pa.float64()),
        ("nucleus_share", pa.float64()),
        ("flag", pa.string()),
        ("mask_png", pa.binary()),
    ]
)
"""One row a path, in the list's order: `index` counts from 0, `error` is null where all went well,
and what the model has no output for is null. The ratios are +inf and NaN as in `Prediction`."""

# Batches whose images are read while one before them is computed; whose masks are cut meanwhile.
_READ_AHEAD, _COMPUTE_AHEAD = 2, 1
_T, _S = TypeVar("_T"), TypeVar("_S")


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """How the parts are made; `threads` and `retry_bad` change nothing in them.

    Attributes:
        part_size: paths a part.
        batch_size: images a pass through the network, over all devices of the process.
        masks: store each mask, as PNG.
        threads: that read images and encode masks.
        retry_bad: compute parts with bad files again.
    """

    part_size: int = 1024
    batch_size: int = 32
    masks: bool = True
    threads: int = 4
    retry_bad: bool = False

    def __post_init__(self):
        for name in ("part_size", "batch_size", "threads"):
            value = getattr(self, name)
            if value < 1:
                raise ShardsError(f"--{name} is {value}; it must be at least 1.")


@dataclasses.dataclass(frozen=True, slots=True)
class Listing:
    """A text file with a path a line; blank lines do not count.

    Attributes:
        path: of the file.
        count: paths in it.
        sha256: of the paths, each ended by a newline.
        starts: byte at which each part's first path begins.
        part_size: paths a part.
    """

    path: epath.Path
    count: int
    sha256: str
    starts: tuple[int, ...]
    part_size: int

    def paths(self, part: int) -> list[str]:
        """Returns the paths of a part."""
        with self.path.open("rb") as file:
            file.seek(self.starts[part])
            lines = (line for line in map(_stripped, file) if line)
            return [os.fsdecode(line) for line in itertools.islice(lines, self.part_size)]

    def size(self, part: int) -> int:
        """Returns how many paths a part has."""
        return min(self.part_size, self.count - part * self.part_size)


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """What `predict` did and found.

    Attributes:
        images: paths of this process.
        parts: of this process; `skipped` of them were there.
        bad: files of this process that could not be predicted, those found earlier included.
        bad_files: table of these; None without any.
    """

    images: int
    parts: int
    skipped: int
    bad: int
    bad_files: epath.Path | None


def read_listing(path: epath.PathLike, part_size: int) -> Listing:
    """Reads a list of paths once, keeping only where each part begins.

    Raises:
        ShardsError: the file cannot be read or names nothing.
    """
    path = epath.Path(path).expanduser()
    count, offset, starts, digest = 0, 0, [], hashlib.sha256()
    try:
        with path.open("rb") as file:
            for line in file:
                name = _stripped(line)
                if name:
                    if count % part_size == 0:
                        starts.append(offset)
                    digest.update(name + b"\n")
                    count += 1
                offset += len(line)
    except OSError as error:
        raise ShardsError(f"the list {path} cannot be read ({error}).") from error
    if not count:
        raise ShardsError(f"the list {path} names no file; it must hold a path a line.")
    return Listing(path, count, digest.hexdigest(), tuple(starts), part_size)


def write_listing(paths: Iterable[str], path: epath.PathLike) -> None:
    """Writes paths as a list for `read_listing`.

    Raises:
        ShardsError: a path holds a line break.
    """
    with epath.Path(path).open("wb") as file:
        for name in paths:
            if "\n" in name or "\r" in name:
                raise ShardsError(f"the file name {name!r} holds a line break; rename the file.")
            file.write(os.fsencode(name) + b"\n")


def _stripped(line: bytes) -> bytes:
    line = line.rstrip(b"\r\n")  # a file's name may begin or end with a blank
    return line if line.strip() else b""


def find_shard(text: str, environment: Mapping[str, str]) -> tuple[int, int]:
    """Returns (i, n): this is process i, from 0, of n that share the work.

    Args:
        text: `i/n` of `--shard`; empty: the variables WBC_JAX_PROCESS_ID and WBC_JAX_NUM_PROCESSES
            decide, else those of SLURM's `srun`, else JAX, where it has several processes.
        environment: variables.

    Raises:
        ShardsError: no numbers, or i is not below n.
    """
    where = "--shard"
    if not text:
        place = find_place(environment)
        if place is None:
            return jax.process_index(), jax.process_count()
        where, text = "/".join(place.names), f"{place.index}/{place.count}"
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal()) or int(index) >= int(count):
        raise ShardsError(
            f"{where} is {text!r}; it must be I/N, with I from 0 to N - 1, such as 0/4."
        )
    return int(index), int(count)


def predict(
    model: inference.Model,
    listing: Listing,
    out: epath.PathLike,
    shard: tuple[int, int] = (0, 1),
    settings: Settings | None = None,
) -> Summary:
    """Writes the parts of one process that are not there yet to `<out>/parts`.

    Bad files have their reason in the column `error`, and stand in `<out>/bad_files.csv` (of one
    of several processes: `bad_files-I-of-N.csv`).

    Args:
        model: from `wbc_jax.load`; spread over the process's devices.
        listing: from `read_listing`, with `settings.part_size`.
        out: folder, made if missing; `gs://` works.
        shard: this is process i of n.
        settings: by default `Settings()`.

    Raises:
        ShardsError: `out` holds results of another model, list or settings, or a damaged part, or
            the batch does not divide among the devices.
        OSError: `out` cannot be written. Finished parts stay.
    """
    settings = settings or Settings()
    out = epath.Path(out).expanduser()
    devices = model.spread()
    if settings.batch_size % devices:
        raise ShardsError(
            f"--batch_size is {settings.batch_size}; it must be a multiple of the {devices} "
            "devices of a process."
        )
    claim(out, manifest(model, listing, settings))
    index, count = shard
    mine = range(index, len(listing.starts), count)
    missing = [part for part in mine if not _is_done(_path(out, part), settings.retry_bad)]
    total = sum(map(listing.size, mine))
    done = total - sum(map(listing.size, missing))
    if missing:
        _predict_parts(model, listing, out, missing, settings, total, done)
    listed = out / ("bad_files.csv" if count == 1 else f"bad_files-{index}-of-{count}.csv")
    bad = _list_bad(out, mine, listed)
    return Summary(total, len(mine), len(mine) - len(missing), bad, listed if bad else None)


def manifest(model: inference.Model, listing: Listing, settings: Settings) -> dict[str, Any]:
    """Returns what decides on the content of the parts, by name."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(model.weights):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())
    config = model.config
    return {
        "model.weights_sha256": digest.hexdigest(),
        "model.step": model.step,
        "model.task": config.task,
        "model.image_size": config.data.image_size,
        "model.flips": config.evaluate.flips,
        **{f"model.{name}": value for name, value in flatten(config.model).items()},
        "list.paths": listing.count,
        "list.sha256": listing.sha256,
        "part_size": settings.part_size,
        "batch_size": settings.batch_size,
        "masks": settings.masks,
    }


def claim(out: epath.Path, wanted: dict[str, Any]) -> None:
    """Writes `manifest.json`, or checks that the one there is the same.

    Raises:
        ShardsError: it is not; lists what differs.
    """
    path = out / MANIFEST
    if not path.exists():
        if any((out / PARTS).glob("*.parquet")):
            raise ShardsError(
                f"{out / PARTS} holds parts, but {path} is missing; name another --out."
            )
        atomic.write_json(path, wanted)
    try:
        there = json.loads(path.read_text())  # another process may have been quicker
        differing = [k for k in {**there, **wanted} if there.get(k) != wanted.get(k)]
    except (ValueError, TypeError) as error:
        raise ShardsError(f"{path} is damaged ({error}); name another --out.") from error
    if differing:
        lines = [f"{k}: {there.get(k)!r} there, {wanted.get(k)!r} here" for k in differing]
        raise ShardsError(
            f"{out} holds results of something else:\n  " + "\n  ".join(lines) + "\nName another "
            "--out, or delete this one to start over."
        )


def _path(out: epath.Path, part: int) -> epath.Path:
    return out / PARTS / f"part-{part:06}.parquet"


def _is_done(path: epath.Path, retry_bad: bool) -> bool:
    return path.exists() and not (retry_bad and _bad_rows(path))


def _bad_rows(path: epath.Path) -> list[dict[str, str]]:
    try:
        with path.open("rb") as file:
            table = pq.read_table(file, columns=["file", "error"])
    except pa.ArrowInvalid as error:
        raise ShardsError(
            f"{path} is damaged ({error}); delete it and run the same command again."
        ) from error
    return table.filter(table["error"].is_valid()).to_pylist()


def _list_bad(out: epath.Path, mine: Iterable[int], listed: epath.Path) -> int:
    """Writes the bad files of the parts `mine`, and returns how many there are."""
    bad = 0
    with atomic.atomic_write(listed) as temporary, temporary.open("w") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file", "reason"))
        for part in mine:
            rows = _bad_rows(_path(out, part))
            writer.writerows((row["file"], row["error"]) for row in rows)
            bad += len(rows)
    if not bad:
        listed.unlink()
    return bad


def _predict_parts(
    model: inference.Model,
    listing: Listing,
    out: epath.Path,
    parts: Sequence[int],
    settings: Settings,
    total: int,
    done: int,
) -> None:
    progress = Progress("image", total, done=done)
    rows: list[dict[str, Any]] = []
    with futures.ThreadPoolExecutor(settings.threads) as pool:
        try:
            for part, batch in _batches(model, listing, parts, settings, pool):
                rows += batch
                done += len(batch)
                if len(rows) == listing.size(part):
                    atomic.remove_stale_temporaries(_path(out, part))
                    _write(_path(out, part), rows)
                    rows = []
                progress.update(done, len(batch))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            progress.close()


def _write(path: epath.Path, rows: list[dict[str, Any]]) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), sink, compression="zstd")
    atomic.write_bytes(path, sink.getvalue().to_pybytes())


def _batches(
    model: inference.Model,
    listing: Listing,
    parts: Sequence[int],
    settings: Settings,
    pool: futures.Executor,
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yields (part, rows) batch by batch: images of the next ones are read, and masks of the last
    one encoded, while the device computes."""

    def chunks() -> Iterator[tuple[int, int, list[str]]]:
        for part in parts:
            paths = listing.paths(part)
            if len(paths) != listing.size(part):
                raise ShardsError(f"the list {listing.path} has changed meanwhile; run this again.")
            for start in range(0, len(paths), settings.batch_size):
                first = part * settings.part_size + start
                yield part, first, paths[start : start + settings.batch_size]

    def read(chunk):
        part, first, paths = chunk
        return part, first, [pool.submit(_read, model, path) for path in paths]

    def compute(chunk):
        part, first, reading = chunk
        found = [future.result() for future in reading]
        good = [i for i, (_, image, _) in enumerate(found) if image is not None]
        logits = None
        if good:
            # Always of one shape: compiled once, and a row does not depend on its part's length.
            side = model.config.data.image_size
            images = np.zeros((settings.batch_size, side, side, 3), np.uint8)
            for place, i in enumerate(good):
                images[place] = found[i][1]
            logits = model.logits(images)
        return part, first, [row for row, _, _ in found], [(i, found[i][2]) for i in good], logits

    def finish(chunk):
        part, first, rows, good, logits = chunk
        values = None if logits is None else np.asarray(logits)
        finishing = [
            pool.submit(_finish, model, rows[i], values[place], size, settings.masks)
            for place, (i, size) in enumerate(good)
        ]
        return part, first, rows, finishing

    reading = _ahead(read, chunks(), _READ_AHEAD)
    computing = _ahead(compute, reading, _COMPUTE_AHEAD)
    for part, first, rows, finishing in _ahead(finish, computing, 1):
        for future in finishing:
            future.result()
        for i, row in enumerate(rows):
            row["index"] = first + i
        yield part, rows


def _ahead(start: Callable[[_T], _S], items: Iterable[_T], depth: int) -> Iterator[_S]:
    """Yields `start(item)` of each, with the next `depth` started already."""
    started: collections.deque[_S] = collections.deque()
    for item in items:
        started.append(start(item))
        if len(started) > depth:
            yield started.popleft()
    yield from started


def _read(
    model: inference.Model, path: str
) -> tuple[dict[str, Any], np.ndarray | None, tuple[int, int]]:
    """Returns the row's beginning, the image at the network's size (None: bad), its own size."""
    row: dict[str, Any] = {"file": atomic.utf8(path)}
    try:
        image = read_image(path)
    except DataError as error:
        return row | {"error": atomic.utf8(str(error))}, None, (0, 0)
    height, width = image.shape[:2]
    return row | {"width": width, "height": height}, model.fit(image), (height, width)


def _finish(
    model: inference.Model,
    row: dict[str, Any],
    logits: np.ndarray,
    size: tuple[int, int],
    masks: bool,
) -> None:
    found = model.read(logits, size)
    if found.probabilities is not None:
        row |= {"type": found.type, "probability": float(found.probabilities.max())}
        row["probabilities"] = found.probabilities
    if found.mask is not None:
        for name in ("nucleus_px", "cytoplasm_px", "nc_ratio", "nucleus_share", "flag"):
            row[name] = getattr(found, name)
        if masks:
            row["mask_png"] = encode_png(found.mask)


def describe(summary: Summary, out: epath.PathLike, shard: tuple[int, int]) -> str:
    """Returns what `predict` did, as a line."""
    process = f"process {shard[0]} of {shard[1]}: " if shard[1] > 1 else ""
    there = f", {summary.skipped} of them there before" if summary.skipped else ""
    return (
        f"{process}{summary.images - summary.bad} images predicted, in {summary.parts} parts"
        f"{there}: {epath.Path(out) / PARTS}"
    )
