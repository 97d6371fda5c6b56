"""SIGTERM and SIGINT during training: all processes stop after the same step."""

import functools
import signal
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


class StopSignals:
    """Records SIGTERM and SIGINT inside a `with` block; a second one has its usual effect.

    JAX's `multihost_utils.reached_preemption_sync_point` also chooses a common step. It was tried
    and not taken: its service catches SIGTERM from `jax.distributed.initialize` to the end of the
    process, so that preparing data and evaluating would ignore it; it does not handle SIGINT; and
    the other processes do not learn which signal came, which their exit code states.
    """

    def __init__(self):
        self._received = 0
        self._previous: dict[int, signal.Handlers | Callable] = {}
        self._pending: jax.Array | None = None

    def __enter__(self) -> "StopSignals":
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._record)
        except ValueError:  # outside the main thread, signals belong to the caller
            pass
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _record(self, number: int, _) -> None:
        self._received = number
        signal.signal(number, self._previous[number])

    def agreed(self) -> int:
        """Returns the signal to stop for, or 0; all processes get the same. Call it once per step.

        One process learns of its signal at once. Several reduce theirs on their devices, behind the
        training step; a call returns the result of the call before it, so that no device waits.
        """
        if jax.process_count() == 1:
            return self._received
        before, self._pending = self._pending, _largest(self._received)
        return 0 if before is None else int(before)


def _largest(number: int) -> jax.Array:
    """Starts computing the largest `number` over all processes; every process must call it."""
    spread, largest = _reduction()
    mine = np.array([number], np.int32)
    return largest(jax.make_array_from_process_local_data(spread, mine))


@functools.cache
def _reduction() -> tuple[NamedSharding, Callable[[jax.Array], jax.Array]]:
    """Returns the sharding of one number per process, and the jitted maximum over them."""
    one_each = {device.process_index: device for device in jax.devices()}
    devices = np.array([one_each[process] for process in sorted(one_each)])
    mesh = Mesh(devices, ("process",), axis_types=(AxisType.Auto,))
    spread = NamedSharding(mesh, PartitionSpec("process"))
    return spread, jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))
