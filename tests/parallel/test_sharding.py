"""The numbers do not depend on how a batch and the parameters are sharded."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from jax.sharding import AbstractMesh

from helpers import sharded_steps, tiny_runs
from wbc_jax.config import Mesh
from wbc_jax.errors import ConfigError
from wbc_jax.parallel import sharding

pytestmark = pytest.mark.usefixtures("summing_exactly")

PLAIN = {
    "batch": {"train__batch_size": 16, "model__norm": "batch", "optimizer__ema_decay": 0.9},
    "twelve": {"train__batch_size": 12, "model__norm": "none", "model__dropout": 0.3},
    "group": {"train__batch_size": 16, "model__norm": "group", "augment__flip": True},
}
VARIANTS = {
    "accumulate": PLAIN["group"] | {"train__accumulate": 2},
    "remat": PLAIN["batch"] | {"train__remat": True},
    "model": PLAIN["batch"] | {"mesh__model": 2},
    "model8": PLAIN["batch"] | {"mesh__model": 8},
    "everything": PLAIN["group"]
    | {"train__accumulate": 2, "train__remat": True, "mesh__model": 2, "mesh__data": 4},
}
ON_ONE = PLAIN | {name: VARIANTS[name] for name in ("accumulate", "remat")}
ON_TWO = {"batch": PLAIN["batch"], "model": VARIANTS["model"]}
ON_EIGHT = {name: fields for name, fields in (PLAIN | VARIANTS).items() if name != "remat"}
# Relative difference of a loss from that of one device. Sums in another order differ in float32's
# last digits; the largest difference seen was 2.2e-7.
LOSS_TOLERANCE = 1e-6


def _outcomes(devices: int, variants: dict[str, dict]) -> dict[str, dict]:
    tests = pathlib.Path(__file__).parents[1]
    env = os.environ | tiny_runs.devices(devices)
    env["PYTHONPATH"] = os.pathsep.join([str(tests), str(tests.parent)])
    done = subprocess.run(
        [sys.executable, "-m", "helpers.sharded_steps", json.dumps(list(variants.values()))],
        env=env,
        capture_output=True,
        text=True,
        timeout=3000,
    )
    assert done.returncode == 0, done.stderr
    found = dict(zip(variants, json.loads(done.stdout)))
    assert all(outcome["donated"] for outcome in found.values())
    return found


@pytest.fixture(scope="module")
def one():
    return _outcomes(1, ON_ONE)


@pytest.fixture(scope="module")
def two():
    return _outcomes(2, ON_TWO)


@pytest.fixture(scope="module")
def eight():
    return _outcomes(8, ON_EIGHT)


def _assert_same(found: dict, expected: dict) -> None:
    losses = np.array(expected["loss"])
    assert len(losses) == sharded_steps.STEPS and losses[-1] < 0.98 * losses[0]
    np.testing.assert_allclose(found["loss"], losses, rtol=LOSS_TOLERANCE)
    np.testing.assert_allclose(found["gradient_norm"], expected["gradient_norm"], rtol=1e-5)
    # A pixel at the boundary of two classes may change its class.
    confusion = np.array(expected["confusion"])
    assert np.abs(np.array(found["confusion"]) - confusion).sum() <= 1e-3 * confusion.sum()
    assert (confusion.sum((1, 2)) == expected["images"] * 32 * 32).all()
    for name in ("stats", "params", "average"):
        assert len(found[name]) == len(expected[name])
        for x, y in zip(found[name], expected[name]):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=5e-6, err_msg=name)


@pytest.mark.parametrize("name", PLAIN)
def test_eight_devices_compute_what_one_does(one, eight, name):
    assert one[name]["devices"] == 1
    # Six is the largest number of devices, up to eight, that divides twelve images.
    assert eight[name]["devices"] == (6 if name == "twelve" else 8)
    _assert_same(eight[name], one[name])


def test_two_devices_compute_what_one_does(one, two):
    assert two["batch"]["mesh"] == {"data": 2, "model": 1}
    _assert_same(two["batch"], one["batch"])


def test_scores_are_equal_with_a_last_batch_that_does_not_divide(one, eight):
    expected = np.array(one["batch"]["scored"])
    assert expected.shape == (13, 3, 3) and (expected.sum((1, 2)) == 32 * 32).all()
    assert np.abs(np.array(eight["batch"]["scored"]) - expected).sum() <= 1e-3 * expected.sum()


@pytest.mark.parametrize("name, parts", [("model", 2), ("model8", 8)])
def test_sharded_parameters_equal_replicated_ones(one, eight, name, parts):
    found = eight[name]
    assert found["mesh"] == {"data": 8 // parts, "model": parts}
    assert found["kernel"] == [3, 3, 3, 8] and found["kernel_here"] == [3, 3, 3, 8 // parts]
    assert found["moments_here"] * parts == eight["batch"]["moments_here"]
    _assert_same(found, one["batch"])


def test_parameters_sharded_over_two_devices_equal_replicated_ones(one, two):
    assert two["model"]["mesh"] == {"data": 1, "model": 2}
    _assert_same(two["model"], one["batch"])


def test_accumulated_gradients_equal_those_of_the_whole_batch(one, eight):
    _assert_same(one["accumulate"], one["group"])
    _assert_same(eight["accumulate"], one["group"])
    assert one["accumulate"]["temporary_bytes"] < 0.8 * one["group"]["temporary_bytes"]


def test_rematerialized_gradients_equal_the_stored_ones(one):
    _assert_same(one["remat"], one["batch"])
    # The six in the three blocks occur twice; XLA on CPU removes the second ones later.
    assert one["remat"]["convolutions"] == one["batch"]["convolutions"] + 6


def test_all_variants_together(one, eight):
    assert eight["everything"]["mesh"] == {"data": 4, "model": 2}
    _assert_same(eight["everything"], one["group"])


@pytest.mark.parametrize(
    "shape, expected",
    [
        ((3, 3, 4, 8), (None, None, None, "model")),
        ((3, 3, 8, 8), (None, None, None, "model")),  # the last of two equal ones
        ((3, 3, 16, 8), (None, None, "model")),
        ((3, 3, 3, 6), ()),  # 4 divides no axis
        ((64,), ()),
        ((), ()),
    ],
)
def test_sharded_axis(shape, expected):
    axes = ("data", "model")
    assert tuple(sharding.state_sharding(AbstractMesh((1, 4), axes), shape).spec) == expected
    assert tuple(sharding.state_sharding(AbstractMesh((4, 1), axes), shape).spec) == ()


@pytest.mark.parametrize(
    "batch, fields, expected",
    [
        (4, {"model": 3}, "config.mesh.model is 3; with 1 processes of 1 devices"),
        (4, {"data": 2}, "config.mesh.data is 2, and 4 images are computed at once"),
    ],
)
def test_an_impossible_mesh(batch, fields, expected):
    with pytest.raises(ConfigError) as caught:
        sharding.make_mesh(batch, Mesh(**fields))
    assert expected in str(caught.value)


def _cache(setting: str, **variables: str) -> str:
    """Returns the folder of the compilation cache that a new process uses on a CPU."""
    code = (
        "import jax\nfrom wbc_jax.parallel import sharding\n"
        f"sharding.use_compilation_cache({setting!r})\n"
        "print(jax.config.jax_compilation_cache_dir)"
    )
    env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"} | variables
    env["JAX_PLATFORMS"] = "cpu"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "setting, variables, expected",
    [
        ("auto", {}, "None"),  # the fast convolutions cannot be cached
        ("auto", {"JAX_COMPILATION_CACHE_DIR": "/tmp/theirs"}, "/tmp/theirs"),
        ("/tmp/ours", {"JAX_COMPILATION_CACHE_DIR": "/tmp/theirs"}, "/tmp/ours"),
    ],
)
def test_compilation_cache_folder(setting, variables, expected):
    assert _cache(setting, **variables) == expected


@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("count", [1, 3, 4, 9])
def test_groups_have_one_shape_and_keep_the_order(monkeypatch, group, count):
    shapes = []

    def doubled(weights, images):
        shapes.append(images.shape)
        return {"twice": weights * images, "sum": images.sum(1)}

    monkeypatch.setattr(sharding, "group_size", lambda: group)
    in_groups = sharding.InGroups(doubled, sharding.local_mesh(1))
    images = np.arange(2.0 * count, dtype=np.float32).reshape(count, 2)
    for part in (images, images[:1], images[::-1]):
        found = in_groups(np.float32(2), part)
        np.testing.assert_array_equal(found["twice"], 2 * part)
        np.testing.assert_array_equal(found["sum"], part[:, 0] + part[:, 1])
    assert set(shapes) == {(group, 2)} and len(shapes) == 1  # traced once


_GROUPS = """
import json, jax, numpy as np
from wbc_jax.parallel import sharding

sharding.group_size = lambda: 2
shapes = []
in_groups = sharding.InGroups(
    lambda w, x: shapes.append(x.shape) or w * x, sharding.local_mesh()
)
x = np.arange(11, dtype=np.float32)
print(json.dumps([shapes, in_groups(np.float32(3), x).tolist(), shapes]))
print(json.dumps([sharding.local_mesh(n).size for n in (1, 2, 3, 8, 9, 100)]))
"""


def test_groups_on_several_devices():
    done = subprocess.run(
        [sys.executable, "-c", _GROUPS],
        env=os.environ | tiny_runs.devices(4),
        capture_output=True,
        text=True,
        check=True,
    )
    found, sizes = map(json.loads, done.stdout.splitlines())
    assert found == [[[2]], [3.0 * n for n in range(11)], [[2]]]
    # A device without a group is left out.
    assert sizes == [1, 1, 2, 4, 4, 4]
