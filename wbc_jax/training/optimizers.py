"""Optax chains and schedules, from a config."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from wbc_jax.config import Optimizer

PLATEAU_THRESHOLD = 1e-4
"""A score is better if it exceeds the best by this share of it: PyTorch's default."""


def schedule(settings: Optimizer, steps: int) -> optax.Schedule:
    """Returns step → learning rate: linear warm-up, then what `settings.schedule` says.

    `cosine` falls to zero at `steps`; `constant` stays; `step` is multiplied by `drop_factor`
    every `drop_every` steps, counted from the end of the warm-up; `plateau` is `constant` here,
    and times the scale that `plateau` keeps.
    """
    warmup = min(settings.warmup_steps, steps // 2)
    peak = settings.learning_rate
    if settings.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, steps)
    if settings.schedule == "step":
        after = optax.exponential_decay(
            peak, settings.drop_every, settings.drop_factor, staircase=True
        )
    else:
        after = optax.constant_schedule(peak)
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), after], [warmup])


def plateau(
    settings: Optimizer, score: float, scale: float, best: float | None, bad_looks: int
) -> tuple[float, float, int]:
    """Takes note of a look at the validation split, for the schedule `plateau`.

    PyTorch's `ReduceLROnPlateau(mode="max", factor=drop_factor, patience=plateau_patience)`: after
    more than `plateau_patience` looks in a row without a better score, the learning rate is
    multiplied by `drop_factor` and the count begins again. Every update of the parameters is
    proportional to the learning rate, so the training step multiplies the updates by `scale`.

    Args:
        settings: any schedule but `plateau` keeps the scale at what it is.
        score: of this look, higher is better. NaN is not better.
        scale: factor of the learning rate so far; 1 before the first look.
        best: best score so far; None before the first look.
        bad_looks: looks since then, or since the last drop; 0 before the first look.

    Returns:
        scale, best and bad_looks after this look.
    """
    if best is None or score > best + PLATEAU_THRESHOLD * abs(best):
        return scale, score, 0
    bad_looks += 1
    if settings.schedule == "plateau" and bad_looks > settings.plateau_patience:
        return scale * settings.drop_factor, best, 0
    return scale, best, bad_looks


def build(settings: Optimizer, steps: int) -> optax.GradientTransformation:
    """Returns gradient clipping and the optimizer.

    - `adamw`: Loshchilov & Hutter 2019; the weight decay is decoupled from the gradient, and
      spares biases and norm parameters.
    - `adam` and `sgd`: the weight decay is an L2 term, added to the (clipped) gradient. As in
      MATLAB's `trainingOptions` with the default factors of its layers, it spares the biases of
      convolutions and matrix products, but not the scale and offset of a norm.
    - `sgd`: v ← m v + g, parameter ← parameter − rate · v, as in PyTorch. MATLAB's `sgdm` has the
      rate inside, v ← m v − rate · g: the same for a constant rate; after a change of the rate
      MATLAB's velocity keeps the old one for about 1 / (1 − m) steps.
    """
    rate = schedule(settings, steps)
    chain = []
    if settings.gradient_clip:
        chain.append(optax.clip_by_global_norm(settings.gradient_clip))
    if settings.name == "adamw":
        chain.append(optax.adamw(rate, weight_decay=settings.weight_decay, mask=_kernels))
    else:
        if settings.weight_decay:
            chain.append(optax.add_decayed_weights(settings.weight_decay, mask=_regularised))
        sgd = settings.name == "sgd"
        chain.append(optax.sgd(rate, settings.momentum) if sgd else optax.adam(rate))
    return optax.chain(*chain)


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda p: p.ndim > 1, params)


def _regularised(params: Any) -> Any:
    """True for kernels, and for scale and bias of a norm: a bias beside a scale is a norm's."""
    if not isinstance(params, Mapping):
        return params.ndim > 1
    norm = "scale" in params
    return {
        name: True if norm and not isinstance(child, Mapping) else _regularised(child)
        for name, child in params.items()
    }
