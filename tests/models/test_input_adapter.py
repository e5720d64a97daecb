"""Test that a network receives images of its own size and normalisation."""

import copy
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from orchestrator.config.network_schema import INPUT_KEYS, Network
from orchestrator.models.build import build, build_on_meta
from orchestrator.models.input_adapter import KEYS, InputAdapter, Statistics
from orchestrator.models.weights import (
    load_weights,
    network_fingerprint,
    require_weights,
    save_weights,
)
from tests.refusal import refused

SHAPE, OWN = (3, 8, 8), {"mean": (0.5, 0.4, 0.3), "std": (0.25, 0.5, 0.2)}
DATA = Statistics((0.1, 0.2, 0.3), (0.3, 0.2, 0.1))


def pixels(channels: int = 3, side: int = 8) -> torch.Tensor:
    return torch.rand(4, channels, side, side, generator=torch.Generator().manual_seed(2))


def normalised(images: torch.Tensor, statistics: Statistics) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in statistics)
    return (images - mean) / std


def test_keys_are_those_of_the_configuration() -> None:
    assert KEYS == INPUT_KEYS and set(KEYS) <= set(Network.model_fields)


@pytest.mark.parametrize("size", [None, 4, 8, 16])
def test_network_gets_the_same_pixels_normalised_and_resized_explicitly(size: int | None) -> None:
    settings = OWN | ({} if size is None else {"input_size": size})
    torch.manual_seed(0)
    network = build("cnn", 5, SHAPE, {"width": 4, **settings}, DATA).eval()
    torch.manual_seed(0)
    plain = build("cnn", 5, (3, size or 8, size or 8), {"width": 4}).eval()
    images = normalised(pixels(), Statistics(**OWN))
    if size not in (None, 8):
        images = functional.interpolate(
            images, (size, size), mode="bilinear", antialias=size is not None and size < 8
        )
    output = network(normalised(pixels(), DATA))
    torch.testing.assert_close(output.logits, plain(images).logits)
    torch.testing.assert_close(output.features, plain(images).features)


def test_size_alone_keeps_the_normalisation() -> None:
    network = build("cnn", 5, SHAPE, {"width": 4, "input_size": 8}, DATA).eval()
    assert network.adapter is not None
    assert torch.equal(network.adapter(pixels()), pixels())


def test_three_values_are_averaged_for_grey_images() -> None:
    settings = {"mean": (0.2, 0.4, 0.6), "std": (0.1, 0.2, 0.3)}
    network = build("cnn", 5, (1, 8, 8), settings, Statistics([0.5], [0.25]))
    grey = pixels(1)
    assert network.adapter is not None
    adapted = network.adapter(normalised(grey, Statistics([0.5], [0.25])))
    torch.testing.assert_close(adapted, (grey - 0.4) / 0.2)
    with refused("mean", settings["mean"], "2 values"):
        build("cnn", 5, (2, 8, 8), settings)


def test_adapter_has_no_parameters_and_is_part_of_the_weights() -> None:
    networks = []
    for statistics in (DATA, DATA, Statistics(DATA.mean, (0.3, 0.2, 0.2))):
        torch.manual_seed(0)
        networks.append(build("cnn", 5, SHAPE, {"width": 4, **OWN}, statistics))
    assert isinstance(networks[0].adapter, InputAdapter)
    assert not list(networks[0].adapter.parameters())
    first, same, other = (network_fingerprint(each.state_dict()) for each in networks)
    assert first == same != other
    torch.manual_seed(0)
    plain = build("cnn", 5, SHAPE, {"width": 4})
    assert plain.adapter is None and list(plain.state_dict()) == [
        key for key in networks[0].state_dict() if not key.startswith("adapter.")
    ]
    loaded = build("cnn", 5, SHAPE, {"width": 4, **OWN})
    loaded.load_state_dict(networks[0].state_dict())
    assert network_fingerprint(loaded.state_dict()) == first


def test_meta_network_has_the_shapes_of_the_network() -> None:
    settings = {"width": 4, **OWN, "input_size": 16}
    network = build("cnn", 5, SHAPE, settings, DATA)
    meta = build_on_meta("cnn", 5, SHAPE, settings)
    assert {key: value.shape for key, value in meta.state_dict().items()} == {
        key: value.shape for key, value in network.state_dict().items()
    }


def test_file_of_weights_does_not_replace_the_constants(tmp_path: Path) -> None:
    plain = build("cnn", 5, SHAPE, {"width": 4})
    save_weights(plain, tmp_path / "plain.safetensors")
    network = build("cnn", 5, SHAPE, {"width": 4, **OWN}, DATA)
    constants = copy.deepcopy(network.adapter)
    assert constants is not None and network.adapter is not None
    load_weights(network, str(tmp_path / "plain.safetensors"))
    assert torch.equal(network.head.weight, plain.head.weight)
    save_weights(build("cnn", 5, SHAPE, {"width": 4, **OWN}), tmp_path / "other.safetensors")
    load_weights(network, str(tmp_path / "other.safetensors"))
    for key, value in constants.state_dict().items():
        assert torch.equal(network.adapter.state_dict()[key], value), key
    meta = build_on_meta("cnn", 5, SHAPE, {"width": 4, **OWN})
    for name in ("plain", "other"):
        require_weights(meta, str(tmp_path / f"{name}.safetensors"))
    with refused("weights"):  # the weights expect another normalisation
        load_weights(plain, str(tmp_path / "other.safetensors"))


def test_records_of_a_network_without_an_own_input_are_as_before() -> None:
    network = Network.model_validate({"name": "cnn", "width": 4})
    assert network.model_dump(mode="json") == {"name": "cnn", "weights": None, "width": 4}
    assert network.settings == {"width": 4}
    own = Network.model_validate({"name": "cnn", "width": 4, **OWN, "input_size": 16})
    assert own.settings == {"width": 4, **OWN, "input_size": 16}
    assert Network.model_validate(own.model_dump(mode="json")) == own


@pytest.mark.parametrize(
    "given", [{"mean": [0.5]}, {"std": [0.5]}, {"mean": [0.5], "std": [0.1, 0.2]}, {"mean": []}]
)
def test_mean_and_std_go_together(given: dict[str, list[float]]) -> None:
    from orchestrator.config.loader import build as configured

    with refused("student.mean"):
        configured({"student": {"name": "cnn", **given}})
