"""Region metrics, all from one integer confusion matrix (rows truth, columns prediction)."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from wbc_jax.labels import IGNORE
from wbc_jax.metrics import bits

# Pixels that one call counts: bounds the memory that a large set of masks takes.
_CALL_PX = 2**26


@functools.partial(jax.jit, static_argnames="num_classes")
def confusion_matrices(truth: jax.Array, prediction: jax.Array, num_classes: int) -> jax.Array:
    """Counts pixels by true and predicted class, for each image.

    Args:
        truth: integer `[N, H, W]` of fewer than 2^31 pixels an image; 255 is left out.
        prediction: integer `[N, H, W]`, classes below `num_classes`.
        num_classes: C, at most 254.

    Returns:
        int32 `[N, C, C]`, rows truth, columns prediction.
    """
    # Where a pixel lies does not matter: any 32 make a word.
    n, height, width = truth.shape
    codes = jnp.stack([bits.codes(mask, num_classes) for mask in (truth, prediction)])
    words = -(-height * width // bits.WORD)
    filled = ((0, 0), (0, 0), (0, words * bits.WORD - height * width))
    codes = jnp.pad(codes.reshape(2, n, height * width), filled, constant_values=num_classes)
    words = bits.class_bits(codes.reshape(2, n, bits.WORD, words), num_classes)
    counts = bits.count(words[:, None, 0] & words[None, :, 1]).sum(-1)
    return jnp.moveaxis(counts, -1, 0)


def confusion_matrix(truth, prediction, num_classes: int) -> np.ndarray:
    """Counts pixels by true and predicted class over all images.

    Args:
        truth: integer `[N, H, W]`; 255 is left out.
        prediction: integer `[N, H, W]`.
        num_classes: C.

    Returns:
        int64 `[C, C]`, rows truth, columns prediction.

    Raises:
        ValueError: the shapes differ, or a class is not below `num_classes`.
    """
    truth, prediction = check_masks(truth, prediction, num_classes)
    total = np.zeros((num_classes, num_classes), np.int64)
    for part in parts(truth.shape, _CALL_PX):
        counts = confusion_matrices(truth[part], prediction[part], num_classes)
        total += np.asarray(counts).sum(0, dtype=np.int64)
    return total


def parts(shape: tuple[int, ...], pixels: int) -> Iterator[slice]:
    """Cuts the first axis of `[N, H, W]` so that a part has about `pixels`, at least one image."""
    images = max(1, pixels // max(1, shape[1] * shape[2]))
    return (slice(start, start + images) for start in range(0, shape[0], images))


def check_masks(truth, prediction, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns both as arrays.

    Raises:
        ValueError: they are not two integer `[N, H, W]` of one shape, or hold a class that is not
            below `num_classes`; 255 may stand in the truth only.
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.shape != prediction.shape or truth.ndim != 3:
        raise ValueError(
            f"truth is {truth.shape} and prediction {prediction.shape}; both must be [N, H, W]."
        )
    for name, array in (("truth", truth), ("prediction", prediction)):
        if array.dtype.kind not in "iub":
            raise ValueError(
                f"{name} is of {array.dtype}; masks are classes, so integers. Take the argmax of "
                "probabilities first."
            )
    for name, array in (("truth", truth), ("prediction", prediction)):
        if not array.size or 0 <= array.min() <= array.max() < num_classes:
            continue
        known = array[array != IGNORE] if name == "truth" else array
        if known.size and not 0 <= known.min() <= known.max() < num_classes:
            raise ValueError(
                f"{name} holds classes {known.min()} to {known.max()}; num_classes is "
                f"{num_classes}."
            )
    return truth, prediction


def iou(confusion: np.ndarray) -> np.ndarray:
    """TP / (TP + FP + FN) of each class, float64 `[..., C]`; NaN for a class absent in both."""
    hits, truth, predicted = _parts(confusion)
    return _ratio(hits, truth + predicted - hits)


def dice(confusion: np.ndarray) -> np.ndarray:
    """2 TP / (2 TP + FP + FN) of each class, float64 `[..., C]`; NaN for one absent in both."""
    hits, truth, predicted = _parts(confusion)
    return _ratio(2 * hits, truth + predicted)


def recall(confusion: np.ndarray) -> np.ndarray:
    """TP / (TP + FN) of each class, float64 `[..., C]`; NaN for a class absent from the truth."""
    hits, truth, _ = _parts(confusion)
    return _ratio(hits, truth)


def global_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share of pixels that are right, float64 `[...]`."""
    hits, truth, _ = _parts(confusion)
    return _ratio(hits.sum(-1), truth.sum(-1))


def mean_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Mean recall over the classes present in the truth, float64 `[...]`."""
    return _nanmean(recall(confusion))


def mean_iou(confusion: np.ndarray) -> np.ndarray:
    """Mean IoU over the classes present in truth or prediction, float64 `[...]`."""
    return _nanmean(iou(confusion))


def weighted_iou(confusion: np.ndarray) -> np.ndarray:
    """IoU averaged with the true pixels of each class as weights, float64 `[...]`."""
    _, truth, _ = _parts(confusion)
    return _ratio((np.nan_to_num(iou(confusion)) * truth).sum(-1), truth.sum(-1))


def _parts(confusion):
    confusion = np.asarray(confusion, np.float64)
    return np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1), confusion.sum(-2)


def _ratio(numerator, denominator):
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(denominator > 0, numerator / denominator, np.nan)


def _nanmean(values):
    present = ~np.isnan(values)
    return _ratio(np.where(present, values, 0).sum(-1), present.sum(-1))
