"""docs/private_interfaces.md names the files that use a private interface, and no other is used."""

import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "private_interfaces.md"


def rows():
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    cells = [line.strip("|").split("|") for line in lines if line.startswith("| `")]
    return [(re.search("`(.+?)`", cell[0])[1], ROOT / cell[1].strip(" `")) for cell in cells]


def test_the_table_names_the_files():
    found = rows()
    assert len(found) == 7
    for interface, path in found:
        assert interface in path.read_text(encoding="utf-8"), (interface, path)


def test_every_named_test_exists():
    for path in re.findall(r"`(tests/[\w/.]+)`", DOCUMENT.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), path


def test_no_other_file_uses_one():
    private = re.compile(
        r"\b(?:jax|jaxlib|flax|optax|orbax\.checkpoint)\._\w+|\bmock\.patch|\$conv"
    )
    named = {path for _, path in rows()}
    files = {
        path for folder in ("wbc_jax", "tfds_builders") for path in (ROOT / folder).rglob("*.py")
    }
    found = {path for path in files if private.search(path.read_text(encoding="utf-8"))}
    assert found and found <= named
