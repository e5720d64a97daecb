"""Draw a chart as inline SVG: scales, axes and marks.

Colours are CSS classes of the page's style, so that a chart follows light and dark mode: `sN`
strokes and `fN` fills with colour N. Series also differ by marker and dash. All positions are in
units of the chart's view box.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.reporting.html._escape import text as safe

COLOURS = 7  # colours of Okabe and Ito's palette, as the style numbers them
MARKERS = ("circle", "square", "triangle", "diamond", "cross", "plus", "down")
DASHES = ("", "6 3", "2 2", "8 3 2 3", "10 3", "4 4", "1 3")
WIDE = 20.0  # ratio of largest to smallest value from which an axis is logarithmic
NARROW, BROAD = 480.0, 760.0  # widths of view boxes: side by side, and over the whole page
LETTER = 6.4  # average width of a letter on the axes
LONGEST = 18  # most letters of a name on an axis
Point = tuple[float, float]


@dataclass(frozen=True)
class Style:
    """Appearance of the series with a number.

    After seven, colours repeat with other markers and dashes.
    """

    number: int

    @property
    def colour(self) -> int:
        """Return the number of its colour."""
        return self.number % COLOURS

    @property
    def marker(self) -> str:
        """Return the name of its marker."""
        return MARKERS[(self.number + self.number // COLOURS) % len(MARKERS)]

    @property
    def dash(self) -> str:
        """Return its SVG dash pattern; "" for a solid line."""
        return DASHES[(self.number + self.number // COLOURS) % len(DASHES)]


@dataclass(frozen=True)
class Scale:
    """Numeric axis from `low` to `high`, at positions from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the position of a number, which is clipped to the ends."""
        scaled = math.log if self.log else float
        share = (scaled(max(value, self.low)) - scaled(self.low)) / (
            scaled(self.high) - scaled(self.low)
        )
        return self.start + min(share, 1.0) * (self.end - self.start)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Return positions and labels of its ticks."""
        steps = (1.0, 2.0, 5.0)
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            values = [
                step * 10.0**decade
                for decade in decades
                for step in (steps if len(decades) < 5 else (1.0,))
            ]
        else:
            rough = (self.high - self.low) / 5
            unit = 10 ** math.floor(math.log10(rough))
            step = min((each * unit for each in (*steps, 10.0)), key=lambda each: abs(each - rough))
            values = [
                step * index
                for index in range(
                    math.ceil(self.low / step), math.floor(self.high / step + 1e-9) + 1
                )
            ]
        return [
            (self(value), number(value))
            for value in values
            if self.low <= value * (1 + 1e-9) and value <= self.high * (1 + 1e-9)
        ]


@dataclass(frozen=True)
class Names:
    """Categorical axis: names, each in the middle of its band."""

    values: tuple[str, ...]
    start: float
    end: float

    def __call__(self, value: Any) -> float:
        """Return the position of the name of a value."""
        return self.start + (self.values.index(word(value)) + 0.5) * self.band

    @property
    def band(self) -> float:
        """Return the width of a band, which is negative on a reversed axis."""
        return (self.end - self.start) / len(self.values)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Return positions and labels of its ticks."""
        return [(self(value), short(value)) for value in self.values]


Axis = Scale | Names


def word(value: Any) -> str:
    """Return the text of a setting's value."""
    return number(value) if isinstance(value, float) else str(value)


def number(value: float) -> str:
    """Return a number with at most four significant digits; large integers have all, in groups."""
    return f"{value:,.0f}" if abs(value) >= 1000 and value == round(value) else f"{value:.4g}"


def short(text: str, longest: int = LONGEST) -> str:
    """Return a name that fits an axis.

    A long name keeps its beginning and its end, because similar names differ there.
    """
    return text if len(text) <= longest else f"{text[: longest - 7]}…{text[-6:]}"


def is_number(value: Any) -> bool:
    """Return whether a setting's value is a finite number and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def fitted(
    values: Iterable[float], start: float, end: float, log: bool | None = None, room: float = 0.05
) -> Scale:
    """Return a scale that contains all values with a margin.

    Args:
        values: The values; those that are not finite are ignored.
        start: The position of the low end.
        end: The position of the high end.
        log: Whether the scale is logarithmic; None if it is for positive values that are far apart.
        room: The margin as a share of the range.
    """
    known = [float(value) for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(known), max(known)
    if log is None:
        log = low > 0 and high / low >= WIDE
    if log:
        room = (high / low) ** room if high > low else 2.0
        return Scale(low / room, high * room, start, end, log=True)
    margin = room * (high - low) if high > low else max(abs(high) * 0.1, 0.5)
    return Scale(low - margin, high + margin, start, end)


def axis_of(values: Sequence[Any], start: float, end: float) -> Axis:
    """Return the axis of a setting's values: a scale if all are numbers, else names."""
    if values and all(is_number(value) for value in values):
        return fitted(values, start, end)
    return Names(tuple(sorted({word(value) for value in values})) or ("",), start, end)


def slants(axis: Axis) -> bool:
    """Return whether the names along an axis are too long to fit side by side."""
    return isinstance(axis, Names) and any(
        len(text) * LETTER > abs(axis.band) for _, text in axis.ticks
    )


class Chart:
    """Drawing of `width` x `height` with a field for marks inside its margins.

    The margins are top, right, bottom and left.
    """

    def __init__(
        self,
        name: str,
        title: str,
        width: float = NARROW,
        height: float = 300.0,
        margins: tuple[float, float, float, float] = (14, 16, 48, 60),
    ) -> None:
        self.name, self.title, self.width, self.height = name, title, width, height
        top, right, bottom, left = margins
        self.top, self.right, self.bottom, self.left = top, width - right, height - bottom, left
        self.parts: list[str] = []

    def x_axis(self, axis: Axis, label: str, grid: bool = True) -> None:
        """Draw the ticks and the label below the field. Long names are slanted."""
        ticks = axis.ticks
        slanted = slants(axis)
        for x, text in ticks:
            if grid:
                self.straight((x, self.top), (x, self.bottom), "grid")
            self.text(
                x,
                self.bottom + (12 if slanted else 16),
                text,
                "end" if slanted else "middle",
                turn=-30 if slanted else 0,
            )
        self.text((self.left + self.right) / 2, self.height - 6, label, "middle", "label")

    def y_axis(self, axis: Axis, label: str, grid: bool = True) -> None:
        """Draw the ticks and the label to the left of the field."""
        for y, text in axis.ticks:
            if grid:
                self.straight((self.left, y), (self.right, y), "grid")
            self.text(self.left - 6, y + 4, text, "end")
        self.text(13, (self.top + self.bottom) / 2, label, "middle", "label", turn=-90)

    def line(self, points: Sequence[Point], classes: str, dash: str = "", title: str = "") -> None:
        """Draw a line through points."""
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        self._add(
            "path",
            title,
            d=path,
            **{"class": f"line {classes}"},
            **({"stroke-dasharray": dash} if dash else {}),
        )

    def straight(self, start: Point, end: Point, classes: str) -> None:
        """Draw a straight line."""
        (x1, y1), (x2, y2) = start, end
        self._add("line", x1=x1, y1=y1, x2=x2, y2=y2, **{"class": classes})

    def mark(
        self, x: float, y: float, marker: str, classes: str, title: str = "", size: float = 4.0
    ) -> None:
        """Draw a marker at a point."""
        self.parts.append(marker_svg(x, y, marker, classes, title, size))

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        classes: str,
        title: str = "",
        opacity: float = 1.0,
    ) -> None:
        """Draw a filled box. Its sides may be negative."""
        sides = {
            "x": min(x, x + width),
            "y": min(y, y + height),
            "width": abs(width),
            "height": abs(height),
            "class": classes,
        }
        self._add(
            "rect", title, **sides, **({"fill-opacity": round(opacity, 3)} if opacity < 1 else {})
        )

    def text(
        self,
        x: float,
        y: float,
        text: str,
        anchor: str = "start",
        classes: str = "tick",
        turn: float = 0,
    ) -> None:
        """Draw text at a point, rotated by `turn` degrees."""
        turned = f' transform="rotate({turn:g} {x:.1f} {y:.1f})"' if turn else ""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" '
            f'class="{classes}"{turned}>{safe(text)}</text>'
        )

    def svg(self) -> str:
        """Return the whole drawing, which scales with its container."""
        name = safe(f"chart-{self.name}")
        head = (
            f'<svg viewBox="0 0 {self.width:g} {self.height:g}" role="img" aria-labelledby="{name}"'
        )
        wide = ' class="wide"' if self.width > NARROW else ""
        return (
            f'{head}{wide}><title id="{name}">{safe(self.title)}</title>{"".join(self.parts)}</svg>'
        )

    def _add(self, tag: str, title: str = "", **attributes: Any) -> None:
        self.parts.append(_element(tag, title, attributes))


def marker_svg(
    x: float, y: float, marker: str, classes: str, title: str = "", size: float = 4.0
) -> str:
    """Return the SVG element of a marker."""
    if marker == "circle":
        return _element("circle", title, {"cx": x, "cy": y, "r": size, "class": classes})
    shapes = {
        "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        "triangle": ((0, -1.2), (1.2, 1), (-1.2, 1)),
        "down": ((0, 1.2), (1.2, -1), (-1.2, -1)),
        "diamond": ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
    }
    if marker in shapes:
        path = (
            "M"
            + "L".join(f"{x + size * dx:.1f} {y + size * dy:.1f}" for dx, dy in shapes[marker])
            + "Z"
        )
        return _element("path", title, {"d": path, "class": classes})
    ends = ((1, 1), (1, -1)) if marker == "cross" else ((1.3, 0), (0, 1.3))
    path = "".join(
        f"M{x - size * dx:.1f} {y - size * dy:.1f}L{x + size * dx:.1f} {y + size * dy:.1f}"
        for dx, dy in ends
    )
    return _element("path", title, {"d": path, "class": f"{classes} thick"})


def swatch(style: Style, line: bool = True) -> str:
    """Return a small drawing of a series' appearance, for a legend."""
    dash = f' stroke-dasharray="{style.dash}"' if style.dash else ""
    drawn = f'<path d="M0 7L30 7" class="line s{style.colour}"{dash}/>' if line else ""
    marker = marker_svg(15, 7, style.marker, f"f{style.colour} s{style.colour}")
    return f'<svg viewBox="0 0 30 14" class="swatch" aria-hidden="true">{drawn}{marker}</svg>'


def _element(tag: str, title: str, attributes: dict[str, Any]) -> str:
    written = "".join(f' {name}="{_plain(value)}"' for name, value in attributes.items())
    return (
        f"<{tag}{written}><title>{safe(title)}</title></{tag}>" if title else f"<{tag}{written}/>"
    )


def _plain(value: Any) -> str:
    return (
        f"{value:.1f}".removesuffix(".0")
        if isinstance(value, float) and value > 1
        else safe(str(value))
    )
