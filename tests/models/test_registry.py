"""wbc_jax.models: every registered network trains a step and predicts, at any size."""

import jax
import numpy as np
import pytest

import tiny_runs
from wbc_jax import models, networks, sharding, steps

SEGMENTATION = [name for name, entry in networks.NETWORKS.items() if entry.task == "segmentation"]


@pytest.mark.parametrize("name", SEGMENTATION)
def test_a_step_moves_parameters_and_statistics_and_lowers_the_loss(name, tmp_path):
    config = tiny_runs.config(
        tmp_path,
        model__name=name,
        model__norm="batch",
        optimizer__ema_decay=0.0,
        optimizer__warmup_steps=0,
        augment__flip=False,
    )
    network, weights = steps.split_network(models.build(config.model))
    before = jax.tree.map(np.array, weights)
    mesh = sharding.make_mesh(config.train.batch_size)
    state = steps.init_state(config, weights, mesh)
    step = steps.make_train_step(config, network, mesh)
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 3, (8, 4, 4)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    batch = {
        "image": np.repeat((mask * 100)[..., None], 3, -1),  # brightness tells the class
        "mask": mask,
        "index": np.arange(8, dtype=np.int32),
        "epoch": np.zeros(8, np.int32),
    }
    batch = sharding.put_batch(batch, mesh)
    losses = []
    for _ in range(6):
        state, report = step(state, batch)
        losses.append(float(report["loss"]))
    assert losses[-1] < 0.8 * losses[0]
    after = jax.tree.map(np.array, {"params": state.params, "stats": state.stats})
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
    # A bias before batch normalisation has no gradient but for rounding; the rest must move.
    assert all(jax.tree.leaves(moved["stats"]))
    assert np.mean(jax.tree.leaves(moved["params"])) > 0.6
    config.evaluate.size = 24
    predict = steps.make_predict_step(config, network)
    images = rng.integers(0, 256, (2, 21, 33, 3)).astype(np.uint8)
    assert predict(state.weights(), images).shape == (2, 24, 24)
