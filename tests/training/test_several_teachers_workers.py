"""Test several teachers with two workers (gloo): the weights of both, and of one worker."""

from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from several_teachers import several, single
from torch import Tensor
from trials_run import left

from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.core.reports import EpochRecord, Report
from orchestrator.teacher.ensemble import AnyTeacher, FrozenEnsemble
from orchestrator.training import _trainer as trainer
from orchestrator.training._trainer import train
from orchestrator.training.process_cache import load_teacher
from tests.process_group import on_every_rank

KINDS = ("confidence", "learned")
Ranks = list[dict[str, tuple[Tensor, list[float]]]]


def trial(root: Path, kind: str, folder: str) -> TrialSpec:
    return several(root, f"{folder}-{kind}", f"ensemble.weights={kind}")


def trained(
    rank: int, world_size: int, root: Path, folder: str
) -> dict[str, tuple[Tensor, list[float]]]:
    """Return the weights of the teachers on a rank, and the losses, of a trial of each kind."""
    ensembles: list[FrozenEnsemble] = []

    def noted(spec: TrialSpec, context: TrialContext) -> AnyTeacher | None:
        ensemble = load_teacher(spec, context)
        assert isinstance(ensemble, FrozenEnsemble)
        ensembles.append(ensemble)
        return ensemble

    results = {}
    with patch.object(trainer, "load_teacher", noted):
        for kind in KINDS:
            reports: list[Report] = []
            train(trial(root, kind, folder), TrialContext(rank, world_size, report=reports.append))
            losses = [
                each.metrics["train/loss"] for each in reports if isinstance(each, EpochRecord)
            ]
            results[kind] = (ensembles[-1].weights.logits.clone(), losses)
    return results


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two teachers."""
    folder = tmp_path_factory.mktemp("several")
    for number in range(2):
        single(folder, "unused", number)
    return folder


@pytest.fixture(scope="module")
def ranks(root: Path) -> Ranks:
    """Return the results of two workers."""
    return on_every_rank(2, trained, root, "two")


def test_both_workers_have_the_same_learned_weights(root: Path, ranks: Ranks) -> None:
    first, second = (rank["learned"][0] for rank in ranks)
    assert torch.equal(first, second) and not torch.equal(first[0], first[1])
    saved = left(trial(root, "learned", "two"))["ensemble.safetensors/logits"]
    assert torch.equal(saved, first)


def test_two_workers_train_as_one(root: Path, ranks: Ranks) -> None:
    alone = trained(0, 1, root, "one")
    for kind, tolerance in (("confidence", 1e-4), ("learned", 0.05)):  # other validation batches
        losses = ranks[0][kind][1]
        assert len(losses) == 3 and losses == pytest.approx(alone[kind][1], rel=tolerance)
