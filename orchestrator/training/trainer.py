"""The training of one trial, from its specification to its last report. Knows torch; nothing of Ray, Tune or MLflow.

Every epoch is a function of (specification, state after the epoch before it): random numbers are seeded per epoch
and the learning rate follows from the progress, so a trial that is resumed goes on to the bit.
"""

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from methods import METHODS, Knowledge, Output, Progress, Task
from orchestrator.context import Record, Stopped, TrialContext
from orchestrator.data import Batches
from orchestrator.errors import TrialError
from orchestrator.models import build, load_weights
from orchestrator.plan import views
from orchestrator.training import checkpoint as checkpoints
from orchestrator.training.checkpoint import Checkpoint, State
from orchestrator.training.clock import Clock
from orchestrator.training.evaluation import evaluate
from orchestrator.training.learner import Learner, replicate
from orchestrator.training.optimization import learning_rate, optimizer, restore, set_rates
from orchestrator.training.showing import shown
from orchestrator.training.trace import Trace
from orchestrator.training.workbench import (
    AskedTeacher,
    ask_teacher,
    bring_teacher,
    channels_last,
    clean_knowledge,
    compile_in_place,
    half_type,
    open_batches,
    validation_predictions,
)
from orchestrator.trial import TrialSpec

METHOD = 1  # keeps what a method draws apart from the student's weights
STOP_CHECK_STEPS = 16  # a stopped trial frees its group within so many steps


def train(spec: TrialSpec, context: TrialContext) -> None:
    """Train a trial to its end, or until somebody asks it to stop; reports after every epoch.

    An epoch's record: `epoch` (1-based), `metrics`, `notes` if there is something to say, and with the last one `done`. Raises
    TrialError when the loss is not finite, SettingsError or ConfigurationError when a setting does not fit.
    """
    torch.set_num_threads(spec.configuration.resources.threads_per_worker)
    batches = open_batches(spec, context)
    try:
        _Trainer(spec, context, batches).run()
    except Stopped:  # while the teacher was asked about a view
        return
    finally:
        batches.close()


def seed_everything(*parts: int) -> None:
    """Seed torch from several numbers."""
    torch.manual_seed(int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1)


@dataclass
class _Best:
    """The weights that were best on the validation part, and when."""

    value: float = -math.inf
    epoch: int = 0
    state: State | None = None


class _Trainer:
    def __init__(self, spec: TrialSpec, context: TrialContext, batches: Batches) -> None:
        self.spec, self.context, self.batches = spec, context, batches
        self.configuration = spec.configuration
        self.recipe = spec.configuration.training
        self.clock, self.best = Clock(context.device), _Best()
        self.trace, self.shown = Trace(), State()
        with self.clock.measure("setup"):
            self._build_learner()
            self.teacher = bring_teacher(spec, context)
        self.source: AskedTeacher | None = None
        if self.teacher:
            self.source = ask_teacher(spec, self.teacher, batches, context, self.method.needs.features)
        seed_everything(self.configuration.seed, METHOD)  # who brought the teacher may have drawn, or found it at hand
        self.method.prepare(self._knowledge if self.source else None, self._task())
        self.method.to(context.device)
        self.module = replicate(self.learner, context)
        self.own_groups = self.method.parameter_groups()
        self.optimizer = optimizer(self.recipe, self.student, self.own_groups)
        self.scaler = torch.amp.GradScaler(context.device.type, enabled=self.learner.half_type == torch.float16)

    def _build_learner(self) -> None:
        dataset, device = self.batches.dataset, self.context.device
        chosen = self.configuration.student
        seed_everything(self.configuration.seed)
        student = build(chosen.name, len(dataset.classes), dataset.shape, chosen.settings)
        if chosen.weights:
            load_weights(student, chosen.weights)
        kind = METHODS[self.configuration.method.name]
        method = kind(kind.Settings.build(self.configuration.method.settings))
        layout = torch.channels_last if channels_last(self.recipe, chosen) else torch.contiguous_format
        self.student = student.to(device).to(memory_format=layout)  # type: ignore[call-overload]
        self.method = method.to(device)
        if self.recipe.compile:
            compile_in_place(self.student)
        self.learner = Learner(self.student, self.method, half_type(self.recipe.precision, device))

    def _knowledge(self) -> Knowledge:
        assert self.source is not None
        with self.clock.measure("teacher"):
            return clean_knowledge(self.source, self.batches, self.context, self.method.needs.bank)

    def _task(self) -> Task:
        dataset = self.batches.dataset
        world = self.context.world_size
        return Task(
            len(dataset.classes),
            len(dataset.train),
            self.recipe.epochs,
            lambda value: self.context.total(value.clone()) / world if world > 1 else value,
        )

    def run(self) -> None:
        """All epochs that are missing, or those up to `until`; the record of the last finished one is sent again after a resume."""
        record = self._resume()
        if record and self.context.leads:
            self.context.report(record)
        for epoch in range(record["epoch"] if record else 0, min(self.spec.until or self.recipe.epochs, self.recipe.epochs)):
            if not self._train_epoch(epoch):
                return
            self._hand_over(self._end_epoch(epoch))

    def _hand_over(self, record: Record) -> None:
        """Save, then report; the time that it takes is told with the next epoch."""
        start = time.perf_counter()
        if self.context.leads:
            self._save(record)
            self.context.report(record)
        self.clock.restart()
        self.clock.add("report", time.perf_counter() - start)

    def _resume(self) -> Record | None:
        saved = checkpoints.load(self.spec.folder, self.context.device) if self.context.leads else None
        saved = self.context.share(saved)
        if saved is None:
            return None
        self.student.load_state_dict(saved.student)
        self.method.load_state_dict(saved.method)
        restore(self.optimizer, saved.optimizer["optimizer"])
        self.scaler.load_state_dict(saved.optimizer["scaler"])
        self.best = _Best(saved.progress["best_value"], saved.progress["best_epoch"], saved.best)
        self.trace, self.shown = Trace(saved.trace), saved.shown
        record: Record = saved.progress["record"]
        self.method.end_epoch(self._progress(record))
        return record

    def _train_epoch(self, epoch: int) -> bool:
        """One epoch; False when it was broken off because somebody asked for the end."""
        needs = self.method.needs
        view = epoch % views(self.configuration) if self.batches.views.varies else None
        with self.clock.measure("teacher"):
            asked = self.source if needs.teacher or needs.features else None
            if asked:
                asked.open_view(view, needs.features and view is None)
        # after the view, whose filling may draw: an epoch must not depend on what somebody left in the cache
        seed_everything(self.configuration.seed, epoch, self.context.rank)
        self.module.train()
        steps, every = self.batches.steps(), self.method.looks_ahead_every
        held_out = self.batches.held_out(epoch, -(-steps // every)) if every else iter(())
        for step, batch in enumerate(self.clock.iterate("data", self.batches.train(epoch, view))):
            if step % STOP_CHECK_STEPS == 0 and self.context.should_stop():
                return False
            with self.clock.measure("teacher"):
                answer = asked.answer(batch) if asked else None
            rate = learning_rate(self.recipe, epoch + step / steps)
            with self.clock.measure("student"):
                if every and step % every == 0:
                    self.method.look_ahead(self.learner.ahead(batch, answer, next(held_out), rate))
                self._step(batch, answer, rate)
            self.context.alive()
        return True

    def _step(self, batch: Any, answer: Output | None, rate: float) -> None:
        set_rates(self.optimizer, self.recipe, self.own_groups, rate)
        loss, terms = self.module(batch, answer)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.recipe.gradient_clip:
            self.scaler.unscale_(self.optimizer)
            for group in self.optimizer.param_groups:  # apart: a method's own gradient must not shorten the student's step
                torch.nn.utils.clip_grad_norm_(group["params"], self.recipe.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.trace.step({"loss": loss.detach(), **terms})

    def _end_epoch(self, epoch: int) -> Record:
        """Evaluate, keep the best weights, and put together what is reported."""
        steps = self.batches.steps()
        sums = self.trace.sums()
        terms = self.context.total(torch.stack(list(sums.values()))) / (steps * self.context.world_size)
        metrics = {f"train/{name}": value for name, value in zip(sums, terms.tolist(), strict=True)}
        self.context.align_buffers(self.student)
        with self.clock.measure("evaluation"):
            predictions = validation_predictions(self.teacher, self.batches, self.context) if self.teacher else None
            validation = evaluate(self.learner, self.batches, "validation", self.context, predictions)
        metrics |= {f"validation/{name}": value for name, value in validation.items()}
        if not all(math.isfinite(value) for value in metrics.values()):
            raise TrialError(
                f"the loss is not finite in epoch {epoch + 1}: lower training.learning_rate, or set training.gradient_clip"
            )
        record: Record = {"epoch": epoch + 1, "metrics": metrics}
        self._keep_best(validation["accuracy"], epoch + 1)
        drawn = self.method.end_epoch(self._progress(record))
        metrics |= {f"method/{name}": value for name, value in drawn.items() if not isinstance(value, Tensor)}
        self.trace.end_epoch(epoch, {name: value for name, value in drawn.items() if isinstance(value, Tensor)})
        if epoch + 1 == self.recipe.epochs:
            metrics |= self._test()
            record["done"] = True
            with self.clock.measure("evaluation"):
                self.shown = shown(self.learner, self.teacher, self.batches) if self.context.leads else {}
        metrics |= self._costs(steps) | {"train/learning_rate": self.optimizer.param_groups[0]["lr"]}
        notes = self.source.notes() if self.source else []
        return record | ({"notes": notes} if notes else {})

    def _progress(self, record: Record) -> Progress:
        validation = {name: value for name, value in record["metrics"].items() if name.startswith("validation/")}
        return Progress(record["epoch"], self.recipe.epochs, validation)

    def _keep_best(self, accuracy: float, epoch: int) -> None:
        if accuracy > self.best.value:
            self.best = _Best(accuracy, epoch, {key: value.detach().clone() for key, value in self.student.state_dict().items()})

    def _test(self) -> dict[str, float]:
        """The test part, read once: with the last weights and with those that were best on the validation part."""
        assert self.best.state is not None
        last = {key: value.detach().clone() for key, value in self.student.state_dict().items()}
        metrics = {"best_epoch": float(self.best.epoch)}
        with self.clock.measure("evaluation"):
            for name, state in (("best", self.best.state), ("last", last)):
                self.student.load_state_dict(state)
                scores = evaluate(self.learner, self.batches, "test", self.context, None)
                metrics |= {f"test/{name}/{key}": value for key, value in scores.items()}
        return metrics

    def _costs(self, steps: int) -> dict[str, float]:
        """Where the time went, and how often the cache had the view: of this epoch and what came before the first one."""
        seconds = self.clock.reset()
        training = sum(seconds.get(part, 0.0) for part in ("data", "teacher", "student"))
        rate = steps * self.recipe.batch_size / training if training else 0.0
        found = self.source.counts() if self.source else {}
        costs = {f"seconds/{part}": value for part, value in seconds.items()} | {"train/images_per_second": rate}
        return costs | {f"cache/{name}": value for name, value in found.items()}

    def _save(self, record: Record) -> None:
        progress = {"record": record, "best_value": self.best.value, "best_epoch": self.best.epoch}
        states = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        method = dict(self.method.state_dict())
        student, best = dict(self.student.state_dict()), dict(self.best.state or {})
        saved = Checkpoint(student, best, method, states, progress, self.trace.state, self.shown)
        checkpoints.save(self.spec.folder, saved)
