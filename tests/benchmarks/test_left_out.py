"""The tables of benchmarks/left_out.py, on Gaussian types of three sources."""

import numpy as np
import pytest

from wbc_jax.inference import left_out


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Three sources; the one left out is moved from neutrophil toward eosinophil."""
    folder, means = tmp_path_factory.mktemp("left_out"), 6 * np.eye(5, 8)
    kernel = (means - means.mean(0)).T
    for seed, name in enumerate("abc"):
        rng = np.random.default_rng(seed)
        labels = np.tile(np.arange(5), 480)
        sources = np.repeat(list("abc"), 800)
        embedding = means[labels] + rng.normal(size=(2400, 8)) * 0.8
        embedding[sources == name] += np.array([0, 3.2, 0, 0, -3.2, 0, 0, 0])
        foreign = rng.normal(size=(20, 8)) + np.array([2, 2, 2, 2, 2, 7, 7, 7])
        embedding = np.concatenate([embedding, foreign])
        np.savez(
            folder / f"{name}.npz",
            embedding=embedding,
            logits=embedding @ kernel,
            label=np.concatenate([labels, np.full(20, -1)]),
            source=np.concatenate([sources, ["foreign"] * 20]),
            split=np.array(["train", "train", "validation", "test"] * 605),
            left_out=name,
        )
    return left_out.read_folder(folder)


def test_folders_are_drawn_as_they_are_named(bench):
    labels = np.repeat(np.arange(5), [3, 50, 50, 50, 200])
    rng = np.random.default_rng(0)
    assert sorted(bench.draw(labels, "natural", 2000, rng)) == list(range(353))
    assert len(set(bench.draw(labels, "natural", 50, rng))) == 50
    balanced = np.bincount(labels[bench.draw(labels, "balanced", 400, rng)], minlength=5)
    assert balanced.tolist() == [0, 100, 100, 100, 100]
    skewed = labels[bench.draw(labels, "90 % neutrophils", 200, rng)]
    assert len(skewed) == 200 and (skewed == 4).sum() == 180
    assert set(labels[bench.draw(labels, "only monocytes", 200, rng)]) == {3}
    assert bench.draw(labels, "only basophils", 200, rng) is None


def test_scores(bench):
    labels = np.repeat(np.arange(5), [40, 40, 40, 40, 240])
    logits = np.eye(5)[labels]
    logits[:20] = np.eye(5)[1]  # half of the basophils
    assert bench.score(labels, logits, "natural") == pytest.approx(0.9)
    assert bench.score(labels, logits, "90 % neutrophils") == pytest.approx(380 / 400)


def test_tables(bench, networks, monkeypatch):
    monkeypatch.setattr(
        bench,
        "FOLDERS",
        (("natural", 2000, 1), ("90 % neutrophils", 200, 1), ("only monocytes", 50, 1)),
    )
    scores = bench.folder_scores(networks)
    ways = list(bench.WAYS)
    none, mean, by_type = (ways.index(name) for name in ("none", "mean", "by type"))
    away = [v for (where, kind, *_), v in scores.items() if (where, kind) == ("away", "natural")]
    assert len(away) == 3
    for one in away:
        assert one[none] < 0.9 < 0.97 < one[by_type]
    for (where, kind, *_), one in scores.items():
        if where == "home":
            assert one[by_type] >= one[none] - 0.01
            assert kind == "natural" or one[mean] < one[none] - 0.1
    lines = bench.folder_table(scores)
    (line,) = [line for line in lines if line.startswith("away, natural")]
    assert float(line.split()[-2]) == pytest.approx(np.mean(away, 0)[by_type], abs=6e-4)
    assert [line.split()[0] for line in bench.source_table(scores)[1:]] == ["a", "b", "c"]
    rows = {line[:26].strip(): line[26:].split() for line in bench.measure_table(networks)[1:]}
    assert float(rows["Mahalanobis, by source"][0]) > 0.99  # they lie where no type does
    assert float(rows["relative, by source"][2]) < 0.05
    rule = bench.rule_table(networks)[1:]
    assert len(rule) == 12
    for line in rule:
        home_typed, foreign = float(line.split()[-6]), float(line.split()[-2])
        assert home_typed == pytest.approx(0.95, abs=0.05) and foreign < 0.05
