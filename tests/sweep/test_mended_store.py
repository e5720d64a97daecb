"""Test damage to a sweep's files without Ray: repairs, and a sentence if none is possible."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.trial import CHECKPOINT
from orchestrator.store.records import COPY, FILE, SWEEP, Sweep
from orchestrator.store.store import Store, read_json, write_json
from orchestrator.store.study_file import repair
from orchestrator.sweep._tune_search import StudySearch
from tests.refusal import refused
from tests.sweep.studies import begin, resumed

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "half": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "another thing": lambda _: b"[1, 2]",
}


def result(epoch: int, value: float, **more: Any) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "metrics": json.dumps({"validation/accuracy": value, "seconds/data": 0.1}),
        **more,
    }


def played(folder: Path) -> tuple[Sweep, StudySearch]:
    """Return trials that are complete, stopped early, failed and running, with worker records."""
    sweep, searcher = begin(folder, "training.epochs=3")
    for number in range(4):
        searcher.suggest(str(number))
        records = [record(epoch, number) for epoch in range(1, 4)]
        place = sweep.trial_folder(number) / CHECKPOINT
        place.mkdir(parents=True)
        best = {"best_value": records[-1]["metrics"]["validation/accuracy"], "best_epoch": 3}
        (place / "progress.json").write_text(
            json.dumps({"record": records[-1], "records": records, **best})
        )
    for epoch, name in ((1, "0"), (2, "0"), (1, "3"), (2, "3")):
        searcher.on_trial_result(name, result(epoch, 0.1 * epoch + 0.01 * int(name)))
    searcher.on_trial_complete("0", result(3, 0.3))
    searcher.on_trial_complete("1", result(1, 0.11))
    searcher.on_trial_complete("2", {"failed": "it diverged"})
    return sweep, searcher


def record(epoch: int, number: int) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "metrics": {"validation/accuracy": 0.1 * epoch + 0.01 * number, "seconds/data": 0.1},
    }


def damage(file: Path, how: str) -> None:
    file.write_bytes(DAMAGES[how](file.read_bytes()))


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_trial_is_rebuilt(how: str, tmp_path: Path) -> None:
    sweep, _ = played(tmp_path)
    for number in range(4):
        damage(sweep.trial_folder(number) / "trial.json", how)
    found = Sweep.open(Store(tmp_path), "mine")
    assert list(found.damaged) == [sweep.trial_file(number) for number in range(4)]
    note = found.status()["notes"][0]["text"]
    assert re.match(
        r"trials/00000/trial.json is damaged: it .*: `python run.py sweep --resume mine` "
        r"writes it again",
        note,
    )
    found, _ = resumed(sweep)
    for number, trial in found.trials.items():
        old = sweep.trials[number]
        assert trial.state == {"running": "waiting"}.get(old.state, old.state)
        for name in ("params", "value", "history", "epochs", "metrics"):
            assert getattr(trial, name) == getattr(old, name), (number, name)
        assert "rebuilt" in trial.remarks and found.saved(trial)
    assert not found.damaged


def test_a_record_and_its_checkpoint_may_both_be_lost(tmp_path: Path) -> None:
    sweep, _ = played(tmp_path)
    (sweep.trial_folder(0) / CHECKPOINT / "progress.json").write_text("{")
    (sweep.trial_folder(0) / "trial.json").unlink()
    found, _ = resumed(sweep)
    assert (found.trials[0].state, found.trials[0].value, found.trials[0].history) == (
        "complete",
        0.3,
        [0.1, 0.2, 0.3],
    )


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("name", [FILE, COPY])
def test_one_of_the_two_files_of_a_sweep_is_enough(name: str, how: str, tmp_path: Path) -> None:
    sweep, _ = played(tmp_path)
    damage(sweep.folder / name, how)
    found = Sweep.open(Store(tmp_path), "mine")
    assert found.configuration == sweep.configuration and found.started == sweep.started
    with refused("--name", "mine", "a new name"):
        Sweep.require_new(sweep.folder)
    found.save()
    assert read_json(sweep.folder / FILE) == read_json(sweep.folder / COPY)
    (sweep.folder / FILE).unlink()
    assert (
        Store(tmp_path).sweeps() == ["mine"] and Sweep.open(Store(tmp_path), "mine").kind == "sweep"
    )


def test_damage_of_both_copies_is_reported(tmp_path: Path) -> None:
    sweep, _ = begin(tmp_path)
    for name in (FILE, COPY):
        damage(sweep.folder / name, "half")
    with refused(str(sweep.folder / FILE)) as refusal:
        Sweep.open(Store(tmp_path), "mine")
    assert isinstance(refusal.value.value, dict) and list(refusal.value.value) == [FILE, COPY]


def test_newer_format_is_reported(tmp_path: Path) -> None:
    sweep, _ = begin(tmp_path)
    for name in (FILE, COPY):
        write_json(
            sweep.folder / name,
            read_json(sweep.folder / name) | {"format": SWEEP.number + 1, "unheard": "of"},
        )
    with refused(str(sweep.folder / FILE), SWEEP.number + 1, (0, SWEEP.number)):
        Sweep.open(Store(tmp_path), "mine")


def test_an_older_version_is_read(tmp_path: Path) -> None:
    sweep, _ = begin(tmp_path)
    values = {
        key: value
        for key, value in read_json(sweep.folder / FILE).items()
        if key not in ("described", "checksum")
    }
    (sweep.folder / COPY).unlink()
    write_json(sweep.folder / FILE, values | {"format": 1})
    assert Sweep.open(Store(tmp_path), "mine").described == {}


def test_death_before_the_first_file_leaves_the_name_free(tmp_path: Path) -> None:
    (Store.open(tmp_path).root / "sweeps" / "mine").mkdir(parents=True)
    sweep, _ = begin(tmp_path)
    assert Sweep.open(Store(tmp_path), "mine").configuration == sweep.configuration


@pytest.mark.parametrize("left", [0, 1, 20, -1])
def test_incomplete_last_line_is_removed(left: int, tmp_path: Path) -> None:
    file = tmp_path / "study.log"
    whole = b'{"op_code":0,"study_name":"mine"}\n' * 2
    file.write_bytes(whole + whole[:left] if left > 0 else whole[:left] if left else whole)
    repair(file)
    assert file.read_bytes() == (whole if left >= 0 else whole[: len(whole) // 2])
    repair(tmp_path / "none.log")


def test_damaged_complete_last_line_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "study.log"
    file.write_bytes(b'{"op_code":0}\n\x00\x00\x00\n')
    repair(file)
    assert file.read_bytes() == b'{"op_code":0}\n'


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    sweep, _ = played(tmp_path)
    file = sweep.folder / "study.log"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([*lines[:4], lines[4][:9] + b"\n", *lines[5:]]))
    with refused(str(file), "line 5") as refusal:
        resumed(sweep)
    assert "\n" not in str(refusal.value)
    file.unlink()
    found, searcher = resumed(sweep)
    assert [trial.state for trial in found.trials.values()] == [
        "complete",
        "stopped_early",
        "failed",
        "running",
    ]
    assert searcher.study.trials[0].params == sweep.trials[0].params


def test_lock_of_a_dead_writer_is_ignored(tmp_path: Path) -> None:
    sweep, _ = begin(tmp_path)
    lock = sweep.folder / "study.log.lock"
    os.symlink(sweep.folder / "study.log", lock)
    _, searcher = resumed(sweep)
    assert not os.path.lexists(lock) and searcher.suggest("a")["number"] == 0
