"""Check a registered method: loss, gradients, invariances, settings and search space."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from methods import (
    METHODS,
    Batch,
    Knowledge,
    Method,
    Mix,
    Objective,
    Output,
    Progress,
    SettingsError,
    Task,
)
from methods.capabilities import (
    UsesFeatureMaps,
    UsesMemoryBank,
    WeightsSamples,
    check_capabilities,
    uses_peers,
    uses_teacher_bank,
)
from methods.feature_maps import FeatureStages, MapShape
from orchestrator.extensions._checking import (
    CheckError,
    Checks,
    check_settings,
    list_options,
    require,
)
from search_spaces import SPACES

CLASSES, FEATURES, SAMPLES, SIZE = 10, 6, 24, 8
STAGES = {"stage1": MapShape(4, 6, 6), "stage2": MapShape(6, 3, 3), "stage3": MapShape(8, 2, 2)}
LABELS = torch.arange(SAMPLES) % CLASSES
TASK = Task(
    classes=CLASSES,
    samples=SAMPLES,
    epochs=3,
    labels=LABELS,
    student_features=FEATURES,
    teacher_features=FEATURES,
)
DRAWS = 20  # of a search space
LARGE = 1e4  # scale of extreme logits


def method_checks(name: str) -> Checks:
    """Return the checks of a method, by their names.

    Args:
        name: A key of `METHODS`.
    """
    return {"settings": partial(check_method_settings, name)} | {
        check.__name__.removeprefix("check_").replace("_", " "): partial(check, name)
        for check in (
            check_loss,
            check_options,
            check_terms,
            check_half_precision,
            check_autocast,
            check_extreme_logits,
            check_batch_order,
            check_repeatability,
            check_unlabelled_samples,
            check_teacher,
            check_peers,
            check_end_of_epoch,
            check_points,
            check_search_space,
        )
    }


def prepare_method(name: str, **settings: object) -> Method:
    """Build a method and prepare it for a small task, with what it needs of a teacher."""
    torch.manual_seed(0)
    kind = METHODS[name]
    check_capabilities(kind)  # type: ignore[arg-type]  # classes are hashable
    if "peer_warmup" in kind.Settings.model_fields:
        # otherwise the first epoch would not use the peers
        settings = {"peer_warmup": 0.0, **settings}
    method = kind(kind.Settings.build(settings))
    stages = selected_stages(method)
    task = replace(
        TASK,
        student_maps={name: STAGES[name] for name in stages.student},
        teacher_maps={name: STAGES[name] for name in stages.teacher},
    )
    method.prepare(teacher_knowledge if method.needs.teacher else None, task)
    if isinstance(method, UsesMemoryBank) and uses_teacher_bank(method, TASK.epochs):
        method.update_bank(teacher_knowledge())
    return method


def build_batch(
    method: Method,
    size: int = SIZE,
    scale: float = 3.0,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Batch:
    """Return a random batch with exactly the inputs that a method needs.

    Args:
        method: The prepared method.
        size: B.
        scale: Standard deviation of the logits.
        dtype: Type of logits and features.
        seed: Seed of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    student, teacher, peer = (_draw(generator, size, scale, dtype) for _ in range(3))
    weights = torch.rand(size, generator=generator) + 0.5
    stages, maps = selected_stages(method), torch.Generator().manual_seed(seed + 100)
    return Batch(
        index=torch.randperm(SAMPLES, generator=generator)[:size],
        inputs=torch.randn(size, 4, generator=generator),
        labels=torch.randint(CLASSES, (size,), generator=generator),
        student=_output(student.requires_grad_(), generator),
        teacher=_output(teacher, generator) if method.needs.teacher else None,
        peers=(lambda: peer[None]) if uses_peers(method) else None,
        weights=weights / weights.mean() if isinstance(method, WeightsSamples) else None,
        student_maps=_maps(stages.student, size, maps),
        teacher_maps=_maps(stages.teacher, size, maps),
    )


def selected_stages(method: Method) -> FeatureStages:
    """Return the stages that a method selects of a student with two and a teacher with three."""
    if not isinstance(method, UsesFeatureMaps):
        return FeatureStages((), ())
    return method.select_stages(tuple(STAGES)[:2], tuple(STAGES))


def teacher_knowledge() -> Knowledge:
    """Return random outputs of a teacher on the small task."""
    generator = torch.Generator().manual_seed(1)
    output = _output(_draw(generator, SAMPLES, 3.0, torch.float32), generator)
    return Knowledge(output.logits, output.features, LABELS)


def _output(logits: Tensor, generator: torch.Generator) -> Output:
    features = torch.randn(len(logits), FEATURES, generator=generator, dtype=logits.dtype)
    return Output(logits, features)


def _draw(generator: torch.Generator, size: int, scale: float, dtype: torch.dtype) -> Tensor:
    return (scale * torch.randn(size, CLASSES, generator=generator, dtype=torch.float64)).to(dtype)


def _maps(stages: Sequence[str], size: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {name: torch.randn(size, *STAGES[name], generator=generator) for name in stages}


def logit_gradient(objective: Objective, batch: Batch) -> Tensor:
    """Return the gradient of a loss with respect to the student's logits (B, K)."""
    (gradient,) = torch.autograd.grad(objective.loss, batch.student.logits, allow_unused=True)
    return torch.zeros_like(batch.student.logits) if gradient is None else gradient


def _require_finite(objective: Objective, batch: Batch, case: str = "") -> None:
    require(bool(objective.loss.isfinite()), f"the loss{case} is {objective.loss.item()}")
    require(
        bool(logit_gradient(objective, batch).isfinite().all()), f"a gradient{case} is not finite"
    )


def check_method_settings(name: str) -> None:
    """Check that the settings are documented and bounded."""
    kind = METHODS[name]
    require(issubclass(kind, Method), "it is not a subclass of Method")
    check_settings(kind.Settings)


def check_loss(name: str) -> None:
    """Check that the loss is a finite scalar with a gradient."""
    method = prepare_method(name)
    batch = build_batch(method)
    objective = method(batch)
    require(isinstance(objective, Objective), "forward returns no Objective")
    require(objective.loss.shape == (), f"the loss has shape {tuple(objective.loss.shape)}")
    require(objective.loss.requires_grad, "the loss has no gradient")
    _require_finite(objective, batch)
    require(
        bool(logit_gradient(method(batch), batch).abs().sum() > 0),
        "the loss does not depend on the student's logits",
    )


def check_options(name: str) -> None:
    """Check that every choice and switch of the settings gives a finite loss and gradient."""
    for settings in list_options(METHODS[name].Settings):
        method = prepare_method(name, **settings)
        batch = build_batch(method)
        ((key, value),) = settings.items()
        _require_finite(method(batch), batch, f" with {key} = {value!r}")


def check_terms(name: str) -> None:
    """Check that tracked terms are finite scalars without a gradient."""
    method = prepare_method(name)
    for term, value in method(build_batch(method)).terms.items():
        require(value.shape == (), f"the term {term} has shape {tuple(value.shape)}")
        require(not value.requires_grad, f"the term {term} has a gradient: detach it")
        require(bool(value.isfinite()), f"the term {term} is {value.item()}")


def check_half_precision(name: str) -> None:
    """Check that logits in half precision give a finite loss in float32."""
    for dtype in (torch.float16, torch.bfloat16):
        method = prepare_method(name)
        batch = build_batch(method, dtype=dtype)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            objective = method(batch)
        require(
            objective.loss.dtype == torch.float32,
            f"the loss of {dtype} logits is {objective.loss.dtype}: compute it in float32",
        )
        _require_finite(objective, batch, f" of {dtype} logits")


def check_autocast(name: str) -> None:
    """Check that autocast does not change the loss."""
    plain, again = prepare_method(name), prepare_method(name)
    outside = plain(build_batch(plain)).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = again(build_batch(again)).loss
    require(torch.equal(outside, inside), "autocast changes the loss: compute it in float32")


def check_extreme_logits(name: str) -> None:
    """Check that large logits give a finite loss and gradient."""
    method = prepare_method(name)
    batch = build_batch(method, scale=LARGE)
    _require_finite(method(batch), batch, f" of logits around {LARGE:g}")


def check_batch_order(name: str) -> None:
    """Check that the order of the batch does not change the loss."""
    method = prepare_method(name)
    batch = build_batch(method)
    order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(5))
    reordered = prepare_method(name)(_reordered(batch, order)).loss
    require(
        torch.allclose(reordered, method(batch).loss, rtol=1.3e-6, atol=1e-5),
        "the loss depends on the order of the batch",
    )


def _reordered(batch: Batch, order: Tensor) -> Batch:
    def move(value: Any) -> Any:
        if isinstance(value, Output):
            return Output(value.logits[order], value.features[order])
        if isinstance(value, Mix):
            return Mix(value.labels[order], value.share[order])
        if isinstance(value, Mapping):
            return {name: maps[order] for name, maps in value.items()}
        return None if value is None else value[order]

    peers = batch.peers
    reordered_peers = None if peers is None else lambda: peers()[:, order]
    maps = ("student_maps", "teacher_maps")
    moved = ("index", "inputs", "labels", "student", "teacher", "weights", "mix", *maps)
    return replace(
        batch, peers=reordered_peers, **{name: move(getattr(batch, name)) for name in moved}
    )


def check_repeatability(name: str) -> None:
    """Check that the same seed and batch give the same loss."""
    first, second = prepare_method(name), prepare_method(name)
    losses = []
    for method in (first, second):
        batch = build_batch(method)
        torch.manual_seed(1)
        losses.append(method(batch).loss)
    require(torch.equal(*losses), "the same seed and batch give different losses")


def check_unlabelled_samples(name: str) -> None:
    """Check that samples without a label are left out, unless the method needs all labels."""
    method = prepare_method(name)
    if METHODS[name].needs.labels:
        return
    batch = build_batch(method)
    for known in (SIZE // 2, 0):
        labels = torch.where(torch.arange(SIZE) < known, batch.labels, -1)
        objective = method(replace(batch, labels=labels))
        _require_finite(objective, batch, f" with {known} of {SIZE} labels")


def check_teacher(name: str) -> None:
    """Check that the teacher gets no gradient, and that a missing teacher is refused."""
    method = prepare_method(name)
    batch = build_batch(method)
    if batch.teacher is not None:
        batch.teacher.logits.requires_grad_()
        batch.teacher.features.requires_grad_()
        method(batch).loss.backward()
        require(
            batch.teacher.logits.grad is None and batch.teacher.features.grad is None,
            "the teacher gets a gradient: use batch.teacher_logits",
        )
    without = replace(build_batch(method), teacher=None, teacher_maps={})
    if method.needs.teacher:
        _require_value_error(method, without, "teacher")
    else:
        _require_finite(method(without), without, " without a teacher")


def check_peers(name: str) -> None:
    """Check that peers get no gradient, and that missing peers are refused."""
    method = prepare_method(name)
    batch = build_batch(method)
    if not uses_peers(method):
        return
    assert batch.peers is not None
    peers = batch.peers().clone().requires_grad_()
    doubled = replace(batch, peers=lambda: 2 * peers)
    method(doubled).loss.backward()
    require(peers.grad is None, "the peers get a gradient: use batch.peer_logits")
    require(
        not torch.equal(method(doubled).loss, method(batch).loss), "the loss does not use the peers"
    )
    _require_value_error(method, replace(batch, peers=None), "peer")


def _require_value_error(method: Method, batch: Batch, word: str) -> None:
    try:
        method(batch)
    except ValueError as error:
        require(word in str(error), f"the error about a missing {word} does not name it: {error}")
        return
    raise CheckError(f"it declares that it needs a {word}, but does not use it")


def check_end_of_epoch(name: str) -> None:
    """Check that the end of an epoch returns finite numbers."""
    progress = Progress(epoch=1, epochs=TASK.epochs, validation={"accuracy": 0.5})
    for key, value in prepare_method(name).end_epoch(progress).items():
        finite = bool(torch.as_tensor(value).isfinite().all())
        require(finite, f"end_epoch returns {key} = {value}")


def check_points(name: str) -> None:
    """Check that the method accepts its first points, and that its space draws them."""
    for number, point in enumerate(SPACES[name].points, 1):
        _require_accepted(name, point, f"point {number}")
        trial = _DrawnTrial(number, point)
        SPACES[name].suggest(trial)
        missing = sorted(set(point) - set(trial.values))
        require(not missing, f"point {number} sets {', '.join(missing)}, which is not drawn")


def check_search_space(name: str) -> None:
    """Check that the method accepts everything that its search space draws."""
    for seed in range(DRAWS):
        trial = _DrawnTrial(seed, {})
        SPACES[name].suggest(trial)
        _require_accepted(name, trial.values, "a draw of its search space")


def _require_accepted(name: str, values: Mapping[str, Any], what: str) -> None:
    settings = {key: value for key, value in values.items() if "." not in key}
    try:
        METHODS[name].Settings.build(settings)
    except SettingsError as error:
        raise CheckError(f"{what} is refused: {error}") from error


class _DrawnTrial:
    """Trial that returns fixed values and draws the others, at their bounds or between them."""

    def __init__(self, seed: int, fixed: Mapping[str, Any]) -> None:
        self.random, self.fixed = random.Random(seed), fixed
        self.values: dict[str, Any] = {}

    def suggest_float(
        self, name: str, low: float, high: float, *, log: bool = False, step: float | None = None
    ) -> float:
        require(low < high and (low > 0 or not log), f"{name} is drawn from [{low}, {high}]")
        value = self.random.choice([low, high, self.random.uniform(low, high)])
        return float(self._keep(name, float(value)))

    def suggest_int(
        self, name: str, low: int, high: int, *, log: bool = False, step: int = 1
    ) -> int:
        require(low <= high, f"{name} is drawn from [{low}, {high}]")
        return int(self._keep(name, self.random.randrange(low, high + 1, step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._keep(name, self.random.choice(list(choices)))

    def _keep(self, name: str, drawn: Any) -> Any:
        require(name not in self.values, f"{name} is drawn twice")
        self.values[name] = self.fixed.get(name, drawn)
        return self.values[name]
