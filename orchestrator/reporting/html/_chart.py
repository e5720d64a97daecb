"""Draw a chart with matplotlib: its frame, its axes and its series.

Colours are those of the light page; the SVG has CSS variables instead, so that a chart follows
light and dark mode. Series also differ by marker and dash. The tooltip of an artist is its `url`.
"""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.reporting.figures._figure import create_figure
from orchestrator.reporting.html._format import is_number, number, redacted, short, word
from orchestrator.reporting.html._svg import inline_svg

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.container import BarContainer
    from matplotlib.ticker import Locator

INK, MUTED, RULE, PAPER = "#1b1b1b", "#5c6166", "#d9dcdf", "#ffffff"
# Okabe & Ito's palette, which colour-blind readers can distinguish; the last is that of the text
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", INK)
PALETTE = {"ink": INK, "muted": MUTED, "rule": RULE, "paper": PAPER} | {
    f"c{place}": colour for place, colour in enumerate(COLOURS[:-1])
}
MARKERS = ("o", "s", "^", "D", "X", "P", "v")
DASHES: tuple[Any, ...] = (
    "-",
    *((0, dash) for dash in ((3, 1.5), (1, 1), (4, 1.5, 1, 1.5), (5, 1.5), (2, 2), (0.5, 1.5))),
)
WIDE = 20.0  # ratio of largest to smallest value from which an axis is logarithmic
NARROW, BROAD = 480.0, 760.0  # widths: side by side, and over the whole page
POINTS = 72.0  # units of an SVG in an inch
LETTER = 6.4  # average width of a letter on the axes
LEGEND_ROW = 18.0  # height of a row of a legend
Points = Sequence[tuple[float, float, str]]  # positions with tooltips


@dataclass(frozen=True)
class Style:
    """Appearance of the series with a number.

    After seven, colours repeat with other markers and dashes.
    """

    number: int

    @property
    def colour(self) -> str:
        """Return its colour."""
        return COLOURS[self.number % len(COLOURS)]

    @property
    def marker(self) -> str:
        """Return its marker."""
        return MARKERS[(self.number + self.number // len(COLOURS)) % len(MARKERS)]

    @property
    def dash(self) -> Any:
        """Return its line style."""
        return DASHES[(self.number + self.number // len(COLOURS)) % len(DASHES)]


class Chart:
    """Figure of `width` x `height` units; `axes` are the first of those in `rows`."""

    def __init__(
        self,
        name: str,
        title: str,
        width: float = NARROW,
        height: float = 300.0,
        ratios: Sequence[int] = (1,),
    ) -> None:
        self.name, self.title, self.width, self.height = name, title, width, height
        self.figure, self.rows = create_figure(
            width / POINTS, height / POINTS, len(ratios), ratios=ratios
        )
        self.figure.patch.set_visible(False)
        self.axes = self.rows[0]
        for axes in self.rows:
            axes.patch.set_visible(False)
            axes.spines[:].set_visible(False)
            axes.tick_params(which="both", length=0, labelsize=11, labelcolor=MUTED)
            axes.grid(color=RULE, linewidth=1)
            axes.set_axisbelow(True)

    @property
    def broad(self) -> bool:
        """Return whether the chart has the whole width of the page."""
        return self.width > NARROW

    def label(self, x: str = "", y: str = "") -> None:
        """Label the axes; the horizontal label belongs to the last row."""
        self.rows[-1].set_xlabel(redacted(x), color=INK, fontsize=12)
        self.axes.set_ylabel(redacted(y), color=INK, fontsize=12)

    def marks(self, points: Points, style: Style, filled: bool = True, size: float = 7.0) -> None:
        """Draw markers of a series."""
        if points:
            x, y, tooltips = zip(*points, strict=True)
            self.axes.scatter(
                x,
                y,
                size**2,
                marker=style.marker,
                facecolors=style.colour if filled else PAPER,
                edgecolors=style.colour,
                linewidths=1.5,
                urls=tooltips,
                zorder=3,
                clip_on=False,
            )

    def legend(self, entries: Sequence[tuple[str, Style]], lines: bool = True) -> None:
        """Name the series below the chart, with their lines or with their markers alone."""
        from matplotlib.lines import Line2D

        if not entries:
            return
        handles = [
            Line2D(
                [],
                [],
                color=style.colour,
                linestyle=style.dash if lines else "",
                marker=style.marker,
                label=short(name, 50 if self.broad else 28),
            )
            for name, style in entries
        ]
        self.height += LEGEND_ROW * -(-len(entries) // 2)
        self.figure.set_figheight(self.height / POINTS)
        self.figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=2,
            frameon=False,
            fontsize=11,
            labelcolor=MUTED,
            handlelength=3,
        )

    @property
    def svg(self) -> str:
        """Return the whole drawing, which scales with its container."""
        import matplotlib
        from matplotlib.layout_engine import ConstrainedLayoutEngine
        from matplotlib.text import Text

        for text in self.figure.findobj(Text):
            text.set_parse_math(False)  # type: ignore[attr-defined]
        options = {"svg.fonttype": "none", "svg.hashsalt": self.name, "text.parse_math": False}
        file = io.StringIO()
        with matplotlib.rc_context(options), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # the browser has other fonts
            # Not as the figure's engine, with which `savefig` draws twice
            ConstrainedLayoutEngine().execute(self.figure)
            self.figure.savefig(
                file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type"))
            )
        variables = {colour: f"var(--{name})" for name, colour in PALETTE.items()}
        return inline_svg(file.getvalue(), self.name, self.title, variables)


def is_wide(values: Sequence[Any]) -> bool:
    """Return whether positive values are so far apart that their axis is logarithmic."""
    return bool(len(values)) and min(values) > 0 and max(values) / min(values) >= WIDE


def locator(log: bool, ticks: int = 6) -> "Locator":
    """Return the positions of ticks on an axis of numbers."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    if log:
        return LogLocator(subs=(1, 2, 5), numticks=2 * ticks)
    return MaxNLocator(ticks, steps=[1, 2, 5, 10])


def scale(axis: "Axis", values: Sequence[float], log: bool | None = None) -> None:
    """Fit an axis to numbers; those that are not finite are ignored.

    Args:
        axis: The axis.
        values: The values that it shows.
        log: Whether the axis is logarithmic; None if it is for positive values that are far apart.
    """
    from matplotlib.ticker import NullLocator

    known = [value for value in values if np.isfinite(value)]
    log = is_wide(known) if log is None else log
    _set(axis, scale="log" if log else "linear")
    axis.set_major_locator(locator(log))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(lambda value, _: number(value))


def _set(axis: "Axis", **options: Any) -> None:
    """Set the limits or the scale of an axis by the axes' methods for its direction."""
    direction = "x" if axis is axis.axes.xaxis else "y"
    axis.axes.set(**{f"{direction}{name}": value for name, value in options.items()})


def epochs_scale(axis: "Axis", first: int, last: int) -> None:
    """Set whole epochs as the ticks of an axis."""
    from matplotlib.ticker import MaxNLocator

    _set(axis, lim=(first, last + 0.01 * (last - first)))
    axis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def category_scale(axis: "Axis", names: Sequence[str], longest: int = 18) -> None:
    """Set names as the ticks of an axis; long names along the horizontal axis are slanted."""
    axis.set_ticks(range(len(names)), [short(name, longest) for name in names])
    _set(axis, lim=(-0.5, max(len(names), 1) - 0.5))
    width = axis.axes.bbox.width * POINTS / axis.axes.figure.dpi
    if axis is axis.axes.xaxis and any(
        LETTER * min(len(name), longest) > width / len(names) for name in names
    ):
        axis.set_tick_params(labelrotation=30)
        for label in axis.get_ticklabels():
            label.set(horizontalalignment="right", rotation_mode="anchor")


def setting_scale(axis: "Axis", values: Sequence[Any]) -> NDArray[np.float64]:
    """Fit an axis to a setting's values, numbers or names, and return their positions on it."""
    if values and all(is_number(value) for value in values):
        scale(axis, values)
        return np.array(values, np.float64)
    names = sorted({word(value) for value in values})
    category_scale(axis, names)
    return np.array([names.index(word(value)) for value in values], np.float64)


def label_bars(chart: Chart, bars: "BarContainer", labels: Sequence[str]) -> None:
    """Write the values of horizontal bars, which are shares, beside them."""
    chart.axes.bar_label(bars, labels, padding=5, fontsize=11, color=MUTED)
    chart.axes.set(xlim=(0, 1.12), xticks=np.linspace(0, 1, 6))
    chart.axes.grid(visible=False, axis="y")
