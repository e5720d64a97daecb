"""Plan the sweeps of a comparison: the same search per method, then its best settings over seeds.

The search of a method is an ordinary sweep, and so is the training over seeds: a list of settings
times a list of seeds. The seeds differ from that of the search, which chose its best settings with
its own seed. A study is one search of each method and the training over seeds. Further studies
repeat both with other seeds.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from methods import METHODS
from orchestrator.config.distinct import limit_trials
from orchestrator.config.fields import LONGEST_LIST
from orchestrator.config.schema import Choice, Configuration
from orchestrator.config.search_space import keep_own_changes, qualify_name
from orchestrator.config.trial import METHOD
from orchestrator.core.errors import ConfigurationError, suggest_name
from orchestrator.core.program import program_name
from orchestrator.sweep.comparison._listed import complete_configurations
from orchestrator.sweep.comparison.record import DEFAULT_MARGIN, LARGEST_STUDIES

REFERENCES = ("cross_entropy", "kd")  # methods to which the others are compared
DEFAULT_SEEDS, DEFAULT_STUDIES = 10, 1
LARGEST_SEED = 2**31 - 1
ALL = "all"  # instead of methods: those that the configuration allows
LARGEST_MARGIN = 50.0  # points of accuracy


class Design(NamedTuple):
    """Requested design of a comparison.

    Attributes:
        methods: The compared methods.
        seeds: Trainings of each method after its search.
        studies: Repetitions of the searches and the trainings.
        margin: Largest difference in points of accuracy that counts as equivalent.
    """

    methods: tuple[str, ...]
    seeds: int = DEFAULT_SEEDS
    studies: int = DEFAULT_STUDIES
    margin: float = DEFAULT_MARGIN


def parse_methods(text: str) -> tuple[str, ...]:
    """Return the methods of `--methods`: two or more, each once, or `ALL` alone.

    Raises:
        ConfigurationError: A method is unknown or repeated, or there are fewer than two.
    """
    if text.strip() == ALL:
        return (ALL,)
    methods = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in methods:
        if name not in METHODS:
            raise ConfigurationError(
                f"--methods: {name!r} is not a method: {suggest_name(name, METHODS)}; see "
                f"`{program_name()} methods`"
            ).with_details("--methods", name, tuple(METHODS))
    if repeated := [name for i, name in enumerate(methods) if name in methods[:i]]:
        raise ConfigurationError(
            f"--methods contains {repeated[0]!r} twice: give each method once"
        ).with_details("--methods", repeated[0], "each method once")
    if len(methods) < 2:
        given = f"contains only {methods[0]!r}" if methods else "is empty"
        raise ConfigurationError(
            f"--methods {given}: give two or more, such as cross_entropy,kd,wttm"
        ).with_details("--methods", methods, "two or more methods")
    return methods


def read_design(
    methods: str | None,
    seeds: int | None = None,
    studies: int | None = None,
    margin: float | None = None,
) -> Design:
    """Return the design that the options of a command give; None stands for a default.

    Raises:
        ConfigurationError: The methods are missing or not allowed, or the margin is not.
    """
    if methods is None:
        raise ConfigurationError(
            "--methods is missing: give two or more, such as --methods cross_entropy,kd,wttm, or "
            "--resume NAME"
        ).with_details("--methods", None, "two or more methods")
    request = Design(
        parse_methods(methods),
        DEFAULT_SEEDS if seeds is None else seeds,
        DEFAULT_STUDIES if studies is None else studies,
        DEFAULT_MARGIN if margin is None else margin,
    )
    require_margin(request.margin)
    return request


def require_margin(margin: float) -> None:
    """Raise ConfigurationError if a margin of equivalence, in points, is not allowed."""
    if not 0 < margin <= LARGEST_MARGIN:
        raise ConfigurationError(
            f"--margin {margin:g} is not allowed: give points of accuracy above 0 and at most "
            f"{LARGEST_MARGIN:g}, such as 0.3"
        ).with_details("--margin", margin, (0, LARGEST_MARGIN))


def require_searched_trials(configuration: Configuration, trials: int | None) -> None:
    """Raise ConfigurationError if trials are given and the configuration searches nothing."""
    if trials is not None and configuration.search.configurations:
        raise ConfigurationError(
            f"--trials {trials} has no effect with search.configurations, which lists the "
            f"settings of each method: leave out --trials, or add --set "
            f"search.configurations=[] to search"
        ).with_details("--trials", trials, "left out")


def base(
    configuration: Configuration, methods: Sequence[str], seeds: int, studies: int = 1
) -> Configuration:
    """Return the common configuration of the sweeps, with all methods, for the checks.

    Settings under `method` stay, and are frozen, if that method is compared. With
    `search.configurations` nothing is searched, and every compared method has one entry.

    Raises:
        ConfigurationError: The configuration does not allow a comparison.
    """
    search = configuration.search
    _require_seeds(configuration.seed, seeds, studies)
    if search.configurations:
        if studies > 1:
            raise ConfigurationError(
                f"--studies {studies} repeats the search, but search.configurations lists the "
                f"settings: leave out --studies and give more --seeds, or leave out "
                f"search.configurations"
            ).with_details("--studies", studies, (1, 1))
        configuration = complete_configurations(configuration, methods)
        search = configuration.search
    if search.scheduler == "pbt":
        raise ConfigurationError(
            "search.scheduler = 'pbt' changes settings during a trial, so that they cannot be "
            "trained again over seeds: set search.scheduler to asha, median, hyperband or none"
        ).with_details("search.scheduler", "pbt", ("asha", "median", "hyperband", "none"))
    method = (
        configuration.method if configuration.method.name in methods else Choice(name=methods[0])
    )
    common = configuration.model_copy(
        update={
            "method": method,
            "search": search.model_copy(update={"methods": tuple(methods), "seeds": ()}),
        }
    )
    return common.with_yielded(
        {key: sentence for key, sentence in common.yielded.items() if key != "search.methods"}
    )


def _require_seeds(seed: int, seeds: int, studies: int) -> None:
    """Raise ConfigurationError if a number is not allowed, or if the seeds exceed the largest."""
    for option, count, largest, usual in (
        ("--seeds", seeds, LONGEST_LIST, "preferably 10"),
        ("--studies", studies, LARGEST_STUDIES, "such as 3"),
    ):
        if not 1 <= count <= largest:
            raise ConfigurationError(
                f"{option} {count} is not allowed: give 1 to {largest}, {usual}"
            ).with_details(option, count, (1, largest))
    further = studies * (seeds + 1) - 1
    if seed + further > LARGEST_SEED:
        raise ConfigurationError(
            f"seed = {seed} leaves no room for {further} further seeds: give at most "
            f"{LARGEST_SEED - further}"
        ).with_details("seed", seed, (0, LARGEST_SEED - further))


def search_of(common: Configuration, method: str) -> Configuration:
    """Return the search of one method, with at most as many trials as it has different settings."""
    return _search(common, method)[0]


def note_of(common: Configuration, method: str) -> str:
    """Return why the search of a method has fewer trials than requested; empty otherwise."""
    return _search(common, method)[1]


def _search(common: Configuration, method: str) -> tuple[Configuration, str]:
    choice = common.method if common.method.name == method else Choice(name=method)
    own = {"methods": (), **keep_own_changes(common, method)}
    return limit_trials(
        common.model_copy(update={"method": choice, "search": common.search.model_copy(update=own)})
    )


def seeds_of(common: Configuration, seeds: int) -> tuple[int, ...]:
    """Return the given number of seeds that follow the seed of the search."""
    return tuple(range(common.seed + 1, common.seed + 1 + seeds))


def plan_runs_over_seeds(
    common: Configuration, settings: Mapping[str, Mapping[str, Any]], seeds: int
) -> Configuration:
    """Return the training of each method's settings with every seed, ordered by seed.

    Args:
        common: The common configuration.
        settings: Settings by method, as their searches drew them.
        seeds: Number of seeds.
    """
    fixed = [
        {METHOD: name, **{qualify_name(key, name): value for key, value in values.items()}}
        for name, values in settings.items()
    ]
    method = common.method if common.method.name in settings else Choice(name=next(iter(settings)))
    search = common.search.model_copy(
        update={
            "methods": tuple(settings),
            "space": {},
            "points": (),
            "configurations": tuple(fixed),
            "seeds": seeds_of(common, seeds),
            "trials": len(fixed) * seeds,
            "time_budget": None,
            "scheduler": "none",
            "sampler": "random",
            "max_failed_trials": None,
        }
    )
    return common.model_copy(update={"method": method, "search": search})
