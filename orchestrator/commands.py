"""What each command does, step by step: read, check, plan, run, show. Returns the exit code."""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from orchestrator import errors
from orchestrator.config import Configuration, Teacher
from orchestrator.errors import ConfigurationError, EnvironmentUnfitError
from orchestrator.objectives import in_words
from orchestrator.path_settings import resolve_paths
from orchestrator.private import said
from orchestrator.reading import load
from orchestrator.records import Sweep
from orchestrator.shipping import ship
from orchestrator.store import Store
from orchestrator.sweep.space import searched, with_its_method
from orchestrator.yielding import said_of

if TYPE_CHECKING:
    from orchestrator.preflight import Prepared

console = Console()
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def sweep(
    config: Path | None,
    pairs: list[str],
    store: Path | str,
    name: str | None,
    seed: int | None,
    dry_run: bool,
    trials: int | None,
    time_budget: str | None,
    resume: str | None,
    scheduler: str | None = None,
    address: str | None = None,
    default: Path | None = None,
) -> int:
    """Search; or go on with a search that was interrupted. Without a `config` a new one takes that of `default`."""
    budget = seconds(time_budget) if time_budget is not None else None
    if resume is None:
        given = {"trials": trials, "time_budget": budget, "scheduler": scheduler}
        options = {f"search.{key}": value for key, value in given.items() if value is not None} | _at(address)
        configuration = load(config or default, pairs, options, seed=seed)
        return _begin(Store.open(store), configuration, "sweep", name, dry_run, local=False)
    if name or seed is not None or dry_run or scheduler is not None:
        raise ConfigurationError(
            "--resume goes on as the sweep was configured: leave out --name, --seed, --scheduler and --dry-run"
        )
    Store.existing(store)
    return _resume(Store.open(store), resume, trials, budget, config, address, pairs)


def _at(address: str | None, local: bool = False) -> dict[str, Any]:
    """The change of the configuration that `--address` is."""
    from orchestrator.cluster.resources import at

    if address is not None and local:
        raise ConfigurationError("--address and --local exclude each other: leave one of them out")
    return {"resources.address": at(address)} if address is not None else {}


def train(
    config: Path,
    pairs: list[str],
    store: Path | str,
    name: str | None,
    seed: int | None,
    dry_run: bool,
    local: bool,
    address: str | None = None,
) -> int:
    """One trial with the settings given."""
    return _begin(Store.open(store), load(config, pairs, _at(address, local), seed=seed), "train", name, dry_run, local)


def teacher(
    config: Path,
    pairs: list[str],
    store: Path | str,
    seed: int | None,
    fill: bool,
    local: bool,
    dry_run: bool,
    address: str | None = None,
) -> int:
    """Fit the teacher, or load and check the one that was given; then fill its cache, if asked."""
    from orchestrator.preflight import prepared, show_plan
    from orchestrator.sweep.conduct import bring_teacher
    from orchestrator.teacher_display import TeacherDisplay

    opened, configuration = Store.open(store), load(config, pairs, _at(address, local), seed=seed)
    if configuration.teacher is None:
        raise ConfigurationError("teacher is null: set teacher.network.name, or take another --config")
    if dry_run:
        show_plan(opened, configuration, "teacher", local, console)
        return errors.OK
    begun = prepared(opened, configuration, "teacher", local, print_note)
    if fill and begun.asked and not begun.asked.folder:
        raise ConfigurationError(f"--fill: the teacher is {begun.asked.words}: {_way_to_a_cache(configuration.teacher)}")
    with TeacherDisplay(console) as display:
        filling = display if fill else None
        folder, card, cost_s = bring_teacher(opened, begun.configuration, begun.data, display, local, begun.asked, filling)
        if fill:
            display.end()
    console.print(
        f"teacher {card['network']['name']} on {card['data']}: {folder} ({cost_s:.1f} s)", soft_wrap=True, highlight=False
    )
    for key in ("validation/accuracy", "test/last/accuracy"):
        if key in card["metrics"]:
            console.print(f"  {key} {card['metrics'][key]:.4f}", highlight=False)
    return errors.OK


def _way_to_a_cache(teacher: Teacher) -> str:
    if teacher.mode == "online":
        return "set teacher.mode=cached"
    return "raise teacher.cache_gib, lower data.views, or name another folder with teacher.cache"


def methods() -> int:
    """The methods, their settings and their search spaces."""
    from orchestrator.listing import print_methods

    print_methods(console)
    return errors.OK


def status(name: str | None, store: Path | str, as_json: bool) -> int:
    """The state of a sweep, or of all sweeps of the store, as a table or as JSON."""
    from orchestrator.display import show_damage, status_table, sweeps_table

    opened = Store.existing(store)
    found: list[Sweep] = []
    for each in opened.sweeps() if name is None else [name]:
        try:
            found.append(Sweep.open(opened, each))
        except ConfigurationError as error:
            if name is not None:
                raise
            print(said(f"error: {error}"), file=sys.stderr)  # the others can be looked at all the same
    for one in found:
        show_damage(one, opened.option)
    if as_json:
        told = [each.status() for each in found]
        print(json.dumps(told if name is None else told[0], indent=1))
    elif name is not None:
        status_table(found[0], console)
    else:
        sweeps_table(found, console)
    return errors.OK


def importance(name: str, store: Path | str, epoch: int | None) -> int:
    """Which settings of a sweep mattered: printed, and added to its run in MLflow."""
    from orchestrator.display import show_damage
    from orchestrator.importance_display import importance_tables
    from orchestrator.sweep.importance import LEAST, pages
    from orchestrator.sweep.importance import importance as evaluate
    from orchestrator.tracking.additions import add

    opened = Store.existing(store)
    found = Sweep.open(opened, name)
    show_damage(found, opened.option)
    evaluated = evaluate(found, epoch, opened.option)
    told = replace(evaluated, objective=in_words(found.configuration, evaluated.objective))
    importance_tables(told.plain(), LEAST, console)
    folder = "importance" if epoch is None else f"importance/epoch_{epoch}"
    metrics = {f"{folder}/{setting}": share for setting, share in evaluated.metrics().items()}
    files = {"importance.json": json.dumps(evaluated.plain(), indent=1), **pages(told)}
    missed = add(opened, found, metrics, evaluated.trials, folder, files)
    logged = f"not logged: {missed}" if missed else f"logged to the run {name} in MLflow: metrics and artifacts `{folder}/`"
    console.print(logged, markup=False, highlight=False, soft_wrap=True)
    return errors.OK


def export(
    name: str, student: str | None, trial: int | None, weights: str, to: Path | None, store: Path | str, form: str = "safetensors"
) -> int:
    """One student of a run, in a folder of its own that needs neither the run nor its data."""
    from orchestrator.display import show_damage
    from orchestrator.export import export as write

    opened = Store.existing(store)
    found = write(opened, name, student or "a", trial, weights, to, form)
    show_damage(Sweep.open(opened, name), opened.option)
    network, source = found.settings["network"]["name"], found.settings["source"]
    console.print(
        f"student {source['student']} ({network}) of trial {source['trial']}, {weights} weights, after epoch {source['epoch']}: "
        f"{found.folder}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    for key, value in source["metrics"].items():
        if key.endswith("/accuracy"):
            console.print(f"  {key} {value:.4f}", highlight=False)
    if found.others and student is None:
        others = " or ".join(f"--student {letter}" for letter in found.others)
        console.print(f"the trial has other students beside a: {others}", highlight=False)
    return errors.OK


def doctor(config: Path, pairs: list[str], store: Path | str, address: str | None, quick: bool) -> int:
    """What is fit for a run and what is not, a line each."""
    from orchestrator.doctor import Conditions, examine

    configuration = load(config, pairs, _at(address))
    named, fit = Store.named(store), True
    for name, finding in examine(Conditions(named.root, configuration, quick, named.uri)):
        console.print(said(f"{name:13}{finding.fitness:6}{finding.said}"), markup=False, highlight=False, soft_wrap=True)
        fit = fit and finding.fitness != "bad"
    return errors.OK if fit else errors.UNFIT_ENVIRONMENT


def ui(store: Path | str, port: int) -> int:
    """MLflow's user interface, until it is interrupted."""
    from orchestrator.tracking.ui import serve

    return serve(Store.existing(store), port, console)


def seconds(text: str) -> float:
    """Seconds of `90s`, `10m`, `2h` or `90`; ConfigurationError otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not match or float(match[1]) == 0:
        raise ConfigurationError(f"--time-budget {text!r} is not a time: write 90s, 10m or 2h")
    return float(match[1]) * UNITS[match[2]]


def _begin(store: Store, configuration: Configuration, kind: str, name: str | None, dry_run: bool, local: bool) -> int:
    """A new sweep or training, once everything that can be refused has been looked at."""
    from orchestrator.preflight import prepared, show_plan
    from orchestrator.sweep.described import described

    if kind == "sweep":
        configuration = with_its_method(configuration)
    configuration = resolve_paths(configuration, local)
    folder = store.sweep(name or new_name(configuration, kind))
    Sweep.require_new(folder, store.option)
    if dry_run:
        show_plan(store, configuration, kind, local, console)
        return errors.OK
    found = None
    try:
        begun = prepared(store, configuration, kind, local, print_note)
        for sentence in said_of(configuration, kind):
            print_note(sentence)
        found = Sweep.create(folder, begun.configuration, kind, described(begun.configuration, kind, begun.data))
        if begun.note:
            _tell(found, begun.note)
    except KeyboardInterrupt:
        return _interrupted(store, found)
    return _conduct(store, found, begun, local, resume=False)


def new_name(configuration: Configuration, kind: str) -> str:
    """What is trained, and when; a search over several methods goes by its project."""
    methods = searched(configuration) if kind == "sweep" else (configuration.method.name,)
    what = methods[0] if len(methods) == 1 else re.sub(r"[^A-Za-z0-9]+", "-", configuration.project).strip("-") or "sweep"
    return f"{what}-{datetime.now():%Y%m%d-%H%M%S}"


def _resume(
    store: Store,
    name: str,
    trials: int | None,
    time_budget_s: float | None,
    file: Path | None,
    address: str | None = None,
    pairs: Sequence[str] = (),
) -> int:
    from orchestrator.preflight import prepared
    from orchestrator.resume import changed, require_same
    from orchestrator.sweep.described import described, described_space
    from orchestrator.sweep.distinct import limit_trials
    from orchestrator.teacher.moved import carry_teacher_over

    found = Sweep.open(store, name)
    found.configuration = changed(found, trials, time_budget_s, file, address, pairs)
    note = ""
    if found.kind == "sweep":
        found.configuration, note = limit_trials(found.configuration, begun=len(found.trials))
    require_same(found, described_space(found.configuration, found.kind))
    try:
        begun = prepared(store, found.configuration, found.kind, local=False, note=print_note)
        now = described(begun.configuration, found.kind, begun.data)
        require_same(found, now)
        carry_teacher_over(store, found.folder, begun.configuration, begun.data)
    except KeyboardInterrupt:
        return _interrupted(store, found)
    found.described = found.described | now
    if note:
        _tell(found, note)
    return _conduct(store, found, begun, local=False, resume=True)


def print_note(text: str) -> None:
    """Print what a person may not expect."""
    console.print(said(f"note: {text}"), markup=False, highlight=False, soft_wrap=True)


def _tell(found: Sweep, note: str) -> None:
    """Print what is otherwise than it was asked for, and keep it with the sweep."""
    from orchestrator.sweep.events import Events

    print_note(note)
    Events(found, []).note(note)


def _interrupted(store: Store, found: Sweep | None) -> int:
    """Say how to go on, when nothing else could any more."""
    console.print()
    if found is None:
        console.print("interrupted before the sweep began: there is nothing to go on with, start it again", highlight=False)
    else:
        resume = f"python run.py sweep --resume {found.name}{store.option}"
        console.print(f"interrupted; resume: {resume}", markup=False, highlight=False, soft_wrap=True)
    return errors.INTERRUPTED


def _conduct(store: Store, found: Sweep, begun: "Prepared", local: bool, resume: bool) -> int:
    from orchestrator.display import Display, costs, summary
    from orchestrator.sweep.conduct import conduct
    from orchestrator.tracking.environment import keep

    try:
        keep(found.folder, begun.data)
        with Display(found, console) as display:
            conduct(found, store, begun.data, begun.asked, display, local, resume, ship=partial(ship, store, found.name))
    except KeyboardInterrupt:  # before it had begun, or after its end
        return _interrupted(store, found)
    except EnvironmentUnfitError as error:
        if found.state != "interrupted":
            raise
        again = f"python run.py sweep --resume {found.name}{store.option}"
        raise EnvironmentUnfitError(f"{error}; what was not finished waits: {again}") from error
    if found.kind == "train":
        costs(display, console)
    summary(found, console, next_commands(found, store))
    if found.state == "interrupted":
        return errors.INTERRUPTED
    return errors.OK if found.state == "finished" else errors.NO_USABLE_TRIAL


def next_commands(found: Sweep, store: Store) -> dict[str, str]:
    """What one may type after the end of a run, by what it does."""
    commands = {"status": f"python run.py status {found.name}{store.option}", "open MLflow": f"python run.py ui{store.option}"}
    if found.state == "interrupted" or (found.state == "failed" and _left(found)):
        commands["resume"] = f"python run.py sweep --resume {found.name}{store.option}"
    return commands


def _left(found: Sweep) -> bool:
    """Whether a sweep has trials that have not ended."""
    ended = sum(trial.ended for trial in found.trials.values())
    return found.kind == "sweep" and ended < found.configuration.search.trials
