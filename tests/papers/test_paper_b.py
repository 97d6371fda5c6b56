"""Paper B's literature table, sizes and times."""

import math

import numpy as np
import pytest

from helpers import paper_runs
from wbc_jax.papers import examples, paper_b


def test_table_15_is_a_mean_of_four(built, folder):
    row = paper_runs.rows_of(built["b", "table_15"])[
        "this paper", "CellaVision, Raabin-WBC and Kaggle pooled"
    ]
    by_type = paper_runs.summary(folder, "encoder_decoder")["results"]["raabin_gt"]["by_type"]
    mean = np.mean([by_type[kind]["global_accuracy"] for kind in paper_runs.MASKED])
    assert row.ours.number == pytest.approx(100 * mean)


def test_sizes_and_times(folder, monkeypatch):
    monkeypatch.setattr(examples, "throughput", lambda run: 100.0)
    rows = paper_runs.rows_of(paper_b.ITEMS["text"].build(paper_runs.store(folder)))
    assert rows["classifier", "parameters"].ours.number == pytest.approx(17.499781)
    assert rows["proposed CNN", "parameters"].ours.number == pytest.approx(58.5, rel=0.01)
    assert rows["proposed CNN", "operations an image"].ours.number == pytest.approx(7.311, rel=0.05)
    assert rows["UNet", "training time"].ours.number == 1.5
    assert rows["UNet", "test time of 3,305 images"].ours.number == pytest.approx(33.05)
    assert rows["classifier", "test time of 8,367 images"].ours.number == pytest.approx(83.67)
    assert rows["classifier", "inference time an image"].ours.number == 0.01
    assert math.isnan(rows["UNet", "training time"].difference)
    # Seven blocks are not the 36 layers that the paper prints, as its note says.
    assert rows["classifier", "layers"].ours.number == 32
    assert rows["proposed CNN", "layers"].ours.number == 22
    assert "5,041" in rows["classifier", "operations an image"].paper.note
    assert rows["classifier", "operations an image"].ours.number == pytest.approx(5041, abs=0.5)


def test_without_a_checkpoint_there_is_no_time(built):
    row = paper_runs.rows_of(built["b", "text"])["classifier", "throughput"]
    assert not row.ours.known and "no checkpoint in" in row.reason
