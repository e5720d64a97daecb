"""Draw charts of objectives against costs, and of several objectives with the Pareto front."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from orchestrator.config.objectives import Goal, describe_objective, pareto_front
from orchestrator.reporting.html._chart import COLOURS, MUTED, Chart, Style, scale
from orchestrator.reporting.html._format import number
from orchestrator.reporting.html._sweep_view import SweepView, measure
from orchestrator.reporting.html.page import Figure, Table
from orchestrator.store.records import Trial

ACCURACY = "validation/accuracy"
MOST = 1000  # largest number of trials in a chart
ROWS = 20


class Measured(NamedTuple):
    """A trial with its values on the horizontal and vertical axes, such as cost and accuracy."""

    trial: Trial
    across: float
    up: float


def against_cost(view: SweepView) -> list[Figure]:
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


def objectives(view: SweepView) -> Figure | None:
    """Return a chart of the first two objectives.

    The result is None if there are not several objectives, or no complete trial.
    """
    wanted = view.sweep.goals
    if len(wanted) < 2 or not view.searched:
        return None
    points = [Measured(trial, *trial.values[:2]) for trial in view.complete if trial.values]
    if not points:
        return None
    names = [describe_objective(view.sweep.configuration, goal.name) for goal in wanted]
    also = f" The front takes all {len(names)} objectives into account." if len(names) > 2 else ""
    best = {trial.number for trial in view.sweep.front()}
    return _scatter(view, "objectives", points, (names[0], names[1]), best, also)


def front_table(view: SweepView) -> Table:
    """Return a table of the trials on the Pareto front of several objectives."""
    wanted = view.sweep.goals
    names = [
        f"{describe_objective(view.sweep.configuration, goal.name)} ({goal.direction})"
        for goal in wanted
    ]
    rows = [
        [trial.number, view.method(trial), *(number(value) for value in trial.values or ())]
        for trial in view.sweep.front()
    ]
    return Table(["trial", "method", *names], rows)


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
) -> Figure:
    chart = Chart(anchor, f"{labels[1]} against {labels[0]}", height=320)
    axes = chart.axes
    scale(axes.xaxis, [point.across for point in points])
    scale(axes.yaxis, [point.up for point in points], log=False)
    chart.label(labels[0] + (" (logarithmic)" if axes.get_xscale() == "log" else ""), labels[1])
    for method in view.methods:
        for inside in (False, True):
            marks = [
                (
                    point.across,
                    point.up,
                    f"{view.label(point.trial)}: {number(point.up)} at {number(point.across)}",
                )
                for point in points
                if view.method(point.trial) == method and (point.trial.number in best) == inside
            ]
            chart.marks(marks, Style(view.methods.index(method)), inside, 9 if inside else 6)
    steps = sorted(
        (point for point in points if point.trial.number in best),
        key=lambda point: (point.across, point.up),
    )
    if len(steps) > 1:
        axes.plot(
            [point.across for point in steps],
            [point.up for point in steps],
            color=COLOURS[-1],
            linestyle="--",
            linewidth=1,
            alpha=0.55,
            url="the Pareto front",
        )
    _number_points(chart, steps)
    used = sorted({view.method(point.trial) for point in points})
    if len(view.methods) > 1:
        chart.legend([(method, Style(view.methods.index(method))) for method in used], lines=False)
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
    return Figure(chart, caption, Table(head, rows))


def _number_points(chart: Chart, points: Sequence[Measured]) -> None:
    """Write the numbers of trials above their points, if these are not too close to another."""
    axes = chart.axes
    axes.get_xlim(), axes.get_ylim()  # fits the limits to the points
    to_shares = axes.transScale + axes.transLimits
    numbered: list[np.ndarray] = []
    for point in points:
        place = to_shares.transform((point.across, point.up))
        if all((abs(place - other) > (0.06, 0.05)).any() for other in numbered):
            numbered.append(place)
            axes.annotate(
                str(point.trial.number),
                (point.across, point.up),
                (0, 8),
                textcoords="offset points",
                ha="center",
                fontsize=11,
                color=MUTED,
            )
