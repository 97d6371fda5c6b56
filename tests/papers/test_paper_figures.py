"""Masks of test images in the papers' figures."""

import numpy as np
import pytest
from etils import epath

from helpers import paper_runs
from wbc_jax.papers import figures, plans
from wbc_jax.papers.paper_b_segmentation import MASKED_TYPES


def test_masks_are_of_the_middling_cell(run, monkeypatch):
    """Synthetic cells replace real ones here: first they are refused, then accepted."""
    plan = plans.PLANS["encoder_decoder"]
    monkeypatch.setattr(plans, "folder", lambda *_: epath.Path(run.workdir))
    refused = figures.masks(paper_runs.store(run.workdir).needed(plan.name), MASKED_TYPES)
    assert not refused.figures and not any(row.ours.known for row in refused.rows)
    monkeypatch.setattr(plans, "is_synthetic", lambda name: False)
    store = paper_runs.store(run.workdir)
    content = figures.masks(store.needed(plan.name), ("lymphocyte",))
    images = [r for r in store.run(plan.name).rows if r["label"] == 2]
    images.sort(key=lambda r: (r["mean_iou"], r["id"]))
    middling = images[(len(images) - 1) // 2]
    rows = paper_runs.rows_of(content)
    for part in ("nucleus", "cytoplasm"):
        found = rows["lymphocyte", f"Dice, {part}"].ours.number
        assert found == pytest.approx(middling[f"dice_{part}"], abs=1e-5)
    (figure,) = content.figures
    assert middling["id"] in figure.title and figure.light[:4] == b"\x89PNG"


def test_dice_of_the_whole_cell():
    truth = np.array([[0, 1, 2, 2], [0, 1, 1, 255]], np.uint8)
    found = np.array([[1, 1, 1, 2], [0, 0, 2, 2]], np.uint8)
    scores = figures.dice(truth, found)
    # Nucleus: 1 of 2 and of 2; cytoplasm: 1 of 3 and of 3; cell: 4 of 5 and of 5.
    assert scores == pytest.approx({"nucleus": 1 / 2, "cytoplasm": 1 / 3, "cell": 4 / 5})
