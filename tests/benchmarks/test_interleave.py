"""benchmarks/interleave.py: rounds of processes, ratios and the table, against values by hand."""

import multiprocessing
import time

import pytest

pytest.importorskip("torch", reason="PyTorch is the reference: pip install torch")

import cases
import interleave
import references

CASE = cases.Case("unet", 8, 64, 4)


def _side(seconds, processor):
    return {
        "seconds": seconds,
        "processor_seconds": processor,
        "peak_bytes": 3 * 2**20,
        "flops": 2 * 10**9,
    }


def test_a_row_compares_with_the_faster_reference():
    found = {
        "ours": _side([1.0, 3.0, 2.0], [2.0, 2.0, 2.0]),
        "PyTorch": _side([4.0, 4.0, 4.0], [1.0, 1.0, 1.0]),
        "PyTorch compiled": _side([2.0, 2.0, 5.0], [4.0, 1.0, 2.0]),
    }
    row = interleave.row(CASE, found, 8)
    assert row["reference"] == "PyTorch compiled"
    assert row["seconds"] == {"ours": 2.0, "PyTorch": 4.0, "PyTorch compiled": 2.0}
    assert row["ratio"] == 0.5  # of 1/2, 3/2 and 2/5
    assert row["processor_ratio"] == 1.0  # of 1/2, 2 and 1
    assert row["images_a_second"] == {"ours": 4.0, "PyTorch": 2.0, "PyTorch compiled": 4.0}
    assert row["gflops"] == 2.0
    kinds = ["PyTorch", "PyTorch compiled"]
    line, head = interleave.line(row, kinds), interleave.header(kinds)
    assert line.split() == [
        "unet", "8,", "4", "×", "64²", "2000.0ms", "4000.0ms", "2000.0ms", "0.50", "1.00",
        "3", "/", "3", "/", "3",
    ]  # fmt: skip
    assert head.split() == ["ours", "PyTorch", "compiled", "ratio", "CPU", "time", "peak", "MiB"]
    # Each number ends where its column's name does.
    for name, value in (("compiled", "2000.0ms"), ("ratio", "0.50"), ("CPU time", "1.00")):
        assert line.rindex(value) + len(value) == head.index(name) + len(name)


def test_a_row_without_the_compiler():
    found = {"ours": _side([1.0], [1.0]), "PyTorch": _side([2.0], [4.0])}
    row = interleave.row(CASE, found, 8)
    assert (row["reference"], row["ratio"], row["processor_ratio"]) == ("PyTorch", 0.5, 0.25)
    assert interleave.line(row, ["PyTorch", "PyTorch compiled"]).split()[7] == "–"


def test_without_a_compiler_pytorch_is_not_compiled(monkeypatch, capsys):
    monkeypatch.setattr(references.torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert references.kinds() == ["PyTorch"]
    assert capsys.readouterr().err == "note: no no-such-compiler: PyTorch is not compiled\n"
    monkeypatch.setenv("CXX", "sh")
    assert references.kinds() == ["PyTorch", "PyTorch compiled"]


def make(works):
    """Makes a side that sleeps for a fifth of a second, or none at all."""
    if not works:
        raise SystemExit(1)
    return cases.Side(lambda: time.sleep(0.2), lambda: 5, 7)


def test_rounds_in_processes_of_their_own(capsys):
    found = interleave.rounds({"ours": (make, (True,)), "other": (make, (False,))}, 2)
    assert list(found) == ["ours"]
    assert "note: other failed, and is left out" in capsys.readouterr().err
    side = found["ours"]
    assert (side["peak_bytes"], side["flops"]) == (5, 7)
    assert len(side["seconds"]) == 2 and min(side["seconds"]) >= 0.2
    assert len(side["processor_seconds"]) == 2 and max(side["processor_seconds"]) < 0.1


def _burn():
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    time.sleep(60)


def test_processor_time_of_processes_that_run_or_have_ended():
    context = multiprocessing.get_context("fork")
    before, own = cases.processor_seconds(), time.process_time()
    child = context.Process(target=_burn)
    child.start()
    deadline = time.monotonic() + 60
    while cases.processor_seconds() - before < 0.3 and time.monotonic() < deadline:
        time.sleep(0.02)
    own = time.process_time() - own
    running = cases.processor_seconds() - before
    assert 0.3 <= running <= 0.6 + own
    child.kill()
    child.join()
    assert running <= cases.processor_seconds() - before + 0.02 <= 0.7 + own
