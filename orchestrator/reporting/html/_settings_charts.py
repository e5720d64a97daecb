"""Draw charts of the searched settings: their importance, and the values of good trials."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.config.trial import Parameters
from orchestrator.reporting.html import page
from orchestrator.reporting.html._chart import (
    BROAD,
    NARROW,
    Axis,
    Chart,
    Names,
    Scale,
    Style,
    axis_of,
    fitted,
    is_number,
    number,
    short,
    slants,
    word,
)
from orchestrator.reporting.html._sweep_view import SweepView
from orchestrator.reporting.importance import METHOD, Importance, Ranking
from orchestrator.store.records import Trial

BARS = 8  # settings of a ranking in a chart
RANKINGS = 4  # rankings with a chart; the table has all
AXES = 9  # of parallel coordinates, including the objective
LINES = 200
GRID = 22  # cells of a contour plot along each side
LEAST = 4  # least number of trials in a contour plot
EDGE = 0.05  # share of a range that counts as its edge
MISSING = "not set"


@dataclass(frozen=True)
class Group:
    """Trials that have settings in common, with the names of these settings by importance.

    `description` names the trials, `why` the criterion for the choice of settings.
    """

    description: str
    trials: list[Trial]
    names: list[str]
    why: str


def groups(view: SweepView, found: Importance | None) -> list[Group]:
    """Return the groups to plot: all complete trials, and those of the best trial's method."""
    complete = view.complete
    if not complete:
        return []
    method = view.method(complete[0])
    same_method = [trial for trial in complete if view.method(trial) == method]
    wide = _group(view, "all complete trials", complete, _ranking(found, {}))
    narrow = _group(
        view, f"the complete trials of {method}", same_method, _ranking(found, {METHOD: method})
    )
    chosen = [wide] if len(same_method) == len(complete) else [wide, narrow]
    return [group for group in chosen if group.names and len(group.trials) > 1]


def _ranking(found: Importance | None, path: Parameters) -> Ranking | None:
    return (
        next((ranking for ranking in found.rankings if ranking.path == path), None)
        if found
        else None
    )


def _group(
    view: SweepView, description: str, trials: list[Trial], ranking: Ranking | None
) -> Group:
    varied = _varied(trials)
    if ranking:
        return Group(
            description,
            trials,
            [name for name in ranking.ped_anova if name in varied],
            "the most important setting by PED-ANOVA",
        )
    names = sorted(varied, key=lambda name: (-varied[name], name != METHOD, name))
    return Group(
        description,
        trials,
        names,
        "the setting that most trials have, because there are too few trials to rank importance",
    )


def _varied(trials: Sequence[Trial]) -> dict[str, int]:
    """Return the settings with more than one value, and the number of trials that have each."""
    values: dict[str, list[str]] = {}
    for trial in trials:
        for name, value in trial.settings.items():
            values.setdefault(name, []).append(word(value))
    return {name: len(texts) for name, texts in values.items() if len(set(texts)) > 1}


def at_the_edge(trial: Trial, found: Importance) -> list[str]:
    """Return the settings of a trial that are within a twentieth of an end of their searched range.

    Each text includes the range.
    """
    bounds = (
        found.study.trials[trial.number].distributions
        if trial.number < len(found.study.trials)
        else {}
    )
    near = []
    for name, value in trial.settings.items():
        low, high = (getattr(bounds.get(name), end, None) for end in ("low", "high"))
        if low is None or high is None or low >= high or not is_number(value):
            continue
        share = Scale(float(low), float(high), 0.0, 1.0, bool(getattr(bounds[name], "log", False)))(
            value
        )
        if min(share, 1 - share) < EDGE:
            near.append(f"{name} = {word(value)} of {word(low)} to {word(high)}")
    return near


def importance_bars(found: Importance) -> list[str]:
    """Return a chart for each of the widest groups of trials, and a table of all groups."""
    figures = [_bars(place, ranking) for place, ranking in enumerate(found.rankings[:RANKINGS])]
    rows = [
        [ranking.branch, ranking.trials, name, share, ranking.chance[name], ranking.fanova[name]]
        for ranking in found.rankings
        for name, share in ranking.ped_anova.items()
    ]
    head = ["group", "trials", "setting", "PED-ANOVA", "chance", "fANOVA"]
    details = page.details("all groups and settings", page.table(head, rows))
    return [*figures, f'<div class="broad">{details}</div>']


def _bars(place: int, ranking: Ranking) -> str:
    names = list(ranking.ped_anova)[:BARS]
    chart = Chart(
        f"importance-{place}",
        f"Importance of settings: {ranking.branch}",
        height=70 + 34.0 * len(names),
        margins=(8, 44, 46, 136),
    )
    x = Scale(0.0, 1.0, chart.left, chart.right)
    chart.x_axis(x, "share of the importance")
    for row, name in enumerate(names):
        y = chart.top + 34 * row + 4
        chart.text(chart.left - 8, y + 17, short(name, 20), "end")
        for turn, (share, kind) in enumerate(
            ((ranking.ped_anova[name], "f0"), (ranking.fanova[name], "hollow s1"))
        ):
            chart.box(
                x(0),
                y + 13 * turn,
                x(share) - x(0),
                11,
                kind,
                f"{name}: {'fANOVA' if turn else 'PED-ANOVA'} {share:.3f}",
            )
            chart.text(x(share) + 5, y + 13 * turn + 10, f"{share:.2f}")
    left_out = (
        f" {len(ranking.ped_anova) - BARS} more settings are in the table."
        if len(ranking.ped_anova) > BARS
        else ""
    )
    noise = [name for name in names if ranking.chance[name] > 0.05]
    doubt = (
        f" May be chance (shuffled values reach this share in more than 5 % of repetitions): "
        f"{', '.join(noise)}."
        if noise
        else ""
    )
    kinds = (
        "Filled: PED-ANOVA, which separates the best trials from the others; hollow: fANOVA, "
        "which explains the variance of all values."
    )
    return page.figure(chart, f"{ranking.trials} trials. {kinds}{doubt}{left_out}")


def parallel(view: SweepView, place: int, group: Group) -> str:
    """Return parallel coordinates: a line per trial through its settings, up to the objective."""
    ranked = group.trials
    drawn = ranked[:LINES]
    names = group.names[: AXES - 1]
    chart = Chart(
        f"parallel-{place}",
        f"Parallel coordinates: {group.description}",
        BROAD,
        330,
        (20, 60, 64, 110),
    )
    values = [trial.value for trial in drawn if trial.value is not None]
    axes: list[Axis] = [_axis_with_gaps(name, drawn, chart) for name in names] + [
        fitted(values, chart.bottom, chart.top, log=False)
    ]
    step = (chart.right - chart.left) / len(names)
    places = [chart.left + step * index for index in range(len(axes))]
    for x, axis, name in zip(places, axes, [*names, view.objective], strict=True):
        chart.straight((x, chart.top), (x, chart.bottom), "edge")
        for y, label in axis.ticks:
            chart.text(x + 4, y + 4, short(label, 13), classes="tick small")
        chart.text(x, chart.bottom + 14, short(name, 18), "end", "tick", turn=-20)
    good = {trial.number for trial in ranked[: max(1, len(ranked) // 5)]}
    for trial in reversed(drawn):
        points = [
            (x, axis(_value(trial, name, axis)))
            for x, axis, name in zip(places, axes, [*names, None], strict=True)
        ]
        first, dashed = trial is ranked[0], trial.number in good
        kind = "s1" if first else "s0 thin" if dashed else "faint"
        chart.line(
            points,
            kind,
            "6 2" if dashed and not first else "",
            f"{view.label(trial)}: {_value_text(trial)}",
        )
    left_out = (
        f" Only the best {LINES} of {len(ranked)} trials are drawn." if len(ranked) > LINES else ""
    )
    more = (
        f" {len(group.names) - len(names)} more settings are omitted."
        if len(group.names) > len(names)
        else ""
    )
    behind = "The values are in the tables of trials and below the slice plots."
    caption = (
        f"Thick: the best trial; dashed: the best 20 %; grey: the others.{left_out}{more} {behind}"
    )
    return page.figure(chart, caption)


def _axis_with_gaps(name: str, trials: Sequence[Trial], chart: Chart) -> Axis:
    """Return the axis of a setting that some trials may lack."""
    known = [trial.settings[name] for trial in trials if name in trial.settings]
    axis = axis_of(known, chart.bottom - 4, chart.top + 4)
    if len(known) == len(trials):
        return axis
    if isinstance(axis, Names):
        return Names((MISSING, *axis.values), axis.start, axis.end)
    return _Gapped(axis.low, axis.high, axis.start - 26, axis.end, axis.log)


class _Gapped(Scale):
    """Scale with a position at its start for trials without a value; numbers begin 26 above it."""

    def __call__(self, value: Any) -> float:
        return (
            self.start
            if value == MISSING
            else Scale(self.low, self.high, self.start - 26, self.end, self.log)(value)
        )

    @property
    def ticks(self) -> list[tuple[float, str]]:
        return [
            (self.start, MISSING),
            *Scale(self.low, self.high, self.start - 26, self.end, self.log).ticks,
        ]


def _value(trial: Trial, name: str | None, axis: Axis) -> Any:
    if name is None:
        return trial.value
    return trial.settings.get(name, MISSING)


def slices(view: SweepView, place: int, group: Group) -> list[str]:
    """Return charts of the objective against each of the two most important settings."""
    return [
        _slice(view, f"slice-{place}-{index}", group, name)
        for index, name in enumerate(group.names[:2])
    ]


def _slice(view: SweepView, anchor: str, group: Group, name: str) -> str:
    trials = [trial for trial in group.trials if name in trial.settings and trial.value is not None]
    title, values = f"{view.objective} against {name}", [trial.settings[name] for trial in trials]
    slanted = slants(axis_of(values, 60, NARROW - 16))
    chart = Chart(
        anchor, title, height=328 if slanted else 300, margins=(14, 16, 76 if slanted else 48, 60)
    )
    x = axis_of(values, chart.left, chart.right)
    y = fitted(
        [trial.value for trial in trials if trial.value is not None],
        chart.bottom,
        chart.top,
        log=False,
    )
    chart.x_axis(x, name + (" (logarithmic)" if isinstance(x, Scale) and x.log else ""))
    chart.y_axis(y, view.objective)
    best = trials[0] if trials and trials[0] is view.sweep.best() else None
    for trial in reversed(trials):
        where, style = _spread_out(x, trial, name), view.style(trial)
        tooltip = f"{view.label(trial)}: {_value_text(trial)} at {word(trial.settings[name])}"
        chart.mark(
            where, y(trial.value or 0.0), style.marker, f"f{style.colour} s{style.colour}", tooltip
        )
        if trial is best:
            chart.mark(where, y(trial.value or 0.0), "circle", "edge", "the best trial", size=9)
    used = sorted({view.method(trial) for trial in trials})
    entries = (
        [(method, Style(view.methods.index(method))) for method in used] if len(used) > 1 else []
    )
    ring = " The ring marks the best trial." if best else ""
    caption = (
        f"{len(trials)} trials: {group.description} with this setting.{ring} Shown: {group.why}."
    )
    rows = [
        [trial.number, view.method(trial), trial.settings[name], trial.value]
        for trial in trials[:LINES]
    ]
    return page.figure(
        chart,
        caption,
        page.legend(entries, lines=False),
        page.table(["trial", "method", name, view.objective], rows),
    )


def _spread_out(axis: Axis, trial: Trial, name: str) -> float:
    """Return the position of a trial, with a small offset on an axis of names.

    Without the offset trials would hide one another.
    """
    place = axis(trial.settings[name])
    return (
        place + ((trial.number * 0.618) % 1 - 0.5) * 0.5 * axis.band
        if isinstance(axis, Names)
        else place
    )


def contour(view: SweepView, place: int, group: Group) -> str:
    """Return a chart of the objective over the two most important settings.

    The result is "" if there are not two settings, or too few trials.
    """
    if len(group.names) < 2:
        return ""
    one, two = group.names[:2]
    trials = [
        trial
        for trial in group.trials
        if {one, two} <= set(trial.settings) and trial.value is not None
    ]
    if len(trials) < LEAST or len(_varied(trials).keys() & {one, two}) < 2:
        return ""
    across = [trial.settings[one] for trial in trials]
    slanted = slants(axis_of(across, 110, BROAD - 120))
    title = f"{view.objective} over {one} and {two}"
    chart = Chart(f"contour-{place}", title, BROAD, 420, (14, 120, 76 if slanted else 48, 110))
    x = axis_of(across, chart.left, chart.right)
    y = axis_of([trial.settings[two] for trial in trials], chart.bottom, chart.top)
    points = [
        (x(trial.settings[one]), y(trial.settings[two]), trial.value or 0.0) for trial in trials
    ]
    low, high = min(point[2] for point in points), max(point[2] for point in points)
    _ground(chart, points, low, high)
    chart.x_axis(x, one, grid=False)
    chart.y_axis(y, two, grid=False)
    for trial, (right, up, _) in zip(trials, points, strict=True):
        chart.mark(
            right,
            up,
            "circle",
            "hollow s6",
            f"{view.label(trial)}: {_value_text(trial)}",
            size=3.5,
        )
    _key(chart, low, high)
    caption = (
        f"Circles: {len(trials)} trials ({group.description}). Background: interpolation by "
        f"inverse squared distance, unreliable far from circles; a darker blue is a larger value."
    )
    rows = [
        [
            trial.number,
            trial.settings[one],
            trial.settings[two],
            trial.value,
            page.Cell(view.settings(trial), words=True),
        ]
        for trial in trials[:LINES]
    ]
    return page.figure(
        chart, caption, behind=page.table(["trial", one, two, view.objective, "settings"], rows)
    )


def _ground(
    chart: Chart, points: Sequence[tuple[float, float, float]], low: float, high: float
) -> None:
    """Draw cells with the mean of the points, weighted by inverse squared distance.

    This is the interpolation of Shepard (1968).
    """
    width, height = (chart.right - chart.left) / GRID, (chart.bottom - chart.top) / GRID
    for column in range(GRID):
        for row in range(GRID):
            x, y = chart.left + (column + 0.5) * width, chart.top + (row + 0.5) * height
            weights = [1 / ((x - across) ** 2 + (y - up) ** 2 + 1.0) for across, up, _ in points]
            value = sum(
                weight * point[2] for weight, point in zip(weights, points, strict=True)
            ) / sum(weights)
            share = (value - low) / (high - low) if high > low else 0.5
            chart.box(
                x - width / 2,
                y - height / 2,
                width,
                height,
                "f0 crisp",
                opacity=0.06 + 0.86 * round(8 * share) / 8,
            )


def _key(chart: Chart, low: float, high: float) -> None:
    step = (chart.bottom - chart.top) / 9
    for level in range(9):
        y = chart.bottom - (level + 1) * step
        chart.box(chart.right + 16, y, 18, step, "f0 crisp", opacity=0.06 + 0.86 * level / 8)
        if level % 2 == 0:
            chart.text(chart.right + 40, y + step / 2 + 4, number(low + (high - low) * level / 8))


def _value_text(trial: Trial) -> str:
    return number(trial.value) if trial.value is not None else "no value"
