"""Describe the teacher of a run."""

from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from orchestrator.api._networks import GivenNetwork, read_again, read_network
from orchestrator.api._options import read_options
from orchestrator.config.network_schema import INPUT_KEYS
from orchestrator.config.schema import Teacher as TeacherSettings
from orchestrator.config.schema import Training
from orchestrator.core.errors import ConfigurationError


@dataclass(frozen=True)
class Teacher:
    """Teacher of a run.

    Attributes:
        network: Its network.
        options: Values of the configuration by dotted keys below `teacher`.
    """

    network: GivenNetwork
    options: dict[str, Any]

    def __repr__(self) -> str:
        weights = "given weights" if self.network.has_weights else "to be trained"
        return f"Teacher({self.network.section['name']}, {weights})"

    def _repr_html_(self) -> str:
        """Return the description for a notebook."""
        return f"<p>{escape(repr(self))}</p>"


def teacher(network: Any, weights: str | Path | None = None, **settings: Any) -> Teacher:
    """Describe the teacher of a run.

    A teacher without weights is trained once, with the recipe `teacher.training`, and kept in the
    store.

    `input_size` (pixels), `mean` and `std` (a value in 0..1 for each channel) are those of the
    images that the network expects; the images of the data are converted. Defaults are those of the
    data or, for a module with given weights and a `pretrained_cfg`, as in timm, the values there;
    None is that of the data.

    Args:
        network: A function without parameters that returns a new module from inputs (B, C, H, W)
            to logits (B, K), a trained module, or the name of a network.
        weights: Its weights: for a function or a module a .safetensors file or a state dict of
            `torch.save` with the names of the module; for a name as `teacher.network.weights`.
        settings: Keys of `teacher` and `teacher.training`, such as epochs=40 or mode="online"; for
            a name also `classes` and the settings of the network.

    Returns:
        The teacher, for `distil` and `sweep`.

    Raises:
        ConfigurationError: The network or the weights cannot be used, or a key is unknown.

    Examples:
        >>> import orchestrator as od
        >>> from torch import nn
        >>> od.teacher("mlp", width=64, epochs=5)
        Teacher(mlp, to be trained)
        >>> trained = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        >>> od.teacher(trained)  # doctest: +ELLIPSIS
        Teacher(my/Sequential-...-teacher, given weights)
    """
    known = {*TeacherSettings.model_fields, *Training.model_fields} - {"network", "training"}
    named = isinstance(network, str)
    own = {
        key: value
        for key, value in settings.items()
        if key in INPUT_KEYS or (named and not _is_key(key, known))
    }
    choice = read_network(network, "teacher", own, weights)
    options = {key: value for key, value in settings.items() if key not in own}
    if choice.function is not None and options.get("classes") is not None:
        raise ConfigurationError(
            "teacher: classes cannot be given for a function or a module, which has one output for "
            "each class of the data: keep the rows of these classes in its last layer"
        ).with_details("classes", options["classes"], "left out")
    sections = ("teacher", "teacher.training")
    advice = "set anything else of a network within its function"
    return Teacher(choice, read_options("teacher", sections, options, None, (), advice))


def _is_key(name: str, known: set[str]) -> bool:
    return name in known or "." in name


def as_teachers(value: Any) -> tuple[Teacher, ...]:
    """Return the teachers of an argument: None, one teacher, or a list of them.

    A teacher is the result of `teacher`, or a network for it.
    """
    if isinstance(value, list | tuple):
        return tuple(_as_teacher(each) for each in value)
    return () if value is None else (_as_teacher(value),)


def _as_teacher(value: Any) -> Teacher:
    if isinstance(value, Teacher):
        return replace(value, network=read_again(value.network, "teacher"))
    return teacher(value)
