"""Checkpoints come back bit for bit, and damaged ones are named."""

import gc
import hashlib
import resource

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from etils import epath

from helpers import tiny_runs
from wbc_jax.errors import CheckpointError
from wbc_jax.training import checkpoint, steps

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


@pytest.mark.parametrize(
    "keep, expected",
    [
        ({}, {"best": ["6"], "last": ["4", "6"]}),
        ({"keep_best": 2, "keep_last": 3}, {"best": ["4", "6"], "last": ["2", "4", "6"]}),
        ({"keep_last": 1}, {"best": ["6"], "last": ["6"]}),
    ],
)
def test_keeps_the_best_and_the_last(tmp_path, keep, expected):
    with checkpoint.Checkpoints(tmp_path, **keep) as checkpoints:
        for step in (2, 4, 6):
            for which in (checkpoint.BEST, checkpoint.LAST):
                checkpoints.save(which, step, _state(step), {"step": step})
    folders = {
        which: sorted(p.name for p in (tmp_path / "checkpoints" / which).iterdir())
        for which in (checkpoint.BEST, checkpoint.LAST)
    }
    assert folders == expected


def test_a_step_that_is_saved_already_is_left(tmp_path):
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
        pytest.raises(CheckpointError) as caught,
    ):
        checkpoints.restore(checkpoint.LAST, _state(0))
    assert f"{tmp_path / 'checkpoints' / 'last'} holds no checkpoint; train first" in str(
        caught.value
    )


def _largest(folder):
    there = [p for p in (folder / "state").rglob("*") if p.is_file()]
    return max(there, key=lambda p: p.stat().st_size)


def _truncate(folder):
    path = _largest(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _flip_a_bit(folder):
    path = _largest(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _no_position(folder):
    for path in (folder / "position").iterdir():
        path.write_bytes(b"")


def _empty(folder):
    for path in (folder / "state").rglob("*"):
        if path.is_file():
            path.unlink()


def _no_sums(folder):
    (folder / checkpoint.SUMS).write_bytes(b"\xff\n")


DAMAGES = [_truncate, _flip_a_bit, _no_position, _empty, _no_sums]


def _saved(tmp_path, *at):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        for step in at:
            checkpoints.save(checkpoint.LAST, step, _state(step), {"step": step, "best_step": 0})


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, damage, caplog):
    _saved(tmp_path, 2, 4)
    folder = tmp_path / "checkpoints" / "last" / "4"
    assert checkpoint.damage(epath.Path(folder)) is None
    damage(folder)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        found, at = checkpoints.restore(checkpoint.LAST, _state(0))
        assert int(found.step) == at["step"] == 2
        assert f"{folder} is damaged (" in caplog.text
        assert "that of step 2 is used" in caplog.text
        assert folder.exists()  # reading changes nothing
        # Training removes it, so that the step can be saved again.
        checkpoints.repair()
        assert not folder.exists()
        checkpoints.save(checkpoint.LAST, 4, _state(4), {"step": 4, "best_step": 0})
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        found, at = checkpoints.restore(checkpoint.LAST, _state(0))
    tiny_runs.assert_equal(found, _state(4))


def test_all_damaged(tmp_path, caplog):
    _saved(tmp_path, 2)
    _flip_a_bit(tmp_path / "checkpoints" / "last" / "2")
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step(checkpoint.LAST) is None
    assert "there is no other" in caplog.text


def test_the_checksums_are_those_of_the_files(tmp_path):
    _saved(tmp_path, 2)
    folder = tmp_path / "checkpoints" / "last" / "2"
    lines = (folder / checkpoint.SUMS).read_text().splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert listed.keys() == there - {checkpoint.SUMS} and len(listed) > 5
    for name, digest in listed.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("damage", [_truncate, _no_position, _empty])
def test_without_checksums_a_damaged_checkpoint_is_named(tmp_path, damage):
    """The process was killed before it wrote the checksums; the damage came later."""
    _saved(tmp_path, 2, 4)
    folder = tmp_path / "checkpoints" / "last" / "4"
    (folder / checkpoint.SUMS).unlink()
    damage(folder)
    with (
        checkpoint.Checkpoints(tmp_path) as checkpoints,
        pytest.raises(CheckpointError) as caught,
    ):
        checkpoints.restore(checkpoint.LAST, _state(0))
    text = str(caught.value)
    assert f"{folder} cannot be restored" in text
    assert "Delete it to go on from the one before" in text


def test_a_version_without_checksums_can_be_resumed(tmp_path):
    _saved(tmp_path, 2)
    (tmp_path / "checkpoints" / "last" / "2" / checkpoint.SUMS).unlink()
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.repair()
        found, _ = checkpoints.restore(checkpoint.LAST, _state(0))
    tiny_runs.assert_equal(found, _state(2))


@pytest.mark.parametrize("loss", ["damaged", "never written"])
def test_a_lost_best_checkpoint_is_copied_from_the_last_of_the_same_step(tmp_path, loss):
    at = {"step": 4, "best_step": 4, "best": 0.5}
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        if loss == "damaged":
            checkpoints.save(checkpoint.BEST, 4, _state(4), at)
        checkpoints.save(checkpoint.LAST, 4, _state(4), at)
    best = tmp_path / "checkpoints" / "best"
    if loss == "damaged":
        _flip_a_bit(best / "4")
    # The remains of a process that was killed while saving.
    (best / "4.orbax-checkpoint-tmp-7" / "state").mkdir(parents=True)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.repair()
        found, there = checkpoints.restore(checkpoint.BEST, _state(0))
    tiny_runs.assert_equal(found, _state(4))
    assert there == at
    assert [p.name for p in best.iterdir()] == ["4"]
    assert checkpoint.damage(epath.Path(best / "4")) is None


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path):
    def large(step):
        noise = np.random.default_rng(step).bytes(1 << 22)  # 4 MB that do not compress
        state = _state(step, average=False)
        state.params["noise"] = jnp.asarray(np.frombuffer(noise, np.uint8))
        return state

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(checkpoint.LAST, 2, large(2), {"step": 2, "best_step": 0})
        checkpoints.wait()
        # No file may grow beyond 1 MB: writing fails as on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
        try:
            with pytest.raises(CheckpointError) as caught:
                checkpoints.save(checkpoint.LAST, 4, large(4), {"step": 4, "best_step": 0})
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    text = str(caught.value)
    folder = tmp_path / "checkpoints" / "last"
    assert f"the checkpoint of step 4 could not be written to {folder} (" in text
    assert "File too large" in text
    assert "that of step 2 stays. Free space or make the disk writable" in text
    assert [p.name for p in folder.iterdir()] == ["2"]
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        found, _ = checkpoints.restore(checkpoint.LAST, large(0))
    tiny_runs.assert_equal(found, large(2))


def test_another_network(tmp_path):
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(checkpoint.LAST, 1, _state(1), {})
        checkpoints.wait()
        other = _state(0)
        other.params["a"]["kernel"] = jnp.zeros((3, 3))
        with pytest.raises(CheckpointError, match="cannot be restored"):
            checkpoints.restore(checkpoint.LAST, other)
