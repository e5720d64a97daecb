"""Test the choice between cached and online, by limits, disks and clusters."""

from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.config import sizes as byte_sizes
from orchestrator.config.loader import load
from orchestrator.data.dataset import DataSummary
from orchestrator.store.store import SPARE_BYTES, Store
from orchestrator.teacher.access import NODE_CACHE, TeacherAccess, decide_access
from tests.data_summary import data_summary
from tests.refusal import ANY, refused

SAMPLES, CLASSES, VIEWS = 1000, 10, 12
VARIED = data_summary(
    train=SAMPLES, classes=[str(name) for name in range(CLASSES)], augmentation="crop"
)
PLAIN = replace(VARIED, augmentation="none")
NEEDED = (VIEWS + 1) * SAMPLES * CLASSES * 2  # float16: 253.9 KiB
LOTS = 2**40
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def disk(monkeypatch: pytest.MonkeyPatch, free: int) -> list[Path]:
    """Set the free bytes of every disk, and return the queried folders."""
    queried: list[Path] = []

    def usage(folder: Path) -> Usage:
        queried.append(Path(folder))
        return Usage(LOTS, LOTS - free, free)

    monkeypatch.setattr("orchestrator.teacher.access.shutil.disk_usage", usage)
    return queried


def decide(
    store: Store, *pairs: str, data: DataSummary = VARIED, local: bool = True
) -> TeacherAccess:
    return decide_access(store, load(None, [f"training.epochs={VIEWS}", *pairs]), data, local)


def test_auto_caches_in_the_store_if_the_cache_fits(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk(monkeypatch, LOTS)
    words = f"cached in {store.knowledge}, 254 KiB for 12 views and the clean one"
    assert (
        decide(store)
        == decide(store, "teacher.mode=cached")
        == TeacherAccess(store.knowledge, words)
    )


def test_views_without_augmentation_are_only_the_clean_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk(monkeypatch, LOTS)
    alone = TeacherAccess(store.knowledge, f"cached in {store.knowledge}, 19.5 KiB")
    assert decide(store, data=PLAIN) == alone
    assert (
        byte_sizes.format_bytes(NEEDED) in decide(store, "data.mixing=cutmix", data=PLAIN).words
    ), "mixing makes views differ"


@pytest.mark.parametrize(
    ("pairs", "needed"),
    [
        (["data.views=3"], 4 * SAMPLES * CLASSES * 2),
        (["data.views=99"], NEEDED),
        (["teacher.dtype=float32"], 2 * NEEDED),
    ],
)
def test_the_size_is_that_of_the_arrays(
    store: Store, monkeypatch: pytest.MonkeyPatch, pairs: list[str], needed: int
) -> None:
    disk(monkeypatch, LOTS)
    assert f", {byte_sizes.format_bytes(needed)} for " in decide(store, *pairs).words


@pytest.mark.parametrize("more", [0, -1])
def test_the_limit_is_the_largest_size_that_is_cached(
    store: Store, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    disk(monkeypatch, LOTS)
    limit = (NEEDED + more) / 2**30
    found = decide(store, f"teacher.cache_gib={limit}")
    if more == 0:
        assert found.folder == store.knowledge
        return
    words = (
        "computed online at every step: a cache would take 254 KiB for 12 views and the clean one, "
        "and teacher.cache_gib = "
    )
    assert found == TeacherAccess(None, f"{words}{limit:g}")


@pytest.mark.parametrize("more", [0, -1])
def test_the_disk_must_hold_the_cache_and_the_rest_of_a_sweep(
    store: Store, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    disk(monkeypatch, NEEDED + SPARE_BYTES + more)
    found = decide(store)
    if more == 0:
        assert found.folder == store.knowledge
        return
    assert found.folder is None
    assert found.words == (
        "computed online at every step: a cache would take 254 KiB for 12 views and the clean one, "
        f"and {store.knowledge} has 200 MiB free, of which 200 MiB are reserved for other files"
    )


@pytest.mark.parametrize("more", [0, -1])
def test_existing_cache_files_count_as_free_space(
    store: Store, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    one, two, strange = "1" * 16, "2" * 16, "3" * 16
    sizes = {
        f"{one}/view-00000.npy": 700,
        f"{two}/clean.npy": 300,
        f"{one}/about.json": 5000,
        f"{two}/about.json": 5000,
    }
    for name, size in {**sizes, "stray.npy": 5000, f"{strange}/not_ours.npy": 5000}.items():
        file = store.knowledge / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"0" * size)
    disk(monkeypatch, NEEDED + SPARE_BYTES - 1000 + more)
    assert (decide(store).folder is None) == (more < 0)


def test_the_checked_disk_is_that_of_the_nearest_existing_folder(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queried = disk(monkeypatch, LOTS)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    decide(store)
    decide(store, "teacher.cache=~/not/there/yet")
    assert queried == [tmp_path, tmp_path / "home"]


@pytest.mark.parametrize(
    ("pairs", "free", "limited"),
    [(["teacher.cache_gib=0.0001"], LOTS, True), ([], SPARE_BYTES, False)],
)
def test_a_requested_cache_that_does_not_fit_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch, pairs: list[str], free: int, limited: bool
) -> None:
    disk(monkeypatch, free)
    limit, disk_of = (
        ("teacher.cache_gib", 0.0001, (NEEDED / 2**30, None)),
        ("teacher.cache", str(store.knowledge), ANY),
    )
    with refused(*(limit if limited else disk_of)) as raised:
        decide(store, "teacher.mode=cached", *pairs)
    sentence = str(raised.value)
    assert (
        "\n" not in sentence
        and sentence.endswith("set teacher.mode=auto")
        and "254 KiB" in sentence
    )
    assert limited or "200 MiB free" in sentence
    assert decide(store, "teacher.mode=auto", *pairs).folder is None, (
        "the setting that the message proposes is accepted"
    )


def test_online_mode_has_no_folder_and_checks_no_disk(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    queried = disk(monkeypatch, 0)
    for more in ((), ("teacher.cache=elsewhere",), ("resources.address=10.0.0.1:6379",)):
        found = decide(store, "teacher.mode=online", *more, local=False)
        assert found == TeacherAccess(None, "computed online at every step (teacher.mode = online)")
    assert not queried


@pytest.mark.parametrize("by", ["resources.address", "RAY_ADDRESS"])
def test_each_node_of_a_cluster_has_its_own_cache(
    store: Store, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    queried = disk(monkeypatch, 0)  # of this machine, which does not train
    pairs = ["resources.address=10.0.0.1:6379"] if by == "resources.address" else []
    if by == "RAY_ADDRESS":
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    found = decide(store, *pairs, local=False)
    assert found.folder == NODE_CACHE and found.of_each_node and not queried
    assert str(found.folder).startswith("~/.cache/"), "the worker expands `~`"
    assert decide(store, *pairs, "teacher.cache=/shared/cache", local=False).folder == Path(
        "/shared/cache"
    )
    limited = decide(store, *pairs, "teacher.cache_gib=1e-5", local=False)
    assert limited.folder is None, "the limit applies on a cluster too"


def test_a_cluster_has_no_effect_on_a_local_run(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    queried = disk(monkeypatch, LOTS)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert decide(store, "resources.address=10.0.0.2:6379", local=True).folder == store.knowledge
    assert len(queried) == 1
    disk(monkeypatch, 0)
    assert decide(store, local=True).folder is None, "the disk of this machine is checked"


def test_a_locally_started_ray_does_not_count_as_a_cluster(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk(monkeypatch, LOTS)
    assert decide(store, local=False).folder == store.knowledge


@pytest.mark.parametrize("local", [True, False])
def test_the_cache_may_lie_elsewhere(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: bool
) -> None:
    disk(monkeypatch, LOTS)
    found = decide(store, f"teacher.cache={tmp_path / 'mine'}", local=local)
    assert found.folder == tmp_path / "mine" and found.words.startswith(
        f"cached in {tmp_path / 'mine'}, "
    )


def test_a_relative_folder_is_below_the_working_directory_of_the_driver(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert decide(store, "teacher.cache=mine").folder == tmp_path / "mine"
    with refused("teacher.cache", "mine", "an absolute path"):
        decide(store, "teacher.cache=mine", "resources.address=10.0.0.1:6379", local=False)


def test_an_unusable_cache_folder_is_refused(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for given in (file, file / "below"):
        with refused("teacher.cache", str(given), "a folder that can be written"):
            decide(store, f"teacher.cache={given}")


def test_a_file_that_vanishes_while_it_is_counted_is_ignored(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk(monkeypatch, LOTS)
    folder = store.knowledge / ("1" * 16)
    folder.mkdir(parents=True)
    (folder / "about.json").touch()
    (folder / "gone.npy").symlink_to("nowhere")  # listed, but missing on access
    assert decide(store).folder == store.knowledge
