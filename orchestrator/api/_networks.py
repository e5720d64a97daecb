"""Make networks of the functions and modules that the user gives."""

import copy
import hashlib
import inspect
import re
from bdb import BdbQuit
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from orchestrator.api._options import require_free
from orchestrator.config.network_schema import INPUT_KEYS
from orchestrator.core.errors import ConfigurationError, short_reason
from orchestrator.extensions.code_identity import code_identity
from orchestrator.extensions.registry import PREFIX, Origin
from orchestrator.models.module_weights import fill_module

Factory = Callable[[], nn.Module]
LONGEST_NAME = 40  # characters of the name of a class; identity and role follow
IDENTITY = 8  # digits of the identity in the name of a network


@dataclass(frozen=True)
class Function:
    """Function of the user that returns a new module, as a network to register.

    Attributes:
        name: The name of the network.
        build: The function.
        location: File and line of the function, for messages.
        origin: The identity of the module.
    """

    name: str
    build: Factory
    location: str
    origin: Origin


@dataclass(frozen=True)
class GivenNetwork:
    """Network of a run.

    Attributes:
        section: The section of the configuration that names it.
        function: The function to register; None for a network that has a name already.
        trained: The module with given weights; None if the run gives it weights.
        weights: The file of these weights; None for those of a module.
    """

    section: dict[str, Any]
    function: Function | None = None
    trained: nn.Module | None = None
    weights: str | Path | None = None

    @property
    def has_weights(self) -> bool:
        """Return whether the network has given weights."""
        return self.trained is not None or self.section.get("weights") is not None


def read_network(
    network: Any, argument: str, settings: Mapping[str, Any], weights: str | Path | None = None
) -> GivenNetwork:
    """Return the network of an argument.

    Args:
        network: The name of a network, a function without parameters that returns a new module,
            for a teacher also a module, or a mapping with one of these as `name` and settings.
        argument: The argument: `student`, `teacher`, or `peers.b` and so on.
        settings: `input_size`, `mean` and `std`, and for a named network its settings.
        weights: Its weights: a file, or the name of published weights.

    Raises:
        ConfigurationError: The network cannot be used.
    """
    if isinstance(network, Mapping) and not isinstance(network.get("name"), str | None):
        require_free(network, settings)
        given = {key: value for key, value in network.items() if key != "name"} | dict(settings)
        return read_network(network["name"], argument, given, weights)
    if isinstance(network, str | Mapping):
        section = dict(network) if isinstance(network, Mapping) else {"name": network}
        section |= dict(settings) | ({} if weights is None else {"weights": str(weights)})
        return GivenNetwork(section)
    if inputs := {key: value for key, value in settings.items() if key in INPUT_KEYS}:
        others = {key: value for key, value in settings.items() if key not in INPUT_KEYS}
        built = read_network(network, argument, others, weights)
        return replace(built, section=built.section | inputs)
    if settings:
        raise ConfigurationError(
            f"{argument}: {', '.join(settings)} cannot be given for a function or a module: set "
            f"them within the function, or give the name of a network"
        ).with_details(argument, tuple(settings), "no settings of the network")
    if isinstance(network, nn.Module):
        if argument != "teacher":
            raise ConfigurationError(
                f"{argument} is a {type(network).__name__}, but every training needs new weights: "
                f"give a function that builds it, such as lambda: {type(network).__name__}(...)"
            ).with_details(argument, type(network).__name__, "a function that returns a new module")
        module = copy.deepcopy(network).cpu()
        factory = _copies_of(module)
    else:
        factory, module = network, _build_module(network, argument)
        _require_new_modules(factory, module, argument)
    trained = module if isinstance(network, nn.Module) else None
    if weights is not None:
        trained = module
        fill_module(trained, str(weights))
    code = identity(module, factory)
    name = _name(module, code, argument)
    origin = Origin("Python call", code, replaces=True)
    function = Function(name, factory, _find_location(factory), origin)
    return GivenNetwork({"name": name}, function, trained, weights)


def _copies_of(module: nn.Module) -> Factory:
    return lambda: copy.deepcopy(module)


def identity(module: nn.Module, factory: Factory) -> str:
    """Return the SHA-256 of a module without its weights, and of the function that builds it.

    It covers the text of the module, the names and shapes of its tensors, the code of its classes,
    and the code and values that these and the function use.
    """
    tensors = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
    code = code_identity((module, factory))
    return hashlib.sha256(f"{module!r}\n{tensors}\n{code}".encode()).hexdigest()


def read_again(network: GivenNetwork, argument: str) -> GivenNetwork:
    """Return the network of a function under its present name, which has a hash of its code.

    In a notebook, a class can be defined again after `orchestrator.teacher` was called.
    """
    function = network.function
    if function is None or (network.trained is not None and network.weights is None):
        return network  # it has a name, or is a copy of a module
    if (
        identity(_build_module(function.build, argument), function.build)
        == function.origin.identity
    ):
        return network
    inputs = {key: value for key, value in network.section.items() if key in INPUT_KEYS}
    return read_network(function.build, argument, inputs, network.weights)


def require_same_code(function: Function) -> None:
    """Raise ConfigurationError if a function builds another network than that of its run."""
    module = _build_module(function.build, function.name)
    if (code := identity(module, function.build)) != function.origin.identity:
        raise ConfigurationError(
            f"{function.name} ({function.location}): the code of this network, or a value that it "
            f"uses, has changed since the run: restore it, or start a new run"
        ).with_details(function.name, code, function.origin.identity)


def _name(module: nn.Module, code: str, argument: str) -> str:
    """Return the name of a network: its class, the first digits of its identity, and its role.

    Networks of the same identity may have different roles.
    """
    kind = re.sub(r"[^A-Za-z0-9]+", "", type(module).__name__)[:LONGEST_NAME]
    kind = kind if kind[:1].isalpha() else f"Network{kind}"
    role = "" if argument == "student" else f"-{argument.replace('.', '-')}"
    return f"{PREFIX}{kind}-{code[:IDENTITY]}{role}"


def _build_module(factory: Any, argument: str) -> nn.Module:
    """Call the user's function, without an effect on random numbers."""
    if not callable(factory):
        raise ConfigurationError(
            f"{argument} is {type(factory).__name__}: give the name of a network, or a function "
            f"without parameters that returns a new module"
        ).with_details(argument, type(factory).__name__, "a name or a function")
    try:
        with torch.random.fork_rng(devices=[]):
            module = factory()
    except BdbQuit:  # the user has left the debugger
        raise
    except Exception as error:  # any error of the user's function
        reason = short_reason(error)
        raise ConfigurationError(
            f"{argument}: the function in {_find_location(factory)} fails with {reason}"
        ).with_details(
            argument, reason, "a function without parameters that returns a module"
        ) from (error)
    if not isinstance(module, nn.Module):
        raise ConfigurationError(
            f"{argument}: the function in {_find_location(factory)} returns "
            f"{type(module).__name__}: it must return a torch.nn.Module"
        ).with_details(argument, type(module).__name__, "a torch.nn.Module")
    return module


def _require_new_modules(factory: Factory, module: nn.Module, argument: str) -> None:
    """Raise ConfigurationError if the function returns the same module at every call."""
    if _build_module(factory, argument) is module:
        raise ConfigurationError(
            f"{argument}: the function in {_find_location(factory)} returns the same module at "
            f"every call, but every training needs new weights: build the module within the "
            f"function"
        ).with_details(argument, "the same module", "a new module at every call")


def _find_location(factory: Any) -> str:
    """Return file and line of a function, for messages."""
    code = getattr(inspect.unwrap(factory), "__code__", None)
    if code is not None:
        return f"{Path(code.co_filename).name}:{code.co_firstlineno}"
    return getattr(factory, "__qualname__", type(factory).__qualname__)


def published_inputs(network: GivenNetwork, given: Collection[str]) -> dict[str, Any]:
    """Return the `input_size`, `mean` and `std` of given weights by a module's `pretrained_cfg`.

    Modules of timm have this attribute.

    Args:
        network: The network; there are no values if it has no module with given weights.
        given: Keys that have a value already, and do not need another.
    """
    published = getattr(network.trained, "pretrained_cfg", None)
    if not isinstance(published, Mapping):
        return {}
    inputs: dict[str, Any] = {}
    if published.get("input_size") and "input_size" not in given:
        inputs["input_size"] = int(published["input_size"][-1])
    if published.get("mean") and published.get("std") and not {"mean", "std"} & {*given}:
        inputs |= {key: [float(value) for value in published[key]] for key in ("mean", "std")}
    return inputs
