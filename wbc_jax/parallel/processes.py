"""Several processes: how they find each other, wait for each other and end together.

Every process runs the same program. Process 0 also writes what there is one of: the log, the
configuration, the report. Checkpoints are written by all.
"""

import itertools
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import NoReturn

import jax
from jax.experimental import multihost_utils

from wbc_jax.config import Distributed
from wbc_jax.errors import ConfigError, PeerError

COORDINATOR = "WBC_JAX_COORDINATOR"
NUM_PROCESSES = "WBC_JAX_NUM_PROCESSES"
PROCESS_ID = "WBC_JAX_PROCESS_ID"
DETECT = "WBC_JAX_DISTRIBUTED"
_A_WEEK_MS = 7 * 24 * 3600 * 1000
_MARGIN_SECONDS = 15
_turns = itertools.count()


def requested(environment: Mapping[str, str] | None = None) -> dict[str, str | int] | None:
    """Returns what `jax.distributed.initialize` is to be told here, or None for one process alone.

    - `WBC_JAX_COORDINATOR` (host:port of process 0), `WBC_JAX_NUM_PROCESSES` and
      `WBC_JAX_PROCESS_ID`: what they say.
    - SLURM with several tasks in this step, a TPU slice of several hosts
      (`TPU_WORKER_HOSTNAMES`), or `WBC_JAX_DISTRIBUTED=auto` (a TPU VM whose slice only the
      metadata server knows; Open MPI): nothing, as JAX finds it by itself.
    - `WBC_JAX_DISTRIBUTED=off`: one process, wherever it runs.

    Args:
        environment: variables; those of this process if None.

    Raises:
        ConfigError: one of the variables is missing or makes no sense.
    """
    env = os.environ if environment is None else environment
    detect = env.get(DETECT, "")
    if detect not in ("", "auto", "off"):
        raise ConfigError(f"{DETECT} is {detect!r}; allowed are 'auto' and 'off'.")
    names = (COORDINATOR, NUM_PROCESSES, PROCESS_ID)
    given = [name for name in names if env.get(name)]
    if detect == "off":
        return None
    if given:
        missing = [name for name in names if name not in given]
        if missing:
            raise ConfigError(
                f"{', '.join(given)} is set, but {', '.join(missing)} is not; set all three, or "
                "none of them."
            )
        host, _, port = env[COORDINATOR].rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65536:
            raise ConfigError(
                f"{COORDINATOR} is {env[COORDINATOR]!r}; it must be host:port of process 0, such "
                "as 10.0.0.1:1234."
            )
        count, index = _number(env, NUM_PROCESSES), _number(env, PROCESS_ID)
        if not 0 <= index < count:
            raise ConfigError(
                f"{PROCESS_ID} is {index} and {NUM_PROCESSES} is {count}; processes are numbered "
                "from 0 to one less than their number."
            )
        if count == 1:
            return None
        return {
            "coordinator_address": env[COORDINATOR],
            "num_processes": count,
            "process_id": index,
        }
    # `srun` sets the number of the task; the batch script itself, which has none, is one process.
    slurm = "SLURM_PROCID" in env and _number(env, "SLURM_NTASKS", "1") > 1
    slurm = slurm and "SLURM_STEP_NODELIST" in env
    tpu = "," in env.get("TPU_WORKER_HOSTNAMES", "")
    return {} if detect == "auto" or slurm or tpu else None


def _number(env: Mapping[str, str], name: str, default: str = "") -> int:
    text = env.get(name, default)
    if not text.isdigit():
        raise ConfigError(f"{name} is {text!r}; it must be a whole number.")
    return int(text)


def initialize(settings: Distributed) -> None:
    """Joins the other processes, if there are any; before any device is touched.

    Raises:
        ConfigError: the variables that name them make no sense.
        RuntimeError: they did not come within `settings.start_seconds`.
    """
    arguments = requested()
    if arguments is None:
        return
    # SIGTERM is the training loop's affair; JAX's own handler would take it.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        **arguments,
        heartbeat_timeout_seconds=settings.heartbeat_seconds,
        initialization_timeout=settings.start_seconds,
        # Process 0 may still be writing a report when the others are done, and they wait for it
        # then (`run_on_first`); what is left at the end are moments.
        shutdown_timeout_seconds=settings.heartbeat_seconds,
    )
    if jax.process_count() > 1:
        # Devices meet once while nothing keeps any process from it: see `barrier`.
        barrier()
        multihost_utils.sync_global_devices("wbc_jax")


def several() -> bool:
    """Whether this process is one of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Whether this process is the one that writes what there is one of."""
    return jax.process_index() == 0


def run_on_first(do: Callable[[], None]) -> None:
    """Process 0 calls `do`; the others wait for its end, however long it takes.

    Every process must call it, in the same order.

    Raises:
        PeerError: on the others, if `do` has failed on process 0, which says why.
    """
    if jax.process_count() == 1:
        do()
        return
    key = f"wbc_jax/run_on_first/{next(_turns)}"
    if is_first():
        try:
            do()
        except BaseException:
            _client().key_value_set(key, "failed")
            time.sleep(1)  # the store dies with this process: the others read it first
            raise
        _client().key_value_set(key, "done")
    elif _client().blocking_key_value_get(key, _A_WEEK_MS) == "failed":
        raise PeerError(f"process 0 of {jax.process_count()} has failed; its output says why.")
    barrier()


def barrier() -> None:
    """Returns once all processes have called it, however long that takes.

    To be called before devices first talk to each other: the connections of CPUs are given up
    after 30 seconds, and processes may be further apart than that after compiling or reading.
    """
    if jax.process_count() > 1:
        _client().wait_at_barrier(f"wbc_jax/barrier/{next(_turns)}", _A_WEEK_MS)


def _client():
    from jax._src import distributed  # JAX has no public name for its barriers and its store

    return distributed.global_state.client


def abort(error: Exception, settings: Distributed) -> NoReturn:
    """Ends one of several processes at once after an error that is not told yet.

    It must not wait for the others at its end, as is usual, for they wait for it. If the error is
    that another process cannot be reached, it waits for the coordination service to name that one,
    which it does, ending this process, once it has not heard of it for
    `settings.heartbeat_seconds`.
    """
    me = f"process {jax.process_index()} of {jax.process_count()}"
    if isinstance(error, jax.errors.JaxRuntimeError):
        first = str(error).strip().splitlines()[0]
        print(
            f"error: {me}: a step shared with the others has failed ({first}). If another process "
            f"has died, its name follows within {settings.heartbeat_seconds + _MARGIN_SECONDS} s.",
            file=sys.stderr,
            flush=True,
        )
        time.sleep(settings.heartbeat_seconds + _MARGIN_SECONDS)
    else:
        traceback.print_exception(error)
    hard_exit(1)


def hard_exit(code: int) -> NoReturn:
    """Ends this process without waiting for others; what it has printed is not lost."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
