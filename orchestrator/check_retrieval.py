"""What can be wrong with a bank and with what is retrieved from it, before anything starts; and what the plan says of it."""

from collections.abc import Iterator, Mapping
from typing import Any

from methods import Method, SettingsError
from orchestrator import plan
from orchestrator.config import Configuration
from orchestrator.errors import ConfigurationError
from orchestrator.sweep.forms import forms, trained
from orchestrator.teacher import approximate


def check_banking(configuration: Configuration, name: str, searching: bool) -> None:
    """ConfigurationError when a method would never have the bank that students fill, or blended samples were in a bank."""
    for method in forms(configuration, name, searching):
        try:
            fills = method.banking(configuration.training.epochs)
        except SettingsError as error:
            raise ConfigurationError(f"method {name}: {error}") from error
        if configuration.data.mix != "none" and (fills or method.needs.bank):
            raise ConfigurationError(
                f"data.mix = {configuration.data.mix!r} blends two samples in a picture, and method {name} retrieves samples that "
                "are similar to one: set data.mix=none, or take another method"
            )


def check_retrieval(configuration: Configuration, searching: bool, summary: Mapping[str, Any], gpu: bool) -> None:
    """ConfigurationError when no class has so many samples to retrieve, or an approximate search could not be made.

    `summary` is what `describe` says of the data, `gpu` whether trials train on one.
    """
    asked = list(_retrieving(configuration, searching))
    if not asked:
        return
    sizes = summary["class_sizes"]
    most = {"positives": max(sizes) - 1, "negatives": sum(sizes) - max(sizes)}
    words = {"positives": "the largest class has {} others", "negatives": "the largest class leaves {} of others"}
    for name, method in asked:
        for side, wanted in zip(most, method.retrieves, strict=True):
            if wanted > most[side]:
                raise ConfigurationError(
                    f"method {name}: {side} = {wanted} is more than the training part has, where {words[side].format(most[side])} "
                    f"with a label: give method.{side} of at most {most[side]}, or more data"
                )
    nearly = bool(retrieved(configuration, searching)) and plan.approximate(configuration.resources, sum(sizes), gpu)
    if nearly and not approximate.installed():
        chosen = configuration.resources.retrieval
        why = f", as {sum(sizes)} samples are more than {plan.EXACT_SAMPLES} on a CPU" if chosen == "auto" else ""
        raise ConfigurationError(
            f"resources.retrieval = {chosen!r} searches approximately{why}, for which faiss is missing: {approximate.INSTALL}"
        )


def retrieved(configuration: Configuration, searching: bool) -> set[tuple[int, int]]:
    """The numbers of positives and negatives that are retrieved by what a teacher says, each pair once for all trials."""
    found = {method.retrieves for _, method in _retrieving(configuration, searching) if method.needs.bank}
    return found - {(0, 0)}


def clean_bytes(configuration: Configuration, searching: bool, samples: int, features: int) -> int:
    """Bytes of the cache beside the logits: features (n, D) of the clean view where a method has a bank, and what is retrieved."""
    pairs = retrieved(configuration, searching)
    if configuration.teacher is None or not any(method.needs.bank for _, method in _retrieving(configuration, searching)):
        return 0
    tables = sum(plan.neighbours_bytes(samples, sum(pair)) for pair in pairs)
    return samples * features * plan.BYTES[configuration.teacher.dtype] + tables


def retrieval_line(configuration: Configuration, searching: bool, summary: Mapping[str, Any], gpu: bool, cached: bool) -> str:
    """How samples are retrieved, among how many, and what of it the cache holds; empty where no method retrieves any."""
    asked = list(_retrieving(configuration, searching))
    if not asked:
        return ""
    samples, pairs, lines = sum(summary["class_sizes"]), retrieved(configuration, searching), []
    if pairs:
        how = "approximate, by faiss" if plan.approximate(configuration.resources, samples, gpu) else "exact"
        size = plan.size(sum(plan.neighbours_bytes(summary["sizes"]["train"], sum(pair)) for pair in pairs))
        said = ", ".join(f"{positives} + {negatives}" for positives, negatives in sorted(pairs))
        where = f"{size} in the cache, once for all trials" if cached else "by every trial anew"
        lines.append(f"{how}, among {samples} samples: {said} of the same and of other classes; {where}")
    if any(method.banking(configuration.training.epochs) for _, method in asked):
        lines.append(f"exact, among at most {samples} samples, in each bank that students fill")
    return "; ".join(lines)


def _retrieving(configuration: Configuration, searching: bool) -> Iterator[tuple[str, Method]]:
    """The forms that have a bank, by the names of their methods."""
    for name in trained(configuration, searching):
        for method in forms(configuration, name, searching):
            if method.needs.bank or method.banking(configuration.training.epochs):
                yield name, method
