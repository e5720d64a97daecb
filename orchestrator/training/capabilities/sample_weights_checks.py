"""Check sample weighting before a run: its schedule, its data and its memory."""

from collections.abc import Sequence

from methods import Method, SettingsError
from methods.capabilities import teacher_lr, weighting_plan
from orchestrator.config import sizes
from orchestrator.config.data_schema import UNLABELLED_SOURCES
from orchestrator.config.method_variants import build_variants, trained_methods
from orchestrator.config.schema import Configuration
from orchestrator.core.errors import ConfigurationError
from orchestrator.training.capabilities._possible_students import possible_students


def check_sample_weights(configuration: Configuration, name: str, searching: bool) -> None:
    """Raise ConfigurationError if a method never updates sample weights, or lacks its samples.

    The same holds if it trains the teacher for one student while peers share the teacher.
    """
    for method in build_variants(configuration, name, searching):
        try:
            plan = weighting_plan(method, configuration.training.epochs)
        except SettingsError as error:
            raise ConfigurationError.from_error(
                error, f"method {name}: {error}", "method"
            ) from error
        may_have_unlabelled = configuration.data.name in UNLABELLED_SOURCES  # checked with the data
        if configuration.data.labelled is None and not may_have_unlabelled:
            require_unlabelled(method, name)
        if plan and teacher_lr(method) and configuration.peers:
            raise ConfigurationError(
                f"method {name} with these settings trains the teacher for one student, but "
                f"peers ({', '.join(configuration.peers)}) share the teacher: leave the peers "
                f"out, or set method.update=iterative"
            ).with_details("peers", tuple(configuration.peers), ())


def require_unlabelled(method: Method, name: str) -> None:
    """Raise ConfigurationError if a method needs unlabelled samples; all samples have labels."""
    if method.needs.unlabelled:
        raise ConfigurationError(
            f"data.labelled = null keeps all labels, but method {name} with these settings "
            f"also needs unlabelled samples: set data.labelled to the number of labels to "
            f"keep, or choose another method.update"
        ).with_details("data.labelled", None, int)


def check_memory(
    configuration: Configuration, searching: bool, samples: int, classes: int, shape: Sequence[int]
) -> None:
    """Raise ConfigurationError if sample weighting needs more than `resources.influence_gib`."""
    limit_gib = configuration.resources.influence_gib
    for name in trained_methods(configuration, searching):
        all_plans = [
            weighting_plan(method, configuration.training.epochs)
            for method in build_variants(configuration, name, searching)
        ]
        plans = [each for each in all_plans if each]
        for field, student in (
            possible_students(configuration, searching, classes, shape) if plans else ()
        ):
            shapes = dict(student.named_parameters())
            needed = max(
                each.required_bytes(samples, classes, student.head.in_features, shapes)
                for each in plans
            )
            if needed > limit_gib * 2**30:
                raise ConfigurationError(
                    f"resources.influence_gib = {limit_gib:g} is too little: method {name} needs "
                    f"{sizes.format_bytes(needed)} of memory for the weights of {samples} samples "
                    f"with {field}; raise it, set method.estimator=last_layer, or give a smaller "
                    f"data.limit.train"
                ).with_details("resources.influence_gib", limit_gib, (needed / 2**30, None))
