"""Draw charts over the epochs: learning curves, and when trials were stopped."""

from collections import Counter
from collections.abc import Sequence

from orchestrator.reporting.html._chart import (
    BROAD,
    MUTED,
    Chart,
    Style,
    category_scale,
    epochs_scale,
    scale,
)
from orchestrator.reporting.html._format import number
from orchestrator.reporting.html._sweep_view import SweepView
from orchestrator.reporting.html.page import Cell, Figure, Table
from orchestrator.store.records import Trial

CURVES = 150  # largest number of curves in a chart
NAMED = 8  # curves with their own colour
LANES = 60  # largest number of trials with a line each; more are counted
ROWS = 20  # epochs in a table
STATES = {  # appearance of the end of a trial
    "complete": Style(0),
    "stopped_early": Style(1),
    "failed": Style(6),
    "running": Style(2),
    "waiting": Style(4),
}


def learning_curves(view: SweepView) -> Figure | None:
    """Return a chart of the objective of every trial after each epoch.

    The most relevant trials have colours. The result is None if no epoch was reported.
    """
    known = [trial for trial in view.trials if trial.known]
    if not known:
        return None
    named = _named(view)
    unnamed = [trial for trial in known if trial.number not in {each.number for each in named}]
    drawn = _spread(unnamed, CURVES - len(named))
    chart = Chart("learning", f"{view.objective} after each epoch", BROAD, 380)
    epochs_scale(chart.axes.xaxis, 1, max(2, *(trial.known[-1][0] for trial in known)))
    scale(chart.axes.yaxis, [value for trial in (*drawn, *named) for _, value in trial.known])
    chart.label("epoch", view.objective)
    for trial in drawn:
        chart.axes.plot(
            *zip(*trial.known, strict=True),
            color=MUTED,
            alpha=0.4,
            linewidth=1,
            url=_ended(view, trial),
        )
    styles = {trial.number: Style(place) for place, trial in enumerate(named)}
    for trial in named:
        style = styles[trial.number]
        chart.axes.plot(
            *zip(*trial.known, strict=True),
            color=style.colour,
            linestyle=style.dash,
            linewidth=2,
            marker=style.marker,
            markevery=[len(trial.known) - 1],
            url=_ended(view, trial),
        )
    chart.legend(
        [
            (f"{view.label(trial)}, {trial.state.replace('_', ' ')}", styles[trial.number])
            for trial in named
        ]
    )
    left_out = len(unnamed) - len(drawn)
    caption = (
        f"Each line is a trial; "
        f"{'the best of each method and the best trials' if view.searched else 'the training'} "
        f"in colour"
    )
    caption += ", the others in grey." if drawn else "."
    caption += f" {left_out} of {len(known)} trials are omitted, evenly spaced." if left_out else ""
    return Figure(chart, caption, _values(view, named or known[:NAMED]))


def _named(view: SweepView) -> list[Trial]:
    """Return the best trial of each method, then the best trials.

    If no trial has ended, the first trials are returned.
    """
    wanted = [*view.best_of_methods(), *view.sweep.ranked()] or view.trials
    return [trial for trial in {trial.number: trial for trial in wanted}.values() if trial.known][
        :NAMED
    ]


def _spread(trials: Sequence[Trial], count: int) -> list[Trial]:
    """Return at most `count` of the trials, evenly spaced."""
    if len(trials) <= count:
        return list(trials)
    return [trials[place * len(trials) // count] for place in range(count)]


def _ended(view: SweepView, trial: Trial) -> str:
    epoch, value = trial.known[-1]
    return (
        f"{view.label(trial)}: {number(value)} after epoch {epoch}, "
        f"{view.state_of(trial).replace('_', ' ')}"
    )


def _values(view: SweepView, trials: Sequence[Trial]) -> Table:
    last = max(trial.epochs for trial in trials)
    every = -(-last // ROWS)
    epochs = sorted({*range(every, last + 1, every), last})
    known = [dict(trial.known) for trial in trials]
    rows = [
        [epoch, *(number(values[epoch]) if epoch in values else "" for values in known)]
        for epoch in epochs
    ]
    return Table(["epoch", *(view.label(trial) for trial in trials)], rows)


def stopped(view: SweepView) -> Figure | None:
    """Return a chart of the trained epochs and final states of the trials; None for one trial."""
    if len(view.trials) < 2:
        return None
    return _lanes(view) if len(view.trials) <= LANES else _remaining(view)


def _lanes(view: SweepView) -> Figure:
    trials = view.trials
    height = 70 + max(13.0 * len(trials), 60.0)
    chart = Chart("stopped", "Epochs trained by each trial", BROAD, height)
    epochs_scale(chart.axes.xaxis, 0, view.epochs)
    category_scale(chart.axes.yaxis, [str(trial.number) for trial in trials])
    chart.axes.invert_yaxis()
    chart.label("epochs trained", "trial")
    for place, trial in enumerate(trials):
        state = view.state_of(trial)
        chart.axes.plot(
            (0, trial.epochs),
            (place, place),
            color=STATES[state].colour,
            linestyle=STATES[state].dash,
            linewidth=2,
            marker=STATES[state].marker,
            markevery=[1],
            clip_on=False,
            url=f"{view.label(trial)}: {state.replace('_', ' ')} after {trial.epochs} epochs",
        )
    counts = Counter(view.state_of(trial) for trial in trials)
    chart.legend(
        [
            (f"{state.replace('_', ' ')} ({counts[state]})", style)
            for state, style in STATES.items()
            if counts[state]
        ]
    )
    caption = "The length of a line is the number of epochs; the marker shows the final state."
    return Figure(chart, caption, _endings(view))


def _remaining(view: SweepView) -> Figure:
    """Return a chart of how many trials reached each epoch, for many trials."""
    chart = Chart("stopped", "Number of trials that reached each epoch", BROAD, 320)
    epochs = range(view.epochs + 1)
    reached = [sum(trial.epochs >= epoch for trial in view.trials) for epoch in epochs]
    chart.axes.step(epochs, reached, where="pre", color=Style(0).colour, linewidth=2)
    epochs_scale(chart.axes.xaxis, 0, view.epochs)
    scale(chart.axes.yaxis, reached, log=False)
    chart.axes.set_ylim(bottom=0)
    chart.label("epochs trained", "trials")
    caption = (
        f"Number of the {len(view.trials)} trials that trained at least this many epochs; the "
        f"curve drops where trials ended."
    )
    return Figure(chart, caption, _endings(view))


def _endings(view: SweepView) -> Table:
    """Return a table of the trials that ended after each epoch, by state."""
    ended: dict[tuple[int, str], list[int]] = {}
    for trial in view.trials:
        ended.setdefault((trial.epochs, view.state_of(trial)), []).append(trial.number)
    rows = [
        [epochs, state.replace("_", " "), len(numbers), Cell(_listed(numbers), words=True)]
        for (epochs, state), numbers in sorted(ended.items())
    ]
    return Table(["after epoch", "state", "trials", "numbers"], rows)


def _listed(numbers: Sequence[int], most: int = 40) -> str:
    more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return ", ".join(map(str, numbers[:most])) + more
