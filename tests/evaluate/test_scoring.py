"""wbc_jax.evaluate.scoring: the test split, the baseline, data sets that training never saw."""

import dataclasses
import json
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from helpers import tiny_runs
from wbc_jax.data import pipeline
from wbc_jax.evaluate import baselines, masks, scoring


def test_external_data_sets_that_are_absent_are_listed_with_the_reason(run):
    report = json.loads((run.workdir / "report" / "metrics.json").read_text())
    # The data set that the run was trained on is left out.
    assert report["external"] == {}
    assert list(report["skipped"]) == ["raabin_gt"]
    reason = report["skipped"]["raabin_gt"]
    assert reason.startswith("raabin_gt is not in ") and "raabindata.com" in reason
    assert "nothing_here" in reason and "\n" not in reason


def test_external_data_sets_are_never_downloaded(data_dir, monkeypatch):
    def fetch(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(tfds.download.DownloadManager, "download", fetch)
    config = tiny_runs.config(data_dir, evaluate__external=("segmentation_wbc/jtsc",))
    found, skipped = scoring._external(config, baselines.otsu, [])
    assert found == {}
    assert skipped["segmentation_wbc/jtsc"].startswith("segmentation_wbc/jtsc is not in ")


def test_external_data_sets_that_are_there_are_scored_whole(data_dir):
    config = tiny_runs.config(data_dir, data__datasets=("raabin_gt",))
    found, skipped = scoring._external(config, baselines.otsu, [])
    assert skipped == {}
    whole = pipeline.load_splits(tiny_runs.config(data_dir).data, tiny_runs.SIZE)["all"]
    assert len(whole) == 60
    counts = masks.measure_test(baselines.otsu, whole, 8)
    assert found.keys() == {tiny_runs.DATASET}
    expected = masks.results(counts, whole, 50)
    expected[tiny_runs.DATASET]["left_out"] = 0
    np.testing.assert_equal(found, expected)


def test_an_external_data_set_of_whole_cells_is_scored_by_the_cell(data_dir, tmp_path):
    root, cells = tmp_path / "manual" / "krd_wbc", {}
    for name in ("image", "mask"):
        (root / "Dataset" / name).mkdir(parents=True)
    for number in (1, 2, 3):
        image = np.random.default_rng(number).integers(180, 230, (32, 32, 3), np.uint8)
        image[8:24, 8:24] = (200, 90, 150)
        image[12:20, 12 : 18 + number] = (90, 20, 110)
        Image.fromarray(image).save(root / f"Dataset/image/image{number}.jpg", quality=95)
        mask = np.zeros((32, 32), np.uint8)
        mask[8:24, 4:24] = 255  # the truth is wider than what is seen
        Image.fromarray(mask).save(root / f"Dataset/mask/mask{number}.jpg", quality=95)
        cells[f"image{number}"] = mask > 0
    labels = "Image ID,Categoriy\nImage1,Basophil\nImage2,Monocyte\n"
    (root / "class labels.csv").write_text(labels)
    given = {"evaluate__external": ("krd_wbc",), "data__data_dir": str(tmp_path / "records")}
    config = tiny_runs.config(data_dir, data__manual_dir=str(root.parent), **given)
    rows = []
    found, skipped = scoring._external(config, baselines.otsu, [], rows)
    assert skipped == {} and list(found) == ["krd_wbc"]
    found = found["krd_wbc"]
    assert (found["images"], found["cell_only_images"]) == (3, 3)
    assert (found["nc"]["images"], found["nc"]["flagged"]) == (0, 0)
    assert np.isnan(found["mean_iou"]) and sum(map(sum, found["confusion"])) == 0
    assert set(found["intervals"]) == {"iou_cell", "dice_cell"}
    sums = np.zeros(2)
    for row in rows:
        truth, image = cells[row["id"]], root / f"Dataset/image/{row['id']}.jpg"
        seen = baselines.otsu(np.asarray(Image.open(image))[None])[0] > 0
        parts = np.array([(truth & seen).sum(), (truth | seen).sum()])
        assert row["iou_cell"] == pytest.approx(parts[0] / parts[1], abs=1e-3)
        assert row["nucleus_px"] + row["cytoplasm_px"] == pytest.approx(seen.sum(), abs=2)
        sums += parts
    assert found["iou_cell"] == pytest.approx(sums[0] / sums[1], abs=1e-3)
    assert 0.6 < found["iou_cell"] < 0.9 and found["dice_cell"] > found["iou_cell"]
    types = {name: part["cell_only_images"] for name, part in found["by_type"].items()}
    assert types == {"unknown": 1, "basophil": 1, "monocyte": 1}


def test_external_images_that_training_saw_are_left_out(data_dir, capsys):
    config = tiny_runs.config(data_dir, data__datasets=("raabin_gt",))
    # As if the training data held some of the same images under another name.
    examples = pipeline.load_splits(tiny_runs.config(data_dir).data, tiny_runs.SIZE)
    seen = examples["train"].keys + examples["validation"].keys
    found, _ = scoring._external(config, baselines.otsu, seen)
    images = found[tiny_runs.DATASET]["images"]
    assert 0 < images <= 60 - len(seen) == 20
    assert f"{60 - images} images that training saw" in capsys.readouterr().out


def test_external_images_of_a_training_frame_are_left_out(data_dir):
    config = tiny_runs.config(data_dir, data__datasets=("raabin_gt",))
    whole = pipeline.load_splits(tiny_runs.config(data_dir).data, tiny_runs.SIZE)["all"]
    # Another data set with other pixels but the same frames.
    seen = [
        dataclasses.replace(key, dataset="wbc_synthetic/other", hash=None)
        for key in whole.keys[:10]
    ]
    found, _ = scoring._external(config, baselines.otsu, seen)
    assert found[tiny_runs.DATASET]["images"] == 50 and found[tiny_runs.DATASET]["left_out"] == 10


def test_the_report_says_what_was_scored(run, model):
    report = json.loads((run.workdir / "report" / "metrics.json").read_text())
    test = pipeline.load_splits(run.config.data, tiny_runs.SIZE)["test"]
    found = report["results"][tiny_runs.DATASET]
    assert found["images"] == len(test) == 20
    # The oracle: the model's masks, counted here.
    found_masks = np.stack([model.predict(test[i]["image"]).mask for i in range(20)])
    truth = np.stack([test[i]["mask"] for i in range(20)])
    confusion = [[((truth == t) & (found_masks == p)).sum() for p in range(3)] for t in range(3)]
    assert np.abs(np.subtract(found["confusion"], confusion)).max() <= 2
    assert found["global_accuracy"] == pytest.approx((truth == found_masks).mean(), abs=1e-3)
    large = test.resized(32, 32)
    thresholded = np.stack([baselines.otsu(large[i]["image"][None])[0] for i in range(20)])
    baseline = report["baseline"][tiny_runs.DATASET]
    assert baseline["global_accuracy"] == pytest.approx((truth == thresholded).mean())
    assert sum(part["images"] for part in found["by_type"].values()) == 20
    assert (report["task"], report["model"], report["split"]) == ("segmentation", "unet", "test")
    assert (report["eval_size"], report["flips"]) == (32, False)
    assert report["parameters"] == model.parameters and report["step"] == model.step
    assert report["train_seconds"] > 0
    # Every known pixel of the test split is in a bin, and as many are right as in the masks.
    sure = report["calibration"][tiny_runs.DATASET]
    confusion = np.array(found["confusion"])
    assert sum(sure["pixels"]) == confusion.sum()
    assert abs(sum(sure["right"]) - np.trace(confusion)) <= 2
    assert 0 <= sure["interval"][0] <= sure["expected_calibration_error"] < 0.5
    assert report["trained_steps"] == 240 and not report["stopped_early"]
    assert (run.workdir / "report" / "index.html").stat().st_size > 10_000


def test_examples_are_taken_evenly():
    names = [types.SimpleNamespace(name=name) for name in "aab" * 30]
    examples = pipeline.Examples([(name, i) for i, name in enumerate(names)], 8, 16)
    assert scoring._evenly(examples, 90).entries == examples.entries
    some = scoring._evenly(examples, 31)
    places = [i for _, i in some.entries]
    assert len(set(places)) == 31 and places[0] == 0 and places[-1] == 89
    assert set(np.diff(places)) <= {2, 3, 4} and (some.image_size, some.mask_size) == (8, 16)
    assert len(scoring._evenly(pipeline.Examples([], 8, 16), 5)) == 0
