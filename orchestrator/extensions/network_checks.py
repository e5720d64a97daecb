"""Check a registered network: outputs, gradients, settings, and whether it can be exported."""

from functools import partial

import torch
from torch import Tensor

from methods import Output
from orchestrator.extensions._checking import Checks, check_settings, require
from orchestrator.models.build import MODELS, build, build_on_meta
from orchestrator.models.network import Network, Shape
from orchestrator.models.weights import network_fingerprint

SAMPLES = 4


def network_checks(name: str, classes: int, shape: Shape) -> Checks:
    """Return the checks of a network, by their names.

    Args:
        name: A key of `MODELS`.
        classes: Number of classes K.
        shape: (channels, height, width) of the inputs.
    """
    checks = (
        check_outputs,
        check_gradients,
        check_evaluation,
        check_seed,
        check_build_without_memory,
        check_export,
    )
    return {"settings": partial(check_settings, MODELS[name].settings)} | {
        check.__name__.removeprefix("check_").replace("_", " "): partial(
            check, name, classes, shape
        )
        for check in checks
    }


def build_seeded(name: str, classes: int, shape: Shape, seed: int = 0) -> Network:
    """Build a network with its default settings after seeding torch."""
    torch.manual_seed(seed)
    return build(name, classes, shape, {})


def random_images(shape: Shape, samples: int = SAMPLES) -> Tensor:
    """Return random inputs (samples, C, H, W)."""
    return torch.randn(samples, *shape, generator=torch.Generator().manual_seed(samples))


def check_outputs(name: str, classes: int, shape: Shape) -> None:
    """Check the shapes of logits and features, and that they are finite."""
    output = build_seeded(name, classes, shape).eval()(random_images(shape))
    require(isinstance(output, Output), "forward returns no logits and features")
    require(
        output.logits.shape == (SAMPLES, classes),
        f"the logits have shape {tuple(output.logits.shape)}",
    )
    require(
        output.features.ndim == 2 and len(output.features) == SAMPLES,
        f"the features have shape {tuple(output.features.shape)}, not (B, D)",
    )
    require(bool(output.logits.isfinite().all()), "the logits of fresh weights are not finite")


def check_gradients(name: str, classes: int, shape: Shape) -> None:
    """Check that the loss has a finite gradient for every trained parameter."""
    network = build_seeded(name, classes, shape).train()
    network(random_images(shape)).logits.logsumexp(1).sum().backward()
    for key, parameter in network.named_parameters():
        if parameter.requires_grad:
            require(parameter.grad is not None, f"the parameter {key} gets no gradient")
            assert parameter.grad is not None
            require(bool(parameter.grad.isfinite().all()), f"the gradient of {key} is not finite")


def check_evaluation(name: str, classes: int, shape: Shape) -> None:
    """Check that evaluation is deterministic and changes no weights."""
    network = build_seeded(name, classes, shape).eval().requires_grad_(False)
    before, images = network_fingerprint(network.state_dict()), random_images(shape)
    first, second = network(images).logits, network(images).logits
    require(torch.equal(first, second), "two evaluations of the same images differ")
    require(
        network_fingerprint(network.state_dict()) == before, "an evaluation changes the weights"
    )


def check_seed(name: str, classes: int, shape: Shape) -> None:
    """Check that the same seed makes the same network."""
    prints = {
        network_fingerprint(build_seeded(name, classes, shape).state_dict()) for _ in range(2)
    }
    require(len(prints) == 1, "the same seed makes different weights")


def check_build_without_memory(name: str, classes: int, shape: Shape) -> None:
    """Check that the plan can build it without memory, with the same parameters."""
    sizes = [
        {key: tuple(value.shape) for key, value in network.state_dict().items()}
        for network in (build_on_meta(name, classes, shape, {}), build_seeded(name, classes, shape))
    ]
    require(sizes[0] == sizes[1], "it has other parameters on the device meta")


def check_export(name: str, classes: int, shape: Shape) -> None:
    """Check that torch.export gives a program with the same logits for any batch size."""
    network = build_seeded(name, classes, shape).eval()
    dynamic = {"inputs": {0: torch.export.Dim("batch")}}
    exported = torch.export.export(
        network, (random_images(shape, 3),), dynamic_shapes=dynamic
    ).module()
    for samples in (1, 5):
        with torch.no_grad():
            expected = network(random_images(shape, samples)).logits
            logits = exported(random_images(shape, samples)).logits
        require(
            logits.shape == expected.shape
            and torch.allclose(logits, expected, rtol=1e-4, atol=1e-5),
            f"the exported program gives other logits for {samples} images",
        )
