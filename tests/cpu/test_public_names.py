"""The package uses wbc_jax.cpu through its public names only, and importing them is quick."""

import pathlib
import re
import subprocess
import sys

import wbc_jax
from wbc_jax import cpu

PACKAGE = pathlib.Path(wbc_jax.__file__).parent


def test_no_other_folder_imports_its_modules():
    inside = re.compile(r"wbc_jax\.cpu\.|from wbc_jax\.cpu import")
    others = [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE / "cpu"]
    assert len(others) > 50
    found = [path for path in others if inside.search(path.read_text(encoding="utf-8"))]
    assert found == []


def test_only_the_shared_layers_convolve():
    found = [path for path in PACKAGE.rglob("*.py") if "cpu.convolve(" in path.read_text("utf-8")]
    assert found == [PACKAGE / "models" / "layers.py"]


def test_only_networks_convolve_by_channel():
    calls = [path for path in PACKAGE.rglob("*.py") if "cpu.depthwise(" in path.read_text("utf-8")]
    assert {path.parent for path in calls} <= {PACKAGE / "models"}


def test_the_entry_point_needs_no_jax():
    code = "import sys; from wbc_jax import cpu; cpu.restart_with_huge_pages; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"jax", "numpy", "llvmlite"} & set(done.stdout.split())


def test_all_public_names_exist():
    assert all(callable(getattr(cpu, name)) for name in cpu.__all__)
    assert not hasattr(cpu, "unknown")
