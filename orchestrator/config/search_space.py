"""The search space of a sweep: those of its methods, less what the configuration holds. Knows no study.

With one method a parameter has the name that its space gives it; with several, `method.name` comes first and the
settings of each stand under its name (`kd.temperature`). Beside every space come the keys that all methods have in
common: the learning rate of each peer, and those of `search.extra_space`. With `search.configurations` there is no
space but a list.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from orchestrator.config.extra_space import configured
from orchestrator.config.schema import Choice, Configuration
from orchestrator.config.trial import SEED
from search_spaces import SPACES, Trial
from search_spaces.space import LEARNING_RATE, LEARNING_RATES

Parameters = dict[str, Any]


class Numbered(Trial, Protocol):
    """A trial of a study, which has a number."""

    @property
    def number(self) -> int:
        """From 0 on."""


class QuestionRecorder:
    """A trial that answers a question about a held value itself, passes the others on, and notes what was drawn.

    A single choice is no question for the study, unless `point` answers it otherwise, by its name in the study: that is asked,
    among the choice and `others`, which are the answers of all points by the name in the space.
    """

    def __init__(self, trial: Trial, held: Parameters, prefix: str, point: Parameters, others: Mapping[str, Sequence[Any]]) -> None:
        self.trial, self.held, self.prefix = trial, held, prefix
        self.point, self.others = point, others
        self.drawn: Parameters = {}
        self.met: set[str] = set()  # what is held, and asked about
        self.apart = False  # whether the point lies beside the space

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None) -> float:
        """A number in [low, high], or the held one."""
        return float(self._ask("suggest_float", name, low, high, log=log, step=step))

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:
        """A whole number in [low, high], or the held one."""
        return int(self._ask("suggest_int", name, low, high, log=log, step=step))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices, or the held one."""
        if len(choices) == 1 and name not in self.held:
            if self.point.get(qualify_name(name, self.prefix), choices[0]) == choices[0]:
                return choices[0]
            self.apart, choices = True, tuple(dict.fromkeys([*choices, *self.others[name]]))
        return self._ask("suggest_categorical", name, choices)

    def _ask(self, kind: str, name: str, *bounds: Any, **options: Any) -> Any:
        if name in self.held:
            self.met.add(name)
            return self.held[name]
        full = qualify_name(name, self.prefix)
        self.drawn[full] = getattr(self.trial, kind)(full, *bounds, **options)
        return self.drawn[full]


def qualify_name(name: str, prefix: str) -> str:
    """The name of a parameter in the study; keys of the configuration, which have a dot, are common to all methods."""
    return f"{prefix}.{name}" if prefix and "." not in name else name


def searched_methods(configuration: Configuration) -> tuple[str, ...]:
    """The methods of the sweep."""
    return configuration.search.methods or (configuration.method.name,)


def with_its_method(configuration: Configuration) -> Configuration:
    """The configuration of a sweep, in which a single name under `search.methods` is the method; settings of another one stay."""
    methods, chosen = configuration.search.methods, configuration.method
    if len(methods) != 1 or methods[0] == chosen.name or chosen.settings:  # those are refused by the check
        return configuration
    return configuration.model_copy(update={"method": Choice(name=methods[0])})


def frozen_values(configuration: Configuration, method: str) -> Parameters:
    """What is not searched for a method: settings given under `method`, and the keys in `search.freeze`."""
    given = configuration.method.settings if configuration.method.name == method else {}
    return given | {key: key_value(configuration, key) for key in configuration.search.freeze}


def key_value(configuration: Configuration, key: str) -> Any:
    """The value of a dotted key; KeyError or TypeError when there is none."""
    value: Any = configuration.plain()
    for part in key.split("."):
        value = value[part]
    return value


def draw(trial: Trial, configuration: Configuration) -> Parameters:
    """The parameters of a new trial: those of a point where its number is that of one, as `open_study` queues them."""
    methods, first = searched_methods(configuration), points(configuration)
    number = getattr(trial, "number", len(first))
    point = first[number] if number < len(first) else {}
    chosen = {} if len(methods) == 1 else {"method.name": trial.suggest_categorical("method.name", methods)}
    name = chosen.get("method.name", methods[0])
    asking = _asking(trial, configuration, name, point)
    _suggest(asking, name, configuration)
    return chosen | asking.drawn


def _asking(trial: Trial, configuration: Configuration, method: str, point: Parameters) -> QuestionRecorder:
    """A trial of a method that follows a point where it lies beside the space."""
    others: dict[str, list[Any]] = {}
    for each in SPACES[method].points:
        for name, value in each.items():
            others.setdefault(name, []).append(value)
    prefix = method if len(searched_methods(configuration)) > 1 else ""
    return QuestionRecorder(trial, frozen_values(configuration, method), prefix, point, others)


def list_questions(trial: Numbered, configuration: Configuration) -> Parameters:
    """The parameters of a new trial of `search.configurations`; to the study each is a choice of the values in the list."""
    given = points(configuration)
    values = {name: list(dict.fromkeys(point[name] for point in given if name in point)) for name in given[trial.number]}
    return {name: trial.suggest_categorical(name, choices) for name, choices in values.items()}


def peer_rates(configuration: Configuration) -> list[str]:
    """The keys of the peers' learning rates that are searched; one that is held without a value is student a's."""
    return [key for key in map(peer_rate, configuration.peers) if key not in configuration.search.freeze]


def peer_rate(letter: str) -> str:
    """The key of a peer's learning rate."""
    return f"peers.{letter}.training.learning_rate"


def _suggest(trial: Trial, method: str, configuration: Configuration) -> None:
    """All questions of a trial of a method: those of its space, then those that are common to all methods."""
    SPACES[method].suggest(trial)
    for key in peer_rates(configuration):
        trial.suggest_float(key, *LEARNING_RATES, log=True)
    for key, values in configuration.search.extra_space.items():
        trial.suggest_categorical(key, values)


def points(configuration: Configuration) -> list[Parameters]:
    """What is tried first: the first point of every method, then their second ones, and so on; none twice.

    A point is what the search would ask of it. One that has another choice than what is held is left out, and so is one beside the
    space that would ignore what is held. With `search.configurations` they are all trials that there are: with the first of the
    seeds, then with the next.
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


def _drawn(point: Parameters, method: str, configuration: Configuration, prefix: str) -> Parameters | None:
    """What a trial draws that answers as the point does; None where it contradicts what is held, or has no answer."""
    kept = frozen_values(configuration, method)
    if any(isinstance(value, str | bool) and kept.get(name, value) != value for name, value in point.items()):
        return None
    answers = {qualify_name(name, prefix): value for name, value in point.items()} | _unnamed(point, configuration)
    asking = _asking(_Answers(answers), configuration, method, answers)
    try:
        _suggest(asking, method, configuration)
    except KeyError:
        return None
    ignored = kept.keys() - asking.met - set(configuration.search.freeze)
    return None if asking.apart and ignored else asking.drawn


def _unnamed(point: Parameters, configuration: Configuration) -> Parameters:
    """What a point, which knows one student, means for the rest: peers have its learning rate, choices the configured value."""
    rate = point.get("training.learning_rate", LEARNING_RATE)
    answers: Parameters = dict.fromkeys(peer_rates(configuration), rate)
    for key, values in configuration.search.extra_space.items():
        own = configured(configuration, key)
        answers[key] = own if own in values else values[0]
    return answers


class _Answers:
    """A trial that has its answers; KeyError where it has none."""

    def __init__(self, values: Parameters) -> None:
        self.values = values

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None) -> float:
        return float(self.values[name])

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False, step: int = 1) -> int:
        return int(self.values[name])

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self.values[name]


def _in_turn(points_of: dict[str, tuple[Parameters, ...]]) -> Iterator[tuple[str, Parameters]]:
    for place in range(max(len(given) for given in points_of.values())):
        for method, given in points_of.items():
            if place < len(given):
                yield method, given[place]
