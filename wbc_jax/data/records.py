"""What one record of a data set is, and how files become records.

Every builder under `tfds_builders/` writes these records, and only the codecs below read and write
their pixels. A record holds the *encoded* image and mask, so that building needs no TensorFlow,
JPEG photographs are kept byte for byte, and a reader decodes only what it uses.

What a record without a mask holds: TFDS has no absent image, so `mask` is then 255 (ignore) in
every pixel and `has_mask` is False. Whoever forgets to ask `has_mask` thus trains on nothing
rather than on something wrong.
"""

import collections
import contextlib
import contextvars
import csv
import dataclasses
import functools
import io
import logging as python_logging
import math
import os
import stat
import threading
import uuid
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any, BinaryIO, TypeVar

import cv2
import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from etils import epath
from PIL import Image, ImageOps, UnidentifiedImageError
from tensorflow_datasets.core import example_serializer
from tensorflow_datasets.proto import tf_example_pb2

from wbc_jax import progress, vocabulary

MAX_PIXELS = 100_000_000
"""Larger images are refused from their header alone, before any pixel is decoded."""

MAX_FILE_BYTES = 2**30
"""Of larger image files no more than this is read before they are refused."""

_PIECE = 2**20

MAX_UNZIPPED_BYTES = 8 * 2**30
"""Larger archives are refused: no data set here comes near it."""

IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "WEBP", "PPM")
"""Formats (Pillow's names) that `read_image_file` opens."""

MASK_VALUES = (
    vocabulary.BACKGROUND,
    vocabulary.CYTOPLASM,
    vocabulary.NUCLEUS,
    vocabulary.IGNORE,
)
POLICIES = ("error", "skip")
_SHOWN = 20


class DataError(ValueError):
    """Something is wrong with a user's data; names the file, what is allowed and what to do."""


def features() -> tfds.features.FeaturesDict:
    """The features of a record.

    Returns:
        `image` (uint8 `[H, W, 3]` RGB, stored as PNG or JPEG), `mask` (uint8 `[H, W, 1]`, PNG;
        0 background, 1 cytoplasm, 2 nucleus, 255 ignore; all 255 where `has_mask` is False),
        `has_mask`, `label` (index into `vocabulary.CELL_TYPES`, -1 unknown; a plain number, as
        TFDS's ClassLabel refuses -1), `id` (unique and stable in the data set), `group` (records
        of one group must never be split apart; equals `id` where nothing is known), `source`,
        `subtype`, `label_source` (texts, empty if unknown), `um_per_px` (micrometres a pixel, NaN
        if unknown), `height` and `width` (pixels).
    """
    f = tfds.features
    return f.FeaturesDict(
        {
            "image": f.Image(shape=(None, None, 3), dtype=np.uint8),
            "mask": f.Image(shape=(None, None, 1), dtype=np.uint8, encoding_format="png"),
            "has_mask": f.Scalar(np.bool_),
            "label": f.Scalar(np.int64),
            "id": f.Text(),
            "group": f.Text(),
            "source": f.Text(),
            "subtype": f.Text(),
            "label_source": f.Text(),
            "um_per_px": f.Scalar(np.float32),
            "height": f.Scalar(np.int32),
            "width": f.Scalar(np.int32),
        }
    )


def parse(serialized: bytes) -> dict[str, Any]:
    """Takes a record as it lies in its file apart; TFDS's own parser needs seven times as long.

    Args:
        serialized: a `tf.train.Example` of `features()`.

    Returns:
        The record by feature: `image` and `mask` encoded, texts as bytes, numbers as int or float.
    """
    found = tf_example_pb2.Example.FromString(serialized).features.feature
    return {key: getattr(value, value.WhichOneof("kind")).value[0] for key, value in found.items()}


@contextlib.contextmanager
def fixed_order() -> Iterator[None]:
    """Lets TFDS write the same bytes in every process.

    A record is a map, and protobuf writes a map in an order that changes from process to process
    unless it is asked not to, which TFDS (4.9.10) does not.
    """

    def serialize(self, example: Any) -> bytes:
        return self.get_tf_example(example).SerializeToString(deterministic=True)

    usual = example_serializer.ExampleSerializer.serialize_example
    example_serializer.ExampleSerializer.serialize_example = serialize
    try:
        yield
    finally:
        example_serializer.ExampleSerializer.serialize_example = usual


def encode_png(array: np.ndarray) -> bytes:
    """Encodes pixels as PNG; the same pixels always give the same bytes on one OpenCV version.

    Args:
        array: uint8 `[H, W, 3]` RGB, or `[H, W]` or `[H, W, 1]`.

    Returns:
        The PNG file.

    Raises:
        DataError: another dtype or shape, or no pixels.
    """
    array = np.asarray(array)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    plausible = array.ndim == 2 or (array.ndim == 3 and array.shape[-1] == 3)
    if array.dtype != np.uint8 or not plausible or array.size == 0:
        raise DataError(
            f"cannot encode an array of {array.dtype} {list(array.shape)} as PNG: allowed is uint8 "
            "[H, W, 3], [H, W] or [H, W, 1] with at least one pixel"
        )
    if array.ndim == 3:
        array = cv2.cvtColor(np.ascontiguousarray(array), cv2.COLOR_RGB2BGR)
    ok, encoded = cv2.imencode(".png", np.ascontiguousarray(array))
    if not ok:
        raise DataError(f"OpenCV could not encode an array of shape {list(array.shape)} as PNG")
    return encoded.tobytes()


def decode_image(data: bytes) -> np.ndarray:
    """Decodes a stored image.

    Args:
        data: PNG or JPEG file, as in a record's `image`.

    Returns:
        uint8 `[H, W, 3]` RGB. EXIF orientation is not applied: `read_image_file` has done it.

    Raises:
        DataError: the bytes cannot be decoded.
    """
    return _imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def decode_mask(data: bytes) -> np.ndarray:
    """Decodes a stored mask.

    Args:
        data: grey 8-bit PNG file, as in a record's `mask`.

    Returns:
        uint8 `[H, W]`.

    Raises:
        DataError: the bytes cannot be decoded, or are not one 8-bit channel.
    """
    mask = _imdecode(data, cv2.IMREAD_UNCHANGED)
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise DataError(
            f"the mask decodes to {mask.dtype} {list(mask.shape)}: allowed is one 8-bit channel; "
            "encode masks with records.encode_png"
        )
    return mask


def read_image_file(path: epath.PathLike) -> tuple[bytes, int, int]:
    """Reads an image file into the bytes that a record stores, checking that it decodes in full.

    8-bit RGB PNG and JPEG files pass through byte for byte. The rest (BMP, TIFF, WebP, PPM, grey,
    palette, CMYK, alpha, 16-bit, or turned by an EXIF tag) becomes 8-bit RGB PNG: grey is repeated
    on the three channels, alpha is dropped, 16-bit samples keep their high byte, and the EXIF turn
    is carried out.

    Args:
        path: the file, local or remote.

    Returns:
        The bytes to store, and the image's height and width in pixels.

    Raises:
        DataError: the file is missing, empty, no image, truncated, beyond `MAX_FILE_BYTES` or
            `MAX_PIXELS`, of several pages, or of a kind of sample that 8-bit RGB cannot hold.
    """
    with _decoding(path), _open(path) as (data, image):
        turned = image.getexif().get(_EXIF_ORIENTATION, 1) not in (0, 1)
        if _passes_through(data, image) and not turned:
            # Pillow has found no truncation; OpenCV, which decodes records, must cope as well.
            with contextlib.suppress(DataError):
                if decode_image(data).shape[:2] == (image.height, image.width):
                    return data, image.height, image.width
        pixels = _to_rgb(path, ImageOps.exif_transpose(image) if turned else image)
    return encode_png(pixels), pixels.shape[0], pixels.shape[1]


def read_mask_file(path: epath.PathLike) -> np.ndarray:
    """Reads a mask file's own values, whatever they mean.

    Args:
        path: an 8-bit grey file, or a colour one whose three channels are equal. JPEG is refused:
            its compression invents values.

    Returns:
        uint8 `[H, W]`.

    Raises:
        DataError: as `read_image_file`; a JPEG, palette, 16-bit or coloured mask.
    """
    with _decoding(path), _open(path) as (_, image):
        if image.format in ("JPEG", "MPO"):
            raise DataError(
                f"{path}: the mask is a JPEG, whose compression changes values at every edge: "
                "save masks as 8-bit grey PNG"
            )
        if image.mode in ("L", "1"):
            return np.array(image.convert("L"))
        if image.mode == "RGB":
            pixels = np.array(image)
            if (pixels == pixels[..., :1]).all():
                return pixels[..., 0].copy()
        raise DataError(
            f"{path}: the mask has {_KINDS.get(image.mode, f'mode {image.mode}')}: allowed is one "
            "8-bit grey channel; save the mask as 8-bit grey PNG"
        )


def check_mask(mask: np.ndarray, where: str = "mask") -> None:
    """Checks that a mask is uint8 `[H, W]` in the vocabulary 0, 1, 2, 255.

    Raises:
        DataError: another dtype or shape, or other values (listed with their pixel counts).
    """
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise DataError(
            f"{where}: the mask is {mask.dtype} {list(mask.shape)}: allowed is uint8 [H, W]"
        )
    unknown = unknown_values(mask, MASK_VALUES)
    if unknown:
        raise DataError(
            f"{where}: mask values {describe_values(unknown)} are unknown: allowed are 0 "
            "background, 1 cytoplasm, 2 nucleus, 255 ignore; map the file's values to these"
        )


def unknown_values(array: np.ndarray, known: tuple[int, ...]) -> dict[int, int]:
    """Values of a uint8 array that are not among the `known` ones, with their pixel counts."""
    counts = np.bincount(array.ravel(), minlength=256)
    return {int(v): int(counts[v]) for v in np.flatnonzero(counts) if v not in known}


def describe_values(counts: dict[int, int]) -> str:
    """`{7: 217, 9: 22}` as `7 (217 pixels), 9 (22 pixels)`, up to ten of them."""
    shown = [f"{v} ({n} pixel{'s' * (n != 1)})" for v, n in list(counts.items())[:10]]
    return ", ".join(shown) + (f" and {len(counts) - 10} more" if len(counts) > 10 else "")


def example(
    *,
    image: bytes | np.ndarray,
    id: str,
    source: str,
    mask: np.ndarray | None = None,
    label: int = vocabulary.UNKNOWN_LABEL,
    group: str | None = None,
    subtype: str = "",
    label_source: str = "",
    um_per_px: float = math.nan,
) -> dict[str, object]:
    """One record, checked, ready to be yielded by a builder.

    Args:
        image: what `read_image_file` returned, or pixels, uint8 `[H, W, 3]` RGB.
        id: unique and stable in the data set.
        source: which collection the image comes from.
        mask: uint8 `[H, W]` of 0, 1, 2, 255; None if there is none.
        label: index into `vocabulary.CELL_TYPES`, or -1.
        group: records of one group are never split apart; `id` if None.
        subtype: the authors' finer class, if any.
        label_source: where the label comes from, if known.
        um_per_px: micrometres a pixel; NaN if unknown.

    Returns:
        A dictionary with the keys of `features()`.

    Raises:
        DataError: an image or mask that is not as above, a mask of another size than the image,
            an unknown label, an empty `id`, `group` or `source`, or a pixel size not above zero.
    """
    for name, text in (("id", id), ("source", source), ("group", id if group is None else group)):
        if not isinstance(text, str) or not text:
            raise DataError(f"record {id!r}: {name} is {text!r}: allowed is a non-empty text")
    if isinstance(label, bool) or not isinstance(label, int | np.integer):
        raise DataError(f"record {id!r}: label is {label!r}: allowed is an integer")
    if not -1 <= label < len(vocabulary.CELL_TYPES):
        raise DataError(
            f"record {id!r}: label is {label}: allowed are -1 (unknown) and 0 to "
            f"{len(vocabulary.CELL_TYPES) - 1}, the indices of {', '.join(vocabulary.CELL_TYPES)}"
        )
    if not math.isnan(um_per_px) and not 0 < um_per_px < math.inf:
        raise DataError(
            f"record {id!r}: um_per_px is {um_per_px}: allowed is a number above zero, or NaN"
        )
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[-1] != 3:
            raise DataError(
                f"record {id!r}: the image is {image.dtype} {list(image.shape)}: allowed is uint8 "
                "[H, W, 3]"
            )
        height, width = image.shape[:2]
        image = encode_png(image)
    else:
        width, height = _header_size(image, id)
    if mask is not None:
        check_mask(mask, f"record {id!r}")
        if mask.shape != (height, width):
            raise DataError(
                f"record {id!r}: the mask is {_size(mask.shape)} and the image "
                f"{_size((height, width))}: allowed is one size for both; replace the file that is "
                "wrong"
            )
    return {
        "image": image,
        "mask": _no_mask(height, width) if mask is None else encode_png(mask),
        "has_mask": mask is not None,
        "label": int(label),
        "id": id,
        "group": id if group is None else group,
        "source": source,
        "subtype": subtype,
        "label_source": label_source,
        "um_per_px": np.float32(um_per_px),
        "height": height,
        "width": width,
    }


@functools.lru_cache(maxsize=64)
def _no_mask(height: int, width: int) -> bytes:
    return encode_png(np.full((height, width), vocabulary.IGNORE, np.uint8))


# Bad files: all are found before one error tells of them, or they are left out, as the user says.


@dataclasses.dataclass(slots=True)
class BadFiles:
    """Files that could not become records.

    Attributes:
        policy: `error`: `finish` raises; `skip`: files are left out and logged.
        files: path and reason of each, in the order met.
    """

    policy: str = "error"
    files: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        if self.policy not in POLICIES:
            raise DataError(
                f"on_bad_file is {self.policy!r}: allowed are {', '.join(map(repr, POLICIES))}"
            )

    def add(self, path: epath.PathLike, reason: str) -> None:
        """Notes one bad file."""
        self.files.append((os.fspath(path), reason))
        if self.policy == "skip":
            logging.warning("Left out: %s", _with_path(*self.files[-1]))

    @contextlib.contextmanager
    def catch(self, path: epath.PathLike) -> Iterator[None]:
        """Notes a `DataError` raised inside as a bad file, and goes on after the block."""
        try:
            yield
        except DataError as error:
            self.add(path, str(error))

    def finish(self, data_set: str) -> None:
        """Ends a data set's reading.

        Raises:
            DataError: the policy is `error` and there are bad files: lists up to 20 of them.
        """
        if not self.files:
            return
        if self.policy == "skip":
            logging.warning("%s: %d bad files were left out", data_set, len(self.files))
            return
        lines = [_with_path(*bad) for bad in self.files[:_SHOWN]]
        if len(self.files) > _SHOWN:
            lines.append(f"... and {len(self.files) - _SHOWN} more")
        number = "1 bad file" if len(self.files) == 1 else f"{len(self.files)} bad files"
        raise DataError(
            f"{data_set}: {number}; mend or remove them, or build with "
            "records.on_bad_file('skip') to leave them out:\n  " + "\n  ".join(lines)
        )


_bad_files: contextvars.ContextVar[BadFiles | None] = contextvars.ContextVar(
    "bad_files", default=None
)


@contextlib.contextmanager
def on_bad_file(policy: str) -> Iterator[BadFiles]:
    """Sets what builders do with bad files inside the block; TFDS hands builders no such options.

    Args:
        policy: `error` (the default outside any block) or `skip`.

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
    """The collector of the enclosing `on_bad_file` block; a new one that raises, if there is none.

    A builder calls this once, `catch`es or `add`s while it reads, and calls `finish` at the end.
    """
    collector = _bad_files.get()
    return BadFiles() if collector is None else collector


# Reading many files: on several threads, in order.

Item, Result = TypeVar("Item"), TypeVar("Result")


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """How builders read files.

    Attributes:
        threads: that read and check files; decoding leaves Python's lock.
        what: name on the line that says how far reading is; empty: no line.
    """

    threads: int = 1
    what: str = ""


_reading: contextvars.ContextVar[Reading | None] = contextvars.ContextVar("reading", default=None)


@contextlib.contextmanager
def reading(threads: int, what: str) -> Iterator[None]:
    """Sets how builders read files inside the block (see `Reading`)."""
    token = _reading.set(Reading(threads, what))
    try:
        yield
    finally:
        _reading.reset(token)


def each(
    read: Callable[[Item], Result],
    items: Sequence[Item],
    path: Callable[[Item], epath.PathLike] = str,
    bad: BadFiles | None = None,
) -> Iterator[Result]:
    """Reads items on the threads of the enclosing `reading` block; one thread without one.

    Args:
        read: makes of an item what is yielded; called on several threads at once.
        items: what to read.
        path: the file to which a `DataError` raised by `read` is put down.
        bad: collector of these; None: they are raised.

    Yields:
        The results, in the order of their items whatever the threads do, without those of bad
        files.
    """
    how = _reading.get() or Reading()
    line = progress.Progress(how.what, len(items), "files") if how.what else None
    waiting: collections.deque[futures.Future[Result]] = collections.deque()
    pool = futures.ThreadPoolExecutor(how.threads, "read")
    try:
        for number in range(len(items)):
            # A few ahead of each thread: memory holds those alone.
            while len(waiting) < 4 * how.threads and number + len(waiting) < len(items):
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


# What authors' layouts have in common.


def pair_files(
    image_folder: epath.PathLike,
    image_suffix: str,
    mask_folder: epath.PathLike,
    mask_suffix: str,
    bad: BadFiles,
) -> tuple[dict[str, epath.Path], dict[str, epath.Path]]:
    """Pairs images and masks by name. A file without its other half goes to `bad`.

    Args:
        image_folder, mask_folder: folders; other files in them and hidden ones are passed over.
        image_suffix, mask_suffix: such as `.bmp`; upper case is accepted as well.
        bad: collector.

    Returns:
        Images and masks by stem, of the same stems in sorted order.

    Raises:
        DataError: there is no image at all.
    """
    found = []
    for folder, suffix in ((image_folder, image_suffix), (mask_folder, mask_suffix)):
        paths = sorted(epath.Path(folder).iterdir(), key=lambda path: path.name)
        found.append(
            {
                path.name[: -len(suffix)]: path
                for path in paths
                if path.name.lower().endswith(suffix) and not path.name.startswith(".")
            }
        )
    images, masks = found
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
    """Checks a mask file's size against its image's `(height, width)`.

    Raises:
        DataError: they differ.
    """
    if mask.shape != image_size:
        raise DataError(
            f"{path}: the mask is {_size(mask.shape)} and its image {_size(image_size)}: allowed "
            "is one size for both; replace the file that is wrong"
        )


def read_csv(path: epath.PathLike) -> list[tuple[int, list[str]]]:
    """The rows of a CSV file with their line numbers, from 1; empty lines are left out.

    Raises:
        DataError: the file is missing, empty, or not UTF-8 text.
    """
    try:
        text = epath.Path(path).read_bytes().decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        rows = [(reader.line_num, row) for row in reader if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path}: cannot be read as CSV ({error}): allowed is UTF-8 text, comma-separated; "
            "fetch the file again"
        ) from error
    if not rows:
        raise DataError(f"{path}: the file is empty: fetch it again")
    return rows


def read_exclusions(folder: epath.PathLike) -> dict[str, str]:
    """Records that a builder leaves out, from `exclusions.csv` in its own folder.

    A builder asks this before it opens the record's files, and counts what it leaves out
    (`excluded_records` in its metadata). Ids that the files at hand do not have are no error, as
    a part of a data set may be built.

    Args:
        folder: the builder's folder (its `pkg_dir_path`).

    Returns:
        Record id to the reason; empty where there is no such file, or only its header.

    Raises:
        DataError: another header than `id,reason`, an id or a reason that is empty, or an id
            twice; lists up to 20 of the lines.
    """
    path = epath.Path(folder) / "exclusions.csv"
    if not path.exists():
        return {}
    (_, header), *rows = read_csv(path)
    if [cell.strip() for cell in header] != ["id", "reason"]:
        raise DataError(f"{path}: the header is {','.join(header)!r}: allowed is 'id,reason'")
    reasons, wrong = {}, []
    for line, row in rows:
        cells = [cell.strip() for cell in row]
        if len(cells) != 2 or not all(cells):
            wrong.append(f"line {line}: {','.join(row)!r}")
        elif cells[0] in reasons:
            wrong.append(f"line {line}: {cells[0]!r} is listed twice")
        else:
            reasons[cells[0]] = cells[1]
    if wrong:
        raise DataError(
            f"{path}: {len(wrong)} lines are wrong: allowed is a record's id, once, and why it is "
            "left out (quoted if it holds a comma); mend them:\n  " + "\n  ".join(wrong[:_SHOWN])
        )
    return reasons


# Where the authors' files are.


def manual_folder(
    dl_manager: tfds.download.DownloadManager, names: tuple[str, ...], entries: tuple[str, ...]
) -> epath.Path | None:
    """Finds a data set's folder in TFDS's `manual_dir`.

    Args:
        dl_manager: what TFDS hands to `_split_generators`.
        names: names that the folder may have below `manual_dir`; `manual_dir` itself is tried last.
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
            missing = [entry for entry in entries if not (folder / entry).exists()]
            if missing:
                raise DataError(
                    f"{folder}: lacks {', '.join(map(repr, missing))}: it must hold "
                    f"{', '.join(map(repr, entries))}; unpack the authors' files there, unchanged"
                )
            return folder
    return manual_dir if all((manual_dir / entry).exists() for entry in entries) else None


_downloads: contextvars.ContextVar[bool] = contextvars.ContextVar("downloads", default=True)


@contextlib.contextmanager
def no_downloads() -> Iterator[None]:
    """Inside the block builders use only files that are there, and raise `DataError` otherwise."""
    token = _downloads.set(False)
    try:
        yield
    finally:
        _downloads.reset(token)


def may_download() -> bool:
    """Whether a builder may fetch what is missing."""
    return _downloads.get()


def manual_path(dl_manager: tfds.download.DownloadManager) -> epath.Path | None:
    """TFDS's `manual_dir`, whether it exists or not; None if TFDS was given none.

    The public attribute raises TFDS's own error where the folder is missing or empty, which could
    say neither what to fetch nor the exact folder to put it in.
    """
    path = getattr(dl_manager, "_manual_dir", None)
    return None if path is None else epath.Path(path)


def unzip(archive: epath.PathLike, folder: epath.PathLike) -> epath.Path:
    """Unpacks a downloaded zip file, all of it or nothing. TFDS's own unpacking needs TensorFlow.

    Args:
        archive: the zip file.
        folder: where to unpack; left alone if it exists, as it then is complete.

    Returns:
        `folder`.

    Raises:
        DataError: not a zip file, a damaged one, one beyond `MAX_UNZIPPED_BYTES`, or one with a
            link or a member that would land outside the folder.
    """
    folder = epath.Path(folder)
    if folder.exists():
        return folder
    for leftover in folder.parent.glob(f"{folder.name}.incomplete.*"):
        leftover.rmtree()  # of a process that was killed
    partial = folder.parent / f"{folder.name}.incomplete.{uuid.uuid4().hex}"
    try:
        with epath.Path(archive).open("rb") as file, zipfile.ZipFile(file) as members:
            infos = [info for info in members.infolist() if not info.is_dir()]
            if sum(info.file_size for info in infos) > MAX_UNZIPPED_BYTES:
                raise DataError(
                    f"{archive}: unpacks to more than {MAX_UNZIPPED_BYTES:,} bytes: it is not the "
                    "authors' file; remove it"
                )
            for info in infos:
                parts = info.filename.replace("\\", "/").split("/")
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise DataError(
                        f"{archive}: holds the link {info.filename!r}: allowed are files; it is "
                        "not the authors' file; remove it"
                    )
                if ".." in parts or not parts[0] or ":" in parts[0]:
                    raise DataError(
                        f"{archive}: holds {info.filename!r}, which would land outside {folder}: "
                        "it is not the authors' file; remove it"
                    )
                target = partial.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(members.read(info))
        try:
            partial.rename(folder)
        except OSError:  # another process has unpacked it meanwhile
            if not folder.exists():
                raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(
            f"{archive}: is no zip file, or a damaged one ({error}): remove it and download again"
        ) from error
    finally:
        if partial.exists():
            partial.rmtree()
    return folder


_EXIF_ORIENTATION = 0x0112
_KINDS = {
    "P": "a palette, whose entries may be classes or colours",
    "RGB": "three different channels",
    "RGBA": "an alpha channel",
    "LA": "an alpha channel",
    "I;16": "16-bit samples",
    "I;16B": "16-bit samples",
    "I": "32-bit samples",
    "F": "floating-point samples",
}


def _imdecode(data: bytes, flags: int) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # zero bytes, or a size beyond OpenCV's own limit
        pixels = None
    if pixels is None:
        raise DataError(
            f"{len(data)} bytes could not be decoded as an image: allowed is PNG or JPEG; build "
            "the data set again if they come from a record"
        )
    return pixels


class _Quiet:
    """Within it, Pillow neither warns of oddities in a file nor logs what it raises as well.

    As `warnings.catch_warnings`, but for several threads: the first one in sets the filter, and the
    last one out puts back what was there.
    """

    def __init__(self):
        self._lock, self._inside = threading.Lock(), 0
        self._logger = python_logging.getLogger("PIL")

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
                self._level = self._logger.level
                self._logger.setLevel(python_logging.CRITICAL)
            self._inside += 1

    def __exit__(self, *_) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._before.__exit__()
                self._logger.setLevel(self._level)


_quiet = _Quiet()


@contextlib.contextmanager
def _decoding(path: epath.PathLike) -> Iterator[None]:
    """Tells of whatever Pillow raises inside as a damaged file."""
    try:
        with _quiet:
            yield
    except DataError:
        raise
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error ...
        raise DataError(f"{path}: is truncated or damaged ({error}): fetch it again") from error


def _read_at_most(file: BinaryIO, size: int) -> bytes:
    """The first `size` bytes. `file.read(size)` would take that much memory for any file."""
    pieces, left = [], size
    while left and (piece := file.read(min(left, _PIECE))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


@contextlib.contextmanager
def _open(path: epath.PathLike) -> Iterator[tuple[bytes, Image.Image]]:
    """The file's bytes and its image, all pixels decoded by Pillow, which reports truncation."""
    try:
        with epath.Path(path).open("rb") as file:
            data = _read_at_most(file, MAX_FILE_BYTES + 1)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error}): check that it exists and may be read"
        ) from error
    if not data:
        raise DataError(f"{path}: the file is empty (0 bytes): fetch it again")
    if len(data) > MAX_FILE_BYTES:
        raise DataError(
            f"{path}: is larger than {MAX_FILE_BYTES:,} bytes, which is all that is allowed; cut "
            "the image into parts"
        )
    try:
        image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{path}: {error}: allowed are {MAX_PIXELS:,} pixels; cut the image into parts"
        ) from error
    except UnidentifiedImageError as error:
        raise DataError(
            f"{path}: is not an image that can be read (first bytes {data[:8]!r}): allowed are "
            f"{', '.join(IMAGE_FORMATS)}; fetch or convert the file again"
        ) from error
    except Exception as error:  # Pillow's readers raise many kinds on damaged headers
        raise DataError(f"{path}: has a damaged header ({error}): fetch it again") from error
    with image:
        if image.width * image.height > MAX_PIXELS:
            raise DataError(
                f"{path}: has {image.width} x {image.height} pixels: allowed are {MAX_PIXELS:,}; "
                "cut the image into parts"
            )
        pages = getattr(image, "n_frames", 1)
        # MPO, the JPEG of some cameras, holds previews of its first image.
        if pages > 1 and image.format != "MPO":
            raise DataError(f"{path}: holds {pages} pages: allowed is one; save one page a file")
        image.load()
        yield data, image


def _passes_through(data: bytes, image: Image.Image) -> bool:
    """Whether the file is an 8-bit RGB PNG or JPEG, as a record may store it."""
    if image.mode != "RGB":
        return False
    if image.format == "PNG":
        # Bytes 24 and 25 of the file: bit depth and colour type 2 (RGB); Pillow shows 16-bit RGB
        # as RGB too. A transparent colour would decode to four channels.
        return data[24:26] == b"\x08\x02" and "transparency" not in image.info
    return image.format in ("JPEG", "MPO")


def _to_rgb(path: epath.PathLike, image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        grey = (np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.mode in ("I", "F"):
        raise DataError(
            f"{path}: has {_KINDS[image.mode]}, whose range is not known: allowed are 8-bit and "
            "16-bit samples; convert it to 8-bit RGB"
        )
    try:
        if image.mode == "LA":
            image = image.convert("L")
        return np.array(image.convert("RGB"))
    except ValueError as error:
        raise DataError(
            f"{path}: colours of mode {image.mode} cannot be converted ({error}): convert the file "
            "to 8-bit RGB"
        ) from error


def _header_size(data: bytes, id: str) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            return image.size
    except Exception as error:
        raise DataError(
            f"record {id!r}: the image's {len(data)} bytes are neither PNG nor JPEG: hand over "
            "what records.read_image_file returns"
        ) from error


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} pixels (width x height)"


def _with_path(path: str, reason: str) -> str:
    return reason if path in reason else f"{path}: {reason}"
