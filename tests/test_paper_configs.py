"""configs/paper_*.py are valid and hold the papers' printed settings."""

import importlib

import jax
import pytest
from flax import nnx

from wbc_jax import config_checks, models
from wbc_jax.config import Loss

PARAMETERS = {
    # Counted from the papers' drawings, like `expected_count` in tests/models/test_unet.py.
    "paper_a_unet": 31_042_499,
    "paper_b_classifier": 17_499_781,
    "paper_b_encoder_decoder": 58_467,
    "paper_b_unet": 7_697_475,
    "paper_b_segnet": 522_435,
}


def load(name):
    return config_checks.validate(importlib.import_module(f"wbc_jax.configs.{name}").get_config())


@pytest.mark.parametrize("name", PARAMETERS)
def test_the_networks_have_the_papers_sizes(name):
    config = load(name)
    network = nnx.eval_shape(
        lambda: models.build(config.model, 0, image_size=config.data.image_size)
    )
    assert PARAMETERS[name] == sum(
        x.size for x in jax.tree.leaves(nnx.to_pure_dict(nnx.state(network, nnx.Param)))
    )
    assert config.data.protocol == name[:7]
    # One validation round after each epoch.
    assert config.train.evaluate_every == 0


def test_paper_a():
    config = load("paper_a_unet")
    assert (config.data.image_size, config.train.batch_size, config.train.epochs) == (256, 16, 60)
    assert (config.optimizer.name, config.optimizer.learning_rate) == ("adam", 4e-4)
    assert (config.loss.binary_focal, config.loss.focal_gamma) == (1, 2)
    # The alternative settings that the config's header names.
    config.optimizer.learning_rate = 1e-3
    config.model.channels = 3
    for name in ("binary_cross_entropy", "cross_entropy"):
        config.loss = Loss(cross_entropy=0.0, dice=0.0)
        setattr(config.loss, name, 1.0)
        config_checks.validate(config)


@pytest.mark.parametrize("name", [name for name in PARAMETERS if "paper_b" in name])
def test_paper_b(name):
    config = load(name)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.learning_rate, optimizer.momentum) == ("sgd", 3e-4, 0.9)
    assert (optimizer.weight_decay, optimizer.schedule) == (1e-4, "constant")
    classifies = config.task == "classification"
    assert config.train.epochs == (500 if classifies else 10)
    assert config.augment.preset == ("paper_b" if classifies else "none")
    assert config.data.image_size == 360
    assert config.loss == Loss(cross_entropy=1.0, dice=0.0)
