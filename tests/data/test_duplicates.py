"""wbc_jax.data.duplicates: pixels that are the same cell are found, others are not."""

import cv2
import numpy as np
import pytest

from wbc_jax.data import duplicates
from wbc_jax.data.images import decode_image, read_image_file
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


def cut(image, part, dy=0, dx=0, size=110):
    """The middle of a picture, off by some pixels, at another size and compressed."""
    side = round(part * image.shape[0])
    top, left = (image.shape[0] - side) // 2 + dy, (image.shape[1] - side) // 2 + dx
    piece = image[top : top + side, left : left + side]
    piece = cv2.resize(piece, (size, size), interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", piece, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return cv2.imdecode(jpeg, cv2.IMREAD_COLOR)


def test_a_cell_cut_otherwise_is_found_by_its_own_hash_alone(cells):
    first = np.stack([duplicates.cell_hash(c) for c in cells])
    whole = np.stack([duplicates.perceptual_hash(c) for c in cells])
    found = 0
    for i, cell in enumerate(cells):
        again = cut(cell, 0.8, dy=4, dx=-5)
        found += bits(first[i], duplicates.cell_hash(again)) <= duplicates.CELL_BITS
        assert bits(whole[i], duplicates.perceptual_hash(again)) > duplicates.NEAR_BITS
        for j in range(len(cells)):
            assert i == j or bits(first[j], duplicates.cell_hash(again)) > duplicates.CELL_BITS
    assert found >= 10  # of 12: a cell of which the cut loses a part is another picture


def test_cell_hash_of_one_colour():
    assert duplicates.cell_hash(np.full((40, 50, 3), 77, np.uint8)).shape == (4,)
    assert duplicates.cell_hash(np.zeros((1, 1, 3), np.uint8)).shape == (4,)


def test_turned_are_the_hashes_of_turned_pictures(cells):
    for cell in cells[:4]:
        ways = duplicates.turned(duplicates.perceptual_hash(cell)[None])[0]
        assert np.array_equal(ways[0], duplicates.perceptual_hash(cell))
        pictures = [
            picture[:: -1 if in_y else 1, :: -1 if in_x else 1]
            for picture in (cell, cell.transpose(1, 0, 2))
            for in_y in (0, 1)
            for in_x in (0, 1)
        ]
        found = np.stack(
            [duplicates.perceptual_hash(np.ascontiguousarray(picture)) for picture in pictures]
        )
        differ = np.bitwise_count(ways[:, None] ^ found).sum(2)
        assert differ.diagonal().max() <= 16
        assert (differ.argmin(1) == range(8)).all()  # each is its own turn's


def test_turned_pairs_are_found(cells):
    hashes = np.stack(
        [duplicates.cell_hash(c) for c in cells]
        + [duplicates.cell_hash(np.ascontiguousarray(np.rot90(c))) for c in cells[:3]]
        + [duplicates.cell_hash(np.ascontiguousarray(cells[4][:, ::-1]))]
    )
    assert duplicates.near_pairs(hashes, duplicates.CELL_BITS) == []
    found = duplicates.near_pairs(hashes, duplicates.CELL_BITS, duplicates.TURNED_BITS)
    assert [pair[:2] for pair in found] == [(0, 12), (1, 13), (2, 14), (4, 15)]


def test_same_cells_are_found_by_either_hash():
    rng = np.random.default_rng(0)
    whole, alone = (rng.integers(0, 2**64, (6, 4), np.uint64) for _ in range(2))
    whole[3], alone[5] = whole[1] ^ np.array([0, 0, 0, 31], np.uint64), alone[2]
    whole[4], alone[4] = whole[0], alone[0] ^ np.array([1, 0, 0, 1], np.uint64)
    assert duplicates.same_cells(whole, None) == [(0, 4, 0), (1, 3, 5)]
    assert duplicates.same_cells(whole, alone) == [(0, 4, 0), (1, 3, 5), (2, 5, 0)]
    assert duplicates.same_cells(whole[:0], alone[:0]) == []


@pytest.mark.data
def test_cells_that_public_sets_hold_twice(real_data):
    """Looked at by eye: one field cut around each of two cells, and cells cut otherwise."""
    pbc, jtsc = real_data / "pbc/PBC_dataset_normal_DIB", real_data / "segmentation_WBC/Dataset 1"
    pairs = [
        (pbc / "neutrophil/BNE_253038.jpg", pbc / "neutrophil/BNE_489079.jpg"),
        (pbc / "monocyte/MO_257537.jpg", pbc / "lymphocyte/LY_914453.jpg"),
        (jtsc / "091.bmp", jtsc / "054.bmp"),
        (jtsc / "072.bmp", jtsc / "070.bmp"),
    ]
    if not all(file.exists() for pair in pairs for file in pair):
        pytest.skip("a part of the real images")
    hashes = {
        file: [hash(decode_image(read_image_file(file)[0])) for hash in HASHES]
        for pair in pairs
        for file in pair
    }
    for i, (one, _) in enumerate(pairs):
        for j, (_, other) in enumerate(pairs):
            whole, alone = (bits(x, y) for x, y in zip(hashes[one], hashes[other]))
            assert whole > duplicates.NEAR_BITS
            bound = duplicates.CELL_BITS
            assert (alone <= bound) if i == j else (alone > bound + 20)


HASHES = (duplicates.perceptual_hash, duplicates.cell_hash)


@pytest.mark.parametrize("most", [4, 40, 64, 100])
def test_near_pairs_equal_a_loop_over_all_pairs(monkeypatch, most):
    monkeypatch.setattr(duplicates, "_BLOCK", 7)  # several blocks, the last one short
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**64, (30, 4), np.uint64)
    hashes[13] = hashes[2] ^ np.array([7, 0, 1, 0], np.uint64)
    hashes[19] = hashes[13]
    # From 0 to 150 bits apart, wherever they are.
    for n in range(20, 30):
        mask = np.packbits(rng.permutation(np.arange(256) < 15 * (n - 19))).view(np.uint64)
        hashes[n] = hashes[0] ^ mask
    expected = [
        (i, j, bits(hashes[i], hashes[j]))
        for i in range(30)
        for j in range(i + 1, 30)
        if bits(hashes[i], hashes[j]) <= most
    ]
    assert duplicates.near_pairs(hashes, most) == expected
    assert {(2, 13, 4), (2, 19, 4), (13, 19, 0)} <= set(expected)
    turned = [
        (i, j, least)
        for i in range(30)
        for j in range(i + 1, 30)
        if (least := min(bits(way, hashes[j]) for way in duplicates.turned(hashes[i : i + 1])[0]))
        <= most
    ]
    assert duplicates.near_pairs(hashes, most, most) == turned


def test_clusters_follow_groups_and_pairs():
    #  0   1   2   3   4   5
    groups = ["a", "b", "a", "c", "d", "e"]
    assert duplicates.clusters(groups, []) == [0, 1, 0, 3, 4, 5]
    # 2-1 ties b to a, 5-3 ties e to c; d stays alone.
    assert duplicates.clusters(groups, [(2, 1, 9), (5, 3, 0)]) == [0, 0, 0, 3, 4, 3]
    # A chain: all one.
    assert duplicates.clusters(groups, [(0, 1), (1, 3), (3, 4), (4, 5)]) == [0] * 6
    assert duplicates.clusters([], []) == []


@pytest.mark.parametrize("seed", range(5))
def test_clusters_are_those_of_union_find(seed):
    rng = np.random.default_rng(seed)
    groups = [f"g{number}" for number in rng.integers(0, 150, 200)]
    pairs = [tuple(pair) for pair in rng.integers(0, 200, (30, 2)).tolist()]
    owner = list(range(200))
    ties = [(groups.index(group), i) for i, group in enumerate(groups)] + pairs
    for _ in range(200):  # until nothing changes, at the latest
        for i, j in ties:
            owner[i] = owner[j] = min(owner[i], owner[j])
    assert duplicates.clusters(groups, pairs) == owner
    assert len(set(owner)) > 50
