"""Test that training from the cache equals training with an online teacher, after any fill."""

import os
import signal
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.core.errors import PreflightError
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset
from orchestrator.data.views import Views
from orchestrator.teacher.cache import Cache, Writer
from orchestrator.teacher.frozen import FrozenTeacher
from orchestrator.teacher.outputs import CachedTeacher, OnlineTeacher
from orchestrator.training._trainer import train
from orchestrator.training.process_cache import compute_teacher_outputs
from tests.process_group import start_server
from tests.refusal import refused

CPU = torch.device("cpu")
EPOCHS = 3
LONGEST_S = 120
# 140 is not a multiple of the batch size 32
SMALL = (
    "data.limit.train=140",
    "data.limit.validation=20",
    "data.limit.test=20",
    f"training.epochs={EPOCHS}",
    "training.batch_size=32",
)

CONVOLUTIONS = ("student.name=cnn", "student.width=4")

Specify = Callable[..., TrialSpec]
MakeTeacher = Callable[..., Path]
Weights = dict[str, torch.Tensor]


def student(spec: TrialSpec, file: str = "student") -> Weights:
    return load_file(spec.folder / "checkpoint" / f"{file}.safetensors")


def trained(
    specify: Specify, teacher: Callable[[TrialSpec], Path], folder: str, *pairs: str
) -> TrialSpec:
    spec = specify(*SMALL, *pairs, folder=folder)
    spec = spec.model_copy(update={"teacher": teacher(spec)})
    train(spec, TrialContext())
    return spec


@pytest.mark.parametrize("mix", ["none", "mixup", "cutmix"])
@pytest.mark.parametrize("policy", ["none", "crop_flip", "resized_crop_flip"])
@pytest.mark.parametrize("network", ["cnn", "resnet8"])
def test_the_float32_cache_with_a_view_per_epoch_is_bit_identical_to_the_online_teacher(
    specify: Specify, make_teacher: MakeTeacher, network: str, policy: str, mix: str
) -> None:
    pairs = (
        *CONVOLUTIONS,
        f"data.augmentation={policy}",
        f"data.mixing={mix}",
        "method.name=wttm",
        "teacher.dtype=float32",
    )
    settings = {"width": 4} if network == "cnn" else {}
    weights = []
    for mode in ("online", "cached"):
        made = trained(
            specify,
            lambda spec: make_teacher(spec.data, network, **settings),
            mode,
            *pairs,
            f"teacher.network.name={network}",
            f"teacher.mode={mode}",
        )
        weights.append(student(made))
        assert made.knowledge is not None and any(made.knowledge.glob("*/*.npy")) == (
            mode == "cached"
        )
    assert all(torch.equal(weights[1][key], value) for key, value in weights[0].items())


def test_the_float16_cache_stays_within_its_bound(
    specify: Specify, make_teacher: MakeTeacher
) -> None:
    """A logit's relative error is at most 2^-11; the student's path changes by less than 1 %."""
    pairs = (*CONVOLUTIONS, "method.name=kd", "data.augmentation=crop_flip")
    weights = {}
    for name, more in {"exact": "teacher.mode=online", "rounded": "teacher.dtype=float16"}.items():
        weights[name] = student(
            trained(
                specify, lambda spec: make_teacher(spec.data, "cnn", width=4), name, *pairs, more
            )
        )
    start = student(
        trained(
            specify,
            lambda spec: make_teacher(spec.data, "cnn", width=4),
            "start",
            *pairs,
            "training.learning_rate=1e-30",
        )
    )
    learned = [key for key in start if key.endswith(("weight", "bias"))]

    def distance(one: Weights, other: Weights) -> float:
        return float(
            torch.stack([(one[key] - other[key]).square().sum() for key in learned]).sum().sqrt()
        )

    assert (
        0
        < distance(weights["rounded"], weights["exact"])
        < 0.01 * distance(weights["exact"], start)
    )


@pytest.mark.parametrize(
    "pairs", [("data.mixing=none",), ("data.mixing=cutmix",), ("teacher.mode=online",)], ids=str
)
def test_resident_data_and_outputs_train_the_same_student(
    specify: Specify, make_teacher: MakeTeacher, pairs: tuple[str, ...]
) -> None:
    mapped, on_device = (
        student(
            trained(
                specify,
                lambda spec: make_teacher(spec.data, width=8),
                f"{kept}",
                *CONVOLUTIONS,
                *pairs,
                f"data.on_device={kept}",
            )
        )
        for kept in ("false", "true")
    )
    assert all(torch.equal(on_device[key], value) for key, value in mapped.items())


def test_features_without_augmentation_come_from_the_cache(
    specify: Specify, make_teacher: MakeTeacher
) -> None:
    spec = specify(*SMALL, "data.augmentation=none")
    spec = spec.model_copy(update={"teacher": make_teacher(spec.data, width=8)})
    source = cached(spec)
    assert isinstance(
        compute_teacher_outputs(
            spec, source.shared_pass.teacher, source.batches, TrialContext(), features=True
        ),
        CachedTeacher,
    )
    source.open_view(None, features=True)
    for batch in source.batches.train(0, None):
        expected, answer = source.shared_pass.teacher(batch.inputs), source.answer(batch)
        assert torch.equal(answer.features, expected.features) and torch.equal(
            answer.logits, expected.logits
        )


def test_features_of_varying_views_are_computed_at_every_step(
    specify: Specify, make_teacher: MakeTeacher
) -> None:
    spec = specify(*SMALL, "data.augmentation=crop")
    spec = spec.model_copy(update={"teacher": make_teacher(spec.data, width=8)})
    source = cached(spec)
    assert isinstance(
        compute_teacher_outputs(
            spec, source.shared_pass.teacher, source.batches, TrialContext(), features=True
        ),
        OnlineTeacher,
    )


@pytest.mark.parametrize(
    ("scale", "refusal"),
    [
        (1e6, ("teacher.dtype", "float16", ("float32",))),
        (float("inf"), ("teacher", "logits", "finite values")),
    ],
)
def test_logits_beyond_the_range_of_the_type_are_refused(
    specify: Specify, make_teacher: MakeTeacher, scale: float, refusal: tuple[str, str, object]
) -> None:
    spec = specify(*SMALL, "data.augmentation=none")
    spec = spec.model_copy(update={"teacher": make_teacher(spec.data, width=8)})
    source = cached(spec, "float16")
    head = source.shared_pass.teacher.network.get_submodule("head")
    head.weight.mul_(scale)  # type: ignore[operator,union-attr]
    with refused(*refusal, error=PreflightError):
        source.open_view(None)
    assert not list(source.files(None)["logits"].parent.glob("*.npy"))


def test_fewer_views_than_epochs_cycle(specify: Specify, make_teacher: MakeTeacher) -> None:
    records: list[Any] = []
    spec = specify(*SMALL, "data.views=2", "data.augmentation=crop", "training.epochs=5")
    spec = spec.model_copy(update={"teacher": make_teacher(spec.data, width=8)})
    train(spec, TrialContext(report=records.append))
    assert spec.knowledge is not None
    assert sorted(file.name for file in spec.knowledge.glob("*/*.npy")) == [
        "view-00000.npy",
        "view-00001.npy",
    ]
    found = [(record.metrics["cache/hits"], record.metrics["cache/misses"]) for record in records]
    assert found == [(0, 1), (0, 1), (1, 0), (1, 0), (1, 0)]


def cached(spec: TrialSpec, dtype: str = "float32") -> CachedTeacher:
    assert spec.teacher is not None and spec.knowledge is not None
    dataset = Dataset.open(spec.data)
    batches = Batches(dataset, Views.from_config(dataset, spec.configuration.data, 0), 32, 0)
    return CachedTeacher(
        FrozenTeacher.open(spec.teacher, CPU),
        batches,
        Cache(spec.knowledge, 2**24),
        dtype,
        TrialContext(),
        5,
    )


def end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_while_filling(spec: TrialSpec, point: str) -> None:
    """Fill view 0 in a child that kills itself at a point; the view is missing afterwards."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        return
    try:
        source = cached(spec)
        finish = Writer.finish
        if point == "locked":
            source.batches.full_blocks = lambda *_: end()  # type: ignore[method-assign,assignment,return-value]
        elif point.startswith("block"):
            source.shared_pass.on_progress = lambda samples: (
                end() if samples >= 32 * int(point[-1]) else None
            )
        elif point == "unsealed":
            Writer.finish = lambda self: end()  # type: ignore[method-assign]
        elif point == "in place":
            Writer.finish = lambda self: (finish(self), end())[1]  # type: ignore[func-returns-value,method-assign]
        source.open_view(0)
    finally:
        os._exit(1)


@pytest.mark.parametrize("point", ["locked", "block 1", "block 3", "unsealed", "in place"])
def test_a_crash_at_any_point_leaves_a_usable_cache(
    specify: Specify, make_teacher: MakeTeacher, point: str
) -> None:
    spec = specify(*SMALL, "data.augmentation=crop")
    spec = spec.model_copy(update={"teacher": make_teacher(spec.data, width=8)})
    killed_while_filling(spec, point)
    source = cached(spec)
    source.open_view(0)
    assert source.counts() == (
        {"hits": 1, "misses": 0} if point == "in place" else {"hits": 0, "misses": 1}
    )
    assert not source.notes()
    logits, _ = source.read_all_outputs()
    for batch in source.batches.train(0, 0):
        assert torch.equal(logits[batch.index], source.shared_pass.teacher(batch.inputs).logits)
    left = {file.name for file in source.files(0)["logits"].parent.iterdir()}
    assert left == {"about.json", "view-00000.npy", "view-00000.npy.lock"}, (
        "temporary files of the killed process were removed"
    )


def one_of_two(spec: TrialSpec, report: Any) -> None:
    """Train in one of two processes that fill the same cache."""
    torch.set_num_threads(1)
    records: list[Any] = []
    train(spec, TrialContext(report=records.append))
    report.put(
        [(record.metrics["cache/hits"], record.metrics["cache/misses"]) for record in records]
    )


def test_concurrent_processes_fill_the_same_cache_and_agree(
    specify: Specify, make_teacher: MakeTeacher
) -> None:
    start_server()
    context = get_context("forkserver")
    pairs = (
        *SMALL,
        "data.augmentation=crop",
        "student.name=mlp",
        "student.width=8",
        "training.epochs=4",
    )
    specs = [specify(*pairs, folder=folder) for folder in ("one", "two")]
    specs = [
        spec.model_copy(update={"teacher": make_teacher(spec.data, width=64)}) for spec in specs
    ]
    report = context.Queue()
    processes = [
        context.Process(target=one_of_two, args=(spec, report), daemon=True) for spec in specs
    ]
    for process in processes:
        process.start()
    counted = np.array([report.get(timeout=LONGEST_S) for _ in processes])
    for process in processes:
        process.join(LONGEST_S)
    assert [process.exitcode for process in processes] == [0, 0]
    assert counted.sum(axis=(0, 1)).tolist() == [4, 4], (
        "one process computed each of 4 views, and the other found it"
    )
    one, two = (student(spec) for spec in specs)
    assert all(torch.equal(two[key], value) for key, value in one.items())
