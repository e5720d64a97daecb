"""Compute the plan of a sweep before it starts: groups, rungs, batches."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import ceil, floor, fsum, log
from typing import NamedTuple

from orchestrator.config.bin_packing import count_fitting_groups, has_space
from orchestrator.config.schema import Configuration, Search
from orchestrator.core.errors import ConfigurationError, PreflightError

SETTINGS = {"CPU": "cpus_per_worker", "GPU": "gpus_per_worker"}
INLINE = "resources.influence_backend=inline"


@dataclass(frozen=True)
class Groups:
    """Number of worker groups, the resources of each rank's worker, and the arithmetic in words."""

    groups: int
    bundles: tuple[dict[str, float], ...]
    arithmetic: str
    influence_needs: tuple[dict[str, float], ...] = ()
    """The resources of each influence actor of a group."""

    @property
    def workers(self) -> int:
        """Return the number of workers of one group."""
        return len(self.bundles)

    @property
    def is_heterogeneous(self) -> bool:
        """Return whether the workers of a group have different resources."""
        return any(bundle != self.bundles[0] for bundle in self.bundles)

    @property
    def whole_gpus(self) -> bool:
        """Return whether every worker has a GPU that it shares with no other."""
        return all(bundle.get("GPU", 0) >= 1 for bundle in self.bundles)

    @property
    def mean(self) -> dict[str, float]:
        """Return the mean resources of a worker; equal workers have exactly these."""
        if not self.is_heterogeneous:
            return dict(self.bundles[0])
        names = dict.fromkeys(name for bundle in self.bundles for name in bundle)
        return {name: _total(self.bundles, name) / self.workers for name in names}


class Role(NamedTuple):
    """Workers of one student, or of all students if these share them."""

    letter: str
    needs: dict[str, float]
    """The resources of one worker, under Ray's names."""
    fields: dict[str, str]
    """The configuration key of each resource."""


def worker_roles(
    configuration: Configuration,
    available: Mapping[str, float],
    nodes: Sequence[Mapping[str, float]] = (),
) -> list[Role]:
    """Return the roles of a group, in the order of the ranks.

    A group consists of its roles repeated `configuration.replicas` times. CPUs do not replace GPUs
    that `nodes` have but others use now.

    Raises:
        PreflightError: No number of GPUs is configured, and there are GPUs, but fewer than a group
            has workers.
    """
    resources = configuration.resources
    peers = {} if configuration.colocated else configuration.peers
    fields: dict[str, dict[str, str]] = {
        "a": {name: f"resources.{key}" for name, key in SETTINGS.items()}
    }
    requested: dict[str, dict[str, float | None]] = {
        "a": {name: getattr(resources, key) for name, key in SETTINGS.items()}
    }
    for letter, peer in peers.items():
        overrides = {
            name: getattr(peer, key)
            for name, key in SETTINGS.items()
            if getattr(peer, key) is not None
        }
        requested[letter] = requested["a"] | overrides
        fields[letter] = fields["a"] | {
            name: f"peers.{letter}.{SETTINGS[name]}" for name in overrides
        }
    wanted = configuration.replicas * sum(
        1.0 if values["GPU"] is None else values["GPU"] for values in requested.values()
    )
    gpus = max(available.get("GPU", 0), _total(nodes, "GPU"))
    if 0 < gpus < wanted and any(values["GPU"] is None for values in requested.values()):
        raise PreflightError(
            f"a group of {resources.workers} workers with one GPU each needs {wanted:g} GPU and "
            f"the cluster has {gpus:g}: reduce resources.workers, or set "
            f"resources.gpus_per_worker to {gpus / resources.workers:.2g} to share GPUs, or to 0 "
            f"to use CPUs only"
        ).with_details("resources.gpus_per_worker", None, (0, gpus / resources.workers))
    default = 1.0 if gpus else 0.0
    group_roles = []
    for letter, values in requested.items():
        amounts = {name: default if value is None else value for name, value in values.items()}
        group_roles.append(
            Role(letter, {name: value for name, value in amounts.items() if value}, fields[letter])
        )
    return group_roles


def influence_actors_per_group(configuration: Configuration) -> int:
    """Return the number of influence actors of a group whose samples are weighted.

    This is one for each student with workers of its own, else one. It is 0 if the workers compute
    the weights themselves.
    """
    if configuration.resources.influence_backend == "inline":
        return 0
    return 1 if configuration.colocated else len(configuration.students)


def plan_groups(
    configuration: Configuration,
    available: Mapping[str, float],
    trials: int,
    nodes: Sequence[Mapping[str, float]] = (),
    num_influence_actors: int = 0,
    free: Sequence[Mapping[str, float]] | None = None,
    elastic: bool = False,
) -> Groups:
    """Return the groups of a sweep: as many as fit, at most those configured and one per trial.

    Args:
        configuration: The configuration of the sweep.
        available: The free resources of the cluster, under Ray's names.
        trials: The number of trials.
        nodes: The resources of each node; without nodes, placement is not checked.
        num_influence_actors: The number of influence actors of each group.
        free: The free resources of each node; None for all of `nodes`.
        elastic: Whether the sweep may start with fewer groups than configured, if one fits.

    Raises:
        ConfigurationError: A worker or an influence actor fits no node, or the groups fit only
            without their influence actors.
        PreflightError: The groups do not fit; the message has the arithmetic.
    """
    each, resources = worker_roles(configuration, available, nodes), configuration.resources
    bundles = tuple(role.needs for _ in range(configuration.replicas) for role in each)
    for role in each:
        _require_node(role, nodes)
    free = nodes if free is None else free
    fit = _fit(bundles, available, free, lambda name: _terms(each, name, configuration.replicas))
    wanted = 1 if elastic else resources.groups or 1
    if fit.most < wanted:
        short = fit.short(wanted)
        lower = list(
            dict.fromkeys(
                ["resources.workers", "resources.groups", *(role.fields[short] for role in each)]
            )
        )
        reason = fit.reason(wanted, available, nodes)
        raise PreflightError(
            f"{wanted} x {len(bundles)} workers {reason}: reduce {', '.join(lower[:-1])} or "
            f"{lower[-1]}"
        ).with_details("resources.workers", resources.workers, fit.allowed(wanted, available))
    influence_needs: tuple[dict[str, float], ...] = ()
    if num_influence_actors:
        influence_needs = (_influence_role(configuration, nodes).needs,) * num_influence_actors
        fit = _fit_with_influence_actors(
            configuration, each, bundles, num_influence_actors, available, free, wanted
        )
    most = min(resources.groups or fit.most, fit.most)
    return Groups(min(most, max(trials, 1)), bundles, fit.arithmetic, influence_needs)


class _Fit(NamedTuple):
    """Needs of a group, groups per resource with their minimum, and groups that fit the nodes."""

    needs: dict[str, float]
    fits: dict[str, int]
    sums: int
    most: int
    arithmetic: str

    def short(self, wanted: int) -> str:
        """Return the resource that is insufficient for so many groups."""
        return next((name for name, value in self.fits.items() if value < wanted), "CPU")

    def allowed(self, wanted: int, available: Mapping[str, float]) -> str:
        """Return the amount of the scarce resource, or the number of groups that fit the nodes."""
        short = self.short(wanted)
        return (
            f"{self.most} groups" if self.sums >= wanted else f"{available.get(short, 0):g} {short}"
        )

    def reason(
        self, wanted: int, available: Mapping[str, float], nodes: Sequence[Mapping[str, float]]
    ) -> str:
        """Return the reason why so many groups do not fit, in words."""
        if self.sums >= wanted:
            where = "the node" if len(nodes) == 1 else f"the {len(nodes)} nodes"
            return (
                f"do not fit {where} of the cluster, because neither a worker nor a fraction of a "
                f"GPU can be split ({self.arithmetic})"
            )
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
    needs = {
        name: _total(bundles, name)
        for name in SETTINGS
        if any(name in bundle for bundle in bundles)
    }
    # rounded: 0.9 / (3 x 0.1) is 2.9999999999999996
    fits = {name: floor(round(available.get(name, 0) / need, 6)) for name, need in needs.items()}
    lines = [
        f"{available.get(name, 0):g} {name} / {need:g}{terms(name)} per group"
        for name, need in needs.items()
    ]
    sums = min(fits.values())
    most = count_fitting_groups(bundles, nodes, sums) if nodes else sums
    on = f", {most} on {len(nodes)} node{'s' * (len(nodes) != 1)}"
    arithmetic = f"floor({' , '.join(lines)}) = {sums}" + (on if most < sums else "")
    return _Fit(needs, fits, sums, most, arithmetic)


def _fit_with_influence_actors(
    configuration: Configuration,
    each: list[Role],
    bundles: tuple[dict[str, float], ...],
    num_influence_actors: int,
    available: Mapping[str, float],
    nodes: Sequence[Mapping[str, float]],
    wanted: int,
) -> _Fit:
    """Return the fit with influence actors; raise ConfigurationError if they do not fit."""
    influence_needs, resources = _influence_role(configuration), configuration.resources
    terms = partial(
        _terms,
        each,
        replicas=configuration.replicas,
        num_influence_actors=num_influence_actors,
        influence_needs=influence_needs,
    )
    fit = _fit((*bundles, *[influence_needs.needs] * num_influence_actors), available, nodes, terms)
    if fit.most < wanted:
        short = fit.short(wanted)
        counts = {"resources.workers": resources.workers, "resources.groups": wanted}
        can = [name for name, count in counts.items() if count > 1]
        lower = list(dict.fromkeys(["it", *can, *(role.fields[short] for role in each)]))
        raise ConfigurationError(
            f"{influence_needs.fields[short]} = {influence_needs.needs.get(short, 0):g}: {wanted} "
            f"x {len(bundles)} workers, each group with {_actors(num_influence_actors)}, "
            f"{fit.reason(wanted, available, nodes)}: reduce {', '.join(lower[:-1])} or "
            f"{lower[-1]}, or set {INLINE}"
        ).with_details(
            influence_needs.fields[short],
            influence_needs.needs.get(short, 0),
            fit.allowed(wanted, available),
        )
    return fit


def _influence_role(
    configuration: Configuration, nodes: Sequence[Mapping[str, float]] = ()
) -> Role:
    """Return the role of a student's influence actor.

    Raise ConfigurationError if it fits no node, or needs whole GPUs and a fraction, which Ray does
    not support.
    """
    resources = configuration.resources
    if resources.influence_gpus > 1 and resources.influence_gpus % 1:
        raise ConfigurationError(
            f"resources.influence_gpus = {resources.influence_gpus:g} is not allowed: give a "
            f"fraction of one GPU or a whole number of GPUs"
        ).with_details(
            "resources.influence_gpus",
            resources.influence_gpus,
            "a fraction of one GPU or a whole number of GPUs",
        )
    fields = {"CPU": "influence_cpus", "GPU": "influence_gpus"}
    amounts = {name: getattr(resources, key) for name, key in fields.items()}
    needs = {name: value for name, value in amounts.items() if value}
    role = Role("influence", needs, {name: f"resources.{key}" for name, key in fields.items()})
    _require_node(role, nodes, f", or set {INLINE}")
    return role


def _actors(count: int) -> str:
    return "an influence actor" if count == 1 else f"{count} influence actors"


def _total(bundles: Sequence[Mapping[str, float]], name: str) -> float:
    return fsum(bundle.get(name, 0) for bundle in bundles)


def _terms(
    each: list[Role],
    name: str,
    replicas: int,
    num_influence_actors: int = 0,
    influence_needs: Role | None = None,
) -> str:
    """Return the sum of a resource in words, if it has more than one term."""
    owners = [role.letter if len(each) > 1 else "the workers" for role in each]
    terms = [
        f"{replicas} x {role.needs.get(name, 0):g} of {owner}"
        for role, owner in zip(each, owners, strict=True)
    ]
    if influence_needs and name in influence_needs.needs:
        terms.append(f"{_actors(num_influence_actors)} of {influence_needs.needs[name]:g} {name}")
    return f" ({' + '.join(terms)})" if len(terms) > 1 else ""


def _require_node(role: Role, nodes: Sequence[Mapping[str, float]], otherwise: str = "") -> None:
    """Raise ConfigurationError if a worker fits no node; without nodes this is not checked."""
    if not nodes or any(has_space(node, role.needs) for node in nodes):
        return
    for name, value in role.needs.items():
        largest = max(node.get(name, 0) for node in nodes)
        if value > largest:
            message = (
                f"{role.fields[name]} = {value:g} fits no node (the largest has {largest:g} "
                f"{name}): reduce it{otherwise}"
            )
            raise ConfigurationError(message).with_details(role.fields[name], value, (0, largest))
    both = " and ".join(f"{role.fields[name]} = {value:g}" for name, value in role.needs.items())
    raise ConfigurationError(
        f"{both} do not fit any node together: reduce one of them{otherwise}"
    ).with_details(role.fields[name], value, "what one node has")


def asha_rungs(search: Search, epochs: int) -> list[int]:
    """Return the epochs after which ASHA compares trials, including the last one."""
    if search.scheduler != "asha":
        return [epochs]
    steps = []
    epoch = search.grace_epochs
    while epoch < epochs:
        steps.append(epoch)
        epoch *= search.reduction_factor
    return [*steps, epochs]


def hyperband_brackets(search: Search, epochs: int) -> list[tuple[int, list[int]]]:
    """Return, for each Hyperband bracket in sequence, its trials and its epochs of comparison."""
    eta = search.reduction_factor
    most = round(log(epochs) / log(eta)) + 1
    brackets = []
    for halvings in range(most):
        first = int(epochs * eta ** (-halvings))
        if first:
            milestones = [min(first * eta**step, epochs) for step in range(halvings)]
            brackets.append((ceil(most / (halvings + 1) * eta**halvings), milestones))
    return brackets


def count_planned_epochs(search: Search, epochs: int) -> int:
    """Return the total epochs of all trials under `pbt` and `hyperband` if none fails."""
    if search.scheduler != "hyperband":
        return search.trials * epochs
    trials_left, total = search.trials, 0
    while trials_left > 0:
        for trials, milestones in hyperband_brackets(search, epochs):
            present, keep = min(trials, trials_left), trials
            trials_left -= present
            for before, step in pairwise([0, *milestones, epochs]):
                total += present * (step - before)
                # As for a full bracket, even if this one is not full.
                keep = ceil(keep / search.reduction_factor)
                present = min(present, keep)
    return total


def describe_comparisons(search: Search, epochs: int) -> str:
    """Return a description of the epochs after which the scheduler compares trials."""
    if search.scheduler == "asha":
        return (
            f"asha compares after {', '.join(str(epoch) for epoch in asha_rungs(search, epochs))}"
        )
    if search.scheduler == "median":
        return f"median compares after every epoch from epoch {search.grace_epochs} on"
    if search.scheduler == "pbt":
        after = ", ".join(
            str(epoch) for epoch in range(search.perturb_epochs, epochs, search.perturb_epochs)
        )
        return (
            f"pbt compares a population of {search.trials} trials after {after}; the worst "
            f"{search.quantile:.0%} copy the weights of the best"
        )
    if search.scheduler == "hyperband":
        trials_left, parts = search.trials, []
        for trials, milestones in hyperband_brackets(search, epochs):
            if milestones:
                after = f"compared after {', '.join(map(str, milestones))}"
            else:
                after = "trained to the end"
            parts += [f"{min(trials, trials_left)} {after}"] if trials_left > 0 else []
            trials_left -= trials
        return f"hyperband: trials in brackets: {'; '.join(parts)}" + (
            f"; the other {trials_left} in further brackets" if trials_left > 0 else ""
        )
    return "no trial is stopped"


def require_batches(
    configuration: Configuration,
    samples: int,
    labelled: int | None = None,
    labelled_alone: bool = False,
) -> None:
    """Require global batches that the workers can share and the training part can fill.

    The workers of a student share its batch; the whole group shares the teacher's batch.

    Args:
        configuration: The configuration of the run.
        samples: The number of training samples.
        labelled: The labelled samples, on which the teacher trains; None if all are labelled.
        labelled_alone: Whether a student, too, trains on the labelled samples only.

    Raises:
        ConfigurationError: A batch size is no multiple of its workers, or larger than the data.
    """
    workers, replicas = configuration.resources.workers, configuration.replicas
    all_of_them = f"resources.workers = {workers}"
    shared = (
        f"the {replicas} workers of each student ({all_of_them} for {len(configuration.students)} "
        f"students)"
    )
    parts = [
        (
            "training",
            configuration.training,
            replicas,
            shared if configuration.peers else all_of_them,
            labelled_alone,
        )
    ]
    if labelled != 0:  # without labels the weights of teachers are given
        parts += [
            (f"{key}.training", teacher.training, workers, all_of_them, True)
            for key, teacher in configuration.named_teachers.items()
        ]
    for name, training, sharing, words, alone in parts:
        num_samples, kind, more = samples, "samples", "provide more data"
        if alone and labelled is not None:
            num_samples, kind, more = labelled, "labelled samples", "increase data.labelled"
        size = training.batch_size
        if size % sharing:
            raise ConfigurationError(
                f"{name}.batch_size = {size} cannot be divided equally among {words}: give a "
                f"multiple of {sharing}"
            ).with_details(f"{name}.batch_size", size, f"a multiple of {sharing}")
        if num_samples < size:
            raise ConfigurationError(
                f"{name}.batch_size = {size} ({size // sharing} for each of {sharing} workers) is "
                f"more than the {num_samples} {kind} of the training set: give at most "
                f"{num_samples - num_samples % sharing}, or {more}"
            ).with_details(
                f"{name}.batch_size", size, (sharing, num_samples - num_samples % sharing)
            )
