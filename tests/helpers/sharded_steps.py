"""Trains a few steps on all devices of this process; run by tests/test_sharding.py.

`python -m helpers.sharded_steps '[{"model__norm": "batch"}, …]'`, run in tests/, prints JSON: for
each dictionary of config fields the losses, confusion matrices and final state.
"""

import json
import sys

import jax
import numpy as np

from helpers import tiny_runs
from wbc_jax import evaluate, models
from wbc_jax.parallel import sharding
from wbc_jax.training import steps

STEPS = 4


def batches(size: int, seed: int = 0):
    """Yields batches of blocks whose brightness tells the class, with noise."""
    rng = np.random.default_rng(seed)
    for step in range(STEPS):
        mask = rng.integers(0, 3, (size, 4, 4)).repeat(8, 1).repeat(8, 2).astype(np.uint8)
        noise = rng.integers(0, 60, (*mask.shape, 3))
        yield {
            "image": (mask[..., None] * 90 + noise).astype(np.uint8),
            "mask": mask,
            "index": np.arange(size, dtype=np.int32) + step * size,
            "epoch": np.zeros(size, np.int32),
        }


class Images:
    """A split of 13 images, which is no multiple of the batch size 8."""

    cell_only = np.zeros(13, bool)

    def __init__(self):
        drawn = list(batches(4, seed=1))
        self._images = {k: np.concatenate([b[k] for b in drawn]) for k in ("image", "mask")}

    def __len__(self) -> int:
        return 13

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {key: value[index] for key, value in self._images.items()}


def outcome(fields: dict) -> dict:
    """Returns the outcome of a few steps of `tiny_runs.config` with these fields."""
    # Plain gradient descent. Others divide by the size of gradients, and that of a bias before
    # batch normalization is pure rounding.
    fixed = {"model__features": 8, "optimizer__name": "sgd", "optimizer__learning_rate": 0.1}
    config = tiny_runs.least("/nowhere", **(fixed | {"optimizer__warmup_steps": 0} | fields))
    train = config.train
    mesh = sharding.make_mesh(train.batch_size // train.accumulate, config.mesh)
    network, weights = steps.split_network(models.build(config.model, 0))
    state = steps.init_state(config, weights, mesh)
    step = steps.make_train_step(config, network, mesh)
    found = {"loss": [], "gradient_norm": [], "confusion": []}
    memory = 0
    for batch in batches(train.batch_size):
        placed = sharding.put_batch(batch, mesh)
        if not memory:
            lowered = step.lower(state, placed)
            convolutions = lowered.as_text().count("stablehlo.convolution")
            step = lowered.compile()
            memory = step.memory_analysis().temp_size_in_bytes
        before = jax.tree.leaves(state.params)[0]
        state, report = step(state, placed)
        for name in found:
            found[name].append(np.asarray(report[name]).tolist())
    local = sharding.local_mesh(8)
    weights = sharding.to_local(state.weights(), mesh, local)
    scored = []
    if config.optimizer.ema_decay:
        predict = steps.make_predict_step(config, network, mesh=local)
        counts = evaluate.masks.measure(lambda images: predict(weights, images), Images(), 8)
        scored = counts.confusion.tolist()
    kernel = state.params["encoder"][0]["conv1"]["kernel"]
    moments = jax.tree.leaves(state.opt_state)
    return found | {
        "images": train.batch_size,
        "devices": mesh.devices.size,
        "mesh": dict(mesh.shape),
        "temporary_bytes": memory,
        "convolutions": convolutions,
        "donated": before.is_deleted(),
        "kernel": kernel.shape,
        "kernel_here": kernel.addressable_shards[0].data.shape,
        "moments_here": max(m.addressable_shards[0].data.nbytes for m in moments),
        "stats": [np.asarray(s).tolist() for s in jax.tree.leaves(state.stats)],
        "params": [np.asarray(p).tolist() for p in jax.tree.leaves(state.params)],
        "average": [np.asarray(p).tolist() for p in jax.tree.leaves(weights)],
        "scored": scored,
    }


if __name__ == "__main__":
    print(json.dumps([outcome(fields) for fields in json.loads(sys.argv[1])]))
