"""What `import wbc_jax` costs and offers."""

import json
import subprocess
import sys

import pytest

import wbc_jax

_CODE = """
import json, sys, time
start = time.perf_counter()
import wbc_jax
seconds = time.perf_counter() - start
heavy = [m for m in ("jax", "matplotlib", "orbax", "tensorflow", "cv2") if m in sys.modules]
print(json.dumps([seconds, heavy]))
"""


def test_importing_is_quick_and_leaves_the_heavy_libraries_alone():
    done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, check=True)
    seconds, heavy = json.loads(done.stdout)
    assert heavy == []
    assert seconds < 2


def test_public_names_resolve():
    from wbc_jax import fields, inference

    assert wbc_jax.__all__ == sorted(wbc_jax.__all__)
    for name in wbc_jax.__all__:
        home = fields if name == "analyze" else inference
        assert getattr(wbc_jax, name) is getattr(home, name)


def test_other_names_do_not():
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        wbc_jax.laod  # noqa: B018
