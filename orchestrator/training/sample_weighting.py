"""Compute the sample weights of a student from a snapshot of it.

The same code runs in the influence actor and in the trainer.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from methods import Output, build_method
from methods.capabilities import weighting_plan
from methods.sample_weighting import Part, StudentSurvey, SurveyedNetwork
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.core.errors import TrialError
from orchestrator.data.batches import Batches
from orchestrator.models.build import build_for_data
from orchestrator.models.weights import network_fingerprint
from orchestrator.store.staging import stage_on_node
from orchestrator.teacher.frozen import TEACH, FrozenTeacher
from orchestrator.teacher.outputs import OnlineTeacher
from orchestrator.training.process_cache import (
    channels_last,
    compute_clean_knowledge,
    compute_teacher_outputs,
    load_teacher,
    open_batches,
)

State = dict[str, Tensor]
BLOCK_ELEMENTS = 1 << 22  # input elements of a block: larger blocks are not faster


@dataclass(frozen=True)
class Snapshot:
    """A student after `epoch` finished epochs, ready to be sent: its tensors are on the CPU.

    Attributes:
        spec: The specification of the trial.
        letter: The letter of the student.
        epoch: Number of finished epochs.
        student: The state of the student.
        weights: The current sample weights (n,).
        teacher: The state of a teacher that the trial has changed, else empty.
        before: Values that the previous weighting noted.
    """

    spec: TrialSpec
    letter: str
    epoch: int
    student: State
    weights: Tensor
    teacher: State = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SampleWeighting:
    """The sample weights that were computed from a snapshot.

    Attributes:
        weights: (n,) float32 on the CPU.
        scores: (n,) float32 on the CPU.
        noted: Values for the next weighting.
        tracked: Metrics.
        costs: Seconds, CPU seconds and, on a GPU, GPU seconds.
        notes: Messages for users.
    """

    weights: Tensor
    scores: Tensor
    noted: dict[str, float]
    tracked: dict[str, float]
    costs: dict[str, float]
    notes: tuple[str, ...] = ()


def compute_sample_weights(
    snapshot: Snapshot, device: torch.device, heartbeat: Callable[[], None] = lambda: None
) -> SampleWeighting:
    """Survey the student of the snapshot, and compute the sample weights with its method.

    Args:
        snapshot: The snapshot, of a method that weighs samples.
        device: The device of the computation.
        heartbeat: Sends a heartbeat; called at intervals.

    Raises:
        TrialError: An estimator does not converge.
    """
    started, cpu_started = time.perf_counter(), time.process_time()
    context = TrialContext(device=device, heartbeat=heartbeat)
    spec = stage_on_node(snapshot.spec, context)
    configuration = spec.configuration
    method = build_method(configuration.method.name, configuration.method.settings)
    plan = weighting_plan(method, configuration.training.epochs)
    assert plan is not None, "the method of the snapshot weights samples"
    batches = open_batches(spec, context)
    try:
        student = _build_student(snapshot, spec, batches, device)
        teacher = _compute_teacher_logits(snapshot, spec, batches, context)
        network = _build_surveyed_network(student, batches, heartbeat)
        survey = StudentSurvey(
            training=_compute_part(network, student, batches, "train"),
            held_out=_compute_part(network, student, batches, "validation"),
            teacher=teacher,
            weights=snapshot.weights.to(device),
            rates=torch.from_numpy(batches.rates()).to(device),
            network=network,
            limit_bytes=round(configuration.resources.influence_gib * 2**30),
            seed=configuration.seed,
            before=snapshot.before,
            heartbeat=heartbeat,
        )
        weighting = plan.weigh(survey)
    except ArithmeticError as error:
        raise TrialError.from_error(
            error, f"the sample weights after epoch {snapshot.epoch}: {error}", "method"
        ) from error
    finally:
        batches.close()
    weights, scores = weighting.weights.cpu(), weighting.scores.cpu()  # waits for the device
    costs = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,
    }
    if device.type == "cuda":
        costs["gpu_seconds"] = costs["seconds"]
    notes = tuple(
        f"the sample weights after epoch {snapshot.epoch}: {note}" for note in weighting.notes
    )
    return SampleWeighting(weights, scores, weighting.noted, weighting.tracked, costs, notes)


def replace_teacher_weights(teacher: FrozenTeacher, state: State) -> FrozenTeacher:
    """Return a teacher with other weights; the given teacher is shared, and does not change."""
    network = copy.deepcopy(teacher.network)
    network.load_state_dict(state)
    return FrozenTeacher(
        network, network_fingerprint(network.state_dict()), teacher.half_type, TEACH
    )


def _build_student(
    snapshot: Snapshot, spec: TrialSpec, batches: Batches, device: torch.device
) -> nn.Module:
    network, recipe = spec.configuration.students[snapshot.letter]
    dataset = batches.dataset
    # the random state of a worker must not change
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        student = build_for_data(network, dataset)
    student.load_state_dict(snapshot.student)
    layout = torch.channels_last if channels_last(recipe, network) else torch.contiguous_format
    return student.to(device).to(memory_format=layout).eval()  # type: ignore[call-overload,no-any-return]


def _compute_teacher_logits(
    snapshot: Snapshot, spec: TrialSpec, batches: Batches, context: TrialContext
) -> Tensor | None:
    teacher = load_teacher(spec, context)
    if teacher is None:
        return None
    if snapshot.teacher and isinstance(teacher, FrozenTeacher):
        # no other trial can use its outputs, so they are not cached
        source = OnlineTeacher(replace_teacher_weights(teacher, snapshot.teacher))
        return compute_clean_knowledge(source, batches, context, features=False).logits
    return compute_clean_knowledge(
        compute_teacher_outputs(spec, teacher, batches, context), batches, context, features=False
    ).logits


def _build_surveyed_network(
    student: nn.Module, batches: Batches, heartbeat: Callable[[], None]
) -> SurveyedNetwork:
    buffers = dict(student.named_buffers())

    def logits(parameters: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):  # the others have no forward differentiation
            output: Output = functional_call(student, {**parameters, **buffers}, (inputs,))
        return output.logits

    size = min(max(BLOCK_ELEMENTS // math.prod(batches.dataset.shape), 16), 1024)

    def blocks(part: Literal["train", "validation"]) -> Iterator[Tensor]:
        for batch in batches.iterate_in_order(part, size=size):
            heartbeat()
            yield batch.inputs

    parameters = {name: value.detach() for name, value in student.named_parameters()}
    return SurveyedNetwork(
        parameters, logits, lambda: blocks("train"), lambda: blocks("validation")
    )


def _compute_part(
    network: SurveyedNetwork,
    student: nn.Module,
    batches: Batches,
    part: Literal["train", "validation"],
) -> Part:
    with torch.no_grad():
        batch_outputs = [
            Output(*student(inputs))
            for inputs in (network.training() if part == "train" else network.held_out())
        ]
    labels = torch.as_tensor(batches.dataset.split(part).labels).to(batches.device)
    return Part(
        torch.cat([output.logits.float() for output in batch_outputs]),
        torch.cat([output.features.float() for output in batch_outputs]),
        labels,
    )
