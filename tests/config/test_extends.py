"""Test configuration files that extend another one: merged once, and refused otherwise."""

from pathlib import Path

import pytest

from orchestrator.config.examples import FOLDER
from orchestrator.config.loader import find_extended, load, plain_values
from tests.refusal import ANY, refused

BASE = """
project: base
training: {epochs: 7, learning_rate: 0.3, schedule: multi_step, milestones: [2, 4]}
student: {name: cnn, width: 9}
search: {space: {kd.temperature: [1, 6]}, points: [{kd.alpha: 0.5}], methods: [kd, wttm]}
"""


def written(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def test_a_file_changes_the_values_of_the_extended_one(tmp_path: Path) -> None:
    written(tmp_path, "base.yaml", BASE)
    file = written(
        tmp_path,
        "own.yaml",
        "extends: base.yaml\ntraining: {learning_rate: 0.1, milestones: [3]}\n"
        "student: {width: 4}\nsearch: {points: [], space: {kd.alpha: [0.1, 0.9]}}\n",
    )
    loaded = load(file, ["training.epochs=8"])
    recipe = loaded.training
    assert (loaded.project, recipe.epochs, recipe.learning_rate) == ("base", 8, 0.1)
    assert (recipe.schedule, recipe.milestones) == ("multi_step", (3,))
    assert (loaded.student.name, loaded.student.settings) == ("cnn", {"width": 4})
    assert set(loaded.search.space) == {"kd.temperature", "kd.alpha"} and not loaded.search.points
    assert "extends" not in loaded.plain() and "extends" not in plain_values(file)[1]
    assert find_extended(file) == [tmp_path / "base.yaml"]


def test_settings_belong_to_the_name_in_their_file(tmp_path: Path) -> None:
    written(tmp_path, "base.yaml", BASE)
    file = written(tmp_path, "own.yaml", "extends: base.yaml\nstudent: {name: mlp}\n")
    assert load(file, []).student.settings == {}


@pytest.mark.parametrize("value", ["null", "7", "{}"])
def test_a_value_replaces_a_section(tmp_path: Path, value: str) -> None:
    """The teacher of the extended file is removed, and an empty mapping is empty."""
    written(tmp_path, "base.yaml", "teacher: {network: {name: cnn}}\n")
    file = written(tmp_path, "own.yaml", f"extends: base.yaml\nteacher: {value}\n")
    if value == "7":
        with refused("teacher", 7, ANY):
            load(file, [])
    else:
        teacher = load(file, []).teacher
        assert teacher is None if value == "null" else teacher and teacher.network.name == "mlp"


def test_an_example_is_found_by_its_name(tmp_path: Path) -> None:
    file = written(tmp_path, "own.yaml", "extends: digits\nproject: mine\n")
    assert find_extended(file) == [FOLDER / "digits.yaml"]
    assert load(file, []).student == load(FOLDER / "digits.yaml", []).student


@pytest.mark.parametrize("name", ["../base.yaml", "/base.yaml", "own.yaml", "", "[base.yaml]", "3"])
def test_other_places_are_refused(tmp_path: Path, name: str) -> None:
    written(tmp_path, "base.yaml", BASE)
    file = written(tmp_path, "below/own.yaml", f"extends: {name or repr('')}\n")
    with refused(
        "extends", ANY, "a YAML file in the same folder or below it, or the name of an example"
    ):
        load(file, [])


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    outside = written(tmp_path, "base.yaml", BASE)
    file = written(tmp_path, "below/own.yaml", "extends: link.yaml\n")
    (tmp_path / "below/link.yaml").symlink_to(outside)
    with refused("extends", "link.yaml", ANY):
        load(file, [])


def test_a_file_may_extend_one_that_extends_another(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "own.yaml",
        "extends: cifar100/vgg13-vgg8\ntraining: {epochs: 60, milestones: [9]}\n",
    )
    pair = FOLDER / "cifar100" / "vgg13-vgg8.yaml"
    loaded, published = load(file, []), load(pair, [])
    assert find_extended(file) == [pair, FOLDER / "cifar100" / "recipe.yaml"]
    assert (loaded.training.epochs, loaded.training.milestones) == (60, (9,))
    assert loaded.training.weight_decay == published.training.weight_decay == 5e-4
    assert loaded.student == published.student and loaded.data == published.data


def test_a_missing_file_and_a_cycle_are_refused(tmp_path: Path) -> None:
    file = written(tmp_path, "own.yaml", "extends: none.yaml\n")
    with refused("extends", ANY, ANY):
        load(file, [])
    written(tmp_path, "none.yaml", "extends: own.yaml\n")  # a cycle
    with refused("extends", "own.yaml", "a file that does not extend this one"):
        load(file, [])


def test_teacher_and_teachers_of_two_files_replace_each_other(tmp_path: Path) -> None:
    several = "teachers: [{network: {name: mlp}}, {network: {name: cnn}}]\n"
    for name, base, own, count in (
        ("one", several, "teacher: {network: {name: cnn}}\n", 1),
        ("two", "teacher: {network: {name: cnn}}\n", several, 2),
    ):
        written(tmp_path, f"{name}-base.yaml", base)
        file = written(tmp_path, f"{name}.yaml", f"extends: {name}-base.yaml\n{own}")
        assert len(load(file, []).named_teachers) == count


def test_teachers_of_the_command_line_replace_the_teacher_of_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "one.yaml", "teacher: {network: {name: cnn}}\n")
    several = "teachers=[{network: {name: mlp}}, {network: {name: cnn}}]"
    loaded = load(file, [several])
    assert list(loaded.named_teachers) == ["teachers.0", "teachers.1"]
    assert str(file) in loaded.yielded["teacher"]
    with refused("teachers"):  # a key of the teacher has the same precedence
        load(file, [several, "teacher.seed=2"])


def test_a_teacher_of_the_command_line_replaces_the_teachers_of_the_file(tmp_path: Path) -> None:
    several = "teachers: [{network: {name: mlp}}, {network: {name: cnn}}]\n"
    file = written(tmp_path, "two.yaml", f"{several}ensemble: {{weights: entropy}}\n")
    loaded = load(file, ["teacher.network.name=cnn"])
    assert loaded.teacher is not None and loaded.teacher.network.name == "cnn"
    assert not loaded.teachers and {"teachers", "ensemble"} <= set(loaded.yielded)
    single = load(file, ["teachers=null", "ensemble={}"])
    assert list(single.named_teachers) == ["teacher"]
    with refused("teachers"):  # it may be meant for one of the teachers
        load(file, ["teacher.seed=2"])
    with refused("teachers"):
        load(file, ["teacher.network.name=cnn", "teachers.0.seed=2"])
