"""Test a student's gain from its peer: the reference trial and the numbers."""

from pathlib import Path

import pytest

from methods import build_method, capabilities
from orchestrator.config.loader import load
from orchestrator.reporting.peer_gain import Gain, baselines, peer_gains, uses_peers
from orchestrator.store.records import Sweep, Trial
from tests.pairs import metrics_of, peer_method


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    peer_method(monkeypatch)
    configuration = load(None, ["peers.b.network.name=mlp", "search.methods=[kd, mutual]"])
    made = Sweep.create(tmp_path / "mine", configuration, "sweep")
    for number, (method, state, a, b) in enumerate(
        [
            ("kd", "complete", (0.70, 0.60), (0.50, 0.49)),
            ("kd", "complete", (0.60, 0.99), (0.55, 0.45)),
            ("kd", "stopped_early", (0.95, 0.0), (0.95, 0.0)),
            ("mutual", "complete", (0.75, 0.66), (0.54, 0.50)),
            ("mutual", "stopped_early", (0.99, 0.0), (0.99, 0.0)),
            ("cross_entropy", "complete", (0.99, 0.99), (0.99, 0.99)),
        ]
    ):
        made.trials[number] = Trial(
            number,
            {"method.name": method},
            state,  # type: ignore[arg-type]
            sum(a),
            metrics=metrics_of(a, b),
        )
    return made


def test_each_student_is_compared_with_its_best_kd_trial_on_validation(sweep: Sweep) -> None:
    assert {
        letter: trial.number for letter, trial in baselines(sweep, sweep.trials[3]).items()
    } == {"a": 0, "b": 1}
    found = peer_gains(sweep, sweep.trials[3])
    assert found["a"] == pytest.approx(Gain(0, 0.05, 0.06)) and found["b"] == pytest.approx(
        Gain(1, -0.01, 0.05)
    )


def test_a_tie_goes_to_the_first(sweep: Sweep) -> None:
    sweep.trials[1].metrics["a/validation/accuracy"] = 0.70
    assert baselines(sweep, sweep.trials[3])["a"].number == 0


@pytest.mark.parametrize("number", [0, 2, 4, 5])
def test_single_students_and_incomplete_trials_have_no_gain(sweep: Sweep, number: int) -> None:
    assert peer_gains(sweep, sweep.trials[number]) == {}


def test_there_is_no_gain_without_a_baseline_or_a_peer(sweep: Sweep) -> None:
    del sweep.trials[0], sweep.trials[1]
    assert not baselines(sweep, sweep.trials[3]) and not peer_gains(sweep, sweep.trials[3])
    sweep.trials[0] = Trial(
        0, {"method.name": "kd"}, "complete", 0.5, metrics=metrics_of((0.5, 0.5), (0.5, 0.5))
    )
    assert set(baselines(sweep, sweep.trials[3])) == {"a", "b"}
    sweep.configuration = load(None, [])
    assert baselines(sweep, sweep.trials[3]) == {}


def test_a_sweep_of_kd_alone_names_no_method(sweep: Sweep) -> None:
    sweep.configuration = load(None, ["peers.b.network.name=mlp"])
    sweep.trials = {
        7: Trial(
            7, {"temperature": 2.0}, "complete", 0.5, metrics=metrics_of((0.5, 0.5), (0.5, 0.5))
        )
    }
    assert baselines(sweep, sweep.trials[7])["b"].number == 7
    assert not capabilities.uses_peers(build_method("kd", {}))


def test_a_student_is_compared_with_the_same_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer_method(monkeypatch)
    choices = "search.extra_space={student.width: [4, 64], peers.b.network.depth: [1, 2]}"
    made = Sweep.create(
        tmp_path / "mine",
        load(None, ["peers.b.network.name=mlp", "search.methods=[kd, mutual]", choices]),
        "sweep",
    )
    tried: list[
        tuple[str, int, int, float, float]
    ] = [  # method, width of a, depth of b, accuracies
        ("kd", 64, 1, 0.9, 0.5),
        ("kd", 4, 1, 0.6, 0.8),
        ("mutual", 4, 1, 0.7, 0.7),
        ("mutual", 64, 2, 0.8, 0.9),
    ]
    for number, (method, width, depth, a, b) in enumerate(tried):
        params = {"method.name": method, "student.width": width, "peers.b.network.depth": depth}
        made.trials[number] = Trial(
            number, params, "complete", a + b, metrics=metrics_of((a, a), (b, b))
        )
    assert peer_gains(made, made.trials[2]) == {
        "a": pytest.approx(Gain(1, 0.1, 0.1)),
        "b": pytest.approx(Gain(1, -0.1, -0.1)),
    }
    assert peer_gains(made, made.trials[3]) == {"a": pytest.approx(Gain(0, -0.1, -0.1))}, (
        "no kd trial has b with two layers"
    )


@pytest.mark.parametrize(("weight", "heard"), [(0.0, False), (0.2, True)])
def test_students_do_not_use_peers_without_a_loss_weight(
    tmp_path: Path, weight: float, heard: bool
) -> None:
    made = Sweep.create(
        tmp_path / "mine",
        load(None, ["peers.b.network.name=mlp", "search.methods=[kd, dual_student]"]),
        "sweep",
    )
    same = metrics_of((0.5, 0.5), (0.5, 0.5))
    made.trials[0] = Trial(0, {"method.name": "kd"}, "complete", 0.5, metrics=same)
    params = {"method.name": "dual_student", "dual_student.lambda_peer": weight}
    made.trials[1] = Trial(1, params, "complete", 0.5, metrics=same)
    assert uses_peers(made, made.trials[1]) == bool(
        peer_gains(made, made.trials[1])
    ) == heard and not uses_peers(made, made.trials[0])
