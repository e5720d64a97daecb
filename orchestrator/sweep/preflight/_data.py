"""Check that methods and batch sizes suit the data."""

from methods import Method
from methods.capabilities import UsesMemoryBank, WeightsSamples
from orchestrator.config.method_variants import build_all_variants, build_variants, trained_methods
from orchestrator.config.plan import require_batches
from orchestrator.config.schema import Configuration
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.program import program_name
from orchestrator.data.batches import labelled_per_batch
from orchestrator.data.class_balance import require_class_weights
from orchestrator.data.dataset import DataSummary
from orchestrator.training.capabilities.sample_weights_checks import require_unlabelled


def check_data(configuration: Configuration, searching: bool) -> None:
    """Raise ConfigurationError if a method cannot learn from the configured data.

    The names of the methods must be valid.
    """
    data = configuration.data
    for name in trained_methods(configuration, searching):
        variants = list(build_variants(configuration, name, searching))
        if data.mixing != "none" and any(method.needs.unblended for method in variants):
            raise ConfigurationError(
                f"data.mixing = {data.mixing!r} blends two samples into one image, but method "
                f"{name} contrasts single samples: set data.mixing=none, or choose another method"
            ).with_details("data.mixing", data.mixing, ("none",))
        if not any(isinstance(method, WeightsSamples) for method in variants):
            continue
        if data.mixing != "none":
            raise ConfigurationError(
                f"data.mixing = {data.mixing!r} blends two samples into one image, but method "
                f"{name} gives each sample its own weight: set data.mixing=none, or choose "
                f"another method"
            ).with_details("data.mixing", data.mixing, ("none",))
        for key, value, default in (
            ("class_weights", data.class_weights, None),
            ("sampling", data.sampling, "uniform"),
        ):
            if value != default:
                raise ConfigurationError(
                    f"data.{key} = {value} changes the weight of a sample by its class, but method "
                    f"{name} derives the weight of each sample from the validation part: leave it "
                    f"out, or choose another method"
                ).with_details(f"data.{key}", value, (default,))
        if data.validation_in_training:
            raise ConfigurationError(
                f"data.validation_in_training = true trains on the validation labels, from which "
                f"method {name} derives its sample weights: leave it out, or choose another method"
            ).with_details("data.validation_in_training", True, (False,))


def check_searched_data(configuration: Configuration) -> None:
    """Raise ConfigurationError if trials would be compared on their training samples."""
    if configuration.data.validation_in_training and not configuration.search.configurations:
        raise ConfigurationError(
            "data.validation_in_training = true is not allowed in a search, because "
            "search.objective would be measured on training samples: leave it out, list settings "
            f"in search.configurations, or use `{program_name()} train`"
        ).with_details("data.validation_in_training", True, (False,))


def check_batches(configuration: Configuration, searching: bool, summary: DataSummary) -> None:
    """Raise ConfigurationError if a batch of a method or of the teacher cannot be shared or filled.

    Args:
        configuration: The configuration.
        searching: Whether to check all searched methods.
        summary: Description of the data, from `describe`.
    """
    require_class_weights(configuration.data, len(summary.classes))
    if summary.labelled == 0:
        _require_teacher_alone(configuration, searching)
    samples, labelled = summary.sizes.train, summary.labelled
    alone = {method.needs.labels for method in build_all_variants(configuration, searching)}
    require_batches(configuration, samples, labelled, any(alone))
    for name in trained_methods(configuration, searching) if labelled is None else ():
        for method in build_variants(configuration, name, searching):
            require_unlabelled(method, name)
    if labelled and not all(alone):
        share, size = configuration.data.labelled_share, configuration.training.batch_size
        labelled_per_batch(size, share, configuration.replicas, samples - labelled)


def _require_teacher_alone(configuration: Configuration, searching: bool) -> None:
    """Raise ConfigurationError unless students can learn from a given teacher without labels."""
    data = configuration.data
    ignored = {"label_noise": (data.label_noise, 0.0), "class_weights": (data.class_weights, None)}
    for key, (value, default) in ignored.items():
        if value != default:
            raise ConfigurationError(
                f"data.{key} = {value} needs labelled training samples, but none has a label: "
                f"leave it out, or keep some labels"
            ).with_details(f"data.{key}", value, (default,))
    for name in trained_methods(configuration, searching):
        for method in build_variants(configuration, name, searching):
            if not _learns_without_labels(method):
                raise ConfigurationError(
                    f"method {name} with these settings learns from labels, but no training sample "
                    f"has one: choose a method that learns from a teacher alone, such as kd with "
                    f"alpha = 1, or keep some labels"
                ).with_details("method.name", name, "a method that learns from a teacher alone")
    for key, teacher in configuration.named_teachers.items():
        if not teacher.network.weights:
            raise ConfigurationError(
                f"{key}.network.weights = null fits the teacher on labels, but no training sample "
                f"has one: give the weights of a trained teacher"
            ).with_details(f"{key}.network.weights", None, "the weights of a trained teacher")


def _learns_without_labels(method: Method) -> bool:
    """Return whether a teacher's term remains, without retrieval by labels and their weights."""
    by_labels = method.needs.labels or isinstance(method, WeightsSamples | UsesMemoryBank)
    return method.learns_from_teacher and not by_labels
