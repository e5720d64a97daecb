"""Test an adaptive alpha in two processes (gloo): both ranks have that of a single worker."""

from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file, save_file
from trials_run import add_teacher, specification

from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.training import _student as student
from orchestrator.training._distillation_module import DistillationModule, replicate
from orchestrator.training._trace import Trace
from orchestrator.training._trainer import train
from tests.process_group import on_every_rank

CPU = torch.device("cpu")
WORKERS, EPOCHS = 2, 2
COMMON = (
    *(
        f"training.epochs={EPOCHS}",
        "training.batch_size=16",
        "student.name=mlp",
        "student.width=8",
        "method.name=akd",
    ),
    *(
        "data.limit.train=128",
        "data.limit.validation=40",
        "data.limit.test=40",
        "data.augmentation=crop",
    ),
)
LEARNABLE = "method.alpha_schedule=learnable"
TRIALS = {
    "raw": (LEARNABLE, "method.alpha_learnable=raw"),
    "entropy": (LEARNABLE, "method.alpha_learnable=entropy"),
    "uncertainty": (LEARNABLE, "method.alpha_learnable=uncertainty"),
    "bilevel": (LEARNABLE, "method.alpha_learnable=bilevel", "method.alpha_every=3"),
    "ratio": ("method.alpha_gap=ratio",),
    "kl": ("method.alpha_gap=kl",),
    "acc": ("method.alpha_gap=acc",),
    "label": ("method.alpha_gap=label",),
    "cam": ("method.cam=true", "method.cam_width=8", "method.cam_heads=2"),
    "stopped": (
        "method.cam=true",
        "method.cam_width=8",
        "method.cam_heads=2",
        LEARNABLE,
        "method.alpha_learnable=bilevel",
    ),
}
CLOSE = [name for name in TRIALS if name != "stopped"]


def trial(root: Path, name: str, folder: str = "") -> TrialSpec:
    return specification(root, folder or name, *COMMON, *TRIALS[name])


def worker(rank: int, world_size: int, root: Path) -> None:
    """Train every trial on one rank, and save alpha of every step and the method's last state."""
    for name in TRIALS:
        save_file(
            train_and_collect(trial(root, name), rank, world_size, name == "stopped"),
            root / f"{name}-{rank}.safetensors",
        )


def train_and_collect(
    spec: TrialSpec, rank: int = 0, world_size: int = 1, stopped: bool = False
) -> dict[str, torch.Tensor]:
    """Return a rank's alphas, weights and method state; the trial may be stopped and resumed."""
    modules, alphas, records = list[DistillationModule](), list[torch.Tensor](), list[Any]()
    original = Trace.step

    def noting_replicate(module: DistillationModule, context: TrialContext) -> torch.nn.Module:
        modules.append(module)
        return replicate(module, context)

    def step(self: Trace, terms: dict[str, torch.Tensor]) -> None:
        alphas.append(terms["alpha"].clone())
        original(self, terms)

    stops = (lambda: len(records) == 1, lambda: False) if stopped else (lambda: False,)
    with patch.object(student, "replicate", noting_replicate), patch.object(Trace, "step", step):
        for stop_requested in stops:
            train(spec, TrialContext(rank, world_size, CPU, records.append, stop_requested))
    last = modules[-1]
    found = {f"student.{key}": value for key, value in last.student.state_dict().items()}
    found |= {f"method.{key}": value for key, value in last.method.state_dict().items()}
    return {key: value.detach().contiguous().clone() for key, value in found.items()} | {
        "alphas": torch.stack(alphas)
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which two workers have trained all trials."""
    folder = tmp_path_factory.mktemp("adaptive")
    add_teacher(
        trial(folder, "raw"), scale=15
    )  # far from the student: alpha is not at the end of its clamp
    on_every_rank(WORKERS, worker, folder)
    return folder


@pytest.mark.parametrize("name", TRIALS)
def test_both_ranks_have_one_student_one_method_and_one_alpha(name: str, root: Path) -> None:
    first, second = (load_file(root / f"{name}-{rank}.safetensors") for rank in range(WORKERS))
    assert set(first) == set(second) and len(first["alphas"]) >= 8 * EPOCHS
    of_samples = name == "label"
    for key, value in first.items():
        if key != "alphas" or not of_samples:
            torch.testing.assert_close(second[key], value, rtol=0, atol=0, equal_nan=True, msg=key)
    assert torch.equal(first["alphas"], second["alphas"]) != of_samples


@pytest.mark.parametrize("name", CLOSE)
def test_two_workers_have_the_alpha_and_the_student_of_one(name: str, root: Path) -> None:
    alone = train_and_collect(trial(root, name, folder=f"{name}-alone"))
    ranks = [load_file(root / f"{name}-{rank}.safetensors") for rank in range(WORKERS)]
    torch.testing.assert_close(
        (ranks[0]["alphas"] + ranks[1]["alphas"]) / 2, alone["alphas"], rtol=1e-3, atol=1e-4
    )
    assert alone["alphas"].std() > 1e-4, "alpha moves"
    for key, value in alone.items():
        if key.startswith("student."):
            torch.testing.assert_close(ranks[0][key], value, rtol=1e-3, atol=1e-4, msg=key)


def test_the_histogram_is_of_the_samples_of_both_ranks(root: Path) -> None:
    """Two workers' histogram is that of one, except for samples that rounding moves."""
    train_and_collect(trial(root, "label", folder="label-histogram"))
    both, alone = (
        load_file(root / folder / "checkpoint" / "trace.safetensors")
        for folder in ("label", "label-histogram")
    )
    rows = both["epochs/alpha_histogram"]
    torch.testing.assert_close(rows.sum(1), torch.ones(EPOCHS))
    assert (rows - alone["epochs/alpha_histogram"]).abs().sum(1).max() <= 4 / 128


def test_a_look_ahead_and_the_module_resume_in_two_workers_on_both_ranks_alike(root: Path) -> None:
    """Stopped after its first epoch: the ranks then resume the state that rank 0 saved."""
    alone = train_and_collect(trial(root, "stopped", folder="stopped-alone"))
    ranks = [load_file(root / f"stopped-{rank}.safetensors") for rank in range(WORKERS)]
    torch.testing.assert_close(ranks[0]["alphas"], alone["alphas"], rtol=1e-3, atol=1e-4)
    assert torch.equal(ranks[0]["method.alpha.logit"], ranks[1]["method.alpha.logit"])
