"""Test the parts of a comparison: allowed methods, publication, a student's cost, refusals."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import run
from methods import METHODS
from methods.capabilities import uses_peers
from orchestrator.config.fields import LONGEST_LIST
from orchestrator.config.loader import load
from orchestrator.config.schema import Network
from orchestrator.config.search_space import list_initial_points
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.sweep.comparison import design
from orchestrator.sweep.comparison.inference_cost import inference_cost
from orchestrator.sweep.comparison.record import FILE, Comparison
from orchestrator.sweep.comparison.result import cost
from orchestrator.sweep.preflight.configuration import check_search
from tests.data_summary import data_summary
from tests.refusal import refused

ALONE = tuple(name for name, kind in METHODS.items() if not uses_peers(kind(kind.Settings())))


def call(*arguments: str) -> tuple[int, str]:
    found = CliRunner().invoke(run.app, ["compare", *arguments])
    return found.exit_code, found.output


@pytest.mark.parametrize(
    ("names", "pairs"), [(ALONE, ()), (tuple(METHODS), ("peers.b.network.name=mlp",))]
)
def test_every_method_can_be_compared(names: tuple[str, ...], pairs: tuple[str, ...]) -> None:
    """The sweep over seeds may train every setting that a method's search may choose."""
    common = design.base(load(None, ["search.trials=4", *pairs]), names, 3)
    check_search(common)
    chosen: dict[str, dict[str, Any]] = {}
    for name in names:
        search = design.search_of(common, name)
        check_search(search)
        chosen[name] = list_initial_points(search)[-1] if list_initial_points(search) else {}
    planned = design.plan_runs_over_seeds(common, chosen, 3)
    check_search(planned)
    assert planned.search.trials == len(list_initial_points(planned)) == 3 * len(names)


@pytest.mark.parametrize(
    ("pairs", "seeds", "field", "value", "allowed"),
    [
        ([], 0, "--seeds", 0, (1, LONGEST_LIST)),
        (
            ["search.scheduler=pbt"],
            3,
            "search.scheduler",
            "pbt",
            ("asha", "median", "hyperband", "none"),
        ),
        (
            ["search.configurations=[{temperature: 2.0}]"],
            3,
            "search.configurations[0].method.name",
            None,
            tuple(METHODS),
        ),
        (
            ["search.configurations=[{method.name: kdd}]"],
            3,
            "search.configurations[0].method.name",
            "kdd",
            tuple(METHODS),
        ),
        (
            ["search.configurations=[{method.name: kd}, {method.name: kd, alpha: 0.5}]"],
            3,
            "search.configurations[1].method.name",
            "kd",
            "each method once",
        ),
        (["seed=2147483640"], 10, "seed", 2147483640, (0, 2**31 - 11)),
    ],
)
def test_invalid_comparison_is_refused(
    pairs: list[str], seeds: int, field: str, value: object, allowed: object
) -> None:
    with refused(field, value, allowed):
        design.base(load(None, pairs), ("cross_entropy", "kd"), seeds)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "kd"], "--methods contains only 'kd': give two or more"),
        (["--methods", ","], "--methods is empty: give two or more"),
        (["--methods", "kd,akd,kd"], "--methods contains 'kd' twice"),
        (["--methods", "kd,cross_entrpy"], "did you mean 'cross_entropy'"),
        (
            ["--methods", "kd,dml"],
            "'dml' trains students that learn from each other, but there are no peers",
        ),
        (
            ["--methods", "kd,ttm", "--set", "method.name=wttm"],
            "method.name = wttm is not in search.methods = ['kd', 'ttm']",
        ),
        (
            ["--methods", "ttm,wttm", "--set", "method.temperature=2"],
            "the settings under method belong to kd, which is not",
        ),
        (["--methods", "kd,ttm", "--seeds", "0"], "--seeds 0 is not allowed"),
        (["--methods", "kd,ttm", "--trials", "0"], "search.trials = 0 is not allowed"),
        (
            ["--methods", "kd,ttm", "--trials", str(10**20)],
            f"search.trials = {10**20} is not allowed",
        ),
        (["--methods", "kd,ttm", "--seeds", str(10**20)], f"--seeds {10**20} is not allowed"),
        (["--methods", "kd,ttm", "--name", "../x"], "the name '../x' is not allowed"),
        ([], "--methods is missing"),
        (["--resume", "mine", "--seeds", "4"], "leave out --methods, --seeds"),
        (["--resume", "mine"], "there is no comparison 'mine'"),
    ],
)
def test_invalid_arguments_are_refused(arguments: list[str], message: str, tmp_path: Path) -> None:
    code, text = call(*arguments, "--store", str(tmp_path))
    assert code == 2 and message in " ".join(text.split())
    assert not (tmp_path / "comparisons").exists() and not (tmp_path / "sweeps").exists()


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    store, common = Store.open(tmp_path), design.base(load(None, []), ("cross_entropy", "kd"), 2)
    Sweep.create(store.sweep("one-kd"), common, "sweep")
    Comparison.create(store, "two", common, 2)
    for name, message in (
        ("one", "needs a new sweep 'one-kd', which exists already"),
        ("two", "compare --resume two"),
    ):
        code, text = call("--methods", "cross_entropy,kd", "--name", name, "--store", str(tmp_path))
        assert code == 2 and message in " ".join(text.split())


def test_an_address_is_checked_at_a_resume_too(tmp_path: Path) -> None:
    store, common = Store.open(tmp_path), design.base(load(None, []), ("cross_entropy", "kd"), 2)
    Comparison.create(store, "mine", common, 2)
    code, text = call("--resume", "mine", "--address", "host\x1b:1", "--store", str(tmp_path))
    assert code == 2 and "it contains the character U+001B" in " ".join(text.split())


def test_record_is_read_back_or_reported_as_damaged(tmp_path: Path) -> None:
    store, common = (
        Store.open(tmp_path),
        design.base(load(None, ["seed=3"]), ("cross_entropy", "kd"), 2),
    )
    made = Comparison.create(store, "mine", common, 2)
    made.chosen = {
        "kd": {"trial": 1, "value": 0.5, "settings": {"alpha": 0.5}},
        "cross_entropy": {"message": "none"},
    }
    made.save()
    read = Comparison.open(store, "mine")
    assert (read.configuration, read.seeds, read.chosen) == (common, 2, made.chosen)
    assert read.runs[0].settings == {"kd": {"alpha": 0.5}} and design.seeds_of(
        read.configuration, 2
    ) == (4, 5)
    file = read.folder / FILE
    for change, value in (({"format": 99}, 99), ({"unknown": 1}, "unknown")):
        values = json.loads(file.read_text())
        file.write_text(json.dumps(values | change))
        with refused(str(file), value):
            Comparison.open(store, "mine")
        file.write_text(json.dumps(values))
    with refused("name", "mime", ("mine",)) as refusal:
        Comparison.open(store, "mime")
    assert "did you mean 'mine'" in str(refusal.value)


def test_plan_shows_the_number_of_trainings(tmp_path: Path) -> None:
    code, text = call(
        "--methods",
        "cross_entropy,kd,akd",
        "--trials",
        "5",
        "--seeds",
        "4",
        "--dry-run",
        "--store",
        str(tmp_path),
    )
    assert (
        code == 0
        and "5 trials for each of 3 methods, then 3 x 4 trainings, seeds 1 to 4"
        in " ".join(text.split())
    )
    assert not (tmp_path / "comparisons").exists()


def test_the_cost_of_a_student_is_counted() -> None:
    """By hand: an mlp of 64 -> 16 -> 10, and a convolutional network, layer by layer."""
    summary = data_summary(classes=["one"] * 10)
    found = inference_cost(
        Network.model_validate({"name": "mlp", "width": 16, "depth": 1}), summary, repeats=3
    )
    assert (found.parameters, found.multiply_adds) == (
        64 * 16 + 16 + 16 * 10 + 10,
        64 * 16 + 16 * 10,
    )
    assert found.latency_ms > 0
    summary = data_summary(classes=["one"] * 100, shape=(3, 32, 32))
    resnet = inference_cost(Network(name="resnet20"), summary, repeats=1)
    stem, stages = 32 * 32 * 3 * 16 * 9, [(32, 16, 16), (16, 16, 32), (8, 32, 64)]
    blocks = sum(
        side * side * 9 * (before * width + 5 * width * width) for side, before, width in stages
    )
    shortcuts = 16 * 16 * 16 * 32 + 8 * 8 * 32 * 64
    assert resnet.multiply_adds in (stem + blocks + 64 * 100, stem + blocks + shortcuts + 64 * 100)
    assert resnet.parameters == 278_324


def test_cost_covers_all_trials_or_is_unknown() -> None:
    spent = [
        Trial(0, {}, epochs=2, metrics={"seconds/cpu_total": 2.0}),
        Trial(1, {}, "failed", epochs=1, metrics={}),
    ]
    assert cost(spent).cpu_s is None and cost(spent).trials == 2
    spent[1].metrics = {"seconds/cpu_total": 0.5, "seconds/gpu_total": 3.0}
    assert (cost(spent).cpu_s, cost(spent).gpu_s) == (2.5, 3.0)
    assert cost([*spent, Trial(2, {})]).trials == 2  # one that never ran cost nothing
    assert cost([]).cpu_s is None
