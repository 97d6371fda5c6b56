"""Metrics on integer masks `[N, H, W]` of anyone's model."""

from wbc_jax.metrics.confusion import (
    confusion_matrices,
    confusion_matrix,
    dice,
    global_accuracy,
    iou,
    mean_accuracy,
    mean_iou,
    recall,
    weighted_iou,
)
from wbc_jax.metrics.nc_ratio import NCRatio, nc_ratio

__all__ = [
    "NCRatio",
    "confusion_matrices",
    "confusion_matrix",
    "dice",
    "global_accuracy",
    "iou",
    "mean_accuracy",
    "mean_iou",
    "nc_ratio",
    "recall",
    "weighted_iou",
]
