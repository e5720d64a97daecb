"""Reconcile the Optuna study and the records of a sweep after a driver's death.

A driver draws a trial from the study, then writes its record. It writes an epoch to the record,
then to the study, and the end of a trial to the study, then to the record. It may be killed between
any two of these steps, and a file may be damaged later. What only one side has is copied to the
other. No trial is drawn twice, and no number is left out.
"""

import json
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import PartialFixedSampler
from optuna.trial import FrozenTrial, TrialState

from orchestrator.config.objectives import list_objectives
from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import draw, suggest_configuration
from orchestrator.config.trial import Parameters
from orchestrator.core.reports import EpochRecord
from orchestrator.store.progress import reported_epochs
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.records import TrialState as RecordState

STATES: dict[RecordState, TrialState] = {
    "complete": TrialState.COMPLETE,
    "stopped_early": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}
NAMES = {state: name for name, state in STATES.items()}
LOST = "its record was damaged and has been rebuilt from the study and the checkpoint"


def reconcile(
    study: optuna.Study, sweep: Sweep, fetch: Callable[[Path], None] = lambda trial: None
) -> list[str]:
    """Reconcile the study with the records.

    Afterwards every trial that started and has not ended is an unfinished trial of the sweep.
    Records that are damaged, or contradict the study, are set aside and rebuilt.

    Args:
        fetch: Brings the files that a trial's folder needs for a rebuilt record.

    Returns:
        A message for each record that was set aside.
    """
    names = list(list_objectives(sweep.configuration.search))
    messages = _set_aside(study, sweep)
    _create_missing(study, sweep)
    started = [
        frozen for frozen in study.get_trials(deepcopy=False) if frozen.state != TrialState.WAITING
    ]
    for frozen in started:  # before any draw, which depends on the contents of the study
        trial = sweep.trials.get(frozen.number)
        if trial and not frozen.state.is_finished():
            _update_study(study, frozen, trial, len(names) == 1)
        elif trial and not trial.ended:
            trial.state = NAMES[frozen.state]
            sweep.save_trial(trial)
    for frozen in started:
        if frozen.number not in sweep.trials:
            fetch(sweep.trial_folder(frozen.number))
            trial = _rebuild_record(study, frozen, sweep, names)
            trial.notes += [LOST] if sweep.trial_file(frozen.number) in messages else []
            sweep.save_trial(trial)
    sweep.trials = dict(sorted(sweep.trials.items()))
    return list(messages.values())


def _set_aside(study: optuna.Study, sweep: Sweep) -> dict[Path, str]:
    """Rename the records that cannot be used; return a message for each by its file."""
    started = {
        each.number: each
        for each in study.get_trials(deepcopy=False)
        if each.state != TrialState.WAITING
    }
    for number, trial in list(sweep.trials.items()):
        if number in started:
            reason = _contradiction(started[number], trial)
        else:
            reason = _number_refusal(sweep, number)
        if reason:
            sweep.damaged[sweep.trial_file(number)] = reason
            del sweep.trials[number]
    return {file: sweep.set_aside(file) for file in list(sweep.damaged)}


def _contradiction(frozen: FrozenTrial, trial: Trial) -> str:
    """Return how a record contradicts the study; empty if it does not.

    The study takes precedence: it is appended to and never rewritten.
    """
    for name in trial.params.keys() & frozen.params.keys():
        recorded, drawn = trial.params[name], frozen.params[name]
        # a choice may be a list, which is a tuple elsewhere
        if recorded != drawn and json.dumps(recorded) != json.dumps(drawn):
            return f"params.{name} = {recorded!r}, and the study has {drawn!r}"
    for epoch, value in trial.known:
        if frozen.intermediate_values.get(epoch, value) != value:
            return (
                f"history has {value!r} after epoch {epoch}, and the study "
                f"{frozen.intermediate_values[epoch]!r}"
            )
    if trial.ended and frozen.state.is_finished() and STATES[trial.state] != frozen.state:
        return f"state = {trial.state}, and the study has {NAMES[frozen.state]}"
    values: list[Any] = trial.values or [trial.value]
    if (
        trial.state == "complete"
        and frozen.state == TrialState.COMPLETE
        and values != frozen.values
    ):
        return f"value = {trial.value!r}, and the study has {frozen.values[0]!r}"
    return ""


def _number_refusal(sweep: Sweep, number: int) -> str:
    """Return why a trial's number is beyond the sweep's trials; empty if it is not.

    The study must not grow that far: a sweep never has fewer trials than it has started.
    """
    trials = sweep.configuration.search.trials
    if number >= trials:
        return f"number = {number} is not allowed: the sweep has {trials} trials"
    return ""


def create_trial(
    study: optuna.Study, configuration: Configuration, params: Parameters | None = None
) -> optuna.Trial:
    """Return the next trial of the study with all parameters: `params`, the rest drawn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna_trial = study.ask()
    draw_params(study, optuna_trial, configuration, params)
    return optuna_trial


def draw_params(
    study: optuna.Study,
    optuna_trial: optuna.Trial,
    configuration: Configuration,
    params: Parameters | None = None,
) -> Parameters:
    """Return all parameters of a trial that the study has created.

    These are its own parameters, those in `params`, and the rest as they would have been drawn.
    """
    sampler = study.sampler
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            if params:
                study.sampler = PartialFixedSampler(params, sampler)
            if configuration.search.configurations:
                return suggest_configuration(optuna_trial, configuration)
            return draw(optuna_trial, configuration)
        finally:
            study.sampler = sampler


def reopen_trial(study: optuna.Study, number: int) -> optuna.Trial:
    """Return a trial that the study has created."""
    return optuna.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


def _create_missing(study: optuna.Study, sweep: Sweep) -> None:
    """Create in the study every trial that the records contain.

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


def _update_study(study: optuna.Study, frozen: FrozenTrial, trial: Trial, single: bool) -> None:
    """Copy the record of a trial to the study, in which it still runs.

    Optuna refuses intermediate values with several objectives.
    """
    optuna_trial = reopen_trial(study, frozen.number)
    for epoch, value in trial.known if single else ():
        if epoch not in frozen.intermediate_values:
            optuna_trial.report(value, epoch)
    if trial.changes and frozen.user_attrs.get("changes") != trial.changes:
        optuna_trial.set_user_attr("changes", trial.changes)
    if trial.ended:
        values = (trial.values or trial.value) if trial.state == "complete" else None
        study.tell(frozen.number, values, state=STATES[trial.state])


def _rebuild_record(
    study: optuna.Study, frozen: FrozenTrial, sweep: Sweep, names: list[str]
) -> Trial:
    """Rebuild the record of a trial that exists only in the study: not written, or damaged."""
    ended = frozen.state.is_finished()
    if ended:
        params = dict(frozen.params)
    else:
        params = draw_params(study, reopen_trial(study, frozen.number), sweep.configuration)
    trial = Trial(frozen.number, params, changes=frozen.user_attrs.get("changes", []))
    if ended:
        trial.state = NAMES[frozen.state]
    known = dict(frozen.intermediate_values)
    last = max(known, default=0)
    reported = {
        record.epoch: record for record in reported_epochs(sweep.trial_folder(frozen.number))
    }
    if len(names) > 1 and ended:
        last = max(reported, default=0)
    for epoch in range(1, last + 1):
        record = reported.get(epoch, EpochRecord(epoch, {}))
        # the trial's own value, even if it has copied another trial's weights since
        if epoch in known:
            record = replace(record, metrics=record.metrics | {names[0]: known[epoch]})
        trial.apply_report(record, names)
    if frozen.state == TrialState.COMPLETE:
        trial.value = frozen.values[0]
        trial.values = list(frozen.values) if len(names) > 1 else None
    return trial
