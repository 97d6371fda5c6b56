"""The cell of an image as `wbc_jax.data.isolation` finds it, in JAX, for exported models.

Everything is the same but the line between two cells that touch: `isolation` floods them pixel by
pixel, and here all pixels of a depth, in steps of `_STEP` pixels, flood at once. For 38 drawn pairs
of discs the line moved by 4 pixels in the mean, and 17 at most.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from wbc_jax.data import isolation, traced_resize
from wbc_jax.labels import BACKGROUND, CYTOPLASM, NUCLEUS

_STEP = 0.125
# Lengths of OpenCV's steps to a neighbor, in 1 / 65536 px: straight, diagonal, knight's move.
_STRAIGHT, _DIAGONAL, _KNIGHT = 65536, 91750, 143976
_FAR = 2**29
_EIGHT = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0))
_FOUR = ((-1, 0), (1, 0), (0, -1), (0, 1))


def isolate(
    image: jax.Array, mask: jax.Array, side: int, stain: isolation.Stain = isolation.AS_IT_IS
) -> jax.Array:
    """Cuts an image to its cell, as `isolation.isolate`, and resizes it.

    Args:
        image: uint8 `[H, W, 3]`.
        mask: uint8 `[H, W]`: 0 background, 1 cytoplasm, 2 nucleus.
        side: height and width of the result.
        stain: as in `isolation.isolate`.

    Returns:
        uint8 `[side, side, 3]`.
    """
    height, width = mask.shape
    image = _white(image)
    cell, found = _middle_cell(mask)
    if stain.nucleus:
        image = _stained(image, cell & found, mask == NUCLEUS, stain)
    rows, columns = _extent(cell.any(1)), _extent(cell.any(0))
    longer = jnp.maximum(rows[1], columns[1])
    reach = jnp.maximum(1, jnp.rint(isolation.MARGIN * longer.astype(jnp.float32)))
    kept = _dilate(cell, reach.astype(jnp.int32)) | ~found
    image = jnp.where(kept[..., None], image, jnp.uint8(isolation.GROUND))
    # As `crops.square_crop_box`; 0.08 of a whole number of pixels, rounded up.
    cut = longer + 2 * ((longer * round(100 * isolation.MARGIN) + 99) // 100)
    shorter = jnp.minimum(jnp.asarray(height, jnp.int32), jnp.asarray(width, jnp.int32))
    cut = jnp.minimum(cut, jnp.maximum(longer, shorter))

    def window(box: traced_resize.Window, length: int) -> traced_resize.Window:
        pairs = zip(_square(box, cut, length), traced_resize.whole(length))
        first, size = (jnp.where(found, *pair) for pair in pairs)
        return first, size

    rows, columns = window(rows, height), window(columns, width)
    return traced_resize.resize_image(image, side, rows, columns)


def keep_middle_cell(mask: jax.Array) -> jax.Array:
    """Keeps one cell of a mask, uint8 `[H, W]`, as `isolation.keep_middle_cell`."""
    cell, found = _middle_cell(mask)
    return jnp.where(cell | ~found, mask, jnp.uint8(BACKGROUND))


def _extent(line: jax.Array) -> traced_resize.Window:
    """Returns the smallest interval that holds the true values of bool `[N]`."""
    place = lax.iota(jnp.int32, line.shape[0])
    first = jnp.where(line, place, _FAR).min()
    return first, jnp.maximum(jnp.where(line, place, -1).max() + 1 - first, 1)


def _square(box: traced_resize.Window, side: jax.Array, length: int) -> traced_resize.Window:
    """As `crops._place`, of a box given by its first pixel and its length."""
    length = jnp.asarray(length, jnp.int32)
    side = jnp.minimum(side, length)
    first = (2 * box[0] + box[1] - side) // 2
    return jnp.clip(first, 0, length - side), side


def _white(image: jax.Array) -> jax.Array:
    """As `isolation._white`."""
    pixels = image[::2, ::2].reshape(-1, 3).astype(jnp.int32)
    # The percentile of n numbers is at 0.97 (n - 1); whole numbers keep it exact.
    last = jnp.asarray(pixels.shape[0], jnp.int32) - 1
    below = 97 * (last // 100) + 97 * (last % 100) // 100
    share = (97 * (last % 100) % 100).astype(jnp.float32) / 100
    levels = lax.iota(jnp.int32, 256)
    channels = []
    for i in range(3):
        counts = jnp.zeros(256, jnp.int32).at[pixels[:, i]].add(1).cumsum()
        low = (counts <= below).sum(dtype=jnp.int32).astype(jnp.float32)
        high = (counts <= jnp.minimum(below + 1, last)).sum(dtype=jnp.int32).astype(jnp.float32)
        light = low + (high - low) * share
        table = levels.astype(jnp.float32) * (isolation.WHITE / jnp.maximum(light, 1))
        table = jnp.clip(jnp.rint(table), 0, 255).astype(jnp.uint8)
        channels.append(table[image[..., i].astype(jnp.int32)])
    return jnp.stack(channels, -1)


def _stained(
    image: jax.Array, cell: jax.Array, nucleus: jax.Array, stain: isolation.Stain
) -> jax.Array:
    """As `isolation._stained`."""
    nuclei, found = _median_density(image[..., 1], cell & nucleus)
    lowest, highest = isolation.LEAST_POWER, isolation.MOST_POWER
    reached = found * jnp.clip(stain.nucleus / found, lowest, highest)
    gamma = jnp.float32(1)
    if stain.red_cells:
        red, some = _red_density(image, cell, found)
        wanted = np.float32(np.log(stain.nucleus / stain.red_cells))
        gamma = jnp.where(some, wanted / jnp.log(found / red), isolation.USUAL_GAMMA)
        gamma = jnp.clip(gamma, isolation.LEAST_GAMMA, isolation.MOST_GAMMA)
    share = jnp.maximum(lax.iota(jnp.int32, 256).astype(jnp.float32), 1e-9) / isolation.WHITE
    density = -jnp.log(share)
    new = jnp.sign(density) * reached * (jnp.abs(density) / found) ** gamma
    table = jnp.clip(jnp.rint(isolation.WHITE * jnp.exp(-new)), 0, 255).astype(jnp.uint8)
    return jnp.where(nuclei > 0, table[image.astype(jnp.int32)], image)


def _red_density(
    image: jax.Array, cell: jax.Array, nucleus: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """As `isolation._red_density`; and whether there are red cells."""
    near = lax.reduce_window(cell, False, lax.bitwise_or, (5, 5), (1, 1), "SAME")
    step = isolation.STEP
    beside, pixels = ~near[::step, ::step], image[::step, ::step]
    level = pixels[..., 1].astype(jnp.float32)
    low = isolation.WHITE * jnp.exp(-isolation.RED_OF_NUCLEUS * nucleus)
    high = isolation.WHITE * np.exp(-isolation.RED_DENSITY)
    red = beside & (level >= low) & (level <= high)
    count, green = _median_density(pixels[..., 1], red)
    enough = jnp.maximum(isolation.RED_SHARE * beside.sum(dtype=jnp.float32), 1)
    absorbs = _median_density(pixels[..., 0], red)[1] >= isolation.RED_OF_GREEN * green
    return green, (count.astype(jnp.float32) >= enough) & absorbs


def _median_density(levels: jax.Array, kept: jax.Array) -> tuple[jax.Array, jax.Array]:
    """As `isolation._median_density`, of the levels where `kept`; and how many these are."""
    counts = jnp.zeros(256, jnp.int32).at[levels.astype(jnp.int32)].add(kept.astype(jnp.int32))
    counts = counts.cumsum()
    level = (2 * counts < counts[-1]).sum(dtype=jnp.int32).astype(jnp.float32)
    density = -jnp.log(jnp.clip(level, 1, isolation.WHITE - 1) / isolation.WHITE)
    return counts[-1], density


def _dilate(region: jax.Array, reach: jax.Array) -> jax.Array:
    """Dilates bool `[H, W]` by OpenCV's ellipse, whose sides are 2 `reach` + 1."""
    height, width = region.shape
    column = lax.broadcasted_iota(jnp.int32, (height, width), 1)
    left = column - lax.cummax(jnp.where(region, column, -_FAR), axis=1)
    right = lax.cummin(jnp.where(region, column, _FAR), axis=1, reverse=True) - column
    away = jnp.minimum(left, right)
    far = jnp.full((height, width), _FAR, jnp.int32)
    stacked = jnp.concatenate([far, away, far])

    def add(y, found):
        rest = (reach * reach - y * y).astype(jnp.float32)
        half = jnp.rint(jnp.sqrt(jnp.maximum(rest, 0))).astype(jnp.int32)
        start = jnp.asarray(height, jnp.int32) + y
        row = lax.dynamic_slice(stacked, (start, jnp.int32(0)), (height, width))
        return found | (row <= half)

    rows = jnp.minimum(reach, jnp.asarray(height, jnp.int32))
    return lax.fori_loop(-rows, rows + 1, add, jnp.zeros((height, width), bool))


def _middle_cell(mask: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns the image's cell with its holes filled, bool `[H, W]`, and whether there is one."""
    stained = (mask == NUCLEUS) | (mask == CYTOPLASM)
    pieces = _components(stained, _EIGHT)
    filled = _filled(pieces == _in_the_middle(mask, pieces, stained))
    depth = _depth(filled)
    deep = depth.astype(jnp.float32)
    cores = filled & (deep > isolation.NECK * deep.max())
    pieces = _components(cores, _EIGHT)
    first = jnp.where(cores, pieces, _FAR).min()
    several = (cores & (pieces != first)).any()
    cell = lax.cond(
        several,
        lambda: _without_neighbors(mask, filled, depth, cores, pieces),
        lambda: filled,
    )
    return cell, stained.any()


def _without_neighbors(
    mask: jax.Array, filled: jax.Array, depth: jax.Array, cores: jax.Array, pieces: jax.Array
) -> jax.Array:
    """Takes the cells that touch the middle one away from it."""
    regions = _flooded(filled, depth, jnp.where(cores, pieces, -1))
    best = _in_the_middle(mask, regions, filled)
    amounts = jnp.zeros(mask.size, jnp.int32)
    amounts = amounts.at[regions.ravel()].add(
        (filled & (mask == NUCLEUS)).astype(jnp.int32).ravel(), mode="drop"
    )
    least = isolation.OWN_NUCLEUS * amounts[best].astype(jnp.float32)
    other = (amounts.astype(jnp.float32) >= jnp.maximum(least, 1))[regions]
    return filled & ~(other & (regions != best))


def _shifted(values: jax.Array, y: int, x: int, outside: int) -> jax.Array:
    """Returns the value of the neighbor (y, x) of each pixel, with |y| and |x| up to 2."""
    height, width = values.shape
    padded = jnp.pad(values, 2, constant_values=outside)
    return lax.slice(padded, (2 + y, 2 + x), (2 + y + height, 2 + x + width))


def _components(region: jax.Array, neighbors: tuple[tuple[int, int], ...]) -> jax.Array:
    """Numbers the connected components of bool `[H, W]` by the place of their first pixel.

    Each pixel points to one of its component with a lower number, and all pointers are followed
    and passed on to neighbors until none changes (Zhang, Azad and Hu, "FastSV", 2020).

    Returns:
        int32 `[H, W]`; outside the region the pixel's own place.
    """
    shape, count = region.shape, region.size
    start = lax.iota(jnp.int32, count)

    def lowest(values: jax.Array) -> jax.Array:
        """Returns the lowest value of each pixel and its neighbors in the region."""
        own = jnp.where(region, values.reshape(shape), _FAR)
        around = [_shifted(own, y, x, _FAR) for y, x in neighbors]
        least = functools.reduce(jnp.minimum, around, own)
        return jnp.where(region, least, start.reshape(shape)).ravel()

    def step(state):
        pointers, _ = state
        after = pointers[pointers]
        low = lowest(after)
        new = pointers.at[pointers].min(low)
        new = jnp.minimum(jnp.minimum(new, low), after)
        return new, (new != pointers).any()

    found, _ = lax.while_loop(lambda state: state[1], step, (start, jnp.bool_(True)))
    return found.reshape(shape)


def _filled(region: jax.Array) -> jax.Array:
    """Fills the holes of bool `[H, W]`: what is not joined to the frame."""
    around = ~jnp.pad(region, 1)
    pieces = _components(around, _FOUR)
    outside = around & (pieces == 0)  # the first pixel is in the frame
    height, width = region.shape
    return ~lax.slice(outside, (1, 1), (1 + height, 1 + width))


def _in_the_middle(mask: jax.Array, pieces: jax.Array, region: jax.Array) -> jax.Array:
    """As `isolation._in_the_middle`, of numbered pieces of a region; int32 scalar."""
    height, width = mask.shape
    places = jnp.where(region, pieces, mask.size).ravel()

    def total(values: jax.Array) -> jax.Array:
        sums = jnp.zeros(mask.size, jnp.float32)
        return sums.at[places].add(values.astype(jnp.float32).ravel(), mode="drop")

    def off(axis: int, length: int) -> jax.Array:
        line = lax.broadcasted_iota(jnp.float32, (height, width), axis)
        return line * 2 / jnp.asarray(length, jnp.float32) - 1

    count = total(jnp.ones((height, width), jnp.float32))
    amounts = total(jnp.where(mask == NUCLEUS, 1.0, 0.1))
    some = jnp.maximum(count, 1)
    away = (total(off(0, height)) / some) ** 2 + (total(off(1, width)) / some) ** 2
    return jnp.where(count > 0, amounts * jnp.exp(-2 * away), -1).argmax().astype(jnp.int32)


def _depth(region: jax.Array) -> jax.Array:
    """Returns the distance to the next pixel outside, as `cv2.distanceTransform` with a 5×5 mask.

    It is the length of the shortest way in steps to neighbors, in 1 / 65536 px: int32 `[H, W]`.
    One pass goes down and to the right, and one up and to the left, as there.
    """
    width = region.shape[1]
    along = lax.iota(jnp.int32, width) * _STRAIGHT

    def moved(row: jax.Array, x: int) -> jax.Array:
        padded = jnp.pad(row, 2, constant_values=_FAR)
        return lax.slice(padded, (2 + x,), (2 + x + width,))

    def row_from(before, row, upwards):
        second, first = before
        ways = [row, first + _STRAIGHT]
        ways += [moved(first, x) + _DIAGONAL for x in (-1, 1)]
        ways += [moved(first, x) + _KNIGHT for x in (-2, 2)]
        ways += [moved(second, x) + _KNIGHT for x in (-1, 1)]
        row = functools.reduce(jnp.minimum, ways)
        to_here = -along if upwards else along
        row = jnp.minimum(lax.cummin(row - to_here, reverse=upwards) + to_here, _FAR)
        return (first, row), row

    start = (jnp.full(width, _FAR, jnp.int32),) * 2
    depth = jnp.where(region, jnp.int32(_FAR), 0)
    for upwards in (False, True):
        step = functools.partial(row_from, upwards=upwards)
        _, depth = lax.scan(step, start, depth, reverse=upwards)
    return depth


def _flooded(region: jax.Array, depth: jax.Array, cores: jax.Array) -> jax.Array:
    """Lets each core grow over a region, from its deepest pixels to its shallowest.

    As in scikit-image's watershed, a pixel that is reached passes the core's number on to all its
    neighbors as soon as its own depth is. Where two cores reach a pixel at once, the first gets it.

    Args:
        region: bool `[H, W]`.
        depth: int32 `[H, W]`, from `_depth`.
        cores: int32 `[H, W]`, numbers of cores, -1 elsewhere.

    Returns:
        int32 `[H, W]`, the number of each pixel's core; -1 outside.
    """
    level = jnp.ceil(depth.astype(jnp.float32) / (_STRAIGHT * _STEP)).astype(jnp.int32)

    def step(state):
        labels, at, _ = state
        passed = jnp.where((labels >= 0) & (level >= at), labels, _FAR)
        around = [_shifted(passed, y, x, _FAR) for y, x in _FOUR]
        reached = functools.reduce(jnp.minimum, around)
        new = jnp.where(region & (labels < 0) & (reached < _FAR), reached, labels)
        grew = (new != labels).any()
        return new, jnp.where(grew, at, at - 1), (new < 0) & region

    def go_on(state):
        return (state[1] > 0) & state[2].any()

    start = (cores, level.max(), (cores < 0) & region)
    labels, _, _ = lax.while_loop(go_on, step, start)
    return labels
