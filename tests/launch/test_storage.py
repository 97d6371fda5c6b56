"""Runs, records and predictions in an object store: real clients, and an emulated server."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from etils import epath

from helpers import tiny_runs
from wbc_jax import experiment
from wbc_jax.data import pipeline
from wbc_jax.data.images import encode_png
from wbc_jax.errors import DataError
from wbc_jax.inference import path_lists, shards
from wbc_jax.utils import atomic

pytest.importorskip("gcsfs")
pytest.importorskip("gcp_storage_emulator")
BUCKET = pathlib.Path(__file__).parents[1] / "helpers" / "bucket.py"
VARYING = ("images_per_second", "seconds", "train_seconds")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """Starts the emulator; returns the environment variables that make `gs://cells` available."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("bucket") / "log"
    with log.open("w") as out:
        server = subprocess.Popen([sys.executable, BUCKET, str(port)], stdout=out, stderr=out)
    where = f"http://127.0.0.1:{port}"
    added = {
        "STORAGE_EMULATOR_HOST": where,
        "TENSORSTORE_GCS_HTTP_URL": where,
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # gcsfs would ask Google for the type
    }
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{where}/storage/v1/b/cells", timeout=5).close()
            break
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    yield added
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
    server.terminate()
    server.wait()


def _main(folder, cache):
    return tiny_runs.command(
        "wbc_jax.main", "--config=tiny.py", "--workdir=gs://cells/run",
        "--config.data.data_dir=gs://cells/records", cwd=folder, XDG_CACHE_HOME=str(cache),
    )  # fmt: skip


def _lines(path):
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in VARYING} for line in lines]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data_dir):
    folder = tmp_path_factory.mktemp("storage")
    tiny_runs.config_file(tiny_runs.least(data_dir, train__steps=4), folder / "tiny.py")
    return folder


@pytest.fixture(scope="module")
def done(bucket, folder):
    """A run that is entirely in the bucket."""
    done = _main(folder, folder / "cache")
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def local(folder, data_dir):
    """The same run on disk."""
    workdir = folder / "local"
    experiment.run(tiny_runs.least(data_dir, train__steps=4), epath.Path(workdir))
    return workdir


def test_a_run_in_a_bucket_is_that_on_disk(done, folder, local):
    there = epath.Path("gs://cells/run")
    assert "Report: gs://cells/run/report/index.html" in done.stdout
    wanted = json.loads((local / "config.json").read_text())
    wanted["data"]["data_dir"] = "gs://cells/records"
    assert json.loads((there / "config.json").read_text()) == wanted
    lines = _lines(there / "metrics.jsonl")
    assert len(lines) == 8 and lines == _lines(local / "metrics.jsonl")
    for name in ("report/per_image.csv", "splits.json"):
        assert (there / name).read_bytes() == (local / name).read_bytes()
    scores = json.loads((there / "report/metrics.json").read_text())["results"]
    assert scores == json.loads((local / "report/metrics.json").read_text())["results"]
    assert "<html" in (there / "report/index.html").read_text()
    (events,) = (there / "tensorboard").iterdir()
    (same,) = (local / "tensorboard").iterdir()
    assert len(events.read_bytes()) > 0.9 * len(same.read_bytes()) > 0
    assert not list(folder.glob("gs:*"))  # no local folder of that name


def test_records_are_copied_once_and_whole(done, folder, data_dir):
    records_there = epath.Path("gs://cells/records/wbc_synthetic/small")
    (version,) = records_there.iterdir()
    here = data_dir / "wbc_synthetic" / "small" / version.name
    names = {p.name for p in here.iterdir() if not p.name.startswith(".")}
    assert {p.name for p in version.iterdir()} == names | {"wbc_jax_complete"}
    (shard,) = here.glob("*.array_record*")
    assert (version / shard.name).read_bytes() == shard.read_bytes()
    assert "copying records to gs://cells/records" in done.stdout


def test_going_on_from_a_bucket_elsewhere(done, folder, local):
    """Another machine with an empty cache continues; the newest checkpoint is gone."""
    workdir = epath.Path("gs://cells/run")
    (workdir / "checkpoints" / "last" / "4").rmtree()
    again = _main(folder, folder / "other_cache")
    assert again.returncode == 0, again.stderr
    assert "copying records from gs://cells/records" in again.stdout
    assert "writing records" not in again.stdout
    assert "Going on from step 3 of 4" in again.stdout
    assert _lines(workdir / "metrics.jsonl") == _lines(local / "metrics.jsonl")


def test_half_copied_records_are_not_used(bucket, data_dir, tmp_path, monkeypatch):
    from wbc_jax.data import preparing, sources

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data = tiny_runs.config(data_dir).data
    data.data_dir = "gs://cells/half"
    name = os.path.relpath(sources.builder(tiny_runs.DATASET, data).data_dir, tmp_path)
    assert name.startswith("wbc_jax/copies/gs_cells_half-")
    place = "wbc_synthetic/small/" + os.path.basename(name)
    epath.Path(f"gs://cells/half/{place}/dataset_info.json").write_text("{}")
    assert not preparing.is_prepared(tiny_runs.DATASET, data)
    with pytest.raises(DataError, match="no records in"):
        sources.load(tiny_runs.DATASET, data)
    preparing.prepare(tiny_runs.DATASET, data)
    info = json.loads(epath.Path(f"gs://cells/half/{place}/dataset_info.json").read_text())
    assert info["name"] == "wbc_synthetic"
    assert preparing.is_prepared(tiny_runs.DATASET, data)


def test_predictions_in_a_bucket(bucket, run, model, tmp_path):
    test = pipeline.load_splits(run.config.data, tiny_runs.SIZE)["test"]
    names = []
    for n, (source, i) in enumerate(test.entries[:3]):
        names.append(f"gs://cells/images/{n}.png")
        epath.Path(names[-1]).write_bytes(encode_png(source.image(i)))
    names.append("gs://cells/images/none.png")
    listed = epath.Path("gs://cells/list.txt")
    listed.write_text("\n".join(names))
    settings = shards.Settings(part_size=2, batch_size=2, threads=2)
    listing = path_lists.read_listing(listed, 2)
    out = epath.Path("gs://cells/predicted")
    summaries = [shards.predict(model, listing, out, (i, 2), settings) for i in range(2)]
    assert [(s.images, s.bad) for s in summaries] == [(2, 0), (2, 1)]
    shards.predict(model, listing, tmp_path, settings=settings)
    for path in (tmp_path / "parts").iterdir():
        assert (out / "parts" / path.name).read_bytes() == path.read_bytes()
    assert len(list((out / "parts").iterdir())) == 2
    bad = (out / "bad_files-1-of-2.csv").read_text()
    assert bad.splitlines()[1].startswith("gs://cells/images/none.png,")
    assert shards.predict(model, listing, out, settings=settings).skipped == 2


def test_what_fails_while_it_is_written_is_not_uploaded(bucket):
    path = epath.Path("gs://cells/whole/a.txt")
    with pytest.raises(KeyError), atomic.atomic_write(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert not path.exists()
    atomic.write_text(path, "all")
    assert path.read_text() == "all" and len(list(path.parent.iterdir())) == 1
