"""When a cell's type is left to a person: `python -m wbc_jax.abstain CLASSIFIER [--score]`.

A classifier names one of five types whatever it is shown. Two things speak against believing it:
its calibrated probability is low, or the image is unlike those it was made for, which shows as a
high energy, −log Σ exp(logits) (Liu et al., "Energy-based Out-of-distribution Detection", 2020).
Temperature (Guo et al. 2017) and both limits come from the validation images alone, and lie in a
small JSON file beside the weights. `--score` measures them on images of other things than the five
types (pbc's erythroblasts, immature granulocytes and platelets) beside pbc's test split.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.optimize
import scipy.special
import scipy.stats
from etils import epath

from wbc_jax import checkpoint, files, vocabulary

if TYPE_CHECKING:
    from wbc_jax import inference
    from wbc_jax.data import pipeline

LOW, UNLIKE = "low_probability", "unlike_training"
SHARE = 0.05
FILE = "abstention.json"
LEVEL = 0.95
LEAST_IMAGES = 20
"""Fewer validation images make no rule."""


class AbstentionError(checkpoint.CheckpointError):
    """A rule is missing, damaged, or cannot be made."""


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """When to leave a type to a person.

    Attributes:
        temperature: by which logits are divided before the softmax.
        least_probability: a lower one, of the most probable type, is not believed.
        most_energy: a higher one is not believed; of the logits as they are.
        share: part of the validation images that the two limits leave to a person.
        images: how many these were.
    """

    temperature: float
    least_probability: float
    most_energy: float
    share: float
    images: int

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Returns calibrated probabilities `[..., K]` of logits `[..., K]`."""
        return scipy.special.softmax(np.asarray(logits, np.float64) / self.temperature, axis=-1)

    def reasons(self, logits: np.ndarray) -> list[str]:
        """Returns why a person is to look at each of `[N, K]`: `LOW`, `UNLIKE`, both joined by
        `;`, or nothing."""
        low = self.probabilities(logits).max(-1) < self.least_probability
        unlike = energy(logits) > self.most_energy
        return [";".join([LOW] * bool(a) + [UNLIKE] * bool(b)) for a, b in zip(low, unlike)]


def energy(logits: np.ndarray) -> np.ndarray:
    """Returns −log Σ exp(logits), `[...]` of `[..., K]`: high where the network knows no type."""
    return -scipy.special.logsumexp(np.asarray(logits, np.float64), axis=-1)


def judge(rule: Rule | None, logits: np.ndarray) -> dict[str, Any]:
    """Returns `type`, `best_guess`, `probability` and `review` of one cell (see `fields.Cell`).

    Args:
        rule: None: every type is believed.
        logits: float `[K]`.
    """
    probabilities = scipy.special.softmax(logits) if rule is None else rule.probabilities(logits)
    guess = vocabulary.CELL_TYPES[int(np.argmax(probabilities))]
    (review,) = rule.reasons(logits[None]) if rule else ("",)
    return {
        "type": vocabulary.REVIEW if review else guess,
        "best_guess": guess,
        "probability": float(probabilities.max()),
        "review": review,
    }


def fit(logits: np.ndarray, labels: np.ndarray, share: float = SHARE) -> Rule:
    """Chooses a rule by validation images.

    The temperature has the least negative log-likelihood. Each of the two limits leaves as many
    images to a person, so many that together they leave `share` of them.

    Args:
        logits: float `[N, K]`.
        labels: int `[N]`, of the true types.
        share: part of the images to be left to a person.

    Raises:
        AbstentionError: fewer than `LEAST_IMAGES` images, or a share not in (0, 1).
    """
    if not 0 < share < 1:
        raise AbstentionError(f"the share left to a person is {share}: allowed is 0 to 1, without.")
    if len(labels) < LEAST_IMAGES:
        raise AbstentionError(
            f"there are {len(labels)} validation images; {LEAST_IMAGES} are needed."
        )
    logits = np.asarray(logits, np.float64)

    def loss(log_temperature: float) -> float:
        scaled = scipy.special.log_softmax(logits / math.exp(log_temperature), axis=-1)
        return -float(scaled[np.arange(len(labels)), labels].mean())

    best = scipy.optimize.minimize_scalar(loss, bounds=(-3, 3), method="bounded")
    temperature = math.exp(best.x)
    confidence = scipy.special.softmax(logits / temperature, axis=-1).max(-1)
    energies = energy(logits)

    def limits(each: float) -> tuple[float, float]:
        return float(np.quantile(confidence, each)), float(np.quantile(energies, 1 - each))

    def left(each: float) -> float:
        probability, highest = limits(each)
        return float(((confidence < probability) | (energies > highest)).mean()) - share

    # Both at once leave between `share` / 2 and `share`, as some images fail both.
    least, most = share / 2, share
    for _ in range(30):
        middle = (least + most) / 2
        least, most = (middle, most) if left(middle) < 0 else (least, middle)
    return Rule(temperature, *limits(most), share, len(labels))


def place(name: epath.PathLike) -> epath.Path:
    """Returns where the rule of a model lies: in a run's folder, or beside a file of weights.

    Args:
        name: as of `wbc_jax.load`.
    """
    from wbc_jax import weights

    if file := weights.find(name):
        return file.parent / f"{file.name.removesuffix(weights.SUFFIX)}.{FILE}"
    return epath.Path(name).expanduser() / FILE


def read(name: epath.PathLike) -> Rule | None:
    """Returns the rule of a model; None where it has none.

    Raises:
        AbstentionError: its file is damaged.
    """
    path = place(name)
    if not path.exists():
        return None
    try:
        rule = Rule(**json.loads(path.read_text()))
        if not all(math.isfinite(value) for value in dataclasses.astuple(rule)):
            raise ValueError("a number is missing")
        if rule.temperature <= 0:
            raise ValueError(f"the temperature is {rule.temperature}")
    except (ValueError, TypeError) as error:
        raise AbstentionError(
            f"{path} is damaged ({error}); delete it, or run `python -m wbc_jax.abstain {name}`."
        ) from error
    return rule


def logits_of(model: inference.Model, examples: pipeline.Examples, batch: int = 32) -> np.ndarray:
    """Returns a classifier's logits of examples, float32 `[N, K]`."""
    return _logits(model, (source.image(i) for source, i in examples.entries), batch)


def _logits(model: inference.Model, images: Any, batch: int = 32) -> np.ndarray:
    found, waiting = [], []
    for image in images:
        waiting.append(image)
        if len(waiting) == batch:
            found += model.predict(waiting, batch)
            waiting = []
    found += model.predict(waiting, batch)
    return np.stack([one.logits for one in found])


def measure(rule: Rule, known: np.ndarray, labels: np.ndarray, odd: np.ndarray) -> dict[str, Any]:
    """Scores a rule on cells of the known types and on other things.

    Args:
        rule: fitted on neither.
        known: float `[N, K]`, logits of cells of the types.
        labels: int `[N]`, their true types.
        odd: float `[M, K]`, logits of things that are none of them.

    Returns:
        `auroc` of telling the two apart (`probability`: by 1 − the calibrated probability,
        `energy`), `known` and `odd` (`images`; `typed` anyway: a share with its 95 % Wilson
        interval), and `accuracy` of the known ones: of `typed`, and of `all` of them.
    """
    from wbc_jax import metrics

    typed = {
        name: np.array([not reason for reason in rule.reasons(logits)])
        for name, logits in (("known", known), ("odd", odd))
    }
    is_odd = np.repeat([0, 1], [len(known), len(odd)])
    scores = {
        "probability": 1 - rule.probabilities(np.concatenate([known, odd])).max(-1),
        "energy": energy(np.concatenate([known, odd])),
    }
    right = known.argmax(-1) == labels
    return {
        "auroc": {
            name: float(metrics.auroc(is_odd, np.stack([-score, score], -1))[1])
            for name, score in scores.items()
        },
        **{
            name: {"images": len(found), "typed": proportion(int(found.sum()), len(found))}
            for name, found in typed.items()
        },
        "accuracy": {
            "typed": proportion(int(right[typed["known"]].sum()), int(typed["known"].sum())),
            "all": proportion(int(right.sum()), len(right)),
        },
    }


def proportion(count: int, total: int) -> dict[str, Any]:
    """Returns `value` = count / total and its 95 % Wilson `interval`; NaN of nothing."""
    if not total:
        return {"value": math.nan, "interval": [math.nan, math.nan]}
    found = scipy.stats.binomtest(count, total).proportion_ci(LEVEL, method="wilson")
    return {"value": count / total, "interval": [float(found.low), float(found.high)]}


def _score(name: str, rule: Rule, options: argparse.Namespace) -> dict[str, Any]:
    """`measure` on pbc: its test split, which the classifier must not have seen, and the odd."""
    from wbc_jax import inference
    from wbc_jax.data import pipeline, records
    from wbc_jax.tfds_builders.pbc import pbc_dataset_builder as pbc

    model = inference.load(name)
    data = _data(model, options)
    if "pbc" not in data.datasets:
        raise AbstentionError(f"{name} was not trained on pbc, whose test split is needed.")
    test = pipeline.load_splits(data, model.config.evaluate.size, "classification")["test"]
    chosen = [i for i, (source, _) in enumerate(test.entries) if source.name == "pbc"]
    known = _logits(model, (test.entries[i][0].image(test.entries[i][1]) for i in chosen))
    manual = epath.Path(data.manual_dir).expanduser()
    folder = next((manual / f for f in pbc.FOLDERS if (manual / f / "platelet").is_dir()), None)
    if folder is None:
        raise records.DataError(f"{manual}: holds no {pbc.FOLDERS[0]}/platelet; see --manual_dir")
    odd, kinds = [], []
    for kind, path in pbc.find_images(folder, pbc.OTHER_CLASSES):
        odd.append(inference.read_image(path))
        kinds.append(kind)
    strange = _logits(model, odd)
    labels = test.labels[chosen]
    result = measure(rule, known, labels, strange)
    result["by_class"] = {
        kind: measure(rule, known, labels, strange[np.array(kinds) == kind])
        for kind in pbc.OTHER_CLASSES
    }
    return result


def _table(result: dict[str, Any]) -> str:
    def line(name: str, found: dict[str, Any]) -> str:
        share = found["odd"]["typed"]
        return (
            f"{name:24}{found['odd']['images']:>7}{found['auroc']['probability']:>13.3f}"
            f"{found['auroc']['energy']:>9.3f}   {_percent(share)}"
        )

    lines = [f"{'pbc, not of the types':24}{'images':>7}{'probability':>13}{'energy':>9}   typed"]
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


def _data(model: inference.Model, options: argparse.Namespace) -> Any:
    """The settings of a model's data, with the folder that the options name; images whole, as the
    model cuts them to their cell itself."""
    data = model.config.data
    manual = options.manual_dir or data.manual_dir
    return dataclasses.replace(data, manual_dir=manual, isolate="")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command: see the module's text."""
    parser = argparse.ArgumentParser(
        "python -m wbc_jax.abstain", description=__doc__.splitlines()[0]
    )
    parser.add_argument("model", help="the --workdir of a classifier, a file of weights, or a name")
    parser.add_argument("--share", type=float, default=SHARE, help="of validation images to leave")
    parser.add_argument("--score", action="store_true", help="measure the rule that is there")
    parser.add_argument("--manual_dir", help="where the data sets lie; by default as in training")
    parser.add_argument("--out", help="with --score: JSON file for the figures")
    options = parser.parse_args(arguments)
    from wbc_jax import config as config_lib
    from wbc_jax import inference
    from wbc_jax.data import pipeline, records

    try:
        if options.score:
            rule = read(options.model)
            if rule is None:
                raise AbstentionError(
                    f"{options.model} has no rule; make it by the same command without --score."
                )
            result = _score(options.model, rule, options)
            print(_table(result), flush=True)
            if options.out:
                files.write_json(options.out, {"rule": dataclasses.asdict(rule), **result})
            return
        model = inference.load(options.model)
        if model.config.task != "classification":
            raise AbstentionError(f"{options.model} gives masks; a classifier is needed.")
        data = _data(model, options)
        splits = pipeline.load_splits(data, model.config.evaluate.size, "classification")
        validation = splits["validation"]
        rule = fit(logits_of(model, validation), validation.labels, options.share)
        files.write_json(place(options.model), dataclasses.asdict(rule))
    except (
        checkpoint.CheckpointError, config_lib.ConfigError, records.DataError, OSError,
    ) as error:  # fmt: skip
        sys.exit(f"error: {error}")
    print(
        f"{place(options.model)}: temperature {rule.temperature:.3f}, least probability "
        f"{rule.least_probability:.3f}, most energy {rule.most_energy:.2f} "
        f"({rule.images} validation images)",
        flush=True,
    )


if __name__ == "__main__":
    main()
