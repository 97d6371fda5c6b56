"""What `import wbc_jax` costs and offers."""

import json
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
    from wbc_jax.fields import analyze as fields
    from wbc_jax.inference import model as inference

    assert wbc_jax.__all__ == sorted(wbc_jax.__all__)
    homes = {"analyze": fields, "read_image": images}
    for name in wbc_jax.__all__:
        assert getattr(wbc_jax, name) is getattr(homes.get(name, inference), name)


def test_other_names_do_not():
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        wbc_jax.laod  # noqa: B018
