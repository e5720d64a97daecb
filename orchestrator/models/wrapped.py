"""Make a `Network` of any module that returns logits."""

import contextlib
from bdb import BdbQuit
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from methods import Output
from orchestrator.core.errors import ConfigurationError, short_reason
from orchestrator.core.user_code import failure_location
from orchestrator.models.network import Network, PublishedWeights, Shape

# what layers raise for images of another shape
_SHAPE_ERRORS = (RuntimeError, ValueError, AssertionError)


class WrappedNetwork(Network):
    """Network whose body is a module of another library, without its classifier.

    Parameters have the names of the module below `body.`; those of the classifier begin with
    `head.`.
    """

    def forward(self, inputs: Tensor) -> Output:
        """Return the features (B, D) and the logits (B, K) = head(features)."""
        if self.adapter is not None:
            inputs = self.adapter(inputs)
        features = select_logits(self.body(inputs))
        return Output(self.head(features), features)


class IdentityHead(nn.Linear):
    """Head of a network whose features are its logits: the identity, without parameters."""

    def __init__(self, classes: int) -> None:
        nn.Module.__init__(self)
        self.in_features = self.out_features = classes
        self.register_buffer("weight", torch.eye(classes), persistent=False)
        self.register_buffer("bias", torch.zeros(classes), persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """Return the input."""
        return input


class _Call(NamedTuple):
    """Call of a linear layer or of a convolution, with its path in the module."""

    path: str
    layer: nn.Linear | nn.Conv2d
    features: Tensor
    output: Tensor


def select_logits(output: Any) -> Tensor:
    """Return the logits of a module's output.

    Args:
        output: A tensor, an object or mapping with `logits`, or a sequence that begins with them.
    """
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict) and "logits" in output:
        logits = output["logits"]
    elif hasattr(output, "logits"):
        logits = output.logits
    else:
        logits = output[0]
    assert isinstance(logits, Tensor)
    return logits


def as_network(
    module: nn.Module,
    name: str,
    classes: int,
    shape: Shape,
    *,
    stages: Sequence[str] = (),
    published: PublishedWeights | None = None,
) -> Network:
    """Return a network of a module that returns logits (B, K), which is changed in place.

    The features are the input of the linear layer that computes the logits. This layer becomes the
    head, and an identity replaces it in the module. A 1x1 convolution of a single pixel counts as
    a linear layer. If the logits are computed in another way, they are the features too. One image
    is passed through the module in eval mode; its modes, its buffers and the random state do not
    change.

    Args:
        module: The module, also on the device `meta`. Its output is a tensor, an object or mapping
            with `logits`, or a sequence that begins with the logits.
        name: The name of the network.
        classes: K.
        shape: (C, H, W) of the images.
        stages: Paths of submodules whose outputs (B, C, H, W) are the feature maps, from the
            input to the output. Those with another output are left out.
        published: Weights that have names.

    Raises:
        ConfigurationError: The module refuses the images, or does not return logits (B, K).
    """
    if isinstance(module, Network):
        return module
    with (
        _evaluating(module),
        _recorded_calls(module) as calls,
        _recorded_outputs(module, stages) as outputs,
    ):
        logits = _compute_logits(module, name, shape, next(module.parameters(), torch.zeros(())))
    if logits.shape != (1, classes):
        raise ConfigurationError(
            f"network {name} returns logits of shape {tuple(logits.shape)} for one image, and "
            f"{(1, classes)} is needed: return one logit for each of the {classes} classes"
        ).with_details("name", tuple(logits.shape), (1, classes))
    maps = [path for path in stages if isinstance(outputs.get(path), Tensor)]
    maps = [path for path in maps if outputs[path].ndim == 4]
    last = next((call for call in reversed(calls) if _is_flat(call.output, logits)), None)
    head, classifier = None, ""
    if last is not None and _is_removable(last):
        module.set_submodule(last.path, nn.Identity())
        _require_features(module, name, last, shape)
        head, classifier = _as_head(last.layer), last.path
    network = WrappedNetwork(name, module, 0, classes, maps, head or IdentityHead(classes))
    network.classifier, network.published = classifier, published
    return network


def rename_tensors(state: dict[str, Tensor], classifier: str) -> dict[str, Tensor]:
    """Return the state of a module by the names of its network.

    Args:
        state: Tensors by the names of the module.
        classifier: `Network.classifier`.
    """
    named, start = {}, f"{classifier}."
    for name, tensor in state.items():
        if classifier and name.startswith(start):
            # a convolution has two more axes than a linear layer
            named[f"head.{name.removeprefix(start)}"] = (
                tensor.flatten(1) if tensor.ndim == 4 else tensor
            )
        else:
            named[f"body.{name}"] = tensor
    return named


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Set eval mode in the block, and restore the mode of every submodule and the random state."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        with torch.random.fork_rng([]), torch.no_grad():
            yield
    finally:
        for each, training in modes:
            each.training = training


@contextlib.contextmanager
def _recorded_calls(module: nn.Module) -> Iterator[list[_Call]]:
    calls: list[_Call] = []

    def record(path: str, layer: Any, arguments: Any, output: Tensor) -> None:
        calls.append(_Call(path, layer, arguments[0], output))

    with contextlib.ExitStack() as stack:
        for path, layer in module.named_modules():
            if isinstance(layer, nn.Linear) or _is_linear_convolution(layer):
                stack.callback(layer.register_forward_hook(partial(record, path)).remove)
        yield calls


@contextlib.contextmanager
def _recorded_outputs(module: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, Any]]:
    outputs: dict[str, Any] = {}

    def record(path: str, layer: nn.Module, arguments: Any, output: Any) -> None:
        outputs[path] = output

    with contextlib.ExitStack() as stack:
        for path in paths:
            hook = module.get_submodule(path).register_forward_hook(partial(record, path))
            stack.callback(hook.remove)
        yield outputs


def _compute_logits(module: nn.Module, name: str, shape: Shape, like: Tensor) -> Tensor:
    """Return the logits of an image with the device and the type of a tensor."""
    if like.is_meta:
        image = torch.empty(1, *shape, device="meta")
    else:  # random, because a network may divide by the norm of the image
        generator = torch.Generator("cpu").manual_seed(0)
        image = torch.randn(1, *shape, generator=generator, device="cpu")
    image = image.to(like.device, like.dtype)
    try:
        return select_logits(module(image))
    except BdbQuit:  # the user has left the debugger
        raise
    except Exception as error:  # a module raises errors of any class
        _require_channels(module, name, image, error)
        raise _refuse_images(name, shape, error) from error


def _refuse_images(name: str, shape: Shape, error: Exception) -> ConfigurationError:
    """Return the refusal of a network that fails for images (C, H, W)."""
    size, own = "x".join(map(str, shape)), name.startswith("my/")
    location = failure_location(error, "") if own else ""
    problem = f"({short_reason(error)}{f', {location}' if location else ''})"
    if own and not isinstance(error, _SHAPE_ERRORS):
        return ConfigurationError(
            f"network {name} fails {problem}: correct its forward"
        ).with_details("name", name, "a forward that returns logits")
    advice = "correct its forward" if own else "choose another network"
    return ConfigurationError(
        f"network {name} cannot be used for images of {size} {problem}: give another input_size, "
        f"or {advice}"
    ).with_details("input_size", shape, "images that the network accepts")


def _require_channels(module: nn.Module, name: str, image: Tensor, error: Exception) -> None:
    """Raise ConfigurationError if the module accepts images with 1 or 3 channels instead."""
    _, given, *sides = image.shape
    for channels in {1, 3} - {given}:
        try:
            module(image.new_zeros(1, channels, *sides))
        except Exception:  # the number of channels is not the reason
            continue
        raise ConfigurationError(
            f"network {name} takes images with channels = {channels}, and the data have "
            f"{given}: build it for channels = {given}, or convert the images"
        ).with_details("input_size", (given, *sides), (channels, *sides)) from error


def _is_removable(call: _Call) -> bool:
    """Return whether an identity can replace the layer: it has only a weight and a bias."""
    layer = call.layer
    forwards = (nn.Linear.forward, nn.Conv2d.forward)
    is_plain = type(layer).forward in forwards or type(layer).__module__.startswith("timm.")
    names = {name for name, _ in layer.named_parameters()}
    return bool(call.path) and is_plain and names <= {"weight", "bias"} and len(call.features) == 1


def _require_features(module: nn.Module, name: str, call: _Call, shape: Shape) -> None:
    """Raise ConfigurationError if a module without its classifier does not return the features."""
    if call.features.device.type == "meta":  # a pass takes a second there
        return
    with _evaluating(module):
        features = _compute_logits(module, name, shape, call.layer.weight)
    expected = call.features.flatten(1)
    if features.shape != expected.shape or not torch.allclose(features, expected, 1e-3, 1e-5):
        raise ConfigurationError(
            f"network {name} computes other features if an identity replaces its classifier "
            f"{call.path}: return the output of the classifier as it is"
        ).with_details("name", call.path, "a classifier that can be replaced by nn.Identity")


def _is_linear_convolution(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1


def _is_flat(output: Tensor, logits: Tensor) -> bool:
    """Return whether the logits are an output (1, K), or (1, K, 1, 1) without its last axes."""
    if output.ndim == 2:
        return output is logits
    return output.shape == (*logits.shape, 1, 1) and logits._base is output


def _as_head(layer: nn.Linear | nn.Conv2d) -> nn.Linear:
    """Return the layer as a head: a missing bias is zero, and not part of the weights."""
    if isinstance(layer, nn.Linear):
        head = layer
    else:
        weight, bias = layer.weight.detach().flatten(1), layer.bias
        with torch.device("meta"):  # the layer gets the tensors of the convolution
            head = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
        head.weight = nn.Parameter(weight)
        if bias is not None:
            head.bias = nn.Parameter(bias.detach())
    if head.bias is None:
        del head.bias
        head.register_buffer("bias", head.weight.new_zeros(len(head.weight)), persistent=False)
    return head
