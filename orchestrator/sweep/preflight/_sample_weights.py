"""Check the weights of samples before a run: their schedule, their samples, their memory."""

from collections.abc import Iterator, Sequence

import torch

from methods import SettingsError
from orchestrator.config import sizes
from orchestrator.config.extra_space import networks
from orchestrator.config.method_variants import build_variants, trained_methods
from orchestrator.config.schema import Configuration
from orchestrator.core.errors import ConfigurationError
from orchestrator.models.build import build
from orchestrator.models.network import Network


def check_weighing(configuration: Configuration, name: str, searching: bool) -> None:
    """Raise ConfigurationError if a method would never weigh samples, or has none to weigh.

    The same holds if it trains the teacher for one student while peers share it.
    """
    for method in build_variants(configuration, name, searching):
        try:
            weighting_plan = method.weighting_plan(configuration.training.epochs)
        except SettingsError as error:
            raise ConfigurationError.from_error(
                error, f"method {name}: {error}", "method"
            ) from error
        if method.needs_unlabelled and configuration.data.labelled is None:
            raise ConfigurationError(
                f"method {name} with these settings learns from unlabelled samples too, and "
                f"all have labels: set data.labelled to "
                "how many keep theirs, or take another method.update",
                field="data.labelled",
                value=None,
                allowed=int,
            )
        if weighting_plan and method.teacher_lr and configuration.peers:
            raise ConfigurationError(
                f"method {name} with these settings trains the teacher by what one student "
                f"needs, and there are peers, who share "
                "it: leave the peers out, or take method.update=iterative",
                field="peers",
                value=tuple(configuration.peers),
                allowed=(),
            )


def check_memory(
    configuration: Configuration, searching: bool, samples: int, classes: int, shape: Sequence[int]
) -> None:
    """Raise ConfigurationError if finding the weights takes more than `resources.influence_gib`."""
    limit_gib = configuration.resources.influence_gib
    for name in trained_methods(configuration, searching):
        every = [
            method.weighting_plan(configuration.training.epochs)
            for method in build_variants(configuration, name, searching)
        ]
        found = [each for each in every if each]
        for field, student in _students(configuration, searching, classes, shape) if found else ():
            shapes = dict(student.named_parameters())
            needed = max(
                each.required_bytes(samples, classes, student.head.in_features, shapes)
                for each in found
            )
            if needed > limit_gib * 2**30:
                raise ConfigurationError(
                    f"method {name} would take {sizes.size(needed)} of memory to weigh "
                    f"{samples} samples for {field}, and "
                    f"resources.influence_gib = {limit_gib:g}: raise it, or take less, such as "
                    f"method.estimator=last_layer or a "
                    "smaller data.limit.train",
                    field="resources.influence_gib",
                    value=limit_gib,
                    allowed=(needed / 2**30, None),
                )


def _students(
    configuration: Configuration, searching: bool, classes: int, shape: Sequence[int]
) -> Iterator[tuple[str, Network]]:
    """Yield every network that a student may have, with its name; shapes alone, no memory."""
    channels, height, width = shape
    for kinds in networks(configuration, searching).values():
        for field, network in kinds.items():
            with torch.device("meta"):
                student = build(network.name, classes, (channels, height, width), network.settings)
            yield field, student
