"""What a process pays for once and every trial after that finds ready: data, teacher, its predictions."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from methods import Knowledge, Output, made
from methods.retrieval import Neighbours
from orchestrator.config.schema import Network, Resources, Training
from orchestrator.config.sizes import approximate
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.core.paths import read_path
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.memory import fits_on_device
from orchestrator.data.views import Views
from orchestrator.teacher.cache import Cache
from orchestrator.teacher.frozen import FrozenTeacher
from orchestrator.teacher.outputs import CachedTeacher, OnlineTeacher
from orchestrator.teacher.retrieval import Retrieval

AskedTeacher = OnlineTeacher | CachedTeacher
Find = Callable[[Knowledge, int, int], Neighbours]

open_dataset = lru_cache(maxsize=2)(Dataset.open)


@lru_cache(maxsize=2)
def open_labelled(folder: Path) -> Dataset:
    """The labelled part of the data in a folder."""
    return open_dataset(folder).labelled()


_shortages: set[str] = set()  # of shared memory, that a person was told of
PREDICTIONS = 8  # teachers and parts of which they are kept
_predictions: dict[tuple[str, str, str, int, int], Tensor] = {}


def channels_last(recipe: Training, network: Network) -> bool:
    """Whether images lie channels last: convolutions gain from it on a CPU, and in half types on a GPU."""
    return network.name != "mlp" if recipe.channels_last is None else recipe.channels_last


def half_type(precision: str, device: torch.device) -> torch.dtype | None:
    """The type of an autocast forward, or None for float32."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else None
    return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def compile_in_place(network: nn.Module) -> None:
    """Compile a network's forward; networks of the same form share what was compiled, within a process."""
    # all networks have one forward, of which Dynamo keeps 8 versions and then stops: a shape takes two or three
    torch._dynamo.config.recompile_limit = 256
    # a graph that is shared may be asked for its gradient twice, as a look ahead does
    torch._functorch.config.donated_buffer = False
    network.compile()


@lru_cache(maxsize=2)
def open_teacher(
    folder: Path, device: torch.device, channels_last: bool, half_type: torch.dtype | None, compiled: bool
) -> FrozenTeacher:
    """The teacher in a folder, ready to answer."""
    teacher = FrozenTeacher.open(folder, device, channels_last, half_type)
    if compiled:
        compile_in_place(teacher.network)
    return teacher


def open_batches(spec: TrialSpec, context: TrialContext) -> Batches:
    """The batches of a trial, for this rank; with several students in the layout that any of them gains from.

    A method that needs labels learns from the labelled samples alone; the cache is filled for those that take all.
    """
    configuration, filling = spec.configuration, spec.role == "fill"
    labels = not filling and made(configuration.method.name, configuration.method.settings).needs.labels
    dataset, on_device = (open_labelled if labels else open_dataset)(spec.data), configuration.data.on_device
    networks = [student.network for student in configuration.students.values()]
    batches = Batches(
        dataset,
        Views.of(dataset, configuration.data, configuration.seed),
        configuration.training.batch_size,
        configuration.seed,
        rank=context.rank,
        world_size=context.world_size,
        device=context.device,
        loader_workers=configuration.data.loader_workers,
        channels_last=any(channels_last(configuration.training, network) for network in networks),
        on_device=fits_on_device(dataset, context.device) if on_device is None else on_device,
        labelled_share=None if filling else configuration.data.labelled_share,
        loader_wait_s=loader_wait_s(configuration.resources),
    )
    shortage = batches.shortage()
    if context.leads and shortage and shortage not in _shortages:
        _shortages.add(shortage)
        context.note(shortage)
    return batches


def loader_wait_s(resources: Resources) -> float:
    """Seconds that a batch of decoded images is waited for: it must be said before the group is replaced for its silence."""
    return resources.heartbeat_timeout_s / 2


def load_teacher(spec: TrialSpec, context: TrialContext) -> FrozenTeacher | None:
    """The teacher of a trial, or None where there is none."""
    chosen = spec.configuration.teacher
    if spec.teacher is None or chosen is None:
        return None
    recipe = spec.configuration.training
    precisions = set(context.gather(half_type(chosen.precision, context.device)))
    precision = precisions.pop() if len(precisions) == 1 else None  # on unlike devices all hear one teacher
    return open_teacher(spec.teacher, context.device, channels_last(recipe, chosen.network), precision, recipe.compile)


def compute_teacher_outputs(
    spec: TrialSpec, teacher: FrozenTeacher, batches: Batches, context: TrialContext, features: bool = False
) -> AskedTeacher:
    """The teacher as the trial asks it: from the cache, unless that is off or lacks what is needed: features of views that vary."""
    chosen = spec.configuration.teacher
    assert chosen is not None
    if spec.knowledge is None or chosen.mode == "online" or (features and batches.views.varies):
        return OnlineTeacher(teacher)
    cache = Cache(read_path(spec.knowledge, "teacher.cache"), round(chosen.cache_gib * 2**30))
    return CachedTeacher(teacher, batches, cache, chosen.dtype, context, spec.configuration.resources.heartbeat_timeout_s)


def retrieval(spec: TrialSpec, source: AskedTeacher, batches: Batches, context: TrialContext) -> Retrieval:
    """How the samples are found that the teacher finds similar: once for all trials where its knowledge is cached."""
    known = int((batches.dataset.train.labels >= 0).sum())
    nearly = context.share(approximate(spec.configuration.resources, known, context.device.type == "cuda"))
    if isinstance(source, CachedTeacher):
        return Retrieval(context, nearly, source.sharing, source.about[True])
    return Retrieval(context, nearly)


def clean_knowledge(
    source: AskedTeacher, batches: Batches, context: TrialContext, features: bool, find: Find | None = None
) -> Knowledge:
    """What the teacher says about the whole clean training part, in its order; all ranks call this together.

    Features stay on the host, from the cache mapped and in its type; `find` is how samples are retrieved by them.
    """
    source.open_view(None, features)
    labels = torch.as_tensor(batches.dataset.train.labels).to(context.device)
    tables = source.everything() if isinstance(source, CachedTeacher) else _asked_now(source, batches, context, features)
    return Knowledge(tables[0].to(context.device), tables[1], labels, find=find)


def _asked_now(source: OnlineTeacher, batches: Batches, context: TrialContext, features: bool) -> tuple[Tensor, Tensor | None]:
    answers: list[Output] = []
    for batch in batches.ordered("train"):
        answers.append(source.answer(batch))
        context.alive()

    def joined(name: str) -> Tensor:
        # the blocks of the ranks are contiguous, so that their order is that of the part
        return torch.cat(context.gather(torch.cat([getattr(answer, name).cpu() for answer in answers])))

    return joined("logits"), joined("features") if features else None


def validation_predictions(teacher: FrozenTeacher, batches: Batches, context: TrialContext) -> Tensor:
    """The teacher's classes for this rank's share of the validation part, in its order; computed once per process."""
    key = (teacher.fingerprint, teacher.precision, batches.dataset.fingerprint, context.rank, context.world_size)
    if key not in _predictions:
        classes: list[Tensor] = []
        for batch in batches.ordered("validation"):
            classes.append(teacher(batch.inputs).logits.argmax(dim=1))
            context.alive()
        while len(_predictions) >= PREDICTIONS:  # trials may train teachers of their own
            del _predictions[next(iter(_predictions))]
        _predictions[key] = torch.cat(classes)
    return _predictions[key]
