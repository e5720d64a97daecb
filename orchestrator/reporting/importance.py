"""Rank the settings of a sweep by importance, with Optuna's evaluators on a copy of its study.

The study is only read.

PED-ANOVA measures which settings distinguish the best trials from the others. fANOVA measures which
settings explain the spread of all values. Both compare trials that have the same settings: for a
setting that only some trials have, they would describe noise. So one table covers the settings that
all trials have, and one covers each method. Below it follows one for each value of a choice that
further settings depend on. Fewer than `LEAST` trials give no table. A trial that took over other
settings during training does not count.
"""

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import optuna
from optuna.importance import (
    BaseImportanceEvaluator,
    FanovaImportanceEvaluator,
    PedAnovaImportanceEvaluator,
    get_param_importances,
)
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from orchestrator.config.objectives import primary_goal
from orchestrator.config.trial import Parameters
from orchestrator.core.errors import ConfigurationError, UserError
from orchestrator.core.program import program_name
from orchestrator.store.record_file import DamagedRecordError
from orchestrator.store.records import Sweep
from orchestrator.store.study_file import (
    JOURNAL,
    StudyFile,
    convert_damage_errors,
    load_valid_trials,
)

LEAST = 8  # trials; with fewer, both evaluators describe noise
# Least number of best trials for PED-ANOVA, as Optuna advises, where a tenth of them would be fewer
BEST = 5
SHUFFLES = 99
SEED = 0
WHOLE = "whole study"
METHOD = "method.name"
Values = Mapping[int, float]


@dataclass(frozen=True)
class Ranking:
    """Importance of each setting in one group of trials: shares that sum to 1, the largest first.

    `path` holds the choices that the group has in common, from the method on. It is empty for the
    whole study. `chance` is the frequency with which PED-ANOVA finds at least as much in a setting
    when the values are assigned to the trials at random. With few trials one setting has a large
    share whatever the values are. Only `chance` shows whether the share has a meaning.
    """

    branch: str
    path: Parameters
    trials: int
    ped_anova: dict[str, float]
    fanova: dict[str, float]
    chance: dict[str, float]


@dataclass(frozen=True)
class Importance:
    """Rankings of a sweep's settings, the widest group first.

    `too_few` and `alike` name the groups without a table, with their numbers of trials. `epoch` is
    None for complete trials. `changed` counts trials that are left out because they took over other
    settings during training.
    """

    objective: str
    direction: str
    epoch: int | None
    trials: int
    changed: int
    rankings: list[Ranking]
    too_few: list[str]
    alike: list[str]
    study: optuna.Study

    def plain(self) -> dict[str, Any]:
        """Return the fields as JSON values, without the study."""
        names = ("objective", "direction", "epoch", "trials", "changed", "too_few", "alike")
        return {name: getattr(self, name) for name in names} | {
            "rankings": [asdict(ranking) for ranking in self.rankings]
        }

    def metrics(self) -> dict[str, float]:
        """Return PED-ANOVA shares by setting, of the whole study and of each method.

        The names of a method's shares begin with its name.
        """
        shares: dict[str, float] = {}
        for ranking in self.rankings:
            if not set(ranking.path) <= {METHOD}:
                continue
            prefix = f"{ranking.path[METHOD]}." if ranking.path else ""
            shares |= {
                prefix + name.removeprefix(prefix): share
                for name, share in ranking.ped_anova.items()
            }
        return shares


def importance(sweep: Sweep, epoch: int | None = None, option: str = "") -> Importance:
    """Return the importance of a sweep's settings.

    Args:
        sweep: The sweep.
        epoch: Compare all trials by their value after this epoch; None for complete trials only.
        option: The command-line option that selects the store, for error messages.

    Raises:
        ConfigurationError: It is not a sweep, or the epoch is out of range.
        UserError: The trials are too few or do not differ.
    """
    _require_sweep(sweep, epoch)
    trials = _trials(sweep)
    values = _values(trials, epoch, _own_until(sweep, trials))
    if len(values) < LEAST:
        raise UserError(_too_few(sweep, trials, len(values), epoch, option)).with_details(
            "search.trials", len(values), (LEAST, None)
        )
    objective, direction = primary_goal(sweep.configuration.search)
    used = [trial for trial in trials if trial.number in values]
    _require_differences(sweep, objective, used, values)
    rankings, too_few, alike = _rank_groups(sweep, trials, used, values)
    if not rankings:
        raise UserError(
            f"importance needs at least {LEAST} trials that differ in two settings they all have; "
            f"no {LEAST} of the {len(values)} trials of {sweep.name!r} do"
        ).with_details("search.trials", len(values), f"{LEAST} that differ in two settings")
    return Importance(
        objective=objective,
        direction=direction,
        epoch=epoch,
        trials=len(values),
        changed=len(_values(trials, epoch)) - len(values),
        rankings=rankings,
        too_few=too_few,
        alike=alike,
        study=_copy(sweep, trials, values),
    )


def _require_sweep(sweep: Sweep, epoch: int | None) -> None:
    """Raise ConfigurationError for a training, and for an epoch that the sweep does not have."""
    if sweep.kind != "sweep":
        raise ConfigurationError(
            f"{sweep.name!r} is a single training, which searches no settings: give the name of a "
            f"sweep"
        ).with_details("name", sweep.name, "a sweep")
    epochs = sweep.configuration.training.epochs
    if epoch is not None and not 1 <= epoch <= epochs:
        raise ConfigurationError(
            f"--epoch {epoch} is not allowed: the trials of {sweep.name!r} have {epochs} epochs, "
            f"give 1 to {epochs}"
        ).with_details("--epoch", epoch, (1, epochs))


def _require_differences(
    sweep: Sweep, objective: str, used: list[FrozenTrial], values: Values
) -> None:
    """Raise UserError where all trials have the same value, or the same settings."""
    if len(set(values.values())) == 1:
        raise UserError(
            f"all {len(values)} trials of {sweep.name!r} reached the same {objective}, so the "
            f"settings made no difference"
        ).with_details(objective, next(iter(values.values())), "values that differ")
    if not _varied(used):
        raise UserError(
            f"all {len(values)} trials of {sweep.name!r} have the same settings, so there "
            f"is nothing to compare"
        ).with_details("search.trials", len(values), "settings that differ")


def _rank_groups(
    sweep: Sweep, trials: list[FrozenTrial], used: list[FrozenTrial], values: Values
) -> tuple[list[Ranking], list[str], list[str]]:
    """Rank the settings within each group of trials that have the same settings.

    Returns:
        The rankings, the names of groups with too few trials, and the names of groups whose trials
        do not differ.
    """
    rankings: list[Ranking] = []
    small: dict[str, list[str]] = {}
    alike: list[str] = []
    for path, members in _groups(used, _deciding(trials)):
        names = [name for name in _varied(members) if name in _common(members)]
        if len(members) < LEAST:
            value = str(list(path.values())[-1])
            small.setdefault(_named(path).removesuffix(value), []).append(
                f"{value} ({len(members)})"
            )
        elif len(names) < 2 or len({values[trial.number] for trial in members}) == 1:
            # The share of a single setting would always be 1
            alike.append(f"{_named(path)} ({len(members)})")
        else:
            rankings.append(_ranking(path, sweep, members, names, values))
    return rankings, [stem + ", ".join(rest) for stem, rest in small.items()], alike


def pages(found: Importance) -> dict[str, str]:
    """Return parallel coordinates and slices as HTML, by file name.

    Each page includes plotly's code (5 MB), so that it needs no network.
    """
    from optuna.visualization import plot_parallel_coordinate, plot_slice

    varied = sorted(
        _varied([trial for trial in found.study.trials if trial.state == TrialState.COMPLETE])
    )
    which = "complete trials" if found.epoch is None else f"value after epoch {found.epoch}"
    drawn = {"parallel_coordinate": plot_parallel_coordinate, "slice": plot_slice}
    html = {}
    for name, plot in drawn.items():
        figure = plot(found.study, params=varied, target_name=found.objective)
        figure.update_layout(
            title=f"{found.study.study_name}: {found.objective} ({which})", margin={"t": 90}
        )
        html[f"{name}.html"] = figure.to_html(include_plotlyjs=True, full_html=True)
    return html


def _trials(sweep: Sweep) -> list[FrozenTrial]:
    """Return the trials of the study's journal as it is now. A driver may write to it meanwhile.

    With several objectives the trials have the first one only. Optuna does not keep the values of
    its epochs then, so they are from the records.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file = sweep.folder / JOURNAL
    if not file.exists():
        return []
    journal = StudyFile(str(file))
    try:
        with convert_damage_errors(journal, file):
            study: optuna.Study = optuna.load_study(
                study_name=sweep.name, storage=JournalStorage(journal)
            )
            trials = copy.deepcopy(load_valid_trials(study))
    except OSError as error:
        raise DamagedRecordError(file, f"it cannot be read ({error.strerror or error})") from error
    for trial in trials if sweep.configuration.search.objectives else ():
        record = sweep.trials.get(trial.number)
        trial.intermediate_values = dict(record.known) if record else {}
        trial.values = trial.values[:1] if trial.values else None
    return trials


def _own_until(sweep: Sweep, trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """Return the last epoch with originally drawn settings, of each trial that took over others."""
    changes = {trial.number: trial.user_attrs.get("changes") or [] for trial in trials}
    changes |= {number: record.changes for number, record in sweep.trials.items() if record.changes}
    return {
        number: min(change["epoch"] for change in record)
        for number, record in changes.items()
        if record
    }


def _values(
    trials: Sequence[FrozenTrial], epoch: int | None, own_until: Mapping[int, int] | None = None
) -> dict[int, float]:
    """Return the value of each trial that counts.

    A trial that was stopped early has a value of fewer epochs, which is not comparable. With
    `own_until`, values that were reached with settings of another trial do not count.
    """
    until = own_until or {}
    if epoch is None:
        whole = [
            trial
            for trial in trials
            if trial.state == TrialState.COMPLETE and trial.number not in until
        ]
        return {trial.number: trial.value for trial in whole if trial.value is not None}
    reached = [
        trial
        for trial in trials
        if trial.state != TrialState.FAIL and epoch in trial.intermediate_values
    ]
    return {
        trial.number: trial.intermediate_values[epoch]
        for trial in reached
        if epoch <= until.get(trial.number, epoch)
    }


def _too_few(
    sweep: Sweep, trials: Sequence[FrozenTrial], found: int, epoch: int | None, option: str
) -> str:
    until = _own_until(sweep, trials)
    changed = len(_values(trials, epoch)) - found
    which = "complete trials" if epoch is None else f"trials that reached epoch {epoch}"
    counted = (
        f"{sweep.name!r} has {found} "
        f"{which}{' with unchanged settings' if changed else ''} and at least {LEAST} are needed"
    )
    last = sorted(
        min(max(trial.intermediate_values), until.get(trial.number, max(trial.intermediate_values)))
        for trial in trials
        if trial.intermediate_values and trial.state != TrialState.FAIL
    )
    middle = last[len(last) // 2] if last else None
    others = len(_values(trials, middle, until)) if middle is not None and middle != epoch else 0
    if others >= LEAST:
        advice = [f"compare the {others} trials that reached epoch {middle} with --epoch {middle}"]
    else:
        advice = []
    if changed:
        reason = (
            f"population based training changed the settings of {changed} others during training"
        )
        return f"{counted}: {reason}" + (f"; {advice[0]}" if advice else "")
    if sweep.alive:
        advice.insert(0, "wait, because it is still running")
    elif sweep.configuration.search.scheduler != "pbt":
        advice.insert(
            0, f"train more with `{program_name()} sweep --resume {sweep.name} --trials N{option}`"
        )
    return f"{counted}: {', or '.join(advice) or 'the population of pbt cannot grow'}"


def _copy(sweep: Sweep, trials: Sequence[FrozenTrial], values: Values) -> optuna.Study:
    """Return an in-memory study in which the trials that count are complete at their value.

    The other trials are failed, and keep the numbering.
    """
    study = optuna.create_study(
        study_name=sweep.name, direction=primary_goal(sweep.configuration.search).direction
    )
    for trial in trials:
        value = values.get(trial.number)
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        params, distributions = ({}, {}) if value is None else (trial.params, trial.distributions)
        study.add_trial(
            create_trial(state=state, value=value, params=params, distributions=distributions)
        )
    return study


def _ranking(
    path: Parameters, sweep: Sweep, trials: Sequence[FrozenTrial], names: list[str], values: Values
) -> Ranking:
    study = _copy(sweep, trials, values)
    ped_anova = PedAnovaImportanceEvaluator(target_quantile=min(0.5, max(0.1, BEST / len(trials))))
    raw = _evaluate(study, ped_anova, names)
    as_much = dict.fromkeys(raw, 0)
    generator, reached = np.random.default_rng(SEED), [values[trial.number] for trial in trials]
    for _ in range(SHUFFLES):
        shuffled = zip(
            (trial.number for trial in trials), generator.permutation(reached).tolist(), strict=True
        )
        for name, value in _evaluate(
            _copy(sweep, trials, dict(shuffled)), ped_anova, names
        ).items():
            as_much[name] += value >= raw[name]
    chance = {name: (1 + count) / (1 + SHUFFLES) for name, count in as_much.items()}
    fanova = _evaluate(study, FanovaImportanceEvaluator(seed=SEED), names)
    return Ranking(_named(path), path, len(trials), _shares(raw), _shares(fanova), chance)


def _evaluate(
    study: optuna.Study, evaluator: BaseImportanceEvaluator, names: list[str]
) -> dict[str, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about small regimes and experimental arguments
        importances: dict[str, float] = get_param_importances(
            study, evaluator=evaluator, params=names, normalize=False
        )
    return importances


def _shares(importances: Mapping[str, float]) -> dict[str, float]:
    """Return shares of 1, or zeros if no setting explains anything; Optuna would make all equal."""
    total = sum(importances.values())
    shares = {
        name: float(value / total) if total > 0 else 0.0 for name, value in importances.items()
    }
    return dict(sorted(shares.items(), key=lambda pair: (-pair[1], pair[0])))


def _varied(trials: Sequence[FrozenTrial]) -> list[str]:
    """Return the settings that took more than one value. A missing setting counts as a value."""
    names = {name for trial in trials for name in trial.params}
    return sorted(
        name for name in names if len({repr(trial.params.get(name)) for trial in trials}) > 1
    )


def _common(trials: Sequence[FrozenTrial]) -> set[str]:
    """Return the settings that all trials have."""
    return set.intersection(*(set(trial.params) for trial in trials))


def _deciding(trials: Sequence[FrozenTrial]) -> set[str]:
    """Return the choices whose value determines whether a trial has some other setting.

    This is judged from all that was drawn.
    """
    drawn = [
        trial for trial in trials if trial.state != TrialState.FAIL and trial.intermediate_values
    ]
    bounds = {name: bound for trial in drawn for name, bound in trial.distributions.items()}
    choices = [
        name
        for name, bound in bounds.items()
        if isinstance(bound, optuna.distributions.CategoricalDistribution)
    ]
    return {choice for choice in choices if any(_decides(choice, name, drawn) for name in bounds)}


def _decides(choice: str, name: str, drawn: Sequence[FrozenTrial]) -> bool:
    if any(name in trial.params and choice not in trial.params for trial in drawn):
        return False
    with_choice = [trial for trial in drawn if choice in trial.params]
    pairs = {(repr(trial.params[choice]), name in trial.params) for trial in with_choice}
    return len({value for value, _ in pairs}) == len(pairs) and len({has for _, has in pairs}) == 2


def _groups(
    trials: Sequence[FrozenTrial], deciding: set[str]
) -> Iterator[tuple[Parameters, list[FrozenTrial]]]:
    """Yield groups of trials with the choices that they have in common.

    First all trials, then each method, then the parts of it by further choices.
    """
    methods = {trial.params.get(METHOD) for trial in trials}
    path = {METHOD: methods.pop()} if len(methods) == 1 and METHOD in _common(trials) else {}
    return _split(path, list(trials), set(), deciding | {METHOD})


def _split(
    path: Parameters, trials: list[FrozenTrial], above: set[str], deciding: set[str]
) -> Iterator[tuple[Parameters, list[FrozenTrial]]]:
    """Yield a group, then the groups in it by each choice that the group `above` did not have.

    `above` holds the settings of that group.
    """
    yield path, trials
    if len(trials) < LEAST:
        return
    common = _common(trials)
    for choice in sorted((common - above) & deciding):
        parts: dict[str, list[FrozenTrial]] = {}
        for trial in trials:
            parts.setdefault(str(trial.params[choice]), []).append(trial)
        for _, members in sorted(parts.items()) if len(parts) > 1 else ():
            yield from _split(path | {choice: members[0].params[choice]}, members, common, deciding)


def _named(path: Mapping[str, Any]) -> str:
    """Return the name of a group, such as `akd with alpha_schedule=gap`."""
    method = str(path.get(METHOD, ""))
    rest = ", ".join(
        f"{name.removeprefix(f'{method}.')}={value}"
        for name, value in path.items()
        if name != METHOD
    )
    return " with ".join(part for part in (method, rest) if part) or WHOLE
