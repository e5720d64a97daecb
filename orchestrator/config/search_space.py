"""Define the search space of a sweep: the spaces of its methods, less the frozen values.

With one method, a parameter has the name that the method's space gives it. With several methods,
`method.name` comes first and each method's settings are prefixed with its name (`kd.temperature`).
Every space also has the keys that all methods share: the learning rate of each peer, and the keys
of `search.extra_space`. With `search.configurations` there is no space but a list.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from orchestrator.config.extra_space import get_configured_value
from orchestrator.config.schema import Choice, Configuration
from orchestrator.config.trial import SEED, Parameters
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
    """

    def __init__(
        self,
        trial: Trial,
        frozen: Parameters,
        prefix: str,
        point: Parameters,
        point_values: Mapping[str, Sequence[Any]],
    ) -> None:
        self.trial, self.frozen, self.prefix = trial, frozen, prefix
        self.point, self.point_values = point, point_values
        self.drawn: Parameters = {}
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
        if len(choices) == 1 and name not in self.frozen:
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
        return self.drawn[full]


def qualify_name(name: str, prefix: str) -> str:
    """Return the name of a parameter in the study.

    Keys of the configuration, which contain a dot, are common to all methods and have no prefix.
    """
    return f"{prefix}.{name}" if prefix and "." not in name else name


def searched_methods(configuration: Configuration) -> tuple[str, ...]:
    """Return the names of the sweep's methods."""
    return configuration.search.methods or (configuration.method.name,)


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
    given = configuration.method.settings if configuration.method.name == method else {}
    return given | {key: key_value(configuration, key) for key in configuration.search.freeze}


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
    for each in SPACES[method].points:
        for name, value in each.items():
            point_values.setdefault(name, []).append(value)
    prefix = method if len(searched_methods(configuration)) > 1 else ""
    return SuggestionRecorder(
        trial, frozen_values(configuration, method), prefix, point, point_values
    )


def suggest_configuration(trial: Numbered, configuration: Configuration) -> Parameters:
    """Return the parameters of a new trial of `search.configurations`.

    In the study each parameter is a categorical choice of the values in the list.
    """
    given = list_initial_points(configuration)
    values = {
        name: list(dict.fromkeys(point[name] for point in given if name in point))
        for name in given[trial.number]
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


def _suggest(trial: Trial, method: str, configuration: Configuration) -> None:
    """Suggest all parameters of a trial: those of the method's space, then the common ones."""
    SPACES[method].suggest(trial)
    for key in peer_rates(configuration):
        trial.suggest_float(key, *LEARNING_RATES, log=True)
    for key, values in configuration.search.extra_space.items():
        trial.suggest_categorical(key, values)


def list_initial_points(configuration: Configuration) -> list[Parameters]:
    """Return the initial points: the first point of every method, then the second ones, and so on.

    A point contains the parameters that the search would suggest for it; no point is repeated. A
    point is left out if it contradicts a frozen choice. A point outside the space is left out if it
    would ignore a frozen value. With `search.configurations` the points are all trials: with the
    first of the seeds, then with the next one.
    """
    search = configuration.search
    if search.configurations:
        return [{**one, SEED: seed} for seed in search.seeds for one in search.configurations] or [
            dict(one) for one in search.configurations
        ]
    methods = searched_methods(configuration)
    first: list[Parameters] = []
    for method, point in _in_turn({method: SPACES[method].points for method in methods}):
        prefix = method if len(methods) > 1 else ""
        drawn = _drawn(point, method, configuration, prefix)
        if drawn is None:
            continue
        chosen = ({"method.name": method} if prefix else {}) | drawn
        if chosen and chosen not in first:
            first.append(chosen)
    return first


def _drawn(
    point: Parameters, method: str, configuration: Configuration, prefix: str
) -> Parameters | None:
    """Return the parameters that a trial with the values of the point draws.

    Return None if the point contradicts a frozen value, lacks a value, or lies outside the space
    and would ignore a frozen value.
    """
    kept = frozen_values(configuration, method)
    if any(
        isinstance(value, str | bool) and kept.get(name, value) != value
        for name, value in point.items()
    ):
        return None
    answers = {qualify_name(name, prefix): value for name, value in point.items()} | _unnamed(
        point, configuration
    )
    recorder = _recorder(_FixedValues(answers), configuration, method, answers)
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


class _FixedValues:
    """Trial with fixed values; a missing value raises KeyError."""

    def __init__(self, values: Parameters) -> None:
        self.values = values

    def suggest_float(
        self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None
    ) -> float:
        return float(self.values[name])

    def suggest_int(
        self, name: str, low: int, high: int, *, log: bool = False, step: int = 1
    ) -> int:
        return int(self.values[name])

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.values[name]


def _in_turn(points_of: dict[str, tuple[Parameters, ...]]) -> Iterator[tuple[str, Parameters]]:
    for place in range(max(len(given) for given in points_of.values())):
        for method, given in points_of.items():
            if place < len(given):
                yield method, given[place]
