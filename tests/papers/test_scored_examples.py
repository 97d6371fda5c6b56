"""A run's network on its test images, and its throughput."""

import types

import pytest
from etils import epath

from wbc_jax.errors import ConfigError
from wbc_jax.papers import examples, plans
from wbc_jax.papers.runs import RunStore


def test_throughput_is_measured_once(run, monkeypatch):
    there = types.SimpleNamespace(folder=epath.Path(run.workdir), config=run.config)
    found = examples.throughput(there)
    assert found > 0
    monkeypatch.setattr(examples, "_model", None)  # is not asked again
    assert examples.throughput(there) == found
    (epath.Path(run.workdir) / examples.THROUGHPUT).unlink()


def test_images_of_changed_splits_are_not_scored(run, monkeypatch):
    """They could be images that the network was trained on."""

    def refuse(folder, splits):
        assert folder == epath.Path(run.workdir) and {"train", "test"} <= set(splits)
        raise ConfigError("the test split has changed\nsince")

    monkeypatch.setattr(plans, "folder", lambda *_: epath.Path(run.workdir))
    found = RunStore(epath.Path(run.workdir), "full", refuse).run("unet")
    with pytest.raises(examples.UnreadableError, match=r"cannot be read: the test split has \w+$"):
        examples.scored_examples(found)
