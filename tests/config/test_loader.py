"""Test the configuration: precedence of sources, and one sentence per error."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator.config.data_schema import Limit
from orchestrator.config.fields import Section, allowed_at
from orchestrator.config.loader import build, load
from orchestrator.config.schema import Configuration, Resources, Teacher, Training
from orchestrator.core.errors import ConfigurationError
from orchestrator.sweep.preflight.configuration import check_search, check_train
from tests.refusal import refused

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").glob("*.yaml"))


def written(folder: Path, text: str) -> Path:
    file = folder / "given.yaml"
    file.write_text(text)
    return file


def refuse(file: Path) -> str:
    """Return the message with which a file is refused."""
    with refused("--config", str(file)) as refusal:
        load(file, [])
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_set_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = written(tmp_path, "training: {epochs: 5, batch_size: 8}\nproject: of the file\n")
    loaded = load(file, ["training.epochs=6"])
    defaults = Configuration()
    assert (loaded.training.epochs, loaded.training.batch_size) == (6, 8)
    assert loaded.training.learning_rate == defaults.training.learning_rate
    assert loaded.project == "of the file" and loaded.student == defaults.student


def test_values_of_the_command_line_win_when_they_are_given(tmp_path: Path) -> None:
    file = written(tmp_path, "seed: 4\n")
    assert load(file, [], seed=7).seed == 7
    assert load(file, ["seed=5"], seed=None).seed == 5


def test_the_last_of_two_pairs_wins() -> None:
    assert load(None, ["seed=1", "seed=2"]).seed == 2


def test_dotted_keys_reach_every_depth() -> None:
    loaded = load(
        None,
        [
            "teacher.training.epochs=3",
            "data.limit.train=100",
            "student.name=cnn",
            "student.width=8",
        ],
    )
    assert loaded.teacher is not None and loaded.teacher.training.epochs == 3
    assert loaded.data.limit.train == 100
    assert loaded.student.settings == {"width": 8}


@pytest.mark.parametrize("given", ["method.temperature=2.5", "method: {temperature: 2.5}"])
def test_a_setting_alone_keeps_the_default_choice(tmp_path: Path, given: str) -> None:
    loaded = load(None, [given]) if "=" in given else load(written(tmp_path, given), [])
    assert loaded.method.name == Configuration().method.name and loaded.method.settings == {
        "temperature": 2.5
    }


def test_a_part_of_a_section_keeps_the_rest_of_its_default() -> None:
    loaded, default = (
        load(None, ["teacher.training.batch_size=8", "teacher.network.width=4"]).teacher,
        Configuration().teacher,
    )
    assert loaded is not None and default is not None
    assert loaded.training == default.training.model_copy(update={"batch_size": 8})
    assert loaded.network.settings == default.network.settings | {"width": 4}


def test_another_choice_does_not_inherit_settings() -> None:
    assert load(None, ["student.name=cnn"]).student.settings == {}
    assert load(None, ["method.name=ttm"]).method.settings == {}


def test_a_section_can_be_null_and_come_back(tmp_path: Path) -> None:
    file = written(tmp_path, "teacher: null\n")
    assert load(file, []).teacher is None
    back, default = load(file, ["teacher.seed=3"]).teacher, Configuration().teacher
    assert default is not None and back == default.model_copy(update={"seed": 3})


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", ".1e-2", "0.001", "+1e-3"])
def test_powers_of_ten_are_numbers_in_the_file_and_on_the_command_line(
    tmp_path: Path, text: str
) -> None:
    assert load(None, [f"training.learning_rate={text}"]).training.learning_rate == 1e-3
    file = written(
        tmp_path, f"training: {{weight_decay: {text}}}\nmethod: {{name: kd, beta: {text}}}\n"
    )
    assert load(file, []).training.weight_decay == 1e-3
    assert load(file, []).method.settings == {"beta": 1e-3}


@pytest.mark.parametrize("text", ["v1e3", "1e", "e5", "1e-3-run", "inf", "nan"])
def test_names_that_look_like_numbers_stay_names(text: str) -> None:
    assert load(None, [f"project={text}"]).project == text


@pytest.mark.parametrize(
    ("pair", "field", "value"),
    [
        ("training.epochs=0", "training.epochs", "0"),
        ("training.epochs=2.5", "training.epochs", "2.5"),
        ("training.epochs='3'", "training.epochs", "'3'"),
        ("training.epochs=true", "training.epochs", "True"),
        ("training.epochs=", "training.epochs", "None"),
        ("training.epochs=[1]", "training.epochs", "[1]"),
        ("training.learning_rate=0", "training.learning_rate", "0"),
        ("training.learning_rate=-0.1", "training.learning_rate", "-0.1"),
        ("training.learning_rate=.inf", "training.learning_rate", "inf"),
        ("training.learning_rate=.nan", "training.learning_rate", "nan"),
        ("training.learning_rate=fast", "training.learning_rate", "'fast'"),
        ("training.learning_rate=no", "training.learning_rate", "False"),
        ("training.optimizer=adam", "training.optimizer", "'adam'"),
        ("training.momentum=1", "training.momentum", "1"),
        ("training.gamma=0", "training.gamma", "0"),
        ("training.nesterov=1", "training.nesterov", "1"),
        ("training.channels_last='yes'", "training.channels_last", "'yes'"),
        ("training.milestones=[0]", "training.milestones.0", "0"),
        ("training.milestones=5", "training.milestones", "5"),
        ("training.gradient_clip=0", "training.gradient_clip", "0"),
        ("data.validation=1", "data.validation", "1"),
        ("data.label_noise=1", "data.label_noise", "1"),
        ("data.limit.train=0", "data.limit.train", "0"),
        ("data.views=0", "data.views", "0"),
        ("data.download=2", "data.download", "2"),
        ("data=5", "data", "5"),
        ("data.augmentation=flip", "data.augmentation", "'flip'"),
        ("seed=-1", "seed", "-1"),
        ("seed=2147483648", "seed", "2147483648"),
        ("project=''", "project", "''"),
        ("student.weights=4", "student.weights", "4"),
        ("teacher.dtype=int8", "teacher.dtype", "'int8'"),
        ("search.trials=0", "search.trials", "0"),
        ("search.methods=kd", "search.methods", "'kd'"),
        ("search.reduction_factor=1", "search.reduction_factor", "1"),
        ("search.perturb_epochs=0", "search.perturb_epochs", "0"),
        ("search.quantile=0.6", "search.quantile", "0.6"),
        ("search.resample_probability=2", "search.resample_probability", "2"),
        ("search.scheduler=pbtt", "search.scheduler", "'pbtt'"),
        ("search.time_budget=0", "search.time_budget", "0"),
        ("resources.gpus_per_worker=-1", "resources.gpus_per_worker", "-1"),
        ("method=kd", "method", "'kd'"),
        ("method.name=3", "method.name", "3"),
    ],
)
def test_a_bad_value_is_refused_in_one_sentence_with_field_and_value(
    pair: str, field: str, value: str
) -> None:
    with refused(field) as refusal:
        load(None, [pair])
    assert repr(refusal.value.value) == value and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("field", "allowed"),
    [
        ("training.epochs", (1, 100_000)),
        ("data.views", (1, 100_000)),  # or null
        ("training.milestones.0", (1, 100_000)),
        ("training.optimizer", ("sgd", "adamw")),
        ("training.nesterov", bool),
        ("training.channels_last", bool),  # or null
        ("student.weights", str),
        ("project", "1 to 200 characters"),
        ("search.methods", "0 to 100 values"),
        ("data.limit", ("train", "validation", "test")),
        ("peers.b.training.gamma", (0, 1)),
        ("search.extra_space", dict),
        ("method", ("name",)),
        ("nothing.at.all", None),
    ],
)
def test_what_is_allowed_at_a_key(field: str, allowed: object) -> None:
    location = [int(part) if part.isdigit() else part for part in field.split(".")]
    assert allowed_at(Configuration, location) == allowed


@pytest.mark.parametrize(
    ("pair", "field", "section", "nearest"),
    [
        ("trainig.epochs=3", "trainig", Configuration, "training"),
        ("training.epoch=3", "training.epoch", Training, "epochs"),
        ("data.limit.tran=3", "data.limit.tran", Limit, "train"),
        ("teacher.training.lr=3", "teacher.training.lr", Training, ""),
        ("teacher.mod=online", "teacher.mod", Teacher, "mode"),
        ("resources.gpu_per_worker=1", "resources.gpu_per_worker", Resources, "gpus_per_worker"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(
    pair: str, field: str, section: type[Section], nearest: str
) -> None:
    with refused(field, allowed=tuple(section.model_fields)) as refusal:
        load(None, [pair])
    assert "\n" not in str(refusal.value) and (
        not nearest or f"did you mean '{nearest}'" in str(refusal.value)
    )


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (("training.schedule=multi_step",), ("training.milestones", (), "one epoch or more")),
        (
            ("training.warmup_epochs=4", "training.epochs=4"),
            ("training.warmup_epochs", 4.0, (0, 4)),
        ),
        (
            ("peers.b=cnn",),
            (
                "peers.b",
                "cnn",
                ("network", "training", "cpus_per_worker", "gpus_per_worker", "threads_per_worker"),
            ),
        ),
        (("peers=null",), ("peers", None, dict)),
        (
            ("search.extra_space={student.width: 4}",),
            ("search.extra_space.student.width", 4, "0 to 100 values"),
        ),
        (("training",), ("--set", "training", "key=value")),
        (("=3",), ("--set", "=3", "key=value")),
        (("training..epochs=3",), ("--set", "training..epochs=3", "key=value")),
        (("training.epochs=[1",), ("training.epochs", "[1", "YAML")),
        (("seed=1", "seed.low=2"), ("seed.low", "2", "a section seed")),
    ],
)
def test_conflicting_values_are_refused(pairs: tuple[str, ...], expected: tuple[Any, ...]) -> None:
    with refused(*expected) as refusal:
        load(None, list(pairs))
    assert "\n" not in str(refusal.value)


def test_several_mistakes_are_counted() -> None:
    with pytest.raises(ConfigurationError, match="2 more"):
        load(None, ["seed=-1", "training.epochs=0", "data.views=0"])


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\ta: 1", "a: *nobody"])
def test_a_file_that_is_not_yaml_is_refused(tmp_path: Path, text: str) -> None:
    assert "YAML" in refuse(written(tmp_path, text))


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "given.yaml"
    file.write_bytes(b"\xff\xfe\x00\x80")
    assert str(file) in refuse(file)


@pytest.mark.parametrize(
    ("text", "kind"), [("- 1\n- 2\n", "list"), ("words\n", "str"), ("3\n", "int")]
)
def test_a_file_without_keys_is_refused(tmp_path: Path, text: str, kind: str) -> None:
    assert kind in refuse(written(tmp_path, text))


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refuse(tmp_path / "nowhere.yaml")
    assert "folder" in refuse(tmp_path)


@pytest.mark.parametrize("text", ["", "# nothing\n", "null\n"])
def test_an_empty_file_is_the_defaults(tmp_path: Path, text: str) -> None:
    assert load(written(tmp_path, text), []) == Configuration()


def test_keys_that_are_not_strings_are_refused(tmp_path: Path) -> None:
    assert "line 1" in refuse(written(tmp_path, "data: {1: 2}\n"))


@pytest.mark.parametrize(
    "pairs",
    [
        (),
        ("teacher=null", "method.name=cross_entropy"),
        (
            "student.name=cnn",
            "student.width=3",
            "student.weights=some.safetensors",
            "data.path=/somewhere",
        ),
        (
            "training.schedule=multi_step",
            "training.milestones=[2, 3]",
            "method.form=additive",
            "search.freeze=[seed]",
        ),
    ],
)
def test_plain_values_are_json_and_build_the_same_again(pairs: tuple[str, ...]) -> None:
    loaded = load(None, list(pairs))
    values = json.loads(json.dumps(loaded.plain()))
    assert values == loaded.plain()
    again = build(values)
    assert again == loaded and again.plain() == values


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Configuration().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize("name", CONFIGS)
def test_every_shipped_configuration_is_usable_and_begins_with_its_command(name: str) -> None:
    loaded = load(ROOT / name, [])
    check_train(loaded)
    check_search(loaded)
    first = (ROOT / name).read_text().splitlines()[0]
    command = shlex.split(first.removeprefix("# "))
    assert first.startswith("# ") and command[:2] == ["python", "run.py"]
    assert command[2] in ("sweep", "train") and command[3:5] == ["--config", name]


@pytest.mark.parametrize("name", CONFIGS)
def test_shipped_configurations_have_no_duplicate_keys(name: str) -> None:
    def keys(node: Any) -> None:
        if isinstance(node, yaml.MappingNode):
            names = [key.value for key, _ in node.value]
            assert len(names) == len(set(names)), names
            for _, value in node.value:
                keys(value)

    keys(yaml.compose((ROOT / name).read_text()))


def test_a_name_on_the_command_line_discards_the_settings_of_another_name(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text("student: {name: mlp, width: 8}\nmethod: {name: kd, alpha: 0.5}\n")
    loaded = load(file, ["student.name=resnet8", "method.name=kd", "method.temperature=2"])
    assert loaded.student.settings == {}
    assert loaded.method.settings == {"alpha": 0.5, "temperature": 2}


def test_the_order_of_settings_and_names_does_not_matter(tmp_path: Path) -> None:
    file = tmp_path / "file.yaml"
    file.write_text("student: {name: mlp, width: 8}\n")
    pairs = ["student.width=16", "student.name=cnn"]
    assert load(file, pairs) == load(file, pairs[::-1])
    assert load(file, pairs).student.settings == {"width": 16}
