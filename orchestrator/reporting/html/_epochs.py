"""Draw charts over the epochs: learning curves, and when trials were stopped."""

from collections import Counter
from collections.abc import Sequence

from orchestrator.reporting.html import page
from orchestrator.reporting.html._chart import BROAD, Chart, Scale, Style, fitted, number
from orchestrator.reporting.html._sweep_view import SweepView
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


def learning_curves(view: SweepView) -> str:
    """Return a chart of the objective of every trial after each epoch.

    The most relevant trials have colours. The result is "" if no epoch was reported.
    """
    known = [trial for trial in view.trials if trial.known]
    if not known:
        return ""
    named = _named(view)
    unnamed = [trial for trial in known if trial.number not in {each.number for each in named}]
    drawn = _spread(unnamed, CURVES - len(named))
    chart = Chart("learning", f"{view.objective} after each epoch", BROAD, 380)
    last = max(trial.known[-1][0] for trial in known)
    x = _epochs(max(last, 2), chart.left, chart.right)
    y = fitted(
        [value for trial in (*drawn, *named) for _, value in trial.known], chart.bottom, chart.top
    )
    chart.x_axis(x, "epoch")
    chart.y_axis(y, view.objective)
    for trial in drawn:
        chart.line(
            [(x(epoch), y(value)) for epoch, value in trial.known],
            "faint",
            title=_ended(view, trial),
        )
    for place, trial in enumerate(named):
        style, points = Style(place), [(x(epoch), y(value)) for epoch, value in trial.known]
        chart.line(points, f"s{style.colour}", style.dash, _ended(view, trial))
        chart.mark(
            *points[-1], style.marker, f"f{style.colour} s{style.colour}", _ended(view, trial)
        )
    entries = [
        (f"{view.label(trial)}, {trial.state.replace('_', ' ')}", Style(place))
        for place, trial in enumerate(named)
    ]
    left_out = len(unnamed) - len(drawn)
    caption = (
        f"Each line is a trial; "
        f"{'the best of each method and the best trials' if view.searched else 'the training'} "
        f"in colour"
    )
    caption += ", the others in grey." if drawn else "."
    caption += f" {left_out} of {len(known)} trials are omitted, evenly spaced." if left_out else ""
    return page.figure(chart, caption, page.legend(entries), _values(view, named or known[:NAMED]))


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


def _values(view: SweepView, trials: Sequence[Trial]) -> str:
    last = max(trial.epochs for trial in trials)
    every = -(-last // ROWS)
    epochs = sorted({*range(every, last + 1, every), last})
    known = [dict(trial.known) for trial in trials]
    rows = [
        [epoch, *(number(values[epoch]) if epoch in values else "" for values in known)]
        for epoch in epochs
    ]
    return page.table(["epoch", *(view.label(trial) for trial in trials)], rows)


def _epochs(last: int, start: float, end: float, first: float = 1.0) -> "Epochs":
    return Epochs(first, float(last), start, end)


class Epochs(Scale):
    """Scale whose ticks are whole epochs and include the last one."""

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Return positions and labels of its ticks."""
        first, last = int(self.low), int(self.high)
        step = next(
            step
            for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**6)
            if (last - first) / step <= 10
        )
        ticks = [
            epoch
            for epoch in range(-(-first // step) * step, last + 1, step)
            if last - epoch >= 0.6 * step
        ] + [last]
        return [(self(epoch), str(epoch)) for epoch in ticks]


def stopped(view: SweepView) -> str:
    """Return a chart of the trained epochs and final states of the trials; "" for one trial."""
    if len(view.trials) < 2:
        return ""
    return _lanes(view) if len(view.trials) <= LANES else _remaining(view)


def _lanes(view: SweepView) -> str:
    trials = view.trials
    chart = Chart(
        "stopped",
        "Epochs trained by each trial",
        BROAD,
        70 + max(13.0 * len(trials), 60.0),
        (14, 20, 46, 44),
    )
    x = _epochs(view.epochs, chart.left, chart.right, first=0.0)
    chart.x_axis(x, "epochs trained")
    band = (chart.bottom - chart.top) / len(trials)
    for place, trial in enumerate(trials):
        y = chart.top + (place + 0.5) * band
        state = view.state_of(trial)
        style = STATES[state]
        tooltip = f"{view.label(trial)}: {state.replace('_', ' ')} after {trial.epochs} epochs"
        chart.text(chart.left - 8, y + 4, str(trial.number), "end")
        chart.line([(x(0), y), (x(trial.epochs), y)], f"s{style.colour}", style.dash, tooltip)
        chart.mark(x(trial.epochs), y, style.marker, f"f{style.colour} s{style.colour}", tooltip)
    chart.text(13, (chart.top + chart.bottom) / 2, "trial", "middle", "label", turn=-90)
    counts = Counter(view.state_of(trial) for trial in trials)
    entries = [
        (f"{state.replace('_', ' ')} ({counts[state]})", style)
        for state, style in STATES.items()
        if counts[state]
    ]
    caption = "The length of a line is the number of epochs; the marker shows the final state."
    return page.figure(chart, caption, page.legend(entries), _endings(view))


def _remaining(view: SweepView) -> str:
    """Return a chart of how many trials reached each epoch, for many trials."""
    chart = Chart("stopped", "Number of trials that reached each epoch", BROAD, 320)
    x = _epochs(view.epochs, chart.left, chart.right, first=0.0)
    y = Scale(0.0, float(len(view.trials)), chart.bottom, chart.top)
    chart.x_axis(x, "epochs trained")
    chart.y_axis(y, "trials")
    points = []
    for epoch in range(view.epochs + 1):
        reached = sum(trial.epochs >= epoch for trial in view.trials)
        points += [(x(max(epoch - 1, 0)), y(reached)), (x(epoch), y(reached))]
    chart.line(points, "s0")
    caption = (
        f"Number of the {len(view.trials)} trials that trained at least this many epochs; the "
        f"curve drops where trials ended."
    )
    return page.figure(chart, caption, behind=_endings(view))


def _endings(view: SweepView) -> str:
    """Return a table of the trials that ended after each epoch, by state."""
    ended: dict[tuple[int, str], list[int]] = {}
    for trial in view.trials:
        ended.setdefault((trial.epochs, view.state_of(trial)), []).append(trial.number)
    rows = [
        [epochs, state.replace("_", " "), len(numbers), page.Cell(_listed(numbers), words=True)]
        for (epochs, state), numbers in sorted(ended.items())
    ]
    return page.table(["after epoch", "state", "trials", "numbers"], rows)


def _listed(numbers: Sequence[int], most: int = 40) -> str:
    more = f" and {len(numbers) - most} more" if len(numbers) > most else ""
    return ", ".join(map(str, numbers[:most])) + more
