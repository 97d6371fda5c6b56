"""wbc_jax.training.position: the best score, early stopping, windows, old checkpoints."""

import dataclasses
import json

import numpy as np

from wbc_jax.training.position import Position


def test_a_checkpoint_with_the_former_names_is_read():
    saved = {
        "step": 12,
        "best": 0.5,
        "best_step": 4,
        "looks_since_best": 2,
        "plateau_best": 0.5,
        "plateau_looks": 1,
        "stopped": False,
        "seconds": 3.5,
        "window": {"loss": [0.25], "confusion": [[1, 2], [3, 4]], "drawn": {"a": 2}},
    }
    position = Position.from_saved(saved)
    assert (position.evals_since_best, position.plateau_evals) == (2, 1)
    assert (position.step, position.best, position.seconds) == (12, 0.5, 3.5)
    assert position.window == saved["window"]
    stored = json.loads(json.dumps(dataclasses.asdict(position)))
    assert Position.from_saved(stored) == position


def test_best_and_early_stopping_by_hand():
    position = Position()
    seen = []
    for step, score in enumerate((0.5, 0.4, 0.5, 0.6, 0.6, 0.1), start=1):
        position.step = step
        position.update_best(score, patience=2)
        seen.append(
            (position.best, position.best_step, position.evals_since_best, position.stopped)
        )
    assert seen == [
        (0.5, 1, 0, False),
        (0.5, 1, 1, False),
        (0.5, 1, 2, True),  # an equal score is no better one
        (0.6, 4, 0, False),
        (0.6, 4, 1, False),
        (0.6, 4, 2, True),
    ]


def test_no_patience_never_stops():
    position = Position()
    for step in range(1, 100):
        position.step = step
        position.update_best(-step, patience=0)
    assert not position.stopped and position.evals_since_best == 98


def test_without_a_score_the_last_round_is_the_best():
    position = Position()
    for step in (2, 4):
        position.step = step
        position.update_best(float("nan"), patience=1)
        assert position.best_step == step and not position.stopped


def test_a_window_sums_its_steps():
    position = Position()
    position.extend_window(0.5, np.array([[1, 0], [2, 3]], np.int32), ["a", "b", "a"])
    position.extend_window(0.25, np.array([[0, 5], [1, 0]], np.int32), ["b"])
    assert position.window == {
        "loss": [0.5, 0.25],
        "confusion": [[1, 5], [3, 3]],
        "drawn": {"a": 2, "b": 2},
    }
    json.dumps(position.window)
    position.clear_window()
    assert position.window == Position().window
