"""wbc_jax.inputs: which files of folders and globs are images to work on, and which are not."""

import numpy as np
import pytest
from PIL import Image

from wbc_jax import inputs
from wbc_jax.errors import InputError
from wbc_jax.utils.output_folder import OutputFolder


@pytest.fixture
def folder(tmp_path):
    """Two folders with a name in common, and files that are not images."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/a.png", "B.TIF", "notes.txt", "bad.jpg", "none.png"):
        (tmp_path / "in" / name).write_bytes(b"")
    return tmp_path / "in"


def test_find_images_in_files_folders_and_globs(folder):
    names = ["B.TIF", "a.png", "bad.jpg", "none.png", "sub/a.png"]
    inside = [str(folder / name) for name in names]
    assert inputs.find_images([str(folder)]).paths == inside
    assert inputs.find_images([str(folder / "*.png")]).paths == [inside[1], inside[3]]
    assert inputs.find_images([str(folder / "**" / "a.*")]).paths == [inside[1], inside[4]]
    # Named outright, a file is taken whatever it is called; named twice, once.
    named = [str(folder / "notes.txt"), inside[1]]
    assert inputs.find_images([*named, str(folder / "a*")]).paths == named


def test_names_with_the_letters_of_a_glob(tmp_path):
    (tmp_path / "a[1].png").write_bytes(b"")
    assert inputs.find_images([str(tmp_path / "a[1].png")]).paths == [str(tmp_path / "a[1].png")]


def test_nothing_to_predict(tmp_path):
    with pytest.raises(InputError, match=r"no image in .*; looked for .*\.png, \.jpg"):
        inputs.find_images([str(tmp_path)])
    for missing in ("missing.png", "*.png"):
        name = str(tmp_path / missing)
        with pytest.raises(InputError) as caught:
            inputs.find_images([name])
        assert str(caught.value).startswith(f"{name}: no such file or folder")


def test_results_of_earlier_calls_are_no_inputs(tmp_path):
    """One folder holds slides and the results of two calls, one of them without a manifest."""
    slides = tmp_path / "slides"
    for name in ("a.png", "old/masks/a.png", "old/overlays/a.png", "old/b.png"):
        (slides / name).parent.mkdir(parents=True, exist_ok=True)
        (slides / name).write_bytes(b"")
    for name in ("cells.csv", "cells.parquet"):
        (slides / "old" / name).write_bytes(b"")
    with OutputFolder(slides / "run1") as folder:
        folder.write({f"{part}/a.png": b"x" for part in ("masks", "labels", "overlays", "crops")})
    (slides / "run1" / "own.png").write_bytes(b"")
    found = inputs.find_images([str(slides)])
    wanted = ["a.png", "old/b.png", "run1/own.png"]
    assert found.paths == [str(slides / name) for name in wanted]
    results = {
        "old/masks/a.png", "old/overlays/a.png", "run1/crops/a.png", "run1/labels/a.png",
        "run1/masks/a.png", "run1/overlays/a.png",
    }  # fmt: skip
    passed_over = {path: why for path, why in found.passed_over if why == inputs.OWN}
    assert set(passed_over) == {str(slides / name) for name in results}
    assert "6 written by wbc_jax" in found.describe()
    # The same by a glob; and a mask that a person corrected is still no slide.
    (slides / "run1" / "masks" / "a.png").write_bytes(b"corrected")
    assert inputs.find_images([str(slides / "**" / "a.png")]).paths == [str(slides / "a.png")]
    with pytest.raises(InputError, match="passed over 1 files: 1 written by wbc_jax"):
        inputs.find_images([str(slides / "run1" / "masks")])
    # Crops of `detect` are cells to predict, where they are named.
    crops = str(slides / "run1" / "crops")
    assert inputs.find_images([crops]).paths == [f"{crops}/a.png"]


def test_masks_beside_images_are_no_inputs(tmp_path):
    for name in ("images/c.png", "masks/c.png", "others/masks/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name)
    found = inputs.find_images([str(tmp_path)])
    # `masks` alone is a name like any other.
    assert found.paths == [str(tmp_path / "images/c.png"), str(tmp_path / "others/masks/c.png")]
    assert found.passed_over == [(str(tmp_path / "masks/c.png"), inputs.MASKS)]
    assert inputs.find_images([str(tmp_path / "masks")]).paths == [str(tmp_path / "masks/c.png")]


def test_what_is_passed_over_is_counted_by_ending(tmp_path):
    names = ("a.png", "b.svs", "c.SVS", "d.txt", "e", "._a.png", ".f.png", "__MACOSX/g.png")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = inputs.find_images([str(tmp_path)])
    assert found.paths == [str(tmp_path / "a.png")]
    reasons = {path[len(str(tmp_path)) + 1 :]: reason for path, reason in found.passed_over}
    assert reasons == {
        "b.svs": "ending .svs",
        "c.SVS": "ending .svs",
        "d.txt": "ending .txt",
        "e": "without an ending",
        "._a.png": inputs.MACOS,
        "__MACOSX/g.png": inputs.MACOS,
        ".f.png": inputs.HIDDEN,
    }
    assert found.describe() == (
        "passed over 7 files: 2 metadata of macOS, 2 ending .svs, 1 hidden, 1 ending .txt, "
        "1 without an ending"
    )
    # Named outright, a slide is taken: reading it says what is wrong.
    named = [str(tmp_path / "b.svs")]
    assert inputs.find_images(named) == inputs.Inputs(named, [])


def test_heic_names_the_extra_where_it_is_missing(tmp_path, monkeypatch):
    for name in ("a.png", "b.HEIC"):
        (tmp_path / name).write_bytes(b"")
    monkeypatch.setattr(inputs, "_suffixes", lambda: (".png",))
    said = "1 ending .heic (pip install 'wbc_jax[heif]' reads it)"
    assert said in inputs.find_images([str(tmp_path)]).describe()
