"""What all charts share: colors, empty axes, ticks, and their encoding.

Colors are of Okabe and Ito's palette (Color Universal Design, 2008), which readers with any of
the common color-vision deficiencies can tell apart. Everything that has a color of its own also has
its own marker, line style or lightness. Charts use matplotlib's object interface on an Agg canvas:
no display, no global state, safe in any thread.
"""

from __future__ import annotations

import dataclasses
import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True, slots=True)
class Theme:
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
LIGHT = Theme(
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
DARK = Theme(
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


def new_figure(width: float, height: float, theme: Theme) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor=theme.ground)
    FigureCanvasAgg(figure)
    return figure


def plain(axes: Axes, theme: Theme, title: str, xlabel: str, ylabel: str) -> None:
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


def note(axes: Axes, theme: Theme, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=theme.muted)


def legend(axes: Axes, theme: Theme, **options: Any) -> None:
    axes.legend(frameon=False, fontsize=9, labelcolor=theme.ink, **options)


def tick_text(value: float, _: int | None = None) -> str:
    return f"{value:g}"


def log_ticks(axis: Axis, low: float, high: float) -> None:
    """Sets a logarithmic axis's ticks: 1, 2, 5, 10, …, or powers of ten where it is long."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(tick_text)


def png(figure: Figure, dpi: int = 170) -> bytes:
    """Encodes a figure as a PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor=figure.get_facecolor())
    return buffer.getvalue()
