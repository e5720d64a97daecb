"""Check feature banks and retrieval before a run, and describe them in the plan."""

from collections.abc import Iterator, Sequence

from methods import SettingsError
from methods.bank_plan import BankPlan
from methods.capabilities import bank_plan
from orchestrator.config import sizes as byte_sizes
from orchestrator.config.method_variants import advise_method_name, build_variants, trained_methods
from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import frozen_values
from orchestrator.core.errors import ConfigurationError
from orchestrator.data.dataset import DataSummary
from orchestrator.teacher import faiss_index

SIDES = ("positives", "negatives")


def check_bank(configuration: Configuration, name: str, searching: bool) -> None:
    """Raise ConfigurationError if a bank of student features does not suit a method.

    The bank must be filled, hold as many samples as the method retrieves, and contain no blended
    samples.
    """
    too_small: list[BankPlan] = []
    for method in build_variants(configuration, name, searching):
        try:
            plan = bank_plan(method, configuration.training.epochs)
        except SettingsError as error:
            raise ConfigurationError.from_error(
                error, f"method {name}: {error}", "method"
            ) from error
        if configuration.data.mixing != "none" and plan:
            raise ConfigurationError(
                f"data.mixing = {configuration.data.mixing!r} blends two samples into one image, "
                f"but method {name} retrieves samples that are similar to a single one: set "
                f"data.mixing=none, or choose another method"
            ).with_details("data.mixing", configuration.data.mixing, ("none",))
        if plan and 0 < plan.queue < _minimum_queue(plan):
            too_small.append(plan)
    if too_small:
        plan = max(too_small, key=_minimum_queue)
        positives, negatives, queue = plan.positives, plan.negatives, plan.queue
        shortages = [f"positives + 1 = {positives + 1}"] if 0 < positives >= queue else []
        shortages += [f"negatives = {negatives}"] if negatives > queue else []
        raise ConfigurationError(
            f"method {name}: method.queue = {queue} is less than "
            f"{' and less than '.join(shortages)}: give method.queue of at least "
            f"{_minimum_queue(plan)}, or 0 for all samples"
            f"{advise_method_name(configuration, name, searching)}"
        ).with_details("method.queue", queue, (_minimum_queue(plan), None))


def _minimum_queue(plan: BankPlan) -> int:
    """Return the smallest size of a bank from which all samples can be retrieved."""
    return max(plan.positives + 1 if plan.positives else 0, plan.negatives)


def check_retrieval(
    configuration: Configuration, searching: bool, summary: DataSummary, gpu: bool
) -> None:
    """Raise ConfigurationError if no class has enough samples, or approximate search is missing.

    Args:
        configuration: The configuration.
        searching: Whether to include all searched methods.
        summary: Description of the data, from `describe`.
        gpu: Whether trials train on a GPU.
    """
    variants = list(_retrieving(configuration, searching))
    if not variants:
        return
    sizes = summary.class_sizes
    for name in dict.fromkeys(name for name, _ in variants):
        _check_numbers(
            configuration,
            name,
            searching,
            [(plan.positives, plan.negatives) for each, plan in variants if each == name],
            sizes,
        )
    if (
        _is_approximate(configuration, searching, sum(sizes), gpu)
        and not faiss_index.is_installed()
    ):
        chosen = configuration.resources.retrieval
        if chosen == "auto":
            why = f" for more than {byte_sizes.EXACT_SAMPLES} samples on a CPU (here {sum(sizes)})"
        else:
            why = ""
        raise ConfigurationError(
            f"resources.retrieval = {chosen!r} needs faiss for the approximate search{why}, but "
            f"faiss is not installed: {faiss_index.INSTALL}"
        ).with_details("resources.retrieval", chosen, ("exact",))


def _check_numbers(
    configuration: Configuration,
    name: str,
    searching: bool,
    pairs: Sequence[tuple[int, int]],
    sizes: Sequence[int],
) -> None:
    """Raise ConfigurationError if a method retrieves more samples than the largest class allows.

    The class may have too few samples for the positives, or leave too few for the negatives.

    Args:
        configuration: The configuration.
        name: Name of the method.
        searching: Whether the method is searched.
        pairs: Numbers of positives and negatives in each variant of the method.
        sizes: Number of samples of each class.
    """
    available = dict(zip(SIDES, (max(sizes) - 1, sum(sizes) - max(sizes)), strict=True))
    requested = dict(zip(SIDES, map(max, zip(*pairs, strict=True)), strict=True))
    exceeded = [side for side in SIDES if requested[side] > available[side]]
    if not exceeded:
        return
    limits = {
        "positives": f"has {available['positives']} other samples",
        "negatives": f"leaves {available['negatives']} samples of other classes",
    }
    drawn = searching and any(side not in frozen_values(configuration, name) for side in exceeded)
    advice = " and ".join(
        f"method.{side} of at most {available[side]}" for side in exceeded
    ) + advise_method_name(configuration, name, searching)
    raise ConfigurationError(
        f"method {name}: {' and '.join(f'{side} = {requested[side]}' for side in exceeded)} "
        f"{'are' if exceeded[1:] else 'is'} more than the training part has: its largest class "
        f"{' and '.join(limits[side] for side in exceeded)} with a label; "
        + (f"freeze {advice}, or give more data" if drawn else f"give {advice}, or more data")
    ).with_details(f"method.{exceeded[0]}", requested[exceeded[0]], (0, available[exceeded[0]]))


def retrieved(configuration: Configuration, searching: bool) -> set[tuple[int, int]]:
    """Return the distinct (positives, negatives) to retrieve by the teacher's outputs."""
    found = {
        (plan.positives, plan.negatives)
        for _, plan in _retrieving(configuration, searching)
        if not plan.by_students
    }
    return found - {(0, 0)}


def clean_bytes(configuration: Configuration, searching: bool, samples: int, features: int) -> int:
    """Return the bytes of the cache besides the logits.

    If a method has a bank, these are the features (n, D) of the clean view and the tables of
    retrieved samples. Otherwise there are none.

    Args:
        configuration: The configuration.
        searching: Whether to include all searched methods.
        samples: Number of samples n.
        features: Length of the features D.
    """
    pairs = retrieved(configuration, searching)
    if configuration.teacher is None or not any(
        not plan.by_students for _, plan in _retrieving(configuration, searching)
    ):
        return 0
    tables = sum(byte_sizes.neighbours_bytes(samples, sum(pair)) for pair in pairs)
    return samples * features * byte_sizes.BYTES[configuration.teacher.dtype] + tables


def retrieval_line(
    configuration: Configuration, searching: bool, summary: DataSummary, gpu: bool, cached: bool
) -> str:
    """Return how samples are retrieved, from how many, and what the cache holds of them.

    Empty if no method retrieves samples.
    """
    variants = list(_retrieving(configuration, searching))
    if not variants:
        return ""
    samples, pairs, lines = sum(summary.class_sizes), retrieved(configuration, searching), []
    if pairs:
        if _is_approximate(configuration, searching, samples, gpu):
            how = "approximate, by faiss"
        else:
            how = "exact"
        size = byte_sizes.format_bytes(
            sum(byte_sizes.neighbours_bytes(summary.sizes.train, sum(pair)) for pair in pairs)
        )
        pair_texts = ", ".join(
            f"{positives} + {negatives}" for positives, negatives in sorted(pairs)
        )
        where = f"{size} in the cache, once for all trials" if cached else "computed by each trial"
        lines.append(
            f"{how}, among {samples} samples: {pair_texts} of the same and of other classes; "
            f"{where}"
        )
    filled = [plan for _, plan in variants if plan.by_students]
    if filled:
        largest = max(min(plan.queue or samples, samples) for plan in filled)
        lines.append(f"exact, among at most {largest} samples, in each bank of student features")
    return "; ".join(lines)


def _is_approximate(configuration: Configuration, searching: bool, samples: int, gpu: bool) -> bool:
    """Return whether negatives are searched approximately; positives are searched exactly."""
    requested = any(negatives for _, negatives in retrieved(configuration, searching))
    return requested and byte_sizes.is_approximate(configuration.resources, samples, gpu)


def _retrieving(configuration: Configuration, searching: bool) -> Iterator[tuple[str, BankPlan]]:
    """Yield the bank plans of all method variants, each with the name of its method."""
    for name in trained_methods(configuration, searching):
        for method in build_variants(configuration, name, searching):
            if plan := bank_plan(method, configuration.training.epochs):
                yield name, plan
