"""Parse YAML text that a user wrote into plain values, within limits on size and depth.

Keys are unique in a mapping, and numbers are read as written, not as in YAML 1.1.
"""

import re
from typing import Any

import yaml

from orchestrator.core.text import control_character, escaped_byte, shorten

MAX_BYTES = 256 * 1024
MAX_DEPTH = 50
MAX_VALUES = 50_000  # with every alias expanded
MAX_BITS = 1023  # of an integer; larger ones exceed the range of a float

CORE = "tag:yaml.org,2002:"
KEY_TAGS = (f"{CORE}str", f"{CORE}merge")
WORDS = {
    "null": None,
    "true": True,
    "yes": True,
    "on": True,
    "false": False,
    "no": False,
    "off": False,
}
RESOLVED = (  # tag, pattern and first characters
    ("merge", r"<<\Z", "<"),
    ("null", r"(?:~|null|Null|NULL|)\Z", "~nN"),
    (
        "bool",
        r"(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)\Z",
        "yYnNtTfFoO",
    ),
    ("int", r"[-+]?(?:0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|[0-9][0-9_]*)\Z", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?\Z",
        "-+.0123456789",
    ),
    ("float", r"(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))\Z", "-+."),
)


class YamlError(ValueError):
    """Invalid or refused YAML; `syntax` distinguishes the two, `line` counts from 1."""

    def __init__(self, problem: str, line: int, syntax: bool) -> None:
        super().__init__(problem)
        self.line = line
        self.syntax = syntax


def parse_yaml(source: str | bytes) -> Any:
    """Return the plain values of one YAML document.

    The values are dictionaries, lists, texts, numbers, true, false and None. A key is unique in its
    mapping. `1e-3` is a number, also in lists, with a sign and with underscores. 010, which YAML
    1.1 reads as 8, is refused. 1:30, which it reads as 90, is a text, and so is a date. An alias
    yields a copy.

    Raises:
        YamlError: The text is not YAML, or exceeds a limit.
    """
    encoded = source.encode(errors="surrogatepass") if isinstance(source, str) else source
    if len(encoded) > MAX_BYTES:
        raise YamlError(f"the text has more than {MAX_BYTES} bytes: shorten it", 1, syntax=False)
    try:
        return _copy(_Loader(source).load_document())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        if isinstance(error, _Refused):
            raise YamlError(str(error.problem), line, syntax=False) from error
        problem = ": ".join(part for part in (error.context, error.problem) if part)
        raise YamlError(shorten(" ".join(problem.split())), line, syntax=True) from error
    except yaml.reader.ReaderError as error:
        before = source[: error.position]
        line = (before.count("\n") if isinstance(before, str) else before.count(b"\n")) + 1
        raise YamlError(_unreadable(error), line, syntax=False) from error


def _unreadable(error: yaml.reader.ReaderError) -> str:
    """Return the reason why a character cannot be read.

    It is a byte that is not UTF-8, in a file or an argument, or a character that is not allowed.
    """
    code = error.character if isinstance(error.character, int) else ord(error.character)
    if isinstance(error.character, bytes) or error.encoding != "unicode":
        return f"the text is not {error.encoding.upper()}: save it as UTF-8"
    if byte := escaped_byte(chr(code)):
        return (
            f"the text is not UTF-8 (byte {byte}): write it as UTF-8, and rename a file whose name "
            f"contains the byte"
        )
    return f"the text contains the character U+{code:04X}: remove it"


class _Refused(yaml.MarkedYAMLError):
    """Well-formed YAML that is not accepted."""


def _refused(problem: str, mark: yaml.Mark | None) -> _Refused:
    return _Refused(None, None, problem, mark)


def refuse_large_number(node: yaml.ScalarNode) -> _Refused:
    return _refused(
        f"{shorten(node.value)} is too large a number: give a smaller one", node.start_mark
    )


def _tag(node: yaml.Node) -> str:
    return shorten(node.tag.replace(CORE, "!!"))


class _Loader(yaml.SafeLoader):
    """YAML loader that enforces the limits; its state belongs to one document."""

    def __init__(self, source: str | bytes) -> None:
        super().__init__(source)
        self.depth = self.values = 0
        self.unfinished: set[str] = set()
        self.expanded: dict[str, int] = {}

    def load_document(self) -> Any:
        """Return the values of the only document.

        An escape or a version that PyYAML cannot convert is refused with its line.
        """
        try:
            return self.get_single_data()
        except (ValueError, OverflowError) as error:
            problem = (
                "the text has an escape above \\U0010FFFF, or a %YAML directive with an invalid "
                "version: correct or remove it"
            )
            raise _refused(problem, self.get_mark()) from error  # type: ignore[no-untyped-call]

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node.

        A node beyond the depth or the number of values, or within itself, is refused.
        """
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        anchor: str | None = getattr(event, "anchor", None)
        mark = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            if anchor in self.unfinished:
                raise _refused(
                    f"the alias *{anchor} is inside its own anchor &{anchor}: write the values out",
                    mark,
                )
            self._count(self.expanded.get(str(anchor), 0), mark)
            return super().compose_node(parent, index)
        if self.depth >= MAX_DEPTH:
            raise _refused(
                f"the values are nested deeper than {MAX_DEPTH} levels: reduce the depth", mark
            )
        before = self.values
        self._count(1, mark)
        self.depth += 1
        if anchor is not None:
            self.unfinished.add(anchor)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if anchor is not None:
            self.unfinished.discard(anchor)
            self.expanded[anchor] = self.values - before
        return node

    def _count(self, more: int, mark: yaml.Mark) -> None:
        self.values += more
        if self.values > MAX_VALUES:
            raise _refused(
                f"the text has more than {MAX_VALUES} values, including aliases: reduce the number",
                mark,
            )

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Compose a mapping; its keys must be distinct strings."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refused("a key is a list or a mapping: give a string", key.start_mark)
            known, name = (key.tag, key.value), shorten(repr(key.value))
            if key.tag not in KEY_TAGS:
                raise _refused(
                    f"the key {name} {self._key_problem(key)}; a key must be a string",
                    key.start_mark,
                )
            if known in lines:
                raise _refused(
                    f"the key {name} is already in line {lines[known]}: remove one of them",
                    key.start_mark,
                )
            lines[known] = key.start_mark.line + 1
        return node

    def _key_problem(self, key: yaml.ScalarNode) -> str:
        implicit = self.resolve(yaml.ScalarNode, key.value, (True, False))  # type: ignore[no-untyped-call]
        if key.tag == implicit:
            return f"is read as {key.tag.removeprefix(CORE)}: write a name"
        return f"has the tag {_tag(key)}: remove the tag"

    def construct_scalar(self, node: Any) -> Any:
        """Construct a text; control characters are refused."""
        text = super().construct_scalar(node)
        if odd := control_character(text):
            raise _refused(f"a string contains the character {odd}: remove it", node.start_mark)
        return text

    def construct_number(self, node: Any, kind: type[int] | type[float]) -> int | float:
        """Construct a number.

        An integer has base 2, 8 or 16 after 0b, 0o or 0x, else base 10.
        """
        text = str(self.construct_scalar(node)).replace("_", "").lower()
        try:
            if kind is int:
                value: int | float = int(text, 0)
            else:
                value = float(text.replace(".inf", "inf").replace(".nan", "nan"))
        except ValueError as error:
            digits = text.lstrip("-+")
            if digits.isdigit() and not digits.startswith("0"):  # too many digits for Python
                raise refuse_large_number(node) from error
            if digits.isdigit():
                hint = "remove the leading zeros, or quote it"
            else:
                hint = "write, for example, 8 or 1e-3"
            raise _refused(
                f"{shorten(repr(node.value))} is not a number: {hint}", node.start_mark
            ) from error
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise refuse_large_number(node)
        return value

    def construct_word(self, node: Any) -> bool | None:
        """Construct true, false or null; another text with an explicit tag is refused."""
        text = str(self.construct_scalar(node))
        kind = node.tag.removeprefix(CORE)
        value = WORDS.get(text.lower(), "") if text not in ("", "~") else None
        if value == "" or (value is None) != (kind == "null"):
            raise _refused(
                f"{shorten(repr(text))} is not a {kind}: give "
                f"{'null' if kind == 'null' else 'true or false'}",
                node.start_mark,
            )
        return value  # type: ignore[return-value]

    def construct_undefined(self, node: Any) -> Any:
        """Refuse dates, sets and all other tags."""
        raise _refused(
            f"the tag {_tag(node)} is not supported: remove it, and quote strings", node.start_mark
        )


def _copy(value: Any) -> Any:
    """Return the value with a copy for each alias.

    A change of one copy must not change the others.
    """
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value


CONSTRUCTED: dict[str, Any] = {
    "null": _Loader.construct_word,
    "bool": _Loader.construct_word,
    "int": lambda loader, node: loader.construct_number(node, int),
    "float": lambda loader, node: loader.construct_number(node, float),
    "str": _Loader.construct_scalar,
    "seq": yaml.SafeLoader.construct_yaml_seq,
    "map": yaml.SafeLoader.construct_yaml_map,
}
_Loader.yaml_constructors = {f"{CORE}{kind}": make for kind, make in CONSTRUCTED.items()}
_Loader.yaml_constructors[None] = _Loader.construct_undefined
_Loader.yaml_implicit_resolvers = {}
for _kind, _pattern, _first in RESOLVED:
    _Loader.add_implicit_resolver(
        f"{CORE}{_kind}", re.compile(_pattern), [*_first, *([""] if _kind == "null" else [])]
    )
