"""All tables and figures of both papers, made from canned runs."""

import collections
import math

import pytest

from helpers import paper_runs
from wbc_jax import reproduce
from wbc_jax.papers import items, paper_a, paper_b, plans, printed
from wbc_jax.papers.paper_b_classification import NO_INDEPENDENT

ITEMS = {"a": paper_a.ITEMS, "b": paper_b.ITEMS}
PAIRS = [(paper, item) for paper, names in reproduce.ITEMS.items() for item in names]


def drawn(name, scores):
    return {name: scores, "all": {**scores, "accuracy": 9.0, "confusion": None}}


@pytest.mark.parametrize("paper, item", PAIRS)
def test_every_cell_of_the_paper_is_there_with_ours_or_a_reason(built, paper, item):
    compared = built[paper, item]
    assert (compared.paper, compared.item) == (paper, item)
    places = [(row.row, row.column) for row in compared.rows]
    assert compared.rows and len(places) == len(set(places))
    if item in printed.items(paper):
        shown = {id(row.paper) for row in compared.rows if row.paper is not None}
        shown_cells = {(row.paper.row, row.paper.column) for row in compared.rows if row.paper}
        assert shown_cells == set(printed.load(paper, item)) and shown
    for row in compared.rows:
        assert row.ours.known != bool(row.reason), row
        if not math.isnan(row.ours.low):
            assert row.ours.low <= row.ours.high
    assert set(printed.contradictions(paper, item)) <= set(compared.contradictions)
    assert not compared.missing
    if ITEMS[paper][item].needs:
        assert any("trained on 100 images" in sentence for sentence in compared.protocol)


def test_which_of_our_cells_are_blank(built):
    """Only numbers on unavailable data and numbers of cited studies are blank."""
    blank = collections.Counter()
    for (paper, item), compared in built.items():
        for row in compared.rows:
            blank[paper, item] += not row.ours.known
    whole = {key for key, number in blank.items() if not number}
    assert whole == {
        ("b", "table_4"), ("b", "table_7"), ("b", "table_9"), ("b", "table_10"),
        ("b", "table_13"), ("b", "figure_7"), ("b", "figure_3"), ("a", "figure_7"),
    }  # fmt: skip
    for item in ("table_1", "table_2", "table_5", "table_8", "table_11", "table_12"):
        assert blank["b", item] == len(built["b", item].rows)
    reasons = {row.reason for row in built["b", "table_5"].rows}
    assert reasons == {NO_INDEPENDENT}


def test_missing_runs_are_named_with_their_command(tmp_path):
    empty = paper_runs.store(tmp_path)
    for paper, item in PAIRS:
        compared = ITEMS[paper][item].build(empty)
        needs = ITEMS[paper][item].needs
        assert len(compared.missing) == len(needs)
        for name in needs:
            wanted = f"--config={plans.PLANS[name].config} --workdir={tmp_path / name} "
            assert sum(wanted in sentence for sentence in compared.missing) == 1
        counted = ("parameters", "operations an image", "layers")
        known = [row for row in compared.rows if row.ours.known]
        assert all(row.column in counted for row in known)


def test_drawn_cells_never_stand_in_a_papers_cell(tmp_path):
    """Neither if a run has no other cells, nor mixed with its other cells."""
    synthetic = "wbc_synthetic/default"
    types_, masks = paper_runs.type_scores(1), paper_runs.mask_scores(1)
    images = paper_runs.mask_rows(1, synthetic)
    for name, plan in plans.PLANS.items():
        scores = types_ if plan.task == "classification" else masks
        external = {"wbc_synthetic/small": scores}
        paper_runs.write(tmp_path, name, drawn(synthetic, scores), external, images, images)
    store = paper_runs.store(tmp_path)
    own = ("training time", "parameters", "operations an image", "layers")
    for paper, item in PAIRS:
        if item in ("figure_3",) or (paper, item) == ("a", "figure_7"):
            continue  # curves of training itself
        for row in ITEMS[paper][item].build(store).rows:
            settings = (paper, item) == ("a", "text") and row.column != "accuracy"
            if not settings and row.column not in own:
                assert not row.ours.known, (paper, item, row)
            assert not any(value.known for value in row.stand_ins.values())
    for row in paper_a.ITEMS["text"].build(store).rows:
        assert not row.column.startswith("accuracy") or not row.ours.known

    both = {"pbc": paper_runs.type_scores(5), **drawn(synthetic, types_)}
    paper_runs.write(tmp_path, "classifier", both)
    rows = paper_runs.rows_of(paper_b.ITEMS["table_4"].build(paper_runs.store(tmp_path)))
    right = (paper_runs.probabilities(5).argmax(1) == paper_runs.labels()).mean()
    overall = rows["overall", "accuracy: share of right answers"]
    assert overall.ours.number == pytest.approx(right)


def test_items_are_in_the_order_of_the_page():
    found = {"text": 1, "table_10": 2, "figure_3": 3}, {"table_9": 4}
    assert list(items.in_order(*found)) == ["table_9", "table_10", "figure_3", "text"]


def test_an_item_gets_its_runs_in_the_order_in_which_it_names_them(tmp_path):
    found = {}

    @items.register(found, "b")("table_4", "A title", ("unet", "segnet"), ["of the item"])
    def make(*needed):
        assert [one.plan.name for one in needed] == ["unet", "segnet"]
        return items.Content([], notes=["of the run"], contradictions=["in a row"])

    paper_runs.write(tmp_path, "unet", {"raabin_gt": paper_runs.mask_scores(0)})
    item = found["table_4"].build(paper_runs.store(tmp_path))
    assert (item.paper, item.item, item.title) == ("b", "table_4", "A title")
    assert item.protocol[0].startswith("Paper B's U-Net: trained on 100 images of raabin_gt")
    assert item.protocol[-2:] == ["of the run", "of the item"]
    assert item.contradictions == [*printed.contradictions("b", "table_4"), "in a row"]
    assert len(item.missing) == 1 and "configs/paper_b_segnet.py" in item.missing[0]
