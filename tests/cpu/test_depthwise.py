"""wbc_jax.cpu.depthwise equals XLA's and PyTorch's, in values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from wbc_jax import cpu
from wbc_jax.cpu import convolution, depthwise_convolution

CASES = [  # input, kernel's size, stride, padding
    ((2, 7, 9, 16), 3, 1, ((1, 1), (1, 1))),
    ((2, 8, 10, 24), 3, 2, ((0, 1), (0, 1))),  # "SAME" of even sizes
    ((3, 9, 7, 13), 5, 2, ((2, 2), (2, 2))),  # channels that fill no vector
    ((2, 4, 4, 40), 5, 1, ((2, 2), (2, 2))),  # each column of the kernel lies outside somewhere
    ((2, 8, 8, 32), 5, 2, ((1, 2), (1, 2))),
    ((1, 3, 2, 3), 5, 2, ((4, 3), (4, 4))),
    ((1, 1, 1, 8), 5, 2, ((2, 2), (2, 2))),
    ((2, 11, 12, 8), 3, 2, ((0, 0), (0, 0))),  # the last column is not seen
    ((2, 9, 12, 8), 3, 3, ((1, 0), (2, 1))),
    ((3, 40, 41, 48), 3, 1, ((1, 1), (0, 2))),  # several tiles and parts
    ((2, 6, 5, 20), 1, 2, ((0, 0), (0, 0))),
    ((2, 9, 9, 17), 7, 1, ((3, 3), (3, 3))),  # several groups of rows
]


def arrays(shape, size, stride, padding):
    rng = np.random.default_rng(0)
    sides = [(n + sum(p) - size) // stride + 1 for n, p in zip(shape[1:3], padding)]
    shapes = shape, (size, size, shape[3]), shape[3:], (shape[0], *sides, shape[3])
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def grouped(x, kernel, bias, stride, padding):
    y = lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )
    return y + bias[None, None, None]


def with_gradients(compute, x, kernel, bias, gradient, stride, padding):
    compute = functools.partial(compute, stride=stride, padding=padding)

    @jax.jit
    def both(x, kernel, bias, gradient):
        y, pull = jax.vjp(compute, x, kernel, bias)
        return y, *pull(gradient)

    return both(x, kernel, bias, gradient)


@functools.cache
def with_xla(*case):
    """The arrays of a case, and XLA's output and gradients; each case is compiled once."""
    values = arrays(*case)
    return values, [np.asarray(a) for a in with_gradients(grouped, *values, *case[2:])]


def close(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == np.float32 and a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * max(1, np.abs(b).max()))


@pytest.mark.parametrize("form", ["fast", "no llvmlite"])
@pytest.mark.parametrize(("shape", "size", "stride", "padding"), CASES)
def test_equals_xlas_grouped_convolution(onednn, monkeypatch, shape, size, stride, padding, form):
    values, expected = with_xla(shape, size, stride, padding)
    if form == "no llvmlite":
        monkeypatch.setattr(depthwise_convolution, "_generated", lambda: None)
    close(with_gradients(cpu.depthwise, *values, stride, padding), expected)


@pytest.mark.parametrize(("shape", "size", "stride", "padding"), CASES[1:5])
def test_without_onednn_it_is_a_sum_of_shifted_products(monkeypatch, shape, size, stride, padding):
    monkeypatch.setattr(convolution, "usable", lambda: False)
    values, expected = with_xla(shape, size, stride, padding)
    close(with_gradients(cpu.depthwise, *values, stride, padding), expected)
    text = jax.jit(lambda *a: cpu.depthwise(*a, stride, padding)).lower(*values[:3]).as_text()
    assert "stablehlo.convolution" not in text and "onednn" not in text


@pytest.mark.parametrize("threads", [1, 2, 7, 40])
@pytest.mark.parametrize(("shape", "size", "stride", "padding"), CASES)
def test_generated_gradients_do_not_depend_on_the_threads(
    monkeypatch, shape, size, stride, padding, threads
):
    pytest.importorskip("llvmlite", reason="installed on x86-64 Linux only")
    from wbc_jax.cpu import depthwise_gradient, machine_code

    (x, kernel, _, gradient), expected = with_xla(shape, size, stride, padding)
    if not depthwise_gradient.usable(x, gradient):
        pytest.skip("no code can be generated here")

    def compute():
        weights = depthwise_gradient.weight_gradient(x, gradient, size, stride, padding)
        return depthwise_gradient.input_gradient(gradient, kernel, shape, stride, padding), *weights

    first = compute()
    monkeypatch.setattr(machine_code, "threads", lambda: threads)
    for a, b in zip(compute(), first):
        np.testing.assert_array_equal(a, b)
    close(first, expected[1:])


@pytest.mark.parametrize(("widest", "registers"), [(4, 16), (8, 16)])
def test_generated_gradients_on_processors_with_fewer_registers(monkeypatch, widest, registers):
    pytest.importorskip("llvmlite", reason="installed on x86-64 Linux only")
    from wbc_jax.cpu import depthwise_gradient, machine_code

    shape, size, stride, padding = (2, 9, 8, 31), 5, 2, ((2, 2), (1, 2))
    (x, kernel, _, gradient), expected = with_xla(shape, size, stride, padding)
    if not depthwise_gradient.usable(x, gradient):
        pytest.skip("no code can be generated here")
    monkeypatch.setattr(machine_code, "registers", lambda: registers)
    monkeypatch.setattr(machine_code, "widest_vector", lambda: widest)
    monkeypatch.setattr(depthwise_gradient, "_VERSION", f"test{widest}")
    weights = depthwise_gradient.weight_gradient(x, gradient, size, stride, padding)
    found = depthwise_gradient.input_gradient(gradient, kernel, shape, stride, padding), *weights
    close(found, expected[1:])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
def test_equals_pytorchs(onednn, size, stride):
    torch = pytest.importorskip("torch")
    padding = ((size // 2, size // 2),) * 2
    values = arrays((2, 9, 12, 40), size, stride, padding)
    found = with_gradients(cpu.depthwise, *values, stride, padding)
    x, kernel, bias, gradient = map(torch.tensor, values)
    x, kernel = x.permute(0, 3, 1, 2), kernel.permute(2, 0, 1)[:, None]
    inputs = [a.detach().requires_grad_() for a in (x, kernel, bias)]
    y = torch.nn.functional.conv2d(*inputs, stride=stride, padding=size // 2, groups=40)
    gx, gk, gb = torch.autograd.grad(y, inputs, gradient.permute(0, 3, 1, 2))
    expected = y.permute(0, 2, 3, 1), gx.permute(0, 2, 3, 1), gk[:, 0].permute(1, 2, 0), gb
    close(found, [a.detach().numpy() for a in expected])


def test_an_image_comes_out_the_same_in_any_batch(onednn):
    shape, padding = (9, 16, 16, 48), ((1, 1), (1, 1))
    x, kernel, bias, _ = arrays(shape, 3, 1, padding)
    call = jax.jit(lambda x: cpu.depthwise(x, kernel, bias, 1, padding))
    whole = np.asarray(call(x))
    for start, stop in ((0, 1), (3, 5), (2, 9)):
        np.testing.assert_array_equal(call(x[start:stop]), whole[start:stop])


@pytest.mark.parametrize("stride", [1, 2])
def test_the_fast_form_is_used(onednn, stride):
    padding = ((1, 1), (1, 1))
    x, kernel, bias, gradient = arrays((2, 8, 8, 16), 3, stride, padding)

    def compute(x, kernel, bias):
        return cpu.depthwise(x, kernel, bias, stride, padding)

    def program(*wanted):
        pull = jax.vjp(compute, x, kernel, bias)[1]
        return [gradient for gradient, want in zip(pull(gradient), wanted) if want]

    text = jax.jit(functools.partial(program, True, True, True)).lower().as_text()
    assert "onednn" in text and "wbc_jax_depthwise_weight" in text
    assert ("wbc_jax_depthwise_input" in text) == (stride == 2)
    assert "stablehlo.convolution" not in text
    with cpu.disabled():
        text = jax.jit(lambda *a: compute(*a)).lower(x, kernel, bias).as_text()
    assert "onednn" not in text and "stablehlo.convolution" in text


def test_images_need_no_input_gradient(onednn):
    padding = ((1, 1), (1, 1))
    x, kernel, bias, _ = arrays((2, 8, 8, 16), 3, 2, padding)
    gradient = jax.grad(lambda kernel: cpu.depthwise(x, kernel, bias, 2, padding).sum())
    text = jax.jit(gradient).lower(kernel).as_text()
    assert "wbc_jax_depthwise_weight" in text and "wbc_jax_depthwise_input" not in text


def test_other_types_and_padding_are_left_to_xla():
    x, kernel, bias, _ = arrays((1, 6, 6, 8), 3, 1, ((1, 1), (1, 1)))
    half = [jnp.asarray(a, jnp.bfloat16) for a in (x, kernel, bias)]
    found = cpu.depthwise(*half, 1, ((1, 1), (1, 1)))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, grouped(*half, 1, ((1, 1), (1, 1))))
    found = cpu.depthwise(x, kernel, bias, 1, ((4, 0), (-1, 2)))
    np.testing.assert_array_equal(found, grouped(x, kernel, bias, 1, ((4, 0), (-1, 2))))
