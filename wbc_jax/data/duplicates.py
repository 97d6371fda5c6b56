"""Finds exact and near duplicates of cells, within a data set and across data sets.

A cell that stands in both the training and the test split makes the score wrong, and public
collections repeat each other (Raabin's cells appear in three packagings, cut differently).
Duplicates are found from the pixels, by one hash of the whole picture and one of the nucleus with
its surroundings. They count as one group, which no split divides.

Some duplicates are not found: copies turned by angles other than quarter turns, sheared or strongly
recolored copies, cells whose nucleus the frame cuts, and pictures in which another cell is nearer
the middle or larger.
"""

import functools
import os
from collections.abc import Sequence
from concurrent import futures

import cv2
import imagehash
import numpy as np
import scipy.sparse
from PIL import Image
from scipy.sparse import csgraph

HASH_SIDE = 16
"""Side of the perceptual hash in bits. Its 256 bits distinguish cells on the same background, which
the usual 64 bits do not."""
NEAR_BITS = 64
"""Two whole pictures are near duplicates if their hashes differ in at most this many bits. Checked
by eye: the same cell photographed twice (JTSC, Raabin) differs in 0 to 68 bits; the closest of the
8.5 million pairs of different cells of PBC differ in 68."""
CELL_BITS = 40
"""The same for hashes of the cell alone. Of the 19 million pairs of 6239 pictures of seven public
sets, 116 differ in at most 40 bits; all that were looked at (those that are not Kaggle's copies)
show one cell. The closest two different cells, round lymphocytes, differ in 46."""
TURNED_BITS = 40
"""The same for a picture and another one turned by quarter turns or mirrored. Of the pairs above,
18 differ in at most 40 bits, all of them Kaggle's mirrored copies of one frame, as are the next
16."""
_THUMBNAIL = 64
_BLOCK = 256


def perceptual_hash(image: np.ndarray) -> np.ndarray:
    """Returns the perceptual hash (signs of the DCT, `imagehash.phash`) of uint8 `[H, W, 3]`.

    It does not change with size, compression and slight changes of color. It does change with turns
    and flips.

    Returns:
        uint64 `[4]`, 256 bits.
    """
    # imagehash would shrink the picture to the same size; OpenCV averages faster.
    small = cv2.resize(image, (_THUMBNAIL, _THUMBNAIL), interpolation=cv2.INTER_AREA)
    gray = Image.fromarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY))
    bits = imagehash.phash(gray, hash_size=HASH_SIDE).hash
    return np.packbits(bits.ravel()).view(np.uint64)


def cell_hash(image: np.ndarray) -> np.ndarray:
    """Returns the perceptual hash of the nucleus in uint8 `[H, W, 3]` with its surroundings.

    Like `perceptual_hash`, but of a square around the nucleus, three times as wide as the nucleus.
    It does not change with the way the picture is cut and scaled, as long as it holds that square.

    Returns:
        uint64 `[4]`, 256 bits.
    """
    y, x, radius = _nucleus(image)
    half = max(4, round(_AROUND * radius))
    top, left = round(y) - half, round(x) - half
    height, width = image.shape[:2]
    inside = image[max(top, 0) : top + 2 * half, max(left, 0) : left + 2 * half]
    # Mirror the square where the frame cuts it.
    beyond = (max(-top, 0), max(top + 2 * half - height, 0))
    aside = (max(-left, 0), max(left + 2 * half - width, 0))
    return perceptual_hash(
        cv2.copyMakeBorder(inside, *beyond, *aside, borderType=cv2.BORDER_REFLECT)
    )


_SEARCH = 192
_AROUND = 1.5
_REACH = 2.0


def _nucleus(image: np.ndarray) -> tuple[float, float, float]:
    """Returns the middle (y, x) and the radius of the nucleus, the most saturated part, in pixels.

    Otsu's threshold depends on the amount of background in the picture. So it is computed again,
    three times, from a disc of twice the radius of the nucleus, which does not depend on the way
    the picture is cut.
    """
    scale = _SEARCH / max(image.shape[:2])
    size = [max(8, round(side * scale)) for side in image.shape[1::-1]]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    saturation = cv2.GaussianBlur(cv2.cvtColor(small, cv2.COLOR_RGB2HSV)[..., 1], (0, 0), 1.5)
    height, width = saturation.shape
    ys, xs = _grid(height, width)
    threshold, found = cv2.threshold(saturation, 0, 1, cv2.THRESH_OTSU)
    _, regions, stats, middles = cv2.connectedComponentsWithStats(found)
    if len(stats) < 2:  # one color
        return image.shape[0] / 2, image.shape[1] / 2, max(image.shape[:2]) / 4
    distance = np.hypot(middles[1:, 0] - width / 2, middles[1:, 1] - height / 2)
    areas = stats[1:, cv2.CC_STAT_AREA]
    main = 1 + int((areas * np.exp(-((4 * distance / max(height, width)) ** 2))).argmax())
    # A nucleus may have several lobes.
    apart = np.hypot(*(middles - middles[main]).T) / np.sqrt(stats[main, cv2.CC_STAT_AREA] / np.pi)
    large = stats[:, cv2.CC_STAT_AREA] > 0.08 * stats[main, cv2.CC_STAT_AREA]
    chosen = large & (apart < 2.5)
    chosen[0] = False
    nucleus = chosen[regions]
    y, x, radius = _disc(ys, xs, nucleus)
    for _ in range(3):
        near = (ys - y) ** 2 + (xs - x) ** 2 < (_REACH * radius) ** 2
        values = saturation[near]
        threshold, _ = cv2.threshold(values, 0, 1, cv2.THRESH_OTSU)
        nucleus = near & (saturation > threshold)
        if np.count_nonzero(nucleus) < 10:
            break
        y, x, radius = _disc(ys, xs, nucleus)
    return y / scale, x / scale, radius / scale


def _disc(ys: np.ndarray, xs: np.ndarray, of: np.ndarray) -> tuple[float, float, float]:
    """Returns the middle of some pixels, and the radius of the disc of equal variance."""
    y, x = ys[of], xs[of]
    return float(y.mean()), float(x.mean()), max(1.0, float(np.sqrt(2 * (y.var() + x.var()))))


@functools.lru_cache(maxsize=64)
def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    ys, xs = np.mgrid[:height, :width].astype(np.float32) + 0.5
    return ys, xs


def turned(hashes: np.ndarray) -> np.ndarray:
    """Returns the hashes that the pictures would have if they were turned and mirrored.

    Mirroring a picture flips the sign of every second coefficient of its DCT, and transposing it
    transposes the coefficients. The hash compares with the median, which is not exactly 0, so a few
    bits differ from the true hash (5 on average, at most 16 in 480 trials).

    Args:
        hashes: uint64 `[N, 4]`.

    Returns:
        uint64 `[N, 8, 4]`; the first is the unchanged picture's.
    """
    bits = _bits(hashes)
    odd = np.arange(HASH_SIDE, dtype=np.uint8) % 2
    every = [
        way ^ (odd[:, None] * in_y) ^ (odd * in_x)
        for way in (bits, bits.transpose(0, 2, 1))
        for in_y in (0, 1)
        for in_x in (0, 1)
    ]
    packed = np.packbits(np.stack(every, 1).reshape(-1, HASH_SIDE**2), axis=1)
    return packed.view(np.uint64).reshape(-1, 8, 4)


def same_cells(whole: np.ndarray, cells: np.ndarray | None) -> list[tuple[int, int, int]]:
    """Returns (i, j, differing bits) for every pair i < j of near duplicates, by either hash.

    Args:
        whole: uint64 `[N, 4]`, from `perceptual_hash`.
        cells: uint64 `[N, 4]`, from `cell_hash`; None: unknown.
    """
    found = near_pairs(whole, NEAR_BITS)
    if cells is not None:
        found += near_pairs(cells, CELL_BITS, TURNED_BITS)
    least: dict[tuple[int, int], int] = {}
    for i, j, bits in sorted(found, key=lambda pair: pair[2]):
        least.setdefault((i, j), bits)
    return [(i, j, bits) for (i, j), bits in sorted(least.items())]


def near_pairs(
    hashes: np.ndarray, most_bits: int = NEAR_BITS, turned_bits: int = -1
) -> list[tuple[int, int, int]]:
    """Returns (i, j, differing bits) for every pair i < j at most `most_bits` apart.

    Args:
        hashes: uint64 `[N, 4]`, from `perceptual_hash` or `cell_hash`.
        most_bits: largest Hamming distance.
        turned_bits: the same between one hash and the other's `turned`; -1: not compared.
    """
    ways = [(hashes, most_bits)]
    if turned_bits >= 0:
        ways += [(way, turned_bits) for way in turned(hashes).transpose(1, 0, 2)[1:]]
    blocks = [(way, most, start) for way, most in ways for start in range(0, len(hashes), _BLOCK)]
    found: dict[tuple[int, int], int] = {}
    with futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy releases the GIL
        for pairs in pool.map(lambda block: _close(hashes, *block), blocks):
            for i, j, bits in pairs:
                found[i, j] = min(bits, found.get((i, j), bits))
    return [(i, j, bits) for (i, j), bits in sorted(found.items())]


def _close(
    hashes: np.ndarray, way: np.ndarray, most_bits: int, start: int
) -> list[tuple[int, int, int]]:
    """Returns the near pairs of a hash in one block of `way` and a later one in `hashes`."""
    rows, columns = way[start : start + _BLOCK, None], hashes[None, start:]
    # Half of the bits, or three quarters (which fit uint8), rule out most pairs.
    distance = np.bitwise_count(rows[..., 0] ^ columns[..., 0])
    for word in (1,) if most_bits <= 40 else (1, 2):
        distance += np.bitwise_count(rows[..., word] ^ columns[..., word])
    i, j = np.nonzero(distance <= most_bits)
    i, j = i[i < j] + start, j[i < j] + start
    bits = np.bitwise_count(way[i] ^ hashes[j]).sum(1, dtype=int)
    near = bits <= most_bits
    return list(zip(i[near].tolist(), j[near].tolist(), bits[near].tolist()))


def _bits(hashes: np.ndarray) -> np.ndarray:
    """Returns uint64 `[N, 4]` as bits, uint8 `[N, 16, 16]`."""
    flat = np.ascontiguousarray(hashes).view(np.uint8).reshape(-1, HASH_SIDE**2 // 8)
    return np.unpackbits(flat, axis=1).reshape(-1, HASH_SIDE, HASH_SIDE)


def clusters(groups: Sequence[str], pairs: Sequence[tuple[int, ...]]) -> list[int]:
    """Joins records of one group, and groups that a pair of duplicates connects.

    Args:
        groups: one per record.
        pairs: (i, j, …) of duplicates.

    Returns:
        For each record the smallest index in its cluster.
    """
    if not groups:
        return []
    first: dict[str, int] = {}
    edges = [(first.setdefault(group, i), i) for i, group in enumerate(groups)]
    edges += [(i, j) for i, j, *_ in pairs]
    graph = scipy.sparse.coo_array((np.ones(len(edges)), tuple(zip(*edges))), (len(groups),) * 2)
    _, labels = csgraph.connected_components(graph, directed=False)
    _, smallest = np.unique(labels, return_index=True)
    return smallest[labels].tolist()
