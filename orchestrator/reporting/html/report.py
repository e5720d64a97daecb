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
from orchestrator.reporting.html._predictions import Predictions, answers
from orchestrator.reporting.html._summary import Commands, banner, glance, sentences, steps
from orchestrator.reporting.html._sweep_view import Facts, measure
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
    facts = Facts.of(sweep)
    commands = reproducing(store, facts)
    found = _importance(store, facts)
    told = sentences(facts)
    sections = (
        Section("summary", "Summary", _summary(facts, commands, told, found)),
        Section("trials", "Best trials" if facts.searched else "The trial", trials(facts)),
        Section(
            "curves",
            "Learning curves",
            epochs.learning_curves(facts) or page.paragraph("No epoch was reported yet."),
        ),
        Section(
            "stopped",
            "Stopped early",
            epochs.stopped(facts) or page.paragraph("One trial alone: nobody was compared."),
        ),
        Section("settings", "Settings", _settings(facts, found)),
        Section("cost", "Accuracy and cost", _costs(facts)),
        Section("student", "The best student", _student(store, facts)),
        Section(
            "pictures",
            "The method's pictures",
            pictures(store, facts) or page.paragraph("No trial left any."),
        ),
        Section("configuration", "Configuration", page.preformatted(resolved(sweep))),
        Section("environment", "Environment", _environment(facts)),
        Section("reproduce", "Commands", _reproduce(facts, commands)),
    )
    lead = (
        f"{'A search' if facts.searched else 'A training'} of "
        f"{datetime.fromtimestamp(sweep.started):%d %B %Y, %H:%M}"
    )
    foot = (
        f"Made {datetime.now():%d %B %Y, %H:%M} of what stood in the store then. This page "
        f"loads nothing and runs no script."
    )
    html = page.page(sweep.name, lead, banner(facts, commands), sections, foot)
    return Report(html, [said for what, said in told if what in ("Won", "By how much")])


def _summary(
    facts: Facts, commands: Commands, told: list[tuple[str, str]], found: Importance | str
) -> str:
    best = facts.sweep.best()
    edges = settings_charts.at_the_edge(best, found) if best and not isinstance(found, str) else []
    said = [
        f"<p><strong>{page.text(what)}.</strong> {page.text(sentence)}</p>"
        for what, sentence in told
    ]
    following = [page.step(what, command) for what, command in steps(facts, commands, edges)]
    return (
        page.facts(glance(facts))
        + "".join(said)
        + ("<h3>What to do next</h3>" + "".join(following) if following else "")
    )


def _importance(store: Store, facts: Facts) -> Importance | str:
    """Return the importance of the settings, or why it is not known."""
    try:
        return importance(facts.sweep, option=store.option)
    except UserError as error:
        return str(error)


def _settings(facts: Facts, found: Importance | str) -> str:
    if not facts.searched:
        return page.paragraph("One training searched nothing, so there is nothing to compare.")
    drawn = [] if isinstance(found, str) else settings_charts.importance_bars(found)
    said = page.paragraph(f"Importance is not known: {found}.") if isinstance(found, str) else ""
    groups = settings_charts.groups(facts, None if isinstance(found, str) else found)
    for place, group in enumerate(groups):
        drawn.append(settings_charts.parallel(facts, place, group))
        drawn += settings_charts.slices(facts, place, group)
        drawn.append(settings_charts.contour(facts, place, group))
    if not groups:
        said += page.paragraph(
            "Parallel coordinates, slices and contours need two complete trials that differ in "
            "a setting."
        )
    return said + page.charts([each for each in drawn if each])


def _costs(facts: Facts) -> str:
    drawn = costs.against_cost(facts)
    several = costs.objectives(facts)
    if several:
        drawn = [several, *drawn]
    said = (
        ""
        if drawn
        else page.paragraph(
            "Fewer than two complete trials differ in what they cost, so there is nothing to weigh."
        )
    )
    return (
        said
        + page.charts(drawn)
        + (f"<h3>Pareto front</h3>{costs.front_table(facts)}" if several else "")
    )


def _student(store: Store, facts: Facts) -> str:
    best = facts.sweep.best()
    if best is None:
        return page.paragraph("No trial has ended well, so there is no best student.")
    letters = list(apply(facts.sweep.configuration, best.settings).students)
    parts = [
        page.paragraph(f"Of {facts.label(best)}, with the weights that were best on validation.")
    ]
    for letter in letters:
        found = answers(store, facts.sweep, best, letter, facts.data)
        heading = f"<h3>Student {letter}</h3>" if len(letters) > 1 else ""
        parts.append(
            heading
            + (
                _unanswered(found)
                if isinstance(found, str)
                else _answers(best, found, len(letters) > 1)
            )
        )
    return "".join(parts)


def _unanswered(why: str) -> str:
    return page.paragraph(
        f"Its confusion matrix, reliability diagram and classes cannot be shown: {why}."
    )


def _answers(best: Trial, found: Predictions, several: bool) -> str:
    recorded = measure(
        best, f"{found.letter}/test/best/accuracy" if several else "test/best/accuracy"
    )
    said = (
        f"Asked anew for this page it is right in {found.accuracy:.4f} of "
        f"{len(found.labels)} samples of the {found.part} part"
    )
    whole = len(found.labels) == found.whole and found.part == "test" and recorded is not None
    said += f"; the training wrote down {recorded:.4f}." if whole else "."
    return page.paragraph(said) + page.charts(
        [student.confusion(found), student.reliability(found), student.per_class(found)]
    )


def _environment(facts: Facts) -> str:
    known = facts.environment
    said = (
        "What it ran on, at its last start:"
        if known
        else "It kept no note of what it ran on. This machine, now:"
    )
    return page.paragraph(said, "muted") + page.table(
        ["what", "which"], sorted((known or describe()).items())
    )


def resolved(sweep: Sweep) -> str:
    """Return the full configuration as YAML that `--config` accepts."""
    return yaml.safe_dump(sweep.configuration.plain(), sort_keys=False, allow_unicode=True)


def reproducing(store: Store, facts: Facts) -> Commands:
    """Return the command lines that repeat the sweep, continue it, and use its results."""
    sweep, option, file = facts.sweep, store.option, f"{facts.sweep.name}.yaml"
    best = sweep.best()
    search = sweep.configuration.search
    comparable = facts.searched and not search.configurations and search.scheduler != "pbt"
    several = comparable and len(facts.methods) > 1 and len(facts.complete) > 1
    left = facts.searched and facts.state in ("interrupted", "failed")
    return Commands(
        resume=f"python run.py sweep --resume {sweep.name}{option}" if left else "",
        export=f"python run.py export {sweep.name}{option}" if best else "",
        again=f"python run.py {sweep.kind} --config {file} --name {sweep.name}-again{option}",
        once=f"python run.py train --config {file} --name "
        f"{sweep.name}-best{option}{pairs(sweep, best)}"
        if best and facts.searched
        else "",
        ui=f"python run.py ui{option}",
        compare=f"python run.py compare --config {file} --methods {','.join(facts.methods)} "
        f"--seeds 10{option}"
        if several
        else "",
    )


def pairs(sweep: Sweep, trial: Trial) -> str:
    """Return the settings of a trial as `--set` options on top of the sweep's configuration."""
    method = trial.settings.get("method.name", sweep.configuration.method.name)
    given = []
    for name, value in trial.settings.items():
        key = name.removeprefix(f"{method}.")
        key = key if name in (METHOD, SEED) or "." in key else f"method.{key}"
        given.append(f" --set {shlex.quote(f'{key}={json.dumps(value)}')}")
    return "".join(given)


def _reproduce(facts: Facts, commands: Commands) -> str:
    file = f"{facts.sweep.name}.yaml"
    taken = facts.sweep.best() is not None and facts.sweep.best().changes  # type: ignore[union-attr]
    told = [
        (
            f"Save the configuration above as {file}, then the same {facts.sweep.kind} again:",
            commands.again,
        ),
        ("Go on with this one:", commands.resume),
        (
            "The best trial alone"
            + (
                " (it took its weights over from others, which this does not repeat):"
                if taken
                else ":"
            ),
            commands.once,
        ),
        ("Its student in a folder of its own:", commands.export),
        ("Everything that was logged:", commands.ui),
    ]
    return "".join(
        page.paragraph(what) + page.preformatted(command) for what, command in told if command
    )
