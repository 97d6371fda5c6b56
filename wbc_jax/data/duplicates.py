"""The same cell twice: exact and near duplicates, within a data set and across data sets.

A cell that stands in training and in the test split makes the score a lie, and public collections
repeat each other (Raabin's cells appear in three packagings). Duplicates are found from the pixels
and handled as one group, which no split takes apart.
"""

import collections
from collections.abc import Sequence

import cv2
import imagehash
import numpy as np
from PIL import Image

HASH_SIDE = 16
"""Side of the perceptual hash in bits: 256 bits tell apart cells on the same background, which
the usual 64 do not."""
NEAR_BITS = 64
"""Pairs of hashes that differ in no more bits than this are near duplicates. Looked at by eye: the
same cell photographed twice (JTSC, Raabin) differs in 0 to 68 bits; the closest of the 8.5 million
pairs of different cells of PBC differ in 68."""
_THUMBNAIL = 64
_BLOCK = 1024


def perceptual_hash(image: np.ndarray) -> np.ndarray:
    """Returns the perceptual hash (DCT signs, `imagehash.phash`) of uint8 `[H, W, 3]`.

    Invariant to size, compression and slight changes of colour, not to turns and flips.

    Returns:
        uint64 `[4]`, 256 bits.
    """
    # What imagehash itself would shrink to, but by OpenCV's faster averaging.
    small = cv2.resize(image, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
    grey = Image.fromarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
    bits = imagehash.phash(grey, hash_size=HASH_SIDE).hash
    return np.packbits(bits.ravel()).view(np.uint64)


def near_pairs(hashes: np.ndarray, most_bits: int = NEAR_BITS) -> list[tuple[int, int, int]]:
    """Returns (i, j, bits that differ) for every pair i < j at most `most_bits` apart.

    Args:
        hashes: uint64 `[N, 4]`, from `perceptual_hash`.
        most_bits: largest Hamming distance.
    """
    pairs = []
    for start in range(0, len(hashes), _BLOCK):
        block = hashes[start : start + _BLOCK]
        distance = np.zeros((len(block), len(hashes) - start), np.uint16)
        for word in range(hashes.shape[1]):
            differ = block[:, None, word] ^ hashes[None, start:, word]
            distance += np.bitwise_count(differ)
        for i, j in zip(*np.nonzero(distance <= most_bits)):
            if i < j:
                pairs.append((start + int(i), start + int(j), int(distance[i, j])))
    return pairs


def clusters(groups: Sequence[str], pairs: Sequence[tuple[int, ...]]) -> list[int]:
    """Joins records of one group, and groups that a pair of duplicates ties together.

    Args:
        groups: one a record.
        pairs: (i, j, …) of duplicates.

    Returns:
        For each record the smallest index in its cluster.
    """
    parent = list(range(len(groups)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def join(i: int, j: int) -> None:
        low, high = sorted((root(i), root(j)))
        parent[high] = low

    first: dict[str, int] = {}
    for i, group in enumerate(groups):
        join(first.setdefault(group, i), i)
    for i, j, *_ in pairs:
        join(i, j)
    return [root(i) for i in range(len(groups))]


def multiple(members: Sequence[int]) -> dict[int, list[int]]:
    """Returns {cluster: records} of the clusters with more than one record."""
    found = collections.defaultdict(list)
    for record, cluster in enumerate(members):
        found[cluster].append(record)
    return {cluster: records for cluster, records in found.items() if len(records) > 1}
