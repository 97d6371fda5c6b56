"""Optax chains and schedules, from a config."""

import jax
import optax

from wbc_jax import config as config_lib


def schedule(settings: config_lib.Optimizer, steps: int) -> optax.Schedule:
    """Returns step → learning rate: linear warm-up, then cosine to zero at `steps`, or constant."""
    warmup = min(settings.warmup_steps, steps // 2)
    peak = settings.learning_rate
    if settings.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, steps)
    return optax.join_schedules(
        [optax.linear_schedule(0.0, peak, warmup), optax.constant_schedule(peak)], [warmup]
    )


def build(settings: config_lib.Optimizer, steps: int) -> optax.GradientTransformation:
    """Returns gradient clipping and AdamW; weight decay spares biases and norm parameters."""
    chain = []
    if settings.gradient_clip:
        chain.append(optax.clip_by_global_norm(settings.gradient_clip))
    chain.append(
        optax.adamw(
            schedule(settings, steps),
            weight_decay=settings.weight_decay,
            mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
        )
    )
    return optax.chain(*chain)
