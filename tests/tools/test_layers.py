"""tools/layers.py: the package keeps its order; drawn graphs that break it are found."""

import subprocess
import sys

import layers


def test_the_package_keeps_its_order():
    done = subprocess.run([sys.executable, layers.__file__], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first = [line.split()[0] for line in done.stdout.splitlines()]
    assert first == [name for names in layers.ORDER for name in names]


def test_an_import_that_goes_up_is_named():
    graph = {"data.pipeline": {"data.splits", "training.steps"}, "report.html": {"metrics"}}
    assert layers.violations(graph) == [
        "wbc_jax.data.pipeline imports wbc_jax.training.steps, which lies above it"
    ]


def test_wings_of_one_line_do_not_import_each_other():
    assert layers.violations({"data.pipeline": {"metrics.boundary"}}) != []
    assert layers.violations({"data.pipeline": {"data.records"}}) == []


def test_a_command_imports_no_command_but_main_its_mode():
    assert layers.violations({"detect": {"predict"}}) != []
    assert layers.violations({"main": {"reproduce"}}) == []


def test_the_longest_name_decides():
    # The registry lies below the other models, as the config's checks look names up in it.
    assert layers.level("models.registry") < layers.level("config_checks")
    assert layers.level("config_checks") < layers.level("models.unet")


def test_a_circle_is_found():
    ring = layers.circle({"data.a": {"data.b"}, "data.b": {"data.c"}, "data.c": {"data.a"}})
    assert ring[0] == ring[-1] and set(ring) == {"data.a", "data.b", "data.c"}
    assert layers.circle({"data.a": {"data.b"}, "data.b": set()}) == []


def test_imports_of_all_kinds_are_read(tmp_path):
    (tmp_path / "a.py").write_text(
        "import wbc_jax.errors\n"
        "from wbc_jax import labels as names, metrics\n"
        "from wbc_jax.data.images import read_image\n"
        "def f():\n    from wbc_jax.training import steps\n"
        "import numpy\n"
    )
    known = dict.fromkeys(["errors", "labels", "metrics", "data.images", "training.steps", "cli"])
    found = layers.imports(tmp_path / "a.py", known)
    assert found == {"errors", "labels", "metrics", "data.images", "training.steps"}
