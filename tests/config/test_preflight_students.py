"""Test refusals of several students, one sentence each, and their plan."""

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from orchestrator.config import sizes
from orchestrator.config.loader import load
from orchestrator.config.schema import Configuration
from orchestrator.models.build import MODELS, build
from orchestrator.models.weights import save_weights
from orchestrator.store.store import Store
from orchestrator.sweep.preflight import preflight
from orchestrator.sweep.preflight._local import check_local
from orchestrator.sweep.preflight._students import check_peers
from orchestrator.sweep.preflight.configuration import check_network, check_search, check_train
from orchestrator.sweep.preflight.preflight import prepare_run, show_plan
from tests.refusal import refused

PEER = "peers.b.network.name=cnn"
ACTORS, ONE = "resources.peer_placement=actors", "resources.peer_placement=colocated"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ((PEER, "resources.workers=3"), ("resources.workers", 3, "a multiple of 2")),
        ((PEER, ACTORS), ("resources.workers", 1, "a multiple of 2")),
        (
            (PEER, "peers.c.network.name=mlp", "resources.workers=4"),
            ("resources.workers", 4, "a multiple of 3"),
        ),
        ((PEER, ONE, "resources.workers=2"), ("resources.workers", 2, (1, 1))),
        ((ACTORS,), ("resources.peer_placement", "actors", (None,))),
        ((ONE,), ("resources.peer_placement", "colocated", (None,))),
        ((PEER, "peers.b.cpus_per_worker=2"), ("peers.b.cpus_per_worker", 2.0, (None,))),
        ((PEER, ONE, "peers.b.gpus_per_worker=0"), ("peers.b.gpus_per_worker", 0.0, (None,))),
    ],
)
def test_workers_that_cannot_be_divided_among_students_are_refused(
    changes: tuple[str, ...], expected: tuple[Any, ...]
) -> None:
    configuration = load(None, list(changes))
    for check in (check_peers, check_train, check_search):
        with refused(*expected) as refusal:
            check(configuration)
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("resources.workers=3",),
        (PEER,),
        (PEER, ONE),
        (PEER, "resources.workers=2"),
        (
            PEER,
            ACTORS,
            "resources.workers=4",
            "peers.b.cpus_per_worker=0.5",
            "peers.b.gpus_per_worker=0",
        ),
        (PEER, "peers.c.network.name=mlp", "resources.workers=6"),
    ],
)
def test_workers_that_can_be_divided_among_students_pass(changes: tuple[str, ...]) -> None:
    check_peers(load(None, list(changes)))


def test_one_process_trains_one_student_or_all_of_them() -> None:
    check_local(load(None, ["resources.workers=2"]), "train")
    check_local(load(None, [PEER]), "sweep")
    for kind, pairs in (
        ("train", [PEER, "resources.workers=2"]),
        ("sweep", ["resources.workers=2"]),
    ):
        with refused("resources.workers", 2, (1, 1)):
            check_local(load(None, pairs), kind)


@pytest.mark.parametrize("scheduler", ["hyperband", "pbt"])
def test_schedulers_that_pause_trials_need_ray(scheduler: str) -> None:
    configuration = load(None, [f"search.scheduler={scheduler}"])
    check_local(configuration, "train")
    with refused("search.scheduler", scheduler, ("asha", "median", "none")) as refusal:
        check_local(configuration, "sweep")
    assert "--local" not in str(refusal.value), "Python has no such option"


Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Return a function that sets the number of CPUs of this machine."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def make(cpus: float) -> None:
        monkeypatch.setattr(preflight, "local_resources", lambda: {"CPU": cpus, "GPU": 0.0})

    return make


def shown(
    store: Path, configuration: Configuration, kind: str = "train", local: bool = False
) -> dict[str, str]:
    """Return the lines of the plan by their names."""
    console = Console(file=StringIO(), width=300)
    show_plan(Store(store), configuration, kind, local, console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    indent = len(lines[0]) - len(lines[0].removeprefix("data").lstrip())
    return {line[:indent].strip(): line[indent:] for line in lines}


def test_the_plan_lists_every_student(digits_store: Path, machine: Machine) -> None:
    machine(7.0)
    own = (
        "peers.b.cpus_per_worker=0.5",
        "peers.b.training.learning_rate=0.1",
        "resources.workers=4",
    )
    lines = shown(digits_store, load(None, [PEER, *own]), "sweep")
    assert lines["student a"] == "mlp (width=16, depth=1)" and lines["student b"] == "cnn", (
        "its rate is searched"
    )
    assert lines["groups"] == (
        "2 x 4 workers, 2 for student a of 1 CPU and 0 GPU, 2 for student b of 0.5 CPU and 0 GPU; "
        "floor(7 CPU / 3 (2 x 1 of a + 2 x 0.5 of b) per group) = 2 fit, 20 trials"
    )
    assert lines["trials"].endswith("maximize validation/accuracy (mean of a, b)")
    assert (
        shown(digits_store, load(None, [PEER, *own]), "train")["student b"]
        == "cnn, learning_rate 0.1"
    )
    held = ("search.freeze=[peers.b.training.learning_rate]", "peers.b.training.momentum=0.5")
    chosen = "search.extra_space={peers.b.training.momentum: [0.5, 0.9]}"
    assert (
        shown(digits_store, load(None, [PEER, *own, *held, chosen]), "sweep")["student b"]
        == "cnn, learning_rate 0.1"
    )
    lines = shown(digits_store, load(None, [PEER, "search.students=b"]), "sweep")
    assert lines["trials"].endswith("maximize validation/accuracy (of b)")
    lines = shown(digits_store, load(None, [PEER]))
    assert lines["groups"].startswith(
        "1 x 1 workers of 1 CPU and 0 GPU for students a, b; floor(7 CPU / 1 per group) = 7 fit"
    )
    assert shown(digits_store, load(None, []))["student"] == "mlp (width=16, depth=1)"


def test_a_worker_that_this_machine_cannot_hold_is_refused(
    digits_store: Path, machine: Machine
) -> None:
    machine(2.0)
    configuration = load(None, [PEER, "peers.b.cpus_per_worker=8", "resources.workers=2"])
    with refused("peers.b.cpus_per_worker", 8, (0, 2)):
        prepare_run(Store(digits_store), configuration, "train", local_processes=0)


def test_the_bytes_of_checkpoints_are_those_of_all_students(
    digits_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def counted(parameters: int, trials: int) -> int:
        counts.append(parameters)
        return 0

    monkeypatch.setattr(sizes, "checkpoint_bytes", counted)
    configuration = load(None, [PEER])
    prepare_run(Store(digits_store), configuration, "train", local_processes=1)
    shape = (1, 8, 8)
    each = [
        check_network(network, "student", 10, shape)
        for network, _ in configuration.students.values()
    ]
    assert counts == [sum(each)] and min(each) > 0


def test_a_peer_with_an_unknown_network_is_refused(digits_store: Path) -> None:
    with refused("peers.b.network.name", "resnet9", tuple(MODELS)):
        prepare_run(
            Store(digits_store),
            load(None, ["peers.b.network.name=resnet9"]),
            "train",
            local_processes=1,
        )


@pytest.mark.parametrize(
    ("field", "weights"),
    [("student.weights", "student"), ("peers.b.network.weights", "peers.b.network")],
)
def test_students_that_do_not_share_the_classes_are_refused(
    field: str, weights: str, digits_store: Path, tmp_path: Path
) -> None:
    files = {}
    for classes in (10, 12):
        torch.manual_seed(classes)
        files[classes] = tmp_path / f"{classes}.safetensors"
        save_weights(build("mlp", classes, (1, 8, 8), {"width": 16, "depth": 1}), files[classes])
    networks = ["student.name=mlp", "student.width=16", "student.depth=1"]
    networks += ["peers.b.network.name=mlp", "peers.b.network.width=16", "peers.b.network.depth=1"]
    store = Store(digits_store)
    prepare_run(
        store, load(None, [*networks, f"{weights}.weights={files[10]}"]), "train", local_processes=1
    )
    with refused(field, str(files[12])) as refusal:
        prepare_run(
            store,
            load(None, [*networks, f"{weights}.weights={files[12]}"]),
            "train",
            local_processes=1,
        )
    assert "head.weight" in str(refusal.value)
