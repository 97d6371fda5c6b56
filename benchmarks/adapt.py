"""Measures adaptation to a source left out: `python benchmarks/adapt.py FOLDER`.

FOLDER holds the outputs of networks that were each trained without one source
(`wbc_jax.inference.left_out`, with `features`). Some cells of the source left out get their true
types, at random or in the order that `wbc_jax.review` offers them, and a layer of the laboratory is
fitted (`wbc_jax.inference.adapting`). Prints a Markdown table (docs/adapt.md): scores on the
source's other cells, and on the test cells of the sources of the training. No image is read and no
network is run. `--cells` and `--others` save time: they draw at most so many cells of each type.
With `--masks` it measures the fine-tuning of segmenters instead (`adapt_masks.py`).
"""

import argparse
import dataclasses
import time
from collections.abc import Sequence

import numpy as np

from wbc_jax import metrics
from wbc_jax.corrections import order
from wbc_jax.inference import abstention_fitting, adapting, left_out, replay
from wbc_jax.inference.abstention import Rule
from wbc_jax.inference.left_out import Cells, LeftOut
from wbc_jax.labels import CELL_TYPES

LABELS = (0, 5, 10, 20, 50)
"""Labels a type."""
TYPES, RANDOM, TURNS = "of each type", "at random", "types in turn"
UNSURE, SKEWED = "unsure first", "90 % neutrophils"
WAYS = (TYPES, RANDOM, TURNS, UNSURE, SKEWED)
LEAST = 5
"""Fewest cells of a type whose recall counts."""
COLUMNS = ("macro recall", "ECE", "recall elsewhere", "change", "seconds")


def macro(labels: np.ndarray, logits: np.ndarray) -> float:
    """Returns the macro recall over types with `LEAST` cells."""
    right = logits.argmax(-1) == labels
    types = [k for k in np.unique(labels) if (labels == k).sum() >= LEAST]
    return float(np.mean([right[labels == k].mean() for k in types]))


def choose(way: str, network: LeftOut, labels: int, rng: np.random.Generator) -> np.ndarray:
    """Returns the places of the cells of the source left out that get their types.

    `TYPES` takes so many of each type, at most half of what there is. The others take as many cells
    in all, without knowing the types: `RANDOM` any, `TURNS` and `UNSURE` the first of another half
    of the source in each draw, in the orders of the review; `SKEWED` of a folder with 90 %
    neutrophils.
    """
    own = network.away.labels
    types = [rng.permutation(np.flatnonzero(own == k)) for k in range(len(CELL_TYPES))]
    chosen = np.concatenate([one[: min(labels, len(one) // 2)] for one in types])
    if way == TYPES:
        return chosen
    if way == SKEWED:
        most = min(round(0.9 * len(chosen)), len(types[-1]) // 2)
        others = rng.permutation(np.concatenate(types[:-1]))
        return np.concatenate([types[-1][:most], others[: len(chosen) - most]])
    half = rng.permutation(len(own))[: max(len(chosen), len(own) // 2)]
    if way == RANDOM:
        return half[: len(chosen)]
    seen = network.learn()
    rule = fitted(network)
    outputs = network.moved(seen, network.away).outputs.take(half)
    rows = [
        {"review": reason, "best_guess": CELL_TYPES[given.argmax()], "probability": given.max()}
        for reason, given in zip(rule.reasons(outputs), rule.probabilities(outputs))
    ]
    ordered = order.in_turns(rows) if way == TURNS else order.informative(rows)
    return half[ordered[: len(chosen)]]


def fitted(network: LeftOut) -> Rule:
    """Returns the rule of a network."""
    own = network.validation
    return abstention_fitting.fit(own.outputs, own.labels, 0.05, network.learn())


def fewer(network: LeftOut, cells: int, others: int) -> LeftOut:
    """Returns a network with at most so many cells, drawn at random; 0: all.

    Args:
        network: with all its cells.
        cells: of each type of the source left out.
        others: of each type, source and split of the training.
    """

    def drawn(given: Cells, most: int) -> Cells:
        return given.take(replay.choose(given.labels, given.sources, most)) if most else given

    splits = {k: drawn(getattr(network, k), others) for k in ("train", "validation", "test")}
    return dataclasses.replace(network, away=drawn(network.away, cells), **splits)


def adapt(network: LeftOut, way: str, labels: int, seed: int) -> list[float]:
    """Returns the scores `COLUMNS`. Without labels, types are those of the folder's statistics."""
    away, test, rule = network.away, network.test, fitted(network)
    before = macro(test.labels, test.outputs.logits)
    if not labels:
        found = network.moved(network.learn(), away).outputs
        error = metrics.expected_calibration_error(away.labels, rule.probabilities(found))
        return [macro(away.labels, found.logits), float(error), before, 0.0, 0.0]
    chosen = choose(way, network, labels, np.random.default_rng(seed))
    rest = np.delete(np.arange(len(away.labels)), chosen)
    cells = adapting.Labeled(
        away.features[chosen], away.outputs.take(chosen), away.labels[chosen], chosen
    )
    start = time.perf_counter()
    adapted = adapting.Problem(kept(network.train), len(CELL_TYPES)).adapt(cells)
    new = adapting.refit_rule(rule, cells, adapted.held_back)
    seconds = time.perf_counter() - start
    given = [
        adapting.mixed_logits(one.outputs.logits, adapted.layer.of(one.features))
        for one in (away.take(rest), test)
    ]
    outputs = dataclasses.replace(away.outputs.take(rest), logits=given[0])
    true = away.labels[rest]
    error = metrics.expected_calibration_error(true, new.probabilities(outputs))
    after = macro(test.labels, given[1])
    return [macro(true, given[0]), float(error), after, after - before, seconds]


def kept(train: Cells) -> replay.Replay:
    """Returns the replay of a network's training cells."""
    chosen = replay.choose(train.labels, train.sources, replay.EACH)
    one = train.take(chosen)
    return replay.Replay(one.features, one.outputs.logits, one.labels, one.sources)


def table(
    networks: Sequence[LeftOut], counts: Sequence[int], draws: int, ways: Sequence[str]
) -> list[str]:
    """Returns the mean over sources and draws, by way and number of labels, and the macro recall
    of each source."""
    names = [network.name for network in networks]
    lines = [
        f"| labels a type | which | {' | '.join(COLUMNS)} | {' | '.join(names)} |",
        "|" + "---|" * (2 + len(COLUMNS) + len(names)),
    ]
    for count in counts:
        for way in ways if count else ("none",):
            scores = np.array(
                [
                    [adapt(network, way, count, seed) for seed in range(draws if count else 1)]
                    for network in networks
                ]
            )
            mean = scores.mean((0, 1))
            cells = [f"{value:.3f}" for value in mean[:3]] + [f"{mean[3]:+.3f}", f"{mean[4]:.1f}"]
            cells += [f"{value:.3f}" for value in scores[:, :, 0].mean(1)]
            lines.append(f"| {count} | {way} | {' | '.join(cells)} |")
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    """The command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder",
        nargs="+",
        help="folder of .npz files, one for each source left out; with --masks, folders of runs",
    )
    parser.add_argument("--masks", type=int, nargs="*", help="corrected masks, such as 5 20")
    parser.add_argument("--manual_dir", default="../shared/data", help="with --masks: the data")
    parser.add_argument("--labels", type=int, nargs="+", default=LABELS, help="labels a type")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--ways", nargs="+", default=WAYS)
    parser.add_argument(
        "--cells", type=int, default=0, help="of each type of the source left out; 0: all"
    )
    parser.add_argument(
        "--others", type=int, default=0, help="of each type, source and split of the training"
    )
    given = parser.parse_args()
    if min(given.cells, given.others) < 0:
        parser.error("--cells and --others are numbers of cells: allowed are 0, for all, and more")
    if given.masks is not None:
        import adapt_masks

        counts = given.masks or adapt_masks.MASKS
        adapt_masks.main(given.folder, given.manual_dir, counts, given.draws)
        return
    if len(given.folder) > 1:
        parser.error("name one FOLDER")
    networks = left_out.read_folder(given.folder[0])
    if bare := [network.name for network in networks if network.away.features is None]:
        raise SystemExit(
            f"error: the files of {', '.join(bare)} hold no features; tools/left_out_outputs.py "
            "writes them."
        )
    networks = [fewer(network, given.cells, given.others) for network in networks]
    lines = table(networks, given.labels, given.draws, given.ways)
    print("\n".join(["", *lines]), flush=True)


if __name__ == "__main__":
    main()
