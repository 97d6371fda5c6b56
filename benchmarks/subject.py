"""The subject of the benchmarks: the steps that this package trains and predicts with."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import cases
from wbc_jax import cpu, models
from wbc_jax.config import Augment, Config, Loss, Model
from wbc_jax.models import describe
from wbc_jax.parallel import sharding
from wbc_jax.training import steps


def _config(case: cases.Case, dtype: str) -> Config:
    config = Config()
    config.task = case.task
    features = case.features or 16  # the encoder-decoder's widths are fixed
    config.model = Model(name=case.network, features=features, dtype=dtype)
    config.augment = Augment(flip=False, quarter_turns=False)
    if case.task == "classification":
        config.loss = Loss(cross_entropy=1.0, dice=0.0)
    config.train.steps = 1000
    return config


def build(case: cases.Case, dtype: str = "") -> tuple[Config, nnx.Module]:
    """Returns the config and the network; by default bfloat16 on a GPU, float32 on CPU."""
    default = "bfloat16" if jax.default_backend() == "gpu" else "float32"
    config = _config(case, dtype or default)
    classes = cases.CLASSES[case.task]
    return config, models.build(config.model, classes=classes, image_size=case.size)


def batch(case: cases.Case, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns random uint8 images and their truth."""
    rng = np.random.default_rng(seed)
    size, count = case.size, case.batch
    made = {
        "image": rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8),
        "index": np.arange(count, dtype=np.int32),
        "epoch": np.zeros(count, np.int32),
    }
    if case.task == "classification":
        made["label"] = rng.integers(0, 5, count).astype(np.int32)
    else:
        made["mask"] = rng.integers(0, 3, (count, size, size)).astype(np.uint8)
    return made


def _peak() -> int:
    stats = jax.devices()[0].memory_stats() or {}
    return stats.get("peak_bytes_in_use") or cases.process_peak()


def flops(model: nnx.Module, case: cases.Case) -> int:
    """Returns the operations of a forward pass, two a multiply-add."""
    layers = describe.describe(model, (case.batch, case.size, case.size, 3))
    return sum(layer.flops for layer in layers)


def make(case: cases.Case, mode: str) -> cases.Side:
    """Returns the side: one step of training without augmentation, or the logits of a batch."""
    config, model = build(case)
    operations = flops(model, case)
    network, weights = steps.split_network(model)
    arrays = batch(case)
    if mode == "predict":
        predict = jax.jit(steps.make_logits(network), compiler_options=cpu.compiler_options())
        images = jnp.asarray(arrays["image"])
        return cases.Side(lambda: predict(weights, images).block_until_ready(), _peak, operations)
    mesh = sharding.make_mesh(case.batch)
    step = steps.make_train_step(config, network, mesh)
    state = steps.init_state(config, weights, mesh)
    placed = sharding.put_batch(arrays, mesh)

    def run():
        nonlocal state
        state, metrics = step(state, placed)
        if not math.isfinite(float(metrics["loss"])):
            raise FloatingPointError(f"{case}: the loss is not finite")

    # The backward pass has the gradients of input and weights, each as much work as the forward.
    return cases.Side(run, _peak, 3 * operations)
