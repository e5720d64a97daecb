"""Reconcile the Optuna study and the records of a sweep after a driver's death.

A driver draws a trial from the study, then writes its record. It writes an epoch to the record,
then to the study, and the end of a trial to the study, then to the record. It may be killed between
any two of these steps, and a file may be damaged later. What only one side has is written to the
other. No trial is drawn twice, and no number is left out.
"""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import PartialFixedSampler
from optuna.trial import FrozenTrial, TrialState

from orchestrator.config.objectives import goals
from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import draw, suggest_configuration
from orchestrator.store.progress import reported_epochs
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.records import TrialState as RecordState

STATES: dict[RecordState, TrialState] = {
    "complete": TrialState.COMPLETE,
    "stopped_early": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
NAMES = {state: name for name, state in STATES.items()}
LOST = "its record was damaged, and is made anew of the study and the checkpoint"


def reconcile(
    study: optuna.Study, sweep: Sweep, fetch: Callable[[Path], None] = lambda trial: None
) -> list[str]:
    """Reconcile the study with the records.

    Afterwards a trial that began and has not ended is among the unfinished trials of the sweep.
    Records that are damaged, or contradict the study, are set aside and rebuilt.

    Args:
        fetch: Brings the files that a trial's folder needs for a rebuilt record.

    Returns:
        A sentence for each record that was set aside.
    """
    names = [goal.name for goal in goals(sweep.configuration.search)]
    mended = _set_aside(study, sweep)
    _begin_known(study, sweep)
    begun = [
        frozen for frozen in study.get_trials(deepcopy=False) if frozen.state != TrialState.WAITING
    ]
    for frozen in begun:  # before any draw, which depends on the contents of the study
        trial = sweep.trials.get(frozen.number)
        if trial and not frozen.state.is_finished():
            _tell(study, frozen, trial, len(names) == 1)
        elif trial and not trial.ended:
            trial.state = NAMES[frozen.state]
            sweep.save_trial(trial)
    for frozen in begun:
        if frozen.number not in sweep.trials:
            fetch(sweep.trial_folder(frozen.number))
            trial = _made_anew(study, frozen, sweep, names)
            trial.notes += [LOST] if sweep.trial_file(frozen.number) in mended else []
            sweep.save_trial(trial)
    sweep.trials = dict(sorted(sweep.trials.items()))
    return list(mended.values())


def _set_aside(study: optuna.Study, sweep: Sweep) -> dict[Path, str]:
    """Rename the records that cannot be used; return a sentence for each by its file."""
    begun = {
        each.number: each
        for each in study.get_trials(deepcopy=False)
        if each.state != TrialState.WAITING
    }
    for number, trial in list(sweep.trials.items()):
        reason = _contradiction(begun[number], trial) if number in begun else _beyond(sweep, number)
        if reason:
            sweep.damaged[sweep.trial_file(number)] = reason
            del sweep.trials[number]
    return {file: sweep.set_aside(file) for file in list(sweep.damaged)}


def _contradiction(frozen: FrozenTrial, trial: Trial) -> str:
    """Return how a record contradicts the study; empty if it does not.

    The study takes precedence: it is appended to and never rewritten.
    """
    for name in trial.params.keys() & frozen.params.keys():
        own, other = trial.params[name], frozen.params[name]
        # a choice may be a list, which is a tuple elsewhere
        if own != other and json.dumps(own) != json.dumps(other):
            return f"params.{name} = {own!r}, and the study has {other!r}"
    for epoch, value in trial.known:
        if frozen.intermediate_values.get(epoch, value) != value:
            return (
                f"history has {value!r} after epoch {epoch}, and the study "
                f"{frozen.intermediate_values[epoch]!r}"
            )
    if trial.ended and frozen.state.is_finished() and STATES[trial.state] != frozen.state:
        return f"state = {trial.state}, and the study has {NAMES[frozen.state]}"
    reached: list[Any] = trial.values or [trial.value]
    if (
        trial.state == "complete"
        and frozen.state == TrialState.COMPLETE
        and reached != frozen.values
    ):
        return f"value = {trial.value!r}, and the study has {frozen.values[0]!r}"
    return ""


def _beyond(sweep: Sweep, number: int) -> str:
    """Return why a trial's number is beyond the sweep's trials; empty if it is not.

    The study must not grow so far: no sweep is given fewer trials than it has begun.
    """
    trials = sweep.configuration.search.trials
    return (
        f"number = {number} is not allowed: the sweep has {trials} trials"
        if number >= trials
        else ""
    )


def create_trial(
    study: optuna.Study, configuration: Configuration, params: dict[str, Any] | None = None
) -> optuna.Trial:
    """Return the next trial of the study with all parameters: `params`, the rest drawn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        asked = study.ask()
    draw_params(study, asked, configuration, params)
    return asked


def draw_params(
    study: optuna.Study,
    asked: optuna.Trial,
    configuration: Configuration,
    params: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Return all parameters of a trial that the study began.

    These are the parameters that it has, the given ones, and the rest as they would have been
    drawn.
    """
    sampler = study.sampler
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            if params:
                study.sampler = PartialFixedSampler(params, sampler)
            return (
                suggest_configuration(asked, configuration)
                if configuration.search.configurations
                else draw(asked, configuration)
            )
        finally:
            study.sampler = sampler


def reopen_trial(study: optuna.Study, number: int) -> optuna.Trial:
    """Return a trial that the study began."""
    return optuna.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


def _begin_known(study: optuna.Study, sweep: Sweep) -> None:
    """Begin in the study every trial that the records contain.

    The study may have lost its last line, or all of them.
    """
    trials = study.get_trials(deepcopy=False)
    for number in range(max(sweep.trials, default=-1) + 1):
        trial = sweep.trials.get(number)
        if number >= len(trials) or trials[number].state == TrialState.WAITING:
            create_trial(study, sweep.configuration, trial.params if trial else None)
        elif (
            trial
            and trials[number].state == TrialState.RUNNING
            and set(trial.params) > set(trials[number].params)
        ):
            draw_params(study, reopen_trial(study, number), sweep.configuration, trial.params)


def _tell(study: optuna.Study, frozen: FrozenTrial, trial: Trial, single: bool) -> None:
    """Write to the study what the record has of a trial that still runs in the study.

    Optuna refuses intermediate values with several objectives.
    """
    asked = reopen_trial(study, frozen.number)
    for epoch, value in trial.known if single else ():
        if epoch not in frozen.intermediate_values:
            asked.report(value, epoch)
    if trial.changes and frozen.user_attrs.get("changes") != trial.changes:
        asked.set_user_attr("changes", trial.changes)
    if trial.ended:
        reached = (trial.values or trial.value) if trial.state == "complete" else None
        study.tell(frozen.number, reached, state=STATES[trial.state])


def _made_anew(study: optuna.Study, frozen: FrozenTrial, sweep: Sweep, names: list[str]) -> Trial:
    """Rebuild the record of a trial that only the study has: never written, or damaged."""
    ended = frozen.state.is_finished()
    params = (
        dict(frozen.params)
        if ended
        else draw_params(study, reopen_trial(study, frozen.number), sweep.configuration)
    )
    trial = Trial(frozen.number, params, changes=frozen.user_attrs.get("changes", []))
    if ended:
        trial.state = NAMES[frozen.state]
    known = dict(frozen.intermediate_values)
    last = max(known, default=0)
    told: dict[int, dict[str, Any]] = {
        record["epoch"]: {**record} for record in reported_epochs(sweep.trial_folder(frozen.number))
    }
    if len(names) > 1 and ended:
        last = max(told, default=0)
    for epoch in range(1, last + 1):
        record = told.get(epoch, {"epoch": epoch, "metrics": {}})
        # the trial's own value, even if it has copied another trial's weights since
        if epoch in known:
            record = record | {"metrics": record["metrics"] | {names[0]: known[epoch]}}
        trial.apply_report(record, names)
    if frozen.state == TrialState.COMPLETE:
        trial.value, trial.values = (
            frozen.values[0],
            list(frozen.values) if len(names) > 1 else None,
        )
    return trial
