"""Test the restriction of a classifier to some of its classes."""

from pathlib import Path

import pytest
import torch

from orchestrator.models.build import build, build_on_meta
from orchestrator.models.checkpoint_files import read_checkpoint
from orchestrator.models.network import Network
from orchestrator.models.weight_import import Wanted, convert_checkpoint
from orchestrator.models.weights import load_weights, network_fingerprint, require_weights
from tests.refusal import refused

SHAPE, NAMES = (1, 8, 8), ("ant", "bee", "cat", "dog", "cat")


@pytest.fixture
def teacher() -> Network:
    torch.manual_seed(1)
    return build("mlp", 5, SHAPE, {"width": 6}).eval()


@pytest.fixture
def file(teacher: Network, tmp_path: Path) -> str:
    """Return imported weights of 5 classes, which the file names."""
    torch.save(teacher.state_dict(), tmp_path / "five.pth")
    checkpoint = read_checkpoint(tmp_path / "five.pth")
    imported = convert_checkpoint(checkpoint, Wanted("mlp", {"width": 6}))
    imported.save(tmp_path / "five.safetensors", NAMES)
    return str(tmp_path / "five.safetensors")


@pytest.mark.parametrize(
    ("classes", "positions"),
    [((3, 0), (3, 0)), (("dog", "ant"), (3, 0)), ((4, "bee", 2), (4, 1, 2)), (range(5), range(5))],
)
def test_restricted_logits_are_those_of_the_classes(
    teacher: Network, file: str, classes: tuple[int | str, ...], positions: tuple[int, ...]
) -> None:
    restricted = build("mlp", len(classes), SHAPE, {"width": 6}).eval()
    load_weights(restricted, file, exact=True, classes=classes)
    images = torch.randn(16, *SHAPE)
    with torch.no_grad():
        whole, part = teacher(images), restricted(images)
    assert torch.equal(part.features, whole.features)
    assert torch.allclose(part.logits, whole.logits[:, list(positions)], rtol=1e-6, atol=1e-7)
    assert torch.equal(restricted.head.weight, teacher.head.weight[list(positions)])


@pytest.mark.parametrize(
    ("classes", "value", "allowed"),
    [
        ((0, 1, 2), (0, 1, 2), "2 entries"),
        ((0, 5), 5, (0, 4)),
        ((0, "cow"), "cow", NAMES),
        ((0, "cat"), "cat", NAMES),  # the name of two classes
        ((1, 1), 1, "different classes"),
        ((1, "bee"), "bee", "different classes"),
    ],
)
def test_bad_classes_are_refused(
    file: str, classes: tuple[int | str, ...], value: object, allowed: object
) -> None:
    restricted = build("mlp", 2, SHAPE, {"width": 6})
    before = network_fingerprint(restricted.state_dict())
    with refused("classes", value, allowed):
        load_weights(restricted, file, exact=True, classes=classes)
    with refused("classes", value, allowed):
        on_meta = build_on_meta("mlp", 2, SHAPE, {"width": 6})
        require_weights(on_meta, file, exact=True, classes=classes)
    assert network_fingerprint(restricted.state_dict()) == before


def test_names_need_weights_that_name_their_classes(teacher: Network, tmp_path: Path) -> None:
    torch.save(teacher.state_dict(), tmp_path / "five.pth")
    imported = convert_checkpoint(
        read_checkpoint(tmp_path / "five.pth"), Wanted("mlp", {"width": 6})
    )
    imported.save(tmp_path / "unnamed.safetensors")
    with refused("classes", "bee", (0, 4)):
        load_weights(
            build("mlp", 2, SHAPE, {"width": 6}),
            str(tmp_path / "unnamed.safetensors"),
            classes=(0, "bee"),
        )


def test_a_network_without_a_linear_classifier_is_refused(file: str) -> None:
    restricted = build("mlp", 2, SHAPE, {"width": 6})
    for parameter in ("weight", "bias"):
        delattr(restricted.head, parameter)
    with refused("classes", (0, 1)):
        load_weights(restricted, file, exact=True, classes=(0, 1))


def test_weights_with_more_classes_are_refused_with_the_setting(file: str) -> None:
    with refused("weights", file, "weights of mlp with 2 classes") as caught:
        load_weights(build("mlp", 2, SHAPE, {"width": 6}), file, exact=True)
    assert "teacher.classes" in str(caught.value).splitlines()[0]


def test_published_weights_are_restricted_by_their_categories(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torchvision.models import ResNet18_Weights, resnet18

    torch.manual_seed(9)
    state = resnet18().state_dict()
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda *_, **__: state)
    classes = ("goldfish", 7)
    restricted = build("resnet18", 2, (3, 64, 64), {})
    require_weights(restricted, "IMAGENET1K_V1", exact=True, classes=classes)
    load_weights(restricted, "IMAGENET1K_V1", exact=True, classes=classes)
    assert torch.equal(restricted.head.weight, state["fc.weight"][[1, 7]])
    assert torch.equal(restricted.head.bias, state["fc.bias"][[1, 7]])
    with refused("weights", "IMAGENET1K_V1", "a classifier for 2 classes") as caught:
        require_weights(restricted, "IMAGENET1K_V1", exact=True)
    assert "teacher.classes" in str(caught.value)
