"""wbc_jax.inference.export_notes: what a file holds, and whose it is."""

import hashlib
import json
import pathlib

import pytest
from etils import epath

from wbc_jax.errors import ExportError
from wbc_jax.inference import export_notes
from wbc_jax.inference import model as inference


def test_the_notes_of_the_shipped_classifier():
    model = inference.load("classifier")
    alone = export_notes.describe("classifier", model, network_only=True)
    assert alone["input"]["shape"] == ["B", 128, 128, 3] and alone["output"]["shape"] == ["B", 5]
    assert [line.partition(" ")[0] for line in alone["before"]] == [
        "Predict", "Scale", "Turn", "Raise", "Cut", "Resize",
    ]  # fmt: skip
    assert "nucleus has 1.7; the factor is between 0.5 and 3" in alone["before"][2]
    assert "to 0.36, between 0.6 and 1.8; 1.3 if there are no red cells" in alone["before"][3]
    assert "8 % of the cell's longer side" in alone["before"][4]
    assert len(alone["within"]) == 1 and alone["temperature"] > 0
    said = "\n".join(export_notes.sentences(alone))
    assert all(step in said for step in (*alone["before"], *alone["after"], export_notes.RESIZE))
    whole = export_notes.describe("classifier", model, network_only=False)
    assert whole["before"] == whole["after"] == []
    assert whole["within"] == [*alone["before"], *alone["within"], *alone["after"]]
    assert whole["input"]["shape"] == ["B", "H", "W", 3]
    assert whole["output"]["name"] == "probabilities"


def test_the_notes_of_the_shipped_segmenter():
    model = inference.load("segmenter")
    alone = export_notes.describe("segmenter", model, network_only=True)
    assert alone["output"] == {
        "name": "logits", "dtype": "float32", "shape": ["B", 192, 192, 3],
    }  # fmt: skip
    assert len(alone["before"]) == 1 and len(alone["after"]) == 3
    assert alone["classes"] == ["background", "cytoplasm", "nucleus"]
    every = export_notes.describe("segmenter", model.with_middle_cell(False), network_only=True)
    assert every["after"] == alone["after"][:2]


NOTES = {"format": export_notes.FORMAT, "holds": "x"}


def test_a_file_is_known_by_the_notes_beside_it(tmp_path):
    file = epath.Path(tmp_path / "x.stablehlo")
    export_notes.check_free(file)
    export_notes.write(file, b"one", NOTES)
    stored = json.loads((tmp_path / "x.stablehlo.json").read_text())
    assert stored == NOTES | {"file": "x.stablehlo", "sha256": hashlib.sha256(b"one").hexdigest()}
    export_notes.check_free(file)
    export_notes.write(file, b"two", NOTES)
    export_notes.check_free(file)
    file.write_bytes(b"two and what a person added")
    with pytest.raises(ExportError, match=r"x\.stablehlo exists, .*SHA-256 .*another --out"):
        export_notes.check_free(file)


def other_file(folder: pathlib.Path):
    (folder / "x.onnx").write_bytes(b"mine")
    return "x.onnx", "x.onnx exists, and no export wrote it"


def other_json(folder: pathlib.Path):
    (folder / "x.onnx.json").write_text('{"mine": 1}')
    return "x.onnx", "x.onnx.json exists, and no export wrote it"


def other_weights(folder: pathlib.Path):
    (folder / "x.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    return "x.safetensors", "x.safetensors exists, and no export wrote it"


def other_rule(folder: pathlib.Path):
    (folder / "x.abstention.json").write_text("{}")
    return "x.safetensors", "x.abstention.json exists, and no export wrote it"


def a_folder(folder: pathlib.Path):
    (folder / "x.stablehlo").mkdir()
    return "x.stablehlo", "x.stablehlo is a folder"


@pytest.mark.parametrize("make", [other_file, other_json, other_weights, other_rule, a_folder])
def test_a_persons_file_is_left_alone(make, tmp_path):
    name, message = make(tmp_path)
    with pytest.raises(ExportError) as caught:
        export_notes.check_free(epath.Path(tmp_path / name))
    assert message in str(caught.value)
