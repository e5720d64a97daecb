"""Train one trial, from its specification to its last report.

Every epoch is a function of (specification, state after the previous epoch). Random numbers are
seeded per epoch, and the learning rate follows from the progress. So a resumed trial continues
bit-identically.
"""

import functools
import shutil
import time

import numpy as np
import torch

from methods import Knowledge, Output
from methods.retrieval import Neighbours
from orchestrator.config.schema import LETTERS
from orchestrator.config.sizes import views
from orchestrator.config.trial import KNOWLEDGE, TrialSpec
from orchestrator.core.context import Exchange, Record, Stopped, TrialContext
from orchestrator.data.batches import Batches
from orchestrator.data.passes import Inputs
from orchestrator.store.checkpoint_storage import checkpoint_storage_for_spec
from orchestrator.teacher.frozen import FrozenTeacher
from orchestrator.teacher.outputs import OnlineTeacher
from orchestrator.training import checkpoint as checkpoints
from orchestrator.training._bank import gather_banks
from orchestrator.training._clock import Clock
from orchestrator.training._exchange import build_exchange
from orchestrator.training._restorable import find_misfit
from orchestrator.training._student import TrainedStudent
from orchestrator.training._teacher_update import update_teacher
from orchestrator.training._trial_metrics import (
    Metrics,
    compute_trial_metrics,
    gather_metrics,
    gather_validation,
    require_finite,
    select_student_metrics,
)
from orchestrator.training.checkpoint import Checkpoint, State
from orchestrator.training.cost import TrialCost
from orchestrator.training.process_cache import (
    TeacherOutputSource,
    build_retrieval,
    compute_clean_knowledge,
    compute_teacher_outputs,
    compute_validation_predictions,
    load_teacher,
    open_batches,
)
from orchestrator.training.sample_weighting import replace_teacher_weights

TEACHER = "the teacher's forward pass over a view"  # a phase
STOP_CHECK_STEPS = 16  # a stopped trial frees its group within this many steps


def train(spec: TrialSpec, context: TrialContext) -> None:
    """Train a trial to its end, or until a stop is requested; report after every epoch.

    An epoch's record has `epoch` (1-based), `metrics`, `notes` if there are any, and `done` in the
    last one. After a resume, unacknowledged records are sent first; a record has `behind` if
    another one follows at once.

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
        self.records: list[Record] = []  # of all epochs
        self.clock, self.cost = Clock(context.device), TrialCost()
        with self.clock.measure("setup"):
            self.students = [
                TrainedStudent(position, spec, batches, exchange)
                for position in exchange.local_positions
            ]
            self.teacher = load_teacher(spec, context)
        self.method = self.students[0].method  # every student has its own of this kind
        self.teacher_changed = False  # whether the trial has changed its teacher
        self.source: TeacherOutputSource | None = None
        if self.teacher:
            self.source = compute_teacher_outputs(
                spec, self.teacher, batches, context, self.method.needs.features
            )
        self.retrieval = (
            build_retrieval(spec, self.source, batches, context)
            if self.source and self.method.needs.bank
            else None
        )
        knowledge = functools.cache(self._knowledge) if self.source else None
        for student in self.students:
            student.prepare(knowledge)

    def _knowledge(self) -> Knowledge:
        assert self.source is not None
        self.context.phase(TEACHER)
        with self.clock.measure("teacher"):
            bank = self.method.needs.bank
            return compute_clean_knowledge(
                self.source,
                self.batches,
                self.exchange.context,
                bank,
                self._find_neighbours if bank else None,
            )

    def _find_neighbours(self, knowledge: Knowledge, positives: int, negatives: int) -> Neighbours:
        assert self.retrieval is not None
        with self.clock.measure("retrieval"):
            return self.retrieval(knowledge, positives, negatives)

    def run(self) -> None:
        """Train all missing epochs, or those up to `until`.

        After a resume, resend unacknowledged records, or else the last one.
        """
        self._resume()
        known_epochs = self.epochs if self.spec.known is None else self.spec.known
        unacknowledged = [
            record for record in self.records if record["epoch"] > known_epochs
        ] or self.records[-1:]
        for record in unacknowledged if self.context.is_main_process else ():
            self.context.report(
                record if record is unacknowledged[-1] else record | {"behind": True}
            )
        for epoch in range(
            self.records[-1]["epoch"] if self.records else 0,
            min(self.spec.until or self.epochs, self.epochs),
        ):
            if not self._train_epoch(epoch):
                return
            self._save_and_report(self._end_epoch(epoch))
        if self.teacher_changed:
            self._remove_teacher_outputs()

    def _save_and_report(self, record: Record) -> None:
        """Save, then report; the time that both take is reported with the next epoch."""
        start = time.perf_counter()
        self.context.phase("the checkpoint")
        self.records.append(record)
        parts = {
            student.letter: student.state(record)
            for student in self.students
            if student.context.is_main_process
        }
        if self.context.is_main_process:
            parts[LETTERS[0]].progress["records"] = self.records
        for part in parts.values():
            part.teacher = self._teacher_state()
        checkpoints.save(self.storage, parts, self.context)
        if self.context.is_main_process:
            self.context.report(record)
        self.clock.restart()
        self.clock.add("report", time.perf_counter() - start)

    def _resume(self) -> None:
        """Restore the newest checkpoint that fits, if there is one."""
        saved = self._load()
        if saved is None:
            return
        record: Record = saved["a"].progress["record"]
        self.records = saved["a"].progress.get("records", [record])  # older ones have only the last
        self.cost.resume(record["metrics"])
        for student in self.students:
            metrics = select_student_metrics(
                record["metrics"], student.letter, self.exchange.count > 1
            )
            student.restore(saved[student.letter], record["epoch"], metrics)
        if self.teacher and saved["a"].teacher:
            self._change_teacher(replace_teacher_weights(self.teacher, saved["a"].teacher))
        self._update_banks(record["epoch"])

    def _load(self) -> dict[str, Checkpoint] | None:
        """Return the newest checkpoint that fits, the same on all ranks; report skipped ones."""
        letters, skipped_reasons = LETTERS[: self.exchange.count], list[str]()
        # on the host, where every rank can receive it, independent of its device
        load = functools.partial(
            checkpoints.load,
            self.storage,
            letters,
            torch.device("cpu"),
            self.context.heartbeat,
            skipped_reasons=skipped_reasons,
        )
        saved: dict[str, Checkpoint] | None = None
        while True:
            saved = self.context.broadcast_object(
                self.storage.run_on_all_ranks(
                    self.context, lambda: load() if self.context.is_main_process else None
                )
            )
            misfits = [
                misfit
                for misfit in self.context.all_gather_object(
                    self._find_misfit(saved) if saved else ""
                )
                if misfit
            ]
            if not misfits:
                break
            skipped_reasons.append(misfits[0])
        if skipped_reasons and self.context.is_main_process:
            after = (
                f"continues after epoch {saved['a'].progress['record']['epoch']}"
                if saved
                else "restarts from the first epoch"
            )
            self.context.note(
                f"the checkpoint is damaged ({skipped_reasons[0]}): the trial {after}"
            )
        return saved

    def _find_misfit(self, saved: dict[str, Checkpoint]) -> str:
        """Return why a checkpoint does not fit this trial, as seen by this rank; "" if it fits."""
        record, several = saved["a"].progress["record"], self.exchange.count > 1
        if record["epoch"] > self.epochs or bool(record.get("done")) != (
            record["epoch"] == self.epochs
        ):
            return (
                f"its record has epoch {record['epoch']} of {self.epochs} and done = "
                f"{bool(record.get('done'))}"
            )
        expected = self.teacher.network.state_dict() if self.teacher and saved["a"].teacher else {}
        if misfit := find_misfit("teacher", expected, saved["a"].teacher):
            return misfit
        for student in self.students:
            if "validation/accuracy" not in select_student_metrics(
                record["metrics"], student.letter, several
            ):
                return f"its record has no accuracy for student {student.letter}"
            if misfit := student.find_misfit(saved[student.letter]):
                return f"student {student.letter}: {misfit}" if several else misfit
        return ""

    def _teacher_state(self) -> State:
        """Return the state of a teacher that this trial has changed; {} for one in the store."""
        return (
            dict(self.teacher.network.state_dict()) if self.teacher and self.teacher_changed else {}
        )

    def _change_teacher(self, teacher: FrozenTeacher) -> None:
        """Use another teacher; its outputs on recurring views are cached for this trial alone."""
        self.teacher, self.teacher_changed = teacher, True
        self._remove_teacher_outputs()
        if self.batches.views.varies and views(self.configuration) >= self.epochs:
            self.source = OnlineTeacher(teacher)
        else:
            spec = self.spec.model_copy(
                update={"knowledge": self.spec.knowledge and self.spec.folder / KNOWLEDGE}
            )
            self.source = compute_teacher_outputs(
                spec, teacher, self.batches, self.context, self.method.needs.features
            )

    def _remove_teacher_outputs(self) -> None:
        """Remove the cached outputs of this trial's own teachers: no other trial can use them."""
        self.context.all_gather_object(None)  # afterwards no rank reads them
        if self.context.is_main_process:
            shutil.rmtree(self.spec.folder / KNOWLEDGE, ignore_errors=True)
        self.context.all_gather_object(None)

    def _update_banks(self, epoch: int) -> None:
        """Update the banks that are due after `epoch` finished epochs, in all students at once."""
        student_banks = {
            student.position: student.bank for student in self.students if student.bank
        }
        bank_schedule = self.method.bank_schedule(self.epochs)
        if bank_schedule is None or not bank_schedule.is_due(epoch, self.epochs):
            return
        with self.clock.measure("bank"):
            banks = {
                position: bank.compute_bank(self.context.raise_if_stopped)
                for position, bank in student_banks.items()
            }
            if bank_schedule.source == "peers":
                banks = gather_banks(banks, self.context)
            for student in self.students:
                student.update_bank(epoch, banks)

    def _update_sample_weights(self, epoch: int) -> dict[str, Metrics]:
        """Update the sample weights after an epoch; return new ones' metrics by local student."""
        new_metrics: dict[str, Metrics] = {}
        for student in self.students:
            with self.clock.measure("influence"):
                metrics = student.update_sample_weights(epoch, self._teacher_state)
            if metrics is not None:
                new_metrics[student.letter] = metrics
                if student.weights and student.weights.influence_client:
                    self.cost.add_cpu_seconds(metrics["influence/cpu_seconds"])
                if student.method.teacher_lr:
                    with self.clock.measure("teaching"):
                        metrics |= self._update_teacher(student, epoch)
        return new_metrics

    def _update_teacher(self, student: TrainedStudent, epoch: int) -> Metrics:
        """Train the teacher for an epoch, and return its accuracy on the validation part."""
        assert self.teacher is not None and student.weights is not None, (
            "the method updates its teacher with sample weights"
        )
        view = epoch % views(self.configuration) if self.batches.views.varies else None
        self._change_teacher(
            update_teacher(
                self.teacher,
                student.method,
                student.weights,
                self.batches,
                student.context,
                epoch,
                view,
            )
        )
        predictions = compute_validation_predictions(self.teacher, self.batches, student.context)
        labels = np.array_split(self.batches.dataset.validation.labels, student.context.world_size)[
            student.context.rank
        ]
        correct = student.context.all_reduce_sum(
            (predictions.cpu() == torch.from_numpy(labels))
            .double()
            .sum()
            .to(student.context.device)
        )
        return {"influence/teacher_accuracy": float(correct) / len(self.batches.dataset.validation)}

    def _train_epoch(self, epoch: int) -> bool:
        """Train one epoch; return False if a stop request interrupted it."""
        needs = self.method.needs
        view = epoch % views(self.configuration) if self.batches.views.varies else None
        self.context.phase(TEACHER)
        with self.clock.measure("teacher"):
            output_source = self.source if needs.teacher or needs.features else None
            if output_source:
                output_source.open_view(view, needs.features and view is None)
        self.context.phase(f"epoch {epoch + 1}")
        # after opening the view, as a cache miss may draw: an epoch must not depend on the cache
        for student in self.students:
            student.begin_epoch(epoch)
        steps, every = self.batches.steps(), self.method.look_ahead_interval
        held_out = (
            self.batches.draw_validation_batches(epoch, -(-steps // every)) if every else iter(())
        )
        for step, batch in enumerate(self.clock.iterate("data", self.batches.train(epoch, view))):
            if step % STOP_CHECK_STEPS == 0 and self.context.should_stop():
                return False
            with self.clock.measure("teacher"):
                teacher_output = output_source.answer(batch) if output_source else None
            with self.clock.measure("student"):
                progress = epoch + step / steps
                if every and step % every == 0:
                    self._look_ahead(batch, teacher_output, next(held_out), progress)
                self._step(batch, teacher_output, progress)
            self.context.heartbeat()
        return True

    def _look_ahead(
        self, batch: Inputs, teacher_output: Output | None, held_out: Inputs, progress: float
    ) -> None:
        for student in self.students:
            student.look_ahead(batch, teacher_output, held_out, progress)

    def _step(self, batch: Inputs, teacher_output: Output | None, progress: float) -> None:
        """Train a step of every student of this process, in order.

        If several learn from each other, all of them publish their outputs first.
        """
        uses_peers = self.method.uses_peers
        if uses_peers and len(self.students) > 1:
            for student in self.students:
                student.publish_output(batch)
        for student in self.students:
            student.step(batch, teacher_output, progress)
        if uses_peers:
            self.exchange.end_step()

    def _end_epoch(self, epoch: int) -> Record:
        """Evaluate, keep the best weights, and return the record to report."""
        steps, last = self.batches.steps(), epoch + 1 == self.epochs
        self.context.phase(f"the evaluation of epoch {epoch + 1}")
        with self.clock.measure("evaluation"):
            predictions = (
                compute_validation_predictions(self.teacher, self.batches, self.exchange.context)
                if self.teacher
                else None
            )
            evaluated = {student.letter: student.evaluate(predictions) for student in self.students}
        validation, agreement = gather_validation(evaluated, self.context, self.exchange.count)
        require_finite(epoch, validation, self.spec)
        local = {
            student.letter: student.end_epoch(epoch + 1, validation[student.letter], agreement)
            for student in self.students
        }
        for letter, new_metrics in self._update_sample_weights(epoch + 1).items():
            local[letter] |= new_metrics
        for student in self.students:
            if student.bank:
                with self.clock.measure("bank"):
                    student.bank.end_epoch(last)
        self._update_banks(epoch + 1)
        if last:
            with self.clock.measure("evaluation"):
                for student in self.students:
                    local[student.letter] |= student.test()
                    student.collect_predictions(self.teacher)
        ended = gather_metrics(local, self.context, self.exchange.count)
        by_student = {letter: metrics | ended[letter] for letter, metrics in validation.items()}
        metrics = compute_trial_metrics(by_student, self.configuration.search) | agreement
        metrics |= self._costs(steps)
        record: Record = {"epoch": epoch + 1, "metrics": metrics}
        if last:
            record["done"] = True
        notes = (self.source.notes() if self.source else []) + self._notes_on_weights()
        return record | ({"notes": notes} if notes else {})

    def _notes_on_weights(self) -> list[str]:
        if not self.method.needs.weights:
            return []
        local = [
            note for student in self.students if student.weights for note in student.weights.notes()
        ]
        return [note for notes in self.context.all_gather_object(local) for note in notes]

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
        counts = self.source.counts() if self.source else {}
        costs = {f"seconds/{part}": value for part, value in seconds.items()} | {
            "train/images_per_second": rate
        }
        costs |= self.cost.metrics(self.context)
        return costs | {f"cache/{name}": value for name, value in counts.items()}
