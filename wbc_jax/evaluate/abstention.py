"""Scores an abstention rule on cells of the known types and on other things."""

from typing import Any

import numpy as np
from etils import epath

from wbc_jax import metrics
from wbc_jax.data import pipeline
from wbc_jax.data.images import read_image
from wbc_jax.errors import AbstentionError, DataError
from wbc_jax.inference import abstention, abstention_fitting
from wbc_jax.inference import model as inference
from wbc_jax.inference.abstention import Outputs, Rule
from wbc_jax.tfds_builders.pbc import pbc_dataset_builder as pbc


def measure(rule: Rule, known: Outputs, labels: np.ndarray, odd: Outputs) -> dict[str, Any]:
    """Scores a rule on cells of the known types and on other things.

    Args:
        rule: fitted to other images.
        known: outputs for N cells of the known types.
        labels: int `[N]`, their true types.
        odd: outputs for other things.

    Returns:
        `auroc` of separating the two by `probability` (1 − the calibrated probability), `energy`
        and `unlike` (the rule's own measure); `known` and `odd` (number of `images`, and `typed`,
        the share on which the rule does not abstain, with its 95 % Wilson interval); and
        `accuracy` on the known cells: on those `typed`, and on `all`.
    """
    typed = {
        name: np.array([not reason for reason in rule.reasons(outputs)])
        for name, outputs in (("known", known), ("odd", odd))
    }
    is_odd = np.repeat([0, 1], [len(known), len(odd)])
    logits = np.concatenate([known.logits, odd.logits])
    probabilities = np.concatenate([rule.probabilities(outputs) for outputs in (known, odd)])
    scores = {
        "probability": 1 - probabilities.max(-1),
        "energy": abstention.energy(logits),
        "unlike": np.concatenate(
            [abstention.unlike(rule.seen, outputs) for outputs in (known, odd)]
        ),
    }
    right = known.logits.argmax(-1) == labels
    of_typed = right[typed["known"]]
    return {
        "auroc": {
            name: float(metrics.auroc(is_odd, np.stack([-score, score], -1))[1])
            for name, score in scores.items()
        },
        **{
            name: {"images": len(found), "typed": metrics.proportion(int(found.sum()), len(found))}
            for name, found in typed.items()
        },
        "accuracy": {
            "typed": metrics.proportion(int(of_typed.sum()), len(of_typed)),
            "all": metrics.proportion(int(right.sum()), len(right)),
        },
    }


def other_paths(manual_dir: str) -> dict[str, list[epath.Path]]:
    """Finds pbc's images of other things than the five types, by kind.

    Args:
        manual_dir: folder of the data sets.

    Raises:
        DataError: they are missing.
    """
    manual = epath.Path(manual_dir).expanduser()
    folder = next((manual / f for f in pbc.FOLDERS if (manual / f / "platelet").is_dir()), None)
    if folder is None:
        raise DataError(f"{manual}: holds no {pbc.FOLDERS[0]}/platelet; see --manual_dir")
    found: dict[str, list[epath.Path]] = {}
    for kind, path in pbc.find_images(folder, pbc.OTHER_CLASSES):
        found.setdefault(kind, []).append(path)
    return found


def other_cells(manual_dir: str, fitted: bool) -> dict[str, list[np.ndarray]]:
    """Reads pbc's images of other things than the five types, by kind.

    Args:
        manual_dir: folder of the data sets.
        fitted: every second image of a kind, from the first, for the fit of a rule; else the
            others, which score it.

    Raises:
        DataError: they are missing.
    """
    start = 0 if fitted else 1
    found = other_paths(manual_dir)
    return {kind: [read_image(path) for path in paths[start::2]] for kind, paths in found.items()}


def score(name: str, rule: Rule, manual_dir: str | None = None) -> dict[str, Any]:
    """Scores a rule on pbc's test split, and on pbc's images of other things (`other_cells`).

    Raises:
        AbstentionError: the classifier was not trained on pbc, whose test split is needed.
        DataError: the images of other things are missing.
    """
    model = inference.load(name)
    data = abstention_fitting.data_settings(model, manual_dir)
    if "pbc" not in data.datasets:
        raise AbstentionError(f"{name} was not trained on pbc, whose test split is needed.")
    test = pipeline.load_splits(data, model.config.evaluate.size, "classification")["test"]
    chosen = [i for i, (source, _) in enumerate(test.entries) if source.name == "pbc"]
    known = abstention_fitting.outputs_of_records(model, [test.entries[i] for i in chosen])
    odd, kinds = [], []
    for kind, images in other_cells(data.manual_dir, fitted=False).items():
        odd += images
        kinds += [kind] * len(images)
    strange = abstention_fitting.outputs_of(model, odd)
    labels = test.labels[chosen]
    result = measure(rule, known, labels, strange)
    result["by_class"] = {
        kind: measure(rule, known, labels, strange.take(np.array(kinds) == kind))
        for kind in pbc.OTHER_CLASSES
    }
    return result


def table(result: dict[str, Any]) -> str:
    """Returns the result of `score` as text."""

    def line(name: str, found: dict[str, Any]) -> str:
        share = found["odd"]["typed"]
        return (
            f"{name:24}{found['odd']['images']:>7}{found['auroc']['probability']:>13.3f}"
            f"{found['auroc']['energy']:>9.3f}{found['auroc']['unlike']:>9.3f}   {_percent(share)}"
        )

    lines = [
        f"{'pbc, not of the types':24}{'images':>7}{'probability':>13}{'energy':>9}{'unlike':>9}"
        "   typed"
    ]
    lines += [line(kind, found) for kind, found in result["by_class"].items()]
    lines.append(line("all", result))
    known, right = result["known"], result["accuracy"]
    lines.append(
        f"test split: {known['images']} images, {_percent(known['typed'])} typed, of which "
        f"{_percent(right['typed'])} right; {_percent(right['all'])} of all"
    )
    return "\n".join(lines)


def _percent(share: dict[str, Any]) -> str:
    low, high = share["interval"]
    return f"{share['value']:.1%} ({low:.1%} to {high:.1%})".replace("%", " %")
