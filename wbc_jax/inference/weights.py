"""Weights files: the format in which the package ships models and people exchange them.

A file is safetensors, which holds arrays and text but no code. It has the network's arrays, the
config of the training, and a `RecordKey` of each training and validation image, so that scoring can
refuse images that the model has seen. A SHA-256 of everything reveals a damaged file.
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
from wbc_jax.data.keys import RecordKey
from wbc_jax.errors import WeightsError
from wbc_jax.utils import atomic

SUFFIX = ".safetensors"
FORMAT = "wbc_jax weights 1"
SHIPPED = epath.Path(__file__).parents[1] / "shipped"
"""Folder of the weights that the package ships, each known by its name."""
INITIAL = f"initial{SUFFIX}"
"""In a run's folder: the weights that training started from (`config.train.init_from`)."""
_HASHES, _CELL_HASHES = "seen/hashes", "seen/cell_hashes"


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """The content of a weights file.

    Attributes:
        config: of the training.
        step: number of training steps.
        arrays: by path in the network, such as `params/encoder/0/conv1/kernel`.
        seen: identities of the training and validation images.
        adapted: how `wbc_jax.adapt` made it of another model; None: it did not.
    """

    config: Config
    step: int
    arrays: dict[str, np.ndarray]
    seen: list[RecordKey]
    adapted: dict[str, Any] | None = None


def shipped() -> list[str]:
    """Returns the names of the weights that the package ships."""
    if not SHIPPED.exists():
        return []
    return sorted(p.name.removesuffix(SUFFIX) for p in SHIPPED.iterdir() if p.suffix == SUFFIX)


def find(name: epath.PathLike) -> epath.Path | None:
    """Returns the weights file that `name` means: a path, with or without its ending, or one of
    `shipped()`; None if neither.

    A folder of that name in the working directory takes precedence, as a run.
    """
    path = epath.Path(name).expanduser()
    if path.suffix == SUFFIX:
        return path
    if path.exists():
        return None
    if str(name) in shipped():
        return SHIPPED / f"{name}{SUFFIX}"
    file = path.parent / f"{path.name}{SUFFIX}"
    return file if path.name and file.exists() else None


def beside(name: epath.PathLike, file: str) -> epath.Path:
    """Returns the path of a file that belongs to a model: in the run's folder, or by the weights.

    Args:
        name: of the model, as for `wbc_jax.load`.
        file: its name in the folder of a run; beside the weights `a.safetensors` it is `a.FILE`.
    """
    if found := find(name):
        return found.parent / f"{found.name.removesuffix(SUFFIX)}.{file}"
    return epath.Path(name).expanduser() / file


def find_segmenter(name: str) -> epath.Path:
    """Returns the weights file that `config.data.isolate` names.

    Raises:
        WeightsError: the file does not exist.
    """
    file = find(name)
    if file is None or not file.exists():
        known = ", ".join(shipped()) or "none"
        raise WeightsError(
            f"config.data.isolate is {name!r}: no {SUFFIX} file and no shipped weights (there are: "
            f"{known})."
        )
    return file


def task_of(name: epath.PathLike) -> str:
    """Returns the task of a run, a weights file or shipped weights.

    Raises:
        As `read`; OSError: it is none of them.
    """
    if file := find(name):
        return read(file).config.task
    stored = epath.Path(name).expanduser() / "config.json"
    return config_checks.from_json(stored.read_bytes(), str(stored)).task


def own_segmenter_path(file: epath.Path) -> epath.Path:
    """Returns where the segmenter lies that is adapted together with the classifier of a file."""
    return file.parent / f"{file.name.removesuffix(SUFFIX)}.segmenter{SUFFIX}"


def own_segmenter(name: epath.PathLike) -> epath.Path | None:
    """Returns the segmenter that was adapted together with a classifier; None if there is none.

    Args:
        name: of the classifier, as for `find`.

    Raises:
        WeightsError: it is not beside the classifier, or is another one.
    """
    file = find(name)
    about = read(file).adapted if file is not None else None
    if not about or not about.get("segmenter"):
        return None
    path = file.parent / epath.Path(about["segmenter"]["file"]).name
    remedy = (
        f"{file} was adapted together with it. Put it there, or name a segmenter by a --model of "
        "its own."
    )
    if not path.exists():
        raise WeightsError(f"{path} is missing: {remedy}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != about["segmenter"]["sha256"]:
        raise WeightsError(f"{path} is another segmenter: {remedy}")
    return path


def write(
    path: epath.PathLike,
    config: Config,
    step: int,
    weights: dict[str, Any],
    seen: Sequence[RecordKey],
    dtype: np.typing.DTypeLike = np.float16,
    adapted: dict[str, Any] | None = None,
) -> None:
    """Writes a weights file, whole or not at all.

    Args:
        path: the file; its name ends in `.safetensors`.
        config, step: of the training.
        weights: {`params`, `stats`} (`steps.TrainState.weights`). Running statistics stay float32,
            as a variance may exceed the range of float16.
        seen: the training and validation images (`pipeline.Examples.keys`).
        dtype: of the params.
        adapted: as in `Stored`, to be written as JSON.

    Raises:
        WeightsError: a weight exceeds the range of `dtype`, or the path has another ending.
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
    records = [[key.dataset, key.id, key.group] for key in seen]
    for name, hashes in (
        (_HASHES, [key.hash for key in seen]),
        (_CELL_HASHES, [key.cell_hash for key in seen]),
    ):
        if hashes and None not in hashes:
            arrays[name] = np.frombuffer(b"".join(hashes), np.uint64).reshape(len(hashes), -1)
    about = {
        "format": FORMAT,
        "config": to_json(config),
        "step": str(step),
        "seen": json.dumps(records),
    }
    if adapted is not None:
        about["adapted"] = json.dumps(adapted)
    about["sha256"] = _sum(arrays, about)
    atomic.write_bytes(path, safetensors.numpy.save(arrays, about))


def read(path: epath.PathLike) -> Stored:
    """Reads a weights file.

    Raises:
        WeightsError: the file is missing, damaged or something else; says which.
        ConfigError: this version cannot read the config in it.
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
    stored = about.pop("sha256", None)  # None: a file from before there was a sum
    known = set(about) - {"adapted"} == {"format", "config", "step", "seen"}
    if not known or stored not in (None, _sum(arrays, about)):
        raise WeightsError(f"{path} is damaged (its SHA-256 does not match). Get it again.")
    config = config_checks.from_json(about["config"], f"the config in {path}")
    try:
        seen = _keys(json.loads(about["seen"]), arrays)
        step = int(about["step"])
        adapted = json.loads(about.get("adapted", "null"))
    except (KeyError, ValueError, TypeError) as error:
        raise WeightsError(
            f"{path}: the list of its training images is damaged ({error})."
        ) from error
    network = {name: a for name, a in arrays.items() if not name.startswith("seen/")}
    return Stored(config, step, network, seen, adapted)


def fill(like: Any, stored: Stored, path: epath.PathLike) -> Any:
    """Returns a tree like `like` ({`params`, `stats`}: shapes and types) of the stored arrays.

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


def digest(tree: Any) -> str:
    """Returns a SHA-256 of the names, types, shapes and values of a tree of weights."""
    found = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(tree):
        array = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def named(tree: Any) -> dict[str, Any]:
    """Returns the leaves of nested dictionaries by path; `/` separates the keys."""
    return {
        "/".join(str(step.key) for step in path): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _sum(arrays: dict[str, np.ndarray], about: dict[str, str]) -> str:
    """Returns the SHA-256 of the arrays' names, types, shapes and values, and of the texts."""
    found = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        found.update(f"\0{name} {array.dtype.str} {array.shape}\0".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def _keys(records: list, arrays: dict[str, np.ndarray]) -> list[RecordKey]:
    """Returns the identities of the images that a file lists."""
    columns = []
    for name in (_HASHES, _CELL_HASHES):
        hashes = arrays.get(name)
        if hashes is None:
            columns.append([None] * len(records))
            continue
        if hashes.shape != (len(records), 4):
            raise ValueError(f"{name} is {hashes.shape}, for {len(records)} images")
        columns.append([row.tobytes() for row in hashes])
    return [
        RecordKey(dataset, id, group, *hashes)
        for (dataset, id, group), *hashes in zip(records, *columns)
    ]
