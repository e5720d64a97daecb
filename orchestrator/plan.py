"""The arithmetic of a sweep before it starts: groups, rungs, bytes. Knows no torch and no ray."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, isfinite, log

from orchestrator.config import Configuration, Resources, Search
from orchestrator.errors import ConfigurationError, EnvironmentUnfitError

BYTES = {"float16": 2, "float32": 4}


@dataclass(frozen=True)
class Groups:
    """How many worker groups run, of how many workers, and what each worker holds."""

    groups: int
    workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    arithmetic: str

    @property
    def per_worker(self) -> dict[str, float]:
        """Ray's resources of one worker."""
        return {"CPU": self.cpus_per_worker} | ({"GPU": self.gpus_per_worker} if self.gpus_per_worker else {})


def groups(resources: Resources, available: Mapping[str, float], trials: int) -> Groups:
    """As many groups as fit, as were asked for, or as there are trials; EnvironmentUnfitError with the arithmetic."""
    gpus = resources.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if available.get("GPU", 0) >= resources.workers else 0.0
    needs = {"CPU": resources.cpus_per_worker * resources.workers, "GPU": gpus * resources.workers}
    # rounded: 0.9 / (3 x 0.1) is 2.9999999999999996
    fits = {name: round(available.get(name, 0) / need, 6) if need else float("inf") for name, need in needs.items()}
    lines = [f"{available.get(name, 0):g} {name} / {need:g} per group" for name, need in needs.items() if need]
    most = floor(min(fits.values()))
    arithmetic = f"floor({' , '.join(lines)}) = {most}"
    wanted = resources.groups or 1
    if most < wanted:
        short = next(name for name, value in fits.items() if isfinite(value) and floor(value) < wanted)
        raise EnvironmentUnfitError(
            f"{wanted} x {resources.workers} workers need {wanted * needs[short]:g} {short} and the cluster has "
            f"{available.get(short, 0):g}: lower resources.workers, resources.groups or resources.{short.lower()}s_per_worker"
        )
    number = min(resources.groups or most, max(trials, 1))
    return Groups(number, resources.workers, resources.cpus_per_worker, gpus, arithmetic)


def rungs(search: Search, epochs: int) -> list[int]:
    """The epochs after which ASHA compares trials, the last one included."""
    if search.scheduler != "asha":
        return [epochs]
    steps = []
    epoch = search.grace_epochs
    while epoch < epochs:
        steps.append(epoch)
        epoch *= search.reduction_factor
    return [*steps, epochs]


def brackets(search: Search, epochs: int) -> list[tuple[int, list[int]]]:
    """The brackets that Hyperband fills one after the other: the trials of each, and the epochs after which it compares them."""
    eta = search.reduction_factor
    most = round(log(epochs) / log(eta)) + 1
    found = []
    for halvings in range(most):
        first = int(epochs * eta ** (-halvings))
        if first:
            milestones = [min(first * eta**step, epochs) for step in range(halvings)]
            found.append((ceil(most / (halvings + 1) * eta**halvings), milestones))
    return found


def planned_epochs(search: Search, epochs: int) -> int:
    """Epochs of all trials together under `pbt` and `hyperband`, which know them beforehand if nothing fails."""
    if search.scheduler != "hyperband":
        return search.trials * epochs
    left, total = search.trials, 0
    while left > 0:
        for trials, milestones in brackets(search, epochs):
            present, keep = min(trials, left), trials
            left -= present
            for before, step in pairwise([0, *milestones, epochs]):
                total += present * (step - before)
                keep = ceil(keep / search.reduction_factor)  # of a full bracket, however full this one is
                present = min(present, keep)
    return total


def comparisons(search: Search, epochs: int) -> str:
    """When the scheduler compares trials, in words."""
    if search.scheduler == "asha":
        return f"asha compares after {', '.join(str(epoch) for epoch in rungs(search, epochs))}"
    if search.scheduler == "median":
        return f"median compares after every epoch from {search.grace_epochs} on"
    if search.scheduler == "pbt":
        after = ", ".join(str(epoch) for epoch in range(search.perturb_epochs, epochs, search.perturb_epochs))
        return f"pbt: a population of {search.trials} is compared after {after}, its worst {search.quantile:.0%} take over"
    if search.scheduler == "hyperband":
        left, parts = search.trials, []
        for trials, milestones in brackets(search, epochs):
            after = f"compared after {', '.join(map(str, milestones))}" if milestones else "trained to the end"
            parts += [f"{min(trials, left)} {after}"] if left > 0 else []
            left -= trials
        return f"hyperband: trials in brackets: {'; '.join(parts)}" + (f"; the other {left} in brackets anew" if left > 0 else "")
    return "every trial trains them all"


def views(configuration: Configuration) -> int:
    """Augmented versions of the training set that a trial sees."""
    return min(configuration.data.views or configuration.training.epochs, configuration.training.epochs)


def varies(configuration: Configuration, augmentation: str) -> bool:
    """Whether the views differ, given the resolved policy: without augmentation and mixing each is the clean one."""
    return augmentation != "none" or configuration.data.mix != "none"


def cache_bytes(configuration: Configuration, samples: int, classes: int, augmentation: str) -> int:
    """Bytes of the teacher's logits on disk: an array of samples x classes per view, and one of the clean view."""
    if configuration.teacher is None:
        return 0
    files = views(configuration) + 1 if varies(configuration, augmentation) else 1
    return files * samples * classes * BYTES[configuration.teacher.dtype]


def size(count: float) -> str:
    """Bytes as a person reads them."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"


def checkpoint_bytes(parameters: int, trials: int) -> int:
    """Bytes of all checkpoints: last and best weights, and up to two moments of the optimiser, in float32."""
    return 4 * 4 * parameters * trials


def require_batches(configuration: Configuration, samples: int) -> None:
    """ConfigurationError when the global batch cannot be shared by the workers or filled by the training part."""
    parts = {"training": configuration.training} | (
        {"teacher.training": configuration.teacher.training} if configuration.teacher else {}
    )
    for name, training in parts.items():
        size, workers = training.batch_size, configuration.resources.workers
        if size % workers:
            raise ConfigurationError(
                f"{name}.batch_size = {size} cannot be shared by resources.workers = {workers}: give a multiple of {workers}"
            )
        if samples < size:
            raise ConfigurationError(
                f"the training part has {samples} samples and {name}.batch_size = {size} ({size // workers} for each of {workers} "
                f"workers): give at most {samples - samples % workers}, or more data"
            )
