"""Identify a function or class by its compiled code, where its source text is unknown."""

import hashlib
from types import CodeType
from typing import Any

PLAIN = (str, bytes, int, float, bool, type(None))


def code_identity(target: Any) -> str:
    """Return the SHA-256 of the compiled code of a function, a class or an object that is called.

    File and lines have no effect. The version of Python has one.
    """
    return hashlib.sha256(repr(_plain(target, ())).encode()).hexdigest()


def _plain(value: Any, within: tuple[type, ...]) -> Any:
    """Return a value as plain values whose text does not depend on the process."""
    value = getattr(value, "__func__", value)  # a method
    if isinstance(value, CodeType):
        constants = [_plain(each, within) for each in value.co_consts]
        return value.co_code.hex(), value.co_names, value.co_varnames, constants
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, tuple | list):
        return [_plain(each, within) for each in value]
    if isinstance(value, type):
        if value in within:
            return value.__qualname__
        members = {name: each for name, each in vars(value).items() if not _is_automatic(name)}
        bases = [base.__qualname__ for base in value.__bases__]
        return bases, {name: _plain(each, (*within, value)) for name, each in members.items()}
    code = getattr(value, "__code__", None)
    if isinstance(code, CodeType):
        defaults = getattr(value, "__defaults__", None)
        return _plain(code, within), _plain(defaults or (), within)
    if callable(value) and hasattr(type(value).__call__, "__code__"):
        return _plain(type(value).__call__, within)
    return type(value).__qualname__


def _is_automatic(name: str) -> bool:
    """Return whether Python or pydantic sets an attribute of a class."""
    return name.startswith(("__pydantic", "_abc")) or name in (
        *("__module__", "__dict__", "__weakref__", "__doc__", "__firstlineno__"),
        *("__static_attributes__", "__annotations__", "__signature__", "__parameters__"),
    )
