"""Several processes of one run: how they start, wait for each other and end together.

Every process runs the same program. Process 0 also writes the shared files: the log, the
configuration, the report. All processes write checkpoints.
"""

import itertools
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

import jax
from jax.experimental import multihost_utils

from wbc_jax.config import Distributed
from wbc_jax.errors import PeerError
from wbc_jax.parallel import environment

_A_WEEK_MS = 7 * 24 * 3600 * 1000
_MARGIN_SECONDS = 15
_sequence = itertools.count()  # numbers barriers and keys, equally on all processes


def initialize(settings: Distributed) -> None:
    """Connects to the other processes, if there are any. Call it before JAX uses a device.

    Raises:
        ConfigError: the environment variables that name them are invalid.
        RuntimeError: they did not all connect within `settings.start_seconds`.
    """
    arguments = environment.requested()
    if arguments is None:
        return
    # The training loop handles SIGTERM; JAX's preemption service would take the signal from it.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        **arguments,
        heartbeat_timeout_seconds=settings.heartbeat_seconds,
        initialization_timeout=settings.start_seconds,
        # While process 0 writes a report, the others wait for it in `run_on_first`, not at the
        # shutdown: that takes moments.
        shutdown_timeout_seconds=settings.heartbeat_seconds,
    )
    if jax.process_count() > 1:
        # The first connection of the devices, while no process is delayed: see `barrier`.
        barrier()
        multihost_utils.sync_global_devices("wbc_jax")


def several() -> bool:
    """Returns whether this process is one of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Returns whether this is process 0, which writes shared files."""
    return jax.process_index() == 0


def print0(text: str) -> None:
    """Prints a line at once, in process 0 only."""
    if is_first():
        print(text, flush=True)


def run_on_first(do: Callable[[], None]) -> None:
    """Calls `do` in process 0; the others wait until it is done, however long it takes.

    Every process must call this function, in the same order.

    Raises:
        PeerError: in the other processes, if `do` failed in process 0, which prints why.
    """
    if jax.process_count() == 1:
        do()
        return
    key = f"wbc_jax/run_on_first/{next(_sequence)}"
    if is_first():
        try:
            do()
        except BaseException:
            _client().key_value_set(key, "failed")
            time.sleep(1)  # the store ends with this process: let the others read it first
            raise
        _client().key_value_set(key, "done")
    elif _client().blocking_key_value_get(key, _A_WEEK_MS) == "failed":
        raise PeerError(f"process 0 of {jax.process_count()} has failed; its output says why.")
    barrier()


def barrier() -> None:
    """Returns once all processes have called it, however long that takes.

    Call it before the first collective operation of a program: on CPUs the connection of devices
    times out after 30 seconds, and after compiling or reading, processes may be further apart.
    """
    if jax.process_count() > 1:
        _client().wait_at_barrier(f"wbc_jax/barrier/{next(_sequence)}", _A_WEEK_MS)


def _client():
    """Returns the client of JAX's coordination service, for its store and its barriers.

    `jax.distributed` has no public name for it. `multihost_utils.sync_global_devices` is no
    replacement: it waits in a collective operation, which times out, and it cannot tell that
    process 0 failed. The import is here so that a single process does not depend on it.
    """
    from jax._src import distributed

    return distributed.global_state.client


def abort(error: Exception, settings: Distributed) -> NoReturn:
    """Prints an unexpected error and ends this process, one of several, at once.

    A normal exit would wait for the other processes, which wait for this one. If the error is that
    another process cannot be reached, this one first waits for the coordination service to name it.
    The service ends this process when it does so, after `settings.heartbeat_seconds` without a
    heartbeat of the other.
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
    """Ends this process without waiting for others, after flushing its output."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
