"""What is saved comes back bit for bit, and what is damaged is named."""

import gc

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tiny_runs
from wbc_jax import checkpoint, steps

# Orbax leaves coroutines behind when a read fails.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _collected():
    yield
    gc.collect()


def _state(step, average=True, scale=1.0):
    params = {"a": {"kernel": jnp.arange(6.0).reshape(2, 3) * scale}, "b": jnp.float32(1 / 3)}
    return steps.TrainState(
        step=jnp.int32(step),
        params=params,
        stats={},  # Orbax refuses empty trees
        opt_state=optax.adam(1e-3).init(params),
        average={"params": params, "stats": {}} if average else None,
        rate_scale=jnp.float32(0.5),
    )


@pytest.mark.parametrize("average", [True, False])
def test_round_trip(tmp_path, average):
    position = {"step": 3, "best": 1 / 3, "stopped": False, "window": {"loss": [0.1], "c": [[1]]}}
    saved = _state(3, average)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(checkpoint.BEST, 3, saved, position)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        found, at = checkpoints.restore(checkpoint.BEST, _state(0, average, scale=0.0))
        assert checkpoints.latest_step(checkpoint.LAST) is None
    tiny_runs.assert_equal(found, saved)
    assert isinstance(found, steps.TrainState) and isinstance(found.opt_state, tuple)
    assert (found.average is None) != average
    assert at == position


def test_keeps_one_best_and_the_last_two(tmp_path):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        for step in (2, 4, 6):
            for which in (checkpoint.BEST, checkpoint.LAST):
                checkpoints.save(which, step, _state(step), {"step": step})
    folders = {
        which: sorted(p.name for p in (tmp_path / "checkpoints" / which).iterdir())
        for which in (checkpoint.BEST, checkpoint.LAST)
    }
    assert folders == {"best": ["6"], "last": ["4", "6"]}


def test_a_step_that_is_there_is_left(tmp_path):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(checkpoint.LAST, 2, _state(2), {"note": "first"})
        checkpoints.wait()
        checkpoints.save(checkpoint.LAST, 2, _state(2, scale=9.0), {"note": "second"})
        found, at = checkpoints.restore(checkpoint.LAST, _state(0))
    assert at == {"note": "first"}
    np.testing.assert_array_equal(found.params["a"]["kernel"][1], [3, 4, 5])


def test_a_relative_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with checkpoint.Checkpoints("runs/a") as checkpoints:
        checkpoints.save(checkpoint.LAST, 1, _state(1), {})
    assert (tmp_path / "runs" / "a" / "checkpoints" / "last" / "1").is_dir()


def test_nothing_there(tmp_path):
    with (
        checkpoint.Checkpoints(tmp_path) as checkpoints,
        pytest.raises(checkpoint.CheckpointError) as caught,
    ):
        checkpoints.restore(checkpoint.LAST, _state(0))
    assert f"{tmp_path / 'checkpoints' / 'last'} holds no checkpoint; train first" in str(
        caught.value
    )


def _truncate(folder):
    for path in folder.rglob("*"):
        if path.is_file() and "state" in path.parts:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _no_position(folder):
    for path in (folder / "position").iterdir():
        path.write_bytes(b"")


def _empty(folder):
    for path in (folder / "state").rglob("*"):
        if path.is_file():
            path.unlink()


@pytest.mark.parametrize("damage", [_truncate, _no_position, _empty])
def test_a_damaged_checkpoint_is_named_and_the_one_before_can_be_used(tmp_path, damage):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        for step in (2, 4):
            checkpoints.save(checkpoint.LAST, step, _state(step), {"step": step})
    folder = tmp_path / "checkpoints" / "last" / "4"
    damage(folder)
    with (
        checkpoint.Checkpoints(tmp_path) as checkpoints,
        pytest.raises(checkpoint.CheckpointError) as caught,
    ):
        checkpoints.restore(checkpoint.LAST, _state(0))
    text = str(caught.value)
    assert f"{folder} cannot be restored" in text
    assert "Delete it to go on from the one before" in text
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        found, at = checkpoints.restore(checkpoint.LAST, _state(0))
    assert int(found.step) == at["step"] == 2


def test_another_network(tmp_path):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(checkpoint.LAST, 1, _state(1), {})
        checkpoints.wait()
        other = _state(0)
        other.params["a"]["kernel"] = jnp.zeros((3, 3))
        with pytest.raises(checkpoint.CheckpointError, match="cannot be restored"):
            checkpoints.restore(checkpoint.LAST, other)
