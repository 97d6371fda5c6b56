"""The training loop: it learns, keeps the best checkpoint, stops when it should and says why."""

import json
import re

import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

import wbc_jax
from helpers import tiny_runs
from wbc_jax import evaluate, models, provenance
from wbc_jax.data import pipeline
from wbc_jax.errors import NonFiniteLossError
from wbc_jax.parallel import sharding
from wbc_jax.training import checkpoint, loop, metric_writer, steps


def _train(config, workdir, examples):
    return loop.train(config, workdir, examples, evaluate.TASKS[config.task])


def _lines(workdir, kind):
    return [line for line in metric_writer.read(workdir) if line["kind"] == kind]


def test_training_lowers_the_loss(run):
    losses = [line["loss"] for line in _lines(run.workdir, "train")]
    assert len(losses) == 48
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    scores = [line["score"] for line in _lines(run.workdir, "validation")]
    assert max(scores) > 0.5


def test_log_has_a_line_at_each_interval_with_its_schedule_and_epoch(run):
    lines = _lines(run.workdir, "train")
    assert [line["step"] for line in lines] == list(range(5, 241, 5))
    images = len(pipeline.load_splits(run.config.data, tiny_runs.SIZE)["train"])
    for line in lines:
        assert line["epoch"] == pytest.approx(line["step"] * 8 / images)
        # Warm-up over 5 steps, then half a cosine over the other 235; the rate of the step done.
        done = line["step"] - 1
        rate = done / 5 if done < 5 else (1 + np.cos(np.pi * (done - 5) / 235)) / 2
        assert line["learning_rate"] == pytest.approx(1e-2 * rate, rel=1e-4, abs=1e-8)


def test_best_checkpoint_is_that_of_the_best_validation_score(run):
    scores = {line["step"]: line["score"] for line in _lines(run.workdir, "validation")}
    assert list(scores) == list(range(40, 241, 40))
    step = max(scores, key=scores.get)  # the first of equals
    state, position = tiny_runs.state(run.workdir, checkpoint.BEST, run.config)
    assert int(state.step) == position["step"] == position["best_step"] == step
    assert position["best"] == scores[step]
    last, position = tiny_runs.state(run.workdir, checkpoint.LAST, run.config)
    assert int(last.step) == 240 and position["best_step"] == step
    report = json.loads((run.workdir / "report" / "metrics.json").read_text())
    assert report["step"] == step


def test_early_stopping_ends_training_and_is_recorded(data_dir, tmp_path, capsys):
    # A rate below float32's resolution changes no parameter, so that no validation round is better.
    config = tiny_runs.least(
        data_dir,
        optimizer__learning_rate=1e-30,
        optimizer__weight_decay=0.0,
        train__steps=50,
        train__patience=2,
    )
    examples = pipeline.load_splits(config.data, tiny_runs.SIZE)
    workdir = epath.Path(tmp_path / "run")
    position = _train(config, workdir, examples)
    assert (position.step, position.best_step, position.evals_since_best) == (3, 1, 2)
    assert position.stopped
    assert "no better for 2 validation rounds: stopping" in capsys.readouterr().out
    _, saved = tiny_runs.state(workdir, checkpoint.LAST, config)
    assert saved["stopped"] and saved["step"] == 3
    # The same command trains no further.
    assert _train(config, workdir, examples).step == 3
    assert "Training is complete (step 3)." in capsys.readouterr().out
    assert len(_lines(workdir, "validation")) == 3


def test_non_finite_loss_stops_and_leaves_the_last_good_checkpoint(data_dir, tmp_path):
    config = tiny_runs.least(
        data_dir,
        optimizer__learning_rate=1e30,
        optimizer__gradient_clip=0.0,
        optimizer__warmup_steps=0,
    )
    examples = pipeline.load_splits(config.data, tiny_runs.SIZE)
    workdir = epath.Path(tmp_path / "run")
    provenance.claim(config, workdir)
    with pytest.raises(NonFiniteLossError) as caught:
        _train(config, workdir, examples)
    text = str(caught.value)
    step = int(re.match(r"step (\d+): the loss is \S+ and the gradient's norm \S+\.", text)[1])
    assert step == 2
    dataset = pipeline.train_dataset(examples["train"], 4, 6, 0)
    ids = [examples["train"].ids[i] for i in dataset[step - 1]["index"]]
    assert text.endswith(f"look at the images of this batch: {', '.join(ids)}.")
    assert "Lower config.optimizer.learning_rate" in text
    assert str(workdir / "checkpoints") in text
    # Step 1 was finite and is kept; the log has no line for step 2.
    assert wbc_jax.load(workdir).step == 1
    assert {line["step"] for line in metric_writer.read(workdir)} == {1}


def test_average_is_that_of_a_numpy_recomputation(data_dir):
    decay = 0.15  # between 1/10, the first step's decay, and 2/11, the second's
    config = tiny_runs.least(data_dir, model__norm="batch", optimizer__ema_decay=decay)
    examples = pipeline.load_splits(config.data, tiny_runs.SIZE)["train"]
    mesh = sharding.make_mesh(4)
    network, weights = steps.split_network(models.build(config.model, 0))
    state = steps.init_state(config, weights, mesh)
    step = steps.make_train_step(config, network, mesh)
    expected = [np.asarray(x, np.float64) for x in _leaves(state.params, state.stats)]
    dataset = pipeline.train_dataset(examples, 4, 6, 0)
    for s in range(4):
        state, _ = step(state, sharding.put_batch(dataset[s], mesh))
        keep = min(decay, (1 + s) / (10 + s))
        new = [np.asarray(x, np.float64) for x in _leaves(state.params, state.stats)]
        expected = [keep * old + (1 - keep) * x for old, x in zip(expected, new)]
        assert int(state.step) == s + 1
    found = _leaves(state.average["params"], state.average["stats"])
    for x, y in zip(found, expected):
        np.testing.assert_allclose(np.asarray(x), y, rtol=1e-5, atol=1e-7)
    # The average differs from the parameters, and evaluation uses it.
    assert any(np.abs(np.asarray(x) - y).max() > 1e-5 for x, y in zip(found, new))
    assert state.weights() is state.average


def _leaves(params, stats):
    import jax

    return jax.tree.leaves({"params": params, "stats": stats})


def test_without_a_validation_split_the_last_round_is_the_best(data_dir, tmp_path):
    config = tiny_runs.least(data_dir, train__steps=3, data__fractions=(0.7, 0.0, 0.3))
    workdir = epath.Path(tmp_path / "run")
    examples = pipeline.load_splits(config.data, tiny_runs.SIZE)
    assert len(examples["validation"]) == 0
    _train(config, workdir, examples)
    state, _ = tiny_runs.state(workdir, checkpoint.BEST, config)
    assert int(state.step) == 3


def test_plateau_lowers_the_rate_and_its_state_is_saved(data_dir, tmp_path):
    # A rate so small that validation never gains: without patience every validation round after
    # the first halves it.
    fields = {
        "optimizer__schedule": "plateau",
        "optimizer__learning_rate": 1e-9,
        "optimizer__drop_factor": 0.5,
        "optimizer__plateau_patience": 0,
        "optimizer__warmup_steps": 0,
        "train__steps": 4,
    }
    config = tiny_runs.least(data_dir, **fields)
    examples = pipeline.load_splits(config.data, tiny_runs.SIZE)
    _train(config, epath.Path(tmp_path / "whole"), examples)
    rates = [
        line["learning_rate"]
        for line in metric_writer.read(tmp_path / "whole")
        if line["kind"] == "train"
    ]
    # Step s is written before the validation round that follows it.
    assert rates == pytest.approx([1e-9, 1e-9, 5e-10, 2.5e-10])
    state, position = tiny_runs.state(tmp_path / "whole", checkpoint.LAST, config)
    assert float(state.rate_scale) == 0.125 and position["plateau_evals"] == 0


def test_class_weights_come_from_the_training_split(data_dir, tmp_path, monkeypatch):
    given = []

    def total(settings, logits, truth, class_weights):
        given.append(class_weights)
        return jnp.zeros(len(logits)) + logits.mean()

    monkeypatch.setattr(steps.losses, "total", total)
    config = tiny_runs.least(data_dir, train__steps=1, loss__class_weights="inverse_frequency")
    examples = pipeline.load_splits(config.data, tiny_runs.SIZE)
    _train(config, epath.Path(tmp_path), examples)
    pixels = np.zeros(3)
    for i in range(len(examples["train"])):
        pixels += [(examples["train"][i]["mask"] == c).sum() for c in range(3)]
    weights = 1 / pixels
    np.testing.assert_allclose(given[0], weights / weights.mean(), rtol=1e-5)
