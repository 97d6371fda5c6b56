"""Splitting and merging masks, on masks drawn by hand."""

import numpy as np

from helpers.drawn_fields import disk
from wbc_jax import labels as labels_lib
from wbc_jax.fields import finder, instances


def test_touching_cells_share_no_pixel_and_lose_none():
    """Each cell of a pair, cut out with its neighbor, gets its half back."""
    shape = (120, 160)
    mask = np.zeros(shape, np.uint8)
    nuclei = [disk(shape, 60, 50, 14), disk(shape, 60, 110, 14)]
    bodies = [disk(shape, 60, 50, 31), disk(shape, 60, 110, 31)]  # they overlap at x = 80
    mask[bodies[0] | bodies[1]] = labels_lib.CYTOPLASM
    mask[nuclei[0] | nuclei[1]] = labels_lib.NUCLEUS
    speck = np.s_[2:8, 2:8]
    mask[speck] = labels_lib.CYTOPLASM
    boxes = [(29, 19, 92, 82), (29, 79, 92, 142)]
    cells = [
        finder.Detection(*box, 600, 1.0, False, nucleus[box[0] : box[2], box[1] : box[3]])
        for box, nucleus in zip(boxes, nuclei)
    ]
    windows = [(10, 0, 120, 110), (10, 50, 120, 160)]
    masks = [mask[w[0] : w[2], w[1] : w[3]] for w in windows]
    joined, labels = instances.merge_masks(shape, windows, masks, cells)
    expected = mask.copy()
    expected[speck] = 0  # connected with no nucleus
    np.testing.assert_array_equal(joined, expected)
    # The border is halfway between the two nuclei, because each pixel goes to the nearer one.
    left, right = labels[:, :80], labels[:, 81:]
    assert set(np.unique(left)) == {0, 1} and set(np.unique(right)) == {0, 2}
    assert (labels > 0).sum() == (expected > 0).sum()
    assert (labels.dtype, joined.dtype) == (np.uint16, np.uint8)


def test_touching_nuclei_are_split_by_the_nearest_seed():
    mask = np.full((20, 40), labels_lib.NUCLEUS, np.uint8)
    seeds = np.zeros((20, 40), np.int32)
    seeds[8:12, 4:8], seeds[8:12, 32:36] = 5, 9
    split = instances.split_mask(mask, seeds)
    assert (split[:, :19] == 5).all() and (split[:, 21:] == 9).all()
    # Without a seed in the mask no pixel gets a cell.
    assert not instances.split_mask(mask, np.zeros_like(seeds)).any()


def test_a_lobe_without_a_seed_goes_with_its_cytoplasm():
    mask = np.zeros((30, 30), np.uint8)
    mask[5:25, 5:25] = labels_lib.CYTOPLASM
    mask[8:12, 8:12] = mask[18:22, 18:22] = labels_lib.NUCLEUS
    seeds = np.zeros((30, 30), np.int32)
    seeds[8:12, 8:12] = 1
    np.testing.assert_array_equal(instances.split_mask(mask, seeds), (mask > 0).astype(np.int32))
