"""Adapts a classifier to your laboratory: `python -m wbc_jax.adapt DIR… --out=my_lab`.

DIR is the --out of `python -m wbc_jax.predict`, with types corrected by `python -m wbc_jax.review`,
or by a CSV file: `--labels=FILE` with the columns file, cell and type. The model gets a layer for
the cells of your laboratory, with types of your own, and keeps what it knew of others; its
abstention rule is fitted again. Prints the scores before and after on cells held back, and writes
nothing if they got worse.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from etils import epath

from wbc_jax import cli
from wbc_jax.errors import InputError
from wbc_jax.utils import stopping

if TYPE_CHECKING:
    import numpy as np

    from wbc_jax.corrections import adaptation, typed
    from wbc_jax.data.keys import RecordKey
    from wbc_jax.fields import analyze as fields
    from wbc_jax.inference import adapting
    from wbc_jax.inference import model as inference

SUFFIX = ".safetensors"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m wbc_jax.adapt",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
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
    from wbc_jax.corrections import adaptation, cells, typed
    from wbc_jax.fields import analyze as fields
    from wbc_jax.inference import export_notes, replay
    from wbc_jax.utils import atomic

    name = given.out if given.out.endswith(SUFFIX) else f"{given.out}{SUFFIX}"
    out = epath.Path(name).expanduser()
    export_notes.check_free(out)
    atomic.check_writable(out.parent)
    found = []
    for folder in dict.fromkeys(given.folders):
        results = cells.read(folder)
        words, notes = (
            typed.from_csv(results, given.labels) if given.labels else typed.from_log(results)
        )
        said = typed.settle(results, words, given.reviewer, given.on_conflict)
        for note in (*notes, *said.notes):
            print(f"note: {note}", file=sys.stderr)
        found.append((results, said))
    types, notes = adaptation.types_of([name for _, said in found for name in said.types])
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    adaptation.check([name for _, said in found for name in said.types], types)
    names = given.model or [fields.SEGMENTER, fields.CLASSIFIER]
    models = fields.load_models(names)
    model, rule = models.classifier, models.rule
    if model is None or rule is None or rule.seen is None:
        raise InputError(
            f"--model={', --model='.join(map(str, names))} names no classifier with a rule: name "
            "one, such as the shipped classifier, and fit its rule by `python -m wbc_jax.abstain "
            "MODEL`."
        )
    replay.check_adapts(model)
    base = _classifier_name(names)
    kept = replay.read(base)
    labeled, keys, before = _embed(given, found, models, types)
    adaptation.check([types[label] for label in labeled.labels], types)  # some may be gone
    outcome = adaptation.adapt(rule, kept, labeled, types, before)
    print(adaptation.describe(outcome), flush=True)
    if min(outcome.gain, outcome.accuracy_gain) < 0:
        raise InputError(
            f"the adapted model is worse on the cells held back (macro recall {outcome.gain:+.3f}, "
            f"accuracy {outcome.accuracy_gain:+.3f}), so nothing is written: check the types that "
            "were said, or correct more cells."
        )
    _write(out, base, model, outcome, labeled, keys, [said for _, said in found])
    segmenters = [one for one in names if one != base]
    flags = "".join(f" --model={one}" for one in (*segmenters, out))
    print(f"{out}: use it by `python -m wbc_jax.predict IMAGES --out=DIR{flags}`", flush=True)


def _embed(
    given: argparse.Namespace,
    found: Sequence[tuple[Any, typed.Typed]],
    models: fields.Models,
    types: Sequence[str],
) -> tuple[adapting.Labeled, list[RecordKey], np.ndarray]:
    """Returns the corrected cells, their identities, and the probabilities of their types in the
    results, float64 `[N, K]`."""
    import numpy as np

    from wbc_jax.corrections import embedding, pictures
    from wbc_jax.inference import adapting
    from wbc_jax.inference.abstention import Outputs
    from wbc_jax.utils.progress import Progress

    size = models.classifier.embedding_size
    models = dataclasses.replace(models, classifier=models.classifier.with_features())
    parts, labels, groups, keys, before = [], [], [], [], []
    progress = Progress("image", sum(len({cell.file for cell in said.cells}) for _, said in found))
    done = 0

    def show(count: int) -> None:
        nonlocal done
        done += count
        progress.update(done, count)

    for results, said in found:
        places = [i for i, name in enumerate(said.types) if name in types]
        shown = pictures.Pictures(results, given.images)
        own = embedding.embed([said.cells[i] for i in places], models, shown, given.find, show)
        for note in own.notes:
            print(f"note: {note}", file=sys.stderr)
        if own.outputs is None:
            continue
        parts.append(own.outputs)
        keys += own.keys
        for place, logits in zip((places[i] for i in own.places), own.outputs.logits):
            cell = said.cells[place]
            labels.append(types.index(said.types[place]))
            groups.append(cell.file)
            before.append(_before(cell.row, types, logits))
    progress.close()
    outputs = Outputs.joined(parts)
    if outputs is None:
        raise InputError(
            "none of the corrected cells is found again in its image: name the --model, --find and "
            "--images of the prediction."
        )
    features = outputs.embeddings[:, size:]
    outputs = Outputs(outputs.logits, np.ascontiguousarray(outputs.embeddings[:, :size]))
    labeled = adapting.Labeled(features, outputs, np.array(labels, np.int64), np.array(groups))
    return labeled, keys, np.stack(before)


def _before(row: Mapping[str, Any], types: Sequence[str], logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities `[K]` of a cell's types by its row of the results, which has only
    the highest; by the logits of the classifier, if the results have no types."""
    import numpy as np
    from scipy import special

    guess, highest = row["best_guess"], row["probability"] or 0.0
    if guess not in types:
        found = np.zeros(len(types))
        found[: len(logits)] = special.softmax(logits)
        return found
    found = np.full(len(types), (1 - highest) / (len(types) - 1))
    found[types.index(guess)] = max(highest, 1 / len(types) + 1e-6)
    return found


def _classifier_name(names: Sequence[Any]) -> Any:
    """Returns the one of one or two names that means the classifier."""
    from wbc_jax.inference import weights

    def task(name: Any) -> str:
        file = weights.find(name)
        if file is not None:
            return weights.read(file).config.task
        from wbc_jax import config_checks

        stored = epath.Path(name).expanduser() / "config.json"
        return config_checks.from_json(stored.read_bytes(), str(stored)).task

    return next(name for name in names if task(name) == "classification")


def _write(
    out: epath.Path,
    base: Any,
    model: inference.Model,
    outcome: adaptation.Outcome,
    labeled: adapting.Labeled,
    keys: Sequence[RecordKey],
    said: Sequence[typed.Typed],
) -> None:
    import numpy as np

    from wbc_jax import provenance
    from wbc_jax.corrections import log
    from wbc_jax.inference import abstention, weights

    file, types = weights.find(base), outcome.types
    counts = np.bincount(labeled.labels, minlength=len(types)).tolist()
    about = {
        "model": epath.Path(base).name,  # no paths of this machine
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest()
        if file is not None
        else weights.digest(model.weights),
        "time": log.now(),
        "corrections": len(labeled),
        "types": dict(zip(types, counts)),
        "reviewers": sorted({name for one in said for name in one.reviewers}),
        "gain": outcome.gain,
    }
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
