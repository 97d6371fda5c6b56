"""The charts of a run's report, of a comparison of runs, of a folder's cells and of a cohort.

Colors are of Okabe and Ito's palette (Color Universal Design, 2008), which readers with any of
the common color-vision deficiencies can tell apart. Everything that has a color of its own also has
its own marker, line style or lightness. Charts use matplotlib's object interface on an Agg canvas:
no display, no global state, safe in any thread.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wbc_jax import metrics
from wbc_jax.labels import CELL_TYPES, UNKNOWN_TYPE, type_name
from wbc_jax.report import tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from wbc_jax.evaluate import cohort, paired


@dataclasses.dataclass(frozen=True, slots=True)
class _Theme:
    ground: str
    ink: str
    muted: str
    line: str
    accent: str
    second: str
    third: str
    fourth: str
    types: tuple[str, ...]


# The grounds are those of the page (templates/style.css.j2), so that charts show no edge on it.
_LIGHT = _Theme(
    ground="#ffffff",
    ink="#1d2025",
    muted="#5b626d",
    line="#dfe2e7",
    accent="#0072b2",
    second="#9aa1ac",
    third="#d55e00",
    fourth="#009e73",
    types=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00"),
)
_DARK = _Theme(
    ground="#15171b",
    ink="#e6e8ec",
    muted="#a0a7b3",
    line="#33373f",
    accent="#56b4e9",
    second="#767d89",
    third="#e8813a",
    fourth="#2fbf95",
    types=("#56b4e9", "#e8813a", "#2fbf95", "#e09ac4", "#f0c23c"),
)
_MARKERS = ("o", "s", "^", "D", "v")


def _figure(width: float, height: float, theme: _Theme) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor=theme.ground)
    FigureCanvasAgg(figure)
    return figure


def _plain(axes: Axes, theme: _Theme, title: str, xlabel: str, ylabel: str) -> None:
    axes.set_facecolor(theme.ground)
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=theme.ink, pad=8)
    axes.set_xlabel(xlabel, fontsize=9.5, color=theme.muted)
    axes.set_ylabel(ylabel, fontsize=9.5, color=theme.muted)
    axes.tick_params(colors=theme.muted, labelsize=9, length=3, width=0.8)
    axes.grid(True, color=theme.line, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(theme.line)


def _note(axes: Axes, theme: _Theme, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=theme.muted)


def _legend(axes: Axes, theme: _Theme, **options: Any) -> None:
    axes.legend(frameon=False, fontsize=9, labelcolor=theme.ink, **options)


def _number(value: float, _: int | None = None) -> str:
    return f"{value:g}"


def _log_ticks(axis: Axis, low: float, high: float) -> None:
    """Sets a logarithmic axis's ticks: 1, 2, 5, 10, …, or powers of ten where it is long."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(_number)


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

    theme = _DARK if dark else _LIGHT
    train = {"color": theme.second, "linewidth": 1.1, "label": "train"}
    validation = {
        "color": theme.accent, "linewidth": 1.8, "marker": "o", "markersize": 3.5,
    }  # fmt: skip
    figure = _figure(10.4, 3.3, theme)
    loss, scores = figure.subplots(1, 2)
    _plain(loss, theme, "Loss", "step", "")
    name = "Accuracy and mean recall" if task == "classification" else "IoU"
    _plain(scores, theme, name, "step", "")

    curves = [_series(history, kind, "loss") for kind in ("train", "validation")]
    for (steps, values), style in zip(curves, (train, {**validation, "label": "validation"})):
        if steps.size:
            loss.plot(steps, values, **style)
    values = np.concatenate([curve[1] for curve in curves])
    if values.size and values.min() > 0:
        loss.set_yscale("log")
        narrow = values.max() / values.min() < 30
        loss.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,)))
        loss.yaxis.set_major_formatter(_number)
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
            _legend(axes, theme)
        else:
            _note(axes, theme, "not recorded")
    return figure


def nc_scatter(rows: Sequence[Mapping[str, Any]], dark: bool = False) -> Figure:
    """Plots predicted against true N/C ratios, a point an image, colored by cell type.

    Both axes are logarithmic and have the same range, so that a relative error has the same
    distance from the identity line for a small ratio as for a large one. The shaded band is an
    error of ±20 %. Images whose ratio is missing, infinite (no cytoplasm) or zero (no nucleus) have
    no place on such axes; the figure states their number.

    Args:
        rows: `truth_nc_ratio`, `nc_ratio` and `label` of each image.
        dark: light on dark.
    """
    theme = _DARK if dark else _LIGHT
    figure, axes, points = _nc_figure(theme, rows, "true N/C ratio", "predicted N/C ratio")
    if not points:
        return figure
    every = np.concatenate(list(points.values()))
    low, high = every.min() / 1.25, every.max() * 1.25
    line = np.array([low, high])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.fill_between(line, line * 0.8, line * 1.2, color=theme.line, alpha=0.45, linewidth=0)
    axes.plot(line, line, color=theme.muted, linewidth=1)
    _scatter(axes, theme, points)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    for axis in (axes.xaxis, axes.yaxis):
        _log_ticks(axis, low, high)
    _legend(axes, theme, loc="upper left", handletextpad=0.3)
    return figure


def _nc_figure(
    theme: _Theme, rows: Sequence[Mapping[str, Any]], x_label: str, y_label: str
) -> tuple[Figure, Axes, dict[str, np.ndarray]]:
    """Returns a figure without points, its axes, and the points to draw.

    The points are true and predicted N/C ratios `[N, 2]` by cell type. The figure states how many
    rows have none.
    """
    figure = _figure(5.6, 5.1, theme)
    axes = figure.subplots()
    _plain(axes, theme, "", x_label, y_label)
    points: dict[str, list[tuple[float, float]]] = {}
    left_out = 0
    for row in rows:
        truth, found = (tables.number(row.get(key)) for key in ("truth_nc_ratio", "nc_ratio"))
        if truth is None or found is None or not (0 < truth < math.inf and 0 < found < math.inf):
            left_out += 1
            continue
        points.setdefault(type_name(row.get("label")), []).append((truth, found))
    if left_out:
        images = "image" if len(rows) == 1 else "images"
        axes.text(
            0.98, 0.025, f"{left_out} of {len(rows)} {images} left out: no finite ratio",
            transform=axes.transAxes, ha="right", va="bottom", fontsize=8.5, color=theme.muted,
        )  # fmt: skip
    if not points:
        _note(axes, theme, "no finite ratios")
    names = [name for name in (*CELL_TYPES, UNKNOWN_TYPE) if name in points]
    return figure, axes, {name: np.array(points[name]) for name in names}


def _scatter(axes: Axes, theme: _Theme, points: Mapping[str, np.ndarray]) -> None:
    """Draws the points `[N, 2]` of each cell type with the type's color and marker."""
    for name, pairs in points.items():
        known = name in CELL_TYPES
        place = CELL_TYPES.index(name) if known else -1
        axes.scatter(
            *pairs.T, s=26, alpha=0.85, linewidths=0.5, edgecolors=theme.ground,
            color=theme.types[place] if known else theme.second,
            marker=_MARKERS[place] if known else "P", label=f"{name} ({len(pairs)})",
        )  # fmt: skip


def nc_agreement(rows: Sequence[Mapping[str, Any]], dark: bool = False) -> Figure:
    """Draws a Bland-Altman plot of the N/C ratio: relative difference against size.

    A point is an image. Its size is the geometric mean of the true and the predicted ratio, its
    difference is predicted / true − 1. Both axes are logarithmic, so that a ratio twice too large
    lies as far from 0 as one half as large. The solid line is the bias, the dashed ones are the
    95 % limits of agreement (`metrics.limits_of_agreement`), each with its 95 % interval as a band.
    The same images are left out as in `nc_scatter`.

    Args:
        rows: `truth_nc_ratio`, `nc_ratio` and `label` of each image.
        dark: light on dark.
    """
    from matplotlib.ticker import FixedLocator, NullLocator

    theme = _DARK if dark else _LIGHT
    figure, axes, points = _nc_figure(
        theme, rows, "geometric mean of true and predicted N/C ratio", "relative difference"
    )
    if not points:
        return figure
    pairs = np.concatenate(list(points.values()))
    found = metrics.limits_of_agreement(*pairs.T)
    axes.set_xscale("log")
    axes.set_yscale("log")
    sizes = {name: np.sqrt(p.prod(1)) for name, p in points.items()}
    _scatter(
        axes, theme, {n: np.stack([sizes[n], p[:, 1] / p[:, 0]], 1) for n, p in points.items()}
    )
    lines = [
        (found.bias, found.bias_interval, "-", "bias"),
        (found.limits[0], found.lower_interval, "--", "lower limit"),
        (found.limits[1], found.upper_interval, "--", "upper limit"),
    ]
    shown = [(pairs[:, 1] / pairs[:, 0]).min(), (pairs[:, 1] / pairs[:, 0]).max()]
    axes.axhline(1, color=theme.line, linewidth=1.2, zorder=0.5)
    for value, ends, style, name in lines:
        if not math.isfinite(value):
            continue
        axes.axhline(1 + value, color=theme.ink, linewidth=1.2, linestyle=style)
        if math.isfinite(ends[0]):
            axes.axhspan(1 + ends[0], 1 + ends[1], color=theme.muted, alpha=0.18, linewidth=0)
        axes.annotate(
            f"{name} {tables.signed_percent(value)}", (1, 1 + value), (-2, 3),
            va="bottom", ha="right", xycoords=axes.get_yaxis_transform(),
            textcoords="offset points", fontsize=8.5, color=theme.ink,
            bbox={"facecolor": theme.ground, "alpha": 0.7, "pad": 0.8, "linewidth": 0},
        )  # fmt: skip
        shown += [1 + value, *(1 + end for end in ends if math.isfinite(end))]
    # Leaves room for the labels, and at least ±10 %, so that a small difference looks small.
    axes.set_ylim(min(min(shown) / 1.1, 0.9), max(max(shown) * 1.1, 1.1))
    every = np.concatenate(list(sizes.values()))
    low, high = every.min() / 1.25, every.max() * 1.25
    axes.set_xlim(low, high)
    _log_ticks(axes.xaxis, low, high)
    axes.yaxis.set_major_locator(FixedLocator(_ratio_ticks(*axes.get_ylim())))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: tables.signed_percent(value - 1, 0))
    return figure


def nc_histogram(groups: Mapping[str, Sequence[float]], dark: bool = False) -> Figure:
    """Draws a histogram of the N/C ratio for each group, all on one logarithmic axis.

    A vertical line marks each group's median.

    Args:
        groups: ratios by name, shown from top to bottom; those that are not finite are left out.
        dark: light on dark.
    """
    from matplotlib.ticker import MaxNLocator

    theme = _DARK if dark else _LIGHT
    figure = _figure(6.6, 0.9 + 0.95 * max(1, len(groups)), theme)
    known = {
        name: np.array([v for v in values if v and math.isfinite(v)])
        for name, values in groups.items()
    }
    every = np.concatenate([*known.values(), []])
    panels = figure.subplots(max(1, len(groups)), 1, sharex=True, squeeze=False)[:, 0]
    low, high = (every.min() / 1.1, every.max() * 1.1) if len(every) else (0.1, 10)
    edges = np.geomspace(low, high, 41)
    for axes, name in zip(panels, known or ("",)):
        values = known.get(name, every)
        _plain(axes, theme, "", "", "cells")
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        place = CELL_TYPES.index(name) if name in CELL_TYPES else -1
        color = theme.types[place] if place >= 0 else theme.second
        # One shape: matplotlib takes long over the rectangles of `hist`.
        axes.stairs(np.histogram(values, edges)[0], edges, fill=True, color=color, linewidth=0)
        median = ""
        if len(values):
            axes.axvline(np.median(values), color=theme.ink, linewidth=1.2)
            median = f", median {np.median(values):.2f}"
        axes.set_title(
            f"{name} ({len(values)}{median})", loc="left", fontsize=9, color=theme.ink, pad=3
        )
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True, min_n_ticks=1))
    axes = panels[-1]
    axes.set_xlabel("N/C ratio", fontsize=9.5, color=theme.muted)
    _log_ticks(axes.xaxis, low, high)
    return figure


def _ratio_ticks(low: float, high: float) -> list[float]:
    """Returns at most nine ratios whose differences from 1 are round percentages."""
    steps = (0.02, 0.05, 0.1, 0.2, 0.5)
    for step in steps:
        down = [1 - k * step for k in range(1, 50) if 1 - k * step > 0.02]
        up = [1 + k * step for k in range(50)]
        ticks = sorted(t for t in down + up if low <= t <= high)
        if len(ticks) <= 9:
            return ticks
    return [t for t in (0.01, 0.1, 0.25, 0.5, 1, 2, 5, 10, 100) if low <= t <= high]


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
    theme = _DARK if dark else _LIGHT
    figure = _figure(10.4, 3.6, theme)
    share, often = figure.subplots(1, 2)
    _plain(share, theme, "Reliability", "probability given", "share right")
    _plain(often, theme, "Probabilities given", "probability given", unit)
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
    _legend(often, theme, loc="upper left")
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

    theme = _DARK if dark else _LIGHT
    sets = list(dict.fromkeys(row.dataset for row in rows))
    scores = list(dict.fromkeys(row.score for row in rows))
    width, height, rest = DIFFERENCES_PX
    figure = _figure(width / 100, (height * len(sets) + rest) / 100, theme)
    panels = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    for axes, score in zip(panels, scores):
        _plain(axes, theme, score.name, "B − A", "")
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
        axes.xaxis.set_major_formatter(_number)
        axes.margins(x=0.15)
    # A name comes from the data: a dollar sign in it does not begin a formula.
    panels[0].set_yticks(range(len(sets)), sets, parse_math=False)
    panels[0].set_ylim(len(sets) - 0.4, -0.6)
    return figure


COHORT_COLUMNS, ROC_COLUMNS, COHORT_WIDTH_PX, ROC_PANEL_PX = 3, 4, 1160, 290
_MOST_POINTS = 400
_LINE_STYLES = ("-", "--", ":", "-.")


def cohort_distributions_px(found: cohort.Cohort) -> tuple[int, int]:
    """Returns width and height of `cohort_distributions` on a page."""
    rows = -(-len(found.measures) // COHORT_COLUMNS)
    return COHORT_WIDTH_PX, rows * (72 + 34 * len(found.groups))


def cohort_distributions(found: cohort.Cohort, dark: bool = False) -> Figure:
    """Draws each measure of each group: a panel a measure, a row a group.

    A box spans the quartiles, its line is the median, and whiskers reach from the 5th to the 95th
    percentile. Each cell is a point; of more than 400 a group, 400 are drawn at equal steps of
    rank. N/C is on a logarithmic axis; infinite values have no place on it.

    Args:
        found: the comparison.
        dark: light on dark.
    """
    from matplotlib.ticker import MaxNLocator

    theme = _DARK if dark else _LIGHT
    width, height = cohort_distributions_px(found)
    figure = _figure(width / 100, height / 100, theme)
    rows = -(-len(found.measures) // COHORT_COLUMNS)
    panels = figure.subplots(rows, COHORT_COLUMNS, squeeze=False).ravel()
    for axes in panels[len(found.measures) :]:
        axes.set_axis_off()
    names = [group.name for group in found.groups]
    for axes, measure in zip(panels, found.measures):
        _plain(axes, theme, "", "", "")
        axes.set_title(measure.label, loc="left", fontsize=9.5, color=theme.ink, pad=4)
        columns = [np.sort(v[np.isfinite(v)]) for v in found.values[measure.key]]
        every = np.concatenate(columns)
        if not len(every):
            _note(axes, theme, "no value")
        for place, values in enumerate(columns):
            if not len(values):
                continue
            color = theme.types[place % len(theme.types)]
            shown = values
            if len(values) > _MOST_POINTS:
                shown = values[np.linspace(0, len(values) - 1, _MOST_POINTS).round().astype(int)]
            # Spread by a fixed pattern, so that the same table gives the same picture.
            spread = (np.arange(len(shown)) * 0.618034 % 1 - 0.5) * 0.5
            axes.scatter(shown, place + spread, s=10, alpha=0.7, linewidths=0, color=color)
            axes.boxplot(
                values, positions=[place], widths=0.62, orientation="horizontal", whis=(5, 95),
                showfliers=False, manage_ticks=False,
                **{
                    f"{part}props": {"color": theme.ink, "linewidth": 2 if part == "median" else 1}
                    for part in ("box", "whisker", "cap", "median")
                },
            )  # fmt: skip
        axes.set_ylim(len(names) - 0.4, -0.6)
        first = list(panels).index(axes) % COHORT_COLUMNS == 0
        axes.set_yticks(range(len(names)), names if first else [""] * len(names), parse_math=False)
        if measure.key == "nc_ratio" and len(every) and every.min() > 0:
            low, high = every.min() / 1.1, every.max() * 1.1
            axes.set_xscale("log")
            axes.set_xlim(low, high)
            _log_ticks(axes.xaxis, low, high)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=measure.key == "lobes"))
            axes.xaxis.set_major_formatter(_number)
            if len(every) and every.min() == every.max():
                axes.set_xlim(every.min() - 1, every.max() + 1)
    return figure


def cohort_curves_px(found: cohort.Cohort) -> tuple[int, int]:
    """Returns width and height of `cohort_curves` on a page."""
    rows = -(-len(_curve_measures(found)) // ROC_COLUMNS)
    return COHORT_WIDTH_PX, rows * ROC_PANEL_PX


def _curve_measures(found: cohort.Cohort) -> list[cohort.Measure]:
    return [measure for measure in found.measures if not measure.ranks_of]


def cohort_curves(found: cohort.Cohort, dark: bool = False) -> Figure:
    """Draws the ROC curves of each measure: a panel a measure, a curve a pair of groups.

    Args:
        found: the comparison.
        dark: light on dark.
    """
    from wbc_jax.metrics import separation

    theme = _DARK if dark else _LIGHT
    width, height = cohort_curves_px(found)
    figure = _figure(width / 100, height / 100, theme)
    wanted = _curve_measures(found)
    rows = -(-len(wanted) // ROC_COLUMNS)
    panels = figure.subplots(rows, ROC_COLUMNS, squeeze=False).ravel()
    for axes in panels[len(wanted) :]:
        axes.set_axis_off()
    names = [group.name for group in found.groups]
    for axes, measure in zip(panels, wanted):
        _plain(axes, theme, "", "", "")
        pairs = [test for test in found.tests if test.measure == measure and test.first]
        alone = f", AUROC {tables.decimal(pairs[0].auroc, 2)}" if len(pairs) == 1 else ""
        name = "N/C and N/(N+C)" if measure.key == "nc_ratio" else measure.name
        axes.set_title(name + alone, loc="left", fontsize=9.5, color=theme.ink, pad=4)
        axes.plot([0, 1], [0, 1], color=theme.muted, linewidth=0.8)
        for i, test in enumerate(pairs):
            first, second = (
                found.values[measure.key][names.index(name)] for name in (test.first, test.second)
            )
            points = separation.roc(first, second)
            if len(points):
                axes.plot(
                    *points.T, color=theme.types[i % len(theme.types)], linewidth=1.8,
                    linestyle=_LINE_STYLES[i % len(_LINE_STYLES)],
                    label=f"{test.second} over {test.first}",
                )  # fmt: skip
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_aspect("equal")
        axes.set_xticks([0, 0.5, 1])
        axes.set_yticks([0, 0.5, 1])
    handles, labels = panels[0].get_legend_handles_labels()
    if len(labels) > 1:
        legend = figure.legend(
            handles, labels, loc="outside lower left", ncols=min(4, len(labels)), frameon=False,
            fontsize=9, labelcolor=theme.ink,
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)
    for place, axes in enumerate(panels[: len(wanted)]):
        if place % ROC_COLUMNS == 0:
            axes.set_ylabel(
                f"share of {names[1]}" if len(names) == 2 else "share of the later group",
                fontsize=9, color=theme.muted, parse_math=False,
            )  # fmt: skip
        if place >= len(wanted) - ROC_COLUMNS:
            axes.set_xlabel(
                f"share of {names[0]}" if len(names) == 2 else "share of the earlier group",
                fontsize=9, color=theme.muted, parse_math=False,
            )  # fmt: skip
    return figure


def png(figure: Figure, dpi: int = 170) -> bytes:
    """Encodes a figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor=figure.get_facecolor())
    return buffer.getvalue()
