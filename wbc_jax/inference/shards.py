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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any, TypeVar

import jax
import numpy as np
from etils import epath

from wbc_jax.config import flatten
from wbc_jax.errors import ShardsError
from wbc_jax.inference import abstention, shard_files, shard_rows, weights
from wbc_jax.inference import model as inference
from wbc_jax.inference.path_lists import Listing
from wbc_jax.inference.shard_rows import Judge, Typing
from wbc_jax.parallel.environment import find_place
from wbc_jax.utils import atomic
from wbc_jax.utils.output_folder import OutputFolder
from wbc_jax.utils.progress import Progress

# Number of batches that are read, and computed, ahead of the one whose masks are encoded.
_READ_AHEAD, _COMPUTE_AHEAD = 2, 1
_T, _S = TypeVar("_T"), TypeVar("_S")


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
        listing: from `path_lists.read_listing`, with `settings.part_size`.
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
        if not shard_files.claim(out, manifest(model, listing, settings, typing)):
            folder.adopt([listed])
        folder.refuse_foreign([listed])
        mine = range(index, len(listing.starts), count)
        missing = [
            shard
            for shard in mine
            if not shard_files.is_done(shard_files.part_path(out, shard), settings.retry_bad)
        ]
        total = sum(map(listing.size, mine))
        done = total - sum(map(listing.size, missing))
        if missing:
            _predict_shards(model, listing, out, missing, settings, judge, typing, total, done)
        bad = shard_files.list_bad(folder, mine, listed)
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
        "format": shard_files.FORMAT,
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
                    atomic.remove_stale_temporaries(shard_files.part_path(out, shard))
                    shard_files.write(shard_files.part_path(out, shard), rows)
                    rows = []
                progress.update(done, len(batch))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            progress.close()


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
        reading = [pool.submit(shard_rows.read, model, judge, wanted, path) for path in paths]
        return shard, first, reading

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
            (i, pool.submit(shard_rows.finish, model, rows[i], *one, seen, settings.masks, typing))
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
            rows[i] |= shard_rows.types(*one, typing.rule)
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


def describe(summary: Summary, out: epath.PathLike, process: tuple[int, int]) -> str:
    """Returns the outcome of `predict` as a line of text."""
    who = f"process {process[0]} of {process[1]}: " if process[1] > 1 else ""
    there = f", {summary.skipped} of them there before" if summary.skipped else ""
    return (
        f"{who}{summary.images - summary.bad} images predicted, in {summary.shards} parts"
        f"{there}: {epath.Path(out) / shard_files.FOLDER}"
    )
