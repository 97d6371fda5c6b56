"""wbc_jax.data.building.read_exclusions: the records that a builder leaves out."""

import importlib
import pathlib

import pytest

from wbc_jax import tfds_builders
from wbc_jax.data import building
from wbc_jax.errors import DataError


def test_reads_ids_and_reasons(tmp_path):
    text = 'id,reason\r\n a_1 , "blurred, and cut off"\r\n\r\nb_2,empty frame\r\n'
    (tmp_path / "exclusions.csv").write_bytes(b"\xef\xbb\xbf" + text.replace(', "', ',"').encode())
    assert building.read_exclusions(tmp_path) == {
        "a_1": "blurred, and cut off",
        "b_2": "empty frame",
    }


def test_none_without_a_file_or_lines(tmp_path):
    assert building.read_exclusions(tmp_path) == {}
    (tmp_path / "exclusions.csv").write_text("id,reason\n")
    assert building.read_exclusions(tmp_path) == {}


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "empty"),
        ("a_1,blurred\n", "the header is 'a_1,blurred': allowed is 'id,reason'"),
        ("id\na_1\n", "the header is 'id'"),
        ("id,reason\na_1,\n", "line 2: 'a_1,'"),
        ("id,reason\na_1, \n", "line 2: 'a_1, '"),
        ("id,reason\n,blurred\n", "line 2: ',blurred'"),
        ("id,reason\na_1,blurred,cut off\n", "line 2: 'a_1,blurred,cut off'"),
        ("id,reason\na_1,blurred\nb,cut\na_1,blurred\n", "line 4: 'a_1' is listed twice"),
    ],
)
def test_bad_lines(tmp_path, text, reason):
    file = tmp_path / "exclusions.csv"
    file.write_text(text)
    with pytest.raises(DataError, match=reason) as caught:
        building.read_exclusions(tmp_path)
    assert str(file) in str(caught.value)


def test_all_builders_leave_out_what_their_lists_name():
    [top] = tfds_builders.__path__
    for file in sorted(pathlib.Path(top).glob("*/exclusions.csv")):
        building.read_exclusions(file.parent)  # is well-formed
        name = file.parent.name
        module = importlib.import_module(f"{tfds_builders.__name__}.{name}.{name}_dataset_builder")
        assert issubclass(module.Builder, building.Builder)
        assert module.Builder._generate_examples is building.Builder._generate_examples
        assert pathlib.Path(module.Builder.pkg_dir_path) == file.parent
