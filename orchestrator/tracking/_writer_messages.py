"""Define the messages between a driver and the process that writes to MLflow, in JSON."""

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Discriminator, TypeAdapter


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """First message of a driver.

    Attributes:
        root: The folder of the store.
        store_uri: The URI of the store; "" for a folder.
        folder: The folder of the sweep.
        record: The record of the sweep, in JSON.
        uri: The tracking URI.
        classes: The names of the classes.
        sources: The text of each file of user code, by its name, in the order of loading.
        plugins: The names of the plugins.
        has_objects: Whether the registered objects of a notebook follow, by cloudpickle.
        registers_model: Whether the sweep registers a model at its end.
        program: The first argument of the driver's command line, for commands in messages.
        resume: The command that sends the writes that remain.
        recovered: Bytes of the two queues up to which an earlier process may have sent writes.
    """

    do: Literal["setup"] = "setup"
    root: str
    store_uri: str
    folder: str
    record: str
    uri: str
    classes: list[str]
    sources: dict[str, str]
    plugins: list[str]
    has_objects: bool
    registers_model: bool
    program: str
    resume: str
    recovered: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Close:
    """Last message of a driver: the queues are complete."""

    do: Literal["close"] = "close"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Message for the user; `pending` marks one that holds until everything is sent."""

    do: Literal["note"] = "note"
    text: str
    pending: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Failing:
    """Notice that writes have begun to fail, or no longer fail."""

    do: Literal["failing"] = "failing"
    failing: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Compactable:
    """Notice that a large queue is sent; `files` selects the queue of artifacts."""

    do: Literal["compactable"] = "compactable"
    files: bool


Message = Setup | Close | Note | Failing | Compactable


def encode(message: Message) -> bytes:
    """Return a message as JSON."""
    return _messages().dump_json(message)


def decode(content: bytes) -> Message:
    """Return the message in JSON."""
    message: Message = _messages().validate_json(content)
    return message


@cache
def _messages() -> TypeAdapter[Any]:
    return TypeAdapter(Annotated[Message, Discriminator("do")])
