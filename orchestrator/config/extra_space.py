"""Check and apply the keys of `search.extra_space`.

These keys are searched in addition to the space of every method.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from math import prod
from typing import Any

from orchestrator.config.changed_space import list_searched_keys
from orchestrator.config.declarations import received
from orchestrator.config.schema import Configuration, Network
from orchestrator.config.trial import Parameters, apply, network_key
from orchestrator.core.errors import ConfigurationError, UserError

ONCE = (
    *("data", "teacher", "teachers", "search"),
    *("resources", "tracking", "project", "seed", "method"),
)
FIELD, SPACE = "search.extra_space", "search.space"
MOST_NETWORKS = 300  # each is built without memory to count its parameters
EXAMPLE = "give, for example, student.width, peers.b.network.width or training.batch_size"


def check_keys(configuration: Configuration, searched_keys: set[str]) -> None:
    """Check the keys and values of `search.extra_space`.

    Args:
        configuration: The configuration of the sweep.
        searched_keys: The keys that a space searches already.

    Raises:
        ConfigurationError: A key cannot vary, is frozen or is in `searched_keys`, or a value by
            itself is not allowed.
    """
    for key, values in configuration.search.extra_space.items():
        check_key(configuration, key)
        if key in configuration.search.freeze:
            raise _key_error(
                key, "is also in search.freeze: remove it from one of them", "not in search.freeze"
            )
        if key in searched_keys:
            raise _key_error(
                key, "is already part of the search space: remove it", "not in the search space"
            )
        if len(values) < 2 or len({repr(value) for value in values}) < len(values):
            raise ConfigurationError(
                f"search.extra_space: {key} = {list(values)} is not allowed: give two or more "
                f"different values"
            ).with_details(f"search.extra_space.{key}", values, "two or more different values")
        invalid = [value for value in values if not isinstance(value, str | int | float | None)]
        if invalid:
            raise ConfigurationError(
                f"search.extra_space: {key} = {invalid[0]!r} is not allowed: give numbers, "
                f"strings, true, false or null"
            ).with_details(
                f"search.extra_space.{key}", invalid[0], "numbers, strings, true, false or null"
            )
    _require_few_networks(configuration)
    for key, values in list_searched_keys(configuration).items():
        field = _sources(configuration, [key])
        try:
            for value in values:
                apply(configuration, {key: value})
        except UserError as error:
            raise ConfigurationError.from_error(error, f"{field}: {error}", field) from error


def _sources(configuration: Configuration, keys: Iterable[str]) -> str:
    """Return the setting, or the settings, that search the given keys."""
    search, searched = configuration.search, set(keys)
    sources = {FIELD: set(search.extra_space), SPACE: set(search.space)}
    return " and ".join(name for name, known in sources.items() if searched & known)


def _require_few_networks(configuration: Configuration) -> None:
    """Require that a student has at most `MOST_NETWORKS` different networks.

    Each network is examined on its own.

    Raises:
        ConfigurationError: A student may have more networks.
    """
    for letter in configuration.students:
        field = network_key(letter)
        counts = {
            key: len(values)
            for key, values in list_searched_keys(configuration).items()
            if key.startswith(f"{field}.")
        }
        number = prod(counts.values())
        if number > MOST_NETWORKS:
            sources = _sources(configuration, counts)
            raise ConfigurationError(
                f"{sources}: {field} can be {' x '.join(map(str, counts.values()))} different "
                f"networks, and at most {MOST_NETWORKS} are allowed: give fewer values"
            ).with_details(f"{sources.partition(' ')[0]}.{field}", number, (1, MOST_NETWORKS))


def _key_error(
    key: str, problem: str, allowed: str = EXAMPLE, field: str = FIELD
) -> ConfigurationError:
    return ConfigurationError(f"{field} = {key!r} {problem}").with_details(field, key, allowed)


def check_key(configuration: Configuration, key: str, field: str = FIELD) -> None:
    """Check that a key of the configuration may differ between the trials of a sweep.

    Args:
        configuration: The configuration of the sweep.
        key: The dotted key.
        field: The setting that names the key.

    Raises:
        ConfigurationError: The key does not exist, or has one value for the sweep.
    """
    first, *rest = key.split(".")
    if not all((first, *rest)):
        raise _key_error(key, f"is not a key of the configuration: {EXAMPLE}", field=field)
    if not rest and first not in ONCE:
        raise _key_error(
            key,
            f"has no dot and is not a key that can be searched: {EXAMPLE}; settings of a method "
            f"are searched by its search space, or frozen under method",
            field=field,
        )
    if (
        first in ONCE
        or key == "training.epochs"
        or rest[-1] in ("cpus_per_worker", "gpus_per_worker")
        or (rest[-1] == "weights" and first != "ensemble")
    ):
        raise _key_error(
            key,
            f"cannot be searched, because it must be the same for all trials of a sweep: {EXAMPLE}",
            "one value for the sweep",
            field,
        )
    section = key.rpartition(".")[0]
    recipes = ["training", *(f"peers.{letter}.training" for letter in configuration.peers)]
    several = ["ensemble"] if configuration.teachers else []
    if section not in [*recipes, *several, *map(network_key, configuration.students)]:
        raise _key_error(key, f"is not a key of the configuration: {EXAMPLE}", field=field)
    with_weights = [
        network_key(letter)
        for letter, student in configuration.students.items()
        if student.network.weights
    ]
    if section in with_weights:
        raise _key_error(
            key,
            f"would vary a network that has initial weights: remove {section}.weights, or remove "
            f"the key",
            f"without {section}.weights",
            field,
        )


def get_configured_value(configuration: Configuration, key: str) -> Any:
    """Return the value of a key without a search.

    Without a configured value, this is the default of a network's setting, or the value in student
    a's recipe.
    """
    section, _, name = key.rpartition(".")
    if section == "ensemble":
        return getattr(configuration.ensemble, name)
    for letter, (network, training) in configuration.students.items():
        if section == network_key(letter):
            known = _network_values(section, network)
            # None: a setting of another network that may be chosen
            return {**known, "name": network.name}.get(name)
        if section == f"peers.{letter}.training":
            return getattr(training, name)
    return getattr(configuration.training, name)


def _network_values(section: str, network: Network) -> Mapping[str, Any]:
    """Return all settings of the network of a section, with their defaults."""
    if known := received():
        return known.networks[section]
    from orchestrator.models.build import all_settings  # imports torch: `status` does not need it

    return all_settings(network.name, network.settings)


def alone(configuration: Configuration) -> Iterator[Configuration]:
    """Yield the configurations that have one value of one searched key each.

    The keys are those of `search.extra_space` and `search.space`.

    Raises:
        ConfigurationError: A value is not allowed.
    """
    for key, values in list_searched_keys(configuration).items():
        for value in values:
            yield apply(configuration, {key: value})


def networks(configuration: Configuration, searched: bool) -> dict[str, dict[str, Network]]:
    """Return every network that a student may have, by its letter and then by its description.

    Args:
        configuration: The configuration of the run.
        searched: Whether the search applies, with the ends of its ranges; otherwise each student
            has its configured network.
    """
    networks_by_student = {}
    for letter, student in configuration.students.items():
        field = network_key(letter)
        chosen = {
            key: values
            for key, values in list_searched_keys(configuration).items()
            if searched and key.startswith(f"{field}.")
        }
        sources = _sources(configuration, chosen)
        networks_by_student[letter] = {
            _words(sources, field, combination): _with(student.network, field, combination)
            for combination in (
                dict(zip(chosen, values, strict=True)) for values in product(*chosen.values())
            )
        }
    return networks_by_student


def _with(network: Network, field: str, combination: Parameters) -> Network:
    overrides = {key.removeprefix(f"{field}."): value for key, value in combination.items()}
    return Network.model_validate(network.model_dump() | overrides)


def _words(sources: str, field: str, combination: Parameters) -> str:
    chosen = ", ".join(f"{key} = {value!r}" for key, value in combination.items())
    return f"{sources}: {field} with {chosen}" if chosen else field
