"""Values outside of the domain of a metric are refused alike by every function that takes them."""

import numpy as np
import pytest

from wbc_jax import metrics
from wbc_jax.metrics.nc_ratio import from_areas

GRAY = np.array([[[0, 128, 255], [0, 128, 255]]], np.uint8)
"""A mask whose classes are drawn as 0, 128 and 255."""
RIGHT = np.zeros((1, 2, 3), np.uint8)

OF_MASKS = {
    "nc_ratio": metrics.nc_ratio,
    "cell_shape": metrics.cell_shape,
    "region_means": lambda mask: metrics.region_means(RIGHT, mask),
    "confusion_matrix": lambda mask: metrics.confusion_matrix(RIGHT, mask, 3),
    "bf_score": lambda mask: metrics.bf_score(RIGHT, mask, 3),
    "surface_distances": lambda mask: metrics.surface_distances(RIGHT, mask, 3),
    "SegmentationCounts": lambda mask: metrics.SegmentationCounts.of(RIGHT, mask, 3),
}
EVEN = np.full((2, 2), 0.5)
OF_LABELS = {
    "auroc": metrics.auroc,
    "macro_auroc": metrics.macro_auroc,
    "expected_calibration_error": metrics.expected_calibration_error,
    "brier_score": metrics.brier_score,
    "confusion_from_labels": lambda labels, _: metrics.confusion_from_labels(labels, [0, 1], 2),
}


@pytest.mark.parametrize("name", OF_MASKS)
def test_masks_of_other_values_are_refused(name):
    with pytest.raises(ValueError, match=r"(mask|prediction) holds classes 0 to (128|255); .* 3,"):
        OF_MASKS[name](GRAY)
    with pytest.raises(ValueError, match=r"(mask|prediction) is of float64; classes are integers"):
        OF_MASKS[name](RIGHT / 2)
    with pytest.raises(ValueError, match=r"\[N, H, W\]"):
        OF_MASKS[name](RIGHT[0])
    OF_MASKS[name](RIGHT)


def test_255_is_unknown_where_a_mask_may_be_the_truth():
    mask = np.array([[[0, 1, 255], [2, 2, 255]]], np.uint8)
    assert metrics.nc_ratio(mask).nc_ratio.tolist() == [2.0]
    assert metrics.cell_shape(mask).cell.area_px.tolist() == [3.0]
    assert metrics.region_means(mask, mask).nucleus_mean.tolist() == [2.0]


@pytest.mark.parametrize("name", OF_LABELS)
@pytest.mark.parametrize(
    "labels, reason",
    [
        ([0.5, 1], "labels are of float64; classes are integers"),
        ([0, np.nan], "labels are of float64"),
        ([0, 2], "labels hold classes 0 to 2; num_classes is 2, so they must be 0 to 1, or -1"),
        ([-2, 1], "labels hold classes -2 to 1"),
    ],
)
def test_labels_that_are_no_class_are_refused(name, labels, reason):
    with pytest.raises(ValueError, match=reason):
        OF_LABELS[name](labels, EVEN)
    OF_LABELS[name]([-1, 1], EVEN)


@pytest.mark.parametrize("name", ["iou", "dice", "recall", "precision", "f1", "mean_iou"])
def test_counts_below_0_are_refused(name):
    metric = getattr(metrics, name)
    with pytest.raises(ValueError, match="confusion matrices hold -1; they must be 0 or more"):
        metric([[3, -1], [0, 2]])
    with pytest.raises(ValueError, match="confusion matrices hold nan"):
        metric([[3, np.nan], [0, 2]])
    with pytest.raises(ValueError, match=r"have shape \(2, 3\); they must be \[\.\.\., 3, 3\]"):
        metric(np.ones((2, 3)))


def test_boundary_counts_and_areas_are_counts():
    with pytest.raises(ValueError, match="boundary counts hold -1"):
        metrics.bf_from_counts([1, 1, -1, 1])
    with pytest.raises(ValueError, match=r"boundary counts have shape \(3,\)"):
        metrics.bf_from_counts([1, 1, 1])
    with pytest.raises(ValueError, match="nucleus areas hold -3"):
        from_areas([-3], [2])
    with pytest.raises(ValueError, match="areas hold fractions"):
        from_areas([3], [0.5])


def test_pixel_sizes_are_finite():
    with pytest.raises(ValueError, match="um_per_px is inf; it must be positive and finite"):
        metrics.cell_shape(RIGHT, um_per_px=np.inf)
    assert np.isnan(metrics.cell_shape(RIGHT, um_per_px=np.nan).cell.area_um2).all()
