"""The log of corrections: nothing is lost by crashes, threads and other processes."""

import dataclasses
import json
import multiprocessing
import os
import threading

import pytest

from wbc_jax.corrections import log
from wbc_jax.errors import InputError


def statement(after="monocyte", **others):
    given = {
        "act": "a", "reviewer": "Anna", "source": "page", "file": "in/ä\udcff.png", "cell": 2,
        "box": (1, 2, 30, 40), "predicted": "for review", "what": log.TYPE, "before": None,
        "after": after,
    }  # fmt: skip
    return log.Statement(**given | others)


def lines(folder):
    return (folder / "corrections" / "log.jsonl").read_bytes().splitlines()


def test_a_line_has_all_that_was_said_and_comes_back(tmp_path):
    saved = {
        "png": "x.png", "sha256": "0", "window": [0, 0, 9, 9], "nucleus_px": 3, "cytoplasm_px": 5,
    }  # fmt: skip
    first, second = statement(), statement(saved, what=log.MASK, undoes="b")
    found = log.Log(tmp_path)
    found.append([first, second])
    assert found.read_new() == [first, second] and found.read_new() == []
    line = json.loads(lines(tmp_path)[0])
    assert line == dataclasses.asdict(first) | {"box": [1, 2, 30, 40]}
    assert line["time"].endswith("Z") and len(line["time"]) == len("2026-11-30T14:02:03.123Z")
    again = log.Log(tmp_path)
    again.append([statement("basophil")])
    assert [one.after for one in found.read_new()] == ["basophil"]
    assert len(again.read_new()) == 3 and found.problems == []


@pytest.mark.parametrize("missing", [1, 2, 40, 200])
def test_a_torn_line_is_kept_aside_and_reported(tmp_path, missing):
    log.Log(tmp_path).append([statement(), statement("basophil")])
    path = tmp_path / "corrections" / "log.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-missing])
    found = log.Log(tmp_path)
    assert [one.after for one in found.read_new()] == ["monocyte"]
    found.append([statement("neutrophil")])
    after = [one.after for one in found.read_new()]
    if missing == 1:  # only its end is lacking: it counts
        assert after == ["basophil", "neutrophil"] and found.problems == []
        return
    assert after == ["neutrophil"]
    torn = whole[whole.index(b"\n") + 1 : -missing]
    assert (tmp_path / "corrections" / "torn.txt").read_bytes() == torn + b"\n"
    (problem,) = found.problems
    assert f"an incomplete line of {len(torn)} bytes" in problem and "torn.txt" in problem
    assert (
        lines(tmp_path)[0] + b"\n" == whole[: whole.index(b"\n") + 1] and len(lines(tmp_path)) == 2
    )


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (b"\0" * 50, "no JSON"),
        (b"\xff{}", "no JSON"),
        (b"[1]", "no JSON object"),
        (b"{}", "id is None"),
        (("cell", "2"), "cell is '2'"),
        (("cell", True), "cell is True"),
        (("box", [1, 2, 3]), "box is [1, 2, 3]"),
        (("what", "size"), "what is 'size'"),
        (("after", {"png": "x"}), "after is {'png': 'x'}"),
        (("what", "mask"), "after is 'monocyte'"),
    ],
)
def test_a_damaged_line_stays_and_the_others_count(tmp_path, damage, reason):
    if isinstance(damage, tuple):
        name, value = damage
        damage = json.dumps(json.loads(log.encode(statement())) | {name: value}).encode()
    log.Log(tmp_path).append([statement()])
    path = tmp_path / "corrections" / "log.jsonl"
    path.write_bytes(path.read_bytes() + damage + b"\n")
    found = log.Log(tmp_path)
    found.append([statement("basophil")])
    assert [one.after for one in found.read_new()] == ["monocyte", "basophil"]
    (problem,) = found.problems
    assert f"line 2 is damaged ({reason}" in problem
    assert lines(tmp_path)[1] == damage


def test_a_log_that_shrinks_or_goes_is_noticed(tmp_path):
    found = log.Log(tmp_path)
    found.append([statement()])
    found.read_new()
    path = tmp_path / "corrections" / "log.jsonl"
    os.truncate(path, 10)
    with pytest.raises(InputError, match=r"has 10 bytes, but .* were read before"):
        found.read_new()
    path.unlink()
    with pytest.raises(InputError, match="is gone since it was read"):
        found.read_new()


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path, monkeypatch):
    found = log.Log(tmp_path)
    found.append([statement()])
    before = lines(tmp_path)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        found.append([statement("basophil")])
    monkeypatch.undo()
    assert lines(tmp_path) == before
    found.append([statement("neutrophil")])
    assert [one.after for one in found.read_new()] == ["monocyte", "neutrophil"]


def _append(folder, name):
    found = log.Log(folder)
    for n in range(15):
        found.append([statement(f"{name} {n} {i}") for i in range(2)])


def test_processes_and_threads_lose_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=_append, args=(tmp_path, f"p{i}")) for i in range(2)]
    others += [threading.Thread(target=_append, args=(tmp_path, f"t{i}")) for i in range(2)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    found = log.Log(tmp_path)
    said = [one.after for one in found.read_new()]
    assert found.problems == [] and len(said) == 4 * 15 * 2
    for name in ("p0", "p1", "t0", "t1"):
        own = [text for text in said if text.startswith(name)]
        assert own == [f"{name} {n} {i}" for n in range(15) for i in range(2)]
    # What is said together stays together.
    assert all(one[:-1] == other[:-1] for one, other in zip(said[::2], said[1::2]))


def test_a_lock_that_another_holds_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(log, "WAIT_SECONDS", 0.2)
    one, other = log.Log(tmp_path), log.Log(tmp_path)
    refused = []

    def write():
        try:
            other.append([statement()])
        except InputError as error:
            refused.append(str(error))

    with one.locked():
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    assert len(refused) == 1 and "has been locked by another process" in refused[0]
    other.append([statement()])
    assert len(lines(tmp_path)) == 1
