"""The abstention rule and its fit, on logits whose answer is known."""

import json
import shutil
import types

import numpy as np
import pytest
from PIL import Image
from scipy.spatial import distance

from wbc_jax import abstain, provenance
from wbc_jax.errors import AbstentionError, DataError
from wbc_jax.evaluate import abstention as evaluation
from wbc_jax.inference import abstention, abstention_fitting
from wbc_jax.labels import CELL_TYPES, REVIEW
from wbc_jax.utils import atomic


def drawn(number, scale=4.0, seed=0):
    """Logits that are calibrated by themselves, made `scale` times as sure, and their labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(number, 5)) * 3
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (chances.cumsum(1) > rng.random((number, 1))).argmax(1)
    return logits * scale, labels


def test_temperature_and_share():
    logits, labels = drawn(8000)
    rule = abstention_fitting.fit(abstention.Outputs(logits), labels, 0.1)
    assert rule.temperature == pytest.approx(4, rel=0.05)
    reasons = rule.reasons(abstention.Outputs(logits))
    assert np.mean([bool(reason) for reason in reasons]) == pytest.approx(0.1, abs=0.005)
    # Both limits leave as many.
    low = np.mean([abstention.LOW in reason for reason in reasons])
    unlike = np.mean([abstention.UNLIKE in reason for reason in reasons])
    assert low == pytest.approx(unlike, abs=0.005) and rule.images == 8000
    np.testing.assert_allclose(rule.probabilities(abstention.Outputs(logits)).sum(1), 1)


def test_what_is_unlike_is_left_to_a_person():
    logits, labels = drawn(2000)
    sure = logits + 20 * np.eye(5)[labels]
    odd = np.random.default_rng(1).normal(size=(300, 5)) * 0.1
    rule = abstention_fitting.fit(abstention.Outputs(sure), labels)
    known, truth = drawn(500, seed=2)
    known = abstention.Outputs(known + 20 * np.eye(5)[truth])
    found = evaluation.measure(rule, known, truth, abstention.Outputs(odd))
    assert found["auroc"]["energy"] > 0.99 and found["auroc"]["probability"] > 0.99
    assert found["odd"]["typed"]["value"] == 0 and found["known"]["typed"]["value"] > 0.9
    low, high = found["odd"]["typed"]["interval"]
    assert low == 0 and high == pytest.approx(1.96**2 / (300 + 1.96**2), rel=1e-3)
    assert found["accuracy"]["typed"]["value"] >= found["accuracy"]["all"]["value"]


def test_judge():
    rule = abstention.Rule(2.0, 0.9, -5.0, 0.05, 100)
    sure = np.array([0, 0, 0, 0, 20], np.float32)
    found = abstention.judge(rule, sure)
    assert found["type"] == found["best_guess"] == "neutrophil" and found["review"] == ""
    assert found["probability"] == pytest.approx(1 / (1 + 4 * np.exp(-10)))
    doubtful = np.array([8, 7, 0, 0, 0], np.float32)
    found = abstention.judge(rule, doubtful)
    assert (found["type"], found["best_guess"]) == (REVIEW, "basophil")
    assert found["review"] == abstention.LOW
    assert abstention.judge(rule, sure / 10)["review"] == f"{abstention.LOW};{abstention.UNLIKE}"
    # Without a rule every type stands.
    assert abstention.judge(None, doubtful)["type"] == CELL_TYPES[0]
    assert abstention.judge(None, doubtful)["review"] == ""


def test_too_little_to_fit():
    logits, labels = drawn(30)
    with pytest.raises(AbstentionError, match="allowed is 0 to 1"):
        abstention_fitting.fit(abstention.Outputs(logits), labels, 1.0)
    with pytest.raises(AbstentionError, match="there are 19 validation images"):
        abstention_fitting.fit(abstention.Outputs(logits[:19]), labels[:19])


def test_the_file(tmp_path):
    run, weights = tmp_path / "run", tmp_path / "a.safetensors"
    assert abstention.rule_path(run) == run / "abstention.json"
    assert abstention.rule_path(weights) == tmp_path / "a.abstention.json"
    assert abstention.read(run) is None
    rule = abstention.Rule(2.0, 0.9, -5.0, 0.05, 100)
    for name in (run, weights):
        abstention.write(name, rule)
        assert abstention.read(name) == rule
    for text in ("{", "[]", '{"temperature": 1}', json.dumps({**json.loads(
        abstention.rule_path(run).read_text()), "temperature": None})):  # fmt: skip
        abstention.rule_path(run).write_text(text)
        with pytest.raises(AbstentionError, match=r"abstention\.json is damaged"):
            abstention.read(run)


def embedded(number, seed, shift=0.0):
    """Embeddings of five types with a covariance that is far from round, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(number) % 5
    means = 4 * np.eye(5, 8)
    mixed = np.random.default_rng(9).normal(size=(8, 8)) * np.geomspace(0.05, 2, 8)
    embeddings = means[labels] + rng.normal(size=(number, 8)) @ mixed.T + shift
    return abstention.Outputs(10 * np.eye(5)[labels], embeddings.astype(np.float32)), labels


def test_distance_is_that_of_mahalanobis():
    outputs, labels = embedded(2000, 0)
    seen = abstention_fitting.learn(outputs, labels, ["a"] * 2000)
    own = outputs.embeddings.astype(float)
    means = np.stack([own[labels == kind].mean(0) for kind in range(5)])
    covariance = np.cov((own - means[labels]).T)
    covariance = 0.99 * covariance + 0.01 * np.trace(covariance) / 8 * np.eye(8)
    inverse = np.linalg.inv(covariance)
    some, _ = embedded(50, 1, shift=0.5)
    expected = [min(distance.mahalanobis(x, m, inverse) for m in means) for x in some.embeddings]
    np.testing.assert_allclose(seen.distance(some.embeddings), expected, rtol=0.01)


def test_distances_are_the_same_one_by_one():
    rng = np.random.default_rng(3)
    means, centers, middle, foreign, x = (
        rng.normal(size=(number, 12)).astype(np.float32) for number in (5, 9, 1, 3, 20)
    )
    whitening = [rng.normal(size=(12, 12)).astype(np.float32) for _ in range(2)]
    own = abstention.Own(centers, middle, whitening[1], foreign)
    seen = abstention.Seen(means, whitening[0], own=own)
    # Whitened, Mahalanobis distances are Euclidean ones.
    white = distance.cdist(x @ whitening[0], centers @ whitening[0]).min(1)
    away = distance.cdist(x @ whitening[1], middle @ whitening[1], "sqeuclidean")[:, 0]
    near = distance.cdist(x @ whitening[0], foreign @ whitening[0], "sqeuclidean").min(1)
    expected = (white, white**2 - away, white**2 - near)
    for number in (1, 4, 20):  # of images at a time: fewer than means, and more
        parts = [x[i : i + number] for i in range(0, 20, number)]
        for method, values in zip((seen.distance, seen.unlike, seen.foreign), expected):
            found = np.concatenate([method(part) for part in parts])
            np.testing.assert_allclose(found, values, rtol=1e-4, atol=1e-3)
    assert seen.distance(x[:0]).shape == (0,)


def test_a_large_source_counts_by_the_root_of_its_images():
    outputs, labels = embedded(1000, 0)
    moved = outputs.embeddings.copy()
    moved[900:] += 1  # another source
    sources = ["large"] * 900 + ["small"] * 100
    seen = abstention_fitting.learn(abstention.Outputs(outputs.logits, moved), labels, sources)
    first, second = np.split(np.arange(1000), [900])
    large, small = (moved[part][labels[part] == 0].mean(0) for part in (first, second))
    # Shares 900 / 30 and 100 / 10.
    np.testing.assert_allclose(seen.means[0], 0.75 * large + 0.25 * small, atol=4e-3)
    with pytest.raises(AbstentionError, match="no training image of the type neutrophil"):
        abstention_fitting.learn(outputs.take(labels < 4), labels[labels < 4], ["a"] * 800)
    assert abstention_fitting.learn(abstention.Outputs(outputs.logits), labels, sources) is None


def test_what_lies_far_from_the_training_images_is_left_to_a_person(tmp_path):
    train, labels = embedded(2000, 0)
    seen = abstention_fitting.learn(train, labels, ["a"] * 2000)
    validation, truth = embedded(2000, 1)
    rule = abstention_fitting.fit(validation, truth, 0.1, seen)
    known, right = embedded(1000, 2)
    odd, _ = embedded(200, 3, shift=6.0)  # as sure of itself
    found = evaluation.measure(rule, known, right, odd)
    assert found["auroc"]["unlike"] > 0.99 and found["auroc"]["energy"] == 0.5
    assert found["odd"]["typed"]["value"] < 0.02
    assert found["known"]["typed"]["value"] == pytest.approx(0.9, abs=0.03)
    assert set(rule.reasons(odd)) <= {abstention.UNLIKE, ""}
    one = abstention.judge(rule, odd.logits[0], odd.embeddings[0])
    assert one["type"] == REVIEW and one["review"] == abstention.UNLIKE
    # The file holds all of it.
    abstention.write(tmp_path, rule)
    again = abstention.read(tmp_path)
    np.testing.assert_array_equal(
        again.seen.distance(odd.embeddings), rule.seen.distance(odd.embeddings)
    )
    assert again.reasons(known) == rule.reasons(known)
    # The rule of another network is no rule.
    with pytest.raises(AbstentionError, match="is of another network"):
        rule.reasons(abstention.Outputs(odd.logits))
    stored = json.loads(abstention.rule_path(tmp_path).read_text())
    for packed in ({"shape": [8, 8], "float16": "AAAA"}, {"shape": [1, 1], "float16": "AAA="}, {}):
        stored["seen"]["whitening"] = packed
        atomic.write_json(abstention.rule_path(tmp_path), stored)
        with pytest.raises(AbstentionError, match=r"abstention\.json is damaged"):
            abstention.read(tmp_path)


def test_the_rule_of_another_network_is_named_before_any_image_is_read(tmp_path):
    seen = abstention.Seen(np.zeros((5, 8), np.float32), np.eye(8, dtype=np.float32))
    abstention.write(tmp_path, abstention.Rule(1.0, 0.5, 9.0, 0.05, 99, seen))
    fits = types.SimpleNamespace(embedding_size=8)
    assert abstention.read_for(tmp_path, fits).images == 99
    for size, text in ((256, "have 256"), (None, "have none")):
        model = types.SimpleNamespace(embedding_size=size)
        with pytest.raises(AbstentionError, match=rf"abstention\.json is .* {text}\); del"):
            abstention.read_for(tmp_path, model)
    abstention.rule_path(tmp_path).unlink()
    assert abstention.read_for(tmp_path, fits) is None


def test_the_command(typed_run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(abstention_fitting, "LEAST_IMAGES", 5)
    workdir = shutil.copytree(typed_run.workdir, tmp_path / "run")  # other tests share the run
    abstain.main([str(workdir)])
    rule = abstention.read(workdir)
    assert rule.temperature > 0 and 0 < rule.least_probability <= 1
    assert f"({rule.images} validation images)" in capsys.readouterr().out
    provenance.write_weights(workdir, tmp_path / "a.safetensors")
    assert abstention.read(tmp_path / "a.safetensors") == rule
    with pytest.raises(SystemExit, match="was not trained on pbc"):
        abstain.main([str(workdir), "--score"])
    abstention.rule_path(workdir).unlink()
    with pytest.raises(SystemExit, match="has no rule; make it by the same command"):
        abstain.main([str(workdir), "--score"])


def test_a_segmenter_has_no_rule(run):
    with pytest.raises(SystemExit, match="gives masks; a classifier is needed"):
        abstain.main([str(run.workdir)])


def test_a_file_of_an_earlier_version_holds_no_counts(tmp_path):
    outputs, labels = embedded(1000, 0)
    seen = abstention_fitting.learn(outputs, labels, ["a"] * 1000)
    assert seen.counts.tolist() == [200] * 5
    rule = abstention_fitting.fit(outputs, labels, 0.1, seen)
    abstention.write(tmp_path, rule)
    assert abstention.read(tmp_path).seen.counts.tolist() == [200] * 5
    stored = json.loads((tmp_path / "abstention.json").read_text())
    earlier = stored | {"format": "wbc_jax abstention 2"}
    del earlier["seen"]["counts"], earlier["seen"]["own"], earlier["power"], earlier["typical"]
    (tmp_path / "abstention.json").write_text(json.dumps(earlier))
    again = abstention.read(tmp_path)
    assert again.seen.counts is None and again.seen.own is None
    assert (again.power, again.typical) == (0, 1)
    # It judges by the distance to the types' means, as it was fitted.
    between = (outputs.embeddings[:, None] - again.seen.means) @ again.seen.whitening
    nearest = np.sqrt((between**2).sum(-1)).min(-1)
    np.testing.assert_allclose(abstention.unlike(again.seen, outputs), nearest, rtol=1e-3)
    abstention.write(tmp_path, again)  # as an export does
    assert abstention.read(tmp_path).seen.counts is None
    for counts in ([200] * 4, [200, 200, 200, 200, 0], ["many"] * 5):
        stored["seen"]["counts"] = counts
        (tmp_path / "abstention.json").write_text(json.dumps(stored))
        with pytest.raises(AbstentionError, match="its counts are not one number above zero"):
            abstention.read(tmp_path)


def test_a_source_has_means_of_its_own_and_does_not_widen_the_others():
    """Two sources 9 apart: between them, far from both, lies no training image."""
    outputs, labels = embedded(2000, 0)
    own = outputs.embeddings.copy()
    own[1000:, 7] += 9
    both = abstention.Outputs(outputs.logits, own)
    sources = ["a"] * 1000 + ["b"] * 1000
    seen = abstention_fitting.learn(both, labels, sources)
    assert seen.own.centers.shape == (10, 8)
    first = own[:1000][labels[:1000] == 2]
    shrunk = (first.sum(0) + 5 * seen.means[2]) / (len(first) + 5)
    np.testing.assert_allclose(seen.own.centers[2], shrunk, atol=5e-3)
    np.testing.assert_allclose(seen.own.middle[0], own.mean(0), atol=5e-3)
    # Relative distances against SciPy's.
    centers = seen.own.centers.astype(float)
    around = own - centers[labels + 5 * (np.arange(2000) >= 1000)]
    inverses = []
    for off in (around, own - own.mean(0)):
        covariance = np.cov(off.T)
        shrunk = 0.99 * covariance + 0.01 * np.trace(covariance) / 8 * np.eye(8)
        inverses.append(np.linalg.inv(shrunk))
    some = own[::97]
    near = [min(distance.mahalanobis(x, m, inverses[0]) for m in centers) for x in some]
    whole = [distance.mahalanobis(x, own.mean(0), inverses[1]) for x in some]
    np.testing.assert_allclose(seen.distance(some), near, rtol=0.02)
    expected = np.square(near) - np.square(whole)
    np.testing.assert_allclose(seen.unlike(some), expected, atol=0.15)
    between = seen.means[:1]  # the middle of a type's two means
    together = abstention_fitting.learn(both, labels, ["a"] * 2000)
    assert seen.distance(between)[0] > 2 * together.distance(between)[0]


def sure_away(number, seed, power):
    """Cells at distances of 1 to 3, whose logits are too large by distance ** power."""
    rng = np.random.default_rng(seed)
    logits, labels = drawn(number, 1.0, seed)
    far = rng.uniform(1, 3, number)
    return abstention_fitting.Away(logits * 1.5 * far[:, None] ** power, far, labels)


def test_the_temperature_follows_the_distance_on_sources_left_out():
    away = [sure_away(3000, seed, 1.2) for seed in (1, 2)]
    home = sure_away(3000, 3, 1.2)
    home = abstention_fitting.Away(
        home.logits / home.far[:, None] ** 1.2, np.ones(3000), home.labels
    )
    temperature, power = abstention_fitting.fit_temperature(home, away)
    assert temperature == pytest.approx(1.5, rel=0.08) and power == pytest.approx(1.2, abs=0.12)
    alone, none = abstention_fitting.fit_temperature(home, [])
    assert alone == pytest.approx(1.5, rel=0.08) and none == 0
    given = abstention.tempered(away[0].logits, temperature, power, away[0].far)
    confidence, right = given.max(-1), given.argmax(-1) == away[0].labels
    assert confidence.mean() == pytest.approx(right.mean(), abs=0.02)
    flat = abstention.tempered(away[0].logits, alone).max(-1)
    assert flat.mean() > right.mean() + 0.05


def test_probabilities_far_away_are_lower(tmp_path):
    outputs, labels = embedded(1000, 0)
    logits, _ = drawn(1000)
    outputs = abstention.Outputs(logits, outputs.embeddings)
    seen = abstention_fitting.learn(outputs, labels, ["a"] * 1000)
    rule = abstention.Rule(2.0, 0.5, 9.0, 0.05, 100, seen, 0.5, 3.0)
    far = seen.distance(outputs.embeddings) / 3
    expected = np.exp(logits / (2 * np.sqrt(far))[:, None])
    expected /= expected.sum(-1, keepdims=True)
    np.testing.assert_allclose(rule.probabilities(outputs), expected, rtol=1e-4, atol=1e-12)
    one = abstention.judge(rule, logits[7], outputs.embeddings[7])
    assert one["probability"] == pytest.approx(expected[7].max(), rel=1e-4)
    abstention.write(tmp_path, rule)
    np.testing.assert_array_equal(
        abstention.read(tmp_path).probabilities(outputs), rule.probabilities(outputs)
    )
    with pytest.raises(AbstentionError, match="of another network"):
        rule.probabilities(abstention.Outputs(logits))


def test_kinds_of_foreign_cells_that_were_shown_are_left_to_a_person(tmp_path):
    """Foreign cells lie beside a type, where no distance to the training is large."""
    train, labels = embedded(2000, 0)
    foreign = (train.embeddings + 1.5 * np.eye(8, dtype=np.float32)[7])[labels == 0]
    plain = abstention_fitting.learn(train, labels, ["a"] * 2000)
    shown = foreign[:200]
    seen = abstention_fitting.learn(train, labels, ["a"] * 2000, [shown[:100], shown[100:]])
    assert not plain.knows_foreign and seen.knows_foreign and seen.own.foreign.shape == (2, 8)
    np.testing.assert_allclose(seen.own.foreign[0], shown[:100].mean(0), atol=5e-3)
    some = train.embeddings[::199]
    between = (some[:, None] - seen.own.foreign) @ seen.whitening
    expected = seen.distance(some) ** 2 - (between**2).sum(-1).min(-1)
    np.testing.assert_allclose(seen.foreign(some), expected, rtol=1e-4, atol=1e-3)
    logits = drawn(2000, 1.0)[0] + 9 * np.eye(5)[labels]
    validation = abstention.Outputs(logits, embedded(2000, 1)[0].embeddings)
    odd = abstention.Outputs(logits[labels == 0][200:], foreign[200:])
    rules = [abstention_fitting.fit(validation, labels, 0.06, one) for one in (plain, seen)]
    typed = [np.mean([not reason for reason in rule.reasons(odd)]) for rule in rules]
    assert typed[1] < 0.2 < 0.7 < typed[0]
    left = [np.mean([bool(reason) for reason in rule.reasons(validation)]) for rule in rules]
    assert left == pytest.approx([0.06, 0.06], abs=0.003)
    parts = [reason.split(";") for reason in rules[1].reasons(validation)]
    shares = [np.mean([name in part for part in parts]) for name in (
        abstention.LOW, abstention.UNLIKE, abstention.FOREIGN)]  # fmt: skip
    assert max(shares) - min(shares) < 0.003 and min(shares) >= 0.02 - 0.003
    abstention.write(tmp_path, rules[1])
    assert abstention.read(tmp_path).reasons(odd) == rules[1].reasons(odd)


def test_the_cells_that_fit_a_rule_do_not_score_it(tmp_path):
    folder = tmp_path / "PBC_dataset_normal_DIB"
    for kind in evaluation.pbc.OTHER_CLASSES:
        (folder / kind).mkdir(parents=True)
        for i in range(5):
            image = Image.fromarray(np.full((8, 8, 3), 10 * i, np.uint8))
            image.save(folder / kind / f"{i}.jpg")
    fitted, scored = (evaluation.other_cells(str(tmp_path), fitted) for fitted in (True, False))
    assert sorted(fitted) == sorted(scored) == sorted(evaluation.pbc.OTHER_CLASSES)
    for kind in fitted:
        assert [int(image[0, 0, 0]) for image in fitted[kind]] == [0, 20, 40]
        assert [int(image[0, 0, 0]) for image in scored[kind]] == [10, 30]
    with pytest.raises(DataError, match="platelet; see --manual_dir"):
        evaluation.other_cells(str(folder), True)
