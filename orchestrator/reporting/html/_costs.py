"""Draw charts of objectives against costs, and of several objectives with the Pareto front."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from orchestrator.config.objectives import Goal, describe_objective, goals, pareto_front
from orchestrator.reporting.html import page
from orchestrator.reporting.html._chart import Chart, Style, fitted, number
from orchestrator.reporting.html._sweep_view import SweepView, measure
from orchestrator.store.records import Trial

ACCURACY = "validation/accuracy"
MOST = 1000  # largest number of trials in a chart
ROWS = 20


class Measured(NamedTuple):
    """A trial with its values on the horizontal and vertical axes, such as cost and accuracy."""

    trial: Trial
    across: float
    up: float


def against_cost(view: SweepView) -> list[str]:
    """Return charts of validation accuracy against costs of complete trials.

    The costs are the seconds of an epoch and the number of parameters. A cost that does not differ
    between trials gives no chart.
    """
    figures = []
    for anchor, name, label in (
        ("seconds", "seconds/epoch", "seconds of the last epoch"),
        ("parameters", "parameters", "parameters of the student"),
    ):
        points = _measured(view, name, ACCURACY)
        if len({point.across for point in points}) > 1:
            figures.append(
                _scatter(
                    view,
                    f"cost-{anchor}",
                    points,
                    (label, "validation accuracy"),
                    _cheapest(points),
                    "",
                )
            )
    return figures


def objectives(view: SweepView) -> str:
    """Return a chart of the first two objectives.

    The result is "" if there are not several objectives, or no complete trial.
    """
    wanted = goals(view.sweep.configuration.search)
    if len(wanted) < 2 or not view.searched:
        return ""
    points = [Measured(trial, *trial.values[:2]) for trial in view.complete if trial.values]
    if not points:
        return ""
    names = [describe_objective(view.sweep.configuration, goal.name) for goal in wanted]
    also = f" The front takes all {len(names)} objectives into account." if len(names) > 2 else ""
    best = {trial.number for trial in view.sweep.front()}
    return _scatter(view, "objectives", points, (names[0], names[1]), best, also)


def front_table(view: SweepView) -> str:
    """Return a table of the trials on the Pareto front of several objectives."""
    wanted = goals(view.sweep.configuration.search)
    names = [
        f"{describe_objective(view.sweep.configuration, goal.name)} ({goal.direction})"
        for goal in wanted
    ]
    rows = [
        [trial.number, view.method(trial), *(number(value) for value in trial.values or ())]
        for trial in view.sweep.front()
    ]
    return page.table(["trial", "method", *names], rows)


def _measured(view: SweepView, cost: str, reached: str) -> list[Measured]:
    values = [
        (trial, measure(trial, cost), measure(trial, reached)) for trial in view.complete[:MOST]
    ]
    return [
        Measured(trial, across, up)
        for trial, across, up in values
        if across is not None and up is not None
    ]


def _cheapest(points: Sequence[Measured]) -> set[int]:
    """Return the trials that no other trial dominates in cost and accuracy."""
    values: Mapping[int, Sequence[float]] = {
        point.trial.number: (point.across, point.up) for point in points
    }
    return set(pareto_front(values, (Goal("cost", "minimize"), Goal(ACCURACY, "maximize"))))


def _scatter(
    view: SweepView,
    anchor: str,
    points: Sequence[Measured],
    labels: tuple[str, str],
    best: set[int],
    also: str,
) -> str:
    chart = Chart(anchor, f"{labels[1]} against {labels[0]}", height=320)
    x = fitted([point.across for point in points], chart.left, chart.right)
    y = fitted([point.up for point in points], chart.bottom, chart.top, log=False)
    chart.x_axis(x, labels[0] + (" (logarithmic)" if x.log else ""))
    chart.y_axis(y, labels[1])
    steps = sorted(
        (point for point in points if point.trial.number in best),
        key=lambda point: (point.across, point.up),
    )
    if len(steps) > 1:
        chart.line(
            [(x(point.across), y(point.up)) for point in steps],
            "s6 thin",
            "4 3",
            "the Pareto front",
        )
    for point in sorted(points, key=lambda point: point.trial.number in best):
        style, inside = view.style(point.trial), point.trial.number in best
        tooltip = f"{view.label(point.trial)}: {number(point.up)} at {number(point.across)}"
        fill = f"f{style.colour}" if inside else "hollow"
        chart.mark(
            x(point.across),
            y(point.up),
            style.marker,
            f"{fill} s{style.colour}",
            tooltip,
            size=5 if inside else 3.5,
        )
    named: list[tuple[float, float]] = []
    for point in steps:
        place = x(point.across), y(point.up)
        if all(abs(place[0] - across) > 24 or abs(place[1] - up) > 12 for across, up in named):
            named.append(place)
            chart.text(place[0], place[1] - 9, str(point.trial.number), "middle")
    used = sorted({view.method(point.trial) for point in points})
    entries = (
        [(method, Style(view.methods.index(method))) for method in used]
        if len(view.methods) > 1
        else []
    )
    caption = (
        f"{len(points)} complete trials. Filled markers with trial numbers, connected by the "
        f"dashed line: the Pareto front.{also}"
    )
    rows = [
        [
            point.trial.number,
            view.method(point.trial),
            number(point.across),
            number(point.up),
            "yes" if point in steps else "",
        ]
        for point in sorted(
            points, key=lambda point: (point.trial.number not in best, point.across)
        )[:ROWS]
    ]
    head = ["trial", "method", *labels, "on the front"]
    return page.figure(chart, caption, page.legend(entries, lines=False), page.table(head, rows))
