"""wbc_jax.models.unet: sizes, number of parameters, training and evaluation mode."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wbc_jax import models
from wbc_jax.config import Augment, Config, Model, Train
from wbc_jax.models import layers, unet
from wbc_jax.parallel import sharding
from wbc_jax.training import steps


@pytest.fixture(autouse=True)
def quick_weights(monkeypatch):
    """Draws He weights by NumPy: compiling JAX's draw for every shape takes seconds a network."""

    def draw(key, shape, dtype=jnp.float32, **_):
        if isinstance(key, jax.core.Tracer):  # only shapes are asked for
            return jnp.zeros(shape, dtype)
        rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
        return jnp.asarray(rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape), dtype)

    monkeypatch.setattr(layers, "CONV_INIT", draw)


def build(features=2, depth=2, norm="none", dropout=0.0):
    return unet.UNet(3, features, depth, norm, dropout, rngs=nnx.Rngs(params=0, dropout=1))


def evaluated(network):
    """Returns the network in evaluation mode, as a compiled function of images."""
    network.set_attributes(deterministic=True, use_running_average=True, raise_if_not_found=False)
    graph, state = nnx.split(network)
    return jax.jit(lambda x: nnx.merge(graph, state)(x))


def images(*shape):
    return np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)


@pytest.mark.parametrize(
    ("norm", "depth", "size"),
    [
        ("batch", 2, (37, 53)),
        ("group", 2, (37, 53)),
        ("none", 2, (37, 53)),
        ("none", 1, (5, 2)),
        ("batch", 4, (16, 33)),
        ("none", 3, (1, 1)),
    ],
)
def test_output_has_the_size_of_the_input(norm, depth, size):
    network = evaluated(build(features=4, depth=depth, norm=norm))
    x = images(2, *size, 3)
    logits = network(x)
    assert logits.shape == (2, *size, 3) and logits.dtype == jnp.float32
    assert np.isfinite(logits).all() and np.asarray(logits).std() > 0
    # Only the repeated edge was cropped.
    pads = [(0, -n % 2**depth) for n in size]
    padded = network(np.pad(x, ((0, 0), *pads, (0, 0)), mode="edge"))
    np.testing.assert_allclose(logits, padded[:, : size[0], : size[1]], rtol=1e-4, atol=1e-5)


def expected_count(features, depth, norm, classes=3):
    """Counts weights and biases from the drawing of the network."""
    widths = [features * 2**level for level in range(depth + 1)]
    per_channel = 1 if norm == "none" else 3  # bias, and a norm's scale and bias

    def block(before, after):
        return 9 * before * after + 9 * after * after + 2 * per_channel * after

    down = sum(block(before, after) for before, after in zip([3, *widths], widths))
    up = sum(4 * 2 * w * w + w + block(2 * w, w) for w in widths[:-1])
    return down + up + features * classes + classes


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize(("features", "depth"), [(2, 1), (8, 4), (64, 4)])
def test_number_of_parameters(norm, features, depth):
    model = Model(features=features, depth=depth, norm=norm)
    network = nnx.eval_shape(lambda: models.build(model))
    leaves = jax.tree.leaves(nnx.to_pure_dict(nnx.state(network, nnx.Param)))
    count = sum(leaf.size for leaf in leaves)
    assert count == expected_count(features, depth, norm)
    if features == 64:
        assert 31_000_000 <= count < 31_100_000  # the 31.0 million of Ronneberger's network
    stats = jax.tree.leaves(nnx.to_pure_dict(nnx.state(network, nnx.BatchStat)))
    assert len(stats) == (2 * 2 * (2 * depth + 1) if norm == "batch" else 0)


def test_batch_statistics_move_in_a_train_step():
    config = Config(
        model=Model(features=2, depth=1, norm="batch"),
        augment=Augment(flip=False, quarter_turns=False),
        train=Train(batch_size=2, steps=10),
    )
    built = models.build(config.model)
    first = built.encoder[0].conv1
    network, weights = steps.split_network(built)
    mesh = sharding.make_mesh(1)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    x = np.asarray(first((pixels.astype(np.float32) / 255 - 0.5) * 4))
    batch = {
        "image": pixels,
        "mask": np.zeros((2, 8, 8), np.uint8),
        "index": np.arange(2, dtype=np.int32),
        "epoch": np.zeros(2, np.int32),
    }
    state = steps.init_state(config, weights, mesh)
    before = jax.tree.map(np.array, state.stats)
    step = steps.make_train_step(config, network, mesh)
    state, _ = step(state, sharding.put_batch(batch, mesh))
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, state.stats)
    assert all(jax.tree.leaves(moved)) and len(jax.tree.leaves(moved)) == 12
    norm1 = state.stats["encoder"][0]["norm1"]
    np.testing.assert_allclose(norm1["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norm1["var"], 0.9 + 0.1 * x.var((0, 1, 2)), rtol=1e-4)


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_shifted_image_gives_shifted_logits(norm):
    # A shift by whole pixels of the coarsest level; away from borders by what a logit sees.
    depth, sees = 2, 24
    network = evaluated(build(depth=depth, norm=norm))
    x = images(1, 64, 64, 3)
    shift = 2**depth
    logits = network(x)
    shifted = network(np.roll(x, (shift, shift), (1, 2)))
    there = np.roll(logits, (shift, shift), (1, 2))
    inside = slice(sees + shift, 64 - sees)
    np.testing.assert_allclose(
        shifted[:, inside, inside], there[:, inside, inside], rtol=1e-4, atol=1e-4
    )
    # A shift by one pixel changes the 2 x 2 windows and so the logits: the above is not trivial.
    shifted = network(np.roll(x, (1, 1), (1, 2)))
    there = np.roll(logits, (1, 1), (1, 2))
    assert np.abs(shifted[:, inside, inside] - there[:, inside, inside]).max() > 1e-3


def test_a_logit_sees_the_whole_neighbourhood():
    # Every level is connected: one pixel changes logits farther away than one level reaches.
    network = evaluated(build(depth=2))
    x = images(1, 64, 64, 3)
    other = x.copy()
    other[0, 32, 32] += 100
    changed = np.abs(np.asarray(network(other) - network(x)))[0].max(-1) > 0
    rows = np.flatnonzero(changed.any(1))
    assert rows.min() < 32 - 8 and rows.max() > 32 + 8
    assert rows.min() > 32 - 24 and rows.max() < 32 + 24


def test_dropout_only_in_training():
    network = build(depth=1, dropout=0.5)
    plain = build(depth=1)
    nnx.update(plain, nnx.state(network, nnx.Param))
    x = images(1, 8, 8, 3)
    first, second = np.asarray(network(x)), np.asarray(network(x))
    assert not np.allclose(first, second)
    expected = np.asarray(plain(x))
    assert not np.allclose(first, expected)
    run = evaluated(network)
    np.testing.assert_allclose(run(x), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(run(x), run(x))


def test_dropout_is_after_the_last_encoder_level_and_the_bridge():
    network = build(depth=2, dropout=0.5)
    assert len(network.dropouts) == 2 and len(build(depth=2).dropouts) == 0
    seen = []

    class Spy(nnx.Module):
        def __call__(self, x):
            seen.append(x.shape)
            return x

    network.dropouts = nnx.List([Spy(), Spy()])
    network(images(1, 8, 8, 3))
    # 8 x 8 halved once with 4 channels, halved twice with 8.
    assert seen == [(1, 4, 4, 4), (1, 2, 2, 8)]


def test_same_seed_builds_the_same_network():
    model = Model(features=1, depth=1, norm="none")
    a, b, other = (
        jax.tree.leaves(nnx.to_pure_dict(nnx.state(models.build(model, seed), nnx.Param)))
        for seed in (3, 3, 4)
    )
    assert all(np.array_equal(x, y) for x, y in zip(a, b))
    # Kernels are drawn; biases begin at zero.
    assert all(np.array_equal(x, y) == (x.ndim == 1) for x, y in zip(a, other))
