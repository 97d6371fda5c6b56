"""wbc_jax.data.duplicates: pixels that are the same cell are found, others are not."""

import cv2
import numpy as np
import pytest

from wbc_jax.data import duplicates
from wbc_jax.tfds_builders.wbc_synthetic import render


def bits(a, b):
    return int(np.bitwise_count(a ^ b).sum())


@pytest.fixture(scope="module")
def cells():
    return [render.render_cell(5, i, size=128).image for i in range(12)]


def photographed_again(image):
    """The same cell, brighter, blurred, of another size and compressed."""
    image = cv2.resize(image, (150, 150), interpolation=cv2.INTER_CUBIC)
    image = cv2.GaussianBlur(cv2.convertScaleAbs(image, alpha=1.08, beta=6), (5, 5), 0)
    _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 75])
    return cv2.imdecode(jpeg, cv2.IMREAD_COLOR)


def test_a_second_picture_of_a_cell_is_near_and_other_cells_are_far(cells):
    first = np.stack([duplicates.perceptual_hash(c) for c in cells])
    second = np.stack([duplicates.perceptual_hash(photographed_again(c)) for c in cells])
    for i in range(len(cells)):
        for j in range(len(cells)):
            near = bits(first[i], second[j]) <= duplicates.NEAR_BITS
            assert near == (i == j)


def test_near_pairs_equal_a_loop_over_all_pairs(monkeypatch):
    monkeypatch.setattr(duplicates, "_BLOCK", 7)  # several blocks, the last one short
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, (20, 4), np.uint64)
    hashes[13] = hashes[2] ^ np.array([7, 0, 1, 0], np.uint64)
    hashes[19] = hashes[13]
    expected = [
        (i, j, bits(hashes[i], hashes[j]))
        for i in range(20)
        for j in range(i + 1, 20)
        if bits(hashes[i], hashes[j]) <= 4
    ]
    assert duplicates.near_pairs(hashes, 4) == expected
    assert expected == [(2, 13, 4), (2, 19, 4), (13, 19, 0)]


def test_clusters_follow_groups_and_pairs():
    #  0   1   2   3   4   5
    groups = ["a", "b", "a", "c", "d", "e"]
    assert duplicates.clusters(groups, []) == [0, 1, 0, 3, 4, 5]
    # 2-1 ties b to a, 5-3 ties e to c; d stays alone.
    assert duplicates.clusters(groups, [(2, 1, 9), (5, 3, 0)]) == [0, 0, 0, 3, 4, 3]
    # A chain: all one.
    assert duplicates.clusters(groups, [(0, 1), (1, 3), (3, 4), (4, 5)]) == [0] * 6
    assert duplicates.clusters([], []) == []
