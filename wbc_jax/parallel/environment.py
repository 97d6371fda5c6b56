"""This process's place among others, as environment variables state it. Imports no JAX."""

import os
from collections.abc import Mapping
from typing import NamedTuple

from wbc_jax.errors import ConfigError

COORDINATOR = "WBC_JAX_COORDINATOR"
NUM_PROCESSES = "WBC_JAX_NUM_PROCESSES"
PROCESS_ID = "WBC_JAX_PROCESS_ID"
DETECT = "WBC_JAX_DISTRIBUTED"


class Place(NamedTuple):
    """The number of a process, from 0, and the number of processes, as unchecked text.

    Attributes:
        names: the two variables.
        index, count: their values; empty if missing.
    """

    names: tuple[str, str]
    index: str
    count: str

    def numbers(self) -> tuple[int, int]:
        """Returns index and count.

        Raises:
            ConfigError: one of them is not a whole number.
        """
        for name, text in zip(self.names, (self.index, self.count)):
            if not text.isdecimal():
                raise ConfigError(f"{name} is {text!r}; it must be a whole number.")
        return int(self.index), int(self.count)


def find_place(env: Mapping[str, str]) -> Place | None:
    """Returns the place stated by wbc_jax's variables, else by SLURM's; None without either."""
    if env.get(PROCESS_ID) or env.get(NUM_PROCESSES):
        return _place(env, PROCESS_ID, NUM_PROCESSES)
    return _slurm_place(env)


def _place(env: Mapping[str, str], index: str, count: str) -> Place:
    return Place((index, count), env.get(index, ""), env.get(count, ""))


def _slurm_place(env: Mapping[str, str]) -> Place | None:
    """Returns the place in a job step, as `srun` starts it.

    The batch script itself is one process, though it has a SLURM_PROCID and the job's SLURM_NTASKS.
    """
    if "SLURM_PROCID" not in env:
        return None
    if "SLURM_STEP_NUM_TASKS" in env:
        return _place(env, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS")
    if "SLURM_STEP_NODELIST" in env and "SLURM_NTASKS" in env:
        return _place(env, "SLURM_PROCID", "SLURM_NTASKS")
    return None


def requested(environment: Mapping[str, str] | None = None) -> dict[str, str | int] | None:
    """Returns the arguments for `jax.distributed.initialize`, or None for a single process.

    - `WBC_JAX_COORDINATOR` (host:port of process 0), `WBC_JAX_NUM_PROCESSES` and
      `WBC_JAX_PROCESS_ID`: these three.
    - A SLURM step of several tasks, a TPU slice of several hosts (`TPU_WORKER_HOSTNAMES`), or
      `WBC_JAX_DISTRIBUTED=auto` (a TPU VM whose slice only the metadata server knows; Open MPI):
      no arguments, as JAX detects them itself.
    - `WBC_JAX_DISTRIBUTED=off`: a single process, wherever it runs.

    Args:
        environment: variables; those of this process if None.

    Raises:
        ConfigError: a variable is missing or has an invalid value.
    """
    env = os.environ if environment is None else environment
    detect = env.get(DETECT, "")
    if detect not in ("", "auto", "off"):
        raise ConfigError(f"{DETECT} is {detect!r}; allowed are 'auto' and 'off'.")
    if detect == "off":
        return None
    names = (COORDINATOR, NUM_PROCESSES, PROCESS_ID)
    given = [name for name in names if env.get(name)]
    if given:
        missing = [name for name in names if name not in given]
        if missing:
            raise ConfigError(
                f"{', '.join(given)} is set, but {', '.join(missing)} is not; set all three, or "
                "none of them."
            )
        return _explicit(env)
    slurm = _slurm_place(env)
    several_tasks = slurm is not None and slurm.numbers()[1] > 1
    several_hosts = "," in env.get("TPU_WORKER_HOSTNAMES", "")
    return {} if detect == "auto" or several_tasks or several_hosts else None


def _explicit(env: Mapping[str, str]) -> dict[str, str | int] | None:
    host, _, port = env[COORDINATOR].rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(
            f"{COORDINATOR} is {env[COORDINATOR]!r}; it must be host:port of process 0, such "
            "as 10.0.0.1:1234."
        )
    index, count = _place(env, PROCESS_ID, NUM_PROCESSES).numbers()
    if index >= count:
        raise ConfigError(
            f"{PROCESS_ID} is {index} and {NUM_PROCESSES} is {count}; processes are numbered "
            "from 0 to one less than their number."
        )
    if count == 1:
        return None
    return {"coordinator_address": env[COORDINATOR], "num_processes": count, "process_id": index}
