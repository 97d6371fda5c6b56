"""wbc_jax.metrics.nc_ratio: areas, ratios and why a ratio is not a number."""

import numpy as np
import pytest

from wbc_jax import metrics
from wbc_jax.metrics.nc_ratio import FLAGS, from_areas

MASKS = np.array(
    [
        [[0, 1, 1, 1], [2, 2, 2, 1]],  # 3 nucleus, 4 cytoplasm
        [[0, 0, 0, 0], [2, 2, 0, 0]],  # no cytoplasm
        [[0, 1, 1, 0], [0, 0, 0, 0]],  # no nucleus
        [[0, 0, 0, 0], [0, 0, 0, 0]],  # no cell
        [[2, 2, 1, 255], [255, 0, 0, 0]],  # pixels of unknown class count for nothing
    ],
    np.uint8,
)


def test_hand_drawn_masks():
    result = metrics.nc_ratio(MASKS)
    assert isinstance(result, metrics.NCRatio)
    assert result.nucleus_px.tolist() == [3, 2, 0, 0, 2]
    assert result.cytoplasm_px.tolist() == [4, 0, 2, 0, 1]
    np.testing.assert_array_equal(result.nc_ratio, [0.75, np.inf, np.nan, np.nan, 2.0])
    np.testing.assert_array_equal(result.nucleus_share, [3 / 7, 1.0, np.nan, np.nan, 2 / 3])
    assert result.flag.tolist() == ["", "no_cytoplasm", "no_nucleus", "no_cell", ""]


def test_every_flag_is_listed():
    assert set(metrics.nc_ratio(MASKS).flag) == set(FLAGS)


def test_no_numpy_warning_reaches_the_user():
    with np.errstate(all="raise"):
        metrics.nc_ratio(MASKS)


def test_areas_beyond_int32():
    result = from_areas([3 * 2**31], [2**31])
    assert result.nucleus_px.dtype == np.int64
    assert result.nc_ratio.tolist() == [3.0] and result.nucleus_share.tolist() == [0.75]


def test_no_images():
    assert len(metrics.nc_ratio(np.zeros((0, 2, 2), np.uint8)).flag) == 0


def test_one_mask_without_the_batch_axis_is_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 4\); it must be \[N, H, W\]"):
        metrics.nc_ratio(MASKS[0])
