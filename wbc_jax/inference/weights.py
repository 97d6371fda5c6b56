"""Weights in one file: what the package ships, and what one person gives another.

The file is safetensors: arrays and text, nothing that could run. It holds the network's arrays, the
config it was trained with, and of each image of its training and validation splits the data set,
id, group and perceptual hashes, so that nobody scores it on what it has seen without being told. A
SHA-256 of all that tells a file that was damaged on its way.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath

from wbc_jax import config_checks
from wbc_jax.config import Config, to_json
from wbc_jax.data import sources
from wbc_jax.errors import WeightsError
from wbc_jax.utils import atomic

SUFFIX = ".safetensors"
FORMAT = "wbc_jax weights 1"
SHIPPED = epath.Path(__file__).parent.parent / "shipped"
"""Folder of the package with the files that have a name of their own."""
INITIAL = f"initial{SUFFIX}"
"""In a run's folder: the weights that it began with (`config.train.init_from`)."""
_HASHES, _CELL_HASHES = "seen/hashes", "seen/cell_hashes"


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """What a file of weights holds.

    Attributes:
        config: of the training.
        step: training steps behind the weights.
        arrays: by path in the network, such as `params/encoder/0/conv1/kernel`.
        seen: (source, index) of each training and validation image; these sources have ids, groups
            and hashes only.
    """

    config: Config
    step: int
    arrays: dict[str, np.ndarray]
    seen: list[tuple[sources.Source, int]]


def shipped() -> list[str]:
    """Returns the names of the weights that the package ships."""
    if not SHIPPED.exists():
        return []
    return sorted(p.name.removesuffix(SUFFIX) for p in SHIPPED.iterdir() if p.suffix == SUFFIX)


def find(name: epath.PathLike) -> epath.Path | None:
    """Returns the file that `name` means: a name of `shipped()` or a path; None if it is neither.

    A folder of that name in the working directory comes first, as a run.
    """
    path = epath.Path(name).expanduser()
    if path.suffix == SUFFIX:
        return path
    if not path.exists() and str(name) in shipped():
        return SHIPPED / f"{name}{SUFFIX}"
    return None


def write(
    path: epath.PathLike,
    config: Config,
    step: int,
    weights: dict[str, Any],
    seen: Sequence[tuple[sources.Source, int]],
    dtype: np.typing.DTypeLike = np.float16,
) -> None:
    """Writes a file of weights, whole or not at all.

    Args:
        path: where; ends in `.safetensors`.
        config, step: of the training.
        weights: {`params`, `stats`} (`steps.TrainState.weights`). Running statistics stay float32,
            as a variance may be larger than float16 can hold.
        seen: the training and validation images, as `pipeline.Examples.entries`.
        dtype: of the params.

    Raises:
        WeightsError: a weight does not fit `dtype`, or the path has another ending.
        OSError: the file cannot be written.
    """
    if epath.Path(path).suffix != SUFFIX:
        raise WeightsError(f"{path}: a file of weights must end in {SUFFIX}.")
    arrays = {}
    for name, value in named(weights).items():
        kept = np.asarray(value)
        if name.startswith("params/"):
            with np.errstate(over="ignore"):
                kept = kept.astype(dtype)
        if not np.isfinite(kept).all():
            raise WeightsError(
                f"{name} holds values that {kept.dtype} cannot; choose float32 (--dtype=float32)."
            )
        arrays[name] = np.ascontiguousarray(kept)
    records = [[s.name, s.ids[i], s.groups[i]] for s, i in seen]
    for name, of in ((_HASHES, "hashes"), (_CELL_HASHES, "cell_hashes")):
        if seen and all(getattr(s, of) is not None for s, _ in seen):
            arrays[name] = np.stack([getattr(s, of)[i] for s, i in seen])
    about = {
        "format": FORMAT,
        "config": to_json(config),
        "step": str(step),
        "seen": json.dumps(records),
    }
    about["sha256"] = _sum(arrays, about)
    atomic.write_bytes(path, safetensors.numpy.save(arrays, about))


def read(path: epath.PathLike) -> Stored:
    """Reads a file of weights.

    Raises:
        WeightsError: it is missing, damaged or holds something else; says what.
        ConfigError: the config in it is not one of this version.
    """
    path = epath.Path(path)
    if not path.exists():
        raise WeightsError(f"{path}: there is no such file of weights.")
    data = path.read_bytes()
    try:
        arrays = safetensors.numpy.load(data)
        # The library checks the header but gives out its text for local paths only.
        length = int.from_bytes(data[:8], "little")
        about = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(
            f"{path} is damaged or no safetensors file ({error}). Get it again."
        ) from error
    if about.get("format") != FORMAT:
        raise WeightsError(
            f"{path} is marked {about.get('format')!r}; {FORMAT!r} is needed, as "
            "`python -m wbc_jax.export RUN --out=FILE.safetensors` writes it."
        )
    stored = about.pop("sha256", None)  # None: written before there was a sum
    known = set(about) == {"format", "config", "step", "seen"}
    if not known or stored not in (None, _sum(arrays, about)):
        raise WeightsError(f"{path} is damaged (not what its SHA-256 says). Get it again.")
    config = config_checks.from_json(about["config"], f"the config in {path}")
    try:
        seen = _entries(json.loads(about["seen"]), arrays)
        step = int(about["step"])
    except (KeyError, ValueError, TypeError) as error:
        raise WeightsError(
            f"{path}: the list of its training images is damaged ({error})."
        ) from error
    network = {name: a for name, a in arrays.items() if not name.startswith("seen/")}
    return Stored(config, step, network, seen)


def fill(like: Any, stored: Stored, path: epath.PathLike) -> Any:
    """Returns `like` ({`params`, `stats`}: shapes and types) filled with the stored arrays.

    Raises:
        WeightsError: a name or a shape differs.
    """
    wanted = named(like)
    if set(wanted) != set(stored.arrays):
        odd = sorted(set(wanted) ^ set(stored.arrays))
        where = "it lacks" if odd[0] in wanted else "its config has no"
        raise WeightsError(f"{path} does not fit its own config: {where} {odd[0]}.")
    for name, leaf in wanted.items():
        shape = stored.arrays[name].shape
        if shape != leaf.shape:
            raise WeightsError(
                f"{path} does not fit its own config: {name} is {shape}, not {leaf.shape}."
            )
    leaves = [stored.arrays[name].astype(leaf.dtype) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def named(tree: Any) -> dict[str, Any]:
    """Returns the leaves of nested dictionaries by their path, `/` between the keys."""
    return {
        "/".join(str(step.key) for step in path): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _sum(arrays: dict[str, np.ndarray], about: dict[str, str]) -> str:
    """SHA-256 of names, types, shapes and values of the arrays, and of the texts."""
    found = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        found.update(f"\0{name} {array.dtype.str} {array.shape}\0".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def _entries(records: list, arrays: dict[str, np.ndarray]) -> list[tuple[sources.Source, int]]:
    """The list of images as sources, one a data set, with nothing but what is known of them."""
    for name in (_HASHES, _CELL_HASHES):
        if name in arrays and arrays[name].shape != (len(records), 4):
            raise ValueError(f"{name} is {arrays[name].shape}, for {len(records)} images")
    places: dict[str, list[int]] = {}
    for i, (dataset, _, _) in enumerate(records):
        places.setdefault(dataset, []).append(i)
    seen = []
    for dataset, rows in places.items():
        n, blank = len(rows), ("",) * len(rows)
        source = sources.Source(
            name=dataset,
            ids=tuple(records[i][1] for i in rows),
            groups=tuple(records[i][2] for i in rows),
            sources=blank,
            subtypes=blank,
            label_sources=blank,
            labels=np.full(n, -1, np.int64),
            has_mask=np.zeros(n, bool),
            um_per_px=np.full(n, np.nan, np.float32),
            encoded=(),
            hashes=arrays[_HASHES][rows] if _HASHES in arrays else None,
            cell_hashes=arrays[_CELL_HASHES][rows] if _CELL_HASHES in arrays else None,
        )
        seen += [(source, i) for i in range(n)]
    return seen
