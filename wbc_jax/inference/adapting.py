"""Adapts a classifier to one laboratory's cells, whose types a person said, without any training.

The network gets a second linear layer, of the encoder's means (`models.efficientnet`):

- Its types are told apart by a linear discriminant (Fisher 1936): a mean for each type, and one
  covariance within them. Few cells estimate neither well, so the covariance counts that of the
  training (`replay`) as `PRIOR_CELLS` more cells and is shrunk toward its diagonal (Friedman,
  "Regularized Discriminant Analysis", 1989), and a mean counts as `PRIOR_MEAN` more cells that of
  the training's type, moved by the mean difference of all types.
- A gate, a logistic regression, tells the laboratory's cells from the training's. All others keep
  the type of the old layer, so that nothing is forgotten; `MOST_TAKEN` of the training's cells may
  pass it.

Scale and gate are set by cells that were held back, all cells of an image together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy.optimize
import scipy.special

from wbc_jax import metrics
from wbc_jax.inference import abstention, abstention_fitting
from wbc_jax.inference.abstention import Outputs, Own, Rule, Seen
from wbc_jax.inference.replay import Replay
from wbc_jax.models.efficientnet import mixed

FOLDS = 3
PRIOR_CELLS, PRIOR_MEAN = 100, 1.0
SHRINKAGE = 0.2
MOST_TAKEN = 0.01
"""Share of the training's cells that may pass the gate."""
_RIDGE = 25.0
"""Weight of the gate's squared kernel, in cells."""
_STEPS = 100


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """A linear layer: `kernel` float64 `[F, K + 1]`, `bias` `[K + 1]`, K types and the gate."""

    kernel: np.ndarray
    bias: np.ndarray

    def of(self, features: np.ndarray) -> np.ndarray:
        """Returns float64 `[N, K + 1]` of `[N, F]`."""
        return np.asarray(features, np.float64) @ self.kernel + self.bias

    def scaled(self, scale: float, threshold: float) -> Layer:
        """Returns the layer with its types multiplied by `scale`, and `threshold` less gate."""
        kernel, bias = self.kernel.copy(), self.bias.copy()
        kernel[:, :-1] *= scale
        bias[:-1] *= scale
        bias[-1] -= threshold
        return Layer(kernel, bias)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Labeled:
    """N cells of a laboratory.

    Attributes:
        features: float `[N, F]`, as in `replay.Replay`.
        outputs: the old classifier's, with embeddings, not moved.
        labels: int `[N]`, from 0 to K - 1: the training's types and then those of one's own.
        groups: `[N]`, the image of each cell; cells of one image are never split.
    """

    features: np.ndarray
    outputs: Outputs
    labels: np.ndarray
    groups: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, which: np.ndarray) -> Labeled:
        """Returns the cells that `which` indexes."""
        parts = self.features[which], self.outputs.take(which), self.labels[which]
        return Labeled(*parts, self.groups[which])


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Adapted:
    """A laboratory's layer, and what it does to cells that it was not fitted to.

    Attributes:
        layer: fitted to all cells.
        held_back: float32 logits `[N, K]`, of each cell by a layer fitted without its image.
        forgotten: change of the macro recall of the training's cells, times -1, by gates fitted
            without them.
        taken: share of the laboratory's cells, held back, that pass the gate.
    """

    layer: Layer
    held_back: np.ndarray
    forgotten: float
    taken: float


def folds(
    labels: np.ndarray, groups: Sequence[object], count: int = FOLDS, seed: int = 0
) -> np.ndarray:
    """Splits cells into parts of nearly the same types, without splitting a group.

    Groups are dealt out at random, those with many cells first, each to the part that has the
    fewest cells of its types.

    Args:
        labels: int `[N]`.
        groups: `[N]`; if there are fewer groups than parts, each cell is its own.
        count: number of parts.
        seed: of the order.

    Returns:
        The part of each cell, int `[N]`.
    """
    _, which = np.unique(np.asarray(groups), return_inverse=True)
    if which.max() + 1 < count:
        which = np.arange(len(labels))
    types = int(labels.max()) + 1
    each = np.zeros((which.max() + 1, types))
    np.add.at(each, (which, labels), 1)
    totals = each.sum(0)
    order = np.random.default_rng(seed).permutation(len(each))
    order = order[np.argsort(-each[order].sum(1), kind="stable")]
    there = np.zeros((count, types))
    part = np.zeros(len(each), np.int64)
    for group in order:
        full = there / np.maximum(totals, 1) @ each[group]
        part[group] = np.lexsort((there.sum(1), full))[0]
        there[part[group]] += each[group]
    return part[which]


class Problem:
    """What a layer is fitted with, whatever the cells.

    Args:
        replay: cells of the training.
        types: number K of types, those of the training first.
    """

    def __init__(self, replay: Replay, types: int):
        self.replay, self.types = replay, types
        found = np.asarray(replay.features, np.float64)
        self._center, self._scale = found.mean(0), found.std(0) + 1e-6
        self._known = self._white(found)
        off = self._known.copy()
        _, kinds = np.unique(replay.sources, return_inverse=True)
        kinds = kinds * (replay.labels.max() + 1) + replay.labels
        for kind in np.unique(kinds):
            off[kinds == kind] -= off[kinds == kind].mean(0)
        self._within = off.T @ off / len(off)
        there = range(replay.logits.shape[1])
        self._means = np.stack([self._known[replay.labels == k].mean(0) for k in there])

    def fit(self, cells: Labeled, known: np.ndarray | None = None) -> Layer:
        """Fits a layer.

        Args:
            cells: the laboratory's.
            known: which cells of the replay the gate is fitted to; None: all.
        """
        white = self._white(cells.features)
        kernel, bias = self._discriminant(white, cells.labels)
        others = self._known if known is None else self._known[known]
        gate, offset = fit_gate(white, others)
        kernel = np.concatenate([kernel, gate[:, None]], 1) / self._scale[:, None]
        return Layer(kernel, np.append(bias, offset) - self._center @ kernel)

    def _white(self, features: np.ndarray) -> np.ndarray:
        return (np.asarray(features, np.float64) - self._center) / self._scale

    def _discriminant(self, white: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        old = len(self._means)
        counts = np.bincount(labels, minlength=self.types)
        sums = np.eye(self.types)[labels].T @ white
        own = sums / np.maximum(counts, 1)[:, None]
        weights = counts[:old] / (counts[:old] + 1)
        moved = weights @ (own[:old] - self._means) / max(weights.sum(), 1e-9)
        prior = np.zeros(self.types)
        prior[:old] = PRIOR_MEAN
        means = sums.copy()
        means[:old] += PRIOR_MEAN * (self._means + moved)
        means /= np.maximum(counts + prior, 1e-9)[:, None]
        off = white - own[labels]
        within = (off.T @ off + PRIOR_CELLS * self._within) / (len(off) + PRIOR_CELLS)
        shrunk = (1 - SHRINKAGE) * within + SHRINKAGE * np.diag(np.diag(within))
        kernel = np.linalg.solve(shrunk + 1e-6 * np.eye(len(shrunk)), means.T)
        bias = -(means * kernel.T).sum(1) / 2
        bias[counts + prior == 0] = -1e3  # a type of one's own without a cell
        return kernel, bias

    def type_logits(self, cells: Labeled, features: np.ndarray) -> np.ndarray:
        """Returns `[N, K]` of features `[N, F]`, as fitted to cells, without the gate."""
        kernel, bias = self._discriminant(self._white(cells.features), cells.labels)
        return self._white(features) @ kernel + bias

    def adapt(self, cells: Labeled) -> Adapted:
        """Fits a layer, and measures it on cells held back."""
        part = folds(cells.labels, cells.groups)
        rng = np.random.default_rng(0)
        replay_part = rng.permutation(len(self.replay.labels)) % FOLDS
        own = np.zeros((len(cells), self.types + 1))
        known = np.zeros((len(self.replay.labels), self.types + 1))
        for k in range(FOLDS):
            layer = self.fit(cells.take(part != k), replay_part != k)
            own[part == k] = layer.of(cells.features[part == k])
            known[replay_part == k] = layer.of(self.replay.features[replay_part == k])
        scale = _scale(own[:, :-1], cells.labels)
        threshold = float(np.quantile(known[:, -1], 1 - MOST_TAKEN))
        for one in (own, known):
            one[:, :-1] *= scale
            one[:, -1] -= threshold
        after = mixed_logits(self.replay.logits, known)
        forgotten = _macro(self.replay.labels, self.replay.logits) - _macro(
            self.replay.labels, after
        )
        return Adapted(
            self.fit(cells).scaled(scale, threshold),
            mixed_logits(cells.outputs.logits, own),
            forgotten,
            float((own[:, -1] > 0).mean()),
        )


def fit_gate(own: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, float]:
    """Fits the logistic regression of a laboratory's cells `[N, F]` against those of the training,
    `[M, F]`, both groups counting alike.

    Returns:
        Its kernel `[F]` and bias.
    """
    inputs = np.concatenate([own, known])
    total = len(inputs)
    signs = np.repeat([1.0, -1.0], [len(own), len(known)])
    weights = np.repeat([total / (2 * len(own)), total / (2 * len(known))], [len(own), len(known)])

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        given = signs * (inputs @ flat[:-1] + flat[-1])
        slope = -signs * weights * scipy.special.expit(-given)
        value = weights @ np.logaddexp(0, -given) + _RIDGE * (flat[:-1] ** 2).sum() / 2
        return value, np.append(inputs.T @ slope + _RIDGE * flat[:-1], slope.sum())

    start = np.zeros(inputs.shape[1] + 1)
    found = scipy.optimize.minimize(
        loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _STEPS}
    )
    return found.x[:-1], float(found.x[-1])


def mixed_logits(logits: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Returns float32 `[N, K]`, as the network mixes the old layer's logits and a laboratory's."""
    return np.asarray(mixed(np.asarray(logits, np.float32), np.asarray(own, np.float32)))


def _scale(logits: np.ndarray, labels: np.ndarray) -> float:
    """Returns the factor by which the logits' softmax gives the labels the highest likelihood."""

    def loss(log: float) -> float:
        logs = scipy.special.log_softmax(np.exp(log) * logits, -1)
        return -float(logs[np.arange(len(labels)), labels].mean())

    best = scipy.optimize.minimize_scalar(loss, bounds=(-5, 1), method="bounded")
    return float(np.exp(best.x))


def _macro(labels: np.ndarray, logits: np.ndarray) -> float:
    counts = np.zeros((logits.shape[-1],) * 2, np.int64)
    np.add.at(counts, (labels, logits.argmax(-1)), 1)
    return float(metrics.macro_recall(counts))


def seen_too(seen: Seen, cells: Labeled) -> Seen:
    """Returns the distribution of the training with the laboratory's types as further centers.

    It gives no statistics of a folder: the logits of an adapted network are not linear in its
    embeddings, and its laboratory needs no shift.
    """
    own = seen.own
    if own is not None:
        found = np.asarray(cells.outputs.embeddings, np.float64)
        kinds = np.unique(cells.labels)
        centers = np.stack([found[cells.labels == k].mean(0) for k in kinds])
        every = abstention.round_as_stored(np.concatenate([own.centers, centers]))
        own = Own(every, own.middle, own.whitening, own.foreign)
    return Seen(seen.means, seen.whitening, None, own)


def refit_rule(rule: Rule, cells: Labeled, logits: np.ndarray) -> Rule:
    """Returns the rule with temperature and limits of the laboratory's cells.

    With fewer than `abstention_fitting.LEAST_IMAGES` cells only `seen` is new. The limits of what
    is unlike never get stricter: these cells are among those that it measures the distance to.

    Args:
        rule: the old one.
        cells: the laboratory's.
        logits: of these, from `Adapted.held_back`.
    """
    seen = seen_too(rule.seen, cells)
    if len(cells) < abstention_fitting.LEAST_IMAGES:
        return dataclasses.replace(rule, seen=seen)
    outputs = Outputs(logits, np.asarray(cells.outputs.embeddings, np.float32))
    found = abstention_fitting.fit(outputs, cells.labels, rule.share, seen)
    return dataclasses.replace(
        found,
        most_unlike=max(found.most_unlike, rule.most_unlike),
        most_foreign=max(found.most_foreign, rule.most_foreign),
    )
