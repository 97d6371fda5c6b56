"""The charts of N/C ratios: against the truth, their agreement, and by type."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from wbc_jax import metrics
from wbc_jax.labels import CELL_TYPES, UNKNOWN_TYPE, type_name
from wbc_jax.report import chart_parts, tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


_MARKERS = ("o", "s", "^", "D", "v")


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
    theme = chart_parts.DARK if dark else chart_parts.LIGHT
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
        chart_parts.log_ticks(axis, low, high)
    chart_parts.legend(axes, theme, loc="upper left", handletextpad=0.3)
    return figure


def _nc_figure(
    theme: chart_parts.Theme, rows: Sequence[Mapping[str, Any]], x_label: str, y_label: str
) -> tuple[Figure, Axes, dict[str, np.ndarray]]:
    """Returns a figure without points, its axes, and the points to draw.

    The points are true and predicted N/C ratios `[N, 2]` by cell type. The figure states how many
    rows have none.
    """
    figure = chart_parts.new_figure(5.6, 5.1, theme)
    axes = figure.subplots()
    chart_parts.plain(axes, theme, "", x_label, y_label)
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
        chart_parts.note(axes, theme, "no finite ratios")
    names = [name for name in (*CELL_TYPES, UNKNOWN_TYPE) if name in points]
    return figure, axes, {name: np.array(points[name]) for name in names}


def _scatter(axes: Axes, theme: chart_parts.Theme, points: Mapping[str, np.ndarray]) -> None:
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

    theme = chart_parts.DARK if dark else chart_parts.LIGHT
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
    chart_parts.log_ticks(axes.xaxis, low, high)
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

    theme = chart_parts.DARK if dark else chart_parts.LIGHT
    figure = chart_parts.new_figure(6.6, 0.9 + 0.95 * max(1, len(groups)), theme)
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
        chart_parts.plain(axes, theme, "", "", "cells")
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
    chart_parts.log_ticks(axes.xaxis, low, high)
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
