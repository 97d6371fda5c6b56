"""wbc_jax.report.collected: the tables and the page of Parquet parts, and what it refuses."""

import base64
import csv
import gc
import io
import json
import math
import os
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import wbc_jax
from helpers import tiny_runs
from wbc_jax import cli, predict
from wbc_jax.data import pipeline
from wbc_jax.data.images import encode_png
from wbc_jax.errors import InputError, ShardsError
from wbc_jax.fields import analyze as fields
from wbc_jax.fields import contrast, results
from wbc_jax.inference import abstention, path_lists, shard_files, shard_rows, shards
from wbc_jax.labels import REVIEW
from wbc_jax.report import cell_results, collected

TYPES = ("neutrophil", "lymphocyte", "monocyte")


def _part_row(index, folder="cells"):
    """Of twelve rows, one is a bad file, one shows no cell, and one is left to a person."""
    row = dict.fromkeys(shard_files.SCHEMA.names)
    row |= {"index": index, "file": f"{folder}/{index}.png"}
    kind = index % 12
    if kind == 3:
        return row | {"error": "cells/3.png is damaged"}
    row |= {"width": 30, "height": 20, "flag": ""}
    if kind == 7:
        empty = {"flag": "no_cell", "nucleus_px": 0, "cytoplasm_px": 0, "nc_ratio": math.nan}
        return row | empty | {"nucleus_share": math.nan}
    nucleus, cytoplasm = 40 + index % 5, 20 * (kind != 5)
    return row | {
        "type": TYPES[kind % 3], "probability": 0.9, "probabilities": [0.9, 0.1, 0, 0, 0],
        "calibrated": 0.8, "review": "low_probability" if kind == 1 else "",
        "nucleus_px": nucleus, "cytoplasm_px": cytoplasm,
        "nc_ratio": nucleus / cytoplasm if cytoplasm else math.inf,
        "nucleus_share": nucleus / (nucleus + cytoplasm),
        "flag": "" if cytoplasm else "no_cytoplasm",
    }  # fmt: skip


def write_parts(out, count, size, part_row=_part_row, **about):
    """Writes parts as `shards.predict` does."""
    manifest = {
        "model.task": "segmentation", "classifier.task": "classification", "rule_sha256": "a",
        "list.paths": count, "part_size": size, "masks": True, "format": shard_files.FORMAT,
    }  # fmt: skip
    shard_files.claim(out, manifest | about)
    for shard in range(-(-count // size)):
        rows = [part_row(i) for i in range(shard * size, min(count, (shard + 1) * size))]
        path = shard_files.part_path(out, shard)
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, shard_files.SCHEMA), path)
    return out


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    out = write_parts(tmp_path_factory.mktemp("parts"), 60, 7)
    summary = collected.collect(out)
    assert summary == collected.Summary(60, 5, 5, 50, 5, out)
    return out


def _read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_tables(out):
    rows = _read(out / "cells.csv")
    assert [row["file"] for row in rows] == [f"cells/{i}.png" for i in range(60) if i % 12 != 3]
    assert tuple(rows[0]) == results.COLUMNS
    by_file = {row["file"]: row for row in rows}
    shown = {name: by_file["cells/13.png"][name] for name in ("type", "best_guess", "review")}
    assert shown == {"type": REVIEW, "best_guess": TYPES[1], "review": "low_probability"}
    one = by_file["cells/2.png"]
    assert (one["cell"], one["probability"], one["nucleus_px"]) == ("1", "0.8", "42")
    assert (one["nc_ratio"], one["nucleus_share"]) == ("2.1", "0.677419")
    assert (one["statistics"], one["mask"], one["lobes"]) == ("training", "", "")
    assert by_file["cells/5.png"]["nc_ratio"] == "inf"
    empty = by_file["cells/7.png"]
    assert empty["flag"] == "no_cell"
    assert {empty[name] for name in ("cell", "type", "nucleus_px", "nc_ratio")} == {""}
    table = pq.read_table(out / "cells.parquet")
    assert table.schema.equals(results.SCHEMA)
    assert table["nucleus_px"].to_pylist() == [
        int(row["nucleus_px"]) if row["nucleus_px"] else None for row in rows
    ]
    assert _read(out / "bad_files.csv") == [
        {"file": f"cells/{i}.png", "reason": "cells/3.png is damaged"} for i in (3, 15, 27, 39, 51)
    ]


def test_the_differential_is_that_of_the_rows(out):
    counts = {row["type"]: row for row in _read(out / "differential.csv")}
    # Of twelve: 0, 6, 9 neutrophils; 4, 10 lymphocytes (1 is left, 7 none); 2, 5, 8, 11 monocytes.
    numbers = {name: int(row["cells"]) for name, row in counts.items()}
    assert [numbers[name] for name in (*TYPES, REVIEW, "all")] == [15, 10, 20, 5, 50]
    assert float(counts["monocyte"]["percent"]) == pytest.approx(100 * 20 / 45, abs=1e-4)
    assert float(counts[REVIEW]["percent"]) == 10
    rows = pq.read_table(out / "cells.parquet").to_pylist()
    written = results.differential(rows)
    assert [row["cells"] for row in written] == list(numbers.values())
    assert written[0]["low"] == pytest.approx(float(counts[written[0]["type"]]["low"]), abs=1e-4)


def test_the_page_and_its_data(out):
    text = (out / "index.html").read_text()
    assert "<h1>50 cells in 55 images</h1>" in text and "5 cells are left to a person" in text
    assert (
        "folder’s own statistics do not act" in text and "The magnification is not known." in text
    )
    assert "5 files could not be read" in text and "55 rows of 55, drawn at random" in text
    assert "55 cells below without a picture" in text
    about = json.loads((out / "collected.json").read_text())
    numbers = {k: about[k] for k in ("images", "bad", "no_cell", "cells", "left_to_a_person")}
    assert list(numbers.values()) == [60, 5, 5, 50, 5]
    assert "do not act" in about["folder_statistics"] and len(about["left_out"]) == 3
    assert about["parts"]["list.paths"] == 60


def test_again_and_elsewhere(out, tmp_path):
    before = {name: (out / name).read_bytes() for name in collected.NAMES}
    collected.collect(out)
    assert {name: (out / name).read_bytes() for name in collected.NAMES} == before
    (tmp_path / "cells.csv").write_text("mine")
    with pytest.raises(InputError, match=r"cells\.csv was not written by an earlier call"):
        collected.collect(out, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["cells.csv"]
    collected.collect(out, tmp_path / "new")
    assert (tmp_path / "new" / "cells.parquet").read_bytes() == before["cells.parquet"]


def test_pictures_have_outlines_and_some_of_each_type_are_shown(tmp_path, monkeypatch):
    """Rare types are shown as well as the others; a picture is the image with its mask."""
    image, mask = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), np.uint8)
    image[:] = (230, 210, 220)
    mask[5:15, 5:20], mask[8:12, 8:14] = 1, 2
    for i in range(400):
        Image.fromarray(image).save(tmp_path / f"{i}.png")

    def one(index):
        row = _part_row(12 * index, tmp_path) | {"mask_png": encode_png(mask)}
        row |= {"index": index, "file": str(tmp_path / f"{index}.png")}
        return row | {"type": "basophil" if index == 123 else "neutrophil"}

    monkeypatch.setattr(collected, "SHOWN", 20)
    write_parts(tmp_path / "out", 400, 64, one)
    assert collected.collect(tmp_path / "out").cells == 400
    text = (tmp_path / "out" / "index.html").read_text()
    assert text.count('<tr data-type="neutrophil"') == 19
    assert text.count('<tr data-type="basophil"') == 1
    assert "20 rows of 400" in text and "without a picture" not in text
    jpeg = base64.b64decode(text.partition("data:image/jpeg;base64,")[2].partition('"')[0])
    pixels = np.asarray(Image.open(io.BytesIO(jpeg))).astype(int)
    assert (pixels.max(-1) - pixels.min(-1)).max() > 60  # pale but for the outlines


def test_without_types_there_is_no_differential(tmp_path):
    def untyped(index):
        return _part_row(index) | dict.fromkeys(
            ("type", "probability", "probabilities", "calibrated", "review")
        )

    about = {"classifier.task": None, "rule_sha256": None}
    collected.collect(write_parts(tmp_path, 12, 5, untyped, **about))
    assert not (tmp_path / "differential.csv").exists()
    text = (tmp_path / "index.html").read_text()
    assert "Differential" not in text and "statistics" not in text
    assert [row["type"] for row in _read(tmp_path / "cells.csv")] == [""] * 11


def test_missing_and_damaged_parts_are_named(tmp_path):
    write_parts(tmp_path, 60, 5)
    parts = tmp_path / "parts"
    for shard in (3, 5, 6, 7):
        (parts / f"part-{shard:06}.parquet").unlink()
    cut = parts / "part-000009.parquet"
    cut.write_bytes(cut.read_bytes()[:-20])
    swapped = parts / "part-000001.parquet"
    swapped.write_bytes((parts / "part-000000.parquet").read_bytes())
    with pytest.raises(ShardsError) as caught:
        collected.collect(tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{tmp_path} has 12 parts, and not all can be collected:"
    assert lines[1] == "  4 missing: 3, 5-7"
    assert lines[2] == f"  {swapped} is damaged (its rows are not 5 to 9)"
    assert lines[3].startswith(f"  {cut} is damaged (")
    assert lines[4].startswith("Delete the damaged ones, and run the command that wrote the parts")
    assert f"--out={tmp_path} --part_size=5: it" in lines[4]
    assert lines[4].endswith("With --shard=1/12 it writes part 1 alone.")
    assert len(lines) == 5
    assert sorted(os.listdir(tmp_path)) == ["manifest.json", "parts"]


@pytest.mark.parametrize(
    "manifest, said",
    [
        (None, "holds no Parquet parts"),
        ("{", r"manifest\.json is damaged"),
        ('{"list.paths": 3}', r"manifest\.json is damaged"),
        ('{"list.paths": 0, "part_size": 4, "format": 3}', r"manifest\.json is damaged"),
        ('{"list.paths": 3, "part_size": 4, "format": 1}', "holds parts of format 1, and this"),
    ],
)
def test_folders_that_hold_no_parts(tmp_path, manifest, said):
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(ShardsError, match=said):
        collected.collect(tmp_path)


def test_an_error_in_the_middle_leaves_nothing(tmp_path, monkeypatch):
    write_parts(tmp_path, 30, 5)
    add = collected._Totals.add

    def failing(self, rows, bad):
        if rows[0][0] >= 10:
            raise OSError(28, "No space left on device", "cells.csv")
        add(self, rows, bad)

    monkeypatch.setattr(collected._Totals, "add", failing)
    with pytest.raises(OSError):
        collected.collect(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} <= {"manifest.json", "parts", ".wbc_jax"}


def test_memory_does_not_grow_with_the_rows(tmp_path, monkeypatch):
    """Six times the rows need hardly more memory: 4 bytes for each N/C ratio."""
    monkeypatch.setattr(collected, "SHOWN", 20)  # both have more of each type
    peaks = []
    for count in (1000, 6000):
        write_parts(tmp_path / str(count), count, 500)
    collected.collect(tmp_path / "1000")  # imports
    # Beside all objects of the tests before, cycles would be collected later than in a new process.
    gc.freeze()
    gc.collect()
    tracemalloc.start()
    for count in (1000, 6000):
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        collected.collect(tmp_path / str(count))
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
    tracemalloc.stop()
    gc.unfreeze()
    assert peaks[1] < peaks[0] + 1_500_000  # bytes; the rows alone are 5 million more


def test_rows_are_those_of_predict(model, typed_run, run, tmp_path):
    """Parts and a table by both models agree in every column that parts have."""
    test = pipeline.load_splits(run.config.data, tiny_runs.SIZE)["test"]
    paths = [str(tmp_path / f"{n}.png") for n in range(5)]
    for path, (source, i) in zip(paths, test.entries):
        with open(path, "wb") as file:
            file.write(encode_png(source.image(i)))
    Image.fromarray(np.full((40, 50, 3), (230, 220, 120), np.uint8)).save(paths[2])
    rule = abstention.Rule(2.0, 0.3, -1.7, 0.5, 10)
    typed = wbc_jax.load(typed_run.workdir)
    (tmp_path / "list.txt").write_text("\n".join(paths))
    listing = path_lists.read_listing(tmp_path / "list.txt", 2)
    settings = shards.Settings(2, 2, threads=1)
    typing = shard_rows.Typing(typed, rule)
    shards.predict(model, listing, tmp_path / "a", (0, 1), settings, contrast.judge, typing)
    collected.collect(tmp_path / "a")
    models = fields.Models(model.with_middle_cell(False), typed, rule)
    cell_results.predict_files(models, paths, tmp_path / "b", "no", folder_statistics="off")
    ours, theirs = _read(tmp_path / "a" / "cells.csv"), _read(tmp_path / "b" / "cells.csv")
    same = ("file", "width", "height", "cell", "type", "best_guess", "probability", "review")
    same += ("statistics", "nucleus_px", "cytoplasm_px", "nc_ratio", "nucleus_share")
    assert [[row[k] for k in same] for row in ours] == [[row[k] for k in same] for row in theirs]
    assert ours[2]["flag"] == theirs[2]["flag"] == "no_cell" and ours[0]["type"]
    counts = [(tmp_path / name / "differential.csv").read_bytes() for name in "ab"]
    assert counts[0] == counts[1]


def test_command(tmp_path, capsys):
    write_parts(tmp_path / "in", 12, 5)
    with pytest.raises(SystemExit) as caught:
        predict.main([f"--collect={tmp_path}/in", f"--out={tmp_path}/out"])
    assert caught.value.code == cli.BAD_SHARDS
    said = capsys.readouterr()
    assert said.out == (
        f"10 cells in 11 images, 1 left to a person: {tmp_path}/out/cells.csv and index.html\n"
    )
    assert "error: 1 of 12 files could not be predicted; they are listed in" in said.err
    with pytest.raises(SystemExit, match=r"--collect predicts nothing: leave out --shard, IMAGES"):
        predict.main(["a.png", f"--collect={tmp_path}/in", "--shard=0/2"])
    with pytest.raises(SystemExit) as caught:
        predict.main(["a.png"])
    assert caught.value.code == 2
