"""Resume a trial from the newest checkpoint that fits it."""

import functools

import torch

from orchestrator.config.schema import LETTERS
from orchestrator.core.reports import EpochRecord
from orchestrator.store.checkpoint_storage import CheckpointStorage
from orchestrator.training import checkpoint as checkpoints
from orchestrator.training._trial_metrics import select_student_metrics
from orchestrator.training.capabilities.component import Component, RunningTrial
from orchestrator.training.checkpoint import Checkpoint, ComponentState
from orchestrator.training.metric_names import STOPPED_EPOCH

Parts = dict[str, Checkpoint]  # by the letter of the student


def load_fitting_checkpoint(trial: RunningTrial, storage: CheckpointStorage) -> Parts | None:
    """Return the newest checkpoint that fits, the same on all ranks; note skipped ones."""
    context, skipped_reasons = trial.context, list[str]()
    # on the host, where every rank can receive it, independent of its device
    load = functools.partial(
        checkpoints.load,
        storage,
        LETTERS[: trial.exchange.count],
        torch.device("cpu"),
        context.heartbeat,
        skipped_reasons=skipped_reasons,
    )
    while True:
        saved: Parts | None = context.broadcast_object(
            storage.run_on_all_ranks(context, lambda: load() if context.is_main_process else None)
        )
        misfits = context.all_gather_object(_find_misfit(trial, saved) if saved else "")
        if not any(misfits):
            break
        skipped_reasons.append(next(filter(None, misfits)))
    if skipped_reasons and context.is_main_process:
        if saved:
            after = f"continues after epoch {saved['a'].progress.record.epoch}"
        else:
            after = "restarts from the first epoch"
        context.note(f"the checkpoint is damaged ({skipped_reasons[0]}): the trial {after}")
    return saved


def restore_checkpoint(trial: RunningTrial, saved: Parts) -> list[EpochRecord]:
    """Restore students and components, and return the records of all epochs so far."""
    progress = saved["a"].progress
    record = progress.record
    trial.cost.resume(record.metrics)
    for student in trial.students:
        metrics = select_student_metrics(record.metrics, student.letter, trial.exchange.count > 1)
        student.restore(saved[student.letter], record.epoch, metrics)
    for component in trial.components:
        states = {letter: _component_state(part, component) for letter, part in saved.items()}
        component.load_state_dict(states, record.epoch)
    return progress.records or [record]  # older checkpoints have only the last


def _find_misfit(trial: RunningTrial, saved: Parts) -> str:
    """Return why a checkpoint does not fit this trial, as seen by this rank; "" if it fits."""
    record, several = saved["a"].progress.record, trial.exchange.count > 1
    epochs = trial.configuration.training.epochs
    ends = record.epoch == epochs or (record.done and STOPPED_EPOCH in record.metrics)
    if record.epoch > epochs or record.done != ends:
        return f"its record has epoch {record.epoch} of {epochs} and done = {record.done}"
    for student in trial.students:
        part = saved[student.letter]
        metrics = select_student_metrics(record.metrics, student.letter, several)
        if "validation/accuracy" not in metrics:
            return f"its record has no accuracy for student {student.letter}"
        misfits = (
            student.find_misfit(part),
            *(each.find_misfit(student, _component_state(part, each)) for each in trial.components),
        )
        if misfit := next(filter(None, misfits), ""):
            return f"student {student.letter}: {misfit}" if several else misfit
    return ""


def _component_state(saved: Checkpoint, component: Component) -> ComponentState:
    return saved.components.get(component.name, ComponentState({}))
