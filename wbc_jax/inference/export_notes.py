"""Describes an exported file: what it computes, what must be done before it and after it.

The notes go into the file and, with the file's SHA-256, into a JSON file beside it, by which a
later export knows the file as its own.
"""

import hashlib
import importlib.metadata
import json
from typing import Any

from etils import epath

from wbc_jax.data import isolation
from wbc_jax.errors import AbstentionError, ConfigError, ExportError, WeightsError
from wbc_jax.inference import abstention, weights
from wbc_jax.inference import model as inference
from wbc_jax.utils import atomic

FORMAT = "wbc_jax export 1"
RESIZE = (
    "If both sides shrink, average areas: each new pixel is the mean of the old ones that it "
    "covers, weighted by the covered share. Otherwise interpolate bilinearly between the centers "
    "of pixels, without antialiasing; beyond the outer centers the edge is repeated. Round to the "
    "next whole number. docs/export.md has it in NumPy."
)
UPSAMPLE = (
    "Resize the logits bilinearly to the height and width of the image, between the centers of "
    "pixels, without antialiasing; beyond the outer centers the edge is repeated."
)
NOT_INCLUDED = (
    "Not included: to find the cells of a field (the input is an image of one cell); the standard "
    "light and position in which images are shown to the networks (docs/robustness.md); and the "
    "abstention rule, which leaves cells to a person. `python -m wbc_jax.predict` does all three."
)


def describe(name: str, model: inference.Model, network_only: bool) -> dict[str, Any]:
    """Returns the notes of an exported file.

    Args:
        name: of the model, as for `wbc_jax.load`.
        model: the model.
        network_only: the file holds the network alone.

    Raises:
        AbstentionError: the model's abstention rule is damaged.
    """
    config = model.config
    masks = config.task == "segmentation"
    side = config.data.image_size
    before, after = _before(model), _after(model)
    rule = None if masks else abstention.read_for(name, model)
    logits = {"name": "logits", "dtype": "float32"}
    if network_only:
        size = [side, side]
        output = logits | {
            "shape": ["B", *(size if masks else []), 3 if masks else len(model.types)]
        }
    else:
        size = ["H", "W"]
        output = (
            {"name": "mask", "dtype": "uint8", "shape": ["B", "H", "W"]}
            if masks
            else {"name": "probabilities", "dtype": "float32", "shape": ["B", len(model.types)]}
        )
    return {
        "format": FORMAT,
        "model": epath.Path(name).name,
        "network": config.model.name,
        "task": config.task,
        "holds": "the network alone" if network_only else "the whole function",
        "input": {
            "name": "images", "dtype": "uint8", "shape": ["B", *size, 3], "colors": "RGB",
            "values": "0 to 255",
        },
        "output": output,
        "classes": ["background", "cytoplasm", "nucleus"] if masks else list(model.types),
        "before": before if network_only else [],
        "within": [*([] if network_only else before), _network(model),
                   *([] if network_only else after)],
        "after": after if network_only else [],
        "resize": RESIZE,
        "not_included": NOT_INCLUDED,
        "temperature": rule and rule.temperature,
        "versions": {n: importlib.metadata.version(n) for n in ("wbc_jax", "jax")},
    }  # fmt: skip


def _before(model: inference.Model) -> list[str]:
    side, isolate = model.config.data.image_size, model.config.data.isolate
    resize = f"Resize the image to {side}×{side} pixels as `resize` says."
    if not isolate:
        return [resize]
    return [
        f"Predict the mask of the image with the segmenter {epath.Path(isolate).name!r}, without "
        "averaging over reflections, and with all cells of the image.",
        "Scale each color so that the 97th percentile of every second pixel of every second row "
        f"is {isolation.WHITE}.",
        *_stain(isolation.Stain.of(model.config.data)),
        f"Cut the image to the cell in the middle of the mask, with {100 * isolation.MARGIN:g} % "
        f"of the cell's longer side around it, and paint all but the cell in the gray "
        f"{isolation.GROUND} (wbc_jax.data.isolation.isolate, which also scales the colors).",
        resize,
    ]


def _stain(stain: isolation.Stain) -> list[str]:
    if not stain.nucleus:
        return []
    steps = [
        f"Turn each color into its optical density, -log(color / {isolation.WHITE}), and multiply "
        "all by one factor, so that the median green of the cell's nucleus has "
        f"{stain.nucleus:g}; the factor is between {isolation.LEAST_POWER:g} and "
        f"{isolation.MOST_POWER:g}."
    ]
    if stain.red_cells:
        steps.append(
            "Raise the densities, relative to the nucleus's, to the power that brings the median "
            f"green of the red cells beside the cell to {stain.red_cells:g}, between "
            f"{isolation.LEAST_GAMMA:g} and {isolation.MOST_GAMMA:g}; {isolation.USUAL_GAMMA:g} if "
            "there are no red cells (wbc_jax.data.isolation says which pixels are red cells)."
        )
    steps[-1] += " Then turn the densities into colors again."
    return steps


def _network(model: inference.Model) -> str:
    flips = ", averaged over the four reflections" if model.config.evaluate.flips else ""
    return f"Compute the logits{flips}. Pixels are scaled inside the network."


def _after(model: inference.Model) -> list[str]:
    if model.config.task == "classification":
        return ["Softmax gives the probabilities of the classes."]
    steps = [UPSAMPLE, "The class with the highest logit is the pixel's."]
    if model.config.evaluate.middle_cell:
        steps.append(
            "Keep the cell in the middle of the mask alone "
            "(wbc_jax.data.isolation.keep_middle_cell)."
        )
    return steps


def sentences(notes: dict[str, Any]) -> list[str]:
    """Returns the lines that the command prints about a file."""
    shape = ", ".join(map(str, notes["input"]["shape"]))
    lines = [
        f"It holds {notes['holds']}: uint8 RGB images [{shape}] to {notes['output']['name']} "
        f"[{', '.join(map(str, notes['output']['shape']))}]."
    ]
    for when in ("before", "after"):
        if notes[when]:
            lines.append(f"{when.capitalize()} it you must do this, or its answers are wrong:")
            lines += [f"  {number}. {step}" for number, step in enumerate(notes[when], 1)]
    if notes["before"]:
        lines.append(f"  `resize`: {notes['resize']}")
    return [*lines, notes["not_included"]]


def path(file: epath.Path) -> epath.Path:
    """Returns the path of the notes beside an exported file."""
    return file.parent / f"{file.name}.json"


def write(file: epath.Path, data: bytes, notes: dict[str, Any]) -> None:
    """Writes an exported file, and its notes beside it.

    Raises:
        OSError: one cannot be written.
    """
    atomic.write_bytes(file, data)
    about = {"file": atomic.utf8(file.name), "sha256": hashlib.sha256(data).hexdigest()}
    atomic.write_json(path(file), notes | about)


def check_free(file: epath.Path) -> None:
    """Checks that an export would overwrite nothing but what an earlier export wrote.

    A file of weights is known by its format, others by the SHA-256 in the notes beside them.

    Raises:
        ExportError: it would; names the file.
    """
    if file.is_dir():
        raise ExportError(f"--out={file} is a folder; name a file in it.")
    if file.suffix == weights.SUFFIX:
        _check_weights(file)
        return
    beside = path(file)
    known = _read(beside)
    if beside.exists() and known is None:
        raise _refusal(beside, "it does not describe an export")
    if not file.exists():
        return
    if known is None:
        raise _refusal(file, f"there is no {beside.name} that describes it")
    if hashlib.sha256(file.read_bytes()).hexdigest() != known.get("sha256"):
        raise _refusal(file, f"its SHA-256 is not that in {beside.name}")


def _check_weights(file: epath.Path) -> None:
    if file.exists():
        try:
            weights.read(file)
        except (WeightsError, ConfigError) as error:
            raise _refusal(file, str(error)) from error
    try:
        abstention.read(file)
    except AbstentionError as error:
        raise _refusal(abstention.rule_path(file), str(error)) from error


def _refusal(file: epath.Path, reason: str) -> ExportError:
    return ExportError(
        f"{file} exists, and no export wrote it ({reason}). Nothing was written: move that file, "
        "or name another --out."
    )


def _read(beside: epath.Path) -> dict[str, Any] | None:
    """Returns the notes in a file; None if there are none."""
    try:
        stored = json.loads(beside.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return stored if isinstance(stored, dict) and stored.get("format") == FORMAT else None
