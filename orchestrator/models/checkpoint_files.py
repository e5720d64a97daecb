"""Read the tensors of another program's checkpoint, without running code of the file."""

import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from orchestrator.core.errors import ConfigurationError, suggest_name
from orchestrator.core.paths import read_file
from orchestrator.core.text import quote, shorten
from orchestrator.models.weight_files import PICKLED, SAFETENSORS, SUFFIX, describe_file

# Keys of state dicts, in order of preference. A moving average comes first, as in timm.
WRAPPERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema"),
    *("state_dict", "model_state_dict", "model"),
)
MAX_DEPTH = 4  # of keys above a state dict
MAX_CLASSES = 200  # of which a file may contain objects
MANY = 10  # keys or names in one message
FILE_ADVICE = "give a PyTorch checkpoint or a .safetensors file"
ADVICE = {
    "a TorchScript program": "load it with torch.jit.load in PyTorch and save its state_dict() "
    "with torch.save, then import that file",
    "an HDF5 file, the format of Keras": "only weights of PyTorch can be imported",
    "a Keras model": "only weights of PyTorch can be imported",
    "an ONNX graph": "import the PyTorch checkpoint from which it was exported",
    "an archive of NumPy arrays": "save the arrays as tensors with safetensors.torch.save_file, "
    "under the names of a PyTorch state dict",
}
RUNS_CODE = re.compile(r"GLOBAL (\S+) whose module \S+ is blocked")
UNKNOWN_CLASS = re.compile(r"GLOBAL (\S+) was not an allowed global")
STAND_IN = "stand_in"  # the module of stand-ins in messages of torch
FILLED_CLASS = re.compile(rf"Can only (\w+) .*but got <class '{STAND_IN}\.(\S+)'>", re.DOTALL)
KEY_UNKNOWN = "  # and its key, such as ['model'], if this is a mapping"
NOT_A_STORAGE = "Only persistent_load of storage"  # old files of whole modules hold their source


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file.

    Attributes:
        file: The file.
        kind: Its format in words.
        tensors: The tensors by their names, in the order of the file.
        key: The keys that lead to the tensors, joined by dots; "" without keys.
        other_keys: The other keys that `--from` can choose.
        skipped: Names of classes whose objects were not read.
        is_ordered: Whether the tensors have the order of the network, which safetensors loses.
    """

    file: Path
    kind: str
    tensors: dict[str, Tensor]
    key: str = ""
    other_keys: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    is_ordered: bool = True


class _StandIn:
    """An empty object in place of one whose class is not imported.

    Attributes:
        class_name: The name of that class.
        container: The type to use if the class is a mapping or a list; None otherwise.
    """

    class_name = ""
    container: type | None = None

    def __new__(cls, *_: object) -> Any:
        """Return an empty object, whatever the arguments."""
        return cls.container() if cls.container else super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Ignore the attributes of the object."""


def read_checkpoint(raw_file: str | Path, key: str | None = None) -> Checkpoint:
    """Read the state dict of a PyTorch checkpoint or of a safetensors file of any suffix.

    A pickle is read with `weights_only=True`. Objects of classes that PyTorch does not allow, such
    as `argparse.Namespace`, become empty stand-ins: no class of the file is imported or called.

    Args:
        raw_file: The file; `~` is the home folder.
        key: The key of the state dict, joined by dots, or a prefix of its names; None for the one
            that comes first in `WRAPPERS`, or the only one.

    Raises:
        ConfigurationError: The file does not exist, has another format, is damaged, or contains a
            whole pickled module, no tensors, or several state dicts of which none is chosen.
    """
    file = read_file(raw_file, "FILE", FILE_ADVICE)
    kind = describe_file(file)
    skipped: tuple[str, ...] = ()
    content: Any
    if kind == SAFETENSORS:
        try:
            content = load_file(file)
        except (SafetensorError, OSError) as error:
            raise _refusal(file, f"is not a complete safetensors file ({_flat(error)})") from error
    elif kind == PICKLED:
        content, skipped = _unpickle(file)
        kind = "a PyTorch checkpoint"
    else:
        advice = ADVICE.get(kind, FILE_ADVICE)
        raise _refusal(file, f"is {kind}: {advice}")
    states = dict(_list_states(content))
    if not states:
        raise _no_tensors(file, content)
    chosen, tensors = _choose(file, states, key)
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_meta:
            raise _refusal(
                file, f"contains {name}, which is sparse or has no values: save it dense"
            )
    other_keys = tuple(name for name in states if name and name != chosen)
    return Checkpoint(
        file, kind, dict(tensors), chosen, other_keys, skipped, is_ordered=kind != SAFETENSORS
    )


def _unpickle(file: Path) -> tuple[Any, tuple[str, ...]]:
    """Return the content of a pickle, and the classes that stand-ins replace."""
    classes: dict[str, type[_StandIn]] = {}
    while True:
        try:
            return _load(file, classes), tuple(classes)
        except pickle.UnpicklingError as error:
            text = str(error)
            if blocked := RUNS_CODE.search(text):
                raise _refusal(
                    file, f"calls {blocked[1]}, which is no part of weights: do not use it"
                ) from error
            unknown, filled = UNKNOWN_CLASS.search(text), FILLED_CLASS.search(text)
            if unknown and unknown[1] not in classes and len(classes) < MAX_CLASSES:
                classes[unknown[1]] = _make_stand_in(unknown[1])
            elif filled and classes[filled[2]].container is None:
                container = OrderedDict if filled[1].startswith("SET") else list
                classes[filled[2]] = _make_stand_in(filled[2], container)
            elif NOT_A_STORAGE in text and classes:
                raise _whole_module(file, next(iter(classes)), KEY_UNKNOWN) from error
            else:
                raise _unreadable(file, text, tuple(classes)) from error
        except Exception as error:  # a damaged pickle raises errors of many classes
            raise _unreadable(file, f"{type(error).__name__}: {error}", ()) from error


def _make_stand_in(class_name: str, container: type | None = None) -> type[_StandIn]:
    values = {"class_name": class_name, "container": container, "__module__": STAND_IN}
    return type(class_name, (_StandIn,), values)


def _load(file: Path, classes: Mapping[str, type[_StandIn]]) -> Any:
    # torch leaves `builtins.` out of the name in its message
    allowed: list[Any] = [
        (kind, name if "." in name else f"builtins.{name}") for name, kind in classes.items()
    ]
    with (
        file.open("rb") as stream,
        torch.serialization.safe_globals(allowed),
        warnings.catch_warnings(action="ignore"),
    ):
        # torch reads a path with this suffix by another function, and maps only zip archives
        mapped = stream.read(2) == b"PK" and file.suffix != SUFFIX
        stream.seek(0)
        return torch.load(
            file if mapped else stream, map_location="cpu", weights_only=True, mmap=mapped
        )


def _list_states(content: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Yield all mappings of text to tensors, with the keys that lead to them.

    Entries that are not tensors are left out. Optimizers number their tensors, so they are not
    listed.
    """
    if not isinstance(content, Mapping) or len(keys) > MAX_DEPTH:
        return
    named = {name: value for name, value in content.items() if isinstance(name, str)}
    tensors = {name: value.detach() for name, value in named.items() if isinstance(value, Tensor)}
    if tensors:
        yield ".".join(keys), tensors
    for name, value in named.items():
        yield from _list_states(value, (*keys, name))


def _choose(
    file: Path, states: Mapping[str, dict[str, Tensor]], key: str | None
) -> tuple[str, dict[str, Tensor]]:
    """Return the key and the tensors that `--from` names, or the preferred ones."""
    if key is not None:
        if key in states:
            return key, states[key]
        for tensors in states.values():
            below = {
                name.removeprefix(f"{key}."): tensor
                for name, tensor in tensors.items()
                if name.startswith(f"{key}.")
            }
            if below:
                return key, below
        raise ConfigurationError(
            f"--from {key}: {file} has no such key and no tensor below it: "
            f"{suggest_name(key, [name for name in states if name]) if any(states) else 'omit it'}"
        ).with_details("--from", key, tuple(states))
    preferred = [
        (WRAPPERS.index(part), name)
        for name in states
        for part in name.split(".")
        if part in WRAPPERS
    ]
    if preferred:
        _, name = min(preferred, key=lambda pair: pair[0])
        return name, states[name]
    large = {name: tensors for name, tensors in states.items() if len(tensors) > 1} or states
    if len(large) > 1 and "" not in large:
        raise ConfigurationError(
            f"{file} has {len(large)} state dicts: choose one with --from "
            f"{' or --from '.join(list(large)[:MANY])}"
        ).with_details("--from", None, tuple(large))
    name = "" if "" in large else next(iter(large))
    return name, large[name]


def _no_tensors(file: Path, content: Any) -> ConfigurationError:
    """Return the refusal of a file without a state dict."""
    if isinstance(content, _StandIn):
        return _whole_module(file, content.class_name)
    if not isinstance(content, Mapping):
        content_text = f"a {type(content).__name__}"
    else:
        for key, value in content.items():
            if isinstance(value, _StandIn):
                return _whole_module(file, value.class_name, f"[{key!r}]")
        keys = ", ".join(quote(key) for key in list(content)[:MANY])
        content_text = f"a mapping with the keys {keys}" if content else "an empty mapping"
    return _refusal(file, f"has no state dict, but {content_text}: save the network's state_dict()")


def _whole_module(file: Path, class_name: str, key: str = "") -> ConfigurationError:
    target = f"{file.stem}-state.pth"
    return ConfigurationError(
        f"{file} contains a whole object of the class {class_name}, which is not loaded, because "
        f"that would run its code: where this code is, save the state dict alone with these two "
        f"lines, and import {target}\n"
        f'  model = torch.load("{file.name}", map_location="cpu", weights_only=False){key}\n'
        f'  torch.save(model.state_dict(), "{target}")'
    ).with_details("FILE", str(file), f"a state dict instead of {class_name}")


def _unreadable(file: Path, text: str, classes: tuple[str, ...]) -> ConfigurationError:
    """Return the refusal of a pickle that torch cannot read as weights."""
    paragraphs = [part for part in text.split("\n\n") if part.strip()]
    # torch surrounds the reason by advice
    reason = paragraphs[-2] if len(paragraphs) > 2 else paragraphs[-1] if paragraphs else "empty"
    if STAND_IN in reason:
        reason = "it calls functions that do not belong to tensors"
    holds = f", with {', '.join(classes[:MANY])}" if classes else ""
    return _refusal(
        file,
        f"cannot be read as weights ({shorten(_flat(reason))}{holds}): copy it again if it is "
        f"damaged, or let its owner save only model.state_dict() with torch.save",
    )


def _refusal(file: Path, problem: str) -> ConfigurationError:
    return ConfigurationError(f"{file} {problem}").with_details(
        "FILE", str(file), "a PyTorch checkpoint or a .safetensors file"
    )


def _flat(text: object) -> str:
    return " ".join(str(text).split())
