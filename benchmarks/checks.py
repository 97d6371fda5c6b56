"""That both sides compute the same, before their times are compared."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import ours
import peers
import sidebyside
import torch
from flax import nnx

from wbc_jax.training import losses, steps


def difference(case: sidebyside.Case) -> float:
    """Returns the largest difference in logits and gradients, relative to the largest entry.

    Both networks get the same weights and see two images (one layer's gradients relative to the
    largest of any layer: those of biases before a norm are rounding and nothing else). Where two
    values under a max-pool are nearly equal, rounding decides which place SegNet's unpooling gets,
    and much follows from that; so its images are small, which leaves few such pools, and up to
    three pairs are tried, of which the best one counts. A wrong layer is wrong in all of them.
    """
    worst = np.inf
    for seed in range(3):
        worst = min(worst, _difference(case, seed))
        if worst < sidebyside.CHECK_TOLERANCE:
            break
    return worst


def _difference(case: sidebyside.Case, seed: int) -> float:
    case = dataclasses.replace(case, batch=2, size=32 if case.network == "segnet" else case.size)
    jax.config.update("jax_default_matmul_precision", "highest")  # GPUs round to less otherwise
    config, model = ours.build(case, "float32")
    theirs = peers.build(case)
    pairs = list(peers.pairs(model, theirs))
    for mine, layer in pairs:
        for name, value in peers.arrays(layer).items():
            getattr(mine, name)[...] = jnp.asarray(value)
    batch = ours.batch(case, seed)
    images, truth = peers.tensors(batch, "cpu")
    # In double precision: the difference is then the rounding of ours.
    theirs.double().train()
    logits = theirs(images.double())
    peers.loss(logits, truth).backward()

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
    largest = max(float(p.grad.abs().max()) for p in theirs.parameters())
    for mine, layer in pairs:
        here = derivative
        for key in names[id(mine)]:
            here = here[key] if isinstance(key, int) else getattr(here, key)
        for name, value in peers.arrays(layer, gradients=True).items():
            gap = np.abs(np.asarray(getattr(here, name)[...]) - value).max()
            worst = max(worst, gap / largest)
    return float(worst)


def predicted(case: sidebyside.Case) -> float:
    """The same for the logits of prediction."""
    case = dataclasses.replace(case, batch=2)
    jax.config.update("jax_default_matmul_precision", "highest")
    _, model = ours.build(case, "float32")
    theirs = peers.build(case).eval()
    for mine, layer in peers.pairs(model, theirs):
        for name, value in peers.arrays(layer).items():
            getattr(mine, name)[...] = jnp.asarray(value)
    network, weights = steps.split_network(model)
    batch = ours.batch(case)
    found = np.asarray(jax.jit(steps.make_logits(network))(weights, jnp.asarray(batch["image"])))
    with torch.inference_mode():
        expected = theirs(peers.tensors(batch, "cpu")[0]).numpy()
    found = np.moveaxis(found, -1, 1) if found.ndim == 4 else found
    return float(np.abs(found - expected).max() / np.abs(expected).max())
