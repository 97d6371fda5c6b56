"""wbc_jax.experiment: preparing, training, evaluating runs and weights."""

import json

import jax
import numpy as np
import pytest
import sklearn.metrics
from etils import epath

import wbc_jax
from helpers import tiny_runs
from wbc_jax import config_checks, experiment, provenance
from wbc_jax.config import Config
from wbc_jax.data import isolation, pipeline, preparing
from wbc_jax.errors import CheckpointError, ConfigError, DataError
from wbc_jax.training import metric_writer
from wbc_jax.utils import atomic


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
    monkeypatch.setattr(preparing, "prepare", lambda name, data: left_out)
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
    assert "Table 3" not in printed  # drawn cells are never compared with a paper's
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


@pytest.fixture(scope="module")
def weights_file(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    provenance.write_weights(run.workdir, path, "float32")
    return path


def test_weights_score_as_their_run(run, weights_file, tmp_path):
    # The config has another network: the file's own is used.
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


def test_a_command_that_cannot_start_does_not_claim_the_folder(data_dir, tmp_path):
    workdir = epath.Path(tmp_path / "run")
    config = tiny_runs.least(data_dir, data__datasets=("wbc_synthetc",))
    with pytest.raises(ConfigError, match="no data set 'wbc_synthetc'"):
        experiment.run(config, workdir)
    assert not (workdir / "config.json").exists()
