"""ImageNet weights of the encoders, which `config.train.init_from="imagenet"` starts from.

`tools/convert_efficientnet.py` wrote the files; each says its source and license in its metadata.
"""

import hashlib
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from wbc_jax.errors import WeightsError
from wbc_jax.inference import weights
from wbc_jax.utils import atomic

NAME = "imagenet"
"""Value of `config.train.init_from` that means these weights."""
FOLDER = weights.SHIPPED / "encoders"
FORMAT = "wbc_jax encoder 1"
_ENCODER = "params/encoder/"


def write(path: epath.PathLike, params: Any, about: dict[str, str]) -> None:
    """Writes an encoder's params as float16, whole or not at all.

    Args:
        path: the file, `efficientnet_<variant>.safetensors`.
        params: nested dictionaries of the encoder's arrays.
        about: texts for the metadata, such as source and license.
    """
    arrays = {
        name: np.ascontiguousarray(np.asarray(value, np.float16))
        for name, value in weights.named(params).items()
    }
    about = {"format": FORMAT, "sha256": _sum(arrays), **about}
    atomic.write_bytes(path, safetensors.numpy.save(arrays, about))


def fill(params: Any, variant: str) -> Any:
    """Returns a network's params with its encoder's arrays replaced by ImageNet weights.

    Args:
        params: nested dictionaries; the encoder's are under `encoder`.
        variant: of the encoder.

    Raises:
        WeightsError: there is no file for the variant, it is damaged, or does not fit.
    """
    path = FOLDER / f"efficientnet_{variant}{weights.SUFFIX}"
    stored = _read(path)
    if "encoder" not in params:
        raise WeightsError(
            f"config.train.init_from is {NAME!r}, but the network has no encoder; choose "
            "config.model.name efficientnet or efficientnet_unet."
        )
    wanted = weights.named(params["encoder"])
    for name in sorted(set(wanted) | set(stored)):
        here, there = wanted.get(name), stored.get(name)
        if here is None or there is None or here.shape != there.shape:
            shapes = [None if one is None else one.shape for one in (there, here)]
            raise WeightsError(f"{path}: {name} is {shapes[0]}, not {shapes[1]}.")
    leaves = [jax.numpy.asarray(stored[name], leaf.dtype) for name, leaf in wanted.items()]
    encoder = jax.tree.unflatten(jax.tree.structure(params["encoder"]), leaves)
    return {**params, "encoder": encoder}


def variants() -> list[str]:
    """Returns the variants for which there are weights."""
    names = [p.name for p in FOLDER.iterdir()] if FOLDER.exists() else []
    prefix = "efficientnet_"
    return sorted(
        n[len(prefix) : -len(weights.SUFFIX)] for n in names if n.endswith(weights.SUFFIX)
    )


def _read(path: epath.Path) -> dict[str, np.ndarray]:
    if not path.exists():
        there = ", ".join(variants()) or "none"
        raise WeightsError(
            f"{path}: there is no such file; there are weights for {there}. "
            "tools/convert_efficientnet.py writes it."
        )
    try:
        with safetensors.safe_open(path, "numpy") as file:
            about = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} is damaged ({error}). Install the package again.") from error
    if about.get("format") != FORMAT or about.get("sha256") != _sum(arrays):
        raise WeightsError(f"{path} is damaged (its SHA-256 does not match). Install it again.")
    return arrays


def _sum(arrays: dict[str, np.ndarray]) -> str:
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype.str} {array.shape}\0".encode())
        found.update(array.tobytes())
    return found.hexdigest()
