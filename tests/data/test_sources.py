"""wbc_jax.data.sources: data sets by name, written once, read back as they were drawn."""

import dataclasses
import pathlib

import numpy as np
import pytest

from wbc_jax.config import Data
from wbc_jax.data import duplicates, preparing, records, sources
from wbc_jax.errors import ConfigError, DataError
from wbc_jax.tfds_builders.wbc_synthetic import render

NAME = "wbc_synthetic/small"
KNOWN = [
    "raabin_gt",
    "segmentation_wbc/jtsc",
    "segmentation_wbc/cellavision",
    "wbc_synthetic/default",
    "wbc_synthetic/small",
]


def stamps(folder):
    return {
        p.relative_to(folder): (p.stat().st_mtime_ns, p.stat().st_ino, p.stat().st_size)
        for p in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    data = Data(datasets=(NAME,), data_dir=str(tmp_path_factory.mktemp("records")))
    assert not preparing.is_prepared(NAME, data)
    assert preparing.prepare(NAME, data) == []
    return data


def test_names():
    found = sources.names()
    assert set(KNOWN) - {"raabin_gt"} <= set(found)
    assert any(name.split("/")[0] == "raabin_gt" for name in found)
    assert len(set(found)) == len(found)


def test_every_name_has_a_builder(tmp_path):
    for name in sources.names():
        builder = sources.builder(name, Data(data_dir=str(tmp_path)))
        base, _, variant = name.partition("/")
        assert builder.name == base
        assert not variant or builder.builder_config.name == variant
        assert str(builder.data_dir).startswith(str(tmp_path))


@pytest.mark.parametrize("name", ["nothing", "wbc_synthetic/huge", "wbc_synthetic/small/x", ""])
def test_unknown_name_lists_the_known_ones(tmp_path, name):
    with pytest.raises(ConfigError) as error:
        sources.builder(name, Data(data_dir=str(tmp_path)))
    assert f"there is no data set {name!r}" in str(error.value)
    assert all(known in str(error.value) for known in KNOWN)
    for call in (preparing.prepare, sources.load, preparing.is_prepared):
        with pytest.raises(ConfigError, match="there is no data set"):
            call(name, Data(data_dir=str(tmp_path)))


def test_load_before_prepare(tmp_path):
    data = Data(data_dir=str(tmp_path))
    with pytest.raises(DataError) as error:
        sources.load(NAME, data)
    assert f"{NAME}: no records in {tmp_path}" in str(error.value)
    assert "--mode=prepare" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_loaded_records_are_the_drawn_cells(prepared):
    assert preparing.is_prepared(NAME, prepared)
    found = sources.load(NAME, prepared)
    assert found.name == NAME and len(found) == 60
    assert len(set(found.ids)) == 60
    assert sorted(found.ids) == [f"synthetic_{i:05d}" for i in range(60)]
    for position in (0, 1, 31, 59):
        cell = render.render_cell(0, int(found.ids[position].split("_")[1]), 96)
        np.testing.assert_array_equal(found.image(position), cell.image)
        np.testing.assert_array_equal(found.mask(position), cell.mask)
        assert found.labels[position] == cell.label
        assert found.subtypes[position] == cell.subtype
        np.testing.assert_allclose(found.um_per_px[position], cell.um_per_px, rtol=1e-6)
        assert found.groups[position] == found.ids[position]
        assert found.sources[position] == "wbc_synthetic"
        assert found.label_sources[position] == "drawn"
    assert found.has_mask.all() and found.has_mask.dtype == bool
    assert found.labels.dtype == np.int64 and found.um_per_px.dtype == np.float32
    assert all(isinstance(text, str) for text in found.ids + found.groups + found.subtypes)
    assert isinstance(found.encoded[0]["image"], bytes)  # pixels stay encoded until asked for


def test_prepared_twice_is_written_once(prepared, capsys):
    first = sources.load(NAME, prepared)
    before = stamps(pathlib.Path(prepared.data_dir))
    assert len(before) > 3
    assert preparing.prepare(NAME, prepared) == []
    again = sources.load(NAME, prepared)
    assert stamps(pathlib.Path(prepared.data_dir)) == before
    assert "writing records" not in capsys.readouterr().out
    # What the index kept is what the records said.
    for field in dataclasses.fields(sources.Source):
        if field.name != "encoded":
            np.testing.assert_array_equal(getattr(first, field.name), getattr(again, field.name))


def test_index_equals_the_records(prepared):
    sources.load(NAME, prepared)
    folder = pathlib.Path(sources.builder(NAME, prepared).data_dir)
    found = sources.load(NAME, prepared)
    (folder / sources.INDEX).unlink()
    anew = sources.load(NAME, prepared)
    for field in dataclasses.fields(sources.Source):
        if field.name != "encoded":
            mine, theirs = getattr(found, field.name), getattr(anew, field.name)
            np.testing.assert_array_equal(mine, theirs)
            assert getattr(mine, "dtype", None) == getattr(theirs, "dtype", None)
    expected = [duplicates.perceptual_hash(found.image(i)) for i in range(60)]
    np.testing.assert_array_equal(found.hashes, expected)
    expected = [duplicates.cell_hash(found.image(i)) for i in range(60)]
    np.testing.assert_array_equal(found.cell_hashes, expected)


def test_names_of_the_same_records_or_cells(tmp_path):
    data = Data(data_dir=str(tmp_path))
    sources.check_distinct(["pbc/five", "pbc/eight", "kaggle_blood_cells/original"], data)
    with pytest.raises(ConfigError, match="'pbc' and 'pbc/five' are the same data set"):
        sources.check_distinct(["pbc", "pbc/five"], data)
    masked = ("kaggle_blood_cells/fields", "kaggle_blood_cells/masks")
    for original in ("kaggle_blood_cells/original", "kaggle_blood_cells", *masked):
        names = [original, "kaggle_blood_cells/augmented"]
        for order in (names, names[::-1]):
            with pytest.raises(ConfigError, match=r"augmented' and .*the same cells"):
                sources.check_distinct(order, data)
    sources.check_distinct(["kaggle_blood_cells/augmented"], data)
    sources.check_distinct(["kaggle_blood_cells", *masked], data)  # groups tell which are the same


def test_repeated_ids_are_refused(monkeypatch, tmp_path):
    features = records.features()
    one, two = (
        features.serialize_example(
            features.encode_example(
                records.example(image=np.zeros((8, 8, 3), np.uint8), id=id, source="s")
            )
        )
        for id in ("one", "two")
    )

    @dataclasses.dataclass
    class Builder:
        data_dir: str = str(tmp_path)

        def is_prepared(self):
            return True

        def as_data_source(self, split, deserialize_method):
            return [one, two, one]

    monkeypatch.setattr(sources, "builder", lambda name, data_dir: Builder())
    with pytest.raises(DataError, match=r"x: the ids \['one'\] stand at several records"):
        sources.load("x", Data())


def test_manual_dir(monkeypatch, tmp_path):
    monkeypatch.delenv(sources.MANUAL_DIR_VARIABLE, raising=False)
    assert sources.manual_dir(Data()) == ""
    monkeypatch.setenv(sources.MANUAL_DIR_VARIABLE, str(tmp_path / "environment"))
    assert sources.manual_dir(Data()) == str(tmp_path / "environment")
    # What the config says goes before the environment.
    chosen = Data(manual_dir=str(tmp_path / "config"))
    assert sources.manual_dir(chosen) == str(tmp_path / "config")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sources.manual_dir(Data(manual_dir="~/data")) == str(tmp_path / "data")
