"""The log has each step once, even after an interruption."""

import glob

from etils import epath
from tensorboardX.proto import event_pb2

from wbc_jax.training import metric_writer


def _write(workdir, steps, start=0):
    writer = metric_writer.MetricWriter(epath.Path(workdir), start)
    for step in steps:
        writer.write("train", step, {"loss": 1 / step})
    writer.close()


def test_lines_as_written(tmp_path):
    writer = metric_writer.MetricWriter(epath.Path(tmp_path))
    writer.write("train", 5, {"loss": 0.1, "note": "ü"})
    writer.write("validation", 5, {"score": float("nan")})
    # A line can be read as soon as it is written, before the writer is closed.
    assert metric_writer.read(tmp_path) == [
        {"kind": "train", "step": 5, "loss": 0.1, "note": "ü"},
        {"kind": "validation", "step": 5, "score": None},
    ]
    writer.close()


def test_nothing_there(tmp_path):
    assert metric_writer.read(tmp_path) == []


def test_resuming_drops_later_lines_and_an_unfinished_one(tmp_path):
    _write(tmp_path, (2, 4, 6, 8))
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"kind": "train", "ste')
    assert [line["step"] for line in metric_writer.read(tmp_path)] == [2, 4, 6, 8]
    _write(tmp_path, (6, 8, 10), start=5)
    whole = path.read_text()
    assert [line["step"] for line in metric_writer.read(tmp_path)] == [2, 4, 6, 8, 10]
    other = tmp_path / "other"
    other.mkdir()
    _write(other, (2, 4, 6, 8, 10))
    assert (other / "metrics.jsonl").read_text() == whole


def test_starting_over_empties_the_log(tmp_path):
    _write(tmp_path, (2, 4))
    _write(tmp_path, (3,))
    assert [line["step"] for line in metric_writer.read(tmp_path)] == [3]


def _events(folder):
    for path in sorted(glob.glob(str(folder / "events.*"))):
        with open(path, "rb") as file:
            data = file.read()
        while data:
            # TFRecord: length (8), its checksum (4), the event, its checksum (4).
            length = int.from_bytes(data[:8], "little")
            yield event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]


def test_tensorboard_has_the_same_numbers(tmp_path):
    writer = metric_writer.MetricWriter(epath.Path(tmp_path))
    writer.write("train", 7, {"loss": 0.25, "note": "text"})
    writer.write("validation", 9, {"score": 0.5})
    writer.close()
    found = [
        (event.step, value.tag, value.simple_value)
        for event in _events(tmp_path / "tensorboard")
        for value in event.summary.value
    ]
    assert found == [(7, "train/loss", 0.25), (9, "validation/score", 0.5)]
