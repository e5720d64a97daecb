"""Acquire the teachers without training students, and precompute their outputs."""

from collections.abc import Callable
from pathlib import Path

from methods.capabilities import uses_teacher_bank
from orchestrator.config.method_variants import build_all_variants
from orchestrator.config.schema import Configuration
from orchestrator.core.disk import report_waits
from orchestrator.core.signals import stoppable
from orchestrator.data.dataset import DataSummary
from orchestrator.data.prepare import describe
from orchestrator.store.store import Store
from orchestrator.sweep._backends import open_dispatcher
from orchestrator.sweep._teacher_warnings import report_teachers
from orchestrator.sweep.driver import explain_data
from orchestrator.sweep.events import StepDisplay
from orchestrator.teacher.access import TeacherAccess
from orchestrator.teacher.acquire import AcquiredTeacher, TrialDispatcher, acquire_teachers
from orchestrator.teacher.precompute import (
    PrecomputeProgress,
    Share,
    distribute_views,
    precompute_views,
    views_to_precompute,
)
from orchestrator.training.capabilities.feature_maps_checks import (
    check_feature_maps,
    select_cached_maps,
)


def prepare_teacher(
    store: Store,
    configuration: Configuration,
    data: Path,
    display: StepDisplay,
    local: bool,
    cache: TeacherAccess | None,
    precompute_progress: PrecomputeProgress | None,
) -> list[AcquiredTeacher]:
    """Acquire all teachers without training students; precompute their `cache` if requested."""
    summary = describe(configuration.data, store.root, configuration.data.seed)
    views = views_to_precompute(configuration, summary.augmentation) if precompute_progress else []
    jobs = max(len(views), 1)
    explain_data(configuration, data, display)
    with (
        report_waits(display.note),
        stoppable(),
        open_dispatcher(
            store,
            configuration,
            store.teachers / "groups",
            jobs,
            local,
            display,
            display.note,
            lambda: jobs,
        ) as (dispatcher_client, concurrency),
    ):
        teachers = acquire_teachers(
            store, configuration, data, dispatcher_client, display.teacher_epoch
        )
        cards = [teacher.card for teacher in teachers]
        report_teachers(cards, data, display.teacher_ready, display.note)
        if precompute_progress:
            assert cache is not None and cache.folder is not None, (
                "a teacher without a cache is refused earlier"
            )
            shares = distribute_views(views, max(concurrency(), 1), everywhere=cache.of_each_node)
            _precompute(
                store,
                configuration,
                data,
                summary,
                teachers,
                cache.folder,
                shares,
                dispatcher_client,
                precompute_progress,
                display.preparing,
            )
        return teachers


def _precompute(
    store: Store,
    configuration: Configuration,
    data: Path,
    summary: DataSummary,
    teachers: list[AcquiredTeacher],
    knowledge: Path,
    shares: list[Share],
    dispatcher_client: TrialDispatcher,
    progress: PrecomputeProgress,
    show_step: Callable[[str], None],
) -> None:
    """Fill the cache in the folder `knowledge` with the outputs of each teacher that has one."""
    features = any(
        uses_teacher_bank(method, configuration.training.epochs)
        for method in build_all_variants(configuration, searching=True)
    )
    variants = check_feature_maps(
        configuration, searching=True, classes=len(summary.classes), shape=summary.shape
    )
    stages = tuple(
        select_cached_maps(configuration, variants, summary.sizes.train, summary.augmentation)
    )
    each = zip(configuration.of_each_teacher().values(), teachers, strict=True)
    precomputed = [
        (single, teacher.folder)
        for single, teacher in each
        if single.teacher and single.teacher.mode != "online"
    ]
    views = len({view for share in shares for view in share}) * len(precomputed)
    show_step(f"precomputing {views} views in {knowledge}")
    progress.begin(sum(map(len, shares)) * len(precomputed), summary.sizes.train)
    for number, (single, folder) in enumerate(precomputed):
        precompute_views(
            single,
            store.folders(store.teachers / "groups", data, [folder], knowledge),
            shares,
            features,
            stages,
            dispatcher_client,
            progress,
            number * len(shares),
        )
