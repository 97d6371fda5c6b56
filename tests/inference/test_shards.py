"""wbc_jax.inference.shards: complete, independent of the number of processes, safe when killed."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import wbc_jax
from helpers import tiny_runs
from wbc_jax import cli, predict
from wbc_jax.data import light, orientation, pipeline
from wbc_jax.errors import ShardsError
from wbc_jax.fields import analyze as fields
from wbc_jax.fields import contrast
from wbc_jax.inference import abstention, path_lists, shard_rows, shards
from wbc_jax.inference import model as inference
from wbc_jax.labels import CELL_TYPES
from wbc_jax.utils import atomic

BAD = "bad.jpg"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, run):
    """Seven cells of several sizes, and a damaged file between them."""
    folder = tmp_path_factory.mktemp("cells")
    test = pipeline.load_splits(run.config.data, tiny_runs.SIZE)["test"]
    for n, (source, i) in enumerate(test.entries[:7]):
        image = source.image(i)
        Image.fromarray(image[: len(image) - 3 * n]).save(folder / f"{n}.png")
    (folder / BAD).write_bytes(b"\xff\xd8\xff broken")
    return folder


@pytest.fixture(scope="module")
def listing(folder):
    """List of the eight files: relative paths, blank lines, line ends of Windows."""
    names = [f"{n}.png" for n in range(3)] + [BAD] + [f"{n}.png" for n in range(3, 7)]
    lines = [str(folder / name) for name in names]
    path = folder.parent / "paths.txt"
    path.write_bytes(("\n".join(lines[:4]) + "\n\n  \n" + "\r\n".join(lines[4:])).encode())
    return path


SETTINGS = shards.Settings(part_size=3, batch_size=2, threads=2)


def _predict(model, listing, out, shard=(0, 1), settings=SETTINGS):
    return shards.predict(
        model, path_lists.read_listing(listing, settings.part_size), out, shard, settings
    )


def _files(out):
    return {p.name: p.read_bytes() for p in (out / "parts").iterdir()}


def _rows(out):
    return [r for p in sorted((out / "parts").iterdir()) for r in pq.read_table(p).to_pylist()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, model, listing):
    """The results of one process that nothing happened to."""
    out = tmp_path_factory.mktemp("whole")
    summary = _predict(model, listing, out)
    assert summary == shards.Summary(8, 3, 0, 1, out / "bad_files.csv")
    return out


def test_rows_are_what_the_model_says(model, folder, listing, whole):
    rows = _rows(whole)
    assert [row["index"] for row in rows] == list(range(8))
    assert [len(pq.read_table(p)) for p in sorted((whole / "parts").iterdir())] == [3, 3, 2]
    assert [os.path.basename(row["file"]) for row in rows] == [
        "0.png", "1.png", "2.png", BAD, "3.png", "4.png", "5.png", "6.png",
    ]  # fmt: skip
    for row in rows:
        if row["file"].endswith(BAD):
            assert "damaged" in row["error"] or "not an image" in row["error"]
            assert row["mask_png"] is None and row["nucleus_px"] is None
            continue
        image = wbc_jax.read_image(row["file"])
        turn = orientation.find(image)
        seen = orientation.place(light.standardize(image), turn)
        found = model.with_middle_cell(True).predict(seen)
        mask = np.asarray(Image.open(io.BytesIO(row["mask_png"])))
        assert (row["height"], row["width"]) == mask.shape == image.shape[:2]
        np.testing.assert_array_equal(mask, orientation.replace(found.mask, turn))
        assert (mask == 2).any()
        assert row["nucleus_px"] == (mask == 2).sum()
        assert row["cytoplasm_px"] == (mask == 1).sum()
        assert row["nc_ratio"] == pytest.approx((mask == 2).sum() / (mask == 1).sum())
        assert row["nucleus_share"] == pytest.approx((mask == 2).sum() / (mask > 0).sum())
        assert (row["error"], row["flag"], row["type"]) == (None, "", None)
    with open(whole / "bad_files.csv", newline="") as file:
        (bad,) = csv.DictReader(file)
    assert bad == {"file": str(folder / BAD), "reason": rows[3]["error"]}


def test_two_processes_write_what_one_does(model, listing, whole, tmp_path):
    one = _predict(model, listing, tmp_path, (1, 2))
    assert (one.images, one.shards, one.bad) == (3, 1, 1)
    assert _files(tmp_path).keys() == {"part-000001.parquet"}
    other = _predict(model, listing, tmp_path, (0, 2))
    assert (other.images, other.shards, other.bad, other.bad_files) == (5, 2, 0, None)
    assert _files(tmp_path) == _files(whole)
    assert (tmp_path / "manifest.json").read_bytes() == (whole / "manifest.json").read_bytes()
    assert (tmp_path / "bad_files-1-of-2.csv").read_bytes() == (
        whole / "bad_files.csv"
    ).read_bytes()
    assert not (tmp_path / "bad_files-0-of-2.csv").exists()
    # More processes than parts: some have nothing to do.
    assert _predict(model, listing, tmp_path, (4, 5)).images == 0


def test_parts_that_exist_are_not_computed_again(model, listing, whole, tmp_path, monkeypatch):
    first = _predict(model, listing, tmp_path)
    assert first.skipped == 0
    (tmp_path / "parts" / "part-000001.parquet").unlink()
    # What a process killed while it wrote this part has left:
    (tmp_path / "parts" / ".part-000001.parquet.7-abc.tmp").write_bytes(b"half")
    computed = []
    start = inference.Model.start
    monkeypatch.setattr(
        inference.Model, "start", lambda self, x: computed.append(len(x)) or start(self, x)
    )
    again = _predict(model, listing, tmp_path)
    assert (again.skipped, again.shards, again.bad) == (2, 3, 1)
    assert computed == [1, 1]  # three files by two and one, the first of them bad
    assert _files(tmp_path) == _files(whole)


def test_bad_files_can_be_tried_again(model, folder, listing, tmp_path):
    _predict(model, listing, tmp_path)
    before = _files(tmp_path)
    broken = (folder / BAD).read_bytes()
    Image.fromarray(np.full((40, 30, 3), 200, np.uint8)).save(folder / BAD)
    try:
        assert _predict(model, listing, tmp_path).bad == 1
        retry = shards.Settings(part_size=3, batch_size=2, retry_bad=True)
        summary = _predict(model, listing, tmp_path, settings=retry)
    finally:
        (folder / BAD).write_bytes(broken)
    assert (summary.skipped, summary.bad) == (2, 0)
    assert not (tmp_path / "bad_files.csv").exists()
    after = _files(tmp_path)
    assert [name for name in after if after[name] != before[name]] == ["part-000001.parquet"]
    assert _rows(tmp_path)[3]["width"] == 30 and _rows(tmp_path)[3]["error"] is None


def test_results_of_something_else_are_refused(model, typed_run, listing, whole, tmp_path):
    shorter = tmp_path / "shorter.txt"
    shorter.write_bytes(listing.read_bytes().rpartition(b"\n")[0])
    there = _files(whole)
    with pytest.raises(ShardsError, match=r"list\.paths: 8 there, 7 here\n  list\.sha256"):
        _predict(model, shorter, whole)
    reordered = tmp_path / "reordered.txt"
    reordered.write_text("\n".join(reversed(listing.read_text().split())))
    with pytest.raises(ShardsError, match=r"something else:\n  list\.sha256: .* there"):
        _predict(model, reordered, whole)
    # Another batch size changes no row.
    bare = shards.Settings(part_size=3, batch_size=4, masks=False)
    with pytest.raises(ShardsError) as caught:
        _predict(model, listing, whole, settings=bare)
    assert str(caught.value) == (
        f"{whole} holds results of something else:\n  masks: True there, False here\n"
        "Name another --out, or delete this one to start over."
    )
    with pytest.raises(ShardsError, match=r"model\.weights_sha256: .*\n.*model\.step: \d+"):
        _predict(wbc_jax.load(typed_run.workdir), listing, whole)
    assert _files(whole) == there


def test_a_manifest_that_is_missing_or_damaged(model, listing, tmp_path):
    _predict(model, listing, tmp_path)
    (tmp_path / "manifest.json").write_text('{"model.step": ')
    with pytest.raises(ShardsError, match=r"manifest\.json is damaged"):
        _predict(model, listing, tmp_path)
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(ShardsError, match=r"holds parts, but .*manifest\.json is missing"):
        _predict(model, listing, tmp_path)


def test_a_damaged_part_is_named(model, listing, tmp_path):
    _predict(model, listing, tmp_path)
    part = tmp_path / "parts" / "part-000001.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    with pytest.raises(ShardsError) as caught:
        _predict(model, listing, tmp_path)
    assert str(caught.value).startswith(f"{part} is damaged (")
    assert str(caught.value).endswith("; delete it and run the same command again.")


def test_a_classifier(typed_run, listing, tmp_path):
    typed = wbc_jax.load(typed_run.workdir)
    _predict(typed, listing, tmp_path)
    row = _rows(tmp_path)[0]
    image = wbc_jax.read_image(row["file"])
    found = typed.predict(orientation.place(image, orientation.find(image)))
    assert row["type"] == found.type in CELL_TYPES
    np.testing.assert_array_equal(np.float32(row["probabilities"]), found.probabilities)
    assert row["probability"] == pytest.approx(max(row["probabilities"]))
    assert (row["mask_png"], row["nc_ratio"], row["flag"]) == (None, None, None)


def test_both_models(model, typed_run, folder, listing, whole, tmp_path):
    """Masks are the segmenter's alone; types and reviews are those of `analyze`."""
    typed = wbc_jax.load(typed_run.workdir)
    rule = abstention.Rule(2.0, 0.3, -1.7, 0.5, 10)
    read = path_lists.read_listing(listing, 3)
    typing = shard_rows.Typing(typed, rule)
    shards.predict(model, read, tmp_path, (0, 1), SETTINGS, contrast.judge, typing)
    rows = _rows(tmp_path)
    models = fields.Models(model.with_middle_cell(False), typed, rule)
    reviews = set()
    for row, alone in zip(rows, _rows(whole)):
        assert [row[k] for k in ("file", "nc_ratio")] == [alone[k] for k in ("file", "nc_ratio")]
        assert row["mask_png"] == alone["mask_png"]
        if row["error"]:
            assert row["type"] is None and row["review"] is None
            continue
        (cell,) = fields.analyze(wbc_jax.read_image(row["file"]), models, "no").cells
        assert (row["type"], row["review"]) == (cell.best_guess, cell.review)
        assert row["calibrated"] == pytest.approx(cell.probability, abs=1e-12)
        reviews.add(row["review"])
    there = json.loads((tmp_path / "manifest.json").read_text())
    assert there["classifier.task"] == "classification" and there["model.task"] == "segmentation"
    # Another rule, and none, are something else.
    for other in (abstention.Rule(3.0, 0.3, -1.7, 0.5, 10), None):
        with pytest.raises(ShardsError, match="rule_sha256: "):
            shards.predict(
                model, read, tmp_path, (0, 1), SETTINGS, typing=shard_rows.Typing(typed, other)
            )


def test_without_masks(model, listing, whole, tmp_path):
    _predict(model, listing, tmp_path, settings=shards.Settings(3, 2, masks=False))
    ours, theirs = _rows(tmp_path), _rows(whole)
    assert all(row.pop("mask_png") is None for row in ours)
    for row in theirs:
        row.pop("mask_png")
    assert ours == theirs


def test_few_images_are_in_memory(model, folder, tmp_path):
    """Ten times the files, the same peak: what is read ahead is bounded."""
    big = tmp_path / "big.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)).save(big)
    peaks = []
    # Stopped once only: other threads that allocate meanwhile can crash CPython (gh-128679).
    tracemalloc.start()
    for count in (12, 120):
        path = tmp_path / f"{count}.txt"
        path.write_text(f"{big}\n" * count)
        settings = shards.Settings(part_size=6, batch_size=2, threads=2, masks=False)
        tracemalloc.reset_peak()
        _predict(model, path, tmp_path / str(count), settings=settings)
        peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert peaks[0] > 480_000  # at least one image is seen by the measurement
    assert peaks[1] < 1.5 * peaks[0] + 500_000 and peaks[1] < 60 * 480_000


@pytest.mark.parametrize(
    "text, environment, shard",
    [
        ("", {}, (0, 1)),
        ("2/3", {"WBC_JAX_PROCESS_ID": "1", "WBC_JAX_NUM_PROCESSES": "2"}, (2, 3)),
        (
            "",
            {
                "WBC_JAX_PROCESS_ID": "1",
                "WBC_JAX_NUM_PROCESSES": "2",
                "SLURM_PROCID": "5",
                "SLURM_STEP_NUM_TASKS": "8",
            },
            (1, 2),
        ),
        ("", {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_NTASKS": "99"}, (5, 8)),
    ],
)
def test_the_place_among_processes(text, environment, shard):
    assert shards.find_shard(text, environment) == shard


@pytest.mark.parametrize(
    "text, environment, said",
    [
        ("4/4", {}, "--shard is '4/4'; it must be I/N"),
        ("-1/4", {}, "--shard is '-1/4'"),
        ("2", {}, "--shard is '2'"),
        ("", {"WBC_JAX_PROCESS_ID": "1"}, "WBC_JAX_PROCESS_ID/WBC_JAX_NUM_PROCESSES is '1/'"),
    ],
)
def test_a_wrong_place(text, environment, said):
    with pytest.raises(ShardsError) as caught:
        shards.find_shard(text, environment)
    assert str(caught.value).startswith(said)


def test_settings_and_lists_that_cannot_be_used(model, listing, tmp_path):
    with pytest.raises(ShardsError, match=r"--part_size is 0; it must be at least 1"):
        shards.Settings(part_size=0)
    # The list shrinks while parts are made of it.
    changing = tmp_path / "changing.txt"
    changing.write_bytes(listing.read_bytes())
    read = path_lists.read_listing(changing, 3)
    changing.write_bytes(b"\n" * 5000)
    with pytest.raises(ShardsError, match="has changed meanwhile"):
        shards.predict(model, read, tmp_path / "out", settings=SETTINGS)


def test_bad_files_of_any_name_are_listed(model, tmp_path):
    names = ["b\udce9.png", "é.png", "a\nb.png", "=1+2.png"]
    path_lists.write_listing(names, tmp_path / "list.txt")
    _predict(model, tmp_path / "list.txt", tmp_path / "out")
    text = (tmp_path / "out" / "bad_files.csv").read_bytes().decode("utf-8")
    read = [row["file"] for row in csv.DictReader(io.StringIO(text, newline=""))]
    assert read == ["b\ufffd.png", "é.png", "a\nb.png", "'=1+2.png"]
    assert [row["file"] for row in _rows(tmp_path / "out")][2:] == ["a\nb.png", "=1+2.png"]


@pytest.mark.parametrize("size", [1, 3, 8])
def test_rows_do_not_depend_on_the_batch_size(model, listing, whole, tmp_path, size):
    _predict(model, listing, tmp_path, settings=shards.Settings(3, size, threads=1))
    assert _files(tmp_path) == _files(whole)


def test_devices_share_a_batch(run, folder, tmp_path):
    """Two simulated devices give the bits of one, also for an odd number of images."""
    code = (
        "import sys, json, jax, wbc_jax; from wbc_jax.inference import path_lists, shards\n"
        "import numpy as np\n"
        "model = wbc_jax.load(sys.argv[1]); x = np.arange(3 * 32 * 32 * 3) * 7 % 256\n"
        "x = x.astype(np.uint8).reshape(3, 32, 32, 3); one = model.logits(x)\n"
        "n = model.spread(); two = model.logits(x)\n"
        "used = len(jax.tree.leaves(model.weights)[0].sharding.device_set)\n"
        "print(json.dumps([n, used, int((two != one).sum()), len(np.unique(one))]))\n"
        "listing = path_lists.read_listing(sys.argv[2], 3)\n"
        "shards.predict(model, listing, sys.argv[3], settings=shards.Settings(3, 3))\n"
    )
    (tmp_path / "list.txt").write_text(str(folder / "0.png"))
    done = subprocess.run(
        [sys.executable, "-c", code, run.workdir, tmp_path / "list.txt", tmp_path / "out"],
        env=tiny_runs.environment() | tiny_runs.devices(2),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    n, used, differing, values = json.loads(done.stdout.splitlines()[0])
    assert (n, used, differing) == (2, 2, 0) and values > 1000
    assert len(_rows(tmp_path / "out")) == 1


def test_killed_and_run_again(run, folder, tmp_path):
    """SIGKILL with parts done and parts to do; the second run ends with the same bytes."""
    listed, late = tmp_path / "many.txt", tmp_path / "late.png"
    names = [str(folder / f"{n}.png") for n in range(7)] + [str(folder / BAD)]
    names *= 50
    names[320] = str(late)
    listed.write_text("\n".join(names))
    os.mkfifo(late)  # reading which waits, so that the kill never comes too late
    out, calm = tmp_path / "out", tmp_path / "calm"
    flags = (
        f"--paths={listed}", f"--out={out}", f"--model={run.workdir}", "--part_size=8",
        "--batch_size=4", "--threads=2",
    )  # fmt: skip
    running = subprocess.Popen(
        [sys.executable, "-m", "wbc_jax.predict", *flags],
        env=tiny_runs.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        tiny_runs.wait_until(lambda: len(list(out.glob("parts/part-*"))) >= 2, [running], 0.002)
    finally:
        running.kill()
        assert running.wait() == -signal.SIGKILL
    late.unlink()
    shutil.copy(folder / "0.png", late)
    killed = _files(out)
    there = [name for name in killed if name.startswith("part-")]
    assert 2 <= len(there) < 50
    again = tiny_runs.command("wbc_jax.predict", *flags, cwd=tmp_path)
    assert again.returncode == cli.BAD_SHARDS, again.stderr
    assert f"350 images predicted, in 50 parts, {len(there)} of them there before" in again.stdout
    assert "images/s" in again.stderr and "left" in again.stderr
    assert again.stderr.endswith(
        f"error: 50 of 400 files could not be predicted; they are listed in "
        f"{out / 'bad_files.csv'}\n"
    )
    after = _files(out)
    assert {name: after[name] for name in there} == {name: killed[name] for name in there}
    _predict_calmly(run, listed, calm)
    assert {n: d for n, d in after.items() if not n.startswith(".")} == _files(calm)
    assert not list(out.glob("parts/.*"))
    assert len(files_lines(out / "bad_files.csv")) == 51


def _predict_calmly(run, listed, out):
    settings = shards.Settings(8, 4, threads=2)
    assert _predict(wbc_jax.load(run.workdir), listed, out, settings=settings).bad == 50


def files_lines(path):
    return path.read_text().splitlines()


def test_a_folder_as_parquet(run, folder, tmp_path):
    done = tiny_runs.command(
        "wbc_jax.predict", folder, "--format=parquet", "--out=out", f"--model={run.workdir}",
        "--shard=0/1", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == cli.BAD_SHARDS
    assert "Traceback" not in done.stderr
    assert done.stdout == "7 images predicted, in 1 parts: out/parts\n"
    names = [row["file"] for row in _rows(tmp_path / "out")]
    assert names == [str(folder / n) for n in sorted(os.listdir(folder))]


@pytest.mark.parametrize(
    "flags, said",
    [
        (("a.png", "--paths=l.txt"), "both --paths=l.txt and 'a.png' are given"),
        (("a.png", "--format=csv", "--shard=0/2"), "--format is csv, but --paths and --shard"),
        (("--paths=l.txt",), "the list l.txt cannot be read"),
        (("--paths=l.txt", "--shard=2/2"), "--shard is '2/2'"),
        (("--paths=l.txt", "--batch_size=0"), "--batch_size is 0"),
    ],
)
def test_flags_that_do_not_go_together(flags, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        predict.main([*flags, "--out=o", "--model=m"])
    assert str(caught.value).startswith(f"error: {said}")
    assert os.listdir(tmp_path) == []


def test_several_processes_and_one_table(tmp_path, monkeypatch):
    monkeypatch.setenv("WBC_JAX_PROCESS_ID", "1")
    monkeypatch.setenv("WBC_JAX_NUM_PROCESSES", "2")
    with pytest.raises(SystemExit, match=r"share one cells\.csv; add --format=parquet"):
        predict.main(["a.png", f"--out={tmp_path}/o", "--model=m"])


def test_sweep_leaves_what_others_write(tmp_path):
    atomic.write_bytes(tmp_path / "a.bin", b"whole")
    (tmp_path / ".a.bin.1-x.tmp").write_bytes(b"")
    (tmp_path / ".b.bin.1-x.tmp").write_bytes(b"")
    atomic.remove_stale_temporaries(tmp_path / "a.bin")
    assert sorted(os.listdir(tmp_path)) == [".b.bin.1-x.tmp", "a.bin"]


def test_an_image_that_shows_no_cell_has_none(model, typed_run, tmp_path):
    """A network that has seen only cells finds one in a plain picture, too."""
    Image.fromarray(np.full((60, 50, 3), (230, 220, 120), np.uint8)).save(tmp_path / "plain.png")
    (tmp_path / "list.txt").write_text(f"{tmp_path / 'plain.png'}\n")
    listing = path_lists.read_listing(tmp_path / "list.txt", SETTINGS.part_size)
    for name, one in (("masks", model), ("types", wbc_jax.load(typed_run.workdir))):
        shards.predict(one, listing, tmp_path / name, settings=SETTINGS, judge=contrast.judge)
        (row,) = _rows(tmp_path / name)
        assert (row["flag"], row["type"], row["probabilities"]) == ("no_cell", None, None)
        if name == "masks":
            assert (row["nucleus_px"], row["cytoplasm_px"]) == (0, 0) and np.isnan(row["nc_ratio"])
            mask = np.asarray(Image.open(io.BytesIO(row["mask_png"])))
            assert mask.shape == (60, 50) and not mask.any()
