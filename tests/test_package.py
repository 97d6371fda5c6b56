"""Importing wbc_jax: its cost, its names, and what no module may do on import."""

import ast
import json
import pathlib
import subprocess
import sys

import pytest

import wbc_jax

_CODE = """
import json, sys, time
start = time.process_time()
import wbc_jax
seconds = time.process_time() - start
heavy = [m for m in ("jax", "matplotlib", "orbax", "tensorflow", "cv2") if m in sys.modules]
print(json.dumps([seconds, heavy]))
"""


def test_importing_is_quick_and_leaves_the_heavy_libraries_alone():
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=True)
    seconds, heavy = json.loads(done.stdout)
    assert heavy == []
    assert seconds < 2


_STATE = """
import json, logging, os, signal, sys, warnings

def state():
    found = {
        "environment": dict(os.environ),
        "signals": [str(signal.getsignal(s)) for s in sorted(signal.valid_signals())],
        "process": [os.getpid(), sys.argv, sys.path, os.getcwd(), os.getpriority(0, 0)],
    }
    if "jax" in sys.modules:
        found["jax"] = {k: str(v) for k, v in sys.modules["jax"].config.values.items()}
    return found

before = state(), list(map(str, warnings.filters)), list(logging.root.handlers)
import wbc_jax
after = state(), list(map(str, warnings.filters)), list(logging.root.handlers)
assert after == before and "absl.flags" not in sys.modules
# The heavy part of it, beside what its libraries do (OpenCV adds to LD_LIBRARY_PATH and sys.path).
import cv2, jax
from absl import flags
before = state()
wbc_jax.load
assert state() == before
assert not flags.FLAGS.is_parsed() and not {"config", "model", "out", "mode"} & set(flags.FLAGS)
"""


def test_importing_changes_nothing_else():
    done = subprocess.run([sys.executable, "-c", _STATE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "" and done.stderr == ""


def test_public_names_resolve():
    from wbc_jax.data import images
    from wbc_jax.fields import analyze
    from wbc_jax.inference import model

    homes = {"analyze": analyze, "release_models": analyze, "read_image": images}
    assert wbc_jax.__all__ == sorted(wbc_jax.__all__)
    for name in wbc_jax.__all__:
        assert getattr(wbc_jax, name) is getattr(homes.get(name, model), name)


def test_other_names_do_not():
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        wbc_jax.laod  # noqa: B018


_FLAGS = """
import importlib, json, pkgutil
from absl import flags
import wbc_jax

names = [found.name for found in pkgutil.walk_packages(wbc_jax.__path__, "wbc_jax.")]
for name in names:
    importlib.import_module(name)
defined = flags.FLAGS.flags_by_module_dict()
ours = {name: [flag.name for flag in defined[name]] for name in defined if name in names}
print(json.dumps([names, ours]))
"""


def test_importing_any_module_defines_no_flag():
    """Another program may have a `--config` or `--out` of its own."""
    done = subprocess.run([sys.executable, "-c", _FLAGS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names, ours = json.loads(done.stdout.splitlines()[-1])
    assert {"wbc_jax.main", "wbc_jax.reproduce", "wbc_jax.training.loop"} <= set(names)
    assert ours == {}


COMMANDS = {
    "main",
    "predict",
    "detect",
    "abstain",
    "cohort",
    "compare",
    "convert",
    "export",
    "reproduce",
    "review",
}


def _imported(path: pathlib.Path) -> set[str]:
    """Returns the full names of all modules that a file may import, at any depth."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_no_module_imports_a_command():
    folder = pathlib.Path(wbc_jax.__file__).parent
    commands = {f"wbc_jax.{name}" for name in COMMANDS}
    found = {
        path.relative_to(folder).as_posix(): sorted(commands & _imported(path))
        for path in folder.rglob("*.py")
    }
    assert {name for name in COMMANDS if f"{name}.py" in found} == COMMANDS
    assert {path: names for path, names in found.items() if names} == {
        "main.py": ["wbc_jax.reproduce"]  # a mode of it
    }
