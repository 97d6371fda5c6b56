"""wbc_jax.parallel.environment: which variables make several processes of one run."""

import subprocess
import sys

import pytest

from wbc_jax.errors import ConfigError
from wbc_jax.parallel import environment

EXPLICIT = {
    "WBC_JAX_COORDINATOR": "10.0.0.1:1234",
    "WBC_JAX_NUM_PROCESSES": "4",
    "WBC_JAX_PROCESS_ID": "3",
}
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_NTASKS": "8",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_STEP_NODELIST": "node[1-8]",
}


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({}, None),
        (
            EXPLICIT,
            {"coordinator_address": "10.0.0.1:1234", "num_processes": 4, "process_id": 3},
        ),
        (EXPLICIT | {"WBC_JAX_NUM_PROCESSES": "1", "WBC_JAX_PROCESS_ID": "0"}, None),
        (EXPLICIT | {"WBC_JAX_DISTRIBUTED": "off"}, None),
        (SLURM, {}),
        (SLURM | EXPLICIT, {"coordinator_address": "10.0.0.1:1234", "num_processes": 4}),
        (SLURM | {"SLURM_NTASKS": "1"}, None),
        # The batch script itself, outside `srun`, is no step.
        ({k: v for k, v in SLURM.items() if "STEP" not in k}, None),
        ({"TPU_WORKER_HOSTNAMES": "a"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, {}),
        ({"WBC_JAX_DISTRIBUTED": "auto"}, {}),
    ],
)
def test_requested(variables, expected):
    found = environment.requested(variables)
    if expected:
        assert found.items() >= expected.items()
    else:
        assert found == expected


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"WBC_JAX_COORDINATOR": ""}, "but WBC_JAX_COORDINATOR is not; set all three"),
        ({"WBC_JAX_COORDINATOR": "host"}, "WBC_JAX_COORDINATOR is 'host'; it must be host:port"),
        ({"WBC_JAX_COORDINATOR": "host:0"}, "WBC_JAX_COORDINATOR is 'host:0'"),
        ({"WBC_JAX_NUM_PROCESSES": "two"}, "WBC_JAX_NUM_PROCESSES is 'two'; it must be a whole"),
        ({"WBC_JAX_PROCESS_ID": "4"}, "WBC_JAX_PROCESS_ID is 4 and WBC_JAX_NUM_PROCESSES is 4"),
        ({"WBC_JAX_DISTRIBUTED": "yes"}, "WBC_JAX_DISTRIBUTED is 'yes'; allowed are 'auto'"),
    ],
)
def test_invalid_variables(change, expected):
    with pytest.raises(ConfigError) as caught:
        environment.requested(EXPLICIT | change)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({}, None),
        (EXPLICIT, ("WBC_JAX_PROCESS_ID/WBC_JAX_NUM_PROCESSES", 3, 4)),
        (SLURM, ("SLURM_PROCID/SLURM_NTASKS", 0, 8)),
        # The step's own number, where the job has another.
        (SLURM | {"SLURM_STEP_NUM_TASKS": "2"}, ("SLURM_PROCID/SLURM_STEP_NUM_TASKS", 0, 2)),
        (SLURM | EXPLICIT, ("WBC_JAX_PROCESS_ID/WBC_JAX_NUM_PROCESSES", 3, 4)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None),  # the batch script itself
        ({"SLURM_STEP_NODELIST": "a", "SLURM_NTASKS": "8"}, None),
        ({"WBC_JAX_PROCESS_ID": "", "WBC_JAX_NUM_PROCESSES": ""}, None),
    ],
)
def test_find_place(variables, expected):
    place = environment.find_place(variables)
    found = place and ("/".join(place.names), *place.numbers())
    assert found == expected


def test_a_place_without_a_number():
    place = environment.find_place({"WBC_JAX_NUM_PROCESSES": "2"})
    assert place == (("WBC_JAX_PROCESS_ID", "WBC_JAX_NUM_PROCESSES"), "", "2")
    with pytest.raises(ConfigError, match="WBC_JAX_PROCESS_ID is ''; it must be a whole number"):
        place.numbers()
    with pytest.raises(ConfigError, match="SLURM_NTASKS is 'x'; it must be a whole number"):
        environment.requested(SLURM | {"SLURM_NTASKS": "x"})


def test_imports_no_jax():
    code = "import sys, wbc_jax.parallel.environment; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "jax" not in done.stdout.split()
