"""Test the choice between cached and online, by limits, disks and clusters."""

from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import sizes as byte_sizes
from orchestrator.config.loader import load
from orchestrator.store.store import SPARE_BYTES, Store
from orchestrator.teacher.access import NODE_CACHE, TeacherAccess, decide_access
from tests.refusal import ANY, refused

SAMPLES, CLASSES, VIEWS = 1000, 10, 12
VARIED: dict[str, Any] = {
    "sizes": {"train": SAMPLES},
    "classes": [str(name) for name in range(CLASSES)],
    "augmentation": "crop",
}
PLAIN = VARIED | {"augmentation": "none"}
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
    asked: list[Path] = []

    def usage(folder: Path) -> Usage:
        asked.append(Path(folder))
        return Usage(LOTS, LOTS - free, free)

    monkeypatch.setattr("orchestrator.teacher.access.shutil.disk_usage", usage)
    return asked


def said(
    store: Store, *pairs: str, data: dict[str, Any] = VARIED, local: bool = True
) -> TeacherAccess:
    return decide_access(store, load(None, [f"training.epochs={VIEWS}", *pairs]), data, local)


def test_auto_caches_in_the_store_what_fits(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, LOTS)
    words = f"cached in {store.knowledge}, 254 KiB for 12 views and the clean one"
    assert (
        said(store) == said(store, "teacher.mode=cached") == TeacherAccess(store.knowledge, words)
    )


def test_views_that_do_not_vary_are_the_clean_one_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk(monkeypatch, LOTS)
    alone = TeacherAccess(store.knowledge, f"cached in {store.knowledge}, 19.5 KiB")
    assert said(store, data=PLAIN) == alone
    assert byte_sizes.size(NEEDED) in said(store, "data.mixing=cutmix", data=PLAIN).words, (
        "mixing makes views of its own"
    )


@pytest.mark.parametrize(
    ("pairs", "needed"),
    [
        (["data.views=3"], 4 * SAMPLES * CLASSES * 2),
        (["data.views=99"], NEEDED),
        (["teacher.dtype=float32"], 2 * NEEDED),
    ],
)
def test_the_bytes_are_those_of_the_arrays(
    store: Store, monkeypatch: pytest.MonkeyPatch, pairs: list[str], needed: int
) -> None:
    disk(monkeypatch, LOTS)
    assert f", {byte_sizes.size(needed)} for " in said(store, *pairs).words


@pytest.mark.parametrize("more", [0, -1])
def test_the_limit_is_the_largest_size_that_is_cached(
    store: Store, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    disk(monkeypatch, LOTS)
    limit = (NEEDED + more) / 2**30
    found = said(store, f"teacher.cache_gib={limit}")
    if more == 0:
        assert found.folder == store.knowledge
        return
    words = (
        "computed online at every step: a cache would take 254 KiB for 12 views and the clean one, "
        "and teacher.cache_gib = "
    )
    assert found == TeacherAccess(None, f"{words}{limit:g}")


@pytest.mark.parametrize("more", [0, -1])
def test_a_disk_has_to_hold_the_cache_and_the_rest_of_a_sweep(
    store: Store, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    disk(monkeypatch, NEEDED + SPARE_BYTES + more)
    found = said(store)
    if more == 0:
        assert found.folder == store.knowledge
        return
    assert found.folder is None and found.mode == "online"
    assert found.words == (
        "computed online at every step: a cache would take 254 KiB for 12 views and the clean one, "
        f"and {store.knowledge} has 200 MiB free, of which 200 MiB are reserved for other files"
    )


@pytest.mark.parametrize("more", [0, -1])
def test_what_is_in_the_cache_already_counts_as_free(
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
    assert (said(store).folder is None) == (more < 0)


def test_the_disk_is_that_of_the_folder_that_is_there(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = disk(monkeypatch, LOTS)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    said(store)
    said(store, "teacher.cache=~/not/there/yet")
    assert asked == [tmp_path, tmp_path / "home"]


@pytest.mark.parametrize(
    ("pairs", "free", "limited"),
    [(["teacher.cache_gib=0.0001"], LOTS, True), ([], SPARE_BYTES, False)],
)
def test_a_cache_that_is_asked_for_and_does_not_fit_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch, pairs: list[str], free: int, limited: bool
) -> None:
    disk(monkeypatch, free)
    limit, disk_of = (
        ("teacher.cache_gib", 0.0001, (NEEDED / 2**30, None)),
        ("teacher.cache", str(store.knowledge), ANY),
    )
    with refused(*(limit if limited else disk_of)) as raised:
        said(store, "teacher.mode=cached", *pairs)
    sentence = str(raised.value)
    assert (
        "\n" not in sentence
        and sentence.endswith("set teacher.mode=auto")
        and "254 KiB" in sentence
    )
    assert limited or "200 MiB free" in sentence
    assert said(store, "teacher.mode=auto", *pairs).folder is None, (
        "what the sentence advises is accepted"
    )


def test_online_has_no_folder_and_asks_no_disk(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = disk(monkeypatch, 0)
    for more in ((), ("teacher.cache=elsewhere",), ("resources.address=10.0.0.1:6379",)):
        found = said(store, "teacher.mode=online", *more, local=False)
        assert found == TeacherAccess(None, "computed online at every step (teacher.mode = online)")
    assert not asked


@pytest.mark.parametrize("by", ["resources.address", "RAY_ADDRESS"])
def test_on_a_cluster_the_cache_is_that_of_each_node(
    store: Store, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    asked = disk(monkeypatch, 0)  # of this machine, which does not train
    pairs = ["resources.address=10.0.0.1:6379"] if by == "resources.address" else []
    if by == "RAY_ADDRESS":
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    found = said(store, *pairs, local=False)
    assert found.folder == NODE_CACHE and found.of_each_node and not asked
    assert str(found.folder).startswith("~/.cache/"), "`~` is left to the worker"
    assert said(store, *pairs, "teacher.cache=/shared/cache", local=False).folder == Path(
        "/shared/cache"
    )
    limited = said(store, *pairs, "teacher.cache_gib=1e-5", local=False)
    assert limited.folder is None, "the limit holds there too"


def test_in_this_process_a_cluster_is_nobodys_business(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = disk(monkeypatch, LOTS)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert said(store, "resources.address=10.0.0.2:6379", local=True).folder == store.knowledge
    assert len(asked) == 1
    disk(monkeypatch, 0)
    assert said(store, local=True).folder is None, "and this machine's disk counts"


def test_ray_that_is_started_here_is_no_cluster(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk(monkeypatch, LOTS)
    assert said(store, local=False).folder == store.knowledge


@pytest.mark.parametrize("local", [True, False])
def test_the_cache_may_lie_elsewhere(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, local: bool
) -> None:
    disk(monkeypatch, LOTS)
    found = said(store, f"teacher.cache={tmp_path / 'mine'}", local=local)
    assert found.folder == tmp_path / "mine" and found.words.startswith(
        f"cached in {tmp_path / 'mine'}, "
    )


def test_a_relative_folder_is_where_the_driver_stands(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said(store, "teacher.cache=mine").folder == tmp_path / "mine"
    with refused("teacher.cache", "mine", "an absolute path"):
        said(store, "teacher.cache=mine", "resources.address=10.0.0.1:6379", local=False)


def test_a_folder_that_cannot_be_one_is_refused(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for given in (file, file / "below"):
        with refused("teacher.cache", str(given), "a folder that can be written"):
            said(store, f"teacher.cache={given}")


def test_a_file_that_goes_while_it_is_counted_is_no_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk(monkeypatch, LOTS)
    folder = store.knowledge / ("1" * 16)
    folder.mkdir(parents=True)
    (folder / "about.json").touch()
    (folder / "gone.npy").symlink_to("nowhere")  # listed, but missing on access
    assert said(store).folder == store.knowledge
