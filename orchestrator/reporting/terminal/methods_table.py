"""Print the methods: provenance, settings with defaults and documentation, and search spaces."""

from rich.console import Console

from methods import METHODS, describe_allowed, format_default
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
