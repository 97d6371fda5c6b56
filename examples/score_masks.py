"""Scores any masks against true ones: IoU, Dice, BF score, distances of outlines and N/C ratio.

    python examples/score_masks.py predictions/ truths/ --values 0=0 128=1 255=2

Both folders hold 8-bit gray PNGs with the same names; both of a pair have the same size. Pixels are
0 background, 1 cytoplasm, 2 nucleus and, in the truth, 255 ignore; --values maps other values to
these. Each image is scored at its own size. --out writes a row for each image.
"""

import argparse
import sys

import numpy as np

from wbc_jax import metrics
from wbc_jax.data import reading
from wbc_jax.data.images import describe_values, read_mask_file, unknown_values
from wbc_jax.errors import DataError
from wbc_jax.utils import atomic

NAMES = ("background", "cytoplasm", "nucleus")


def read(path, values: dict[int, int]) -> np.ndarray:
    """Returns a mask, uint8 [H, W], with the values of the vocabulary."""
    table = np.full(256, 254, np.uint8)
    table[list(values)] = list(values.values())
    mask = read_mask_file(path)
    if unknown := unknown_values(mask, tuple(values)):
        raise DataError(f"{path}: --values does not say what {describe_values(unknown)} means")
    return table[mask]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("predictions", help="folder of PNG masks")
    parser.add_argument("truths", help="folder of PNG masks")
    parser.add_argument("--values", nargs="+", default=["0=0", "1=1", "2=2", "255=255"])
    parser.add_argument("--out", help="CSV file to write")
    given = parser.parse_args(argv)
    values = {int(a): int(b) for a, b in (text.split("=") for text in given.values)}
    rows, confusions, counts, distances, ratios = [], [], [], [], []
    try:
        bad = reading.bad_files()
        found = reading.pair_files(given.predictions, ".png", given.truths, ".png", bad)
        bad.finish("masks")
        for name, truth_path in found[1].items():
            truth, mask = read(truth_path, values), read(found[0][name], values)
            reading.check_same_size(found[0][name], mask, truth.shape)
            pair = truth[None], mask[None]
            confusions.append(metrics.confusion_matrix(*pair, len(NAMES)))
            counts.append(metrics.bf_counts(*pair, len(NAMES))[0])
            distances.append(metrics.surface_distances(*pair, len(NAMES)))
            ratios.append([metrics.nc_ratio(one).nc_ratio[0] for one in pair])
            rows.append({"name": name, "mean_iou": float(metrics.mean_iou(confusions[-1]))})
            matlab, zeroed, _ = metrics.bf_per_image(counts[-1])
            rows[-1] |= {f"bf_{n}": float(s) for n, s in zip(NAMES, zeroed)}
            rows[-1] |= {f"bf_matlab_{n}": float(s) for n, s in zip(NAMES, matlab)}
            for key in ("hausdorff_95_px", "average_px"):
                px = getattr(distances[-1], key)[0]
                rows[-1] |= {f"{key}_{n}": float(v) for n, v in zip(NAMES, px)}
            rows[-1] |= {"truth_nc_ratio": float(ratios[-1][0]), "nc_ratio": float(ratios[-1][1])}
    except (DataError, OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    confusions, (matlab, zeroed, one_sided) = np.array(confusions), metrics.bf_per_image(counts)

    def line(name: str, value: float, ends: np.ndarray) -> None:
        print(f"{name:<22} {value:6.3f} [{ends[0]:.3f}, {ends[1]:.3f}]")

    print(f"{len(rows)} images\n")
    line(
        "mean IoU",
        metrics.mean_iou(confusions.sum(0)),
        metrics.bootstrap_sums(metrics.mean_iou, confusions),
    )
    for metric in (metrics.iou, metrics.dice):
        ends = metrics.bootstrap_sums(metric, confusions)
        for i, name in enumerate(NAMES):
            line(f"{metric.__name__} {name}", metric(confusions.sum(0))[i], ends[:, i])
    # A class that only one of the two masks has counts as 0; MATLAB's bfscore leaves it out.
    for label, scores in (("BF", zeroed), ("MATLAB's BF", matlab)):
        means = [row[~np.isnan(row)].mean() for row in scores if not np.isnan(row).all()]
        for name, column in (("mean", np.array(means)), *zip(NAMES, scores.T)):
            known = column[~np.isnan(column)]
            if len(known):
                line(f"{label} {name}", known.mean(), metrics.bootstrap_interval(np.mean, known))
    print(f"MATLAB's BF leaves a class out of {one_sided.any(1).sum()} images")
    # A distance needs the class in both masks.
    missed, added = sum(one.missed for one in distances), sum(one.added for one in distances)
    for label, key in (("95 % Hausdorff", "hausdorff_95_px"), ("average surface", "average_px")):
        found_px = np.concatenate([getattr(one, key) for one in distances])
        for i, name in enumerate(NAMES):
            known = found_px[~np.isnan(found_px[:, i]), i]
            print(
                f"{label} distance {name}: {known.mean() if len(known) else np.nan:.2f} px, "
                f"mean of {len(known)} images; {missed[i]} missed, {added[i]} not in the truth"
            )
    true_ratios, found_ratios = np.array(ratios).T
    agreement = metrics.limits_of_agreement(true_ratios, found_ratios)
    usual = np.isfinite(found_ratios) & (found_ratios > 0)
    lost = (np.isfinite(true_ratios) & (true_ratios > 0) & ~usual).sum()
    low, high = agreement.limits
    print(
        f"N/C ratio: bias {100 * agreement.bias:+.1f} %, 95 % limits of agreement "
        f"{100 * low:+.1f} % to {100 * high:+.1f} %, {agreement.images} images; {lost} missed"
    )
    if given.out:
        atomic.write_csv(given.out, rows, list(rows[0]))


if __name__ == "__main__":
    main()
