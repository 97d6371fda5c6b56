"""Adapts the models to your laboratory: `python -m wbc_jax.adapt DIR… --out=my_lab`.

DIR is the --out of `python -m wbc_jax.predict`, with types and masks corrected by `python -m
wbc_jax.review`, or with types in a CSV file: `--labels=FILE` with the columns file, cell and type.
The classifier gets a layer for the cells of your laboratory, with types of your own, and keeps what
it knew of others; its abstention rule is fitted again. The segmenter is trained a little further,
if five masks or more were corrected. Prints the scores before and after on cells held back, and
writes nothing that got worse.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from etils import epath

from wbc_jax import cli
from wbc_jax.errors import InputError
from wbc_jax.utils import stopping

if TYPE_CHECKING:
    from wbc_jax.corrections import adaptation, cells, painted, typed
    from wbc_jax.data.keys import RecordKey
    from wbc_jax.fields import analyze as fields
    from wbc_jax.inference import adapting, mask_tuning, replay
    from wbc_jax.inference import model as inference

SUFFIX = ".safetensors"


def _parser() -> argparse.ArgumentParser:
    parser = cli.parser("adapt", __doc__)
    parser.add_argument(
        "folders", nargs="+", metavar="DIR", help="the --out of `python -m wbc_jax.predict`"
    )
    parser.add_argument("--out", required=True, help=f"the model to write, NAME or NAME{SUFFIX}")
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        help="as in the prediction: the segmenter, and the classifier to adapt; by default the "
        "shipped ones",
    )
    parser.add_argument(
        "--labels",
        help="CSV file with the columns file, cell and type (and reviewer), instead of what the "
        "review wrote",
    )
    parser.add_argument(
        "--reviewer", action="append", default=[], help="whose words count; by default everybody's"
    )
    parser.add_argument(
        "--on_conflict",
        choices=("stop", "drop"),
        default="stop",
        help="what to do with cells on whose type people differ: stop, the default, or leave them "
        "out",
    )
    parser.add_argument(
        "--only",
        choices=("types", "masks"),
        help="learn only the types, or only the masks; by default both, where they were corrected",
    )
    parser.add_argument("--images", help="folder of the images, where they have moved")
    parser.add_argument(
        "--find", choices=("auto", "yes", "no"), default="auto", help="as in the prediction"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the module's docstring."""
    given = _parser().parse_args(argv)
    with cli.reported_errors(), stopping.stopped_by_signals():
        _adapt(given)


def _adapt(given: argparse.Namespace) -> None:
    from wbc_jax.corrections import adaptation
    from wbc_jax.fields import analyze as fields
    from wbc_jax.inference import export_notes, weights
    from wbc_jax.utils import atomic

    name = given.out if given.out.endswith(SUFFIX) else f"{given.out}{SUFFIX}"
    out = epath.Path(name).expanduser()
    beside = weights.own_segmenter_path(out)
    for path in (out, beside):
        export_notes.check_free(path)
    atomic.check_writable(out.parent)
    found = [_read(folder, given) for folder in dict.fromkeys(given.folders)]
    names = given.model or [fields.SEGMENTER, fields.CLASSIFIER]
    painted = _enough_masks(given, found)
    types, notes = adaptation.types_of([name for one in found for name in one.said.types])
    _note(*notes)
    typed = _enough_types(given, found, types, painted)
    models = fields.load_models(names)
    base = kept = None
    if typed:
        base, kept = _base(names, models)
    tuned = None
    if painted:
        tuned, keys = _tune(given, found, models, names)
        if tuned is not None:
            models = dataclasses.replace(models, segmenter=tuned.model)
        elif not typed:
            raise InputError("nothing is written: correct more masks, or look at those corrected.")
    learned = typed and _learn_types(given, found, models, kept, types, tuned is not None)
    replaced, about = [base] if learned else [], None
    if tuned is not None:
        old = _named(names, "segmentation")
        replaced.append(old)
        about = _write_masks(beside if learned else out, old, tuned, keys, found)
    if learned:
        _write(out, base, models.classifier, *learned, [one.said for one in found], about)
    known = [one for one in names if one not in replaced]
    flags = "".join(f" --model={one}" for one in (*known, out))
    print(f"{out}: use it by `python -m wbc_jax.predict IMAGES --out=DIR{flags}`", flush=True)


@dataclasses.dataclass(frozen=True, slots=True)
class _Folder:
    """A folder of results, and the types and masks that people said."""

    results: cells.Results
    said: typed.Typed
    painted: painted.Painted


def _read(folder: str, given: argparse.Namespace) -> _Folder:
    from wbc_jax.corrections import cells, painted, typed

    results = cells.read(folder)
    words, notes = (
        typed.from_csv(results, given.labels) if given.labels else typed.from_log(results)
    )
    drawn = painted.from_log(results, given.reviewer)
    said = typed.settle(results, words, given.reviewer, given.on_conflict, drawn.by)
    _note(*notes, *said.notes, *drawn.notes)
    return _Folder(results, said, drawn)


def _note(*lines: str) -> None:
    for line in lines:
        print(f"note: {line}", file=sys.stderr, flush=True)


def _enough_masks(given: argparse.Namespace, found: Sequence[_Folder]) -> bool:
    """Returns whether masks are to be learned.

    Raises:
        InputError: they alone are asked for, and do not suffice.
    """
    from wbc_jax.corrections import mask_adaptation

    count = sum(len(one.painted.cells) for one in found)
    few = mask_adaptation.too_few(count)
    if few and given.only == "masks":
        raise InputError(f"{few}: correct more by `python -m wbc_jax.review DIR`.")
    if few and count and not given.only:
        _note(f"{few}, so it stays as it is.")
    return not few and given.only != "types"


def _enough_types(
    given: argparse.Namespace, found: Sequence[_Folder], types: Sequence[str], masks: bool
) -> bool:
    """Returns whether types are to be learned.

    Raises:
        InputError: neither types nor masks suffice.
    """
    from wbc_jax.corrections import adaptation

    if given.only == "masks":
        return False
    names = [name for one in found for name in one.said.types]
    try:
        adaptation.check(names, types)
    except InputError as error:
        if not masks:
            raise
        if names:
            _note(f"{error} The classifier stays as it is.")
        return False
    return True


def _base(names: Sequence[Any], models: fields.Models) -> tuple[Any, replay.Replay]:
    """Returns the name of the classifier to adapt, and its replay."""
    from wbc_jax.inference import replay

    if models.classifier is None or models.rule is None or models.rule.seen is None:
        raise InputError(
            f"--model={', --model='.join(map(str, names))} names no classifier with a rule: name "
            "one, such as the shipped classifier, and fit its rule by `python -m wbc_jax.abstain "
            "MODEL`."
        )
    replay.check_adapts(models.classifier)
    base = _named(names, "classification")
    return base, replay.read(base)


def _tune(
    given: argparse.Namespace, found: Sequence[_Folder], models: fields.Models, names: Sequence[Any]
) -> tuple[mask_tuning.Tuned | None, list[RecordKey]]:
    """Returns the segmenter tuned to the corrected masks, None if it is refused; and the
    identities of the cells."""
    from wbc_jax.corrections import mask_adaptation
    from wbc_jax.inference import weights

    if models.segmenter is None:
        _note("no --model names a segmenter, so the corrected masks are not learned.")
        return None, []
    file = weights.find(_named(names, "segmentation"))
    if file is not None and weights.read(file).adapted:
        raise InputError(
            f"{file} is adapted already: name the segmenter that it was made of, and all folders "
            "whose corrections it is to learn; or --only=types."
        )
    folders = [(one.results, one.painted) for one in found]
    gathered = mask_adaptation.gather(folders, models.segmenter, given.images, given.find)
    _note(*gathered.notes)
    if few := mask_adaptation.too_few(len(gathered.windows)):
        _note(f"{few}, so it stays as it is.")
        return None, []
    tuned = mask_adaptation.tune(models.segmenter, gathered.windows)
    both = models.segmenter, tuned.model
    others = mask_adaptation.agreement(folders, both, given.images, given.find)
    print(mask_adaptation.describe(tuned, gathered.windows.groups, others), flush=True)
    if reason := mask_adaptation.refusal(tuned):
        _note(f"{reason}: the segmenter stays as it is.")
        return None, []
    return tuned, gathered.keys


def _learn_types(
    given: argparse.Namespace,
    found: Sequence[_Folder],
    models: fields.Models,
    kept: replay.Replay,
    types: Sequence[str],
    masks: bool,
) -> tuple[adaptation.Outcome, adapting.Labeled, list[RecordKey]] | None:
    """Returns the adapted classifier, its cells and their identities.

    Returns:
        None if it got worse, but masks are adapted.

    Raises:
        InputError: it got worse.
    """
    from wbc_jax.corrections import adaptation, embedding

    said = [(one.results, one.said) for one in found]
    labeled, keys, before, notes = embedding.label(said, models, types, given.images, given.find)
    _note(*notes)
    adaptation.check([types[label] for label in labeled.labels], types)  # some may be gone
    outcome = adaptation.adapt(models.rule, kept, labeled, types, before)
    print(adaptation.describe(outcome), flush=True)
    if min(outcome.gain, outcome.accuracy_gain) < 0:
        worse = (
            f"the adapted model is worse on the cells held back (macro recall {outcome.gain:+.3f}, "
            f"accuracy {outcome.accuracy_gain:+.3f})"
        )
        if not masks:
            raise InputError(
                f"{worse}, so nothing is written: check the types that were said, or correct more "
                "cells."
            )
        _note(f"{worse}: the classifier stays as it is.")
        return None
    return outcome, labeled, keys


def _named(names: Sequence[Any], task: str) -> Any:
    """Returns the one of one or two names that means the model of a task; None if none does."""
    from wbc_jax.inference import weights

    return next((name for name in names if weights.task_of(name) == task), None)


def _origin(base: Any, model: inference.Model, count: int) -> dict[str, Any]:
    """Returns what a file says of the model that it was made of."""
    from wbc_jax.corrections import log
    from wbc_jax.inference import weights

    file = weights.find(base)
    return {
        "model": epath.Path(base).name,  # no paths of this machine
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest()
        if file is not None
        else weights.digest(model.weights),
        "time": log.now(),
        "corrections": count,
    }


def _write_masks(
    path: epath.Path,
    base: Any,
    tuned: mask_tuning.Tuned,
    keys: Sequence[RecordKey],
    found: Sequence[_Folder],
) -> dict[str, str]:
    """Writes the segmenter; returns how a classifier refers to it."""
    import numpy as np

    from wbc_jax import provenance
    from wbc_jax.inference import model as inference
    from wbc_jax.inference import weights

    old = inference.load(base)
    about = _origin(base, old, len(keys)) | {
        "reviewers": sorted({name for one in found for name in one.painted.by}),
        "gain": tuned.gain,
        "mean_iou": [tuned.before.mean_iou, tuned.after.mean_iou],
        "drawn_mean_iou": [tuned.drawn_before.mean_iou, tuned.drawn_after.mean_iou],
    }
    seen = [*provenance.seen_by(base, old), *keys]
    config = provenance.portable(old.config)
    # In float32, as it was measured.
    weights.write(path, config, old.step, tuned.model.weights, seen, np.float32, about)
    return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def _write(
    out: epath.Path,
    base: Any,
    model: inference.Model,
    outcome: adaptation.Outcome,
    labeled: adapting.Labeled,
    keys: Sequence[RecordKey],
    said: Sequence[typed.Typed],
    segmenter: dict[str, str] | None,
) -> None:
    import numpy as np

    from wbc_jax import provenance
    from wbc_jax.inference import abstention, weights

    types = outcome.types
    counts = np.bincount(labeled.labels, minlength=len(types)).tolist()
    about = _origin(base, model, len(labeled)) | {
        "types": dict(zip(types, counts)),
        "reviewers": sorted({name for one in said for name in one.reviewers}),
        "gain": outcome.gain,
    }
    if segmenter:
        about["segmenter"] = segmenter
    seen = [*provenance.seen_by(base, model), *keys]
    # The rule first: a process killed in between leaves no model without one.
    abstention.write(out, outcome.rule)
    config = provenance.portable(model.config)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, types=types))
    layer = {name: getattr(outcome.adapted.layer, name) for name in ("kernel", "bias")}
    layer = {name: np.asarray(value, np.float32) for name, value in layer.items()}
    params = {**model.weights["params"], "laboratory": layer}
    # In float32, all other layers stay as they are.
    new = {**model.weights, "params": params}
    weights.write(out, config, model.step, new, seen, np.float32, about)


if __name__ == "__main__":
    main()
