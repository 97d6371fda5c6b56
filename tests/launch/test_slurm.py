"""launch/slurm.sbatch with fakes of SLURM's commands."""

import argparse
import shlex
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from helpers import fakes
from wbc_jax import cli
from wbc_jax.data import pipeline
from wbc_jax.data.images import encode_png

SCRIPT = fakes.ROOT / "launch" / "slurm.sbatch"
SRUN = ["srun", "--kill-on-bad-exit=0", "--wait=120", "python", "-u", "-m"]


@pytest.fixture
def slurm(tmp_path):
    return fakes.Fakes(tmp_path, "srun", "scontrol")


def _run(slurm, *arguments, **options):
    return slurm.run("bash", str(SCRIPT), *arguments, SLURM_JOB_ID="77", **options)


def test_training_that_ends(slurm):
    done = _run(slurm, "--config=configs/unet.py", "--workdir=/shared/runs/a b")
    assert (done.returncode, done.stdout) == (0, "Finished.\n")
    assert slurm.calls == [
        [*SRUN, "wbc_jax.main", "--config=configs/unet.py", "--workdir=/shared/runs/a b"]
    ]


def test_prediction(slurm):
    assert _run(slurm, "predict", "--paths=l.txt", "--out=o").returncode == 0
    assert slurm.calls == [[*SRUN, "wbc_jax.predict", "--paths=l.txt", "--out=o"]]


def test_stopped_by_sigterm_it_queues_itself_again(slurm):
    done = _run(slurm, "--config=c.py", answers={"srun": [[143, ""]]})
    assert done.returncode == 143
    assert slurm.calls[1:] == [["scontrol", "requeue", "77"]]
    assert "queued again (restart 1 of at most 100)" in done.stdout
    # SLURM has queued it already: the script must end in the same way.
    done = _run(
        slurm, "--config=c.py", SLURM_RESTART_COUNT="4",
        answers={"srun": [[143, ""]], "scontrol": [[1, ""]]},
    )  # fmt: skip
    assert done.returncode == 143
    assert "restart 5 of at most 100" in done.stdout
    assert "could not queue job 77 again" in done.stderr


# Prints the place that the process of a task is given.
_PLACE = """#!/usr/bin/env bash
echo "$WBC_JAX_PROCESS_ID/$WBC_JAX_NUM_PROCESSES"
"""


def _array(slurm, *arguments, task=5, first=0, last=99, count=100, **options):
    return _run(
        slurm, *arguments, SLURM_ARRAY_TASK_ID=str(task), SLURM_ARRAY_TASK_MIN=str(first),
        SLURM_ARRAY_TASK_MAX=str(last), SLURM_ARRAY_TASK_COUNT=str(count), SLURM_NTASKS="1",
        **options,
    )  # fmt: skip


def test_the_tasks_of_an_array_share_a_list(slurm):
    slurm.add("srun", _PLACE)
    done = _array(slurm, "predict", "--paths=l.txt", "--out=o")
    assert (done.returncode, done.stdout) == (0, "5/100\nFinished.\n")
    # Some tasks again: SLURM counts these alone.
    again = {"task": 17, "first": 5, "last": 17, "count": 2}
    done = _array(slurm, "predict", "--out=o", **again, WBC_JAX_NUM_PROCESSES="100")
    assert done.stdout == "17/100\nFinished.\n"
    done = _array(slurm, "predict", "--out=o", **again)
    assert done.returncode == 2 and "the array is 5 to 17 with 2 tasks; give --array=0-LAST" in (
        done.stderr
    )


def test_arrays_that_are_not_for_prediction(slurm):
    done = _array(slurm, "--config=c.py")
    assert done.returncode == 2 and "error: --array is for predict" in done.stderr
    done = _run(slurm, "predict", "--out=o", SLURM_ARRAY_TASK_ID="0", SLURM_NTASKS="4")
    assert done.returncode == 2 and "a task of the array has 4 processes" in done.stderr
    assert slurm.calls == []


@pytest.mark.parametrize("status", [1, 3, 137])
def test_other_ends_stay(slurm, status):
    done = _run(slurm, "--config=c.py", answers={"srun": [[status, ""]]})
    assert done.returncode == status
    assert [call[0] for call in slurm.calls] == ["srun"]
    assert done.stderr == f"error: wbc_jax.main ended with status {status}; not queued again\n"


def test_not_for_ever(slurm):
    done = _run(
        slurm, "--config=c.py", SLURM_RESTART_COUNT="2", WBC_JAX_MAX_REQUEUES="2",
        answers={"srun": [[143, ""]]},
    )  # fmt: skip
    assert done.returncode == 143 and len(slurm.calls) == 1
    assert "queued again 2 times already (WBC_JAX_MAX_REQUEUES=2)" in done.stderr


def test_without_arguments(slurm):
    done = _run(slurm)
    assert done.returncode == 2 and slurm.calls == []
    assert done.stderr.startswith("error: no arguments; say what to do")


def test_setup_is_sourced(slurm, tmp_path):
    (tmp_path / "activate").write_text("echo set up")
    done = _run(slurm, "--config=c.py", WBC_JAX_SETUP=str(tmp_path / "activate"))
    assert done.stdout == "set up\nFinished.\n"


def test_its_directives_are_options_of_sbatch():
    """Each option has a known name and a valid value, by the manual of sbatch."""
    lines = [x for x in SCRIPT.read_text().splitlines() if x.startswith("#SBATCH")]
    # SLURM reads them up to the first command.
    assert SCRIPT.read_text().index("set -euo") > SCRIPT.read_text().rindex("#SBATCH")
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("job-name", "output", "time", "signal"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--open-mode", choices=("append", "truncate"))
    for name in ("nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--requeue", action="store_true")
    found = parser.parse_args([word for x in lines for word in shlex.split(x)[1:]])
    # The signal goes to the step's processes, not to the script alone (`B:`). Each process sees all
    # GPUs: JAX takes GPU number SLURM_LOCALID of those that it sees.
    assert found.requeue and found.signal == "TERM@120" and found.open_mode == "append"
    assert found.gpus_per_node == found.ntasks_per_node


def test_slurms_variables_lead_jax_to_its_peers(monkeypatch):
    """JAX itself reads the variables of the third of four processes on two nodes."""
    clusters = pytest.importorskip("jax._src.clusters")
    for name, value in {
        "SLURM_JOB_ID": "77", "SLURM_STEP_NODELIST": "node[003-004]", "SLURM_NTASKS": "4",
        "SLURM_PROCID": "2", "SLURM_LOCALID": "0",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    found = clusters.ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, "slurm", None
    )
    assert found == (f"node003:{61440 + 77}", 4, 2, [0])


# Runs the processes like srun, but one after the other on this machine.
_SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
worst=0
for ((i = 0; i < 2; i++)); do
  SLURM_PROCID=$i SLURM_STEP_NUM_TASKS=2 SLURM_NTASKS=2 "$@" || worst=$(($? > worst ? $? : worst))
done
exit $worst
"""


def test_two_tasks_share_a_prediction(slurm, run, tmp_path):
    from helpers import tiny_runs

    test = pipeline.load_splits(run.config.data, tiny_runs.SIZE)["test"]
    paths = [str(tmp_path / f"{n}.png") for n in range(3)]
    for path, (source, i) in zip(paths, test.entries):
        with open(path, "wb") as file:
            file.write(encode_png(source.image(i)))
    (tmp_path / "list.txt").write_text("\n".join([*paths, str(tmp_path / "none.png")]))
    slurm.add("srun", _SRUN)
    slurm.add("python", f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    done = _run(
        slurm, "predict", "--paths=list.txt", "--out=out", "--part_size=2", "--batch_size=2",
        f"--model={run.workdir}",
    )  # fmt: skip
    assert done.returncode == cli.BAD_SHARDS, done.stderr
    assert "process 0 of 2: 2 images predicted" in done.stdout
    assert "process 1 of 2: 1 images predicted" in done.stdout
    rows = [
        row
        for path in sorted((tmp_path / "out" / "parts").iterdir())
        for row in pq.read_table(path).to_pylist()
    ]
    assert [row["file"] for row in rows] == [*paths, str(tmp_path / "none.png")]
    assert [row["error"] is None for row in rows] == [True, True, True, False]


def test_shellcheck():
    scripts = [SCRIPT, fakes.ROOT / "launch" / "tpu_vm.sh"]
    done = subprocess.run([fakes.tool("shellcheck"), *scripts], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
