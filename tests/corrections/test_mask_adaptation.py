"""When a fine-tuned segmenter is taken, and what is said of it."""

import numpy as np
import pytest

from wbc_jax import metrics
from wbc_jax.corrections import mask_adaptation
from wbc_jax.inference.mask_tuning import Scores, Tuned


def scores(wrong, errors=(0.1, 0.2, 0.3, 0.4)):
    """Four images, with so many of 100 px of nucleus called cytoplasm in each."""
    matrix = np.array([[500, 0, 0], [0, 200, 0], [0, wrong, 100 - wrong]])
    return Scores(np.stack([matrix] * 4), np.array(errors))


def tuned(before, after, drawn=(10, 10)):
    return Tuned(None, before, after, *map(scores, drawn))


def test_refusals():
    assert mask_adaptation.refusal(tuned(scores(20), scores(10))) == ""
    assert "not better (-0." in mask_adaptation.refusal(tuned(scores(10), scores(20)))
    assert "not better (+0.000)" in mask_adaptation.refusal(tuned(scores(10), scores(10)))
    errors = (0.13, 0.23, 0.33, 0.43)  # the median rises from .25 to .28
    found = mask_adaptation.refusal(tuned(scores(20), scores(10, errors)))
    assert "the N/C ratio on the masks held back rises by 0.030" in found
    forgets = tuned(scores(20), scores(10), (10, 20))
    found = mask_adaptation.refusal(forgets)
    assert found.startswith(f"drawn cells lose {forgets.forgotten:.3f} mean IoU")
    assert forgets.forgotten > 0.02
    assert mask_adaptation.refusal(tuned(scores(20), scores(10), (10, 11))) == ""


def test_too_few():
    assert mask_adaptation.too_few(5) == ""
    assert mask_adaptation.too_few(1).startswith("1 mask is corrected; 5 are the least")
    assert mask_adaptation.too_few(0).startswith("0 masks are corrected")


def test_the_text():
    before, after = scores(20, (0.1, 0.2, 0.3, 0.4)), scores(10, (0.0, 0.1, 0.1, np.nan))
    lines = mask_adaptation.describe(tuned(before, after), ["a", "a", "b", "c"]).splitlines()
    assert lines[0].startswith("4 corrected masks in 3 images, each held back once")
    expected = [np.mean([1, 200 / (200 + n), (100 - n) / 100]) for n in (20, 10)]
    # All images are alike, so that the intervals have no width.
    ends = [f"{value:.3f} [{value:.3f}, {value:.3f}]" for value in expected]
    assert lines[2].split() == ["mean", "IoU", *" ".join(ends).split()]
    assert before.mean_iou == pytest.approx(expected[0])
    assert lines[3].split()[3] == "0.250" and " 0.100 [" in lines[3]
    gain = expected[1] - expected[0]
    assert lines[4] == f"gain in mean IoU: {gain:+.3f} [{gain:.3f}, {gain:.3f}]"
    drawn = float(metrics.mean_iou(scores(10).confusions.sum(0)))
    assert lines[5].endswith(f"{drawn:.3f} → {drawn:.3f}") and len(lines) == 6
    text = mask_adaptation.describe(tuned(before, after), ["a", "a", "b", "c"], scores(10))
    line = f"the new masks of 4 other cells of the folders agree with the old ones: {drawn:.3f}"
    assert text.splitlines()[6] == line.replace(f": {drawn:.3f}", f": mean IoU {drawn:.3f}")


def test_intervals_are_by_image():
    # One image with many cells counts as one draw.
    errors = np.array([0.5, 0.5, 0.5, 0.1])
    text = mask_adaptation.describe(tuned(scores(20, errors), scores(10, errors)), [0, 0, 0, 1])
    line = text.splitlines()[3]
    assert "0.500 [0.100, 0.500]" in line
    one = mask_adaptation.describe(tuned(scores(20), scores(10)), [0] * 4).splitlines()
    assert "[" not in one[2] and "[" not in one[4]
