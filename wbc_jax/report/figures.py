"""Outlines on images, contact sheets, and the figures of a run's report.

Colours are of Okabe and Ito's palette (Color Universal Design, 2008), which readers with any of
the common colour-vision deficiencies can tell apart; what has a colour also has its own marker,
line style or lightness. Figures use matplotlib's object interface on an Agg canvas: no display, no
global state, safe in any thread.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from wbc_jax import labels as labels_lib
from wbc_jax.labels import BACKGROUND, CELL_TYPES, IGNORE
from wbc_jax.metrics import statistics
from wbc_jax.report import tables

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUCLEUS_COLOUR = (240, 228, 66)
"""RGB of the nucleus's outline: light, against the dark stain of chromatin."""
CELL_COLOUR = (0, 114, 178)
"""RGB of the cell's outline: dark, against pale plasma and red cells."""
ERROR_COLOUR = (213, 94, 0)
"""RGB of pixels of another class than predicted."""

_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """One image of the evaluated split, shown in the report."""

    dataset: str
    """Its data set's name."""
    id: str
    """Its id, unique in the data set."""
    label: int
    """Index in `labels.CELL_TYPES`; -1 unknown."""
    image: np.ndarray
    """uint8 `[S, S, 3]`."""
    score: float
    """Mean IoU of the image, NaN where there is no truth; or the predicted type's probability."""
    truth: np.ndarray | None = None
    """uint8 `[S, S]`, 0 background, 1 cytoplasm, 2 nucleus, 255 ignore; None: not known."""
    prediction: np.ndarray | None = None
    """uint8 `[S, S]`, as `truth`; None: the model gives a type, no mask."""
    predicted: int | None = None
    """The type that the model gives, as `label`; None: it gives a mask."""


def type_name(label: Any) -> str:
    """The cell type of a label; `unknown` for -1, None and numbers without a type."""
    found = tables.number(label)
    if found is None or not 0 <= found < len(CELL_TYPES):
        return "unknown"
    return CELL_TYPES[int(found)]


def _outline(inside: np.ndarray, outside: np.ndarray, width_px: int) -> np.ndarray:
    """Pixels of `inside` within `width_px` 4-connected steps of `outside`; bool `[H, W]`."""
    allowed = (inside | outside).astype(np.uint8)
    grown = outside.astype(np.uint8)
    for _ in range(width_px):
        grown = cv2.dilate(grown, _CROSS) & allowed
    return inside & (grown > 0)


def overlay(image: np.ndarray, mask: np.ndarray, width_px: int = 0) -> np.ndarray:
    """The image with the outlines of its cells and nuclei drawn on it.

    An outline is the innermost rim of its region: region pixels that touch, by a side, a pixel
    known to lie outside. Where a region meets the image's border or pixels of unknown class its
    edge is not known and none is drawn. The nucleus is drawn over the cell.

    Args:
        image: uint8 `[H, W, 3]` RGB, any size.
        mask: uint8 `[H, W]`: 0 background, 1 cytoplasm, 2 nucleus, 255 ignore.
        width_px: the outlines' width; 0: 1 px, and more on images larger than 400 px, so that
            they can still be seen when the whole image is on the screen.

    Returns:
        uint8 `[H, W, 3]`, a new array.

    Raises:
        ValueError: shapes or types do not fit, or the mask holds another value.
    """
    image, mask = np.asarray(image), np.asarray(mask)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be uint8 [H, W, 3], not {image.dtype} {list(image.shape)}")
    if mask.dtype != np.uint8 or mask.shape != image.shape[:2]:
        raise ValueError(
            f"mask must be uint8 {list(image.shape[:2])} as its image is, "
            f"not {mask.dtype} {list(mask.shape)}"
        )
    values = np.flatnonzero(np.bincount(mask.ravel(), minlength=256))
    strange = [int(v) for v in values if v > labels_lib.NUCLEUS and v != IGNORE]
    if strange:
        raise ValueError(f"mask holds {strange}; allowed are 0, 1, 2 and 255")
    if width_px < 0:
        raise ValueError(f"width_px is {width_px}; it must be 0 (automatic) or more")
    width_px = width_px or max(1, round(max(mask.shape, default=0) / 400))
    out = image.copy()
    rims = _rims(mask, width_px)
    out[rims == labels_lib.CYTOPLASM] = CELL_COLOUR
    out[rims == labels_lib.NUCLEUS] = NUCLEUS_COLOUR
    return out


def _rims(mask: np.ndarray, width_px: int) -> np.ndarray:
    """Where `overlay` draws: uint8 `[H, W]`, 1 the cell's outline, 2 the nucleus's, else 0."""
    rims = np.zeros_like(mask)
    if mask.size:
        nucleus = mask == labels_lib.NUCLEUS
        cytoplasm = mask == labels_lib.CYTOPLASM
        background = mask == BACKGROUND
        rims[_outline(nucleus | cytoplasm, background, width_px)] = labels_lib.CYTOPLASM
        rims[_outline(nucleus, background | cytoplasm, width_px)] = labels_lib.NUCLEUS
    return rims


def outline_layer(mask: np.ndarray, width_px: int) -> bytes:
    """The outlines that `overlay` draws, alone on a transparent ground; a PNG file's bytes.

    Args:
        mask: as in `overlay`.
        width_px: the outlines' width, 1 or more.
    """
    return _layer(_rims(mask, width_px), (CELL_COLOUR, NUCLEUS_COLOUR))


def error_layer(truth: np.ndarray, prediction: np.ndarray) -> bytes:
    """Pixels whose class is known and another than predicted, coloured; a PNG file's bytes.

    Args:
        truth, prediction: uint8 `[H, W]`, as in `overlay`.
    """
    wrong = (truth != prediction) & (truth != IGNORE)
    return _layer(wrong.astype(np.uint8), (ERROR_COLOUR,))


def _layer(index: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> bytes:
    """A palette picture of uint8 `[H, W]`: 0 transparent, k the k-th colour."""
    picture = Image.fromarray(index).convert("L")
    picture.putpalette([0, 0, 0, *(part for colour in colours for part in colour)])
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True, transparency=0)
    return buffer.getvalue()


def contact_sheet(
    tiles: Sequence[np.ndarray], columns: int, pad: int = 4, background: int = 255
) -> np.ndarray:
    """Images side by side, row by row, each centred in a cell of the largest one's size.

    Args:
        tiles: uint8 `[h, w, 3]`, sizes may differ; at least one.
        columns: images a row.
        pad: pixels between neighbours and around the sheet.
        background: grey level of what no image covers.

    Returns:
        uint8 `[H, W, 3]`; a row that is not full is filled with background, and fewer images than
        columns make a sheet as wide as they are.

    Raises:
        ValueError: no images, images of another kind, `columns` < 1 or `pad` < 0.
    """
    if not tiles:
        raise ValueError("a contact sheet needs at least one image")
    if columns < 1 or pad < 0:
        raise ValueError(f"columns must be 1 or more and pad 0 or more, not {columns} and {pad}")
    for tile in tiles:
        if tile.dtype != np.uint8 or tile.ndim != 3 or tile.shape[2] != 3:
            raise ValueError(f"tiles must be uint8 [h, w, 3], not {tile.dtype} {list(tile.shape)}")
    columns = min(columns, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    height, width = max(t.shape[0] for t in tiles), max(t.shape[1] for t in tiles)
    shape = (pad + rows * (height + pad), pad + columns * (width + pad), 3)
    sheet = np.full(shape, background, np.uint8)
    for place, tile in enumerate(tiles):
        h, w = tile.shape[:2]
        y = pad + place // columns * (height + pad) + (height - h) // 2
        x = pad + place % columns * (width + pad) + (width - w) // 2
        sheet[y : y + h, x : x + w] = tile
    return sheet


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


# Grounds are the page's own (templates/style.css.j2), so that figures have no visible edge on it.
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


def _series(history: Sequence[Mapping[str, Any]], kind: str, key: str) -> np.ndarray:
    """Finite values of `key`; float64 `[2, N]`, steps and values in the steps' order."""
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
    """Loss (left, log scale where it can be) and the task's scores (right) over a run's steps.

    Args:
        history: lines of `metrics.jsonl`: `step`, `kind` (`train` or `validation`), and any of
            `loss`, `mean_iou`, `iou_cytoplasm`, `iou_nucleus`, or `accuracy` and `macro_recall`.
            Missing and non-finite values are left out; a panel without any value says so.
        dark: light on dark.
        task: `segmentation` (IoU) or `classification` (accuracy and macro recall).
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

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
        loss.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
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
            axes.legend(frameon=False, fontsize=9, labelcolor=theme.ink)
        else:
            _note(axes, theme, "not recorded")
    return figure


def nc_scatter(rows: Sequence[Mapping[str, Any]], dark: bool = False) -> Figure:
    """Predicted against true N/C ratio, a point an image, coloured by cell type.

    Both axes are logarithmic and alike: a given relative error is then the same distance from the
    identity line for a small ratio as for a large one. The shaded band is an error of ±20 %.
    Images where either ratio is missing, infinite (no cytoplasm) or zero (no nucleus) have no
    place on such axes; their number is written in the figure.

    Args:
        rows: `truth_nc_ratio`, `nc_ratio` and `label` of each image.
        dark: light on dark.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

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
    subs = (1, 2, 5) if high / low < 300 else (1,)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=subs))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.legend(
        frameon=False, fontsize=9, labelcolor=theme.ink, loc="upper left", handletextpad=0.3
    )
    return figure


def _nc_figure(
    theme: _Theme, rows: Sequence[Mapping[str, Any]], x_label: str, y_label: str
) -> tuple[Figure, Axes, dict[str, np.ndarray]]:
    """An empty figure, and true and predicted N/C ratios `[N, 2]` by cell type; how many rows have
    none is written in it."""
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
    names = [name for name in (*CELL_TYPES, "unknown") if name in points]
    return figure, axes, {name: np.array(points[name]) for name in names}


def _scatter(axes: Axes, theme: _Theme, points: Mapping[str, np.ndarray]) -> None:
    """Points `[N, 2]` of each cell type in its colour and with its marker."""
    for name, pairs in points.items():
        known = name in CELL_TYPES
        place = CELL_TYPES.index(name) if known else -1
        axes.scatter(
            *pairs.T, s=26, alpha=0.85, linewidths=0.5, edgecolors=theme.ground,
            color=theme.types[place] if known else theme.second,
            marker=_MARKERS[place] if known else "P", label=f"{name} ({len(pairs)})",
        )  # fmt: skip


def nc_agreement(rows: Sequence[Mapping[str, Any]], dark: bool = False) -> Figure:
    """Bland and Altman's plot of the N/C ratio: relative difference against size, a point an image.

    Size is the geometric mean of the true and the predicted ratio, the difference predicted / true
    − 1; both axes are logarithmic, so that twice as large lies as far from 0 as half as large. The
    solid line is the bias, the dashed ones are the 95 % limits of agreement
    (`metrics.limits_of_agreement`), each with its 95 % interval as a band. What is left out is as
    in `nc_scatter`.

    Args:
        rows: `truth_nc_ratio`, `nc_ratio` and `label` of each image.
        dark: light on dark.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    theme = _DARK if dark else _LIGHT
    figure, axes, points = _nc_figure(
        theme, rows, "geometric mean of true and predicted N/C ratio", "relative difference"
    )
    if not points:
        return figure
    pairs = np.concatenate(list(points.values()))
    found = statistics.limits_of_agreement(*pairs.T)
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
    # Room for the labels, and never so near that a small difference looks large.
    axes.set_ylim(min(min(shown) / 1.1, 0.9), max(max(shown) * 1.1, 1.1))
    every = np.concatenate(list(sizes.values()))
    low, high = every.min() / 1.25, every.max() * 1.25
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_major_locator(FixedLocator(_ratio_ticks(*axes.get_ylim())))
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: tables.signed_percent(value - 1, 0))
    )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    return figure


def nc_histogram(groups: Mapping[str, Sequence[float]], dark: bool = False) -> Figure:
    """How often each N/C ratio occurs, a panel a group, on one logarithmic axis; a line: median.

    Args:
        groups: ratios by name, shown from top to bottom; those that are not finite are left out.
        dark: light on dark.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

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
        axes.hist(values, edges, color=theme.types[place] if place >= 0 else theme.second)
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
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return figure


def _ratio_ticks(low: float, high: float) -> list[float]:
    """Ratios that are round as differences in per cent, few enough to be read."""
    steps = (0.02, 0.05, 0.1, 0.2, 0.5)
    for step in steps:
        down = [1 - k * step for k in range(1, 50) if 1 - k * step > 0.02]
        up = [1 + k * step for k in range(50)]
        ticks = sorted(t for t in down + up if low <= t <= high)
        if len(ticks) <= 9:
            return ticks
    return [t for t in (0.01, 0.1, 0.25, 0.5, 1, 2, 5, 10, 100) if low <= t <= high]


def reliability(rows: Sequence[Mapping[str, Any]], dark: bool = False, bins: int = 10) -> Figure:
    """Share of right answers against the probability given (left), and how often each is given.

    Bars are 95 % intervals of the shares (Wilson 1927): of few cells a share says little.

    Args:
        rows: `probability` (of the predicted type) and `right` of each image.
        dark: light on dark.
        bins: of equal width between 0 and 1; empty ones have no point.
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
    """As `reliability`, of the pixels of masks, without bars: a picture's pixels go together.

    Args:
        found: `pixels`, `right` and `confidence` by bin, as `calibration` of `report/metrics.json`
            has them of a data set; None in `confidence` where a bin is empty.
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
    """Both panels from each bin's number, right ones and mean probability, all `[B]`."""
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
    often.legend(frameon=False, fontsize=9, labelcolor=theme.ink, loc="upper left")
    return figure


DIFFERENCES_WIDTH = (1040, 26, 90)
"""Of `differences` on a page: its width, the height of a data set and that of everything else."""


def differences(lines: Sequence[Any], dark: bool = False) -> Figure:
    """Differences of two runs with their intervals: a panel a score, a row a data set.

    Args:
        lines: of a `comparison.Comparison`, by data set and then by score.
        dark: light on dark.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    theme = _DARK if dark else _LIGHT
    sets = list(dict.fromkeys(line.dataset for line in lines))
    scores = list(dict.fromkeys(line.score for line in lines))
    width, row, rest = DIFFERENCES_WIDTH
    figure = _figure(width / 100, (row * len(sets) + rest) / 100, theme)
    panels = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    for axes, score in zip(panels, scores):
        _plain(axes, theme, score.name, "B − A", "")
        axes.axvline(0, color=theme.muted, linewidth=1)
        for line in lines:
            if line.score != score or not math.isfinite(line.difference):
                continue
            place = sets.index(line.dataset)
            axes.plot(
                [line.low, line.high], [place, place], color=theme.accent, linewidth=1.8,
                solid_capstyle="butt",
            )  # fmt: skip
            # Hollow where nothing is shown.
            axes.plot(
                line.difference, place, "o", markersize=6, color=theme.accent,
                markerfacecolor=theme.accent if line.verdict else theme.ground,
            )  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.margins(x=0.15)
    panels[0].set_yticks(range(len(sets)), sets, parse_math=False)
    panels[0].set_ylim(len(sets) - 0.4, -0.6)
    return figure


def row_fractions(confusion: Any) -> np.ndarray:
    """Counts `[C, C]`, rows truth, as fractions of their row; NaN in a row without counts.

    Raises:
        ValueError: not a square matrix.
    """
    counts = np.asarray(confusion, np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(f"a confusion matrix is [C, C], not {list(counts.shape)}")
    total = counts.sum(axis=1, keepdims=True)
    return np.divide(counts, total, out=np.full_like(counts, np.nan), where=total > 0)


def confusion_figure(confusion: Any, names: Sequence[str], dark: bool = False) -> Figure:
    """A confusion matrix: each cell its share of the row in per cent, and its count below.

    Args:
        confusion: `[C, C]` counts, rows truth, columns prediction.
        names: the C classes' names.
        dark: light on dark.

    Raises:
        ValueError: the matrix is not square, or has not one name a class.
    """
    from matplotlib.colors import LinearSegmentedColormap

    fractions = row_fractions(confusion)
    if len(names) != len(fractions):
        raise ValueError(f"{len(names)} names for {len(fractions)} classes")
    theme = _DARK if dark else _LIGHT
    side = 1.6 + 0.85 * len(names)
    figure = _figure(side + 0.4, side, theme)
    axes = figure.subplots()
    _plain(axes, theme, "", "prediction", "truth")
    axes.grid(False)
    tint = LinearSegmentedColormap.from_list("tint", [theme.ground, theme.accent])
    axes.imshow(np.nan_to_num(fractions), cmap=tint, vmin=0, vmax=1)
    strong = "#ffffff" if not dark else "#0b0c0e"
    for (row, column), fraction in np.ndenumerate(fractions):
        colour = strong if fraction > 0.55 else theme.ink
        axes.text(
            column, row - 0.08, tables.percent(fraction),
            ha="center", va="center", color=colour, fontsize=10.5,
        )  # fmt: skip
        axes.text(
            column, row + 0.2, tables.count(confusion[row][column]),
            ha="center", va="center", color=colour, fontsize=7.5,
        )  # fmt: skip
    # Names come from data: a dollar sign in one is no mathematics.
    axes.set_xticks(range(len(names)), names, parse_math=False)
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def png(figure: Figure, dpi: int = 170) -> bytes:
    """The figure as a PNG file's bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor=figure.get_facecolor())
    return buffer.getvalue()
