"""Check the pretrained weights of teacher and students, before any start or download."""

from collections.abc import Iterator, Sequence

from orchestrator.config.fields import Classes
from orchestrator.config.schema import Configuration, Network
from orchestrator.config.trial import network_key
from orchestrator.core.errors import ConfigurationError
from orchestrator.models.build import build_on_meta
from orchestrator.models.weights import require_weights


def check_given_weights(configuration: Configuration, classes: int, shape: Sequence[int]) -> None:
    """Raise ConfigurationError if pretrained weights are missing or do not fit their network.

    Args:
        configuration: Configuration with checked networks.
        classes: Number of classes.
        shape: (channels, height, width) of the images.
    """
    for key, network, exact, selected in _networks_with_weights(configuration):
        model = build_on_meta(network.name, classes, shape, network.settings)
        try:
            require_weights(model, str(network.weights), exact, selected, network.settings)
        except ConfigurationError as error:
            if error.field == "classes":
                teacher = key.removesuffix(".network")
                raise ConfigurationError.from_error(error, f"{teacher}.{error}", teacher) from error
            message = f"{key}.weights: {error}"
            raise ConfigurationError(message).with_details(
                f"{key}.weights", network.weights, error.allowed
            ) from error


def _networks_with_weights(
    configuration: Configuration,
) -> Iterator[tuple[str, Network, bool, Classes | None]]:
    """Yield each network with pretrained weights, and the classes that are selected from them.

    Each comes with its key, and with whether all of its weights are required.
    """
    for key, teacher in configuration.named_teachers.items():
        if teacher.network.weights:
            yield f"{key}.network", teacher.network, True, teacher.classes
    for letter, student in configuration.students.items():
        if student.network.weights:
            yield network_key(letter), student.network, False, None
