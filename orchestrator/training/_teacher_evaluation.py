"""Evaluate a teacher on the validation part or the test part.

A worker group evaluates each teacher with given weights once on the validation part, and the
teacher of a comparison once on the test part.
"""

import torch

from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.core.reports import EpochRecord
from orchestrator.data.batches import Batches
from orchestrator.data.views import Views
from orchestrator.training.metrics import Scores
from orchestrator.training.process_cache import (
    channels_last,
    loader_wait_s,
    open_dataset,
    open_teacher,
)

BATCH = 256  # samples per batch of each worker


def evaluate_teacher(spec: TrialSpec, context: TrialContext) -> None:
    """Report the metrics `validation/...` or `test/...` of a teacher, in float32.

    All ranks call this together. The record of epoch 1 is the same for any number of workers.
    """
    configuration, dataset = spec.configuration, open_dataset(spec.data)
    assert spec.teacher is not None and configuration.teacher is not None
    torch.set_num_threads(configuration.resources.threads_per_worker)
    layout = channels_last(configuration.teacher.training, configuration.teacher.network)
    teacher = open_teacher(spec.teacher, context.device, layout, None, False)
    batches = Batches(
        dataset,
        Views.from_config(dataset, configuration.data, configuration.seed),
        batch_size=context.world_size,  # for training, which does not happen here
        seed=configuration.seed,
        rank=context.rank,
        world_size=context.world_size,
        device=context.device,
        loader_workers=configuration.data.loader_workers,
        channels_last=layout,
        loader_wait_s=loader_wait_s(configuration.resources),
    )
    context.phase("the teacher's evaluation")
    scores = Scores(len(dataset.classes), context.device)
    try:
        for batch in batches.iterate_in_order(spec.part, size=BATCH):
            scores.add(teacher(batch.inputs).logits, batch.labels)
            context.heartbeat()
    finally:
        batches.close()
    context.all_reduce_sum(scores.sums)
    metrics = {
        f"{spec.part}/{name}": value for name, value in scores.metrics(agreement=False).items()
    }
    if context.is_main_process:
        context.report(EpochRecord(1, metrics, done=True))
