"""Record the outputs of a network's stages: its feature maps."""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from methods import Method
from methods.capabilities import UsesFeatureMaps
from methods.feature_maps import FeatureStages, MapShape
from orchestrator.models.network import Network, Shape


@contextlib.contextmanager
def recorded_maps(network: nn.Module, stages: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Yield a dictionary that each forward pass in the block fills with the maps of the stages.

    A map is (B, C, H, W); that of a linear layer is (B, C, 1, 1).

    Args:
        network: A `Network`, also one that is wrapped by `torch.nn` utilities.
        stages: Names of stages.
    """
    maps: dict[str, Tensor] = {}
    with contextlib.ExitStack() as stack:
        for name in stages:
            assert isinstance(network, Network)
            stage = network.get_submodule(network.stages[name])
            stack.callback(stage.register_forward_hook(partial(_record, maps, name)).remove)
        yield maps


def _record(maps: dict[str, Tensor], name: str, stage: nn.Module, _: Any, output: Tensor) -> None:
    maps[name] = output if output.ndim == 4 else output[:, :, None, None]


def feature_stages(method: Method, student: nn.Module, teacher: nn.Module) -> FeatureStages:
    """Return the stages whose feature maps a method uses; none for most methods.

    Raises:
        SettingsError: The networks do not have the stages that the settings name.
    """
    if not isinstance(method, UsesFeatureMaps):
        return FeatureStages((), ())
    assert isinstance(student, Network) and isinstance(teacher, Network)
    stages = method.select_stages(tuple(student.stages), tuple(teacher.stages))
    assert all(len(set(each)) == len(each) for each in stages), "a stage is selected once"
    return stages


@torch.no_grad()
def map_shapes(network: nn.Module, shape: Shape, stages: Sequence[str]) -> dict[str, MapShape]:
    """Return the shapes of the maps of stages, by one forward pass of an empty input.

    Mode, buffers and random state of the network do not change. It may be on the device `meta`.

    Args:
        network: The network.
        shape: (channels, height, width) of the inputs.
        stages: Names of stages.
    """
    if not stages:
        return {}
    training, parameter = network.training, next(network.parameters())
    network.eval()
    with recorded_maps(network, stages) as maps:
        network(torch.zeros(1, *shape, device=parameter.device, dtype=parameter.dtype))
    network.train(training)
    return {name: MapShape(*maps[name].shape[1:]) for name in stages}
