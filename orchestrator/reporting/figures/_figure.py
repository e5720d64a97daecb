"""Create empty figures, and prepare numbers and names for drawing.

Each figure has its own canvas and never uses pyplot, whose state is shared by all threads.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]
# Okabe & Ito's palette, which colour-blind readers can distinguish
BLACK = "#000000"
ORANGE = "#E69F00"
SKY = "#56B4E9"
GREEN = "#009E73"
BLUE = "#0072B2"
VERMILLION = "#D55E00"
PURPLE = "#CC79A7"
DPI = 90


def create_figure(
    width: float, height: float, rows: int = 1, columns: int = 1, ratios: Sequence[int] = ()
) -> tuple["Figure", list["Axes"]]:
    """Return an empty figure and its axes row by row.

    Args:
        width: The width in inches.
        height: The height in inches.
        rows: The number of rows of axes.
        columns: The number of columns of axes.
        ratios: The relative heights of the rows; equal unless there is one per row.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    heights = ratios if len(ratios) == rows else None
    axes = list(figure.subplots(rows, columns, squeeze=False, height_ratios=heights).flat)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.set_title("", y=1.0)  # placing it by the tick labels would cost 4 ms
    return figure, axes


def create_axis(
    width: float, height: float, left: float, right: float, top: float, bottom: float
) -> tuple["Figure", "Axes"]:
    """Return an empty figure and its only axes, whose sides are given as parts of the figure."""
    figure, (axis,) = create_figure(width, height)
    figure.subplots_adjust(left=left, right=right, top=top, bottom=bottom)
    return figure, axis


def heat_map(
    axis: "Axes", shares: Array, extent: tuple[float, float, float, float], **named: Any
) -> Any:
    """Draw shares (E, bins) as columns of percentages from the bottom up; return the image."""
    return axis.imshow(
        100 * shares.T,
        origin="lower",
        aspect="auto",
        extent=extent,
        cmap="Blues",
        interpolation="nearest",
        **named,
    )


def named(number: "int | np.integer[Any]", classes: Sequence[str]) -> str:
    name = classes[int(number)] if 0 <= number < len(classes) else str(number)
    # Similar names differ at their ends
    return name if len(name) <= 12 else f"{name[:7]}…{name[-4:]}"


def finite(values: Array) -> Array:
    """Return the values as float64, with NaN where a value is not finite."""
    values = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def dots(values: Array) -> dict[str, Any]:
    """Return marker options for a single value, which would not be visible as a line."""
    return {"marker": "o", "markersize": 4} if len(values) == 1 else {}


def epochs_along(axis: "Axes", epochs: int) -> None:
    """Set integer epoch ticks on the x axis, also if there is only one epoch."""
    from matplotlib.ticker import MaxNLocator

    axis.set_xlim(0.5, epochs + 0.5)
    axis.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def limits(epoch: Array) -> tuple[float, float]:
    last = float(np.nanmax(epoch))
    return (0.0, last) if last > 0 else (-1.0, 1.0)


def set_log_scale(axis: "Axes") -> None:
    """Set a logarithmic y axis with labels such as 0.1 and 20, and without minor ticks.

    Minor ticks and labels such as 10^-1 would cost more than the rest of the figure.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 1000 * low else (1,)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(NullLocator())
