"""wbc_jax.cpu.weight_gradient equals its definition, however the work is divided."""

import concurrent.futures
import ctypes
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("llvmlite", reason="installed on x86-64 Linux only")

from wbc_jax.cpu import ffi_handler, machine_code, weight_gradient

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "cpu" or ffi_handler.interface() is None,
    reason="written for CPUs and major version 0 of the foreign function interface",
)

WIDTHS = [n for n in (4, 8, 16) if weight_gradient._vector(n) == n]
CASES = [  # input, kernel, padding
    ((2, 7, 9, 3), (3, 3, 16), ((1, 1), (1, 1))),
    ((3, 40, 33, 24), (5, 5, 20), ((2, 2), (2, 2))),  # several tiles of lines
    ((2, 9, 8, 16), (2, 7, 8), ((0, 1), (3, 3))),  # two groups of columns
    ((2, 9, 8, 16), (1, 1, 48), ((0, 0), (0, 0))),
    ((1, 5, 4, 10), (3, 3, 4), ((0, 0), (0, 0))),
    ((2, 6, 5, 7), (1, 2, 32), ((0, 0), (1, 0))),
    ((1, 2, 2, 64), (3, 3, 48), ((1, 1), (1, 1))),  # a gradient larger than its inputs
    ((1, 1, 1, 8), (5, 5, 16), ((2, 2), (2, 2))),
    ((2, 3, 40, 16), (3, 3, 16), ((4, 3), (2, 5))),  # more zeros than the kernel is wide
    ((2, 6, 12, 8), (3, 3, 8), ((-1, 1), (-2, -1))),  # pixels left out
    ((3, 11, 32, 16), (2, 1, 32), ((0, 1), (0, 0))),  # a single column; 33 lines
    ((2, 40, 41, 6), (3, 11, 16), ((1, 1), (5, 5))),  # three groups of columns
    ((2, 20, 30, 176), (3, 3, 176), ((1, 1), (1, 1))),  # a large gradient, several tiles
]


def arrays(image, kernel, padding):
    rng = np.random.default_rng(0)
    rows, columns, features = kernel
    (top, bottom), (left, right) = padding
    height, width = image[1] + top + bottom - rows + 1, image[2] + left + right - columns + 1
    shapes = image, (image[0], height, width, features)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def by_definition(x, gradient, size, padding):
    """Sums input × output's gradient over all pixels for each entry, in float64."""
    for axis, (before, after) in zip((1, 2), padding):  # negative padding: pixels left out
        x = np.delete(x, [*range(-before), *range(x.shape[axis] + after, x.shape[axis])], axis)
    zeros = [tuple(max(0, n) for n in around) for around in padding]
    x = np.pad(x.astype(np.float64), ((0, 0), *zeros, (0, 0)))
    height, width = gradient.shape[1:3]
    out = np.zeros((*size, x.shape[-1], gradient.shape[-1]))
    for row, column in np.ndindex(*size):
        seen = x[:, row : row + height, column : column + width]
        out[row, column] = np.einsum("byxi,byxo->io", seen, gradient.astype(np.float64))
    return out


def check(x, gradient, size, padding):
    expected = by_definition(x, gradient, size, padding)
    compute = jax.jit(lambda x, g: weight_gradient.weight_gradient(x, g, size, padding))
    found = np.asarray(compute(x, gradient))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("threads", [1, 2, 7, 40])
@pytest.mark.parametrize(("image", "kernel", "padding"), CASES)
def test_equals_the_sum_over_all_pixels(monkeypatch, image, kernel, padding, threads):
    monkeypatch.setattr(machine_code, "threads", lambda: threads)
    x, gradient = arrays(image, kernel, padding)
    assert weight_gradient.usable(x, gradient, kernel[:2])
    check(x, gradient, kernel[:2], padding)


@pytest.mark.parametrize("widest", [4, 8])
def test_equals_it_on_processors_with_fewer_registers(monkeypatch, widest):
    monkeypatch.setattr(machine_code, "registers", lambda: 16)
    monkeypatch.setattr(weight_gradient, "_vector", lambda outputs: widest)
    check(*arrays((2, 9, 8, 24), (5, 5, 16), ((2, 2), (2, 2))), (5, 5), ((2, 2), (2, 2)))


def test_writes_all_of_its_output():
    """Also where the kernel sees only zeros, whatever the memory held before."""
    x, gradient = arrays((1, 1, 1, 64), (5, 5, 64), ((2, 2), (2, 2)))
    for _ in range(20):
        np.full((5, 5, 64, 64), np.nan, np.float32)
        jnp.full((5, 5, 64, 64), jnp.nan).block_until_ready()
        check(x, gradient, (5, 5), ((2, 2), (2, 2)))


def test_infinities_and_nans_pass_through():
    padding = ((1, 1), (1, 1))
    x, gradient = arrays((2, 6, 5, 8), (3, 3, 16), padding)
    x[1, 3, 2, 4], gradient[0, 2, 2, 7] = np.nan, np.inf
    found = np.asarray(weight_gradient.weight_gradient(x, gradient, (3, 3), padding))
    assert np.isnan(found[:, :, 4]).all()
    assert not np.isfinite(found[..., 7]).any()
    others = np.delete(np.delete(found, 4, axis=2), 7, axis=3)
    assert np.isfinite(others).all()


@pytest.mark.parametrize("threads", [1, 3, 5])
def test_lines_that_do_not_divide_among_the_threads(monkeypatch, threads):
    """Each task has a gradient of its own."""
    monkeypatch.setattr(machine_code, "threads", lambda: threads)
    x, gradient = arrays((1, 7, 240, 16), (3, 3, 16), ((1, 1), (1, 1)))
    text = jax.jit(
        lambda x, g: weight_gradient.weight_gradient(x, g, (3, 3), ((1, 1), (1, 1)))
    ).lower(x, gradient)
    assert f"tensor<{threads}x3x3x16x16xf32>" in text.as_text()
    check(x, gradient, (3, 3), ((1, 1), (1, 1)))


def test_many_calls_at_once_do_not_disturb_each_other(monkeypatch):
    monkeypatch.setattr(machine_code, "threads", lambda: 5)
    padding = ((1, 1), (1, 1))
    pairs = [arrays((3, 12 + i, 9, 16), (3, 3, 16), padding) for i in range(4)]
    compute = jax.jit(lambda x, g: weight_gradient.weight_gradient(x, g, (3, 3), padding))
    expected = [np.asarray(compute(*pair)) for pair in pairs]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: np.asarray(compute(*pairs[i % 4])), range(400)))
    for i, value in enumerate(found):
        np.testing.assert_array_equal(value, expected[i % 4])


LONG, POINTER = ctypes.c_int64, ctypes.c_void_p
FUNCTION = ctypes.CFUNCTYPE(POINTER, POINTER)


class Xla:
    """XLA's side of a call, after xla/ffi/api/c_api.h; `when` says when its threads run tasks."""

    def __init__(self, when):
        self.when, self.tasks, self.complaints = when, [], 0
        functions = {"ThreadPool_Schedule": self._schedule, "Error_Destroy": self._destroy}
        places = ffi_handler.interface().offsets
        self.kept = [FUNCTION(function) for function in functions.values()]
        self.api = (LONG * 64)()
        for name, function in zip(functions, self.kept):
            self.api[places[name] // 8] = ctypes.cast(function, POINTER).value

    def _schedule(self, order):
        _, _, _, task, data = (LONG * 5).from_address(order)
        if self.when == "never":
            return 1234  # an error
        work = functools.partial(ctypes.CFUNCTYPE(None, POINTER)(task), data)
        self.tasks.append(work)
        if self.when == "at once":
            work()
        return None

    def _destroy(self, complaint):
        assert (LONG * 3).from_address(complaint)[2] == 1234
        self.complaints += 1
        return None

    def call(self, name, arrays, out):
        buffers = []
        for array in (*arrays, out):
            shape = (LONG * array.ndim)(*array.shape)
            buffers.append((LONG * 6)(48, 0, 11, array.ctypes.data, array.ndim, _at(shape)))
            self.kept.append(shape)
        arguments = (LONG * len(arrays))(*map(_at, buffers[:-1]))
        results = (LONG * 1)(_at(buffers[-1]))
        frame = (LONG * 24)()
        frame[2], frame[3], frame[9], frame[14] = _at(self.api), 0, _at(arguments), _at(results)
        handler = FUNCTION(machine_code._engines[name].get_function_address(name))
        assert handler(_at(frame)) is None


def _at(array):
    return ctypes.addressof(array)


@pytest.mark.parametrize("by_rows", [0, 1])
@pytest.mark.parametrize("when", ["never", "at once", "afterwards"])
def test_each_task_is_done_once_whenever_xlas_threads_run(when, by_rows):
    """Also, nothing beside the output is written, and nothing outside the input is read."""
    padding, tasks = ((1, 1), (1, 1)), 5
    x, gradient = arrays((2, 6, 7, 8), (3, 3, 16), padding)
    guarded = []
    for array in (x, gradient, np.empty((tasks if by_rows else 1, 3, 3, 8, 16), np.float32)):
        whole = np.full(array.size + 512, np.nan, np.float32)
        inside = whole[256:-256].reshape(array.shape)
        inside[...] = array
        guarded.append((whole, inside))
    sizes = *x.shape, *gradient.shape[1:], 3, 3
    settings = np.array([tasks, *sizes, 1, 1, by_rows], np.int64).view(np.int32)
    xla, (_, out) = Xla(when), guarded[-1]
    xla.call(
        weight_gradient._target(3, 8 if max(WIDTHS) == 16 else 4, max(WIDTHS)),
        (guarded[0][1], guarded[1][1], settings),
        out,
    )
    found = out.sum(0)
    for work in xla.tasks if when == "afterwards" else ():
        work()
    np.testing.assert_array_equal(out.sum(0), found)  # late tasks did nothing
    expected = by_definition(x, gradient, (3, 3), padding)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert xla.complaints == (tasks - 1 if when == "never" else 0)
    for whole, _ in guarded:
        assert np.isnan(whole[:256]).all() and np.isnan(whole[-256:]).all()


def test_code_is_compiled_once_however_many_threads_ask(monkeypatch):
    made = []
    make = machine_code._compile
    monkeypatch.setattr(
        machine_code, "_compile", lambda *arguments: made.append(arguments) or make(*arguments)
    )
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        names = set(pool.map(lambda _: weight_gradient._target(9, 1, 4), range(8)))
    assert len(names) == 1 and len(made) <= 1


def test_is_deterministic():
    x, gradient = arrays((4, 64, 64, 16), (3, 3, 16), ((1, 1), (1, 1)))
    compute = jax.jit(lambda x, g: weight_gradient.weight_gradient(x, g, (3, 3), ((1, 1), (1, 1))))
    first = np.asarray(compute(x, gradient))
    for _ in range(30):
        np.testing.assert_array_equal(np.asarray(compute(x, gradient)), first)


def test_vmap_calls_it_one_by_one():
    padding = ((1, 1), (1, 1))
    pairs = [arrays((2, 6, 5, 8), (3, 3, 16), padding) for _ in range(3)]
    x, gradient = (np.stack(both) for both in zip(*pairs))
    x *= np.arange(1, 4, dtype=np.float32).reshape(3, 1, 1, 1, 1)
    found = jax.vmap(lambda x, g: weight_gradient.weight_gradient(x, g, (3, 3), padding))(
        x, gradient
    )
    for i in range(3):
        expected = by_definition(x[i], gradient[i], (3, 3), padding)
        atol = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(found[i], expected, rtol=1e-5, atol=atol)


def test_processors_without_multiply_add_are_left_to_xla(monkeypatch):
    monkeypatch.setattr(machine_code, "features", lambda: frozenset({"avx", "sse4.2"}))
    x = jax.ShapeDtypeStruct((2, 8, 8, 16), jnp.float32)
    assert not weight_gradient.usable(x, x, (3, 3))


def test_cases_that_are_left_to_xla():
    x = jax.ShapeDtypeStruct((2, 8, 8, 16), jnp.float32)
    assert weight_gradient.usable(x, x, (3, 3))
    few, many = (jax.ShapeDtypeStruct((2, 8, 8, n), jnp.float32) for n in (8, 1024))
    assert weight_gradient.usable(x, x, (1, 1))
    assert not weight_gradient.usable(x, few, (1, 1))
    assert not weight_gradient.usable(x, many, (1, 1))
    assert not weight_gradient.usable(x, jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32), (3, 3))
    half = jax.ShapeDtypeStruct(x.shape, jnp.bfloat16)
    assert not weight_gradient.usable(half, half, (3, 3))
    nothing = jax.ShapeDtypeStruct((0, 8, 8, 16), jnp.float32)
    assert not weight_gradient.usable(nothing, nothing, (3, 3))


@pytest.mark.parametrize("wrong", ["missing", "major", "no threads"])
def test_an_unknown_interface_is_left_alone(monkeypatch, tmp_path, wrong):
    header = pathlib.Path("xla", "ffi", "api", "c_api.h")
    text = (pathlib.Path(jax.ffi.include_dir()) / header).read_text()
    if wrong == "major":
        text = text.replace("#define XLA_FFI_API_MAJOR 0", "#define XLA_FFI_API_MAJOR 1")
    if wrong == "no threads":
        text = text.replace("_FIELD(XLA_FFI_ThreadPool_Schedule)", "_FIELD(XLA_FFI_Other)")
    if wrong != "missing":
        (tmp_path / header).parent.mkdir(parents=True)
        (tmp_path / header).write_text(text)
    monkeypatch.setattr(jax.ffi, "include_dir", lambda: str(tmp_path))
    ffi_handler.interface.cache_clear()
    try:
        x = jax.ShapeDtypeStruct((2, 8, 8, 16), jnp.float32)
        assert not weight_gradient.usable(x, x, (3, 3))
    finally:
        ffi_handler.interface.cache_clear()


@pytest.mark.parametrize(
    ("columns", "groups"),
    [(1, [(0, 1)]), (3, [(0, 3)]), (5, [(0, 5)]), (7, [(0, 3), (3, 4)]), (11, None)],
)
def test_groups_of_columns_cover_the_kernel(columns, groups):
    found = weight_gradient._column_groups(columns)
    assert found == (groups or found)
    assert [a + i for a, n in found for i in range(n)] == list(range(columns))
    assert max(n for _, n in found) <= 5
