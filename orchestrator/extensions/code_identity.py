"""Identify a function, a class or a module by its compiled code and by what this code uses."""

import argparse
import dataclasses
import dis
import functools
import hashlib
import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path, PurePath
from types import CodeType, EllipsisType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

from pydantic import BaseModel

PLAIN = (str, bytes, int, float, bool, type(None))
REPRESENTED = (complex, range, slice, PurePath, EllipsisType)  # their text has their value
TORCH_VALUES = ("dtype", "device", "layout", "memory_format")  # so has that of these classes
PROGRAM = ("orchestrator", "methods", "search_spaces")
INSTALLED = ("site-packages", "dist-packages")
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
GLOBAL = ("LOAD_GLOBAL", "LOAD_NAME")
HOOKS = ("_forward_pre_hooks", "_forward_hooks")


def code_identity(target: Any) -> str:
    """Return the SHA-256 of the compiled code of an object, and of the code and values it uses.

    These are defaults, closures, bases, members, global names and, of a module of torch, its
    attributes and submodules. The values of parameters and buffers have no effect. Installed
    libraries and this program are identified by names. File and lines have no effect. The version
    of Python has one.
    """
    return hashlib.sha256(repr(_Reader().read(target)).encode()).hexdigest()


class _Reader:
    """Reader of objects as plain values, whose text does not depend on the process.

    An object that comes again is replaced by the number of its first visit.
    """

    def __init__(self) -> None:
        self.visits: dict[int, tuple[int, Any]] = {}  # number and object, which keeps its id

    def read(self, value: Any) -> Any:
        """Return an object as plain values."""
        if isinstance(value, PLAIN):
            return value
        if isinstance(value, REPRESENTED) or _is_torch_value(value):
            return repr(value)
        if isinstance(value, tuple):
            return [self.read(each) for each in value]
        if isinstance(value, set | frozenset):
            return sorted(repr(self.read(each)) for each in value)
        if isinstance(value, CodeType):
            constants = [self.read(each) for each in value.co_consts]
            return value.co_code.hex(), value.co_names, value.co_varnames, constants
        if isinstance(value, MethodType):
            return self.read(value.__func__), self.read(value.__self__)
        if isinstance(value, staticmethod | classmethod):
            return self.read(value.__func__)
        if id(value) in self.visits:
            return f"visit {self.visits[id(value)][0]}"
        self.visits[id(value)] = len(self.visits), value
        return self._read_once(value)

    def _read_once(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.read(each) for each in value]
        if isinstance(value, dict):
            return [(self.read(key), self.read(each)) for key, each in value.items()]
        if isinstance(value, FunctionType):
            return self._read_function(value)
        if isinstance(value, ModuleType):
            return _read_file(value)
        if isinstance(value, type):
            return self._read_class(value)
        if isinstance(value, functools.partial | functools.partialmethod):
            return [self.read(each) for each in (value.func, value.args, value.keywords)]
        if isinstance(value, property):
            return [self.read(each) for each in (value.fget, value.fset, value.fdel)]
        if isinstance(value, functools.cached_property):
            return self.read(value.func)
        if isinstance(value, dataclasses.Field):
            return self.read(value.default), self.read(value.default_factory)
        return self._read_instance(value)

    def _read_function(self, function: FunctionType) -> Any:
        if _is_library(function.__globals__.get("__name__")):
            name = f"{function.__module__}.{function.__qualname__}.{function.__name__}"
            return name, self.read(_wrapped(function))  # such as a forward with torch.no_grad
        known = function.__globals__
        used = {name: self.read(known[name]) for name in _global_names(function.__code__, known)}
        cells = [_cell_value(cell) for cell in function.__closure__ or ()]
        defaults = function.__defaults__ or (), function.__kwdefaults__ or {}
        return self.read(function.__code__), self.read(defaults), self.read(cells), used

    def _read_class(self, kind: type) -> Any:
        if _is_library(kind.__module__):
            return f"{kind.__module__}.{kind.__qualname__}"
        members = {
            name: self.read(each) for name, each in vars(kind).items() if not _is_automatic(name)
        }
        fields = kind.model_fields if issubclass(kind, BaseModel) else {}
        described = {name: ADDRESS.sub("", repr(field)) for name, field in fields.items()}
        return [self.read(base) for base in kind.__bases__], members, described

    def _read_instance(self, value: Any) -> Any:
        kind = type(value)
        torch: Any = sys.modules.get("torch")
        if torch is not None and isinstance(value, torch.nn.Module):
            return self._read_module(value, torch)
        if _is_array(value):
            return str(value.dtype), tuple(value.shape), _digest_values(value)
        if isinstance(value, SimpleNamespace | argparse.Namespace) or not _is_library(
            kind.__module__
        ):
            return self.read(kind), self.read(getattr(value, "__dict__", {}))
        if _wrapped(value) is not None:  # a function with a cache
            return self.read(_wrapped(value))
        if callable(value) and hasattr(value, "__name__"):  # a function that is compiled
            owner = getattr(value, "__module__", None)
            return f"{owner}.{getattr(value, '__qualname__', '')}.{value.__name__}"
        return f"{kind.__module__}.{kind.__qualname__}"

    def _read_module(self, module: Any, torch: Any) -> Any:
        values, internal = vars(module), vars(torch.nn.Module())
        attributes = {
            name: (str(each.dtype), tuple(each.shape)) if _is_array(each) else self.read(each)
            for name, each in values.items()
            if name not in internal
        }
        hooks = [self.read(list(values.get(name, {}).values())) for name in HOOKS]
        parts = [(name, self.read(part)) for name, part in module.named_children()]
        code = module.code if isinstance(module, torch.jit.ScriptModule) else ""
        return self.read(type(module)), attributes, hooks, parts, code


def _is_library(name: str | None) -> bool:
    """Return whether a module is part of Python, of an installed package or of this program."""
    if name is None or name == "__main__":
        return False
    root = name.partition(".")[0]
    if root in PROGRAM or root in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(name) or sys.modules.get(root), "__file__", None)
    return file is not None and any(part in INSTALLED for part in Path(file).parts)


def _is_torch_value(value: Any) -> bool:
    return type(value).__module__ == "torch" and type(value).__name__ in TORCH_VALUES


def _is_array(value: Any) -> bool:
    """Return whether a value is a tensor, or an array or number of NumPy."""
    if type(value).__module__ not in ("torch", "torch.nn.parameter", "numpy"):
        return False
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _digest_values(array: Any) -> str:
    """Return the SHA-256 of the values of a tensor or an array; "" if they have no bytes."""
    try:
        if hasattr(array, "detach"):
            plain = array.detach().cpu().contiguous().reshape(-1)
            array = plain.view(sys.modules["torch"].uint8).numpy()
        return "" if array.dtype.hasobject else hashlib.sha256(array.tobytes()).hexdigest()
    except (RuntimeError, TypeError, NotImplementedError):  # of the device meta, or sparse
        return ""


def _read_file(module: ModuleType) -> str:
    """Return the name of a module, and the SHA-256 of its file if it is user code."""
    file = getattr(module, "__file__", None)
    if _is_library(module.__name__) or not file or not Path(file).is_file():
        return module.__name__
    return f"{module.__name__} {hashlib.sha256(Path(file).read_bytes()).hexdigest()}"


def _global_names(code: CodeType, known: Mapping[str, Any]) -> list[str]:
    """Return the defined global names that code and the functions within it use, sorted."""
    names = {each.argval for each in dis.get_instructions(code) if each.opname in GLOBAL}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= set(_global_names(constant, known))
    return sorted(name for name in names if name in known)


def _wrapped(function: Any) -> Any:
    """Return the function that a decorator keeps; None without one."""
    return inspect.getattr_static(function, "__wrapped__", None)


def _cell_value(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _is_automatic(name: str) -> bool:
    """Return whether Python or pydantic sets an attribute of a class."""
    return name.startswith(("__pydantic", "_abc")) or name in (
        *("__module__", "__dict__", "__weakref__", "__doc__", "__firstlineno__", "__qualname__"),
        *("__static_attributes__", "__annotations__", "__signature__", "__parameters__"),
        *("__annotate__", "__annotate_func__", "__annotations_cache__", "__classcell__"),
    )
