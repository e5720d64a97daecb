"""Test that a batch of one is refused exactly if batch normalisation would raise in training."""

import pytest
import torch

from orchestrator.config.loader import load
from orchestrator.models.build import build
from orchestrator.sweep.preflight._batch_norm import check_batch_norm
from tests.refusal import refused

RESNET = 'student={"name": "resnet18"}'


def check(*pairs: str, searching: bool = False, fits_teacher: bool = True, side: int = 32) -> None:
    configuration = load(None, list(pairs))
    if configuration.teacher and not fits_teacher:
        weights = {"weights": "given.safetensors"}
        network = configuration.teacher.network.model_copy(update=weights)
        teacher = configuration.teacher.model_copy(update={"network": network})
        configuration = configuration.with_teachers({"teacher": teacher})
    check_batch_norm(configuration, searching, (3, side, side))


CASES = [
    *(("mlp", 32), ("cnn", 32), ("cnn", 4), ("separable_cnn", 8), ("resnet8", 32), ("resnet8", 4)),
    *(("resnet18", 64), ("resnet18", 8), ("mobilenet_v2", 32), ("mobilenet_v2", 8)),
    *(("vgg8", 32), ("vgg8", 8), ("shuffle_v2", 32), ("shuffle_v2", 8), ("wrn_16_1", 4)),
]


@pytest.mark.parametrize(("name", "side"), CASES)
def test_the_check_refuses_exactly_what_raises_in_training(name: str, side: int) -> None:
    network = build(name, 10, (3, side, side), {}).train()
    try:
        network(torch.rand(1, 3, side, side))
        raises = False
    except ValueError:
        raises = True
    pairs = (f'student={{"name": "{name}"}}', "teacher=null", "method.name=cross_entropy")
    if raises:
        with refused("training.batch_size", 1, (2, None)):
            check(*pairs, "training.batch_size=1", side=side)
    else:
        check(*pairs, "training.batch_size=1", side=side)
    check(*pairs, "training.batch_size=2", side=side)


PEER = 'peers={"b": {"network": {"name": "resnet18"}}}'
TEACHER = 'teacher.network={"name": "resnet18"}'
CHOICE = 'search.extra_space={"student.name": ["resnet8", "resnet18"]}'


def refusal_message(*pairs: str, field: str = "training.batch_size", **options: bool) -> str:
    with refused(field) as refusal:
        check(*pairs, side=8, **options)
    return str(refusal.value)


def test_a_batch_of_one_depends_on_the_network() -> None:
    check(RESNET, "training.batch_size=1", side=64)
    assert "resnet18" in refusal_message(RESNET, "training.batch_size=1")


def test_the_share_of_a_worker_counts() -> None:
    with refused("training.batch_size", 4, (8, None)) as refusal:
        check(RESNET, "training.batch_size=4", "resources.workers=4", side=8)
    assert "sync_batch_norm" in str(refusal.value)
    check(RESNET, "training.batch_size=8", "resources.workers=4", side=8)
    check(
        RESNET,
        "training.batch_size=4",
        "resources.workers=4",
        "training.sync_batch_norm=true",
        side=8,
    )


def test_every_trained_network_is_checked() -> None:
    assert "peers.b.network" in refusal_message(PEER, "training.batch_size=1")
    fitted = refusal_message(
        TEACHER, "teacher.training.batch_size=1", field="teacher.training.batch_size"
    )
    assert "teacher.network" in fitted
    learner = ("method.name=kd_aif", "method.update=both", "data.labelled=10")
    assert "teacher.network" in refusal_message(TEACHER, "training.batch_size=1", *learner)
    searched = refusal_message(
        'student={"name": "resnet8"}',
        CHOICE,
        "training.batch_size=1",
        "teacher=null",
        searching=True,
    )
    assert "student.name = 'resnet18'" in searched


def test_a_teacher_that_is_not_trained_here_may_have_any_batch() -> None:
    check(TEACHER, "teacher.training.batch_size=1", fits_teacher=False, side=8)
