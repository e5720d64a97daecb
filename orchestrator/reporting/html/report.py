"""Assemble the page of a sweep from its sections, and the commands that reproduce the sweep.

It reads the files of the store and writes none.
"""

import json
import shlex
from dataclasses import dataclass
from datetime import datetime

import yaml

from orchestrator.config.trial import METHOD, SEED, apply
from orchestrator.core.errors import UserError
from orchestrator.core.program import program_name
from orchestrator.core.provenance import describe
from orchestrator.reporting.html import _costs as costs
from orchestrator.reporting.html import _epochs as epochs
from orchestrator.reporting.html import _settings_charts as settings_charts
from orchestrator.reporting.html import _student as student
from orchestrator.reporting.html._pictures import pictures
from orchestrator.reporting.html._predictions import Predictions, predict_held_out
from orchestrator.reporting.html._summary import (
    Commands,
    key_numbers,
    next_steps,
    summarize_sweep,
    warnings_of,
)
from orchestrator.reporting.html._sweep_view import SweepView, measure
from orchestrator.reporting.html._trials import trials
from orchestrator.reporting.html.page import Figure, Table, render
from orchestrator.reporting.importance import Importance, importance
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store

TESTED = "test/best/accuracy"


@dataclass(frozen=True)
class Report:
    """The page as HTML, and the summary lines for the terminal."""

    html: str
    summary: list[str]


def report(store: Store, sweep: Sweep) -> Report:
    """Return the page of a sweep as it is in the store now, finished or not.

    The page names damaged records.
    """
    view, best = SweepView.of(sweep), sweep.best()
    commands, topics, found = list_reproduce_commands(store, view), summarize_sweep(view), None
    reason = ""
    try:
        found = importance(sweep, option=store.option)
    except UserError as error:
        reason = str(error)
    edges = settings_charts.at_the_edge(best, found) if best and found else []
    several = costs.objectives(view)
    html = render(
        view=view,
        started=f"{datetime.fromtimestamp(sweep.started):%d %B %Y, %H:%M}",
        created=f"{datetime.now():%d %B %Y, %H:%M}",
        commands=commands,
        topics=topics,
        key_numbers=key_numbers(view),
        next_steps=next_steps(view, commands, edges),
        trials=trials(view),
        curves=epochs.learning_curves(view),
        stopped=epochs.stopped(view),
        importance=found and settings_charts.importance_bars(found),
        importance_table=found and settings_charts.importance_table(found),
        no_importance=reason,
        settings=_settings(view, found),
        costs=[*([several] if several else []), *costs.against_cost(view)],
        front=costs.front_table(view) if several else None,
        students=_students(store, view),
        pictures=pictures(store, view),
        configuration=resolved(sweep),
        environment=Table(["item", "value"], sorted((view.environment or describe()).items())),
        copied=bool(best and best.changes),
        warnings=warnings_of(view, commands),
    )
    return Report(html, [text for topic, text in topics if topic in ("Best trial", "Lead")])


def _settings(view: SweepView, found: Importance | None) -> list[Figure]:
    drawn: list[Figure | None] = []
    for place, group in enumerate(settings_charts.groups(view, found) if view.searched else []):
        drawn.append(settings_charts.parallel(view, place, group))
        drawn += settings_charts.slices(view, place, group)
        drawn.append(settings_charts.contour(view, place, group))
    return [figure for figure in drawn if figure]


@dataclass(frozen=True)
class Student:
    """A student of the best trial, with figures of its predictions if they are known."""

    letter: str
    text: str
    figures: list[Figure]


def _students(store: Store, view: SweepView) -> list[Student]:
    best = view.sweep.best()
    if best is None:
        return []
    letters = list(apply(view.sweep.configuration, best.settings).students)
    return [
        _student(
            letter,
            predict_held_out(store, view.sweep, best, letter, view.data),
            measure(best, f"{letter}/{TESTED}" if len(letters) > 1 else TESTED),
        )
        for letter in letters
    ]


def _student(letter: str, found: Predictions | str, recorded: float | None) -> Student:
    if isinstance(found, str):
        reason = f"No confusion matrix, reliability diagram and class accuracy: {found}."
        return Student(letter, reason, [])
    text = (
        f"Its accuracy, recomputed for this page, is {found.accuracy:.4f} on "
        f"{len(found.labels)} samples of the {found.part} part"
    )
    whole = len(found.labels) == found.whole and found.part == "test"
    text += f"; the training recorded {recorded:.4f}." if whole and recorded is not None else "."
    return Student(
        letter,
        text,
        [student.confusion(found), student.reliability(found), student.per_class(found)],
    )


def resolved(sweep: Sweep) -> str:
    """Return the full configuration as YAML that `--config` accepts."""
    return yaml.safe_dump(sweep.configuration.plain(), sort_keys=False, allow_unicode=True)


def list_reproduce_commands(store: Store, view: SweepView) -> Commands:
    """Return the command lines that repeat the sweep, continue it, and use its results."""
    sweep, option, file = view.sweep, store.option, f"{view.sweep.name}.yaml"
    best = sweep.best()
    search = sweep.configuration.search
    comparable = view.searched and not search.configurations and search.scheduler != "pbt"
    several = comparable and len(view.methods) > 1 and len(view.complete) > 1
    left = view.searched and view.state in ("interrupted", "failed")
    return Commands(
        resume=f"{program_name()} sweep --resume {sweep.name}{option}" if left else "",
        export=f"{program_name()} export {sweep.name}{option}" if best else "",
        again=f"{program_name()} {sweep.kind} --config {file} --name {sweep.name}-again{option}",
        once=f"{program_name()} train --config {file} --name "
        f"{sweep.name}-best{option}{pairs(sweep, best)}"
        if best and view.searched
        else "",
        ui=f"{program_name()} ui{option}",
        compare=f"{program_name()} compare --config {file} --methods {','.join(view.methods)} "
        f"--seeds 10{option}"
        if several
        else "",
    )


def pairs(sweep: Sweep, trial: Trial) -> str:
    """Return the settings of a trial as `--set` options on top of the sweep's configuration."""
    method = trial.settings.get("method.name", sweep.configuration.method.name)
    options = []
    for name, value in trial.settings.items():
        key = name.removeprefix(f"{method}.")
        key = key if name in (METHOD, SEED) or "." in key else f"method.{key}"
        options.append(f" --set {shlex.quote(f'{key}={json.dumps(value)}')}")
    return "".join(options)
