"""Make the builder of a network of user code."""

from bdb import BdbQuit
from typing import Any

import torch
from torch import nn

from orchestrator.core.errors import ConfigurationError, UserError, short_reason
from orchestrator.core.user_code import failure_location
from orchestrator.extensions.registry import Slot
from orchestrator.extensions.signature import Signature, read_signature
from orchestrator.models.build import MODELS, Builder
from orchestrator.models.network import Network, Shape
from orchestrator.models.wrapped import as_network

RESERVED = ("classes", "shape")


def make_slots(target: Any, name: str, location: str, code: str) -> tuple[Slot, ...]:
    """Return the builder of a network, for the registry.

    Args:
        target: The function or class that makes the module.
        name: The name of the network.
        location: File and line, for messages.
        code: The identity of the code.

    Raises:
        SignatureError: A parameter cannot be a setting.
    """
    signature = read_signature(target, "Settings", RESERVED)

    def make(settings: Any, classes: int, shape: Shape) -> Network:
        try:
            module = _build(signature, settings, classes, shape)
        except (UserError, BdbQuit):
            raise
        except Exception as error:  # any error of user code
            failed_at = failure_location(error, location)
            raise ConfigurationError(
                f"network {name} ({failed_at}) cannot be built ({short_reason(error)})"
            ).with_details("name", name, "code that returns a module") from error
        if not isinstance(module, nn.Module):
            kind = type(module).__name__
            raise ConfigurationError(
                f"network {name} ({location}) is a {kind}: return a torch.nn.Module"
            ).with_details("name", kind, "torch.nn.Module")
        if isinstance(module, Network):
            module.name = name
            return module
        try:
            return as_network(module, name, classes, shape)
        except ConfigurationError as error:
            raise ConfigurationError.from_error(error, f"{location}: {error}") from error

    return ((MODELS, name, Builder(make, signature.settings, code=code)),)


def _build(signature: Signature, settings: Any, classes: int, shape: Shape) -> Any:
    """Call the function; if it cannot run on the device `meta`, move its result there."""
    reserved = {"classes": classes, "shape": shape}
    if torch.get_default_device().type != "meta":
        return signature.call(settings, reserved)
    try:
        return signature.call(settings, reserved)
    except (NotImplementedError, RuntimeError):
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            return signature.call(settings, reserved).to("meta")
