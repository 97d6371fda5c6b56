"""The charts of a run's report and of a comparison of runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wbc_jax.report import chart_parts, tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from wbc_jax.evaluate import paired


def _series(history: Sequence[Mapping[str, Any]], kind: str, key: str) -> np.ndarray:
    """Returns steps and finite values of `key`, sorted by step; float64 `[2, N]`."""
    pairs = [
        (step, value)
        for line in history
        if line.get("kind") == kind
        and (step := tables.number(line.get("step"))) is not None
        and (value := tables.number(line.get(key))) is not None
        and math.isfinite(value)
    ]
    return np.array(sorted(pairs), np.float64).reshape(-1, 2).T


def training_curve(
    history: Sequence[Mapping[str, Any]], dark: bool = False, task: str = "segmentation"
) -> Figure:
    """Draws a run's loss (left) and the task's scores (right) over its steps.

    The loss has a logarithmic axis where all of its values are above 0. Missing and non-finite
    values are left out; a panel without any value says so.

    Args:
        history: lines of `metrics.jsonl`: `step`, `kind` (`train` or `validation`), and any of
            `loss`, `mean_iou`, `iou_cytoplasm`, `iou_nucleus`, or `accuracy` and `macro_recall`.
        dark: light on dark.
        task: `segmentation` (IoU) or `classification` (accuracy and macro recall).
    """
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    theme = chart_parts.DARK if dark else chart_parts.LIGHT
    train = {"color": theme.second, "linewidth": 1.1, "label": "train"}
    validation = {
        "color": theme.accent, "linewidth": 1.8, "marker": "o", "markersize": 3.5,
    }  # fmt: skip
    figure = chart_parts.new_figure(10.4, 3.3, theme)
    loss, scores = figure.subplots(1, 2)
    chart_parts.plain(loss, theme, "Loss", "step", "")
    name = "Accuracy and mean recall" if task == "classification" else "IoU"
    chart_parts.plain(scores, theme, name, "step", "")

    curves = [_series(history, kind, "loss") for kind in ("train", "validation")]
    for (steps, values), style in zip(curves, (train, {**validation, "label": "validation"})):
        if steps.size:
            loss.plot(steps, values, **style)
    values = np.concatenate([curve[1] for curve in curves])
    if values.size and values.min() > 0:
        loss.set_yscale("log")
        narrow = values.max() / values.min() < 30
        loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
        loss.yaxis.set_major_formatter(chart_parts.tick_text)
        loss.yaxis.set_minor_formatter(NullFormatter())

    third = {"color": theme.third, "linewidth": 1.1, "linestyle": "--"}
    fourth = {"color": theme.fourth, "linewidth": 1.1, "linestyle": ":"}
    if task == "classification":
        lines = [
            ("train", "accuracy", {**train, "label": "train, accuracy"}),
            ("validation", "accuracy", {**validation, "label": "validation, accuracy"}),
            ("validation", "macro_recall", {**third, "label": "validation, mean recall"}),
        ]
    else:
        lines = [
            ("train", "mean_iou", {**train, "label": "train, mean"}),
            ("validation", "mean_iou", {**validation, "label": "validation, mean"}),
            ("validation", "iou_nucleus", {**third, "label": "validation, nucleus"}),
            ("validation", "iou_cytoplasm", {**fourth, "label": "validation, cytoplasm"}),
        ]
    for kind, key, style in lines:
        steps, values = _series(history, kind, key)
        if steps.size:
            scores.plot(steps, values, **style)
    for axes in (loss, scores):
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if axes.lines:
            chart_parts.legend(axes, theme)
        else:
            chart_parts.note(axes, theme, "not recorded")
    return figure


def reliability(rows: Sequence[Mapping[str, Any]], dark: bool = False, bins: int = 10) -> Figure:
    """Draws the accuracy in bins of predicted probability (left) and the bins' sizes (right).

    Bars are 95 % intervals of the accuracies (Wilson 1927).

    Args:
        rows: `probability` (of the predicted type) and `right` of each image.
        dark: light on dark.
        bins: number of bins, of equal width between 0 and 1; empty ones have no point.
    """
    from scipy.stats import norm

    given = np.asarray([row["probability"] for row in rows], np.float64)
    right = np.asarray([bool(row["right"]) for row in rows])
    which = np.clip(np.digitize(given, np.linspace(0, 1, bins + 1)) - 1, 0, bins - 1)
    number = np.bincount(which, minlength=bins)
    hits = np.bincount(which, right, bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.bincount(which, given, bins) / number
        share = hits / number
        z2 = norm.ppf(0.975) ** 2
        middle = (share + z2 / (2 * number)) / (1 + z2 / number)
        half = np.sqrt(z2 * (share * (1 - share) + z2 / (4 * number)) / number) / (1 + z2 / number)
    ends = np.stack([share - (middle - half), middle + half - share])
    return _reliability(number, hits, mean, "images", dark, np.maximum(ends, 0))


def pixel_reliability(found: Mapping[str, Sequence[Any]], dark: bool = False) -> Figure:
    """As `reliability`, for pixels; without intervals, as an image's pixels are not independent.

    Args:
        found: `pixels`, `right` and `confidence` by bin: a data set's entry in `calibration` of
            `report/metrics.json`. An empty bin has the confidence None.
        dark: light on dark.
    """
    mean = [math.nan if (v := tables.number(x)) is None else v for x in found["confidence"]]
    number, hits = (np.asarray(found[key], np.float64) for key in ("pixels", "right"))
    return _reliability(number, hits, np.asarray(mean), "pixels", dark)


def _reliability(
    number: np.ndarray,
    hits: np.ndarray,
    mean: np.ndarray,
    unit: str,
    dark: bool,
    ends: np.ndarray | None = None,
) -> Figure:
    """Draws both panels from each bin's count, right answers and mean probability, all `[B]`."""
    theme = chart_parts.DARK if dark else chart_parts.LIGHT
    figure = chart_parts.new_figure(10.4, 3.6, theme)
    share, often = figure.subplots(1, 2)
    chart_parts.plain(share, theme, "Reliability", "probability given", "share right")
    chart_parts.plain(often, theme, "Probabilities given", "probability given", unit)
    kept = number > 0
    share.plot([0, 1], [0, 1], color=theme.muted, linewidth=1, linestyle="--")
    share.errorbar(
        mean[kept], hits[kept] / number[kept], None if ends is None else ends[:, kept],
        color=theme.accent, linewidth=1.8, elinewidth=1, capsize=2.5, marker="o", markersize=4,
    )  # fmt: skip
    share.set_xlim(0, 1.02)
    share.set_ylim(0, 1.02)
    edges = np.linspace(0, 1, len(number) + 1)
    bars = {"width": np.diff(edges), "align": "edge", "linewidth": 0}
    often.bar(edges[:-1], hits, color=theme.accent, label="right", **bars)
    often.bar(edges[:-1], number - hits, bottom=hits, color=theme.third, label="wrong", **bars)
    often.set_xlim(0, 1.02)
    often.set_yscale("symlog", linthresh=10)
    often.set_ylim(bottom=0)
    chart_parts.legend(often, theme, loc="upper left")
    return figure


DIFFERENCES_PX = (1040, 26, 90)
"""Size of `differences` on a page: its width, the height of a data set and that of the rest."""


def differences(rows: Sequence[paired.Row], dark: bool = False) -> Figure:
    """Draws the differences of two runs with their intervals: a panel a score, a row a data set.

    A point is filled where one of the runs is better (`paired.Row.verdict`) and hollow elsewhere.

    Args:
        rows: of a `paired.Comparison`, by data set and then by score.
        dark: light on dark.
    """
    from matplotlib.ticker import MaxNLocator

    theme = chart_parts.DARK if dark else chart_parts.LIGHT
    sets = list(dict.fromkeys(row.dataset for row in rows))
    scores = list(dict.fromkeys(row.score for row in rows))
    width, height, rest = DIFFERENCES_PX
    figure = chart_parts.new_figure(width / 100, (height * len(sets) + rest) / 100, theme)
    panels = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    for axes, score in zip(panels, scores):
        chart_parts.plain(axes, theme, score.name, "B − A", "")
        axes.axvline(0, color=theme.muted, linewidth=1)
        for row in rows:
            if row.score != score or not math.isfinite(row.difference):
                continue
            place = sets.index(row.dataset)
            axes.plot(
                [row.low, row.high], [place, place], color=theme.accent, linewidth=1.8,
                solid_capstyle="butt",
            )  # fmt: skip
            axes.plot(
                row.difference, place, "o", markersize=6, color=theme.accent,
                markerfacecolor=theme.accent if row.verdict else theme.ground,
            )  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.xaxis.set_major_formatter(chart_parts.tick_text)
        axes.margins(x=0.15)
    # A name comes from the data: a dollar sign in it does not begin a formula.
    panels[0].set_yticks(range(len(sets)), sets, parse_math=False)
    panels[0].set_ylim(len(sets) - 0.4, -0.6)
    return figure
