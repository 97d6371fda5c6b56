"""python -m wbc_jax.export: a file that programs without Flax can run."""

import json
import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest
from flax import nnx

import wbc_jax
from helpers import tiny_runs
from wbc_jax import export, models
from wbc_jax.config import Config, Data, Model
from wbc_jax.errors import ExportError
from wbc_jax.inference import exporting
from wbc_jax.inference import model as inference
from wbc_jax.models import efficientnet
from wbc_jax.training import steps

_PROGRAM = """
import pathlib, sys
import jax, numpy as np
from jax import export

sys.modules["flax"] = None  # importing it would fail
exported = export.deserialize(pathlib.Path("new/model.stablehlo").read_bytes())
for count in (1, 3):
    np.save(f"logits{count}.npy", exported.call(np.load("images.npy")[:count]))
"""


@pytest.mark.parametrize("kind", ["run", "typed_run"])
def test_stablehlo_runs_without_flax(kind, request, tmp_path):
    run = request.getfixturevalue(kind)
    done = tiny_runs.command(
        "wbc_jax.export", run.workdir, "--out=new/model.stablehlo", "--network_only", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("new/model.stablehlo: ")
    assert f"1. Resize the image to {tiny_runs.SIZE}×{tiny_runs.SIZE} pixels" in done.stdout
    notes = json.loads((tmp_path / "new" / "model.stablehlo.json").read_text())
    assert notes["holds"] == "the network alone"
    size = tiny_runs.SIZE
    images = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    subprocess.run([sys.executable, "-c", _PROGRAM], cwd=tmp_path, check=True)
    model = wbc_jax.load(run.workdir)
    expected = steps.make_logits(model.network)(model.weights, images)
    for count in (1, 3):
        found = np.load(tmp_path / f"logits{count}.npy")
        np.testing.assert_allclose(found, expected[:count], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["run", "typed_run"])
def test_onnx_runs_in_onnx_runtime(kind, request, tmp_path):
    for needed in ("jax2onnx", "onnxruntime"):
        pytest.importorskip(needed, reason=f"no {needed}: pip install 'wbc_jax[onnx]'")
    import onnxruntime

    run = request.getfixturevalue(kind)
    done = tiny_runs.command(
        "wbc_jax.export", run.workdir, "--out=model.onnx", "--network_only", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    notes = json.loads((tmp_path / "model.onnx.json").read_text())
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    stored = session.get_modelmeta().custom_metadata_map
    assert stored["holds"] == "the network alone"
    assert json.loads(stored["before"]) == notes["before"] != []
    size = tiny_runs.SIZE
    images = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), np.uint8)
    model = wbc_jax.load(run.workdir)
    expected = steps.make_logits(model.network)(model.weights, images)
    for count in (1, 3):
        (found,) = session.run(None, {"images": images[:count]})
        np.testing.assert_allclose(found, expected[:count], rtol=1e-4, atol=1e-4)


def test_onnx_without_its_libraries(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ExportError, match=r"pip install 'wbc_jax\[onnx\]'"):
        exporting.onnx(model)


def test_weights(run, tmp_path):
    done = tiny_runs.command("wbc_jax.export", run.workdir, "--out=w.safetensors", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert wbc_jax.load(tmp_path / "w.safetensors").seen
    again = tiny_runs.command(
        "wbc_jax.export", "w.safetensors", "--out=v.safetensors", cwd=tmp_path
    )
    assert again.returncode and "is a file of weights already" in again.stderr
    assert not (tmp_path / "v.safetensors").exists()


@pytest.mark.parametrize("name", ["x.safetensors", "x.stablehlo", "x.onnx"])
def test_a_persons_file_stays(name, tmp_path):
    flags = ["--network_only"] if name.endswith(".onnx") else []
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(SystemExit) as caught:
        export.main(["none", f"--out={tmp_path / name}", *flags])
    assert str(caught.value).startswith(f"error: {tmp_path / name} exists, and no export wrote it")
    assert (tmp_path / name).read_bytes() == b"mine" and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_written_is_said_first(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit) as caught:
        export.main(["none", f"--out={tmp_path / 'file' / 'x.stablehlo'}"])
    assert str(caught.value).startswith("error: ") and "file" in str(caught.value)
    assert "holds no run" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["none", "--out=x.safetensors"], "none holds no run"),
        (["none", "--out=x.stablehlo"], "none holds no run"),
        (["none", "--out=x.onnx", "--network_only"], "none holds no run"),
        (["none", "--out=x.onnx"], "error: .onnx can hold the network alone"),
        (["none", "--out=x.safetensors", "--network_only"], "usage"),
        (["none", "--out=x.pt"], "usage"),
        (["--out=x.safetensors"], "usage"),
    ],
)
def test_wrong_use(tmp_path, arguments, expected):
    done = tiny_runs.command("wbc_jax.export", *arguments, cwd=tmp_path)
    assert done.returncode and expected in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["efficientnet", "efficientnet_unet"])
def test_an_encoder_is_exported(name, monkeypatch):
    """Depthwise convolutions, computed by other code on a CPU, become operations of StableHLO."""
    stages = [(1, size, stride, min(times, 2), 8) for _, size, stride, times, _ in STAGES]
    monkeypatch.setattr(efficientnet, "STAGES", stages)
    task = "classification" if name == "efficientnet" else "segmentation"
    config = Config(task=task, model=Model(name=name, features=4), data=Data(image_size=32))
    network, shapes = steps.split_network(nnx.eval_shape(lambda: models.build(config.model)))
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(np.float32), shapes)
    model = inference.Model(config, network, weights, 0)
    exported = jax.export.deserialize(exporting.stablehlo(model, network_only=True))
    assert "onednn" not in exported.mlir_module()
    images = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    expected = steps.make_logits(network)(weights, images)
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(exported.call(images), expected, rtol=0, atol=1e-4 * scale)


STAGES = efficientnet.STAGES
