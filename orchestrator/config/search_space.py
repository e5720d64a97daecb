"""Define the search space of a sweep: the spaces of its methods, less the frozen values.

With one method, a parameter has the name that the method's space gives it. With several methods,
`method.name` comes first and each method's settings are prefixed with its name (`kd.temperature`).
Every space also has the keys that all methods share: the learning rate of each peer, and the keys
of `search.extra_space`. `search.space` changes the spaces of the methods. With
`search.configurations` there is no space but a list.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from orchestrator.config._point_values import OutsideSpaceError, PointValues
from orchestrator.config.changed_space import (
    ChangedTrial,
    changed_suggest,
    fixed_names,
    list_changes,
    name_in_space,
)
from orchestrator.config.conditional_space import SpaceBranch, list_branches
from orchestrator.config.declarations import setting_fields
from orchestrator.config.extra_space import get_configured_value
from orchestrator.config.schema import Choice, Configuration
from orchestrator.config.trial import METHOD, SEED, Parameters
from orchestrator.core.errors import ConfigurationError, suggest_name
from search_spaces import SPACES, Trial
from search_spaces.space import LEARNING_RATE, LEARNING_RATES


class Numbered(Trial, Protocol):
    """Trial of a study, which has a number."""

    @property
    def number(self) -> int:
        """Return the number of the trial, from 0 on."""


class SuggestionRecorder:
    """Trial that returns frozen values, forwards other suggestions, and records the draws.

    A single choice is not suggested to the study, unless `point` has another value under the name
    in the study. The suggestion then offers the choice and the values of all points.

    Args:
        trial: The trial that draws.
        frozen: The frozen values.
        prefix: The prefix of parameter names in the study.
        point: The values of an initial point, by names in the study; empty for none.
        point_values: The values of all points, by names in the space.
        recorded: The names of parameters that are suggested even if they have a single choice.
    """

    def __init__(
        self,
        trial: Trial,
        frozen: Parameters,
        prefix: str,
        point: Parameters,
        point_values: Mapping[str, Sequence[Any]],
        recorded: frozenset[str] = frozenset(),
    ) -> None:
        self.trial, self.frozen, self.prefix = trial, frozen, prefix
        self.point, self.point_values, self.recorded = point, point_values, recorded
        self.drawn: Parameters = {}
        self.values: Parameters = {}  # by names in the space, including single choices
        self.suggested_frozen: set[str] = set()  # frozen parameters that were suggested
        self.is_outside_space = False  # whether the point lies outside the space

    def suggest_float(
        self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None
    ) -> float:
        """Return a number in [low, high], or the frozen value."""
        return float(self._suggest_value("suggest_float", name, low, high, log=log, step=step))

    def suggest_int(
        self, name: str, low: int, high: int, *, log: bool = False, step: int = 1
    ) -> int:
        """Return an integer in [low, high], or the frozen value."""
        return int(self._suggest_value("suggest_int", name, low, high, log=log, step=step))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Return one of the choices, or the frozen value."""
        if len(choices) == 1 and name not in self.frozen and name not in self.recorded:
            self.values[name] = choices[0]
            if self.point.get(qualify_name(name, self.prefix), choices[0]) == choices[0]:
                return choices[0]
            self.is_outside_space = True
            choices = tuple(dict.fromkeys([*choices, *self.point_values[name]]))
        return self._suggest_value("suggest_categorical", name, choices)

    def _suggest_value(self, kind: str, name: str, *bounds: Any, **options: Any) -> Any:
        if name in self.frozen:
            self.suggested_frozen.add(name)
            return self.frozen[name]
        full = qualify_name(name, self.prefix)
        self.drawn[full] = getattr(self.trial, kind)(full, *bounds, **options)
        self.values[name] = self.drawn[full]
        return self.drawn[full]


def qualify_name(name: str, prefix: str) -> str:
    """Return the name of a parameter in the study.

    Keys of the configuration, which contain a dot, are common to all methods and have no prefix.
    """
    return f"{prefix}.{name}" if prefix and "." not in name else name


def searched_methods(configuration: Configuration) -> tuple[str, ...]:
    """Return the names of the sweep's methods."""
    return configuration.search.methods or (configuration.method.name,)


def list_methods(configuration: Configuration, kind: str) -> tuple[str, ...]:
    """Return the names of the methods of a run; `kind` is sweep or train."""
    return searched_methods(configuration) if kind == "sweep" else (configuration.method.name,)


def with_single_method(configuration: Configuration) -> Configuration:
    """Return the configuration of a sweep with the method that `search.methods` names alone.

    The configuration stays unchanged if it has several methods, or settings of another method.
    """
    methods, chosen = configuration.search.methods, configuration.method
    # The check refuses settings of another method.
    if len(methods) != 1 or methods[0] == chosen.name or chosen.settings:
        return configuration
    return configuration.model_copy(update={"method": Choice(name=methods[0])})


def frozen_values(configuration: Configuration, method: str) -> Parameters:
    """Return the values that are not searched for a method.

    These are the settings given under `method`, and the values of the keys in `search.freeze`.
    """
    settings = configuration.method.settings if configuration.method.name == method else {}
    return settings | {key: key_value(configuration, key) for key in configuration.search.freeze}


def key_value(configuration: Configuration, key: str) -> Any:
    """Return the value of a dotted key.

    Raises:
        KeyError: The key does not exist.
        TypeError: A part of the key has no keys below it.
    """
    value: Any = configuration.plain()
    for part in key.split("."):
        value = value[part]
    return value


def draw(trial: Trial, configuration: Configuration) -> Parameters:
    """Draw the parameters of a new trial.

    If the trial's number is that of an initial point, the parameters are those of the point, as
    `open_study` enqueues them.
    """
    methods, first = searched_methods(configuration), list_initial_points(configuration)
    number = getattr(trial, "number", len(first))
    point = first[number] if number < len(first) else {}
    if len(methods) == 1:
        chosen = {}
    else:
        chosen = {"method.name": trial.suggest_categorical("method.name", methods)}
    name = chosen.get("method.name", methods[0])
    recorder = _recorder(trial, configuration, name, point)
    _suggest(recorder, name, configuration)
    return chosen | recorder.drawn


def _recorder(
    trial: Trial, configuration: Configuration, method: str, point: Parameters
) -> SuggestionRecorder:
    """Return a recorder for a method; it follows a point even outside the space."""
    point_values: dict[str, list[Any]] = {}
    numbers = range(len(configuration.search.points))
    points = [_split_point(configuration, number) for number in numbers]
    for each in (*SPACES[method].points, *(values for name, values in points if name == method)):
        for name, value in each.items():
            point_values.setdefault(name, []).append(value)
    return SuggestionRecorder(
        trial,
        frozen_values(configuration, method),
        _prefix(configuration, method),
        point,
        point_values,
        fixed_names(list_changes(configuration, method)),
    )


def _prefix(configuration: Configuration, method: str) -> str:
    """Return the prefix of a method's settings in the study."""
    return method if len(searched_methods(configuration)) > 1 else ""


def suggest_configuration(trial: Numbered, configuration: Configuration) -> Parameters:
    """Return the parameters of a new trial of `search.configurations`.

    In the study each parameter is a categorical choice of the values in the list.
    """
    points = list_initial_points(configuration)
    values = {
        name: list(dict.fromkeys(point[name] for point in points if name in point))
        for name in points[trial.number]
    }
    return {name: trial.suggest_categorical(name, choices) for name, choices in values.items()}


def peer_rates(configuration: Configuration) -> list[str]:
    """Return the keys of the peers' learning rates that are searched.

    A frozen rate without a value is that of student a.
    """
    return [
        key for key in map(peer_rate, configuration.peers) if key not in configuration.search.freeze
    ]


def peer_rate(letter: str) -> str:
    """Return the key of a peer's learning rate."""
    return f"peers.{letter}.training.learning_rate"


def list_rate_branches(configuration: Configuration) -> dict[str, SpaceBranch]:
    """Return, by its key, the branch of each searched learning rate of a peer."""
    branches = {}
    for key in peer_rates(configuration):
        branches[key] = SpaceBranch({}, recorded=fixed_names(configuration.search.space))
        _suggest_rate(branches[key], key, configuration)
    return branches


def _suggest_rate(trial: Trial, key: str, configuration: Configuration) -> None:
    ChangedTrial(trial, configuration.search.space).suggest_float(key, *LEARNING_RATES, log=True)


def list_space_branches(configuration: Configuration, method: str) -> list[SpaceBranch]:
    """Return all branches of a method's space, with frozen values and the changes of a sweep."""
    frozen, changes = frozen_values(configuration, method), list_changes(configuration, method)
    return list_branches(
        method, frozen, changed_suggest(configuration, method, frozen), fixed_names(changes)
    )


def _suggest(trial: Trial, method: str, configuration: Configuration) -> None:
    """Suggest all parameters of a trial: those of the method's space, then the common ones."""
    changed_suggest(configuration, method, frozen_values(configuration, method))(trial)
    for key in peer_rates(configuration):
        _suggest_rate(trial, key, configuration)
    for key, values in configuration.search.extra_space.items():
        trial.suggest_categorical(key, values)


def list_initial_points(configuration: Configuration) -> list[Parameters]:
    """Return the initial points: those of `search.points`, then those of the methods.

    The first point of every method precedes the second ones, and so on. A point contains the
    parameters that the search would suggest for it; no point is repeated. A method's point is left
    out if it contradicts a frozen choice or `search.space`. A point outside the space is left out
    if it would ignore a frozen value. With `search.configurations` the points are all trials: with
    the first of the seeds, then with the next one.

    Raises:
        ConfigurationError: A point of `search.points` does not fit the search.
    """
    search = configuration.search
    if search.configurations:
        return [{**one, SEED: seed} for seed in search.seeds for one in search.configurations] or [
            dict(one) for one in search.configurations
        ]
    methods = searched_methods(configuration)
    first: list[Parameters] = []
    for number in range(len(search.points)):
        point = complete_point(configuration, number)
        if point not in first:
            first.append(point)
    for method, point in _in_turn({method: SPACES[method].points for method in methods}):
        drawn = _drawn(point, method, configuration)
        if drawn is None:
            continue
        chosen = ({"method.name": method} if _prefix(configuration, method) else {}) | drawn
        if chosen and chosen not in first:
            first.append(chosen)
    return first


def count_excluded_points(configuration: Configuration) -> dict[str, int]:
    """Return the number of each method's points that `search.space` excludes, if there are any."""
    search = configuration.search.model_copy(update={"space": {}})
    unchanged = configuration.model_copy(update={"search": search})
    excluded = {
        method: sum(
            _drawn(point, method, configuration) is None
            and _drawn(point, method, unchanged) is not None
            for point in SPACES[method].points
        )
        for method in searched_methods(configuration)
    }
    return {method: count for method, count in excluded.items() if count}


def _drawn(point: Parameters, method: str, configuration: Configuration) -> Parameters | None:
    """Return the parameters that a trial with the values of the point draws.

    Return None if the point contradicts a frozen value or a change of the space, lacks a value, or
    lies outside the space and would ignore a frozen value.
    """
    kept, changes = frozen_values(configuration, method), list_changes(configuration, method)
    if any(
        isinstance(value, str | bool) and kept.get(name, value) != value
        for name, value in point.items()
    ) or any(name in point and not change.allows(point[name]) for name, change in changes.items()):
        return None
    prefix, unnamed = _prefix(configuration, method), _unnamed(point, configuration)
    answers = {qualify_name(name, prefix): value for name, value in point.items()}

    def default(name: str) -> Any:
        if name in unnamed:
            return unnamed[name]
        setting = name.removeprefix(f"{method}.")
        if setting not in changes:
            raise KeyError(name)
        return _default_value(configuration, method, setting, point)

    trial = PointValues(answers, default, strict=False)
    recorder = _recorder(trial, configuration, method, answers)
    try:
        _suggest(recorder, method, configuration)
    except KeyError:
        return None
    ignored = kept.keys() - recorder.suggested_frozen - set(configuration.search.freeze)
    return None if recorder.is_outside_space and ignored else recorder.drawn


def _unnamed(point: Parameters, configuration: Configuration) -> Parameters:
    """Return the values of parameters that a point, which describes one student, does not have.

    Peers have its learning rate; keys of `search.extra_space` have the configured value.
    """
    rate = point.get("training.learning_rate", LEARNING_RATE)
    answers: Parameters = dict.fromkeys(peer_rates(configuration), rate)
    for key, values in configuration.search.extra_space.items():
        own = get_configured_value(configuration, key)
        answers[key] = own if own in values else values[0]
    return answers


def _default_value(configuration: Configuration, method: str, name: str, point: Parameters) -> Any:
    """Return the value of a parameter, by its name in the space, that a point leaves out.

    This is the default of a setting of the method, the point's learning rate for a peer, and the
    configured value of any other key.
    """
    if "." not in name:
        return (setting_fields(method) or {})[name].default
    if name in map(peer_rate, configuration.peers):
        name = "training.learning_rate"
    return point[name] if name in point else get_configured_value(configuration, name)


def _split_point(configuration: Configuration, number: int) -> tuple[str, Parameters]:
    """Return the method of a point of `search.points`, and its values by names in the space.

    Raises:
        ConfigurationError: The method is not given or not searched, or a key is given twice or
            belongs to another method.
    """
    point, methods = configuration.search.points[number], searched_methods(configuration)
    field = f"search.points[{number}]"
    named = [key.partition(".")[0] for key in point if key.partition(".")[0] in methods]
    method = point.get(METHOD, (named or methods)[0])
    if METHOD not in point and not named and len(methods) > 1:
        raise ConfigurationError(
            f"{field} does not name its method: add method.name, one of {', '.join(methods)}"
        ).with_details(f"{field}.method.name", None, methods)
    if method not in methods:
        raise ConfigurationError(
            f"{field} has method.name = {method!r}, which is not searched: "
            f"{suggest_name(str(method), methods)}"
        ).with_details(f"{field}.method.name", method, methods)
    values: Parameters = {}
    for key, value in point.items():
        if key == METHOD:
            continue
        name = name_in_space(key, method)
        if name is None or name in values:
            problem = "is given twice" if name else f"is not a parameter of method {method}"
            raise ConfigurationError(f"{field}: {key} {problem}: remove it").with_details(
                f"{field}.{key}", value, "left out"
            )
        values[name] = value
    return method, values


def keep_own_changes(configuration: Configuration, method: str) -> dict[str, Any]:
    """Return `search.space` and `search.points` as a search of one of the methods has them."""
    search = configuration.search
    own = {
        key: change
        for key, change in search.space.items()
        if name_in_space(key, method) in list_changes(configuration, method)
    }
    points = (_split_point(configuration, number) for number in range(len(search.points)))
    return {"space": own, "points": tuple(values for name, values in points if name == method)}


def complete_point(configuration: Configuration, number: int) -> Parameters:
    """Return all parameters of a trial with the values of a point of `search.points`.

    Args:
        configuration: The configuration of the sweep.
        number: The position of the point in the list.

    Raises:
        ConfigurationError: A value is frozen, not searched, or outside the search space.
    """
    field = f"search.points[{number}]"
    method, values = _split_point(configuration, number)
    frozen, prefix = frozen_values(configuration, method), _prefix(configuration, method)
    if fixed := next((name for name in values if name in frozen), None):
        raise ConfigurationError(
            f"{field}: {fixed} = {values[fixed]!r} is not searched, because it is given under "
            f"method or in search.freeze: remove it from one of them"
        ).with_details(f"{field}.{fixed}", values[fixed], (frozen[fixed],))
    answers = {qualify_name(name, prefix): value for name, value in values.items()}
    unnamed = _unnamed(values, configuration)

    def default(name: str) -> Any:
        if name in unnamed:
            return unnamed[name]
        return _default_value(configuration, method, name.removeprefix(f"{method}."), values)

    recorder = _recorder(PointValues(answers, default, True), configuration, method, answers)
    try:
        _suggest(recorder, method, configuration)
    except OutsideSpaceError as error:
        value = answers[error.name]
        raise ConfigurationError(
            f"{field}: {error.name} = {value!r} is outside the search space: give "
            f"{error.requirement}, or change its range in search.space"
        ).with_details(f"{field}.{error.name}", value, error.allowed) from error
    ignored = frozen.keys() - recorder.suggested_frozen - set(configuration.search.freeze)
    if recorder.is_outside_space and ignored:
        name = min(ignored)
        raise ConfigurationError(
            f"{field} would ignore method.{name} = {frozen[name]!r}: leave one of them out"
        ).with_details(field, values, f"without method.{name}")
    if unused := [name for name in values if name not in recorder.values]:
        raise ConfigurationError(
            f"{field}: {unused[0]} is not searched together with the other values of the point: "
            f"{suggest_name(unused[0], recorder.values)}"
        ).with_details(f"{field}.{unused[0]}", values[unused[0]], tuple(sorted(recorder.values)))
    return ({METHOD: method} if prefix else {}) | recorder.drawn


def _in_turn(points_of: dict[str, tuple[Parameters, ...]]) -> Iterator[tuple[str, Parameters]]:
    for number in range(max(len(points) for points in points_of.values())):
        for method, points in points_of.items():
            if number < len(points):
                yield method, points[number]
