"""Whether an image shows a cell at all, measured without a network.

A network that has seen only cells finds one in a plain picture, too.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from wbc_jax.fields import staining
from wbc_jax.labels import NUCLEUS

_SAMPLE_PX = 128
"""Longer side to which an image is reduced."""
_MIN_RELIEF = 3.0
"""Smallest standard deviation of the green of a crop around a cell, in gray levels. It is at least
15 on 40 crops each of JTSC, CellaVision, Raabin, PBC and ALL-IDB, and below 3 on plain pictures
with noise of up to 15 gray levels."""
_MIN_SHARE = 0.05
"""Smallest part of the green's variance that a nucleus explains; at least 0.17 on those crops."""


def judge(image: np.ndarray) -> Callable[[np.ndarray | None], bool]:
    """Returns the function that says whether an image of one cell shows a cell at all.

    Its argument is the image's mask, uint8 `[H, W]`, or None without one. It keeps no pixel of the
    image.

    Args:
        image: uint8 `[H, W, 3]` RGB.
    """
    sample = _sample(image)
    plain = _is_plain(*sample)
    return lambda mask: not plain and (mask is None or _shows_nucleus(*sample, mask))


def is_plain(image: np.ndarray) -> bool:
    """Returns whether a picture shows nothing but one color, noise and uneven light.

    It is for crops around one cell. In a large field, a few cells hardly show in the deviation.

    Args:
        image: uint8 `[H, W, 3]` RGB.
    """
    return _is_plain(*_sample(image))


def _is_plain(green: np.ndarray, terms: np.ndarray) -> bool:
    return bool(_without(terms, green).std() < _MIN_RELIEF)


def shows_nucleus(image: np.ndarray, mask: np.ndarray) -> bool:
    """Returns whether the nucleus of a mask is darker in green than the rest of its image.

    A quadratic surface of light is fitted first. The whole cell is compared if the mask has no
    nucleus.

    Args:
        image: uint8 `[H, W, 3]` RGB.
        mask: uint8 `[H, W]`: 0 background, 1 cytoplasm, 2 nucleus.
    """
    return _shows_nucleus(*_sample(image), mask)


def _shows_nucleus(green: np.ndarray, terms: np.ndarray, mask: np.ndarray) -> bool:
    region = mask == NUCLEUS if (mask == NUCLEUS).any() else mask > 0
    inside = cv2.resize(
        region.astype(np.float32), green.shape[::-1], interpolation=cv2.INTER_AREA
    ).ravel()[:, None]
    green, inside = _without(terms, green), _without(terms, inside)
    covariance, spread = float(green[:, 0] @ inside[:, 0]), float((inside**2).sum())
    if spread < 1e-6:  # no region, or all of the image
        return False
    explained = covariance**2 / spread / max(float((green**2).sum()), 1e-6)
    return covariance < 0 and explained >= _MIN_SHARE


def _sample(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the reduced green of an image, float32 `[h, w]`, and its quadratic terms."""
    small = staining.rescale(image, min(1.0, _SAMPLE_PX / max(image.shape[:2])))
    green = cv2.GaussianBlur(small[..., 1].astype(np.float32), (0, 0), 2)
    return green, staining.quadratic_terms(*green.shape).reshape(-1, 6)


def _without(terms: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Returns what the best combination of terms `[N, 6]` leaves of N values, float32 `[N, 1]`."""
    values = values.reshape(-1, 1)
    return values - terms @ np.linalg.lstsq(terms, values, rcond=None)[0]
