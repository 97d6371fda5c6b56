"""Analyzes the N/C ratio by cell type on a test split, true and predicted.

    python examples/analyze_model.py runs/unet --out=analysis

The model is a run's folder, a .safetensors file or the name of shipped weights. The data sets are
those it was trained with, unless --datasets names others. The script uses their test split, and
refuses it if the model has seen any of it. It prints medians and tests between the types, and
writes cells.csv, by_type.png and scatter.png.
"""

import argparse
import dataclasses
import pathlib

import numpy as np
from matplotlib.figure import Figure

import wbc_jax
from wbc_jax import experiment, metrics, provenance
from wbc_jax.data import pipeline
from wbc_jax.labels import CELL_TYPES, type_name
from wbc_jax.report import chart_parts, nc_figures
from wbc_jax.utils import atomic


def measure(model: wbc_jax.Model, test: pipeline.Examples) -> list[dict]:
    """Returns one row for each image of the split, predicted at the image's own size."""
    rows = []
    for source, i in test.entries:
        truth, found = metrics.nc_ratio(source.mask(i)[None]), model.predict(source.image(i))
        about = {"dataset": source.name, "id": source.ids[i], "label": int(source.labels[i])}
        ratios = {"truth_nc_ratio": float(truth.nc_ratio[0]), "nc_ratio": found.nc_ratio}
        rows.append({**about, "type": type_name(about["label"]), **ratios})
    return rows


def by_type(rows: list[dict], column: str) -> dict[str, np.ndarray]:
    """Returns the finite ratios by cell type, for types with two or more of them."""
    groups = {}
    for name in CELL_TYPES:
        values = np.array([row[column] for row in rows if row["type"] == name], np.float64)
        values = values[np.isfinite(values)]
        if len(values) > 1:
            groups[name] = values
    return groups


def report(title: str, groups: dict[str, np.ndarray]) -> None:
    """Prints medians, intervals and tests between the types (Kruskal–Wallis; pairs by Holm)."""
    print(f"\n{title}: median [95 % interval]")
    for name, values in groups.items():
        low, high = metrics.bootstrap_interval(np.median, values)
        print(f"  {name:<11} {np.median(values):6.3f} [{low:.3f}, {high:.3f}]  n = {len(values)}")
    if len(groups) < 2:
        return
    found = metrics.compare_groups(groups)
    print(f"  Kruskal-Wallis: H = {found.h:.2f}, p = {found.p:.2g}; Mann-Whitney, p by Holm:")
    for pair, p in zip(found.pairs, metrics.holm([pair.p for pair in found.pairs])):
        print(f"  {pair.first} - {pair.second}: U = {pair.u:.0f}, p = {p:.2g}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="segmenter")
    parser.add_argument("--datasets", nargs="+", help="data sets other than those of the training")
    parser.add_argument("--manual_dir", help="folder with the data sets as published")
    parser.add_argument("--out", type=pathlib.Path, default="analysis")
    given = parser.parse_args(argv)
    model = wbc_jax.load(given.model)
    chosen = {}
    if given.datasets:  # a plain split, whatever the protocol of the training was
        chosen = {"protocol": "fractions", "left_out": "", "train_source": "", "independent": ()}
        chosen |= {"datasets": tuple(given.datasets), "mixture": "natural", "weights": ()}
    if given.manual_dir:
        chosen["manual_dir"] = given.manual_dir
    data = dataclasses.replace(model.config.data, **chosen)
    config = dataclasses.replace(model.config, data=data)
    experiment.prepare(config)
    test = pipeline.load_splits(data, config.evaluate.size)["test"]
    provenance.refuse_seen(given.model, provenance.seen_by(given.model, model), test)
    rows = measure(model, test)
    atomic.write_csv(given.out / "cells.csv", rows, list(rows[0]))
    truth, predicted = (by_type(rows, column) for column in ("truth_nc_ratio", "nc_ratio"))
    report("True N/C ratio", truth)
    report("Predicted N/C ratio", predicted)
    ratios = np.array([[row["truth_nc_ratio"], row["nc_ratio"]] for row in rows], np.float64)
    known = np.isfinite(ratios)
    print(
        f"\nMissed (no predicted ratio): {(known[:, 0] & ~known[:, 1]).sum()} of {len(rows)} images"
    )
    figure = Figure(figsize=(8, 4), layout="constrained")
    for axes, (title, groups) in zip(
        figure.subplots(1, 2, sharey=True), (("true", truth), ("predicted", predicted))
    ):
        axes.boxplot(list(groups.values()), tick_labels=list(groups))
        axes.set(title=title, ylabel="N/C ratio")
        axes.tick_params("x", rotation=30)
    atomic.write_bytes(given.out / "by_type.png", chart_parts.png(figure))
    atomic.write_bytes(given.out / "scatter.png", chart_parts.png(nc_figures.nc_scatter(rows)))
    print(f"\nWritten: {given.out}")


if __name__ == "__main__":
    main()
