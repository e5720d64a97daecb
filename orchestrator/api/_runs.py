"""Train a student, or search for the best settings, from Python."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.api._console import make_console, make_note_printer
from orchestrator.api._data import as_data
from orchestrator.api._networks import GivenNetwork, published_inputs, read_network
from orchestrator.api._objects import Objects, keep_weights, open_session
from orchestrator.api._options import nest, read_options, require_free, sort_names_first
from orchestrator.api._results import Result, Study
from orchestrator.api._space import check_spaces, read_spaces
from orchestrator.api._teacher import as_teachers
from orchestrator.config.loader import load
from orchestrator.config.path_settings import resolve_paths
from orchestrator.config.schema import LETTERS, Configuration
from orchestrator.config.search_space import with_single_method
from orchestrator.core.errors import ConfigurationError, PreflightError
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.sweep.changed_configuration import require_same_values
from orchestrator.sweep.runs import (
    count_local_processes,
    create_run,
    execute_run,
    prepare_resume,
    resolve_run,
)
from search_spaces import Space

TEACHER_NETWORK = "teacher.network"
TEACHERS = "teachers"


@dataclass(frozen=True)
class RunOptions:
    """Options of a call of `distil` or `sweep`.

    Attributes:
        store: Folder or URI of the store.
        name: Name of a new run; None for the default name.
        resume: Name of the run to resume; None for a new one.
        progress: Show the progress.
        local_processes: Number of processes that train without Ray, 1 for this one; 0 with Ray.
    """

    store: Path | str
    name: str | None
    resume: str | None
    progress: bool
    local_processes: int


@dataclass(frozen=True)
class Request:
    """Run that is requested by a call.

    Attributes:
        kind: "sweep" or "train".
        values: The given values by dotted keys of the configuration.
        objects: The objects that only this process has.
        teachers: The networks of the teachers.
        options: The options of the call.
    """

    kind: str
    values: dict[str, Any]
    objects: Objects
    teachers: tuple[GivenNetwork, ...]
    options: RunOptions


def distil(
    student: Any,
    teacher: Any,
    data: Any,
    method: str | Mapping[str, Any] = "kd",
    *,
    peers: Sequence[Any] = (),
    store: Path | str = "runs",
    name: str | None = None,
    resume: str | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: bool = True,
    **options: Any,
) -> Result:
    """Train one student in this process, as the command `train --local` does.

    Args:
        student: A function without parameters that returns a new module from inputs (B, C, H, W)
            to logits (B, K), the name of a network, or a mapping with either as `name` and settings
            (for a function these are `input_size`, `mean` and `std`).
        teacher: The result of `teacher`, a network for it, a list of these, or None. The logits of
            several teachers are averaged as `ensemble` says, such as settings={"ensemble.weights":
            "entropy"}.
        data: The result of `data`, or the name of a data set.
        method: Name of the method, or a mapping with its `name` and settings.
        peers: Further students, which learn together with `student`; forms as for `student`.
        store: Folder or URI of the store.
        name: Name of the run; None for the method and the time.
        resume: Name of an interrupted run to continue, with the same arguments.
        settings: Values of the configuration by dotted keys, such as {"data.label_noise": 0.1}.
        progress: Show the progress on standard error, or in the output of a notebook cell.
        options: Keys of `training` and `resources`, `seed` and `project`, such as epochs=30.

    Returns:
        The training with its metrics.

    Raises:
        UserError: The arguments cannot be used, or the training fails.
        KeyboardInterrupt: The training was interrupted; the message says how to resume it.

    Examples:
        >>> import orchestrator as od
        >>> from torch import nn
        >>> def student():
        ...     return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
        >>> teacher = od.teacher("mlp", width=64, epochs=2)
        >>> result = od.distil(student, teacher, "digits", "kd", epochs=2, progress=False)
        >>> result.state, len(result.history)
        ('complete', 2)
        >>> "test/best/accuracy" in result.metrics
        True
    """
    chosen = {"method": {"name": method} if isinstance(method, str) else dict(method)}
    values = read_options("distil", ("training", "resources"), options, settings)
    require_free(values, chosen)
    run_options = RunOptions(store, name, resume, progress, local_processes=1)
    request = _request("train", (student, *peers), teacher, data, values | chosen, {}, run_options)
    sweep, opened = _run(request)
    return Result(sweep.name, 0, opened, sweep, request.objects)


def sweep(
    student: Any,
    teacher: Any,
    data: Any,
    methods: str | Sequence[str] = "kd",
    *,
    peers: Sequence[Any] = (),
    space: Any = None,
    store: Path | str = "runs",
    name: str | None = None,
    resume: str | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: bool = True,
    local: bool = False,
    processes: int | None = None,
    **options: Any,
) -> Study:
    """Search for the best settings, as the command `sweep` does.

    Ray is started for the search and ended after it, also after an error; `local` does without it.

    Args:
        student: As for `distil`. Functions reach the workers as arguments of Ray.
        teacher: The result of `teacher`, a network for it, a list of these, or None. The logits of
            several teachers are averaged as `ensemble` says, such as settings={"ensemble.weights":
            "entropy"}.
        data: The result of `data`, or the name of a data set.
        methods: The searched methods.
        peers: Further students, which learn together with `student`.
        space: Function that draws from an Optuna trial, with `suggest_float`, `suggest_int` and
            `suggest_categorical`, or a mapping from methods to such functions. Names are settings
            of the method, such as temperature, and keys of the configuration. None for the space of
            each method.
        store: Folder or URI of the store.
        name: Name of the run; None for the method and the time.
        resume: Name of a sweep to continue, with the same arguments; `trials` may grow.
        settings: Values of the configuration by dotted keys.
        progress: Show the progress on standard error, or in the output of a notebook cell.
        local: Train without Ray, in this process or in `processes` others of this machine.
        processes: Number of processes of `local`; None for 1, which is this process.
        options: Keys of `search`, `training` and `resources`, `seed` and `project`, such as
            trials=40.

    Returns:
        The sweep with its trials.

    Raises:
        UserError: The arguments cannot be used, or no worker can train.
        KeyboardInterrupt: The sweep was interrupted; the message says how to resume it.

    Examples:
        >>> import orchestrator as od
        >>> def space(trial):
        ...     trial.suggest_float("temperature", 1.0, 6.0)
        ...     trial.suggest_float("training.learning_rate", 0.01, 0.2, log=True)
        >>> study = od.sweep(  # doctest: +SKIP
        ...     "mlp", "mlp", "digits", "kd", space=space, trials=8, epochs=4
        ... )
        >>> study.best.metrics["test/best/accuracy"], study.frame()  # doctest: +SKIP
    """
    names = (methods,) if isinstance(methods, str) else tuple(methods)
    sections = ("search", "training", "resources")
    values = read_options("sweep", sections, options, settings)
    chosen = {"search.methods": names}
    require_free(values, chosen)
    num_processes = count_local_processes(local, processes, "processes", "local=True")
    run_options = RunOptions(store, name, resume, progress, num_processes)
    spaces = read_spaces(space, names)
    students = (student, *peers)
    request = _request("sweep", students, teacher, data, values | chosen, spaces, run_options)
    record, opened = _run(request)
    return Study(record.name, opened, record, request.objects)


def _request(
    kind: str,
    students: Sequence[Any],
    teacher: Any,
    data: Any,
    values: Mapping[str, Any],
    spaces: Mapping[str, Space],
    options: RunOptions,
) -> Request:
    """Read the arguments of a call."""
    if options.name is not None and options.resume is not None:
        raise ConfigurationError(
            f"name = {options.name!r} and resume = {options.resume!r} exclude each other: leave "
            f"one of them out"
        ).with_details("name", options.name, "without resume")
    given_data, teachers = as_data(data), as_teachers(teacher)
    keys = ("student", *(f"peers.{letter}" for letter in LETTERS[1:]))
    if len(students) > len(keys):
        raise ConfigurationError(
            f"peers has {len(students) - 1} networks: give at most {len(keys) - 1}"
        ).with_details("peers", len(students) - 1, (0, len(keys) - 1))
    networks = {
        key: read_network(network, key, {}) for key, network in zip(keys, students, strict=False)
    }
    chosen: dict[str, Any] = {"data": given_data.section} | {
        f"{key}.network" if key != "student" else key: network.section
        for key, network in networks.items()
    }
    functions = [network.function for network in networks.values()]
    functions += [each.network.function for each in teachers]
    given = [{TEACHER_NETWORK: each.network.section} | each.options for each in teachers]
    if len(teachers) == 1:
        chosen |= given[0]
    else:
        chosen |= {"teacher": None}
        chosen |= {TEACHERS: [nest(each)["teacher"] for each in given]} if given else {}
    require_free(values, chosen)
    return Request(
        kind,
        sort_names_first(chosen | dict(values)),
        Objects(tuple(filter(None, functions)), given_data.entry, spaces),
        tuple(each.network for each in teachers),
        options,
    )


def _run(request: Request) -> tuple[Sweep, Store]:
    """Run or resume what is requested, and return its record and its store."""
    options = request.options
    console = make_console(options.progress)
    note, name = make_note_printer(console), options.resume
    local_processes, resume = options.local_processes, options.resume is not None
    with open_session(request.objects):
        try:
            if not local_processes:
                from orchestrator.cluster.connect import require_disconnected

                require_disconnected()
            store = Store.open(options.store)
            _require_new_name(store, options.name)
            configuration = _configuration(store, request, note)
            if options.resume is not None:
                trials, time_budget_s = _check_resume(store, request, configuration)
                sweep = Sweep.open(store, options.resume)
                prepared = prepare_resume(
                    store,
                    sweep,
                    note,
                    trials,
                    time_budget_s,
                    local_processes=local_processes,
                    subject=f"resume = {options.resume!r}",
                )
            else:
                configuration, folder = resolve_run(
                    store, configuration, request.kind, options.name, local_processes
                )
                sweep, prepared = create_run(
                    store, configuration, folder, request.kind, local_processes, note
                )
            name = sweep.name
            execute_run(store, sweep, prepared, console, local_processes, resume)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_describe_interruption(name)) from None
        except PreflightError as error:
            if name is None:
                raise
            again = f"{error}; then continue with resume={name!r}"
            raise PreflightError.from_error(error, again) from error
    if sweep.state == "interrupted":
        raise KeyboardInterrupt(_describe_interruption(name))
    return sweep, store


def _configuration(store: Store, request: Request, note: Callable[[str], None]) -> Configuration:
    """Return the configuration of a request, with the weights of given teachers in the store."""
    for number, teacher in enumerate(request.teachers):
        _complete_teacher(store, request, number, teacher, note)
    configuration = load(None, [], copy.deepcopy(request.values))
    if request.kind == "sweep":
        configuration = with_single_method(configuration)
        check_spaces(configuration, request.objects.spaces)
    return configuration


def _complete_teacher(
    store: Store, request: Request, number: int, teacher: GivenNetwork, note: Callable[[str], None]
) -> None:
    """Set the weights of a given module, and the input that it expects where none is given."""
    several, start = TEACHERS in request.values, f"{TEACHER_NETWORK}."
    values = dict(request.values)
    if several:  # the others may need weights too: this teacher is read alone
        own = values.pop(TEACHERS)[number]
        values |= {"teacher": {**own, "network": dict(own["network"])}}
        section = values["teacher"]["network"]
        given = set(section)
    else:
        section = values[TEACHER_NETWORK] = dict(values[TEACHER_NETWORK])
        given = {key.removeprefix(start) for key in values if key.startswith(start)} | set(section)
    if inputs := published_inputs(teacher, given):
        section |= inputs
        shown = ", ".join(f"{key} = {value}" for key, value in inputs.items())
        data = ", ".join(f"{key}=None" for key in inputs)
        note(
            f"{shown} of the teacher, from its pretrained_cfg; {data} takes the images of the data"
        )
    if teacher.trained is not None:
        others = ("ensemble", f"{TEACHERS}.")
        single = {key: each for key, each in values.items() if not key.startswith(others)}
        configuration = load(None, [], copy.deepcopy(single))
        section["weights"] = keep_weights(store, teacher, configuration, note)
    if several:
        request.values[TEACHERS][number]["network"] = section
    else:
        request.values[TEACHER_NETWORK] = section


def _check_resume(
    store: Store, request: Request, configuration: Configuration
) -> tuple[int | None, float | None]:
    """Check that the given values are those of the run; return its new trials and time limit."""
    name = str(request.options.resume)
    sweep = Sweep.open(store, name)
    if sweep.kind != request.kind:
        kinds = {"sweep": "sweep", "train": "training"}
        function = {"sweep": "sweep", "train": "distil"}[sweep.kind]
        raise ConfigurationError(
            f"resume = {name!r} is a {kinds[sweep.kind]}: continue it with {function}"
        ).with_details("resume", name, f"the name of a {kinds[request.kind]}")
    resolved = resolve_paths(configuration, bool(request.options.local_processes))
    require_same_values(sweep, nest(request.values), resolved, f"resume = {name!r}")
    search = configuration.search
    return (
        search.trials if "search.trials" in request.values else None,
        search.time_budget if "search.time_budget" in request.values else None,
    )


def _require_new_name(store: Store, name: str | None) -> None:
    if name is not None and name in store.sweeps():
        raise ConfigurationError(
            f"name = {name!r} exists already in this store: give another name, or continue it with "
            f"resume={name!r}"
        ).with_details("name", name, "a new name")


def _describe_interruption(name: str | None) -> str:
    if name is None:
        return "interrupted before the run started: there is nothing to resume, start it again"
    return f"interrupted: continue with the same arguments and resume={name!r}"
