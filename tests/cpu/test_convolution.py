"""wbc_jax.cpu.convolution equals XLA's convolution, in values and gradients."""

import concurrent.futures
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from helpers import compilation, tiny_runs
from wbc_jax import cpu
from wbc_jax.cpu import convolution
from wbc_jax.errors import ConfigError
from wbc_jax.models import describe, layers, unet

SHAPES = [  # image, kernel, padding
    ((2, 7, 9, 3), (3, 3, 3, 8), ((1, 1), (1, 1))),
    ((3, 5, 4, 16), (3, 3, 16, 16), ((1, 1), (1, 1))),
    ((2, 8, 6, 5), (5, 5, 5, 7), ((2, 2), (2, 2))),
    ((1, 1, 1, 4), (5, 5, 4, 2), ((2, 2), (2, 2))),
    ((2, 9, 5, 16), (1, 1, 16, 3), ((0, 0), (0, 0))),
    ((2, 9, 5, 16), (1, 1, 16, 32), ((0, 0), (0, 0))),
    ((2, 3, 5, 120), (1, 1, 120, 112), ((0, 0), (0, 0))),  # its weight gradient is a product
    ((2, 6, 6, 4), (2, 1, 4, 6), ((0, 1), (0, 0))),
    ((2, 4, 5, 3), (2, 2, 3, 9), ((1, 0), (0, 1))),
    ((1, 16, 33, 32), (3, 3, 32, 24), ((1, 1), (1, 1))),
]


def arrays(image, kernel, padding):
    rng = np.random.default_rng(0)
    rows, columns = (
        size + sum(around) - taps + 1 for size, around, taps in zip(image[1:3], padding, kernel)
    )
    out = (image[0], rows, columns, kernel[-1])
    return [jnp.asarray(rng.normal(size=s), jnp.float32) for s in (image, kernel, kernel[-1:], out)]


def check_close(ours, theirs):
    """Equal but for rounding: 1e-5 of the largest entry."""
    assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
    atol = 1e-5 * float(np.abs(theirs).max())
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=atol)


@pytest.mark.parametrize(("image", "kernel", "padding"), SHAPES)
def test_value_and_gradients_equal_xlas(onednn, image, kernel, padding):
    x, weights, bias, score = arrays(image, kernel, padding)

    def ours(x, weights, bias):
        out = convolution.convolve(x, weights, bias, padding)
        return (out * score).sum(), out

    def theirs(x, weights, bias):
        out = jax.lax.conv_general_dilated(
            x, weights, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        out = out + bias[None, None, None]
        return (out * score).sum(), out

    found = [
        jax.jit(jax.grad(f, argnums=(0, 1, 2), has_aux=True))(x, weights, bias)
        for f in (ours, theirs)
    ]
    for mine, other in zip(*map(jax.tree.leaves, found), strict=True):
        check_close(mine, other)
    assert "onednn" in jax.jit(ours).lower(x, weights, bias).as_text()


@pytest.mark.parametrize(
    ("image", "kernel", "padding", "stride"),
    [
        ((2, 8, 10, 3), (3, 3, 3, 32), ((0, 1), (0, 1)), 2),  # "SAME" of even sizes
        ((2, 9, 7, 3), (3, 3, 3, 16), ((1, 1), (1, 1)), 2),
        ((1, 8, 11, 5), (4, 2, 5, 8), ((3, 0), (1, 1)), 3),
        ((2, 12, 9, 4), (1, 1, 4, 16), ((0, 0), (0, 0)), 2),
    ],
)
def test_strides_equal_xlas(onednn, image, kernel, padding, stride):
    x, weights, bias, _ = arrays(image, kernel, padding)

    def theirs(x, weights, bias):
        out = jax.lax.conv_general_dilated(
            x, weights, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return out + bias[None, None, None]

    found = []
    for compute in (lambda *a: convolution.convolve(*a, padding, stride), theirs):
        out, pull = jax.vjp(compute, x, weights, bias)
        score = jnp.asarray(np.random.default_rng(1).normal(size=out.shape), jnp.float32)
        kernel_alone = jax.grad(lambda w, f=compute, s=score: (f(x, w, bias) * s).sum())
        found.append((out, *pull(score), kernel_alone(weights)))
    for mine, other in zip(*found, strict=True):
        check_close(mine, other)


@pytest.fixture
def fresh_check():
    """Repeats the check of the generated code, which is done once per process."""
    convolution._generated_weight_gradient.cache_clear()
    yield
    convolution._generated_weight_gradient.cache_clear()


def lowered_gradient():
    x, weights, bias, score = arrays((2, 5, 6, 3), (3, 3, 3, 8), ((1, 1), (1, 1)))
    gradient = jax.grad(
        lambda w: (convolution.convolve(x, w, bias, ((1, 1), (1, 1))) * score).sum()
    )
    return jax.jit(gradient).lower(weights).as_text()


def test_weight_gradients_are_generated_code(onednn, fresh_check):
    assert "wbc_jax_weight_gradient" in lowered_gradient()


@pytest.mark.parametrize("failure", ["not installed", "not allowed", "wrong", "no such target"])
def test_without_working_code_weight_gradients_are_xlas(
    onednn, fresh_check, monkeypatch, caplog, failure
):
    from wbc_jax.cpu import weight_gradient

    def broken(*arguments):
        raise OSError("no executable memory")

    if failure == "not installed":
        monkeypatch.setitem(sys.modules, "llvmlite", None)
        monkeypatch.delitem(sys.modules, "wbc_jax.cpu.weight_gradient")
        monkeypatch.delattr(cpu, "weight_gradient")
    elif failure == "not allowed":
        monkeypatch.setattr(weight_gradient, "_target", broken)
    elif failure == "wrong":
        right = weight_gradient.weight_gradient
        monkeypatch.setattr(weight_gradient, "weight_gradient", lambda *a, **k: 1 + right(*a, **k))
    else:
        monkeypatch.setattr(weight_gradient, "_target", lambda *_: "an unknown name")
    text = lowered_gradient()
    assert "wbc_jax_weight_gradient" not in text and "convolution" in text
    assert "left to XLA" in caplog.text


def test_padding_that_onednn_does_not_take_is_left_to_xla(onednn):
    """More zeros than the kernel spans, or a negative number."""
    for padding in (((3, 1), (1, 1)), ((1, 1), (-1, 1))):
        x, weights, bias, score = arrays((2, 7, 9, 3), (3, 3, 3, 8), padding)
        out = convolution.convolve(x, weights, bias, padding)
        assert out.shape == score.shape
        assert (
            "onednn"
            not in jax.jit(convolution.convolve, static_argnums=3)
            .lower(x, weights, bias, padding)
            .as_text()
        )


def test_layer_equals_flaxs(onednn):
    ours = layers.conv(3, 8, 5, rngs=nnx.Rngs(1))
    theirs = nnx.Conv(3, 8, (5, 5), kernel_init=layers.CONV_INIT, rngs=nnx.Rngs(1))
    same = jax.tree.map(lambda a, b: bool((a == b).all()), *map(nnx.state, (ours, theirs)))
    assert jax.tree.all(same)
    ours.bias[...] = theirs.bias[...] = jnp.arange(8.0)
    x = np.random.default_rng(0).normal(size=(2, 7, 10, 3)).astype(np.float32)
    check_close(ours(x), theirs(x))


def test_first_layer_computes_no_gradient_of_the_images(onednn):
    layer, x = layers.conv(3, 8, 3, rngs=nnx.Rngs(0)), jnp.ones((1, 8, 8, 3))
    graph, state = nnx.split(layer)
    step = jax.jit(jax.grad(lambda state: nnx.merge(graph, state)(x).sum()))
    assert step.lower(state).compile().as_text().count('"__onednn$convolution"') <= 1


def test_other_types_and_disabled_use_xlas(onednn):
    half = jnp.ones((1, 4, 4, 2), jnp.bfloat16), jnp.ones((3, 3, 2, 2), jnp.bfloat16)
    single = [x.astype(jnp.float32) for x in half]
    same = ((1, 1), (1, 1))

    def lowered(x, kernel):
        return (
            jax.jit(lambda x, k: convolution.convolve(x, k, k[0, 0, 0], same))
            .lower(x, kernel)
            .as_text()
        )

    assert "onednn" not in lowered(*half)
    assert "onednn" in lowered(*single)
    with cpu.disabled():
        assert "onednn" not in lowered(*single)


def lowered_value():
    padding = ((1, 1), (1, 1))
    x, weights, bias, _ = arrays((2, 5, 6, 3), (3, 3, 3, 8), padding)
    return jax.jit(lambda x: cpu.convolve(x, weights, bias, padding)).lower(x).as_text()


@pytest.mark.parametrize(
    ("value", "fast"), [("", True), ("auto", True), ("xla", False), (None, True)]
)
def test_the_environment_variable_switches_it_off(onednn, fresh_check, monkeypatch, value, fast):
    if value is not None:
        monkeypatch.setenv("WBC_JAX_CPU_CONVOLUTION", value)
    assert convolution.usable() == fast
    assert ("onednn" in lowered_value()) == fast
    assert ("wbc_jax_weight_gradient" in lowered_gradient()) == fast


def test_the_environment_variable_has_two_values(monkeypatch):
    monkeypatch.setenv("WBC_JAX_CPU_CONVOLUTION", "onednn")
    with pytest.raises(ConfigError, match="CONVOLUTION is 'onednn'; allowed are 'auto' and 'xla'"):
        lowered_value()


def test_disabled_holds_in_one_thread(onednn):
    with cpu.disabled(), cpu.disabled():
        pass
    with cpu.disabled(), concurrent.futures.ThreadPoolExecutor(1) as pool:
        assert pool.submit(convolution.usable).result() and not convolution.usable()
    assert convolution.usable()


def test_vmap(onednn):
    x, kernel, bias, _ = arrays((4, 6, 6, 3), (3, 3, 3, 5), ((1, 1), (1, 1)))
    same = ((1, 1), (1, 1))
    mapped = jax.vmap(lambda x: convolution.convolve(x[None], kernel, bias, same)[0])(x)
    check_close(mapped, convolution.convolve(x, kernel, bias, same))


def test_description_counts_the_same(onednn):
    model = nnx.eval_shape(lambda: unet.UNet(3, 4, 2, rngs=nnx.Rngs(0)))
    found = describe.describe(model, (1, 16, 16, 3))
    with cpu.disabled():
        assert describe.describe(model, (1, 16, 16, 3)) == found
    first = next(x for x in found if x.name == "encoder.0.conv1")
    assert first.flops == 2 * 16 * 16 * 27 * 4 and first.kind == "Conv"


_SHARDED = """
import sys
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from wbc_jax.parallel import sharding
from wbc_jax.models import unet

assert jax.device_count() == int(sys.argv[1])
rng = np.random.default_rng(0)
# Not initialized as in training, which compiles a program for each shape.
model = nnx.eval_shape(lambda: unet.UNet(3, 4, 2, rngs=nnx.Rngs(0)))
graph, *states = nnx.split(model, nnx.Param, ...)
params, rest = (
    jax.tree.map(lambda v: jnp.asarray(rng.normal(0, 0.3, v.shape), v.dtype), nnx.to_pure_dict(s))
    for s in states
)
x = rng.normal(size=(8, 12, 12, 3)).astype(np.float32)
x = jax.device_put(x, sharding.batched(sharding.make_mesh(8)))
step = jax.jit(jax.value_and_grad(lambda p, x: (nnx.merge(graph, p, rest)(x) ** 2).mean()))
lowered = step.lower(params, x)
assert ("onednn" in lowered.as_text()) == (sys.argv[1] == "1" and sys.argv[2] == "True")
loss, grads = step(params, x)
np.savez(sys.argv[3], *jax.tree.leaves((loss, grads)))
"""


def test_sharded_equals_one_device(tmp_path, onednn, summing_exactly):
    results = []
    for devices in (1, 8):
        path = tmp_path / f"{devices}.npz"
        environment = os.environ | tiny_runs.devices(devices)
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        arguments = [str(devices), str(convolution.usable()), str(path)]
        subprocess.run([sys.executable, "-c", _SHARDED, *arguments], env=environment, check=True)
        with np.load(path) as found:
            results.append([found[name] for name in found.files])
    largest = max(np.abs(x).max() for x in results[0])
    for one, many in zip(*results, strict=True):
        np.testing.assert_allclose(many, one, rtol=1e-4, atol=1e-5 * largest)


_DIVIDED = """
import sys
import jax, numpy as np
from wbc_jax import cpu
from wbc_jax.parallel import sharding

rng = np.random.default_rng(0)
x, kernel = (rng.normal(size=s).astype(np.float32) for s in ((4, 9, 9, 8), (3, 3, 8, 8)))
bias = np.zeros(8, np.float32)
def convolve(weights, x):
    return cpu.convolve(x, *weights, ((1, 1), (1, 1)))
in_groups = sharding.InGroups(convolve, sharding.local_mesh())
lowered = [f.lower((kernel, bias), x).as_text() for f in (in_groups._program, jax.jit(convolve))]
print(*("onednn" in text for text in lowered))
np.save(sys.argv[1], in_groups((kernel, bias), x))
"""


def test_it_is_fast_where_each_device_has_a_program_of_its_own(tmp_path, onednn):
    found = []
    for devices in (1, 2):
        path = tmp_path / f"{devices}.npy"
        environment = os.environ | tiny_runs.devices(devices)
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        done = subprocess.run(
            [sys.executable, "-c", _DIVIDED, path],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        # With two devices, a program that XLA may divide has XLA's own convolution.
        assert done.stdout == f"True {devices == 1}\n"
        found.append(np.load(path))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("training", [True, False])
def test_sums_of_predictions_do_not_depend_on_the_number_of_images(training):
    code = (
        "import jax, numpy as np; from wbc_jax import cpu\n"
        "x = np.random.default_rng(0).normal(size=(16, 64, 64, 16)).astype(np.float32)\n"
        "f = jax.jit(lambda x: (x * x).mean((1, 2)),"
        f" compiler_options=cpu.compiler_options(training={training}))\n"
        "one = np.concatenate([np.asarray(f(x[i:i + 1])) for i in range(16)])\n"
        "print(int((one != np.asarray(f(x))).sum()),"
        " float(abs(one - (x.astype(float) ** 2).mean((1, 2))).max()))\n"
    )
    environment = compilation.as_users(os.environ)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    differing, error = done.stdout.split()
    assert float(error) < 1e-5
    if not training:
        assert differing == "0"
