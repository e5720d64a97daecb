"""Test readable checkpoints that do not fit the trial: a note, and the same final result."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from trials_run import records_of, saved, untimed

from orchestrator.config.schema import Training
from orchestrator.config.trial import CHECKPOINT, TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.store.store import read_json, write_json
from orchestrator.training._restorable import find_optimizer_misfit, find_scaler_misfit
from orchestrator.training._trainer import train
from tests.conftest import Specify

PLAIN = (
    "method.name=cross_entropy",
    "student.name=mlp",
    "student.width=4",
    "data.limit.train=64",
    "training.epochs=4",
)


def change(name: str, edit: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    """Return a function that changes tensors of a file."""

    def damage(folder: Path) -> None:
        tensors = load_file(folder / f"{name}.safetensors")
        edit(tensors)
        save_file(tensors, folder / f"{name}.safetensors")

    return damage


def change_optimizer(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Return a function that changes the optimizer's file."""

    def damage(folder: Path) -> None:
        kept = torch.load(folder / "optimizer.pt", weights_only=True)
        edit(kept)
        torch.save(kept, folder / "optimizer.pt")

    return damage


def change_progress(**changes: Any) -> Callable[[Path], None]:
    """Return a function that changes values of the progress; None removes one."""

    def damage(folder: Path) -> None:
        values = read_json(folder / "progress.json") | changes
        write_json(
            folder / "progress.json",
            {name: value for name, value in values.items() if value is not None},
        )

    return damage


def rewrite(content: bytes) -> Callable[[Path], None]:
    """Return a function that replaces the content of the progress file."""

    def damage(folder: Path) -> None:
        (folder / "progress.json").write_bytes(content)

    return damage


def first(tensors: dict[str, Tensor]) -> str:
    return min(tensors)


def moments(kept: dict[str, Any]) -> dict[str, Tensor]:
    return kept["optimizer"]["state"][0]  # type: ignore[no-any-return]


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no progress": (rewrite(b"{}"), "record is missing"),
    "an empty file": (rewrite(b""), "is not JSON"),
    "a text for an epoch": (
        change_progress(record={"epoch": "2", "metrics": {}}),
        "record.epoch = '2' is not allowed",
    ),
    "no metrics": (change_progress(record={"epoch": 2, "metrics": {}}), "has no accuracy"),
    "an epoch too many": (
        change_progress(record={"epoch": 9, "metrics": {}}, records=None),
        "has epoch 9 of 4",
    ),
    "records of other epochs": (
        change_progress(records=[{"epoch": 1, "metrics": {}}]),
        "`records` has the epochs 1",
    ),
    "another shape": (
        change("student", lambda t: t.update({first(t): torch.zeros(3, 5)})),
        "has shape [3, 5]",
    ),
    "whole numbers": (
        change("student", lambda t: t.update({first(t): t[first(t)].to(torch.int8)})),
        "torch.int8",
    ),
    "a tensor less": (change("best", lambda t: t.pop(first(t))), "of the best student is missing"),
    "a tensor more": (
        change("student", lambda t: t.update(other=torch.zeros(1))),
        "other is not a tensor of the student",
    ),
    "NaN": (change("student", lambda t: t[first(t)].fill_(torch.nan)), "is not finite"),
    "infinity": (change("best", lambda t: t[first(t)].fill_(torch.inf)), "is not finite"),
    "an empty optimizer": (
        change_optimizer(lambda kept: kept["optimizer"]["state"].clear()),
        "keeps moments",
    ),
    "no optimizer": (change_optimizer(dict.clear), "the state of the optimizer is missing"),
    "a list": (
        lambda folder: torch.save([1], folder / "optimizer.pt"),
        "the state of the optimizer is missing",
    ),
    "moments of another shape": (
        change_optimizer(lambda kept: moments(kept).update(momentum_buffer=torch.zeros(2, 2))),
        "momentum_buffer of the optimizer has shape",
    ),
    "moments that are NaN": (
        change_optimizer(lambda kept: moments(kept)["momentum_buffer"].fill_(torch.nan)),
        "momentum_buffer of the optimizer is not finite",
    ),
    "other groups": (
        change_optimizer(lambda kept: kept["optimizer"]["param_groups"].clear()),
        "the parameter groups of the optimizer do not match",
    ),
}


def without_sums(folder: Path) -> None:
    """Remove the checksums of the files, as in an older version."""
    values = read_json(folder / "progress.json")
    write_json(
        folder / "progress.json",
        {name: value for name, value in values.items() if name not in ("files", "format")},
    )


def resumed(spec: TrialSpec) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the metrics that a resume reports, and its notes."""
    records: list[Any] = []
    notes: list[str] = []
    train(spec, TrialContext(report=records.append, note=notes.append))
    return [untimed(record.metrics) for record in records], notes


@pytest.fixture
def whole(specify: Specify) -> list[dict[str, float]]:
    """Return the metrics of all epochs of an undisturbed trial."""
    return [untimed(record.metrics) for record in records_of(specify(*PLAIN, folder="whole"))]


@pytest.mark.parametrize("what", DAMAGES)
def test_trial_restarts_with_a_note_and_gives_the_same_result(
    what: str, specify: Specify, whole: list[dict[str, float]]
) -> None:
    damage, message = DAMAGES[what]
    spec = specify(*PLAIN, folder="broken")
    records_of(spec, dies_after=2)
    without_sums(spec.folder / CHECKPOINT)
    damage(spec.folder / CHECKPOINT)
    metrics, notes = resumed(spec)
    assert metrics == whole
    assert (
        len(notes) == 1
        and message in notes[0]
        and notes[0].endswith(": the trial restarts from the first epoch")
        and "\n" not in notes[0]
    )


def test_older_checkpoint_is_used_if_there_is_one(
    specify: Specify, whole: list[dict[str, float]]
) -> None:
    spec = specify(*PLAIN, folder="broken")
    records_of(spec, dies_after=1)
    shutil.copytree(spec.folder / CHECKPOINT, spec.folder / "kept")
    records_of(spec, dies_after=2)
    (spec.folder / "kept").rename(spec.folder / f"{CHECKPOINT}.old")
    without_sums(spec.folder / CHECKPOINT)
    DAMAGES["an empty optimizer"][0](spec.folder / CHECKPOINT)
    metrics, notes = resumed(spec)
    assert metrics == whole
    assert len(notes) == 1 and notes[0].endswith(": the trial continues after epoch 1")


@pytest.mark.parametrize(
    "name", ["student.safetensors", "best.safetensors", "optimizer.pt", "trace.safetensors"]
)
def test_changed_byte_is_detected_by_the_checksum(
    name: str, specify: Specify, whole: list[dict[str, float]]
) -> None:
    spec = specify(*PLAIN, folder="broken")
    records_of(spec, dies_after=2)
    file = spec.folder / CHECKPOINT / name
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(content)
    metrics, notes = resumed(spec)
    assert (
        metrics == whole
        and f"{file} is damaged: its checksum differs from the one in progress.json" in notes[0]
    )


def test_checkpoint_of_an_older_version_is_resumed(
    specify: Specify, whole: list[dict[str, float]]
) -> None:
    spec = specify(*PLAIN, folder="older")
    records_of(spec, dies_after=2)
    without_sums(spec.folder / CHECKPOINT)
    metrics, notes = resumed(spec)
    assert metrics == whole[1:] and not notes, (
        "the last acknowledged epoch is reported again, then the later ones"
    )


def test_a_recipe_without_moments_may_have_an_empty_state(specify: Specify) -> None:
    spec = specify(*PLAIN, "training.momentum=0", folder="plain")
    records_of(spec, dies_after=2)
    assert not saved(spec).optimizer["optimizer"]["state"]
    assert resumed(spec)[1] == []


def test_parameters_have_the_numbers_of_the_optimizer() -> None:
    parameters = [torch.nn.Parameter(torch.zeros(size)) for size in (2, 3)]
    fresh = torch.optim.AdamW([{"params": parameters[:1]}, {"params": parameters[1:]}])
    sum(parameter.sum() for parameter in parameters).backward()  # type: ignore[union-attr]
    fresh.step()
    recipe, given = Training(optimizer="adamw"), {"optimizer": fresh.state_dict(), "scaler": {}}
    assert find_optimizer_misfit(recipe, fresh, given) == ""
    given["optimizer"]["state"][1]["exp_avg"] = torch.zeros(2)
    assert "exp_avg of the optimizer has shape [2], expected [3]" in find_optimizer_misfit(
        recipe, fresh, given
    )
    given["optimizer"]["state"][7] = {}
    del given["optimizer"]["state"][1]
    assert "of an unknown parameter 7" in find_optimizer_misfit(recipe, fresh, given)


def group(state: dict[str, Any]) -> dict[str, Any]:
    return state["param_groups"][1]  # type: ignore[no-any-return]


MISFITS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a moment missing": (
        lambda s: s["state"][1].pop("exp_avg"),
        "exp_avg of the optimizer is missing for parameter 1",
    ),
    "a moment None": (
        lambda s: s["state"][1].update(exp_avg=None),
        "exp_avg of the optimizer is missing for parameter 1",
    ),
    "a moment that is a text": (
        lambda s: s["state"][1].update(exp_avg="a"),
        "exp_avg of the optimizer is not a tensor",
    ),
    "a moment of 0 dimensions": (
        lambda s: s["state"][1].update(exp_avg_sq=torch.tensor(1.0)),
        "exp_avg_sq of the optimizer has",
    ),
    "a step of 1 dimension": (
        lambda s: s["state"][1].update(step=torch.ones(3)),
        "step of the optimizer has shape [3], expected []",
    ),
    "a step of -1": (
        lambda s: s["state"][1].update(step=torch.tensor(-1.0)),
        "step of the optimizer is -1",
    ),
    "whole numbers": (
        lambda s: s["state"][1].update(exp_avg=torch.ones(3, dtype=torch.int64)),
        "not of a floating-point dtype",
    ),
    "an entry that is empty": (
        lambda s: s["state"][1].clear(),
        "step of the optimizer is missing for parameter 1",
    ),
    "an entry that is absent": (lambda s: s["state"].pop(1), "of 1 parameters, but 2 were saved"),
    "no rate": (
        lambda s: group(s).pop("lr"),
        "lr of a parameter group of the optimizer is missing",
    ),
    "a rate that is a text": (
        lambda s: group(s).update(lr="0.1"),
        "lr of a parameter group of the optimizer is '0.1'",
    ),
    "a rate that is NaN": (
        lambda s: group(s).update(lr=float("nan")),
        "lr of a parameter group of the optimizer is nan",
    ),
    "a rate that is a switch": (
        lambda s: group(s).update(lr=True),
        "lr of a parameter group of the optimizer is True",
    ),
    "no betas": (
        lambda s: group(s).update(betas=None),
        "betas of a parameter group of the optimizer is None",
    ),
    "one beta": (
        lambda s: group(s).update(betas=(0.9,)),
        "betas of a parameter group of the optimizer is (0.9,)",
    ),
    "a switch that is a text": (
        lambda s: group(s).update(amsgrad="no"),
        "amsgrad of a parameter group of the optimizer is 'no'",
    ),
    "another setting": (
        lambda s: group(s).update(other=1),
        "other of a parameter group of the optimizer is not expected",
    ),
    "a parameter in two groups": (
        lambda s: group(s).update(params=[0]),
        "the parameter groups of the optimizer do not match",
    ),
}


@pytest.mark.parametrize("what", MISFITS)
def test_state_that_would_fail_at_a_step_is_detected(what: str) -> None:
    parameters = [torch.nn.Parameter(torch.zeros(size)) for size in (2, 3)]
    fresh = torch.optim.AdamW([{"params": parameters[:1]}, {"params": parameters[1:]}])
    stepped = copy.deepcopy(fresh)
    for parameter in (one for group in stepped.param_groups for one in group["params"]):
        parameter.grad = torch.ones_like(parameter)
    stepped.step()
    damage, message = MISFITS[what]
    given = {"optimizer": copy.deepcopy(stepped.state_dict()), "scaler": {}, "count": 2}
    assert find_optimizer_misfit(Training(optimizer="adamw"), fresh, given) == ""
    damage(given["optimizer"])  # type: ignore[arg-type]
    assert message in find_optimizer_misfit(Training(optimizer="adamw"), fresh, given)


@pytest.mark.parametrize("name", ["scale", "growth_factor", "_growth_tracker"])
def test_misfit_of_the_gradient_scaler_is_detected(name: str) -> None:
    own = {
        "scale": 65536.0,
        "growth_factor": 2.0,
        "backoff_factor": 0.5,
        "growth_interval": 2000,
        "_growth_tracker": 0,
    }
    assert find_scaler_misfit(own, own | {"_growth_tracker": 7}) == find_scaler_misfit({}, {}) == ""
    for value in ("1", None, -1, float("nan")):
        assert f"{name} of the gradient scaler" in find_scaler_misfit(own, own | {name: value})
    assert "scale of the gradient scaler" in find_scaler_misfit(own, {})
