"""The types that people said, from a log and from tables."""

import pytest

from helpers import cell_tables
from wbc_jax.corrections import log, typed
from wbc_jax.corrections.cells import Cell, Results
from wbc_jax.errors import DataError, InputError


@pytest.fixture
def results(tmp_path):
    rows = [
        cell_tables.row("a", type="monocyte"),
        cell_tables.row("a", cell=2, top=50, bottom=60, type="monocyte"),
        cell_tables.row("b", type="for review"),
        cell_tables.row("c", type="lymphocyte"),
    ]
    found = []
    for i, row in enumerate(rows):
        box = tuple(row[edge] for edge in ("top", "left", "bottom", "right"))
        found.append(Cell(i, row["file"], row["cell"], box, row["file"][9:10], row))
    return Results(tmp_path, found, (0, 0))


def say(results, reviewer, index, name):
    cell = results.cells[index]
    one = log.Statement(
        act="x", reviewer=reviewer, source="page", file=cell.file, cell=cell.cell, box=cell.box,
        predicted="", what="type", before=None, after=name,
    )  # fmt: skip
    log.Log(results.path).append([one])


def table(results, text):
    path = results.path / "labels.csv"
    path.write_text(text)
    return path


def test_the_last_word_of_the_log_counts(results):
    say(results, "Anna", 0, "lymphocyte")
    say(results, "Anna", 0, "neutrophil")
    say(results, "Ben", 0, "neutrophil")
    say(results, "Ben", 2, "basophil")
    found = typed.settle(results, *typed.from_log(results)[:1])
    assert [cell.index for cell in found.cells] == [0, 2] and found.types == [
        "neutrophil",
        "basophil",
    ]
    assert found.reviewers == ["Anna", "Ben"] and found.notes == []


def test_people_who_differ(results):
    say(results, "Anna", 1, "lymphocyte")
    say(results, "Ben", 1, "basophil")
    say(results, "Ben", 3, "monocyte")
    words, _ = typed.from_log(results)
    with pytest.raises(InputError, match=r"1 cell .*--on_conflict=drop:\n.*a\.png, cell 2: lymph"):
        typed.settle(results, words)
    dropped = typed.settle(results, words, on_conflict="drop")
    assert [cell.index for cell in dropped.cells] == [3]
    assert dropped.notes == ["1 cell on whose type people differ: left out."]
    assert typed.settle(results, words, ["Anna"]).types == ["lymphocyte"]
    with pytest.raises(InputError, match=r"--reviewer=Eve said no type .*there are: Anna, Ben"):
        typed.settle(results, words, ["Eve"])


def test_types_of_ones_own_are_kept_and_what_is_no_cell_left_out(results):
    for index, name in enumerate(("band", "band", "broken", "monocyte")):
        say(results, "Anna", index, name)
    found = typed.settle(results, typed.from_log(results)[0])
    assert found.types == ["band", "band", "monocyte"]
    assert found.notes == ["1 cell said to be 'broken', no cell to learn: left out."]


def test_a_table(results):
    path = table(
        results, "File,Cell,Type\na.png,2,Monocyte\n/nowhere/b.png,,basophil\nz.png,1,band\n"
    )
    words, notes = typed.from_csv(results, path)
    assert words == {1: {"labels.csv": "monocyte"}, 2: {"labels.csv": "basophil"}}
    assert notes == [f"{path}: 1 line about cells that {results.path} does not have."]


def test_corrections_csv_where_the_log_is_gone(results):
    text = "file,cell,type,reviewer,status\n/nowhere/a.png,1,monocyte,Anna,current\n"
    text += "/nowhere/c.png,1,basophil,Ben,gone\n/nowhere/b.png,1,,Ben,current\n"
    (results.path / "corrections.csv").write_text(text)
    words, _ = typed.from_log(results)
    assert words == {0: {"Anna": "monocyte"}}


@pytest.mark.parametrize(
    "text, error, message",
    [
        ("file,kind\na.png,x\n", DataError, "has no column type"),
        ("file,cell,type\na.png,one,basophil\n", DataError, "cell is 'one'"),
        ("file,type\na.png,basophil\na.png,monocyte\n", DataError, "earlier line says 'basophil'"),
        ("file,type\nz.png,basophil\n", InputError, "none of its 1 lines"),
    ],
)
def test_tables_that_cannot_be_used(results, text, error, message):
    with pytest.raises(error, match=message):
        typed.from_csv(results, table(results, text))
