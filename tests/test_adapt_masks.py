"""The command `wbc_jax.adapt` with corrected masks, on drawn cells and a tiny segmenter."""

import hashlib
import shutil

import numpy as np
import pytest

from helpers import laboratory, tuned_masks
from helpers.drawn_fields import Thresholds
from wbc_jax import adapt
from wbc_jax.corrections import mask_adaptation
from wbc_jax.corrections.session import Session
from wbc_jax.data.images import read_image
from wbc_jax.errors import WeightsError
from wbc_jax.fields import analyze as fields
from wbc_jax.fields import windows
from wbc_jax.inference import abstention, mask_tuning, weights
from wbc_jax.inference import model as inference
from wbc_jax.report import cell_results

REAL_LOAD, REAL_TUNE = inference.load, mask_adaptation.tune
KNOWING = 7
"""Steps of the segmenter that is right already."""


class Knowing(inference.Model):
    """A segmenter that is right, whatever its weights."""

    def predict(self, images):
        return Thresholds().predict(images)


def load(name):
    """Stands in for `inference.load`: the classifier reads areas."""
    stored = weights.read(weights.find(name))
    if stored.config.task == "classification":
        return laboratory.Areas(stored)
    found = REAL_LOAD(name)
    if found.step == KNOWING:
        return Knowing(found.config, found.network, found.weights, KNOWING, [])
    return found


@pytest.fixture(scope="module", autouse=True)
def quick():
    known = {}

    def tune(segmenter, windows):
        if isinstance(segmenter, Knowing):
            found = mask_tuning.score(segmenter, windows)
            return mask_tuning.Tuned(segmenter, found, found, found, found)
        if not known:  # once for all tests
            known["tuned"] = REAL_TUNE(segmenter, windows)
        return known["tuned"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mask_adaptation, "tune", tune)
        tuned_masks.make_quick(patch)
        patch.setattr(mask_adaptation, "MOST_FORGOTTEN", 1.0)
        patch.setattr(inference, "load", load)
        yield


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder with two models, `images`, `labels.csv` and `results` with six painted masks."""
    folder = tmp_path_factory.mktemp("lab")
    laboratory.write_base(folder / "base.safetensors")
    old = tuned_masks.segmenter()
    for name, step in (("old", 0), ("knowing", KNOWING)):
        path = folder / f"{name}.safetensors"
        weights.write(path, old.config, step, old.weights, [], np.float32)
    laboratory.draw(folder / "images", 4)
    paths = sorted(str(path) for path in (folder / "images").iterdir())
    models = laboratory.load_models([folder / "base.safetensors"])
    assert cell_results.predict_files(models, paths, folder / "results") == []
    session = Session(folder / "results", "Anna")
    for index in range(6):
        area, base, mask = session.mask(index)
        session.paint(index, area, mask, base)
    return folder


def call(lab, out, *flags, results="results", segmenter="old"):
    adapt.main(
        [str(lab / results), f"--out={out}", f"--model={lab / segmenter}.safetensors",
         f"--model={lab / 'base.safetensors'}", *flags]
    )  # fmt: skip


def named(tree):
    return {name: np.asarray(leaf) for name, leaf in weights.named(tree).items()}


def same(one, other):
    return all((one[name] == other[name]).all() for name in one)


def test_masks_alone(lab, tmp_path, capsys):
    call(lab, tmp_path / "mine")
    printed = capsys.readouterr()
    assert "6 corrected masks in 6 images, each held back once" in printed.out
    assert "gain in mean IoU: +0." in printed.out
    assert "the new masks of 2 other cells of the folders agree with the old ones" in printed.out
    out = tmp_path / "mine.safetensors"
    flags = f"--model={lab / 'base.safetensors'} --model={out}`"
    assert printed.out.splitlines()[-1].endswith(flags)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.safetensors"]
    stored = weights.read(out)
    old = weights.read(lab / "old.safetensors")
    assert stored.config.model == old.config.model and not same(stored.arrays, old.arrays)
    about = stored.adapted
    digest = hashlib.sha256((lab / "old.safetensors").read_bytes()).hexdigest()
    assert about["sha256"] == digest and about["model"] == "old.safetensors"
    assert about["corrections"] == 6 and about["reviewers"] == ["Anna"] and about["gain"] > 0.2
    assert about["mean_iou"][1] - about["mean_iou"][0] == pytest.approx(about["gain"])
    assert sorted(key.id for key in stored.seen)[0] == "lymphocyte0.png:1"
    assert len(stored.seen) == 6
    # The prediction uses it.
    image = read_image(lab / "images" / "monocyte3.png")
    found = fields.analyze(image, fields.load_models([out, lab / "base.safetensors"]))
    before = fields.analyze(image, fields.load_models([lab / "old.safetensors"]))
    (shown,) = windows.shown([image])[0]
    (expected,) = fields.analyze([image], fields.Models(segmenter=Thresholds()))
    assert shown.one_cell
    right = [(one.mask == expected.mask).mean() for one in (before, found)]
    assert right[1] > max(right[0], 0.8)
    # One that is adapted already is refused.
    with pytest.raises(SystemExit, match="is adapted already: name the segmenter that it was"):
        adapt.main([str(lab / "results"), f"--out={tmp_path / 'two'}", f"--model={out}"])


def test_types_and_masks(lab, tmp_path, capsys):
    call(lab, tmp_path / "mine", f"--labels={lab / 'labels.csv'}")
    printed = capsys.readouterr().out
    out = tmp_path / "mine.safetensors"
    assert "8 corrected cells in 8 images" in printed and "6 corrected masks" in printed
    assert printed.splitlines()[-1].endswith(f"--out=DIR --model={out}`")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mine.abstention.json", "mine.safetensors", "mine.segmenter.safetensors",
    ]  # fmt: skip
    models = fields.load_models([out])
    own = weights.read(tmp_path / "mine.segmenter.safetensors")
    assert same(own.arrays, named(models.segmenter.weights))
    assert not models.segmenter.config.evaluate.middle_cell
    # A segmenter that is named wins.
    models = fields.load_models([lab / "old.safetensors", out])
    old = weights.read(lab / "old.safetensors")
    assert same(old.arrays, named(models.segmenter.weights))
    shutil.copy(lab / "old.safetensors", tmp_path / "mine.segmenter.safetensors")
    with pytest.raises(WeightsError, match=r"mine\.segmenter\.safetensors is another segmenter"):
        fields.load_models([out])
    (tmp_path / "mine.segmenter.safetensors").unlink()
    with pytest.raises(
        WeightsError, match=r"mine\.segmenter\.safetensors is missing.*Put it there"
    ):
        fields.load_models([out])


def test_no_better_masks_are_refused(lab, tmp_path, capsys):
    with pytest.raises(SystemExit, match="nothing is written"):
        call(lab, tmp_path / "mine", "--only=masks", segmenter="knowing")
    noted = "note: mean IoU on the masks held back is not better (+0.000)"
    assert noted in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    # Types are learned all the same, and the segmenter stays.
    call(lab, tmp_path / "mine", f"--labels={lab / 'labels.csv'}", segmenter="knowing")
    out = tmp_path / "mine.safetensors"
    printed = capsys.readouterr()
    assert noted in printed.err
    last = printed.out.splitlines()[-1]
    assert last.endswith(f"--model={lab / 'knowing.safetensors'} --model={out}`")
    assert "segmenter" not in weights.read(out).adapted and weights.own_segmenter(out) is None
    assert fields.load_models([out]).segmenter is None
    assert len(abstention.read(out).seen.own.centers) == 7
    assert not (tmp_path / "mine.segmenter.safetensors").exists()


def test_too_few_masks(lab, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(mask_adaptation, "LEAST_MASKS", 7)
    call(lab, tmp_path / "mine", f"--labels={lab / 'labels.csv'}", segmenter="knowing")
    noted = "note: 6 masks are corrected; 7 are the least to adapt the segmenter, so it stays"
    assert noted in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mine.abstention.json", "mine.safetensors",
    ]  # fmt: skip
    with pytest.raises(SystemExit, match="6 masks are corrected; 7 are the least"):
        call(lab, tmp_path / "two", "--only=masks")


def test_only_types(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(mask_adaptation, "tune", None)  # is not called
    flags = f"--labels={lab / 'labels.csv'}", "--only=types"
    call(lab, tmp_path / "mine", *flags, segmenter="knowing")
    assert not (tmp_path / "mine.segmenter.safetensors").exists()


def test_a_reviewer_of_masks_alone(lab, tmp_path, capsys):
    results = shutil.copytree(lab / "results", tmp_path / "results")
    Session(results, "Bert").set_types([0, 1, 2], "blast")
    with pytest.raises(SystemExit, match="--reviewer=Carla said no type"):
        adapt.main([str(results), f"--out={tmp_path / 'mine'}", "--reviewer=Carla"])
    call(lab, tmp_path / "mine", "--reviewer=Anna", results=results)
    assert "blast" not in capsys.readouterr().err
    assert weights.read(tmp_path / "mine.safetensors").config.task == "segmentation"


def test_a_file_of_something_else_is_kept(lab, tmp_path):
    (tmp_path / "mine.segmenter.safetensors").write_text("mine")
    with pytest.raises(SystemExit, match="exists, and no export wrote it"):
        call(lab, tmp_path / "mine")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]
