"""Record the user code of a run, and require the same code again."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.config.schema import Configuration
from orchestrator.core.errors import ConfigurationError
from orchestrator.extensions.loading import loaded_files, loaded_plugins
from orchestrator.extensions.registry import ENTRIES, PREFIX

CODE = "code"  # the key in records, and the folder of the copies in that of a run
DIGITS = 12  # of a hash in messages
Code = dict[str, str]


def describe_code(configuration: Configuration) -> Code:
    """Return the user code of a run: names and hashes, empty without any.

    These are the SHA-256 of each file in the order of loading, the version of each plugin, and the
    identity of each object without a file that the configuration names.
    """
    described = {file.name: file.sha256 for file in loaded_files()}
    described |= {f"plugin {name}": version for name, version in loaded_plugins().items()}
    named = {text for text in _texts(configuration.plain()) if PREFIX in text}
    return described | {
        f"{entry.kind} {entry.name}": entry.origin.identity
        for entry in ENTRIES.values()
        if entry.origin.replaces and any(text.endswith(entry.name) for text in named)
    }


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def require_code(
    recorded: Mapping[str, str], subject: str, configuration: Configuration | None = None
) -> None:
    """Require that the user code of a record is loaded unchanged, files in the same order.

    Args:
        recorded: The code of the record.
        subject: What was made with that code, such as `--resume first`; messages begin with it.
        configuration: The configuration of a run that continues: it must not use other code.
            None allows other code, for commands that only read.

    Raises:
        ConfigurationError: Code is missing or has changed; the message has both hashes.
    """
    present = _present()
    for name, identity in recorded.items():
        if name not in present:
            raise ConfigurationError(
                f"{subject} needs {_describe(name, identity)}: {_advice(name)}"
            ).with_details("--code", None, {name: identity})
        if present[name] != identity:
            raise ConfigurationError(
                f"{subject} needs {_describe(name, identity)}, and the given one is "
                f"{_short(present[name])}: give the original, or start a new run"
            ).with_details("--code", present[name], {name: identity})
    if configuration is None:
        return
    if added := [name for name in describe_code(configuration) if name not in recorded]:
        raise ConfigurationError(
            f"{subject} was started without {added[0]}: leave it out, or start a new run"
        ).with_details("--code", added[0], tuple(recorded))
    order = [name for name in present if _is_file(name) and name in recorded]
    if order != (files := [name for name in recorded if _is_file(name)]):
        raise ConfigurationError(
            f"{subject} was started with the code in the order {', '.join(files)}: give it in "
            f"this order"
        ).with_details("--code", tuple(order), tuple(files))


def _present() -> Code:
    """Return all user code of this process."""
    return (
        {file.name: file.sha256 for file in loaded_files()}
        | {f"plugin {name}": version for name, version in loaded_plugins().items()}
        | {f"{each.kind} {each.name}": each.origin.identity for each in ENTRIES.values()}
    )


def _is_file(name: str) -> bool:
    return name.endswith(".py")


def _describe(name: str, identity: str) -> str:
    if _is_file(name):
        return f"--code {name} with the SHA-256 {_short(identity)}"
    return f"{name} ({_short(identity)})"


def _advice(name: str) -> str:
    if _is_file(name):
        return f"give this file with --code {name}"
    if name.startswith("plugin "):
        return f"give it with --plugin {name.removeprefix('plugin ')}"
    return (
        "it exists only in Python: call study.report(), result.predict(...) or "
        'result.export(format="torchexport") there, or register it again'
    )


def _short(identity: str) -> str:
    return identity if " " in identity else identity[:DIGITS]


def keep_code(folder: Path) -> None:
    """Write a copy of each loaded file to the folder `code` of a run.

    The copies are a record: they are never executed.
    """
    for file in loaded_files():
        target = folder / CODE / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.text.encode())


def explain_code(configuration: Configuration) -> str:
    """Return the line of a plan about the user code; empty without any."""
    code = describe_code(configuration)
    return ", ".join(f"{name} ({_short(identity)})" for name, identity in code.items())
