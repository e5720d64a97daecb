"""Check the given weights of teacher and students, before anything is started or downloaded."""

from collections.abc import Iterator, Sequence

import torch

from orchestrator.config.schema import Configuration, Network
from orchestrator.config.trial import network_key
from orchestrator.core.errors import ConfigurationError
from orchestrator.models.build import build
from orchestrator.models.weights import require_weights


def check_given_weights(configuration: Configuration, classes: int, shape: Sequence[int]) -> None:
    """Raise ConfigurationError if given weights are missing or do not fit their network.

    Args:
        configuration: Its networks exist and have valid settings.
        classes: Of the data.
        shape: (channels, height, width) of the images.
    """
    channels, height, width = shape
    for key, network, exact in _weighted(configuration):
        with torch.device("meta"):  # shapes alone, no memory
            built = build(network.name, classes, (channels, height, width), network.settings)
        try:
            require_weights(built, str(network.weights), exact)
        except ConfigurationError as error:
            message = f"{key}.weights: {error}"
            raise ConfigurationError(
                message, field=f"{key}.weights", value=network.weights, allowed=error.allowed
            ) from error


def _weighted(configuration: Configuration) -> Iterator[tuple[str, Network, bool]]:
    """Yield the networks with given weights: their keys, and whether all weights must be given."""
    if configuration.teacher and configuration.teacher.network.weights:
        yield "teacher.network", configuration.teacher.network, True
    for letter, student in configuration.students.items():
        if student.network.weights:
            yield network_key(letter), student.network, False
