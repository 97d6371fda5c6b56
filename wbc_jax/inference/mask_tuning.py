"""Fine-tunes a segmenter with masks that a person corrected, so that it forgets little.

- A short training at a low rate, by the segmenter's own losses and augmentation. Half of each batch
  are corrected cells, half are drawn ones (`wbc_synthetic`), which need no data: no image of the
  segmenter's training is shipped.
- The new weights lie between the old and the trained ones (Wortsman et al., "Robust fine-tuning of
  zero-shot models", 2022).

Each corrected mask is held back once, with all cells of its image.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from wbc_jax import metrics
from wbc_jax.data import isolation, light, orientation
from wbc_jax.data.resize import resize_image, resize_mask
from wbc_jax.inference import adapting
from wbc_jax.inference import model as inference
from wbc_jax.labels import BACKGROUND, IGNORE, MASK_CLASSES
from wbc_jax.parallel import sharding
from wbc_jax.tfds_builders.wbc_synthetic import render
from wbc_jax.training import steps

STEPS = 60
OWN, DRAWN = 4, 4
"""Corrected and drawn cells in a batch."""
RATE = 3e-4
SHARE = 0.7
"""Part of the way from the old weights to the trained ones that is gone."""
DRAWN_CELLS, DRAWN_CHECKS = 100, 40
"""Drawn cells to train on, and further ones to score."""
STREAM, CHECK_STREAM = 1, 2
"""Seeds of these; `wbc_synthetic` has 0."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """N windows around cells, as a segmenter sees them.

    Attributes:
        images: uint8 `[h, w, 3]` each, in the standard light (`data.light`) and position
            (`data.orientation`).
        truths: uint8 `[h, w]` each; 255 where the class is not known.
        groups: the image that each is cut from; windows of one image are never split.
    """

    images: Sequence[np.ndarray]
    truths: Sequence[np.ndarray]
    groups: Sequence[object]

    def __len__(self) -> int:
        return len(self.images)

    def take(self, which: np.ndarray) -> Windows:
        """Returns the windows at the places `which`."""
        parts = (self.images, self.truths, self.groups)
        return Windows(*([part[i] for i in which] for part in parts))

    @staticmethod
    def joined(parts: Sequence[Windows]) -> Windows:
        """Returns the windows of all parts."""
        lists = ((one.images, one.truths, one.groups) for one in parts)
        return Windows(*(list(itertools.chain(*each)) for each in zip(*lists)))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """How masks agree with the truth.

    Attributes:
        confusions: int64 `[N, 3, 3]`, over pixels of known class.
        errors: float `[N]`, relative errors of the N/C ratio; infinite where no ratio is found, NaN
            where the truth has none.
    """

    confusions: np.ndarray
    errors: np.ndarray

    @property
    def mean_iou(self) -> float:
        """Mean IoU of the three classes over all pixels."""
        return float(metrics.mean_iou(self.confusions.sum(0)))

    @property
    def nc_error(self) -> float:
        """Median relative error of the N/C ratio; NaN if no truth has one."""
        return float(np.nanmedian(self.errors)) if not np.isnan(self.errors).all() else np.nan


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Tuned:
    """A fine-tuned segmenter.

    Attributes:
        model: trained on all windows.
        before: scores of the old segmenter on all windows.
        after: on each by a segmenter that was trained without its image.
        drawn_before, drawn_after: on drawn cells that were not trained on, by the old segmenter
            and by `model`.
    """

    model: inference.Model
    before: Scores
    after: Scores
    drawn_before: Scores
    drawn_after: Scores

    @property
    def gain(self) -> float:
        """Mean IoU after − before."""
        return self.after.mean_iou - self.before.mean_iou

    @property
    def forgotten(self) -> float:
        """Loss of mean IoU on drawn cells."""
        return self.drawn_before.mean_iou - self.drawn_after.mean_iou


def score(model: inference.Model, cells: Windows) -> Scores:
    """Returns the scores of a segmenter's masks, of which the middle cell is kept."""
    confusions, errors = [], []
    for found, truth in zip(model.predict(list(cells.images)), cells.truths):
        known = truth != IGNORE
        mask = isolation.keep_middle_cell(np.where(known, found.mask, np.uint8(BACKGROUND)))
        confusions.append(metrics.confusion_matrix(truth[None], mask[None], len(MASK_CLASSES)))
        given = metrics.nc_ratio(np.where(known, truth, BACKGROUND)[None]).nc_ratio[0]
        ratio = metrics.nc_ratio(mask[None]).nc_ratio[0]
        if not np.isfinite(given) or given <= 0:
            errors.append(np.nan)
        else:
            errors.append(abs(ratio / given - 1) if np.isfinite(ratio) else np.inf)
    return Scores(np.stack(confusions), np.array(errors))


def draw(count: int, stream: int) -> Windows:
    """Draws cells, as the segmenter sees them."""
    cells = [render.render_cell(stream, i) for i in range(count)]
    turns = [orientation.find(cell.image) for cell in cells]
    images = [orientation.place(light.standardize(c.image), t) for c, t in zip(cells, turns)]
    truths = [orientation.place(cell.mask, turn) for cell, turn in zip(cells, turns)]
    return Windows(images, truths, range(count))


class Tuner:
    """Trains a segmenter further; all trainings of one tuner share a compiled step.

    Args:
        model: the segmenter.
        length: number of steps; None: `STEPS`.
        share: as `SHARE`.
        on_step: called after each step.

    Attributes:
        share: as `SHARE`, of the next training.
        losses: of the steps of the last training.
    """

    def __init__(
        self,
        model: inference.Model,
        length: int | None = None,
        share: float = SHARE,
        on_step: Callable[[], None] | None = None,
    ):
        length = length or STEPS
        self._model, self._length, self.share, self._on_step = model, length, share, on_step
        config = model.config
        self._config = dataclasses.replace(
            config,
            train=dataclasses.replace(
                config.train, steps=length, batch_size=OWN + DRAWN, accumulate=1
            ),
            optimizer=dataclasses.replace(
                config.optimizer,
                learning_rate=RATE,
                schedule="cosine",
                warmup_steps=length // 6,
                ema_decay=0.0,
            ),
        )
        self._mesh = sharding.make_mesh(OWN + DRAWN)
        self._step = steps.make_train_step(self._config, model.network, self._mesh)
        self._drawn = self._fitted(draw(DRAWN_CELLS, STREAM))
        self.losses: list[float] = []

    def _fitted(self, cells: Windows) -> list[tuple[np.ndarray, np.ndarray]]:
        side = self._config.data.image_size
        return [
            (resize_image(image, side, side), resize_mask(truth, side, side))
            for image, truth in zip(cells.images, cells.truths)
        ]

    def train(self, cells: Windows, seed: int = 0) -> inference.Model:
        """Returns the segmenter, trained on corrected cells.

        Args:
            cells: the windows, one at least.
            seed: of the order of the cells.
        """
        rng = np.random.default_rng(seed)
        own = self._fitted(cells)
        pools = (own, 0, OWN), (self._drawn, len(own), DRAWN)
        streams = [(pool, first, n, _passes(len(pool), rng)) for pool, first, n in pools]
        old = jax.tree.map(np.asarray, self._model.weights)
        state = steps.init_state(self._config, old, self._mesh)
        self.losses = []
        for _ in range(self._length):
            batch = _batch(streams)
            state, report = self._step(state, sharding.put_batch(batch, self._mesh))
            self.losses.append(float(report["loss"]))
            if self._on_step:
                self._on_step()
        return self._model.with_weights(
            jax.tree.map(
                lambda before, after: before + self.share * (np.asarray(after) - before),
                old,
                state.weights(),
            )
        )


def _passes(count: int, rng: np.random.Generator) -> Iterator[tuple[int, int]]:
    """Yields (pass, place): pass after pass over all places, each in another order."""
    for number in itertools.count():
        for place in rng.permutation(count):
            yield number, int(place)


def _batch(streams: Sequence[tuple[Any, int, int, Iterator[tuple[int, int]]]]) -> dict[str, Any]:
    images, masks, indices, epochs = [], [], [], []
    for pool, first, count, stream in streams:
        for epoch, place in itertools.islice(stream, count):
            images.append(pool[place][0])
            masks.append(pool[place][1])
            indices.append(first + place)
            epochs.append(epoch)
    return {
        "image": np.stack(images),
        "mask": np.stack(masks),
        "index": np.array(indices, np.int32),
        "epoch": np.array(epochs, np.int32),
    }


def trainings(cells: Windows) -> int:
    """Returns how many trainings `tune` takes."""
    return 1 + len(np.unique(_parts(cells)))


def _parts(cells: Windows) -> np.ndarray:
    return adapting.folds(np.zeros(len(cells), np.int64), list(cells.groups))


def tune(model: inference.Model, cells: Windows, tuner: Tuner | None = None) -> Tuned:
    """Trains a segmenter on corrected cells, and measures it on cells held back.

    Args:
        model: the segmenter, as `fields.load_models` returns it.
        cells: two at least.
        tuner: of this model; None: with the constants above.
    """
    tuner = tuner or Tuner(model)
    part = _parts(cells)
    before = score(model, cells)
    confusions, errors = np.zeros_like(before.confusions), np.zeros_like(before.errors)
    for k in np.unique(part):
        own = np.flatnonzero(part == k)
        found = score(tuner.train(cells.take(np.flatnonzero(part != k))), cells.take(own))
        confusions[own], errors[own] = found.confusions, found.errors
    new = tuner.train(cells)
    checks = draw(DRAWN_CHECKS, CHECK_STREAM)
    return Tuned(new, before, Scores(confusions, errors), score(model, checks), score(new, checks))
