"""The agreement of reviewers: Cohen's kappa and the confusion, by command."""

import numpy as np
import pytest
import sklearn.metrics

from wbc_jax import review
from wbc_jax.corrections import agreement, session


def test_kappa_and_confusion_of_what_both_have_typed(folder, capsys):
    anna, bert = session.Session(folder, "Anna"), session.Session(folder, "Bert")
    for index, one, other in (
        (0, "monocyte", "monocyte"), (1, "monocyte", "Blast"), (2, "Blast", "Blast"),
    ):  # fmt: skip
        anna.set_types([index], one)
        bert.set_types([index], other)
    bert.set_types([3], "broken")
    anna.refresh()
    found = agreement.between(anna.results, anna.state, "Anna", "Bert")
    assert found.types == ["monocyte", "Blast"] and found.confusion.tolist() == [[1, 1], [0, 1]]
    assert (found.only_one, found.only_other) == (0, 1)
    assert found.differ == [(1, "monocyte", "Blast")]
    expected = sklearn.metrics.cohen_kappa_score(
        ["monocyte", "monocyte", "Blast"], ["monocyte", "Blast", "Blast"]
    )
    assert found.kappa == pytest.approx(expected) == pytest.approx(0.4)
    # Drawn by image: the crop twice (kappa not defined), both (.4), or the field twice (0).
    assert found.interval == pytest.approx((0, 0.4))
    review.main([str(folder), "--agreement"])
    said = capsys.readouterr().out
    assert "Anna and Bert: 3 cells typed by both; 0 only by Anna, 1 only by Bert\n" in said
    assert "same type: 2 of 3, 66.7 % [20.8, 93.9 %]\n" in said
    assert "Cohen's kappa: 0.400 [0.000, 0.400]\n" in said
    assert "Anna \\ Bert  monocyte  Blast\n" in said
    assert "monocyte            1      1\n" in said and "Blast               0      1\n" in said
    assert f"  {anna.results.cells[1].file}, cell 1: monocyte, Blast\n" in said


def test_who_has_not_typed_does_not_agree(folder, capsys):
    def refused():
        with pytest.raises(SystemExit) as caught:
            review.main([str(folder), "--agreement"])
        return caught.value.code

    assert refused().startswith("error: nobody has said the type of a cell of")
    anna = session.Session(folder, "Anna")
    anna.set_types([0], "monocyte")
    bert = session.Session(folder, "Bert")
    area, base, mask = bert.mask(1)
    mask[0, 0] = 2
    bert.paint(1, area, mask, base)
    assert refused().startswith("error: only Anna has said the type")
    bert.set_types([1], "monocyte")
    review.main([str(folder), "--agreement"])
    said = capsys.readouterr().out
    assert said == "Anna and Bert: 0 cells typed by both; 1 only by Anna, 1 only by Bert\n"
    bert.set_types([0], "monocyte")
    anna.refresh()
    found = agreement.between(anna.results, anna.state, "Anna", "Bert")
    assert np.isnan(found.kappa) and np.isnan(found.interval).all()
