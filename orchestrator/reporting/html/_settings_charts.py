"""Draw charts of the searched settings: their importance, and the values of good trials."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.config.trial import Parameters
from orchestrator.reporting.html._chart import (
    BROAD,
    COLOURS,
    MUTED,
    PAPER,
    Chart,
    Style,
    category_scale,
    is_wide,
    label_bars,
    locator,
    scale,
    setting_scale,
)
from orchestrator.reporting.html._format import is_number, number, short, word
from orchestrator.reporting.html._sweep_view import SweepView
from orchestrator.reporting.html.page import Cell, Figure, Table
from orchestrator.reporting.importance import METHOD, Importance, Ranking
from orchestrator.store.records import Trial

BARS = 8  # settings of a ranking in a chart
RANKINGS = 4  # rankings with a chart; the table has all
AXES = 9  # of parallel coordinates, including the objective
LINES = 200
GRID = 40  # points of a contour plot along each side
LEVELS = 9  # of a contour plot
GAP = 0.1  # share of an axis of parallel coordinates below its numbers, for trials without a value
LEAST = 4  # least number of trials in a contour plot
EDGE = 0.05  # share of a range that counts as its edge
MISSING = "not set"
TICK: dict[str, Any] = {  # on an axis of parallel coordinates, readable in front of the lines
    "fontsize": 10,
    "color": MUTED,
    "zorder": 3,
    "bbox": {"facecolor": PAPER, "alpha": 0.7, "edgecolor": "none", "pad": 0},
}


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
    if found:
        return next((ranking for ranking in found.rankings if ranking.path == path), None)
    return None


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
    if trial.number < len(found.study.trials):
        bounds = found.study.trials[trial.number].distributions
    else:
        bounds = {}
    near = []
    for name, value in trial.settings.items():
        low, high = (getattr(bounds.get(name), end, None) for end in ("low", "high"))
        if low is None or high is None or low >= high or not is_number(value):
            continue
        scaled = np.log if getattr(bounds[name], "log", False) else np.float64
        first, share, last = scaled(low), scaled(value), scaled(high)
        if min(share - first, last - share) < EDGE * (last - first):
            near.append(f"{name} = {word(value)} of {word(low)} to {word(high)}")
    return near


def importance_bars(found: Importance) -> list[Figure]:
    """Return a chart for each of the widest groups of trials."""
    return [_bars(place, ranking) for place, ranking in enumerate(found.rankings[:RANKINGS])]


def importance_table(found: Importance) -> Table:
    """Return the importance of all settings in all groups."""
    rows = [
        [ranking.branch, ranking.trials, name, share, ranking.chance[name], ranking.fanova[name]]
        for ranking in found.rankings
        for name, share in ranking.ped_anova.items()
    ]
    return Table(["group", "trials", "setting", "PED-ANOVA", "chance", "fANOVA"], rows)


def _bars(place: int, ranking: Ranking) -> Figure:
    names = list(ranking.ped_anova)[:BARS]
    title = f"Importance of settings: {ranking.branch}"
    chart = Chart(f"importance-{place}", title, height=70 + 34.0 * len(names))
    kinds = (
        ("PED-ANOVA", ranking.ped_anova, COLOURS[0], -0.2, COLOURS[0]),
        ("fANOVA", ranking.fanova, COLOURS[1], 0.2, PAPER),
    )
    for kind, values, colour, offset, fill in kinds:
        shares = [values[name] for name in names]
        bars = chart.axes.barh(
            np.arange(len(names)) + offset,
            shares,
            0.34,
            color=fill,
            edgecolor=colour,
            linewidth=1.6,
        )
        label_bars(chart, bars, [f"{share:.2f}" for share in shares])
        for bar, name in zip(bars, names, strict=True):
            bar.set_url(f"{name}: {kind} {values[name]:.3f}")
    category_scale(chart.axes.yaxis, names, 20)
    chart.axes.invert_yaxis()
    chart.label("share of the importance")
    if len(ranking.ped_anova) > BARS:
        left_out = f" {len(ranking.ped_anova) - BARS} more settings are in the table."
    else:
        left_out = ""
    noise = [name for name in names if ranking.chance[name] > 0.05]
    doubt = (
        f" May be chance (shuffled values reach this share in more than 5 % of repetitions): "
        f"{', '.join(noise)}."
        if noise
        else ""
    )
    explained = (
        "Filled: PED-ANOVA, which separates the best trials from the others; hollow: fANOVA, "
        "which explains the variance of all values."
    )
    return Figure(chart, f"{ranking.trials} trials. {explained}{doubt}{left_out}")


def parallel(view: SweepView, place: int, group: Group) -> Figure:
    """Return parallel coordinates: a line per trial through its settings, up to the objective."""
    ranked = group.trials
    drawn = [trial for trial in ranked[:LINES] if trial.value is not None]
    names = group.names[: AXES - 1]
    title = f"Parallel coordinates: {group.description}"
    chart = Chart(f"parallel-{place}", title, BROAD, 330)
    axes = chart.axes
    columns = [[trial.settings.get(name, MISSING) for trial in drawn] for name in names]
    heights = []
    for x, values in enumerate([*columns, [trial.value for trial in drawn]]):
        positions, ticks = _unit_positions(values)
        heights.append(positions)
        for height, label in ticks:
            axes.text(x + 0.03, height, short(label, 13), va="center", **TICK)
    good = {trial.number for trial in ranked[: max(1, len(ranked) // 5)]}
    for trial, line in reversed(list(zip(drawn, np.transpose(heights), strict=True))):
        look: dict[str, Any] = {"color": MUTED, "alpha": 0.4, "linewidth": 1}
        if trial is ranked[0]:
            look = {"color": COLOURS[1], "linewidth": 2}
        elif trial.number in good:
            look = {"color": COLOURS[0], "alpha": 0.55, "linewidth": 1, "linestyle": (0, (6, 2))}
        axes.plot(line, url=f"{view.label(trial)}: {_value_text(trial)}", **look)
    category_scale(axes.xaxis, [*names, view.objective])
    axes.set(xlim=(-0.05, len(names) + 0.35), ylim=(-0.02, 1.02), yticks=[])
    axes.grid(color=MUTED, linewidth=1, axis="x")
    left_out = (
        f" Only the best {LINES} of {len(ranked)} trials are drawn." if len(ranked) > LINES else ""
    )
    if len(group.names) > len(names):
        more = f" {len(group.names) - len(names)} more settings are omitted."
    else:
        more = ""
    behind = "The values are in the tables of trials and below the slice plots."
    caption = (
        f"Thick: the best trial; dashed: the best 20 %; grey: the others.{left_out}{more} {behind}"
    )
    return Figure(chart, caption)


def _unit_positions(values: Sequence[Any]) -> tuple[NDArray[Any], list[tuple[float, str]]]:
    """Return positions of values within 0..1, and positions and labels of ticks.

    Trials that lack the setting are at 0.
    """
    known = [value for value in values if value != MISSING]
    if not known or not all(is_number(value) for value in known):
        names = sorted({word(value) for value in values}, key=lambda name: (name != MISSING, name))
        at = {name: (place + 0.5) / len(names) for place, name in enumerate(names)}
        return np.array([at[word(value)] for value in values]), [
            (height, name) for name, height in at.items()
        ]
    low, high, log = min(known), max(known), is_wide(known)
    scaled = np.log if log else np.float64
    start = GAP if len(known) < len(values) else 0.0

    def position(value: Any) -> float:
        if value == MISSING:
            return 0.0
        share = (scaled(value) - scaled(low)) / (scaled(high) - scaled(low)) if high > low else 0.5
        return float(start + (1 - start) * share)

    ticks = [tick for tick in locator(log).tick_values(low, high) if low <= tick <= high]
    labels = [(position(tick), number(tick)) for tick in ticks or [low]]
    gap = [(0.0, MISSING)] if start else []
    return np.array([position(value) for value in values]), [*gap, *labels]


def slices(view: SweepView, place: int, group: Group) -> list[Figure]:
    """Return charts of the objective against each of the two most important settings."""
    return [
        _slice(view, f"slice-{place}-{index}", group, name)
        for index, name in enumerate(group.names[:2])
    ]


def _slice(view: SweepView, anchor: str, group: Group, name: str) -> Figure:
    trials = [trial for trial in group.trials if name in trial.settings and trial.value is not None]
    chart = Chart(anchor, f"{view.objective} against {name}")
    axes = chart.axes
    x = setting_scale(axes.xaxis, [trial.settings[name] for trial in trials])
    if not all(is_number(trial.settings[name]) for trial in trials):
        # Without an offset, trials with the same name would hide one another
        x = x + [(trial.number * 0.618 % 1 - 0.5) * 0.5 for trial in trials]
    y = [trial.value for trial in trials if trial.value is not None]
    scale(axes.yaxis, y, log=False)
    chart.label(name + (" (logarithmic)" if axes.get_xscale() == "log" else ""), view.objective)
    used = sorted({view.method(trial) for trial in trials})
    styles = {method: Style(view.methods.index(method)) for method in used}
    for method, style in styles.items():
        points = [
            (
                across,
                up,
                f"{view.label(trial)}: {_value_text(trial)} at {word(trial.settings[name])}",
            )
            for trial, across, up in zip(trials, x, y, strict=True)
            if view.method(trial) == method
        ]
        chart.marks(points, style)
    best = trials[0] if trials and trials[0] is view.sweep.best() else None
    if best:
        axes.scatter(x[:1], y[:1], 300, "none", edgecolors=MUTED, urls=["the best trial"])
    if len(used) > 1:
        chart.legend(list(styles.items()), lines=False)
    ring = " The ring marks the best trial." if best else ""
    caption = (
        f"{len(trials)} trials: {group.description} with this setting.{ring} Shown: {group.why}."
    )
    rows = [
        [trial.number, view.method(trial), trial.settings[name], trial.value]
        for trial in trials[:LINES]
    ]
    return Figure(chart, caption, Table(["trial", "method", name, view.objective], rows))


def contour(view: SweepView, place: int, group: Group) -> Figure | None:
    """Return a chart of the objective over the two most important settings.

    The result is None if there are not two settings, or too few trials.
    """
    if len(group.names) < 2:
        return None
    one, two = group.names[:2]
    trials = [
        trial
        for trial in group.trials
        if {one, two} <= set(trial.settings) and trial.value is not None
    ]
    if len(trials) < LEAST or len(_varied(trials).keys() & {one, two}) < 2:
        return None
    chart = Chart(f"contour-{place}", f"{view.objective} over {one} and {two}", BROAD, 420)
    axes = chart.axes
    axes.grid(visible=False)
    x = setting_scale(axes.xaxis, [trial.settings[one] for trial in trials])
    y = setting_scale(axes.yaxis, [trial.settings[two] for trial in trials])
    chart.label(one, two)
    axes.scatter(
        x,
        y,
        40,
        PAPER,
        edgecolors=COLOURS[-1],
        urls=[f"{view.label(trial)}: {_value_text(trial)}" for trial in trials],
        zorder=3,
        clip_on=False,
    )
    _draw_interpolation(chart, x, y, np.array([trial.value for trial in trials], np.float64))
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
            Cell(view.settings(trial), words=True),
        ]
        for trial in trials[:LINES]
    ]
    return Figure(chart, caption, Table(["trial", one, two, view.objective, "settings"], rows))


def _draw_interpolation(
    chart: Chart, x: NDArray[Any], y: NDArray[Any], values: NDArray[Any]
) -> None:
    """Draw contours of the mean of the points, weighted by inverse squared distance, and their key.

    This is the interpolation of Shepard (1968).
    """
    low, high = values.min(), values.max()
    if low == high:
        return
    axes, size = chart.axes, np.array([chart.width, chart.height])
    limits = axes.get_xlim(), axes.get_ylim()
    to_shares = axes.transScale + axes.transLimits
    points = to_shares.transform(np.column_stack([x, y])) * size
    side = np.linspace(0, 1, GRID)
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    weights = 1 / (((grid[:, None] * size - points) ** 2).sum(-1) + 1)
    means = (weights * values).sum(1) / weights.sum(1)
    across, up = to_shares.inverted().transform(grid).reshape(GRID, GRID, 2).transpose(2, 0, 1)
    contours = axes.contourf(
        across,
        up,
        means.reshape(GRID, GRID),
        np.linspace(low, high, LEVELS + 1),
        colors=[(COLOURS[0], opacity) for opacity in np.linspace(0.06, 0.92, LEVELS)],
    )
    axes.set(xlim=limits[0], ylim=limits[1])
    key = chart.figure.colorbar(
        contours, ax=axes, use_gridspec=False, format=lambda value, _: number(value)
    )
    key.outline.set_visible(False)
    key.ax.patch.set_visible(False)
    key.ax.tick_params(length=0, labelsize=11, labelcolor=MUTED)


def _value_text(trial: Trial) -> str:
    return number(trial.value) if trial.value is not None else "no value"
