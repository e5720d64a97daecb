"""Describe an exported student: its recipe, its data and its teacher."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

from methods import METHODS, Needs, build_method
from orchestrator.config.method_settings import check_settings
from orchestrator.config.schema import Configuration, Training
from orchestrator.config.schema import Network as Choice
from orchestrator.data.dataset import DataSummary
from orchestrator.data.preprocessing import resolve_augmentation
from orchestrator.export.settings import NamedNetwork, UsedData, UsedMethod, Values
from orchestrator.models.build import all_settings
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.teacher import fit
from orchestrator.teacher.card import TeacherCard
from orchestrator.teacher.quality import read_cards, select_ensemble


def describe_data(configuration: Configuration, summary: DataSummary) -> UsedData:
    """Describe the data, without the paths of this machine."""
    fields = {
        "validation",
        "limit",
        "seed",
        "label_noise",
        "augmentation",
        "mixing",
        "mix_alpha",
        "views",
    }
    optional = ("labelled", "settings", "validation_in_training", "class_weights", "like")
    fields |= {name for name in optional if getattr(configuration.data, name)}
    fields |= {"sampling"} if configuration.data.sampling != "uniform" else set()
    settings = configuration.data.model_dump(mode="json", include=fields)
    settings["augmentation"] = resolve_augmentation(configuration.data, summary)
    settings |= configuration.data.transforms
    settings |= {"packed_side": summary.packed_side} if summary.packed_side else {}
    settings["limit"] = {part: limit for part, limit in settings["limit"].items() if limit}
    sizes = summary.sizes
    if _needs(configuration).labels and summary.labelled is not None:  # the others were not used
        sizes = replace(sizes, train=summary.labelled)
    return UsedData(
        name=summary.name, fingerprint=summary.fingerprint, sizes=asdict(sizes), **settings
    )


def describe_method(configuration: Configuration) -> UsedMethod:
    """Return the method's name, provenance and every setting, defaults too."""
    name = configuration.method.name
    check_settings(configuration, name, "method.name")
    kind = METHODS[name]
    settings = kind.Settings.build(configuration.method.settings).model_dump()
    return UsedMethod(name=name, provenance=kind.provenance, settings=settings)


def needs_teacher(configuration: Configuration) -> bool:
    """Return whether the method uses a teacher; cross entropy ignores one."""
    needs = _needs(configuration)
    return needs.teacher or needs.features


def _needs(configuration: Configuration) -> Needs:
    return build_method(configuration.method.name, configuration.method.settings).needs


def describe_network(network: Choice) -> NamedNetwork:
    """Return the network's name and every setting, so that a default may change."""
    settings = all_settings(network.name, network.settings)
    return NamedNetwork(name=_name_without_path(network), **settings)


def _name_without_path(network: Choice) -> str:
    """Return the name of a network; of `hf/FOLDER` with the last part of the folder alone."""
    prefix, _, folder = network.name.partition("/")
    return f"{prefix}/{Path(folder).name}" if prefix == "hf" else network.name


def describe_training(training: Training, network: Choice) -> Values:
    """Return the training, and the initial weights without the folders of this machine."""
    return training.model_dump(mode="json") | _start(network)


def _start(network: Choice) -> Values:
    return {"start": Path(network.weights).name if network.weights else None}


def describe_ensemble(configuration: Configuration, metrics: Mapping[str, float]) -> Values:
    """Describe how a trial averaged the logits of several teachers; the weights are the last."""
    settings = configuration.ensemble.model_dump(mode="json", exclude_none=True)
    return settings | select_ensemble(metrics)


def describe_teachers(store: Store, sweep: Sweep, summary: DataSummary) -> list[Values]:
    """Describe each teacher and its metrics.

    The source is the sweep's own copy of the card, which older sweeps lack, or else the store's.
    """
    each = sweep.configuration.of_each_teacher().values()
    cards = read_cards(sweep.folder, len(each))
    return [
        _describe_teacher(store, single, card, summary)
        for single, card in zip(each, cards, strict=True)
    ]


def _describe_teacher(
    store: Store, configuration: Configuration, card: TeacherCard | None, summary: DataSummary
) -> Values:
    teacher = configuration.teacher
    assert teacher is not None
    augmentation = resolve_augmentation(configuration.data, summary)
    folder = store.teachers / fit.fingerprint(configuration, summary.fingerprint, augmentation)
    card = card or (None if fit.damage(folder) else fit.card(folder))
    parts, recorded = ("validation/", "test/"), card.get("metrics", {}) if card else {}
    metrics = {name: value for name, value in recorded.items() if name.startswith(parts)}
    description = {
        "network": teacher.network.model_dump(mode="json", exclude={"weights"})
        | {"name": _name_without_path(teacher.network)},
        **_start(teacher.network),
        "metrics": metrics,
    }
    if teacher.classes is not None:
        description["classes"] = list(teacher.classes)
    return description | (
        {} if teacher.network.weights else {"training": teacher.training.model_dump(mode="json")}
    )
