"""An image → what networks see of it → its row in a shard."""

import dataclasses
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special

from wbc_jax.data import isolation, light, orientation
from wbc_jax.data.images import encode_png, read_with_metadata
from wbc_jax.errors import DataError
from wbc_jax.inference import abstention
from wbc_jax.inference import model as inference
from wbc_jax.utils import atomic

Judge = Callable[[np.ndarray], Callable[[np.ndarray | None], bool]]
"""From an image, uint8 `[H, W, 3]`, to a function from its mask, uint8 `[H, W]` or None, to whether
it shows a cell."""


@dataclasses.dataclass(frozen=True, slots=True)
class Typing:
    """What decides a cell's type.

    Attributes:
        classifier: types the cells of a segmenter; None: it gives no types, or the model is itself
            a classifier.
        rule: decides which types are left to a person; None: none.
    """

    classifier: inference.Model | None = None
    rule: abstention.Rule | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """How an image was shown to the network.

    Attributes:
        turn: its position.
        shows_cell: from `Judge`.
        view: uint8 `[H, W, 3]` in that position, for a classifier that follows; None without one.
    """

    turn: orientation.Position = orientation.UPRIGHT
    shows_cell: Callable[[np.ndarray | None], bool] | None = None
    view: np.ndarray | None = None


def read(
    model: inference.Model, judge: Judge | None, typed: bool, path: str
) -> tuple[dict[str, Any], np.ndarray | None, Seen]:
    """Returns the first columns, the image as the network sees it (None: bad), and how."""
    row: dict[str, Any] = {"file": atomic.utf8(path)}
    try:
        file = read_with_metadata(path)
    except DataError as error:
        return row | {"error": atomic.utf8(str(error))}, None, Seen()
    for note in file.notes:
        print(f"note: {atomic.utf8(note)}", file=sys.stderr, flush=True)
    image = file.pixels
    height, width = image.shape[:2]
    row |= {"width": width, "height": height, "flag": ";".join(file.flags) or None}
    turn = orientation.find(image)
    view = orientation.place(image, turn) if typed else None
    seen = Seen(turn, judge and judge(image), view)
    if model.config.task == "segmentation":
        return row, model.fit(_standard(image, seen.turn)), seen
    # A classifier has a light of its own, but the mask that it cuts to is a segmenter's.
    segmenter = model.segmenter
    mask = segmenter.predict(_standard(image, seen.turn)).mask if segmenter else None
    return row, model.fit(orientation.place(image, seen.turn), mask), seen


def _standard(image: np.ndarray, turn: orientation.Position) -> np.ndarray:
    """Returns an image in the light and position in which a segmenter sees it."""
    return orientation.place(light.standardize(image), turn)


def finish(
    model: inference.Model,
    row: dict[str, Any],
    logits: np.ndarray,
    embedding: np.ndarray | None,
    seen: Seen,
    masks: bool,
    typing: Typing,
) -> np.ndarray | None:
    """Fills a row; returns the image as a classifier that follows sees it, None without a cell."""
    height, width = row["height"], row["width"]
    _, _, transposed = seen.turn
    found = model.read(logits, (width, height) if transposed else (height, width))
    turned = found.mask
    if typing.classifier:
        found = inference.measured(isolation.keep_middle_cell(turned))
    if found.mask is not None:
        found = dataclasses.replace(found, mask=orientation.replace(found.mask, seen.turn))
    if seen.shows_cell and not seen.shows_cell(found.mask):
        found = found.without_cell()
    flags = ";".join(filter(None, (found.flag, row["flag"])))
    row["flag"] = flags if flags or found.mask is not None else None
    if found.probabilities is not None:
        row |= types(logits, embedding, typing.rule)
    if found.mask is not None:
        for name in ("nucleus_px", "cytoplasm_px", "nc_ratio", "nucleus_share"):
            row[name] = getattr(found, name)
        if masks:
            row["mask_png"] = encode_png(found.mask)
    if typing.classifier is None or "no_cell" in found.flag:
        return None
    return typing.classifier.fit(seen.view, turned)


def types(
    logits: np.ndarray, embedding: np.ndarray | None, rule: abstention.Rule | None
) -> dict[str, Any]:
    """Returns the columns that a classifier gives."""
    judged = abstention.judge(None, logits)
    probabilities = scipy.special.softmax(logits)
    row = {"type": judged["best_guess"], "probability": float(probabilities.max())}
    row["probabilities"] = probabilities
    if rule is not None:
        judged = abstention.judge(rule, logits, embedding)
        row |= {"calibrated": judged["probability"], "review": judged["review"]}
    return row
