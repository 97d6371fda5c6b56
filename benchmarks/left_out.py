"""Measures folder statistics and the review rule on sources left out: `python
benchmarks/left_out.py FOLDER`.

FOLDER holds the outputs of networks that were each trained without one source
(`wbc_jax.inference.left_out`). Prints four tables (docs/folder_statistics.md): ways to use a
folder's statistics, by the folder's count; the way that was chosen, by source; measures of what is
unlike the training; and the whole rule. No image is read and no network is run.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy as np
from scipy import special

from wbc_jax import metrics
from wbc_jax.inference import abstention, abstention_fitting, folder_statistics, left_out
from wbc_jax.inference.abstention import Outputs, Seen
from wbc_jax.inference.left_out import Cells, LeftOut
from wbc_jax.labels import CELL_TYPES

LEAST = 5
"""Fewest cells of a type whose recall counts."""
KNOWN_TYPED = 0.95
# (name, cells, repeats) of the folders that are drawn from a source.
FOLDERS = (
    *(("natural", count, repeats) for count, repeats in ((2000, 1), (200, 3), (50, 5))),
    *(("balanced", count, repeats) for count, repeats in ((2000, 1), (200, 3), (50, 5))),
    *(("90 % neutrophils", count, repeats) for count, repeats in ((2000, 1), (200, 3), (50, 5))),
    *((f"only {name}s", count, 1) for name in CELL_TYPES for count in (200, 50)),
    ("natural", 5, 5),
)

Way = Callable[[Seen, np.ndarray, Outputs, Outputs], np.ndarray]
"""From the training's distribution, the last layer's kernel, the outputs for the training's cells
and those for a folder's to the folder's logits."""


def _unchanged(seen: Seen, kernel: np.ndarray, train: Outputs, folder: Outputs) -> np.ndarray:
    return folder.logits


def _shift(middle: Callable[[np.ndarray], np.ndarray]) -> Way:
    def way(seen: Seen, kernel: np.ndarray, train: Outputs, folder: Outputs) -> np.ndarray:
        if len(folder) < folder_statistics.LEAST_CELLS:
            return folder.logits
        return folder.logits - (middle(folder.embeddings) - middle(train.embeddings)) @ kernel

    return way


def _standardized(seen: Seen, kernel: np.ndarray, train: Outputs, folder: Outputs) -> np.ndarray:
    if len(folder) < folder_statistics.LEAST_CELLS:
        return folder.logits
    own, there = folder.embeddings, train.embeddings
    moved = (own - own.mean(0)) / (own.std(0) + 1e-6) * there.std(0) + there.mean(0)
    return folder.logits + (moved - own) @ kernel


def _by_type(seen: Seen, kernel: np.ndarray, train: Outputs, folder: Outputs) -> np.ndarray:
    found = folder_statistics.estimate(seen, kernel, folder)
    return folder.logits if found.shift is None else folder.logits - found.shift @ kernel


WAYS: dict[str, Way] = {
    "none": _unchanged,
    "mean": _shift(lambda x: x.mean(0)),
    "mean, std": _standardized,
    "median": _shift(lambda x: np.median(x, 0)),
    "by type": _by_type,
}


def draw(labels: np.ndarray, kind: str, count: int, rng: np.random.Generator) -> np.ndarray | None:
    """Returns the places of a folder's cells among a source's; None if it has too few of a type.

    Cells are drawn with repeats where the source has too few. A natural folder has no more cells
    than its source.
    """
    types = [np.flatnonzero(labels == k) for k in range(len(CELL_TYPES))]

    def some(places: np.ndarray, number: int) -> np.ndarray:
        return rng.choice(places, number, replace=len(places) < number)

    if kind == "natural":
        return rng.choice(len(labels), min(count, len(labels)), replace=False)
    if kind == "balanced":
        there = [places for places in types if len(places) >= LEAST]
        return np.concatenate([some(places, count // len(there)) for places in there])
    if kind == "90 % neutrophils":
        others = np.concatenate(types[:-1])
        most = round(0.9 * count)
        return np.concatenate([some(types[-1], most), some(others, count - most)])
    own = types[CELL_TYPES.index(kind.removeprefix("only ").removesuffix("s"))]
    return some(own, count) if len(own) >= 10 else None


def score(labels: np.ndarray, logits: np.ndarray, kind: str) -> float:
    """Returns the macro recall over types with `LEAST` cells; the accuracy of a skewed folder."""
    right = logits.argmax(-1) == labels
    if kind.startswith("90"):
        return float(right.mean())
    types = [k for k in np.unique(labels) if (labels == k).sum() >= min(LEAST, len(labels) // 5)]
    return float(np.mean([right[labels == k].mean() for k in types]))


def _places(network: LeftOut) -> list[tuple[str, str, Cells]]:
    """Returns (`home` or `away`, source, cells) of each source with enough cells."""
    found = [("away", network.name, network.away)]
    for source in np.unique(network.test.sources):
        found.append(("home", source, network.test.take(network.test.sources == source)))
    return [one for one in found if len(one[2].labels) >= folder_statistics.LEAST_CELLS]


def folder_scores(networks: Sequence[LeftOut]) -> dict[tuple[str, str, int, str, str], np.ndarray]:
    """Returns scores `[ways]` by (home or away, folder, cells, source left out, source)."""
    found = {}
    for network in networks:
        seen = network.learn()
        for where, source, cells in _places(network):
            for kind, count, repeats in FOLDERS:
                rng, scores = np.random.default_rng(0), []
                for _ in range(repeats):
                    chosen = draw(cells.labels, kind, count, rng)
                    if chosen is None:
                        break
                    own, labels = cells.outputs.take(chosen), cells.labels[chosen]
                    given = (seen, network.kernel, network.train.outputs, own)
                    scores.append([score(labels, way(*given), kind) for way in WAYS.values()])
                if scores:
                    found[where, kind, count, network.name, source] = np.mean(scores, 0)
    return found


def folder_table(scores: dict[tuple[str, str, int, str, str], np.ndarray]) -> list[str]:
    """Returns the mean over sources, and the worst change of a source, by folder and way."""
    lines = [f"{'':36}" + "".join(f"{name:>16}" for name in WAYS)]
    for where in ("home", "away"):
        for kind in ("natural", "balanced", "90 % neutrophils", "only"):
            for count in sorted({c for _, k, c, _, _ in scores if k.startswith(kind)}):
                own = [
                    value
                    for (w, k, c, _, _), value in scores.items()
                    if w == where and k.startswith(kind) and c == count
                ]
                mean, worst = np.mean(own, 0), (np.array(own) - np.array(own)[:, :1]).min(0)
                title = f"{where}, {kind}, {count} cells"
                lines.append(
                    f"{title:36}" + "".join(f"{m:9.3f} {w:+6.3f}" for m, w in zip(mean, worst))
                )
    return lines


def source_table(scores: dict[tuple[str, str, int, str, str], np.ndarray]) -> list[str]:
    """Returns the macro recall with natural counts by source: at home (mean over the networks that
    were trained on it) and left out, without and with the folder's statistics."""
    lines = [f"{'':32}{'home':>8}{'by type':>9}{'away':>8}{'by type':>9}"]
    for source in sorted({source for *_, source in scores}):
        line = f"{source:32}"
        for where in ("home", "away"):
            own = [
                value
                for (w, k, c, _, s), value in scores.items()
                if (w, k, c, s) == (where, "natural", 2000, source)
            ]
            none, by_type = np.mean(own, 0)[[0, -1]] if own else (np.nan, np.nan)
            line += f"{none:8.3f}{by_type:9.3f}"
        lines.append(line)
    return lines


def measures(network: LeftOut, seen: Seen) -> dict[str, Callable[[Outputs], np.ndarray]]:
    """Returns published measures of dissimilarity to the training cells, high if unlike."""
    train = network.train.outputs
    bias = (train.logits - train.embeddings @ network.kernel).mean(0)
    origin = -np.linalg.pinv(network.kernel.T) @ bias
    _, _, axes = np.linalg.svd(train.embeddings - origin, full_matrices=False)
    rest = axes[min(64, len(axes) // 4) :].T
    residual = np.linalg.norm((train.embeddings - origin) @ rest, axis=1).mean()
    scale = train.logits.max(-1).mean() / residual
    types = Seen(seen.means, seen.whitening)

    def unit(array: np.ndarray) -> np.ndarray:
        return array / np.linalg.norm(array, axis=-1, keepdims=True)

    def virtual_logit(one: Outputs) -> np.ndarray:
        far = np.linalg.norm((one.embeddings - origin) @ rest, axis=1)
        return scale * far + abstention.energy(one.logits)

    def neighbor(one: Outputs) -> np.ndarray:
        near = 1 - unit(one.embeddings) @ unit(train.embeddings).T
        return np.sort(near, -1)[:, 4]

    return {
        "probability": lambda one: -special.softmax(one.logits, -1).max(-1),
        "energy": lambda one: abstention.energy(one.logits),
        "Mahalanobis, by type": lambda one: types.distance(one.embeddings),
        "Mahalanobis, by source": lambda one: seen.distance(one.embeddings),
        "relative, by source": lambda one: seen.unlike(one.embeddings),
        "5th neighbor": neighbor,
        "ViM": virtual_logit,
    }


def measure_table(networks: Sequence[LeftOut]) -> list[str]:
    """Returns the AUROC of foreign against known cells of home and away, and the shares typed where
    95 % of the known cells at home are: of foreign cells, and of the source left out. Means over
    the networks; sources left out are moved by their statistics."""
    lines = [f"{'':26}{'AUROC home':>12}{'away':>8}{'foreign typed':>16}{'away typed':>12}"]
    found: dict[str, list[list[float]]] = {}
    for network in networks:
        seen = network.learn()
        home = network.moved(seen, network.test).outputs
        away = network.moved(seen, network.away).outputs
        for name, measure in measures(network, seen).items():
            known, apart, odd = map(measure, (home, away, network.foreign.outputs))
            limit = np.quantile(known, KNOWN_TYPED)
            row = [_auroc(known, odd), _auroc(apart, odd)]
            row += [(odd <= limit).mean(), (apart <= limit).mean()]
            found.setdefault(name, []).append(row)
    for name, rows in found.items():
        first, second, third, fourth = np.mean(rows, 0)
        lines.append(f"{name:26}{first:12.3f}{second:8.3f}{third:16.3f}{fourth:12.3f}")
    return lines


def _auroc(known: np.ndarray, odd: np.ndarray) -> float:
    is_odd = np.repeat([0, 1], [len(known), len(odd)])
    values = np.concatenate([known, odd])
    return float(metrics.auroc(is_odd, np.stack([-values, values], -1))[1])


def rule_table(networks: Sequence[LeftOut]) -> list[str]:
    """Returns the calibration error at home and away, and what the rule types, by network: with the
    temperature of home; with that of the other sources left out; and with foreign cells shown.

    Half of each kind of foreign cells is shown, the other half scored: `shown` with all kinds,
    `not shown` each kind with the other kinds alone.
    """
    lines = [
        f"{'left out':30}{'rule':>10}{'ECE home':>10}{'away':>7}{'typed: home':>13}"
        f"{'away':>7}{'right':>7}{'of all':>8}{'foreign: shown':>16}{'not shown':>11}"
    ]
    others = left_out.away(networks)
    totals: dict[str, list[list[float]]] = {}
    for i, network in enumerate(networks):
        given = others[:i] + others[i + 1 :]
        shown, scored = halves(network.foreign)
        rules = (("home", [], None), ("left_out", given, None), ("foreign", given, shown))
        for name, own, foreign in rules:
            rule = _rule(network, own, foreign)
            home, away = (network.moved(rule.seen, one) for one in (network.test, network.away))
            row = [_calibration_error(rule, cells) for cells in (home, away)]
            typed = [_typed(rule, one) for one in (home.outputs, away.outputs)]
            right = away.outputs.logits.argmax(-1) == away.labels
            row += [typed[0].mean(), typed[1].mean(), right[typed[1]].mean(), right.mean()]
            odd = _typed(rule, scored.outputs)
            row += [odd.mean(), odd.mean()]
            if foreign is not None:
                row[-1] = np.mean(_not_shown(network, own, shown, scored))
            totals.setdefault(name, []).append(row)
            lines.append(_rule_line(network.name, name, row))
    return lines + [_rule_line("mean", name, np.mean(rows, 0)) for name, rows in totals.items()]


def halves(foreign: Cells) -> tuple[Cells, Cells]:
    """Returns every second cell of each kind, from the first, and the others."""
    first = np.zeros(len(foreign.labels), bool)
    for kind in np.unique(foreign.sources):
        first[np.flatnonzero(foreign.sources == kind)[::2]] = True
    return foreign.take(first), foreign.take(~first)


def _rule(
    network: LeftOut, others: Sequence[abstention_fitting.Away], shown: Cells | None
) -> abstention.Rule:
    own = network.validation
    seen = network.learn(shown)
    return abstention_fitting.fit(own.outputs, own.labels, 1 - KNOWN_TYPED, seen, others)


def _not_shown(
    network: LeftOut, others: Sequence[abstention_fitting.Away], shown: Cells, scored: Cells
) -> np.ndarray:
    """Returns whether each foreign cell is typed by a rule that was not shown its kind."""
    found = []
    for kind in np.unique(scored.sources):
        rest = shown.take(shown.sources != kind)
        rule = _rule(network, others, rest if len(rest.labels) else None)
        found.append(_typed(rule, scored.take(scored.sources == kind).outputs))
    return np.concatenate(found)


def _rule_line(source: str, name: str, row: Sequence[float]) -> str:
    widths = (10, 7, 13, 7, 7, 8, 16, 11)
    numbers = "".join(f"{value:{width}.3f}" for value, width in zip(row, widths))
    return f"{source:30}{name:>10}{numbers}"


def _typed(rule: abstention.Rule, outputs: Outputs) -> np.ndarray:
    return np.array([not reason for reason in rule.reasons(outputs)])


def _calibration_error(rule: abstention.Rule, cells: Cells) -> float:
    return float(
        metrics.expected_calibration_error(cells.labels, rule.probabilities(cells.outputs))
    )


def main() -> None:
    """The command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="folder of .npz files, one for each source left out")
    networks = left_out.read_folder(parser.parse_args().folder)
    scores = folder_scores(networks)
    for title, lines in (
        ("Macro recall (90 %: accuracy) and worst change of a source", folder_table(scores)),
        ("Macro recall with natural counts", source_table(scores)),
        ("Known and foreign cells", measure_table(networks)),
        ("The rule", rule_table(networks)),
    ):
        print("\n".join(["", title, *lines]), flush=True)


if __name__ == "__main__":
    main()
