"""python -m wbc_jax.export: a file that programs without Flax can run."""

import subprocess
import sys

import numpy as np
import pytest

import wbc_jax
from helpers import tiny_runs
from wbc_jax.errors import ExportError
from wbc_jax.inference import exporting
from wbc_jax.training import steps

_PROGRAM = """
import pathlib, sys
import jax, numpy as np
from jax import export

sys.modules["flax"] = None  # importing it would fail
exported = export.deserialize(pathlib.Path("model.stablehlo").read_bytes())
for count in (1, 3):
    np.save(f"logits{count}.npy", exported.call(np.load("images.npy")[:count]))
"""


@pytest.mark.parametrize("kind", ["run", "typed_run"])
def test_stablehlo_runs_without_flax(kind, request, tmp_path):
    run = request.getfixturevalue(kind)
    done = tiny_runs.command("wbc_jax.export", run.workdir, "--out=model.stablehlo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("model.stablehlo: ")
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
    done = tiny_runs.command("wbc_jax.export", run.workdir, "--out=model.onnx", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
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


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["none", "--out=x.safetensors"], "none holds no run"),
        (["none", "--out=x.onnx"], "none holds no run"),
        (["none", "--out=x.pt"], "usage"),
        (["--out=x.safetensors"], "usage"),
    ],
)
def test_wrong_use(tmp_path, arguments, expected):
    done = tiny_runs.command("wbc_jax.export", *arguments, cwd=tmp_path)
    assert done.returncode and expected in done.stderr
    assert not list(tmp_path.iterdir())
