"""Test the scales of the charts: given values are included, in order, with ticks inside."""

import math

import pytest

from orchestrator.reporting.html._chart import (
    Chart,
    Names,
    Scale,
    Style,
    axis_of,
    fitted,
    number,
    short,
)
from tests.report.page_read import Page


@pytest.mark.parametrize(
    "values",
    [[0.0], [0.5, 0.5], [-3.0, 2.0], [1e-9, 1e-3, 5.0], [7e8, 9e8], [0.787, 0.801], [0.0, 1e-12]],
)
def test_a_scale_holds_its_values_in_order_and_its_ticks(values: list[float]) -> None:
    scale = fitted(values, 100.0, 20.0)
    places = [scale(value) for value in sorted(values)]
    assert places == sorted(places, reverse=True) and all(20 <= place <= 100 for place in places)
    ticks = scale.ticks
    assert 1 <= len(ticks) <= 40 and all(20 - 1e-6 <= place <= 100 + 1e-6 for place, _ in ticks)
    assert len({round(place, 6) for place, _ in ticks}) == len(ticks)


def test_a_logarithmic_scale_has_equal_factors_at_equal_distances() -> None:
    scale = Scale(0.01, 1.0, 0.0, 100.0, log=True)
    assert scale(0.1) == pytest.approx(50.0) and scale(0.02) - scale(0.01) == pytest.approx(
        scale(0.2) - scale(0.1)
    )
    assert [word for _, word in scale.ticks] == ["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"]
    assert isinstance(axis_of([0.001, 0.5], 0, 1), Scale) and axis_of([0.001, 0.5], 0, 1).log  # type: ignore[union-attr]
    assert not fitted([1.0, 2.0], 0, 1).log


def test_names_have_bands_of_their_own() -> None:
    axis = axis_of(["b", True, "a", "b"], 0.0, 90.0)
    assert isinstance(axis, Names) and axis.values == ("True", "a", "b")
    assert [axis(value) for value in (True, "a", "b")] == [15.0, 45.0, 75.0]
    assert isinstance(axis_of([1, True], 0, 1), Names) and isinstance(
        axis_of([math.nan, 1.0], 0, 1), Names
    )


def test_series_look_different_without_colour() -> None:
    looks = {(Style(place).marker, Style(place).dash) for place in range(7)}
    assert len(looks) == 7
    assert len({(Style(place).colour, Style(place).marker) for place in range(14)}) == 14


def test_what_is_drawn_is_escaped() -> None:
    chart = Chart("a&b", "<title>")
    chart.text(1, 1, "</text><script>")
    chart.mark(1, 1, "circle", "f0", "</title><script>")
    page = Page(chart.svg())
    assert "script" not in {tag for tag, _ in page.tags} and {
        "</text><script>",
        "</title><script>",
        "<title>",
    } <= set(page.words)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1210.0, "1,210"), (0.05281, "0.05281"), (12345678.0, "12,345,678"), (1e-7, "1e-07")],
)
def test_numbers_are_short(value: float, expected: str) -> None:
    assert number(value) == expected


def test_long_names_keep_both_ends() -> None:
    assert short("training.learning_rate") == "training.le…g_rate" and len(short("x" * 50)) == 18
