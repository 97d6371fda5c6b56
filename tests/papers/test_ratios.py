"""Paper A's tables recomputed from their own counts, and their contradictions."""

import math

import pytest

from wbc_jax.papers import printed, ratios


def figure(number):
    return next(f for f in ratios.all_rows() if f.number == str(number))


def flagged(column):
    return {
        int(f.number) for f in ratios.all_rows() if f.cells[column].flag == printed.CONTRADICTION
    }


def test_ratios_are_of_the_counts():
    one = figure(1)
    assert (one.table, one.type) == ("1", "neutrophil")
    assert one.nc_ratio == 10164 / 10606
    assert one.nucleus_share == 10164 / (10164 + 10606)
    assert one.offset_ratio == 10174 / 10616
    assert one.mean_ratio == 14.0528 / 15.7522
    assert one.offset_mean_ratio == pytest.approx(15.0528 / 16.7522)
    assert figure(32).offset_mean_ratio == pytest.approx(39.775 / 10.2732)
    assert [len(ratios.rows(t)) for t in "1234"] == [11, 10, 10, 10]


def test_a_constant_explains_the_printed_ratios():
    found = ratios.all_rows()

    def fit(column, attribute):
        return sum(printed.same_digits(getattr(f, attribute), f.cells[column]) for f in found)

    assert (fit("N/C", "nc_ratio"), fit("N/C", "offset_ratio")) == (5, 34)
    assert fit("ratio of means", "mean_ratio") == 0
    assert fit("ratio of means", "offset_mean_ratio") == 31
    # No other whole constant does as well.
    for other in (0, 1, 5, 9, 11, 20):
        counts = ((f.cells["nucleus"].number, f.cells["cytoplasm"].number, f) for f in found)
        again = sum(
            printed.same_digits((n + other) / (c + other), f.cells["N/C"]) for n, c, f in counts
        )
        assert again < 20


def test_the_rows_whose_ratio_does_not_follow_are_flagged():
    found = ratios.all_rows()
    wrong = {int(f.number) for f in found if not f.ratio_follows}
    assert wrong == flagged("N/C") == {24, 35, 37, 40, 41}
    wrong = {int(f.number) for f in found if not f.mean_ratio_follows}
    assert wrong == flagged("ratio of means") == {1, 8, 19, 23, 35, 37, 41}
    for f in found:
        if not f.ratio_follows:
            assert f"{f.nc_ratio:.2f}" in f.cells["N/C"].note
    # One digit differs from the printed ratio.
    assert f"{figure(24).offset_ratio:.4f}" == "3.4094"


def test_rows_that_share_numbers_are_flagged():
    def cell(number, column):
        return figure(number).cells[column]

    for one, other in ((10, 12), (11, 17), (2, 6)):
        assert cell(one, "nucleus").value == cell(other, "nucleus").value
    assert cell(10, "cytoplasm").value == cell(12, "cytoplasm").value
    assert cell(39, "cytoplasm").value == cell(40, "cytoplasm").value
    assert cell(17, "cytoplasm").number - cell(11, "cytoplasm").number == 9
    assert cell(6, "cytoplasm").number - cell(2, "cytoplasm").number == 1000
    for one, other in ((9, 20), (10, 12), (11, 17)):
        for part in ("mean nucleus", "mean cytoplasm"):
            gap = cell(one, part).number - cell(other, part).number
            assert gap == pytest.approx(1, abs=5e-4)
    assert cell(9, "ratio of means").value == cell(20, "ratio of means").value
    counts = [f.cells["nucleus"].value for f in ratios.all_rows()]
    twice = {int(f.number) for f in ratios.all_rows() if counts.count(f.cells["nucleus"].value) > 1}
    assert twice == flagged("nucleus") == {2, 6, 10, 11, 12, 17}
    assert flagged("cytoplasm") == {10, 12, 39, 40}
    assert flagged("mean nucleus") == flagged("mean cytoplasm") == {9, 20}


def test_verdicts_that_the_text_contradicts_are_flagged():
    found = {int(f.number): f for f in ratios.all_rows()}
    wrong = {n for n, f in found.items() if not f.verdict_follows}
    assert wrong == {4, 21, 24, 35}
    # The other four are two cells that stand in two tables each, with different verdicts.
    assert flagged("verdict") == wrong | {10, 11, 12, 17}
    assert [found[n].cells["verdict"].value for n in (10, 12, 11, 17)] == [
        "unhealthy", "healthy", "healthy", "unhealthy",
    ]  # fmt: skip
    assert (found[24].verdict, found[24].verdict_of_printed) == ("unhealthy", "healthy")
    assert [n for n, f in found.items() if not f.verdict] == [39]


@pytest.mark.parametrize(
    "type, ratio, expected",
    [
        ("neutrophil", 0.2, "healthy"),
        ("neutrophil", 1.5, "healthy"),
        ("neutrophil", 1.5001, "unhealthy"),
        ("neutrophil", math.inf, "unhealthy"),
        ("eosinophil", 1.75, "healthy"),
        ("eosinophil", 1.7499, "unhealthy"),
        ("eosinophil", 2.0499, "healthy"),
        ("eosinophil", 2.05, ""),
        ("basophil", 3.45, "healthy"),
        ("basophil", 3.4499, "unhealthy"),
        ("basophil", 5.0499, "healthy"),
        ("basophil", 5.06, "unhealthy"),
        ("monocyte", 3.0, ""),
        ("monocyte", 3.0001, "healthy"),
        ("monocyte", 2.0499, "unhealthy"),
        ("monocyte", 2.5, ""),
        ("lymphocyte", 1.0, ""),
        ("neutrophil", math.nan, ""),
    ],
)
def test_verdict(type, ratio, expected):
    assert ratios.verdict(type, ratio) == expected


def test_ranges_are_the_papers():
    ranges = ratios.reference_ranges()
    assert {r.type for r in ranges} == set(ratios.TYPES.values())
    assert all(r.source == "section 4.1" and r.note for r in ranges)
