"""What goes into a report: the splits, the data sets never seen, the floor."""

import csv
import dataclasses
import json
import types

import jax
import numpy as np
import pytest
import sklearn.metrics
import tensorflow_datasets as tfds
from etils import epath

import tiny_runs
import wbc_jax
from wbc_jax import config_checks, experiment, provenance
from wbc_jax.config import Config
from wbc_jax.data import isolation, pipeline, sources
from wbc_jax.errors import CheckpointError, ConfigError, DataError
from wbc_jax.evaluate import baselines, masks, scoring
from wbc_jax.inference import weights
from wbc_jax.report import run as run_report
from wbc_jax.training import checkpoint, metric_writer
from wbc_jax.utils import atomic


def test_external_data_sets_that_are_absent_are_listed_with_the_reason(run):
    report = json.loads((run.workdir / "report" / "metrics.json").read_text())
    # The one trained on is left out: its images are no news.
    assert report["external"] == {}
    assert list(report["skipped"]) == ["raabin_gt"]
    reason = report["skipped"]["raabin_gt"]
    assert reason.startswith("raabin_gt is not in ") and "raabindata.com" in reason
    assert "nothing_here" in reason and "\n" not in reason


def test_external_data_sets_are_never_downloaded(data_dir, monkeypatch):
    def fetch(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(tfds.download.DownloadManager, "download", fetch)
    config = tiny_runs.config(data_dir, evaluate__external=("segmentation_wbc/jtsc",))
    found, skipped = scoring._external(config, baselines.otsu, [])
    assert found == {}
    assert skipped["segmentation_wbc/jtsc"].startswith("segmentation_WBC is not in ")


def test_external_data_sets_that_are_there_are_scored_whole(data_dir):
    config = tiny_runs.config(data_dir, data__datasets=("raabin_gt",))
    found, skipped = scoring._external(config, baselines.otsu, [])
    assert skipped == {}
    whole = pipeline.load_splits(tiny_runs.config(data_dir).data, tiny_runs.SIZE)["all"]
    assert len(whole) == 60
    counts = masks.measure_test(baselines.otsu, whole, 8)
    assert found.keys() == {tiny_runs.DATASET}
    expected = masks.results(counts, whole, 50)
    expected[tiny_runs.DATASET]["left_out"] = 0
    np.testing.assert_equal(found, expected)


def test_external_images_that_training_saw_are_left_out(data_dir, capsys):
    config = tiny_runs.config(data_dir, data__datasets=("raabin_gt",))
    # As if the trained data set held, under another name, some of the same images.
    examples = pipeline.load_splits(tiny_runs.config(data_dir).data, tiny_runs.SIZE)
    seen = examples["train"].entries + examples["validation"].entries
    found, _ = scoring._external(config, baselines.otsu, seen)
    images = found[tiny_runs.DATASET]["images"]
    assert 0 < images <= 60 - len(seen) == 20
    assert f"{60 - images} images that training saw" in capsys.readouterr().out


def test_a_misspelt_external_data_set_ends_the_run_before_training(data_dir, tmp_path):
    config = tiny_runs.config(data_dir, evaluate__external=("raabin",))
    with pytest.raises(ConfigError, match=r"no data set 'raabin'; there are .*raabin_gt"):
        experiment.run(config, epath.Path(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_missing_data_end_the_run_before_training(data_dir, tmp_path):
    config = tiny_runs.config(data_dir, data__datasets=("raabin_gt",))
    with pytest.raises(DataError, match="raabin_gt is not in"):
        experiment.run(config, epath.Path(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_split_table(run):
    examples = pipeline.load_splits(run.config.data, tiny_runs.SIZE)
    head, line = experiment.split_table(examples).splitlines()
    assert head.split() == ["data", "set", "train", "validation", "test"]
    numbers = [len(examples[name]) for name in ("train", "validation", "test")]
    assert line.split() == [tiny_runs.DATASET, *map(str, numbers)]
    assert sum(numbers) == 60


def test_the_report_says_what_was_scored(run, model):
    report = json.loads((run.workdir / "report" / "metrics.json").read_text())
    test = pipeline.load_splits(run.config.data, tiny_runs.SIZE)["test"]
    found = report["results"][tiny_runs.DATASET]
    assert found["images"] == len(test) == 20
    # The report's numbers are those of the model's masks, counted here.
    found_masks = np.stack([model.predict(test[i]["image"]).mask for i in range(20)])
    truth = np.stack([test[i]["mask"] for i in range(20)])
    confusion = [[((truth == t) & (found_masks == p)).sum() for p in range(3)] for t in range(3)]
    assert np.abs(np.subtract(found["confusion"], confusion)).max() <= 2
    assert found["global_accuracy"] == pytest.approx((truth == found_masks).mean(), abs=1e-3)
    floor = np.stack([baselines.otsu(test.resized(32, 32)[i]["image"][None])[0] for i in range(20)])
    baseline = report["baseline"][tiny_runs.DATASET]
    assert baseline["global_accuracy"] == pytest.approx((truth == floor).mean())
    assert sum(part["images"] for part in found["by_type"].values()) == 20
    assert (report["task"], report["model"], report["split"]) == ("segmentation", "unet", "test")
    assert (report["eval_size"], report["flips"]) == (32, False)
    assert report["parameters"] == model.parameters and report["step"] == model.step
    assert report["train_seconds"] > 0
    # Every known pixel of the test split is in a bin, and as many are right as in the masks.
    sure = report["calibration"][tiny_runs.DATASET]
    confusion = np.array(found["confusion"])
    assert sum(sure["pixels"]) == confusion.sum()
    assert abs(sum(sure["right"]) - np.trace(confusion)) <= 2
    assert 0 <= sure["interval"][0] <= sure["expected_calibration_error"] < 0.5
    assert report["trained_steps"] == 240 and not report["stopped_early"]
    assert (run.workdir / "report" / "index.html").stat().st_size > 10_000


def test_examples_are_taken_evenly():
    names = [types.SimpleNamespace(name=name) for name in "aab" * 30]
    examples = pipeline.Examples([(name, i) for i, name in enumerate(names)], 8, 16)
    assert scoring._evenly(examples, 90).entries == examples.entries
    some = scoring._evenly(examples, 31)
    places = [i for _, i in some.entries]
    assert len(set(places)) == 31 and places[0] == 0 and places[-1] == 89
    assert set(np.diff(places)) <= {2, 3, 4} and (some.image_size, some.mask_size) == (8, 16)
    assert len(scoring._evenly(pipeline.Examples([], 8, 16), 5)) == 0


def test_the_masks_shown_are_the_worst_and_some_of_each_better():
    assert run_report.spread_places(5) == [0, 1, 2, 3, 4]
    assert run_report.spread_places(48) == list(range(48))
    for images in (49, 279, 5000):
        places = run_report.spread_places(images)
        assert len(places) == len(set(places)) == 48 and places == sorted(places)
        assert places[:16] == list(range(16)) and places[-1] == images - 1
        steps = np.diff(places[16:])
        assert steps.max() - steps.min() <= 1


def test_the_report_of_a_classification(typed_run):
    report = json.loads((typed_run.workdir / "report" / "metrics.json").read_text())
    found = report["results"][tiny_runs.DATASET]
    test = pipeline.load_splits(typed_run.config.data, 0, "classification")["test"]
    # Counted here: what the loaded model says of each test image.
    loaded = wbc_jax.load(typed_run.workdir)
    said = loaded.predict([test[i]["image"] for i in range(20)])
    confusion = np.zeros((5, 5), int)
    for label, prediction in zip(test.labels, said):
        confusion[label, prediction.label] += 1
    assert found["confusion"] == confusion.tolist()
    assert found["accuracy"] == pytest.approx(np.trace(confusion) / 20)
    assert (report["task"], report["model"]) == ("classification", "classifier")
    # Four test cells of each type, and seven training cells of each: the floor names the first.
    assert report["baseline"][tiny_runs.DATASET]["accuracy"] == pytest.approx(4 / 20)
    with open(typed_run.workdir / "report" / "per_image.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["label"]) for row in rows] == test.labels.tolist()
    assert [int(row["predicted"]) for row in rows] == [p.label for p in said]
    for row, prediction in zip(rows, said):
        assert float(row["probability"]) == pytest.approx(prediction.probabilities.max(), abs=1e-4)
    page = (typed_run.workdir / "report" / "index.html").read_text()
    missed = sum(row["right"] == "False" for row in rows)
    assert f"{missed} cell" in page and "Calibration" in page


def test_an_epoch_is_a_pass_over_the_training_split(data_dir, tmp_path):
    config = tiny_runs.types(
        data_dir, train__epochs=2, train__evaluate_every=0, model__blocks=1, model__features=2
    )
    experiment.run(config, epath.Path(tmp_path))
    lines = metric_writer.read(tmp_path)
    # 35 training cells in batches of 8 are five steps.
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [5, 10]
    report = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert report["trained_steps"] == 10


def test_evaluating_without_a_run(data_dir, tmp_path):
    from wbc_jax.errors import CheckpointError

    with pytest.raises(CheckpointError, match=r"holds no run .*; train first"):
        experiment.evaluate_run(tiny_runs.config(data_dir), epath.Path(tmp_path / "run"))


def test_files_left_out_are_listed(data_dir, tmp_path, monkeypatch, capsys):
    left_out = [("/in/a.jpg", "empty"), ("/in/b.jpg", "truncated")]
    monkeypatch.setattr(sources, "prepare", lambda name, data: left_out)
    experiment.prepare(tiny_runs.least(data_dir), epath.Path(tmp_path))
    assert (tmp_path / "skipped_files.csv").read_text() == (
        "dataset,path,reason\n"
        "wbc_synthetic/small,/in/a.jpg,empty\nwbc_synthetic/small,/in/b.jpg,truncated\n"
    )
    assert "2 bad files were left out" in capsys.readouterr().out


def test_prepare_draws_the_gallery_and_counts_the_splits(data_dir, tmp_path, capsys):
    workdir = epath.Path(tmp_path)
    experiment.prepare_only(tiny_runs.config(data_dir), workdir)
    printed = capsys.readouterr().out
    # Twelve cells of each of five types at 56/14/30: 7, 1 and 4.
    assert printed.splitlines()[1].split() == [tiny_runs.DATASET, "35", "5", "20"]
    assert "Table 3" not in printed  # drawn cells are never set beside a paper's
    page = (workdir / "gallery.html").read_text()
    assert "synthetic_00000" in page and "lymphocyte" in page


@pytest.mark.data
def test_prepare_sets_real_counts_beside_the_papers(real_data, tmp_path, capsys):
    config = Config()
    config.data.datasets = ("segmentation_wbc/cellavision",)
    config.data.manual_dir, config.data.data_dir = str(real_data), str(tmp_path / "records")
    experiment.prepare_only(config_checks.validate(config), epath.Path(tmp_path))
    printed = capsys.readouterr().out
    assert "Table 3" in printed and "14,563" in printed


def test_a_run_is_tied_to_the_records_it_was_trained_on(run, data_dir, tmp_path, monkeypatch):
    stored = json.loads((run.workdir / "splits.json").read_text())
    splits = pipeline.load_splits(run.config.data, tiny_runs.SIZE)
    assert stored == provenance.fingerprints(splits)
    provenance.check_splits(run.workdir, splits)
    # One record moves from training to test, as when images are added and the bounds shift.
    splits["test"].entries.append(splits["train"].entries.pop())
    with pytest.raises(ConfigError, match="the train, test split has changed"):
        provenance.check_splits(run.workdir, splits)
    provenance.check_splits(epath.Path(tmp_path), splits)  # no run there yet


def test_external_images_of_a_training_frame_are_left_out(data_dir):
    config = tiny_runs.config(data_dir, data__datasets=("raabin_gt",))
    whole = pipeline.load_splits(tiny_runs.config(data_dir).data, tiny_runs.SIZE)["all"]
    # Another config of the data set, whose pixels are unlike but whose frames are the same.
    seen = [
        (dataclasses.replace(s, name="wbc_synthetic/other", hashes=None), i)
        for s, i in whole.entries[:10]
    ]
    found, _ = scoring._external(config, baselines.otsu, seen)
    assert found[tiny_runs.DATASET]["images"] == 50 and found[tiny_runs.DATASET]["left_out"] == 10


@pytest.fixture(scope="module")
def weights_file(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    provenance.write_weights(run.workdir, path, "float32")
    return path


def test_weights_score_as_their_run(run, weights_file, tmp_path):
    # Another network in the config: the file's own is what counts.
    config = tiny_runs.config(run.config.data.data_dir, model__features=2, data__image_size=16)
    found = experiment.evaluate_weights(config, epath.Path(tmp_path), str(weights_file))
    there = json.loads((run.workdir / "report" / "metrics.json").read_text())
    assert found["results"][tiny_runs.DATASET]["images"] == 20
    for key in ("results", "baseline", "calibration", "parameters", "step"):
        np.testing.assert_equal(atomic.finite(found[key]), there[key])
    assert found["weights"] == str(weights_file)
    assert (tmp_path / "report" / "index.html").exists()
    assert not (tmp_path / "config.json").exists()


def test_the_middle_cell_alone_is_scored(run, weights_file, tmp_path, monkeypatch):
    config = tiny_runs.config(run.config.data.data_dir, evaluate__middle_cell=True)

    def left_half(mask):
        return np.where(np.arange(mask.shape[1]) < mask.shape[1] // 2, mask, np.uint8(0))

    monkeypatch.setattr(isolation, "keep_middle_cell", left_half)
    found = experiment.evaluate_weights(config, epath.Path(tmp_path), str(weights_file))
    model = wbc_jax.load(weights_file)
    size = config.evaluate.size
    test = pipeline.load_splits(config.data, size)["test"]
    confusion = 0
    for (source, i), truth in zip(test.entries, (test[i]["mask"] for i in range(len(test)))):
        logits = np.asarray(model.logits(model.fit(source.image(i))[None]))
        resized = np.asarray(jax.image.resize(logits[0], (size, size, 3), "bilinear"))
        mask = left_half(resized.argmax(-1).astype(np.uint8))
        confusion = confusion + sklearn.metrics.confusion_matrix(
            truth.ravel(), mask.ravel(), labels=range(3)
        )
    np.testing.assert_array_equal(found["results"][tiny_runs.DATASET]["confusion"], confusion)


def test_weights_are_not_scored_on_what_they_have_seen(run, weights_file, tmp_path):
    config = tiny_runs.config(run.config.data.data_dir, data__split_seed=1)
    with pytest.raises(ConfigError, match=r"has seen \d+ of the 20 test images"):
        experiment.evaluate_weights(config, epath.Path(tmp_path), str(weights_file))
    assert not list(tmp_path.iterdir())


def test_weights_that_are_none_or_for_another_task(run, weights_file, tmp_path):
    with pytest.raises(ConfigError, match="holds a run; name another"):
        experiment.evaluate_weights(run.config, run.workdir, str(weights_file))
    with pytest.raises(CheckpointError, match=r"neither a \.safetensors file nor"):
        experiment.evaluate_weights(run.config, epath.Path(tmp_path), str(run.workdir))
    types = tiny_runs.types(run.config.data.data_dir)
    with pytest.raises(ConfigError, match=r"is 'classification', but .*segm"):
        experiment.evaluate_weights(types, epath.Path(tmp_path), str(weights_file))


@pytest.fixture(scope="module")
def begun(run, data_dir, tmp_path_factory):
    """A run of a few steps that began with the shared run's weights, of the same splits."""
    workdir = epath.Path(tmp_path_factory.mktemp("begun") / "run")
    settings = {"train__init_from": str(run.workdir), "train__steps": 2, "train__evaluate_every": 2}
    config = tiny_runs.config(data_dir, optimizer__learning_rate=1e-9, **settings)
    experiment.run(config, workdir)
    return types.SimpleNamespace(workdir=workdir, config=config)


def test_a_run_begins_with_other_weights(run, model, begun):
    weights_there = weights.read(begun.workdir / weights.INITIAL)
    tiny_runs.assert_equal(weights_there.arrays, weights.named(model.weights))
    state, position = tiny_runs.state(begun.workdir, checkpoint.LAST, begun.config)
    assert position["step"] == 2
    for one, two in zip(jax.tree.leaves(state.params), jax.tree.leaves(model.weights["params"])):
        np.testing.assert_allclose(one, two, atol=1e-6)


def test_what_the_first_weights_saw_stays_seen(run, begun, tmp_path):
    file = tmp_path / "w.safetensors"
    provenance.write_weights(begun.workdir, file)
    examples = pipeline.load_splits(run.config.data, tiny_runs.SIZE)
    own = examples["train"].entries + examples["validation"].entries
    assert len(weights.read(file).seen) == 2 * len(own)
    # Another draw would test on them: neither begun nor scored.
    other = tiny_runs.config(
        run.config.data.data_dir, train__init_from=str(file), data__split_seed=1
    )
    with pytest.raises(ConfigError, match=r"has seen \d+ of the"):
        experiment.run(other, epath.Path(tmp_path / "other"))
    assert not (tmp_path / "other").exists()


def test_another_network_is_refused(run, data_dir, tmp_path):
    config = tiny_runs.config(data_dir, train__init_from=str(run.workdir), model__features=5)
    with pytest.raises(ConfigError) as caught:
        experiment.run(config, epath.Path(tmp_path / "run"))
    assert f"config.train.init_from is {str(run.workdir)!r}" in str(caught.value)
    assert "config.model.features: 4 there, 5 here" in str(caught.value)
    assert not (tmp_path / "run").exists()
    config = tiny_runs.config(data_dir, train__init_from="nothing_here")
    with pytest.raises(CheckpointError, match="nothing_here holds no run"):
        experiment.run(config, epath.Path(tmp_path / "run"))
