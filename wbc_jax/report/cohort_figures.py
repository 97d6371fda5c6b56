"""The charts of a cohort: the measures of its groups, and their ROC curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from wbc_jax.report import chart_parts, tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from wbc_jax.evaluate import cohort


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

    theme = chart_parts.DARK if dark else chart_parts.LIGHT
    width, height = cohort_distributions_px(found)
    figure = chart_parts.new_figure(width / 100, height / 100, theme)
    rows = -(-len(found.measures) // COHORT_COLUMNS)
    panels = figure.subplots(rows, COHORT_COLUMNS, squeeze=False).ravel()
    for axes in panels[len(found.measures) :]:
        axes.set_axis_off()
    names = [group.name for group in found.groups]
    for axes, measure in zip(panels, found.measures):
        chart_parts.plain(axes, theme, "", "", "")
        axes.set_title(measure.label, loc="left", fontsize=9.5, color=theme.ink, pad=4)
        columns = [np.sort(v[np.isfinite(v)]) for v in found.values[measure.key]]
        every = np.concatenate(columns)
        if not len(every):
            chart_parts.note(axes, theme, "no value")
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
            chart_parts.log_ticks(axes.xaxis, low, high)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=measure.key == "lobes"))
            axes.xaxis.set_major_formatter(chart_parts.tick_text)
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

    theme = chart_parts.DARK if dark else chart_parts.LIGHT
    width, height = cohort_curves_px(found)
    figure = chart_parts.new_figure(width / 100, height / 100, theme)
    wanted = _curve_measures(found)
    rows = -(-len(wanted) // ROC_COLUMNS)
    panels = figure.subplots(rows, ROC_COLUMNS, squeeze=False).ravel()
    for axes in panels[len(wanted) :]:
        axes.set_axis_off()
    names = [group.name for group in found.groups]
    for axes, measure in zip(panels, wanted):
        chart_parts.plain(axes, theme, "", "", "")
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
