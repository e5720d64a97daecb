"""Test that a sweep keeps its initial augmentation, even if `auto` later means another."""

from dataclasses import replace
from pathlib import Path

from orchestrator.config.loader import load
from orchestrator.data.prepare import describe
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store, write_json
from orchestrator.sweep.changed_configuration import change_configuration
from orchestrator.sweep.preflight.preflight import prepare_run
from tests.refusal import refused


def prepared(store: Store, *pairs: str) -> Sweep:
    return Sweep.create(store.sweep("mine"), load(None, list(pairs)), "sweep")


def test_a_run_records_the_resolved_augmentation(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    for configured, policy in (("auto", "none"), ("crop", "crop")):
        configuration = load(None, [f"data.augmentation={configured}", "data.limit.train=100"])
        assert (
            prepare_run(
                store, configuration, "train", local_processes=1
            ).configuration.data.augmentation
            == policy
        )


def test_an_older_sweep_keeps_the_augmentation_of_its_data(tmp_path: Path) -> None:
    sweep = prepared(Store.open(tmp_path / "store"))
    assert change_configuration(sweep, None, None, None).data.augmentation == "none", (
        "of such a sweep nothing is known"
    )
    summary = describe(sweep.configuration.data, tmp_path, 0)
    write_json(sweep.folder / "data.json", replace(summary, augmentation="crop").plain())
    assert change_configuration(sweep, None, None, None).data.augmentation == "crop"


def test_a_file_with_augmentation_auto_matches_the_sweep(tmp_path: Path) -> None:
    sweep = prepared(Store.open(tmp_path / "store"), "data.augmentation=none")
    same, other = tmp_path / "same.yaml", tmp_path / "other.yaml"
    same.write_text("data: {augmentation: auto}\n")
    other.write_text("data: {augmentation: crop}\n")
    assert change_configuration(sweep, None, None, same).data.augmentation == "none"
    with refused("--config") as refusal:
        change_configuration(sweep, None, None, other)
    assert "data.augmentation" in str(refusal.value.value)
