"""Test the configuration of several teachers: its forms, refusals, cache limit and description."""

from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import save_file
from torch import zeros

from orchestrator.config.loader import build, load
from orchestrator.config.path_settings import movable_keys, resolve_paths
from orchestrator.config.schema import Configuration
from orchestrator.config.teacher_keys import naming_teacher
from orchestrator.core.errors import ConfigurationError, PreflightError
from orchestrator.data.prepare import prepare
from orchestrator.store.store import Store
from orchestrator.sweep.preflight._several_teachers import check_several_teachers
from orchestrator.sweep.preflight.configuration import check_search
from orchestrator.sweep.space_snapshot import described_data, differences
from orchestrator.teacher.access import decide_access
from tests.data_summary import data_summary
from tests.refusal import refused

LOTS = 2**40
Usage = namedtuple("Usage", "total used free")


def section(**keys: Any) -> dict[str, Any]:
    return {"network": {"name": "mlp", "width": 8}, **keys}


def configuration(*teachers: dict[str, Any], **keys: Any) -> Configuration:
    return build({"teachers": list(teachers), **keys})


def two(**keys: Any) -> Configuration:
    return configuration(section(), section(seed=1), **keys)


def test_a_list_of_one_teacher_is_that_teacher() -> None:
    one, single = configuration(section(seed=3)), build({"teacher": section(seed=3)})
    assert one == single and one.plain() == single.plain()
    assert not {"teachers", "ensemble"} & set(single.plain())  # records stay the same


def test_several_teachers_replace_the_default_and_survive_a_record() -> None:
    given = two(ensemble={"weights": "learned", "fixed": [1, 2]})
    assert given.teacher is None and list(given.named_teachers) == ["teachers.0", "teachers.1"]
    assert build(given.plain()) == given
    alone = given.of_each_teacher()["teachers.1"]
    assert alone == build({"teacher": section(seed=1)})


@pytest.mark.parametrize(
    ("values", "field", "value", "allowed"),
    [
        ({"teacher": section()}, "teachers", [section(), section(seed=1)], "without teacher"),
        ({"ensemble": {"fixed": [1, 2, 3]}}, "ensemble.fixed", (1, 2, 3), 2),
        ({"ensemble": {"fixed": [0, 0]}}, "ensemble.fixed", (0, 0), "at least one above 0"),
        (
            {"ensemble": {"weights": "learned", "fixed": [0, 1]}},
            "ensemble.fixed",
            (0, 1),
            "all above 0",
        ),
        ({"ensemble": {"weights": "entropy", "fixed": [1, 2]}}, "ensemble.fixed", (1, 2), None),
    ],
)
def test_what_contradicts_is_refused(
    values: dict[str, Any], field: str, value: object, allowed: object
) -> None:
    with refused(field, value, allowed):
        two(**values)


def test_teachers_must_differ_and_share_a_cache() -> None:
    with refused("teachers.1", "mlp", "another teacher"):
        configuration(section(), section())
    with refused("teachers.1.cache_gib", 1, 20):
        configuration(section(), section(seed=1, cache_gib=1))
    with refused("teachers", allowed="0 to 8 values"):
        configuration(*(section(seed=seed) for seed in range(9)))
    with refused("teachers.1.seed", -1):
        configuration(section(), section(seed=-1))


@pytest.mark.parametrize("values", [{}, {"teachers": [section()]}])
def test_weights_for_one_teacher_are_refused(values: dict[str, Any]) -> None:
    with refused("ensemble"):
        build({"ensemble": {"weights": "learned"}, **values})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "teachers.yaml"
    path.write_text(yaml.safe_dump({"teachers": [section(), section(seed=1)]}))
    return path


def test_a_key_of_one_teacher_is_set_by_its_position(file: Path) -> None:
    found = load(file, ["teachers.1.training.epochs=3", "teachers.0.network.name=cnn"])
    assert [each.training.epochs for each in found.teachers] == [20, 3]
    assert [each.network.name for each in found.teachers] == ["cnn", "mlp"]
    for position in ("2", "first"):
        with refused(f"teachers.{position}", position, (0, 1)):
            load(file, [f"teachers.{position}.seed=3"])
    with refused("teachers.1.training.milestones"):
        load(
            file, ["teachers.1.training.schedule=multi_step", "teachers.1.training.milestones=[99]"]
        )


def test_paths_of_every_teacher_are_resolved(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_file({"weight": zeros(1)}, tmp_path / "w.safetensors")
    found = load(file, ["teachers.1.network.weights=w.safetensors"])
    assert "teachers.1.network.weights" in movable_keys(found)
    resolved = resolve_paths(found, local=True).teachers[1].network.weights
    assert resolved == str(tmp_path / "w.safetensors")
    data = prepare(found.data, tmp_path / "store", 0)
    before = described_data(found, data)
    save_file({"weight": zeros(2)}, tmp_path / "w.safetensors")
    (change,) = differences(before, described_data(found, data))
    assert "teachers.1.network.weights" in change


@pytest.mark.parametrize(
    ("method", "settings"), [("ic_kd", {}), ("fitnet", {}), ("kd_aif", {"update": "both"})]
)
def test_methods_that_need_more_than_logits_are_refused(
    method: str, settings: dict[str, Any]
) -> None:
    chosen = {"name": method, **settings}
    with refused("method.name", method) as refusal:
        check_several_teachers(two(method=chosen), searching=False)
    assert {"kd", "wttm"} <= {*refusal.value.allowed.split(", ")}
    assert not {"ic_kd", "fitnet"} & {*refusal.value.allowed.split(", ")}
    check_several_teachers(build({"method": chosen}), searching=False)


def test_learned_weights_are_refused_for_methods_that_weight_samples() -> None:
    kd_aif = {"name": "kd_aif"}
    check_several_teachers(two(method=kd_aif), searching=False)
    with refused("method.name", "kd_aif"):
        check_several_teachers(two(method=kd_aif, ensemble={"weights": "learned"}), searching=False)
    searched = {"space": {"ensemble.weights": ["fixed", "learned"]}}
    with refused("method.name", "kd_aif"):
        check_several_teachers(two(method=kd_aif, search=searched), searching=True)


def test_the_weights_can_be_searched_if_there_are_several_teachers() -> None:
    kinds = ["fixed", "confidence", "entropy", "learned"]
    search = {"space": {"ensemble.weights": kinds, "ensemble.temperature": [0.5, 4.0]}}
    check_search(two(search=search))
    with refused("search.space", "ensemble.weights"):
        check_search(build({"search": search}))
    with refused("search.extra_space", "teachers.0.seed"):
        check_search(two(search={"extra_space": {"teachers.0.seed": [1, 2]}}))


def test_the_limit_holds_for_all_caches_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(
        "orchestrator.teacher.access.shutil.disk_usage", lambda _: Usage(LOTS, 0, LOTS)
    )
    store = Store(tmp_path / "store")
    data = data_summary(train=1000, classes=["a", "b"], augmentation="none")
    one = 1000 * 2 * 2 / 2**30  # GiB of float16 logits
    for factor, modes, cached in (
        (2.0, ("auto", "auto"), ("cached", "cached")),
        (1.5, ("auto", "auto"), ("online", "online")),
        (1.5, ("auto", "cached"), ("online", "cached")),
        (1.0, ("online", "auto"), ("online", "cached")),
    ):
        teachers = [
            section(seed=seed, mode=mode, cache_gib=factor * one) for seed, mode in enumerate(modes)
        ]
        given = configuration(*teachers)
        access = decide_access(store, given, data, local=True)
        found = access.resolve(given.named_teachers).values()
        assert tuple(each.mode for each in found) == cached
        assert (access.folder is None) == ("cached" not in cached)
    teachers = [section(seed=seed, mode="cached", cache_gib=1.5 * one) for seed in range(2)]
    with refused("teachers.0.cache_gib", 1.5 * one, (2 * one, None)):
        decide_access(store, configuration(*teachers), data, local=True)


def test_an_error_names_the_teacher() -> None:
    cause = ConfigurationError("teacher.network.weights = x: no").with_details(
        "teacher.network.weights", "x", "y"
    )
    with refused("teachers.1.network.weights", "x", "y"), naming_teacher("teachers.1"):
        raise cause
    with pytest.raises(ConfigurationError) as unchanged, naming_teacher("teacher"):
        raise cause
    assert unchanged.value is cause
    with refused("a.lock", 1, error=PreflightError) as refusal, naming_teacher("teachers.1"):
        raise PreflightError("locked").with_details("a.lock", 1)
    assert "teachers.1" in str(refusal.value)


@pytest.mark.parametrize("path", ["/data/teacher.pt", "/x/teacher.safetensors", "x/teacher.seed"])
def test_an_error_keeps_the_name_of_a_file(path: str) -> None:
    with refused("teachers.1.network.weights") as refusal, naming_teacher("teachers.1"):
        raise ConfigurationError(f"teacher.network.weights = {path}: no").with_details(
            "teacher.network.weights", path
        )
    assert str(refusal.value) == f"teachers.1.network.weights = {path}: no"
