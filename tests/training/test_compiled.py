"""Test that `training.compile` gives the same trial; Dynamo only traces here."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.utils import counters

from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.models.network import Network
from orchestrator.training._precompute import precompute_view
from orchestrator.training._trainer import train
from orchestrator.training.process_cache import open_teacher

SMALL = (
    "data.limit.train=140",
    "data.limit.validation=50",
    "data.limit.test=50",
    "data.augmentation=crop_flip",
    "training.epochs=2",
    "training.batch_size=32",
    "student.name=cnn",
    "student.width=4",
    "method.name=wttm",
    "teacher.dtype=float32",
    "teacher.network.name=cnn",
)

Specify = Callable[..., TrialSpec]
MakeTeacher = Callable[..., Path]


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Network]]:
    """Return the networks that were compiled, by a compiler that changes nothing."""
    networks: list[Network] = []
    compile_ = nn.Module.compile

    def eager(self: Network, *arguments: Any, **options: Any) -> None:
        networks.append(self)
        compile_(self, *arguments, **{**options, "backend": "eager"})

    monkeypatch.setattr(nn.Module, "compile", eager)
    torch._dynamo.reset()
    counters.clear()
    yield networks
    torch._dynamo.reset()
    open_teacher.cache_clear()


def trial(specify: Specify, make_teacher: MakeTeacher, folder: str, *pairs: str) -> TrialSpec:
    spec = specify(*SMALL, *pairs, folder=folder)
    knowledge = spec.folder.parent / f"knowledge-{folder}"
    return spec.model_copy(
        update={"teacher": make_teacher(spec.data, "cnn", width=8), "knowledge": knowledge}
    )


def metrics_of(spec: TrialSpec) -> list[dict[str, float]]:
    records: list[Any] = []
    train(spec, TrialContext(report=records.append))
    timed = ("seconds/", "cache/", "train/images_per_second")
    return [
        {key: value for key, value in record.metrics.items() if not key.startswith(timed)}
        for record in records
    ]


def weights(spec: TrialSpec, file: str = "student") -> dict[str, torch.Tensor]:
    return load_file(spec.folder / "checkpoint" / f"{file}.safetensors")


def widths(networks: list[Network]) -> list[int]:
    return sorted(network.head.in_features for network in networks)


@pytest.mark.parametrize("mode", ["cached", "online"])
def test_compiled_trial_has_the_weights_of_an_uncompiled_one(
    specify: Specify, make_teacher: MakeTeacher, compiled: list[Network], mode: str
) -> None:
    plain, fast = (
        trial(
            specify,
            make_teacher,
            name,
            f"training.compile={name == 'fast'}".lower(),
            f"teacher.mode={mode}",
        )
        for name in ("plain", "fast")
    )
    expected = metrics_of(plain)
    assert not compiled and not counters["stats"]
    found = metrics_of(fast)
    assert widths(compiled) == [16, 32], "student and teacher are compiled once each"
    assert counters["stats"]["unique_graphs"] >= 3, (
        "graphs of the student in training and in evaluation, and of the teacher"
    )
    assert not counters["graph_break"] and not counters["unimplemented"]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5, abs=1e-6)
    for file in ("student", "best"):
        states = weights(fast, file), weights(plain, file)
        assert list(states[0]) == list(states[1])
        for key, value in states[1].items():
            torch.testing.assert_close(states[0][key], value, rtol=0, atol=1e-6, msg=key)


def test_a_compiled_trial_is_resumed_without_compilation(
    specify: Specify, make_teacher: MakeTeacher
) -> None:
    fast = trial(specify, make_teacher, "fast", "training.compile=true")
    whole = trial(specify, make_teacher, "whole", "training.compile=false")
    stop_requests = iter([False, True])
    # 4 steps an epoch are one stop query
    train(fast, TrialContext(stop_requested=lambda: next(stop_requests)))
    plain = trial(specify, make_teacher, "fast", "training.compile=false")
    assert [record["train/loss"] for record in metrics_of(plain)] == pytest.approx(
        [record["train/loss"] for record in metrics_of(whole)], rel=1e-5
    )
    for key, value in weights(whole).items():
        torch.testing.assert_close(weights(plain)[key], value, rtol=0, atol=1e-6, msg=key)


def test_later_trials_reuse_the_compiled_code(specify: Specify, make_teacher: MakeTeacher) -> None:
    pairs = ("training.compile=true", "teacher.mode=online")
    graphs = []
    for name, more in {
        "first": (),
        "second": ("training.learning_rate=0.01",),
        "third": ("seed=4",),
    }.items():
        metrics_of(trial(specify, make_teacher, name, *pairs, *more))
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[1] == graphs[2] > 0 and not counters["unimplemented"]


def test_compiled_teacher_fills_the_same_cache(
    specify: Specify, make_teacher: MakeTeacher, compiled: list[Network]
) -> None:
    files = []
    for name in ("false", "true"):
        spec = trial(specify, make_teacher, name, f"training.compile={name}")
        precompute_view(
            spec.model_copy(update={"role": "fill", "views": (None, 0)}), TrialContext()
        )
        assert spec.knowledge is not None
        files.append(
            {
                file.relative_to(spec.knowledge): file.read_bytes()
                for file in spec.knowledge.glob("*/*.npy")
            }
        )
    assert widths(compiled) == [32] and len(files[0]) == 2
    assert files[0] == files[1], "compiled and uncompiled teachers write the same files"
