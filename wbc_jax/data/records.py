"""Defines the record of a data set: its features, its serialization, and its checks.

Every builder under `tfds_builders/` writes these records. A record holds the *encoded* image and
mask, so building needs no TensorFlow, JPEG photographs are kept byte for byte, and a reader decodes
only what it uses.

TFDS cannot store a missing image. So a record without a mask holds 255 (ignore) in every pixel of
`mask`, and `has_mask` is False. Code that forgets to check `has_mask` then trains on nothing rather
than on wrong labels.
"""

import contextlib
import functools
import io
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import example_serializer
from tensorflow_datasets.proto import tf_example_pb2

from wbc_jax.data.images import check_mask, describe_size, encode_png
from wbc_jax.errors import DataError
from wbc_jax.labels import CELL_TYPES, IGNORE, UNKNOWN_LABEL


def features(more: Sequence[str] = ()) -> tfds.features.FeaturesDict:
    """Returns the features of a record.

    Args:
        more: names of texts that the records of one data set hold besides.

    Returns:
        `image` (uint8 `[H, W, 3]` RGB, stored as PNG or JPEG), `mask` (uint8 `[H, W, 1]`, PNG;
        0 background, 1 cytoplasm, 2 nucleus, 255 ignore; all 255 if `has_mask` is False),
        `has_mask`, `label` (index into `labels.CELL_TYPES`, -1 unknown; a plain number, as
        TFDS's ClassLabel rejects -1), `id` (unique and stable in the data set), `group` (no split
        divides the records of one group; equals `id` if nothing is known), `source`, `subtype`,
        `label_source` (texts, empty if unknown), `um_per_px` (micrometers per pixel, NaN if
        unknown), `height` and `width` (pixels).
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
            **{name: f.Text() for name in more},
        }
    )


def parse(serialized: bytes) -> dict[str, Any]:
    """Parses a serialized `tf.train.Example`, seven times as fast as TFDS's own parser.

    Args:
        serialized: a `tf.train.Example` of `features()`.

    Returns:
        {feature: value}; `image` and `mask` are encoded, texts are bytes, numbers int or float.
    """
    found = tf_example_pb2.Example.FromString(serialized).features.feature
    return {key: getattr(value, value.WhichOneof("kind")).value[0] for key, value in found.items()}


@contextlib.contextmanager
def fixed_order() -> Iterator[None]:
    """Context in which TFDS writes the same bytes in every process.

    A record is a map, and protobuf writes maps in an order that differs between processes unless
    it is told not to. TFDS (4.9.10) does not tell it.
    """

    def serialize(self, example: Any) -> bytes:
        return self.get_tf_example(example).SerializeToString(deterministic=True)

    usual = example_serializer.ExampleSerializer.serialize_example
    example_serializer.ExampleSerializer.serialize_example = serialize
    try:
        yield
    finally:
        example_serializer.ExampleSerializer.serialize_example = usual


def example(
    *,
    image: bytes | np.ndarray,
    id: str,
    source: str,
    mask: np.ndarray | None = None,
    label: int = UNKNOWN_LABEL,
    group: str | None = None,
    subtype: str = "",
    label_source: str = "",
    um_per_px: float = math.nan,
) -> dict[str, object]:
    """Checks and returns one record, as builders yield it.

    Args:
        image: bytes from `read_image_file`, or pixels, uint8 `[H, W, 3]` RGB.
        id: unique and stable in the data set.
        source: name of the collection that the image comes from.
        mask: uint8 `[H, W]` of 0, 1, 2, 255; None if there is none.
        label: index into `labels.CELL_TYPES`, or -1.
        group: no split divides the records of one group; None: `id`.
        subtype: the authors' finer class, if any.
        label_source: origin of the label, if known.
        um_per_px: micrometers per pixel; NaN if unknown.

    Returns:
        A dictionary with the keys of `features()`.

    Raises:
        DataError: an image or mask is not as above, the mask has another size than the image, the
            label is unknown, `id`, `group` or `source` is empty, or the pixel size is not positive.
    """
    for name, text in (("id", id), ("source", source), ("group", id if group is None else group)):
        if not isinstance(text, str) or not text:
            raise DataError(f"record {id!r}: {name} is {text!r}: allowed is a non-empty text")
    if isinstance(label, bool) or not isinstance(label, int | np.integer):
        raise DataError(f"record {id!r}: label is {label!r}: allowed is an integer")
    if not -1 <= label < len(CELL_TYPES):
        raise DataError(
            f"record {id!r}: label is {label}: allowed are -1 (unknown) and 0 to "
            f"{len(CELL_TYPES) - 1}, the indices of {', '.join(CELL_TYPES)}"
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
                f"record {id!r}: the mask is {describe_size(mask.shape)} and the image "
                f"{describe_size((height, width))}: allowed is one size for both; replace the "
                "file that is wrong"
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
    return encode_png(np.full((height, width), IGNORE, np.uint8))


def _header_size(data: bytes, id: str) -> tuple[int, int]:
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            return image.size
    except Exception as error:
        raise DataError(
            f"record {id!r}: the image's {len(data)} bytes are neither PNG nor JPEG: pass the "
            "bytes that images.read_image_file returns"
        ) from error
