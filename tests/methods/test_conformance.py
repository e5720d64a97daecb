"""Test the invariants of every method in METHODS."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic.fields import FieldInfo
from torch import Tensor

from methods import (
    METHODS,
    Batch,
    CrossEntropy,
    Method,
    Mix,
    Objective,
    Output,
    Progress,
    SettingsError,
    allowed_values,
    build_method,
    describe_allowed,
    list_choices,
)
from methods.capabilities import uses_peers
from tests.refusal import refused

every_method = pytest.mark.parametrize("name", METHODS)
every_method_with_a_teacher = pytest.mark.parametrize(
    "name", [name for name, kind in METHODS.items() if kind.needs.teacher]
)
every_method_with_peers = pytest.mark.parametrize(
    "name", [name for name, kind in METHODS.items() if uses_peers(kind(kind.Settings()))]
)


def every_setting() -> Iterator[Any]:
    for name, kind in METHODS.items():
        for setting in kind.Settings.model_fields:
            yield pytest.param(name, setting, id=f"{name}-{setting}")


def outside(field: FieldInfo) -> list[Any]:
    """Return values that this setting must refuse."""
    if list_choices(field):
        return ["no such choice", 0, None]
    if field.annotation is bool:
        return [1, 0.5, "true", None]
    kind: Any = field.annotation
    bounds: Any = allowed_values(field)
    low, high = map(kind, bounds)
    beyond = [low - 1, low - 1e-6, high + 1, high + 1e-6]
    return [float("nan"), float("inf"), True, "1", None, *beyond]


def options() -> Iterator[Any]:
    """Yield every choice and every switch of every method, one at a time."""
    for name, kind in METHODS.items():
        for setting, field in kind.Settings.model_fields.items():
            for value in (False, True) if field.annotation is bool else list_choices(field):
                yield pytest.param(name, {setting: value}, id=f"{name}-{setting}-{value}")


def gradient(objective: Objective, batch: Batch) -> Tensor:
    (found,) = torch.autograd.grad(objective.loss, batch.student.logits)
    return found


@every_method
def test_defaults_build(name: str) -> None:
    kind = METHODS[name]
    assert issubclass(kind, Method)
    assert kind.Settings.build({}) == kind.Settings()


@every_method
def test_provenance_is_documented(name: str) -> None:
    assert METHODS[name].provenance
    assert METHODS[name].__doc__


@every_method
def test_unknown_setting_is_refused_by_name(name: str) -> None:
    known = tuple(METHODS[name].Settings.model_fields)
    with refused("no_such_setting", 1, known, error=SettingsError) as caught:
        METHODS[name].Settings.build({"no_such_setting": 1})
    assert caught.value.unknown


@pytest.mark.parametrize(("name", "setting"), list(every_setting()))
def test_value_outside_its_range_is_refused_with_the_allowed_values(
    name: str, setting: str
) -> None:
    field = METHODS[name].Settings.model_fields[setting]
    for value in outside(field):
        with refused(setting, value, allowed_values(field), error=SettingsError) as caught:
            METHODS[name].Settings.build({setting: value})
        assert describe_allowed(field) in str(caught.value)


@pytest.mark.parametrize(("name", "setting"), list(every_setting()))
def test_setting_is_documented(name: str, setting: str) -> None:
    assert len(METHODS[name].Settings.model_fields[setting].description or "") > 10


@every_method
def test_loss_is_a_finite_scalar_with_a_gradient(name: str, prepare: Any, make_batch: Any) -> None:
    method = prepare(name)
    batch = make_batch(method)
    objective = method(batch)
    assert objective.loss.shape == ()
    assert objective.loss.isfinite()
    slope = gradient(objective, batch)
    assert slope.isfinite().all()
    assert slope.abs().sum() > 0


@pytest.mark.parametrize(("name", "settings"), list(options()))
def test_every_option_gives_a_finite_loss_and_gradient(
    name: str, settings: dict[str, Any], prepare: Any, make_batch: Any
) -> None:
    method = prepare(name, **settings)
    batch = make_batch(method)
    objective = method(batch)
    assert objective.loss.isfinite()
    assert gradient(objective, batch).isfinite().all()


@every_method
def test_terms_are_detached_finite_scalars(name: str, prepare: Any, make_batch: Any) -> None:
    method = prepare(name)
    terms = method(make_batch(method)).terms
    assert terms
    for value in terms.values():
        assert value.shape == ()
        assert not value.requires_grad
        assert value.isfinite()


@every_method
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_give_a_float32_loss(
    name: str, dtype: torch.dtype, prepare: Any, make_batch: Any
) -> None:
    method = prepare(name)
    half = make_batch(method, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        objective = method(half)
    assert objective.loss.dtype == torch.float32
    assert objective.loss.isfinite()
    assert gradient(objective, half).isfinite().all()


@every_method
def test_autocast_changes_nothing(name: str, prepare: Any, make_batch: Any) -> None:
    plain = prepare(name)
    outside_autocast = plain(make_batch(plain)).loss
    again = prepare(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside_autocast = again(make_batch(again)).loss
    assert torch.equal(outside_autocast, inside_autocast)


@every_method
def test_extreme_logits_give_a_finite_loss_and_gradient(
    name: str, prepare: Any, make_batch: Any
) -> None:
    method = prepare(name)
    batch = make_batch(method, scale=1e4)
    objective = method(batch)
    assert objective.loss.isfinite()
    assert gradient(objective, batch).isfinite().all()


@every_method
def test_order_of_the_batch_does_not_matter(name: str, prepare: Any, make_batch: Any) -> None:
    method = prepare(name)
    batch = make_batch(method)
    order = torch.randperm(len(batch.index), generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(prepare(name)(_reordered(batch, order)).loss, method(batch).loss)


def _reordered(batch: Batch, order: Tensor) -> Batch:
    def move(value: Any) -> Any:
        if isinstance(value, Output):
            return Output(value.logits[order], value.features[order])
        if isinstance(value, Mix):
            return Mix(value.labels[order], value.share[order])
        if isinstance(value, dict):
            return {name: maps[order] for name, maps in value.items()}
        return None if value is None else value[order]

    peers = batch.peers
    reordered_peers = None if peers is None else lambda: peers()[:, order]
    maps = ("student_maps", "teacher_maps")
    moved = ("index", "inputs", "labels", "student", "teacher", "weights", "mix", *maps)
    return replace(
        batch, peers=reordered_peers, **{name: move(getattr(batch, name)) for name in moved}
    )


@every_method
def test_same_batch_gives_the_same_loss(name: str, prepare: Any, make_batch: Any) -> None:
    first, second = prepare(name), prepare(name)
    assert torch.equal(first(make_batch(first)).loss, second(make_batch(second)).loss)


@every_method
def test_unlabelled_samples_are_allowed(name: str, prepare: Any, make_batch: Any) -> None:
    method = prepare(name)
    batch = make_batch(method)
    for labels in (torch.where(torch.arange(8) < 4, batch.labels, -1), torch.full((8,), -1)):
        objective = method(replace(batch, labels=labels))
        assert objective.loss.isfinite()
        assert gradient(objective, batch).isfinite().all()


@every_method_with_a_teacher
def test_teacher_gets_no_gradient(name: str, prepare: Any, make_batch: Any) -> None:
    method = prepare(name)
    batch = make_batch(method)
    batch.teacher.logits.requires_grad_()
    batch.teacher.features.requires_grad_()
    method(batch).loss.backward()
    assert batch.teacher.logits.grad is None
    assert batch.teacher.features.grad is None


@every_method
def test_missing_teacher_is_refused(name: str, prepare: Any, make_batch: Any) -> None:
    method = prepare(name)
    batch = replace(make_batch(method), teacher=None, teacher_maps={})
    if method.needs.teacher:
        with pytest.raises(ValueError, match="teacher"):
            method(batch)
    else:
        assert method(batch).loss.isfinite()


@every_method_with_peers
def test_peers_get_no_gradient(name: str, prepare: Any, make_batch: Any) -> None:
    method = prepare(name)
    batch = make_batch(method)
    peers = batch.peers().clone().requires_grad_()
    doubled = replace(batch, peers=lambda: 2 * peers)
    method(doubled).loss.backward()
    assert peers.grad is None
    assert not torch.equal(method(doubled).loss, method(batch).loss), "the loss uses the peers"


@every_method
def test_missing_peers_are_refused(name: str, prepare: Any, make_batch: Any) -> None:
    method = prepare(name)
    batch = replace(make_batch(method), peers=None)
    if uses_peers(method):
        with pytest.raises(ValueError, match="peer"):
            method(batch)
    else:
        assert method(batch).loss.isfinite()


def test_part_of_a_capability_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Partial(CrossEntropy):
        def class_weights(self, batch: Batch) -> None:
            return None

    monkeypatch.setitem(METHODS, "partial", Partial)
    with pytest.raises(TypeError, match="part of Plots: add class_distributions"):
        build_method("partial", {})


@every_method
def test_end_of_epoch_returns_finite_numbers(name: str, prepare: Any) -> None:
    for value in (
        prepare(name).end_epoch(Progress(epoch=1, epochs=3, validation={"accuracy": 0.5})).values()
    ):
        assert torch.tensor(float(value)).isfinite()
