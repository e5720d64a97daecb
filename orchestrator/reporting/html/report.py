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
from orchestrator.core.provenance import describe
from orchestrator.reporting.html import _costs as costs
from orchestrator.reporting.html import _epochs as epochs
from orchestrator.reporting.html import _settings_charts as settings_charts
from orchestrator.reporting.html import _student as student
from orchestrator.reporting.html import page
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
from orchestrator.reporting.html.page import Section
from orchestrator.reporting.importance import Importance, importance
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store


@dataclass(frozen=True)
class Report:
    """The page as HTML, and the summary lines for the terminal."""

    html: str
    summary: list[str]


def report(store: Store, sweep: Sweep) -> Report:
    """Return the page of a sweep as it is in the store now, finished or not.

    The page names damaged records.
    """
    view = SweepView.of(sweep)
    commands = list_reproduce_commands(store, view)
    settings_importance = _importance(store, view)
    topics = summarize_sweep(view)
    sections = (
        Section("summary", "Summary", _summary(view, commands, topics, settings_importance)),
        Section("trials", "Best trials" if view.searched else "Trial", trials(view)),
        Section(
            "curves",
            "Learning curves",
            epochs.learning_curves(view) or page.paragraph("No epoch has been reported yet."),
        ),
        Section(
            "stopped",
            "Early stopping",
            epochs.stopped(view) or page.paragraph("There is only one trial."),
        ),
        Section("settings", "Settings", _settings(view, settings_importance)),
        Section("cost", "Accuracy and cost", _costs(view)),
        Section("student", "Best student", _student(store, view)),
        Section(
            "pictures",
            "Method figures",
            pictures(store, view) or page.paragraph("No trial has stored figures."),
        ),
        Section("configuration", "Configuration", page.preformatted(resolved(sweep))),
        Section("environment", "Environment", _environment(view)),
        Section("reproduce", "Commands", _reproduce(view, commands)),
    )
    lead = (
        f"{'A search' if view.searched else 'A training'} of "
        f"{datetime.fromtimestamp(sweep.started):%d %B %Y, %H:%M}"
    )
    foot = (
        f"Created {datetime.now():%d %B %Y, %H:%M} from the store as it was then. This page "
        f"loads no external files and runs no scripts."
    )
    html = page.page(sweep.name, lead, warnings_of(view, commands), sections, foot)
    return Report(html, [text for topic, text in topics if topic in ("Best trial", "Lead")])


def _summary(
    view: SweepView, commands: Commands, topics: list[tuple[str, str]], found: Importance | str
) -> str:
    best = view.sweep.best()
    edges = settings_charts.at_the_edge(best, found) if best and not isinstance(found, str) else []
    paragraphs = [
        f"<p><strong>{page.text(topic)}.</strong> {page.text(sentence)}</p>"
        for topic, sentence in topics
    ]
    following = [page.step(what, command) for what, command in next_steps(view, commands, edges)]
    return (
        page.view(key_numbers(view))
        + "".join(paragraphs)
        + ("<h3>Next steps</h3>" + "".join(following) if following else "")
    )


def _importance(store: Store, view: SweepView) -> Importance | str:
    """Return the importance of the settings, or why it is not known."""
    try:
        return importance(view.sweep, option=store.option)
    except UserError as error:
        return str(error)


def _settings(view: SweepView, found: Importance | str) -> str:
    if not view.searched:
        return page.paragraph("A single training searches no settings.")
    drawn = [] if isinstance(found, str) else settings_charts.importance_bars(found)
    notes = page.paragraph(f"No importance: {found}.") if isinstance(found, str) else ""
    groups = settings_charts.groups(view, None if isinstance(found, str) else found)
    for place, group in enumerate(groups):
        drawn.append(settings_charts.parallel(view, place, group))
        drawn += settings_charts.slices(view, place, group)
        drawn.append(settings_charts.contour(view, place, group))
    if not groups:
        notes += page.paragraph(
            "Parallel coordinates, slices and contours need at least two complete trials with "
            "different settings."
        )
    return notes + page.charts([each for each in drawn if each])


def _costs(view: SweepView) -> str:
    drawn = costs.against_cost(view)
    several = costs.objectives(view)
    if several:
        drawn = [several, *drawn]
    note = (
        ""
        if drawn
        else page.paragraph("No chart: it needs at least two complete trials that differ in cost.")
    )
    return (
        note
        + page.charts(drawn)
        + (f"<h3>Pareto front</h3>{costs.front_table(view)}" if several else "")
    )


def _student(store: Store, view: SweepView) -> str:
    best = view.sweep.best()
    if best is None:
        return page.paragraph("No trial has a value yet, so there is no best student.")
    letters = list(apply(view.sweep.configuration, best.settings).students)
    parts = [
        page.paragraph(f"From {view.label(best)}, with the weights that were best on validation.")
    ]
    for letter in letters:
        predictions = predict_held_out(store, view.sweep, best, letter, view.data)
        heading = f"<h3>Student {letter}</h3>" if len(letters) > 1 else ""
        parts.append(
            heading
            + (
                _missing_predictions(predictions)
                if isinstance(predictions, str)
                else _prediction_charts(best, predictions, len(letters) > 1)
            )
        )
    return "".join(parts)


def _missing_predictions(why: str) -> str:
    return page.paragraph(f"No confusion matrix, reliability diagram and class accuracy: {why}.")


def _prediction_charts(best: Trial, found: Predictions, several: bool) -> str:
    recorded = measure(
        best, f"{found.letter}/test/best/accuracy" if several else "test/best/accuracy"
    )
    text = (
        f"Its accuracy, recomputed for this page, is {found.accuracy:.4f} on "
        f"{len(found.labels)} samples of the {found.part} part"
    )
    whole = len(found.labels) == found.whole and found.part == "test" and recorded is not None
    text += f"; the training recorded {recorded:.4f}." if whole else "."
    return page.paragraph(text) + page.charts(
        [student.confusion(found), student.reliability(found), student.per_class(found)]
    )


def _environment(view: SweepView) -> str:
    known = view.environment
    text = (
        "Software and hardware at the last start of the run:"
        if known
        else "The run did not record its environment. This is the current machine:"
    )
    return page.paragraph(text, "muted") + page.table(
        ["item", "value"], sorted((known or describe()).items())
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
        resume=f"python run.py sweep --resume {sweep.name}{option}" if left else "",
        export=f"python run.py export {sweep.name}{option}" if best else "",
        again=f"python run.py {sweep.kind} --config {file} --name {sweep.name}-again{option}",
        once=f"python run.py train --config {file} --name "
        f"{sweep.name}-best{option}{pairs(sweep, best)}"
        if best and view.searched
        else "",
        ui=f"python run.py ui{option}",
        compare=f"python run.py compare --config {file} --methods {','.join(view.methods)} "
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


def _reproduce(view: SweepView, commands: Commands) -> str:
    file = f"{view.sweep.name}.yaml"
    taken = view.sweep.best() is not None and view.sweep.best().changes  # type: ignore[union-attr]
    steps = [
        (
            f"Save the configuration above as {file}, then repeat the {view.sweep.kind}:",
            commands.again,
        ),
        (f"Continue this {view.sweep.kind}:", commands.resume),
        (
            "Train the best trial alone"
            + (" (without the weights that it copied from other trials):" if taken else ":"),
            commands.once,
        ),
        ("Export its student:", commands.export),
        ("Open MLflow:", commands.ui),
    ]
    return "".join(
        page.paragraph(what) + page.preformatted(command) for what, command in steps if command
    )
