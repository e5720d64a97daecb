"""Test a comparison of listed settings: nothing is searched, and the rest gets its first point."""

import contextlib
from pathlib import Path

import pytest
from rich.console import Console
from trained_here import SHARED_GROUPS, Here
from typer.testing import CliRunner

import run
from methods import METHODS
from orchestrator.cli._comparisons import show_comparison, write_comparison
from orchestrator.config.loader import load
from orchestrator.config.search_space import list_initial_points
from orchestrator.config.trial import METHOD
from orchestrator.core.errors import ConfigurationError
from orchestrator.store.store import Store
from orchestrator.sweep.comparison import design, page, running
from orchestrator.sweep.comparison.progress import read_progress
from orchestrator.sweep.comparison.record import Comparison
from orchestrator.sweep.comparison.result import result
from orchestrator.sweep.comparison.runnable import select_runnable
from orchestrator.sweep.preflight.configuration import check_search
from orchestrator.sweep.preflight.preflight import prepare_run
from tests.refusal import refused

SMALL = (
    *("data.limit.train=120", "data.limit.test=60", "teacher.network.width=16"),
    *("teacher.training.epochs=1", "student.width=6", "training.epochs=2"),
    *("training.batch_size=32", "search.freeze=[training.learning_rate]"),
    *("training.learning_rate=0.02", "search.scheduler=none"),
    "search.configurations=[{method.name: kd, kd.alpha: 0.25}, {method.name: ttm, beta: 3.0}]",
)
ALL_DATA = "data.validation_in_training=true"
CHOSEN = ("cross_entropy", "kd")
QUIET = Console(quiet=True)


def call(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(run.app, ["compare", *arguments])
    return done.exit_code, " ".join(done.output.split())


def test_every_method_has_one_entry() -> None:
    common = design.base(load(None, [*SMALL]), CHOSEN, 2)
    entries = {entry[METHOD]: entry for entry in common.search.configurations}
    assert entries["kd"] == {METHOD: "kd", "kd.alpha": 0.25}
    assert entries["cross_entropy"] == {
        METHOD: "cross_entropy",
        "cross_entropy.label_smoothing": 0.0,
    }
    assert list(entries) == list(CHOSEN) and common.search.trials == 2
    assert "ttm" in common.yielded["search.configurations"]
    check_search(common)
    whole = design.base(load(None, [*SMALL]), (*CHOSEN, "ttm"), 2)
    assert "search.configurations" not in whole.yielded


def test_the_settings_are_trained_without_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The validation part may be trained on, because nothing is chosen by it."""
    here, store = Here(), Store.open(tmp_path / "store")
    monkeypatch.setattr(running, "run_sweep", here.conduct)
    monkeypatch.setattr(running, "flush_tracking", lambda *_: None)
    monkeypatch.setattr(running, "evaluate_on_test", lambda *_: {"accuracy": 0.5})
    monkeypatch.setattr(
        running, "open_dispatcher", lambda *given: contextlib.nullcontext(SHARED_GROUPS)
    )
    pairs = [*SMALL, ALL_DATA, "tracking.test_each_epoch=true"]
    common = design.base(load(None, pairs), CHOSEN, 2)
    prepared = prepare_run(store, common, "sweep", local_processes=0).configuration
    comparison = Comparison.create(store, "mine", prepared, 2)
    running.run_comparison(store, comparison, QUIET)
    assert store.sweeps() == ["mine-seeds"] and here.trained == ["mine-seeds"] * 4
    found = result(store, Comparison.open(store, "mine"))
    assert found.trials == 0 and [row.settings for row in found.rows] == [
        {"label_smoothing": 0.0},
        {"alpha": 0.25},
    ]
    text = page.markdown(found)
    assert (
        "no search: each method has the settings" in text and "no longer in the store" not in text
    )
    assert "the validation part was trained on" in text
    titles, rows = page.quality(found)
    best = titles.index("accuracy, best test epoch, %")
    assert rows[0][0].startswith("teacher") and rows[0][best] == "–"
    assert all(float(row[best].split()[0]) >= float(row[1].split()[0]) for row in rows[1:])


def test_a_search_does_not_train_on_the_validation_part() -> None:
    with refused("data.validation_in_training", True, (False,)):
        check_search(load(None, [ALL_DATA, "search.trials=2"]))
    check_search(design.base(load(None, [*SMALL, ALL_DATA]), CHOSEN, 2))


def test_trials_have_no_meaning_without_a_search(tmp_path: Path) -> None:
    pairs = [part for pair in SMALL for part in ("--set", pair)]
    arguments = ("--methods", "kd,ttm", "--store", str(tmp_path), "--dry-run", *pairs)
    code, text = call(*arguments, "--trials", "5")
    assert code == 2 and "--trials 5 has no effect with search.configurations" in text
    code, text = call(*arguments, "--seeds", "3")
    assert code == 0 and "comparison: no search, then 2 x 3 trainings, seeds 1 to 3" in text


def test_an_unknown_format_is_refused_before_anything_starts(tmp_path: Path) -> None:
    arguments = ("--methods", "kd,ttm", "--store", str(tmp_path), "--format", "tex")
    code, text = call(*arguments)
    assert code == 2 and "--format 'tex' is not a format" in text
    assert not (tmp_path / "comparisons").exists()


def test_two_formats_are_refused(tmp_path: Path) -> None:
    arguments = ("--methods", "kd,ttm", "--store", str(tmp_path), "--json", "--format", "csv")
    code, text = call(*arguments)
    assert code == 2 and "--json and --format csv are both given" in text


def test_studies_of_listed_settings_are_refused() -> None:
    with refused("--studies", 2, (1, 1)):
        design.base(load(None, [*SMALL]), CHOSEN, 2, 2)


def test_all_methods_are_those_that_the_configuration_allows(tmp_path: Path) -> None:
    """Each method alone is checked; the others have the reason of their refusal."""
    store, loaded = Store.open(tmp_path), load(None, [*SMALL, ALL_DATA])
    assert design.parse_methods(" all ") == ("all",)
    runnable, left_out = select_runnable(store, loaded, tuple(METHODS))
    assert set(runnable) | set(left_out) == set(METHODS) and not set(runnable) & set(left_out)
    assert {"dml", "kd_aif"} <= set(left_out) and {"cross_entropy", "kd", "ic_kd"} <= set(runnable)
    assert "peers" in left_out["dml"] and "validation" in left_out["kd_aif"]
    check_search(design.base(loaded, runnable, 2))
    for method in ("dml", "kd_aif"):
        with pytest.raises(ConfigurationError):
            check_search(design.base(loaded, (method,), 2))


def test_fewer_than_two_allowed_methods_are_refused(tmp_path: Path) -> None:
    with refused("--methods", "all", "two or more methods"):
        select_runnable(Store.open(tmp_path), load(None, [*SMALL]), ("kd", "dml"))


def test_all_methods_may_be_searched(tmp_path: Path) -> None:
    arguments = ("--methods", "all", "--trials", "3", "--seeds", "2", "--store", str(tmp_path))
    code, text = call(*arguments, "--dry-run")
    assert code == 0 and "--methods all: dml is left out" in text
    count = len(METHODS) - text.count("--methods all: ")
    assert f"3 trials for each of {count} methods, then {count} x 2 trainings" in text


@pytest.mark.parametrize("method", METHODS)
def test_the_first_point_of_every_method_can_be_listed(method: str) -> None:
    peers = ["peers.b.network.name=mlp"] if method == "dml" else []
    pairs = ["search.configurations=[{method.name: tf_kd}]", *peers]
    common = design.base(load(None, pairs), (method,), 1)
    check_search(common)
    (point,) = list_initial_points(common)
    assert point[METHOD] == method


def test_the_state_of_listed_settings_counts_no_search(tmp_path: Path) -> None:
    store, console = Store.open(tmp_path), Console(record=True, width=200)
    comparison = Comparison.create(store, "mine", design.base(load(None, [*SMALL]), CHOSEN, 2), 2)
    comparison.runs[0].choose({"kd": {"settings": {"alpha": 0.25}}})
    progress = read_progress(store, comparison)
    assert [part.sweep for part in progress.parts] == ["mine-seeds"] and progress.trials == 4
    assert comparison.sweeps == ("mine-seeds",)
    show_comparison(store, comparison, False, console)
    assert "kd: listed settings: alpha=0.25" in console.export_text()


def test_a_range_of_one_method_leaves_the_others_in(tmp_path: Path) -> None:
    loaded = load(None, ["search.space={kd.temperature: [1, 6]}", "search.trials=2"])
    runnable, left_out = select_runnable(Store.open(tmp_path), loaded, ("kd", "ttm", "dml"))
    assert runnable == ("kd", "ttm") and list(left_out) == ["dml"]


def test_a_teacher_without_an_evaluation_is_evaluated_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last sweep may have ended in an earlier process, which did not evaluate the teacher."""
    here, store = Here(), Store.open(tmp_path / "store")
    monkeypatch.setattr(running, "run_sweep", here.conduct)
    monkeypatch.setattr(running, "flush_tracking", lambda *_: None)
    monkeypatch.setattr(running, "evaluate_on_test", lambda *_: {"accuracy": 0.5})
    monkeypatch.setattr(
        running, "open_dispatcher", lambda *given: contextlib.nullcontext(SHARED_GROUPS)
    )
    common = design.base(load(None, [*SMALL]), CHOSEN, 1)
    prepared = prepare_run(store, common, "sweep", local_processes=0).configuration
    comparison = Comparison.create(store, "mine", prepared, 1)
    running.run_comparison(store, comparison, QUIET)
    comparison.teacher, comparison.inference = {}, {}
    comparison.save()
    write_comparison(store, Comparison.open(store, "mine"), tmp_path / "tables.md", QUIET)
    assert set(Comparison.open(store, "mine").inference) == {*CHOSEN, "teacher"}
    running.run_comparison(store, Comparison.open(store, "mine"), QUIET)
    assert Comparison.open(store, "mine").teacher == {"accuracy": 0.5}
