"""Acquire a teacher without training students, and precompute its outputs."""

from pathlib import Path

from methods.capabilities import uses_teacher_bank
from orchestrator.config.method_variants import build_all_variants
from orchestrator.config.schema import Configuration
from orchestrator.core.disk import report_waits
from orchestrator.core.signals import stoppable
from orchestrator.data.prepare import describe
from orchestrator.store.store import Store
from orchestrator.sweep._backends import open_dispatcher
from orchestrator.sweep._teacher_warnings import report_teacher
from orchestrator.sweep.driver import explain_data
from orchestrator.sweep.events import StepDisplay
from orchestrator.teacher.access import TeacherAccess
from orchestrator.teacher.acquire import acquire_teacher
from orchestrator.teacher.card import TeacherCard
from orchestrator.teacher.precompute import (
    PrecomputeProgress,
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
) -> tuple[Path, TeacherCard, float]:
    """Acquire the teacher without training students; precompute its `cache` if requested.

    Returns:
        The teacher's folder, its card, and its cost in seconds.
    """
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
        teacher = acquire_teacher(
            store, configuration, data, dispatcher_client, display.teacher_epoch
        )
        report_teacher(teacher[1], data, display.teacher_ready, display.note)
        if precompute_progress:
            assert cache is not None and cache.folder is not None, (
                "a teacher without a cache is refused earlier"
            )
            folders = store.folders(store.teachers / "groups", data, teacher[0], cache.folder)
            features = any(
                uses_teacher_bank(method, configuration.training.epochs)
                for method in build_all_variants(configuration, searching=True)
            )
            variants = check_feature_maps(
                configuration, searching=True, classes=len(summary.classes), shape=summary.shape
            )
            stages = tuple(
                select_cached_maps(
                    configuration, variants, summary.sizes.train, summary.augmentation
                )
            )
            shares = distribute_views(views, max(concurrency(), 1), everywhere=cache.of_each_node)
            display.preparing(f"precomputing {len(views)} views in {cache.folder}")
            precompute_progress.begin(sum(map(len, shares)), summary.sizes.train)
            precompute_views(
                configuration,
                folders,
                shares,
                features,
                stages,
                dispatcher_client,
                precompute_progress,
            )
        return teacher
