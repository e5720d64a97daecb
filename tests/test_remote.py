"""Test a store with a file:// URI on two nodes with separate homes: locations, copies, refusals."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import run
from orchestrator.config.loader import load
from orchestrator.config.schema import Configuration
from orchestrator.config.trial import CHECKPOINT, TrialSpec
from orchestrator.core import disk
from orchestrator.core.context import TrialContext
from orchestrator.core.errors import ConfigurationError, PreflightError
from orchestrator.core.reports import EpochRecord
from orchestrator.store import remote as remotes
from orchestrator.store.checkpoint_storage import LIGHT, RemoteCheckpoint, checkpoint_storage
from orchestrator.store.progress import Progress, read_progress
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.remote import Remote, check_uri, local_folder
from orchestrator.store.staging import fetch_once, publish, stage_on_node
from orchestrator.store.store import Store, write_json
from orchestrator.sweep.checkpoint_retention import remove_losers
from orchestrator.training import checkpoint
from tests.process_group import on_every_rank

AtHome = Callable[[str], None]


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AtHome:
    """Return a function that moves this process to a node."""

    def go(node: str) -> None:
        monkeypatch.setenv("HOME", str(tmp_path / "homes" / node))

    monkeypatch.setattr(remotes, "PAUSE_S", 0.001)
    monkeypatch.setattr(disk, "POLL_S", 0.001)
    go("driver")
    return go


@pytest.fixture
def uri(tmp_path: Path, at_home: AtHome) -> str:
    return (tmp_path / "shared").as_uri()


def made(epoch: int) -> checkpoint.Checkpoint:
    state = {"weight": torch.full((3,), float(epoch))}
    return checkpoint.Checkpoint(
        state,
        dict(state),
        {},
        {"state": torch.ones(1)},
        Progress(EpochRecord(epoch, {}), best_value=0.5, best_epoch=epoch),
        trace=dict(state),
    )


def save(where: RemoteCheckpoint, epoch: int) -> None:
    checkpoint.save(where, {"a": made(epoch)}, TrialContext())


def epoch_of(where: RemoteCheckpoint, letters: str = "a") -> int | None:
    loaded = checkpoint.load(where, letters, torch.device("cpu"))
    return loaded["a"].progress.record.epoch if loaded else None


def objects(tmp_path: Path, trial: RemoteCheckpoint) -> list[str]:
    """Return the folders of checkpoints at the URI."""
    return sorted(
        path.name for path in (tmp_path / "shared" / trial.name).iterdir() if path.is_dir()
    )


@pytest.mark.parametrize(
    "given",
    ["s3://bucket/some/where", "gs://bucket", "file:///data/x", "s3://b/x?region=eu-west-1"],
)
def test_a_uri_stays_what_it_is_and_has_a_folder_of_its_own(
    given: str, at_home: AtHome, tmp_path: Path
) -> None:
    assert check_uri(given + ("" if "?" in given else "/")) == given
    store = Store.named(given)
    assert store.uri == given and store.option.endswith(given if "?" not in given else f"'{given}'")
    assert store.root.parent == tmp_path / "homes/driver/.cache/distillation-orchestrator/stores"
    assert store.root != local_folder(given + "x")


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("s3://AKIA:geheim@bucket/x", "credentials come from the environment"),
        ("s3://geheim@bucket/x", "credentials come from the environment"),
        ("s3://bucket/x?secret_key=geheim", r"\?secret_key=\.\.\. is not allowed.*region"),
        ("s3://bucket/x#geheim", "is not allowed"),
        ("ftp://bucket/geheim", "has an unsupported scheme.*s3://BUCKET"),
        ("s3:///x", "not the location of a store"),
        ("s3://bucket/../x", "not the location of a store"),
        ("file://host/x", "not the location of a store"),
        ("file:///", "not the location of a store"),
    ],
)
def test_an_invalid_store_uri_is_refused_without_its_secret(given: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as raised:
        Store.named(given)
    assert "geheim" not in str(raised.value) and "\n" not in str(raised.value)


def test_a_store_that_cannot_be_reached_is_refused_in_bounded_time(
    monkeypatch: pytest.MonkeyPatch, uri: str, tmp_path: Path
) -> None:
    monkeypatch.setattr(remotes, "ANSWER_S", 0.01)
    monkeypatch.setattr(Remote, "write_json", lambda *_: time.sleep(0.5))
    with pytest.raises(
        PreflightError, match=r"no response within 0.01 s.*credentials in the environment"
    ):
        Store.open(uri)
    monkeypatch.undo()
    (tmp_path / "file").touch()
    with pytest.raises(PreflightError, match=r"cannot be used \(.*check that the bucket exists"):
        Store.open((tmp_path / "file" / "below").as_uri())


def test_a_checkpoint_written_on_one_node_is_read_on_another(
    tmp_path: Path, uri: str, at_home: AtHome
) -> None:
    store = Store.open(uri)
    at_home("one")
    trial = RemoteCheckpoint(local_folder(uri) / "sweeps/mine/trials/00001", local_folder(uri), uri)
    for epoch in (1, 2, 3):
        save(trial, epoch)
        assert len(objects(tmp_path, trial)) == min(epoch, 2), "the one before stays, older ones go"
    assert list(trial.trial.iterdir()) == [], "nothing stays on the node"
    at_home("two")
    other = RemoteCheckpoint(local_folder(uri) / "sweeps/mine/trials/00001", local_folder(uri), uri)
    assert other.trial != trial.trial and epoch_of(other) == 3
    at_home("driver")
    mine = checkpoint_storage(store, store.sweep("mine") / "trials/00001")
    mine.download(LIGHT)
    assert {path.name for path in (mine.trial / CHECKPOINT).iterdir()} == {
        "trace.safetensors",
        "progress.json",
    }
    mine.download()
    assert (mine.trial / CHECKPOINT / "best.safetensors").exists()


@pytest.mark.parametrize(
    "damage", ["cut", "missing", "pointer", "no pointer", "died before the pointer"]
)
def test_a_damaged_checkpoint_is_skipped(tmp_path: Path, uri: str, damage: str) -> None:
    Store.open(uri)
    trial = RemoteCheckpoint(local_folder(uri) / "trials/1", local_folder(uri), uri)
    save(trial, 1)
    save(trial, 2)
    home = tmp_path / "shared/trials/1"
    newest = next(home.glob(f"{CHECKPOINT}-2-*"))
    if damage == "cut":
        (newest / "student.safetensors").write_bytes(
            (newest / "student.safetensors").read_bytes()[:-1]
        )
    elif damage == "missing":
        shutil.rmtree(newest)
    elif damage == "pointer":
        (home / "latest.json").write_text('["checkpoint-2')
    elif damage == "no pointer":
        (home / "latest.json").unlink()
    else:
        shutil.copytree(newest, home / f"{CHECKPOINT}-3-00000000")
        (home / f"{CHECKPOINT}-3-00000000" / "optimizer.pt").unlink()
    assert epoch_of(trial) == (1 if damage in ("cut", "missing") else 2)
    save(trial, 4)
    assert epoch_of(trial) == 4 and len(objects(tmp_path, trial)) == 2, (
        "what a dead writer left goes"
    )


def test_a_stripped_trial_keeps_the_data_of_its_figures(tmp_path: Path, uri: str) -> None:
    Store.open(uri)
    trial = RemoteCheckpoint(local_folder(uri) / "trials/1", local_folder(uri), uri)
    save(trial, 1)
    save(trial, 2)
    trial.remove_large_files()
    files = [path.name for path in (tmp_path / "shared/trials/1").rglob("*") if path.is_file()]
    assert sorted(files) == ["latest.json", "progress.json", "trace.safetensors"]
    trial.download(LIGHT)
    assert read_progress(trial.trial / CHECKPOINT).record.epoch == 2
    trial.remove()
    assert not list((tmp_path / "shared/trials").rglob("*.*"))


def test_objects_of_losers_are_removed_and_an_outage_leaves_them_for_later(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(uri)
    sweep = Sweep.create(store.sweep("mine"), load(None, ["search.keep_checkpoints=1"]), "sweep")
    for number in range(3):
        sweep.save_trial(Trial(number, {}, state="complete", value=0.1 * number))
        trial = checkpoint_storage(store, sweep.trial_folder(number))
        assert isinstance(trial, RemoteCheckpoint)
        save(trial, 1)

    def with_weights() -> list[str]:
        return sorted(path.parts[-3] for path in (tmp_path / "shared").rglob("student.safetensors"))

    with monkeypatch.context() as patch:
        patch.setattr(
            Remote,
            "remove_file",
            lambda *_: (_ for _ in ()).throw(OSError("Could not connect to the endpoint")),
        )
        remove_losers(store, sweep)
    assert with_weights() == ["00000", "00001", "00002"]
    remove_losers(store, sweep)
    assert with_weights() == ["00002"]


def pair(rank: int, world_size: int, uri: str, home: str) -> tuple[int, list[str]]:
    """Run each rank on its own node, with one student each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", f"{home}/{rank}")
        patch.setattr(remotes, "PAUSE_S", 0.001)
        patch.setattr(disk, "POLL_S", 0.001)
        reason: list[str] = []
        context = TrialContext(rank, world_size, torch.device("cpu"), note=reason.append)
        trial = RemoteCheckpoint(local_folder(uri) / "trials/1", local_folder(uri), uri)
        checkpoint.save(trial, {"ab"[rank]: made(5 + rank)}, context)
        put, outages = Remote.put, iter(range(2))

        def away(*given: Any, **named: Any) -> None:
            if rank == 1 and next(outages, None) is not None:
                raise OSError("Could not connect to the endpoint")
            put(*given, **named)

        patch.setattr(Remote, "put", away)
        checkpoint.save(trial, {"ab"[rank]: made(7 + rank)}, context)
        loaded = checkpoint.load(trial, "ab", torch.device("cpu"))
        assert loaded is not None
        return loaded["a"].progress.record.epoch * 100 + loaded["b"].progress.record.epoch, reason


def test_a_pair_on_two_nodes_writes_one_checkpoint_and_outlives_an_outage(
    tmp_path: Path, uri: str
) -> None:
    Store.open(uri)
    first, second = on_every_rank(2, pair, uri, str(tmp_path / "homes"))
    assert first[0] == second[0] == 708
    assert (
        len(first[1]) == 2
        and "does not respond (Could not connect" in first[1][0]
        and "access continues" in first[1][1]
    )
    assert second[1] == []


def test_shared_inputs_are_uploaded_once_and_downloaded_once_per_node(
    tmp_path: Path, uri: str, at_home: AtHome
) -> None:
    store = Store.open(uri)
    data, teacher = store.root / "data/abc", store.teachers / "def"
    for folder, mark in ((data, "data.json"), (teacher, "teacher.json")):
        write_json(folder / mark, {"name": mark})
        (folder / "values.bin").write_bytes(bytes(1000))
        publish(store, folder, mark)
    (data / "values.bin").write_bytes(b"changed")
    publish(store, data, "data.json")
    folders = store.folders(store.sweep("mine") / "trials", data, [teacher])
    spec = TrialSpec.numbered(1, Configuration(), folders)
    assert stage_on_node(spec, TrialContext()) == spec, "the driver has what it made"
    at_home("other")
    here = stage_on_node(spec, TrialContext())
    root = tmp_path / "homes/other"
    assert here.teacher is not None and all(
        path.is_relative_to(root) for path in (here.folder, here.data, here.teacher)
    )
    assert (here.data / "values.bin").read_bytes() == bytes(1000) and (
        here.teacher / "teacher.json"
    ).exists()
    shutil.rmtree(tmp_path / "shared")
    assert stage_on_node(spec, TrialContext()) == here, "and has it from now on"
    at_home("third")
    with pytest.raises(PreflightError, match=r"data/abc is not in file:///"):
        stage_on_node(spec, TrialContext())


def test_an_interrupted_download_leaves_no_complete_copy(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(uri)
    (store.root / "data/abc").mkdir(parents=True)
    for name in ("data.json", "values.bin"):
        (store.root / "data/abc" / name).write_text(name)
    publish(store, store.root / "data/abc", "data.json")

    def broken(self: Remote, name: str, target: Path, heartbeat: Any) -> None:
        if name.endswith("values.bin"):
            raise OSError("connection reset")
        target.write_text("half")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="connection reset"):
        patch.setattr(Remote, "_get", broken)
        fetch_once(Remote(uri), "data/abc", tmp_path / "node/data/abc", "data.json")
    assert not (tmp_path / "node/data/abc").exists()
    assert (
        fetch_once(Remote(uri), "data/abc", tmp_path / "node/data/abc", "data.json") / "values.bin"
    ).read_text() == "values.bin"


def test_a_training_with_a_uri_is_exported_and_the_weights_lie_at_the_uri(
    tmp_path: Path, uri: str
) -> None:
    def call(*words: str) -> str:
        result = CliRunner().invoke(run.app, [*words, "--store", uri])
        assert result.exit_code == 0, result.output
        return result.output

    settings = (
        "training.epochs=2",
        "teacher.training.epochs=1",
        "student.name=cnn",
        "student.width=4",
    )
    call(
        "train",
        "--local",
        "--name",
        "mine",
        *(part for pair in settings for part in ("--set", pair)),
    )
    store = Store.named(uri)
    assert sorted(path.name for path in (tmp_path / "shared").iterdir()) == [
        "data",
        "sweeps",
        "teachers",
    ]
    assert (
        not list(store.sweep("mine").rglob("student.safetensors"))
        and (store.root / "mlflow.db").exists()
    )
    assert list(store.root.glob("artifacts/**/figures/*.png")), "drawn from what was fetched"
    assert "complete" in call("status", "mine", "--json") and "student a" in call("export", "mine")
    assert (store.exports / "mine-0-a" / "model.safetensors").exists()
    assert not list((tmp_path / "shared").glob("teachers/*.fitting/**/*.*"))


@pytest.mark.parametrize("scheduler", ["pbt", "hyperband"])
def test_schedulers_that_copy_checkpoints_are_refused_beforehand(
    uri: str, scheduler: str, tmp_path: Path
) -> None:
    result = CliRunner().invoke(
        run.app, ["sweep", "--scheduler", scheduler, "--store", uri, "--dry-run"]
    )
    assert result.exit_code == 2 and "copies checkpoint folders" in result.output + (
        result.stderr or ""
    )


def test_a_uri_without_runs_of_this_machine_is_refused(uri: str) -> None:
    result = CliRunner().invoke(run.app, ["status", "mine", "--store", uri])
    assert result.exit_code == 2 and "no runs that were started on this machine" in " ".join(
        (result.output + (result.stderr or "")).split()
    )
