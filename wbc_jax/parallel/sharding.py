"""The device mesh, and the sharding of arrays over it.

A batch is sharded along the mesh's axis `data`. Parameters, their averages and the optimizer's
state are replicated, or sharded along the axis `model`. Predictions are computed in groups of one
size (`InGroups`). No other module deals with devices.
"""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from wbc_jax import config as config_lib
from wbc_jax.errors import ConfigError

T = TypeVar("T")
_AXES = ("data", "model")
_CACHE = "~/.cache/wbc_jax/compiled"
_GROUP = 16


def make_mesh(batch_size: int, settings: config_lib.Mesh | None = None) -> Mesh:
    """Returns the mesh for batches of `batch_size` images over all processes.

    Batches are never padded: the axis `data` has the largest number of devices that divides
    `batch_size`, equally many on every process. The other devices are idle, and a warning says so.
    So a batch holds as many images as the config says, on every machine.

    Args:
        batch_size: images computed at once: a batch, or a part of one
            (`config.train.accumulate`).
        settings: sizes of the axes; if None, `data` has all devices.

    Raises:
        ConfigError: the devices cannot form such a mesh, or the processes do not divide the batch.
    """
    settings = settings or config_lib.Mesh()
    hosts: dict[int, list[jax.Device]] = {}
    for device in sorted(jax.devices(), key=lambda d: (d.process_index, d.id)):
        hosts.setdefault(device.process_index, []).append(device)
    here, model = min(map(len, hosts.values())), settings.model
    if (here % model and model % here) or model > here * len(hosts):
        raise ConfigError(
            f"config.mesh.model is {model}; with {len(hosts)} processes of {here} devices it must "
            f"divide {here}, or be a multiple of it up to {here * len(hosts)}."
        )
    if model > here and len(hosts) % (model // here):
        raise ConfigError(
            f"config.mesh.model is {model}, the devices of {model // here} processes; the "
            f"{len(hosts)} processes cannot be divided into such groups."
        )
    # Each process, or each group of processes that share a row of the mesh, has up to `most` rows.
    groups = len(hosts) if model <= here else len(hosts) * here // model
    most = max(1, here // model)
    rows = [groups * n for n in range(1, most + 1) if batch_size % (groups * n) == 0]
    if settings.data:
        rows = [settings.data] if settings.data in rows else []
    if not rows:
        asked = f"config.mesh.data is {settings.data}, and " if settings.data else ""
        raise ConfigError(
            f"{asked}{batch_size} images are computed at once (config.train.batch_size / "
            f"config.train.accumulate): they must divide evenly among the parts of a batch, whose "
            f"number must be a multiple of {groups} up to {groups * most} here."
        )
    data = rows[-1]
    each = data * model // len(hosts)
    if each < here and not settings.data:
        logging.warning(
            "%d images do not divide among the %d devices: %d are used.",
            batch_size,
            here * len(hosts),
            each * len(hosts),
        )
    devices = [device for of_host in hosts.values() for device in of_host[:each]]
    mesh = jax.make_mesh((data, model), _AXES, (AxisType.Auto,) * 2, devices=devices)
    if _rows(mesh) is None:  # JAX ordered the devices by network topology, mixing the processes
        mesh = Mesh(np.array(devices).reshape(data, model), _AXES, axis_types=(AxisType.Auto,) * 2)
    return mesh


def local_mesh(images: int | None = None) -> Mesh:
    """Returns a mesh over devices of this process, for `InGroups`.

    Args:
        images: computed at once: a device without a group of them is left out; None: all devices.
    """
    devices = jax.local_devices()
    if images is not None:
        devices = devices[: max(1, -(-images // group_size()))]
    return jax.make_mesh((len(devices), 1), _AXES, (AxisType.Auto,) * 2, devices=devices)


def group_size() -> int:
    """Returns the number of images that a device predicts at once.

    One on a CPU, where larger groups save no time (docs/performance.md); 16 on accelerators.
    """
    return 1 if jax.default_backend() == "cpu" else _GROUP


class InGroups:
    """A function of weights and images that one program computes, however many images there are.

    XLA compiles a program for each shape, and two programs may add in another order, so that an
    image's result would depend on the images beside it, and on the number of devices. Here each
    device computes groups of `group_size` images, the last one filled up with black images.

    Args:
        function: (weights, images `[B, ...]`) → tree of arrays `[B, ...]`; not jitted.
        mesh: devices that share the images.
        compiler_options: of `jax.jit`.
    """

    def __init__(
        self,
        function: Callable[[Any, jax.Array], T],
        mesh: Mesh,
        compiler_options: dict[str, str] | None = None,
    ):
        self._mesh, spread = mesh, PartitionSpec("data")
        # Not `in_shardings`: the function must see the shapes of one device, and may call code that
        # XLA cannot divide.
        self._program = jax.jit(
            jax.shard_map(
                function,
                mesh=mesh,
                in_specs=(PartitionSpec(), spread),
                out_specs=spread,
                check_vma=False,
            ),
            compiler_options=compiler_options,
        )

    def start(self, weights: Any, images: np.ndarray) -> Callable[[], T]:
        """Starts the computation for images `[B, ...]`, B at least 1.

        Returns:
            The function that waits for the result, a tree of NumPy arrays `[B, ...]`.
        """
        images, size = np.asarray(images), self._mesh.shape["data"] * group_size()
        parts = []
        for first in range(0, len(images), size):
            part = images[first : first + size]
            if missing := size - len(part):
                part = np.concatenate([part, np.zeros((missing, *part.shape[1:]), part.dtype)])
            parts.append(self._program(weights, jax.device_put(part, batched(self._mesh))))

        def finish() -> T:
            return jax.tree.map(lambda *a: np.concatenate(jax.device_get(a))[: len(images)], *parts)

        return finish

    def __call__(self, weights: Any, images: np.ndarray) -> T:
        """Returns the result for images `[B, ...]`, as `start` gives it."""
        return self.start(weights, images)()


def _rows(mesh: Mesh) -> range | None:
    """Returns the rows of `mesh` with devices of this process; None if they are not adjacent."""
    mine = [any(d.process_index == jax.process_index() for d in row) for row in mesh.devices]
    rows = np.flatnonzero(mine)
    found = range(rows[0], rows[-1] + 1)
    aligned = len(found) == len(rows) and rows[0] % len(rows) == 0
    return found if aligned else None


def process_share(mesh: Mesh) -> tuple[int, int]:
    """Returns (i, n): this process reads part i of the n parts of each batch.

    Processes that share a row of the mesh (`model` is larger than the number of devices of a
    process) read the same part.
    """
    rows = _rows(mesh)
    return rows.start // len(rows), mesh.shape["data"] // len(rows)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of arrays that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batched(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Returns the sharding of arrays whose axis `axis` is the batch."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "data"))


def divides_parameters(mesh: Mesh) -> bool:
    """Returns whether `mesh` shards parameters."""
    return mesh.shape["model"] > 1


def state_sharding(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """Returns the sharding of an array of the training state.

    Kernels are sharded over `model` along their longest axis that it divides evenly; of several,
    the last one (output channels). Arrays with fewer than two axes are replicated.
    """
    model = mesh.shape["model"]
    axes = [axis for axis, size in enumerate(shape) if size % model == 0]
    if model == 1 or len(shape) < 2 or not axes:
        return replicated(mesh)
    axis = max(axes, key=lambda axis: (shape[axis], axis))
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, "model"))


def place(state: T, mesh: Mesh) -> T:
    """Places a tree of arrays, equal on every process, with `state_sharding`."""

    def put(x: jax.Array) -> jax.Array:
        where = state_sharding(mesh, x.shape)
        if not mesh.is_multi_process:
            return jax.device_put(x, where)
        whole = np.asarray(x)
        return jax.make_array_from_callback(x.shape, where, lambda part: whole[part])

    return jax.tree.map(put, state)


def constrain(state: T, mesh: Mesh) -> T:
    """Constrains a tree of arrays, under jit, to the sharding that `place` gives it."""
    if not divides_parameters(mesh):
        return state  # `out_shardings` does it
    return jax.tree.map(
        lambda x: jax.lax.with_sharding_constraint(x, state_sharding(mesh, x.shape)), state
    )


def to_local(tree: T, mesh: Mesh, local: Mesh) -> T:
    """Copies a tree of arrays from `mesh` to this process's `local` mesh, replicated there.

    Every process must call it.
    """
    if divides_parameters(mesh):
        tree = jax.jit(lambda x: x, out_shardings=replicated(mesh))(tree)
    if mesh.is_multi_process:
        tree = jax.tree.map(lambda x: x.addressable_data(0), tree)
    return jax.device_put(tree, replicated(local))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Places this process's part of a batch on its devices; returns the global arrays."""
    sharding = batched(mesh)
    rows = mesh.shape["data"] // process_share(mesh)[1]
    return {
        key: jax.make_array_from_process_local_data(
            sharding, value, (len(value) // rows * mesh.shape["data"], *value.shape[1:])
        )
        for key, value in batch.items()
    }


def use_compilation_cache(setting: str) -> None:
    """Switches on JAX's cache of compiled programs; `setting`: `config.train.compilation_cache`."""
    if setting == "auto":
        if jax.config.jax_compilation_cache_dir or jax.default_backend() == "cpu":
            return
        setting = _CACHE
    if setting:
        jax.config.update("jax_compilation_cache_dir", os.fspath(epath.Path(setting).expanduser()))
