"""Complete the networks of a configuration that take published or imported weights."""

from typing import Any

from orchestrator.config.schema import Configuration, Network
from orchestrator.config.search_schema import Search
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.paths import read_path

HF = "hf/"  # prefix of a network whose name is a folder


def complete_networks(configuration: Configuration) -> Configuration:
    """Return the configuration with complete networks.

    A network with a prefix and published weights gets the tag, the input size and the normalisation
    of these weights where they are not given, so that a record does not depend on a library. So
    does a network with a file in which `import-weights` has recorded its input. The
    folder of `hf/FOLDER` becomes absolute, also where the search names it. Other networks stay as
    they are.

    Raises:
        ConfigurationError: There is no such network, or no such weights.
        PreflightError: The package of a network is not installed.
    """
    changes: dict[str, Any] = {}
    student = _complete(configuration.student, "student")
    if student is not configuration.student:
        changes["student"] = student
    peers = {
        letter: _complete(peer.network, f"peers.{letter}.network")
        for letter, peer in configuration.peers.items()
    }
    if any(network is not configuration.peers[letter].network for letter, network in peers.items()):
        changes["peers"] = {
            letter: peer.model_copy(update={"network": peers[letter]})
            for letter, peer in configuration.peers.items()
        }
    teachers = {
        key: teacher.model_copy(update={"network": _complete(teacher.network, f"{key}.network")})
        for key, teacher in configuration.named_teachers.items()
    }
    if teachers != configuration.named_teachers:
        configuration = configuration.with_teachers(teachers)
    if searched := _complete_search(configuration.search):
        changes["search"] = configuration.search.model_copy(update=searched)
    return configuration.model_copy(update=changes) if changes else configuration


def _complete(network: Network, key: str) -> Network:
    if "/" not in network.name and not network.weights:
        return network
    changes: dict[str, Any] = {}
    if network.name.startswith(HF):
        changes["name"] = _absolute(f"{key}.name", network.name)
    if network.weights:
        # these import torch, which other configurations do not need
        from orchestrator.models.build import published_inputs
        from orchestrator.models.weight_files import is_file_name, read_recorded_inputs

        inputs: dict[str, Any] = {}
        if is_file_name(network.weights):
            inputs = read_recorded_inputs(read_path(network.weights, f"{key}.weights"))
        elif "/" in network.name:
            try:
                inputs = published_inputs(changes.get("name", network.name), network.weights)
            except ConfigurationError as error:
                raise ConfigurationError.from_error(error, f"{key}: {error}", key) from error
        if network.mean is not None:
            inputs = {name: inputs[name] for name in inputs if name not in ("mean", "std")}
        if network.input_size is not None:
            inputs.pop("input_size", None)
        changes |= inputs
    values = network.model_dump() | changes
    return network if values == network.model_dump() else Network.model_validate(values)


def _complete_search(search: Search) -> dict[str, Any]:
    """Return the settings of a search that name a folder `hf/FOLDER`, with absolute folders."""
    completed = {
        "extra_space": {
            key: tuple(_absolute(key, value) for value in values)
            for key, values in search.extra_space.items()
        },
        "space": {
            key: change
            if change.choices is None
            else change.model_copy(
                update={"choices": tuple(_absolute(key, value) for value in change.choices)}
            )
            for key, change in search.space.items()
        },
        **{
            name: tuple(
                {key: _absolute(key, value) for key, value in point.items()}
                for point in getattr(search, name)
            )
            for name in ("points", "configurations")
        },
    }
    return {name: value for name, value in completed.items() if value != getattr(search, name)}


def _absolute(key: str, value: Any) -> Any:
    """Return a value of a key; a relative folder of `hf/FOLDER` becomes absolute."""
    is_folder = key.rpartition(".")[2] == "name" and isinstance(value, str) and value.startswith(HF)
    return f"{HF}{read_path(value.removeprefix(HF), key)}" if is_folder else value
