"""The scripts of examples/ work, on tiny runs and synthetic cells."""

import csv
import importlib.util
import pathlib
import shutil

import pytest

from helpers import laboratory, tiny_runs
from wbc_jax import provenance
from wbc_jax.data.images import encode_png, read_mask_file
from wbc_jax.fields import analyze as fields
from wbc_jax.inference import model as inference
from wbc_jax.tfds_builders.wbc_synthetic import render
from wbc_jax.utils import atomic

_FOLDER = pathlib.Path(__file__).resolve().parents[2] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", _FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """A folder of 14 synthetic cells that no run has seen, laid out as the data set `folder`."""
    folder = tmp_path_factory.mktemp("cells")
    for number in range(14):
        cell = render.render_cell(91, number, 48)
        atomic.write_bytes(folder / "images" / f"{number}.png", encode_png(cell.image))
        atomic.write_bytes(folder / "masks" / f"{number}.png", encode_png(cell.mask))
    return folder


def test_analyze_model(run, tmp_path, capsys):
    example("analyze_model")([str(run.workdir), f"--out={tmp_path / 'out'}"])
    printed = capsys.readouterr().out
    assert "True N/C ratio" in printed and "Kruskal-Wallis: H = " in printed
    assert "Missed (no predicted ratio): 0 of 20 images" in printed
    with (tmp_path / "out" / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20 and {row["dataset"] for row in rows} == {tiny_runs.DATASET}
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "cells.csv",
        "by_type.png",
        "scatter.png",
    }


def test_compare_runs(run, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(run.workdir / "report", other / "report")
    table = other / "report" / "per_image.csv"
    with table.open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        row["mean_iou"] = str(float(row["mean_iou"]) - 0.125)
    atomic.write_csv(table, rows, list(rows[0]))
    example("compare_runs")([str(run.workdir), str(other), f"--out={tmp_path / 'gain.png'}"])
    printed = capsys.readouterr().out.partition("B - A by cell type, mean_iou:")[2]
    assert printed.count("-0.1250 [-0.1250, -0.1250]") == len({row["label"] for row in rows})
    assert (tmp_path / "gain.png").stat().st_size > 1000


def test_score_masks(cells, tmp_path, capsys):
    for name in ("truths", "predictions"):
        (tmp_path / name).mkdir()
    for path in sorted((cells / "masks").iterdir()):
        mask = read_mask_file(path)
        atomic.write_bytes(tmp_path / "truths" / path.name, encode_png(mask * 100))
        left = mask[:, :24]
        left[left == 1] = 0  # half of the cytoplasm is missing
        atomic.write_bytes(tmp_path / "predictions" / path.name, encode_png(mask * 100))
    arguments = [str(tmp_path / "predictions"), str(tmp_path / "truths")]
    values = ["--values", "0=0", "100=1", "200=2"]
    example("score_masks")([*arguments, *values, f"--out={tmp_path / 'rows.csv'}"])
    printed = capsys.readouterr().out
    assert printed.startswith("14 images\n\nmean IoU")
    assert "N/C ratio: bias +" in printed
    with (tmp_path / "rows.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 14
    assert "MATLAB's BF leaves a class out of 0 images" in printed
    # A program that sees nothing in seven of the cells.
    for path in sorted((tmp_path / "predictions").iterdir())[:7]:
        atomic.write_bytes(path, encode_png(read_mask_file(path) * 0))
    example("score_masks")([*arguments, *values, f"--out={tmp_path / 'rows.csv'}"])
    printed = capsys.readouterr().out
    scores = {line[:22].strip(): float(line[22:29]) for line in printed.splitlines() if "[" in line}
    assert scores["BF nucleus"] == 0.5 and scores["MATLAB's BF nucleus"] == 1
    assert scores["BF mean"] < scores["MATLAB's BF mean"]
    assert "MATLAB's BF leaves a class out of 7 images" in printed
    zero = "0.00 px, mean of 7 images; 7 missed, 0 not in the truth"
    assert f"95 % Hausdorff distance nucleus: {zero}" in printed
    assert f"average surface distance nucleus: {zero}" in printed
    assert printed.endswith(", 7 images; 7 missed\n")
    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["bf_nucleus"]) for row in rows].count(0.0) == 7
    names = ("background", "cytoplasm", "nucleus")
    by_image = [sum(float(row[f"bf_{name}"]) for name in names) / 3 for row in rows]
    assert scores["BF mean"] == pytest.approx(sum(by_image) / 14, abs=5e-4)
    with pytest.raises(SystemExit, match=r"--values does not say what 100 \(\d+ pixels\)"):
        example("score_masks")(arguments)


def test_finetune(run, cells, tmp_path, capsys):
    arguments = [f"--model={run.workdir}", "--images=8", f"--out={tmp_path / 'out'}"]
    example("finetune")([str(cells), *arguments, "--steps=4"])
    printed = capsys.readouterr().out.partition("Before (A) and after (B):")[2]
    assert "6 images" in printed and "mean IoU" in printed and "N/C error" in printed
    # The result can be scored, and still knows which images both trainings saw.
    after = tmp_path / "out" / "after"
    seen = provenance.seen_by(after, inference.load(after))
    assert len(seen) == 8 + 40
    with pytest.raises(SystemExit, match="holds 14 PNG masks"):
        example("finetune")([str(cells), arguments[0], f"--out={tmp_path / 'none'}"])
    assert not (tmp_path / "none").exists()


def test_adapt_from_csv(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fields, "load_models", laboratory.load_models)
    base = laboratory.write_base(tmp_path / "base.safetensors")
    labels = laboratory.draw(tmp_path / "images")
    out = tmp_path / "out"
    arguments = [str(tmp_path / "images"), str(labels), f"--out={out}", "--model", str(base)]
    example("adapt_from_csv")(arguments)
    printed = capsys.readouterr().out.splitlines()
    after = {name: int(line.split()[-1]) for line in printed[-6:] if (name := line[:12].strip())}
    assert after["lymphocyte"] + after["monocyte"] + after["for review"] == 12
    assert after["monocyte"] >= 5 and (out / "after" / "index.html").exists()
