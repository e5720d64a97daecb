"""Print the methods: provenance, settings with defaults and documentation, and search spaces."""

import dataclasses
from typing import Any

from rich.console import Console

from methods import METHODS, allowed, shown_default
from orchestrator.config.conditional_space import SpaceBranch, list_branches
from search_spaces import SPACES


def print_methods(console: Console) -> None:
    """Print every method with its settings and its search space."""
    for name, method in METHODS.items():
        console.print(f"[bold]{name}[/bold]  {method.provenance}", highlight=False, soft_wrap=True)
        for item in dataclasses.fields(method.Settings):
            line = (
                f"  {item.name} = {shown_default(item)} ({allowed(item)}): {item.metadata['doc']}"
            )
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        searched = "; ".join(search_questions(name)) or "nothing"
        console.print(f"  searched: {searched}", markup=False, highlight=False, soft_wrap=True)
        console.print(
            f"  first tried: {'; '.join(first_points(name))}\n",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


def first_points(name: str) -> list[str]:
    """Return the settings that a search over a method tries first, one text per point."""
    return [_point(point) for point in SPACES[name].points]


def _point(point: dict[str, Any]) -> str:
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in point.items()
    )


def search_questions(name: str) -> list[str]:
    """Return every parameter of a search space once, keys of the configuration last.

    A conditional parameter is shown with its condition.
    """
    ways = list_branches(name, {})
    asked = dict.fromkeys(question for way in ways for question in (*way.choices, *way.ranges))
    return [
        f"{_said(question, ways)}{_condition(question, ways)}"
        for question in sorted(asked, key=lambda name: "." in name)
    ]


def _said(question: str, ways: list[SpaceBranch]) -> str:
    way = next(way for way in ways if question in way.choices or question in way.ranges)
    if question in way.choices:
        return f"{question} one of {', '.join(map(str, way.choices[question]))}"
    low, high, log = way.ranges[question]
    return f"{question} in [{low:g}, {high:g}]{' on a log scale' if log else ''}"


def _condition(question: str, ways: list[SpaceBranch]) -> str:
    """Return the condition of a parameter, such as ` if cam = True`; "" if it has none."""
    where = [way for way in ways if question in way.choices or question in way.ranges]
    needed: list[str] = []
    for name, choices in where[0].choices.items():
        given = {way.chosen.get(name) for way in where}
        if (
            name != question
            and len(given) < len(choices)
            and all(name in way.chosen for way in where)
        ):
            needed.append(
                f"{name} = {' or '.join(str(choice) for choice in choices if choice in given)}"
            )
    return f" if {' and '.join(needed)}" if needed else ""
