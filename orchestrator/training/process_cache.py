"""Cache data, teachers and their predictions in a process, for later trials."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from methods import Knowledge, Output, build_method
from methods.retrieval import Neighbours
from orchestrator.config.schema import Network, Resources, Training
from orchestrator.config.sizes import is_approximate, maps_fit
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.core.paths import read_path
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.memory import fits_on_device
from orchestrator.data.views import Views
from orchestrator.models.feature_maps import map_shapes
from orchestrator.teacher.cache import Cache
from orchestrator.teacher.ensemble import AnyTeacher, EnsembleOutputs, FrozenEnsemble
from orchestrator.teacher.frozen import FrozenTeacher
from orchestrator.teacher.outputs import CachedTeacher, OnlineTeacher
from orchestrator.teacher.retrieval import Retrieval
from orchestrator.training._compilation import compile_in_place

SingleSource = OnlineTeacher | CachedTeacher
TeacherOutputSource = SingleSource | EnsembleOutputs
TeacherKey = tuple[Path, torch.device, bool, torch.dtype | None, bool]  # of `open_teacher`
Find = Callable[[Knowledge, int, int], Neighbours]

open_dataset = lru_cache(maxsize=2)(Dataset.open)


@lru_cache(maxsize=2)
def open_labelled(folder: Path) -> Dataset:
    """Return the labelled part of the data in a folder."""
    return open_dataset(folder).labelled()


_shortages: set[str] = set()  # reported shortages of shared memory
PREDICTIONS = 8  # cached predictions, one for each teacher and share
PredictionKey = tuple[str, str, str, int, int]
_predictions: dict[PredictionKey, Tensor] = {}
_logits: dict[PredictionKey, Tensor] = {}  # on the validation part, of several teachers


def channels_last(recipe: Training, network: Network) -> bool:
    """Return whether images use the channels-last layout.

    Convolutions gain from it on a CPU, and in half types on a GPU.
    """
    return network.name != "mlp" if recipe.channels_last is None else recipe.channels_last


def half_type(precision: str, device: torch.device) -> torch.dtype | None:
    """Return the type of an autocast forward, or None for float32."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else None
    return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


@lru_cache(maxsize=2)
def open_teacher(
    folder: Path,
    device: torch.device,
    channels_last: bool,
    half_type: torch.dtype | None,
    compiled: bool,
) -> FrozenTeacher:
    """Return the teacher in a folder, ready for inference."""
    teacher = FrozenTeacher.open(folder, device, channels_last, half_type)
    if compiled:
        compile_in_place(teacher.network)
    return teacher


def open_batches(spec: TrialSpec, context: TrialContext) -> Batches:
    """Return the batches of a trial for this rank.

    Several students use channels last if any of them gains from it. A method that needs labels
    trains on the labelled samples alone; the cache is filled for methods that take all samples.
    """
    configuration, is_precompute = spec.configuration, spec.role == "fill"
    labels = (
        not is_precompute
        and build_method(configuration.method.name, configuration.method.settings).needs.labels
    )
    dataset = (open_labelled if labels else open_dataset)(spec.data)
    on_device = configuration.data.on_device
    networks = [student.network for student in configuration.students.values()]
    batches = Batches(
        dataset,
        Views.from_config(dataset, configuration.data, configuration.seed),
        configuration.training.batch_size,
        configuration.seed,
        rank=context.rank,
        world_size=context.world_size,
        device=context.device,
        loader_workers=configuration.data.loader_workers,
        channels_last=any(channels_last(configuration.training, network) for network in networks),
        on_device=fits_on_device(dataset, context.device) if on_device is None else on_device,
        labelled_share=None if is_precompute else configuration.data.labelled_share,
        loader_wait_s=loader_wait_s(configuration.resources),
        balanced=configuration.data.sampling == "balanced" and not is_precompute,
    )
    shortage = batches.shortage()
    if context.is_main_process and shortage and shortage not in _shortages:
        _shortages.add(shortage)
        context.note(shortage)
    return batches


def loader_wait_s(resources: Resources) -> float:
    """Return the longest wait for a batch of decoded images, in seconds.

    It must end, and be reported, before the group is replaced for its missing heartbeat.
    """
    return resources.heartbeat_timeout_s / 2


def load_teacher(spec: TrialSpec, context: TrialContext) -> AnyTeacher | None:
    """Return the teacher of a trial, the ensemble of several, or None if it has none.

    An ensemble is new in each call, as a trial may train its weights; its teachers are shared.
    """
    if spec.teachers:
        keys = [_teacher_key(each, context) for each in spec.of_each_teacher()]
        return FrozenEnsemble(
            _open_teachers(tuple(filter(None, keys))), spec.configuration.ensemble
        )
    key = _teacher_key(spec, context)
    return key and open_teacher(*key)


@lru_cache(maxsize=1)
def _open_teachers(keys: tuple[TeacherKey, ...]) -> tuple[FrozenTeacher, ...]:
    """Return several teachers, which stay in memory together."""
    return tuple(open_teacher.__wrapped__(*key) for key in keys)


def _teacher_key(spec: TrialSpec, context: TrialContext) -> TeacherKey | None:
    """Return the arguments of `open_teacher` for the teacher of a trial; None without one."""
    teacher_settings = spec.configuration.teacher
    if spec.teacher is None or teacher_settings is None:
        return None
    recipe = spec.configuration.training
    precisions = set(
        context.all_gather_object(half_type(teacher_settings.precision, context.device))
    )
    precision = precisions.pop() if len(precisions) == 1 else None  # mixed devices use float32
    layout = channels_last(recipe, teacher_settings.network)
    return spec.teacher, context.device, layout, precision, bool(recipe.compile)


def compute_teacher_outputs(
    spec: TrialSpec,
    teacher: AnyTeacher,
    batches: Batches,
    context: TrialContext,
    features: bool = False,
    stages: Sequence[str] = (),
    views: Sequence[int] = (),
) -> TeacherOutputSource:
    """Return the source of the teacher's outputs for a trial.

    It is the cache, unless that is off or lacks what is required: features and feature maps of
    views that vary, or feature maps that are too large.

    Args:
        spec: The specification.
        teacher: The teacher.
        batches: The batches of this rank.
        context: The context of all ranks.
        features: Whether features are required.
        stages: Stages whose feature maps are required.
        views: The augmented views that will be opened, in this order.
    """
    if isinstance(teacher, FrozenEnsemble):
        assert not (features or stages), "methods that use these are refused for several teachers"
        return EnsembleOutputs(
            teacher,
            [
                _single_source(each, network, batches, context, views=views)
                for each, network in zip(spec.of_each_teacher(), teacher.teachers, strict=True)
            ],
        )
    return _single_source(spec, teacher, batches, context, features, stages, views)


def _single_source(
    spec: TrialSpec,
    teacher: FrozenTeacher,
    batches: Batches,
    context: TrialContext,
    features: bool = False,
    stages: Sequence[str] = (),
    views: Sequence[int] = (),
) -> SingleSource:
    teacher_settings = spec.configuration.teacher
    assert teacher_settings is not None
    if (
        spec.knowledge is None
        or teacher_settings.mode == "online"
        or ((features or stages) and batches.views.varies)
        or not maps_fit(
            teacher_settings,
            len(batches.dataset.train),
            map_shapes(teacher.network, batches.dataset.shape, stages).values(),
        )
    ):
        return OnlineTeacher(teacher, stages)
    cache = Cache(
        read_path(spec.knowledge, "teacher.cache"), round(teacher_settings.cache_gib * 2**30)
    )
    return CachedTeacher(
        teacher,
        batches,
        cache,
        teacher_settings.dtype,
        context,
        spec.configuration.resources.heartbeat_timeout_s,
        stages,
        views,
    )


def build_retrieval(
    spec: TrialSpec, source: TeacherOutputSource, batches: Batches, context: TrialContext
) -> Retrieval:
    """Return the retrieval of samples that are similar by the teacher's features.

    It runs once for all trials if the teacher's outputs are cached.
    """
    num_labelled = int((batches.dataset.train.labels >= 0).sum())
    approximate = context.broadcast_object(
        is_approximate(spec.configuration.resources, num_labelled, context.device.type == "cuda")
    )
    if isinstance(source, CachedTeacher):
        return Retrieval(context, approximate, source.sharing, source.about[True])
    return Retrieval(context, approximate)


def compute_clean_knowledge(
    source: TeacherOutputSource,
    batches: Batches,
    context: TrialContext,
    features: bool,
    find: Find | None = None,
) -> Knowledge:
    """Return the teacher's outputs on the whole clean training part, in its order.

    All ranks call this together. Features stay on the host; from the cache they are memory-mapped,
    in the type of the cache.

    Args:
        source: The source of the outputs.
        batches: The batches of this rank.
        context: The context of the ranks.
        features: Whether features are needed.
        find: Retrieves samples by the features.
    """
    labels = torch.as_tensor(batches.dataset.train.labels).to(context.device)
    if isinstance(source, EnsembleOutputs):
        logits = [
            compute_clean_knowledge(each, batches, context, features=False).logits
            for each in source.sources
        ]
        return Knowledge(source.ensemble.average_tables(logits, labels), None, labels, find=find)
    source.open_view(None, features)
    if isinstance(source, CachedTeacher):
        tables = source.read_all_outputs()
    else:
        tables = _compute_clean_outputs(source, batches, context, features)
    return Knowledge(tables[0].to(context.device), tables[1], labels, find=find)


def _compute_clean_outputs(
    source: OnlineTeacher, batches: Batches, context: TrialContext, features: bool
) -> tuple[Tensor, Tensor | None]:
    outputs: list[Output] = []
    for batch in batches.iterate_in_order("train"):
        outputs.append(source.answer(batch))
        context.heartbeat()

    def join_blocks(name: str) -> Tensor:
        # the blocks of the ranks are contiguous, so their order is that of the part
        return torch.cat(
            context.all_gather_object(
                torch.cat([getattr(output, name).cpu() for output in outputs])
            )
        )

    return join_blocks("logits"), join_blocks("features") if features else None


def compute_validation_predictions(
    teacher: AnyTeacher, batches: Batches, context: TrialContext
) -> Tensor:
    """Return the teacher's classes for this rank's share of the validation part, in its order.

    The outputs of each network are computed once per process. An ensemble uses no labels.
    """
    if isinstance(teacher, FrozenEnsemble):
        logits = compute_validation_logits(teacher, batches, context)
        return teacher.average_tables(logits, None).argmax(dim=1)
    return _once_per_process(
        _predictions, teacher, batches, context, lambda logits: logits.argmax(dim=1)
    )


def compute_validation_logits(
    ensemble: FrozenEnsemble, batches: Batches, context: TrialContext
) -> list[Tensor]:
    """Return each teacher's logits (n, K) on this rank's share of the validation part, on the CPU.

    They are computed once per process.
    """
    return [
        _once_per_process(_logits, teacher, batches, context, Tensor.cpu)
        for teacher in ensemble.teachers
    ]


def _once_per_process(
    known: dict[PredictionKey, Tensor],
    teacher: FrozenTeacher,
    batches: Batches,
    context: TrialContext,
    reduce: Callable[[Tensor], Tensor],
) -> Tensor:
    """Return what `reduce` keeps of the logits (B, K) of the validation part, computed if new."""
    key = (
        teacher.fingerprint,
        teacher.precision,
        batches.dataset.fingerprint,
        context.rank,
        context.world_size,
    )
    if key not in known:
        parts: list[Tensor] = []
        for batch in batches.iterate_in_order("validation"):
            parts.append(reduce(teacher(batch.inputs).logits))
            context.heartbeat()
        while len(known) >= PREDICTIONS:  # trials may train their own teachers
            del known[next(iter(known))]
        known[key] = torch.cat(parts)
    return known[key]
