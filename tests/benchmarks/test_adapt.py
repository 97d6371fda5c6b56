"""The cells that benchmarks/adapt.py labels, on Gaussian types of two sources."""

import numpy as np
import pytest

from wbc_jax.inference import left_out


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Two sources; the one left out is moved from neutrophil toward eosinophil."""
    folder, means = tmp_path_factory.mktemp("left_out"), 6 * np.eye(5, 8)
    for seed, name in enumerate("ab"):
        rng = np.random.default_rng(seed)
        labels, sources = np.tile(np.arange(5), 160), np.repeat(["a", "b"], 400)
        embedding = means[labels] + rng.normal(size=(800, 8)) * 0.8
        embedding[sources == name] += np.array([0, 4.5, 0, 0, -4.5, 0, 0, 12])
        np.savez(
            folder / f"{name}.npz",
            embedding=embedding,
            features=embedding,
            logits=embedding @ (means - means.mean(0)).T,
            label=labels,
            source=sources,
            split=np.repeat(["train", "train", "validation", "test"], 5).tolist() * 40,
            left_out=name,
        )
    return [*left_out.read_folder(folder), folder]


def test_chosen_cells(bench, networks):
    one = networks[0]
    for way in bench.WAYS:
        chosen = bench.choose(way, one, 8, np.random.default_rng(0))
        assert len(set(chosen)) == len(chosen) == 40
        counts = np.bincount(one.away.labels[chosen], minlength=5)
        if way == bench.TYPES:
            assert counts.tolist() == [8] * 5
        if way == bench.TURNS:
            assert counts.min() >= 4  # the types are guessed
        if way == bench.SKEWED:
            assert counts[4] == 36


def test_fewer_cells(bench, networks):
    one = networks[0]
    few = bench.fewer(one, 7, 3)
    assert np.bincount(few.away.labels).tolist() == [7] * 5
    for split in ("train", "validation", "test"):
        assert np.bincount(getattr(few, split).labels).tolist() == [3] * 5
    # Each with its own outputs: the kept rows are rows of all cells.
    rows = {tuple(row): k for row, k in zip(one.away.features, one.away.labels)}
    assert [rows[tuple(row)] for row in few.away.features] == few.away.labels.tolist()
    np.testing.assert_array_equal(few.away.features, few.away.outputs.embeddings)
    assert len(bench.fewer(one, 0, 0).away.labels) == len(one.away.labels)
    assert len(bench.fewer(one, 1000, 0).away.labels) == len(one.away.labels)


def test_scores(bench, networks):
    before = bench.adapt(networks[0], bench.TYPES, 0, 0)
    after = bench.adapt(networks[0], bench.TYPES, 8, 0)
    assert after[0] > before[0] + 0.02 and after[2] == pytest.approx(before[2] + after[3])
    assert abs(after[3]) < 0.02


def test_cells_without_features(bench, networks, tmp_path, monkeypatch):
    for path in networks[2].glob("*.npz"):
        with np.load(path) as stored:
            np.savez(tmp_path / path.name, **{k: stored[k] for k in stored if k != "features"})
    monkeypatch.setattr("sys.argv", ["adapt.py", str(tmp_path)])
    with pytest.raises(SystemExit, match="the files of a, b hold no features"):
        bench.main()
