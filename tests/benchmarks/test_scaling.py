"""benchmarks/scaling.py: its formulas against values computed by hand."""

import json
import pathlib
import subprocess
import sys

import pytest

import cases
import scaling

FOLDER = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def gpus():
    return scaling.Switched(
        "gpus", flops=1000, memory=1000, inside=100, between=10, node=4, inside_latency=1,
        between_latency=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tpus():
    shapes = {8: (2, 4), 16: (4, 4), 3: (2, 2)}
    return scaling.Torus("tpus", 1000, 1000, links=100, wrap=4, hop=1, shapes=shapes)


def test_all_reduce_of_gpus(gpus):
    assert gpus.all_reduce(800, 1) == 0
    # 2 (n - 1) / n of the bytes at 100 bytes/s, plus one second.
    assert gpus.all_reduce(800, 2) == pytest.approx(8 + 1)
    assert gpus.all_reduce(800, 4) == pytest.approx(12 + 1)
    # Four nodes: each device has a fourth of the bytes; 2 * 3/4 * 200 / 10, plus twice two seconds.
    assert gpus.all_reduce(800, 16) == pytest.approx(13 + 30 + 4)
    assert gpus.all_reduce(0, 16) == pytest.approx(5)


def test_all_reduce_of_tpus(tpus):
    # The axis of 4 is a ring, that of 2 a line of half the bandwidth: 75 of 100 bytes/s. The
    # farthest chip is 1 + 2 hops away, there and back.
    assert tpus.all_reduce(600, 8) == pytest.approx(2 * 7 / 8 * 600 / 75 + 6)
    assert tpus.all_reduce(800, 16) == pytest.approx(15 + 8)
    with pytest.raises(ValueError, match=r"tpus: \(2, 2\) are not 3 chips"):
        tpus.all_reduce(1, 3)


def test_a_step_and_the_exchanges_share(gpus):
    case = cases.Case("unet", 1, 8, 10)
    work = scaling.Work(case, parameters=100, flops=4000, activations=50, norms=3)
    assert work.gradient_bytes == 400
    assert work.memory_bytes == 2 * 5 * 50 + 7 * 4 * 100
    # FLOPs: 4000 / (0.4 * 1000); memory: 3300 / (0.8 * 1000) is less.
    assert work.seconds(gpus) == pytest.approx(10)
    light = scaling.Work(case, parameters=100, flops=400, activations=50, norms=3)
    assert light.seconds(gpus) == pytest.approx(4.125)
    # Six latencies for the statistics, and 400 bytes: 6 * 1 + 6 + 1.
    assert work.exchange(gpus, 4) == pytest.approx(13)
    assert work.share(gpus, 4) == pytest.approx(13 / 23)
    # One second an image: 13 s are a tenth of the step with 117 s of work.
    assert work.batch_for(gpus, 4) == 117
    assert work.batch_for(gpus, 4, share=0.5) == 13


def test_the_work_of_a_unet():
    case = cases.Case("unet", 2, 16, 3)
    work = scaling.work(case)
    widths, sides = [2, 4, 8, 16, 32], [16, 8, 4, 2, 1]
    written = parameters = flops = 0

    def conv(side, kernel, inputs, outputs):
        nonlocal written, parameters, flops
        written += side * side * outputs
        parameters += kernel * kernel * inputs * outputs + outputs
        flops += 2 * side * side * kernel * kernel * inputs * outputs

    for before, width, side in zip([3, *widths], widths, sides):
        conv(side, 3, before, width)
        conv(side, 3, width, width)
    for below, width, side in zip(widths[:0:-1], widths[-2::-1], sides[-2::-1]):
        written += side * side * width  # 2 x 2, stride 2: one product an input, four an output
        parameters += 4 * below * width + width
        flops += 2 * side * side * below * width
        conv(side, 3, 2 * width, width)
        conv(side, 3, width, width)
    conv(16, 1, 2, 3)
    norms = 2 * (sum(widths) + sum(widths[:-1])) * 2  # two convolutions a block, scale and offset
    assert written == 5632
    assert work.activations == 3 * written
    assert work.norms == 18
    assert work.flops == 3 * 3 * flops
    assert work.parameters == parameters + norms


def test_hardware_is_as_its_data_sheets_say():
    h100, v5e, v5p = scaling.HARDWARE
    assert (h100.flops, h100.memory, h100.inside * 2, h100.between * 8) == (
        989e12, 3.35e12, 900e9, 400e9,
    )  # fmt: skip
    assert (v5e.flops, v5e.memory, v5e.links * 8) == (197e12, 819e9, 1600e9)
    assert (v5p.flops, v5p.memory, v5p.links * 8) == (459e12, 2765e9, 4800e9)
    for hardware in scaling.HARDWARE:
        times = [hardware.all_reduce(1e8, n) for n in scaling.DEVICES]
        assert all(t > 0 for t in times)
    # 100 MB over eight H100: 2 * 7/8 * 1e8 / 450e9 = 0.389 ms, and 10 us.
    assert h100.all_reduce(1e8, 8) == pytest.approx(3.989e-4, rel=1e-3)
    # Over 256: 2 * 31/32 * 12.5e6 / 50e9 = 0.484 ms more, and five doublings of 10 us.
    assert h100.all_reduce(1e8, 256) == pytest.approx(3.989e-4 + 4.844e-4 + 5e-5, rel=1e-3)
    # 256 v5e: a torus of 16 x 16; 2 * 255/256 * 1e8 / 200e9 = 0.996 ms, 2 * 16 hops.
    assert v5e.all_reduce(1e8, 256) == pytest.approx(9.961e-4 + 3.2e-5, rel=1e-3)


def test_the_command(tmp_path):
    done = subprocess.run(
        [sys.executable, FOLDER / "scaling.py", "--only=classifier", "--out=a.json"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| classifier")]
    assert len(rows) == 4 and "17,484,421 | 69.94 |" in rows[0]  # four bytes each
    documented = (FOLDER.parent / "docs" / "scaling.md").read_text().splitlines()
    assert set(rows) < set(documented)
    saved = json.loads((tmp_path / "a.json").read_text())
    (network,) = saved["networks"]
    assert network["gradient_bytes"] == 4 * network["parameters"] == 4 * 17_484_421
    for shown in ("| H100 SXM |", "| TPU v5e |", "| TPU v5p |"):
        assert shown in done.stdout
    assert set(network["on"]["TPU v5e"]["share"]) == {"8", "16", "32", "64", "128", "256"}
