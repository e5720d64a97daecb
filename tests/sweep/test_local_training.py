"""Train in this process, without Ray: every method, a failure, and two students."""

from methods import METHODS
from methods.capabilities import UsesFeatureMaps, uses_peers
from orchestrator.core.errors import TrialError
from tests.refusal import refused
from tests.sweep_runs import RunSweep, student_trace

FEW = ("data.limit.train=200", "data.limit.validation=100", "data.limit.test=100")
B = (
    "peers.b.network.name=mlp",
    "peers.b.network.width=8",
    "search.freeze=[peers.b.training.learning_rate]",
)


def test_failed_training_reports_the_reason(run: RunSweep) -> None:
    with refused("trial", error=TrialError) as refusal:
        run(
            "method.name=cross_entropy",
            "teacher=null",
            "training.learning_rate=1e12",
            *FEW,
            kind="train",
            local=True,
        )
    assert "not finite" in str(refusal.value.value)


CONVOLUTIONAL = ("student.name=cnn", "student.width=4", "teacher.network={name: cnn, width: 4}")


def test_every_method_trains(run: RunSweep) -> None:
    for name, kind in METHODS.items():
        peers = (
            ("peers.b.network.name=mlp", "search.students=b")
            if uses_peers(kind(kind.Settings()))
            else ()
        )
        maps = isinstance(kind(kind.Settings()), UsesFeatureMaps)
        sweep = run(
            f"method.name={name}",
            "training.epochs=2",
            *FEW,
            *peers,
            *(CONVOLUTIONAL if maps else ()),
            kind="train",
            name=name,
            local=True,
        )
        metrics = sweep.trials[0].metrics
        assert sweep.trials[0].state == "complete" and "validation/agreement" in metrics
        assert all((f"{letter}/test/best/accuracy" in metrics) == bool(peers) for letter in "ab")
        assert (
            not peers
            or metrics["validation/nll"]
            == metrics["b/validation/nll"]
            != metrics["a/validation/nll"]
        )


def test_local_training_of_two_students_uses_one_process(run: RunSweep) -> None:
    given = ("method.name=dual_student", *B, *FEW, "training.epochs=3")
    sweep = run(*given, kind="train", local=True)
    (trial,) = sweep.trials.values()
    assert trial.state == "complete" and trial.epochs == 3
    for letter in "ab":
        assert (
            trial.metrics[f"{letter}/validation/nll"] > 0
            and len(student_trace(sweep, 0, letter)["epochs/uncertainty_histogram"]) == 3
        )
    first, last = (
        student_trace(sweep, 0, "b")["steps/cross_entropy"].chunk(3)[part].mean() for part in (0, 2)
    )
    assert last < first
    with refused("resources.workers", 2, (1, 1)):
        run(*given, "resources.workers=2", kind="train", local=True, name="apart")
    assert not (sweep.folder.parent / "apart").exists()
