"""Groups of cells compared: by hand, and against scipy and scikit-learn."""

import math

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from helpers import cell_tables as made
from wbc_jax.errors import InputError
from wbc_jax.evaluate import cell_tables, cohort, cohort_truth
from wbc_jax.evaluate.cell_tables import Rule
from wbc_jax.metrics import statistics

LOW = [(50, 50), (40, 60), (60, 40), (30, 70)]  # N/C 1, 2/3, 1.5, 3/7
HIGH = [(80, 20), (70, 30), (90, 10), (60, 40)]  # N/C 4, 7/3, 9, 1.5


def table(tmp_path, name, pairs, **more):
    path = made.write(tmp_path / name / "cells.csv", made.cells(name, pairs, **more))
    return name, cell_tables.read(path)


def compared(tables, rule=None, **options):
    rule = rule or Rule()
    groups, nameless = cohort.assemble(tables, rule)
    return cohort.compare(groups, rule, (), nameless, **{"resamples": 50, **options})


def test_of(found, key, first="low", second="high"):
    (one,) = (t for t in found.tests if (t.measure.key, t.first, t.second) == (key, first, second))
    return one


test_of.__test__ = False


def test_ratio_by_hand(tmp_path):
    found = compared([table(tmp_path, "low", LOW), table(tmp_path, "high", HIGH)])
    low, high = (s for s in found.summaries if s.measure.key == "nc_ratio")
    # Sorted: 3/7, 2/3, 1, 1.5; a quartile lies at three quarters of a step.
    assert low.quartiles == pytest.approx(((3 / 7 + 3 * 2 / 3) / 4, 5 / 6, (3 * 1 + 1.5) / 4))
    assert high.quartiles[1] == pytest.approx((4 + 7 / 3) / 2)
    assert (low.cells, high.cells, low.infinite) == (4, 4, 0)
    # Of 16 pairs, high wins 15 and ties one (1.5).
    test = test_of(found, "nc_ratio")
    assert test.auroc == 15.5 / 16 and test.effect == pytest.approx(15 / 16)
    assert test.statistic == 0.5 and test.name == "Mann-Whitney"
    # All nuclei together with their cytoplasm are 100 px.
    area = test_of(found, "cell_px")
    assert area.auroc == 0.5 and area.p == 1 and area.p_holm == 1
    share = test_of(found, "nucleus_share")
    assert (share.p, share.p_holm, share.auroc) == (test.p, test.p_holm, test.auroc)
    assert found.values["nucleus_share"][1].tolist() == [0.8, 0.7, 0.9, 0.6]


def test_tests_are_scipys_and_holm_is_over_the_measures(tmp_path):
    rng = np.random.default_rng(0)
    tables = []
    for name, mean in (("low", 50), ("high", 58)):
        rows = [
            made.row(f"{name}{i}", int(n), int(c), cell_solidity=round(float(s), 3))
            for i, (n, c, s) in enumerate(
                zip(rng.normal(mean, 9, 30), rng.normal(40, 9, 30), rng.uniform(0.8, 1, 30))
            )
        ]
        tables.append((name, cell_tables.read(made.write(tmp_path / name / "cells.csv", rows))))
    found = compared(tables)
    counted = [t for t in found.tests if t.measure.key != "nucleus_share"]
    for test in counted:
        first, second = found.values[test.measure.key]
        oracle = scipy.stats.mannwhitneyu(first, second, method="asymptotic", use_continuity=False)
        if np.ptp(np.r_[first, second]):
            assert (test.statistic, test.p) == pytest.approx((oracle.statistic, oracle.pvalue))
        area = roc_auc_score(np.r_[np.zeros(30), np.ones(30)], np.r_[first, second])
        assert test.auroc == pytest.approx(area)
    assert len(counted) == 11
    assert [t.p_holm for t in counted] == statistics.holm([t.p for t in counted]).tolist()
    quartiles = np.percentile(found.values["nucleus_px"][1], [25, 50, 75])
    (one,) = (s for s in found.summaries if (s.measure.key, s.group) == ("nucleus_px", "high"))
    np.testing.assert_allclose(one.quartiles, quartiles)
    assert one.low[1] < one.quartiles[1] < one.high[1]


def test_three_groups_have_a_test_of_all_and_of_each_pair(tmp_path):
    third = [(95, 5), (85, 15), (75, 25), (65, 35)]
    tables = [table(tmp_path, n, p) for n, p in (("low", LOW), ("high", HIGH), ("third", third))]
    found = compared(tables)
    tests = [t for t in found.tests if t.measure.key == "nc_ratio"]
    assert [(t.first, t.second) for t in tests] == [
        ("", ""), ("low", "high"), ("low", "third"), ("high", "third")
    ]  # fmt: skip
    h, p = scipy.stats.kruskal(*found.values["nc_ratio"])
    assert (tests[0].statistic, tests[0].p) == pytest.approx((h, p))
    assert tests[0].effect == pytest.approx(h / 11) and tests[0].name == "Kruskal-Wallis"
    assert math.isnan(tests[0].auroc)
    for pairs in (False, True):
        family = [
            t for t in found.tests if bool(t.first) == pairs and t.measure.key != "nucleus_share"
        ]
        expected = statistics.holm([t.p for t in family])
        np.testing.assert_allclose([t.p_holm for t in family], expected)


def test_a_cell_without_cytoplasm_has_the_largest_ratio(tmp_path):
    found = compared([table(tmp_path, "low", LOW), table(tmp_path, "high", [*HIGH[:2], (99, 0)])])
    high = [s for s in found.summaries if s.measure.key == "nc_ratio"][1]
    assert high.infinite == 1 and high.quartiles == pytest.approx(((7 / 3 + 4) / 2, 4, math.inf))
    test = test_of(found, "nc_ratio")
    assert test.auroc == 1 and 0 < test.p < 0.05
    assert found.values["nucleus_share"][1].tolist() == [0.8, 0.7, 1]


def test_areas_are_in_um2_only_if_every_magnification_is_known(tmp_path):
    known = {"um_per_px": 0.5, "um_per_px_source": "given"}
    first = table(tmp_path, "low", LOW, **known)
    both = compared([first, table(tmp_path, "high", HIGH, **known)])
    assert both.values["nucleus_um2"][0].tolist() == [12.5, 10, 15, 7.5]
    assert both.values["cell_um2"][1].tolist() == [25] * 4 and both.notes == ()
    part = compared([first, table(tmp_path, "other", HIGH)])
    assert "nucleus_um2" not in part.values and part.values["nucleus_px"][0].tolist() == [
        50, 40, 60, 30
    ]  # fmt: skip
    assert "Areas are in pixels" in part.notes[0] and "4 of 8 cells" in part.notes[0]
    cells = {"um_per_px": 0.4, "um_per_px_source": "red_cells"}
    mixed = compared([first, table(tmp_path, "red", HIGH, **cells)])
    assert "more than one source (low: given; red: red_cells)" in mixed.notes[0]
    assert "assumed to be 7.5 µm wide" in mixed.notes[1]


def test_left_out_cells_are_counted(tmp_path):
    rows = made.cells("low", LOW)
    rows += [made.row("cut", flag="touches_frame"), made.row("odd", review="low_probability")]
    rows += [made.row("none", "", "", cell="", flag="no_cell")]
    path = made.write(tmp_path / "low" / "cells.csv", rows)
    other = table(tmp_path, "high", HIGH)
    groups, _ = cohort.assemble([("low", cell_tables.read(path)), other], Rule())
    assert groups[0].left_out == {"touches_frame": 1, "no_cell": 1}
    assert groups[0].kept == {"review": 1} and len(groups[0].rows) == 5 == groups[0].images
    groups, _ = cohort.assemble([("low", cell_tables.read(path)), other], Rule(("review",)))
    assert groups[0].left_out == {"review": 1, "no_cell": 1}
    assert groups[0].kept == {"touches_frame": 1}


def test_groups_of_a_column_and_the_reference(tmp_path):
    rows = [*made.cells("a", LOW, who="normal"), *made.cells("b", HIGH, who="blast")]
    path = made.write(tmp_path / "cells.csv", [*rows, made.row("c", who="")])
    read = [("x", cell_tables.read(path, "who"))]
    groups, nameless = cohort.assemble(read, Rule(), by_column=True)
    assert [group.name for group in groups] == ["blast", "normal"] and nameless == 1
    groups, _ = cohort.assemble(read, Rule(), True, "normal")
    assert [group.name for group in groups] == ["normal", "blast"]
    with pytest.raises(InputError, match="--reference is 'healthy', but the groups are 'blast'"):
        cohort.assemble(read, Rule(), True, "healthy")


def test_tables_of_one_name_are_one_group(tmp_path):
    parts = [("low", table(tmp_path, "a", LOW)[1]), ("low", table(tmp_path, "b", LOW)[1])]
    groups, _ = cohort.assemble([*parts, table(tmp_path, "high", HIGH)], Rule())
    assert [(g.name, len(g.rows)) for g in groups] == [("low", 8), ("high", 4)]
    with pytest.raises(InputError, match=r"group 'low' holds the cell 1 of .*a0\.png twice"):
        cohort.assemble([*parts, parts[0], table(tmp_path, "high", HIGH)], Rule())


def test_what_is_no_cohort(tmp_path):
    low = table(tmp_path, "low", LOW)
    with pytest.raises(InputError, match=r"there is 1 group \('low'\); allowed are 2 to 8"):
        cohort.assemble([low], Rule())
    rows = [made.row(f"c{i}", who=f"c{i}") for i in range(9)]
    read = cell_tables.read(made.write(tmp_path / "cells.csv", rows), "who")
    with pytest.raises(InputError, match="there are 9 groups"):
        cohort.assemble([("x", read)], Rule(), by_column=True)
    cut = table(tmp_path, "cut", LOW, flag="touches_frame")
    with pytest.raises(InputError, match=r"'cut' has no cell to measure \(4 touches_frame\)"):
        cohort.assemble([low, cut], Rule())


def test_cells_that_are_not_independent_are_told(tmp_path):
    rows = [made.row("one", 50, 50), made.row("one", 40, 60, cell=2), made.row("two", 30, 70)]
    path = made.write(tmp_path / "low" / "cells.csv", rows)
    low = ("low", cell_tables.read(path))
    found = compared([low, table(tmp_path, "high", HIGH)])
    assert any("The 3 cells of low are of 2 images." in note for note in found.notes)
    found = compared([low, ("again", low[1])])
    assert any("3 cells stand in more than one group" in note for note in found.notes)


def test_our_masks_against_true_ones(tmp_path):
    low, high = table(tmp_path, "low", LOW), table(tmp_path, "high", HIGH)
    groups, _ = cohort.assemble([low, high], Rule())
    # The true nuclei are 5 px larger in each cell of `high`; `high3` has no true mask.
    true = made.cells("low", LOW)
    true += made.cells("high", [(n + 5, c - 5) for n, c in HIGH[:3]])
    truth = cell_tables.read(made.write(tmp_path / "truth.csv", true))
    found = cohort_truth.compare(groups, [truth], Rule(), resamples=50)
    assert found.unmatched == {"low": 0, "high": 1}
    bias = {(b.measure.key, b.group): b for b in found.biases}
    one = bias["nucleus_px", "high"]
    assert (one.cells, one.truth, one.ours, one.difference) == (3, 85, 80, -5)
    assert (one.low, one.high) == (-5, -5)
    ratio = bias["nc_ratio", "high"]
    assert ratio.truth == pytest.approx(85 / 15) and ratio.ours == 4
    # Of 19 - 9, 17/3 - 4 and 3 - 7/3 the middle one.
    assert ratio.difference == pytest.approx(4 - 85 / 15)
    assert bias["nc_ratio", "low"].difference == 0
    assert len(found.truth.groups[1].rows) == len(found.ours.groups[1].rows) == 3
    assert test_of(found.truth, "nc_ratio").auroc == 1
    assert test_of(found.ours, "nc_ratio").auroc == 1


def test_true_masks_of_other_images_or_sizes_are_refused(tmp_path):
    groups, _ = cohort.assemble(
        [table(tmp_path, "low", LOW), table(tmp_path, "high", HIGH)], Rule()
    )
    path = made.write(tmp_path / "truth.csv", made.cells("low", LOW))
    with pytest.raises(InputError, match=r"group 'high' has a true mask in .*truth\.csv"):
        cohort_truth.compare(groups, [cell_tables.read(path)], Rule())
    made.write(path, [*made.cells("low", LOW, width=32), *made.cells("high", HIGH)])
    with pytest.raises(InputError, match=r"low0\.png is 64 × 64 px .* of --truth 32 × 64"):
        cohort_truth.compare(groups, [cell_tables.read(path)], Rule())
