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
from wbc_jax.models import efficientnet
from wbc_jax.utils import atomic

NAME = "imagenet"
"""Value of `config.train.init_from` that means these weights."""
FOLDER = weights.SHIPPED / "encoders"
FORMAT = "wbc_jax encoder 1"


def write(path: epath.PathLike, params: Any, about: dict[str, str]) -> None:
    """Writes an encoder's params as float16, whole or not at all.

    Args:
        path: the file, `efficientnet_<variant>.safetensors`.
        params: nested dictionaries of the encoder's arrays.
        about: texts for the metadata, such as source and license.

    Raises:
        WeightsError: a weight exceeds the range of float16; nothing is written.
    """
    arrays = {}
    for name, value in weights.named(params).items():
        with np.errstate(over="ignore"):
            arrays[name] = np.ascontiguousarray(np.asarray(value).astype(np.float16))
        if not np.isfinite(arrays[name]).all():
            raise WeightsError(f"{path}: {name} holds values that float16 cannot.")
    about = {"format": FORMAT, "sha256": _sum(arrays), **about}
    atomic.write_bytes(path, safetensors.numpy.save(arrays, about))


def fill(params: Any, variant: str) -> Any:
    """Returns a network's params with its encoder's arrays replaced by ImageNet weights.

    Args:
        params: nested dictionaries; the encoder's are under `encoder`.
        variant: of the encoder.

    Raises:
        WeightsError: the network has no such encoder, or there is no file for the variant, or it is
            damaged or does not fit.
    """
    # A U-Net's contracting path has the name as well.
    if "stem" not in params.get("encoder", {}):
        raise WeightsError(
            f"config.train.init_from is {NAME!r}, but the network has no such encoder; choose "
            "config.model.name efficientnet or efficientnet_unet."
        )
    path = _path(variant)
    stored = _read(path)
    wanted = weights.named(params["encoder"])
    for name in sorted(set(wanted) | set(stored)):
        there, here = (
            str(arrays[name].shape) if name in arrays else "not there"
            for arrays in (stored, wanted)
        )
        if there != here:
            raise WeightsError(
                f"{path} does not fit the network: {name} is {there} in the file and {here} in the "
                "network. The weights are for config.model.channels 3."
            )
    leaves = [jax.numpy.asarray(stored[name], leaf.dtype) for name, leaf in wanted.items()]
    encoder = jax.tree.unflatten(jax.tree.structure(params["encoder"]), leaves)
    return {**params, "encoder": encoder}


def variants() -> list[str]:
    """Returns the variants for which there are weights."""
    return [variant for variant in efficientnet.VARIANTS if _path(variant).exists()]


def _path(variant: str) -> epath.Path:
    return FOLDER / f"efficientnet_{variant}{weights.SUFFIX}"


def _read(path: epath.Path) -> dict[str, np.ndarray]:
    if not path.exists():
        there = ", ".join(variants()) or "none"
        raise WeightsError(
            f"{path}: there is no such file; config.model.variant may be {there}, or "
            "tools/convert_efficientnet.py writes the file."
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
