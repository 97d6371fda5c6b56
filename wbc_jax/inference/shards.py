"""Predicts any number of image files to Parquet shards, in one process or many.

A shard is a file `parts/part-NNNNNN.parquet` with the results of `part_size` paths of the list;
process i of n writes the shards k with k mod n = i. The content of a shard does not depend on the
number of processes, or on how often they were killed. A shard is written whole or not at all, and
an existing shard is not computed again. `manifest.json` names the model, the list and the settings
of all shards.

Memory holds the results of one shard and a few batches of images, however long the list is.
"""

import collections
import dataclasses
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, TypeVar

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import scipy.special
from etils import epath

from wbc_jax.config import flatten
from wbc_jax.data import isolation, light, orientation
from wbc_jax.data.images import encode_png, read_with_metadata
from wbc_jax.errors import DataError, ShardsError
from wbc_jax.inference import abstention, weights
from wbc_jax.inference import model as inference
from wbc_jax.parallel.environment import find_place
from wbc_jax.utils import atomic
from wbc_jax.utils.output_folder import OutputFolder
from wbc_jax.utils.progress import Progress

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

# Number of batches that are read, and computed, ahead of the one whose masks are encoded.
_READ_AHEAD, _COMPUTE_AHEAD = 2, 1
# Line breaks in paths, and how a list has them: no path holds a zero byte.
_BREAKS = ((b"\n", b"\0n"), (b"\r", b"\0r"))
_T, _S = TypeVar("_T"), TypeVar("_S")

FORMAT = 3
"""Number of the way in which images become rows; parts of another are not continued."""
Judge = Callable[[np.ndarray], Callable[[np.ndarray | None], bool]]
"""From an image, uint8 `[H, W, 3]`, to a function from its mask, uint8 `[H, W]` or None, to whether
it shows a cell."""


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the shards; `part_size` and `masks` alone change their content.

    Attributes:
        part_size: paths per shard.
        batch_size: images read, computed and written together.
        masks: store each mask, as PNG.
        threads: number of threads that read images and encode masks.
        retry_bad: compute shards with bad files again.
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
class Typing:
    """What decides a cell's type.

    Attributes:
        classifier: types the cells of a segmenter; None: it gives no types, or the model is itself
            a classifier.
        rule: decides which types are left to a person; None: none.
    """

    classifier: inference.Model | None = None
    rule: abstention.Rule | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Listing:
    """A text file with one path per line; blank lines do not count.

    Attributes:
        path: of the file.
        count: number of paths.
        sha256: of the paths, each followed by a newline.
        starts: byte offset of each shard's first path.
        part_size: paths per shard.
    """

    path: epath.Path
    count: int
    sha256: str
    starts: tuple[int, ...]
    part_size: int

    def paths(self, shard: int) -> list[str]:
        """Returns the paths of a shard."""
        with self.path.open("rb") as file:
            file.seek(self.starts[shard])
            lines = (line for line in map(_stripped, file) if line)
            return [_path_of(line) for line in itertools.islice(lines, self.part_size)]

    def size(self, shard: int) -> int:
        """Returns the number of paths of a shard."""
        return min(self.part_size, self.count - shard * self.part_size)


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """The outcome of `predict`.

    Attributes:
        images: number of paths of this process.
        shards: number of shards of this process; `skipped` of them existed.
        bad: number of files of this process that could not be predicted, now or earlier.
        bad_files: table of these; None if there are none.
    """

    images: int
    shards: int
    skipped: int
    bad: int
    bad_files: epath.Path | None


def read_listing(path: epath.PathLike, part_size: int) -> Listing:
    """Reads a list of paths once, and keeps only the offset of each shard.

    Raises:
        ShardsError: the file cannot be read or is empty.
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
        raise ShardsError(f"the list {path} names no file; it must hold one path per line.")
    return Listing(path, count, digest.hexdigest(), tuple(starts), part_size)


def write_listing(paths: Iterable[str], path: epath.PathLike) -> None:
    """Writes paths as a list for `read_listing`; line breaks in names are marked by `_BREAKS`."""
    with epath.Path(path).open("wb") as file:
        for name in paths:
            line = os.fsencode(name)
            for break_, marked in _BREAKS:
                line = line.replace(break_, marked)
            file.write(line + b"\n")


def _stripped(line: bytes) -> bytes:
    line = line.rstrip(b"\r\n")  # a file name may begin or end with a blank
    return line if line.strip() else b""


def _path_of(line: bytes) -> str:
    for break_, marked in _BREAKS:
        line = line.replace(marked, break_)
    return os.fsdecode(line)


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
    process: tuple[int, int] = (0, 1),
    settings: Settings | None = None,
    judge: Judge | None = None,
    typing: Typing | None = None,
) -> Summary:
    """Writes the missing shards of one process to `<out>/parts`.

    The column `error` has the reason of each bad file, and `<out>/bad_files.csv` lists them
    (`bad_files-I-of-N.csv` if there are several processes).

    Args:
        model: from `wbc_jax.load`; spread over the process's devices. A segmenter keeps the middle
            cell alone.
        listing: from `read_listing`, with `settings.part_size`.
        out: folder, created if missing; `gs://` works.
        process: (i, n), this is process i of n.
        settings: by default `Settings()`.
        judge: knows images without a cell, such as `fields.contrast.judge`; None: all show one.
        typing: decides the types of a segmenter's cells, and which are left to a person; without a
            classifier of its own, the latter for those of `model`.

    Raises:
        InputError: another process writes the same shards to `out`, or a person's file would be
            replaced.
        ShardsError: `out` holds results of another model, list or settings, or a damaged shard.
        OSError: `out` cannot be written. Finished shards stay.
    """
    settings, typing = settings or Settings(), typing or Typing()
    out = epath.Path(out).expanduser()
    if model.config.task == "segmentation":
        # Each image is one cell; a classifier that follows chooses it by itself.
        model = model.with_middle_cell(typing.classifier is None)
    model.spread()
    if typing.classifier:
        typing.classifier.spread()
    index, count = process
    name = f"{index}-of-{count}"
    listed = "bad_files.csv" if count == 1 else f"bad_files-{name}.csv"
    with OutputFolder(out, part=f"{name}.") as folder:
        if not claim(out, manifest(model, listing, settings, typing)):
            folder.adopt([listed])
        folder.refuse_foreign([listed])
        mine = range(index, len(listing.starts), count)
        missing = [
            shard for shard in mine if not _is_done(part_path(out, shard), settings.retry_bad)
        ]
        total = sum(map(listing.size, mine))
        done = total - sum(map(listing.size, missing))
        if missing:
            _predict_shards(model, listing, out, missing, settings, judge, typing, total, done)
        bad = _list_bad(folder, mine, listed)
    return Summary(total, len(mine), len(mine) - len(missing), bad, out / listed if bad else None)


def manifest(
    model: inference.Model, listing: Listing, settings: Settings, typing: Typing | None = None
) -> dict[str, Any]:
    """Returns everything that determines the content of the shards, by name."""
    typing = typing or Typing()
    return {
        **_describe_model(model, "model"),
        **(_describe_model(typing.classifier, "classifier") if typing.classifier else {}),
        **({"rule_sha256": _digest(typing.rule)} if typing.rule else {}),
        "list.paths": listing.count,
        "list.sha256": listing.sha256,
        "part_size": settings.part_size,
        "masks": settings.masks,
        "format": FORMAT,
    }


def _describe_model(model: inference.Model, name: str) -> dict[str, Any]:
    config = model.config
    found = {
        "weights_sha256": weights.digest(model.weights),
        "step": model.step,
        "task": config.task,
        "image_size": config.data.image_size,
        "flips": config.evaluate.flips,
        **flatten(config.model),
    }
    return {f"{name}.{key}": value for key, value in found.items()}


def _digest(rule: abstention.Rule) -> str:
    return hashlib.sha256(json.dumps(abstention.as_json(rule)).encode()).hexdigest()


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


def _list_bad(folder: OutputFolder, mine: Iterable[int], listed: str) -> int:
    """Writes the bad files of the shards `mine`, and returns their number."""
    bad = [row for shard in mine for row in _bad_rows(part_path(folder.path, shard))]
    folder.list_bad([(row["file"], row["error"]) for row in bad], listed)
    return len(bad)


def _predict_shards(
    model: inference.Model,
    listing: Listing,
    out: epath.Path,
    shards: Sequence[int],
    settings: Settings,
    judge: Judge | None,
    typing: Typing,
    total: int,
    done: int,
) -> None:
    progress = Progress("image", total, done=done)
    rows: list[dict[str, Any]] = []
    with futures.ThreadPoolExecutor(settings.threads) as pool:
        try:
            for shard, batch in _batches(model, listing, shards, settings, judge, typing, pool):
                rows += batch
                done += len(batch)
                if len(rows) == listing.size(shard):
                    atomic.remove_stale_temporaries(part_path(out, shard))
                    _write(part_path(out, shard), rows)
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
    shards: Sequence[int],
    settings: Settings,
    judge: Judge | None,
    typing: Typing,
    pool: futures.Executor,
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yields (shard, rows) batch by batch.

    While the device computes a batch, threads read the images of the next ones and encode the masks
    of the previous one.
    """

    def chunks() -> Iterator[tuple[int, int, list[str]]]:
        for shard in shards:
            paths = listing.paths(shard)
            if len(paths) != listing.size(shard):
                raise ShardsError(f"the list {listing.path} has changed meanwhile; run this again.")
            for start in range(0, len(paths), settings.batch_size):
                first = shard * settings.part_size + start
                yield shard, first, paths[start : start + settings.batch_size]

    def read(chunk):
        shard, first, paths = chunk
        wanted = typing.classifier is not None
        return shard, first, [pool.submit(_read, model, judge, wanted, path) for path in paths]

    def compute(chunk):
        shard, first, reading = chunk
        found = [future.result() for future in reading]
        good = [i for i, (_, image, _) in enumerate(found) if image is not None]
        started = model.start(np.stack([found[i][1] for i in good])) if good else None
        return shard, first, [row for row, _, _ in found], [(i, found[i][2]) for i in good], started

    def finish(chunk):
        shard, first, rows, good, started = chunk
        outputs = started() if started else ((), None)
        finishing = [
            (i, pool.submit(_finish, model, rows[i], *one, seen, settings.masks, typing))
            for (i, seen), one in zip(good, _each(*outputs))
        ]
        return shard, first, rows, finishing

    def name(chunk):
        shard, first, rows, finishing = chunk
        views = [(i, future.result()) for i, future in finishing]
        views = [(i, view) for i, view in views if view is not None]
        started = typing.classifier.start(np.stack([v for _, v in views])) if views else None
        return shard, first, rows, [i for i, _ in views], started

    reading = _ahead(read, chunks(), _READ_AHEAD)
    computing = _ahead(compute, reading, _COMPUTE_AHEAD)
    for shard, first, rows, typed, started in _ahead(name, _ahead(finish, computing, 1), 1):
        for i, one in zip(typed, _each(*started()) if started else ()):
            rows[i] |= _types(*one, typing.rule)
        for i, row in enumerate(rows):
            row["index"] = first + i
        yield shard, rows


def _each(
    logits: Sequence[np.ndarray], embeddings: np.ndarray | None
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yields the outputs of a network for each image of a batch."""
    return zip(logits, itertools.repeat(None) if embeddings is None else embeddings)


def _ahead(start: Callable[[_T], _S], items: Iterable[_T], depth: int) -> Iterator[_S]:
    """Yields `start(item)` of each item, after the next `depth` have been started."""
    started: collections.deque[_S] = collections.deque()
    for item in items:
        started.append(start(item))
        if len(started) > depth:
            yield started.popleft()
    yield from started


@dataclasses.dataclass(frozen=True, slots=True)
class _Seen:
    """How an image was shown to the network.

    Attributes:
        turn: its position.
        shows_cell: from `Judge`.
        view: uint8 `[H, W, 3]` in that position, for a classifier that follows; None without one.
    """

    turn: orientation.Position = orientation.UPRIGHT
    shows_cell: Callable[[np.ndarray | None], bool] | None = None
    view: np.ndarray | None = None


def _read(
    model: inference.Model, judge: Judge | None, typed: bool, path: str
) -> tuple[dict[str, Any], np.ndarray | None, _Seen]:
    """Returns the first columns, the image as the network sees it (None: bad), and how."""
    row: dict[str, Any] = {"file": atomic.utf8(path)}
    try:
        file = read_with_metadata(path)
    except DataError as error:
        return row | {"error": atomic.utf8(str(error))}, None, _Seen()
    for note in file.notes:
        print(f"note: {atomic.utf8(note)}", file=sys.stderr, flush=True)
    image = file.pixels
    height, width = image.shape[:2]
    row |= {"width": width, "height": height, "flag": ";".join(file.flags) or None}
    turn = orientation.find(image)
    view = orientation.place(image, turn) if typed else None
    seen = _Seen(turn, judge and judge(image), view)
    if model.config.task == "segmentation":
        return row, model.fit(_standard(image, seen.turn)), seen
    # A classifier has a light of its own, but the mask that it cuts to is a segmenter's.
    segmenter = model.segmenter
    mask = segmenter.predict(_standard(image, seen.turn)).mask if segmenter else None
    return row, model.fit(orientation.place(image, seen.turn), mask), seen


def _standard(image: np.ndarray, turn: orientation.Position) -> np.ndarray:
    """Returns an image in the light and position in which a segmenter sees it."""
    return orientation.place(light.standardize(image), turn)


def _finish(
    model: inference.Model,
    row: dict[str, Any],
    logits: np.ndarray,
    embedding: np.ndarray | None,
    seen: _Seen,
    masks: bool,
    typing: Typing,
) -> np.ndarray | None:
    """Fills a row; returns the image as a classifier that follows sees it, None without a cell."""
    height, width = row["height"], row["width"]
    _, _, transposed = seen.turn
    found = model.read(logits, (width, height) if transposed else (height, width))
    turned = found.mask
    if typing.classifier:
        found = inference.measured(isolation.keep_middle_cell(turned))
    if found.mask is not None:
        found = dataclasses.replace(found, mask=orientation.replace(found.mask, seen.turn))
    if seen.shows_cell and not seen.shows_cell(found.mask):
        found = found.without_cell()
    flags = ";".join(filter(None, (found.flag, row["flag"])))
    row["flag"] = flags if flags or found.mask is not None else None
    if found.probabilities is not None:
        row |= _types(logits, embedding, typing.rule)
    if found.mask is not None:
        for name in ("nucleus_px", "cytoplasm_px", "nc_ratio", "nucleus_share"):
            row[name] = getattr(found, name)
        if masks:
            row["mask_png"] = encode_png(found.mask)
    if typing.classifier is None or "no_cell" in found.flag:
        return None
    return typing.classifier.fit(seen.view, turned)


def _types(
    logits: np.ndarray, embedding: np.ndarray | None, rule: abstention.Rule | None
) -> dict[str, Any]:
    """Returns the columns that a classifier gives."""
    judged = abstention.judge(None, logits)
    probabilities = scipy.special.softmax(logits)
    row = {"type": judged["best_guess"], "probability": float(probabilities.max())}
    row["probabilities"] = probabilities
    if rule is not None:
        judged = abstention.judge(rule, logits, embedding)
        row |= {"calibrated": judged["probability"], "review": judged["review"]}
    return row


def describe(summary: Summary, out: epath.PathLike, process: tuple[int, int]) -> str:
    """Returns the outcome of `predict` as a line of text."""
    who = f"process {process[0]} of {process[1]}: " if process[1] > 1 else ""
    there = f", {summary.skipped} of them there before" if summary.skipped else ""
    return (
        f"{who}{summary.images - summary.bad} images predicted, in {summary.shards} parts"
        f"{there}: {epath.Path(out) / FOLDER}"
    )
