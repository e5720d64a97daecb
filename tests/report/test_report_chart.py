"""Test the charts: scales fit the values, series differ, and the SVG is safe in a page."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from orchestrator.reporting.html._chart import (
    COLOURS,
    PALETTE,
    Chart,
    Style,
    category_scale,
    epochs_scale,
    scale,
    setting_scale,
)
from orchestrator.reporting.html._format import number, short
from orchestrator.reporting.html._settings_charts import MISSING, _unit_positions
from tests.report.page_read import Page

HOSTILE = "</text></title><script>$x^2$ & \"'"


def drawn_chart(name: str = "one", text: str = "text") -> Chart:
    """Return a chart with all kinds of series, with the text everywhere."""
    chart = Chart(name, text)
    chart.axes.plot([0, 1], [0, 1], url=text)
    for place in range(9):
        chart.marks([(0.1 * place, 0.5, text), (0.2, 0.1 * place, text)], Style(place))
    category_scale(chart.axes.yaxis, [text, "other"], 50)
    chart.label(text, text)
    chart.legend([(text, Style(0)), (text, Style(1))])
    return chart


@pytest.mark.parametrize(
    "values",
    [[0.0], [0.5, 0.5], [-3.0, 2.0], [1e-9, 1e-3, 5.0], [7e8, 9e8], [0.787, 0.801], [0.0, 1e-12]],
)
def test_a_scale_holds_its_values_and_has_ticks(values: list[float]) -> None:
    axes = Chart("scale", "").axes
    axes.plot(values, values)
    scale(axes.xaxis, [*values, math.nan, math.inf])
    low, high = axes.get_xlim()
    assert low <= min(values) and max(values) <= high and low < high
    inside = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert 1 <= len(inside) <= 40 and len(set(inside)) == len(inside)


def test_values_far_apart_have_a_logarithmic_axis() -> None:
    chart = Chart("scale", "")
    axes = chart.axes
    axes.plot([0.01, 1.0], [1.0, 2.0])
    assert list(setting_scale(axes.xaxis, [0.01, 1.0])) == [0.01, 1.0]
    scale(axes.yaxis, [1.0, 2.0])
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "linear")
    chart.figure.draw_without_rendering()
    low, high = axes.get_xlim()
    labels = [
        label.get_text()
        for tick, label in zip(axes.get_xticks(), axes.get_xticklabels(), strict=True)
        if low <= tick <= high
    ]
    assert labels == ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]
    scale(axes.xaxis, [0.01, 1.0], log=False)
    assert axes.get_xscale() == "linear"


@pytest.mark.parametrize("values", [["b", True, "a", "b"], [1, True], [math.nan, 1.0], []])
def test_names_have_positions_of_their_own(values: list[Any]) -> None:
    axes = Chart("names", "").axes
    places = setting_scale(axes.xaxis, values)
    names = sorted({str(value).removesuffix(".0") for value in values})
    assert [names[int(place)] for place in places] == [
        str(value).removesuffix(".0") for value in values
    ]
    assert [label.get_text() for label in axes.get_xticklabels()] == names


def test_epochs_are_whole_numbers() -> None:
    axes = Chart("epochs", "").axes
    epochs_scale(axes.xaxis, 1, 7)
    assert [tick for tick in axes.get_xticks() if 1 <= tick <= 7] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("values", "expected", "ticks"),
    [
        ([0.01, 0.1, 1.0], [0, 0.5, 1], ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]),
        ([2.0, 3.0, 4.0], [0, 0.5, 1], ["2", "2.5", "3", "3.5", "4"]),
        ([2.0, MISSING, 4.0], [0.1, 0, 1], [MISSING, "2", "2.5", "3", "3.5", "4"]),
        (["b", MISSING, True], [5 / 6, 1 / 6, 0.5], [MISSING, "True", "b"]),
    ],
)
def test_parallel_coordinates_are_in_order_with_a_place_for_missing_values(
    values: Sequence[Any], expected: list[float], ticks: list[str]
) -> None:
    positions, labels = _unit_positions(values)
    assert positions == pytest.approx(expected)
    assert [label for _, label in labels] == ticks
    assert all(0 <= height <= 1 for height, _ in labels)


def test_series_look_different_without_colour() -> None:
    looks = {(Style(place).marker, str(Style(place).dash)) for place in range(7)}
    assert len(looks) == 7
    assert len({(Style(place).colour, Style(place).marker) for place in range(14)}) == 14


def test_what_is_drawn_is_escaped() -> None:
    page = Page(drawn_chart("one", HOSTILE).svg)
    assert not {"script", "style", "a", "metadata"} & {tag for tag, _ in page.tags}
    tooltips = 1 + 9 * 2
    assert page.words.count(HOSTILE) >= 1 + tooltips + 3


def test_two_charts_of_a_page_share_no_id_and_are_the_same_each_time() -> None:
    first, again, second = (drawn_chart(name).svg for name in ("one", "one", "two"))
    assert first == again
    ids = [*Page(first).all("id"), *Page(second).all("id")]
    assert len(ids) > 10 and len(set(ids)) == len(ids)
    for svg in (first, second):
        references = {word.strip("#)") for word in Page(svg).all("href")}
        assert references and references <= set(Page(svg).all("id"))


def test_colours_follow_the_page() -> None:
    svg = drawn_chart().svg
    assert "var(--c0)" in svg and "var(--ink)" in svg and "var(--muted)" in svg
    assert not [colour for colour in (*COLOURS, *PALETTE.values()) if colour in svg]


def test_characters_that_xml_forbids_are_not_in_the_svg() -> None:
    svg = drawn_chart("one", "a\x00\x1b\ud800b\ufffec").svg
    assert "ab" in svg and not set("\x00\x1b\ud800\ufffe") & set(svg)


def test_bars_and_axes_have_finite_numbers() -> None:
    chart = drawn_chart()
    chart.axes.plot([0, 1, 2], [np.nan, np.inf, 1.0])
    assert "nan" not in chart.svg and "inf" not in chart.svg


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1210.0, "1,210"), (0.05281, "0.05281"), (12345678.0, "12,345,678"), (1e-7, "1e-07")],
)
def test_numbers_are_short(value: float, expected: str) -> None:
    assert number(value) == expected


def test_long_names_keep_both_ends() -> None:
    assert short("training.learning_rate") == "training.le…g_rate" and len(short("x" * 50)) == 18
