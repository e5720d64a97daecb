"""What each command does, step by step: read, check, plan, run, show. Returns the exit code."""

import json
import re
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from orchestrator import errors
from orchestrator.config import Configuration, Teacher
from orchestrator.errors import ConfigurationError
from orchestrator.objectives import in_words
from orchestrator.reading import build, load
from orchestrator.records import Sweep
from orchestrator.store import Store, write_json
from orchestrator.sweep.space import searched, with_its_method

if TYPE_CHECKING:
    from orchestrator.preflight import Prepared

console = Console()
UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}


def sweep(
    config: Path,
    pairs: list[str],
    store: Path,
    name: str | None,
    seed: int | None,
    dry_run: bool,
    trials: int | None,
    time_budget: str | None,
    resume: str | None,
    scheduler: str | None = None,
    address: str | None = None,
) -> int:
    """Search; or go on with a search that was interrupted."""
    changes = [f"search.trials={trials}"] if trials is not None else []
    changes += [f"search.time_budget={seconds(time_budget)}"] if time_budget is not None else []
    if resume is None:
        changes += [f"search.scheduler={scheduler}"] if scheduler is not None else []
        pairs = pairs + changes + _at(address)
        return _begin(Store.open(store), load(config, pairs, seed=seed), "sweep", name, dry_run, local=False)
    if name or seed is not None or pairs or dry_run or scheduler is not None:
        raise ConfigurationError(
            "--resume goes on as the sweep was configured: leave out --name, --seed, --set, --scheduler and --dry-run"
        )
    return _resume(Store.open(_existing(store).root), resume, trials, changes, address)


def _at(address: str | None, local: bool = False) -> list[str]:
    """The change of the configuration that `--address` is."""
    if address is not None and local:
        raise ConfigurationError("--address and --local exclude each other: leave one of them out")
    return [f"resources.address={json.dumps(address)}"] if address is not None else []


def train(
    config: Path,
    pairs: list[str],
    store: Path,
    name: str | None,
    seed: int | None,
    dry_run: bool,
    local: bool,
    address: str | None = None,
) -> int:
    """One trial with the settings given."""
    return _begin(Store.open(store), load(config, pairs + _at(address, local), seed=seed), "train", name, dry_run, local)


def teacher(
    config: Path,
    pairs: list[str],
    store: Path,
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

    opened, configuration = Store.open(store), load(config, pairs + _at(address, local), seed=seed)
    if configuration.teacher is None:
        raise ConfigurationError("teacher is null: set teacher.network.name, or take another --config")
    if dry_run:
        show_plan(opened, configuration, "teacher", local, console)
        return errors.OK
    begun = prepared(opened, configuration, "teacher", local)
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


def status(name: str, store: Path, as_json: bool) -> int:
    """The state of a sweep, as a table or as JSON."""
    from orchestrator.display import status_table

    found = Sweep.open(_existing(store), name)
    if as_json:
        print(json.dumps(found.status(), indent=1))
    else:
        status_table(found, console)
    return errors.OK


def importance(name: str, store: Path, epoch: int | None) -> int:
    """Which settings of a sweep mattered: printed, and added to its run in MLflow."""
    from orchestrator.importance_display import importance_tables
    from orchestrator.sweep.importance import LEAST, pages
    from orchestrator.sweep.importance import importance as evaluate
    from orchestrator.tracking.additions import add

    opened = _existing(store)
    found = Sweep.open(opened, name)
    evaluated = evaluate(found, epoch)
    told = replace(evaluated, objective=in_words(found.configuration, evaluated.objective))
    importance_tables(told.plain(), LEAST, console)
    folder = "importance" if epoch is None else f"importance/epoch_{epoch}"
    metrics = {f"{folder}/{setting}": share for setting, share in evaluated.metrics().items()}
    files = {"importance.json": json.dumps(evaluated.plain(), indent=1), **pages(told)}
    missed = add(opened, found, metrics, evaluated.trials, folder, files)
    logged = f"not logged: {missed}" if missed else f"logged to the run {name} in MLflow: metrics and artifacts `{folder}/`"
    console.print(logged, markup=False, highlight=False, soft_wrap=True)
    return errors.OK


def export(name: str, student: str | None, trial: int | None, weights: str, to: Path | None, store: Path) -> int:
    """One student of a run, in a folder of its own that needs neither the run nor its data."""
    from orchestrator.export import export as write

    found = write(_existing(store), name, student or "a", trial, weights, to)
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


def ui(store: Path, port: int) -> int:
    """MLflow's user interface, until it is interrupted."""
    from orchestrator.tracking.ui import serve

    return serve(_existing(store), port, console)


def seconds(text: str) -> float:
    """Seconds of `90s`, `10m`, `2h` or `90`; ConfigurationError otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not match or float(match[1]) == 0:
        raise ConfigurationError(f"--time-budget {text!r} is not a time: write 90s, 10m or 2h")
    return float(match[1]) * UNITS[match[2]]


def _existing(root: Path) -> Store:
    if not root.is_dir():
        raise ConfigurationError(
            f"--store {root} does not exist: give the folder of an earlier run, or start with `python run.py sweep`"
        )
    return Store(root.resolve())


def _begin(store: Store, configuration: Configuration, kind: str, name: str | None, dry_run: bool, local: bool) -> int:
    """A new sweep or training, once everything that can be refused has been looked at."""
    from orchestrator.preflight import prepared, show_plan

    if kind == "sweep":
        configuration = with_its_method(configuration)
    folder = store.sweep(name or _name(configuration, kind))
    Sweep.require_new(folder)
    if dry_run:
        show_plan(store, configuration, kind, local, console)
        return errors.OK
    begun = prepared(store, configuration, kind, local)
    return _conduct(store, Sweep.create(folder, begun.configuration, kind), begun, local, resume=False)


def _name(configuration: Configuration, kind: str) -> str:
    """What is trained, and when; a search over several methods goes by its project."""
    methods = searched(configuration) if kind == "sweep" else (configuration.method.name,)
    what = methods[0] if len(methods) == 1 else re.sub(r"[^A-Za-z0-9]+", "-", configuration.project).strip("-") or "sweep"
    return f"{what}-{datetime.now():%Y%m%d-%H%M%S}"


def _resume(store: Store, name: str, trials: int | None, changes: list[str], address: str | None = None) -> int:
    from orchestrator.preflight import prepared

    found = Sweep.open(store, name)
    if found.alive:
        raise ConfigurationError(f"--resume {name}: another process runs it at this moment: wait for it, or end it first")
    if trials is not None and trials < len(found.trials):
        raise ConfigurationError(
            f"--trials {trials} is less than the {len(found.trials)} trials that {name!r} has: give at least that many"
        )
    search = found.configuration.search
    if search.scheduler == "pbt" and trials not in (None, search.trials):
        raise ConfigurationError(
            f"--trials {trials}: the population of {name!r} has {search.trials} trials for its life: leave it out"
        )
    values = found.configuration.plain()
    for change in changes:
        key, _, value = change.removeprefix("search.").partition("=")
        values["search"][key] = float(value) if key == "time_budget" else int(value)
    values["resources"]["address"] = address or values["resources"].get("address")
    found.configuration = with_its_method(build(values)) if found.kind == "sweep" else build(values)
    return _conduct(store, found, prepared(store, found.configuration, found.kind, local=False), local=False, resume=True)


def _conduct(store: Store, found: Sweep, begun: "Prepared", local: bool, resume: bool) -> int:
    from orchestrator.data.dataset import read_summary
    from orchestrator.display import Display, costs, summary
    from orchestrator.sweep.conduct import conduct

    write_json(found.folder / "data.json", read_summary(begun.data))  # an export needs it when the data are gone
    with Display(found, console) as display:
        conduct(found, store, begun.data, begun.asked, display, local, resume)
    commands = {"status": f"python run.py status {found.name}{store.option}", "open MLflow": f"python run.py ui{store.option}"}
    if found.state == "interrupted" or (found.state == "failed" and _left(found)):
        commands["resume"] = f"python run.py sweep --resume {found.name}{store.option}"
    if found.kind == "train":
        costs(display, console)
    summary(found, console, commands)
    if found.state == "interrupted":
        return errors.INTERRUPTED
    return errors.OK if found.state == "finished" else errors.NO_USABLE_TRIAL


def _left(found: Sweep) -> bool:
    """Whether a sweep has trials that have not ended."""
    ended = sum(trial.ended for trial in found.trials.values())
    return found.kind == "sweep" and ended < found.configuration.search.trials
