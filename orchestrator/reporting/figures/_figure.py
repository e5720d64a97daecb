"""What all figures share: an empty one, colours, and how numbers and names are made fit to be drawn. Knows no picture.

Figures have a canvas of their own and never touch pyplot, whose state is shared by all threads.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]
# Okabe & Ito's palette, which colour-blind readers tell apart
BLACK, ORANGE, SKY, GREEN, BLUE, VERMILLION, PURPLE = "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"
DPI = 90


def blank(
    width: float, height: float, rows: int = 1, columns: int = 1, ratios: Sequence[int] = ()
) -> tuple["Figure", list["Axes"]]:
    """A figure of inches, and its axes row by row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    heights = ratios if len(ratios) == rows else None
    axes = list(figure.subplots(rows, columns, squeeze=False, height_ratios=heights).flat)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    return figure, axes


def named(number: "int | np.integer[Any]", classes: Sequence[str]) -> str:
    name = classes[int(number)] if 0 <= number < len(classes) else str(number)
    return name if len(name) <= 12 else f"{name[:7]}…{name[-4:]}"  # names of a kind differ at their ends


def finite(values: Array) -> Array:
    """As float64, with a gap where a value is not finite."""
    values = np.asarray(values, dtype=np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def dots(values: Array) -> dict[str, Any]:
    """A single point would be no line."""
    return {"marker": "o", "markersize": 4} if len(values) == 1 else {}


def epochs_along(axis: "Axes", epochs: int) -> None:
    """The epochs 1, 2, ... along the axis, of which a single one has its tick too."""
    from matplotlib.ticker import MaxNLocator

    axis.set_xlim(0.5, epochs + 0.5)
    axis.xaxis.set_major_locator(MaxNLocator(7, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))


def limits(epoch: Array) -> tuple[float, float]:
    last = float(np.nanmax(epoch))
    return (0.0, last) if last > 0 else (-1.0, 1.0)
