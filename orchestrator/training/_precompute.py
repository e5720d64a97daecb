"""Fill the cache with the teacher's outputs before training."""

import time

import torch

from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import Stopped, TrialContext
from orchestrator.core.reports import EpochRecord, SampleProgress
from orchestrator.teacher.outputs import CachedTeacher
from orchestrator.training.process_cache import compute_teacher_outputs, load_teacher, open_batches

PROGRESS_INTERVAL_S = 0.3


def precompute_view(spec: TrialSpec, context: TrialContext) -> None:
    """Open each view of the specification once; all ranks call this together.

    Each finished view is reported as an epoch; the metrics are the hits and misses of the cache.
    """
    torch.set_num_threads(spec.configuration.resources.threads_per_worker)
    batches = open_batches(spec, context)
    try:
        teacher = load_teacher(spec, context)
        assert teacher is not None
        augmented = [view for view in spec.views if view is not None]
        source = compute_teacher_outputs(
            spec, teacher, batches, context, stages=spec.stages, views=augmented
        )
        assert isinstance(source, CachedTeacher), "only cached outputs can be precomputed"
        source.shared_pass.on_progress = _ProgressReporter(context)
        for number, view in enumerate(spec.views, 1):
            context.phase("the teacher's forward pass over a view")
            clean = view is None
            source.open_view(view, spec.features and clean, bool(spec.stages) and clean)
            metrics = {f"cache/{name}": value for name, value in source.counts().items()}
            is_last, notes = number == len(spec.views), tuple(source.notes())
            if context.is_main_process:
                context.report(EpochRecord(number, metrics, is_last, notes))
            context.raise_if_stopped()
    except Stopped:
        return
    finally:
        batches.close()


class _ProgressReporter:
    """Callback that reports the progress within a view, a few times a second."""

    def __init__(self, context: TrialContext) -> None:
        self.context, self.last_report_s = context, time.monotonic()

    def __call__(self, samples: int) -> None:
        if (
            self.context.is_main_process
            and time.monotonic() - self.last_report_s > PROGRESS_INTERVAL_S
        ):
            self.last_report_s = time.monotonic()
            self.context.report(SampleProgress(samples))
