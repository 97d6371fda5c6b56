"""wbc_jax.provenance: a folder's config, records and initial weights."""

import dataclasses
import json
import shutil
import types

import jax
import numpy as np
import pytest
from etils import epath
from flax import nnx

from helpers import tiny_runs
from wbc_jax import config_checks, experiment, models, provenance
from wbc_jax.config import Model
from wbc_jax.data import pipeline
from wbc_jax.errors import CheckpointError, ConfigError, InputError, UserError, WeightsError
from wbc_jax.inference import encoder_weights, weights
from wbc_jax.models import efficientnet
from wbc_jax.report import run as report
from wbc_jax.training import checkpoint, metric_writer, steps


def test_a_free_field_may_differ(run, tmp_path):
    workdir = epath.Path(tmp_path / "run")
    provenance.claim(run.config, workdir)
    flipped = dataclasses.replace(
        run.config, evaluate=dataclasses.replace(run.config.evaluate, flips=True)
    )
    provenance.claim(flipped, workdir)
    assert config_checks.from_json((workdir / "config.json").read_text()).evaluate.flips


@pytest.mark.parametrize(
    "name, said",
    [
        ("config.json", r"config\.json: .*It is not replaced: move it away"),
        ("checkpoints/mine.txt", "checkpoints is there, but no config.json of a run"),
        ("metrics.jsonl", "metrics.jsonl is there, but no config.json"),
        ("report/index.html", r"report/index\.html was not written by an earlier call"),
    ],
)
def test_a_folder_with_files_of_a_person_is_no_run(data_dir, tmp_path, name, said):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"of": "something else"}')
    with pytest.raises(UserError, match=said):
        experiment.run(tiny_runs.least(data_dir), epath.Path(tmp_path))
    assert path.read_text() == '{"of": "something else"}'
    assert [found for found in tmp_path.rglob("*") if found.is_file()] == [path]


def test_the_report_of_a_run_without_a_manifest_is_replaced(run, tmp_path):
    """Runs of version 0.1 have none; their config shows that the report is ours."""
    folder = epath.Path(shutil.copytree(run.workdir, tmp_path / "run"))
    shutil.rmtree(folder / ".wbc_jax")
    experiment.refuse_foreign(folder, report.FILES)
    (folder / "report" / "per_image.csv").write_text("changed by a person")
    with pytest.raises(InputError, match=r"per_image\.csv has changed since"):
        experiment.refuse_foreign(folder, report.FILES)


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
    own = examples["train"].keys + examples["validation"].keys
    assert len(weights.read(file).seen) == 2 * len(own)
    # With another split seed the test split holds some of them: the run is refused.
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


@pytest.fixture
def encoder(monkeypatch, tmp_path):
    """Weights of an encoder of few blocks in place of the shipped ones: its file and its params."""
    stages = [(1, size, stride, min(times, 2), 8) for _, size, stride, times, _ in STAGES]
    monkeypatch.setattr(efficientnet, "STAGES", stages)
    monkeypatch.setattr(encoder_weights, "FOLDER", tmp_path)
    network = nnx.eval_shape(lambda: models.build(Model(name="efficientnet_unet")))
    params = steps.split_network(network)[1]["params"]["encoder"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float16), params)
    path = tmp_path / "efficientnet_lite0.safetensors"
    encoder_weights.write(path, params, {})
    return path, params


STAGES = efficientnet.STAGES


def test_a_run_begins_with_imagenet_weights_and_resumes(encoder, data_dir, tmp_path, monkeypatch):
    path, params = encoder
    workdir = epath.Path(tmp_path / "run")
    settings = {"model__name": "efficientnet_unet", "train__init_from": "imagenet"}
    config = tiny_runs.least(
        data_dir, optimizer__learning_rate=1e-9, train__steps=3, augment__flip=True, **settings
    )
    write = metric_writer.MetricWriter.write

    def interrupted(self, kind, step, values):
        if step == 2:
            raise InterruptedError
        write(self, kind, step, values)

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(metric_writer.MetricWriter, "write", interrupted)
        experiment.run(config, workdir)
    kept = (workdir / weights.INITIAL).read_bytes()
    path.unlink()  # the run has its own copy
    experiment.run(config, workdir)
    assert (workdir / weights.INITIAL).read_bytes() == kept
    initial = weights.read(workdir / weights.INITIAL)
    assert initial.seen == [] and provenance.seen_before(workdir) == []
    started = {n: a for n, a in initial.arrays.items() if n.startswith("params/encoder/")}
    wanted = {f"params/encoder/{n}": a for n, a in weights.named(params).items()}
    tiny_runs.assert_equal(started, jax.tree.map(np.float32, wanted))
    state, position = tiny_runs.state(workdir, checkpoint.LAST, config)
    assert position["step"] == 3
    trained = weights.named({"params": state.params})
    for name, value in initial.arrays.items():
        np.testing.assert_allclose(trained[name], value, atol=1e-6, err_msg=name)


def test_imagenet_weights_for_another_network_are_refused(data_dir, tmp_path):
    config = tiny_runs.least(data_dir, train__init_from="imagenet")
    with pytest.raises(WeightsError, match="the network has no such encoder"):
        experiment.run(config, epath.Path(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
