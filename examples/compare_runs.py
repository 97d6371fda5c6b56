"""Prints and draws the gain of run B over run A, by cell type.

    python examples/compare_runs.py runs/a runs/b --score=nc_relative_error --out=gain.png

Both runs must have been evaluated on the same images. `python -m wbc_jax.compare` prints the
comparison by data set. This script shows how to use what it reads to group the images otherwise.
"""

import argparse

import numpy as np
from matplotlib.figure import Figure

from wbc_jax import metrics
from wbc_jax.evaluate import paired
from wbc_jax.labels import type_name
from wbc_jax.report import chart_parts, comparison
from wbc_jax.utils import atomic


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("first", metavar="RUN_A")
    parser.add_argument("second", metavar="RUN_B")
    parser.add_argument("--score", default="mean_iou", help="a column of report/per_image.csv")
    parser.add_argument("--out", default="gain.png")
    given = parser.parse_args(argv)
    first, second = paired.read(given.first), paired.read(given.second)
    if given.score not in next(iter(first.rows.values()), {}):
        parser.error(f"--score={given.score} is no column of numbers of {given.first}")
    print(comparison.text(paired.compare(first, second)))

    groups: dict[str, list[paired.Key]] = {}
    for key in first.rows:
        if key in second.rows:
            groups.setdefault(type_name(first.rows[key]["label"]), []).append(key)
    found = {
        name: metrics.compare_pairs(
            *([run.rows[key][given.score] for key in keys] for run in (second, first))
        )
        for name, keys in sorted(groups.items())
    }
    corrected = metrics.holm([one.p for one in found.values()])
    print(f"\nB - A by cell type, {given.score}:")
    for (name, one), p in zip(found.items(), corrected):
        low, high = one.interval
        print(
            f"  {name:<11} {one.mean:+.4f} [{low:+.4f}, {high:+.4f}]  n = {one.images} of "
            f"{len(groups[name])} images, Wilcoxon p = {p:.2g} (Holm)"
        )

    figure = Figure(figsize=(6, 0.5 * len(found) + 1.5), layout="constrained")
    axes = figure.subplots()
    middle = np.array([one.mean for one in found.values()])
    ends = np.array([one.interval for one in found.values()]).T
    axes.errorbar(middle, list(found), xerr=np.abs(ends - middle), fmt="o", color="black")
    axes.axvline(0, color="gray", linewidth=1)
    axes.set_xlabel(f"{given.score}, B - A, with 95 % interval")
    atomic.write_bytes(given.out, chart_parts.png(figure))
    print(f"\nWritten: {given.out}")


if __name__ == "__main__":
    main()
