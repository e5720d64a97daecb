"""Check that batch normalisation has more than one value per channel in every training step."""

from collections.abc import Iterator, Sequence

import torch

from methods.capabilities import teacher_lr
from orchestrator.config.extra_space import networks
from orchestrator.config.method_variants import build_all_variants
from orchestrator.config.schema import Configuration, Network
from orchestrator.core.errors import ConfigurationError
from orchestrator.models.build import build_on_meta


def check_batch_norm(configuration: Configuration, searching: bool, shape: Sequence[int]) -> None:
    """Raise ConfigurationError if a network cannot be trained on its worker's share of a batch.

    Batch normalisation refuses a single value per channel, as in a share of one sample whose layer
    has only one pixel.

    Args:
        configuration: Configuration with checked networks and batch sizes.
        searching: Whether to include the networks of `search.extra_space`.
        shape: (channels, height, width) of the images.
    """
    for field, network, key, size, sharing in _trained_networks(configuration, searching):
        share = size // sharing
        if share == 1 and not _accepts_one_sample(network, shape):
            workers = f" ({sharing} workers share {size})" if sharing > 1 else ""
            sync = ", or set sync_batch_norm" if sharing > 1 else ""
            raise ConfigurationError(
                f"{key} = {size} leaves one sample for a training step of {field}{workers}, but "
                f"batch normalisation in {network.name} needs more than one value per channel: "
                f"give at least {2 * sharing}{sync}, or choose a network without batch "
                f"normalisation"
            ).with_details(key, size, (2 * sharing, None))


def _trained_networks(
    configuration: Configuration, searching: bool
) -> Iterator[tuple[str, Network, str, int, int]]:
    """Yield each trained network with its key, the key and size of its batch, and its workers.

    With `sync_batch_norm` the statistics are those of the whole batch, as with one worker.
    """
    training = configuration.training
    replicas = configuration.replicas
    num_sharing = 1 if training.sync_batch_norm else replicas
    for kinds in networks(configuration, searching).values():
        for field, network in kinds.items():
            yield field, network, "training.batch_size", training.batch_size, num_sharing
    for teacher_key, fitted in configuration.named_teachers.items():
        if not fitted.network.weights:
            recipe = fitted.training
            yield (
                f"{teacher_key}.network",
                fitted.network,
                f"{teacher_key}.training.batch_size",
                recipe.batch_size,
                1 if recipe.sync_batch_norm else configuration.resources.workers,
            )
    teacher = configuration.teacher
    if teacher is None:
        return
    if any(teacher_lr(method) for method in build_all_variants(configuration, searching)):
        workers = 1 if teacher.training.sync_batch_norm else replicas
        yield (
            "teacher.network",
            teacher.network,
            "training.batch_size",
            training.batch_size,
            workers,
        )


def _accepts_one_sample(network: Network, shape: Sequence[int]) -> bool:
    """Return whether the network trains on a single image, without allocating memory."""
    model = build_on_meta(network.name, 2, shape, network.settings).train()
    try:
        model(torch.empty(1, *shape, device="meta"))
    except ValueError:  # torch raises it for one value per channel
        return False
    return True
