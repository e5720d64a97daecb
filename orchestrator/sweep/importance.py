"""Which settings mattered in a sweep: Optuna's evaluators on a copy of its study. Reads the study and writes nothing.

PED-ANOVA asks which settings tell the best trials from the others; it knows conditional settings. fANOVA asks which settings
explain the spread of all values; it knows only the settings that all trials have. So both are asked once for the whole
study, and once more for every branch of it: the trials that have the same settings, as those of one method.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.importance import BaseImportanceEvaluator, FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState, create_trial

from orchestrator.errors import ConfigurationError, UserError
from orchestrator.records import Sweep

LEAST = 8  # trials; of fewer, either evaluator describes noise
BEST = 5  # trials that PED-ANOVA compares with the others, as Optuna advises, where a tenth of them would be fewer
SEED = 0
Values = Mapping[int, float]


@dataclass(frozen=True)
class Ranking:
    """How much each setting mattered in one group of trials: shares that sum to 1, the largest first."""

    branch: str
    trials: int
    ped_anova: dict[str, float]
    fanova: dict[str, float]


@dataclass(frozen=True)
class Importance:
    """The whole study first, then its branches; `left_out` says which branches are too small. `epoch` None: complete trials."""

    objective: str
    direction: str
    epoch: int | None
    rankings: list[Ranking]
    left_out: list[str]
    study: optuna.Study

    def plain(self) -> dict[str, Any]:
        """As JSON values."""
        names = ("objective", "direction", "epoch", "left_out")
        return {name: getattr(self, name) for name in names} | {"rankings": [asdict(ranking) for ranking in self.rankings]}


def importance(sweep: Sweep, epoch: int | None = None) -> Importance:
    """The importances of a sweep's settings, from its complete trials, or from all by their value after `epoch`.

    ConfigurationError for what is no sweep, UserError when the trials do not allow an answer.
    """
    if sweep.kind != "sweep":
        raise ConfigurationError(f"{sweep.name!r} is one training and searched nothing: give the name of a sweep")
    trials = _trials(sweep)
    values = _values(trials, epoch)
    if len(values) < LEAST:
        raise UserError(_too_few(sweep.name, trials, len(values), epoch))
    objective = sweep.configuration.search.objective
    if len(set(values.values())) == 1:
        raise UserError(f"all {len(values)} trials of {sweep.name!r} reached the same {objective}, so no setting made a difference")
    used = [trial for trial in trials if trial.number in values]
    if not _varied(used):
        raise UserError(f"all {len(values)} trials of {sweep.name!r} have the same settings, so none can be compared")
    study = _copy(sweep, trials, values)
    rankings, left_out = [_ranking("whole study", sweep, used, values)], []
    groups = _branches(used)
    for name, members in groups.items() if len(groups) > 1 else ():
        if len(members) < LEAST:
            left_out.append(f"{name}: {len(members)} trials")
        elif not _varied(members) or len({values[trial.number] for trial in members}) == 1:
            left_out.append(f"{name}: nothing differs among {len(members)} trials")
        else:
            rankings.append(_ranking(name, sweep, members, values))
    return Importance(objective, sweep.configuration.search.direction, epoch, rankings, left_out, study)


def pages(found: Importance) -> dict[str, str]:
    """Parallel coordinates and slices as HTML by file name, readable without a network: plotly's code is in each (5 MB)."""
    from optuna.visualization import plot_parallel_coordinate, plot_slice

    varied = sorted(_varied([trial for trial in found.study.trials if trial.state == TrialState.COMPLETE]))
    which = "complete trials" if found.epoch is None else f"value after epoch {found.epoch}"
    drawn = {"parallel_coordinate": plot_parallel_coordinate, "slice": plot_slice}
    made = {}
    for name, plot in drawn.items():
        figure = plot(found.study, params=varied, target_name=found.objective)
        figure.update_layout(title=f"{found.study.study_name}: {found.objective} ({which})", margin={"t": 90})
        made[f"{name}.html"] = figure.to_html(include_plotlyjs=True, full_html=True)
    return made


def _trials(sweep: Sweep) -> list[FrozenTrial]:
    """The trials of the study's journal as it is now; a driver may write to it meanwhile."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file = sweep.folder / "study.log"
    if not file.exists():
        return []
    try:
        storage = JournalStorage(JournalFileBackend(str(file)))
        study: optuna.Study = optuna.load_study(study_name=sweep.name, storage=storage)
        return list(study.trials)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(f"{file} cannot be read ({error}): the study of {sweep.name!r} is damaged") from error


def _values(trials: Sequence[FrozenTrial], epoch: int | None) -> dict[int, float]:
    """What each trial that counts reached. One that was stopped early has a value of fewer epochs, which is another thing."""
    if epoch is None:
        return {trial.number: trial.value for trial in trials if trial.state == TrialState.COMPLETE and trial.value is not None}
    reached = [trial for trial in trials if trial.state != TrialState.FAIL and epoch in trial.intermediate_values]
    return {trial.number: trial.intermediate_values[epoch] for trial in reached}


def _too_few(name: str, trials: Sequence[FrozenTrial], found: int, epoch: int | None) -> str:
    which = "complete trials" if epoch is None else f"trials that reached epoch {epoch}"
    begun = sorted(
        max(trial.intermediate_values) for trial in trials if trial.intermediate_values and trial.state != TrialState.FAIL
    )
    middle = begun[len(begun) // 2] if begun else None
    advice = f"train more with `sweep --resume {name} --trials N`"
    if middle is not None and middle != epoch and len(_values(trials, middle)) >= LEAST:
        advice += f", or compare the {len(_values(trials, middle))} trials that reached epoch {middle} with --epoch {middle}"
    return f"{name!r} has {found} {which} and at least {LEAST} are needed: {advice}"


def _copy(sweep: Sweep, trials: Sequence[FrozenTrial], values: Values) -> optuna.Study:
    """A study in memory in which the trials that count are complete at their value; the others keep the numbering."""
    study = optuna.create_study(study_name=sweep.name, direction=sweep.configuration.search.direction)
    for trial in trials:
        value = values.get(trial.number)
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        params, distributions = ({}, {}) if value is None else (trial.params, trial.distributions)
        study.add_trial(create_trial(state=state, value=value, params=params, distributions=distributions))
    return study


def _ranking(branch: str, sweep: Sweep, trials: Sequence[FrozenTrial], values: Values) -> Ranking:
    study = _copy(sweep, trials, values)
    varied = _varied(trials)
    common = [name for name in varied if all(name in trial.params for trial in trials)]
    quantile = min(0.5, max(0.1, BEST / len(trials)))
    ped_anova = _shares(study, PedAnovaImportanceEvaluator(target_quantile=quantile), varied)
    fanova = _shares(study, FanovaImportanceEvaluator(seed=SEED), common) if common else {}
    return Ranking(branch, len(trials), ped_anova, fanova)


def _shares(study: optuna.Study, evaluator: BaseImportanceEvaluator, names: list[str]) -> dict[str, float]:
    """Shares of 1, or zeros where no setting explains anything; Optuna would call all of them equal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small regimes, experimental arguments
        found = get_param_importances(study, evaluator=evaluator, params=names, normalize=False)
    total = sum(found.values())
    shares = {name: float(value / total) if total > 0 else 0.0 for name, value in found.items()}
    return dict(sorted(shares.items(), key=lambda pair: (-pair[1], pair[0])))


def _varied(trials: Sequence[FrozenTrial]) -> list[str]:
    """The settings that took more than one value, not having one counted as a value."""
    names = {name for trial in trials for name in trial.params}
    return sorted(name for name in names if len({repr(trial.params.get(name)) for trial in trials}) > 1)


def _branches(trials: Sequence[FrozenTrial]) -> dict[str, list[FrozenTrial]]:
    """Trials that have the same settings, named by the choices that led there."""
    groups: dict[frozenset[str], list[FrozenTrial]] = {}
    for trial in trials:
        groups.setdefault(frozenset(trial.params), []).append(trial)
    chosen = set(_varied(trials))
    named: dict[str, list[FrozenTrial]] = {}
    for names, members in groups.items():
        fixed = sorted(name for name in names & chosen if name not in _varied(members) and _is_choice(members[0], name))
        own = sorted(names - frozenset.intersection(*groups))
        name = ", ".join(f"{name}={members[0].params[name]}" for name in fixed) or f"with {', '.join(own) or 'no further setting'}"
        named[name if name not in named else f"{name}, with {', '.join(own)}"] = members
    return dict(sorted(named.items()))


def _is_choice(trial: FrozenTrial, name: str) -> bool:
    return isinstance(trial.distributions[name], optuna.distributions.CategoricalDistribution)
