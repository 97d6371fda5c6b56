"""wbc_jax.models.layers equals XLA's operations, Flax's layers and plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from skimage import measure

from wbc_jax.models import layers


def inputs(*shape, seed=0):
    return np.random.default_rng(seed).normal(0.5, 2, shape).astype(np.float32)


def up_conv(in_features=3, out_features=2):
    layer = layers.UpConv(in_features, out_features, rngs=nnx.Rngs(0))
    layer.kernel[...] = jnp.asarray(inputs(2, 2, in_features, out_features, seed=1))
    layer.bias[...] = jnp.asarray(inputs(out_features, seed=2))
    return layer


def test_up_conv_by_loops():
    layer, x = up_conv(), inputs(2, 3, 4, 3)
    kernel, bias = np.asarray(layer.kernel[...]), np.asarray(layer.bias[...])
    expected = np.zeros((2, 6, 8, 2), np.float32)
    for b, y, c in np.ndindex(2, 3, 4):
        for i, j in np.ndindex(2, 2):
            expected[b, 2 * y + i, 2 * c + j] = x[b, y, c] @ kernel[i, j] + bias
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_up_conv_equals_xlas_transposed_convolution():
    layer, x = up_conv(), inputs(2, 3, 4, 3)

    def oracle(x, kernel, bias):
        # XLA's is a convolution of the spread input, which sees the kernel turned round.
        return (
            jax.lax.conv_transpose(x, kernel[::-1, ::-1], (2, 2), "VALID") + bias[None, None, None]
        )

    arguments = x, layer.kernel[...], layer.bias[...]
    np.testing.assert_allclose(layer(x), oracle(*arguments), rtol=1e-5, atol=1e-5)
    # The gradients too: a weighted sum, so that each output pixel's gradient differs.
    weights = inputs(2, 6, 8, 2, seed=3)
    graph, state = nnx.split(layer)

    def score(x, kernel, bias):
        nnx.replace_by_pure_dict(state, {"kernel": kernel, "bias": bias})
        return (weights * nnx.merge(graph, state)(x)).sum()

    expected = jax.grad(lambda *a: (weights * oracle(*a)).sum(), (0, 1, 2))(*arguments)
    for mine, theirs in zip(jax.grad(score, (0, 1, 2))(*arguments), expected):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


def test_up_conv_initial_scale():
    # He: variance 2 / fan-in, and an output pixel sees C_in inputs.
    kernel = layers.UpConv(64, 32, rngs=nnx.Rngs(0)).kernel[...]
    assert kernel.shape == (2, 2, 64, 32)
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / 64), rtol=0.03)
    np.testing.assert_allclose(kernel.std((2, 3)), np.sqrt(2 / 64), rtol=0.06)


def test_conv_by_loops():
    layer = layers.conv(2, 3, 3, rngs=nnx.Rngs(0))
    layer.bias[...] = jnp.array([1.0, 2.0, 3.0])
    x, kernel = inputs(1, 4, 5, 2), np.asarray(layer.kernel[...])
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = np.tile(np.array([1.0, 2.0, 3.0]), (1, 4, 5, 1))
    for y, c, i, j in np.ndindex(4, 5, 3, 3):
        expected[0, y, c] += padded[0, y + i, c + j] @ kernel[i, j]
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (1, 2, 2, 1), (1, 8, 2, 2)])
def test_max_pool_equals_scikit_image(shape):
    x = inputs(*shape)
    expected = measure.block_reduce(x, (1, 2, 2, 1), np.max)
    np.testing.assert_array_equal(layers.max_pool(x), expected)


def test_max_pool_gradient_goes_to_the_largest():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    gradient = jax.grad(
        lambda x: (layers.max_pool(x)[0, ..., 0] * jnp.array([[1.0, 2], [3, 4]])).sum()
    )
    expected = np.zeros((4, 4))
    expected[1::2, 1::2] = [[1, 2], [3, 4]]
    np.testing.assert_array_equal(gradient(x)[0, ..., 0], expected)


def norms(features=3):
    """Returns our and Flax's layer, with equal parameters that are neither 0 nor 1."""
    ours = layers.BatchNorm(features)
    flax = nnx.BatchNorm(features, momentum=0.9, epsilon=1e-5, rngs=nnx.Rngs(0))
    for layer in (ours, flax):
        layer.scale[...] = jnp.array([0.5, 1.5, -2.0])
        layer.bias[...] = jnp.array([0.1, -0.2, 3.0])
    return ours, flax


def test_batch_norm_by_hand():
    # Values 1 and 3: mean 2, biased variance 1.
    layer = layers.BatchNorm(1, momentum=0.8, epsilon=0.0)
    x = jnp.array([1.0, 3.0]).reshape(2, 1, 1, 1)
    np.testing.assert_allclose(layer(x).ravel(), [-1, 1], rtol=1e-6)
    np.testing.assert_allclose([layer.mean[0], layer.var[0]], [0.2 * 2, 0.8 + 0.2 * 1], rtol=1e-6)


def test_batch_norm_equals_flax():
    ours, flax = norms()
    for step in range(3):
        x = inputs(4, 5, 6, 3, seed=step)
        np.testing.assert_allclose(ours(x), flax(x), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(ours.mean[...], flax.mean[...], rtol=1e-5)
        np.testing.assert_allclose(ours.var[...], flax.var[...], rtol=1e-5)
    for layer in (ours, flax):
        layer.use_running_average = True
    before = np.asarray(ours.mean[...])
    np.testing.assert_allclose(ours(x), flax(x), rtol=1e-4, atol=1e-5)
    mean, var = np.asarray(ours.mean[...]), np.asarray(ours.var[...])
    np.testing.assert_array_equal(mean, before)  # evaluation does not change the statistics
    expected = (x - mean) / np.sqrt(var + 1e-5) * np.asarray(ours.scale[...]) + np.asarray(
        ours.bias[...]
    )
    np.testing.assert_allclose(ours(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("running", [False, True])
def test_batch_norm_gradients_equal_flax(running):
    x, weights = inputs(4, 5, 6, 3), inputs(4, 5, 6, 3, seed=1)
    found = []
    for layer in norms():
        layer.use_running_average = running
        graph, params, rest = nnx.split(layer, nnx.Param, ...)
        rest = nnx.to_pure_dict(rest)

        def score(x, params, graph=graph, rest=rest):
            # Plain arrays, as the layer updates its statistics while it is differentiated.
            return (weights * jnp.tanh(nnx.merge(graph, params, rest)(x))).sum()

        to_x, to_params = jax.jit(jax.grad(score, (0, 1)))(x, params)
        found.append((to_x, *(nnx.to_pure_dict(to_params)[name] for name in ("scale", "bias"))))
    for ours, theirs in zip(*found):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_batch_norm_of_a_constant_stays_finite():
    layer = layers.BatchNorm(2)
    x = jnp.full((2, 4, 4, 2), 7.3)
    np.testing.assert_allclose(layer(x), 0, atol=1e-2)
    gradient = jax.grad(lambda x: layers.BatchNorm(2)(x).sum())(x)
    assert np.isfinite(gradient).all()


def test_pad_to_multiple():
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1)
    padded = np.asarray(layers.pad_to_multiple(x, 4))[0, ..., 0]
    expected = [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]
    np.testing.assert_array_equal(padded, expected)
    assert layers.pad_to_multiple(x, 1) is x
    assert layers.pad_to_multiple(inputs(1, 8, 4, 2), 4).shape == (1, 8, 4, 2)
    assert layers.pad_to_multiple(inputs(1, 1, 17, 2), 16).shape == (1, 16, 32, 2)


@pytest.mark.parametrize(
    ("features", "groups"),
    [(1, 1), (2, 2), (8, 8), (12, 6), (16, 8), (20, 5), (11, 1), (64, 8), (1024, 8)],
)
def test_group_counts(features, groups):
    layer = layers.norm("group", features, rngs=nnx.Rngs(0))
    assert isinstance(layer, nnx.GroupNorm) and layer.num_groups == groups


def test_group_norm_by_hand():
    # 16 channels, 8 groups: channels 0 and 1 are normalised together, image by image.
    x = inputs(2, 3, 3, 16)
    y = layers.norm("group", 16, rngs=nnx.Rngs(0))(x)
    parts = x.reshape(2, 9, 8, 2)
    mean, std = parts.mean((1, 3), keepdims=True), parts.std((1, 3), keepdims=True)
    expected = ((parts - mean) / std).reshape(x.shape)
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-4)


def test_norm_kinds():
    assert isinstance(layers.norm("batch", 4, rngs=nnx.Rngs(0)), layers.BatchNorm)
    assert layers.norm("none", 4, rngs=nnx.Rngs(0)) is None
