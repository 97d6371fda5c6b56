"""Checks that both sides compute the same, before their times are compared."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import cases
import interleave
import references
import subject
from wbc_jax.training import losses, steps


def training_difference(case: cases.Case) -> float:
    """Returns the largest difference in logits and gradients, relative to the largest entry.

    Both networks get the same weights and see two images. The gradients of a layer are compared
    relative to the largest of any layer: those of a bias before a norm are pure rounding.

    Where two values under a max-pool are nearly equal, rounding decides which place SegNet's
    unpooling gets, and the whole output changes with it. So its images are small, which leaves few
    such pools, and up to three pairs of images are tried; the best one counts. A wrong layer is
    wrong for all of them.
    """
    worst = np.inf
    for seed in range(3):
        worst = min(worst, _difference(case, seed))
        if worst < interleave.CHECK_TOLERANCE:
            break
    return worst


def _difference(case: cases.Case, seed: int) -> float:
    case = dataclasses.replace(case, batch=2, size=32 if case.network == "segnet" else case.size)
    jax.config.update("jax_default_matmul_precision", "highest")  # GPUs round to less otherwise
    config, model = subject.build(case, "float32")
    reference = references.build(case)
    pairs = list(references.pairs(model, reference))
    _copy(pairs)
    batch = subject.batch(case, seed)
    images, truth = references.tensors(batch, "cpu")
    # In double precision, so that the difference is the rounding of the subject.
    reference.double().train()
    logits = reference(images.double())
    references.loss(logits, truth).backward()

    graph, params, rest = nnx.split(model, nnx.Param, ...)
    rest = nnx.to_pure_dict(rest)
    target = jnp.asarray(batch["mask"] if "mask" in batch else batch["label"])
    x = steps.normalize(jnp.asarray(batch["image"], jnp.float32) / 255)

    def loss_fn(params):
        found = nnx.merge(graph, params, rest)(x)
        return losses.total(config.loss, found, target, None).mean(), found

    grads, found = jax.jit(jax.grad(loss_fn, has_aux=True))(nnx.to_pure_dict(params))
    expected = logits.detach().numpy()
    found = np.moveaxis(np.asarray(found), -1, 1) if found.ndim == 4 else np.asarray(found)
    worst = np.abs(found - expected).max() / np.abs(expected).max()
    derivative = nnx.merge(graph, grads, rest)
    names = {id(m): path for path, m in nnx.iter_modules(model)}
    largest = max(float(p.grad.abs().max()) for p in reference.parameters())
    for layer, partner in pairs:
        here = derivative
        for key in names[id(layer)]:
            here = here[key] if isinstance(key, int) else getattr(here, key)
        for name, value in references.arrays(partner, gradients=True).items():
            gap = np.abs(np.asarray(getattr(here, name)[...]) - value).max()
            worst = max(worst, gap / largest)
    return float(worst)


def prediction_difference(case: cases.Case) -> float:
    """Returns the largest difference in the logits of prediction, relative to the largest entry."""
    case = dataclasses.replace(case, batch=2)
    jax.config.update("jax_default_matmul_precision", "highest")
    _, model = subject.build(case, "float32")
    reference = references.build(case).eval()
    _copy(references.pairs(model, reference))
    network, weights = steps.split_network(model)
    batch = subject.batch(case)
    found = np.asarray(jax.jit(steps.make_logits(network))(weights, jnp.asarray(batch["image"])))
    with torch.inference_mode():
        expected = reference(references.tensors(batch, "cpu")[0]).numpy()
    found = np.moveaxis(found, -1, 1) if found.ndim == 4 else found
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _copy(pairs: Iterable[tuple[Any, torch.nn.Module]]) -> None:
    """Gives each layer of the subject the arrays of its partner in the reference."""
    for layer, partner in pairs:
        for name, value in references.arrays(partner).items():
            getattr(layer, name)[...] = jnp.asarray(value)
