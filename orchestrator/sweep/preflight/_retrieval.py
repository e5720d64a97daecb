"""Check banks and what is retrieved from them before a run, and describe them in the plan."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from methods import Method, SettingsError
from orchestrator.config import sizes as byte_sizes
from orchestrator.config.method_variants import advise_method_name, build_variants, trained_methods
from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import frozen_values
from orchestrator.core.errors import ConfigurationError
from orchestrator.teacher import faiss_index

SIDES = ("positives", "negatives")


def check_banking(configuration: Configuration, name: str, searching: bool) -> None:
    """Raise ConfigurationError if the bank that students fill can never serve a method.

    This is so if it is never filled, has fewer samples than the method looks up, or has blended
    samples.
    """
    short: list[tuple[Method, int]] = []
    for method in build_variants(configuration, name, searching):
        try:
            fills = method.bank_schedule(configuration.training.epochs)
        except SettingsError as error:
            raise ConfigurationError.from_error(
                error, f"method {name}: {error}", "method"
            ) from error
        if configuration.data.mixing != "none" and (fills or method.needs.bank):
            raise ConfigurationError(
                f"data.mixing = {configuration.data.mixing!r} blends two samples in a picture, "
                f"and method {name} retrieves samples "
                "that "
                "are similar to one: set data.mixing=none, or take another method",
                field="data.mixing",
                value=configuration.data.mixing,
                allowed=("none",),
            )
        if fills and 0 < fills.queue < _least(method):
            short.append((method, fills.queue))
    if short:
        method, queue = max(short, key=lambda each: _least(each[0]))
        positives, negatives = method.num_neighbors
        few = [f"positives = {positives} and the sample itself"] if 0 < positives >= queue else []
        few += [f"negatives = {negatives}"] if negatives > queue else []
        raise ConfigurationError(
            f"method {name}: queue = {queue} is fewer samples than {', and than '.join(few)}: "
            f"give method.queue of at least "
            f"{_least(method)}, or 0 for all{advise_method_name(configuration, name, searching)}",
            field="method.queue",
            value=queue,
            allowed=(_least(method), None),
        )


def _least(method: Method) -> int:
    """Return the least size of a bank in which each sample finds all that the method looks up."""
    positives, negatives = method.num_neighbors
    return max(positives + 1 if positives else 0, negatives)


def check_retrieval(
    configuration: Configuration, searching: bool, summary: Mapping[str, Any], gpu: bool
) -> None:
    """Raise ConfigurationError if no class has enough samples, or approximate search is missing.

    Args:
        configuration: The configuration.
        searching: Whether all searched methods count.
        summary: Description of the data, from `describe`.
        gpu: Whether trials train on a GPU.
    """
    asked = list(_retrieving(configuration, searching))
    if not asked:
        return
    sizes = summary["class_sizes"]
    for name in dict.fromkeys(name for name, _ in asked):
        _check_numbers(
            configuration,
            name,
            searching,
            [method.num_neighbors for each, method in asked if each == name],
            sizes,
        )
    if _nearly(configuration, searching, sum(sizes), gpu) and not faiss_index.is_installed():
        chosen = configuration.resources.retrieval
        why = (
            f", as {sum(sizes)} samples are more than {byte_sizes.EXACT_SAMPLES} on a CPU"
            if chosen == "auto"
            else ""
        )
        raise ConfigurationError(
            f"resources.retrieval = {chosen!r} searches approximately{why}, for which faiss is "
            f"missing: {faiss_index.INSTALL}",
            field="resources.retrieval",
            value=chosen,
            allowed=("exact",),
        )


def _check_numbers(
    configuration: Configuration,
    name: str,
    searching: bool,
    pairs: Sequence[tuple[int, int]],
    sizes: Sequence[int],
) -> None:
    """Raise ConfigurationError if a method retrieves more samples than the largest class allows.

    It has too few samples for the most positives, or leaves too few others for the negatives.
    `pairs` are both numbers in each variant of the method, `sizes` the numbers of samples by class.
    """
    most = dict(zip(SIDES, (max(sizes) - 1, sum(sizes) - max(sizes)), strict=True))
    wanted = dict(zip(SIDES, map(max, zip(*pairs, strict=True)), strict=True))
    many = [side for side in SIDES if wanted[side] > most[side]]
    if not many:
        return
    words = {
        "positives": f"has {most['positives']} others",
        "negatives": f"leaves {most['negatives']} of other classes",
    }
    drawn = searching and any(side not in frozen_values(configuration, name) for side in many)
    advice = " and ".join(
        f"method.{side} of at most {most[side]}" for side in many
    ) + advise_method_name(configuration, name, searching)
    raise ConfigurationError(
        f"method {name}: {' and '.join(f'{side} = {wanted[side]}' for side in many)} "
        f"{'are' if many[1:] else 'is'} more than the "
        f"training part has, where the largest class "
        f"{' and '.join(words[side] for side in many)} with a label: "
        + (f"hold {advice}, or give more data" if drawn else f"give {advice}, or more data"),
        field=f"method.{many[0]}",
        value=wanted[many[0]],
        allowed=(0, most[many[0]]),
    )


def retrieved(configuration: Configuration, searching: bool) -> set[tuple[int, int]]:
    """Return the numbers of positives and negatives to retrieve by the teacher's outputs.

    Each pair appears once for all trials.
    """
    found = {
        method.num_neighbors
        for _, method in _retrieving(configuration, searching)
        if method.needs.bank
    }
    return found - {(0, 0)}


def clean_bytes(configuration: Configuration, searching: bool, samples: int, features: int) -> int:
    """Return the bytes of the cache besides the logits.

    These are the features (n, D) of the clean view, if a method has a bank, and the retrieved
    samples.

    Args:
        configuration: The configuration.
        searching: Whether all searched methods count.
        samples: Number of samples n.
        features: Length of the features D.
    """
    pairs = retrieved(configuration, searching)
    if configuration.teacher is None or not any(
        method.needs.bank for _, method in _retrieving(configuration, searching)
    ):
        return 0
    tables = sum(byte_sizes.neighbours_bytes(samples, sum(pair)) for pair in pairs)
    return samples * features * byte_sizes.BYTES[configuration.teacher.dtype] + tables


def retrieval_line(
    configuration: Configuration,
    searching: bool,
    summary: Mapping[str, Any],
    gpu: bool,
    cached: bool,
) -> str:
    """Return how samples are retrieved, among how many, and the part that the cache holds.

    Empty if no method retrieves samples.
    """
    asked = list(_retrieving(configuration, searching))
    if not asked:
        return ""
    samples, pairs, lines = sum(summary["class_sizes"]), retrieved(configuration, searching), []
    if pairs:
        how = (
            "approximate, by faiss" if _nearly(configuration, searching, samples, gpu) else "exact"
        )
        size = byte_sizes.size(
            sum(byte_sizes.neighbours_bytes(summary["sizes"]["train"], sum(pair)) for pair in pairs)
        )
        said = ", ".join(f"{positives} + {negatives}" for positives, negatives in sorted(pairs))
        where = f"{size} in the cache, once for all trials" if cached else "by every trial anew"
        lines.append(
            f"{how}, among {samples} samples: {said} of the same and of other classes; {where}"
        )
    filled = [
        bank_schedule
        for _, method in asked
        if (bank_schedule := method.bank_schedule(configuration.training.epochs))
    ]
    if filled:
        most = max(min(bank_schedule.queue or samples, samples) for bank_schedule in filled)
        lines.append(f"exact, among at most {most} samples, in each bank that students fill")
    return "; ".join(lines)


def _nearly(configuration: Configuration, searching: bool, samples: int, gpu: bool) -> bool:
    """Return whether negatives are searched approximately; positives never are."""
    wanted = any(negatives for _, negatives in retrieved(configuration, searching))
    return wanted and byte_sizes.is_approximate(configuration.resources, samples, gpu)


def _retrieving(configuration: Configuration, searching: bool) -> Iterator[tuple[str, Method]]:
    """Yield the variants that have a bank, with the names of their methods."""
    for name in trained_methods(configuration, searching):
        for method in build_variants(configuration, name, searching):
            if method.needs.bank or method.bank_schedule(configuration.training.epochs):
                yield name, method
