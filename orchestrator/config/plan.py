"""The arithmetic of a sweep before it starts: groups, rungs, bytes. Knows no torch and no ray."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import ceil, floor, fsum, log
from typing import NamedTuple

from orchestrator.config.bin_packing import has_space, place_workers
from orchestrator.config.schema import Configuration, Search
from orchestrator.core.errors import ConfigurationError, PreflightError

SETTINGS = {"CPU": "cpus_per_worker", "GPU": "gpus_per_worker"}
INLINE = "resources.influence_backend=inline"


@dataclass(frozen=True)
class Groups:
    """How many worker groups run, what the worker of each rank holds (Ray's resources), and the arithmetic in words."""

    groups: int
    bundles: tuple[dict[str, float], ...]
    arithmetic: str
    beside: tuple[dict[str, float], ...] = ()
    """What each influence actor of a group holds."""

    @property
    def workers(self) -> int:
        """Workers of one group."""
        return len(self.bundles)

    @property
    def uneven(self) -> bool:
        """Whether the workers of a group hold different resources."""
        return any(bundle != self.bundles[0] for bundle in self.bundles)

    @property
    def whole_gpus(self) -> bool:
        """Whether every worker has a GPU that it shares with no other."""
        return all(bundle.get("GPU", 0) >= 1 for bundle in self.bundles)

    @property
    def mean(self) -> dict[str, float]:
        """What a worker holds on average; of workers that all hold the same, just that."""
        if not self.uneven:
            return dict(self.bundles[0])
        names = dict.fromkeys(name for bundle in self.bundles for name in bundle)
        return {name: _total(self.bundles, name) / self.workers for name in names}


class Role(NamedTuple):
    """The workers of one student, or of all students where they share them."""

    letter: str
    needs: dict[str, float]
    """What one worker holds, under Ray's names."""
    fields: dict[str, str]
    """The key of the configuration that says so."""


def roles(configuration: Configuration, available: Mapping[str, float], nodes: Sequence[Mapping[str, float]] = ()) -> list[Role]:
    """Who is in a group; a group is its roles over and over, `configuration.replicas` times, in the order of the ranks.

    GPUs that `nodes` have, and others hold now, are not replaced by CPUs. PreflightError when nothing is said of GPUs and
    there are some, but fewer than a group has workers.
    """
    resources = configuration.resources
    peers = {} if configuration.colocated else configuration.peers
    fields: dict[str, dict[str, str]] = {"a": {name: f"resources.{key}" for name, key in SETTINGS.items()}}
    asked: dict[str, dict[str, float | None]] = {"a": {name: getattr(resources, key) for name, key in SETTINGS.items()}}
    for letter, peer in peers.items():
        own = {name: getattr(peer, key) for name, key in SETTINGS.items() if getattr(peer, key) is not None}
        asked[letter] = asked["a"] | own
        fields[letter] = fields["a"] | {name: f"peers.{letter}.{SETTINGS[name]}" for name in own}
    wanted = configuration.replicas * sum(1.0 if values["GPU"] is None else values["GPU"] for values in asked.values())
    there = max(available.get("GPU", 0), _total(nodes, "GPU"))
    if 0 < there < wanted and any(values["GPU"] is None for values in asked.values()):
        raise PreflightError(
            f"a group of {resources.workers} workers with a GPU each needs {wanted:g} GPU and the cluster has {there:g}: lower "
            f"resources.workers, or set resources.gpus_per_worker to {there / resources.workers:.2g} to share, to 0 for CPUs alone",
            field="resources.gpus_per_worker",
            value=None,
            allowed=(0, there / resources.workers),
        )
    default = 1.0 if there else 0.0
    found = []
    for letter, values in asked.items():
        held = {name: default if value is None else value for name, value in values.items()}
        found.append(Role(letter, {name: value for name, value in held.items() if value}, fields[letter]))
    return found


def influence_actors(configuration: Configuration) -> int:
    """Influence actors of a group whose samples are weighed: one for each student that has workers of its own, else one.

    None where the workers compute the weights themselves.
    """
    if configuration.resources.influence_backend == "inline":
        return 0
    return 1 if configuration.colocated else len(configuration.students)


def groups(
    configuration: Configuration,
    available: Mapping[str, float],
    trials: int,
    nodes: Sequence[Mapping[str, float]] = (),
    aides: int = 0,
    free: Sequence[Mapping[str, float]] | None = None,
    elastic: bool = False,
) -> Groups:
    """As many groups as fit, each with so many influence actors (`aides`) beside it; as were asked for, or as there are trials.

    `available` is what is free in the cluster, `nodes` what each node has; without nodes, where a worker goes is not asked.
    `free` is what each node has free; None: all of it. `elastic`: where there is room for one, fewer than were asked for may begin.
    ConfigurationError when a worker or an influence actor fits no node, or the groups would fit without their influence actors;
    PreflightError with the arithmetic when they would not.
    """
    each, resources = roles(configuration, available, nodes), configuration.resources
    bundles = tuple(role.needs for _ in range(configuration.replicas) for role in each)
    for role in each:
        _require_node(role, nodes)
    free = nodes if free is None else free
    fit = _fit(bundles, available, free, lambda name: _terms(each, name, configuration.replicas))
    wanted = 1 if elastic else resources.groups or 1
    if fit.most < wanted:
        short = fit.short(wanted)
        lower = list(dict.fromkeys(["resources.workers", "resources.groups", *(role.fields[short] for role in each)]))
        reason = fit.reason(wanted, available, nodes)
        raise PreflightError(
            f"{wanted} x {len(bundles)} workers {reason}: lower {', '.join(lower[:-1])} or {lower[-1]}",
            field="resources.workers",
            value=resources.workers,
            allowed=fit.allowed(wanted, available),
        )
    beside: tuple[dict[str, float], ...] = ()
    if aides:
        beside = (_beside(configuration, nodes).needs,) * aides
        fit = _fit_beside(configuration, each, bundles, aides, available, free, wanted)
    most = min(resources.groups or fit.most, fit.most)
    return Groups(min(most, max(trials, 1)), bundles, fit.arithmetic, beside)


class _Fit(NamedTuple):
    """What a group needs of each resource, how many groups each allows, the fewest of these, and how many find room on nodes."""

    needs: dict[str, float]
    fits: dict[str, int]
    sums: int
    most: int
    arithmetic: str

    def short(self, wanted: int) -> str:
        """The resource of which there is too little for so many groups."""
        return next((name for name, value in self.fits.items() if value < wanted), "CPU")

    def allowed(self, wanted: int, available: Mapping[str, float]) -> str:
        """Return what there is: of the resource that is short, or how many groups find room on nodes."""
        short = self.short(wanted)
        return f"{self.most} groups" if self.sums >= wanted else f"{available.get(short, 0):g} {short}"

    def reason(self, wanted: int, available: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> str:
        """Why so many groups do not fit, in words."""
        if self.sums >= wanted:
            where = "the node" if len(nodes) == 1 else f"the {len(nodes)} nodes"
            return f"do not fit {where} of the cluster, as none is split over two, nor a part of a GPU ({self.arithmetic})"
        short = self.short(wanted)
        free, whole = available.get(short, 0), _total(nodes, short)
        has = f"{free:g}" if whole <= free else f"{free:g} of {whole:g} free"
        return f"need {wanted * self.needs[short]:g} {short} and the cluster has {has}"


def _fit(
    bundles: Sequence[Mapping[str, float]],
    available: Mapping[str, float],
    nodes: Sequence[Mapping[str, float]],
    terms: Callable[[str], str],
) -> _Fit:
    needs = {name: _total(bundles, name) for name in SETTINGS if any(name in bundle for bundle in bundles)}
    # rounded: 0.9 / (3 x 0.1) is 2.9999999999999996
    fits = {name: floor(round(available.get(name, 0) / need, 6)) for name, need in needs.items()}
    lines = [f"{available.get(name, 0):g} {name} / {need:g}{terms(name)} per group" for name, need in needs.items()]
    sums = min(fits.values())
    most = place_workers(bundles, nodes, sums) if nodes else sums
    on = f", {most} on {len(nodes)} node{'s' * (len(nodes) != 1)}"
    arithmetic = f"floor({' , '.join(lines)}) = {sums}" + (on if most < sums else "")
    return _Fit(needs, fits, sums, most, arithmetic)


def _fit_beside(
    configuration: Configuration,
    each: list[Role],
    bundles: tuple[dict[str, float], ...],
    aides: int,
    available: Mapping[str, float],
    nodes: Sequence[Mapping[str, float]],
    wanted: int,
) -> _Fit:
    """The groups, which fit without them, with their influence actors; ConfigurationError when there is no room for these."""
    beside, resources = _beside(configuration), configuration.resources
    terms = partial(_terms, each, replicas=configuration.replicas, aides=aides, beside=beside)
    fit = _fit((*bundles, *[beside.needs] * aides), available, nodes, terms)
    if fit.most < wanted:
        short = fit.short(wanted)
        counts = {"resources.workers": resources.workers, "resources.groups": wanted}
        can = [name for name, count in counts.items() if count > 1]
        lower = list(dict.fromkeys(["it", *can, *(role.fields[short] for role in each)]))
        raise ConfigurationError(
            f"{beside.fields[short]} = {beside.needs.get(short, 0):g}: {wanted} x {len(bundles)} workers, each group with "
            f"{_actors(aides)} beside it, {fit.reason(wanted, available, nodes)}: "
            f"lower {', '.join(lower[:-1])} or {lower[-1]}, or set {INLINE}",
            field=beside.fields[short],
            value=beside.needs.get(short, 0),
            allowed=fit.allowed(wanted, available),
        )
    return fit


def _beside(configuration: Configuration, nodes: Sequence[Mapping[str, float]] = ()) -> Role:
    """The influence actor of a student.

    ConfigurationError where it is larger than every node, or has more than one GPU and a part of another, which Ray has not.
    """
    resources = configuration.resources
    if resources.influence_gpus > 1 and resources.influence_gpus % 1:
        raise ConfigurationError(
            f"resources.influence_gpus = {resources.influence_gpus:g} is not allowed: give a part of one GPU, or whole ones",
            field="resources.influence_gpus",
            value=resources.influence_gpus,
            allowed="a part of one GPU, or whole ones",
        )
    fields = {"CPU": "influence_cpus", "GPU": "influence_gpus"}
    held = {name: getattr(resources, key) for name, key in fields.items()}
    needs = {name: value for name, value in held.items() if value}
    role = Role("influence", needs, {name: f"resources.{key}" for name, key in fields.items()})
    _require_node(role, nodes, f", or set {INLINE}")
    return role


def _actors(count: int) -> str:
    return "an influence actor" if count == 1 else f"{count} influence actors"


def _total(bundles: Sequence[Mapping[str, float]], name: str) -> float:
    return fsum(bundle.get(name, 0) for bundle in bundles)


def _terms(each: list[Role], name: str, replicas: int, aides: int = 0, beside: Role | None = None) -> str:
    """Where not the workers of one role alone need it: who needs how much of the sum."""
    whose = [role.letter if len(each) > 1 else "the workers" for role in each]
    terms = [f"{replicas} x {role.needs.get(name, 0):g} of {who}" for role, who in zip(each, whose, strict=True)]
    if beside and name in beside.needs:
        terms.append(f"{_actors(aides)} of {beside.needs[name]:g} {name}")
    return f" ({' + '.join(terms)})" if len(terms) > 1 else ""


def _require_node(role: Role, nodes: Sequence[Mapping[str, float]], otherwise: str = "") -> None:
    """ConfigurationError when a worker of the role is larger than every node; without nodes nobody knows."""
    if not nodes or any(has_space(node, role.needs) for node in nodes):
        return
    for name, value in role.needs.items():
        largest = max(node.get(name, 0) for node in nodes)
        if value > largest:
            told = f"{role.fields[name]} = {value:g} fits no node (the largest has {largest:g} {name}): lower it{otherwise}"
            raise ConfigurationError(told, field=role.fields[name], value=value, allowed=(0, largest))
    both = " and ".join(f"{role.fields[name]} = {value:g}" for name, value in role.needs.items())
    raise ConfigurationError(
        f"{both} fit no node together: lower one of them{otherwise}",
        field=role.fields[name],
        value=value,
        allowed="what one node has",
    )


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


def require_batches(configuration: Configuration, samples: int, labelled: int | None = None, labelled_alone: bool = False) -> None:
    """ConfigurationError when a global batch cannot be shared by its workers or filled by the training part.

    A student's batch is shared by the workers of that student, the teacher's by the whole group. The teacher learns from the
    `labelled` samples (null: all are), and so does a student where `labelled_alone`.
    """
    workers, replicas = configuration.resources.workers, configuration.replicas
    all_of_them = f"resources.workers = {workers}"
    shared = f"the {replicas} workers of each student ({all_of_them} for {len(configuration.students)} students)"
    parts = [("training", configuration.training, replicas, shared if configuration.peers else all_of_them, labelled_alone)]
    if configuration.teacher:
        parts.append(("teacher.training", configuration.teacher.training, workers, all_of_them, True))
    for name, training, sharing, words, alone in parts:
        there, kind, more = samples, "samples", "more data"
        if alone and labelled is not None:
            there, kind, more = labelled, "labelled samples", "more of them (data.labelled)"
        size = training.batch_size
        if size % sharing:
            raise ConfigurationError(
                f"{name}.batch_size = {size} cannot be shared by {words}: give a multiple of {sharing}",
                field=f"{name}.batch_size",
                value=size,
                allowed=f"a multiple of {sharing}",
            )
        if there < size:
            raise ConfigurationError(
                f"the training part has {there} {kind} and {name}.batch_size = {size} ({size // sharing} for each of {sharing} "
                f"workers): give at most {there - there % sharing}, or {more}",
                field=f"{name}.batch_size",
                value=size,
                allowed=(sharing, there - there % sharing),
            )
