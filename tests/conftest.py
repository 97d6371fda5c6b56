"""Fixtures that several test files use."""

import fcntl
import os
import pathlib
import tempfile
import types
from collections.abc import Callable

import pytest

from helpers import compilation

# Tests compile the same few networks again and again, here and in the commands that they start. A
# cache on disk compiles each once. It must be set before JAX is imported.
_CACHE = tempfile.TemporaryDirectory(prefix="wbc_jax_compiled_")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", _CACHE.name)
if "PYTEST_XDIST_WORKER" in os.environ:  # JAX could read a file that another is still writing
    os.environ["JAX_COMPILATION_CACHE_DIR"] += "/" + os.environ["PYTEST_XDIST_WORKER"]
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
compilation.quicken(os.environ)

import jax  # noqa: E402

# An array gets new axes or another type only where the code says so.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

_DEFAULT = pathlib.Path(__file__).resolve().parents[1] / ".." / "shared" / "data"


# The longest files start first, so that the workers of pytest-xdist end together.
_LONG = (
    "test_resume.py",
    "test_multihost.py",
    "test_sharding.py",
    "test_devices.py",
    "test_model_cards.py",
)


def pytest_configure(config):
    config.option.loadscopereorder = False  # it would put files with few tests last


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: _LONG.index(n) if (n := item.path.name) in _LONG else len(_LONG))


@pytest.fixture(scope="session", autouse=True)
def optax_promotes():
    """Lets Optax mix floats with its int32 step, in schedules and in Adam's bias correction.

    It is the one library whose code needs more than strict promotion allows.
    """
    import optax

    from wbc_jax.training import optimizers

    build = optimizers.build

    def promoting(*arguments):
        strict = build(*arguments)

        def update(*arguments):
            with jax.numpy_dtype_promotion("standard"):
                return strict.update(*arguments)

        return optax.GradientTransformation(strict.init, update)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimizers, "build", promoting)
        yield


@pytest.fixture(scope="module")
def optimized():
    """Compiles as users do, here and in the commands that a module's tests start.

    For tests of bits that users see, or that compute more than they compile.
    """
    with compilation.optimized():
        yield


@pytest.fixture(scope="module")
def summing_exactly():
    """As `optimized`, where only the exactness of sums matters: it compiles in a third of the time.

    For tests that compare sums in different orders.
    """
    with compilation.summing_exactly():
        yield


@pytest.fixture(scope="session")
def real_data() -> pathlib.Path:
    """The folder of real images (WBC_JAX_DATA, or ../shared/data); skips if it is missing."""
    folder = pathlib.Path(os.environ.get("WBC_JAX_DATA", _DEFAULT)).resolve()
    if not folder.is_dir():
        pytest.skip(f"no real images: {folder} does not exist; set WBC_JAX_DATA to their folder")
    return folder


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[pathlib.Path], None]], pathlib.Path]:
    """A function (name, make) → folder that `make(folder)` has filled, for all workers once.

    No test may change these folders.
    """
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # of all workers

    def made(name: str, make: Callable[[pathlib.Path], None]) -> pathlib.Path:
        folder, done = base / name, base / f"{name}.done"
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture(scope="session")
def data_dir(once) -> pathlib.Path:
    """A folder with the records of `wbc_synthetic/small`."""
    from helpers import tiny_runs
    from wbc_jax.data import preparing

    def prepare(folder: pathlib.Path) -> None:
        preparing.prepare(tiny_runs.DATASET, tiny_runs.config(folder).data)

    return once("records", prepare)


@pytest.fixture(scope="session")
def run(once, data_dir) -> types.SimpleNamespace:
    """A tiny segmentation run, trained and evaluated: `workdir` and `config`."""
    from etils import epath

    from helpers import tiny_runs
    from wbc_jax import experiment

    config = tiny_runs.config(data_dir)
    workdir = once("tiny", lambda folder: experiment.run(config, epath.Path(folder)))
    return types.SimpleNamespace(workdir=workdir, config=config)


@pytest.fixture(scope="session")
def run_weights(run, tmp_path_factory) -> pathlib.Path:
    """The shared run as a file of weights."""
    from wbc_jax import provenance

    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    provenance.write_weights(run.workdir, path)
    return path


@pytest.fixture(scope="session")
def typed_run(once, data_dir) -> types.SimpleNamespace:
    """A tiny classification run, as `run`."""
    from etils import epath

    from helpers import tiny_runs
    from wbc_jax import experiment

    config = tiny_runs.types(data_dir)
    workdir = once("types", lambda folder: experiment.run(config, epath.Path(folder)))
    return types.SimpleNamespace(workdir=workdir, config=config)


@pytest.fixture(scope="session")
def model(run):
    """The shared run's model."""
    import wbc_jax

    return wbc_jax.load(run.workdir)
