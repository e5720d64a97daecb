"""Test hand-written YAML: its numbers, and one sentence with the line for each refusal."""

from pathlib import Path
from typing import Any

import pytest

from orchestrator.config._yaml_text import MAX_BYTES, MAX_DEPTH, MAX_VALUES, YamlError, parse_yaml
from orchestrator.config.loader import load
from tests.refusal import refused

ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 8)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(
    f"a{level}: &a{level} {{<<: [{', '.join([f'*a{level - 1}'] * 10)}]}}\n" for level in range(1, 8)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (
            "[1e-3, -1e-3, +1e-3, 1E5, 1e+2, .5e1, 1.e1, 1_0e-1, -1_0.5e1]",
            [1e-3, -1e-3, 1e-3, 1e5, 100, 5, 10, 1.0, -105],
        ),
        ("[7, +7, -7, 1_000, 0, 00, 0x1F, 0o17, 0b11]", [7, 7, -7, 1000, 0, 0, 31, 15, 3]),
        (
            "[.inf, -.inf, ~, null, yes, Off]",
            [float("inf"), float("-inf"), None, None, True, False],
        ),
        ("[1:30, 12:30:45, 2020-13-45, 1e, e5, _1, v1e3, 1e-3-run, =]", None),
        ("- 1e-3\n- -2e-3\n", [1e-3, -2e-3]),
        (
            "{base: &b {x: 1, y: 2}, own: {<<: *b, x: 3}}",
            {"base": {"x": 1, "y": 2}, "own": {"x": 3, "y": 2}},
        ),
        (
            "{a: &a {x: 1}, b: &b {<<: *a, x: 2}, c: {<<: *b}}",
            {"a": {"x": 1}, "b": {"x": 2}, "c": {"x": 2}},
        ),
        ("{a: {x: 1}, b: {x: 1}}", {"a": {"x": 1}, "b": {"x": 1}}),
        ("[!!int '7', !!float '1', !!bool 'yes', !!str 5, !!null '']", [7, 1.0, True, "5", None]),
        ("[" * (MAX_DEPTH - 1) + "x" + "]" * (MAX_DEPTH - 1), ...),
        ("", None),
    ],
)
def test_values_are_parsed_as_a_person_expects(text: str, value: Any) -> None:
    parsed = parse_yaml(text)
    if value is None and text:
        assert all(isinstance(each, str) for each in parsed), parsed
    elif value is not ...:
        assert parsed == value and repr(parsed).replace(".0", "") == repr(value).replace(".0", "")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (
            "training: {epochs: 3}\nseed: 1\ntraining: {batch_size: 8}\n",
            3,
            "the key 'training' is already in line 1",
        ),
        ("a:\n  b:\n    c: 1\n    d: 2\n    c: 3\n", 5, "the key 'c' is already in line 3"),
        ("- {a: 1, a: 2}", 1, "the key 'a' is already in line 1"),
        ("a: [{b: {c: 1, 'c': 2}}]", 1, "the key 'c' is already in line 1"),
        ("x: &x {a: 1}\ny: {<<: *x, <<: *x}", 2, "the key '<<'"),
        ("a: !!int ''", 1, "'' is not a number"),
        ("b: 1\na: !!float x", 2, "'x' is not a number"),
        ("a: !!bool maybe", 1, "'maybe' is not a bool"),
        ("a: !!null x", 1, "'x' is not a null"),
        ("a: !!timestamp x", 1, "the tag !!timestamp is not supported"),
        ("a: !!binary aGk=", 1, "the tag !!binary"),
        ("a: !!set {x}", 1, "the tag !!set"),
        ("!!python/object:os.system {}", 1, "the tag !!python/object:os.system is not supported"),
        ("a: 010", 1, "'010' is not a number: remove the leading zeros"),
        ("a: 1\nb: &b [*b]", 2, "*b is inside its own anchor"),
        ("search: {extra_space: &c {student.width: [*c]}}", 1, "*c is inside its own anchor"),
        ("a: &a\n  <<: *a\n  b: 1", 2, "*a is inside its own anchor"),
        (ALIASES, 5, f"more than {MAX_VALUES} values"),
        (MERGES, 6, f"more than {MAX_VALUES} values"),
        ("[" * 3000 + "]" * 3000, 1, f"deeper than {MAX_DEPTH} levels"),
        (
            "\n".join(" " * level + "a:" for level in range(3000))[:MAX_BYTES],
            MAX_DEPTH,
            f"deeper than {MAX_DEPTH} levels",
        ),
        ("# long\n" * MAX_BYTES, 1, f"the text has more than {MAX_BYTES} bytes: shorten it"),
        ("a: " + "9" * 4000, 1, "too large a number"),
        ("a: " + "9" * 5000, 1, "too large a number: give a smaller one"),
        ("a: -" + "9" * 5000, 1, "too large a number: give a smaller one"),
        ("a: !!int '" + "9" * 5000 + "'", 1, "too large a number: give a smaller one"),
        ("a: " + "0" * 5000, 1, "remove the leading zeros"),
        ("a: 0x" + "f" * 5000, 1, "too large a number"),
        ('a: "x\\0"', 1, "the character U+0000"),
        ('a: "\\ud800"', 1, "the character U+D800"),
        ("? [1]\n: 2", 1, "a key is a list or a mapping"),
        ('a: 1\nproject: "\\U00110000"', 2, "an escape above \\U0010FFFF"),
        ('a: 1\n"\\UFFFFFFFF": 1', 2, "an escape above \\U0010FFFF"),
        ("%YAML 1." + "1" * 5000 + "\n---\na: 1", 1, "a %YAML directive with an invalid version"),
        ("a: 1\n3: 3", 2, "the key '3' is read as int: write a name"),
        ("a: {b: 1, 1.5: 3}", 1, "the key '1.5' is read as float: write a name"),
        ("yes: 3", 1, "the key 'yes' is read as bool: write a name"),
        ("a:\n  ~: 3", 2, "the key '~' is read as null: write a name"),
        ("a: 1\n!!int training: 3", 2, "the key 'training' has the tag !!int: remove the tag"),
        ("!own training: 3", 1, "the key 'training' has the tag !own: remove the tag"),
        ("a: 1\nb: \0", 2, "the text contains the character U+0000: remove it"),
        ("a: caf\udce9.npz", 1, "the text is not UTF-8 (byte 0xE9)"),
        (b"a: 1\nb: caf\xe9", 2, "the text is not UTF-8: save it as UTF-8"),
        (b"\xff\xfea", 1, "the text is not UTF-16-LE: save it as UTF-8"),
    ],
)
def test_a_refusal_names_the_line(text: str | bytes, line: int, message: str) -> None:
    with pytest.raises(YamlError) as raised:
        parse_yaml(text)
    assert (raised.value.line, raised.value.syntax) == (line, False)
    assert message in str(raised.value) and len(str(raised.value)) < 500


@pytest.mark.parametrize(
    "text",
    ["a: [1", "a: b: c", "\ta: 1", "a: *nobody", "a\n---\nb", "%TAG ! x\na: 1", "a: !!map x"],
)
def test_syntax_errors_are_distinguished_from_refused_yaml(text: str) -> None:
    with pytest.raises(YamlError) as raised:
        parse_yaml(text)
    assert raised.value.syntax and raised.value.line >= 1


def test_the_sentence_names_the_file_or_the_pair(tmp_path: Path) -> None:
    file = tmp_path / "given.yaml"
    file.write_text("seed: 1\nseed: 2\n")
    with refused("--config", str(file)) as refusal:
        load(file, [])
    assert "line 2" in str(refusal.value) and "'seed'" in str(refusal.value)
    with refused("training", "{epochs: 1, epochs: 2}") as refusal:
        load(None, ["training={epochs: 1, epochs: 2}"])
    assert "'epochs'" in str(refusal.value)
    with refused("data.path", "caf\udce9.npz") as refusal:
        load(None, ["data.path=caf\udce9.npz"])
    assert "0xE9" in str(refusal.value)
    with refused("search.extra_space", "student.width", "once"):
        load(None, ["search.extra_space={student.width: [1, 2], student: {width: [3, 4]}}"])


def test_set_changes_one_copy_of_an_alias(tmp_path: Path) -> None:
    file = tmp_path / "given.yaml"
    file.write_text("training: &recipe {batch_size: 8}\nteacher: {training: *recipe}\n")
    loaded = load(file, ["training.batch_size=4"])
    assert loaded.teacher is not None
    assert (loaded.training.batch_size, loaded.teacher.training.batch_size) == (4, 8)


@pytest.mark.parametrize("text", ["1e-3", "+1e-3", "1_0e-4", "1E-3"])
def test_powers_of_ten_are_numbers_in_lists(text: str) -> None:
    loaded = load(None, [f"search.extra_space={{training.weight_decay: [{text}, 1e-2]}}"])
    assert loaded.search.extra_space == {"training.weight_decay": (1e-3, 1e-2)}
