"""The files of a network's outputs for the sources that it was trained on and those left out."""

import sys
import types

import numpy as np
import pytest

import left_out_outputs
from wbc_jax.config import Config, Data
from wbc_jax.inference import left_out
from wbc_jax.inference.abstention import Outputs

KERNEL = np.array([[1, 0, 0, 2, 0], [0, 1, 0, 0, -1]], np.float32)
SPLITS = {
    "train": (["home"] * 6, [0, 1, 2, 3, 4, 0]),
    "validation": (["home"] * 4, [1, 2, 3, 4]),
    "test": (["new"] * 2 + ["other"] * 3, [4, 3, 0, 1, 2]),
}


class Cells(types.SimpleNamespace):
    def __len__(self):
        return len(self.labels)


def outputs(start, count):
    """Embeddings of two values, the cell's number and its square, and one feature after them."""
    place = np.arange(start, start + count, dtype=np.float32)
    embedding = np.stack([place, place**2], 1)
    return Outputs(embedding @ KERNEL, np.column_stack([embedding, -place]))


@pytest.fixture
def network(monkeypatch):
    """A network without the sources `new` and `other`, and what it says of each split."""
    config = Config(task="classification", data=Data(independent=("new", "other")))
    config.data.protocol = "independent"
    model = types.SimpleNamespace(config=config, embedding_size=2)
    splits = {
        name: Cells(datasets=sources, labels=np.array(labels))
        for name, (sources, labels) in SPLITS.items()
    }
    said = {"train": outputs(0, 6), "validation": outputs(6, 4), "test": outputs(10, 5)}
    monkeypatch.setattr(left_out_outputs.inference, "load", lambda run: model)
    monkeypatch.setattr(left_out_outputs.cell_masks, "prepare", lambda data: {})
    monkeypatch.setattr(left_out_outputs.pipeline, "load_splits", lambda *given: splits)
    monkeypatch.setattr(
        left_out_outputs,
        "outputs_of",
        lambda model, cells: next(said[name] for name in splits if splits[name] is cells),
    )
    foreign = outputs(20, 2), ["pbc, other", "all_idb, blasts"]
    monkeypatch.setattr(left_out_outputs, "foreign", lambda model: foreign)
    return model


def test_each_source_left_out_gets_a_file_without_the_others(network, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "runs/one", f"--out={tmp_path / 'files'}"])
    left_out_outputs.main()
    new, other = left_out.read_folder(tmp_path / "files")
    assert (new.name, other.name) == ("new", "other")
    np.testing.assert_allclose(new.kernel, KERNEL, atol=1e-3)
    for one in (new, other):
        assert one.train.outputs.embeddings[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
        assert one.train.labels.tolist() == [0, 1, 2, 3, 4, 0]
        # Every second validation cell stands for a test cell.
        assert one.validation.outputs.embeddings[:, 0].tolist() == [6, 8]
        assert one.test.outputs.embeddings[:, 0].tolist() == [7, 9]
        assert one.test.labels.tolist() == [2, 4] and one.test.features.tolist() == [[-7], [-9]]
        assert one.foreign.outputs.embeddings[:, 0].tolist() == [20, 21]
        assert one.foreign.sources.tolist() == ["pbc, other", "all_idb, blasts"]
    assert new.away.outputs.embeddings.tolist() == [[10, 100], [11, 121]]
    assert new.away.labels.tolist() == [4, 3]
    assert other.away.outputs.embeddings[:, 0].tolist() == [12, 13, 14]
    np.testing.assert_array_equal(other.away.outputs.logits, outputs(12, 3).logits)


def test_networks_that_were_trained_on_all_sources_are_refused(network, tmp_path, monkeypatch):
    network.config.data.protocol = "fractions"
    monkeypatch.setattr(sys, "argv", ["x", "runs/one", f"--out={tmp_path}"])
    with pytest.raises(SystemExit, match=r"runs/one was trained with data.protocol='fractions'"):
        left_out_outputs.main()
    assert not list(tmp_path.iterdir())
