"""Test networks of timm and torchvision by their names, with random weights."""

import copy
from typing import Any

import optuna
import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from torch import nn

from orchestrator.config.loader import load
from orchestrator.config.search_space import draw
from orchestrator.core.errors import ConfigurationError
from orchestrator.export.formats import program
from orchestrator.models.build import (
    all_settings,
    build,
    build_on_meta,
    find_builder,
    identify,
    published_inputs,
    usual_inputs,
)
from orchestrator.models.feature_maps import map_shapes
from orchestrator.models.network import Network
from orchestrator.models.weights import load_weights, network_fingerprint, require_weights
from orchestrator.models.wrapped import rename_tensors
from orchestrator.sweep.preflight.configuration import check_search
from tests.refusal import refused

timm: Any = pytest.importorskip("timm")
CLASSES = 5
# name -> side of the images, length of the features, number of stages
NETWORKS = {
    "timm/resnet10t": (32, 512, 5),
    "timm/mobilenetv3_small_050": (32, 1024, 5),
    "timm/vit_tiny_patch16_224": (32, 192, 0),
    "timm/efficientnet_lite0": (32, 1280, 5),
    "timm/convnext_atto": (32, 320, 4),
    "timm/resnetv2_50": (32, 2048, 5),
    "timm/swin_tiny_patch4_window7_224": (64, 768, 0),
    "torchvision/shufflenet_v2_x0_5": (32, 1024, 0),
    "torchvision/resnet18": (32, 512, 4),
    "torchvision/squeezenet1_0": (32, CLASSES, 4),
    "torchvision/regnet_y_400mf": (32, 440, 4),
    "torchvision/vit_b_32": (64, 768, 0),
}
LARGE = (
    "timm/swin_tiny_patch4_window7_224",
    "timm/resnetv2_50",
    "torchvision/regnet_y_400mf",
    "torchvision/vit_b_32",
)
SETTINGS: dict[str, dict[str, Any]] = {"timm/vit_tiny_patch16_224": {"depth": 2}}
SMALL = ("timm/resnet10t", "timm/mobilenetv3_small_050", "torchvision/shufflenet_v2_x0_5")


def images(side: int, channels: int = 3) -> torch.Tensor:
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(3))


def small(name: str, shape: tuple[int, int, int] = (3, 32, 32), **settings: Any) -> Network:
    torch.manual_seed(0)
    return build(name, CLASSES, shape, settings)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in NETWORKS],
)
def test_shapes_of_features_logits_and_maps(name: str) -> None:
    side, features, stages = NETWORKS[name]
    network = build_on_meta(name, CLASSES, (3, side, side), SETTINGS.get(name, {}))
    assert network.head.in_features == features and len(network.stages) == stages
    output = network.eval()(torch.empty(2, 3, side, side, device="meta"))
    assert output.features.shape == (2, features) and output.logits.shape == (2, CLASSES)
    shapes = list(map_shapes(network, (3, side, side), list(network.stages)).values())
    heights = [shape.height for shape in shapes]
    assert heights == sorted(heights, reverse=True) and all(height > 0 for height in heights)
    assert str(network) == f"{name} with {CLASSES} classes"


@pytest.mark.parametrize("name", SMALL)
def test_logits_are_those_of_the_library(name: str) -> None:
    network = small(name).eval()
    origin, _, own = name.partition("/")
    torch.manual_seed(0)
    if origin == "timm":
        module = timm.create_model(own, num_classes=CLASSES).eval()
    else:
        from torchvision.models import get_model

        module = get_model(own, num_classes=CLASSES).eval()
    output = network(images(32))
    torch.testing.assert_close(output.logits, module(images(32)))
    expected = output.features @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(output.logits, expected)
    renamed = rename_tensors(module.state_dict(), network.classifier)
    assert network_fingerprint(renamed) == network_fingerprint(network.state_dict())
    if origin == "timm":
        torch.testing.assert_close(
            output.features, module.forward_head(module.forward_features(images(32)), True)
        )


@pytest.mark.parametrize("name", SMALL)
def test_network_trains_on_grey_images(name: str) -> None:
    network = small(name, (1, 32, 32)).train()
    network(images(32, 1)).logits.logsumexp(1).sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key


def test_settings_go_to_the_constructor() -> None:
    network = small("timm/resnet10t", drop_path_rate=0.5)
    layers: list[Any] = list(network.modules())
    rates = [each.drop_prob for each in layers if type(each).__name__ == "DropPath"]
    assert max(rates) == 0.5
    known = small("torchvision/shufflenet_v2_x0_5")
    assert known.stages == {}
    assert all_settings("timm/resnet10t", {"drop_path_rate": 0.5, "input_size": 32}) == {
        "drop_path_rate": 0.5,
        "input_size": 32,
    }


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("timm/resnet10t", "drop_path", 0.1),
        ("timm/resnet10t", "drop_path_rate", "much"),
        ("timm/resnet10t", "drop_path_rate", [0.1]),
        ("timm/resnet10t", "num_classes", 3),
        ("timm/resnet10t", "in_chans", 3),
        ("timm/resnet10t", "pretrained", True),
        ("timm/resnet10t", "checkpoint_path", "file.pth"),
        ("torchvision/resnet18", "weights_backbone", "DEFAULT"),
        ("torchvision/resnet18", "width", 3),
    ],
)
def test_settings_that_do_not_exist_or_are_not_allowed_are_refused(
    name: str, setting: str, value: Any
) -> None:
    with refused(setting) as caught:
        build_on_meta(name, CLASSES, (3, 32, 32), {setting: value})
    assert setting in str(caught.value) and "\n" not in str(caught.value)
    if setting == "drop_path":
        allowed: Any = caught.value
        assert "drop_path_rate" in allowed.allowed


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("timm/resnet10", "timm/resnet10t"),
        ("timm/resnet18.a9_in1k", "timm/resnet18.a1_in1k"),
        ("timm/hf-hub:timm/resnet18", None),
        ("torchvision/resnt18", "torchvision/resnet18"),
        ("torchvision/fasterrcnn_resnet50_fpn", None),
        ("other/resnet18", None),
    ],
)
def test_unknown_names_are_refused_with_close_ones(wrong: str, meant: str | None) -> None:
    with refused("name", wrong) as caught:
        find_builder(wrong)
    assert meant is None or meant in str(caught.value)


def test_published_weights_state_their_input() -> None:
    assert published_inputs("timm/vit_tiny_patch16_224", "pretrained") == {
        "name": "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        "input_size": 224,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
    assert published_inputs("torchvision/resnet18", "IMAGENET1K_V1")["input_size"] == 224
    assert usual_inputs("timm/vit_tiny_patch16_224")["input_size"] == 224
    assert usual_inputs("torchvision/resnet18")["mean"] == [0.485, 0.456, 0.406]
    assert usual_inputs("resnet18") == usual_inputs("timm/test_vit.none") == {}
    assert published_inputs("resnet18", "IMAGENET1K_V1") == {}
    with refused("weights", "best", ("pretrained",)):
        published_inputs("timm/resnet18", "best")


def test_configuration_is_completed_with_what_is_not_given() -> None:
    pairs = ["student.name=timm/resnet18", "student.weights=pretrained", "student.input_size=64"]
    student = load(None, pairs).student
    assert student.name == "timm/resnet18.a1_in1k" and student.input_size == 64
    assert student.mean is not None and student.mean[0] == 0.485
    assert load(None, pairs[:1]).student.model_dump() == {"name": "timm/resnet18", "weights": None}
    with refused("student.weights", "best"):
        load(None, [pairs[0], "student.weights=best"])


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Replace the download of timm by a network with other weights, and return it."""
    torch.manual_seed(7)
    module: nn.Module = timm.create_model("resnet10t", num_classes=1000)
    create = timm.create_model

    def create_model(name: str, pretrained: bool = False, **settings: Any) -> nn.Module:
        new: nn.Module = create(name, pretrained=False, **settings)
        state = module.state_dict()
        if pretrained and settings["num_classes"] != 1000:
            state = {key: state[key] for key in state if not key.startswith("fc.")}
        if pretrained:
            new.load_state_dict(state, strict=False)
        return new

    monkeypatch.setattr(timm, "create_model", create_model)
    return module


def test_published_weights_fill_all_but_a_classifier_for_other_classes(
    published: nn.Module,
) -> None:
    network, fresh = small("timm/resnet10t"), small("timm/resnet10t")
    random = torch.get_rng_state()
    load_weights(network, "pretrained")
    assert torch.equal(torch.get_rng_state(), random)
    state = network.state_dict()
    assert torch.equal(state["head.weight"], fresh.head.weight)
    rest = {key: value for key, value in published.state_dict().items() if "fc." not in key}
    assert all(torch.equal(state[f"body.{key}"], value) for key, value in rest.items())
    whole = build("timm/resnet10t", 1000, (3, 32, 32), {})
    load_weights(whole, "pretrained", exact=True)
    renamed = rename_tensors(published.state_dict(), "fc")
    assert network_fingerprint(whole.state_dict()) == network_fingerprint(renamed)


def test_teacher_needs_a_classifier_for_its_classes() -> None:
    network = build_on_meta("timm/resnet10t", CLASSES, (3, 32, 32), {})
    with refused("weights", "pretrained", f"a classifier for {CLASSES} classes"):
        require_weights(network, "pretrained", exact=True)
    require_weights(network, "pretrained")
    network = build_on_meta("torchvision/resnet18", CLASSES, (3, 32, 32), {})
    with refused("weights", "IMAGENET1K_V1", f"a classifier for {CLASSES} classes"):
        require_weights(network, "IMAGENET1K_V1", exact=True)
    require_weights(network, "IMAGENET1K_V1")
    with refused("weights", "IMAGENET1K_V9"):
        require_weights(network, "IMAGENET1K_V9")


def test_teacher_without_a_linear_classifier_needs_the_classes_of_its_weights() -> None:
    def squeezenet(classes: int) -> Network:
        return build_on_meta("torchvision/squeezenet1_1", classes, (3, 32, 32), {})

    require_weights(squeezenet(1000), "IMAGENET1K_V1", exact=True)
    with refused("weights", "IMAGENET1K_V1", f"a classifier for {CLASSES} classes"):
        require_weights(squeezenet(CLASSES), "IMAGENET1K_V1", exact=True)
    with refused("classes"):
        require_weights(squeezenet(2), "IMAGENET1K_V1", exact=True, classes=(1, 2))


def test_weights_without_a_linear_classifier_are_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

    module = squeezenet1_1().eval()
    state = module.state_dict()
    monkeypatch.setattr(SqueezeNet1_1_Weights, "get_state_dict", lambda *_, **__: state)
    network = build("torchvision/squeezenet1_1", 1000, (3, 32, 32), {}).eval()
    load_weights(network, "IMAGENET1K_V1", exact=True)
    torch.testing.assert_close(network(images(32)).logits, module(images(32)))


def test_torchvision_weights_keep_a_fresh_stem_and_classifier(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from torchvision.models import ResNet18_Weights, resnet18

    torch.manual_seed(7)
    state = resnet18().state_dict()
    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", lambda *_, **__: state)
    network = small("torchvision/resnet18", (1, 32, 32))
    fresh = copy.deepcopy(network.state_dict())
    load_weights(network, "IMAGENET1K_V1")
    for key, value in network.state_dict().items():
        kept = key.startswith(("head.", "body.conv1."))
        expected = fresh[key] if kept else state[key.removeprefix("body.")]
        assert torch.equal(value, expected), key


def test_names_identify_networks_without_a_folder() -> None:
    assert identify("timm/resnet18", None) == "timm/resnet18" and identify("mlp", None) == "mlp"


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_an_unknown_name_is_answered_by_the_closest_ones(library: str) -> None:
    for name in ("nope", "resnet18x"):
        with refused("name", f"{library}/{name}") as caught:
            find_builder(f"{library}/{name}")
        close = caught.value.allowed
        assert len(close) == 5 and all(each in str(caught.value) for each in close)
        assert len(str(caught.value)) < 300
    assert f"{library}/resnet18" in close


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from orchestrator.core.errors import PreflightError

    monkeypatch.setitem(sys.modules, "timm", None)
    with refused("name", "timm", error=PreflightError) as caught:
        find_builder("timm/resnet18")
    assert "pip install" in str(caught.value)


def test_too_small_images_are_refused_with_the_setting() -> None:
    with refused("input_size", error=ConfigurationError):
        build_on_meta("timm/vgg11", CLASSES, (3, 8, 8), {})
    build_on_meta("timm/vgg11", CLASSES, (3, 8, 8), {"input_size": 32})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm/resnet10t", "timm/vit_tiny_patch16_224"])
def test_network_is_exported_and_compiled_as_a_whole(name: str) -> None:
    settings = SETTINGS.get(name, {}) | {"input_size": 16, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    network = small(name, **settings).eval()
    with torch.no_grad():
        expected = network(images(32))
        exported = program(network, (3, 32, 32)).module()
        torch.testing.assert_close(exported(images(32)), expected.logits)
        compiled = copy.deepcopy(network)
        compiled.compile(backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(images(32)).logits, expected.logits)


def test_settings_are_searched_and_checked_before_a_run() -> None:
    from orchestrator.config.extra_space import get_configured_value
    from orchestrator.sweep.preflight.configuration import check_networks, check_students

    space = "search.extra_space={student.drop_path_rate: [0.0, 0.1], student.input_size: [32, 64]}"
    configuration = load(None, ["student.name=timm/resnet10t", "student.input_size=64", space])
    check_networks(configuration, searched=True)
    parameters = check_students(configuration, True, CLASSES, (3, 16, 16))
    assert parameters >= sum(each.numel() for each in small("timm/resnet10t").parameters())
    assert get_configured_value(configuration, "student.input_size") == 64
    assert get_configured_value(configuration, "student.drop_path_rate") is None
    wrong = load(None, ["student.name=timm/resnet10t", "student.drop_path=0.1"])
    check_networks(wrong, searched=False)  # the constructor decides, which needs the data
    with refused("student.drop_path", 0.1):
        check_students(wrong, False, CLASSES, (3, 16, 16))
    for pair in ("student.num_classes=3", "student.name=timm/resnet10"):
        with refused(pair.partition("=")[0]):
            check_networks(load(None, ["student.name=timm/resnet10t", pair]), searched=False)


@pytest.mark.parametrize(
    ("name", "setting", "values", "expected"),
    [
        ("timm/resnet10t", "drop_rate", "[0, 1]", FloatDistribution(0, 1)),
        ("timm/resnet10t", "base_width", "[32, 64]", IntDistribution(32, 64)),
        ("timm/resnet10t", "input_size", "[32, 64]", IntDistribution(32, 64)),
        ("timm/resnet10t", "no_such", "[0, 1]", FloatDistribution(0, 1)),
        ("timm/resnet10t", "no_such", "{low: 0, high: 4, step: 2}", IntDistribution(0, 4, step=2)),
        ("timm/resnet10t", "act_layer", "[relu, gelu]", CategoricalDistribution(("relu", "gelu"))),
        ("torchvision/mobilenet_v2", "dropout", "[0, 1]", FloatDistribution(0, 1)),
        ("torchvision/mobilenet_v2", "round_nearest", "[4, 8]", IntDistribution(4, 8)),
    ],
)
def test_searched_range_has_the_type_of_the_constructor(
    name: str, setting: str, values: str, expected: Any
) -> None:
    space = f"search.space={{student.{setting}: {values}}}"
    configuration = load(None, [f"student.name={name}", space])
    check_search(configuration)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    draw(trial := study.ask(), configuration)
    assert trial.distributions[f"student.{setting}"] == expected


def test_range_of_true_and_false_is_refused() -> None:
    space = "search.space={student.zero_init_last: [0, 1]}"
    with refused("search.space.student.zero_init_last", allowed="choices"):
        check_search(load(None, ["student.name=timm/resnet10t", space]))
