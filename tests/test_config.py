"""Every field has its limit beside it; configs compare and print."""

import dataclasses
import math
import subprocess
import sys

import pytest

from wbc_jax import config as config_lib
from wbc_jax.config import (
    Choices,
    Evaluate,
    Model,
    Range,
    Train,
    differences,
    flatten,
    in_steps,
    limits,
)
from wbc_jax.errors import ConfigError


def test_every_number_has_a_range():
    flat = flatten(config_lib.Config())
    numbers = {k for k, v in flat.items() if isinstance(v, int | float) and v is not bool(v)}
    ranges = {k for k, v in limits().items() if isinstance(v, Range)}
    assert ranges == numbers


def test_every_text_has_choices_or_names_something_outside():
    flat = flatten(config_lib.Config())
    texts = {k for k, v in flat.items() if isinstance(v, str)}
    choices = {k for k, v in limits().items() if isinstance(v, Choices)}
    assert texts - choices == {
        "data.data_dir",
        "data.manual_dir",
        "data.train_source",
        "data.left_out",
        "data.isolate",
        "train.init_from",
        "train.compilation_cache",
        "model.name",  # `config_checks` reads the registry of networks
    }
    assert choices < texts


def test_limits():
    Range(1, 8).check("x", 1)
    Range(1, 8).check("x", 8)
    Range(0).check("x", 1e300)
    Choices("a", "b").check("x", "b")
    for allowed, value, expected in [
        (Range(1, 8), 9, "config.x is 9; it must be at least 1 and at most 8."),
        (Range(0), -0.5, "config.x is -0.5; it must be at least 0 and finite."),
        (Range(0), math.inf, "config.x is inf; it must be at least 0 and finite."),
        (Range(0), math.nan, "config.x is nan; it must be at least 0 and finite."),
        (Choices("a", "b"), "c", "config.x is 'c'; allowed are 'a', 'b'."),
    ]:
        with pytest.raises(ConfigError) as caught:
            allowed.check("x", value)
        assert str(caught.value) == expected


def test_misspelt_fields_are_refused():
    with pytest.raises(AttributeError):
        config_lib.Config().data.image_sze = 3


def test_differences():
    old, new = config_lib.Config(), config_lib.Config()
    assert differences(old, new) == []
    new = dataclasses.replace(
        new,
        model=Model(features=8),
        evaluate=Evaluate(flips=True),
    )
    assert differences(old, new) == [
        "config.model.features: 16 there, 8 here",
        "config.evaluate.flips: False there, True here",
    ]
    assert differences(old, new, ("evaluate.flips",)) == ["config.model.features: 16 there, 8 here"]


def test_in_steps():
    config = config_lib.Config(train=Train(batch_size=16, steps=7, epochs=3, evaluate_every=0))
    # 33 images are three batches a pass, the last one of a single image.
    train = in_steps(config, 33).train
    assert (train.steps, train.evaluate_every) == (9, 3)
    assert (config.train.steps, config.train.evaluate_every) == (7, 0)
    config.train.epochs, config.train.evaluate_every = 0, 5
    train = in_steps(config, 33).train
    assert (train.steps, train.evaluate_every) == (7, 5)


def _modules(code):
    """Returns the names of the modules that a new process has imported after `code`."""
    code += "; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_config_and_its_checks_import_without_jax():
    modules = _modules("from wbc_jax import config_checks")
    assert "wbc_jax.config" in modules
    assert not modules & {"jax", "flax", "numpy", "tensorflow_datasets"}


def test_config_imports_nothing_of_the_package():
    ours = {name for name in _modules("import wbc_jax.config") if name.startswith("wbc_jax.")}
    assert ours <= {"wbc_jax.config", "wbc_jax.errors"}
