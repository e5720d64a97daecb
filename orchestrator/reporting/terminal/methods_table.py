"""Print the methods: provenance, settings with defaults and documentation, and search spaces."""

import dataclasses
import inspect
import textwrap

from rich.console import Console

from methods import METHODS, Method, describe_allowed, format_default
from orchestrator.config.conditional_space import SpaceBranch, list_branches
from orchestrator.config.trial import Parameters
from orchestrator.reporting.terminal.lines import print_line
from search_spaces import SPACES


def print_methods(console: Console) -> None:
    """Print every method with its settings and its search space."""
    for name, method in METHODS.items():
        console.print(f"[bold]{name}[/bold]  {method.provenance}", highlight=False, soft_wrap=True)
        for setting, field in method.Settings.model_fields.items():
            values = f"{format_default(field)} ({describe_allowed(field)})"
            line = f"  {setting} = {values}: {field.description}"
            print_line(console, line)
        searched = "; ".join(search_parameters(name)) or "nothing"
        print_line(console, f"  searched: {searched}")
        print_line(console, f"  first tried: {'; '.join(first_points(name))}\n")


def print_method(console: Console, name: str) -> None:
    """Print one method: summary, source, needs, settings, search space and first points."""
    method = METHODS[name]
    lines = [
        name,
        *textwrap.dedent(inspect.getdoc(method) or "").splitlines(),
        "",
        f"source: {method.provenance}",
        f"needs by default: {', '.join(list_needs(method)) or 'labels only'}",
    ]
    rows = [
        (setting, format_default(field), describe_allowed(field), field.description or "")
        for setting, field in method.Settings.model_fields.items()
    ]
    widths = [max(len(row[column]) for row in rows) + 2 for column in range(3)] if rows else []
    lines += ["", "settings, with default and allowed values:" if rows else "no settings"]
    for row in rows:
        cells = "".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False))
        lines.append(f"  {cells}{row[-1]}")
    lines += ["", "searched by default:"]
    lines += [f"  {parameter}" for parameter in search_parameters(name) or ["nothing"]]
    lines += ["", "first tried:", *(f"  {point}" for point in first_points(name))]
    for line in lines:
        print_line(console, line)


def list_needs(method: type[Method]) -> list[str]:
    """Return the names of the inputs that a method needs with its default settings."""
    return [
        field.name
        for field in dataclasses.fields(method.needs)
        if getattr(method.needs, field.name)
    ]


def first_points(name: str) -> list[str]:
    """Return the settings that a search over a method tries first, one text per point."""
    return [_point(point) for point in SPACES[name].points]


def _point(point: Parameters) -> str:
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in point.items()
    )


def search_parameters(name: str) -> list[str]:
    """Return every parameter of a search space once, keys of the configuration last.

    A conditional parameter is shown with its condition.
    """
    branches = list_branches(name, {})
    names = dict.fromkeys(name for branch in branches for name in (*branch.choices, *branch.ranges))
    return [
        f"{_describe_parameter(name, branches)}{describe_condition(name, branches)}"
        for name in sorted(names, key=lambda name: "." in name)
    ]


def _describe_parameter(name: str, branches: list[SpaceBranch]) -> str:
    branch = next(branch for branch in branches if name in branch.choices or name in branch.ranges)
    if name in branch.choices:
        return f"{name} one of {', '.join(map(str, branch.choices[name]))}"
    low, high, log = branch.ranges[name]
    return f"{name} in [{low:g}, {high:g}]{' on a log scale' if log else ''}"


def describe_condition(name: str, branches: list[SpaceBranch]) -> str:
    """Return the condition of a parameter, such as ` if cam = True`; "" if it has none."""
    matching = [branch for branch in branches if name in branch.choices or name in branch.ranges]
    needed: list[str] = []
    for other, choices in matching[0].choices.items():
        values = {branch.chosen.get(other) for branch in matching}
        if (
            other != name
            and len(values) < len(choices)
            and all(other in branch.chosen for branch in matching)
        ):
            needed.append(
                f"{other} = {' or '.join(str(choice) for choice in choices if choice in values)}"
            )
    return f" if {' and '.join(needed)}" if needed else ""
