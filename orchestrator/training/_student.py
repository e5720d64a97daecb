"""Train one student of a trial: network, method, optimizer, best weights, and random state.

Several students may share a process. A student depends on the others only through their outputs
on a batch and their banks.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from methods import Knowledge, Output, Progress, Task, build_method
from methods.feature_maps import FeatureStages
from orchestrator.config.schema import LETTERS
from orchestrator.config.trial import TrialSpec, network_key
from orchestrator.core.context import Exchange, TrialContext
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.reports import EpochRecord
from orchestrator.data.batches import Batches
from orchestrator.data.class_balance import compute_class_weights
from orchestrator.data.passes import Inputs
from orchestrator.models.batch_norm import synchronise
from orchestrator.models.build import build_for_data
from orchestrator.models.feature_maps import feature_stages, map_shapes
from orchestrator.models.network import count_features
from orchestrator.models.weights import load_weights
from orchestrator.store.progress import Progress as SavedProgress
from orchestrator.training._compilation import compile_in_place, without_compiler
from orchestrator.training._distillation_module import DistillationModule, PeerReader, replicate
from orchestrator.training._evaluation import evaluate
from orchestrator.training._optimization import (
    build_optimizer,
    clear_gradients,
    learning_rate,
    restore_optimizer,
    set_learning_rates,
)
from orchestrator.training._randomness import Draws, seed_everything
from orchestrator.training._restorable import find_misfit, find_optimizer_misfit, find_scaler_misfit
from orchestrator.training._trace import Trace
from orchestrator.training.checkpoint import Checkpoint, ComponentState, State
from orchestrator.training.metric_names import TEST_EPOCH
from orchestrator.training.process_cache import channels_last, half_type

# seeds that separate the draws of a method, and the weights of the peers, from student a's weights
METHOD, PEER = 1, 2


@dataclass
class _Best:
    """The weights with the best accuracy on the validation part, on the CPU, and their epoch."""

    value: float = -math.inf
    epoch: int = 0
    state: State | None = None


class TrainedStudent:
    """The student at a position of the exchange, in `context`, the context of its replicas."""

    def __init__(
        self, position: int, spec: TrialSpec, batches: Batches, exchange: Exchange
    ) -> None:
        configuration = spec.configuration
        self.position, self.letter = position, LETTERS[position]
        self.configuration, self.batches = configuration, batches
        self.context: TrialContext = exchange.context
        network, self.recipe = configuration.students[self.letter]
        device, student = self.context.device, self._build_initial_network()
        method = build_method(configuration.method.name, configuration.method.settings)
        layout = (
            torch.channels_last if channels_last(self.recipe, network) else torch.contiguous_format
        )
        if self.recipe.sync_batch_norm:
            synchronise(student, self.context)
        self.student = student.to(device).to(memory_format=layout)  # type: ignore[call-overload]
        self.method = method.to(device)
        if self.recipe.compile:
            compile_in_place(self.student)
        eval_precision = self.recipe.eval_precision or self.recipe.precision
        types = (
            half_type(precision, device) for precision in (self.recipe.precision, eval_precision)
        )
        self.distillation_module = DistillationModule(self.student, self.method, *types)
        self.mean: Callable[[Tensor], Tensor] = self.context.mean
        self.gather: Callable[[Tensor], Tensor] = self.context.all_gather_rows
        if self.recipe.compile == "step":
            self.distillation_module.compile_step(device)
            if self.context.world_size > 1:
                self.mean, self.gather = map(without_compiler, (self.mean, self.gather))
        self.distillation_module.mean = self.mean
        self.distillation_module.ranks = self.context.world_size
        self.distillation_module.all_labelled = batches.all_labelled
        weights = compute_class_weights(configuration.data, batches.class_sizes)
        self.distillation_module.class_weights = None if weights is None else weights.to(device)
        self.read_peers: PeerReader | None = None  # set if the students learn from each other
        self.restart_epoch: int | None = None  # set if the student restarts at this epoch
        self.draws = Draws(device, is_separate=len(exchange.local_positions) > 1)
        self.best, self.trace, self.shown = _Best(), Trace(), State()
        self.output: Output | None = None
        self.class_accuracies = torch.full(
            (len(batches.dataset.classes),), math.nan
        )  # of the last evaluation on the validation part

    def _build_initial_network(self) -> nn.Module:
        """Return the initial network; students of the same form start with different weights."""
        network, dataset = self.configuration.students[self.letter].network, self.batches.dataset
        seed_everything(self.configuration.seed, *((PEER, self.position) if self.position else ()))
        try:
            student = build_for_data(network, dataset)
            if network.weights:
                load_weights(student, network.weights)
        except ConfigurationError as error:
            raise ConfigurationError.from_error(
                error, str(error), network_key(self.letter)
            ) from error
        return student

    def prepare(self, knowledge: Callable[[], Knowledge] | None, teacher: nn.Module | None) -> None:
        """Prepare the method, then set up everything that depends on the prepared method.

        Args:
            knowledge: Returns the teacher's knowledge; None without a teacher.
            teacher: The network of the teacher.
        """
        task = self._task(teacher)
        # loading the teacher may draw random numbers, unless it is in memory already
        seed_everything(self.configuration.seed, METHOD)
        self.method.prepare(knowledge, task)
        if self.recipe.sync_batch_norm:
            synchronise(self.method, self.context)
        self.method.to(self.context.device)
        self.module = replicate(self.distillation_module, self.context)
        self.method_groups = self.method.parameter_groups()
        self._create_optimizer()

    def _create_optimizer(self) -> None:
        self.optimizer = build_optimizer(self.recipe, self.student, self.method_groups)
        self.scaler = torch.amp.GradScaler(
            self.context.device.type, enabled=self.distillation_module.half_type == torch.float16
        )

    def restart(self) -> None:
        """Restart from the initial weights, with a new optimizer."""
        self.student.load_state_dict(self._build_initial_network().state_dict())
        self.best = _Best()
        self._create_optimizer()

    def select_stages(self, teacher: nn.Module | None) -> FeatureStages:
        """Return the stages whose feature maps the method uses; none without a teacher."""
        if teacher is None:
            return FeatureStages((), ())
        return feature_stages(self.method, self.student, teacher)

    def _task(self, teacher: nn.Module | None) -> Task:
        dataset, stages = self.batches.dataset, self.select_stages(teacher)
        self.distillation_module.stages = stages.student
        return Task(
            len(dataset.classes),
            len(dataset.train),
            self.recipe.epochs,
            self.mean,
            self.gather,
            torch.tensor(dataset.train.labels),
            student_features=count_features(self.student),
            teacher_features=count_features(teacher) if teacher else 0,
            student_maps=map_shapes(self.student, dataset.shape, stages.student),
            teacher_maps=map_shapes(teacher, dataset.shape, stages.teacher) if teacher else {},
        )

    @property
    def parameters(self) -> int:
        """Return the number of trained parameters of the network."""
        return sum(
            parameter.numel() for parameter in self.student.parameters() if parameter.requires_grad
        )

    def begin_epoch(self, epoch: int) -> None:
        """Seed the epoch: its draws depend on seed, epoch and rank alone, not on other students."""
        self.draws.seed(self.configuration.seed, epoch, self.context.rank)
        self.module.train()

    def step(self, batch: Inputs, teacher_output: Output | None, progress: float) -> None:
        """Train one step on a batch, after `progress` epochs."""
        set_learning_rates(
            self.optimizer, self.recipe, self.method_groups, self.learning_rate(progress)
        )
        with self.draws.continue_sequence():
            clear_gradients(self.optimizer)
            loss, terms = self.module(batch, teacher_output, self.output, self.read_peers)
            self.output = None
            self.scaler.scale(loss).backward()
        if self.recipe.gradient_clip:
            self.scaler.unscale_(self.optimizer)
            # separately: a method's own gradient must not shorten the student's step
            for group in self.optimizer.param_groups:
                torch.nn.utils.clip_grad_norm_(group["params"], self.recipe.gradient_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.trace.step({"loss": loss.detach(), **terms})

    def learning_rate(self, progress: float) -> float:
        """Return the learning rate after `progress` epochs.

        A student that restarts runs the whole schedule before that, and again after it.
        """
        restart_epoch, epochs = self.restart_epoch, self.recipe.epochs
        if restart_epoch is not None:
            first, last = (
                (0, restart_epoch) if progress < restart_epoch else (restart_epoch, epochs)
            )
            progress = (progress - first) * epochs / (last - first)
        return learning_rate(self.recipe, progress)

    def evaluate(self, teacher: Tensor | None) -> tuple[dict[str, float], Tensor]:
        """Return the epoch's metrics, and the classes of this rank's share of the validation part.

        `train/...` are means of the terms. `validation/...` include the agreement if `teacher` is
        given.

        Args:
            teacher: The teacher's classes for this rank's share; None without a teacher.
        """
        steps = self.batches.steps()
        sums = self.trace.sums()
        terms = self.context.all_reduce_sum(torch.stack(list(sums.values()))) / (
            steps * self.context.world_size
        )
        metrics = {f"train/{name}": value for name, value in zip(sums, terms.tolist(), strict=True)}
        self.context.align_buffers(self.student)
        result = evaluate(
            self.distillation_module, self.batches, "validation", self.context, teacher
        )
        self.class_accuracies = result.class_accuracies
        return metrics | {
            f"validation/{name}": value for name, value in result.metrics.items()
        }, result.classes

    def end_epoch(
        self,
        epoch: int,
        validation: dict[str, float],
        values: Mapping[str, float | Tensor],
        shared_metrics: dict[str, float],
    ) -> dict[str, float]:
        """Keep the best weights, advance the method, and return its metrics.

        Args:
            epoch: Number of finished epochs.
            validation: The student's metrics of this epoch.
            values: Values of the components: metrics, and arrays for figures.
            shared_metrics: Metrics of all students together, kept for figures with the accuracy
                in each class.
        """
        accuracy = validation["validation/accuracy"]
        if accuracy > self.best.value:
            self.best = _Best(
                accuracy,
                epoch,
                {
                    key: value.detach().to("cpu", copy=True)  # for the thread that writes it
                    for key, value in self.student.state_dict().items()
                },
            )
        of_method = self.method.end_epoch(self._progress(epoch, validation))
        arrays = {
            name: value
            for name, value in (*of_method.items(), *values.items())
            if isinstance(value, Tensor)
        }
        arrays |= {"class_accuracy": self.class_accuracies} | {
            name: torch.tensor(value) for name, value in shared_metrics.items()
        }
        self.trace.end_epoch(epoch - 1, arrays)
        numbers = {f"method/{name}": value for name, value in of_method.items()} | dict(values)
        return {
            **{name: value for name, value in numbers.items() if not isinstance(value, Tensor)},
            "train/learning_rate": self.optimizer.param_groups[0]["lr"],
            "parameters": float(self.parameters),
        }

    def _progress(self, epoch: int, metrics: dict[str, float]) -> Progress:
        validation = {
            name: value for name, value in metrics.items() if name.startswith("validation/")
        }
        return Progress(epoch, self.recipe.epochs, validation)

    def test(self) -> dict[str, float]:
        """Return the test metrics of the last weights, and of the best on the validation part.

        The test part is read once per trial.
        """
        assert self.best.state is not None
        last = {key: value.detach().clone() for key, value in self.student.state_dict().items()}
        metrics = {"best_epoch": float(self.best.epoch)}
        for name, state in (("best", self.best.state), ("last", last)):
            self.student.load_state_dict(state)
            result = evaluate(self.distillation_module, self.batches, "test", self.context, None)
            metrics |= {f"test/{name}/{key}": value for key, value in result.metrics.items()}
        return metrics

    def test_epoch(self) -> dict[str, float]:
        """Return the test accuracy of the current weights, for information."""
        result = evaluate(self.distillation_module, self.batches, "test", self.context, None)
        return {TEST_EPOCH: result.metrics["accuracy"]}

    def state(self, record: EpochRecord, components: dict[str, ComponentState]) -> Checkpoint:
        """Return everything that a resume needs, with the record of the last epoch."""
        progress = SavedProgress(record, self.best.value, self.best.epoch)
        optimizer = self.optimizer.state_dict()
        states = {
            "optimizer": optimizer,
            "scaler": self.scaler.state_dict(),
            "count": len(optimizer["state"]),
        }
        student, best = dict(self.student.state_dict()), dict(self.best.state or {})
        method = dict(self.method.state_dict())
        return Checkpoint(
            student, best, method, states, progress, self.trace.state, self.shown, components
        )

    def find_misfit(self, saved: Checkpoint) -> str:
        """Return why the checkpoint does not fit this student; "" if `restore` can load it.

        The student does not change.
        """
        student, method = self.student.state_dict(), self.method.state_dict()
        return (
            find_misfit("student", student, saved.student)
            or find_misfit("best student", student, saved.best)
            or find_misfit("method", method, saved.method)
            or find_optimizer_misfit(self.recipe, self.optimizer, saved.optimizer)
            or find_scaler_misfit(self.scaler.state_dict(), saved.optimizer["scaler"])
        )

    def restore(self, saved: Checkpoint, epoch: int, validation: dict[str, float]) -> None:
        """Restore a checkpoint that was saved after `epoch` finished epochs with these metrics."""
        self.student.load_state_dict(saved.student)
        self.method.load_state_dict(saved.method)
        restore_optimizer(self.optimizer, saved.optimizer["optimizer"])
        self.scaler.load_state_dict(saved.optimizer["scaler"])
        self.best = _Best(saved.progress.best_value, saved.progress.best_epoch, saved.best)
        self.trace, self.shown = Trace(saved.trace), saved.shown
        self.method.end_epoch(self._progress(epoch, validation))
