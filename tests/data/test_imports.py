"""The data wing sees no network and no checkpoints."""

import subprocess
import sys

# Grain registers a handler with Orbax if that is installed. So the modules are made to look as if
# they were not installed, which the data wing must not notice.
CODE = """
import sys

sys.modules |= dict.fromkeys(("flax", "optax", "orbax", "orbax.checkpoint"))
import wbc_jax.data.pipeline

print(*sorted(name for name, module in sys.modules.items() if module))
"""
FORBIDDEN = (
    "flax",
    "optax",
    "orbax",
    "wbc_jax.models",
    "wbc_jax.training",
    "wbc_jax.inference",
)


def test_the_pipeline_imports_no_network_and_no_checkpoints():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert {"grain", "wbc_jax.data.pipeline", "wbc_jax.data.sources"} <= set(loaded)
    wrong = [name for name in loaded for top in FORBIDDEN if f"{name}.".startswith(f"{top}.")]
    assert wrong == []
