"""Region metrics, all from one integer confusion matrix (rows truth, columns prediction)."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from wbc_jax.labels import IGNORE
from wbc_jax.metrics import bits
from wbc_jax.metrics.checks import check_classes, check_counts
from wbc_jax.metrics.ratios import nan_mean, ratio

# Pixels counted in one call: bounds the memory that a large set of masks takes.
_CALL_PX = 2**26


@functools.partial(jax.jit, static_argnames="num_classes")
def confusion_matrices(truth: jax.Array, prediction: jax.Array, num_classes: int) -> jax.Array:
    """Counts the pixels of each image by true and predicted class, under jit and unchecked.

    Args:
        truth: integer `[N, H, W]`, fewer than 2^31 pixels per image; 255 is left out.
        prediction: integer `[N, H, W]`, classes below `num_classes`.
        num_classes: C, at most 254.

    Returns:
        int32 `[N, C, C]`, rows truth, columns prediction.
    """
    # The position of a pixel does not matter, so any 32 pixels form a word.
    n, height, width = truth.shape
    codes = jnp.stack([bits.codes(mask, num_classes) for mask in (truth, prediction)])
    words = -(-height * width // bits.WORD)
    filled = ((0, 0), (0, 0), (0, words * bits.WORD - height * width))
    codes = jnp.pad(codes.reshape(2, n, height * width), filled, constant_values=num_classes)
    words = bits.class_bits(codes.reshape(2, n, bits.WORD, words), num_classes)
    counts = bits.count(words[:, None, 0] & words[None, :, 1]).sum(-1)
    return jnp.moveaxis(counts, -1, 0)


def confusion_matrix(truth, prediction, num_classes: int) -> np.ndarray:
    """Counts the pixels of all images by true and predicted class.

    Args:
        truth: integer `[N, H, W]`; 255 is left out.
        prediction: integer `[N, H, W]`.
        num_classes: C.

    Returns:
        int64 `[C, C]`, rows truth, columns prediction.

    Raises:
        ValueError: the shapes differ, or a class is not below `num_classes`.
    """
    return count_images(truth, prediction, num_classes).sum(0)


def count_images(truth, prediction, num_classes: int) -> np.ndarray:
    """Returns `confusion_matrices` of checked NumPy masks, int64 `[N, C, C]`.

    Arguments and errors as in `confusion_matrix`.
    """
    truth, prediction = check_masks(truth, prediction, num_classes)
    counts = np.zeros((len(truth), num_classes, num_classes), np.int64)
    for chunk in chunks(truth.shape, _CALL_PX):
        counts[chunk] = confusion_matrices(truth[chunk], prediction[chunk], num_classes)
    return counts


def chunks(shape: tuple[int, ...], pixels: int) -> Iterator[slice]:
    """Cuts the first axis of `[N, H, W]` into chunks of about `pixels`, at least one image each."""
    images = max(1, pixels // max(1, shape[1] * shape[2]))
    return (slice(start, start + images) for start in range(0, shape[0], images))


def check_masks(truth, prediction, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns truth and prediction as NumPy arrays, checked.

    Raises:
        ValueError: they are not two integer `[N, H, W]` of the same shape, or hold a class that is
            not below `num_classes`; only the truth may hold 255.
    """
    truth, prediction = np.asarray(truth), np.asarray(prediction)
    if truth.shape != prediction.shape or truth.ndim != 3:
        raise ValueError(
            f"truth is {truth.shape} and prediction {prediction.shape}; both must be [N, H, W]."
        )
    check_classes("truth", truth, num_classes, IGNORE)
    check_classes("prediction", prediction, num_classes)
    return truth, prediction


def iou(confusion: np.ndarray) -> np.ndarray:
    """Returns TP / (TP + FP + FN) of each class, float64 `[..., C]`; NaN for one absent in both."""
    hits, truth, predicted = marginals(confusion)
    return ratio(hits, truth + predicted - hits)


def dice(confusion: np.ndarray) -> np.ndarray:
    """Returns 2 TP / (2 TP + FP + FN) of each class, `[..., C]`; NaN for one absent in both."""
    hits, truth, predicted = marginals(confusion)
    return ratio(2 * hits, truth + predicted)


def recall(confusion: np.ndarray) -> np.ndarray:
    """Returns TP / (TP + FN) of each class, `[..., C]`; NaN for one absent from the truth."""
    hits, truth, _ = marginals(confusion)
    return ratio(hits, truth)


def global_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Returns the share of correctly classified pixels, float64 `[...]`."""
    hits, truth, _ = marginals(confusion)
    return ratio(hits.sum(-1), truth.sum(-1))


def mean_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Returns the mean recall over the classes present in the truth, float64 `[...]`."""
    return nan_mean(recall(confusion))


def mean_iou(confusion: np.ndarray) -> np.ndarray:
    """Returns the mean IoU over the classes present in truth or prediction, float64 `[...]`."""
    return nan_mean(iou(confusion))


def weighted_iou(confusion: np.ndarray) -> np.ndarray:
    """Returns the IoU averaged with each class's true pixels as weights, float64 `[...]`."""
    _, truth, _ = marginals(confusion)
    return ratio((np.nan_to_num(iou(confusion)) * truth).sum(-1), truth.sum(-1))


def marginals(confusion) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the hits, true totals and predicted totals of each class, float64 `[..., C]` each.

    Raises:
        ValueError: `confusion` is not `[..., C, C]`, or a count is negative or NaN.
    """
    confusion = np.asarray(confusion, np.float64)
    confusion = check_counts("confusion matrices", confusion, confusion.shape[-1:] * 2)
    return np.diagonal(confusion, axis1=-2, axis2=-1), confusion.sum(-1), confusion.sum(-2)
