"""launch/Containerfile: it copies existing files and runs the right commands."""

import re
import subprocess

import pytest

from helpers import fakes

FILE = fakes.ROOT / "launch" / "Containerfile"


@pytest.fixture(scope="module")
def instructions():
    """Returns (instruction, text) in order, with continued lines joined."""
    text = re.sub(r"^#.*\n", "", FILE.read_text(), flags=re.MULTILINE).replace("\\\n", "")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def _all(instructions, name):
    return [text for kind, text in instructions if kind == name]


def test_its_instructions(instructions):
    known = {"FROM", "ARG", "RUN", "WORKDIR", "COPY", "ENV", "ENTRYPOINT", "CMD"}
    assert {kind for kind, _ in instructions} == known
    assert [kind for kind, _ in instructions][:2] == ["ARG", "FROM"]
    (python,) = [t for t in _all(instructions, "ARG") if t.startswith("PYTHON=")]
    major, minor = map(int, python.partition("=")[2].split("."))
    assert (major, minor) >= (3, 11)
    assert _all(instructions, "ENTRYPOINT") == ['["tini", "--", "python", "-m", "wbc_jax.main"]']


def test_it_copies_all_that_the_package_is_built_from(instructions):
    copied = [name for text in _all(instructions, "COPY") for name in text.split()[:-1]]
    for name in copied:
        assert (fakes.ROOT / name).exists(), name
    # setup.py reads these files and maps these folders into the package.
    assert {"README.md", "LICENSE", "wbc_jax", "configs", "tfds_builders", "setup.py"} < set(copied)


@pytest.mark.parametrize(
    "accelerator, extras", [("cpu", "gcs"), ("cuda13", "cuda13,gcs"), ("tpu", "tpu,gcs")]
)
def test_what_is_installed(instructions, tmp_path, accelerator, extras):
    run = fakes.Fakes(tmp_path, "pip", "apt-get")
    commands = _all(instructions, "RUN")
    done = run.run("sh", "-ec", commands[-1], ACCELERATOR=accelerator)
    assert done.returncode == 0, done.stderr
    assert run.calls == [["pip", "install", "--no-cache-dir", f".[{extras}]"]]
    setup = (fakes.ROOT / "setup.py").read_text()
    assert all(f'"{extra}": [' in setup for extra in extras.split(","))


def test_another_accelerator(instructions, tmp_path):
    run = fakes.Fakes(tmp_path, "pip")
    done = run.run("sh", "-ec", _all(instructions, "RUN")[-1], ACCELERATOR="rocm")
    assert done.returncode == 1 and run.calls == []
    assert done.stderr == "ACCELERATOR is rocm; it must be cpu, cuda13 or tpu\n"


@pytest.mark.parametrize("answer, status", [(0, 0), (1, 1)])
def test_an_old_python_is_refused(instructions, tmp_path, answer, status):
    run = fakes.Fakes(tmp_path, "python")
    (command,) = [c for c in _all(instructions, "RUN") if "version_info" in c]
    done = run.run("sh", "-ec", command, answers={"python": [[answer, ""]]})
    assert done.returncode == status
    assert ("3.11 or newer" in done.stderr) == bool(status)


def test_hadolint():
    done = subprocess.run(
        [fakes.tool("hadolint"), "--no-color", FILE], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")
