"""Optimizers and learning-rate schedules, built from a config with Optax."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import optax

from wbc_jax.config import Optimizer

PLATEAU_THRESHOLD = 1e-4
"""A score is better if it exceeds the best by this share of the best: PyTorch's default."""


def schedule(settings: Optimizer, steps: int) -> optax.Schedule:
    """Returns step → learning rate: a linear warm-up, then `settings.schedule`.

    `cosine` falls to zero at `steps`; `constant` stays at the peak; `step` is multiplied by
    `drop_factor` every `drop_every` steps, counted from the end of the warm-up; `plateau` is
    constant here, and the training step multiplies it by the scale that `plateau` returns.
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
    settings: Optimizer, score: float, scale: float, best: float | None, bad_evals: int
) -> tuple[float, float, int]:
    """Updates the state of the schedule `plateau` after a validation round.

    As PyTorch's `ReduceLROnPlateau(mode="max", factor=drop_factor, patience=plateau_patience)`:
    after more than `plateau_patience` rounds in a row without a better score, the learning rate is
    multiplied by `drop_factor` and the count starts again. Every update of the parameters is
    proportional to the learning rate, so the training step multiplies the updates by `scale`.

    Args:
        settings: with any other schedule, the scale stays the same.
        score: of this round; higher is better, NaN is not better.
        scale: factor of the learning rate so far; 1 before the first round.
        best: best score so far; None before the first round.
        bad_evals: rounds since the best score or the last drop; 0 before the first round.

    Returns:
        scale, best and bad_evals after this round.
    """
    if best is None or score > best + PLATEAU_THRESHOLD * abs(best):
        return scale, score, 0
    bad_evals += 1
    if settings.schedule == "plateau" and bad_evals > settings.plateau_patience:
        return scale * settings.drop_factor, best, 0
    return scale, best, bad_evals


def build(settings: Optimizer, steps: int) -> optax.GradientTransformation:
    """Returns gradient clipping followed by the optimizer.

    - `adamw`: Loshchilov & Hutter 2019. The weight decay is decoupled from the gradient and leaves
      out biases and the parameters of norms.
    - `adam` and `sgd`: the weight decay is an L2 term, added to the (clipped) gradient. As in
      MATLAB's `trainingOptions` with the default factors of its layers, it leaves out the biases of
      convolutions and matrix products, but includes the scale and offset of a norm.
    - `sgd`: v ← m v + g, parameter ← parameter − rate · v, as in PyTorch. MATLAB's `sgdm` has the
      rate inside, v ← m v − rate · g. The two are the same for a constant rate; after a change,
      MATLAB's velocity keeps the old rate for about 1 / (1 − m) steps.
    """
    rate = schedule(settings, steps)
    chain = []
    if settings.gradient_clip:
        chain.append(optax.clip_by_global_norm(settings.gradient_clip))
    if settings.name == "adamw":
        chain.append(optax.adamw(rate, weight_decay=settings.weight_decay, mask=_kernels))
    else:
        if settings.weight_decay:
            chain.append(optax.add_decayed_weights(settings.weight_decay, mask=_regularized))
        sgd = settings.name == "sgd"
        chain.append(optax.sgd(rate, settings.momentum) if sgd else optax.adam(rate))
    if settings.encoder_rate != 1:
        chain.append(optax.masked(optax.scale(settings.encoder_rate), _encoder))
    return optax.chain(*chain)


def _encoder(params: Any) -> Any:
    """Returns True for the arrays of the network's part `encoder`."""
    inside = functools.partial(jax.tree.map, lambda _: True)
    outside = functools.partial(jax.tree.map, lambda _: False)
    return {k: inside(part) if k == "encoder" else outside(part) for k, part in params.items()}


def _kernels(params: Any) -> Any:
    """Returns True for kernels, which have at least two axes."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def _regularized(params: Any) -> Any:
    """Returns True for kernels and for the scale and bias of norms (a bias beside a scale)."""
    if not isinstance(params, Mapping):
        return params.ndim > 1
    norm = "scale" in params
    return {
        name: True if norm and not isinstance(child, Mapping) else _regularized(child)
        for name, child in params.items()
    }
