"""Draw a forest plot: differences with their intervals, one row each, around a line at zero."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from orchestrator.reporting.html._chart import BROAD, INK, Chart, Style
from orchestrator.reporting.html._format import redacted, short

ROW, FRAME = 30.0, 80.0  # heights of a row, and of the axis and the margins
WHITE = "#ffffff"
ChartKind = Literal["pdf", "png"]
CHART_KINDS: tuple[ChartKind, ...] = ("pdf", "png")


@dataclass(frozen=True)
class Interval:
    """A row of a forest plot: the mean with the ends of its interval, None without an interval."""

    label: str
    mean: float
    low: float | None
    high: float | None

    @property
    def text(self) -> str:
        """Return the mean and the interval, such as `+1.20 [+0.40, +2.00]`."""
        if self.low is None or self.high is None:
            return f"{self.mean:+.2f}"
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def draw_forest(name: str, title: str, x: str, rows: Sequence[Interval]) -> Chart:
    """Return the chart with a row per interval, the first one at the top.

    Args:
        name: Unique name of the chart on a page.
        title: Title of the chart.
        x: Label of the horizontal axis.
        rows: One or more rows.
    """
    chart, style = Chart(name, title, BROAD, FRAME + ROW * len(rows)), Style(0)
    axes, places = chart.axes, range(len(rows), 0, -1)
    axes.grid(axis="y", visible=False)
    axes.axvline(0.0, color=INK, linewidth=1, zorder=1)
    for place, row in zip(places, rows, strict=True):
        if row.low is not None and row.high is not None:
            axes.hlines(place, row.low, row.high, colors=style.colour, linewidth=2, zorder=2)
    chart.marks(
        [
            (row.mean, place, f"{row.label}: {row.text}")
            for place, row in zip(places, rows, strict=True)
        ],
        style,
    )
    axes.set_yticks(list(places), labels=[redacted(short(row.label, 40)) for row in rows])
    axes.set_ylim(0.5, len(rows) + 0.5)
    chart.label(x=x)
    return chart


def save_chart(chart: Chart, kind: ChartKind) -> bytes:
    """Return a chart as a file of its own, on white."""
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    file = io.BytesIO()
    ConstrainedLayoutEngine().execute(chart.figure)
    metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
    chart.figure.patch.set_visible(True)
    chart.figure.savefig(file, format=kind, dpi=200, facecolor=WHITE, metadata=metadata)
    return file.getvalue()
