"""Make a `Network` of any module that returns logits."""

from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.core.errors import ConfigurationError
from orchestrator.models.network import Network, Shape


def as_network(module: nn.Module, name: str, classes: int, shape: Shape) -> Network:
    """Return a network with the outputs of a module.

    The features are the inputs of the linear layer that computes the logits. A module without such
    a layer has its logits as features.

    Args:
        module: A module from inputs (B, C, H, W) to logits (B, K).
        name: The name of the network, for messages.
        classes: K.
        shape: (channels, height, width) of the inputs.

    Raises:
        ConfigurationError: The module fails on such inputs, or has outputs of another shape.
    """
    path = _find_head(module, name, classes, shape)
    if not path:
        network = Network(name, module, classes, classes)
        network.head = nn.Linear(classes, classes, bias=True).requires_grad_(False)
        nn.init.eye_(network.head.weight)
        nn.init.zeros_(network.head.bias)
        return network
    head = module.get_submodule(path)
    assert isinstance(head, nn.Linear)
    parent, _, attribute = path.rpartition(".")
    setattr(module.get_submodule(parent), attribute, nn.Identity())
    network = Network(name, module, head.in_features, classes)
    network.head = head
    return network


def _find_head(module: nn.Module, name: str, classes: int, shape: Shape) -> str:
    """Return the path of the linear layer whose output are the logits; "" without one."""
    last: dict[str, Tensor] = {}
    hooks = [
        each.register_forward_hook(lambda _, __, output, path=path: last.update({path: output}))
        for path, each in module.named_modules()
        if isinstance(each, nn.Linear) and path
    ]
    parameter = next(module.parameters(), torch.empty(0))
    training = module.training
    module.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            output: Any = module(
                torch.zeros(2, *shape, device=parameter.device, dtype=torch.float32)
            )
    except Exception as error:  # any error of the user's module
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ConfigurationError(
            f"network {name} fails on inputs of shape (2, {', '.join(map(str, shape))}): {reason}"
        ).with_details(
            "name", name, f"a module for inputs (B, {', '.join(map(str, shape))})"
        ) from (error)
    finally:
        module.train(training)
        for hook in hooks:
            hook.remove()
    if not isinstance(output, Tensor) or output.shape != (2, classes):
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ConfigurationError(
            f"network {name} returns {got} for 2 inputs of shape {tuple(shape)}: it must return "
            f"logits of shape (2, {classes})"
        ).with_details("name", got, (2, classes))
    return next((path for path, value in last.items() if value is output), "")
