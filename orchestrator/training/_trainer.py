"""Train one trial, from its specification to its last report.

Every epoch is a function of (specification, state after the previous epoch). Random numbers are
seeded per epoch, and the learning rate follows from the progress. So a resumed trial continues
bit-identically.
"""

import time
from dataclasses import replace

import torch
from torch import Tensor

from orchestrator.config.schema import LETTERS
from orchestrator.config.sizes import views
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import Exchange, Stopped, TrialContext
from orchestrator.core.reports import EpochRecord
from orchestrator.data.batches import Batches
from orchestrator.store.checkpoint_storage import checkpoint_storage_for_spec
from orchestrator.training._checkpoint_writer import CheckpointWriter
from orchestrator.training._clock import Clock
from orchestrator.training._exchange import build_exchange
from orchestrator.training._resume import load_fitting_checkpoint, restore_checkpoint
from orchestrator.training._student import TrainedStudent
from orchestrator.training._trial_metrics import (
    Metrics,
    compute_trial_metrics,
    find_highest_test,
    gather_metrics,
    gather_validation,
    require_finite,
)
from orchestrator.training._trial_teacher import TrialTeacher
from orchestrator.training.capabilities.component import RunningTrial, Step, StepHooks
from orchestrator.training.capabilities.components import select_components
from orchestrator.training.capabilities.teacher_weights import TeacherWeightsComponent
from orchestrator.training.cost import TrialCost
from orchestrator.training.metric_names import STOPPED_EPOCH
from orchestrator.training.process_cache import load_teacher, open_batches

STOP_CHECK_STEPS = 16  # a stopped trial frees its group within this many steps


def train(spec: TrialSpec, context: TrialContext) -> None:
    """Train a trial to its end, or until a stop is requested; report after every epoch.

    After a resume, unacknowledged records are sent first; a record is `behind` if another one
    follows at once.

    Args:
        spec: The specification of the trial.
        context: The context of all ranks of the trial.

    Raises:
        TrialError: The loss is not finite.
        SettingsError: A setting of the method does not fit.
        ConfigurationError: A setting of the configuration does not fit.
    """
    exchange = build_exchange(context, len(spec.configuration.students))
    torch.set_num_threads(spec.configuration.threads(LETTERS[exchange.local_positions[0]]))
    batches = open_batches(spec, exchange.context)
    try:
        _Trainer(spec, context, exchange, batches).run()
    except Stopped:  # during the teacher's forward pass over a view
        return
    finally:
        batches.close()


class _Trainer:
    """The epochs of a trial, for the students of this process.

    `context` has all ranks of the trial; the context of the exchange has those of the replicas.
    """

    def __init__(
        self, spec: TrialSpec, context: TrialContext, exchange: Exchange, batches: Batches
    ) -> None:
        self.spec, self.context, self.exchange, self.batches = spec, context, exchange, batches
        self.configuration, self.storage = spec.configuration, checkpoint_storage_for_spec(spec)
        self.epochs = spec.configuration.training.epochs
        self.patience = spec.configuration.training.patience
        self.tests_each_epoch = (
            spec.configuration.tracking.test_each_epoch and spec.role == "student"
        )
        self.writer = CheckpointWriter(self.storage, context)
        self.records: list[EpochRecord] = []  # of all epochs
        self.clock, self.cost = Clock(context.device), TrialCost()
        with self.clock.measure("setup"):
            self.students = [
                TrainedStudent(position, spec, batches, exchange)
                for position in exchange.local_positions
            ]
            network, method = load_teacher(spec, context), self.students[0].method
        self.teacher: TrialTeacher | None = None
        if network:
            ranks = (context, exchange.context)
            self.teacher = TrialTeacher(network, spec, batches, *ranks, self.clock, self.students)
        self.trial = RunningTrial(
            spec, context, exchange, batches, self.students, self.teacher, self.clock, self.cost
        )
        self.components = self.trial.components
        self.components += [TeacherWeightsComponent(self.trial)] if spec.teachers else []
        self.components += [kind(self.trial) for kind in select_components(method, self.epochs)]
        self.hooks = StepHooks(self.components)
        teacher = self.teacher
        knowledge = (lambda: teacher.knowledge) if teacher else None
        for student in self.students:
            student.prepare(knowledge, network.network if network else None)
        for component in self.components:
            component.prepare()
        if teacher:
            teacher.release_knowledge()

    def run(self) -> None:
        """Train all missing epochs, or those up to `until`.

        After a resume, resend unacknowledged records, or else the last one.
        """
        self._resume()
        known_epochs = self.epochs if self.spec.known is None else self.spec.known
        unacknowledged = [
            record for record in self.records if record.epoch > known_epochs
        ] or self.records[-1:]
        for record in unacknowledged if self.context.is_main_process else ():
            self.context.report(
                record if record is unacknowledged[-1] else replace(record, behind=True)
            )
        epoch = self.records[-1].epoch if self.records else 0
        until = min(self.spec.until or self.epochs, self.epochs)
        with self.writer:
            while epoch < until and not (self.records and self.records[-1].done):
                if not self._train_epoch(epoch):
                    return
                self._save_and_report(self._end_epoch(epoch))
                epoch += 1
        if self.teacher:
            self.teacher.remove_own_outputs()

    def _save_and_report(self, record: EpochRecord) -> None:
        """Save, then report; the time for which the training waits is part of the next epoch."""
        start = time.perf_counter()
        self.context.phase("the checkpoint")
        self.records.append(record)
        parts = {
            student.letter: student.state(
                record, {each.name: each.state_dict(student) for each in self.components}
            )
            for student in self.students
            if student.context.is_main_process
        }
        if self.context.is_main_process:
            first = parts[LETTERS[0]]
            first.progress = replace(first.progress, records=list(self.records))
        self.writer.write(parts, record)
        self.clock.restart()
        self.clock.add("report", time.perf_counter() - start)

    def _resume(self) -> None:
        """Restore the newest checkpoint that fits, if there is one."""
        saved = load_fitting_checkpoint(self.trial, self.storage)
        if saved is not None:
            self.records = restore_checkpoint(self.trial, saved)

    def _train_epoch(self, epoch: int) -> bool:
        """Train one epoch; return False if a stop request interrupted it."""
        view = epoch % views(self.configuration) if self.batches.views.varies else None
        if self.teacher:
            self.teacher.open_view(view)
        self.context.phase(f"epoch {epoch + 1}")
        for component in self.components:
            component.on_epoch_start(epoch)
        # after opening the view, as a cache miss may draw: an epoch must not depend on the cache
        for student in self.students:
            student.begin_epoch(epoch)
        steps = self.batches.steps()
        batches = self.clock.iterate("data", self.batches.train(epoch, view))
        for number, batch in enumerate(batches):
            if number % STOP_CHECK_STEPS == 0 and self._should_stop():
                return False
            with self.clock.measure("teacher"):
                output = self.teacher.compute_output(batch) if self.teacher else None
            with self.clock.measure("student"):
                self._step(Step(number, batch, output, epoch + number / steps))
            self.context.heartbeat()
        return True

    def _should_stop(self) -> bool:
        self.writer.raise_failure()
        return self.context.should_stop()

    def _step(self, step: Step) -> None:
        """Train a step of every student of this process, in order."""
        for start in self.hooks.on_step_start:
            start(step)
        for student in self.students:
            student.step(step.batch, step.teacher_output, step.progress)
            for stepped in self.hooks.on_student_step:
                stepped(student, step)
        for end in self.hooks.on_step_end:
            end()

    def _end_epoch(self, epoch: int) -> EpochRecord:
        """Evaluate, keep the best weights, and return the record to report."""
        steps = self.batches.steps()
        self.context.phase(f"the evaluation of epoch {epoch + 1}")
        with self.clock.measure("evaluation"):
            predictions = (
                self.teacher.validation_predictions(self.exchange.context) if self.teacher else None
            )
            evaluated = {student.letter: student.evaluate(predictions) for student in self.students}
        validation, agreement = gather_validation(evaluated, self.context, self.exchange.count)
        require_finite(epoch, validation, self.spec)
        local = {
            student.letter: student.end_epoch(
                epoch + 1, validation[student.letter], self._component_values(student), agreement
            )
            for student in self.students
        }
        stopped = epoch + 1 < self.epochs and self._has_stopped_improving(epoch + 1)
        last = stopped or epoch + 1 == self.epochs
        for component in self.components:
            for letter, new_metrics in component.on_epoch_end(epoch + 1).items():
                local[letter] |= new_metrics
        if self.tests_each_epoch:
            with self.clock.measure("evaluation"):
                for student in self.students:
                    local[student.letter] |= student.test_epoch()
        if last:
            with self.clock.measure("evaluation"):
                for student in self.students:
                    local[student.letter] |= student.test()
                    for component in self.components if student.context.is_main_process else ():
                        student.shown |= component.collect_samples(student)
        ended = gather_metrics(local, self.context, self.exchange.count)
        by_student = {letter: metrics | ended[letter] for letter, metrics in validation.items()}
        metrics = compute_trial_metrics(by_student, self.configuration.search) | agreement
        if last and self.tests_each_epoch:
            metrics |= find_highest_test([*(each.metrics for each in self.records), metrics])
        metrics |= self._costs(steps)
        notes = self.teacher.source.notes() if self.teacher else []
        for component in self.components:
            notes += component.take_notes()
        if stopped:
            metrics[STOPPED_EPOCH] = float(epoch + 1)
            notes.append(
                f"ended after {epoch + 1} of {self.epochs} epochs: no higher validation accuracy "
                f"since epoch {epoch + 1 - (self.patience or 0)} (training.patience = "
                f"{self.patience})"
            )
        return EpochRecord(epoch + 1, metrics, last, tuple(notes))

    def _has_stopped_improving(self, epoch: int) -> bool:
        """Return whether no student has improved for `patience` epochs; all ranks agree.

        A student that restarts is not counted before that.
        """
        if self.patience is None:
            return False
        local = max(max(each.best.epoch, each.restart_epoch or 0) for each in self.students)
        latest: int = max(self.context.all_gather_object(local))
        return epoch - latest >= self.patience

    def _component_values(self, student: TrainedStudent) -> dict[str, float | Tensor]:
        return {
            name: value
            for component in self.components
            for name, value in component.epoch_values(student).items()
        }

    def _costs(self, steps: int) -> Metrics:
        """Return the time by part and the cache counts of this process, and the trial's cost.

        Time and counts are those of this epoch; the first one includes the setup.
        """
        waited = self.exchange.take_wait_seconds()
        if waited:
            self.clock.add("exchange", waited)
            self.clock.add("student", -waited)
        seconds = self.clock.reset()
        training = sum(
            seconds.get(part, 0.0) for part in ("data", "teacher", "student", "exchange")
        )
        rate = steps * self.batches.batch_size / training if training else 0.0
        counts = self.teacher.source.counts() if self.teacher else {}
        costs = {f"seconds/{part}": value for part, value in seconds.items()} | {
            "train/images_per_second": rate
        }
        costs |= self.cost.metrics(self.context)
        return costs | {f"cache/{name}": value for name, value in counts.items()}
