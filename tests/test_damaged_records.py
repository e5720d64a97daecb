"""Damage every record of a store: no traceback, errors name file and key, and a resume repairs."""

import copy
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import run
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.provenance import describe
from orchestrator.reporting.importance import _trials
from orchestrator.store import run_lock
from orchestrator.store.environment import ENVIRONMENT, ENVIRONMENT_FILE
from orchestrator.store.progress import PROGRESS
from orchestrator.store.record_file import DamagedRecordError
from orchestrator.store.records import COPY, FILE, Sweep
from orchestrator.store.records import TRIAL as TRIAL_SCHEMA
from orchestrator.store.store import Store, read_json, write_json
from orchestrator.sweep._reconcile import LOST
from orchestrator.sweep.comparison.record import Comparison, comparison_folder
from orchestrator.sweep.driver import repair_records
from orchestrator.tracking._outbox import Outbox, OutboxReader
from orchestrator.tracking._runs import RUN_IDS, RUNS, Runs
from orchestrator.tracking._writes import LogPoints, RunProgress
from tests.mutated import WAYS, destroy, mutations, replace_value
from tests.refusal import refused
from tests.report.report_made import give_data, give_weights, made

TRIALS, COUNT = 10, 15
TRIAL, OTHER = "trials/00002/trial.json", "trials/00000/trial.json"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with a finished sweep and all records; tests damage its copy `store`."""
    root: Path = tmp_path_factory.mktemp("damaged") / "kept"
    sweep = made(root, TRIALS)
    give_data(root, sweep)
    best = sweep.best()
    assert best is not None
    give_weights(sweep, best.number)
    checkpoint = sweep.trial_folder(best.number) / "checkpoint"
    shutil.copy(checkpoint / "best.safetensors", checkpoint / "student.safetensors")
    records: list[dict[str, Any]] = [
        {"epoch": epoch, "metrics": {"validation/accuracy": value}} for epoch, value in best.known
    ]
    PROGRESS.write(
        checkpoint / "progress.json",
        {"record": records[-1], "records": records, "best_value": 0.9, "best_epoch": 3},
    )
    ENVIRONMENT.write(sweep.folder / ENVIRONMENT_FILE, describe())
    RUN_IDS.write(sweep.folder / RUNS, {"parent": "one", "0": "two"})
    run_lock.DRIVER.write(
        sweep.folder / run_lock.HEARTBEAT_FILE,
        {"host": "elsewhere", "pid": 4, "since": time.time() - 1e6},
    )
    outbox = Outbox(sweep.folder / "outbox.jsonl")
    outbox.append(
        LogPoints(run="0", points={"0": [("a", 0.5, 1, 1)]}, progress=RunProgress(epoch=1))
    )
    outbox.close()
    Comparison(
        sweep.configuration,
        3,
        chosen={"kd": {"trial": 1, "value": 0.5, "settings": {}}},
        folder=root / "comparisons/two",
    ).save()
    return root


@pytest.fixture
def store(kept: Path) -> Store:
    root = kept.with_name("store")
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(kept, root)
    return Store(root)


def call(store: Store, *command: str) -> tuple[int, str]:
    """Return exit code and output of a command, without a traceback."""
    result = CliRunner().invoke(run.app, [*command, "--store", str(store.root)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    assert "Traceback" not in result.output and "\x1b" not in result.output, result.output
    return result.exit_code, result.output


def file_of(store: Store, name: str) -> Path:
    return next((store.root / "sweeps" / "mine").glob(name))


READ = {  # by file: the fast commands that read it and name it
    FILE: (("status", "mine", "--json"), ("watch", "mine", "--once"), ("status",)),
    TRIAL: (("status", "mine", "--json"), ("watch", "mine", "--once")),
    run_lock.HEARTBEAT_FILE: (("watch", "mine", "--once"),),
}


@pytest.mark.parametrize("name", READ)
def test_the_rest_can_be_read_and_the_damage_is_named(name: str, store: Store) -> None:
    file, copy = file_of(store, name), store.sweep("mine") / COPY
    content = file.read_bytes()
    for what, changed in [*mutations(content, COUNT, seed=1), *((how, None) for how in WAYS)]:
        if changed is None:
            destroy(file, what)
        else:
            file.write_bytes(changed)
        for command in READ[name]:
            code, output = call(store, *command)
            newer = "99" in what
            assert code == (
                2 if newer and name != run_lock.HEARTBEAT_FILE and len(command) > 1 else 0
            ), (what, output)
            is_damaged = changed is None or (
                b'"checksum"' in changed and json.loads(changed) != json.loads(content)
            )
            assert (
                not is_damaged
                or newer
                or name == run_lock.HEARTBEAT_FILE
                or f"{name} is damaged: " in output
            ), (what, output)
        if name == FILE:
            shutil.copy(
                file, copy
            ) if file.is_file() and file.stat().st_size < 2**20 else copy.unlink()
            code, output = call(store, "status", "mine")
            assert code == 0 or FILE in output, what
            copy.write_bytes(content)
        if file.is_dir():
            file.rmdir()
        file.write_bytes(content)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"number": "2"}, "number = '2' "),
        ({"number": 3}, "number = 3 "),
        ({"value": float("inf")}, "value = inf "),
        ({"value": None, "state": "complete"}, "value = null "),
        ({"history": [0.5, "x"]}, "history.1 = 'x' "),
        ({"history": [0.5] * 50}, "history has 50 "),
        ({"params": {"kd.temperature": float("nan")}}, "params.kd.temperature = nan "),
        ({"params": None}, "params = null "),
        (
            {"params": {"training.learning_rate": "fast"}},
            "params: training.learning_rate = 'fast' ",
        ),
        ({"params": {"training.a.b": 1}}, "params: training.a.b "),
        ({"state": "done"}, "state = 'done' "),
        ({"epochs": 10**12}, "epochs = 1000000000000 "),
        ({"changes": [{"epoch": 1, "source": 2}]}, "changes.0.params "),
        ({"values": [0.5, 0.5]}, "values has 2 "),
        ({"surprise": 1}, "surprise "),
    ],
)
def test_damage_without_a_checksum_names_the_key(
    change: dict[str, Any], reason: str, store: Store
) -> None:
    file = file_of(store, TRIAL)
    write_json(file, read_json(file) | {"state": "complete", "epochs": 9} | change)
    code, output = call(store, "status", "mine", "--json")
    note = json.loads(output[output.index("{\n") : output.rindex("}") + 1])["notes"][-1]["text"]
    assert code == 0 and f"{TRIAL} is damaged: {reason}" in note, output
    whole = read_json(file_of(store, OTHER)) | {"number": 2}
    write_json(file, {name: value for name, value in whole.items() if name != "params"})
    assert f"{TRIAL} is damaged: params is missing" in call(store, "status", "mine")[1]


@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b'{"number": "2", "params": {}}', "number"),
        (b'{"number": 2}', "params"),
        (b'{"number": 2, "params": {}, "surprise": 1}', "surprise"),
        (b'{"number": 2, "params": {}, "checksum": "0"}', "checksum"),
        (b'{"number": 2, "params": {}, "format": -1}', "format"),
    ],
)
def test_a_damage_error_keeps_file_and_key_when_pickled(
    content: bytes, key: str, tmp_path: Path
) -> None:
    with refused(str(tmp_path / "trial.json"), key, error=DamagedRecordError) as refusal:
        TRIAL_SCHEMA.parse(content, tmp_path / "trial.json")
    copied = copy.copy(refusal.value)  # through __reduce__, as in pickle
    assert (copied.field, copied.value, str(copied)) == (
        refusal.value.field,
        key,
        str(refusal.value),
    )


def test_a_reformatted_record_is_valid_and_a_changed_digit_is_damage(store: Store) -> None:
    file = file_of(store, TRIAL)
    values = json.loads(file.read_bytes())
    file.write_text(json.dumps(values))
    assert not Sweep.open(store, "mine").damaged
    file.write_text(json.dumps(values | {"value": values["value"] + 1e-9}, indent=1))
    reason = Sweep.open(store, "mine").damaged[file]
    assert reason == "its content was changed: its checksum does not match"


@pytest.mark.parametrize(
    ("name", "command", "code"),
    [
        ("data.json", ("report", "mine"), 0),
        ("data.json", ("export", "mine"), 0),
        (ENVIRONMENT_FILE, ("report", "mine"), 0),
        (TRIAL, ("report", "mine"), 0),
        (OTHER, ("importance", "mine"), 1),
        (FILE, ("importance", "mine"), 1),
        (RUNS, ("report", "mine"), 0),
        ("trials/*/checkpoint/progress.json", ("export", "mine"), 2),
        ("study.log", ("importance", "mine"), 2),
        ("study.log", ("report", "mine"), 0),
    ],
)
def test_other_commands_name_the_damaged_file(
    name: str, command: tuple[str, ...], code: int, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    file = file_of(store, name)
    store.database.touch()
    if name == "study.log":
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join([*lines[:3], '{"op_code": 5, "worker_id": []}\n', *lines[4:]]))
    else:
        write_json(
            file, replace_value(read_json(file), next(iter(read_json(file).items()))[:1], [[]])
        )
    found, output = call(store, *command)
    page = store.reports / "mine.html"
    assert found == code, output
    assert file.name in output + caplog.text + (page.read_text() if page.is_file() else ""), output


@pytest.mark.parametrize("name", [TRIAL, OTHER, FILE])
def test_a_resume_renames_a_damaged_record_and_rebuilds_it(name: str, store: Store) -> None:
    before = Sweep.open(store, "mine")
    file = file_of(store, name)
    content = file.read_bytes()
    for what, changed in [
        *((what, data) for what, data in mutations(content, 8, 2)),
        *((how, None) for how in ("", "half", "a folder")),
    ]:
        if changed is None:
            destroy(file, what)
        else:
            file.write_bytes(changed)
        found, notes = Sweep.open(store, "mine"), list[str]()
        was_damaged = bool(found.damaged)
        repair_records(store, found, notes.append)
        after = Sweep.open(store, "mine")
        assert not after.damaged and sorted(after.trials) == sorted(before.trials), what
        assert not was_damaged or (
            len(notes) == 1 and f"{name} is damaged (" in notes[0] and "was renamed to" in notes[0]
        ), notes
        for number, trial in after.trials.items():
            old = before.trials[number]
            assert (trial.params, trial.state, trial.value, trial.history) == (
                old.params,
                old.state,
                old.value,
                old.history,
            ), what
        if was_damaged:
            aside = next(file.parent.glob(f"{file.name}.damaged*"))
            shutil.rmtree(aside) if aside.is_dir() else aside.unlink()
        file.write_bytes(content)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (
            "params",
            {"training.learning_rate": 0.123},
            "params.training.learning_rate = 0.123, and the study has ",
        ),
        ("history", [0.1], "history has 0.1 after epoch 1, and the study "),
        ("state", "failed", "state = failed, and the study has complete"),
        ("value", 0.999, "value = 0.999, and the study has "),
    ],
)
def test_a_record_that_contradicts_the_study_is_rebuilt(
    key: str, value: Any, reason: str, store: Store
) -> None:
    before = Sweep.open(store, "mine").trials[0]
    file = file_of(store, OTHER)
    values = read_json(file)
    write_json(file, values | {key: values[key] | value if isinstance(value, dict) else value})
    notes: list[str] = []
    found = Sweep.open(store, "mine")
    assert not found.damaged, "only the study contradicts the record"
    repair_records(store, found, notes.append)
    trial = Sweep.open(store, "mine").trials[0]
    assert f"{OTHER} is damaged ({reason}" in notes[0] and trial.notes == [LOST]
    assert (trial.params, trial.state, trial.value, trial.history) == (
        before.params,
        before.state,
        before.value,
        before.history,
    )
    assert read_json(file.with_name("trial.json.damaged"))[key] != values[key]
    repair_records(store, found, notes.append)
    assert len(notes) == 1, "once"


def test_a_trial_that_the_sweep_cannot_have_is_set_aside(store: Store) -> None:
    folder = store.sweep("mine") / "trials" / "99999999"
    shutil.copytree(folder.with_name("00000"), folder)
    write_json(folder / "trial.json", read_json(folder / "trial.json") | {"number": 99_999_999})
    notes: list[str] = []
    repair_records(store, Sweep.open(store, "mine"), notes.append)
    assert "number = 99999999 is not allowed: the sweep has 10 trials" in notes[0]
    assert len(Sweep.open(store, "mine").trials) == TRIALS


def test_one_damaged_sweep_does_not_hide_the_others(store: Store) -> None:
    shutil.copytree(store.sweep("mine"), store.sweep("other"))
    for name in (FILE, COPY):
        write_json(store.sweep("mine") / name, read_json(store.sweep("mine") / name) | {"kind": 5})
    code, output = call(store, "status")
    assert (
        code == 0
        and "sweep.json: kind = 5 is not allowed" in " ".join(output.split())
        and "other" in output
    )
    assert call(store, "status", "mine")[0] == 2


def test_a_comparison_is_refused_in_a_sentence(store: Store) -> None:
    file = comparison_folder(store, "two") / "comparison.json"
    content = file.read_bytes()
    for what, changed in [*mutations(content, 2 * COUNT, 3), *((how, None) for how in WAYS)]:
        if changed is None:
            destroy(file, what)
        else:
            file.write_bytes(changed)
        try:
            Comparison.open(store, "two")
            assert changed is not None and b'"checksum"' not in changed, what
        except ConfigurationError as error:
            assert error.field == str(file), what
        if file.is_dir():
            file.rmdir()
        file.write_bytes(content)


@pytest.mark.parametrize("index", [0, 1, 4, -1])
def test_an_invalid_line_of_the_study_is_named(index: int, store: Store) -> None:
    file, found = file_of(store, "study.log"), Sweep.open(store, "mine")
    lines = file.read_bytes().splitlines(keepends=True)
    damages = 0
    for what, changed in mutations(lines[index], COUNT, seed=index):
        file.write_bytes(
            b"".join(
                [
                    *lines[:index],
                    json.dumps(json.loads(changed)).encode() + b"\n",
                    *lines[index:][1:],
                ]
            )
        )
        for read in (
            lambda: _trials(found),
            lambda: repair_records(store, Sweep.open(store, "mine"), lambda _: None),
        ):
            try:
                read()
            except ConfigurationError as error:  # an existing direction, but not that of the sweep
                damages += 1
                assert error.field in (
                    str(file),
                    "search.direction",
                    "search.objectives",
                ) and "\n" not in str(error), what
                assert not isinstance(error, DamagedRecordError) or str(error.value).startswith(
                    "line "
                ), what
    assert damages


LINES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "no run": lambda write: write.pop("run"),
    "told is a text": lambda write: write.update(told="all"),
    "an epoch is a text": lambda write: write.update(told={"epoch": "1"}),
    "points are a list": lambda write: write.update(points=[1]),
    "a point is too short": lambda write: write.update(points={"0": [["a", 1.0]]}),
    "tags are numbers": lambda write: write.update(do="tags", tags={"a": 1}),
    "another kind": lambda write: write.update(do="other"),
    "no kind": lambda write: write.pop("do"),
    "all told is a list": lambda write: write.update(all_told=[1]) or write.pop("do"),
}


@pytest.mark.parametrize("what", LINES)
def test_an_invalid_line_of_the_outbox_is_skipped(what: str, tmp_path: Path) -> None:
    good = {
        "do": "points",
        "run": "0",
        "points": {"0": [["a", float("nan"), 1, 1]]},
        "told": {"epoch": 1},
    }
    bad = json.loads(json.dumps(good))
    LINES[what](bad)
    file = tmp_path / "outbox.jsonl"
    Outbox(file).close()
    with file.open("a") as stream:
        stream.write("".join(json.dumps(line) + "\n" for line in (bad, good)))
    outbox, reader = Outbox(file), OutboxReader(file)
    assert [write is not None for _, write in reader.peek()] == [False, True]
    assert outbox.run_progress == {"0": RunProgress(epoch=1)}
    reader.close()
    outbox.close()


def test_ids_of_runs_that_are_damaged_are_looked_for(store: Store) -> None:
    file = store.sweep("mine") / RUNS
    write_json(file, {"parent": 5})
    runs = Runs(store, Sweep.open(store, "mine"))
    assert (
        runs.ids_incomplete
        and runs.ids == {}
        and file.with_name(f"{RUNS}.damaged").is_file()
        and not file.exists()
    )
