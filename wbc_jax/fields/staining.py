"""The unstained light of an image and the optical densities of what is stained in it."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
from skimage import filters

_SAMPLE_PX = 384
"""Shorter side to which an image is reduced before its colors are measured."""
_MIN_VIOLET = 0.18
"""Violet of the palest nuclei."""
_VIOLET_MARGIN = 0.1
"""Nuclei are more violet than a pile of red cells by at least this much."""
MAX_RED_CELL_LAYERS = 2.2
"""Largest number of red cells that are assumed to lie on top of each other."""
_MIN_RANGE = 8
"""Smallest range of green, in gray levels, of an image that is not plain."""
_MIN_LIGHT = 16
"""Smallest gray level of unstained light. Below it, noise would look like stain."""


@dataclasses.dataclass(frozen=True, slots=True)
class Stain:
    """The light and the stain of an image.

    Attributes:
        light: float32 `[3, 6]`, log10 of the unstained light as a quadratic in y and x (-1 to 1).
        red_cell: float32 `[3]`, optical densities of red cells.
        foreground: lowest optical density in green of stained pixels.
    """

    light: np.ndarray
    red_cell: np.ndarray
    foreground: float

    def densities(
        self,
        pixels: np.ndarray,
        window: tuple[int, int, int, int],
        size: tuple[int, int],
        blur_px: float,
    ) -> np.ndarray:
        """Returns the optical densities of a window of the image, float32 `[h, w, 3]`.

        Args:
            pixels: uint8 `[h, w, 3]`, the window at any resolution.
            window: (top, left, bottom, right) in pixels of the image.
            size: height and width of the image.
            blur_px: standard deviation of the Gaussian that removes noise, in pixels of `pixels`.
        """
        top, left, bottom, right = window
        height, width = pixels.shape[:2]
        ys = _pixel_centers(top, bottom, height, size[0])
        xs = _pixel_centers(left, right, width, size[1])
        densities = _surface(self.light, ys, xs)
        densities -= _log10(cv2.GaussianBlur(pixels, (0, 0), blur_px))
        return densities

    def min_violet(self, layers: float | np.ndarray) -> float | np.ndarray:
        """Returns the least violet of a nucleus, given how much light a pixel absorbs.

        Two red cells on top of each other absorb twice as much as one and are twice as violet.
        More than two hardly ever overlap.

        Args:
            layers: the number of stacked red cells that would absorb as much light.
        """
        pile = np.clip(layers, 0, MAX_RED_CELL_LAYERS) * float(violet(self.red_cell))
        return np.maximum(_MIN_VIOLET, _VIOLET_MARGIN + pile)

    def nucleus_pixels(self, densities: np.ndarray) -> np.ndarray:
        """Returns the pixels that are violet enough for a nucleus, and neither black nor gray.

        Args:
            densities: `[H, W, 3]`, from `densities`.

        Returns:
            bool `[H, W]`.
        """
        # Not by a product of matrices, whose threads wait for one another, busily.
        unit = self.red_cell / (self.red_cell @ self.red_cell)
        layers = cv2.transform(densities, unit[None])
        least = self.min_violet(layers)
        colored = densities[..., 1] - densities[..., 2] > 0.3 * least
        return (violet(densities) > least) & colored


def violet(densities: np.ndarray) -> np.ndarray:
    """Returns how violet pixels are, `[...]` from optical densities `[..., 3]`.

    The value is high in nuclei under any Romanowsky stain. Azure and eosin on chromatin absorb
    green most and blue least. Hemoglobin absorbs blue about as much as green, and hardly any red.
    Black dirt absorbs all three alike.
    """
    return densities[..., 1] - densities[..., 2] + 0.5 * densities[..., 0]


def measure(image: np.ndarray) -> Stain | None:
    """Measures an image's light and stain.

    Args:
        image: uint8 `[H, W, 3]` RGB.

    Returns:
        None if the image has only one color, or no light in one of its channels, as black and pure
        yellow have.
    """
    small = rescale(image, min(1.0, _SAMPLE_PX / min(image.shape[:2])))
    small = cv2.GaussianBlur(small.astype(np.float32), (0, 0), 1)
    green = small[..., 1]
    if np.ptp(_flattened(green)) < _MIN_RANGE:
        return None
    # A quarter of the pixels is enough for the six factors of the surface.
    ys, xs = _whole(small.shape[0]), _whole(small.shape[1])
    light = _fit_light(small[::2, ::2], ys[::2], xs[::2])
    if 10 ** float(light[:, 0].min()) < _MIN_LIGHT:
        return None
    densities = _surface(light, ys, xs)
    densities -= _log10(small)
    green = densities[..., 1]
    # Noise shows in pixels that are brighter than the background.
    noise = 1.4826 * float(np.median(-green[green < 0])) if (green < 0).any() else 0.0
    stained = densities[green > max(0.04, 3 * noise)]
    if len(stained) < 9:
        return None
    amounts = violet(stained)
    if np.ptp(amounts) < 1e-3:
        return None
    # Red cells: pixels that are stained but not violet.
    red_cell = np.median(stained[amounts <= max(0.12, filters.threshold_otsu(amounts))], 0)
    return Stain(light, red_cell, max(0.03, float(red_cell[1]) / 2))


def _flattened(green: np.ndarray) -> np.ndarray:
    """Returns what the best quadratic surface leaves of an image `[H, W]`."""
    ys, xs = _whole(green.shape[0]), _whole(green.shape[1])
    some = np.s_[:: max(1, len(ys) // 48)], np.s_[:: max(1, len(xs) // 48)]
    part = green[some[0]][:, some[1]]
    best = _fit(part[..., None], np.ones(part.shape), ys[some[0]], xs[some[1]])
    return green - _surface(best, ys, xs)[..., 0]


def _fit_light(image: np.ndarray, ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
    """Fits a quadratic surface to the unstained pixels, repeatedly; returns `Stain.light`.

    Args:
        image: float32 `[H, W, 3]`.
        ys, xs: its coordinates, `[H]` and `[W]`.
    """
    green = image[..., 1]
    try:
        bright = filters.threshold_multiotsu(green, 3)[1]
    except ValueError:  # fewer than three gray levels
        bright = filters.threshold_otsu(green)
    observed = _log10(image)
    light = np.zeros((3, 6), np.float32)
    light[:, 0] = np.median(observed[green > bright], 0)
    for _ in range(3):
        missing = observed - _surface(light, ys, xs)
        near = np.abs(missing) < 0.04
        unstained = near[..., 0] & near[..., 1] & near[..., 2]
        if unstained.mean() < 0.05:
            break
        # The ridge penalty keeps the surface from following cells where little background shows.
        light += _fit(missing, unstained, ys, xs, ridge=0.02)
    return light


def _fit(
    values: np.ndarray, weights: np.ndarray, ys: np.ndarray, xs: np.ndarray, ridge: float = 0.0
) -> np.ndarray:
    """Fits quadratic surfaces by weighted least squares.

    Args:
        values: `[H, W, C]`.
        weights: `[H, W]`.
        ys, xs: coordinates, `[H]` and `[W]`.
        ridge: penalty on the square of each factor but the first, times the number of pixels.

    Returns:
        float32 `[C, 6]`, factors of 1, y, x, y², yx, x².
    """
    # The threads of a large product of matrices wait for one another busily, and the images beside
    # this one need them.
    y_powers, x_powers = (np.vander(side, 5, increasing=True).T for side in (ys, xs))
    y_power, x_power = np.array([0, 1, 0, 2, 1, 0]), np.array([0, 0, 1, 0, 1, 2])
    rows = np.stack([(weights * power).sum(1) for power in x_powers], 1)
    moments = y_powers @ rows
    known = moments[np.add.outer(y_power, y_power), np.add.outer(x_power, x_power)]
    rows = np.stack([((weights * power)[..., None] * values).sum(1) for power in x_powers[:3]])
    sums = np.einsum("qy,pyc->cqp", y_powers[:3], rows)[:, y_power, x_power]
    penalty = np.diag([0, 1, 1, 1, 1, 1]) * ridge * weights.size
    return np.linalg.solve(known + penalty, sums.T).T.astype(np.float32)


def quadratic_terms(height: int, width: int) -> np.ndarray:
    """Returns 1, y, x, y², yx, x² of all pixels of an image, float32 `[H, W, 6]`, -1 to 1."""
    return _terms(_whole(height), _whole(width))


def _terms(ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
    """Returns 1, y, x, y², yx, x² of coordinates `[H]` and `[W]`, float32 `[H, W, 6]`."""
    y, x = np.meshgrid(ys.astype(np.float32), xs.astype(np.float32), indexing="ij")
    return np.stack([np.ones_like(y), y, x, y * y, y * x, x * x], -1)


def _surface(factors: np.ndarray, ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
    """Returns the values of quadratic surfaces, float32 `[H, W, C]`.

    Args:
        factors: `[C, 6]`, of 1, y, x, y², yx, x².
        ys, xs: coordinates `[H]` and `[W]`.
    """
    # Each row is a polynomial of y, whose three factors are rows.
    one, y, x, yy, yx, xx = np.asarray(factors, np.float64).T[:, None]
    column = xs[:, None]
    level, slope, curve = (
        np.broadcast_to(row, (len(xs), len(factors))).astype(np.float32)
        for row in (one + column * x + column**2 * xx, y + column * yx, yy)
    )
    line = ys.astype(np.float32)[:, None, None]
    values = slope + line * curve
    values *= line
    values += level
    return values


def _whole(length: int) -> np.ndarray:
    """Returns the centers of a side's pixels, from -1 to 1, float64 `[length]`."""
    return _pixel_centers(0, length, length, length)


def _pixel_centers(start: float, end: float, count: int, length: int) -> np.ndarray:
    """Returns the centers of `count` pixels from `start` to `end` of a side of `length` pixels.

    The whole side goes from -1 to 1.
    """
    return (start + (np.arange(count) + 0.5) * (end - start) / count) / length * 2 - 1


def _log10(image: np.ndarray) -> np.ndarray:
    return np.log10(np.maximum(image, 1, dtype=np.float32))


def rescale(image: np.ndarray, factor: float) -> np.ndarray:
    """Returns an image resized by a factor, each side at least one pixel long."""
    size = [max(1, round(side * factor)) for side in image.shape[1::-1]]
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, size, interpolation=interpolation)
