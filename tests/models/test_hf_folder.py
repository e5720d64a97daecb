"""Test image classifiers in folders that transformers has written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.config.loader import load
from orchestrator.data.prepare import prepare
from orchestrator.models.build import (
    build,
    build_on_meta,
    find_builder,
    identify,
    published_inputs,
    setting_type,
)
from orchestrator.models.weights import load_weights, network_fingerprint, require_weights
from orchestrator.models.wrapped import rename_tensors
from orchestrator.sweep.space_snapshot import describe_sweep, described_data, differences
from tests.refusal import refused

transformers: Any = pytest.importorskip("transformers")
CLASSES, SHAPE = 3, (3, 16, 16)
KINDS = ("resnet", "vit")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a folder of a tiny ResNet and one of a tiny ViT, with random weights."""
    written = {}
    configurations = {
        "resnet": transformers.ResNetConfig(
            embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", num_labels=3
        ),
        "vit": transformers.ViTConfig(
            hidden_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=16,
            patch_size=8,
            num_labels=3,
        ),
    }
    for name, configuration in configurations.items():
        torch.manual_seed(1)
        module = transformers.AutoModelForImageClassification.from_config(configuration)
        written[name] = tmp_path_factory.mktemp("hf") / name
        module.save_pretrained(written[name])
        (written[name] / "preprocessor_config.json").write_text(
            json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 16}})
        )
    return written


def images(samples: int = 2, side: int = 16) -> torch.Tensor:
    return torch.randn(samples, 3, side, side, generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_the_folder_give_its_logits(kind: str, folders: dict[str, Path]) -> None:
    network = build(f"hf/{folders[kind]}", CLASSES, SHAPE, {}).eval()
    random = torch.get_rng_state()
    load_weights(network, "pretrained", exact=True)
    assert torch.equal(torch.get_rng_state(), random)
    module = transformers.AutoModelForImageClassification.from_pretrained(folders[kind]).eval()
    with torch.no_grad():
        output, expected = network(images()), module(images()).logits
    torch.testing.assert_close(output.logits, expected)
    weight, bias = network.head.weight, network.head.bias
    torch.testing.assert_close(output.features @ weight.T + bias, output.logits)
    renamed = rename_tensors(module.state_dict(), network.classifier)
    assert network_fingerprint(renamed) == network_fingerprint(network.state_dict())
    assert len(network.stages) == (2 if kind == "resnet" else 0)
    assert str(folders[kind].parent) not in str(network)


@pytest.mark.parametrize("kind", KINDS)
def test_other_classes_and_images_are_built_on_meta_and_trained(
    kind: str, folders: dict[str, Path]
) -> None:
    name = f"hf/{folders[kind]}"
    shape, side = (1, 32, 32), 32
    meta = build_on_meta(name, 7, shape, {})
    network = build(name, 7, shape, {}).train()
    assert {key: value.shape for key, value in meta.state_dict().items()} == {
        key: value.shape for key, value in network.state_dict().items()
    }
    network(torch.randn(4, 1, side, side)).logits.logsumexp(1).sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
    require_weights(meta, "pretrained")
    with refused("weights", "pretrained", "a classifier for 7 classes"):
        require_weights(meta, "pretrained", exact=True)


def test_classifier_for_other_classes_stays_fresh(folders: dict[str, Path]) -> None:
    network = build(f"hf/{folders['resnet']}", 7, SHAPE, {})
    fresh = network.head.weight.detach().clone()
    load_weights(network, "pretrained")
    assert torch.equal(network.head.weight, fresh)
    other = build(f"hf/{folders['resnet']}", 7, (1, 16, 16), {})
    with refused("weights", "pretrained"):  # another stem
        load_weights(other, "pretrained")


def test_settings_replace_values_of_the_folder(folders: dict[str, Path]) -> None:
    name = f"hf/{folders['vit']}"
    network = build(name, CLASSES, SHAPE, {"hidden_dropout_prob": 0.3})
    assert any(isinstance(each, torch.nn.Dropout) and each.p == 0.3 for each in network.modules())
    for setting in ("num_labels", "image_size", "no_such_setting", "_attn_implementation"):
        with refused(setting, 3):
            build_on_meta(name, CLASSES, SHAPE, {setting: 3})


def test_settings_of_a_folder_have_types(folders: dict[str, Path]) -> None:
    name = f"hf/{folders['vit']}"
    assert setting_type(name, "hidden_dropout_prob") is float
    assert setting_type(name, "num_hidden_layers") is int
    assert setting_type(name, "no_such_setting") is None is setting_type("mlp", "width")


def test_configuration_gets_an_absolute_folder_and_its_input(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders["vit"].parent)
    pairs = ["student.name=hf/vit", "student.weights=pretrained"]
    student = load(None, pairs).student
    assert student.name == f"hf/{folders['vit'].resolve()}"
    assert student.input_size == 16 and student.mean == (0.5, 0.5, 0.5) == student.std
    assert published_inputs("hf/vit", "pretrained") == {
        "input_size": 16,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }


def test_searched_folders_become_absolute(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folders["vit"].parent)
    absolute = f"hf/{folders['vit'].resolve()}"
    pairs = [
        "search.extra_space={student.name: [mlp, hf/vit]}",
        "search.space={peers.b.network.name: {choices: [hf/vit, mlp]}, student.width: [1, 2]}",
        "search.points=[{student.name: hf/vit, student.width: 1}]",
        "peers.b.network.name=mlp",
    ]
    search = load(None, pairs).search
    assert search.extra_space == {"student.name": ("mlp", absolute)}
    assert search.space["peers.b.network.name"].choices == (absolute, "mlp")
    assert search.points == ({"student.name": absolute, "student.width": 1},)
    points = ["search.configurations=[{student.name: hf/vit}]"]
    assert load(None, points).search.configurations == ({"student.name": absolute},)


@pytest.mark.parametrize("source", ["extra_space", "configurations"])
def test_changed_folder_of_a_searched_network_is_described(
    source: str, folders: dict[str, Path], tmp_path: Path, digits_store: Path
) -> None:
    file, content = tmp_path / "config.json", (folders["vit"] / "config.json").read_text()
    file.write_text(content)
    name = f"hf/{tmp_path}"
    searched = {
        "extra_space": f"search.extra_space={{student.name: [mlp, {name}]}}",
        "configurations": f"search.configurations=[{{student.name: {name}}}]",
    }
    configuration = load(None, [searched[source]])
    data = prepare(configuration.data, digits_store, 0)
    before = describe_sweep(configuration, "sweep", data)
    file.write_text(content + " ")
    now = describe_sweep(configuration, "sweep", data)
    assert differences(before, now) == [f"student.name = {name} has changed"]
    assert "student.name" not in describe_sweep(configuration, "train", data)


def test_changed_weights_for_a_network_in_a_folder_are_described(
    folders: dict[str, Path], tmp_path: Path, digits_store: Path
) -> None:
    weights, name = tmp_path / "s.safetensors", f"hf/{folders['vit']}"
    configuration = load(None, [f"student.name={name}", f"student.weights={weights}"])
    data, snapshots = prepare(configuration.data, digits_store, 0), []
    for content in (b"one", b"two"):
        weights.write_bytes(content)
        snapshots.append(described_data(configuration, data))
    assert differences(snapshots[0], snapshots[0]) == []
    assert differences(*snapshots) == [f"student.weights = {name} with {weights} has changed"]


def test_contents_of_the_folder_identify_the_network(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    original = f"hf/{folders['resnet']}"
    (tmp_path / "config.json").write_bytes((folders["resnet"] / "config.json").read_bytes())
    assert identify(f"hf/{tmp_path}", None) == identify(original, None)
    assert identify(f"hf/{tmp_path}", "pretrained") != identify(original, "pretrained")
    assert identify(original, None) != identify(f"hf/{folders['vit']}", None)
    with refused("weights", "pretrained"):
        require_weights(build_on_meta(f"hf/{tmp_path}", 3, SHAPE, {}), "pretrained")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("auto_map", {"AutoConfig": "configuration.Other"}),
        ("_attn_implementation", "someone/kernel"),
        ("quantization_config", {"bits": 4}),
        ("text_config", [{"auto_map": {"AutoConfig": "configuration.Other"}}]),
        ("model_type", "bert"),
        ("model_type", "timm_wrapper"),
        ("model_type", None),
    ],
)
def test_configuration_that_needs_more_than_an_image_classifier_is_refused(
    key: str, value: Any, folders: dict[str, Path], tmp_path: Path
) -> None:
    values = json.loads((folders["vit"] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {key: value}))
    expected = {"model_type": value, "text_config": "auto_map"}.get(key, key)
    with refused("name", expected):
        find_builder(f"hf/{tmp_path}")


def test_names_of_classes_are_not_keys(folders: dict[str, Path], tmp_path: Path) -> None:
    values = json.loads((folders["vit"] / "config.json").read_text())
    labels = {"id2label": {"0": "kernel"}, "label2id": {"kernel": 0}}
    (tmp_path / "config.json").write_text(json.dumps(values | labels))
    find_builder(f"hf/{tmp_path}")


def test_sizes_of_kernels_are_allowed(tmp_path: Path) -> None:
    transformers.CvtConfig().save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    assert any("kernel" in key for key in values)
    find_builder(f"hf/{tmp_path}")
    (tmp_path / "config.json").write_text(json.dumps(values | {"use_kernels": True}))
    with refused("name", "use_kernels"):
        find_builder(f"hf/{tmp_path}")


def test_adapter_that_refers_to_other_weights_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_bytes((folders["vit"] / "config.json").read_bytes())
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/model"}')
    with refused("name", "adapter_config.json"):
        find_builder(f"hf/{tmp_path}")


def test_command_in_a_message_has_the_whole_folder(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    torch.save({}, tmp_path / "weights.pth")
    network = build_on_meta(f"hf/{folders['vit']}", CLASSES, SHAPE, {})
    with refused("weights") as caught:
        require_weights(network, str(tmp_path / "weights.pth"))
    assert f"--network hf/{folders['vit']}`" in str(caught.value)


@pytest.mark.parametrize("content", [None, "[]", "{"])
def test_folder_without_a_configuration_is_refused(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with refused("name"):
        find_builder(f"hf/{tmp_path}")
