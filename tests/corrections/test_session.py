"""A reviewer's session: types, undo, other reviewers and runs, the count and corrections.csv."""

import csv

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from helpers.drawn_fields import MODELS
from wbc_jax.corrections import answers, session
from wbc_jax.errors import DataError, InputError
from wbc_jax.fields import results
from wbc_jax.report import cell_results


def table(folder):
    with open(folder / "corrections.csv", newline="") as file:
        return list(csv.DictReader(file))


def rewrite(folder, change):
    """Changes the rows of the results, as another run of predict would."""
    path = folder / "cells.parquet"
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        change(row)
    pq.write_table(pa.Table.from_pylist(rows, results.SCHEMA), path)


def test_types_are_said_and_taken_back(folder):
    anna = session.Session(folder, " Anna  B. ")
    cells = anna.results.cells
    assert [cell.predicted for cell in cells] == [*["monocyte"] * 2, *["for review"] * 2]
    assert anna.set_types([0, 2, 0], "neutrophil") == [0, 2]
    assert anna.set_types([0, 1], "neutrophil") == [1]  # that of cell 0 is no news
    assert anna.set_types([0], "Band  form") == [0]
    assert anna.state.types()[-1] == "Band form"
    assert anna.set_types([3], "band FORM") == [3]
    assert anna.state.said("Anna B.")[3].type == "Band form"
    assert anna.set_types([0], None) == [0] and anna.set_types([0], None) == []
    types = [{i: s.type for i, s in anna.state.said("Anna B.").items()}]
    for _ in range(5):
        anna.undo()
        types.append({i: s.type for i, s in anna.state.said("Anna B.").items()})
    assert types == [
        {1: "neutrophil", 2: "neutrophil", 3: "Band form"},
        {0: "Band form", 1: "neutrophil", 2: "neutrophil", 3: "Band form"},
        {0: "Band form", 1: "neutrophil", 2: "neutrophil"},
        {0: "neutrophil", 1: "neutrophil", 2: "neutrophil"},
        {0: "neutrophil", 2: "neutrophil"},
        {},
    ]
    assert anna.undo() == []
    # The undoing is in the log like all else, and a new session finds the same.
    said = [(s.before, s.after, bool(s.undoes)) for s in anna.log.__class__(folder).read_new()]
    assert said[:2] == [(None, "neutrophil", False)] * 2 and said[2] == said[0]
    assert said[3] == ("neutrophil", "Band form", False)
    assert said[5] == ("Band form", None, False) and said[6] == (None, "Band form", True)
    assert len(said) == 12 and said[-1] == ("neutrophil", None, True)
    again = session.Session(folder, "Anna B.")
    assert again.state.said("Anna B.") == {} and again.undo() == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "1 to 40 characters"), ("x" * 41, "1 to 40"), ("a\x07b", "can be printed"),
        ("For Review", "tables use it for something else"), ("all", "something else"),
    ],
)  # fmt: skip
def test_names_that_are_no_types(folder, name, reason):
    anna = session.Session(folder, "Anna")
    with pytest.raises(InputError, match=reason):
        anna.set_types([0], name)
    assert not (folder / "corrections" / "log.jsonl").exists()


def test_the_table_has_a_row_per_reviewer_and_cell(folder):
    anna, bert = session.Session(folder, "Anna"), session.Session(folder, "Bert")
    anna.set_types([1], "=1+1")
    bert.set_types([1, 2], "broken")
    anna.set_types([2], "monocyte")
    anna.undo()
    anna.write_table()
    bert.write_table()
    rows = table(folder)
    cell = anna.results.cells[1]
    assert [(r["cell"], r["reviewer"], r["type"]) for r in rows] == [
        (str(cell.cell), "Anna", "'=1+1"), (str(cell.cell), "Bert", "broken"),
        (str(anna.results.cells[2].cell), "Bert", "broken"),
    ]  # fmt: skip
    assert rows[0]["file"] == cell.file and rows[0]["predicted"] == cell.predicted
    assert [int(rows[0][edge]) for edge in ("top", "left", "bottom", "right")] == list(cell.box)
    assert {r["status"] for r in rows} == {"current"} and rows[0]["mask"] == ""
    assert rows[0]["time"].endswith("Z") and anna.trouble == bert.trouble == ""
    # One reviewer does not see what the other said.
    assert answers.news(anna, 0)["said"].keys() == {1, 2}
    assert answers.news(anna, 0)["said"][2]["type"] is None
    assert answers.news(bert, 0)["said"][2]["type"] == "broken"


def test_the_table_of_a_person_is_not_replaced(folder):
    anna = session.Session(folder, "Anna")
    anna.set_types([0], "monocyte")
    anna.write_table()
    (folder / "corrections.csv").write_text("mine")
    anna.set_types([1], "basophil")
    anna.write_table()
    assert "has changed since an earlier call wrote it" in anna.trouble
    assert "Nothing is lost" in anna.trouble and anna.trouble in answers.problems(anna)
    assert (folder / "corrections.csv").read_text() == "mine"
    with pytest.raises(InputError, match="move it away"):
        session.Session(folder, "Anna")
    (folder / "corrections.csv").unlink()
    anna.write_table()
    assert [row["type"] for row in table(folder)] == ["monocyte", "basophil"] and not anna.trouble


def test_the_count_before_and_after(folder):
    anna = session.Session(folder, "Anna")
    before = {row["type"]: row for row in anna.state.count(None)}
    assert before["monocyte"]["cells"] == 2 and before["for review"]["cells"] == 2
    left = [cell.index for cell in anna.results.cells if cell.predicted == "for review"]
    other = [cell.index for cell in anna.results.cells if cell.predicted == "monocyte"]
    anna.set_types(left[:1], "blast")
    anna.set_types(other[:1], "broken")
    after = {row["type"]: row for row in anna.state.count("Anna")}
    counts = {name: row["cells"] for name, row in after.items() if row["cells"]}
    assert counts == {"monocyte": 1, "blast": 1, "for review": 1, "all": 3}
    low, high = stats.binomtest(1, 2).proportion_ci(method="wilson")
    assert (after["blast"]["low"], after["blast"]["high"]) == pytest.approx((100 * low, 100 * high))
    assert after["blast"]["percent"] == 50
    low, high = stats.binomtest(1, 3).proportion_ci(method="wilson")
    assert after["for review"]["low"] == pytest.approx(100 * low)
    assert "broken" not in after
    anna.undo()
    anna.undo()
    assert anna.state.count("Anna") == anna.state.count(None)


def test_another_run_keeps_what_lies_at_the_same_place(folder):
    anna = session.Session(folder, "Anna")
    anna.set_types([0, 1, 2], "basophil")
    first, second, third = (anna.results.cells[i] for i in range(3))

    def other_run(row):
        if row["file"] == first.file:
            row["file"] = row["file"].replace("crop", "renamed")  # as of other images
        elif row["cell"] == second.cell:
            row["cell"], row["top"] = 9, row["top"] + 4  # another number, a little smaller
        elif row["cell"] == third.cell:
            height = row["bottom"] - row["top"]
            row["top"], row["bottom"] = row["top"] + height, row["bottom"] + height

    rewrite(folder, other_run)
    with pytest.raises(InputError, match="has changed since this review began"):
        anna.set_types([3], "monocyte")
    with pytest.raises(InputError, match="has changed since this review began"):
        anna.undo()
    again = session.Session(folder, "Anna")
    assert {i: s.type for i, s in again.state.said("Anna").items()} == {1: "basophil"}
    assert "2 statements in the log are about cells that" in answers.problems(again)[0]
    with pytest.raises(InputError, match=r"cell 2 of .*field\.png is not in these results"):
        again.undo()
    again.write_table()
    rows = table(folder)
    assert [(r["cell"], r["status"], r["type"]) for r in rows] == [
        ("9", "current", "basophil"), ("1", "gone", "basophil"),
        (str(third.cell), "gone", "basophil"),
    ]  # fmt: skip
    assert rows[1]["file"] == first.file
    assert [int(rows[2][e]) for e in ("top", "left", "bottom", "right")] == list(third.box)


def test_predicting_the_same_again_keeps_all(folder):
    anna = session.Session(folder, "Anna")
    anna.set_types([0, 3], "basophil")
    area, _, mask = anna.mask(1)
    mask[0, 0] = 2
    anna.paint(1, area, mask)
    anna.write_table()
    before = (folder / "corrections.csv").read_bytes()
    files = [cell.file for cell in anna.results.cells]
    assert cell_results.predict_files(MODELS, list(dict.fromkeys(files)), folder) == []
    assert (folder / "corrections.csv").read_bytes() == before
    again = session.Session(folder, "Anna")
    assert {i: s.type for i, s in again.state.said("Anna").items()} == {
        0: "basophil", 1: None, 3: "basophil"
    }  # fmt: skip
    assert (again.mask(1)[2] == mask).all() and answers.problems(again) == []


def test_folders_that_are_no_results(folder, tmp_path):
    with pytest.raises(InputError, match="is no folder: name the --out"):
        session.Session(tmp_path / "nothing", "Anna")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no cells\.parquet"):
        session.Session(tmp_path / "empty", "Anna")
    with pytest.raises(InputError, match="remote"):
        session.Session("gs://bucket/results", "Anna")
    with pytest.raises(InputError, match="--reviewer='' is no name"):
        session.Session(folder, "")

    def outside(row):
        row["right"] = 10_000

    rewrite(folder, outside)
    with pytest.raises(DataError, match="does not lie in its image"):
        session.Session(folder, "Anna")
    (folder / "cells.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="is damaged"):
        session.Session(folder, "Anna")
    rows = [{"file": "a.png"}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "cells.parquet")
    with pytest.raises(DataError, match="lacks the columns best_guess"):
        session.Session(folder, "Anna")
    empty = dict.fromkeys(results.COLUMNS) | {"file": "a.png"}
    pq.write_table(pa.Table.from_pylist([empty], results.SCHEMA), folder / "cells.parquet")
    with pytest.raises(InputError, match="has no cell, so there is nothing to review"):
        session.Session(folder, "Anna")
