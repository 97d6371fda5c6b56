"""wbc_jax.optimizers: the schedule's corners, what decays, what is clipped."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from wbc_jax import config as config_lib
from wbc_jax import models, optimizers


def settings(**changes):
    """Settings whose very first step already has the full learning rate of 0.1."""
    defaults = {"learning_rate": 0.1, "schedule": "constant", "warmup_steps": 0}
    return config_lib.Optimizer(**(defaults | changes))


@pytest.mark.parametrize(
    ("step", "cosine", "constant"),
    [
        (0, 0, 0),
        (5, 0.05, 0.05),
        (10, 0.1, 0.1),  # the end of the warm-up
        (60, 0.05, 0.1),  # half of what follows it
        (110, 0, 0.1),  # the end
        (200, 0, 0.1),
    ],
)
def test_schedule(step, cosine, constant):
    for kind, expected in (("cosine", cosine), ("constant", constant)):
        rate = optimizers.schedule(settings(schedule=kind, warmup_steps=10), 110)(step)
        np.testing.assert_allclose(rate, expected, atol=1e-8)


def test_cosine_between_its_corners():
    rate = optimizers.schedule(settings(schedule="cosine", warmup_steps=10), 110)
    for step in (20, 35, 80):
        expected = 0.1 * (1 + np.cos(np.pi * (step - 10) / 100)) / 2
        np.testing.assert_allclose(rate(step), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["cosine", "constant"])
def test_warmup_takes_at_most_half_of_a_short_training(kind):
    rate = optimizers.schedule(settings(schedule=kind, warmup_steps=50), 10)
    np.testing.assert_allclose([rate(0), rate(4), rate(5)], [0, 0.08, 0.1], atol=1e-8)


@pytest.mark.parametrize("kind", ["cosine", "constant"])
@pytest.mark.parametrize("steps", [1, 20])
def test_without_warmup_the_first_step_has_the_peak(kind, steps):
    np.testing.assert_allclose(optimizers.schedule(settings(schedule=kind), steps)(0), 0.1)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_weight_decay_only_on_kernels(norm):
    network = nnx.eval_shape(lambda: models.build(config_lib.Model(depth=1, norm=norm)))
    shapes = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    params = jax.tree.map(lambda p: np.full(p.shape, 2, np.float32), shapes)
    tx = optimizers.build(settings(weight_decay=0.25), 10)
    # Without gradients, Adam stands still: what moves is the decay, -rate * decay * parameter.
    zeros = jax.tree.map(np.zeros_like, params)
    updates, _ = jax.jit(lambda p, g: tx.update(g, tx.init(p), p))(params, zeros)
    seen = set()
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        name = path[-1].key
        seen.add(name)
        np.testing.assert_allclose(update, -0.05 if name == "kernel" else 0.0, rtol=1e-6)
    assert seen == {"kernel", "bias"} | ({"scale"} if norm != "none" else set())


def test_first_step_by_hand():
    # Adam's first step is the gradient's sign; the kernel's decay comes on top.
    params = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([3.0])}
    gradient = {"kernel": jnp.array([[0.1, 0.2]]), "bias": jnp.array([-0.3])}
    tx = optimizers.build(settings(weight_decay=0.5), 10)
    updates, _ = tx.update(gradient, tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], [[-0.1 * 1.5, -0.1 * (1 - 1)]], atol=1e-6)
    np.testing.assert_allclose(updates["bias"], [0.1], rtol=1e-5)


@pytest.mark.parametrize(("clip", "factor"), [(1.0, 0.2), (10.0, 1.0), (0.0, 1.0)])
def test_clipping_is_by_the_norm_of_all_gradients(clip, factor):
    # The norm is 5. Adam forgets a gradient's scale, but its first moment shows it: 1/10 of it.
    params = {"kernel": jnp.ones((1, 2)), "bias": jnp.ones(1)}
    gradient = {"kernel": jnp.array([[3.0, 0.0]]), "bias": jnp.array([4.0])}
    tx = optimizers.build(settings(gradient_clip=clip), 10)
    _, state = tx.update(gradient, tx.init(params), params)
    moment = optax.tree_utils.tree_get(state, "mu")
    np.testing.assert_allclose(moment["kernel"], [[0.3 * factor, 0]], rtol=1e-6)
    np.testing.assert_allclose(moment["bias"], [0.4 * factor], rtol=1e-6)
