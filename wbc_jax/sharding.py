"""The mesh and where arrays lie on it."""

import jax
import numpy as np
from absl import logging
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def make_mesh(batch_size: int) -> Mesh:
    """Returns a mesh with the axis `data` over the devices among which `batch_size` divides.

    All local devices where it divides evenly, else the most that it does.

    Raises:
        ValueError: several processes, and the batch does not divide among all devices.
    """
    devices = jax.devices()
    used = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
    if used < len(devices):
        if jax.process_count() > 1:
            raise ValueError(
                f"config.train.batch_size is {batch_size}; with {jax.process_count()} processes it "
                f"must be a multiple of the {len(devices)} devices."
            )
        logging.warning(
            "A batch of %d does not divide among %d devices: %d are used.",
            batch_size,
            len(devices),
            used,
        )
    return jax.make_mesh((used,), ("data",), devices=devices[:used], axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh) -> NamedSharding:
    """The sharding of arrays whose first axis is the batch."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Places this process's part of a global batch on its devices."""
    sharding = batched(mesh)
    return {
        key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()
    }
