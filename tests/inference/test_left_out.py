"""Networks trained without one source, as files of their outputs."""

import numpy as np
import pytest

from wbc_jax.errors import DataError
from wbc_jax.inference import folder_statistics, left_out

MEANS = 6 * np.eye(5, 8)
KERNEL = (MEANS - MEANS.mean(0)).T


def write(path, name, seed=0, **changes):
    """Three sources of 300 cells, the one named moved and too sure; 20 foreign cells."""
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(5), 180)
    sources = np.repeat(["a", "b", "c"], 300)
    embedding = MEANS[labels] + rng.normal(size=(900, 8)) * 1.2
    embedding[sources == name] += np.array([0, 0, 0, 0, 0, 2.0, 2, 2])
    foreign = rng.normal(size=(20, 8)) + 9
    embedding = np.concatenate([embedding, foreign])
    arrays = {
        "embedding": embedding,
        "logits": embedding @ KERNEL + np.arange(5),
        "label": np.concatenate([labels, np.full(20, -1)]),
        "source": np.concatenate([sources, ["a/foreign"] * 20]),
        "split": np.concatenate(
            [np.tile(["train", "train", "validation", "test"], 225), ["test"] * 20]
        ),
        "left_out": name,
    }
    arrays = {key: value for key, value in (arrays | changes).items() if value is not None}
    np.savez(path, **arrays)
    return arrays


def test_the_parts_of_a_file(tmp_path):
    given = write(tmp_path / "a.npz", "b")
    one = left_out.read(tmp_path / "a.npz")
    assert one.name == "b" and set(one.away.sources) == {"b"} and len(one.away.labels) == 300
    assert [len(part.labels) for part in (one.train, one.validation, one.test)] == [300, 150, 150]
    assert set(one.train.sources) == {"a", "c"} and len(one.foreign.labels) == 20
    np.testing.assert_allclose(one.away.outputs.logits, given["logits"][300:600], rtol=1e-5)
    np.testing.assert_allclose(one.kernel, KERNEL, atol=1e-4)


def test_sources_left_out_are_moved_each_by_its_own_statistics(tmp_path):
    write(tmp_path / "a.npz", "a")
    write(tmp_path / "b.npz", "b", 1)
    networks = left_out.read_folder(tmp_path)
    assert [one.name for one in networks] == ["a", "b"]
    one = networks[1]
    seen = one.learn()
    cells = one.moved(seen, one.away)
    found = folder_statistics.estimate(seen, one.kernel, one.away.outputs)
    assert found.shift[5:].min() > 0.5
    np.testing.assert_allclose(
        cells.outputs.embeddings, one.away.outputs.embeddings - found.shift, rtol=1e-5, atol=1e-5
    )
    bias = np.arange(5)
    expected = cells.outputs.embeddings @ KERNEL + bias
    np.testing.assert_allclose(cells.outputs.logits, expected, atol=2e-3)
    first, second = left_out.away(networks)
    assert len(first.labels) == len(second.labels) == 300
    typical = np.median(seen.distance(one.validation.outputs.embeddings))
    np.testing.assert_allclose(second.far, seen.distance(cells.outputs.embeddings) / typical)


def test_files_of_something_else(tmp_path):
    write(tmp_path / "a.npz", "a")
    with pytest.raises(DataError, match=r"holds 1 \.npz files: two or more"):
        left_out.read_folder(tmp_path)
    for changes, said in (
        ({"split": None}, "split"),
        ({"logits": np.zeros((920, 4))}, "do not fit each other"),
        ({"embedding": np.zeros((7, 8))}, "do not fit each other"),
        ({"left_out": "d"}, "no cells of a known type that are away"),
    ):
        write(tmp_path / "b.npz", "b", **changes)
        with pytest.raises(DataError, match=said):
            left_out.read(tmp_path / "b.npz")
    (tmp_path / "b.npz").write_bytes(b"no file")
    with pytest.raises(DataError, match=r"b\.npz does not hold a network's outputs"):
        left_out.read(tmp_path / "b.npz")
