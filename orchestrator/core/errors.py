"""Errors that reach a person: one sentence each, with the exit code of the command line."""

import difflib
from collections.abc import Iterable
from typing import Self

from orchestrator.core.redact import without_secrets

OK, NO_USABLE_TRIAL, BAD_CONFIGURATION, UNFIT_ENVIRONMENT, INTERRUPTED = 0, 1, 2, 3, 130
UNEXPECTED = 1  # an error of the program itself, as Python has it


class _About(Exception):
    """An error that names the field, the value and what is allowed."""

    def __init__(self, message: str, *, field: str | None = None, value: object = None, allowed: object = None) -> None:
        super().__init__(message)
        self.field = field
        self.value = without_secrets(value)
        self.allowed = allowed

    @classmethod
    def from_error(cls, error: Exception, message: str, below: str = "") -> Self:
        """Return an error with another sentence that is about the same value as `error`.

        Args:
            error: An error of any class; it has the attributes of this one where it knows them.
            message: The new sentence.
            below: The key of the section that the field of `error` lies in.
        """
        field = ".".join(part for part in (below, getattr(error, "field", None)) if part)
        value, allowed = getattr(error, "value", None), getattr(error, "allowed", None)
        return cls(message, field=field or None, value=value, allowed=allowed)


class UserError(_About):
    """Something that a person can correct.

    The message is for people and may change; programs and tests read the attributes.

    Args:
        message: One sentence: the field, its value, what is allowed, and the next step.
        field: The setting (`training.epochs`), option (`--store`), environment variable or file that the error is about.
        value: The value that is refused; a text without its secrets where it holds one.
        allowed: What is allowed instead: a tuple of names, a pair of bounds, a type, or a short text.
    """

    exit_code = NO_USABLE_TRIAL


class FieldError(_About, ValueError):
    """A value that a section of the configuration refuses; `field` is relative to the section."""


class ConfigurationError(UserError):
    """A setting, a file or data that cannot be used as given."""

    exit_code = BAD_CONFIGURATION


class PreflightError(UserError):
    """This machine or cluster cannot do what was asked: space, permissions, resources, ports."""

    exit_code = UNFIT_ENVIRONMENT


class DispatcherTimeoutError(PreflightError):
    """Who hands out trials does not answer: Ray, or the node that it was on, is not well."""


class LoaderError(PreflightError):
    """The processes that decode images for one training process have ended, or give no batch; those of other ranks may be well."""


class TrialError(UserError):
    """One trial cannot go on (diverged, bad setting); the sweep does."""


def suggest_name(name: str, known: Iterable[str]) -> str:
    """`did you mean 'kd'? known: ...` for a name that does not exist."""
    names = sorted(known)
    begun = [known for known in names if name and known.startswith(name)]
    close = begun or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names)}"
