"""benchmarks/robustness.py: its changes and figures against values computed by hand."""

import dataclasses
import math

import numpy as np
import pytest

import robustness
from wbc_jax.fields.cells import Cell, Field
from wbc_jax.labels import REVIEW

CHANGES = {change.name: change for change in robustness.changes()}


def cell(number=1, ratio=1.0, kind="monocyte", guess="", share=0.5):
    return Cell(
        number, 0, 0, 1, 1, kind, guess or kind, nc_ratio=ratio, nucleus_share=share,
    )  # fmt: skip


def field(labels, cells, one_cell=False):
    labels = np.asarray(labels, np.uint16)
    return Field(cells, (labels > 0).astype(np.uint8), labels, None, "unknown", one_cell)


def test_all_kinds_of_change_are_there():
    kinds = [name.partition(" ")[0] for name in CHANGES]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "turn": 3, "flip": 2, "brightness": 4, "gamma": 2, "red": 2, "blue": 2, "JPEG": 3,
        "blur": 2, "noise": 2, "scale": 4, "cut": 1,
    }  # fmt: skip


def test_light_of_a_pixel():
    image = np.full((2, 2, 3), (100, 200, 40), np.uint8)
    expected = {
        "brightness ×0.7": (70, 140, 28),
        "brightness ×1.3": (130, 255, 52),  # 260 is clipped
        "gamma 0.8": (121, 210, 58),  # 255 (100 / 255)^0.8 = 120.6
        "red ×1.1": (110, 200, 40),
        "blue ×0.9": (100, 200, 36),
    }
    for name, color in expected.items():
        np.testing.assert_array_equal(CHANGES[name].pixels(image)[0, 0], color)
        assert CHANGES[name].places(image[..., 0]) is not None


def test_changes_of_place_move_labels_alike():
    labels = np.zeros((30, 40), np.uint16)
    labels[8:14, 20:30] = 7
    image = np.repeat((labels * 30).astype(np.uint8)[..., None], 3, -1)
    for name in ("turn 90°", "turn 180°", "turn 270°", "flip up-down", "cut by 5 px", "scale ×2"):
        change = CHANGES[name]
        moved, seen = change.places(labels), change.pixels(image)
        assert moved.shape == seen.shape[:2] and set(np.unique(moved)) == {0, 7}
        assert ((seen[..., 0] > 105) == (moved == 7)).mean() > 0.98
    assert CHANGES["turn 90°"].places(labels).shape == (40, 30)
    assert CHANGES["cut by 5 px"].places(labels)[3, 15] == 7
    assert CHANGES["scale ×0.5"].places(labels).shape == (15, 20)
    assert CHANGES["JPEG 10"].places(labels) is labels


def test_noise_blur_and_jpeg_keep_the_size_and_do_change():
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    for name in ("noise 5", "blur 1 px", "JPEG 10"):
        found = CHANGES[name].pixels(image)
        assert found.shape == image.shape and found.dtype == np.uint8
        assert (found != image).mean() > 0.5
    off = CHANGES["noise 10"].pixels(np.full((99, 99, 3), 128, np.uint8)).astype(float) - 128
    assert off.std() == pytest.approx(10, rel=0.05)


def test_cells_of_a_field_are_matched_by_overlap():
    before = field([[1, 1, 0, 2, 2, 0, 3, 3]], [cell(1), cell(2), cell(3)])
    after = field([[2, 2, 0, 0, 1, 1, 0, 0]], [cell(1), cell(2)])
    pairs = robustness.matched(before, after, lambda labels: labels)
    # Cell 2 shares one of three pixels with the new cell 1; cell 3 is lost.
    assert [(a.cell, b and b.cell) for a, b in pairs] == [(1, 2), (2, 1), (3, None)]
    # A mirrored image: the cells keep their numbers, at mirrored places.
    mirrored = field(before.labels[:, ::-1], [cell(1), cell(2), cell(3)])
    pairs = robustness.matched(before, mirrored, lambda labels: labels[:, ::-1])
    assert [(a.cell, b.cell) for a, b in pairs] == [(1, 1), (2, 2), (3, 3)]


def test_a_crop_has_one_cell_or_lost_it():
    before = field([[1, 0]], [cell()], one_cell=True)
    for cells in ([cell()], []):
        after = field([[0, 1]], cells, one_cell=True)
        ((_, found),) = robustness.matched(before, after, lambda labels: labels)
        assert (found is None) == (not cells)


def test_relative_change():
    assert robustness.relative_change(2.0, 2.5) == 0.25
    assert robustness.relative_change(2.0, 1.5) == 0.25
    assert robustness.relative_change(2.0, math.inf) == math.inf
    assert robustness.relative_change(2.0, None) == math.inf
    assert math.isnan(robustness.relative_change(math.inf, 1.0))
    assert math.isnan(robustness.relative_change(None, 1.0))


def test_figures():
    before = [cell(i, 1.0) for i in range(1, 11)]
    after = [cell(i, 1 + i / 100, share=0.5 + i / 1000) for i in range(1, 11)]
    after[0] = dataclasses.replace(after[0], type="neutrophil", best_guess="neutrophil")
    after[1] = dataclasses.replace(after[1], type=REVIEW, best_guess="basophil")
    found = robustness.summarize(list(zip(before, after)))
    assert (found["cells"], found["lost"]) == (10, 0)
    # 1, 2, … 10 %: the fifth and the ninth.
    assert found["nc_ratio"] == {
        "cells": 10,
        "median": pytest.approx(0.05),
        "p90": pytest.approx(0.09),
    }
    assert found["nucleus_share"]["median"] == pytest.approx(0.01)
    assert (found["typed"], found["typed_otherwise"], found["guessed_otherwise"]) == (9, 1, 2)
    # Two of ten lost: the ninth is infinite.
    pairs = list(zip(before, [*after[:8], None, None]))
    found = robustness.summarize(pairs)
    assert found["lost"] == 2 and found["nc_ratio"]["p90"] == math.inf
    assert robustness.line("turn 90°", found) == (
        "| turn 90° | 5.0 % | lost | 1.0 % | lost | 1 of 7 | 2 | 2 |"
    )
