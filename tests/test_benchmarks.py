"""Test the functions of the benchmarks of a sweep's time line, small networks, pairs and stacks."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch

from benchmarks import fused, pairs, small, startup
from benchmarks.common import make_result
from orchestrator.config.loader import load
from orchestrator.models.build import MODELS

LINES = [
    (1.0, "startup: 2 x 16 epochs of kd on digits"),
    (2.0, "starting Ray"),
    (5.0, "starting 2 worker groups of 1 worker"),
    (6.0, "preparing the teacher"),
    (9.0, "teacher cnn (fitted here): validation accuracy 0.9907"),
    (12.0, "trial 1 stopped_early after 4 epochs, validation/accuracy 0.5"),
    (13.0, "best so far: trial 1 at 0.5"),
    (16.0, "trial 0 complete after 16 epochs, validation/accuracy 0.9"),
    (18.0, "teacher cnn (fitted here): validation accuracy 0.9907"),
]


def test_stages_of_the_lines_of_a_sweep() -> None:
    assert startup.find_stages(LINES) == {
        "first line": 1.0,
        "starting Ray": 2.0,
        "Ray up": 5.0,
        "teacher ready": 9.0,
        "first trial ended": 12.0,
        "last trial ended": 16.0,
        "a further trial": 4.0,
    }
    assert startup.find_stages([]) == {}


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        ("/ray/core/src/ray/gcs/gcs_server --log_dir=/tmp", "gcs_server"),
        ("/ray/core/src/ray/raylet/raylet --gcs_server=x", "raylet"),
        ("python default_worker.py --raylet-name=/tmp/sockets/raylet", "starting"),
        ("ray::RayTrainWorker.execute", "worker of a group"),
        ("ray::DispatcherActor", "dispatcher"),
        ("ray::IDLE", "idle"),
        ("python -m something", "others"),
    ],
)
def test_kinds_of_processes(command: str, kind: str) -> None:
    assert startup.classify(command, is_driver=False) == kind
    assert startup.classify(command, is_driver=True) == "driver"


def observe(prompt: float, **cpu: float) -> startup.Observation:
    kinds = {kind: startup.Processes(seconds, 1, 2**20) for kind, seconds in cpu.items()}
    wall = {"first line": 1.0, "prompt": prompt, "all processes ended": 2 * prompt}
    return startup.Observation(wall, {"all processes ended": sum(cpu.values())}, kinds, 2**21)


def test_runs_are_merged_to_medians_and_compared() -> None:
    mine = startup.merge([observe(4.0, driver=3.0), observe(8.0, driver=5.0, raylet=1.0)])
    assert mine.wall == {"first line": 1.0, "prompt": 6.0, "all processes ended": 12.0}
    assert mine.kinds["driver"].cpu == 4.0 and mine.kinds["raylet"].cpu == 1.0
    rival = observe(12.0, driver=9.0)
    rows = {row.case: row for row in startup.make_rows("4 trials", mine, {"optuna": rival})}
    prompt, cpu = rows["4 trials: prompt, optuna"], rows["4 trials: CPU, optuna"]
    assert (prompt.ours, prompt.theirs, prompt.ratio, prompt.unit) == (6.0, 12.0, 2.0, "s")
    assert (cpu.ours, cpu.theirs, cpu.ratio) == (4.5, 9.0, 2.0)
    assert rows["4 trials: 1 raylet, PSS"].ours == 1.0


def test_rows_of_small_networks_compare_each_variant_with_its_rivals() -> None:
    turns = {
        "ours": [small.Seconds(0.002, 0.01, 0.1), small.Seconds(0.004, 0.03, 0.3)],
        "bare": [small.Seconds(0.006, 0.04, 0.1)],
        "ours-step": [small.Seconds(0.001, 0.01, 0.1)],
        "bare-compile": [small.Seconds(0.002, 0.01, 0.1)],
    }
    rows = {row.case: row for row in small.make_rows("digits-mlp", turns)}
    step = rows["digits-mlp: step, bare loop"]
    assert (step.ours, step.theirs, step.ratio, step.unit) == (3.0, 6.0, 2.0, "ms")
    assert rows["digits-mlp: beside steps, bare loop"].ours == 20.0
    assert rows["digits-mlp, compile=step: step, compiled bare loop"].ratio == 2.0
    assert len(rows) == 6, "a side that is missing has no rows"


def test_clock_divides_a_turn_into_steps_and_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = iter(range(100))
    monkeypatch.setattr(
        small.EpochClock, "_read", lambda _: small.Seconds(*[float(next(times))] * 3)
    )
    requests = iter(["go\n", "go\n", ""])
    monkeypatch.setattr("sys.stdin.readline", lambda: next(requests))
    clock = small.EpochClock(torch.device("cpu"), epochs=2, steps=4)
    for _ in range(2):
        clock.start_epoch()
        clock.end_steps()
    clock.start_epoch()  # ends the turn
    word, *values = capsys.readouterr().out.split()
    # an epoch's steps take one reading; the rest of its time is beside them
    assert word == "epoch" and float(values[0]) == 2 / 2 / 4


def test_fused_students_train_as_one_by_one() -> None:
    differences = fused.compare_students(
        "resnet8", 2, steps=2, batch=3, device=torch.device("cpu"), dtype=torch.float64
    )
    assert differences.losses < 1e-12 and differences.state < 1e-9


def test_fused_students_update_their_own_statistics() -> None:
    device, dtype = torch.device("cpu"), torch.float64
    networks = fused.make_students("resnet8", 2, device, dtype)
    before = {name: each.clone() for name, each in networks[0].state_dict().items()}
    stack = fused.Fused(networks)
    losses = stack.step(fused.draw_batches(2, 4, 0, device, dtype))
    state = stack.state()
    assert losses.shape == (2,) and state.keys() == before.keys()
    assert all(not each[0].equal(before[name]) for name, each in state.items())
    means = state["body.1.running_mean"]
    assert not means[0].equal(means[1]), "each student has batches of its own"
    assert state["body.1.num_batches_tracked"].tolist() == [1, 1]
    assert networks[0].state_dict()["body.1.running_mean"].equal(before["body.1.running_mean"])


def test_difference_is_relative_to_the_largest_value() -> None:
    expected = torch.tensor([1.0, -4.0])
    assert fused.largest_difference(torch.tensor([1.0, -3.0]), expected) == 0.25
    noise = torch.tensor([1e-17])
    assert fused.largest_difference(noise, torch.zeros(1)) == pytest.approx(1e-14)


@pytest.mark.parametrize(
    ("value", "limit", "unit", "expected"),
    [
        (2e-5, 1e-5, fused.LIMITED, True),
        (float("nan"), 1e-5, fused.LIMITED, True),
        (1e-6, 1e-5, fused.LIMITED, False),
        (2e-5, 1e-5, "relative", False),
        (9.0, 1.0, "images/s", False),
    ],
)
def test_tolerance_applies_to_differences_alone(
    value: float, limit: float | None, unit: str, expected: bool
) -> None:
    assert fused.exceeds(make_result("case", value, unit, limit)) is expected


def test_rows_of_pairs_compare_variants_with_the_first_and_processes_with_one() -> None:
    one, two = small.Seconds(0.004, 0.1, 2.0), small.Seconds(0.002, 0.1, 1.0)
    slowed = small.Seconds(0.003, 0.1, 1.6)
    turns: dict[str | int, list[list[small.Seconds]]] = {
        "eager": [[one]],
        "step": [[two]],
        2: [[slowed, slowed]],
    }
    eager, step, processes = pairs.make_rows("a-b", turns, images=640)
    assert (eager.case, eager.ours, eager.theirs, eager.unit) == (
        "a-b: step, eager",
        4.0,
        None,
        "ms",
    )
    assert (step.ours, step.theirs, step.ratio) == (2.0, 4.0, 2.0)
    assert processes.case == "a-b: 2 processes, step" and processes.unit == "images/s"
    assert (processes.ours, processes.theirs, processes.ratio) == (800.0, 640.0, 1.25)


def test_pairs_are_of_known_networks_and_settings() -> None:
    for pair in pairs.PAIRS:
        assert set(pair.split("-")) <= set(MODELS)
    assert set(fused.NETWORKS) <= set(MODELS)
    options = Namespace(data=None, precision="float32")
    configuration = load(None, pairs.settings(Path("data"), pairs.PAIRS[0], "step", options))
    training = configuration.training
    assert (training.compile, training.learning_rate) == ("step", 0.05)
    assert (training.epochs, list(training.milestones)) == (pairs.EPOCHS, [150, 180, 210])
