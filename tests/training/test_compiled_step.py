"""Test that `training.compile: step` trains as without it; Dynamo traces, torch computes."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch._dynamo.utils import counters
from trials_run import add_teacher, left, records_of, specification, untimed

from methods import METHODS, Batch, CrossEntropy, Objective
from methods.capabilities import UsesFeatureMaps
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.training import _compilation
from orchestrator.training._trainer import train
from orchestrator.training.process_cache import open_teacher

SMALL = (
    "data.limit.train=96",
    "data.limit.validation=50",
    "data.limit.test=50",
    "data.augmentation=none",
    "training.epochs=3",
    "training.batch_size=32",
    "student.name=mlp",
    "student.width=8",
    "teacher.dtype=float32",
)
PEER = ("peers.b.network={name: mlp, width: 6}", "resources.peer_placement=colocated")
UNLABELLED = ("data.labelled=30", "data.mixing=mixup")
LEARNABLE = "method.alpha_schedule=learnable"
CASES: dict[str, tuple[str, ...]] = {
    "cross_entropy": (),
    "cross_entropy, class weights": ("data.class_weights=balanced",),
    "kd": (),
    "kd, linear alpha": ("method.alpha_schedule=linear",),
    "kd, bfloat16": ("training.precision=bfloat16", "student={name: cnn, width: 4}"),
    "kd, online teacher": ("teacher.mode=online", "training.gradient_clip=0.5"),
    "kd, unlabelled": UNLABELLED,
    "ttm": (),
    "wttm": ("training.optimizer=adamw", "training.learning_rate=0.003"),
    "akd": (),
    "akd, cam": ("method.cam=true", "method.cam_width=8"),
    "akd, label": ("method.alpha_gap=label",),
    "akd, unlabelled": ("method.alpha_gap=label", *UNLABELLED),
    "akd, acc": ("method.alpha_gap=acc",),
    "akd, bilevel": (LEARNABLE, "method.alpha_learnable=bilevel"),
    "akd, entropy": (LEARNABLE, "method.alpha_learnable=entropy"),
    "akd, raw": (LEARNABLE, "method.alpha_learnable=raw"),
    "dml": PEER,
    "dual_student": PEER,
    "dual_student, in turn": (*PEER, "method.update=alternating"),
    "kd_aif": ("method.warmup=0.34",),
    "kd_aif, both": ("method.update=both", "method.warmup=0.34"),
    "ic_kd": (),
    "ic_kd, teacher-free": ("method.paradigm=teacher_free", "method.bank=momentum"),
    "ic_kd, online": ("method.paradigm=online", "method.bank=ema", *PEER),
    "tf_kd": (),
    "crd": ("method.negatives=64", "method.width=8"),
    "dkd": ("method.warmup=1.0", "method.standardize=true"),
    "dist": (),
    "mlkd": (),
}


SLOW = (
    "cross_entropy, class weights",
    "kd, bfloat16",
    "akd, unlabelled",
    "akd, entropy",
    "akd, raw",
    "dual_student, in turn",
    "kd_aif, both",
    "ic_kd, online",
    "dist",
    "mlkd",
)


class Traced:
    """Replacement of `torch.compile` that traces with another backend."""

    def __init__(self, backend: str) -> None:
        self.compile, self.backend = torch.compile, backend

    def __call__(self, function: Any, **options: Any) -> Any:
        """Return the traced function."""
        return self.compile(function, dynamic=options.get("dynamic"), backend=self.backend)


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch, "compile", Traced("eager"))
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    open_teacher.cache_clear()


Trial = Callable[..., TrialSpec]


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    """Return a function that specifies a trial with an untrained teacher."""

    def make(name: str, *pairs: str) -> TrialSpec:
        spec = specification(tmp_path, name, *SMALL, *pairs)
        assert spec.teacher is not None
        if not spec.teacher.exists():
            add_teacher(spec)
        return spec

    return make


def metrics_of(spec: TrialSpec, dies_after: int | None = None) -> list[dict[str, float]]:
    influence = "influence/"  # has times
    return [
        {name: value for name, value in untimed(record.metrics).items() if influence not in name}
        for record in records_of(spec, dies_after)
    ]


def require_same(one: TrialSpec, other: TrialSpec, atol: float = 0.0) -> None:
    """Check the weights, terms and states that two trials left."""
    ours, theirs = left(one), left(other)
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(
            ours[name], value, rtol=atol, atol=atol, equal_nan=True, msg=name
        )


def test_every_method_that_is_not_refused_has_a_case() -> None:
    refused = {name for name, kind in METHODS.items() if issubclass(kind, UsesFeatureMaps)}
    assert {case.partition(",")[0] for case in CASES} == set(METHODS) - refused


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case in SLOW else case for case in CASES]
)
def test_a_compiled_step_trains_as_an_uncompiled_one(trial: Trial, case: str) -> None:
    pairs = (f"method.name={case.partition(',')[0]}", *CASES[case])
    plain, fast = trial("plain", *pairs), trial("fast", *pairs, "training.compile=step")
    expected = metrics_of(plain)
    assert not counters["stats"]
    for ours, theirs in zip(metrics_of(fast), expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6, nan_ok=True)
    assert counters["stats"]["unique_graphs"] > 0
    require_same(fast, plain, 1e-5)


def test_forward_and_loss_are_one_graph(trial: Trial) -> None:
    metrics_of(trial("step", "method.name=kd", "training.compile=step"))
    assert not counters["graph_break"]
    first = counters["stats"]["unique_graphs"]
    metrics_of(trial("again", "method.name=kd", "training.compile=step", "seed=3"))
    assert counters["stats"]["unique_graphs"] == first, "another trial has the same code"
    metrics_of(trial("warm", "method.name=kd", "training.compile=step", "method.temperature=2"))
    assert counters["stats"]["unique_graphs"] == first + 1, "a number is a part of the code"
    scheduled = ("method.name=kd", "method.alpha_schedule=cosine", "method.temperature=3")
    metrics_of(trial("scheduled", *scheduled, "training.compile=step"))
    assert counters["stats"]["unique_graphs"] == first + 2, "not for each epoch's alpha"


@pytest.mark.parametrize(
    "case",
    [
        "kd, linear alpha",
        "akd, bilevel",
        "crd",
        pytest.param("akd, acc", marks=pytest.mark.slow),
        pytest.param("dual_student", marks=pytest.mark.slow),
    ],
)
def test_resume_is_bit_identical(trial: Trial, case: str) -> None:
    pairs = (f"method.name={case.partition(',')[0]}", *CASES[case], "training.compile=step")
    whole, broken = trial("whole", *pairs), trial("broken", *pairs)
    expected = metrics_of(whole)
    metrics_of(broken, dies_after=1)
    torch._dynamo.reset()  # as in another process
    assert metrics_of(broken)[-2:] == expected[-2:]
    require_same(broken, whole)


def test_earlier_trials_of_the_process_change_nothing(trial: Trial) -> None:
    pairs = ("method.name=akd", "method.alpha_gap=label", "training.compile=step")
    first, later = trial("first", *pairs), trial("later", *pairs)
    expected = metrics_of(first)
    for number, other in enumerate(("method.temperature=2", "student.width=6", "seed=3")):
        metrics_of(trial(f"between-{number}", *pairs, other))
    assert metrics_of(later) == expected
    require_same(later, first)


class Averaging(CrossEntropy):
    """Method of a user: keeps a mean in an attribute, and reads a number of the device."""

    average: Tensor | None = None

    def forward(self, batch: Batch) -> Objective:
        """Return the cross entropy with a factor of its running mean."""
        loss = batch.cross_entropy()
        value = loss.detach()
        self.average = value if self.average is None else 0.5 * self.average + 0.5 * value
        factor = 2.0 if self.average.item() > 2 else 1.0
        return Objective(factor * loss, {"average": self.average})


def test_method_of_user_code_is_compiled_in_parts(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "averaging", Averaging)
    plain, fast = (
        trial(name, "method.name=averaging", "teacher=null", f"training.compile={name}")
        for name in ("false", "step")
    )
    expected = metrics_of(plain)
    assert metrics_of(fast) == expected
    require_same(fast, plain)


def overwriting(
    compute: _compilation.ComputeStep, method: nn.Module
) -> Callable[..., tuple[Any, Objective]]:
    """Return the function as CUDA graphs run it: a call overwrites the outputs of the last one."""
    last: list[Tensor] = []

    @functools.wraps(compute)
    def replay(*arguments: Any) -> tuple[Any, Objective]:
        for tensor in last:
            tensor.detach().fill_(torch.nan if tensor.is_floating_point() else -1)
        output, objective = compute(*arguments)
        kept = [each for module in method.modules() for each in vars(module).values()]
        last[:] = [*objective.terms.values(), *(each for each in kept if torch.is_tensor(each))]
        return output, objective

    return replay


@pytest.mark.parametrize("case", ["kd", "akd, acc", "akd, label", "dual_student", "crd"])
def test_outputs_are_copied_before_a_replay_overwrites_them(
    trial: Trial, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = (f"method.name={case.partition(',')[0]}", *CASES[case])
    plain, fast = trial("plain", *pairs), trial("fast", *pairs, "training.compile=step")
    expected = metrics_of(plain)
    compile_step = _compilation.compile_step
    modes: list[str] = []

    def on_gpu(compute: Any, method: nn.Module, device: torch.device) -> Any:
        def replayed(function: Any, *, dynamic: bool, mode: str) -> Any:
            modes.append(mode)
            return overwriting(function, method)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "compile", replayed)
            return compile_step(compute, method, torch.device("cuda"))  # type: ignore[arg-type]

    monkeypatch.setattr(_compilation, "to_device", lambda tensor, device: tensor)
    monkeypatch.setattr("orchestrator.training._distillation_module.compile_step", on_gpu)
    for ours, theirs in zip(metrics_of(fast), expected, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-7, nan_ok=True)
    assert set(modes) == {"reduce-overhead"}
    require_same(fast, plain, 1e-6)


@pytest.mark.slow
def test_compiled_kernels_train_as_uncompiled_ones(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", torch.compile.compile)  # type: ignore[attr-defined]
    pairs = ("method.name=akd", "method.alpha_gap=acc", "training.epochs=2")
    plain, fast = trial("plain", *pairs), trial("fast", *pairs, "training.compile=step")
    broken = trial("broken", *pairs, "training.compile=step")
    expected, ours = metrics_of(plain), metrics_of(fast)
    for one, other in zip(ours, expected, strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-5)
    require_same(fast, plain, 1e-5)
    metrics_of(broken, dies_after=1)
    torch._dynamo.reset()
    assert metrics_of(broken)[-1] == ours[-1]
    require_same(broken, fast)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("case", ["kd", "akd, acc", "akd, label", "akd, bilevel", "dual_student"])
def test_cuda_graphs_train_as_uncompiled_steps(
    trial: Trial, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", torch.compile.compile)  # type: ignore[attr-defined]
    pairs = (f"method.name={case.partition(',')[0]}", *CASES[case], "training.precision=float32")
    losses = []
    for name in ("false", "step"):
        records: list[Any] = []
        context = TrialContext(device=torch.device("cuda"), report=records.append)
        train(trial(name, *pairs, f"training.compile={name}"), context)
        losses.append([record.metrics["train/loss"] for record in records])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
