"""What a process pays for once and every trial after that finds ready: data, teacher, its predictions."""

from functools import lru_cache

import torch
from torch import Tensor

from methods import Knowledge, Output
from orchestrator.config import Network, Training
from orchestrator.context import TrialContext
from orchestrator.data import Batches, Dataset, Views
from orchestrator.teacher.frozen import FrozenTeacher
from orchestrator.teacher.knowledge import CachedTeacher, OnlineTeacher
from orchestrator.trial import TrialSpec

open_dataset = lru_cache(maxsize=2)(Dataset.open)
open_teacher = lru_cache(maxsize=2)(FrozenTeacher.open)
_predictions: dict[tuple[str, str, int, int], Tensor] = {}


def channels_last(recipe: Training, network: Network) -> bool:
    """Whether images lie channels last: convolutions gain from it (8.3 to 6.5 s an epoch of resnet56 -> resnet20)."""
    return network.name != "mlp" if recipe.channels_last is None else recipe.channels_last


def autocast_dtype(recipe: Training, device: torch.device) -> torch.dtype | None:
    """The half type of the student's forward, or None for float32."""
    if recipe.precision == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else None
    return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[recipe.precision]


def open_batches(spec: TrialSpec, context: TrialContext) -> Batches:
    """The batches of a trial, for this rank."""
    configuration = spec.configuration
    dataset = open_dataset(spec.data)
    return Batches(
        dataset,
        Views.of(dataset, configuration.seed),
        configuration.training.batch_size,
        configuration.seed,
        rank=context.rank,
        world_size=context.world_size,
        device=context.device,
        loader_workers=configuration.data.loader_workers,
        channels_last=channels_last(configuration.training, configuration.student),
    )


def ask_teacher(
    spec: TrialSpec, teacher: FrozenTeacher, batches: Batches, context: TrialContext, features: bool
) -> OnlineTeacher | CachedTeacher:
    """The teacher as the trial asks it: from the cache, unless it is off or features are needed, which it does not hold."""
    chosen = spec.configuration.teacher
    assert chosen is not None and spec.knowledge is not None
    if chosen.mode == "online" or features:
        return OnlineTeacher(teacher)
    return CachedTeacher(teacher, batches, spec.knowledge, chosen.dtype, context, spec.configuration.resources.wait_s)


def clean_knowledge(source: OnlineTeacher | CachedTeacher, batches: Batches, context: TrialContext) -> Knowledge:
    """What the teacher says about the whole clean training part, in its order; all ranks call this together."""
    source.open_view(None)
    labels = torch.as_tensor(batches.dataset.train.labels).to(context.device)
    if isinstance(source, CachedTeacher):
        return Knowledge(source.everything().to(context.device), None, labels)
    answers: list[Output] = []
    for batch in batches.ordered("train"):
        answers.append(source.answer(batch))
        context.alive()
    # the blocks of the ranks are contiguous, so that their order is that of the part
    parts = context.gather(tuple(torch.cat([getattr(answer, name).cpu() for answer in answers]) for name in Output._fields))
    logits, features = (torch.cat([part[place] for part in parts]).to(context.device) for place in (0, 1))
    return Knowledge(logits, features, labels)


def validation_predictions(teacher: FrozenTeacher, batches: Batches, context: TrialContext) -> Tensor:
    """The teacher's classes for this rank's share of the validation part, in its order; computed once per process."""
    key = (teacher.fingerprint, batches.dataset.fingerprint, context.rank, context.world_size)
    if key not in _predictions:
        classes: list[Tensor] = []
        for batch in batches.ordered("validation"):
            classes.append(teacher(batch.inputs).logits.argmax(dim=1))
            context.alive()
        _predictions[key] = torch.cat(classes)
    return _predictions[key]
