"""wbc_jax.training.optimizers: the schedule's corners, what decays, what is clipped."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from wbc_jax import models
from wbc_jax.config import Model, Optimizer
from wbc_jax.training import optimizers


def settings(**changes) -> Optimizer:
    """Settings whose very first step already has the full learning rate of 0.1."""
    defaults = {"learning_rate": 0.1, "schedule": "constant", "warmup_steps": 0}
    return Optimizer(**(defaults | changes))


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
    network = nnx.eval_shape(lambda: models.build(Model(depth=1, norm=norm)))
    shapes = nnx.to_pure_dict(nnx.state(network, nnx.Param))
    params = jax.tree.map(lambda p: np.full(p.shape, 2, np.float32), shapes)
    tx = optimizers.build(settings(weight_decay=0.25), 10)
    # Without gradients, Adam's update is the decay alone: -rate * decay * parameter.
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


def test_step_schedule_by_hand():
    of = settings(schedule="step", warmup_steps=10, drop_every=20, drop_factor=0.5)
    rate = optimizers.schedule(of, 1000)
    # From the end of the warm-up: 20 steps at the peak, 20 at half of it, ...
    for step, expected in ((5, 0.05), (10, 0.1), (29, 0.1), (30, 0.05), (49, 0.05), (50, 0.025)):
        np.testing.assert_allclose(rate(step), expected, rtol=1e-6)


# ---- The same steps as PyTorch's -------------------------------------------------------------

STEPS = 12


def gradients():
    """A network's worth of gradients: kernel and bias of a layer, scale and offset of a norm."""
    rng = np.random.default_rng(0)
    shapes = {"conv": {"kernel": (3, 4), "bias": (4,)}, "norm": {"scale": (4,), "bias": (4,)}}
    draw = lambda shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
    params = jax.tree.map(draw, shapes, is_leaf=is_shape)
    return params, [jax.tree.map(draw, shapes, is_leaf=is_shape) for _ in range(STEPS)]


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is the oracle: pip install torch")


def torch_optimizer(torch, of, leaves):
    decayed = {"conv": {"kernel": True, "bias": False}}
    decayed["norm"] = dict.fromkeys(("scale", "bias"), of.name != "adamw")
    groups = [
        {"params": [p], "weight_decay": of.weight_decay if yes else 0.0}
        for p, yes in zip(jax.tree.leaves(leaves), jax.tree.leaves(decayed), strict=True)
    ]
    if of.name == "sgd":
        return torch.optim.SGD(groups, of.learning_rate, momentum=of.momentum)
    kind = torch.optim.Adam if of.name == "adam" else torch.optim.AdamW
    return kind(groups, of.learning_rate)


@pytest.mark.parametrize("schedule", ["constant", "step", "plateau"])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("clip", [0.0, 2.0])
def test_steps_equal_pytorch(torch, name, schedule, clip):
    of = settings(
        name=name,
        schedule=schedule,
        weight_decay=0.05,
        drop_every=5,
        drop_factor=0.3,
        plateau_patience=1,
        gradient_clip=clip,
    )
    scores = np.random.default_rng(1).random(STEPS)  # a validation round after every step
    params, all_gradients = gradients()
    leaves = jax.tree.map(lambda p: torch.tensor(p).double().requires_grad_(), params)
    theirs = torch_optimizer(torch, of, leaves)
    scheduler = {
        "constant": lambda: None,
        "step": lambda: torch.optim.lr_scheduler.StepLR(theirs, 5, 0.3),
        "plateau": lambda: torch.optim.lr_scheduler.ReduceLROnPlateau(
            theirs, mode="max", factor=0.3, patience=1
        ),
    }[schedule]()
    tx = optimizers.build(of, 100)
    state, scale, best, bad = tx.init(params), 1.0, None, 0
    update = jax.jit(tx.update)
    for gradient, score in zip(all_gradients, scores):
        for p, g in zip(jax.tree.leaves(leaves), jax.tree.leaves(gradient)):
            p.grad = torch.tensor(g).double()
        if clip:
            torch.nn.utils.clip_grad_norm_(jax.tree.leaves(leaves), clip)
        theirs.step()
        if scheduler is not None:
            scheduler.step(*([score] if schedule == "plateau" else []))
        updates, state = update(gradient, state, params)
        scaled = jax.tree.map(functools.partial(np.multiply, scale), updates)
        params = optax.apply_updates(params, scaled)
        scale, best, bad = optimizers.plateau(of, score, scale, best, bad)
        for p, q in zip(jax.tree.leaves(leaves), jax.tree.leaves(params)):
            # 1 − 0.999^t in float32 changes each of Adam's steps of 0.1 by up to 3e-5 of it.
            np.testing.assert_allclose(q, p.detach().numpy(), rtol=1e-5, atol=STEPS * 3e-6)
    if schedule == "plateau":
        assert scale == pytest.approx(theirs.param_groups[0]["lr"] / 0.1) and scale < 0.3


def test_plateau_by_hand():
    of = settings(schedule="plateau", plateau_patience=2, drop_factor=0.5)
    scale, best, bad, seen = 1.0, None, 0, []
    for score in (0.5, 0.6, 0.6, 0.60001, float("nan"), 0.6, 0.6, 0.6, 0.7, 0.1):
        scale, best, bad = optimizers.plateau(of, score, scale, best, bad)
        seen.append((scale, bad))
    # The third round without a better score drops; 0.01 % better is not better.
    assert seen[:5] == [(1.0, 0), (1.0, 0), (1.0, 1), (1.0, 2), (0.5, 0)]
    assert seen[5:] == [(0.5, 1), (0.5, 2), (0.25, 0), (0.25, 0), (0.25, 1)]
    assert best == 0.7


def test_other_schedules_have_no_plateau():
    of = settings(schedule="constant", plateau_patience=0, drop_factor=0.5)
    assert optimizers.plateau(of, 0.1, 1.0, 0.5, 7) == (1.0, 0.5, 8)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_encoder_rate_scales_the_updates_of_the_encoder_alone(name):
    params = {
        "encoder": {"stem": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.ones(2)}},
        "head": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.ones(2)},
    }
    gradients = jax.tree.map(lambda p: 0.1 * p, params)

    def first_update(rate):
        tx = optimizers.build(settings(name=name, encoder_rate=rate, gradient_clip=0.0), 100)
        return tx.update(gradients, tx.init(params), params)[0]

    whole, tenth, none = first_update(1.0), first_update(0.1), first_update(0.0)
    for kind in ("kernel", "bias"):
        before = whole["encoder"]["stem"][kind]
        assert np.abs(before).min() > 0
        np.testing.assert_allclose(tenth["encoder"]["stem"][kind], 0.1 * before, rtol=1e-5)
        assert not np.any(none["encoder"]["stem"][kind])
        np.testing.assert_array_equal(tenth["head"][kind], whole["head"][kind])
