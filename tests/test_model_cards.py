"""The shipped weights, their model cards, and the figures in these."""

import importlib
import json
import pathlib
import zlib

import numpy as np
import pytest
from etils import epath

import make_cards
import wbc_jax
from wbc_jax import config_checks, experiment
from wbc_jax.config import Data
from wbc_jax.configs import release_segmenter
from wbc_jax.data import sources
from wbc_jax.inference import weights

NAMES = ("segmenter", "classifier")


def test_both_are_shipped_and_small():
    assert set(NAMES) <= set(weights.shipped())
    files = (p for p in pathlib.Path(weights.SHIPPED).rglob("*") if p.is_file())
    # What weights, rules, cards, and the encoder to start training from, take in the wheel: a zip.
    assert sum(len(zlib.compress(p.read_bytes())) for p in files) < 20e6


@pytest.mark.parametrize("name", NAMES)
def test_the_card_is_what_was_measured_on_this_file(name):
    # `render` refuses figures of other weights.
    assert make_cards.render(name) == (weights.SHIPPED / f"{name}.md").read_text()
    text = (weights.SHIPPED / f"{name}.md").read_text()
    assert make_cards.sha256(name) in text and "research only" in text


def test_a_card_of_other_weights_is_refused(tmp_path, monkeypatch):
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    for path in weights.SHIPPED.iterdir():
        if path.name.startswith("segmenter"):
            (shipped / path.name).write_bytes(path.read_bytes())
    damaged = bytearray((shipped / "segmenter.safetensors").read_bytes())
    damaged[-1] ^= 1
    (shipped / "segmenter.safetensors").write_bytes(damaged)
    monkeypatch.setattr(make_cards, "SHIPPED", shipped)
    with pytest.raises(SystemExit, match="is of other weights"):
        make_cards.render("segmenter")


@pytest.mark.parametrize("name", NAMES)
def test_they_say_nothing_of_where_they_were_trained(name):
    config = wbc_jax.load(name).config
    assert (config.data.manual_dir, config.data.data_dir) == ("", Data().data_dir)


def test_the_segmenter_finds_drawn_cells(data_dir):
    from helpers import tiny_runs

    source = sources.load(tiny_runs.DATASET, tiny_runs.config(data_dir).data)
    model = wbc_jax.load("segmenter").with_flips(False)
    right = [
        np.mean(model.predict(source.image(i)).mask == source.mask(i))
        for i in range(4)
        if source.has_mask[i]
    ]
    assert np.mean(right) > 0.9


def evaluated(name, config_name, datasets, real_data, tmp_path):
    config = importlib.import_module(f"wbc_jax.configs.{config_name}").get_config()
    config.data.manual_dir = str(real_data)
    config.data.datasets = datasets
    config.data.mixture, config.data.weights = "natural", ()
    config.evaluate.bootstrap = 50  # of the intervals, which are not compared
    config = config_checks.validate(config)
    found = experiment.evaluate_weights(config, epath.Path(tmp_path / name), name)["results"]
    written = json.loads((weights.SHIPPED / f"{name}.json").read_text())["results"]
    return found, written


@pytest.mark.data
def test_the_segmenters_figures_are_the_files(real_data, tmp_path, optimized):
    sets = release_segmenter.get_config().data.datasets[:-1]  # the real ones
    found, written = evaluated("segmenter", "release_segmenter", sets, real_data, tmp_path)
    for name in sets:
        assert found[name]["images"] == written[name]["images"]
        assert found[name]["mean_iou"] == pytest.approx(written[name]["mean_iou"], abs=5e-4)
        one, two = (r[name]["nc"]["median_relative_error"] for r in (found, written))
        assert one == pytest.approx(two, abs=5e-3)


@pytest.mark.data
def test_the_classifiers_figures_are_the_files(real_data, tmp_path, optimized):
    sets = ("segmentation_wbc/jtsc", "segmentation_wbc/cellavision")
    found, written = evaluated("classifier", "release_classifier", sets, real_data, tmp_path)
    for name in sets:
        assert found[name]["images"] == written[name]["images"]
        # One cell at a tie may fall to either side on another machine.
        assert found[name]["accuracy"] == pytest.approx(
            written[name]["accuracy"], abs=1.01 / found[name]["images"]
        )
