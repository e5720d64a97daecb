"""Describe the teachers of a run for its plan."""

from typing import Any

from orchestrator.config.schema import Configuration
from orchestrator.data.dataset import DataSummary
from orchestrator.store.store import Store
from orchestrator.sweep.preflight._several_teachers import list_kinds
from orchestrator.teacher import fit


def teacher_lines(
    store: Store, configuration: Configuration, searching: bool, summary: DataSummary
) -> dict[str, str]:
    """Return a line for each teacher and, of several, one for the average of their logits."""
    lines = {
        key.replace("s.", " "): _teacher_line(store, single, summary)
        for key, single in configuration.of_each_teacher().items()
    }
    if configuration.teachers:
        lines["ensemble"] = _describe_weights(configuration, searching)
    return lines


def describe_network(network: dict[str, Any]) -> str:
    """Return the name and the settings of a network in one line."""
    settings = ", ".join(f"{key}={value}" for key, value in network.items() if key != "name")
    return str(network["name"]) + (f" ({settings})" if settings else "")


def _teacher_line(store: Store, configuration: Configuration, summary: DataSummary) -> str:
    teacher = configuration.teacher
    assert teacher is not None
    folder = store.teachers / fit.fingerprint(
        configuration, summary.fingerprint, summary.augmentation
    )
    if damage := fit.damage(folder):
        source = f"{damage}: it will be rebuilt"
    elif fit.teacher_exists(folder):
        source = "already in the store"
    else:
        if teacher.network.weights:
            source = "weights to load" + (
                f", {len(teacher.classes)} of their classes" if teacher.classes else ""
            )
        else:
            source = f"to be trained once for {teacher.training.epochs} epochs"
    return f"{describe_network(teacher.network.model_dump(exclude_none=True))}, {source}"


def _describe_weights(configuration: Configuration, searching: bool) -> str:
    """Return in one line how the logits of several teachers are averaged."""
    ensemble, count = configuration.ensemble, len(configuration.teachers)
    if len(list_kinds(configuration, searching)) > 1:
        return f"logits of {count} teachers, averaged with weights that are searched"
    if ensemble.fixed:
        total = sum(ensemble.fixed)
        given = ", ".join(f"{weight / total:.3g}" for weight in ensemble.fixed)
    else:
        given = "equal"
    words = {
        "fixed": f"with the weights {given}" if ensemble.fixed else "equally",
        "confidence": "for each sample by the cross entropy with its label",
        "entropy": "for each sample by the entropy",
        "learned": f"with weights learned on the validation part (first {given})",
    }
    return f"logits of {count} teachers, averaged {words[ensemble.weights]}"
