"""Which variables make several processes of one run, and who waits for whom."""

import pytest

from wbc_jax.errors import ConfigError
from wbc_jax.parallel import processes

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
    "environment, expected",
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
def test_requested(environment, expected):
    found = processes.requested(environment)
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
def test_variables_that_make_no_sense(change, expected):
    with pytest.raises(ConfigError) as caught:
        processes.requested(EXPLICIT | change)
    assert expected in str(caught.value)


def test_alone_it_just_does():
    done = []
    processes.run_on_first(lambda: done.append(1))
    processes.barrier()
    assert done == [1] and processes.is_first() and not processes.several()
