"""Reading the files of a data set: bad files, threads, pairs of image and mask."""

import collections
import contextlib
import contextvars
import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import TypeVar

import numpy as np
from absl import logging
from etils import epath

from wbc_jax.data.images import describe_size, describe_values, unknown_values
from wbc_jax.errors import DataError
from wbc_jax.utils.progress import Progress

POLICIES = ("error", "skip")
SHOWN = 20
"""Bad files that an error message lists."""


@dataclasses.dataclass(slots=True)
class BadFiles:
    """Collects files that cannot become records.

    Attributes:
        policy: `error`: `finish` raises; `skip`: the files are left out and logged.
        files: (path, reason) of each, in the order in which they were found.
    """

    policy: str = "error"
    files: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        if self.policy not in POLICIES:
            raise DataError(
                f"on_bad_file is {self.policy!r}: allowed are {', '.join(map(repr, POLICIES))}"
            )

    def add(self, path: epath.PathLike, reason: str) -> None:
        """Adds a bad file."""
        self.files.append((os.fspath(path), reason))
        if self.policy == "skip":
            logging.warning("Left out: %s", _with_path(*self.files[-1]))

    @contextlib.contextmanager
    def catch(self, path: epath.PathLike) -> Iterator[None]:
        """Turns a `DataError` raised in the block into a bad file; execution continues after it."""
        try:
            yield
        except DataError as error:
            self.add(path, str(error))

    def finish(self, data_set: str) -> None:
        """Ends the reading of a data set.

        Raises:
            DataError: the policy is `error` and there are bad files; lists up to `SHOWN`.
        """
        if not self.files:
            return
        if self.policy == "skip":
            logging.warning("%s: %d bad files were left out", data_set, len(self.files))
            return
        lines = [_with_path(*bad) for bad in self.files[:SHOWN]]
        if len(self.files) > SHOWN:
            lines.append(f"... and {len(self.files) - SHOWN} more")
        number = "1 bad file" if len(self.files) == 1 else f"{len(self.files)} bad files"
        raise DataError(
            f"{data_set}: {number}; mend or remove them, or build with "
            "config.data.on_bad_file='skip' to leave them out:\n  " + "\n  ".join(lines)
        )


_bad_files: contextvars.ContextVar[BadFiles | None] = contextvars.ContextVar(
    "bad_files", default=None
)


@contextlib.contextmanager
def on_bad_file(policy: str) -> Iterator[BadFiles]:
    """Sets what builders do with bad files inside the block.

    A context variable, because TFDS passes no such options to builders.

    Args:
        policy: `error` (also the default outside any block) or `skip`.

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
    """Returns the collector of the enclosing `on_bad_file` block, or a new one that raises.

    The caller `catch`es or `add`s while it reads, and calls `finish` at the end.
    """
    collector = _bad_files.get()
    return BadFiles() if collector is None else collector


Item, Result = TypeVar("Item"), TypeVar("Result")


@dataclasses.dataclass(frozen=True, slots=True)
class _Threads:
    """The arguments of `on_threads`."""

    number: int = 1
    progress: str = ""


_threads: contextvars.ContextVar[_Threads | None] = contextvars.ContextVar("threads", default=None)


@contextlib.contextmanager
def on_threads(number: int, progress: str) -> Iterator[None]:
    """Lets `each` read on several threads inside the block.

    Args:
        number: threads; decoding images releases Python's lock.
        progress: label of the progress line on standard error; empty: no line.
    """
    token = _threads.set(_Threads(number, progress))
    try:
        yield
    finally:
        _threads.reset(token)


def each(
    read: Callable[[Item], Result],
    items: Sequence[Item],
    path: Callable[[Item], epath.PathLike] = str,
    bad: BadFiles | None = None,
) -> Iterator[Result]:
    """Reads items on the threads of the enclosing `on_threads` block (else on one thread).

    Args:
        read: makes the result of an item; called on several threads at once.
        items: what to read.
        path: the file that a `DataError` raised by `read` is attributed to.
        bad: collects these; None: they are raised.

    Yields:
        The results in the order of `items`, without those of bad files.
    """
    threads = _threads.get() or _Threads()
    line = Progress(threads.progress, len(items), "files") if threads.progress else None
    waiting: collections.deque[futures.Future[Result]] = collections.deque()
    pool = futures.ThreadPoolExecutor(threads.number, "read")
    try:
        for number in range(len(items)):
            # Only a few results per thread are ahead of the consumer, which bounds the memory.
            while len(waiting) < 4 * threads.number and number + len(waiting) < len(items):
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


def files_by_stem(folder: epath.PathLike, suffix: str) -> dict[str, epath.Path]:
    """Returns the files of a folder whose names end in `suffix` (in either case), by stem.

    Hidden files are skipped. The order is that of the names.
    """
    paths = sorted(epath.Path(folder).iterdir(), key=lambda path: path.name)
    return {
        path.name[: -len(suffix)]: path
        for path in paths
        if path.name.lower().endswith(suffix) and not path.name.startswith(".")
    }


def pair_files(
    image_folder: epath.PathLike,
    image_suffix: str,
    mask_folder: epath.PathLike,
    mask_suffix: str,
    bad: BadFiles,
) -> tuple[dict[str, epath.Path], dict[str, epath.Path]]:
    """Pairs images and masks by name; a file without its counterpart is added to `bad`.

    Args:
        image_folder, mask_folder: folders; hidden files and files of other suffixes are skipped.
        image_suffix, mask_suffix: such as `.bmp`; upper case is accepted as well.
        bad: collector.

    Returns:
        Images and masks by stem; both have the same stems, in sorted order.

    Raises:
        DataError: there is no image at all.
    """
    images = files_by_stem(image_folder, image_suffix)
    masks = files_by_stem(mask_folder, mask_suffix)
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
    """Checks that a mask has its image's size.

    Args:
        path: the mask's file, for the message.
        mask: `[H, W]`.
        image_size: `(height, width)` in pixels.

    Raises:
        DataError: the sizes differ.
    """
    if mask.shape != image_size:
        raise DataError(
            f"{path}: the mask is {describe_size(mask.shape)} and its image "
            f"{describe_size(image_size)}: allowed is one size for both; replace the file that is "
            "wrong"
        )


def nearest_classes(
    path: epath.PathLike,
    gray: np.ndarray,
    classes: Mapping[int, int],
    most: float,
    *,
    tolerance: int = 0,
) -> tuple[np.ndarray, int]:
    """Turns a mask's gray levels into classes, and strays into the class of the nearest level.

    Args:
        path: the mask's file, for the message.
        gray: uint8 `[H, W]`.
        classes: class by gray level.
        most: the largest share of pixels that may be strays. More of them are a smoothed mask, or
            one that follows another convention.
        tolerance: strays this near to a level, in gray levels, do not count against `most`.

    Returns:
        The mask, uint8 `[H, W]`, and how many pixels were moved to another level.

    Raises:
        DataError: there are more strays; lists their levels.
    """
    distance = np.abs(np.arange(256)[:, None] - np.array(list(classes)))
    table = np.array(list(classes.values()), np.uint8)[distance.argmin(axis=1)]
    strays = unknown_values(gray, tuple(classes))
    far = {value: n for value, n in strays.items() if distance[value].min() > tolerance}
    if sum(far.values()) > most * gray.size:
        near = f" (or up to {tolerance} from these)" if tolerance else ""
        raise DataError(
            f"{path}: mask values {describe_values(far)} are unknown: allowed are "
            f"{', '.join(map(str, classes))}{near}, and other grays in at most {100 * most:.2g}% "
            "of the pixels; redraw or fetch the mask again"
        )
    return table[gray], sum(strays.values())


def _with_path(path: str, reason: str) -> str:
    return reason if path in reason else f"{path}: {reason}"
