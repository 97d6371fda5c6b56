"""What the tests of the fast convolutions share."""

import platform
import sys

import jax
import pytest

from wbc_jax.cpu import convolution

KNOWN = jax.lib.__version__ in convolution._KNOWN_JAXLIB and sys.platform == "linux"
KNOWN = KNOWN and platform.machine() == "x86_64"


@pytest.fixture
def onednn(monkeypatch):
    """Switches the fast convolutions on, which the tests' cache of compiled programs disables."""
    folder = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    if jax.default_backend() != "cpu" or not KNOWN:
        pytest.skip("oneDNN is called on x86-64 Linux only, with a jaxlib in which it was tested")
    monkeypatch.delenv(convolution.SWITCH, raising=False)
    assert convolution.usable()
    yield
    jax.config.update("jax_compilation_cache_dir", folder)
