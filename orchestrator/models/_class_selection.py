"""Restrict the classifier in a state dict to some of its classes."""

import difflib
from collections.abc import Mapping, Sequence

from torch import Tensor

from orchestrator.core.errors import ConfigurationError
from orchestrator.models.network import Classes, Network


def select_classes(
    network: Network, state: Mapping[str, Tensor], classes: Classes, names: Sequence[str]
) -> dict[str, Tensor]:
    """Return a state whose classifier has only the given classes, in the given order.

    The logits of the network with this state are those of the full classifier at these positions.

    Args:
        network: The network, with as many classes as `classes`; it may be on the meta device.
        state: The tensors of the weights, by the names of the network.
        classes: Positions in the logits of the weights, or names of their classes.
        names: The names of the classes of the weights; empty if they are unknown.

    Raises:
        ConfigurationError: The error of `find_positions`, or the network has no linear classifier.
    """
    own_names = classifier_names(network)
    if not own_names:
        raise ConfigurationError(
            f"classes cannot restrict {network}, which has no linear classifier: leave "
            f"teacher.classes out, and give weights for the classes of the data"
        ).with_details("classes", tuple(classes), None)
    parts = [name for name in own_names if name in state]
    rows = {len(state[name]) for name in parts}
    if len(rows) != 1:
        return dict(state)  # the comparison with the network reports the classifier
    positions = find_positions(network, classes, rows.pop(), names)
    return dict(state) | {name: state[name][positions] for name in parts}


def find_positions(
    network: Network, classes: Classes, rows: int, names: Sequence[str]
) -> list[int]:
    """Return the positions of classes in the logits of weights.

    Args:
        network: The network, with as many classes as `classes`.
        classes: Positions or names.
        rows: The number of classes of the weights.
        names: The names of the classes of the weights; empty if they are unknown.

    Raises:
        ConfigurationError: A position or a name does not exist, two are the same, or their number
            is not that of the network's classes.
    """
    if len(classes) != network.classes:
        raise ConfigurationError(
            f"classes has {len(classes)} entries, but the data have {network.classes} classes: "
            f"give one entry for each class of the data, in their order"
        ).with_details("classes", tuple(classes), f"{network.classes} entries")
    positions = [_find_position(entry, rows, names) for entry in classes]
    _require_distinct(classes, positions)
    return positions


def classifier_names(network: Network) -> list[str]:
    """Return the names of the classifier's tensors in the state of a network."""
    parts = list(network.head.parameters())
    return [
        name
        for name, parameter in network.named_parameters(remove_duplicate=False)
        if any(parameter is part for part in parts)
    ]


def _find_position(entry: int | str, rows: int, names: Sequence[str]) -> int:
    """Return the position of an entry in logits with so many rows."""
    if isinstance(entry, int):
        if not 0 <= entry < rows:
            raise ConfigurationError(
                f"classes contains {entry}, but the weights have {rows} classes: give positions "
                f"from 0 to {rows - 1}"
            ).with_details("classes", entry, (0, rows - 1))
        return entry
    if not names:
        raise ConfigurationError(
            f"classes contains the name {entry!r}, but the weights do not name their classes: give "
            f"positions from 0 to {rows - 1}, or import the weights with --class-names"
        ).with_details("classes", entry, (0, rows - 1))
    if names.count(entry) != 1:
        known = entry in names
        problem = "is the name of several classes" if known else "is not a class"
        close = difflib.get_close_matches(entry, names, n=3)
        hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "give its position"
        raise ConfigurationError(
            f"classes contains {entry!r}, which {problem} of the weights: {hint}"
        ).with_details("classes", entry, tuple(names))
    return names.index(entry)


def _require_distinct(classes: Classes, positions: Sequence[int]) -> None:
    for index, position in enumerate(positions):
        if position in positions[:index]:
            raise ConfigurationError(
                f"classes contains {classes[index]!r}, which is position {position}, twice: give "
                f"different classes"
            ).with_details("classes", classes[index], "different classes")
