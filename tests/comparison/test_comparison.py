"""Test a comparison from its searches to its table, with interruptions and failures."""

import contextlib
import io
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from scipy import stats
from trained_here import SHARED_GROUPS, Here

from orchestrator.api._objects import Objects
from orchestrator.api._results import Study
from orchestrator.cli import compare
from orchestrator.cluster.local_backend import LocalDispatcher
from orchestrator.config.loader import load
from orchestrator.config.schema import Configuration
from orchestrator.config.trial import apply
from orchestrator.core import errors
from orchestrator.core.errors import ConfigurationError, TrialError
from orchestrator.core.provenance import describe
from orchestrator.data.prepare import prepare
from orchestrator.store.environment import ENVIRONMENT, ENVIRONMENT_FILE
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store, read_json
from orchestrator.sweep.comparison import design, inference_cost, page, running
from orchestrator.sweep.comparison.record import Comparison
from orchestrator.sweep.comparison.result import Result, result
from orchestrator.sweep.preflight.preflight import prepare_run
from orchestrator.sweep.space_snapshot import describe_sweep
from orchestrator.teacher.acquire import evaluate_on_test
from tests.refusal import refused

SMALL = (
    "data.limit.train=200",
    "teacher.network.width=16",
    "teacher.training.epochs=2",
    "student.width=6",
    "training.epochs=2",
    "training.batch_size=32",
    "search.scheduler=none",
    "search.trials=2",
)
METHODS, SEEDS = ("cross_entropy", "kd", "ttm"), 3
FEW = ("cross_entropy", "kd")
QUIET = Console(quiet=True)


def prepared(
    store: Store,
    *pairs: str,
    methods: tuple[str, ...] = METHODS,
    seeds: int = SEEDS,
    studies: int = 1,
) -> Comparison:
    common = design.base(load(None, [*SMALL, *pairs]), methods, seeds, studies)
    configuration = prepare_run(store, common, "sweep", local_processes=0).configuration
    return Comparison.create(store, "mine", configuration, seeds, studies)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def evaluate_here(store: Store, configuration: Configuration, data: Path, _: object) -> Any:
    return evaluate_on_test(store, configuration, data, LocalDispatcher())


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Here:
    """Run sweeps in this process, and send nothing to tracking."""
    here = Here()
    monkeypatch.setattr(running, "run_sweep", here.conduct)
    monkeypatch.setattr(
        running, "open_dispatcher", lambda *given: contextlib.nullcontext(SHARED_GROUPS)
    )
    monkeypatch.setattr(running, "flush_tracking", lambda *_: None)
    monkeypatch.setattr(running, "evaluate_on_test", evaluate_here)
    return here


def plain_values(sweep: Sweep, method: str) -> dict[int, float]:
    """Return test accuracies by seed, read only from the records."""
    own = [
        trial
        for trial in sweep.trials.values()
        if trial.params["method.name"] == method and trial.state == "complete"
    ]
    return {trial.params["seed"]: trial.metrics["test/last/accuracy"] for trial in own}


def without_clocks(found: Result) -> list[dict[str, Any]]:
    """Return the rows without values in seconds."""
    rows = json.loads(json.dumps(found.plain()))["rows"]
    for row in rows:
        row["student"].pop("latency_ms")
        for part in ("search", "over_seeds"):
            row[part] = row[part]["trials"]
    return list(rows)


def test_table_matches_the_records(store: Store, here: Here) -> None:
    comparison = prepared(store)
    (last,) = running.run_comparison(store, comparison, QUIET)
    assert Counter(here.trained) == {
        "mine-cross_entropy": 2,
        "mine-kd": 2,
        "mine-ttm": 2,
        "mine-seeds": 9,
    }
    found = result(store, comparison)
    assert [row.method for row in found.rows] == list(METHODS) and found.seeds == (1, 2, 3)
    values = {method: plain_values(last, method) for method in METHODS}
    assert all(sorted(own) == [1, 2, 3] for own in values.values())
    for row in found.rows:
        own = list(values[row.method].values())
        assert (
            row.means["accuracy"].value == pytest.approx(sum(own) / 3)
            and row.means["accuracy"].count == 3
        )
        assert (
            row.search.trials == 2
            and row.over_seeds.trials == 3
            and row.over_seeds.cpu_s
            and not row.message
        )
        for reference in {"cross_entropy", "kd"} - {row.method}:
            theirs = [values[reference][seed] for seed in values[row.method]]
            assert row.against[reference].difference.mean == pytest.approx(
                sum(own) / 3 - sum(theirs) / 3
            )
            assert row.against[reference].difference.p == pytest.approx(
                stats.ttest_rel(own, theirs).pvalue
            )
            searched = Sweep.open(store, comparison.runs[0].search(row.method)).best()
            assert searched is not None and row.settings == searched.settings
    paired = [row.against[name] for row in found.rows for name in row.against]
    assert all(
        one.corrected is not None and one.corrected >= (one.difference.p or 0) for one in paired
    )


def test_seeds_are_paired(store: Store, here: Here) -> None:
    """Without a teacher term and with a fixed recipe, KD is plain training: students are equal."""
    held = (
        "method.name=kd",
        "method.alpha=0.0",
        "method.temperature=1.0",
        "training.learning_rate=0.05",
    )
    comparison = prepared(store, *held, 'search.freeze=["training.learning_rate"]', methods=FEW)
    comparison.chosen = {
        "cross_entropy": {"trial": 0, "value": 0.5, "settings": {"label_smoothing": 0.0}},
        "kd": {"trial": 0, "value": 0.5, "settings": {}},
    }
    (last,) = running.run_comparison(store, comparison, QUIET)
    plain, distilled = (plain_values(last, method) for method in ("cross_entropy", "kd"))
    assert plain == distilled and len(set(plain.values())) > 1
    assert here.conducted == [("mine-seeds", False)]  # chosen settings are not searched again


def test_interrupted_comparison_reaches_the_same_result(
    store: Store, here: Here, tmp_path: Path
) -> None:
    whole = prepared(store, methods=FEW, seeds=2)
    running.run_comparison(store, whole, QUIET)
    other = Store.open(tmp_path / "other")
    prepared(other, methods=FEW, seeds=2)
    here.trained = []
    for where in ("mine-kd", "mine-seeds"):
        here.interrupted_in = where
        with pytest.raises(KeyboardInterrupt):
            running.run_comparison(other, Comparison.open(other, "mine"), QUIET)
    running.run_comparison(other, Comparison.open(other, "mine"), QUIET)
    assert Counter(here.trained) == {
        "mine-cross_entropy": 2,
        "mine-kd": 2,
        "mine-seeds": 4,
    }  # none twice
    assert {("mine-kd", True), ("mine-seeds", True)} <= set(here.conducted)
    assert without_clocks(result(other, Comparison.open(other, "mine"))) == without_clocks(
        result(store, whole)
    )
    here.conducted = []
    running.run_comparison(other, Comparison.open(other, "mine"), QUIET)
    assert here.conducted == []  # all of it has ended


def test_studies_repeat_search_and_seeds_and_resume(
    store: Store, here: Here, tmp_path: Path
) -> None:
    whole = prepared(store, methods=FEW, seeds=2, studies=2)
    sweeps = running.run_comparison(store, whole, QUIET)
    assert [sweep.name for sweep in sweeps] == ["mine-seeds", "mine-study2-seeds"]
    values = {method: [plain_values(sweep, method) for sweep in sweeps] for method in FEW}
    assert [sorted(study) for study in values["kd"]] == [[1, 2], [4, 5]]
    assert Sweep.open(store, "mine-study2-kd").configuration.seed == 3
    found = result(store, whole)
    kd = found.rows[1]
    each = [sum(study.values()) / 2 for study in values["kd"]]
    assert kd.means["accuracy"].value == pytest.approx(sum(each) / 2)
    assert kd.means["accuracy"].count == 2
    paired = [
        sum(kd_study[seed] - plain[seed] for seed in plain) / 2
        for kd_study, plain in zip(values["kd"], values["cross_entropy"], strict=True)
    ]
    over = kd.against["cross_entropy"].difference
    assert over.mean == pytest.approx(sum(paired) / 2) and over.pairs == 2
    assert sorted(kd.study_settings) == [1, 2] and kd.over_seeds.trials == 4
    assert "kd, study 2" in page.markdown(found)

    other = Store.open(tmp_path / "other")
    prepared(other, methods=FEW, seeds=2, studies=2)
    here.trained = []
    for where in ("mine-seeds", "mine-study2-kd", "mine-study2-seeds"):
        here.interrupted_in = where
        with pytest.raises(KeyboardInterrupt):
            running.run_comparison(other, Comparison.open(other, "mine"), QUIET)
    running.run_comparison(other, Comparison.open(other, "mine"), QUIET)
    assert set(Counter(here.trained).values()) == {2, 4}  # none twice
    assert without_clocks(result(other, Comparison.open(other, "mine"))) == without_clocks(found)


def test_inference_cost_is_measured_once(
    store: Store, here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    comparison = prepared(store, methods=FEW, seeds=1)
    running.run_comparison(store, comparison, QUIET)
    costs = Comparison.open(store, "mine").inference
    assert sorted(costs) == ["cross_entropy", "kd", "teacher"]
    assert costs["kd"] == costs["cross_entropy"]
    assert costs["teacher"].parameters > costs["kd"].parameters
    monkeypatch.setattr(inference_cost, "inference_cost", None)  # a second measurement would fail
    again = Comparison.open(store, "mine")
    running.run_comparison(store, again, QUIET)
    assert result(store, again).rows[1].student == costs["kd"]


def test_teacher_has_a_row(store: Store, here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = prepared(store, methods=FEW, seeds=1)
    running.run_comparison(store, comparison, QUIET)
    found = result(store, Comparison.open(store, "mine"))
    assert found.teacher_row is not None and found.teacher_row.network == "mlp"
    accuracy, plain = found.teacher_row.metrics["accuracy"], found.plain()["teacher_row"]
    assert 0 < accuracy < 1 and plain["metrics"]["accuracy"] == accuracy
    (titles, rows), (_, costs) = page.quality(found), page.costs(found)
    assert rows[0][:2] == ["teacher (mlp)", f"{100 * accuracy:.2f}"]
    assert len(rows[0]) == len(titles) and [row[0] for row in rows[1:]] == list(FEW)
    assert costs[0][1] == f"{found.teacher_row.cost.parameters:,}"  # type: ignore[union-attr]
    assert page.metrics(found)["comparison/teacher/accuracy"] == accuracy
    monkeypatch.setattr(running, "evaluate_on_test", None)  # a second evaluation would fail
    shutil.rmtree(store.sweep("mine-seeds"))
    running.run_comparison(store, comparison, QUIET)


def test_method_without_settings_is_left_out_with_a_reason(store: Store, here: Here) -> None:
    comparison = prepared(store, methods=FEW)
    failed = ended_search(
        store, comparison, "kd", Trial(0, {}, state="failed", message="the loss is not finite")
    )
    running.run_comparison(store, comparison, QUIET)
    found = result(store, comparison)
    (_, kd) = found.rows
    assert (
        kd.message == "every trial of its search failed: the loss is not finite"
        and not kd.means
        and kd.student is None
    )
    assert found.references == ["cross_entropy"] and found.rows[0].means["accuracy"].count == 3
    assert failed.name not in {name for name, _ in here.conducted}
    text = page.markdown(found)
    assert (
        "| kd | – | – | – | – | – |" in text
        and "kd: every trial of its search failed: the loss is not finite" in text
    )


def test_comparison_without_any_settings_reports_the_reasons(store: Store, here: Here) -> None:
    comparison = prepared(store, methods=FEW)
    for method in comparison.methods:
        ended_search(
            store, comparison, method, Trial(0, {}, state="failed", message=f"{method} diverged")
        )
    with pytest.raises(
        TrialError, match=r"cross_entropy: .*cross_entropy diverged; kd: .*kd diverged"
    ):
        running.run_comparison(store, comparison, QUIET)


def test_failed_seed_is_not_paired(store: Store, here: Here) -> None:
    comparison = prepared(store, methods=FEW)
    (last,) = running.run_comparison(store, comparison, QUIET)
    lost = next(
        trial
        for trial in last.trials.values()
        if trial.params["method.name"] == "kd" and trial.params["seed"] == 2
    )
    lost.state, lost.message = "failed", "it diverged"
    last.save_trial(lost)
    plain, kd = result(store, comparison).rows
    assert (
        kd.message == "2 of 3 seeds completed their training: it diverged"
        and kd.means["accuracy"].count == 2
    )
    assert plain.against["kd"].difference.pairs == 2 and plain.means["accuracy"].count == 3


def test_every_sweep_records_its_environment(store: Store, here: Here) -> None:
    comparison = prepared(store, methods=FEW, seeds=1)
    running.run_comparison(store, comparison, QUIET)
    names = ["mine-cross_entropy", "mine-kd", "mine-seeds"]
    for name in names:
        assert ENVIRONMENT.read(store.sweep(name) / ENVIRONMENT_FILE) == describe()
        assert read_json(store.sweep(name) / "data.json")["name"] == "digits"


def test_interrupted_comparison_shows_its_partial_result(store: Store, here: Here) -> None:
    comparison, here.interrupted_in = prepared(store, methods=FEW), "mine-seeds"
    output = io.StringIO()
    code = compare._run_and_print(store, comparison, Console(file=output, width=200), output=None)
    text = output.getvalue()
    assert code == errors.INTERRUPTED
    assert (
        "unfinished: 1 of 6 trainings" in text
        and "mine (unfinished): test part" in text
        and "no significant difference" not in text
    )
    assert "cross_entropy: 1 of 3 seeds completed their training" in text
    assert text.index("unfinished: 1 of 6") < text.index(
        "interrupted; resume: python run.py compare --resume mine"
    )


def test_an_interrupted_search_has_nothing_to_show(store: Store, here: Here) -> None:
    comparison, here.interrupted_in = prepared(store, methods=FEW), "mine-cross_entropy"
    output = io.StringIO()
    code = compare._run_and_print(store, comparison, Console(file=output, width=200), output=None)
    assert (
        code == errors.INTERRUPTED
        and "unfinished" not in output.getvalue()
        and "compare --resume mine" in output.getvalue()
    )


def test_a_search_that_was_removed_has_an_unknown_cost(store: Store, here: Here) -> None:
    comparison = prepared(store, methods=FEW, seeds=1)
    running.run_comparison(store, comparison, QUIET)
    shutil.rmtree(store.sweep("mine-kd"))
    running.run_comparison(store, comparison, QUIET)
    found = result(store, comparison)
    plain, kd = found.rows
    assert kd.means["accuracy"].count == 1 and kd.search.cpu_s is None and kd.searched is None
    assert plain.search.cpu_s and plain.searched == 2
    assert "their cost is unknown: kd" in page.markdown(found)


def test_seeds_on_other_data_than_the_searches_are_refused(store: Store, here: Here) -> None:
    comparison = prepared(store, methods=FEW)
    comparison.chosen = {name: {"trial": 0, "value": 0.5, "settings": {}} for name in FEW}
    for method in FEW:
        search = ended_search(store, comparison, method)
        search.described["data"]["sums"] = {"train": "of other data"}
        search.save()
    refusal = (
        "the data or weights of the searches of 'mine' have changed: digits has changed "
        "(the same number of samples, but different ones)"
    )
    with pytest.raises(ConfigurationError, match=re.escape(refusal)):
        running.run_comparison(store, comparison, QUIET)
    assert "mine-seeds" not in store.sweeps()
    planned = design.plan_runs_over_seeds(
        comparison.configuration, comparison.runs[0].settings, SEEDS
    )
    data = prepare(planned.data, store.root, planned.data.seed)
    Sweep.create(
        store.sweep("mine-seeds"), planned, "sweep", describe_sweep(planned, "sweep", data)
    )
    with pytest.raises(ConfigurationError, match=re.escape(refusal)):
        running.run_comparison(store, comparison, QUIET)
    assert here.conducted == []


def ended_search(store: Store, comparison: Comparison, method: str, *trials: Trial) -> Sweep:
    """Return a search that has ended with these trials."""
    configuration = design.search_of(comparison.configuration, method)
    data = prepare(configuration.data, store.root, configuration.data.seed)
    sweep = Sweep.create(
        store.sweep(comparison.runs[0].search(method)),
        configuration,
        "sweep",
        describe_sweep(configuration, "sweep", data),
    )
    for trial in trials:
        sweep.save_trial(trial)
    sweep.state = "failed"
    sweep.save()
    return sweep


def test_one_seed_gives_no_interval(store: Store, here: Here) -> None:
    comparison = prepared(store, methods=FEW, seeds=1)
    running.run_comparison(store, comparison, QUIET)
    found = result(store, comparison)
    assert found.rows[1].against["cross_entropy"].difference.low is None
    text = page.markdown(found)
    assert "one seed gives no interval and no p" in text and "±" not in text.split("- data")[0]
    assert "no significant difference to cross_entropy with 1 seed: kd" in text


def test_sweeps_of_another_configuration_or_other_data_are_refused(
    store: Store, here: Here
) -> None:
    comparison = prepared(store, methods=FEW)
    other: Configuration = comparison.configuration.model_copy(update={"seed": 5})
    Sweep.create(store.sweep("mine-kd"), design.search_of(other, "kd"), "sweep", {})
    with pytest.raises(ConfigurationError, match="'mine-kd' differs from its comparison in seed"):
        running.run_comparison(store, comparison, QUIET)
    sweeps = {}
    for method, summed in (("kd", "1"), ("ttm", "2")):
        described = {"data": {"sums": {"train": summed}}}
        sweeps[method] = Sweep(other, "sweep", described=described, folder=store.sweep(method))
    with pytest.raises(ConfigurationError, match="the searches of kd and ttm used different data"):
        running.require_common_data(sweeps)


def test_a_trial_over_seeds_is_the_best_of_its_search_with_another_seed() -> None:
    common = design.base(
        load(None, [*SMALL, "method.name=kd", "method.alpha=0.3"]), ("kd", "wttm"), 2
    )
    chosen = {
        "kd": {"temperature": 3.0, "training.learning_rate": 0.1},
        "wttm": {"temperature": 5.0, "alpha": 0.7},
    }
    planned = design.plan_runs_over_seeds(common, chosen, 2)
    trials = [
        apply(planned, {**one, "seed": seed})
        for seed in planned.search.seeds
        for one in planned.search.configurations
    ]
    assert [(trial.method.name, trial.seed) for trial in trials] == [
        ("kd", 1),
        ("wttm", 1),
        ("kd", 2),
        ("wttm", 2),
    ]
    for trial in trials:
        alone = apply(design.search_of(common, trial.method.name), chosen[trial.method.name])
        assert trial.method == alone.method and trial.training == alone.training
    assert (
        trials[0].method.settings == {"alpha": 0.3, "temperature": 3.0}
        and trials[1].method.settings["alpha"] == 0.7
    )


def test_comparison_from_python_is_interrupted_and_resumed(store: Store, here: Here) -> None:
    sweep = Sweep.create(store.sweep("search"), load(None, [*SMALL]), "sweep")
    study = Study(sweep.name, store, sweep, Objects())
    here.interrupted_in = "mine-kd"
    with pytest.raises(KeyboardInterrupt, match="resume='mine'"):
        study.compare(FEW, seeds=2, name="mine", progress=False)
    with refused("seeds", 3, 2):
        study.compare(FEW, seeds=3, resume="mine", progress=False)
    compared = study.compare(FEW, seeds=2, resume="mine", progress=False)
    frame, last = compared.frame(), Sweep.open(store, "mine-seeds")
    for method in FEW:
        own = list(plain_values(last, method).values())
        assert frame.loc[method, "accuracy"] == pytest.approx(sum(own) / 2)
    difference = frame.loc["kd", "accuracy"] - frame.loc["cross_entropy", "accuracy"]
    assert frame.loc["kd", "over_cross_entropy"] == pytest.approx(difference)
    assert (store.root / "comparisons" / "mine" / "comparison.md").is_file()
    assert "<table>" in compared._repr_html_() and compared.conclusions()
