"""The command `wbc_jax.adapt`, on drawn cells."""

import csv
import hashlib
import shutil

import numpy as np
import pytest

from helpers import laboratory
from wbc_jax import adapt
from wbc_jax.data import duplicates
from wbc_jax.data.images import read_image
from wbc_jax.fields import analyze as fields
from wbc_jax.inference import abstention, weights
from wbc_jax.labels import CELL_TYPES
from wbc_jax.report import cell_results


@pytest.fixture(scope="module", autouse=True)
def drawn_models():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fields, "load_models", laboratory.load_models)
        yield


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder with `base.safetensors`, `images`, `labels.csv` and `results`."""
    folder = tmp_path_factory.mktemp("lab")
    base = laboratory.write_base(folder / "base.safetensors")
    laboratory.draw(folder / "images")
    paths = sorted(str(path) for path in (folder / "images").iterdir())
    models = laboratory.load_models([base])
    assert cell_results.predict_files(models, paths, folder / "results") == []
    return folder


def call(lab, out, *flags, labels="labels.csv"):
    adapt.main([str(lab / "results"), f"--out={out}", f"--model={lab / 'base.safetensors'}",
                f"--labels={lab / labels}", *flags])  # fmt: skip


def rows(lab):
    with (lab / "labels.csv").open() as file:
        return list(csv.DictReader(file))


def write(lab, name, lines):
    (lab / name).write_text("file,type\n" + "".join(f"{f},{t}\n" for f, t in lines))
    return name


def test_the_adapted_model(lab, tmp_path, capsys):
    call(lab, tmp_path / "mine")
    printed = capsys.readouterr().out
    assert "12 corrected cells in 12 images" in printed
    words = next(one for one in printed.splitlines() if one.startswith("monocyte")).split()
    assert words[2:4] == words[5:7] == ["of", "6"] and int(words[4]) >= int(words[1]) + 3
    path = tmp_path / "mine.safetensors"
    assert f"--model={path}" in printed.splitlines()[-1]
    stored, base = weights.read(path), lab / "base.safetensors"
    about = stored.adapted
    assert about["sha256"] == hashlib.sha256(base.read_bytes()).hexdigest()
    assert about["corrections"] == 12 and about["reviewers"] == ["labels.csv"]
    assert about["types"]["monocyte"] == 6 and about["model"] == "base.safetensors"
    assert len(stored.seen) == 12 and {key.dataset for key in stored.seen} == {"corrected"}
    image = read_image(lab / "images" / "monocyte0.png")
    (key,) = (key for key in stored.seen if "monocyte0.png" in key.id)
    assert key.hash == duplicates.perceptual_hash(image).tobytes()
    # Both right now: the type of each cell, and the rule beside the weights.
    models = laboratory.load_models([tmp_path / "mine"])
    images = [read_image(lab / "images" / row["file"]) for row in rows(lab)]
    found = fields.analyze(images, models)
    right = [one.cells[0].best_guess == row["type"] for one, row in zip(found, rows(lab))]
    assert sum(right) >= 11
    rule = abstention.read(path)
    assert rule.seen.counts is None and len(rule.seen.own.centers) == 7
    before = fields.analyze(images, laboratory.load_models([base]))
    wrong = [one.cells[0].best_guess != row["type"] for one, row in zip(before, rows(lab))]
    assert 3 <= sum(wrong) <= 9


def test_nothing_is_written_if_it_got_worse(lab, tmp_path, capsys):
    # What is right before is said to be anything, image by image.
    names = ("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil")
    rng = np.random.default_rng(1)
    lines = [(row["file"], str(rng.choice(names))) for row in rows(lab)]
    models = laboratory.load_models([lab / "base.safetensors"])
    images = [read_image(lab / "images" / file) for file, _ in lines]
    guesses = [one.cells[0].best_guess for one in fields.analyze(images, models)]
    lines = [(f, g if i % 2 else t) for i, ((f, t), g) in enumerate(zip(lines, guesses))]
    with pytest.raises(SystemExit, match=r"error: the adapted model is worse .*nothing is written"):
        call(lab, tmp_path / "mine", labels=write(lab, "random.csv", lines))
    assert "gain in macro recall: " in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_type_of_ones_own(lab, tmp_path, capsys):
    lines = [(row["file"], row["type"].replace("lymphocyte", "band")) for row in rows(lab)]
    call(lab, tmp_path / "mine", labels=write(lab, "bands.csv", lines))
    model = weights.read(tmp_path / "mine.safetensors")
    assert model.config.model.types == (*CELL_TYPES, "band")
    assert model.adapted["types"]["band"] == 6
    paths = [str(lab / "images" / file) for file, _ in lines]
    models = laboratory.load_models([tmp_path / "mine"])
    assert cell_results.predict_files(models, paths, tmp_path / "after") == []
    assert "no statistics" not in capsys.readouterr().err
    with (tmp_path / "after" / "cells.csv").open() as file:
        found = {row["file"]: row["best_guess"] for row in csv.DictReader(file)}
    right = [found[str(lab / "images" / file)] == name for file, name in lines]
    assert sum(right) >= 11
    with (tmp_path / "after" / "differential.csv").open() as file:
        counted = {row["type"]: int(row["cells"]) for row in csv.DictReader(file)}
    assert counted["band"] + counted["for review"] >= 5
    assert "<option>band</option>" in (tmp_path / "after" / "index.html").read_text()
    with pytest.raises(SystemExit, match="the classifier is adapted already: name the one"):
        flags = [f"--labels={lab / 'labels.csv'}", f"--model={tmp_path / 'mine'}"]
        adapt.main([str(lab / "results"), f"--out={tmp_path / 'again'}", *flags])


def test_without_replay(lab, tmp_path):
    base = tmp_path / "base.safetensors"
    for name in ("base.safetensors", "base.abstention.json"):
        (tmp_path / name).write_bytes((lab / name).read_bytes())
    flags = [str(lab / "results"), f"--labels={lab / 'labels.csv'}", f"--out={tmp_path / 'mine'}"]
    with pytest.raises(SystemExit, match=r"base\.replay\.npz is missing.*--replay` writes it"):
        adapt.main([*flags, f"--model={base}"])
    (tmp_path / "base.replay.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(SystemExit, match=r"base\.replay\.npz is damaged"):
        adapt.main([*flags, f"--model={base}"])


def test_images_that_are_gone_or_moved(lab, tmp_path, capsys):
    results, moved = tmp_path / "results", tmp_path / "moved"
    shutil.copytree(lab / "results", results)
    gone = [path for path in (lab / "images").iterdir() if path.name.startswith("monocyte")]
    moved.mkdir()
    flags = [f"--labels={lab / 'labels.csv'}", f"--model={lab / 'base.safetensors'}"]
    for path in gone:
        path.rename(moved / path.name)
    try:
        with pytest.raises(SystemExit, match="all 6 cells with a type are lymphocytes"):
            adapt.main([str(results), f"--out={tmp_path / 'mine'}", *flags])
        assert "monocyte0.png" in capsys.readouterr().err
        for path in list((lab / "images").iterdir()):
            shutil.copy(path, moved / path.name)
        adapt.main([str(results), f"--out={tmp_path / 'mine'}", *flags, f"--images={moved}"])
        assert "12 corrected cells in 12 images" in capsys.readouterr().out
    finally:
        for path in gone:
            (moved / path.name).rename(path)


def test_too_few_and_foreign_types(lab, tmp_path, capsys):
    lines = [*((row["file"], row["type"]) for row in rows(lab)[:4]), ("monocyte0.png", "blast")]
    with pytest.raises(SystemExit, match="error: there are 4 cells"):
        call(lab, tmp_path / "mine", labels=write(lab, "few.csv", lines))
    assert "1 cell said to be 'blast'" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="all 6 cells with a type are lymphocytes"):
        lines = [(row["file"], row["type"]) for row in rows(lab)][:6]
        call(lab, tmp_path / "mine", labels=write(lab, "one.csv", lines))


def test_a_file_of_something_else_is_kept(lab, tmp_path):
    (tmp_path / "mine.safetensors").write_text("mine")
    with pytest.raises(SystemExit, match="exists, and no export wrote it"):
        call(lab, tmp_path / "mine")
    assert (tmp_path / "mine.safetensors").read_text() == "mine"
