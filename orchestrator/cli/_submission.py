"""Check a command line on this machine, and rewrite it as a job for a cluster.

Every path of the command line is a packed file or a location that all nodes of the cluster share.
"""

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator.cli._options import parse_duration
from orchestrator.config.loader import find_extended, load
from orchestrator.config.renamed import refuse_renamed
from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import with_single_method
from orchestrator.core.errors import ConfigurationError, suggest_name
from orchestrator.core.program import program_name
from orchestrator.core.redact import redact
from orchestrator.data.datasets import find
from orchestrator.extensions.loading import load_code
from orchestrator.store.remote import check_uri, is_uri
from orchestrator.store.store import NAME
from orchestrator.sweep.comparison.design import (
    ALL,
    Design,
    base,
    read_design,
    require_searched_trials,
)
from orchestrator.sweep.comparison.formats import require_format
from orchestrator.sweep.comparison.lifecycle import default_comparison_name
from orchestrator.sweep.preflight.configuration import check_search, check_train, require_copies
from orchestrator.sweep.runs import default_name

COMMANDS = ("sweep", "compare", "train", "teacher")
LOCAL_OPTIONS = {  # options that concern this machine
    "local": "--local trains on this machine: leave it out, or run the command here",
    "processes": "--processes belongs to --local, which trains on this machine: leave it out",
    "address": "--address belongs to `submit`: give it before the --",
}
# parameters that --resume accepts, by the command
ANY_RESUME = ("resume", "store", "set_", "debug", "code", "plugin")
RESUME_OPTIONS = {
    "sweep": {*ANY_RESUME, "config", "trials", "time_budget"},
    "compare": {*ANY_RESUME, "format_", "json"},
}
DEFAULT = "configs/digits.yaml"
EXTERNAL_FOLDER = "submitted"  # folder in the package for files from outside the project


@dataclass(frozen=True)
class Submission:
    """A job for a cluster.

    Attributes:
        name: Name of the job.
        entrypoint: Command line for the cluster's shell.
        extra_files: Files packed in addition to the project, by their names in the package.
        labels: Metadata that the cluster stores with the job.
    """

    name: str
    entrypoint: str
    extra_files: dict[str, Path]
    labels: dict[str, str]


def create_submission(
    group: Any, words: Sequence[str], name: str | None, root: Path, now: datetime | None = None
) -> Submission:
    """Return the job of a command line such as `sweep --config ... --store ...`.

    Args:
        group: The whole command line interface.
        words: The command line, from the command's name on.
        name: Name of the job; None for the name of the run or the command, and the time.
        root: Folder of the project.
        now: Time for the name; None for the current time.

    Raises:
        ConfigurationError: The command line would fail on the cluster too, or its results would be
            lost with the job's folder.
    """
    command, given, options = _parse_command_line(group, words)
    for option, sentence in LOCAL_OPTIONS.items():
        if given.get(option):
            raise ConfigurationError(sentence).with_details(
                f"--{option}", given[option], "left out"
            )
    if given.get("format_"):
        require_format(given["format_"])
    store = _check_store_location(str(options["store"]) if "store" in given else None)
    run = options.get("resume")
    files = options.get("code") or ()
    load_code(files, options.get("plugin") or ())
    # a link keeps its name, which is that of its module
    code = {f"{EXTERNAL_FOLDER}/{file.name}": file.resolve() for file in files}
    extra_files = dict(code)
    if code:
        given["code"] = list(code)
    excluded = set(given) - RESUME_OPTIONS.get(command, set())
    if run is not None and excluded:
        flags = ", ".join(f"--{other.strip('_').replace('_', '-')}" for other in sorted(excluded))
        raise ConfigurationError(
            f"--resume continues the run with its own configuration: leave out {flags}"
        ).with_details("--resume", run, f"without {flags}")
    if run is not None:
        _require_path_settings(options.get("set_") or ())
    if run is None or "config" in given:
        config = Path(options["config"] or root / DEFAULT)
        configuration = _load_and_check(command, options, config)
        require_copies(store if is_uri(store) else "", configuration, command)
        packed = _packed_name(config, root)
        extra_files |= {packed: config.resolve()} | _pack_extended(config, packed)
        given = {key: packed if key == "config" else value for key, value in given.items()}
        if run is None and command != "teacher":
            run = given["name"] = options["name"] or _default_name(configuration, command)
    _require_name(run, "--resume" if options.get("resume") else "--name")
    entrypoint = shlex.join(
        ["python", "run.py", command, *_format_options(group.commands[command], given)]
    )
    if redact(entrypoint) != entrypoint:
        raise ConfigurationError(
            "the command line contains a secret, which every user of the cluster can read: "
            "set it in the environment of the cluster's nodes instead"
        ).with_details("command line", command, "a command without a secret")
    job = name or f"{run or command}-{now or datetime.now():%Y%m%d-%H%M%S}"
    if not name and run and not options.get("resume") and options["name"] is None:
        job = run  # the default name of a run contains the time already
    _require_name(job, "--name")
    return Submission(
        job,
        entrypoint,
        extra_files,
        {"command": command, "store": store} | ({"run": run} if run else {}),
    )


def _parse_command_line(
    group: Any, words: Sequence[str]
) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return the command, the given options and all options, by parameter names."""
    command = words[0] if words else ""
    if command not in COMMANDS:
        raise ConfigurationError(
            f"{command!r} cannot run as a job: {suggest_name(command, COMMANDS)}; write "
            f"`{program_name()} submit -- sweep ...`"
        ).with_details("command", command, tuple(COMMANDS))
    try:
        context = group.commands[command].make_context(
            command, list(words[1:]), help_option_names=[]
        )
    except Exception as error:
        # an error of the command line library, whose module name varies
        if not hasattr(error, "format_message"):
            raise
        parameter = getattr(error, "param", None)
        raise ConfigurationError(
            f"{error.format_message().rstrip('.')}: `{program_name()} {command} --help` lists "
            f"the options"
        ).with_details(
            getattr(error, "option_name", None) or (parameter.opts[0] if parameter else command),
            error.format_message(),
        ) from error
    given = {
        key: value
        for key, value in context.params.items()
        if context.get_parameter_source(key).name == "COMMANDLINE"
    }
    for key, value in given.items():
        refuse_renamed(f"--{key}", value)
    return command, given, dict(context.params)


def _format_options(command: Any, given: dict[str, Any]) -> Iterator[str]:
    """Yield the words of the given options as a command line holds them."""
    for parameter in command.params:
        if parameter.name not in given:
            continue
        flag, value = parameter.opts[0], given[parameter.name]
        if value is True:
            yield flag
        elif isinstance(value, list | tuple):
            yield from (word for each in value for word in (flag, str(each)))
        else:
            yield from (flag, str(value))


def _default_name(configuration: Configuration, command: str) -> str:
    return (
        default_comparison_name() if command == "compare" else default_name(configuration, command)
    )


def _load_and_check(command: str, options: dict[str, Any], config: Path) -> Configuration:
    """Load the configuration and run every check that needs neither data nor cluster."""
    budget = options.get("time_budget")
    overrides = {key: options.get(key) for key in ("trials", "scheduler")} | {
        "time_budget": parse_duration(budget) if budget else None
    }
    changes: dict[str, Any] = {
        f"search.{key}": value for key, value in overrides.items() if value is not None
    }
    request = (
        read_design(*(options[key] for key in Design._fields)) if command == "compare" else None
    )
    if request and request.methods != (ALL,):
        changes["search.methods"] = list(request.methods)
    configuration = load(config, list(options["set_"] or ()), changes, seed=options.get("seed"))
    find(configuration.data)
    if request:
        require_searched_trials(configuration, options["trials"])
    if request and request.methods == (ALL,):
        # the methods are selected on the cluster, which may have the data
        base(configuration, (configuration.method.name,), request.seeds, request.studies)
    elif request:
        configuration = base(configuration, request.methods, request.seeds, request.studies)
        check_search(configuration)
    elif command == "sweep":
        configuration = with_single_method(configuration)
        check_search(configuration)
    elif command == "train":
        check_train(configuration)
    elif not configuration.named_teachers:
        raise ConfigurationError(
            "teacher is null: set teacher.network.name, or choose another --config"
        ).with_details("teacher", None, "teacher.network.name")
    if configuration.resources.address not in (None, "auto"):
        raise ConfigurationError(
            f"resources.address = {configuration.resources.address!r}: a job runs on the cluster "
            f"that it is submitted to; leave this setting out"
        ).with_details("resources.address", configuration.resources.address, (None, "auto"))
    for key, path in _paths(configuration):
        _require_location_independent(key, path)
    return configuration


def _require_path_settings(pairs: Sequence[str]) -> None:
    """Check the `--set` pairs of a resume, which accepts only paths that may have moved.

    Raises:
        ConfigurationError: A pair sets another key.
    """
    for key, _, path in (pair.partition("=") for pair in pairs):
        if key != "data.path" and not key.endswith((".cache", ".weights")):
            raise ConfigurationError(
                f"--set {key}: --resume continues the sweep with its own configuration; it accepts "
                "only data.path, teacher.cache and *.weights, for files that have moved"
            ).with_details("--set", key, ("data.path", "teacher.cache", "*.weights"))
        if path:
            _require_location_independent(key, path)


def _require_location_independent(key: str, path: str) -> None:
    if not _is_location_independent(path):
        raise ConfigurationError(
            f"{key} = {path!r} is relative to the job's own folder, which contains no data: "
            "give an absolute path that all nodes share"
        ).with_details(key, path, "an absolute path that all nodes share")


def _paths(configuration: Configuration) -> Iterator[tuple[str, str]]:
    """Yield the keys that hold a path, each with its path."""
    paths: dict[str, Any] = {"data.path": configuration.data.path}
    for key, teacher in configuration.named_teachers.items():
        paths[f"{key}.cache"] = teacher.cache
        paths[f"{key}.network.weights"] = teacher.network.weights
    paths |= {
        ("student" if letter == "a" else f"peers.{letter}.network")
        + ".weights": student.network.weights
        for letter, student in configuration.students.items()
    }
    for key, value in paths.items():
        # otherwise the name of published weights
        if value is not None and not (
            key.endswith(".weights") and not str(value).endswith(".safetensors")
        ):
            yield key, str(value)


def _is_location_independent(location: str) -> bool:
    """Return whether a path or URI is independent of the current folder and node."""
    return PurePosixPath(location).is_absolute() or "://" in location


def _check_store_location(store: str | None) -> str:
    if store is None or not _is_location_independent(store):
        problem = "--store is missing" if store is None else f"--store {store!r} is relative"
        raise ConfigurationError(
            f"{problem}: the store would be in the job's own folder, which the cluster deletes; "
            "give an absolute path that all nodes share, or a URI"
        ).with_details("--store", store, "an absolute path that all nodes share, or a URI")
    return check_uri(store) if is_uri(store) else store


def _packed_name(config: Path, root: Path) -> str:
    """Return the name of a configuration in the package.

    A file of the project keeps its path; any other file is placed below `submitted`.
    """
    file = config.resolve()
    inside = file.is_relative_to(root.resolve())
    return (
        file.relative_to(root.resolve()).as_posix() if inside else f"{EXTERNAL_FOLDER}/{file.name}"
    )


def _pack_extended(config: Path, packed: str) -> dict[str, Path]:
    """Return the files that a configuration extends, by their names in the package.

    Examples, which the package contains, are left out.
    """
    folder = config.resolve().parent
    return {
        (Path(packed).parent / extended.relative_to(folder)).as_posix(): extended
        for extended in find_extended(config)
        if extended.is_relative_to(folder)
    }


def _require_name(name: str | None, option: str) -> None:
    if name is not None and not NAME.fullmatch(name):
        raise ConfigurationError(
            f"{option} {name!r} is not allowed: give letters, digits, '.', '_' or '-' (at most "
            f"100, the first a letter or digit)"
        ).with_details(option, name, "letters, digits, '.', '_' or '-'")
