"""Check that methods and batch sizes suit the data."""

from methods.capabilities import WeightsSamples
from orchestrator.config.method_variants import build_all_variants, build_variants, trained_methods
from orchestrator.config.plan import require_batches
from orchestrator.config.schema import Configuration
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.program import program_name
from orchestrator.data.batches import labelled_per_batch
from orchestrator.data.class_balance import require_class_weights
from orchestrator.data.dataset import DataSummary


def check_data(configuration: Configuration, searching: bool) -> None:
    """Raise ConfigurationError if a method cannot learn from the configured data.

    The names of the methods must be valid.
    """
    data = configuration.data
    for name in trained_methods(configuration, searching):
        if not any(
            isinstance(method, WeightsSamples)
            for method in build_variants(configuration, name, searching)
        ):
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
    samples, labelled = summary.sizes.train, summary.labelled
    alone = {method.needs.labels for method in build_all_variants(configuration, searching)}
    require_batches(configuration, samples, labelled, any(alone))
    if labelled is not None and not all(alone):
        share, size = configuration.data.labelled_share, configuration.training.batch_size
        labelled_per_batch(size, share, configuration.replicas, samples - labelled)
