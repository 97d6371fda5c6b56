"""The command that compares groups of cells."""

import csv
import functools
import os
import subprocess
import sys

import pytest

from helpers import cell_tables as made
from helpers import tiny_runs
from wbc_jax import cohort
from wbc_jax.report import chart_parts, cohort_figures

LOW = [(50, 50), (40, 60), (60, 40), (30, 70)]
HIGH = [(80, 20), (70, 30), (90, 10), (60, 40)]


@pytest.fixture
def tables(tmp_path):
    low = made.write(tmp_path / "low" / "cells.csv", made.cells("low", LOW))
    return low, made.write(tmp_path / "high.csv", made.cells("high", HIGH))


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Charts have tests of their own, and take seconds."""
    monkeypatch.setattr(chart_parts, "png", lambda figure: b"")
    monkeypatch.setattr(cohort_figures, "cohort_distributions", lambda found, dark=False: None)
    monkeypatch.setattr(cohort_figures, "cohort_curves", lambda found, dark=False: None)


def names(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(dict.fromkeys(row["group"] for row in csv.DictReader(file)))


def said(capsys):
    return " ".join(capsys.readouterr().out.split())


def run(*arguments, out):
    cohort.main([*map(str, arguments), f"--out={out}", "--bootstrap=20"])
    return names(out / "measures.csv")


def test_the_command(tables, tmp_path):
    command = functools.partial(tiny_runs.command, "wbc_jax.cohort", cwd=tmp_path)
    done = command("low", "high.csv", "--out", "out", "--bootstrap", 50)
    assert done.returncode == 0, done.stderr
    assert "The median N/C ratio is 0.833 in 4 cells of low" in done.stdout
    assert "This is research, not a diagnosis" in done.stdout
    assert sorted(os.listdir(tmp_path / "out")) == [
        ".wbc_jax", "index.html", "left_out.csv", "measures.csv", "tests.csv"
    ]  # fmt: skip
    done = command("low", "nothing", "--out", "other")
    assert done.returncode == 1 and done.stderr.startswith("error: nothing does not exist.")
    assert "Traceback" not in done.stderr


def test_the_same_tables_give_the_same_files(tables, tmp_path):
    files = []
    for _ in range(2):
        run(*tables, out=tmp_path / "out")
        found = (tmp_path / "out").iterdir()
        files.append({path.name: path.read_bytes() for path in found if path.is_file()})
    assert files[0] == files[1] and len(files[0]) == 4


def test_help_needs_no_heavy_library():
    code = (
        "import sys\nfrom wbc_jax import cohort\ntry:\n    cohort.main(['--help'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "print([m for m in ('jax', 'numpy', 'scipy', 'matplotlib', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_groups_are_named_by_folder_flag_or_column(tables, tmp_path):
    low, high = tables
    assert run(low.parent, high, out=tmp_path / "1") == ["low", "high"]
    assert run(low, high, out=tmp_path / "2") == ["low", "high"]
    named = (f"--group=a=b={low}", f"--group=blast={high}")
    with pytest.raises(SystemExit, match="does not exist"):
        run(*named, out=tmp_path / "3")
    assert run(f"--group=well={low}", high, out=tmp_path / "3") == ["high", "well"]
    assert run(low, high, "--reference=high", out=tmp_path / "4") == ["high", "low"]
    rows = [*made.cells("a", LOW, who="x"), *made.cells("b", HIGH, who="y")]
    both = made.write(tmp_path / "both.csv", [*rows, made.row("c", who="")])
    assert run(both, "--by=who", "--reference=y", out=tmp_path / "5") == ["y", "x"]
    with open(tmp_path / "5" / "left_out.csv", newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"group": "", "flag": "no_group", "cells": "1", "left_out": "True"}
        ]


def test_two_tables_of_one_name_are_told_apart(tables, tmp_path):
    other = made.write(tmp_path / "b" / "low" / "cells.csv", made.cells("c", HIGH))
    with pytest.raises(SystemExit, match="would both be the group 'low': name them by --group"):
        run(tables[0], other, out=tmp_path / "out")
    assert run(f"--group=c={other}", tables[0], out=tmp_path / "out") == ["low", "c"]


def test_cells_are_left_out_by_flag(tables, tmp_path, capsys):
    rows = [*made.cells("x", HIGH), made.row("odd", 10, 90, review="low_probability")]
    path = made.write(tmp_path / "x.csv", rows)
    run(tables[0], path, out=tmp_path / "out")
    assert "5 cells of x" in said(capsys)
    run(tables[0], path, "--leave_out=review, touches_frame", out=tmp_path / "out")
    assert "4 cells of x" in said(capsys)
    run(tables[0], path, "--leave_out=", out=tmp_path / "out")
    assert "with one of these flags: none" in said(capsys)
    with pytest.raises(SystemExit, match="--leave_out names 'reviews', which is no flag"):
        run(tables[0], path, "--leave_out=reviews", out=tmp_path / "out")


def test_true_masks_of_the_same_images(tables, tmp_path, capsys):
    truth = made.write(tmp_path / "t.csv", [*made.cells("low", LOW), *made.cells("high", HIGH)])
    run(*tables, f"--truth={truth}", out=tmp_path / "out")
    assert "Our masks against true masks" in said(capsys)
    with open(tmp_path / "out" / "against_truth.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["difference"] for row in rows} == {"0"}
    assert {row["cells"] for row in rows} == {"4"}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a", "b", "--bootstrap=0"], "--bootstrap is 0; it must be 1 or more"),
        (["a", "b", "--seed=-1"], "--seed is -1; it must be 0 or more"),
        (["--group=a"], "--group is 'a'; write NAME=PATH"),
        (["--group==a"], "--group is '=a'; write NAME=PATH"),
        (["a", "--by=who", "--group=a=b"], "--by and --group are given"),
        ([], "name two tables or more, or one with --by"),
    ],
)
def test_the_command_line_is_checked(arguments, told, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        cohort.main([*arguments, f"--out={tmp_path / 'out'}"])
    assert caught.value.code == 2 and told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_persons_page_is_not_replaced(tables, tmp_path):
    page = tmp_path / "mine" / "index.html"
    page.parent.mkdir()
    page.write_text("a person's")
    with pytest.raises(SystemExit) as caught:
        run(*tables, out=page.parent)
    assert str(caught.value).startswith(f"error: {page} was not written by an earlier call")
    assert page.read_text() == "a person's" and os.listdir(page.parent) == ["index.html"]
