"""benchmarks/gpu.sh with a fake Python, and the sums of gpu_step.py and gpu_table.py."""

import json
import re
import subprocess
import sys

import pytest

import gpu_table
from helpers import fakes

SCRIPT = fakes.ROOT / "benchmarks" / "gpu.sh"

# Runs gpu_table.py, and writes what each other part of the benchmark would.
_PYTHON = """#!{python}
import json, os, pathlib, sys, time
script = sys.argv[1]
out = [a[6:] for a in sys.argv if a.startswith("--out=")]
with open(os.environ["FAKE_LOG"], "a") as log:
    log.write(json.dumps(sys.argv[1:]) + chr(10))
if script.endswith("gpu_table.py") and "--describe" in sys.argv:
    folder = pathlib.Path(sys.argv[sys.argv.index("--describe") + 1])
    (folder / "environment.json").write_text('{{"device": "H200", "tiny": false}}')
    sys.exit(int(os.environ.get("NO_GPU", "0")))
if "--check" in sys.argv:
    sys.exit(os.environ.get("LACKS", 0))
if script.endswith("gpu_table.py"):
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
if script.endswith("train_step.py"):
    sys.exit("error: the two sides differ")
if script.endswith("inference.py"):
    seconds = {{"ours": 0.002, "PyTorch": 0.003, "PyTorch compiled": 0.001}}
    row = {{"case": "unet", "seconds": seconds, "ratio": 2.0, "mfu": 0.25}}
    pathlib.Path(out[0]).write_text(json.dumps({{"rows": [row]}}))
if script.endswith("gpu_step.py"):
    row = {{"mode": "train", "case": "unet", "batch": 16, "seconds": 0.01, "mfu": None,
           "images_a_second": 1600.4, "trace": {{"busy_share": 0.993, "longest_pause_us": 12.4}}}}
    pathlib.Path(out[0]).write_text(json.dumps({{"rows": [row]}}))
    time.sleep(float(os.environ.get("SLOW", "0")))
"""


@pytest.fixture
def gpu(tmp_path):
    found = fakes.Fakes(tmp_path / "fakes")
    found.add("python", _PYTHON.format(python=sys.executable))
    return found


def _parts(out):
    parts = json.loads((out / "results.json").read_text())["parts"]
    return {name: one["status"] for name, one in parts.items()}


def test_a_part_that_fails_leaves_the_others(gpu, tmp_path):
    out = tmp_path / "out"
    done = gpu.run("bash", str(SCRIPT), str(out))
    assert done.returncode == 0, done.stderr
    assert _parts(out) == {
        "environment": "done", "step": "done", "job": "done", "train-0": "failed (1)",
        "train-1": "failed (1)", "predict-0": "done", "predict-1": "done", "metrics": "done",
    }  # fmt: skip
    text = (out / "table.md").read_text()
    assert "| train, unet | 10.00 ms | 1600 | – | 99.3 % | 12 µs |" in text
    assert text.count("| unet | 2.00 ms | 3.00 ms | 1.00 ms | 2.00 | 25.0 % |") == 2
    assert "Training step beside" not in text and "Device: H200" in text
    assert (out / "train-0.log").read_text() == "error: the two sides differ\n"


def test_a_part_that_takes_too_long_is_stopped(gpu, tmp_path):
    """Its results so far stay; parts for which no time is left are named."""
    out = tmp_path / "out"
    done = gpu.run("bash", str(SCRIPT), str(out), WBC_JAX_GPU_SECONDS="6", SLOW="60")
    assert done.returncode == 0, done.stderr
    parts = _parts(out)
    assert re.fullmatch(r"stopped after [2-6] s", parts["step"])
    assert {parts[name] for name in ("job", "train-0", "metrics")} == {"not started"}
    assert "1600" in (out / "table.md").read_text()


def test_without_a_gpu_nothing_runs(gpu, tmp_path):
    done = gpu.run("bash", str(SCRIPT), str(tmp_path / "out"), NO_GPU="1")
    assert done.returncode == 1 and "error: no GPU is found" in done.stderr
    assert _parts(tmp_path / "out") == {"environment": "failed (1)"}
    done = gpu.run("bash", str(SCRIPT), "--quick")
    assert done.returncode == 2 and done.stderr.startswith("usage: ")


def test_without_a_library_nothing_is_deleted(gpu, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.json").write_text("of before")
    done = gpu.run("bash", str(SCRIPT), str(out), LACKS="error: python lacks monai")
    assert (done.returncode, done.stderr) == (1, "error: python lacks monai\n")
    assert [f.name for f in out.iterdir()] == ["results.json"]
    assert (out / "results.json").read_text() == "of before"


def test_the_check_names_what_is_missing(monkeypatch):
    monkeypatch.setattr(gpu_table, "LIBRARIES", ("json", "no_such_library"))
    with pytest.raises(SystemExit, match=r"lacks no_such_library; .*pip install -e '\.\[bench"):
        gpu_table.check()
    monkeypatch.setattr(gpu_table, "LIBRARIES", ("json", "os.path"))
    gpu_table.check()


def test_the_check_knows_all_libraries_of_the_parts():
    folder, left = SCRIPT.parent, ["gpu_step", "train_step", "inference", "metrics"]
    known, imported = set(), set()
    while left:
        known.add(name := left.pop())
        text = (folder / f"{name}.py").read_text()
        imported |= (found := set(re.findall(r"^(?:import|from) (\w+)", text, re.M)))
        left += [other for other in found - known if (folder / f"{other}.py").exists()]
    assert imported - known - set(sys.stdlib_module_names) == set(gpu_table.LIBRARIES)


def test_all_budgets_together_are_below_nine_minutes():
    text = SCRIPT.read_text()
    limit = int(re.search(r"WBC_JAX_GPU_SECONDS:-\$\(\((\d+) \* slower", text)[1])
    assert limit + 5 < 540  # the last part may take 5 s more to end
    train, predict = (
        len(re.findall(r'"[^"]+"', found))
        for found in re.search(r"else\n  train=\((.*?)\).*?predict=\((.*?)\)", text, re.S).groups()
    )
    budgets = dict(re.findall(r'^ *part "?([a-z]+)[-$i]*"? (\d+)', text, re.M))
    assert set(budgets) == {"environment", "step", "job", "train", "predict", "metrics"}
    total = sum(map(int, budgets.values())) + (train - 1) * int(budgets["train"])
    assert total + (predict - 1) * int(budgets["predict"]) <= limit


def test_how_long_a_device_computes():
    gpu_step = pytest.importorskip("gpu_step")
    share, pause = gpu_step.busy([(5, 6), (0, 2), (1, 3), (6, 10)])
    assert (share, pause) == (0.8, 2)
    assert gpu_step.busy([]) == (0, 0)
    assert gpu_step.busy([(0, 10), (1, 2), (10, 11)]) == (1, 0)
    assert gpu_step.peak_tflops("NVIDIA H200") == 989 and gpu_step.peak_tflops("cpu") is None


def test_damaged_results_are_no_results(tmp_path):
    (tmp_path / "parts.tsv").write_text("step\tdone\t3\nmetrics\tdone\t4\n")
    (tmp_path / "step.json").write_text('{"rows": [')
    found = gpu_table.read(tmp_path)
    assert found["parts"]["step"] == {"status": "done", "seconds": 3, "result": None}
    assert "| metrics | done | 4 |" in gpu_table.table(found)


def test_shellcheck():
    done = subprocess.run([fakes.tool("shellcheck"), SCRIPT], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
